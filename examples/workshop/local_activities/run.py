"""Activities against local activities. `make workshop EXERCISE=local-activities`."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import attrs
from temporalio.api.enums.v1 import TimeoutType
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

from temporal_patching.client import Rollout
from temporal_patching.models import PatchRequest
from temporal_patching.policy import RolloutPolicy
from temporal_patching.workflow import SystemPatchWorkflow

from ..hosts import HandHosts
from ..machines import Fleet
from ..stage import PATIENCE, Row, Stage
from . import with_library
from .by_hand import PatchHost, PatchHostLocally
from .with_library import LocalFleet, OrdinaryFleet, worker

__all__ = ["Cost", "Death", "Seen", "rows", "show"]

HOSTS = 12


@attrs.frozen
class Cost:
    """What it took to patch all hosts, by the server.

    Attributes:
        events: The events in the history of a host's workflow, the longest.
        seconds: From the first start to the last end.
    """

    events: int
    seconds: float


@attrs.frozen
class Death:
    """A worker was killed in the middle of a step.

    Attributes:
        pending: The activities that the server knew to be running just before.
        seconds: How long it took the server to notice.
        again: Steps that were done before, and were done once more.
        updated: Whether the host is updated in the end, and serves.
    """

    pending: Sequence[str]
    seconds: float
    again: Sequence[str]
    updated: bool


@attrs.frozen
class Seen:
    """What happened.

    Attributes:
        hand: By hand, with activities.
        hand_local: By hand, with local activities.
        library: With the library, with activities.
        library_local: With the library, with local activities.
        death: What the death of a worker does to a host with activities.
        death_local: What it does to one with local activities.
    """

    hand: Cost
    hand_local: Cost
    library: Cost
    library_local: Cost
    death: Death
    death_local: Death


async def show(stage: Stage) -> Seen:
    stage.say(f"By hand: {HOSTS} hosts, all at once.")
    hand = await _by_hand(stage, "hand", PatchHost)
    hand_local = await _by_hand(stage, "hand-local", PatchHostLocally)
    stage.say(f"With the library: {HOSTS} hosts, all at once.")
    library = await _with_library(stage, "library", OrdinaryFleet)
    library_local = await _with_library(stage, "library-local", LocalFleet)
    stage.say("With the library: the worker is killed in the middle of a step.")
    death, death_local = await asyncio.gather(
        _killed(stage, "death", OrdinaryFleet), _killed(stage, "death-local", LocalFleet)
    )
    return Seen(hand, hand_local, library, library_local, death, death_local)


# What it costs


async def _by_hand(stage: Stage, name: str, workflow: type[Any]) -> Cost:
    fleet, queue = _fleet(stage, name, HOSTS), stage.id(f"la-{name}")
    async with Worker(
        stage.client,
        task_queue=queue,
        workflows=[workflow],
        activities=HandHosts(fleet).all(),
    ):
        handles = [
            await stage.client.start_workflow(workflow.run, host, id=host, task_queue=queue)
            for host in fleet.hosts("eu-1")
        ]
        await asyncio.gather(*[handle.result() for handle in handles])
    return await _cost(stage, name, handles)


async def _with_library(stage: Stage, name: str, kind: type[SystemPatchWorkflow]) -> Cost:
    fleet, queue = _fleet(stage, name, HOSTS), stage.id(f"la-{name}")
    async with worker(stage.client, fleet, task_queue=queue):
        rollout = await _start(stage.client, kind, queue)
        await rollout.result()
    hosts = [rollout.host_handle(host) for host in fleet.hosts("eu-1")]
    return await _cost(stage, name, hosts)


async def _start(
    client: Client, kind: type[SystemPatchWorkflow], queue: str
) -> Rollout[SystemPatchWorkflow]:
    request = PatchRequest(
        clusters=["eu-1"],
        requester="carol@example.com",
        policy=RolloutPolicy(pilot_hosts=0, max_parallel="100%"),
    )
    return await Rollout.start(client, kind, request, id=queue, task_queue=queue)


async def _cost(stage: Stage, name: str, handles: Sequence[WorkflowHandle[Any, Any]]) -> Cost:
    described = [await handle.describe() for handle in handles]
    ends = [each.close_time for each in described if each.close_time is not None]
    took = max(ends) - min(each.start_time for each in described)
    cost = Cost(max(each.history_length for each in described), took.total_seconds())
    stage.say(f"  {name}: {cost.events} events a host, {cost.seconds:.2f} s for all")
    return cost


# What is lost


async def _killed(stage: Stage, name: str, kind: type[SystemPatchWorkflow]) -> Death:
    """A host whose steps take a while, and a worker that is killed in the third."""
    fleet, queue = _fleet(stage, name, 1, step_seconds=1), stage.id(f"la-{name}")
    (machine,) = fleet.machines()
    module, folder = with_library.__name__, str(fleet.folder)
    async with stage.worker_process(module, queue, folder) as first:
        rollout = await _start(stage.client, kind, queue)
        await stage.until(lambda: "set_maintenance_mode" in machine.done())
        host = rollout.host_handle(machine.name)
        # An activity may need a moment to show up. A local one never does, and is over in a second.
        pending = await _pending(stage, host, seconds=0.3 if kind is LocalFleet else PATIENCE)
        await first.kill()
        killed = time.monotonic()
        await stage.until(lambda: _is_noticed(host))
        seconds = time.monotonic() - killed
    async with stage.worker_process(module, queue, folder):
        await rollout.result()
    death = Death(
        pending=pending,
        seconds=seconds,
        again=[step for step, times in Counter(machine.done()).items() if times > 1],
        updated=machine.updated and machine.in_service and machine.services_running,
    )
    stage.say(
        f"  {name}: the server knew of {pending}, noticed after {seconds:.1f} s; done again: "
        f"{', '.join(death.again) or 'nothing'}"
    )
    return death


async def _is_noticed(host: WorkflowHandle[Any, Any]) -> bool:
    """Whether the server knows that an activity or a workflow task will not come to its end."""
    description = (await host.describe()).raw_description
    if any(each.HasField("last_failure") for each in description.pending_activities):
        return True
    async for event in host.fetch_history_events():
        if event.HasField("workflow_task_timed_out_event_attributes"):
            kind = event.workflow_task_timed_out_event_attributes.timeout_type
            if kind == TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE:
                return True
    return False


async def _pending(stage: Stage, host: WorkflowHandle[Any, Any], *, seconds: float) -> list[str]:
    """What the server, and so the web UI, shows as running: the third step, if it comes to know of it."""
    found: list[str] = []

    async def is_running() -> bool:
        pending = (await host.describe()).raw_description.pending_activities
        found[:] = [each.activity_type.name for each in pending]
        return "stop_services" in found

    with suppress(TimeoutError):
        await stage.until(is_running, timeout=timedelta(seconds=seconds))
    return found


def _fleet(stage: Stage, name: str, hosts: int, *, step_seconds: float = 0) -> Fleet:
    names = [stage.id(f"la-{name}-{number}") for number in range(1, hosts + 1)]
    return stage.fleet(
        f"la-{name}", {"eu-1": names}, step_seconds=step_seconds, unit_seconds=0, units=1
    )


# The table


def rows(seen: Seen) -> list[Row]:
    return [
        _cheaper("by hand", seen.hand, seen.hand_local),
        _cheaper("with the library", seen.library, seen.library_local),
        Row(
            "a worker dies, activities",
            "seen as running, nothing is done again",
            _said(seen.death),
            "stop_services" in seen.death.pending and not seen.death.again and seen.death.updated,
        ),
        Row(
            "a worker dies, local activities",
            "not seen, noticed later, steps are done again",
            _said(seen.death_local),
            not seen.death_local.pending
            and len(seen.death_local.again) >= 2
            and seen.death_local.seconds > seen.death.seconds
            and seen.death_local.updated,
        ),
    ]


def _cheaper(form: str, ordinary: Cost, local: Cost) -> Row:
    return Row(
        form,
        "local activities: fewer events",
        f"{ordinary.events} → {local.events} events a host, "
        f"{ordinary.seconds:.2f} → {local.seconds:.2f} s",
        local.events < ordinary.events,
    )


def _said(death: Death) -> str:
    return (
        f"running: {', '.join(death.pending) or 'nothing'}; noticed after {death.seconds:.1f} s; "
        f"{len(death.again)} done again"
    )
