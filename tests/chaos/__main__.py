"""``python -m tests.chaos soak --minutes 5``: real servers and workers, killed again and again."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from tests.chaos.soak import Deaths, soak, told


async def main() -> int:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    runs = verbs.add_parser("soak", help="rollout after rollout")
    runs.add_argument("--minutes", type=float, default=5.0)
    runs.add_argument("--seed", type=int, default=0)
    runs.add_argument("--folder", type=Path, help="keep the hosts' files and logs here")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as made:
        folder = asked.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        tally = await soak(folder, minutes=asked.minutes, seed=asked.seed, deaths=Deaths())
    print(told(tally, minutes=asked.minutes, seed=asked.seed), flush=True)
    return 1 if tally.problems else 0


if __name__ == "__main__":
    status = asyncio.run(main())
    sys.stdout.flush()
    # A process that used the SDK may crash in the interpreter's shutdown.
    os._exit(status)
