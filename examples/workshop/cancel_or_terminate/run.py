"""A rollout is cancelled or terminated in the middle. `make workshop EXERCISE=cancel-or-terminate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Literal

import attrs
from temporalio.client import WorkflowHandle
from temporalio.worker import Worker

from temporal_patching.models import RolloutReport
from temporal_patching.worker import PatchingPlugin

from ..hosts import HandHosts, WorkshopHosts
from ..machines import Fleet, Machine
from ..stage import PATIENCE, Row, Stage
from .by_hand import PatchByHand, PatchHostByHand
from .with_library import report_of, start

__all__ = ["Left", "Seen", "rows", "show"]

Verb = Literal["cancel", "terminate"]


@attrs.frozen
class Left:
    """What one rollout has left behind.

    Attributes:
        hosts: How many machines it had begun to update when it was ended.
        services_down: On which machines the services do not run.
        half_updated: Which machines have a part of the update.
        updated_while_serving: Where units of the update were written after the services were started.
        workflows: How its workflows ended, its own first: type and status.
    """

    hosts: int
    services_down: Sequence[str]
    half_updated: Sequence[str]
    updated_while_serving: Sequence[str]
    workflows: Sequence[tuple[str, str]]


@attrs.frozen
class Seen:
    """What happened.

    Attributes:
        by_hand_cancelled: The workflow by hand, cancelled.
        by_hand_terminated: The same, terminated.
        cancelled: The rollout with the library, cancelled.
        terminated: The same, terminated.
        report_of_cancelled: What the cancelled rollout reported.
        report_of_terminated: What the terminated one did.
    """

    by_hand_cancelled: Left
    by_hand_terminated: Left
    cancelled: Left
    terminated: Left
    report_of_cancelled: RolloutReport | None
    report_of_terminated: RolloutReport | None


async def show(stage: Stage) -> Seen:
    stage.say("Two hosts are in the middle of their update. Then the rollout is ended.")
    torn = await _by_hand(stage, "cancel")
    killed = await _by_hand(stage, "terminate")
    cancelled, report = await _with_library(stage, "cancel")
    terminated, no_report = await _with_library(stage, "terminate")
    return Seen(torn, killed, cancelled, terminated, report, no_report)


async def _by_hand(stage: Stage, verb: Verb) -> Left:
    fleet = _fleet(stage, f"hand-{verb}")
    queue = stage.id(f"ct-hand-{verb}")
    async with Worker(
        stage.client,
        task_queue=queue,
        workflows=[PatchByHand, PatchHostByHand],
        activities=HandHosts(fleet).all(),
        # An activity that is still running when all is over shall end by itself, not by our leaving.
        graceful_shutdown_timeout=timedelta(seconds=PATIENCE),
    ):
        handle = await stage.client.start_workflow(
            PatchByHand.run, "eu-1", id=queue, task_queue=queue
        )
        begun = await _end_in_the_middle(stage, handle, fleet, verb)
        workflows = await _all_ended(stage, handle.id, 3)
    return _tell(stage, "by hand", verb, _left(stage, fleet, begun, workflows))


async def _with_library(stage: Stage, verb: Verb) -> tuple[Left, RolloutReport | None]:
    fleet = _fleet(stage, f"library-{verb}")
    queue = stage.id(f"ct-library-{verb}")
    plugin = PatchingPlugin(WorkshopHosts(fleet))
    async with Worker(stage.client, task_queue=queue, plugins=[plugin]):
        rollout = await start(stage.client, id=queue, task_queue=queue)
        begun = await _end_in_the_middle(stage, rollout.handle, fleet, verb)
        report = await report_of(rollout)
        # A terminated rollout is over at once. Its children are not: they clear away.
        workflows = await _all_ended(stage, rollout.id, 4)
    left = _tell(stage, "with the library", verb, _left(stage, fleet, begun, workflows))
    stage.say(f"    the report: {stage.short(report.summary) if report else 'there is none'}")
    return left, report


def _fleet(stage: Stage, name: str) -> Fleet:
    hosts = stage.hosts(f"ct-{name}", 2)
    return stage.fleet(f"ct-{name}", {"eu-1": hosts}, units=20, unit_seconds=0.2)


async def _end_in_the_middle(
    stage: Stage, handle: WorkflowHandle[Any, Any], fleet: Fleet, verb: Verb
) -> int:
    """Ends it once each machine has a part of its update. Answers how many machines that are."""
    machines = fleet.machines()
    await stage.until(lambda: all("unit 1" in machine.done() for machine in machines))
    if verb == "cancel":
        await handle.cancel()
    else:
        await handle.terminate()
    return sum(not machine.updated for machine in machines)


async def _all_ended(stage: Stage, id: str, expected: int) -> list[tuple[str, str]]:
    """How a workflow and all below it have ended, once they have."""
    query = f"RootWorkflowId = '{id}' AND ExecutionStatus != 'Running'"
    ended = await stage.listed(query, expected)
    ended.sort(key=lambda each: each.start_time)
    return [(each.workflow_type, each.status.name if each.status else "") for each in ended]


def _left(stage: Stage, fleet: Fleet, begun: int, workflows: Sequence[tuple[str, str]]) -> Left:
    machines = fleet.machines()

    def those(holds: Callable[[Machine], bool]) -> list[str]:
        return [stage.short(machine.name) for machine in machines if holds(machine)]

    return Left(
        hosts=begun,
        services_down=those(lambda machine: not machine.services_running),
        half_updated=those(lambda machine: not machine.updated),
        updated_while_serving=those(_updated_while_serving),
        workflows=workflows,
    )


def _updated_while_serving(machine: Machine) -> bool:
    done = machine.done()
    if "start_services" not in done:
        return False
    return any(what.startswith("unit") for what in done[done.index("start_services") :])


def _tell(stage: Stage, form: str, verb: Verb, left: Left) -> Left:
    stage.say(f"  {form}, {verb}:")
    for (kind, status), number in Counter(left.workflows).items():
        stage.say(f"    {number} {kind}: {status}")
    stage.say(f"    services down: {', '.join(left.services_down) or 'nowhere'}")
    stage.say(f"    half an update: {', '.join(left.half_updated) or 'nowhere'}")
    stage.say(f"    updated while serving: {', '.join(left.updated_while_serving) or 'nowhere'}")
    return left


def rows(seen: Seen) -> list[Row]:
    torn, killed = seen.by_hand_cancelled, seen.by_hand_terminated
    cancelled, terminated = seen.cancelled, seen.terminated
    return [
        Row(
            "by hand, cancelled",
            "services run, both updates torn apart",
            _said(torn),
            not torn.services_down and len(torn.half_updated) == torn.hosts == 2,
        ),
        Row(
            "by hand, terminated",
            "both services down, both updates torn apart",
            _said(killed),
            len(killed.services_down) == len(killed.half_updated) == killed.hosts == 2,
        ),
        Row(
            "with the library, cancelled",
            "2 updated, services run, a report",
            f"{_said(cancelled)}, {_reported(seen.report_of_cancelled)}",
            _whole(cancelled) and seen.report_of_cancelled is not None,
        ),
        Row(
            "with the library, terminated",
            "2 updated, services run, no report",
            f"{_said(terminated)}, {_reported(seen.report_of_terminated)}",
            _whole(terminated) and seen.report_of_terminated is None,
        ),
    ]


def _whole(left: Left) -> bool:
    return left.hosts == 2 and not left.services_down and not left.half_updated


def _said(left: Left) -> str:
    return f"{len(left.services_down)} down, {len(left.half_updated)} of {left.hosts} half updated"


def _reported(report: RolloutReport | None) -> str:
    return "no report" if report is None else str(report.outcome)
