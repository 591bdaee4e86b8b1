"""The rollout: the loop that carries out what ``policy._rollout`` decides."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, final

import attrs
from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    FailureError,
)

from ..exceptions import ApprovalExpired, ApprovalRejected, InvalidRequest, PatchFailure
from ..models import (
    ClusterProgress,
    ClusterReport,
    ClusterSummary,
    CompletedSteps,
    GateReport,
    HostReport,
    Notice,
    PatchRequest,
    RolloutProgress,
    RolloutReport,
)
from ..models._orders import (
    ClusterOrders,
    ClusterRequest,
    ClusterUpdate,
    ProcedureQuery,
    ResolvedProcedure,
)
from ..models._report import listed
from ..policy import ApprovalPolicy, HostState, NoticeKind, Outcome
from ..policy import _rollout as machine
from ._approval import ApprovalEvent, ApprovalMixin
from ._cluster import LOST, ClusterPatchWorkflow, digest
from ._failures import call, chain, root_text
from ._host import HostPatchWorkflow
from ._notices import Notices
from ._raw import read
from ._template import TemplateWorkflow

GATE = "start"


def cluster_workflow_id(rollout: str, cluster: str) -> str:
    """The id of a cluster's workflow: ``patch-2026-11/eu-1``."""
    return f"{rollout}/{cluster}"


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

    Never override handlers (``approve``, ``reject``, ``approvals``, ``progress``, ``completed_steps``,
    ``cluster_update``).
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

    __run: _RolloutRun | None = None

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
        run = self.__run = _RolloutRun(request, self)
        try:
            await run.resolve()
            await call(self.before_rollout, request)
        except (FailureError, asyncio.CancelledError):
            if workflow.cancellation_reason() is None:
                raise
        await run.go()
        report = run.report()
        try:
            await call(self.after_rollout, report)
        except (FailureError, asyncio.CancelledError) as error:
            said = f"after_rollout: {root_text(error)}"
            report = attrs.evolve(
                report, reason=f"{report.reason}; {said}" if report.reason else said
            )
        if report.outcome is Outcome.PATCHED or run.ends_well:
            return report
        raise PatchFailure(
            report.summary, report, type=f"Rollout{report.outcome.value.capitalize()}"
        )

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

    # Handlers

    @final
    @workflow.signal(name="cluster_update", description="From a cluster: all that it has to tell.")
    def cluster_update(self, sent: object = None, *rest: object) -> None:
        """What a cluster tells. Not for people."""
        try:
            update = read(sent, ClusterUpdate)
        except InvalidRequest as error:
            workflow.logger.warning("An update that cannot be read was ignored: %s", error)
            return
        if self.__run is not None:
            self.__run.told(update)

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

    async def _execute(self, request: PatchRequest) -> RolloutReport:
        return await self.rollout(request)


class _RolloutRun:
    """What one rollout knows and does."""

    def __init__(self, request: PatchRequest, gates: SystemPatchWorkflow) -> None:
        self._id = workflow.info().workflow_id
        self._request = request
        self._gates = gates
        self._state = machine.rollout_state(
            request.policy,
            machine.PlanLimits(
                max_hosts=request.max_hosts,
                expect_hosts=request.expect_hosts,
                only_hosts=request.only_hosts,
                exclude_hosts=request.exclude_hosts,
                allow_empty=request.allow_empty,
            ),
            request.clusters,
            has_gate=GATE in request.approvals,
        )
        self._procedure: ResolvedProcedure | None = None
        self._events: deque[machine.RolloutEvent] = deque()
        self._updates: dict[str, ClusterUpdate] = {}
        self._hosts: dict[str, tuple[str, ...]] = {}
        """Each cluster's frozen list, to name its hosts if it ends without a report."""
        self._reports: dict[str, ClusterReport] = {}
        self._children: dict[str, asyncio.Task[Any] | None] = {}
        self._orders: dict[str, ClusterOrders] = {}
        self._unsent: set[str] = set()
        self._aborting: str | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken: BaseException | None = None
        self._gate: asyncio.Task[None] | None = None
        self._notices = Notices(notifies=False, kinds=())
        self.ends_well = False
        self.completed: list[str] = []

    async def resolve(self) -> None:
        """Asks which steps run, so that the answer is in history. Refuses what cannot run."""
        info = workflow.info()
        try:
            answer = await workflow.execute_activity(
                "resolve_procedure",
                ProcedureQuery(workflow_type=info.workflow_type, params=self._request.params),
                result_type=RawValue,
                start_to_close_timeout=timedelta(minutes=1),
                retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=30)),
                summary="which steps run, recorded",
            )
        except ActivityError as error:
            for link in chain(error):
                if isinstance(link, ApplicationError) and link.type == "InvalidRequest":
                    raise InvalidRequest([link.message]) from None
            raise
        self._procedure = read(answer, ResolvedProcedure)
        self._notices = Notices(
            notifies=self._procedure.notifies, kinds=self._request.policy.notices
        )
        self.completed.append("procedure resolved")

    # The loop

    async def go(self) -> None:
        """Waits for what happens, decides, and carries it out, until every cluster has ended."""
        self._obey_cancel()  # asked, not caught: a hook may have swallowed it
        for cluster in self._request.clusters:
            if self._events:
                self._never_start(cluster)
            else:
                self._children[cluster] = None
                self._start(self._patch(cluster))
        while self._state.phase != "ended":
            await self._wait()
            while self._events:
                before = self._state
                self._state, commands = machine.decide(before, self._events.popleft())
                self._note(before)
                for command in commands:
                    self._carry_out(command)
        if self._gate is not None:
            self._gate.cancel()
        report = self.report()
        self._notify("finished", f"{self._id}: {report.summary}")
        await self._notices.drain()

    async def _wait(self) -> None:
        try:
            await workflow.wait_condition(lambda: bool(self._events or self._broken))
        except asyncio.CancelledError:
            if workflow.cancellation_reason() is None:
                raise  # the worker throws this instance out of its cache
            self._obey_cancel()
        if self._broken is not None:
            raise self._broken

    def _obey_cancel(self) -> None:
        reason = workflow.cancellation_reason()
        if reason is not None:
            said = f"aborted: {reason}" if reason else "aborted"
            self._events.append(machine.AbortRequested(said))

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._landed)
        return task

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._broken = task.exception()

    def _carry_out(self, command: machine.RolloutCommand) -> None:
        if isinstance(command, machine.OpenGate):
            self._gate = self._start(self._pass_gate())
        elif isinstance(command, machine.GrantSlots):
            self._order(command.cluster, slots=command.slots)
        elif isinstance(command, machine.StopCluster):
            self._order(command.cluster, stop=command.reason)
        elif isinstance(command, machine.CancelCluster):
            self._aborting = command.reason
            child = self._children.get(command.cluster)
            if child is not None:
                child.cancel(command.reason[:300])

    async def _pass_gate(self) -> None:
        try:
            decision = await self._gates.approval(GATE, self._request.approvals[GATE])
        except ApprovalRejected as no:
            event: machine.RolloutEvent = machine.GateShut(
                outcome=Outcome.REJECTED, reason=no.message
            )
        except ApprovalExpired as late:
            event = machine.GateShut(outcome=Outcome.EXPIRED, reason=late.message)
        else:
            if decision.approved:
                self.completed.append(f"gate {GATE!r} passed")
                event = machine.GatePassed()
            else:
                self.ends_well = True
                event = machine.GateShut(outcome=Outcome.EXPIRED, reason=f"gate {GATE!r} expired")
        self._events.append(event)

    # Clusters

    async def _patch(self, cluster: str) -> None:
        report = await self._report_of(cluster)
        self._children.pop(cluster, None)
        self._reports[cluster] = report
        self.completed.append(f"cluster {cluster!r} {report.outcome.value}")
        counts = report.counts
        self._events.append(
            machine.ClusterEnded(
                cluster=cluster,
                outcome=report.outcome,
                reason=report.reason,
                acted=sum(
                    counts[state]
                    for state in (
                        HostState.PATCHED,
                        HostState.REBOOT_PENDING,
                        HostState.FAILED,
                        HostState.UNREACHABLE,
                    )
                ),
                failed=counts[HostState.FAILED],
                unreachable=counts[HostState.UNREACHABLE],
            )
        )

    def _never_start(self, cluster: str) -> None:
        outcome, reason = Outcome.ABORTED, "the rollout was aborted before its hosts were listed"
        self._reports[cluster] = ClusterReport(cluster=cluster, outcome=outcome, reason=reason)
        self._events.append(machine.ClusterEnded(cluster=cluster, outcome=outcome, reason=reason))

    async def _report_of(self, cluster: str) -> ClusterReport:
        assert self._procedure is not None  # resolved before anything starts
        try:
            child = await workflow.start_child_workflow(
                self._procedure.cluster_workflow,
                ClusterRequest(
                    rollout=self._id,
                    cluster=cluster,
                    request=self._request,
                    procedure=self._procedure,
                ),
                id=cluster_workflow_id(self._id, cluster),
                result_type=RawValue,
                parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL,
                cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
                static_summary=f"cluster {cluster} of {self._id}",
            )
            self._children[cluster] = child
            if (
                self._aborting is not None
            ):  # the SDK swallows a cancel while a child is being started
                child.cancel(self._aborting[:300])
            if cluster in self._orders:
                self._send(cluster)
            return read(await child, ClusterReport)
        except ChildWorkflowError as error:
            for link in chain(error):
                details = getattr(link, "details", ())
                if getattr(link, "type", None) == "ClusterFailed" and details:
                    return read(details[0], ClusterReport)
            return self._without_report(cluster, error)
        except FailureError as error:
            return self._without_report(cluster, error)

    def _without_report(self, cluster: str, error: BaseException) -> ClusterReport:
        """A cluster that cannot say how it ended: what is not known to be well is not reported as well."""
        reason = f"its workflow ended without a report: {root_text(error)}"
        update = self._updates.get(cluster)
        known = {each.host: each for each in update.progress.failures} if update else {}
        began = any(v.name == cluster and v.phase == "running" for v in self._state.clusters)
        hosts = [
            known.get(name)
            or HostReport(
                cluster=cluster,
                host=name,
                state=HostState.FAILED if began else HostState.NOT_STARTED,
                reason=reason,
                left_out=LOST if began else None,
            )
            for name in self._hosts.get(cluster, ())
        ]
        some, omitted = listed(hosts)
        return ClusterReport(
            cluster=cluster,
            outcome=Outcome.STOPPED,
            reason=reason,
            counts=Counter(each.state for each in hosts),
            hosts=some,
            hosts_omitted=omitted,
            left_out_of_service=tuple(each.host for each in hosts if each.left_out is not None),
            digest=update.digest if update is not None else "",
        )

    def _order(self, cluster: str, *, slots: int | None = 0, stop: str | None = None) -> None:
        """Replaces what the rollout wants of a cluster, and sends it."""
        last = self._orders.get(cluster)
        self._orders[cluster] = ClusterOrders(
            sequence=1 if last is None else last.sequence + 1, slots=slots, stop=stop
        )
        if self._children.get(cluster) is not None:
            self._send(cluster)

    def _send(self, cluster: str) -> None:
        if cluster not in self._unsent:
            self._unsent.add(cluster)
            self._start(self._deliver(cluster))

    async def _deliver(self, cluster: str) -> None:
        """Sends the newest orders, one message at a time."""
        sent = 0
        while (orders := self._orders[cluster]).sequence > sent:
            sent = orders.sequence
            child = workflow.get_external_workflow_handle(cluster_workflow_id(self._id, cluster))
            try:
                await child.signal("orders", orders)
            except FailureError as error:  # it has ended: its result is on the way
                workflow.logger.info("Cluster %s was not told: %s", cluster, error)
                break
        self._unsent.discard(cluster)

    def told(self, update: ClusterUpdate) -> None:
        """Takes up what a cluster tells. A newer message has all that an older one had, but the list."""
        cluster = update.progress.cluster
        if cluster not in self._request.clusters:
            return  # not from a cluster of ours
        last = self._updates.get(cluster)
        if last is not None and update.sequence <= last.sequence:
            return
        self._updates[cluster] = attrs.evolve(update, host_names=())
        if update.host_names:
            self._hosts[cluster] = update.host_names
        if last is None and update.problem is not None:
            self._events.append(machine.ClusterNotPlanned(cluster=cluster, problem=update.problem))
        elif last is None and update.planned:
            self._events.append(
                machine.ClusterPlanned(
                    cluster=cluster,
                    hosts=update.host_names,
                    max_parallel=update.max_parallel,
                    named=update.named,
                )
            )
        self._events.append(
            machine.ClusterProgressed(
                cluster=cluster,
                acted=update.acted,
                failed=update.failed,
                unreachable=update.unreachable,
                stopped=update.progress.stopped,
            )
        )

    # What others are told

    def _note(self, before: machine.RolloutState) -> None:
        now = self._state
        if before.phase == "listing" and now.phase in ("gate", "running"):
            self.completed.append("plan complete")
        if now.outcome is Outcome.STOPPED and before.outcome is None:
            self.completed.append(f"stopped: {now.reason}")
            self._notify("stopped", f"{self._id} stopped: {now.reason}")

    def notify_gate(self, event: ApprovalEvent, gate: GateReport) -> None:
        """A gate asks, reminds or has expired."""
        kinds: Mapping[ApprovalEvent, NoticeKind] = {
            "requested": "approval_requested",
            "reminder": "approval_reminder",
            "expired": "approval_expired",
        }
        hosts = sum(view.hosts for view in self._state.clusters)
        what = f"{self._id}: {hosts} hosts in {', '.join(self._request.clusters)}"
        if event == "expired":
            text = f"{what}: gate {gate.gate!r} has expired"
        else:
            text = (
                f"{what}: gate {gate.gate!r} waits for {gate.quorum} of {', '.join(gate.approvers)}"
            )
        self._notify(kinds[event], text, *gate.approvers)

    def _notify(self, kind: NoticeKind, text: str, *recipients: str) -> None:
        whom = recipients or (self._request.requester,)
        self._notices.send(Notice(kind=kind, text=text, rollout=self._id, recipients=whom))

    def progress(self) -> RolloutProgress:
        """Where the rollout is."""
        state = self._state
        clusters = tuple(self._cluster_progress(name) for name in self._request.clusters)
        counts: dict[HostState, int] = {}
        for cluster in clusters:
            for host_state, number in cluster.counts.items():
                counts[host_state] = counts.get(host_state, 0) + number
        ended = state.phase == "ended"
        return RolloutProgress(
            rollout=self._id,
            phase=state.phase,
            waits_for=self._waits_for(),
            hosts=sum(view.hosts for view in state.clusters),
            counts=counts,
            clusters=clusters,
            gates=self._gates.approvals().gates,
            outcome=self._outcome() if ended else None,
            reason=state.reason,
            notices_failed=self._notices_failed(),
            digest=self._digest(),
            health=self._health(),
        )

    def _cluster_progress(self, name: str) -> ClusterProgress:
        report = self._reports.get(name)
        update = self._updates.get(name)
        if report is None:
            return update.progress if update is not None else ClusterProgress(cluster=name)
        failures = (HostState.FAILED, HostState.UNREACHABLE)
        return ClusterProgress(
            cluster=name,
            phase="ended",
            hosts=sum(report.counts.values()),
            counts=report.counts,
            failures=tuple(each for each in report.hosts if each.state in failures),
            stopped=report.reason or None,
            left_out_of_service=len(report.left_out_of_service),
        )

    def _waits_for(self) -> str:
        state = self._state
        open_clusters = [view.name for view in state.clusters if view.phase != "ended"]
        if self._procedure is None:
            return "a worker that knows the procedure"
        if state.phase == "listing":
            listing = [view.name for view in state.clusters if view.phase == "listing"]
            return f"the hosts of {', '.join(listing)}"
        if state.phase == "gate":
            votes = next((g for g in self._gates.approvals().gates if g.gate == GATE), None)
            got = sum(vote.approve for vote in votes.votes) if votes is not None else 0
            policy = self._request.approvals[GATE]
            return f"approval of gate {GATE!r}: {got} of {policy.quorum} by {', '.join(policy.approvers)}"
        return f"clusters {', '.join(open_clusters)}" if open_clusters else ""

    def _outcome(self) -> Outcome:
        if self._state.outcome is not None:
            return self._state.outcome
        outcomes = {report.outcome for report in self._reports.values()}
        return Outcome.PATCHED if outcomes == {Outcome.PATCHED} else Outcome.PARTIAL

    def _digest(self) -> str:
        planned = [
            self._updates[name].digest for name in self._request.clusters if name in self._updates
        ]
        complete = len(planned) == len(self._request.clusters) and all(planned)
        return digest(planned) if complete else ""

    def _health(self) -> Any:
        steps = self._procedure.steps if self._procedure is not None else ()
        known = self._procedure is None or any(step.kind == "health" for step in steps)
        return "checked" if known else "not checked"

    def _notices_failed(self) -> int:
        return self._notices.failed + sum(each.notices_failed for each in self._reports.values())

    def report(self) -> RolloutReport:
        """How the rollout ended."""
        reports = [self._reports[name] for name in self._request.clusters if name in self._reports]
        counts: dict[HostState, int] = {}
        for each in reports:
            for host_state, number in each.counts.items():
                counts[host_state] = counts.get(host_state, 0) + number
        some, omitted = listed(host for each in reports for host in each.hosts)
        outcome, reason = self._outcome(), self._state.reason
        if not reason and outcome is Outcome.PARTIAL:
            reason = "not every host is patched"
        return RolloutReport(
            rollout=self._id,
            outcome=outcome,
            reason=reason,
            counts=counts,
            clusters=tuple(
                ClusterSummary(
                    cluster=each.cluster,
                    outcome=each.outcome,
                    reason=each.reason,
                    counts=each.counts,
                    waves=each.waves,
                    digest=each.digest,
                )
                for each in reports
            ),
            hosts=some,
            hosts_omitted=omitted + sum(each.hosts_omitted for each in reports),
            left_out_of_service=tuple(
                name for each in reports for name in each.left_out_of_service
            ),
            health=self._health(),
            gates=self._gates.approvals().gates,
            digest=self._digest(),
            notices_failed=self._notices_failed(),
        )
