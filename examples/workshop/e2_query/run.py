"""Exercise 2, both ways. `make workshop EXERCISE=2`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any

import attrs
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError
from temporalio.worker import Worker

from temporal_patching.client import Rollout
from temporal_patching.exceptions import NotAnswered
from temporal_patching.worker import PatchingPlugin
from temporal_patching.workflow import SystemPatchWorkflow

from ..hosts import HandHosts, WorkshopHosts
from ..stage import Row, Stage
from . import with_library as library
from .by_hand import HostByHand

__all__ = ["Asked", "Seen", "grow", "rows", "show"]

Steps = Sequence[str]

CLUSTER, HOST = "eu-1", "e2-c"


@attrs.frozen
class Asked:
    """The completed steps of one workflow.

    Attributes:
        polled: Each answer that was another than the one before, while it ran.
        afterwards: The answer after the end, from another worker than the one that did the work.
    """

    polled: Sequence[Steps]
    afterwards: Steps


@attrs.frozen
class Seen:
    """What happened.

    Attributes:
        by_hand: The workflow by hand.
        by_hand_alone: What its query fails with while there is no worker.
        rollout: The rollout.
        cluster: One of its clusters.
        host: One of that cluster's hosts.
        alone: What the library says while there is no worker,
        alone_seconds: and after how long.
        by_hand_done: What was done on the machine of the workflow by hand, by its log.
        done: What was done on the host's machine, by its log.
    """

    by_hand: Asked
    by_hand_alone: str
    rollout: Asked
    cluster: Asked
    host: Asked
    alone: str
    alone_seconds: float
    by_hand_done: Steps
    done: Steps


async def show(stage: Stage) -> Seen:
    by_hand, by_hand_alone, by_hand_done = await _by_hand(stage)

    host = stage.id(HOST)
    stage.say(f"\nWith the library: the rollout, cluster {CLUSTER} and host {HOST}, each asked.")
    clusters = {CLUSTER: [stage.id("e2-b"), host], "us-1": [stage.id("e2-d")]}
    fleet = stage.fleet("e2-library", clusters, step_seconds=0.15)
    queue = stage.id("e2-library")
    async with Worker(
        stage.client, task_queue=queue, plugins=[PatchingPlugin(WorkshopHosts(fleet))]
    ):
        rollout = await library.start(stage, queue)
        of_rollout, of_cluster, of_host = await asyncio.gather(
            _poll(stage, "rollout", rollout.handle, lambda: library.completed(rollout)),
            _poll(
                stage,
                f"cluster {CLUSTER}",
                rollout.handle,
                lambda: library.completed(rollout, cluster=CLUSTER),
            ),
            _poll(
                stage,
                f"host {HOST}",
                rollout.handle,
                lambda: library.completed(rollout, host=host),
            ),
        )

    stage.say("It has ended, and the worker has gone. Who is asked now?")
    began = time.monotonic()
    alone = await _alone(rollout)
    alone_seconds = time.monotonic() - began
    stage.say(f"  after {alone_seconds:.0f} s: {stage.short(alone) or 'somebody answers'}")

    stage.say("Another worker comes, and answers from the history.")
    async with Worker(
        stage.client, task_queue=queue, plugins=[PatchingPlugin(WorkshopHosts(fleet))]
    ):
        afterwards = [
            await library.completed(rollout),
            await library.completed(rollout, cluster=CLUSTER),
            await library.completed(rollout, host=host),
        ]
    for steps in afterwards:
        stage.say(f"  {stage.short(', '.join(steps))}")
    return Seen(
        by_hand=by_hand,
        by_hand_alone=by_hand_alone,
        rollout=Asked(of_rollout, afterwards[0]),
        cluster=Asked(of_cluster, afterwards[1]),
        host=Asked(of_host, afterwards[2]),
        alone=alone,
        alone_seconds=alone_seconds,
        by_hand_done=by_hand_done,
        done=_steps(fleet.machine(host).done()),
    )


async def _by_hand(stage: Stage) -> tuple[Asked, str, Steps]:
    stage.say("By hand: one host, with a list and a query.")
    host = stage.id("e2-a")
    fleet = stage.fleet("e2-by-hand", {CLUSTER: [host]}, step_seconds=0.15)
    queue = stage.id("e2-by-hand")

    def worker() -> Worker:
        return Worker(
            stage.client,
            task_queue=queue,
            workflows=[HostByHand],
            activities=HandHosts(fleet).all(),
        )

    async with worker():
        handle = await stage.client.start_workflow(
            HostByHand.run, host, id=stage.id("e2-by-hand"), task_queue=queue
        )
        polled = await _poll(
            stage, "host e2-a", handle, lambda: handle.query(HostByHand.completed_steps)
        )
    alone = ""
    try:
        # Without this limit it waits for about half a minute.
        await handle.query(HostByHand.completed_steps, rpc_timeout=timedelta(seconds=2))
    except RPCError as error:
        alone = f"{type(error).__name__}: {error}"
    stage.say(f"  without a worker: {alone or 'somebody answers'}")
    async with worker():
        afterwards = await handle.query(HostByHand.completed_steps)
    stage.say(f"  with one again: {', '.join(afterwards)}")
    return Asked(polled, afterwards), alone, _steps(fleet.machine(host).done())


async def _poll(
    stage: Stage, who: str, handle: WorkflowHandle[Any, Any], ask: Callable[[], Awaitable[Steps]]
) -> Sequence[Steps]:
    """Asks until the workflow has ended, and keeps what is new."""
    answers: list[Steps] = []

    async def has_ended() -> bool:
        ended = (await handle.describe()).status is not WorkflowExecutionStatus.RUNNING
        steps = await ask()
        if not answers or steps != answers[-1]:
            answers.append(steps)
            stage.say(
                f"  {who}: {len(steps)} done{', last ' + stage.short(steps[-1]) if steps else ''}"
            )
        return ended

    await stage.until(has_ended)
    return answers


async def _alone(rollout: Rollout[SystemPatchWorkflow]) -> str:
    """What the library says if nobody answers; empty if somebody does."""
    try:
        await rollout.completed_steps()
    except NotAnswered as silence:
        return str(silence)
    return ""


def _steps(done: Steps) -> Steps:
    """A machine's log without the units of the update."""
    return [what for what in done if not what.startswith("unit ")]


def grow(answers: Sequence[Steps]) -> bool:
    """Whether there are several, and each begins with all of the one before."""
    pairs = pairwise(answers)
    return len(answers) > 1 and all(
        len(after) > len(before) and list(after[: len(before)]) == list(before)
        for before, after in pairs
    )


def rows(seen: Seen) -> list[Row]:
    return [
        _polled("by hand: one host", seen.by_hand, seen.by_hand_done),
        Row(
            "by hand: no worker",
            "an error of the network",
            seen.by_hand_alone or "an answer",
            bool(seen.by_hand_alone),
        ),
        _polled("the rollout", seen.rollout),
        _polled("a cluster", seen.cluster),
        _polled("a host", seen.host, seen.done),
        Row(
            "no worker",
            "NotAnswered, after 10 s",
            f"{'NotAnswered' if seen.alone else 'an answer'}, after {seen.alone_seconds:.0f} s",
            bool(seen.alone) and 9 < seen.alone_seconds < 30,
        ),
    ]


def _polled(what: str, asked: Asked, done: Steps | None = None) -> Row:
    """Right if the lists grow, and the last is what a new worker says and the machine's log has."""
    last = list(asked.polled[-1])
    return Row(
        what,
        "the lists grow; afterwards the last one",
        f"{' < '.join(str(len(steps)) for steps in asked.polled)} steps; "
        f"afterwards {len(asked.afterwards)}",
        grow(asked.polled)
        and last == list(asked.afterwards)
        and (done is None or last == list(done)),
    )
