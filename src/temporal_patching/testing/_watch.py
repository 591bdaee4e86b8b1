"""Looks on while workers work: which gates ask, which task fails, where to crash."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal, final

import attrs
from temporalio import activity
from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.workflow_activation import QueryWorkflow, WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.converter import PayloadConverter
from temporalio.plugin import SimplePlugin
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    WorkerConfig,
    WorkflowInstance,
    WorkflowInstanceDetails,
    WorkflowRunner,
)
from typing_extensions import override

from ..models import ApprovalReport, FleetQuery, HostQuery, HostTask
from ._environment import Clock

Edge = Literal["before", "after"]
EDGES: tuple[Edge, ...] = ("before", "after")

_NONDETERMINISM = "NONDETERMINISM"
_SLOWEST = 1.0
"""Seconds that a workflow's thread may wait for the clock: the SDK ends it after two."""
_LONGEST_TRACE = 12
"""Lines of a stack trace that are told."""


@final
@attrs.frozen(kw_only=True)
class Crash:
    """A death of the worker that a rehearsal made.

    Attributes:
        step: At which step.
        host: Of which host; the cluster's name for ``list_hosts`` and ``check_fleet_health``.
        edge: ``before`` it had its effect, or ``after`` that and before the answer was told.
        attempt: The attempt that was lost.
        at: When, in workflow time.
    """

    step: str
    host: str
    edge: Edge
    attempt: int
    at: datetime


@attrs.frozen(kw_only=True)
class Attempt:
    """One attempt of an activity, as it begins."""

    step: str
    host: str
    number: int
    at: datetime
    began: float = attrs.field(factory=time.monotonic)

    @property
    def now(self) -> datetime:
        """Workflow time while it runs: that of the wall, since nothing is skipped meanwhile."""
        return self.at + timedelta(seconds=time.monotonic() - self.began)


@attrs.frozen(kw_only=True)
class Trouble:
    """A workflow task that failed: it would be retried for ever."""

    workflow_type: str
    workflow_id: str
    message: str
    nondeterminism: bool = False


@final
class Watch:
    """What one rehearsal sees of its workers.

    Args:
        clock: Held when a gate has begun to ask, until somebody has looked.
        converter: Reads what the rollout says of its gates.
        crashes: For each step the edges at which the worker is to die yet.
    """

    def __init__(
        self,
        clock: Clock,
        converter: PayloadConverter,
        crashes: dict[str, list[Edge]],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._converter = converter
        self._asked: tuple[tuple[str, datetime | None], ...] = ()
        self.to_crash = crashes
        self.moves = 0
        self.root = ""
        self.follows = False
        self.moved: Callable[[ApprovalReport], object] = lambda _: None
        self.alarm: Callable[[str], object] = lambda _: None
        self.beside: Callable[[Attempt], Awaitable[None]] = _nothing
        self.trouble: asyncio.Future[Trouble] = self._loop.create_future()
        self.dies = asyncio.Event()
        self.crashes: list[Crash] = []
        self.running: dict[int, Attempt] = {}
        self.kinds: dict[str, str] = {}

    # From the threads that workflows run in

    def activated(
        self,
        details: WorkflowInstanceDetails,
        act: WorkflowActivation,
        completion: WorkflowActivationCompletion,
        ask: Callable[[WorkflowActivation], WorkflowActivationCompletion],
    ) -> None:
        """A workflow has taken a step: it may have failed, and it may be one that is waited for."""
        id = details.info.workflow_id
        self.moves += 1
        for job in act.jobs:
            if job.HasField("remove_from_cache"):
                self._evicted(details, job.remove_from_cache)
                return
        if completion.HasField("failed"):
            self._fail(details, _text(completion.failed.failure))
            return
        if act.is_replaying or all(job.HasField("query_workflow") for job in act.jobs):
            return
        if id == self.root and self.follows:
            self._look_at_gates(act, ask)
        elif details.info.workflow_type == "RehearsalAlarm" and any(
            job.HasField("fire_timer") for job in act.jobs
        ):
            self._hold_and_tell(lambda: self.alarm(id))

    def _look_at_gates(
        self,
        act: WorkflowActivation,
        ask: Callable[[WorkflowActivation], WorkflowActivationCompletion],
    ) -> None:
        """Asks the workflow itself, on its own thread: the server has not heard yet that it has moved.

        So no time can have gone by since a gate opened, and a workflow that is not cached need not be replayed.
        """
        asking = WorkflowActivation()
        asking.CopyFrom(act)
        del asking.jobs[:]
        asking.jobs.add().query_workflow.MergeFrom(
            QueryWorkflow(query_id="rehearsal", query_type="approvals")
        )
        for command in ask(asking).successful.commands:
            answer = command.respond_to_query.succeeded.response
            if answer.data:
                report = self._converter.from_payload(answer, ApprovalReport)
                asked = tuple((each.gate, each.opened_at) for each in report.pending)
                if asked != self._asked:
                    self._asked = asked
                    self._hold_and_tell(partial(self.moved, report))

    def _evicted(self, details: WorkflowInstanceDetails, job: Any) -> None:
        if type(job).EvictionReason.Name(job.reason) == _NONDETERMINISM:
            self._fail(details, job.message, nondeterminism=True)

    def _fail(
        self, details: WorkflowInstanceDetails, message: str, *, nondeterminism: bool = False
    ) -> None:
        trouble = Trouble(
            workflow_type=details.info.workflow_type,
            workflow_id=details.info.workflow_id,
            message=message,
            nondeterminism=nondeterminism,
        )
        self._loop.call_soon_threadsafe(self._troubled, trouble)

    def _troubled(self, trouble: Trouble) -> None:
        if not self.trouble.done():
            self.trouble.set_result(trouble)

    def _hold_and_tell(self, tell: Callable[[], object]) -> None:
        """Holds the clock before the server can go on. Who is told releases it."""

        async def hold() -> None:
            await self._clock.hold()
            tell()

        held = asyncio.run_coroutine_threadsafe(hold(), self._loop)
        # A machine that is so busy loses a little of the exactness, not the rehearsal.
        with suppress(concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            held.result(_SLOWEST)

    # From the activities

    async def attempt(self, attempt: Attempt, go_on: Callable[[], Awaitable[Any]]) -> Any:
        """Runs one attempt of an activity, and crashes where that is asked for."""
        number = id(attempt)
        self.running[number] = attempt
        edge = self._edge_of(attempt.step)
        try:
            if edge == "before":
                await self._crash(attempt, edge)
            await self.beside(attempt)
            try:
                answer = await go_on()
            except Exception:
                if edge == "after":
                    await self._crash(attempt, edge)
                raise
            if edge == "after":
                await self._crash(attempt, edge)
            return answer
        finally:
            del self.running[number]

    def _edge_of(self, step: str) -> Edge | None:
        left = self.to_crash.get(step)
        return left.pop(0) if left and not self.dies.is_set() else None

    async def _crash(self, attempt: Attempt, edge: Edge) -> None:
        if not self.dies.is_set():
            self.crashes.append(
                Crash(
                    step=attempt.step,
                    host=attempt.host,
                    edge=edge,
                    attempt=attempt.number,
                    at=attempt.now,
                )
            )
            self.dies.set()
        await asyncio.Event().wait()  # cancelled when its worker is torn down

    # What a worker takes to be watched

    def runner(self, inner: WorkflowRunner) -> WorkflowRunner:
        """A runner that tells of every activation of its workflows."""
        return _WatchedRunner(inner, self)

    def plugin(self) -> SimplePlugin:
        """Give it last, so that it watches what other plugins have made of the worker."""
        return _WatchPlugin(self)


async def _nothing(_: Attempt) -> None:
    return None


def _text(failure: Failure) -> str:
    """A failure with its causes, and the end of the trace."""
    said = failure.message or "no message"
    trace = failure.stack_trace.strip().splitlines()[-_LONGEST_TRACE:]
    if trace:
        said += "\n" + "\n".join(trace)
    if failure.HasField("cause"):
        said += f"\ncaused by: {_text(failure.cause)}"
    return said


class _WatchPlugin(SimplePlugin):
    def __init__(self, watch: Watch) -> None:
        super().__init__("temporal-patching.Rehearsal", interceptors=[_WatchSteps(watch)])
        self._watch = watch

    @override
    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        config = super().configure_worker(config)
        sandboxed, plain = config.get("workflow_runner"), config.get("unsandboxed_workflow_runner")
        assert sandboxed is not None  # the SDK's defaults
        assert plain is not None
        config["workflow_runner"] = self._watch.runner(sandboxed)
        config["unsandboxed_workflow_runner"] = self._watch.runner(plain)
        return config


class _WatchedRunner(WorkflowRunner):
    def __init__(self, inner: WorkflowRunner, watch: Watch) -> None:
        self._inner = inner
        self._watch = watch

    @override
    def prepare_workflow(self, defn: Any) -> None:
        self._inner.prepare_workflow(defn)

    @override
    def set_worker_level_failure_exception_types(
        self, types: Sequence[type[BaseException]]
    ) -> None:
        self._inner.set_worker_level_failure_exception_types(types)

    @override
    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        instance = self._inner.create_instance(det)
        activate, watch = instance.activate, self._watch

        def watched(act: WorkflowActivation) -> WorkflowActivationCompletion:
            completion = activate(act)
            watch.activated(det, act, completion, activate)
            return completion

        # In its place, so that whatever else the SDK asks of an instance stays as it is.
        instance.activate = watched  # type: ignore[method-assign]
        return instance


class _WatchSteps(Interceptor):
    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    @override
    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _WatchStep(next, self._watch)


class _WatchStep(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, watch: Watch) -> None:
        super().__init__(next)
        self._watch = watch

    @override
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        async def go_on() -> Any:
            return await self.next.execute_activity(input)

        return await self._watch.attempt(_attempt(input.args), go_on)


def _attempt(args: Sequence[Any]) -> Attempt:
    info = activity.info()
    asked = args[0] if args else None
    host = ""
    if isinstance(asked, HostTask):
        host = asked.host
    elif isinstance(asked, (HostQuery, FleetQuery)):
        host = asked.cluster
    return Attempt(
        step=info.activity_type,
        host=host,
        number=info.attempt,
        at=info.started_time,
    )
