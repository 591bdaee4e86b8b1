"""``python -m temporal_patching demo``: see a rollout on this machine."""

from .demo import main

if __name__ == "__main__":
    main()
