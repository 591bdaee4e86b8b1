"""What people see of a cluster: where it is, what it waits for, its hosts page by page."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from ..models import ClusterProgress, HostsPage
from ..models._plan import PAGE
from ..models._report import MAX_LISTED
from ..policy import _cluster as machine
from ._cluster_report import KeptReports
from ._in_flight import HostsInFlight
from ._listing import Listing
from ._parked import ParkedHosts
from ._soak import group_of


def cluster_progress(
    state: machine.ClusterState,
    listing: Listing,
    in_flight: HostsInFlight,
    reports: KeptReports,
    parked: ParkedHosts,
    known_parked: frozenset[int],
    *,
    problem: str | None,
) -> ClusterProgress:
    """Where the cluster is.

    Args:
        state: The machine's state.
        listing: Its list.
        in_flight: The hosts that it works on.
        reports: What it keeps of those that have ended.
        parked: Where its parked hosts stand.
        known_parked: Those of them that can be asked for something.
        problem: What is wrong with its list.
    """
    phase = phase_of(state, frozen=listing.frozen)
    return ClusterProgress(
        cluster=reports.cluster,
        phase=phase,
        hosts=len(listing.hosts),
        counts=machine.counts(state),
        in_flight=tuple(listing.hosts.names[index] for index in islice(in_flight, MAX_LISTED)),
        waits_for=_waits_for(
            state, phase, flying=len(in_flight), busy=in_flight.busy, problem=problem
        ),
        failures=tuple(reports.failures())[:MAX_LISTED],
        stopped=state.stopped,
        left_out_of_service=len(state.held),
        parked=tuple(
            parked.shown(each for each in machine.unanswered(state) if each in known_parked)
        ),
    )


def phase_of(state: machine.ClusterState, *, frozen: bool) -> str:
    """What it does, in a word or two."""
    if state.ended:
        return "ended"
    if state.stopped is not None:
        return "stopping"
    if not frozen:
        return "listing"
    if state.paused is not None:
        return "paused" if machine.quiet(state) else "pausing"
    if state.slots == 0:
        return "waiting"
    if state.at_barrier is not None:
        return "soaking" if state.at_barrier == "soak" else "gate"
    if machine.only_parked(state):
        return "parked"
    return "pilots" if state.group.wave == 0 else f"wave {state.group.wave}"


def _waits_for(
    state: machine.ClusterState,
    phase: str,
    *,
    flying: int,
    busy: Iterable[str],
    problem: str | None,
) -> str:
    if phase == "waiting":
        return "the rollout's go"
    if phase == "listing":
        return problem or "list_hosts"
    if phase == "paused":
        still = len(state.halted)
        return "resume" + (f"; {still} hosts stand still" if still else "")
    if phase in ("soaking", "gate"):
        return f"{phase} before {group_of(state.group.wave + 1)}"
    if phase == "parked":
        parked = len(machine.unanswered(state))
        return f"{parked} parked host{'' if parked == 1 else 's'}: retry, accept, restore or skip"
    if not flying and not state.window_open:
        return "the next maintenance window"
    if not flying and machine.at_risk(state):
        return "its share of the total failure budget"
    flown = f"{flying} host{'' if flying == 1 else 's'} in flight" if flying else ""
    if state.draining:  # its history is long enough
        flown = f"{flown}; then it continues as new" if flown else "to continue as new"
    some = list(islice(busy, 3))
    return "; ".join([flown, *some]) if some else flown


def hosts_page(state: machine.ClusterState, listing: Listing, page: int) -> HostsPage:
    """A page of the frozen list, with what has become of each host so far."""
    first, end = page * PAGE, (page + 1) * PAGE
    return HostsPage(
        hosts=listing.hosts.names[first:end],
        codes=state.codes[first:end].decode() if listing.frozen else "",
        listed=listing.frozen,
        next_page=page + 1 if end < len(listing.hosts) else None,
    )
