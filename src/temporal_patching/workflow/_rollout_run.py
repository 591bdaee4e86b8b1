"""What one rollout knows and does: its clusters, its gate, what it reports."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import accumulate, islice
from typing import Any

import attrs
from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    FailureError,
)

from ..exceptions import ApprovalExpired, ApprovalRejected, InvalidRequest
from ..models import (
    Abort,
    Accept,
    AuditRecord,
    AuditReport,
    ClusterOutline,
    ClusterProgress,
    ClusterReport,
    ClusterSummary,
    Explanation,
    GateReport,
    HostReport,
    Notice,
    ParkedHost,
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
    ClusterOrders,
    ClusterRequest,
    ClusterUpdate,
    ProcedureQuery,
    ResolvedProcedure,
    WindowAnswer,
    WindowQuery,
)
from ..models._report import MAX_LISTED, listed
from ..models._steering import Order, RepairOrder
from ..models._wire import to_json
from ..policy import HostState, NoticeKind, Outcome
from ..policy import _grants as grants
from ..policy import _plan_check as plan_check
from ..policy import _rollout as machine
from ..policy import _rollout_state as data
from ..policy import _verbs as verbs
from ..policy._explain import (
    Gate,
    Known,
    Parked,
    Work,
    what_would_stop_it,
    why_it_stopped,
    why_it_waits,
)
from ..policy._gates import START, gated_waves
from ..policy._plan import fingerprint, gates_in_order, least_duration, shown_fingerprint
from ..policy._repair import Repair
from ..policy._rollout_policy import cluster_plan, wave_sizes
from ..policy._rules import canonical
from ..policy._window import MaintenanceWindows
from ._approval import ApprovalEvent, ApprovalMixin
from ._failures import chain, root_text, wait_undisturbed
from ._in_flight import LOST
from ._length import is_full
from ._loop import MachineLoop
from ._notices import Notices
from ._raw import read

RARELY = timedelta(days=300)
"""When calendars are looked at again that do not change for longer than can be foreseen."""

MAX_AUDIT = 500
"""Records that the audit keeps."""

MAX_ANSWERS = 500
"""Operations whose answers are kept, so that the same one again is answered as the first time."""

_NO_WORK = frozenset(
    {
        "requester",
        "approvals",
        "max_hosts",
        "expect_hosts",
        "only_hosts",
        "exclude_hosts",
        "allow_empty",
        "planned_hosts",
        "plan_digest",
        "dry_run",
    }
)
"""Fields of a request that do not say what is done: who asks, who agrees, and how the hosts are named."""

_REPAIRS: Mapping[type[RepairOrder], Repair] = {
    Retry: "retry",
    Accept: "accept",
    Restore: "restore",
}

POLICY = "policy"
"""Who decides in the audit, where it is no person."""


_BECAME: Mapping[data.RolloutPhase, str] = {
    "listing": "the hosts are listed",
    "gate": "the plan is complete, gate 'start' asks",
    "running": "the clusters begin",
    "stopping": "nothing new starts",
    "ended": "the rollout has ended",
}
"""What the audit says of a phase that begins."""


def _stays_closed(opening: WindowAnswer) -> bool:
    return not opening.open and opening.until is None


def cluster_workflow_id(rollout: str, cluster: str) -> str:
    """The id of a cluster's workflow: ``patch-2026-11/eu-1``."""
    return f"{rollout}/{cluster}"


class RolloutRun(MachineLoop[data.RolloutState, data.RolloutEvent, data.RolloutCommand]):
    """What one rollout knows and does."""

    def __init__(self, request: PatchRequest, gates: ApprovalMixin) -> None:
        state = data.rollout_state(
            request.policy,
            data.PlanLimits(
                max_hosts=request.max_hosts,
                expect_hosts=request.expect_hosts,
                only_hosts=request.only_hosts,
                exclude_hosts=request.exclude_hosts,
                allow_empty=request.allow_empty,
                dry_run=request.dry_run,
                plan_digest=request.plan_digest,
            ),
            request.clusters,
            gates=request.approvals,
        )
        super().__init__(state, machine.decide)
        self._id = workflow.info().workflow_id
        self._request = request
        self._gates = gates
        self._procedure: ResolvedProcedure | None = None
        self._updates: dict[str, ClusterUpdate] = {}
        self._said_at: dict[str, datetime] = {}
        """When each cluster told its last update."""
        self._fingerprint = ""
        self._first: dict[str, ClusterUpdate] = {}
        """What each cluster told when its list was made."""
        self._hosts: dict[str, tuple[str, ...]] = {}
        """Each cluster's frozen list, to name its hosts if it ends without a report."""
        self._where: dict[str, str] = {}
        """The cluster of each host."""
        self._reports: dict[str, ClusterReport] = {}
        self._unreported: set[str] = set()
        """Clusters whose report is not their own: they ended without one."""
        self._stopped: set[str] = set()
        """Clusters that have stopped by themselves."""
        self._children: dict[str, asyncio.Task[Any] | None] = {}
        self._orders: dict[str, ClusterOrders] = {}
        self._unsent: set[str] = set()
        self._aborting: str | None = None
        self._approved_at: datetime | None = None
        """When the gate "start" was passed last."""
        self._gates_open: dict[str, asyncio.Task[None]] = {}
        self._window: WindowAnswer | None = None
        self._heard: dict[str, int] = {}
        """When each cluster has asked for a pause last, by its ``asked_at``."""
        self._answers: dict[tuple[str, str], Steered] = {}
        self.accepted = 0
        """Verbs that it has taken."""
        self._audit: deque[AuditRecord] = deque(maxlen=MAX_AUDIT)
        self._audit_count = 0
        self._notices = Notices(notifies=False, kinds=())
        self.beginning: asyncio.Task[None] | None = None
        """What runs before the hosts are listed."""
        self.ends_well = False
        self.completed: list[str] = []
        early = ((gate.gate, vote) for gate in gates.approvals().gates for vote in gate.votes)
        for gate, vote in early:
            self.voted(gate, vote)

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
        soak = self._request.policy.soak
        if soak is not None and soak.check_every is not None and not self._procedure.checks_fleet:
            raise InvalidRequest(
                [
                    "'policy.soak.check_every' needs 'check_fleet_health' in your PatchActivities class"
                ]
            )
        self._notices = Notices(
            notifies=self._procedure.notifies and not self._request.dry_run,
            kinds=self._request.policy.notices,
        )
        self.completed.append("procedure resolved")

    async def look(self) -> None:
        """Looks at the windows before hosts are listed: a plan that can never start is refused as a plan."""
        windows = self._request.policy.windows
        if windows is not None:
            opening = self._window = await self._look_at(windows)
            if _stays_closed(opening):
                self._events.append(data.WindowsClosed(opening.reason, for_good=True))

    # The loop

    async def go(self) -> None:
        """Waits for what happens, decides, and carries it out, until every cluster has ended."""
        self._obey_cancel()
        self._work_off()
        for cluster in self._request.clusters:
            if self._state.aborting is not None:
                self._never_start(cluster)
            else:
                self._children[cluster] = None
                self._start(self._patch(cluster))
        windows = self._request.policy.windows
        # Nothing follows a plan that is only shown: what holds now was looked at.
        watching = None
        if windows is not None and not self._request.dry_run:
            watching = self._start(self._watch(windows))
        await self._run()
        for waiting in (*self._gates_open.values(), watching):
            if waiting is not None:
                waiting.cancel()
        report = self.report()
        self._notify("finished", f"{self._id}: {report.summary}")
        await self._notices.drain()

    async def _watch(self, windows: MaintenanceWindows) -> None:
        """Opens and closes with the calendars. Recorded: time zone rules differ between workers."""
        was_open, opening = False, self._window
        if opening is None or (opening.until is not None and opening.until <= workflow.now()):
            opening = await self._look_at(windows)
        while True:
            self._window = opening
            self._events.append(
                data.WindowChanged(opening.open, stale=self._is_stale(windows.approval_valid_for))
            )
            for_good = _stays_closed(opening)
            stops = was_open and not opening.open and windows.on_window_close == "stop"
            if for_good or stops:
                self._events.append(data.WindowsClosed(opening.reason, for_good))
            was_open = was_open or opening.open
            until = opening.until or workflow.now() + RARELY
            await workflow.sleep(until - workflow.now(), summary=opening.reason[:100])
            opening = await self._look_at(windows)

    def _is_stale(self, valid_for: timedelta | None) -> bool:
        approved = self._approved_at
        return (
            valid_for is not None and approved is not None and workflow.now() > approved + valid_for
        )

    async def _look_at(self, windows: MaintenanceWindows) -> WindowAnswer:
        answer = await workflow.execute_activity(
            "look_at_windows",
            WindowQuery(windows=windows, at=workflow.now()),
            result_type=RawValue,
            start_to_close_timeout=timedelta(minutes=1),
            retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=30)),
            summary="maintenance windows, recorded",
        )
        return read(answer, WindowAnswer)

    def _ended(self) -> bool:
        return self._state.phase == "ended"

    @property
    def aborted(self) -> bool:
        """Whether somebody has ended it."""
        return self._state.aborting is not None

    def _cancelled(self, reason: str) -> data.RolloutEvent:
        return data.AbortRequested(reason=f"aborted: {reason}" if reason else "aborted")

    def _carry_out(self, command: data.RolloutCommand) -> None:
        if isinstance(command, data.OpenGate):
            gate = command.gate
            self._gates_open[gate] = self._start(self._pass_gate(gate))
        elif isinstance(command, data.CloseGate):
            waiting = self._gates_open.pop(command.gate, None)
            if waiting is not None:
                waiting.cancel()
        elif isinstance(command, data.TellCluster):
            self._order(command.cluster)
        elif isinstance(command, data.CancelCluster):
            self._aborting = command.reason
            if self._children.get(command.cluster) is not None:
                self._start(self._cancel(command.cluster, command.reason))

    async def _pass_gate(self, gate: str) -> None:
        try:
            again = gate == START and self._approved_at is not None
            decision = await self._gates.approval(
                gate, self._request.approvals[gate], again=again, digest=self._digest()
            )
        except ApprovalRejected as no:
            event: data.RolloutEvent = data.GateShut(
                gate=gate, outcome=Outcome.REJECTED, reason=no.message
            )
        except ApprovalExpired as late:
            event = data.GateShut(gate=gate, outcome=Outcome.EXPIRED, reason=late.message)
        else:
            if decision.approved:
                self.completed.append(f"gate {gate!r} passed")
                if gate == START:
                    self._approved_at = workflow.now()
                event = data.GatePassed(gate)
            else:
                self.ends_well = True
                reason = f"gate {gate!r} expired"
                event = data.GateShut(gate=gate, outcome=Outcome.EXPIRED, reason=reason)
        self._gates_open.pop(gate, None)
        self._events.append(event)

    # Steering. A verb is decided in its handler, at once: two in one task would otherwise both be accepted.

    def answered(self, verb: verbs.Verb, operation: str) -> Steered | None:
        """What this operation was answered, if it was asked for before."""
        return self._answers.get((verb, operation)) if operation else None

    def why_full(self, verb: verbs.Verb) -> str | None:
        """Why it takes this verb no more, or None if it does."""
        events = workflow.info().get_current_history_length()
        return verbs.why_full(verb, accepted=self.accepted, events=events)

    def why_refused(self, order: Order) -> str | None:
        """Why this may not be done now, or None if it may."""
        host = order.host if isinstance(order, (Skip, RepairOrder)) else None
        if host is None or self._state.phase == "listing":
            return verbs.why_refused(self._state, self._asked(order))
        if self._cluster_of(host) is None:
            return f"no host {host!r} in the plan"
        steps = tuple(step.name for step in self._procedure.steps) if self._procedure else ()
        known = self._known_of(host)
        return verbs.why_refused(self._state, self._asked(order), steps=steps, known=known)

    def is_parked(self, host: str | None) -> bool:
        """Whether this host waits for a person, as far as its cluster has told."""
        views = self._state.clusters
        return host is not None and any(canonical(host) in view.parked for view in views)

    def _known_of(self, host: str) -> str:
        """What the host is, in a few words, as far as its cluster has told."""
        wanted = canonical(host)
        for update in self._updates.values():
            if any(canonical(name) == wanted for name in update.progress.in_flight):
                return "in flight"
            for failed in update.progress.failures:
                if canonical(failed.host) == wanted:
                    return failed.state.value
        return ""

    def steer(self, order: Order) -> Steered:
        """Does it, at once.

        Raises:
            ApplicationError: It is not legal any more. Type ``VerbRefused``.
        """
        self._work_off()
        why = self.why_refused(order)
        if why is not None:
            raise ApplicationError(why, type="VerbRefused", non_retryable=True)
        asked = self._asked(order)
        before, said = machine.shown_phase(self._state), verbs.said(asked, self._state.policy)
        self._record(order.by, said, order.reason, before)
        recorded = self._audit_count
        self._events.append(asked)
        self._work_off()
        # Before what the rules have decided upon it, if they have.
        at = recorded - self._audit_count - 1
        self._audit[at] = attrs.evolve(self._audit[at], after=machine.shown_phase(self._state))
        if isinstance(order, Abort) and self.beginning is not None:
            self.beginning.cancel()  # a hook that waits: nothing has begun
        return self.answer(order, self._steered(said))

    def answer(self, order: Order, answer: Steered) -> Steered:
        """Keeps what an operation was answered."""
        if order.operation:
            self._answers[verbs.verb_of(self._asked(order)), order.operation] = answer
            if len(self._answers) > MAX_ANSWERS:
                del self._answers[next(iter(self._answers))]
        return answer

    async def skipped(self, order: Skip) -> Steered:
        """Waits until the clusters have done it, and says what became of it: what had started goes on."""
        # Of the clusters that it means: who was told nothing but a grant may be silent for long.
        meant = order.cluster if order.host is None else self._cluster_of(order.host)
        wanted = {
            name: orders.sequence for name, orders in self._orders.items() if meant in (None, name)
        }

        def done() -> bool:
            return self._ended() or all(
                name not in self._children
                or (name in self._updates and self._updates[name].obeyed >= sequence)
                for name, sequence in wanted.items()
            )

        await wait_undisturbed(done)
        told = (self._updates[name] for name in wanted if name in self._updates)
        late = {canonical(name) for update in told for name in update.too_late}
        what = order.host if order.host is not None else f"wave {order.wave}"
        if canonical(what) in late:
            return self.answer(order, self._steered(f"too late: {what} had started"))
        return self.answer(order, self._steered(f"{what} is skipped"))

    def _asked(self, order: Order) -> verbs.Asked:
        if isinstance(order, Pause):
            return data.PauseRequested(after=order.after, cluster=order.cluster)
        if isinstance(order, Resume):
            return data.ResumeRequested(cluster=order.cluster)
        if isinstance(order, SetLimits):
            return data.LimitsRequested(policy=order.applied_to(self._state.policy))
        if isinstance(order, Skip):
            if order.host is None:
                return data.SkipRequested(cluster=order.cluster, wave=order.wave)
            if self.is_parked(order.host):
                return self._repair(order.host, "skip")
            return data.SkipRequested(
                cluster=self._cluster_of(order.host), hosts=frozenset({canonical(order.host)})
            )
        if isinstance(order, RepairOrder):
            how, step = _REPAIRS[type(order)], order.from_step if isinstance(order, Retry) else None
            return self._repair(order.host, how, step)
        assert isinstance(order, Abort)
        why = f": {order.reason}" if order.reason else ""
        return data.AbortRequested(reason=f"aborted by {order.by}{why}", now=order.now)

    def _repair(self, host: str, how: Repair, step: str | None = None) -> data.RepairRequested:
        cluster = self._cluster_of(host) or self._request.clusters[0]
        return data.RepairRequested(cluster=cluster, host=host, how=how, step=step)

    def _cluster_of(self, host: str) -> str | None:
        return self._where.get(canonical(host))

    def _steered(self, message: str) -> Steered:
        flying = (
            name
            for cluster, update in self._updates.items()
            if cluster not in self._reports  # what it told last is over
            for name in update.progress.in_flight
        )
        return Steered(
            phase=machine.shown_phase(self._state),
            message=message,
            waits_for=tuple(islice(flying, MAX_LISTED)),
        )

    def voted(self, gate: str, vote: VoteReport) -> None:
        """Takes a vote that counts into the audit."""
        what = f"{'approve' if vote.approve else 'reject'} gate {gate!r}"
        self._record(vote.by, what, vote.reason, machine.shown_phase(self._state), at=vote.at)

    def _record(
        self, by: str, what: str, reason: str, before: str, *, at: datetime | None = None
    ) -> None:
        self._audit_count += 1
        self._audit.append(
            AuditRecord(
                at=at or workflow.now(),
                by=by,
                what=what,
                reason=reason,
                before=before,
                after=machine.shown_phase(self._state),
            )
        )

    def explain(self) -> Explanation:
        """Why it waits, why it stopped, what would stop it next."""
        known = Known(
            gates=tuple(
                Gate(
                    gate=gate.gate,
                    approvers=gate.approvers,
                    approved_by=tuple(vote.by for vote in gate.votes if vote.approve),
                    rejected_by=tuple(vote.by for vote in gate.votes if not vote.approve),
                    quorum=gate.quorum,
                    deadline=gate.deadline,
                    outcome=gate.outcome,
                )
                for gate in self._gates.approvals().gates
                if gate.waiting or gate.outcome is not None
            ),
            work=tuple(self._work(name) for name in self._request.clusters),
            paused_by=self._paused_by(),
            window=self._window.reason if self._window is not None else "",
            short_of=self.report().summary
            if self._ended() and self._outcome() is Outcome.PARTIAL
            else "",
        )
        return Explanation(
            rollout=self._id,
            phase=machine.shown_phase(self._state),
            waits=why_it_waits(self._state, known),
            stopped=why_it_stopped(self._state, known),
            next=what_would_stop_it(self._state, known),
        )

    def _work(self, cluster: str) -> Work:
        """What a cluster said last of its own work."""
        update = self._updates.get(cluster)
        if update is None:
            return Work(cluster=cluster, phase="listing")
        progress = update.progress
        parked = len(update.parked) + update.repairs_waiting  # a message shows the last ones only
        return Work(
            cluster=cluster,
            phase=progress.phase,
            waits_for=progress.waits_for,
            in_flight=progress.hosts - sum(progress.counts.values()) - parked,
            parked=tuple(
                Parked(host=p.host, step=p.step, reason=p.reason, left_out=p.left_out)
                for p in progress.parked
            ),
            said_at=self._said_at[cluster],
            wave=update.wave,
            acted=update.wave_acted,
            failed=update.wave_failed,
            held=progress.left_out_of_service,
            stopped=progress.stopped,
        )

    def _paused_by(self) -> Mapping[str, str]:
        """Who paused what last, and why: the rollout (``""``), or a cluster."""
        found: dict[str, str] = {}
        for cluster in ("", *self._request.clusters):
            what = f"pause {f'cluster {cluster!r}' if cluster else 'the rollout'} "
            records = (each for each in reversed(self._audit) if each.what.startswith(what))
            for record in islice(records, 1):
                found[cluster] = f"{record.by}: {record.reason}" if record.reason else record.by
        return found

    def audit(self) -> AuditReport:
        """Decisions and accepted verbs, in order."""
        return AuditReport(records=tuple(self._audit), omitted=self._audit_count - len(self._audit))

    # Clusters

    async def _patch(self, cluster: str) -> None:
        report = await self._report_of(cluster)
        self._children.pop(cluster, None)
        self._reports[cluster] = report
        if report.outcome is Outcome.STOPPED:
            self._note_stop(cluster, report.reason)
        self.completed.append(f"cluster {cluster!r} {report.outcome.value}")
        counts = report.counts
        self._events.append(
            data.ClusterEnded(
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
                reported=cluster not in self._unreported,
            )
        )

    def _never_start(self, cluster: str) -> None:
        outcome, reason = Outcome.ABORTED, "the rollout was aborted before its hosts were listed"
        self._reports[cluster] = ClusterReport(cluster=cluster, outcome=outcome, reason=reason)
        self._events.append(data.ClusterEnded(cluster=cluster, outcome=outcome, reason=reason))

    async def _cancel(self, cluster: str, reason: str) -> None:
        # Not by the child's handle: that names its first run, and a cluster continues as new.
        child = workflow.get_external_workflow_handle(cluster_workflow_id(self._id, cluster))
        try:
            await child.cancel(reason=reason[:300])
        except FailureError as error:  # it has ended: its result is on the way
            workflow.logger.info("Cluster %s was not cancelled: %s", cluster, error)

    async def _report_of(self, cluster: str) -> ClusterReport:
        assert self._procedure is not None  # resolved before anything starts
        try:
            child = await workflow.start_child_workflow(
                self._procedure.cluster_workflow,
                ClusterRequest(
                    rollout=self._id,
                    cluster=cluster,
                    request=attrs.evolve(self._request, planned_hosts={}),
                    procedure=self._procedure,
                    planned_hosts=self._request.planned_hosts.get(cluster),
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
                self._start(self._cancel(cluster, self._aborting))
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
        update, first = self._updates.get(cluster), self._first.get(cluster)
        self._unreported.add(cluster)
        names = self._hosts.get(cluster, ())
        told = {each.host: each for each in update.progress.failures} if update else {}
        began = any(v.name == cluster and v.phase == "running" for v in self._state.clusters)
        rest = [name for name in names if name not in told]
        state = HostState.FAILED if began else HostState.NOT_STARTED
        lost = [each.host for each in told.values() if each.left_out is not None]
        lost += rest if began else []
        named = self._nameable(lost)
        if len(named) < len(lost):
            reason = f"{reason}; the state of {len(lost)} hosts is not known, not all can be named"
        some, omitted = listed(
            [
                *told.values(),
                *(
                    HostReport(
                        cluster=cluster,
                        host=name,
                        state=state,
                        reason=reason,
                        left_out=LOST if began else None,
                    )
                    for name in rest[:MAX_LISTED]
                ),
            ]
        )
        counts = Counter(each.state for each in told.values())
        counts[state] += len(rest)
        return ClusterReport(
            cluster=cluster,
            outcome=Outcome.STOPPED,
            reason=reason,
            counts=counts,
            hosts=some,
            hosts_omitted=omitted + len(rest[MAX_LISTED:]),
            left_out_of_service=named,
            digest=shown_fingerprint(update.digest) if update is not None else "",
            came_later=first.came_later if first is not None else (),
            came_later_omitted=first.came_later_omitted if first is not None else 0,
        )

    def _nameable(self, hosts: Sequence[str]) -> tuple[str, ...]:
        """As many of these as a report can name beside those that it names already."""
        left = plan_check.MAX_NAMES - sum(
            len(name) for each in self._reports.values() for name in each.left_out_of_service
        )
        ends = accumulate(map(len, hosts))
        return tuple(name for name, end in zip(hosts, ends, strict=True) if end <= left)

    def _order(self, cluster: str) -> None:
        """Replaces what the rollout wants of a cluster, and sends it."""
        state, last = self._state, self._orders.get(cluster)
        view = next(each for each in state.clusters if each.name == cluster)
        self._orders[cluster] = ClusterOrders(
            sequence=1 if last is None else last.sequence + 1,
            slots=view.slots,
            risk=view.risk,
            stop=view.stop,
            finishes=view.finishes,
            paused=machine.pause_of(state, view),
            kill=state.reason if state.aborting == "kill" else None,
            opened=tuple(sorted(view.opened)),
            window_open=machine.hosts_may_start(state),
            policy=None if state.policy == self._request.policy else state.policy,
            skip=tuple(sorted(view.skip)),
            skip_waves=tuple(sorted(view.skip_waves)),
            repairs=view.repairs,
            heard=self._heard.get(cluster, 0),
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
        if update.progress.stopped is not None:
            self._note_stop(cluster, update.progress.stopped)
        self._updates[cluster] = attrs.evolve(update, host_names=())
        self._said_at[cluster] = workflow.now()
        if update.host_names:
            self._hosts[cluster] = update.host_names
            self._where.update((canonical(name), cluster) for name in update.host_names)
        if last is None:
            self._first[cluster] = update
        if last is None and update.problem is not None:
            self._events.append(data.ClusterNotPlanned(cluster=cluster, problem=update.problem))
        elif last is None and update.planned:
            self._events.append(
                data.ClusterPlanned(
                    cluster=cluster,
                    hosts=update.host_names,
                    max_parallel=update.max_parallel,
                    named=update.named,
                    digest=self._digest(),
                )
            )
        knows = update.obeyed >= self._wanted(cluster)
        self._events.append(
            data.ClusterProgressed(
                cluster=cluster,
                acted=update.acted,
                failed=update.failed,
                unreachable=update.unreachable,
                stopped=update.progress.stopped,
                quiet=update.quiet and knows,
                at_gate=update.at_gate,
                needs=update.needs if update.planned else None,
                in_flight=update.in_flight if knows else None,
                parked=update.parked,
                repaired=update.repaired,
                repairs_waiting=update.repairs_waiting,
                waiting=update.waiting,
            )
        )
        if update.asks_pause is not None and update.asked_at > self._heard.get(cluster, 0):
            self._heard[cluster] = update.asked_at
            self._pause_for(cluster, update.asks_pause)
        # At once: a verb that comes in the same workflow task is judged by it. Who sees a parked host may answer.
        self._work_off()

    def _note_stop(self, cluster: str, why: str) -> None:
        """A cluster has stopped by itself. Why it was told to is in the audit already."""
        told = any(view.stop for view in self._state.clusters if view.name == cluster)
        if cluster not in self._stopped and not told and self._state.aborting is None:
            self._stopped.add(cluster)
            phase = machine.shown_phase(self._state)
            self._record(POLICY, f"cluster {cluster!r} stops", why, phase)

    def _wanted(self, cluster: str) -> int:
        orders = self._orders.get(cluster)
        return orders.sequence if orders is not None else 0

    def _pause_for(self, cluster: str, why: str) -> None:
        """A cluster needs a person: the rollout pauses by itself."""
        asked = data.PauseRequested(after="host")
        if verbs.why_refused(self._state, asked) is None:
            before = machine.shown_phase(self._state)
            self._events.append(asked)
            self._work_off()
            reason = f"cluster {cluster!r}: {why}"
            self._record(POLICY, verbs.said(asked, self._state.policy), reason, before)
            self._notify("paused", f"{self._id} is paused: {reason}")

    # What others are told

    def _note(self, before: data.RolloutState) -> None:
        now = self._state
        if is_full() and now.phase in ("listing", "gate", "running"):
            self._events.append(
                data.HistoryFull("its history is full: start another rollout for the rest")
            )
        if before.phase == "listing" and now.phase in ("gate", "running"):
            self.completed.append("plan complete")
        if now.outcome is Outcome.STOPPED and before.outcome is None:
            self.completed.append(f"stopped: {now.reason}")
            self._notify("stopped", f"{self._id} stopped: {now.reason}")
        shown = machine.shown_phase(before)
        for what, reason in self._decided(before, now):
            self._record(POLICY, what, reason, shown)

    def _decided(
        self, before: data.RolloutState, now: data.RolloutState
    ) -> Iterator[tuple[str, str]]:
        """What the rules have decided, and why, for the audit."""
        for gate in sorted(now.passed - before.passed):
            yield f"gate {gate!r} is passed", ""
        if now.window_open != before.window_open:
            reason = self._window.reason if self._window is not None else ""
            yield f"the maintenance windows are {'open' if now.window_open else 'closed'}", reason
        if START in before.passed - now.passed:
            yield f"gate {START!r} asks again", "its approval is too old"
        if now.phase != before.phase:
            yield _BECAME[now.phase], now.reason
        ring = grants.ring_of(now)[0]
        if ring != grants.ring_of(before)[0] and now.phase == "running":
            yield f"it is the turn of ring {ring}", f"ring {ring - 1} has ended"
        for gate in sorted(now.asked - before.asked - {START}):
            yield f"gate {gate!r} asks", ""
        for view, was in zip(now.clusters, before.clusters, strict=True):
            if view.stop is not None and was.stop is None and now.phase == "running":
                yield f"cluster {view.name!r} is stopped", view.stop

    def notify_gate(self, event: ApprovalEvent, gate: GateReport) -> None:
        """A gate asks, reminds or has expired."""
        kinds: Mapping[ApprovalEvent, NoticeKind] = {
            "requested": "approval_requested",
            "reminder": "approval_reminder",
            "expired": "approval_expired",
        }
        hosts = sum(view.hosts for view in self._state.clusters)
        some = f"{hosts} host{'' if hosts == 1 else 's'}"
        what = f"{self._id}: {some} in {', '.join(self._request.clusters)}"
        if event == "expired":
            text = f"{what}: gate {gate.gate!r} has expired"
        else:
            text = (
                f"{what}: gate {gate.gate!r} waits for {gate.quorum} of {', '.join(gate.approvers)}"
                f" (plan {gate.digest})"
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
            phase=machine.shown_phase(state),
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
            return _with_all_parked(update) if update is not None else ClusterProgress(cluster=name)
        failures = (HostState.FAILED, HostState.UNREACHABLE)
        return ClusterProgress(
            cluster=name,
            phase="ended",
            hosts=sum(report.counts.values()),
            counts=report.counts,
            failures=tuple(each for each in report.hosts if each.state in failures),
            stopped=None if report.outcome is Outcome.PARTIAL else report.reason or None,
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
        phase = machine.shown_phase(state)
        if phase == "ended":
            return ""
        if phase == "stopping":  # no vote and no window makes it start anything any more
            return f"clusters {', '.join(open_clusters)}" if open_clusters else ""
        if phase == "paused":
            by = self._paused_by().get("")
            return f"resume; paused by {by}" if by else "resume"
        if phase == "pausing":
            moving = [
                view.name for view in state.clusters if view.phase != "ended" and not view.quiet
            ]
            by = self._paused_by().get("")
            paused = f"; paused by {by}" if by else ""
            return f"hosts in flight in {', '.join(moving)}{paused}"
        gates = [gate for gate in self._gates.approvals().gates if gate.waiting]
        if gates:
            return "; ".join(
                f"approval of gate {gate.gate!r}: {sum(vote.approve for vote in gate.votes)} of "
                f"{gate.quorum} by {', '.join(gate.approvers)}"
                for gate in gates
            )
        if not state.window_open:
            return f"the next maintenance window: {self._window.reason if self._window else ''}"
        waits = [f"clusters {', '.join(open_clusters)}"] if open_clusters else []
        parked = sum(len(view.parked) for view in state.clusters)
        if parked:
            hosts = "1 parked host" if parked == 1 else f"{parked} parked hosts"
            waits.append(f"a person to retry, accept, restore or skip {hosts}")
        return "; ".join(waits)

    def _outcome(self) -> Outcome:
        if self._state.outcome is not None:
            return self._state.outcome
        outcomes = {report.outcome for report in self._reports.values()}
        return Outcome.PATCHED if outcomes == {Outcome.PATCHED} else Outcome.PARTIAL

    def _digest(self) -> str:
        """The fingerprint of what is done: hosts, steps, commands, policy. Empty until all lists are made."""
        if self._fingerprint:
            return self._fingerprint
        lists = {name: update.digest for name, update in self._updates.items()}
        if len(lists) < len(self._request.clusters) or not all(lists.values()):
            return ""
        asked = {
            name: value for name, value in to_json(self._request).items() if name not in _NO_WORK
        }
        self._fingerprint = fingerprint([lists, to_json(self._procedure), asked])
        return self._fingerprint

    def plan(self) -> RolloutPlan:
        """What it does, or would do."""
        request, steps = self._request, self._procedure.steps if self._procedure else ()
        gates, first = request.approvals, self._first
        rings = request.policy.rings or (request.clusters,)
        plans = [
            (
                name,
                cluster_plan(
                    request.policy, len(self._hosts.get(name, ())), gates=gated_waves(gates, name)
                ),
            )
            for name in request.clusters
        ]
        outlines, room = list[ClusterOutline](), MAX_LISTED
        for name, plan in plans:
            told = first.get(name)
            later = told.came_later if told is not None else ()
            some, room = later[:room], max(room - len(later), 0)
            outlines.append(
                ClusterOutline(
                    cluster=name,
                    ring=next(number for number, ring in enumerate(rings, start=1) if name in ring),
                    hosts=plan.hosts,
                    pilots=plan.pilots,
                    waves=wave_sizes(plan),
                    max_parallel=plan.max_parallel,
                    digest=shown_fingerprint(told.digest) if told is not None else "",
                    came_later=some,
                    came_later_omitted=len(later) - len(some) + told.came_later_omitted
                    if told is not None
                    else 0,
                    gone=told.gone if told is not None else 0,
                )
            )
        waves = {each.cluster: len(each.waves) for each in outlines}
        return RolloutPlan(
            rollout=self._id,
            request=request,
            digest=self._digest(),
            clusters=tuple(outlines),
            steps=tuple(step.name for step in steps),
            gates=gates_in_order(gates, rings, waves),
            windows=self._window.reason if self._window is not None else "",
            least_duration=least_duration(request.policy, plans),
            health=self._health(),
        )

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
        later = [name for each in reports for name in each.came_later]
        more_later = sum(each.came_later_omitted for each in reports)
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
                    came_later=len(each.came_later) + each.came_later_omitted,
                )
                for each in reports
            ),
            hosts=some,
            hosts_omitted=omitted + sum(each.hosts_omitted for each in reports),
            came_later=tuple(later[:MAX_LISTED]),
            came_later_omitted=len(later[MAX_LISTED:]) + more_later,
            left_out_of_service=tuple(
                name for each in reports for name in each.left_out_of_service
            ),
            health=self._health(),
            gates=self._gates.approvals().gates,
            digest=self._digest(),
            notices_failed=self._notices_failed(),
        )


def _with_all_parked(update: ClusterUpdate) -> ClusterProgress:
    """What a cluster told, with every parked host: a message gives the reasons of the last ones only."""
    progress = update.progress
    named = {canonical(each.host) for each in progress.parked}
    more = (
        ParkedHost(host=host, step=step)
        for host, step in update.parked.items()
        if host not in named
    )
    return attrs.evolve(progress, parked=(*progress.parked, *more))
