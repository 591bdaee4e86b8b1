"""What a worker needs: one plugin that registers everything."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from typing import Any, TypeVar, final

import attrs
from temporalio import activity
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.plugin import SimplePlugin
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import WorkerConfig, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from .activity import PatchActivities
from .activity._activities import implemented, takes_task
from .activity._heartbeats import BEATS, HeartbeatInterceptor
from .activity._parking import ParkingInterceptor
from .exceptions import InvalidRequest
from .models import (
    FleetHealth,
    FleetQuery,
    HostList,
    HostQuery,
    HostTask,
    Notice,
    StepResult,
)
from .models._orders import (
    BusyHolder,
    BusyHost,
    ProcedureQuery,
    ResolvedProcedure,
    WindowAnswer,
    WindowQuery,
)
from .models._wire import from_json
from .policy._rules import did_you_mean
from .policy._steps import KINDS, resolve
from .policy._window import starts_allowed
from .workflow import ClusterPatchWorkflow, HostPatchWorkflow, SystemPatchWorkflow
from .workflow._failures import text_of

__all__ = ["PatchingPlugin"]

_Activity = Callable[..., Any]
T = TypeVar("T")

_PASSED_THROUGH = ("temporal_patching", "attr", "attrs", "cattrs")
"""Else the sandbox imports them again for every workflow; cattrs does not survive that."""

_TUNED_THREADS = 1_000
"""Threads at most for plain methods on a worker with a tuner."""

_NOTICE_THREADS = 4
_NOTICE_PATIENCE = 20
"""Seconds that one attempt of a notice may take."""

_NOT_STEPS = frozenset({"list_hosts", "check_fleet_health", "notify"})


@final
class PatchingPlugin(SimplePlugin):
    """Registers the activities, the workflows and what the sandbox must pass through.

    Give it to a ``Worker``, or to ``Client.connect`` (then every worker of that client has it), and to a
    ``Replayer``. Given to both client and worker it still registers once; the SDK warns.

    Args:
        activities: An instance of your ``PatchActivities`` subclass. None for a worker that only runs
            workflows with the parts (``gather``, ``ApprovalMixin``).
        workflows: Your workflow classes. The library's own three, and the host and cluster workflows that
            your fleet classes name, come along.

    Plain ``def`` methods run in threads: unless the worker has an ``activity_executor`` it gets one with
    as many threads as it has activity slots (100 by default), or up to 1,000 if it has a ``tuner``.

    On a versioned worker set ``default_versioning_behavior`` in its ``deployment_config``: the library's own
    classes take it, too. With ``PINNED`` keep the old workers until their rollouts have ended, or nobody
    runs the closers.

    Raises:
        InvalidRequest: ``list_hosts`` is missing.

    Example::

        worker = Worker(
            client,
            task_queue="patching",
            plugins=[PatchingPlugin(DebianHosts(), workflows=[PatchWebFleet, PatchWebHost])],
        )
    """

    def __init__(
        self, activities: PatchActivities | None = None, *, workflows: Sequence[type] = ()
    ) -> None:
        self._given = activities
        self._classes = tuple(_with_children(workflows))
        made = [] if activities is None else _activities(activities, self._classes)
        self._sync = any(not inspect.iscoroutinefunction(each) for each in made)
        self._parking = [ParkingInterceptor()] if made else []

        def pass_through(runner: WorkflowRunner | None) -> WorkflowRunner:
            if isinstance(runner, SandboxedWorkflowRunner):
                restrictions = runner.restrictions.with_passthrough_modules(*_PASSED_THROUGH)
                return SandboxedWorkflowRunner(
                    restrictions=restrictions, runner_class=runner.runner_class
                )
            if runner is None:
                raise ValueError("No WorkflowRunner was given to the PatchingPlugin.")
            return runner

        def add_activities(there: Sequence[_Activity] | None) -> Sequence[_Activity]:
            return _united(there, made)

        def add_workflows(there: Sequence[type] | None) -> Sequence[type]:
            return _united(there, self._classes)

        super().__init__(
            "temporal-patching.PatchingPlugin",
            activities=add_activities,
            workflows=add_workflows,
            workflow_runner=pass_through,
            interceptors=[HeartbeatInterceptor()] if made else [],
        )

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """See base class."""
        config = super().configure_worker(config)
        client = config.get("client")
        if self._given is not None and client is not None:
            self._given._worker_starts(client, config.get("task_queue") or "")
        # Before all others, so that those see the failures as they were raised.
        there = config.get("interceptors") or []
        new = [each for each in self._parking if each not in there]
        config["interceptors"] = [*new, *there]
        if self._sync and config.get("activity_executor") is None:
            slots = config.get("max_concurrent_activities") or 100
            # A tuner does not say how many slots it may come to have.
            slots = slots if config.get("tuner") is None else _TUNED_THREADS
            # Threads start when they are needed and end with the process.
            config["activity_executor"] = ThreadPoolExecutor(
                max_workers=slots, thread_name_prefix="patching"
            )
        return config


def _with_children(workflows: Iterable[type]) -> dict[type, None]:
    """The classes, those that they name, and the library's own; each once, in order."""
    found: dict[type, None] = {}
    for each in (*workflows, SystemPatchWorkflow):
        found[each] = None
        if issubclass(each, SystemPatchWorkflow):
            found[each.cluster_workflow] = None
            found[each.host_workflow] = None
    return {**found, ClusterPatchWorkflow: None, HostPatchWorkflow: None}


def _united(there: Sequence[T] | None, ours: Sequence[T]) -> list[T]:
    # The plugin may be on the client and on the worker: nothing is added twice.
    known = list(there or ())
    return [*known, *(each for each in ours if each not in known)]


# From a user's methods to activities


def _activities(activities: PatchActivities, classes: Sequence[type]) -> list[_Activity]:
    kind = type(activities)
    if not isinstance(activities, PatchActivities):
        raise InvalidRequest(
            [
                f"'activities' must be an instance of your PatchActivities subclass (got {activities!r})"
            ]
        )
    methods = implemented(kind)
    if "list_hosts" not in methods:
        hint = did_you_mean("list_hosts", methods)
        raise InvalidRequest([f"{kind.__name__} must have a method 'list_hosts'{hint}"])
    steps = _step_names(classes) | set(KINDS)
    made = [_activity(activities.list_hosts, "list_hosts", HostQuery, HostList)]
    if "check_fleet_health" in methods:
        check = activities.check_fleet_health
        made.append(_activity(check, "check_fleet_health", FleetQuery, FleetHealth))
    if "notify" in methods:
        made.append(_activity(_patiently(activities.notify), "notify", Notice, type(None)))
    made.extend(
        _activity(getattr(activities, name), name, HostTask, StepResult)
        for name in sorted((methods - _NOT_STEPS) & steps)
    )
    return [*made, _resolver(kind, classes), _look_at_windows, _find_holder, _wait_for_host]


def _patiently(notify: Callable[[Notice], Any]) -> Callable[[Notice], Awaitable[Any]]:
    """``notify`` with threads and a time limit of its own: one that hangs holds up no step."""
    threads = ThreadPoolExecutor(max_workers=_NOTICE_THREADS, thread_name_prefix="notices")

    async def patiently(notice: Notice) -> Any:
        if inspect.iscoroutinefunction(notify):
            telling: Awaitable[Any] = notify(notice)
        else:
            here = contextvars.copy_context()
            telling = asyncio.get_running_loop().run_in_executor(
                threads, lambda: here.run(notify, notice)
            )
        try:
            return await asyncio.wait_for(telling, _NOTICE_PATIENCE)
        except asyncio.TimeoutError:
            raise ApplicationError(
                f"'notify' did not return within {_NOTICE_PATIENCE} seconds", type="NoticeTimeout"
            ) from None

    return patiently


def _step_names(classes: Iterable[type]) -> set[str]:
    return {
        name for each in classes if issubclass(each, HostPatchWorkflow) for name in each.steps.names
    }


def _activity(
    method: Callable[[Any], Any], name: str, takes: type, gives: type
) -> Callable[..., Any]:
    """The method as an activity: it is told its attempt, its answer is checked, it cannot kill the worker."""
    if inspect.iscoroutinefunction(method):

        async def run_async(argument: Any) -> Any:
            with _Tame():
                return _checked(await method(_told(argument)), name, gives)

        made: Callable[..., Any] = run_async
    else:

        def run_sync(argument: Any) -> Any:
            with _Tame():
                return _checked(method(_told(argument)), name, gives)

        made = run_sync
    made.__name__ = made.__qualname__ = name
    made.__doc__ = method.__doc__
    made.__annotations__ = {"argument": takes, "return": gives}
    setattr(made, BEATS, True)
    return activity.defn(name=name)(made)


class _Tame:
    """Turns what would kill a worker, or hang a future, into a failure of the activity."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and not _is_tame(error):
            raise ApplicationError(text_of(error), type=type(error).__name__) from None


def _is_tame(error: BaseException) -> bool:
    if isinstance(error, asyncio.CancelledError):
        return True
    # The SDK takes a broken executor for its own, and ends the worker.
    if not isinstance(error, Exception) or isinstance(error, (StopIteration, BrokenExecutor)):
        return False
    try:
        str(error)
    except Exception:
        return False  # the SDK would never report the activity's end
    return True


def _told(argument: Any) -> Any:
    if isinstance(argument, HostTask):
        return attrs.evolve(argument, attempt=activity.info().attempt)
    return argument


def _checked(answer: Any, name: str, gives: type) -> Any:
    if not isinstance(answer, gives):
        if inspect.iscoroutine(answer):
            answer.close()
        raise ApplicationError(
            f"{name!r} must return a {gives.__name__} (got {type(answer).__name__})",
            type="InvalidResult",
            non_retryable=True,
        )
    if isinstance(answer, StepResult):
        return attrs.evolve(answer, attempt=activity.info().attempt)
    return answer


# The library's own activities


def _resolver(kind: type[PatchActivities], classes: Sequence[type]) -> _Activity:
    by_name = {_workflow_type(each): each for each in classes}

    @activity.defn(name="resolve_procedure")
    async def resolve_procedure(query: ProcedureQuery) -> ResolvedProcedure:
        """Which steps a workflow class has, and which of them are implemented."""
        fleet = by_name.get(query.workflow_type)
        if fleet is None or not issubclass(fleet, SystemPatchWorkflow):
            # Another worker of this task queue may know it: not final.
            raise ApplicationError(
                f"workflow {query.workflow_type!r} is not among the PatchingPlugin's workflows of this "
                f"worker{did_you_mean(query.workflow_type, by_name)}",
                type="UnknownWorkflow",
            )
        if fleet.params_type is not None:
            from_json(dict(query.params), fleet.params_type)
        methods = implemented(kind) - _NOT_STEPS
        named = _step_names(classes) | set(KINDS)
        unnamed = {name for name in methods - named if takes_task(kind, name)}
        return ResolvedProcedure(
            steps=resolve(fleet.host_workflow.steps, methods, unnamed),
            host_workflow=_workflow_type(fleet.host_workflow),
            cluster_workflow=_workflow_type(fleet.cluster_workflow),
            notifies="notify" in implemented(kind),
            checks_fleet="check_fleet_health" in implemented(kind),
        )

    return resolve_procedure


def _workflow_type(workflow: type) -> str:
    definition = getattr(workflow, "__temporal_workflow_definition", None)
    return getattr(definition, "name", None) or workflow.__name__


@activity.defn(name="look_at_windows")
async def _look_at_windows(query: WindowQuery) -> WindowAnswer:
    """Whether hosts may start at a moment, so that the answer is in history."""
    opening = starts_allowed(query.windows, query.at)
    return WindowAnswer(open=opening.open, until=opening.until, reason=opening.reason)


@activity.defn(name="find_holder")
async def _find_holder(busy: BusyHost) -> BusyHolder:
    """Says which rollout works on a host."""
    described = await activity.client().get_workflow_handle(busy.workflow_id).describe()
    # Its parent is a cluster, whose id begins with its rollout's.
    cluster = described.raw_description.workflow_execution_info.parent_execution.workflow_id
    return BusyHolder(rollout=cluster.rpartition("/")[0])


@activity.defn(name="wait_for_host")
async def _wait_for_host(busy: BusyHost) -> None:
    """Waits until another rollout has let go of a host."""
    holder = activity.client().get_workflow_handle(busy.workflow_id)
    try:
        await asyncio.wait_for(_ended(holder.result()), busy.timeout.total_seconds())
    except asyncio.TimeoutError:
        raise ApplicationError(
            f"still busy after {busy.timeout}", type="HostBusy", non_retryable=True
        ) from None


setattr(_wait_for_host, BEATS, True)


async def _ended(result: Awaitable[Any]) -> None:
    try:
        await result
    except WorkflowFailureError:
        pass  # however it ended, it has let go
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
