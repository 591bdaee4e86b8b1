"""``python -m temporal_patching``: the command line; with ``demo``, a rollout on this machine."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Runs the demo, or any other command."""
    if sys.argv[1:2] == ["demo"]:
        from .demo import main as demo

        demo()
    from .cli import main as command

    command()


if __name__ == "__main__":
    main()
