"""One cluster as a state machine: which hosts may start now, and when to stop.

``decide(state, event) -> (state, commands)``. Pure. Hosts are numbers here, positions in the frozen
list; one byte each says what became of them, so that a state stays small for 50,000 hosts.

A cluster goes through its list in groups with a barrier between them: the pilots (wave 0), then waves
1, 2, …; inside a group at most ``max_parallel`` hosts slide through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import attrs

from ._rollout_policy import Allowed, ClusterPlan
from ._states import ACTED_ON, SUCCESSES, HostState, Outcome

CODES: Mapping[HostState, bytes] = {
    HostState.NOT_STARTED: b".",
    HostState.PATCHED: b"P",
    HostState.UNCHANGED: b"U",
    HostState.FAILED: b"F",
    HostState.UNREACHABLE: b"X",
    HostState.REBOOT_PENDING: b"B",
    HostState.SKIPPED: b"S",
    HostState.CANCELLED: b"C",
    HostState.GONE: b"G",
}
"""One byte a host. ``r`` stands for one in flight."""

IN_FLIGHT = b"r"
_STATES: Mapping[int, HostState] = {code[0]: state for state, code in CODES.items()}


@attrs.frozen(kw_only=True)
class Group:
    """The pilots or a wave: what has come of its hosts so far."""

    wave: int
    limit: int
    """How many hosts it may start. For pilots: how many must count."""
    started: int = 0
    counting: int = 0
    """Pilots that count: UNCHANGED ones are replaced by the next host."""
    acted: int = 0
    failed: int = 0
    unreachable: int = 0


@attrs.frozen(kw_only=True)
class ClusterState:
    """Where a cluster is."""

    plan: ClusterPlan
    codes: bytes
    group: Group
    next_host: int = 0
    in_flight: int = 0
    held: int = 0
    acted: int = 0
    failed: int = 0
    unreachable: int = 0
    slots: int | None = 0
    """How many may be in flight by the rollout's grant. 0: not yet. None: as many as the plan says."""
    stopped: str | None = None
    aborted: bool = False
    ended: bool = False


def cluster_state(plan: ClusterPlan) -> ClusterState:
    """A cluster whose list is frozen and of which nothing has started."""
    group = (
        Group(wave=0, limit=plan.pilots) if plan.pilots else Group(wave=1, limit=plan.wave_size(1))
    )
    return ClusterState(plan=plan, codes=CODES[HostState.NOT_STARTED] * plan.hosts, group=group)


# Events


@attrs.frozen
class SlotsGranted:
    """The rollout says how many hosts may be in flight. None: as many as the plan says."""

    slots: int | None


@attrs.frozen(kw_only=True)
class HostEnded:
    """A host has ended. ``why`` names it and what happened, for the reason of a stop."""

    host: int
    state: HostState
    left_out: bool = False
    why: str = ""


@attrs.frozen(kw_only=True)
class StopRequested:
    """Nothing new may start. ``cancel``: and the hosts in flight are cancelled."""

    reason: str
    cancel: bool = True
    aborted: bool = False


ClusterEvent: TypeAlias = SlotsGranted | HostEnded | StopRequested


# Commands


@attrs.frozen
class StartHost:
    """Start this host."""

    host: int


@attrs.frozen
class CancelHosts:
    """Cancel every host in flight."""

    reason: str


@attrs.frozen
class EndCluster:
    """Nothing is in flight and nothing may start."""


ClusterCommand: TypeAlias = StartHost | CancelHosts | EndCluster
Decision: TypeAlias = "tuple[ClusterState, tuple[ClusterCommand, ...]]"


def decide(state: ClusterState, event: ClusterEvent) -> Decision:
    """What follows from an event."""
    if state.ended:
        return state, ()
    return _DECIDE[type(event)](state, event)


def _slots_granted(state: ClusterState, event: SlotsGranted) -> Decision:
    return _fill(attrs.evolve(state, slots=event.slots))


def _stop_requested(state: ClusterState, event: StopRequested) -> Decision:
    if state.stopped is not None and not (event.aborted and not state.aborted):
        return state, ()  # it has stopped already; the first reason stays
    return _stop(
        attrs.evolve(state, aborted=state.aborted or event.aborted), event.reason, event.cancel
    )


def _host_ended(state: ClusterState, event: HostEnded) -> Decision:
    if state.codes[event.host : event.host + 1] != IN_FLIGHT:
        return state, ()  # told twice
    ended, group = event.state, state.group
    acted, failed = ended in ACTED_ON, ended is HostState.FAILED
    unreachable = ended is HostState.UNREACHABLE
    state = attrs.evolve(
        state,
        codes=_with(state.codes, event.host, CODES[ended]),
        in_flight=state.in_flight - 1,
        held=state.held + event.left_out,
        acted=state.acted + acted,
        failed=state.failed + failed,
        unreachable=state.unreachable + unreachable,
        group=attrs.evolve(
            group,
            counting=group.counting + acted,
            acted=group.acted + acted,
            failed=group.failed + failed,
            unreachable=group.unreachable + unreachable,
        ),
    )
    why = why_stop(state) if state.stopped is None else None
    if why is not None:
        return _stop(state, f"{why} ({event.why})" if event.why else why, _cancels(state))
    return _fill(state)


_DECIDE: Mapping[type, Callable[[ClusterState, Any], Decision]] = {
    SlotsGranted: _slots_granted,
    HostEnded: _host_ended,
    StopRequested: _stop_requested,
}


def why_stop(state: ClusterState) -> str | None:
    """Which failure budget the counts exceed, or None."""
    plan, group = state.plan, state.group
    if group.wave == 0:
        why = plan.pilot_budget.why_exceeded(
            failed=group.failed, unreachable=group.unreachable, sample=group.acted
        )
        if why is not None:
            return f"pilots: {why}"
    why = plan.budget.why_exceeded(
        failed=state.failed, unreachable=state.unreachable, sample=state.acted
    )
    if why is not None:
        return why
    group_ended = state.in_flight == 0 and not _room_in_group(state)
    failures = group.failed + group.unreachable
    budget = plan.budget if group.wave else plan.pilot_budget
    if (
        budget.stop_on_failed_wave
        and group_ended
        and group.started >= 2
        and failures == group.acted > 0
    ):
        which = f"host of wave {group.wave}" if group.wave else "pilot"
        return f"every {which} that was acted on failed"
    return None


def _stop(state: ClusterState, reason: str, cancel: bool) -> Decision:
    state = attrs.evolve(state, stopped=reason if state.stopped is None else state.stopped)
    if state.in_flight == 0:
        return attrs.evolve(state, ended=True), (EndCluster(),)
    return state, (CancelHosts(reason),) if cancel else ()


def _cancels(state: ClusterState) -> bool:
    return state.plan.in_flight == "cancel"


def _fill(state: ClusterState) -> Decision:
    """Starts as many hosts as may start now; ends the cluster where none may and none is in flight."""
    starts: list[ClusterCommand] = []
    codes = bytearray(state.codes)
    while state.stopped is None:
        state = _at_barrier(state)
        if not _may_start(state):
            break
        codes[state.next_host] = IN_FLIGHT[0]
        starts.append(StartHost(state.next_host))
        state = attrs.evolve(
            state,
            next_host=state.next_host + 1,
            in_flight=state.in_flight + 1,
            group=attrs.evolve(state.group, started=state.group.started + 1),
        )
    state = attrs.evolve(state, codes=bytes(codes))
    if state.in_flight or (state.stopped is None and state.slots == 0):
        return state, tuple(starts)
    if state.stopped is None and state.next_host < state.plan.hosts:
        state = attrs.evolve(state, stopped=_why_stuck(state))
    return attrs.evolve(state, ended=True), (EndCluster(),)


def _at_barrier(state: ClusterState) -> ClusterState:
    """Opens the next wave where the group before it has ended."""
    if state.in_flight or _room_in_group(state) or state.next_host >= state.plan.hosts:
        return state
    wave = state.group.wave + 1
    return attrs.evolve(state, group=Group(wave=wave, limit=state.plan.wave_size(wave)))


def _room_in_group(state: ClusterState) -> bool:
    group = state.group
    if state.next_host >= state.plan.hosts:
        return False
    if group.wave == 0:
        return group.counting + state.in_flight < group.limit
    return group.started < group.limit


def _may_start(state: ClusterState) -> bool:
    plan, in_flight = state.plan, state.in_flight
    if not _room_in_group(state):
        return False
    if in_flight >= plan.max_parallel or (state.slots is not None and in_flight >= state.slots):
        return False
    if in_flight + state.held >= plan.max_out_of_service:
        return False
    if state.group.wave == 0 and not _admits(plan.pilot_budget, state.group, in_flight):
        return False
    return _admits(plan.budget, state, in_flight)


def _admits(budget: Allowed, counts: ClusterState | Group, in_flight: int) -> bool:
    return budget.admits(
        failed=counts.failed,
        unreachable=counts.unreachable,
        in_flight=in_flight,
        sample=counts.acted,
    )


def _why_stuck(state: ClusterState) -> str:
    return (
        f"nothing may start: {state.held} held out of service, "
        f"max_out_of_service is {state.plan.max_out_of_service}"
    )


def _with(codes: bytes, host: int, code: bytes) -> bytes:
    return codes[:host] + code + codes[host + 1 :]


# What became of the cluster


def host_state(state: ClusterState, host: int) -> HostState | None:
    """The state of one host; None while it is in flight."""
    return _STATES.get(state.codes[host])


def counts(state: ClusterState) -> dict[HostState, int]:
    """How many hosts are in each state, those in flight aside. Only states that occur."""
    found = {each: state.codes.count(code) for each, code in CODES.items()}
    return {each: number for each, number in found.items() if number}


def outcome(state: ClusterState) -> Outcome:
    """How the cluster ended."""
    if state.aborted:
        return Outcome.ABORTED
    if state.stopped is not None:
        return Outcome.STOPPED
    succeeded = sum(state.codes.count(CODES[each]) for each in SUCCESSES)
    return Outcome.PATCHED if succeeded == len(state.codes) else Outcome.PARTIAL
