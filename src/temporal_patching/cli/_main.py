"""Runs one command and ends the process."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

BROKEN_PIPE = 141


def main() -> NoReturn:
    """Runs the command of ``sys.argv`` and ends the process with its exit code, never with a traceback.

    The codes are told by ``temporal-patching --help``.
    """
    try:
        status = _run(sys.argv[1:])
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except SystemExit as end:  # click's own answer to a pipe that nobody reads
        status = BROKEN_PIPE if end.code == 1 else int(end.code or 0)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            status = status or BROKEN_PIPE
        except (OSError, ValueError, AttributeError):
            status = status or 70  # it was not written: the disk is full, say
    # A short-lived process that used the SDK may crash in the interpreter's own end.
    os._exit(status)


def _run(arguments: list[str]) -> int:
    module = Path(sys.argv[0]).name == "__main__.py"
    program = "python -m temporal_patching" if module else "temporal-patching"
    missing = [name for name in ("click", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"usage: {program} COMMAND needs {' and '.join(missing)}: "
            f"{sys.executable} -m pip install 'temporal-patching[cli]'",
            file=sys.stderr,
        )
        return 2
    from ._commands import run  # only now: it imports what may be missing

    return run(arguments, program=program)
