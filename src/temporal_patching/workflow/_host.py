"""One host: the loop that carries out what ``policy._host`` decides."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, final

import attrs
from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    FailureError,
    TimeoutError,
    is_cancelled_exception,
)

from ..exceptions import HostFailed, InvalidRequest
from ..models import CompletedSteps, HostProgress, HostResult, HostTask, StepResult
from ..models._kept import fits, kept, saved
from ..models._orders import HostOrders, HostRequest, HostUpdate
from ..models._report import as_reason
from ..policy import DEFAULT_STEPS, HostState, Step, Steps
from ..policy import _host as machine
from ..policy._steps import CLOSER_TIME_LIMIT
from ._failures import call, chain, root_text
from ._raw import read, read_one
from ._template import TemplateWorkflow

BEFORE_HOST = "before_host"


# No code of the user's runs in the class itself, so there is nothing to sandbox; subclasses have their own.
@workflow.defn(sandboxed=False)
class HostPatchWorkflow(TemplateWorkflow[HostRequest, HostResult]):
    """Takes one host through its steps, and gives it back however that ends.

    Steps are data. Subclass it where your procedure differs::

        @workflow.defn
        class PatchWebHost(HostPatchWorkflow):
            steps = HostPatchWorkflow.steps.after("perform_update", Step("rebuild_initramfs"))

    and name the subclass as ``host_workflow`` of your ``SystemPatchWorkflow``. Each step is the activity
    of its name in your ``PatchActivities``; a default step that you do not implement is not scheduled.

    What holds, whatever fails, is cancelled or dies: a step that took something away is closed again, in
    reverse, shielded from cancels and each closer within a time limit. A host whose update has not begun is
    given back as it was found. One whose update has begun goes to its end; if a step fails then,
    its services are started, its health is checked, and only a healthy host returns to service. What is
    held or could not be closed is named in the result with the reason.

    It ends as COMPLETED with a ``HostResult``; as CANCELED if it was cancelled and restored; as FAILED with
    type ``HostFailed`` and the ``HostResult`` in its details otherwise.

    A host that parks stays as it is where a step failed, with all that is open; its workflow ends, as FAILED,
    and hands up where it stands. Another one goes on from there when a person has decided.

    Override:

    * ``steps``: the procedure, a class attribute. It is read once when the rollout starts, and recorded.
    * ``before_host(request)``: called before the first step; may await activities and children. If it
      raises, the host fails untouched. Not called again for a host that was parked.
    * ``after_host(result)``: called when all is done and closed, and each time the host is parked
      (``result.parked`` is not None then); may await. It cannot change the result; if it raises, the
      result's reason says so.
    * ``run``, decorated with ``@workflow.run``: call ``await self.patch_host(request)``.

    Never override handlers (``progress``, ``completed_steps``, ``orders``).
    """

    _request_type = HostRequest
    _result_type = HostResult

    steps: ClassVar[Steps] = DEFAULT_STEPS
    """The procedure."""

    __procedure: machine.Procedure | None = None
    __orders: HostOrders | None = None
    __ordered: HostOrders | None = None
    """Orders that are still to be carried out."""
    __obeyed = 0
    """The number of the newest orders that the procedure knows."""
    __halted = False
    __answered = 0
    """The orders that it last answered, standing still."""
    __told = 0
    __telling: asyncio.Task[None] | None = None

    if TYPE_CHECKING:  # each class gets a ``run`` of its own when it is defined

        async def run(self, request: HostRequest) -> HostResult:
            """Patches the host."""
            raise NotImplementedError

    def __init_subclass__(cls) -> None:
        cls.steps.check()
        super().__init_subclass__()

    # Hooks

    async def before_host(self, request: HostRequest) -> None:
        """Called before the first step. If it raises, the host fails untouched. Default: nothing.

        Not called again when a host that was parked goes on.
        """

    async def after_host(self, result: HostResult) -> None:
        """Called when all is done and closed, or the host is parked. Default: nothing.

        It cannot change the result. A host that is parked (``result.parked`` is not None) waits for a person
        with all that it has open: when it has gone on and ended, this is called again.
        """

    # The loop

    @final
    async def patch_host(self, request: HostRequest) -> HostResult:
        """The whole procedure: what ``run`` does.

        Args:
            request: The host's task and its steps.

        Returns:
            The result, for a host that is patched, unchanged or needs a reboot.

        Raises:
            HostFailed: It failed, it is parked, or it could not be given back. The details have the
                ``HostResult``.
            asyncio.CancelledError: It was cancelled and is as it was found.
        """
        self.__procedure = request.resume or machine.Procedure(
            steps=request.steps, reboot=request.reboot, parks=request.parks
        )
        event = await self.__before_host(request)
        running: asyncio.Task[machine.HostEvent] | None = None
        while True:
            self.__procedure, commands = machine.decide(self.__procedure, event)
            for command in commands:
                if isinstance(command, machine.RunStep):
                    # What gives back does not park, so nothing of it has to be kept.
                    parks = self.__procedure.parks and not command.bounded
                    running = asyncio.create_task(_run_step(request, command, parks=parks))
                elif isinstance(command, machine.InterruptStep) and running is not None:
                    running.cancel(command.reason)
            if machine.over(self.__procedure):
                return await self.__end(request, _result(request, self.__procedure))
            self.__tell_halted(request)
            event = await self.__next_event(running)
            if running is not None and running.done():
                running = None

    async def __before_host(self, request: HostRequest) -> machine.HostEvent:
        """Runs the hook as if it were a first gate."""
        own = type(self).before_host is not HostPatchWorkflow.before_host
        if not own or request.resume is not None:
            return machine.Started()
        try:
            await call(self.before_host, request)
        except (FailureError, asyncio.CancelledError) as error:
            reason = workflow.cancellation_reason()
            if reason is None:
                return machine.Refused(step=BEFORE_HOST, message=root_text(error))
        # Asked, not caught: the hook may have swallowed the cancel.
        reason = workflow.cancellation_reason()
        return machine.Started() if reason is None else machine.CancelRequested(reason)

    async def __next_event(
        self, running: asyncio.Task[machine.HostEvent] | None
    ) -> machine.HostEvent:
        """What the cluster wants comes first: a step that has ended meanwhile waits for its turn."""
        try:
            await workflow.wait_condition(
                lambda: self.__ordered is not None or (running is not None and running.done())
            )
        except asyncio.CancelledError:
            reason = workflow.cancellation_reason()
            if reason is None:
                raise  # nobody cancelled it: the worker throws this instance out of its cache
            return machine.CancelRequested(reason)
        orders, self.__ordered = self.__ordered, None
        if orders is None:
            assert running is not None
            return running.result()
        self.__obeyed = orders.sequence
        if orders.kill is not None:
            return machine.KillRequested(orders.kill)
        return machine.HaltRequested(orders.halt)

    def __tell_halted(self, request: HostRequest) -> None:
        """Tells the cluster, in the background, when the host stands still or goes on.

        Who stands still answers each order: the cluster believes no answer to an older one.
        """
        parent, procedure = workflow.info().parent, self.__procedure
        halted = procedure is not None and machine.halted(procedure)
        answered = not halted or self.__answered == self.__obeyed
        if parent is None or (halted == self.__halted and answered):
            return
        self.__halted, self.__answered = halted, self.__obeyed
        self.__told += 1
        update = HostUpdate(
            host=request.task.host, number=self.__told, halted=halted, answers=self.__obeyed
        )
        cluster = workflow.get_external_workflow_handle(parent.workflow_id)
        self.__telling = asyncio.create_task(_tell(cluster, update))

    async def __end(self, request: HostRequest, result: HostResult) -> HostResult:
        if type(self).after_host is not HostPatchWorkflow.after_host:
            try:
                await call(self.after_host, result)
            except (FailureError, asyncio.CancelledError) as error:
                said = f"after_host: {root_text(error)}"
                reason = f"{result.reason}; {said}" if result.reason else said
                result = attrs.evolve(result, reason=reason)
        if result.state is HostState.CANCELLED and result.left_out is None:
            # Of one that was parked nobody may believe it without a word: it had something open.
            if request.resume is not None:
                _fail(result)
            raise asyncio.CancelledError(result.reason)
        if result.left_out is not None or result.state in (HostState.FAILED, HostState.UNREACHABLE):
            _fail(result)
        return result

    # Handlers

    @final
    @workflow.signal(name="orders", description="From the cluster: all that it wants of this host.")
    def orders(self, *sent: object) -> None:
        """What the cluster wants. Not for people: talk to the rollout."""
        try:
            orders = read_one(sent, HostOrders)
        except InvalidRequest as error:
            workflow.logger.warning("Orders that cannot be read were ignored: %s", error)
            return
        if self.__orders is None or orders.sequence > self.__orders.sequence:
            self.__orders = self.__ordered = orders

    @final
    @workflow.query(name="progress", description="Where this host is.")
    def progress(self) -> HostProgress:
        """Where the host is: the step that runs, what is done, what is open."""
        request = self._accepted_request
        procedure = self.__procedure
        if request is None:
            return HostProgress(host="", cluster="")
        if procedure is None:
            task = request.task
            return HostProgress(host=task.host, cluster=task.cluster, rollout=task.rollout)
        failure = procedure.failure
        return HostProgress(
            host=request.task.host,
            cluster=request.task.cluster,
            rollout=request.task.rollout,
            step=procedure.running,
            completed=procedure.completed,
            open=procedure.open,
            cancelled=procedure.cancelled,
            failure=None if failure is None else f"{failure.step}: {failure.message}",
            halted=machine.halted(procedure),
            state=machine.verdict(procedure) if machine.over(procedure) else None,
        )

    @final
    @workflow.query(name="completed_steps", description="The steps that are done, in order.")
    def completed_steps(self) -> CompletedSteps:
        """The steps that are done, in order."""
        return CompletedSteps(steps=self.progress().completed)

    async def _execute(self, request: HostRequest) -> HostResult:
        return await self.patch_host(request)


async def _run_step(
    request: HostRequest, command: machine.RunStep, *, parks: bool
) -> machine.HostEvent:
    step, task = command.step, request.task
    key = f"{task.rollout}/{task.host}/{step.name}/{command.number}"
    told = attrs.evolve(
        task, step=step.name, idempotency_key=key, parks=parks, checkpoint=command.checkpoint
    )
    limit = step.schedule_to_close_timeout
    if limit is None and command.bounded:
        limit = max(CLOSER_TIME_LIMIT, step.start_to_close_timeout)
    try:
        result = read(await _schedule(step, told, limit), StepResult)
    except FailureError as error:
        return machine.StepBroke(
            step=step.name,
            message=root_text(error),
            unreachable=any(getattr(e, "type", None) == "HostUnreachable" for e in chain(error)),
            cancelled=is_cancelled_exception(error),
            checkpoint=_kept(error) if parks else None,
        )
    except asyncio.CancelledError:  # cancelled before it was scheduled
        return machine.StepBroke(step=step.name, message="cancelled", cancelled=True)
    return machine.StepEnded(
        step=step.name,
        ok=result.ok,
        needed=result.needed,
        changed=result.changed,
        reboot_required=result.reboot_required,
        boot_id=result.boot_id,
        previous_boot_id=result.previous_boot_id,
        already=result.already,
        message=result.message,
        attempt=result.attempt,
        checkpoint=result.checkpoint if parks else None,
    )


def _kept(error: FailureError) -> object | None:
    """What the step had saved last, as far as its failure tells."""
    link: BaseException | None = error
    while isinstance(link, (ActivityError, TimeoutError)):
        if isinstance(link, TimeoutError):
            value = saved(link.last_heartbeat_details)
            if value is not None:
                return value if fits(value) else None
        link = link.__cause__
    return kept(link.details) if isinstance(link, ApplicationError) else None


async def _tell(cluster: workflow.ExternalWorkflowHandle[Any], update: HostUpdate) -> None:
    try:
        await cluster.signal("host_update", update)
    except FailureError as error:
        workflow.logger.warning("The cluster was not told: %s", error)


def _result(request: HostRequest, procedure: machine.Procedure) -> HostResult:
    failure = procedure.failure
    return HostResult(
        cluster=request.task.cluster,
        host=request.task.host,
        state=machine.verdict(procedure),
        reason=machine.reason(procedure),
        left_out=machine.why_left_out(procedure),
        touched=procedure.touched,
        completed=procedure.completed,
        already=procedure.already,
        step="" if failure is None else failure.step,
        parked=_as_handed_up(procedure) if procedure.way == "parked" else None,
    )


def _as_handed_up(procedure: machine.Procedure) -> machine.Procedure:
    """With short texts: what a failure says may be as long as a failure can be."""
    failure = procedure.failure
    return attrs.evolve(
        procedure,
        failure=failure and attrs.evolve(failure, message=as_reason(failure.message)),
        closed_in_vain={taken: as_reason(why) for taken, why in procedure.closed_in_vain.items()},
    )


async def _schedule(step: Step, task: HostTask, limit: timedelta | None) -> RawValue:
    # WAIT_CANCELLATION_COMPLETED: a step that is still acting while its closer runs would undo what
    # the closer did.
    answer: RawValue
    if step.local:
        answer = await workflow.execute_local_activity(
            step.name,
            task,
            result_type=RawValue,
            start_to_close_timeout=step.start_to_close_timeout,
            schedule_to_close_timeout=limit,
            retry_policy=step.retry_policy,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
    else:
        answer = await workflow.execute_activity(
            step.name,
            task,
            result_type=RawValue,
            start_to_close_timeout=step.start_to_close_timeout,
            schedule_to_close_timeout=limit,
            heartbeat_timeout=step.heartbeat_timeout,
            retry_policy=step.retry_policy,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
    return answer


def _fail(result: HostResult) -> NoReturn:
    out = f"; left out of service: {result.left_out}" if result.left_out is not None else ""
    state = result.state.value if result.parked is None else f"{result.state.value} and parked"
    raise HostFailed(f"{result.host} is {state}: {result.reason}{out}", result)
