"""How a rollout ended: its report, made of those of its clusters; and one for a cluster that has none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from temporalio.exceptions import FailureError

from ..models import ClusterReport, ClusterSummary, GateReport, HostReport, RolloutReport
from ..models._report import MAX_LISTED, HealthChecked, listed
from ..policy import HostState, Outcome
from ..policy import _plan_check as plan_check
from ..policy import _rollout_state as data
from ..policy._plan import shown_fingerprint
from ._cluster_told import ToldByClusters
from ._failures import root_text
from ._in_flight import LOST


def outcome_of(state: data.RolloutState, reports: Iterable[ClusterReport]) -> Outcome:
    """How it ended, or would if it ended now."""
    if state.outcome is not None:
        return state.outcome
    outcomes = {report.outcome for report in reports}
    return Outcome.PATCHED if outcomes == {Outcome.PATCHED} else Outcome.PARTIAL


def summed(counts: Iterable[Mapping[HostState, int]]) -> dict[HostState, int]:
    """The numbers of several clusters, added."""
    total: dict[HostState, int] = {}
    for each in counts:
        for state, number in each.items():
            total[state] = total.get(state, 0) + number
    return total


def rollout_report(
    rollout: str,
    state: data.RolloutState,
    reports: Sequence[ClusterReport],
    *,
    gates: tuple[GateReport, ...],
    digest: str,
    health: HealthChecked,
    notices_failed: int,
) -> RolloutReport:
    """How the rollout ended. ``reports``: of the clusters that have ended, in the request's order."""
    some, omitted = listed(host for each in reports for host in each.hosts)
    later = [name for each in reports for name in each.came_later]
    more_later = sum(each.came_later_omitted for each in reports)
    outcome, reason = outcome_of(state, reports), state.reason
    if not reason and outcome is Outcome.PARTIAL:
        reason = "not every host is patched"
    return RolloutReport(
        rollout=rollout,
        outcome=outcome,
        reason=reason,
        counts=summed(each.counts for each in reports),
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
        left_out_of_service=tuple(name for each in reports for name in each.left_out_of_service),
        health=health,
        gates=gates,
        digest=digest,
        notices_failed=notices_failed,
    )


def lost_report(
    cluster: str,
    error: FailureError,
    told: ToldByClusters,
    state: data.RolloutState,
    reports: Iterable[ClusterReport],
) -> ClusterReport:
    """A cluster that cannot say how it ended: what is not known to be well is not reported as well.

    Args:
        cluster: Which.
        error: How its workflow ended.
        told: What it has told.
        state: The rollout's.
        reports: Those of the other clusters: what they name leaves the less room.
    """
    reason = f"its workflow ended without a report: {root_text(error)}"
    update, first = told.newest(cluster), told.first(cluster)
    failures = {each.host: each for each in update.progress.failures} if update else {}
    began = any(v.name == cluster and v.phase == "running" for v in state.clusters)
    rest = [name for name in told.hosts(cluster) if name not in failures]
    unknown = HostState.FAILED if began else HostState.NOT_STARTED
    lost = [each.host for each in failures.values() if each.left_out is not None]
    lost += rest if began else []
    named = _nameable(lost, reports)
    if len(named) < len(lost):
        reason = f"{reason}; the state of {len(lost)} hosts is not known, not all can be named"
    some, omitted = listed(
        [
            *failures.values(),
            *(
                HostReport(
                    cluster=cluster,
                    host=name,
                    state=unknown,
                    reason=reason,
                    left_out=LOST if began else None,
                )
                for name in rest[:MAX_LISTED]
            ),
        ]
    )
    counts = Counter(each.state for each in failures.values())
    counts[unknown] += len(rest)
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


def _nameable(hosts: Sequence[str], reports: Iterable[ClusterReport]) -> tuple[str, ...]:
    """As many of these as a report can name beside those that it names already."""
    left = plan_check.MAX_NAMES - sum(
        len(name) for each in reports for name in each.left_out_of_service
    )
    ends = accumulate(map(len, hosts))
    return tuple(name for name, end in zip(hosts, ends, strict=True) if end <= left)
