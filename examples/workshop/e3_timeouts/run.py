"""Exercise 3, both ways. `make workshop EXERCISE=3`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import attrs
from temporalio.api.enums.v1 import RetryState, TimeoutType
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.worker import Worker

from temporal_patching.client import Rollout
from temporal_patching.models import PatchRequest, RolloutReport
from temporal_patching.worker import PatchingPlugin
from temporal_patching.workflow import SystemPatchWorkflow

from ..hosts import HandHosts, WorkshopHosts
from ..machines import Fleet, Machine
from ..stage import PATIENCE, Row, Stage
from .by_hand import HurriedByHand, PatientByHand
from .with_library import HurriedFleet, PatientFleet

__all__ = ["End", "Killed", "Seen", "Slow", "rows", "show", "waited"]

ATTEMPT = 1.5
"""Seconds that an attempt of the slow update may take, as the workflows say."""
SLOW_UNIT = 4.0
"""Seconds that one unit of it takes."""

WAITS = (1.0, 2.0)
"""Seconds that its workflow with the library lets pass before the second attempt and the third."""

UNITS, UNIT_SECONDS = 25, 0.2
KILL_AFTER = 20
"""Units."""


@attrs.frozen
class Slow:
    """An update of which one unit takes longer than an attempt may.

    Attributes:
        attempts: How many attempts the server has counted.
        waits: Seconds that the server let pass before the second attempt, the third, …
        runs_on: Whether the workflow still ran when we had seen enough.
        began: When each attempt began on the machine, in seconds after the first.
        late: Units that the machine did all the same. An attempt has no time for one, so the server had given
            up each attempt that did one.
        two_at_once: Whether such an attempt was still at work when the next one began.
        services_running: Whether the machine's services run at the end.
    """

    attempts: int
    waits: Sequence[float]
    runs_on: bool
    began: Sequence[float]
    late: int
    two_at_once: bool
    services_running: bool


@attrs.frozen
class End:
    """How the slow update ended with the library.

    Attributes:
        report: The rollout's report.
        timed_out: Whether the history says that the last attempt exceeded its start-to-close timeout.
        no_more_attempts: Whether it says that the retry policy allows no further attempt.
    """

    report: RolloutReport
    timed_out: bool
    no_more_attempts: bool


@attrs.frozen
class Killed:
    """An update whose worker was killed.

    Attributes:
        done: Units that were done by then.
        known: Units that the server knew of, by the last heartbeat that had reached it.
        went_on_at: The first unit that the next worker did.
        repeated: Units that were done twice.
        seconds: From the first beginning to the last unit, on the machine.
        updated: Whether every unit is there in the end.
    """

    done: int
    known: int
    went_on_at: int
    repeated: int
    seconds: float
    updated: bool


@attrs.frozen
class Seen:
    """What happened to the slow update, and to the one whose worker was killed."""

    slow_by_hand: Slow
    slow: Slow
    end: End
    killed_by_hand: Killed
    killed: Killed


async def show(stage: Stage) -> Seen:
    stage.say(f"An attempt may take {ATTEMPT} s, but a unit of the update takes {SLOW_UNIT} s.")
    slow_by_hand, (slow, end) = await asyncio.gather(
        _slow_by_hand(stage), _slow_with_library(stage)
    )
    _tell_slow(stage, "by hand", slow_by_hand)
    _tell_slow(stage, "with the library", slow)
    stage.say(f"    the report: {stage.short(end.report.summary)}")

    stage.say(f"{UNITS} units of {UNIT_SECONDS} s: kill -9 after {KILL_AFTER}, then a new worker.")
    killed_by_hand, killed = await asyncio.gather(
        _killed_by_hand(stage), _killed_with_library(stage)
    )
    _tell_killed(stage, "by hand", killed_by_hand)
    _tell_killed(stage, "with the library", killed)
    return Seen(slow_by_hand, slow, end, killed_by_hand, killed)


def rows(seen: Seen) -> list[Row]:
    by_hand, slow, end = seen.slow_by_hand, seen.slow, seen.end
    again, on = seen.killed_by_hand, seen.killed
    return [
        Row(
            "too slow, by hand",
            "3 attempts and no end, two at work at once",
            f"{by_hand.attempts} attempts, {_end(by_hand)}, {_at_once(by_hand)}",
            by_hand.runs_on and by_hand.attempts == 3 and by_hand.two_at_once,
        ),
        Row(
            "too slow, with the library",
            f"3 attempts, about {_seconds(WAITS)} apart, failed, never two at work at once; "
            "services run",
            f"{slow.attempts} attempts, {_seconds(slow.waits)} apart, {_end(slow)}, "
            f"{_at_once(slow)}; services {_services(slow)}",
            slow.attempts == 3
            and waited(slow)
            and not slow.runs_on
            and end.timed_out
            and end.no_more_attempts
            and not slow.two_at_once
            and slow.services_running,
        ),
        Row(
            "worker killed, by hand",
            f"all {again.done} units done again",
            f"{again.repeated} done again, {again.seconds:.1f} s in all",
            again.updated and again.repeated == again.done,
        ),
        Row(
            "worker killed, with the library",
            "only units done again that no heartbeat had told",
            f"{on.repeated} done again, {on.known} of {on.done} were told, {on.seconds:.1f} s in all",
            on.updated and on.known > 0 and on.repeated == on.done - on.known,
        ),
    ]


def waited(slow: Slow) -> bool:
    """Whether the server let pass what the retry policy says. A busy one may be late."""
    return all(0.9 * said < seen < 3 * said for seen, said in zip(slow.waits, WAITS, strict=True))


# An update that is too slow


async def _slow_by_hand(stage: Stage) -> Slow:
    queue = stage.id("e3-slow-by-hand")
    fleet = _one_machine(stage, "e3-a", units=2, unit_seconds=SLOW_UNIT)
    (machine,) = fleet.machines()
    activities = HandHosts(fleet).all()
    async with Worker(
        stage.client, task_queue=queue, workflows=[HurriedByHand], activities=activities
    ):
        handle = await stage.client.start_workflow(
            HurriedByHand.run, machine.name, id=stage.id("e3-slow-by-hand"), task_queue=queue
        )
        waits = await _follow(stage, handle, machine, enough=3)
        seen = await _slow(stage, handle, machine, waits)
        if seen.runs_on:
            await handle.terminate("seen enough")
        return seen


async def _slow_with_library(stage: Stage) -> tuple[Slow, End]:
    queue = stage.id("e3-slow")
    fleet = _one_machine(stage, "e3-b", units=2, unit_seconds=SLOW_UNIT)
    (machine,) = fleet.machines()
    plugin = PatchingPlugin(WorkshopHosts(fleet), workflows=[HurriedFleet])
    async with Worker(stage.client, task_queue=queue, plugins=[plugin]):
        rollout = await _start(stage, HurriedFleet, stage.id("e3-slow"), queue)
        host = rollout.host_handle(machine.name)
        waits = await _follow(stage, host, machine)
        report = await asyncio.wait_for(rollout.report(), PATIENCE)
        return await _slow(stage, host, machine, waits), await _end_of_update(host, report)


async def _follow(
    stage: Stage,
    handle: WorkflowHandle[Any, Any],
    machine: Machine,
    *,
    enough: int | None = None,
) -> Sequence[float]:
    """Asks the server for the update's attempts, until it has ended or so many have begun.

    Returns:
        How many seconds the server waited before the second attempt, the third, …
    """
    await stage.until(lambda: "perform_update" in machine.done())
    began: dict[int, float] = {}
    due: dict[int, float] = {}

    async def has_ended() -> bool:
        update = await _pending_update(handle)
        if update is None:
            return True
        # Not update.current_retry_interval: the server does not fill it in after a timeout.
        if update.HasField("next_attempt_schedule_time"):
            due[update.attempt] = update.next_attempt_schedule_time.ToNanoseconds() / 1e9
        elif update.HasField("last_started_time"):
            began[update.attempt] = update.last_started_time.ToNanoseconds() / 1e9
        return enough in began

    await stage.until(has_ended)
    return [due[each] - began[each - 1] - ATTEMPT for each in sorted(began) if each > 1]


async def _slow(
    stage: Stage, handle: WorkflowHandle[Any, Any], machine: Machine, waits: Sequence[float]
) -> Slow:
    attempts = 1 + len(waits)
    await stage.until(lambda: machine.done().count("perform_update") == attempts)
    log = machine.log()
    began = [entry.at for entry in log if entry.what == "perform_update"]
    ready = [entry.at for entry in log if entry.what.startswith("unit")]
    return Slow(
        attempts=attempts,
        waits=waits,
        runs_on=(await handle.describe()).status is WorkflowExecutionStatus.RUNNING,
        began=[at - began[0] for at in began],
        late=len(ready),
        two_at_once=any(at - machine.unit_seconds < other < at for at in ready for other in began),
        services_running=machine.services_running,
    )


async def _end_of_update(host: WorkflowHandle[Any, Any], report: RolloutReport) -> End:
    async for event in host.fetch_history_events():
        if event.HasField("activity_task_timed_out_event_attributes"):
            end = event.activity_task_timed_out_event_attributes
            which = end.failure.timeout_failure_info.timeout_type
            return End(
                report,
                timed_out=which == TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE,
                no_more_attempts=end.retry_state == RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED,
            )
    return End(report, timed_out=False, no_more_attempts=False)


def _tell_slow(stage: Stage, name: str, seen: Slow) -> None:
    stage.say(f"  {name}: {seen.attempts} attempts, {_seconds(seen.waits)} apart, {_end(seen)}")
    stage.say(f"    on the machine they began at {_seconds(seen.began)}: {_at_once(seen)}")
    stage.say(f"    units that given-up attempts did all the same: {seen.late}")
    stage.say(f"    its services {_services(seen)}")


def _end(seen: Slow) -> str:
    return "still retried" if seen.runs_on else "failed"


def _at_once(seen: Slow) -> str:
    return "two at work at once" if seen.two_at_once else "never two at work at once"


def _services(seen: Slow) -> str:
    return "run" if seen.services_running else "are down"


def _seconds(some: Sequence[float]) -> str:
    return ", ".join(f"{each:.1f}" for each in some) + " s"


# A worker that is killed


async def _killed_by_hand(stage: Stage) -> Killed:
    queue = stage.id("e3-killed-by-hand")
    fleet = _one_machine(stage, "e3-c", units=UNITS, unit_seconds=UNIT_SECONDS)
    (machine,) = fleet.machines()
    handle = await stage.client.start_workflow(
        PatientByHand.run, machine.name, id=stage.id("e3-killed-by-hand"), task_queue=queue
    )
    module = f"{__package__}.by_hand"
    last = await _kill_a_worker(stage, module, queue, fleet, handle)
    async with stage.worker_process(module, queue, str(fleet.folder)):
        await asyncio.wait_for(handle.result(), PATIENCE)
    # It heartbeats the number of the unit that is done.
    return _killed(machine, known=last + 1)


async def _killed_with_library(stage: Stage) -> Killed:
    queue = stage.id("e3-killed")
    fleet = _one_machine(stage, "e3-d", units=UNITS, unit_seconds=UNIT_SECONDS)
    (machine,) = fleet.machines()
    rollout = await _start(stage, PatientFleet, stage.id("e3-killed"), queue)
    module = f"{__package__}.with_library"
    last = await _kill_a_worker(stage, module, queue, fleet, rollout.host_handle(machine.name))
    async with stage.worker_process(module, queue, str(fleet.folder)):
        await asyncio.wait_for(rollout.result(), PATIENCE)
    # Its checkpoint is the number of units that are done.
    return _killed(machine, known=last["checkpoint"])


async def _kill_a_worker(
    stage: Stage, module: str, queue: str, fleet: Fleet, handle: WorkflowHandle[Any, Any]
) -> Any:
    """Kills one in the middle of the update.

    Returns:
        The last heartbeat that the server has.
    """
    (machine,) = fleet.machines()
    async with stage.worker_process(module, queue, str(fleet.folder)) as worker:
        await stage.until(lambda: f"unit {KILL_AFTER - 1}" in machine.done())
        await worker.kill()
    update = await _pending_update(handle)
    assert update is not None  # it has not ended: its worker is dead
    (last,) = await stage.client.data_converter.decode(update.heartbeat_details.payloads)
    return last


def _killed(machine: Machine, *, known: int) -> Killed:
    log = machine.log()
    first, second = (at for at, entry in enumerate(log) if entry.what == "perform_update")
    before = [entry.what for entry in log[first:second] if entry.what.startswith("unit")]
    after = [entry.what for entry in log[second:] if entry.what.startswith("unit")]
    ready = max(entry.at for entry in log if entry.what.startswith("unit"))
    return Killed(
        done=len(before),
        known=known,
        went_on_at=int(after[0].removeprefix("unit ")),
        repeated=len(set(before) & set(after)),
        seconds=ready - log[first].at,
        updated=machine.updated,
    )


def _tell_killed(stage: Stage, name: str, seen: Killed) -> None:
    stage.say(f"  {name}: {seen.done} units were done, the server knew of {seen.known}")
    stage.say(f"    the new worker began at unit {seen.went_on_at}: {seen.repeated} done again")
    stage.say(f"    ready {seen.seconds:.1f} s after the first worker began")


# Both


def _one_machine(stage: Stage, name: str, *, units: int, unit_seconds: float) -> Fleet:
    clusters = {"eu-1": [stage.id(name)]}
    return stage.fleet(name, clusters, units=units, unit_seconds=unit_seconds)


async def _start(
    stage: Stage, fleet: type[SystemPatchWorkflow], id: str, queue: str
) -> Rollout[SystemPatchWorkflow]:
    request = PatchRequest(clusters=["eu-1"], requester="carol@example.com")
    return await Rollout.start(stage.client, fleet, request, id=id, task_queue=queue)


async def _pending_update(handle: WorkflowHandle[Any, Any]) -> PendingActivityInfo | None:
    """The update as the server has it now: its attempt, its last heartbeat. None if it has ended."""
    description = await handle.describe()
    for each in description.raw_description.pending_activities:
        if each.activity_type.name == "perform_update":
            return each
    return None
