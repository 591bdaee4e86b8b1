"""Worker and server die by SIGKILL in the middle of an update."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from temporal_patching.client import Rollout
from temporal_patching.models import HostState, Outcome, PatchRequest, RolloutProgress
from temporal_patching.policy import RolloutPolicy
from tests.server.crash_worker import HEARTBEAT_TIMEOUT, HOSTS, UNITS, CrashFleet
from tests.servers import ServerProcess

ROOT = Path(__file__).parents[2]
# What a heartbeat may lag: the SDK's throttle, and the 50 ms of the checkpoint's own.
LAG = 0.8 * HEARTBEAT_TIMEOUT.total_seconds() + 0.05


@asynccontextmanager
async def worker_process(
    address: str, task_queue: str, folder: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker in a process of its own, killed at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.server.crash_worker", address, task_queue, str(folder),
        stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@dataclass
class Line:
    at: float
    what: str
    attempt: int


def lines(folder: Path, host: str) -> list[Line]:
    """What a host has seen."""
    file = folder / host
    if not file.exists():
        return []
    rows = (row.split() for row in file.read_text(encoding="utf-8").splitlines())
    return [Line(float(at), what, int(attempt)) for at, what, attempt in rows]


def units(folder: Path, host: str) -> list[Line]:
    """The units of work that a host has seen."""
    return [line for line in lines(folder, host) if line.what.isdigit()]


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Waits for a condition, and not for ever."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


async def start(client: Client, workflow_id: str, task_queue: str) -> Rollout[CrashFleet]:
    """Starts a rollout over both hosts at once."""
    request = PatchRequest(
        clusters=["eu-1"],
        requester="carol@example.com",
        policy=RolloutPolicy(pilot_hosts=0, max_parallel=2),
    )
    return await Rollout.start(client, CrashFleet, request, id=workflow_id, task_queue=task_queue)


async def check(rollout: Rollout[CrashFleet], folder: Path, *, dead_at: float) -> None:
    """The rollout ends well, and repeats no more than the heartbeats lag."""
    report = await rollout.result()
    assert report.outcome is Outcome.PATCHED
    assert report.counts[HostState.PATCHED] == len(HOSTS)
    for host in HOSTS:
        done = units(folder, host)
        assert {int(line.what) for line in done} == set(range(UNITS)), "a unit was left out"
        repeated = [
            int(unit) for unit, times in Counter(line.what for line in done).items() if times > 1
        ]
        first = [line for line in done if line.attempt == 1]
        resumed_at = int(next(line.what for line in done if line.attempt > 1))
        lost = sum(line.at > dead_at - LAG for line in first)
        print(f"{host}: {len(first)} units before, resumed at {resumed_at}, repeated {repeated}")
        assert resumed_at > 0, "it began anew"
        assert len(repeated) <= lost + 1, "more was repeated than the heartbeats lag"
        states = [line.what for line in lines(folder, host) if not line.what.isdigit()]
        assert states[0] == "out"
        assert states[-1] == "in", "the host was left out of service"


async def seen_last(rollout: Rollout[CrashFleet]) -> RolloutProgress:
    """What somebody saw last who watched it to its end."""
    return [progress async for progress in rollout.watch()][-1]


@pytest.mark.timeout(120)
@pytest.mark.provokes_task_failure("the worker is killed")
async def test_a_killed_worker_loses_no_host(
    client: Client, workflow_id: str, task_queue: str, tmp_path: Path
) -> None:
    """Another worker goes on from the checkpoint: each host is patched, little is repeated."""
    address = client.service_client.config.target_host
    async with worker_process(address, task_queue, tmp_path) as worker:
        rollout = await start(client, workflow_id, task_queue)
        await until(lambda: all(len(units(tmp_path, host)) >= 25 for host in HOSTS))
        worker.kill()
        await worker.wait()
        dead_at = time.time()
    async with worker_process(address, task_queue, tmp_path):
        await check(rollout, tmp_path, dead_at=dead_at)


@pytest.mark.timeout(120)
@pytest.mark.provokes_task_failure("the server is killed")
async def test_a_killed_server_loses_no_host(
    workflow_id: str, task_queue: str, tmp_path: Path
) -> None:
    """It is started again on its file: the rollout ends, and the worker needs no restart."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = ServerProcess("temporal", tmp_path / "server")
    truth = tmp_path / "hosts"
    truth.mkdir()

    async def server() -> WorkflowEnvironment:
        return await WorkflowEnvironment.start_local(
            dev_server_existing_path=process.path,
            dev_server_database_filename=str(tmp_path / "temporal.db"),
            dev_server_log_level="error",
            port=port,
        )

    first = await server()  # kept: the server ends with the object
    try:
        client = first.client
        async with worker_process(f"127.0.0.1:{port}", task_queue, truth):
            rollout = await start(client, workflow_id, task_queue)
            await until(lambda: all(len(units(truth, host)) >= 25 for host in HOSTS))
            watching = asyncio.create_task(seen_last(rollout))
            process.kill()
            dead_at = time.time()
            # The update ends while nobody is there to be told: its result is lost.
            await until(lambda: all(len(units(truth, host)) >= UNITS for host in HOSTS))
            restarted = await server()
            again = Rollout.get(restarted.client, workflow_id, CrashFleet)
            await check(again, truth, dead_at=dead_at)
            assert rollout.id == workflow_id
            assert (await watching).outcome is Outcome.PATCHED
    finally:
        process.kill()


def test_the_lag_is_that_of_the_documented_bound() -> None:
    """The figure above is the one that the checkpoint's documentation promises."""
    from temporal_patching.activity import Checkpoint

    assert "0.8 x ``heartbeat_timeout`` + 50 ms" in (Checkpoint.__doc__ or "")
    assert timedelta(seconds=2) == HEARTBEAT_TIMEOUT
