"""What people see of a rollout: where it is, what it waits for, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..models import ClusterProgress, ClusterReport, Explanation, GateReport, RolloutProgress
from ..models._report import HealthChecked
from ..policy import HostState, Outcome
from ..policy import _rollout as machine
from ..policy import _rollout_state as data
from ..policy._explain import (
    Gate,
    Known,
    Parked,
    Work,
    what_would_stop_it,
    why_it_stopped,
    why_it_waits,
)
from ._cluster_told import ToldByClusters
from ._rollout_report import outcome_of, summed


def rollout_progress(
    rollout: str,
    state: data.RolloutState,
    told: ToldByClusters,
    reports: Mapping[str, ClusterReport],
    *,
    waits_for: str,
    gates: tuple[GateReport, ...],
    digest: str,
    health: HealthChecked,
    notices_failed: int,
) -> RolloutProgress:
    """Where the rollout is. ``reports``: of the clusters that have ended."""
    clusters = tuple(_cluster(view.name, told, reports) for view in state.clusters)
    ended = state.phase == "ended"
    return RolloutProgress(
        rollout=rollout,
        phase=machine.shown_phase(state),
        waits_for=waits_for,
        hosts=sum(view.hosts for view in state.clusters),
        counts=summed(each.counts for each in clusters),
        clusters=clusters,
        gates=gates,
        outcome=outcome_of(state, reports.values()) if ended else None,
        reason=state.reason,
        notices_failed=notices_failed,
        digest=digest,
        health=health,
    )


def _cluster(
    name: str, told: ToldByClusters, reports: Mapping[str, ClusterReport]
) -> ClusterProgress:
    report = reports.get(name)
    if report is None:
        return told.progress(name)
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


def where(state: data.RolloutState) -> str:
    """Where it is, in one line that hosts do not change."""
    ended, clusters = sum(view.phase == "ended" for view in state.clusters), len(state.clusters)
    some = f"{ended} of {clusters} clusters" if clusters > 1 else f"{ended} of 1 cluster"
    return f"{machine.shown_phase(state)}, {some} ended"


def waits_for(
    state: data.RolloutState,
    *,
    resolved: bool,
    paused_by: str | None,
    gates: Sequence[GateReport],
    window: str,
) -> str:
    """What it waits for.

    Args:
        state: The machine's state.
        resolved: Whether it is known which steps run.
        paused_by: Who has paused the rollout, and why.
        gates: How each gate stands.
        window: Why the maintenance windows are open or closed.
    """
    open_clusters = [view.name for view in state.clusters if view.phase != "ended"]
    if not resolved:
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
        return f"resume; paused by {paused_by}" if paused_by else "resume"
    if phase == "pausing":
        moving = [view.name for view in state.clusters if view.phase != "ended" and not view.quiet]
        paused = f"; paused by {paused_by}" if paused_by else ""
        return f"hosts in flight in {', '.join(moving)}{paused}"
    waiting = [gate for gate in gates if gate.waiting]
    if waiting:
        return "; ".join(
            f"approval of gate {gate.gate!r}: {sum(vote.approve for vote in gate.votes)} of "
            f"{gate.quorum} by {', '.join(gate.approvers)}"
            for gate in waiting
        )
    if not state.window_open:
        return f"the next maintenance window: {window}"
    waits = [f"clusters {', '.join(open_clusters)}"] if open_clusters else []
    parked = sum(len(view.parked) for view in state.clusters)
    if parked:
        hosts = "1 parked host" if parked == 1 else f"{parked} parked hosts"
        waits.append(f"a person to retry, accept, restore or skip {hosts}")
    return "; ".join(waits)


def explained(
    rollout: str,
    state: data.RolloutState,
    told: ToldByClusters,
    *,
    gates: Sequence[GateReport],
    paused_by: Mapping[str, str],
    window: str,
    short_of: str,
) -> Explanation:
    """Why it waits, why it stopped, what would stop it next. ``short_of``: what it has not reached."""
    known = Known(
        gates=tuple(_gate(each) for each in gates if each.waiting or each.outcome is not None),
        work=tuple(_work(view.name, told) for view in state.clusters),
        paused_by=paused_by,
        window=window,
        short_of=short_of,
    )
    return Explanation(
        rollout=rollout,
        phase=machine.shown_phase(state),
        waits=why_it_waits(state, known),
        stopped=why_it_stopped(state, known),
        next=what_would_stop_it(state, known),
    )


def _gate(gate: GateReport) -> Gate:
    return Gate(
        gate=gate.gate,
        approvers=gate.approvers,
        approved_by=tuple(vote.by for vote in gate.votes if vote.approve),
        rejected_by=tuple(vote.by for vote in gate.votes if not vote.approve),
        quorum=gate.quorum,
        deadline=gate.deadline,
        outcome=gate.outcome,
    )


def _work(cluster: str, told: ToldByClusters) -> Work:
    """What a cluster said last of its own work."""
    update = told.newest(cluster)
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
        said_at=told.said_at(cluster),
        wave=update.wave,
        acted=update.wave_acted,
        failed=update.wave_failed,
        held=progress.left_out_of_service,
        stopped=progress.stopped,
    )
