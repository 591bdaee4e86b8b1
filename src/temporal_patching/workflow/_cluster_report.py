"""How a cluster ended: what is kept of its hosts, and the report that is made of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from ..models import ClusterReport, HostReport, HostResult
from ..models._report import MAX_LISTED, rank
from ..policy import HostState, Outcome
from ..policy import _cluster as machine
from ..policy._plan import shown_fingerprint
from ..policy._states import FAILURES, SUCCESSES
from ..policy._tally import CODES
from ._listing import Listing


class KeptReports:
    """Reports of hosts that ended otherwise than patched: those that the cluster's report will list.

    No more, since they are carried over from run to run; beyond that the numbers say it.
    """

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self._kept: dict[int, HostReport] = {}

    def take_over(self, reports: Iterable[tuple[int, HostReport]]) -> None:
        """Knows what the run before this one knew."""
        self._kept = dict(reports)

    def keep(self, index: int, report: HostReport) -> None:
        """Keeps it, if the report will list it."""
        self._kept[index] = report
        if len(self._kept) > MAX_LISTED:
            last = max(self._kept, key=lambda index: (rank(self._kept[index]), index))
            del self._kept[last]

    def keep_result(self, index: int, host: str, result: HostResult) -> None:
        """Keeps how this host has ended."""
        self.keep(
            index,
            HostReport(
                cluster=self.cluster,
                host=host,
                state=result.state,
                reason=result.reason,
                left_out=result.left_out,
            ),
        )

    def __contains__(self, index: object) -> bool:
        return index in self._kept

    def failures(self) -> Iterator[HostReport]:
        """Those of hosts that failed, as they came."""
        return (each for each in self._kept.values() if each.state in FAILURES)

    def in_order(self) -> list[HostReport]:
        """All, in the list's order."""
        return [self._kept[index] for index in sorted(self._kept)]

    def ranked(self) -> list[HostReport]:
        """All, those first that are listed first."""
        return sorted(self._kept.values(), key=rank)


def cluster_report(
    state: machine.ClusterState,
    listing: Listing,
    reports: KeptReports,
    *,
    dry_run: bool,
    refused: bool,
    notices_failed: int,
) -> ClusterReport:
    """How the cluster ended.

    Args:
        state: The machine's state.
        listing: Its list.
        reports: What it keeps of its hosts.
        dry_run: Nothing was to be done.
        refused: Its list was.
        notices_failed: How many notices were not delivered.
    """
    some = sorted([*reports.in_order(), *_never_started(state, listing, reports)], key=rank)
    some = some[:MAX_LISTED]
    ends = [machine.host_state(state, index) for index in state.held]
    unpatched = len(listing.hosts) + sum(end in SUCCESSES for end in ends)
    unpatched -= sum(machine.counts(state).get(each, 0) for each in SUCCESSES)
    outcome = machine.outcome(state)
    if dry_run and outcome is Outcome.STOPPED and not refused:
        outcome = Outcome.PLANNED
    reason = state.stopped or ""
    if not reason and outcome is Outcome.PARTIAL:
        reason = "not every host is patched"
    return ClusterReport(
        cluster=reports.cluster,
        outcome=outcome,
        reason=reason,
        counts=machine.counts(state),
        hosts=tuple(some),
        hosts_omitted=unpatched - len(some),
        left_out_of_service=tuple(listing.hosts.names[index] for index in sorted(state.held)),
        waves=state.group.wave,
        digest=shown_fingerprint(listing.digest),
        came_later=listing.came_later[:MAX_LISTED],
        came_later_omitted=max(listing.came_later_count - MAX_LISTED, 0),
        notices_failed=notices_failed,
    )


def _never_started(
    state: machine.ClusterState, listing: Listing, reports: KeptReports
) -> Iterator[HostReport]:
    """Hosts that ended without having started, as many as a report could list."""
    why = {
        HostState.SKIPPED: "an operator skipped it",
        HostState.GONE: "it is in the plan, but list_hosts does not name it any more",
        HostState.NOT_STARTED: state.stopped or "",
    }
    for some in ((HostState.SKIPPED, HostState.GONE), (HostState.NOT_STARTED,)):
        codes = b"".join(CODES[each] for each in some)
        those = (
            index
            for index, code in enumerate(state.codes)
            if code in codes and index not in reports
        )
        for index in islice(those, MAX_LISTED):
            ended = machine.host_state(state, index)
            assert ended is not None  # nothing is in flight any more
            yield HostReport(
                cluster=reports.cluster,
                host=listing.hosts.names[index],
                state=ended,
                reason=why[ended],
            )
