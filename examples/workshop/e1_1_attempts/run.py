"""Exercise 1.1, both ways. `make workshop EXERCISE=1.1`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.client import WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from temporal_patching.models import HostProgress, HostResult, StepResult
from temporal_patching.worker import PatchingPlugin

from ..stage import Row, Stage
from . import with_library as library
from .by_hand import StopByHand, UnsteadyHandHosts

__all__ = ["Seen", "Told", "rows", "show"]

STEP = "stop_services"
SCHEDULED = "ACTIVITY_TASK_SCHEDULED"


@attrs.frozen
class Told:
    """What the server says of the activity.

    Attributes:
        attempt: Which attempt is next, or was the last.
        last_failure: What the attempt before it failed with.
        events: Which events the history has of the activity.
    """

    attempt: int
    last_failure: str
    events: Sequence[str]


@attrs.frozen
class Seen:
    """What happened.

    Attributes:
        by_hand_waits: The activity by hand, while it waits for its second attempt.
        by_hand_ended: The same, in the end.
        by_hand_done: How often the machine's services were stopped.
        step_waits: The step, while it waits for its second attempt.
        step_ended: The same, in the end.
        step_done: How often the machine's services were stopped.
        progress: Where the host was while the step waited.
        answer: What the step answered, as the history has it.
        result: How the host's workflow ended.
        updated: Whether the machine is updated and serves.
    """

    by_hand_waits: Told
    by_hand_ended: Told
    by_hand_done: int
    step_waits: Told
    step_ended: Told
    step_done: int
    progress: HostProgress
    answer: StepResult
    result: HostResult
    updated: bool


async def show(stage: Stage) -> Seen:
    stage.say("By hand: the first attempt fails, the second does the work again.")
    by_hand, with_library = stage.hosts("e1-1", 2)
    fleet = stage.fleet("e1-1-by-hand", {"eu-1": [by_hand]})
    queue = stage.id("e1-1-by-hand")
    hand_hosts = UnsteadyHandHosts(fleet)
    async with Worker(
        stage.client,
        task_queue=queue,
        workflows=[StopByHand],
        activities=[hand_hosts.stop_services],
    ):
        handle = await stage.client.start_workflow(
            StopByHand.run, by_hand, id=stage.id("e1-1-by-hand"), task_queue=queue
        )
        by_hand_waits = await _waits(stage, handle)
        await handle.result()
        by_hand_ended = await _ended(stage, handle)
    by_hand_done = fleet.machine(by_hand).done().count(STEP)
    stage.say(f"  on the machine: {STEP} was done {by_hand_done} times")

    stage.say("\nWith the library: the task says that it is the second attempt, which looks first.")
    fleet = stage.fleet("e1-1-library", {"eu-1": [with_library]})
    queue = stage.id("e1-1-library")
    plugin = PatchingPlugin(library.UnsteadyHosts(fleet), workflows=[library.PatchUnsteadyFleet])
    async with Worker(stage.client, task_queue=queue, plugins=[plugin]):
        rollout = await library.start(stage, queue)
        host = rollout.host_handle(with_library)
        step_waits = await _waits(stage, host)
        progress = await rollout.host_progress(with_library)
        stage.say(
            f"  the host's progress: {progress.step}, attempt {progress.attempt}, "
            f"the last failure: {stage.short(progress.last_failure or '')!r}"
        )
        await rollout.result()
        step_ended = await _ended(stage, host)
        result = await host.result()
    machine = fleet.machine(with_library)
    step_done = machine.done().count(STEP)
    stage.say(f"  on the machine: {STEP} was done {step_done} time")
    answer = await _answer(stage, host)
    stage.say(f"  the step answered: attempt {answer.attempt}, {answer.message!r}")
    stage.say(f"  completed steps: {', '.join(result.completed)}")
    stage.say(f"  the host in the web UI: {stage.link(host.id)}")
    updated = machine.updated and machine.in_service and machine.services_running
    return Seen(
        by_hand_waits=by_hand_waits,
        by_hand_ended=by_hand_ended,
        by_hand_done=by_hand_done,
        step_waits=step_waits,
        step_ended=step_ended,
        step_done=step_done,
        progress=progress,
        answer=answer,
        result=result,
        updated=updated,
    )


async def _waits(stage: Stage, handle: WorkflowHandle[Any, Any]) -> Told:
    """Waits until the first attempt has failed. The second is 2 seconds away then."""
    pending = await _failed_once(stage, handle)
    told = Told(
        attempt=pending.attempt,
        last_failure=stage.short(pending.last_failure.message),
        events=[_name(event) for event in await _events(handle)],
    )
    stage.say(f"  it waits for attempt {told.attempt}, the last failure: {told.last_failure!r}")
    stage.say(f"  the history has: {', '.join(told.events)}")
    return told


async def _failed_once(stage: Stage, handle: WorkflowHandle[Any, Any]) -> PendingActivityInfo:
    found: list[PendingActivityInfo] = []

    async def has_failed() -> bool:
        try:
            pending = (await handle.describe()).raw_description.pending_activities
        except RPCError as error:
            # The host's turn has not come yet.
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            return False
        found.extend(
            each
            for each in pending
            if each.activity_type.name == STEP and each.HasField("last_failure")
        )
        return bool(found)

    await stage.until(has_failed)
    return found[0]


async def _ended(stage: Stage, handle: WorkflowHandle[Any, Any]) -> Told:
    """Reads it from the history alone, now that the activity is done."""
    events = await _events(handle)
    (started,) = (
        event.activity_task_started_event_attributes
        for event in events
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED
    )
    told = Told(
        attempt=started.attempt,
        last_failure=stage.short(started.last_failure.message),
        events=[_name(event) for event in events],
    )
    stage.say(f"  in the end the history has: {', '.join(told.events)}")
    stage.say(f"  the started event: attempt {told.attempt}, last failure {told.last_failure!r}")
    return told


async def _answer(stage: Stage, handle: WorkflowHandle[Any, Any]) -> StepResult:
    """What the step's activity answered."""
    payloads = (await _events(handle))[-1].activity_task_completed_event_attributes.result.payloads
    (result,) = await stage.client.data_converter.decode(payloads, [StepResult])
    assert isinstance(result, StepResult)
    return result


async def _events(handle: WorkflowHandle[Any, Any]) -> Sequence[HistoryEvent]:
    """The events of the one activity that has this exercise's attention."""
    events = (await handle.fetch_history()).events
    (scheduled,) = (
        event
        for event in events
        if event.activity_task_scheduled_event_attributes.activity_type.name == STEP
    )
    later = (
        event
        for event in events
        if scheduled.event_id
        in (
            event.activity_task_started_event_attributes.scheduled_event_id,
            event.activity_task_completed_event_attributes.scheduled_event_id,
        )
    )
    return [scheduled, *later]


def _name(event: HistoryEvent) -> str:
    return EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")


def rows(seen: Seen) -> list[Row]:
    progress, answer, completed = seen.progress, seen.answer, seen.result.completed
    return [
        _waiting("by hand: while it waits", seen.by_hand_waits),
        _retried("by hand: in the end", seen.by_hand_ended),
        Row(
            "by hand: on the machine",
            "stopped 2 times",
            f"stopped {seen.by_hand_done} times",
            seen.by_hand_done == 2,
        ),
        _waiting("with the library: while it waits", seen.step_waits),
        Row(
            "the host's progress meanwhile",
            f"{STEP}, attempt 2, a failure, 2 steps completed",
            f"{progress.step}, attempt {progress.attempt}, "
            f"{'a' if progress.last_failure else 'no'} failure, "
            f"{len(progress.completed)} steps completed",
            (progress.step, progress.attempt) == (STEP, 2)
            and "lost" in (progress.last_failure or "")
            and len(progress.completed) == 2,
        ),
        _retried("with the library: in the end", seen.step_ended),
        Row(
            "with the library: on the machine",
            "stopped 1 time, attempt 2 has looked",
            f"stopped {seen.step_done} time, attempt {answer.attempt}: {answer.message}",
            seen.step_done == 1 and answer.attempt == 2 and bool(answer.message),
        ),
        Row(
            "completed steps of the host",
            f"{STEP} once, the host PATCHED",
            f"{STEP} {completed.count(STEP)} time, the host {seen.result.state}",
            completed.count(STEP) == 1 and seen.updated,
        ),
    ]


def _waiting(what: str, told: Told) -> Row:
    return Row(
        what,
        "attempt 2 is next, a failure, scheduled is the only event",
        f"attempt {told.attempt} is next, {told.last_failure!r}, {len(told.events)} event",
        told.attempt == 2 and told.events == [SCHEDULED] and "lost" in told.last_failure,
    )


def _retried(what: str, told: Told) -> Row:
    return Row(
        what,
        "3 events, started has attempt 2 and the failure",
        f"{len(told.events)} events, started has attempt {told.attempt} and {told.last_failure!r}",
        told.attempt == 2 and len(told.events) == 3 and "lost" in told.last_failure,
    )
