"""What one rollout knows and does: its clusters, its gate, what it reports."""

from __future__ import annotations

import asyncio
from itertools import islice

from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError

from ..models import (
    Abort,
    AuditReport,
    ClusterReport,
    Explanation,
    GateReport,
    Notice,
    PatchRequest,
    RolloutPlan,
    RolloutProgress,
    RolloutReport,
    Skip,
    Steered,
    VoteReport,
)
from ..models._orders import ClusterUpdate, ResolvedProcedure
from ..models._report import MAX_LISTED
from ..models._steering import Order
from ..policy import HostState, NoticeKind, Outcome
from ..policy import _rollout as machine
from ..policy import _rollout_state as data
from ..policy import _verbs as verbs
from ..policy._rules import canonical
from . import _steering as steering
from ._approval import ApprovalEvent, ApprovalMixin
from ._audit import POLICY, Audit, decided
from ._cluster_told import ToldByClusters, events_of
from ._clusters import Clusters
from ._failures import wait_undisturbed
from ._length import is_full
from ._loop import MachineLoop
from ._notices import Notices
from ._procedure import resolved
from ._rollout_gates import KINDS, RolloutGates, gate_said
from ._rollout_plan import health_of, plan_digest, rollout_plan
from ._rollout_report import lost_report, outcome_of, rollout_report
from ._rollout_shown import explained, rollout_progress, waits_for, where
from ._windows import WatchedWindows

MEMO = "progress"
"""Under this name the memo of a rollout's workflow says where it is, in one line for people."""

MEMO_LENGTH = 300
"""Characters of it."""


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
        self._procedure: ResolvedProcedure | None = None
        self._told = ToldByClusters(request.clusters)
        self._clusters = Clusters(self._id, request, start=self._start, heard=self._show)
        self._fingerprint = ""
        self._reports: dict[str, ClusterReport] = {}
        self._unreported: set[str] = set()
        """Clusters whose report is not their own: they ended without one."""
        self._stopped: set[str] = set()
        """Clusters that have stopped by themselves."""
        self._gates = RolloutGates(request.approvals, gates, start=self._start, digest=self._digest)
        self._windows = WatchedWindows(request.policy.windows, stale=self._gates.is_stale)
        self._answers = steering.Answers()
        self.accepted = 0
        """Verbs that it has taken."""
        self._audit = Audit()
        self._notices = Notices(notifies=False, kinds=())
        self._shown = (0, "")
        """The length of the history when it was shown last where it is, and what was shown."""
        self.beginning: asyncio.Task[None] | None = None
        """What runs before the hosts are listed."""
        self.completed: list[str] = []
        early = ((gate.gate, vote) for gate in self._gates.reports() for vote in gate.votes)
        for gate, vote in early:
            self.voted(gate, vote)

    async def resolve(self) -> None:
        """Asks which steps run, so that the answer is in history. Refuses what cannot run."""
        self._procedure = await resolved(self._request)
        self._notices = Notices(
            notifies=self._procedure.notifies and not self._request.dry_run,
            kinds=self._request.policy.notices,
            sent=self._show,
        )
        self.completed.append("procedure resolved")
        self._show()  # a hook may be next, which waits

    async def look(self) -> None:
        """Looks at the windows before hosts are listed: a plan that can never start is refused as a plan."""
        closed = await self._windows.look()
        if closed is not None:
            self._events.append(closed)

    # The loop

    async def go(self) -> None:
        """Waits for what happens, decides, and carries it out, until every cluster has ended."""
        self._obey_cancel()
        self._work_off()
        for cluster in self._request.clusters:
            if self._state.aborting is not None:
                self._never_start(cluster)
            else:
                self._clusters.add(cluster)
                self._start(self._patch(cluster))
        windows = self._request.policy.windows
        # Nothing follows a plan that is only shown: what holds now was looked at.
        watching = None
        if windows is not None and not self._request.dry_run:
            watching = self._start(self._windows.watch(windows, self._events.append))
        await self._run()
        self._gates.close_all()
        if watching is not None:
            watching.cancel()
        report = self.report()
        self._notify("finished", f"{self._id}: {report.summary}")
        await self._notices.drain()

    def _ended(self) -> bool:
        return self._state.phase == "ended"

    @property
    def aborted(self) -> bool:
        """Whether somebody has ended it."""
        return self._state.aborting is not None

    @property
    def ends_well(self) -> bool:
        """Whether it ends as completed, though it was not approved."""
        return self._gates.ends_well

    def _cancelled(self, reason: str) -> data.RolloutEvent:
        return data.AbortRequested(reason=f"aborted: {reason}" if reason else "aborted")

    def _carry_out(self, command: data.RolloutCommand) -> None:
        if isinstance(command, data.OpenGate):
            self._gates.open(command.gate, self._gate_ended)
        elif isinstance(command, data.CloseGate):
            self._gates.close(command.gate)
        elif isinstance(command, data.TellCluster):
            heard = self._told.heard(command.cluster)
            self._clusters.order(command.cluster, self._state, heard=heard)
        elif isinstance(command, data.CancelCluster):
            self._clusters.cancel(command.cluster, command.reason)

    def _gate_ended(self, event: data.GatePassed | data.GateShut) -> None:
        if isinstance(event, data.GatePassed):
            self.completed.append(f"gate {event.gate!r} passed")
        self._events.append(event)

    # Steering. A verb is decided in its handler, at once: two in one task would otherwise both be accepted.

    def answered(self, verb: verbs.Verb, operation: str) -> Steered | None:
        """What this operation was answered, if it was asked for before."""
        return self._answers.of(verb, operation)

    def why_full(self, verb: verbs.Verb) -> str | None:
        """Why it takes this verb no more, or None if it does."""
        events = workflow.info().get_current_history_length()
        return verbs.why_full(verb, accepted=self.accepted, events=events)

    def why_refused(self, order: Order) -> str | None:
        """Why this may not be done now, or None if it may."""
        steps = tuple(step.name for step in self._procedure.steps) if self._procedure else ()
        return steering.why_refused(order, self._state, self._told, steps=steps)

    def is_parked(self, host: str | None) -> bool:
        """Whether this host waits for a person, as far as its cluster has told."""
        return steering.is_parked(self._state, host)

    def steer(self, order: Order) -> Steered:
        """Does it, at once.

        Raises:
            ApplicationError: It is not legal any more. Type ``VerbRefused``.
        """
        self._work_off()
        why = self.why_refused(order)
        if why is not None:
            raise ApplicationError(why, type="VerbRefused", non_retryable=True)
        asked = steering.asked(order, self._state, self._told)
        said = verbs.said(asked, self._state.policy)
        recorded = self._record(order.by, said, order.reason)
        self._events.append(asked)
        self._work_off()
        # Before what the rules have decided upon it, if they have.
        self._audit.came_to(recorded, machine.shown_phase(self._state))
        if isinstance(order, Abort) and self.beginning is not None:
            self.beginning.cancel()  # a hook that waits: nothing has begun
        return self._answer(order, said)

    def _answer(self, order: Order, message: str) -> Steered:
        flying = (
            name
            for cluster, name in self._told.in_flight()
            if cluster not in self._reports  # what it told last is over
        )
        answer = Steered(
            phase=machine.shown_phase(self._state),
            message=message,
            waits_for=tuple(islice(flying, MAX_LISTED)),
        )
        if order.operation:
            verb = verbs.verb_of(steering.asked(order, self._state, self._told))
            self._answers.keep(verb, order.operation, answer)
        return answer

    async def skipped(self, order: Skip) -> Steered:
        """Waits until the clusters have done it, and says what became of it: what had started goes on."""
        # Of the clusters that it means: who was told nothing but a grant may be silent for long.
        meant = order.cluster if order.host is None else self._told.cluster_of(order.host)
        wanted = {
            name: sequence
            for name, sequence in self._clusters.wanted.items()
            if meant in (None, name)
        }

        def done() -> bool:
            return self._ended() or all(
                name not in self._clusters or self._told.obeyed(name) >= sequence
                for name, sequence in wanted.items()
            )

        await wait_undisturbed(done)
        told = (self._told.newest(name) for name in wanted)
        late = {canonical(name) for update in told if update for name in update.too_late}
        what = order.host if order.host is not None else f"wave {order.wave}"
        if canonical(what) in late:
            return self._answer(order, f"too late: {what} had started")
        return self._answer(order, f"{what} is skipped")

    def voted(self, gate: str, vote: VoteReport) -> None:
        """Takes a vote that counts into the audit."""
        what = f"{'approve' if vote.approve else 'reject'} gate {gate!r}"
        phase = machine.shown_phase(self._state)
        self._audit.record(vote.by, what, vote.reason, before=phase, after=phase, at=vote.at)

    def _record(self, by: str, what: str, reason: str, before: str | None = None) -> int:
        """``before``: the phase that was. Default: the phase that is."""
        after = machine.shown_phase(self._state)
        return self._audit.record(by, what, reason, before=before or after, after=after)

    # Clusters

    async def _patch(self, cluster: str) -> None:
        assert self._procedure is not None  # resolved before anything starts
        report = await self._clusters.report_of(cluster, self._procedure)
        if isinstance(report, FailureError):
            self._unreported.add(cluster)
            others = self._reports.values()
            report = lost_report(cluster, report, self._told, self._state, others)
        self._clusters.remove(cluster)
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

    def told(self, update: ClusterUpdate) -> None:
        """Takes up what a cluster tells."""
        if not self._told.take(update):
            return
        cluster = update.progress.cluster
        if update.progress.stopped is not None:
            self._note_stop(cluster, update.progress.stopped)
        first = self._told.first(cluster) is update
        wanted = self._clusters.wanted.get(cluster, 0)
        digest = self._digest() if first else ""
        self._events += events_of(update, first=first, digest=digest, wanted=wanted)
        pause = self._told.asks_pause(update)
        if pause is not None:
            self._pause_for(cluster, pause)
        # At once: a verb that comes in the same workflow task is judged by it. Who sees a parked host may answer.
        self._work_off()

    def _note_stop(self, cluster: str, why: str) -> None:
        """A cluster has stopped by itself. Why it was told to is in the audit already."""
        told = any(view.stop for view in self._state.clusters if view.name == cluster)
        if cluster not in self._stopped and not told and self._state.aborting is None:
            self._stopped.add(cluster)
            self._record(POLICY, f"cluster {cluster!r} stops", why)

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

    def _woke(self) -> None:
        self._show()

    def _show(self) -> None:
        """Says where it is, in the workflow's memo, and so leaves a command in this workflow task.

        A task without commands, whose next one brings a verb, is replayed in one with it, and then again
        as two: a rollout whose worker died in between would be stuck (temporalio/sdk-rust#1146).
        """
        text = self.report().summary if self._ended() else where(self._state)
        text = text[:MEMO_LENGTH]
        shown = (workflow.info().get_current_history_length(), text)
        if shown != self._shown:  # once a task, unless it has become something else
            self._shown = shown
            workflow.upsert_memo({MEMO: text})

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
        for what, reason in decided(before, now, window=self._windows.reason):
            self._record(POLICY, what, reason, shown)
        if machine.shown_phase(now) != shown:
            self._show()

    def notify_gate(self, event: ApprovalEvent, gate: GateReport) -> None:
        """A gate asks, reminds or has expired."""
        hosts = sum(view.hosts for view in self._state.clusters)
        some = f"{hosts} host{'' if hosts == 1 else 's'}"
        what = f"{self._id}: {some} in {', '.join(self._request.clusters)}"
        self._notify(KINDS[event], gate_said(event, gate, what), *gate.approvers)

    def _notify(self, kind: NoticeKind, text: str, *recipients: str) -> None:
        whom = recipients or (self._request.requester,)
        self._notices.send(Notice(kind=kind, text=text, rollout=self._id, recipients=whom))

    def _notices_failed(self) -> int:
        return self._notices.failed + sum(each.notices_failed for each in self._reports.values())

    def _digest(self) -> str:
        """The fingerprint of what is done. Empty until all lists are made."""
        if not self._fingerprint:
            self._fingerprint = plan_digest(self._request, self._procedure, self._told)
        return self._fingerprint

    def progress(self) -> RolloutProgress:
        """Where the rollout is."""
        gates = self._gates.reports()
        return rollout_progress(
            self._id,
            self._state,
            self._told,
            self._reports,
            waits_for=waits_for(
                self._state,
                resolved=self._procedure is not None,
                paused_by=self._audit.paused_by(()).get(""),
                gates=gates,
                window=self._windows.reason,
            ),
            gates=gates,
            digest=self._digest(),
            health=health_of(self._procedure),
            notices_failed=self._notices_failed(),
        )

    def explain(self) -> Explanation:
        """Why it waits, why it stopped, what would stop it next."""
        outcome = outcome_of(self._state, self._reports.values())
        return explained(
            self._id,
            self._state,
            self._told,
            gates=self._gates.reports(),
            paused_by=self._audit.paused_by(self._request.clusters),
            window=self._windows.reason,
            short_of=self.report().summary if self._ended() and outcome is Outcome.PARTIAL else "",
        )

    def audit(self) -> AuditReport:
        """Decisions and accepted verbs, in order."""
        return self._audit.report()

    def plan(self) -> RolloutPlan:
        """What it does, or would do."""
        return rollout_plan(
            self._id,
            self._request,
            self._procedure,
            self._told,
            digest=self._digest(),
            windows=self._windows.reason,
        )

    def report(self) -> RolloutReport:
        """How the rollout ended."""
        return rollout_report(
            self._id,
            self._state,
            [self._reports[name] for name in self._request.clusters if name in self._reports],
            gates=self._gates.reports(),
            digest=self._digest(),
            health=health_of(self._procedure),
            notices_failed=self._notices_failed(),
        )
