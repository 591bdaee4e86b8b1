"""Holds the promise that no workflow task of the whole suite fails or times out by accident.

A workflow task that fails is retried for ever: to a user that is a rollout that hangs, and to a
test it may be invisible. So each workflow that the suite starts is written down when it starts, and
after each test its history, and those of its children and continuations, are read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, NamedTuple

from temporalio.api.enums.v1 import EventType, TimeoutType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import (
    Client,
    Interceptor,
    OutboundInterceptor,
    StartWorkflowInput,
    StartWorkflowUpdateWithStartInput,
    WorkflowHandle,
    WorkflowUpdateHandle,
)
from temporalio.service import RPCError, RPCStatusCode

FETCHES_AT_ONCE = 16

CLOSED = {
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW,
}


HEARD = {
    EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED,
    EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED,
    EventType.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED,
    EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED,
    EventType.EVENT_TYPE_TIMER_FIRED,
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED,
}
"""What comes to a workflow and is no message of somebody's."""


class Run(NamedTuple):
    """One run of a workflow; an empty run id means its latest."""

    workflow_id: str
    run_id: str


@dataclass(eq=False)
class Test:
    """A test that started workflows, and why their tasks may fail (`None`: they may not)."""

    __test__ = False

    name: str
    provokes: str | None = None
    began: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    ended: datetime | None = None


NO_TEST = Test("outside of any test")


class Tests:
    """Which test runs now, and which one ran when."""

    __test__ = False

    def __init__(self) -> None:
        self.current = NO_TEST
        self._all: list[Test] = []

    def begin(self, test: Test) -> None:
        """Write down what starts from now on as started by `test`."""
        self.current = test
        self._all.append(test)

    def end(self) -> None:
        """Write down what starts from now on as started by no test."""
        self.current.ended = datetime.now(timezone.utc)
        self.current = NO_TEST

    def at(self, moment: datetime) -> Test:
        """Return the test that ran then."""
        for test in reversed(self._all):
            if test.began <= moment:
                return test if test.ended is None or moment <= test.ended else NO_TEST
        return NO_TEST


class Histories:
    """All runs that one server has been asked for, and which of them have been read."""

    def __init__(self, tests: Tests) -> None:
        self._tests = tests
        self._started: list[tuple[Run, Test]] = []
        self._open: list[tuple[Run, Test]] = []
        self._read: set[Run] = set()

    def started(self, workflow_id: str, run_id: str | None) -> None:
        """Write down one start."""
        self._started.append((Run(workflow_id, run_id or ""), self._tests.current))

    @property
    def unread(self) -> bool:
        """Whether something started since the last `read`."""
        return bool(self._started)

    async def read(self, client: Client) -> list[str]:
        """Read what started since the last time; what is still open is kept for `read_all`."""
        started, self._started = self._started, []
        return await self._read_runs(client, started)

    async def read_all(self, client: Client, *, can_list: bool) -> list[str]:
        """Read all that is left, at the end: what was open, and, by listing, what others started.

        Other processes of a test (a command line, a second worker) do not go through our clients.
        """
        problems = await self.read(client)
        still_open, self._open = self._open, []
        problems += await self._read_runs(client, still_open)
        if can_list:
            read = self._read | {run for run, _ in still_open}
            listed = [
                (run, self._tests.at(execution.start_time))
                async for execution in client.list_workflows()
                if (run := Run(execution.id, execution.run_id)) not in read
            ]
            problems += await self._read_runs(client, listed)
        return problems

    async def _read_runs(self, client: Client, runs: Iterable[tuple[Run, Test]]) -> list[str]:
        """Read these runs and all that they started, breadth first."""
        problems: list[str] = []
        slots = asyncio.Semaphore(FETCHES_AT_ONCE)
        level = list(dict.fromkeys(runs))
        while level:
            reads = await asyncio.gather(
                *(self._read_run(client, run, test, slots) for run, test in level)
            )
            problems += [problem for read in reads for problem in read.problems]
            next_level = [
                (run, test)
                for (_, test), read in zip(level, reads, strict=True)
                for run in read.continued_by
            ]
            level = [pair for pair in dict.fromkeys(next_level) if pair[0] not in self._read]
        return problems

    async def _read_run(
        self, client: Client, run: Run, test: Test, slots: asyncio.Semaphore
    ) -> Read:
        read = Read(run, test)
        async with slots:
            try:
                async for event in events(client, run):
                    read.event(event)
            except RPCError as error:
                # Deleted by the test, or a start that the server refused.
                if error.status != RPCStatusCode.NOT_FOUND:
                    raise
                return read
        if read.closed:
            self._read.add(read.run)
        elif (run, test) not in self._open:
            self._open.append((run, test))
        return read


class Read:
    """What one history says, gathered event by event."""

    def __init__(self, run: Run, test: Test) -> None:
        self.run = run
        self.closed = False
        self.continued_by: list[Run] = []
        self.problems: list[str] = []
        self._test = test
        self._silence = Silence()

    def event(self, event: HistoryEvent) -> None:
        """Take one event in."""
        if self._silence.after(event) and self._test.provokes is None:
            self.problems.append(
                f"{self._test.name}: workflow {self.run.workflow_id!r}"
                f" (run {self.run.run_id}), event {event.event_id}: {SILENT}"
            )
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
            self._started(event)
        elif event.event_type == EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
            child = event.child_workflow_execution_started_event_attributes.workflow_execution
            self.continued_by.append(Run(child.workflow_id, child.run_id))
        elif event.event_type in CLOSED:
            self.closed = True
            attributes = getattr(event, event.WhichOneof("attributes") or "")
            if next_run := getattr(attributes, "new_execution_run_id", ""):
                self.continued_by.append(Run(self.run.workflow_id, next_run))
        elif (problem := task_problem(event)) and self._test.provokes is None:
            self.problems.append(
                f"{self._test.name}: workflow {self.run.workflow_id!r}"
                f" (run {self.run.run_id}), event {event.event_id}: {problem}"
            )

    def _started(self, event: HistoryEvent) -> None:
        attributes = event.workflow_execution_started_event_attributes
        if not self.run.run_id:
            self.run = Run(self.run.workflow_id, attributes.original_execution_run_id)
            if attributes.first_execution_run_id not in ("", self.run.run_id):
                self.continued_by.append(
                    Run(self.run.workflow_id, attributes.first_execution_run_id)
                )


SILENT = "the task before it has heard something and left no command: see RolloutRun._show"


class Silence:
    """Finds a task of a rollout that hears something, not by a message, and leaves no command behind.

    If a verb comes with the next task, a new worker takes the two for one, and is stuck later.
    """

    def __init__(self) -> None:
        self._rollout = False
        self._heard = False
        self._told = False
        """Whether the task that has started has heard something."""
        self._last = EventType.EVENT_TYPE_UNSPECIFIED

    def after(self, event: HistoryEvent) -> bool:
        """Takes one event in; answers whether the task that has ended before it was such a one."""
        kind, last = event.event_type, self._last
        self._last = kind
        if kind == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            scheduled = event.activity_task_scheduled_event_attributes
            self._rollout = self._rollout or scheduled.activity_type.name == "resolve_procedure"
        if kind in HEARD:
            self._heard = True
        elif kind == EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED:
            self._told, self._heard = self._told or self._heard, False
        elif last == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
            told, self._told = self._told, False
            return self._rollout and told and kind == EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED
        return False


def task_problem(event: HistoryEvent) -> str | None:
    """Say what is wrong if a workflow task failed or timed out, otherwise `None`."""
    if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED:
        failed = event.workflow_task_failed_event_attributes
        # A message that arrived while the workflow was closing: the server's own protocol asks
        # for the task once more, and no code of ours is at fault.
        if failed.cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND:
            return None
        cause = WorkflowTaskFailedCause.Name(failed.cause)
        return f"WORKFLOW_TASK_FAILED ({cause}): {failed.failure.message or 'no message'}"
    if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT:
        timed_out = event.workflow_task_timed_out_event_attributes
        # Nobody fetched it from the queue of the worker that had the workflow last, so the server offers it
        # to all. That is a machine that stood still for ten seconds; nothing of a workflow was run.
        if timed_out.timeout_type == TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START:
            return None
        return f"WORKFLOW_TASK_TIMED_OUT ({TimeoutType.Name(timed_out.timeout_type)})"
    return None


def events(client: Client, run: Run) -> AsyncIterator[HistoryEvent]:
    """Iterate over the history of one run as it is now."""
    return client.get_workflow_handle(
        run.workflow_id, run_id=run.run_id or None
    ).fetch_history_events()


class RecordStarts(Interceptor):
    """Writes each workflow that a client starts into `histories`."""

    def __init__(self, histories: Histories) -> None:
        self._histories = histories

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        """Put the recorder before `next`."""
        return _RecordStarts(next, self._histories)


class _RecordStarts(OutboundInterceptor):
    def __init__(self, next: OutboundInterceptor, histories: Histories) -> None:
        super().__init__(next)
        self._histories = histories

    async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[Any, Any]:
        handle = await super().start_workflow(input)
        self._histories.started(handle.id, handle.first_execution_run_id)
        return handle

    async def start_update_with_start_workflow(
        self, input: StartWorkflowUpdateWithStartInput
    ) -> WorkflowUpdateHandle[Any]:
        # Before, since the workflow may have started although its update was refused.
        self._histories.started(input.start_workflow_input.id, None)
        return await super().start_update_with_start_workflow(input)


def complaint(problems: Sequence[str]) -> str:
    """Return what to tell the developer."""
    return (
        "workflow tasks failed or timed out: to a user such a workflow hangs.\n  "
        + "\n  ".join(problems)
        + "\nMend the workflow. Where a test provokes it on purpose, say so:"
        ' @pytest.mark.provokes_task_failure("why")'
    )
