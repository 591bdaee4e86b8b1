"""What a chaos case has for itself: a server on a file, workers in processes of their own, the hosts' truth."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from temporal_patching.client import Rollout
from temporal_patching.exceptions import NotAnswered, RolloutExists, RolloutFailed
from temporal_patching.models import PatchRequest, RolloutReport
from temporal_patching.policy import FailureBudget, RolloutPolicy
from tests.chaos.truth import Truth
from tests.chaos.workflows import ChaosFleet
from tests.servers import find_binary

ROOT = Path(__file__).parents[2]
CAROL = "carol@example.com"
ALICE = "alice@example.com"
T = TypeVar("T")

TOLERANT = RolloutPolicy(
    pilot_hosts=0,
    max_parallel="100%",
    max_out_of_service="100%",
    failure_budget=FailureBudget(max_failures="100%", stop_on_failed_wave=False),
    stop_scope="cluster",
    reboot="always",
)
"""All at once, whatever fails."""


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """A development server whose state is a file: it may die, and come back with all that it knew."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"

    async def start(self) -> Client:
        """Starts it, and waits until it answers."""
        with open(self._folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    find_binary("temporal"), "server", "start-dev", "--headless",
                    "--ip", "127.0.0.1", "--port", str(self.port), "--log-level", "error",
                    "--db-filename", str(self._folder / "temporal.db"),
                    # Both of us may look for ports at once, and then take the same one.
                    "--http-port", str(free_port()),
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while True:
            try:
                client = await Client.connect(self.address, identity="test")
                await client.count_workflows()
                return client
            except (RuntimeError, RPCError):
                if time.monotonic() > deadline or self._process.poll() is not None:
                    said = (self._folder / "server.log").read_text(encoding="utf-8")[-2000:]
                    raise AssertionError(f"the server does not start: {said}") from None
                await asyncio.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class WorkerProcess:
    """A worker in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, SIGSTOP and SIGCONT for instance."""
        self._process.send_signal(number)

    async def kill(self) -> float:
        """SIGKILL; answers when that was."""
        at = time.time()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        return at


@dataclass
class Ground:
    """The place of one case."""

    folder: Path
    server: Server
    client: Client
    truth: Truth
    task_queue: str = "chaos"
    workers: list[WorkerProcess] = field(default_factory=list)

    # What hosts do

    def order(self, **changes: Any) -> None:
        """Changes what is wanted of the hosts; see ``worker.Orders``."""
        file = self.folder / "orders.json"
        wanted = {"hosts": {}, "pace": 0.05, "hold": [], "refuse": {}, "output": 0}
        if file.exists():
            wanted = json.loads(file.read_text(encoding="utf-8"))
        new = file.with_suffix(".new")
        new.write_text(json.dumps({**wanted, **changes}), encoding="utf-8")
        new.replace(file)

    # Processes

    async def worker(self, *options: str, address: str | None = None) -> WorkerProcess:
        """Another worker, when it is ready."""
        with open(self.folder / "workers.log", "ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.chaos.worker", address or self.server.address,
                self.task_queue, str(self.folder), *options,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd=ROOT,
            )  # fmt: skip
        made = WorkerProcess(process)
        self.workers.append(made)
        assert process.stdout is not None
        said = await asyncio.wait_for(process.stdout.readline(), 60)
        assert said == b"ready\n", "the worker does not start: see workers.log"
        return made

    async def restart_server(self) -> None:
        """Starts the server again on its file."""
        self.client = await self.server.start()

    # Rollouts, as somebody starts them who tries again until the server answers

    async def start(self, id: str, request: PatchRequest) -> Rollout[ChaosFleet]:
        """Starts it once, however often that has to be tried."""

        async def once() -> Rollout[ChaosFleet]:
            try:
                return await Rollout.start(
                    self.client, ChaosFleet, request, id=id, task_queue=self.task_queue
                )
            except RolloutExists:  # by the call whose answer was lost
                return self.rollout(id)

        return await self.insisting(once)

    def rollout(self, id: str) -> Rollout[ChaosFleet]:
        """That rollout, by a client of the server that is there now."""
        return Rollout.get(self.client, id, ChaosFleet)

    async def report(self, id: str) -> RolloutReport:
        """How it ended, whatever the outcome."""

        async def once() -> RolloutReport:
            try:
                return await self.rollout(id).result()
            except RolloutFailed as failed:
                return failed.report

        return await self.insisting(once)

    async def insisting(self, ask: Callable[[], Awaitable[T]], seconds: float = 90) -> T:
        """Asks until it is answered: the server may be dead, or no worker there to answer."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return await ask()
            except (RPCError, NotAnswered) as error:
                lost = not isinstance(error, RPCError) or error.status in LOST
                if not lost or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)


LOST = (
    RPCStatusCode.UNAVAILABLE,
    RPCStatusCode.CANCELLED,
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.UNKNOWN,
    RPCStatusCode.INTERNAL,
)
"""What a client hears whose server died: whether its call was carried out, nobody knows."""


def ask(*clusters: str, policy: RolloutPolicy = TOLERANT, **fields: Any) -> PatchRequest:
    """A request of Carol's for these clusters, by default all hosts at once."""
    return PatchRequest(clusters=clusters, requester=CAROL, policy=policy, **fields)


@asynccontextmanager
async def ground(
    folder: Path, hosts: Mapping[str, Sequence[str]], **orders: Any
) -> AsyncIterator[Ground]:
    """A server with these hosts, and no worker yet; all ends with the block."""
    server = Server(folder)
    workers: list[WorkerProcess] = []
    try:
        client = await server.start()
        here = Ground(folder, server, client, Truth(folder / "hosts"), workers=workers)
        here.order(hosts={name: list(some) for name, some in hosts.items()}, **orders)
        yield here
    finally:
        for worker in workers:
            await worker.kill()
        server.kill()


async def until(condition: Callable[[], bool], timeout: timedelta = timedelta(seconds=60)) -> None:
    """Waits for a condition, and not for ever."""
    deadline = time.monotonic() + timeout.total_seconds()
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen in {timeout}"
        await asyncio.sleep(0.05)
