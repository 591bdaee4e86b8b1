"""The rollout, as a workflow: its hooks and its handlers; ``_rollout_run`` does the work."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, final

import attrs
from temporalio import workflow
from temporalio.exceptions import (
    ApplicationError,
    FailureError,
)

from ..exceptions import InvalidRequest, PatchFailure
from ..models import (
    Abort,
    Accept,
    AuditReport,
    CompletedSteps,
    Explanation,
    GateReport,
    PatchRequest,
    Pause,
    Restore,
    Resume,
    Retry,
    RolloutPlan,
    RolloutProgress,
    RolloutReport,
    SetLimits,
    Skip,
    Steered,
    VoteReport,
)
from ..models._orders import (
    ClusterUpdate,
)
from ..models._steering import Order
from ..policy import ApprovalPolicy, Outcome
from ..policy._verbs import Verb
from ._approval import ApprovalEvent, ApprovalMixin
from ._cluster import ClusterPatchWorkflow
from ._failures import call, root_text
from ._host import HostPatchWorkflow
from ._raw import read_one
from ._rollout_run import RolloutRun
from ._template import TemplateWorkflow


# No code of the user's runs in the class itself, so there is nothing to sandbox; subclasses have their own.
@workflow.defn(sandboxed=False)
class SystemPatchWorkflow(ApprovalMixin, TemplateWorkflow[PatchRequest, RolloutReport]):
    """A rollout: lists the hosts, asks the approvers, and goes through the clusters.

    Works as it is. Subclass it where your procedure differs::

        @workflow.defn
        class PatchWebFleet(SystemPatchWorkflow):
            host_workflow = PatchWebHost

    and hand the class to ``PatchingPlugin`` and ``Rollout.start``.

    Which steps run, and by which workflow classes, is asked once, by an activity, and recorded: a release
    of your code in the middle of a rollout does not change what that rollout does.

    It ends as COMPLETED with a ``RolloutReport`` if every host is patched or needed nothing (or an approval
    expired under ``on_timeout="complete"``). Otherwise it ends as FAILED with one type string an outcome
    (``RolloutPartial``, ``RolloutStopped``, ``RolloutRejected``, ``RolloutExpired``,
    ``RolloutAborted``) and the report in its details; a cancelled rollout is an aborted one.

    Override:

    * ``host_workflow``: the ``HostPatchWorkflow`` subclass for hosts, decorated with ``@workflow.defn``.
    * ``cluster_workflow``: the ``ClusterPatchWorkflow`` subclass for clusters, decorated likewise.
    * ``params_type``: the type of the request's ``params``; a request that does not fit is refused.
    * ``before_rollout(request)``: called before the hosts are listed; may await. If it raises, the rollout fails
      untouched.
    * ``after_rollout(report)``: called when every cluster has ended; may await. It cannot change the report;
      if it raises, the report's reason says so.
    * ``run``, decorated with ``@workflow.run``: call ``await self.rollout(request)``.

    Never override handlers (``approve``, ``reject``, ``approvals``, ``pause``, ``resume``, ``abort``,
    ``set_limits``, ``skip``, ``retry``, ``accept``, ``restore``, ``progress``, ``completed_steps``, ``audit``,
    ``explain``, ``plan``, ``cluster_update``).
    """

    _request_type = PatchRequest
    _result_type = RolloutReport

    host_workflow: ClassVar[type[HostPatchWorkflow]] = HostPatchWorkflow
    """The workflow of each host."""
    cluster_workflow: ClassVar[type[ClusterPatchWorkflow]] = ClusterPatchWorkflow
    """The workflow of each cluster."""
    params_type: ClassVar[type[Any] | None] = None
    """The type of the request's ``params``, or None for any JSON."""

    if TYPE_CHECKING:

        async def run(self, request: PatchRequest) -> RolloutReport:
            """Carries out the rollout."""
            raise NotImplementedError

    __run: RolloutRun | None = None
    __aborted_early: Mapping[str, Steered] = MappingProxyType({})
    """Aborts that came before ``rollout`` was called, by their operation, and what was answered."""
    __early: tuple[Abort, ...] = ()

    def __init_subclass__(cls) -> None:
        for name in ("host_workflow", "cluster_workflow"):
            named = getattr(cls, name)
            definition = getattr(named, "__temporal_workflow_definition", None)
            if definition is None or definition.cls is not named:
                raise InvalidRequest(
                    [
                        f"{cls.__name__}.{name} is {named.__name__}, which is not decorated: "
                        "put @workflow.defn on it"
                    ]
                )
        super().__init_subclass__()

    # Hooks

    async def before_rollout(self, request: PatchRequest) -> None:
        """Called before the hosts are listed. If it raises, nothing is touched. Default: nothing."""

    async def after_rollout(self, report: RolloutReport) -> None:
        """Called when every cluster has ended. It cannot change the report. Default: nothing."""

    # The loop

    @final
    async def rollout(self, request: PatchRequest) -> RolloutReport:
        """The whole rollout: what ``run`` does.

        Args:
            request: What is asked for.

        Returns:
            The report, if every host is patched or needed nothing, or an approval expired under
            ``on_timeout="complete"``.

        Raises:
            PatchFailure: Otherwise. Its type says the outcome; the details have the ``RolloutReport``.
            InvalidRequest: The procedure or the parameters are not valid. Nothing was touched.
        """
        run = self.__run = RolloutRun(request, self)
        run.beginning = asyncio.create_task(self.__begin(run, request))
        for order in self.__early:
            run.steer(order)
        try:
            await run.beginning
        except (FailureError, asyncio.CancelledError):
            if workflow.cancellation_reason() is None and not run.aborted:
                raise
        run.beginning = None
        await run.go()
        report = run.report()
        try:
            if not request.dry_run:
                await call(self.after_rollout, report)
        except (FailureError, asyncio.CancelledError) as error:
            said = f"after_rollout: {root_text(error)}"
            report = attrs.evolve(
                report, reason=f"{report.reason}; {said}" if report.reason else said
            )
        if report.outcome in (Outcome.PATCHED, Outcome.PLANNED) or run.ends_well:
            return report
        raise PatchFailure(
            report.summary, report, type=f"Rollout{report.outcome.value.capitalize()}"
        )

    async def __begin(self, run: RolloutRun, request: PatchRequest) -> None:
        await run.resolve()
        await run.look()
        if not request.dry_run:
            await call(self.before_rollout, request)

    # What the approval mixin asks

    @final
    def approval_policies(self) -> Mapping[str, ApprovalPolicy]:
        """The request's gates."""
        request = self._accepted_request
        return request.approvals if request is not None else {}

    @final
    def approval_requester(self) -> str:
        """The request's requester."""
        request = self._accepted_request
        return request.requester if request is not None else ""

    @final
    def on_approval(self, event: ApprovalEvent, gate: GateReport) -> None:
        """Sends a notice."""
        if self.__run is not None:
            self.__run.notify_gate(event, gate)

    @final
    def _approval_vote_counted(self, gate: str, vote: VoteReport) -> None:
        if self.__run is not None:  # else it takes up what was counted before it began
            self.__run.voted(gate, vote)

    # Handlers

    @final
    @workflow.signal(name="cluster_update", description="From a cluster: all that it has to tell.")
    def cluster_update(self, *sent: object) -> None:
        """What a cluster tells. Not for people."""
        try:
            update = read_one(sent, ClusterUpdate)
        except InvalidRequest as error:
            workflow.logger.warning("An update that cannot be read was ignored: %s", error)
            return
        if self.__run is not None:
            self.__run.told(update)

    @final
    @workflow.update(name="pause", description="Pause the rollout, or one cluster. Takes a Pause.")
    def pause(self, order: Pause) -> Steered:
        """Nothing new starts. Takes one ``Pause``."""
        return self.__steer("pause", order)

    @final
    @pause.validator
    def _may_pause(self, order: Pause) -> None:
        self.__may_steer("pause", order)

    @final
    @workflow.update(
        name="resume", description="Resume the rollout, or one cluster. Takes a Resume."
    )
    def resume(self, order: Resume) -> Steered:
        """It goes on. Takes one ``Resume``."""
        return self.__steer("resume", order)

    @final
    @resume.validator
    def _may_resume(self, order: Resume) -> None:
        self.__may_steer("resume", order)

    @final
    @workflow.update(
        name="abort", description="End the rollout: nothing new starts. Takes an Abort."
    )
    def abort(self, order: Abort) -> Steered:
        """Ends the rollout. Takes one ``Abort``."""
        if self.__run is not None:
            return self.__aborted_early.get(order.operation) or self.__steer("abort", order)
        answer = Steered(phase="listing", message="it ends before it begins: nothing is started")
        if order.operation:
            self.__aborted_early = {**self.__aborted_early, order.operation: answer}
        if not self.__early or (order.now and not self.__early[-1].now):
            self.__early = (*self.__early, order)
        return answer

    @final
    @abort.validator
    def _may_abort(self, order: Abort) -> None:
        if self.__run is not None and order.operation not in self.__aborted_early:
            self.__may_steer("abort", order)

    @final
    @workflow.update(name="set_limits", description="Change limits from now on. Takes a SetLimits.")
    def set_limits(self, order: SetLimits) -> Steered:
        """Other limits from now on. Takes one ``SetLimits``."""
        return self.__steer("set_limits", order)

    @final
    @set_limits.validator
    def _may_set_limits(self, order: SetLimits) -> None:
        self.__may_steer("set_limits", order)

    @final
    @workflow.update(name="skip", description="Do not start a host, or a wave. Takes a Skip.")
    async def skip(self, order: Skip) -> Steered:
        """Does not start a host, or a wave. Takes one ``Skip``. Answers when its cluster has.

        A parked host stays as it is.
        """
        run = self.__run
        assert run is not None  # the validator has refused
        run.accepted += 1
        known = run.answered("skip", order.operation)
        if known is not None:
            return known
        was_parked = run.is_parked(order.host)
        answer = run.steer(order)
        return answer if was_parked else await run.skipped(order)

    @final
    @skip.validator
    def _may_skip(self, order: Skip) -> None:
        self.__may_steer("skip", order)

    @final
    @workflow.update(name="retry", description="Go on with a parked host. Takes a Retry.")
    def retry(self, order: Retry) -> Steered:
        """Goes on with a parked host, at the step that failed or before it. Takes one ``Retry``."""
        return self.__steer("retry", order)

    @final
    @retry.validator
    def _may_retry(self, order: Retry) -> None:
        self.__may_steer("retry", order)

    @final
    @workflow.update(
        name="accept", description="Take a parked host's step as done. Takes an Accept."
    )
    def accept(self, order: Accept) -> Steered:
        """Takes the step that failed as done, and goes on with the host. Takes one ``Accept``."""
        return self.__steer("accept", order)

    @final
    @accept.validator
    def _may_accept(self, order: Accept) -> None:
        self.__may_steer("accept", order)

    @final
    @workflow.update(name="restore", description="Give a parked host back. Takes a Restore.")
    def restore(self, order: Restore) -> Steered:
        """Gives a parked host back, as far as that is safe. Takes one ``Restore``."""
        return self.__steer("restore", order)

    @final
    @restore.validator
    def _may_restore(self, order: Restore) -> None:
        self.__may_steer("restore", order)

    def __may_steer(self, verb: Verb, order: Order) -> None:
        run = self.__run
        why = "it has not begun yet" if run is None else run.why_full(verb)
        if run is not None and why is None:
            if run.answered(verb, order.operation) is not None:
                return  # answered as the first time
            why = run.why_refused(order)
        if why is not None:
            raise ApplicationError(why, type="VerbRefused", non_retryable=True)

    def __steer(self, verb: Verb, order: Order) -> Steered:
        run = self.__run
        assert run is not None  # the validator has refused
        run.accepted += 1
        return run.answered(verb, order.operation) or run.steer(order)

    @final
    @workflow.query(name="progress", description="Where this rollout is.")
    def progress(self) -> RolloutProgress:
        """Where the rollout is: counts, what it waits for, each cluster as of its last report."""
        if self.__run is not None:
            return self.__run.progress()
        return RolloutProgress(rollout=workflow.info().workflow_id)

    @final
    @workflow.query(name="completed_steps", description="What is done, in order.")
    def completed_steps(self) -> CompletedSteps:
        """What is done, in order: the plan, the gate, each cluster."""
        return CompletedSteps(steps=tuple(self.__run.completed)) if self.__run else CompletedSteps()

    @final
    @workflow.query(name="plan", description="What it does: clusters, waves, steps, gates.")
    def plan(self) -> RolloutPlan:
        """What it does, or would do: clusters, waves, steps, gates, windows. Its clusters name the hosts."""
        if self.__run is None:
            raise ApplicationError("it has not begun yet", type="NotPlanned")
        return self.__run.plan()

    @final
    @workflow.query(name="audit", description="Who decided what, in order.")
    def audit(self) -> AuditReport:
        """Every decision and every accepted verb, in order: who, when, why, before and after."""
        return self.__run.audit() if self.__run is not None else AuditReport()

    @final
    @workflow.query(name="explain", description="Why it waits or stopped, what would stop it next.")
    def explain(self) -> Explanation:
        """Why it waits, why it stopped, and what would stop it next, each with its evidence."""
        if self.__run is not None:
            return self.__run.explain()
        return Explanation(rollout=workflow.info().workflow_id, phase="listing")

    async def _execute(self, request: PatchRequest) -> RolloutReport:
        return await self.rollout(request)
