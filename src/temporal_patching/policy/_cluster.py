"""One cluster as a state machine: which hosts may start now, and when to stop.

``decide(state, event) -> (state, commands)``. Pure. Hosts are numbers here, positions in the frozen
list; one byte each says what became of them, so that a state stays small for 50,000 hosts.

A cluster goes through its list in groups with a barrier between them: the pilots (wave 0), then waves
1, 2, …; inside a group at most ``max_parallel`` hosts slide through. At a barrier it soaks, where the
policy says so, and then waits at the gate before the next wave, where there is one.

A host that failed may be parked. It has ended for every count and barrier, until a person says what is to
be done with it: then it is in flight again. The cluster does not end before somebody has said so, but
where it stops by itself or is stopped: then every parked host is given back.

A cluster whose history is long enough drains: nothing starts until what is in flight has ended. Then its
state is carried over into another run, and it goes on from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import attrs

from ._evolve import evolve
from ._repair import MAX_PARKED, Repair
from ._rollout_policy import Allowed, ClusterPlan
from ._states import FAILURES, SUCCESSES, HostState, Outcome
from ._tally import (
    CODES,
    Group,
    Tally,
    ended,
    flies,
    given_up,
    many_out_of_service,
    out_of_service,
    put_back,
    repaired,
    started,
)

PauseAfter = Literal["host", "step"]
"""What a pause lets end: each host in flight (``"host"``), or only the step that it is at (``"step"``)."""

_STATES: Mapping[int, HostState] = {code[0]: state for state, code in CODES.items()}


@attrs.frozen(kw_only=True, slots=False)
class ClusterState(Tally):
    """Where a cluster is."""

    plan: ClusterPlan
    slots: int | None = 0
    """How many may be in flight by the rollout's grant. 0: not yet. None: as many as the plan says."""
    risk: int | None = None
    """How many of its hosts may have failed or be in flight, by the rollout's grant. None: no such limit."""
    at_barrier: Literal["soak", "gate"] | None = None
    """What it waits for before the next wave."""
    soaked: bool = False
    opened: frozenset[int] = frozenset()
    """Waves whose gate is passed."""
    skip_waves: frozenset[int] = frozenset()
    window_open: bool = True
    paused: PauseAfter | None = None
    halted: frozenset[int] = frozenset()
    """Hosts in flight that stand still, at a point where standing still is safe."""
    hearing: bool = False
    """It takes up orders, and starts nothing before it has heard them all."""
    repairs: tuple[RepairHost, ...] = ()
    """What people asked for parked hosts, and has not begun yet."""
    repaired: int = 0
    """The number of the last repair that it has taken up."""
    draining: bool = False
    """Nothing starts before what is in flight has ended and another run has taken over."""
    stopped: str | None = None
    aborted: bool = False
    ended: bool = False


def cluster_state(plan: ClusterPlan, gone: frozenset[int] = frozenset()) -> ClusterState:
    """A cluster whose list is frozen and of which nothing has started. ``gone``: hosts that are not there."""
    group = (
        Group(wave=0, limit=plan.pilots) if plan.pilots else Group(wave=1, limit=plan.wave_size(1))
    )
    codes = (
        HostState.GONE if host in gone else HostState.NOT_STARTED for host in range(plan.hosts)
    )
    return ClusterState(plan=plan, codes=b"".join(CODES[each] for each in codes), group=group)


# Events


@attrs.frozen
class SlotsGranted:
    """The rollout says how many hosts may be in flight. None: as many as the plan says.

    ``risk``: and how many may be in flight or have failed, together.
    """

    slots: int | None
    risk: int | None = None


@attrs.frozen(kw_only=True)
class HostEnded:
    """A host has ended. ``why`` names it and what happened, for the reason of a stop.

    ``parked``: it has failed and can be gone on with; ``state`` is what it counts as.
    """

    host: int
    state: HostState
    left_out: bool = False
    parked: bool = False
    why: str = ""


@attrs.frozen
class HostPutBack:
    """A host in flight has not begun: when it could have, no host might start any more. It waits again."""

    host: int


@attrs.frozen(kw_only=True)
class StopRequested:
    """Nothing new may start. ``cancel``: and the hosts in flight are cancelled."""

    reason: str
    cancel: bool = True
    aborted: bool = False


@attrs.frozen
class PauseChanged:
    """Nothing new may start, until it changes to None."""

    after: PauseAfter | None


@attrs.frozen(kw_only=True)
class HostHalted:
    """A host in flight stands still, or goes on."""

    host: int
    halted: bool


@attrs.frozen
class SoakEnded:
    """The soak after a group is over, and nothing spoke against going on."""


@attrs.frozen
class WavesOpened:
    """The gates before these waves are passed."""

    waves: frozenset[int]


@attrs.frozen
class WindowChanged:
    """Hosts may start now, or may not."""

    open: bool


@attrs.frozen
class LimitsChanged:
    """The policy is another one: how many at once, how many may fail. The hosts and waves stay."""

    plan: ClusterPlan


@attrs.frozen(kw_only=True)
class Skipped:
    """These hosts, and the hosts of these waves, are not to be started. Those that have started go on."""

    hosts: frozenset[int] = frozenset()
    waves: frozenset[int] = frozenset()


@attrs.frozen(kw_only=True)
class RepairAsked:
    """A person says what is to be done with a parked host. ``number``: it is news only if this is higher."""

    number: int
    host: int
    how: Repair
    step: str | None = None


@attrs.frozen
class DrainRequested:
    """The history is long enough: nothing new may start before another run has taken over."""


@attrs.frozen
class DrainEnded:
    """Another run has taken over, or the one that drained goes on after all."""


@attrs.frozen
class Ordered:
    """All that the rollout wants, taken up at once: a resume starts nothing if the window is closed."""

    events: tuple[ClusterEvent, ...]


ClusterEvent: TypeAlias = (
    SlotsGranted
    | Ordered
    | HostEnded
    | HostPutBack
    | StopRequested
    | SoakEnded
    | WavesOpened
    | WindowChanged
    | PauseChanged
    | HostHalted
    | LimitsChanged
    | Skipped
    | RepairAsked
    | DrainRequested
    | DrainEnded
)


# Commands


@attrs.frozen
class StartHost:
    """Start this host."""

    host: int


@attrs.frozen
class RepairHost:
    """Go on with this parked host. ``step``: where a retry begins; None: at the step that failed."""

    host: int
    how: Repair
    step: str | None = None


@attrs.frozen
class CancelHosts:
    """Cancel every host in flight."""

    reason: str


@attrs.frozen
class HaltHosts:
    """Tell the hosts in flight to stand still at the next safe point, or to go on."""

    halt: bool


@attrs.frozen
class BeginSoak:
    """Wait, and look at the fleet: the group of this number has ended."""

    wave: int


@attrs.frozen
class AskGate:
    """Ask for the gate before this wave."""

    wave: int


@attrs.frozen
class EndCluster:
    """Nothing is in flight and nothing may start."""


ClusterCommand: TypeAlias = (
    StartHost | RepairHost | CancelHosts | HaltHosts | BeginSoak | AskGate | EndCluster
)
Decision: TypeAlias = "tuple[ClusterState, tuple[ClusterCommand, ...]]"


def decide(state: ClusterState, event: ClusterEvent) -> Decision:
    """What follows from an event."""
    if state.ended:
        return state, ()
    return _DECIDE[type(event)](state, event)


def _ordered(state: ClusterState, event: Ordered) -> Decision:
    commands: list[ClusterCommand] = []
    state = evolve(state, hearing=True)
    for each in event.events:
        state, more = decide(state, each)
        commands += more
    state = evolve(state, hearing=False)
    if not state.ended:
        state, more = _fill(state)
        commands += more
    return state, tuple(commands)


def _slots_granted(state: ClusterState, event: SlotsGranted) -> Decision:
    return _fill(evolve(state, slots=event.slots, risk=event.risk))


def _stop_requested(state: ClusterState, event: StopRequested) -> Decision:
    if state.stopped is not None and not (event.aborted and not state.aborted):
        return state, ()  # it has stopped already; the first reason stays
    return _stop(evolve(state, aborted=state.aborted or event.aborted), event.reason, event.cancel)


def _host_ended(state: ClusterState, event: HostEnded) -> Decision:
    if not flies(state, event.host):
        return state, ()  # told twice
    parked = event.parked and event.state in FAILURES
    state = ended(state, event.host, event.state, left_out=event.left_out, parked=parked)
    state = evolve(state, halted=state.halted - {event.host})
    if parked and len(state.parked) > MAX_PARKED:
        one_too_many = RepairHost(event.host, "restore")
        state = evolve(state, repairs=(*state.repairs, one_too_many))
    why = why_stop(state) if state.stopped is None else None
    if why is not None:
        return _stop(state, f"{why} ({event.why})" if event.why else why, _cancels(state))
    return _fill(state)


def _host_put_back(state: ClusterState, event: HostPutBack) -> Decision:
    if not flies(state, event.host) or event.host in state.repairing:
        return state, ()
    return _fill(put_back(state, event.host))


def _soak_ended(state: ClusterState, event: SoakEnded) -> Decision:
    if state.at_barrier != "soak":
        return state, ()
    return _fill(evolve(state, at_barrier=None, soaked=True))


def _waves_opened(state: ClusterState, event: WavesOpened) -> Decision:
    state = evolve(state, opened=state.opened | event.waves)
    if state.at_barrier != "gate" or state.group.wave + 1 not in state.opened:
        return state, ()
    return _fill(evolve(state, at_barrier=None))


def _window_changed(state: ClusterState, event: WindowChanged) -> Decision:
    return _fill(evolve(state, window_open=event.open))


def _pause_changed(state: ClusterState, event: PauseChanged) -> Decision:
    before = state.paused
    if event.after == before or state.stopped is not None:
        return state, ()  # one that stops is on its way out: nobody would tell it to go on
    state = evolve(state, paused=event.after)
    if (event.after == "step") == (before == "step"):
        return _fill(state)
    # Whoever stands still says so again: what was said before was about another order.
    state, commands = _fill(evolve(state, halted=frozenset()))
    return state, (*commands, HaltHosts(halt=event.after == "step"))


def _host_halted(state: ClusterState, event: HostHalted) -> Decision:
    if not flies(state, event.host):
        return state, ()
    halted = state.halted | {event.host} if event.halted else state.halted - {event.host}
    return evolve(state, halted=halted), ()


def limited(plan: ClusterPlan, to: ClusterPlan) -> ClusterPlan:
    """The plan with other limits. Its hosts and waves stay."""
    return attrs.evolve(
        plan,
        max_parallel=to.max_parallel,
        max_out_of_service=to.max_out_of_service,
        budget=to.budget,
        pilot_budget=to.pilot_budget,
    )


def _limits_changed(state: ClusterState, event: LimitsChanged) -> Decision:
    state = evolve(state, plan=limited(state.plan, event.plan))
    why = why_stop(state) if state.stopped is None else None
    return _stop(state, why, _cancels(state)) if why is not None else _fill(state)


def _skipped(state: ClusterState, event: Skipped) -> Decision:
    codes = bytearray(state.codes)
    for host in event.hosts:
        if state.codes[host : host + 1] == CODES[HostState.NOT_STARTED]:
            codes[host] = CODES[HostState.SKIPPED][0]
    new, wave = event.waves - state.skip_waves, state.group.wave
    state = evolve(state, codes=bytes(codes), skip_waves=state.skip_waves | new)
    if wave in new and not wave_begun(state, wave):
        state = _without_wave(state, wave)
    if state.at_barrier == "gate" and not _behind_gate(state, wave + 1):
        state = evolve(state, at_barrier=None)  # nothing that it waits for comes
    return _fill(state)


def _repair_asked(state: ClusterState, event: RepairAsked) -> Decision:
    if event.number <= state.repaired:
        return state, ()  # told twice
    state = evolve(state, repaired=event.number)
    if event.host not in unanswered(state):
        return state, ()  # a stop was faster
    if event.how == "skip":
        return _fill(given_up(state, event.host))
    repair = RepairHost(event.host, event.how, event.step)
    return _fill(evolve(state, repairs=(*state.repairs, repair)))


def _drain_requested(state: ClusterState, event: DrainRequested) -> Decision:
    if state.stopped is not None:
        return state, ()  # it is on its way out
    return evolve(state, draining=True), ()


def _drain_ended(state: ClusterState, event: DrainEnded) -> Decision:
    return _fill(evolve(state, draining=False)) if state.draining else (state, ())


_DECIDE: Mapping[type, Callable[[ClusterState, Any], Decision]] = {
    SlotsGranted: _slots_granted,
    Ordered: _ordered,
    HostEnded: _host_ended,
    HostPutBack: _host_put_back,
    StopRequested: _stop_requested,
    SoakEnded: _soak_ended,
    WavesOpened: _waves_opened,
    WindowChanged: _window_changed,
    PauseChanged: _pause_changed,
    HostHalted: _host_halted,
    LimitsChanged: _limits_changed,
    Skipped: _skipped,
    RepairAsked: _repair_asked,
    DrainRequested: _drain_requested,
    DrainEnded: _drain_ended,
}


def may_begin(state: ClusterState) -> bool:
    """Whether a host in flight that had to wait may still begin. That it drains is no matter: it waits for it."""
    return state.stopped is None and state.paused is None and state.window_open


def wave_begun(state: ClusterState, wave: int) -> bool:
    """Whether a host of this wave, or of one after it, has started: it is too late to skip it."""
    group = state.group
    return wave < group.wave or (wave == group.wave and group.started > 0)


def quiet(state: ClusterState) -> bool:
    """Whether a paused cluster has come to rest: what is in flight stands still."""
    return state.paused is not None and state.in_flight == len(state.halted)


def unanswered(state: ClusterState) -> tuple[int, ...]:
    """The parked hosts that wait for a person, in the order of the list."""
    asked = {repair.host for repair in state.repairs}
    return tuple(sorted(host for host in state.parked if host not in asked))


def only_parked(state: ClusterState) -> bool:
    """Whether nothing more can start before a person says what is to be done with a parked host."""
    if state.in_flight or state.repairs or not state.parked:
        return False
    room = many_out_of_service(state) < state.plan.max_out_of_service and _pick(state) is not None
    return not (_left(state) and room)


def drained(state: ClusterState) -> bool:
    """Whether a cluster that drains has come to rest: another run may take over."""
    return state.draining and state.in_flight == 0 and not state.ended


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
    stand_still = state.paused == "step"
    state = evolve(
        state,
        stopped=reason if state.stopped is None else state.stopped,
        paused=None,  # nobody resumes what stops: its hosts would stand still for ever
        halted=frozenset(),
        draining=False,
    )
    commands: list[ClusterCommand] = []
    if state.in_flight and cancel:
        commands.append(CancelHosts(reason))
    elif stand_still and (state.in_flight or state.parked):
        commands.append(HaltHosts(halt=False))
    state, more = _fill(state)
    return state, (*commands, *more)


def _cancels(state: ClusterState) -> bool:
    return state.plan.in_flight == "cancel"


def _fill(state: ClusterState) -> Decision:
    """Starts as many hosts as may start now; ends the cluster where none may and none is in flight."""
    if state.hearing:
        return state, ()
    state, repairs = _begin_repairs(state)
    commands = list(repairs)
    while state.stopped is None:
        state, asked = _at_barrier(state)
        commands.extend(asked)
        host = _pick(state) if _may_start(state) else None
        if host is None:
            break
        commands.append(StartHost(host))
        state = started(state, host)
    if state.in_flight or (state.stopped is None and _waits(state)):
        return state, tuple(commands)
    if state.stopped is None and _more_to_do(state):
        state, more = _stop(state, _why_stuck(state), cancel=False)
        return state, (*commands, *more)
    return evolve(state, ended=True), (*commands, EndCluster())


def _begin_repairs(state: ClusterState) -> Decision:
    """Goes on with the parked hosts for which somebody asked: with each, or where hosts may start.

    To give a host back needs neither room nor an open window. In a cluster that stops nobody is asked any
    more: each is given back.
    """
    if state.stopped is not None:
        restores = (RepairHost(host, "restore") for host in sorted(state.parked))
        state = evolve(state, repairs=tuple(restores))
    begun, waiting = list[RepairHost](), list[RepairHost]()
    for repair in state.repairs:
        begins = repair.how == "restore" or _may_go_on(state, repair.host)
        if begins and not state.draining:
            begun.append(repair)
            state = repaired(state, repair.host)
        else:
            waiting.append(repair)
    return evolve(state, repairs=tuple(waiting)), tuple(begun)


def _waits(state: ClusterState) -> bool:
    """Whether something from outside is still to come: the rollout's word, a person's, a clock's."""
    more = _more_to_do(state)
    if unanswered(state):
        return True
    if state.slots == 0 and (more or not wave_begun(state, 0 if state.plan.pilots else 1)):
        return True
    if state.draining or state.paused is not None or not state.window_open:
        return more
    if not _left(state):
        return False
    return state.at_barrier is not None or (at_risk(state) and _has_room(state))


def _more_to_do(state: ClusterState) -> bool:
    return bool(state.repairs) or _left(state)


def at_risk(state: ClusterState) -> bool:
    """Whether the next host could be one failure more than the rollout's share allows."""
    return (
        state.risk is not None and state.in_flight + state.failed + state.unreachable >= state.risk
    )


def _left(state: ClusterState) -> bool:
    return CODES[HostState.NOT_STARTED] in state.codes


def needs(state: ClusterState) -> int:
    """How many slots it can use at most from now on: hosts in flight, and hosts that may be yet, parked ones too.

    It never rises: what a cluster has said that it does not need may be given to another at once.
    """
    may_start = state.codes.count(CODES[HostState.NOT_STARTED]) if state.stopped is None else 0
    return state.in_flight + may_start + len(state.parked)


@attrs.frozen(kw_only=True)
class Told:
    """What a cluster has said last of the slots that it uses."""

    needs: int
    in_flight: int
    lost: int
    """How many had failed or were in flight."""

    @classmethod
    def of(cls, state: ClusterState) -> Told:
        """What it would say now."""
        lost = state.in_flight + state.failed + state.unreachable
        return cls(needs=needs(state), in_flight=state.in_flight, lost=lost)


def gives_way(before: ClusterState, state: ClusterState, told: Told | None) -> bool:
    """Whether another may get what it has just given up, since its grant has become smaller.

    Args:
        before: The cluster before what happened.
        state: The cluster.
        told: What it said last. None: it has not said anything yet.
    """
    if _less(state.slots, before.slots) or _less(state.risk, before.risk):
        return True
    if told is None:
        return False
    now = Told.of(state)
    return (_less(state.slots, told.in_flight) and now.in_flight < told.in_flight) or (
        _less(state.risk, told.lost) and now.lost < told.lost
    )


def _less(limit: int | None, than: int | None) -> bool:
    return limit is not None and (than is None or limit < than)


def gives_back(state: ClusterState, told: Told | None) -> bool:
    """Whether it needs so much less than the rollout counts for it that it is worth a message.

    At its end a cluster has fewer hosts left than slots. Each success then frees one; of many slots not each is
    worth a message, since a rollout's history has to hold those of all its clusters.

    Args:
        state: The cluster.
        told: What it said last. None: it has not said anything yet.
    """
    if state.slots is None:
        return False
    counted = state.slots if told is None else min(state.slots, told.needs)
    return counted - needs(state) >= max(counted // 8, 1)


def _pick(state: ClusterState) -> int | None:
    """The next host: the first in the list that may be out of service beside those that are out."""
    plan, waiting = state.plan, CODES[HostState.NOT_STARTED]
    host = state.codes.find(waiting)
    if plan.max_per_domain is None:
        return host if host >= 0 else None
    out = Counter(plan.domains[each] for each in out_of_service(state))
    while host >= 0:
        if out[plan.domains[host]] < plan.max_per_domain:
            return host
        host = state.codes.find(waiting, host + 1)
    return None


def _at_barrier(state: ClusterState) -> Decision:
    """Soaks, asks, and opens the next wave where the group before it has ended."""
    if state.in_flight or state.at_barrier or _room_in_group(state) or not _left(state):
        return state, ()
    if state.slots == 0 or state.draining:
        return state, ()  # it is not its turn
    wave = state.group.wave + 1
    # People have seen this group as it is: a pilot that is repaired, and needed nothing, is not replaced.
    over = evolve(state.group, limit=0)
    if state.plan.soaks and state.group.started and not state.soaked:
        state = evolve(state, at_barrier="soak", group=over)
        return state, (BeginSoak(state.group.wave),)
    if wave in state.plan.gates and wave not in state.opened and _behind_gate(state, wave):
        return evolve(state, at_barrier="gate", group=over), (AskGate(wave),)
    if wave in state.skip_waves:
        return _at_barrier(_without_wave(state, wave))
    group = Group(wave=wave, limit=state.plan.wave_size(wave))
    return evolve(state, group=group, soaked=False), ()


def _behind_gate(state: ClusterState, wave: int) -> bool:
    """Whether a host is left to start behind the gate before this wave: to skip the wave alone passes no gate."""
    while wave in state.skip_waves and _left(state):
        state, wave = _without_wave(state, wave), wave + 1
    return _left(state)


def _without_wave(state: ClusterState, wave: int) -> ClusterState:
    codes, waiting = bytearray(state.codes), CODES[HostState.NOT_STARTED]
    for _ in range(state.plan.wave_size(wave)):
        host = codes.find(waiting)
        if host >= 0:
            codes[host] = CODES[HostState.SKIPPED][0]
    return evolve(state, codes=bytes(codes), group=Group(wave=wave, limit=0), soaked=True)


def _room_in_group(state: ClusterState) -> bool:
    group = state.group
    if not _left(state):
        return False
    if group.wave == 0:
        return group.counting + state.in_flight < group.limit
    return group.started < group.limit


def _has_turn(state: ClusterState) -> bool:
    """Whether any host may start now, a new one or one that is repaired."""
    if state.draining or state.paused is not None or not state.window_open:
        return False
    slots = state.plan.max_parallel if state.slots is None else state.slots
    return state.in_flight < min(slots, state.plan.max_parallel)


def _may_go_on(state: ClusterState, host: int) -> bool:
    """Whether this parked host may be in flight again. It has its place in every budget already."""
    if not _has_turn(state):
        return False
    plan = state.plan
    if host in state.held:
        return True  # out of service it is already
    if many_out_of_service(state) >= plan.max_out_of_service:
        return False
    if plan.max_per_domain is None:
        return True
    domain = plan.domains[host]
    out = sum(plan.domains[each] == domain for each in out_of_service(state))
    return out < plan.max_per_domain


def _has_room(state: ClusterState) -> bool:
    """Whether one more host may be out of service."""
    return many_out_of_service(state) < state.plan.max_out_of_service and _pick(state) is not None


def _may_start(state: ClusterState) -> bool:
    plan, in_flight = state.plan, state.in_flight
    if not _has_turn(state) or not _room_in_group(state):
        return False
    if many_out_of_service(state) >= plan.max_out_of_service or at_risk(state):
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
    held, plan = len(state.held), state.plan
    limit = f"max_out_of_service is {plan.max_out_of_service}"
    if held < plan.max_out_of_service and plan.max_per_domain is not None:
        limit = f"max_per_domain is {plan.max_per_domain}"
    return f"nothing may start: {held} held out of service, {limit}"


# What became of the cluster


def host_state(state: ClusterState, host: int) -> HostState | None:
    """The state of one host; None while it is in flight or parked."""
    return _STATES.get(state.codes[host])


def counts(state: ClusterState) -> dict[HostState, int]:
    """How many hosts are in each state, those in flight or parked aside. Only states that occur."""
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
