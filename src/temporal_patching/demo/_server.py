"""Starts the keeper, which owns the demo's folder and Temporal server, and asks it where they are."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import TracebackType
from typing import cast

from typing_extensions import Self

KEEPER = Path(__file__).with_name("_keeper.py")
PATIENCE = 60.0
"""Seconds that the keeper may take to clear away."""


class CannotStart(Exception):
    """The demo cannot run here; the message says what to do."""


def find_binary() -> str | None:
    """The ``temporal`` command: this environment's own, or else one on PATH."""
    return shutil.which("temporal", path=sysconfig.get_path("scripts")) or shutil.which("temporal")


class Keeper:
    """The keeper's process. At the end of the block server and folder are gone, unless they are kept.

    Args:
        binary: Path of the ``temporal`` command.
    """

    folder: Path
    address: str
    web: str

    def __init__(self, binary: str) -> None:
        self._kept = False
        self._answers = asyncio.StreamReader()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(KEEPER), binary],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin is not None  # it is a pipe
        self._stdin = self._process.stdin

    async def __aenter__(self) -> Self:
        try:
            await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(self._answers), self._process.stdout
            )
            self.folder = Path(str((await self._answer())["folder"]))
        except BaseException:
            await self._clear_away()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._clear_away()

    async def _clear_away(self) -> None:
        self._stdin.close()
        if not self._kept:
            await asyncio.to_thread(self._process.wait, PATIENCE)

    async def server(self) -> None:
        """Waits until the server is up; then ``address`` and ``web`` are known.

        Raises:
            CannotStart: The server does not start.
        """
        answer = await self._answer()
        self.address = f"127.0.0.1:{answer['port']}"
        self.web = f"http://127.0.0.1:{answer['ui_port']}/namespaces/default"

    def keep(self) -> int:
        """Lets server and folder outlive the demo. Returns the process id whose end ends them."""
        self._stdin.write(b"keep\n")
        self._stdin.flush()
        self._kept = True
        return self._process.pid

    async def _answer(self) -> dict[str, object]:
        line = await self._answers.readline()
        if not line:
            raise CannotStart("the demo's keeper has ended: somebody else ended it")
        answer = cast("dict[str, object]", json.loads(line))
        if "problem" in answer:
            raise CannotStart(str(answer["problem"]))
        return answer
