"""A checkpoint on a real server: what the next attempt gets after each way an attempt can end."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from temporalio import activity, workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    PauseActivityRequest,
    ResetActivityRequest,
    UnpauseActivityRequest,
)
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
)
from temporalio.worker import Worker

from temporal_patching.activity import Checkpoint, Interruption
from temporal_patching.models import Host

UNIT = 0.02
"""Seconds that one unit of work takes, where the work is in units."""

SLACK = 0.5
"""Seconds that a busy machine may add to a heartbeat."""


@dataclass
class Job:
    """How the workflow runs the activity "work"; times in seconds."""

    heartbeat_timeout: float | None = 1.0
    start_to_close_timeout: float = 30.0
    attempts: int = 5
    local: bool = False


@workflow.defn(sandboxed=False)
class RunWork:
    @workflow.run
    async def run(self, job: Job) -> Any:
        retry = RetryPolicy(
            initial_interval=timedelta(milliseconds=50), maximum_attempts=job.attempts
        )
        start_to_close = timedelta(seconds=job.start_to_close_timeout)
        if job.local:
            return await workflow.execute_local_activity(
                "work", start_to_close_timeout=start_to_close, retry_policy=retry
            )
        return await workflow.execute_activity(
            "work",
            activity_id="work",
            start_to_close_timeout=start_to_close,
            heartbeat_timeout=(
                None if job.heartbeat_timeout is None else timedelta(seconds=job.heartbeat_timeout)
            ),
            retry_policy=retry,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )


@dataclass
class Log:
    """What the attempts saw, in order."""

    values: list[Any] = field(default_factory=list)
    resumed: list[bool] = field(default_factory=list)
    interruptions: list[Interruption | None] = field(default_factory=list)
    working: threading.Event = field(default_factory=threading.Event)

    def opened(self, checkpoint: Checkpoint[Any]) -> int:
        """Notes what an attempt starts from, and says how many there were, this one included."""
        self.values.append(checkpoint.value)
        self.resumed.append(checkpoint.resumed)
        return len(self.values)


def long_command(log: Log, *, asynchronous: bool) -> Callable[[], Any]:
    """An activity whose first attempt saves 7 and 8, then hangs in a command until interrupted."""
    every = timedelta(seconds=0.2)

    async def in_loop() -> int:
        async with Checkpoint(int, default=0, heartbeat_every=every) as checkpoint:
            if log.opened(checkpoint) == 1:
                checkpoint.save(7)
                checkpoint.save(8)
                log.working.set()
                try:
                    await asyncio.sleep(40)
                except asyncio.CancelledError:
                    log.interruptions.append(checkpoint.interruption)
                    raise
            return checkpoint.value

    def in_thread() -> int:
        with Checkpoint(int, default=0, heartbeat_every=every) as checkpoint:
            if log.opened(checkpoint) == 1:
                checkpoint.save(7)
                checkpoint.save(8)
                log.working.set()
                try:
                    for _ in range(2000):  # a cancel arrives between two steps of Python
                        time.sleep(0.02)
                except CancelledError:
                    log.interruptions.append(checkpoint.interruption)
                    raise
            return checkpoint.value

    return activity.defn(name="work")(in_loop if asynchronous else in_thread)


def worker_for(
    client: Client,
    task_queue: str,
    work: Callable[..., Any],
    *,
    graceful_shutdown_timeout: timedelta = timedelta(0),
    default_heartbeat_throttle_interval: timedelta = timedelta(seconds=30),
) -> Worker:
    """A worker for the workflow and one activity, in the loop or in a thread."""
    return Worker(
        client,
        task_queue=task_queue,
        workflows=[RunWork],
        activities=[work],
        activity_executor=ThreadPoolExecutor(4),
        graceful_shutdown_timeout=graceful_shutdown_timeout,
        default_heartbeat_throttle_interval=default_heartbeat_throttle_interval,
    )


@asynccontextmanager
async def running(
    client: Client, unique: str, work: Callable[..., Any], job: Job | None = None
) -> AsyncIterator[WorkflowHandle[Any, Any]]:
    """The workflow, started, with its worker around it."""
    async with worker_for(client, unique, work):
        yield await client.start_workflow(RunWork.run, job or Job(), id=unique, task_queue=unique)


async def until(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    """Waits until the condition holds, and fails the test if it does not in time."""
    async with asyncio_timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def asyncio_timeout(seconds: float) -> AsyncIterator[None]:
    """``asyncio.timeout`` for Python 3.10, too."""
    task = asyncio.current_task()
    assert task is not None
    timer = asyncio.get_running_loop().call_later(seconds, task.cancel, f"not within {seconds} s")
    try:
        yield
    finally:
        timer.cancel()


async def bounded(result: Coroutine[Any, Any, Any], seconds: float = 30) -> Any:
    """The result, or a failure of the test if it does not come in time."""
    return await asyncio.wait_for(result, seconds)


def cause(failure: pytest.ExceptionInfo[WorkflowFailureError]) -> BaseException | None:
    """What made the activity fail."""
    assert isinstance(failure.value.cause, ActivityError)
    return failure.value.cause.cause


both = pytest.mark.parametrize("asynchronous", [True, False], ids=["async", "thread"])


# What the next attempt gets


@pytest.mark.smoke
@both
async def test_failure_carries_newest_value(
    client: Client, unique: str, asynchronous: bool
) -> None:
    """After an exception the next attempt gets the very last value, in spite of the throttle."""
    log = Log()

    async def in_loop() -> int:
        async with Checkpoint(int, default=0) as checkpoint:
            if log.opened(checkpoint) == 1:
                for done in range(1, 31):
                    checkpoint.save(done)
                    await asyncio.sleep(0.01)
                raise ApplicationError("the connection broke")
            return checkpoint.value

    def in_thread() -> int:
        with Checkpoint(int, default=0) as checkpoint:
            if log.opened(checkpoint) == 1:
                for done in range(1, 31):
                    checkpoint.save(done)
                    time.sleep(0.01)
                raise ApplicationError("the connection broke")
            return checkpoint.value

    work = activity.defn(name="work")(in_loop if asynchronous else in_thread)
    async with running(client, unique, work) as handle:
        assert await bounded(handle.result()) == 30
    assert log.values == [0, 30]
    assert log.resumed == [False, True]


async def test_value_survives_attempts_that_save_nothing(client: Client, unique: str) -> None:
    """An attempt that fails before its first save does not lose what an earlier one saved."""
    log = Log()

    @activity.defn(name="work")
    async def work() -> int:
        async with Checkpoint(int, default=0) as checkpoint:
            attempt = log.opened(checkpoint)
            if attempt == 1:
                checkpoint.save(5)
            if attempt < 4:
                raise ApplicationError("again")
            return checkpoint.value

    async with running(client, unique, work) as handle:
        assert await bounded(handle.result()) == 5
    assert log.values == [0, 5, 5, 5]


async def test_automatic_heartbeat_keeps_what_was_left(client: Client, unique: str) -> None:
    """Automatic heartbeats of an attempt that saves nothing repeat what the last attempt left."""
    log = Log()

    @activity.defn(name="work")
    async def work() -> int:
        every = timedelta(seconds=0.1)
        async with Checkpoint(int, default=0, heartbeat_every=every) as checkpoint:
            attempt = log.opened(checkpoint)
            if attempt == 1:
                checkpoint.save(5)
            elif attempt == 2:
                await asyncio.sleep(1.5)  # longer than the heartbeat timeout
            if attempt < 3:
                raise ApplicationError("again")
            return checkpoint.value

    async with running(client, unique, work) as handle:
        assert await bounded(handle.result()) == 5
    assert log.values == [0, 5, 5]


@both
async def test_automatic_heartbeat_keeps_long_command_alive(
    client: Client, unique: str, asynchronous: bool
) -> None:
    """A command three times as long as the heartbeat timeout ends in its first attempt."""
    log = Log()
    every = timedelta(seconds=0.3)

    async def in_loop() -> int:
        async with Checkpoint(int, default=0, heartbeat_every=every) as checkpoint:
            log.opened(checkpoint)
            await asyncio.sleep(3)
            return activity.info().attempt

    def in_thread() -> int:
        with Checkpoint(int, default=0, heartbeat_every=every) as checkpoint:
            log.opened(checkpoint)
            time.sleep(3)
            return activity.info().attempt

    work = activity.defn(name="work")(in_loop if asynchronous else in_thread)
    async with running(client, unique, work) as handle:
        assert await bounded(handle.result()) == 1
    assert log.values == [0]


@both
async def test_without_automatic_heartbeat_a_hanging_command_times_out(
    client: Client, unique: str, asynchronous: bool
) -> None:
    """Without heartbeat_every a hang is noticed, and the last value of a burst was sent before."""
    log = Log()

    async def in_loop() -> int:
        async with Checkpoint(int, default=0) as checkpoint:
            if log.opened(checkpoint) == 1:
                for done in range(1, 21):
                    checkpoint.save(done)
                try:
                    await asyncio.sleep(40)
                except asyncio.CancelledError:
                    log.interruptions.append(checkpoint.interruption)
                    raise
            return checkpoint.value

    def in_thread() -> int:
        with Checkpoint(int, default=0) as checkpoint:
            if log.opened(checkpoint) == 1:
                for done in range(1, 21):
                    checkpoint.save(done)
                try:
                    for _ in range(2000):
                        time.sleep(0.02)
                except CancelledError:
                    log.interruptions.append(checkpoint.interruption)
                    raise
            return checkpoint.value

    work = activity.defn(name="work")(in_loop if asynchronous else in_thread)
    async with running(client, unique, work) as handle:
        assert await bounded(handle.result()) == 20
        await until(lambda: bool(log.interruptions))
    assert log.values == [0, 20]
    assert log.interruptions[0] in ("timed_out", "gone")


@pytest.mark.parametrize("ends", ["failure", "start_to_close"])
async def test_without_heartbeat_timeout(client: Client, unique: str, ends: str) -> None:
    """Without a heartbeat timeout a failure carries the newest value, a timeout only the first."""
    log = Log()

    @activity.defn(name="work")
    async def work() -> int:
        async with Checkpoint(int, default=0) as checkpoint:
            if log.opened(checkpoint) == 1:
                checkpoint.save(1)
                await asyncio.sleep(0.2)
                checkpoint.save(2)
                if ends == "failure":
                    raise ApplicationError("again")
                await asyncio.sleep(4)
            return checkpoint.value

    job = Job(heartbeat_timeout=None, start_to_close_timeout=1.5)
    async with running(client, unique, work, job) as handle:
        assert await bounded(handle.result()) == (2 if ends == "failure" else 1)


async def test_local_activity_keeps_nothing(client: Client, unique: str) -> None:
    """In a local activity saving does no harm and the next attempt starts from the default."""
    log = Log()

    @activity.defn(name="work")
    async def work() -> int:
        async with Checkpoint(int, default=0) as checkpoint:
            if log.opened(checkpoint) == 1:
                checkpoint.save(1)
                raise ApplicationError("again")
            return checkpoint.value

    # An hour: SDK 1.35 panics (harmlessly) when the timer of a retried local activity outlives its
    # worker.
    job = Job(local=True, start_to_close_timeout=3600)
    async with running(client, unique, work, job) as handle:
        assert await bounded(handle.result()) == 0


# Interruptions


@both
async def test_cancel(client: Client, unique: str, asynchronous: bool) -> None:
    """A cancel reaches a long command by the automatic heartbeat and is told as "cancelled"."""
    log = Log()
    async with running(client, unique, long_command(log, asynchronous=asynchronous)) as handle:
        await until(log.working.is_set)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as failure:
            await bounded(handle.result())
    assert isinstance(failure.value.cause, CancelledError)
    assert log.interruptions == ["cancelled"]
    assert log.values == [0]


async def test_cancel_without_heartbeat_timeout(client: Client, unique: str) -> None:
    """Without a heartbeat timeout a cancel still arrives, with the worker's default throttle."""
    log = Log()
    worker = worker_for(
        client,
        unique,
        long_command(log, asynchronous=True),
        default_heartbeat_throttle_interval=timedelta(seconds=1),
    )
    async with worker:
        handle = await client.start_workflow(
            RunWork.run, Job(heartbeat_timeout=None), id=unique, task_queue=unique
        )
        await until(log.working.is_set)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await bounded(handle.result(), 15)
    assert log.interruptions == ["cancelled"]


@both
async def test_pause(client: Client, unique: str, asynchronous: bool) -> None:
    """A pause is told as "paused", and after the unpause the newest value is there."""
    log = Log()
    execution = WorkflowExecution(workflow_id=unique)
    service = client.workflow_service
    async with running(client, unique, long_command(log, asynchronous=asynchronous)) as handle:
        await until(log.working.is_set)
        await service.pause_activity(
            PauseActivityRequest(namespace=client.namespace, execution=execution, id="work")
        )
        await until(lambda: log.interruptions == ["paused"])
        await service.unpause_activity(
            UnpauseActivityRequest(namespace=client.namespace, execution=execution, id="work")
        )
        assert await bounded(handle.result()) == 8
    assert log.values == [0, 8]


@pytest.mark.parametrize("reset_heartbeat", [True, False])
@both
async def test_reset(
    client: Client, unique: str, asynchronous: bool, reset_heartbeat: bool
) -> None:
    """A reset is told as "reset"; the value is kept unless the operator resets it, too."""
    log = Log()
    async with running(client, unique, long_command(log, asynchronous=asynchronous)) as handle:
        await until(log.working.is_set)
        await client.workflow_service.reset_activity(
            ResetActivityRequest(
                namespace=client.namespace,
                execution=WorkflowExecution(workflow_id=unique),
                id="work",
                reset_heartbeat=reset_heartbeat,
            )
        )
        await bounded(handle.result())
    assert log.interruptions == ["reset"]
    assert log.values == ([0, 0] if reset_heartbeat else [0, 8])


@both
async def test_worker_shutdown(client: Client, unique: str, asynchronous: bool) -> None:
    """A worker that stops is told as "worker_shutdown"; the next worker gets the newest value."""
    log = Log()
    work = long_command(log, asynchronous=asynchronous)
    worker = worker_for(client, unique, work, graceful_shutdown_timeout=timedelta(milliseconds=300))
    first = asyncio.create_task(worker.run())
    handle = await client.start_workflow(RunWork.run, Job(), id=unique, task_queue=unique)
    await until(log.working.is_set)
    await bounded(worker.shutdown())
    await first
    assert log.interruptions == ["worker_shutdown"]
    async with worker_for(client, unique, work):
        assert await bounded(handle.result()) == 8
    assert log.values == [0, 8]


@both
async def test_terminated_workflow(client: Client, unique: str, asynchronous: bool) -> None:
    """An attempt that the server no longer knows is told so as "gone"."""
    log = Log()
    async with running(client, unique, long_command(log, asynchronous=asynchronous)) as handle:
        await until(log.working.is_set)
        await handle.terminate()
        await until(lambda: bool(log.interruptions))
    assert log.interruptions == ["gone"]


# Types, converters, misuse


@attrs.frozen
class Progress:
    done: int
    left: tuple[str, ...]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Progress, Progress(done=3, left=("curl", "vim"))),
        (Host, Host(name="web-1", labels={"zone": "a"})),
        (dict[str, list[int]], {"curl": [1, 2]}),
    ],
    ids=["attrs", "wire", "json"],
)
async def test_any_converter(any_client: Client, unique: str, kind: Any, value: Any) -> None:
    """The value comes back typed and equal under the default, pydantic and encrypted converters."""
    log = Log()

    @activity.defn(name="work")
    async def work() -> None:
        async with Checkpoint(kind) as checkpoint:
            if log.opened(checkpoint) == 1:
                checkpoint.save(value)
                raise ApplicationError("again")

    async with running(any_client, unique, work) as handle:
        await bounded(handle.result())
    assert log.values == [None, value]


@pytest.mark.parametrize("on_mismatch", ["fail", "default"])
async def test_details_of_another_shape(client: Client, unique: str, on_mismatch: Any) -> None:
    """Details of another shape end the activity at once, saying why, or start it anew."""
    attempts: list[int] = []

    @activity.defn(name="work")
    async def work() -> str:
        attempts.append(activity.info().attempt)
        if len(attempts) == 1:
            activity.heartbeat({"step": 3})
            raise ApplicationError("again")
        async with Checkpoint(str, default="new", on_mismatch=on_mismatch) as checkpoint:
            return checkpoint.value

    async with running(client, unique, work) as handle:
        if on_mismatch == "default":
            assert await bounded(handle.result()) == "new"
        else:
            with pytest.raises(WorkflowFailureError) as failure:
                await bounded(handle.result())
            error = cause(failure)
            assert isinstance(error, ApplicationError)
            assert error.type == "CheckpointMismatch"
            assert "got [{'step': 3}]" in error.message
    assert attempts == [1, 2]


async def test_save_from_a_thread_of_an_async_activity(client: Client, unique: str) -> None:
    """An async activity's checkpoint may be saved from asyncio.to_thread."""
    log = Log()

    @activity.defn(name="work")
    async def work() -> int:
        async with Checkpoint(int, default=0) as checkpoint:
            if log.opened(checkpoint) == 1:

                def units() -> None:
                    for done in range(1, 101):
                        checkpoint.save(done)

                await asyncio.to_thread(units)
                await asyncio.sleep(40)  # until the heartbeat timeout: only the timer sends
            return checkpoint.value

    async with running(client, unique, work) as handle:
        assert await bounded(handle.result()) == 100


@pytest.mark.parametrize("where", ["loop", "to_thread"])
async def test_plain_with_in_async_activity(client: Client, unique: str, where: str) -> None:
    """A plain `with` in an async activity is refused with the remedy, also in a thread of it."""

    def block() -> None:
        with Checkpoint(int, default=0):
            raise AssertionError("must not be reached")

    @activity.defn(name="work")
    async def work() -> None:
        if where == "loop":
            block()
        else:
            await asyncio.to_thread(block)

    async with running(client, unique, work, Job(attempts=1)) as handle:
        with pytest.raises(WorkflowFailureError) as failure:
            await bounded(handle.result())
    assert "use 'async with'" in str(cause(failure))


async def test_value_that_is_too_large(client: Client, unique: str) -> None:
    """A value over the server's limit fails the activity instead of hanging it."""

    @activity.defn(name="work")
    async def work() -> None:
        async with Checkpoint(str, default="") as checkpoint:
            checkpoint.save("x" * 3_000_000)
            await asyncio.sleep(0.3)

    async with running(client, unique, work, Job(attempts=1)) as handle:
        with pytest.raises(WorkflowFailureError) as failure:
            await bounded(handle.result())
    assert "PayloadsTooLarge" in str(cause(failure))


# Death of a worker


async def units_until_done(file: Path, total: int) -> int:
    """Does the units that are left, notes each in a file, and says where it began."""
    async with Checkpoint(int, default=0) as checkpoint:
        start = checkpoint.value
        for index in range(start, total):
            await asyncio.sleep(UNIT)
            with file.open("a") as effects:
                effects.write(f"{activity.info().attempt} {index} {time.time()}\n")
            checkpoint.save(index + 1)
        return start


def units_until_done_in_thread(file: Path, total: int) -> int:
    """The same, in a thread."""
    with Checkpoint(int, default=0) as checkpoint:
        start = checkpoint.value
        for index in range(start, total):
            time.sleep(UNIT)
            with file.open("a") as effects:
                effects.write(f"{activity.info().attempt} {index} {time.time()}\n")
            checkpoint.save(index + 1)
        return start


def effects_worker(client: Client, task_queue: str, file: Path, asynchronous: bool) -> Worker:
    """A worker for the activity alone, in this process or in one to be killed."""
    total = 250

    async def in_loop() -> int:
        return await units_until_done(file, total)

    def in_thread() -> int:
        return units_until_done_in_thread(file, total)

    # Only the activity: who holds a workflow and dies also costs ten seconds of sticky queue.
    return Worker(
        client,
        task_queue=task_queue,
        activities=[activity.defn(name="work")(in_loop if asynchronous else in_thread)],
        activity_executor=ThreadPoolExecutor(1),
    )


@both
async def test_killed_worker(
    client: Client, unique: str, tmp_path: Path, asynchronous: bool
) -> None:
    """After SIGKILL only what was done in 0.8 x heartbeat timeout + 50 ms is done again."""
    file = tmp_path / "effects"
    file.touch()

    def effects() -> list[tuple[int, int, float]]:
        rows = [line.split() for line in file.read_text().splitlines()]
        return [(int(attempt), int(index), float(at)) for attempt, index, at in rows]

    process = subprocess.Popen(
        [
            *(sys.executable, "-m", __name__, client.service_client.config.target_host),
            *(client.namespace, unique, str(file), "async" if asynchronous else "thread"),
        ]
    )
    async with Worker(client, task_queue=unique, workflows=[RunWork]):
        try:
            handle = await client.start_workflow(RunWork.run, Job(), id=unique, task_queue=unique)
            await until(lambda: len(effects()) >= 120)
            process.send_signal(signal.SIGKILL)
            killed_at = time.time()
        finally:
            process.kill()
            process.wait()
        done = effects()
        async with effects_worker(client, unique, file, asynchronous):
            resumed_at = await bounded(handle.result())
    print(f"killed after {len(done)} units, resumed at {resumed_at}")
    assert 0 < resumed_at <= len(done)
    assert {index for _, index, _ in effects()} == set(range(250))
    if resumed_at < len(done):
        not_in_checkpoint = done[resumed_at][2]
        assert killed_at - not_in_checkpoint <= 0.8 * 1.0 + 0.05 + SLACK
    repeated = [index for attempt, index, _ in effects() if attempt > 1 and index < len(done)]
    assert repeated == list(range(resumed_at, len(done)))


async def run_worker(target: str, namespace: str, task_queue: str, file: str, how: str) -> None:
    """The process that gets killed."""
    client = await Client.connect(target, namespace=namespace)
    await effects_worker(client, task_queue, Path(file), how == "async").run()


if __name__ == "__main__":
    asyncio.run(run_worker(*sys.argv[1:6]))
