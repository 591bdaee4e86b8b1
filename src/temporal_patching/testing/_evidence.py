"""What histories say, read from their JSON: nothing of the library's own rules is asked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

import attrs
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHistory

from ..exceptions import InvalidRequest
from ..models import PatchRequest
from ..models._wire import from_json, to_json

CLOSED = (
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED,
    EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED,
)
STEP_ENDS = (
    EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT,
    EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED,
)
ENDS = (
    # Not those after which children are still told: terminated, timed out.
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
)


@attrs.frozen
class Verb:
    """What an operator did, and was not refused."""

    when: datetime
    name: str
    given: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.name} by {self.given.get('by')!r} at {self.when:%H:%M:%S.%f}"


@attrs.frozen
class Start:
    """A cluster's workflow started a host."""

    cluster: str
    host: str
    when: datetime
    event: int
    in_flight: int
    """How many were in flight then, this one among them."""
    orders: Mapping[str, Any] | None
    """The newest that the cluster had heard when it decided."""
    cancelled: bool
    """It had been told that it is cancelled."""
    again: bool
    """It goes on with a host that was parked."""


@attrs.define
class Evidence:
    """What the histories that were given say."""

    request: Mapping[str, Any] | None = None
    verbs: list[Verb] = attrs.field(factory=list[Verb])
    told: list[tuple[datetime, Mapping[str, Any]]] = attrs.field(
        factory=list[tuple[datetime, Mapping[str, Any]]]
    )
    """What clusters told the rollout, in the order in which it came."""
    starts: list[Start] = attrs.field(factory=list[Start])
    steps: list[tuple[datetime, datetime | None]] = attrs.field(
        factory=list[tuple[datetime, datetime | None]]
    )
    """From when to when a step of a host was under way."""
    ended: datetime | None = None
    """When the rollout ended."""
    raw: list[tuple[str, bytes]] = attrs.field(factory=list[tuple[str, bytes]])
    """Workflow id and content of each history, to be searched."""

    @property
    def policies(self) -> list[Mapping[str, Any]]:
        """The one that was asked for, and what people made of it."""
        if self.request is None:
            return []
        found = [self.request["policy"]]
        for verb in self.verbs:
            if verb.name == "set_limits":
                found.append(_limited(found[-1], verb.given))
        return found

    def has(self, *names: str) -> bool:
        """Whether one of these verbs was used."""
        return any(verb.name in names for verb in self.verbs)


def read(history: WorkflowHistory | Iterable[WorkflowHistory] | None) -> Evidence | None:
    """The evidence in some histories, in any order.

    Raises:
        InvalidRequest: One cannot be read.
    """
    if history is None:
        return None
    found = Evidence()
    some = [history] if isinstance(history, WorkflowHistory) else list(history)
    for each in sorted(some, key=lambda each: _when(each.events[0])):
        raw = b"".join(event.SerializeToString() for event in each.events)
        found.raw.append((each.workflow_id, raw))
        given = _given(each)
        if "requester" in given:
            _read_rollout(each, given, found)
        elif "procedure" in given:
            _read_cluster(each, given, found)
        elif "task" in given:
            _read_host(each, found)
    found.verbs.sort(key=lambda verb: verb.when)
    return found


def _read_rollout(history: WorkflowHistory, given: Mapping[str, Any], found: Evidence) -> None:
    found.request = found.request or _whole(given)
    # By event and by id: the time-skipping server does not say which event was accepted.
    asked: dict[int | str, tuple[datetime, str, Mapping[str, Any]]] = {}
    for event in history.events:
        if event.HasField("workflow_execution_update_accepted_event_attributes"):
            accepted = event.workflow_execution_update_accepted_event_attributes
            call = accepted.accepted_request.input
            arguments = list(_values(call.args.payloads))
            if arguments and isinstance(arguments[0], Mapping):
                verb = (_when(event), call.name, arguments[0])
                asked[event.event_id] = verb
                if accepted.accepted_request.meta.update_id:
                    asked[accepted.accepted_request.meta.update_id] = verb
        elif event.HasField("workflow_execution_update_completed_event_attributes"):
            done = event.workflow_execution_update_completed_event_attributes
            answered = asked.get(done.accepted_event_id) or asked.get(done.meta.update_id)
            if answered is not None and done.outcome.HasField("success"):
                found.verbs.append(Verb(*answered))
        elif event.HasField("workflow_execution_signaled_event_attributes"):
            signal = event.workflow_execution_signaled_event_attributes
            if signal.signal_name == "cluster_update":
                found.told += [
                    (_when(event), each)
                    for each in _values(signal.input.payloads)
                    if isinstance(each, Mapping)
                ]
        elif event.event_type in ENDS:
            found.ended = _when(event)


def _whole(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """A request that was written by hand leaves out what it does not mean to change."""
    try:
        whole: Mapping[str, Any] = to_json(from_json(dict(given), PatchRequest))
    except InvalidRequest:  # of another release
        return given
    return whole


def _read_cluster(history: WorkflowHistory, given: Mapping[str, Any], found: Evidence) -> None:
    events = {event.event_id: event for event in history.events}
    heard: list[tuple[int, Mapping[str, Any]]] = []
    if given.get("orders") is not None:
        heard.append((0, given["orders"]))
    cancelled: int | None = None
    open_: set[int] = set()
    for event in history.events:
        if event.HasField("workflow_execution_signaled_event_attributes"):
            signal = event.workflow_execution_signaled_event_attributes
            if signal.signal_name == "orders":
                some = [x for x in _values(signal.input.payloads) if isinstance(x, Mapping)]
                heard += [(event.event_id, each) for each in some]
        elif event.HasField("workflow_execution_cancel_requested_event_attributes"):
            cancelled = event.event_id
        elif event.HasField("start_child_workflow_execution_initiated_event_attributes"):
            started = event.start_child_workflow_execution_initiated_event_attributes
            open_.add(event.event_id)
            task = _task_start(events, event.event_id, started.workflow_task_completed_event_id)
            known = [orders for at, orders in heard if at < task]
            asked: Mapping[str, Any] = next(_values(started.input.payloads))
            found.starts.append(
                Start(
                    cluster=given["cluster"],
                    host=asked["task"]["host"],
                    when=_when(event),
                    event=event.event_id,
                    in_flight=len(open_),
                    orders=max(known, key=lambda orders: orders["sequence"], default=None),
                    cancelled=cancelled is not None and cancelled < task,
                    again=asked.get("resume") is not None,
                )
            )
        elif event.event_type in CLOSED:
            open_.discard(_initiated(event))


def _read_host(history: WorkflowHistory, found: Evidence) -> None:
    ends: dict[int, datetime] = {}
    for event in history.events:
        which = event.WhichOneof("attributes") or ""
        if which.startswith("activity_task_") and event.event_type in STEP_ENDS:
            ends[getattr(event, which).scheduled_event_id] = _when(event)
    found.steps += [
        (_when(event), ends.get(event.event_id))
        for event in history.events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]


def _task_start(events: Mapping[int, HistoryEvent], command: int, completed: int) -> int:
    """What had come before this was known to the workflow task that gave the command and ended there."""
    done = events[completed].workflow_task_completed_event_attributes
    if done.started_event_id:
        return done.started_event_id
    # The time-skipping server leaves this id out, and has an older one there: their order tells it.
    ended = _last(events, "workflow_task_completed_event_attributes", before=command)
    return _last(events, "workflow_task_started_event_attributes", before=ended)


def _last(events: Mapping[int, HistoryEvent], what: str, *, before: int) -> int:
    return max(
        id for id, event in events.items() if id < before and event.WhichOneof("attributes") == what
    )


def _initiated(event: HistoryEvent) -> int:
    which = event.WhichOneof("attributes")
    return 0 if which is None else int(getattr(event, which).initiated_event_id)


def _given(history: WorkflowHistory) -> Mapping[str, Any]:
    """A workflow's input."""
    begun = history.events[0].workflow_execution_started_event_attributes
    first = next(iter(_values(begun.input.payloads)), None)
    return first if isinstance(first, Mapping) else {}


def _values(payloads: Iterable[Any]) -> Iterator[Any]:
    for payload in payloads:
        encoding = payload.metadata.get("encoding", b"")
        if encoding == b"binary/null":
            yield None
        elif encoding in (b"json/plain", b"json/pydantic"):
            yield json.loads(payload.data)
        else:
            raise InvalidRequest(
                [
                    f"'history' must be readable JSON (got encoding {encoding.decode()!r}): decode it with "
                    "your codec first"
                ]
            )


def _when(event: HistoryEvent) -> datetime:
    return event.event_time.ToDatetime(tzinfo=timezone.utc)


def _limited(policy: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """A policy after ``set_limits``."""
    now = dict(policy)
    for name in ("max_parallel", "max_parallel_total", "max_out_of_service"):
        if given.get(name) is not None:
            now[name] = given[name]
    for budget, number in (
        ("failure_budget", "max_failures"),
        ("total_failure_budget", "total_max_failures"),
    ):
        if given.get(budget) is not None:
            now[budget] = given[budget]
        if given.get(number) is not None:
            now[budget] = {**(now.get(budget) or {}), "max_failures": given[number]}
    return now
