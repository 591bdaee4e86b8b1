"""The rollout as a state machine over its clusters.

``decide(state, event) -> (state, commands)``. Pure. The clusters list their hosts first and wait for
a grant of slots; the rollout checks the whole plan, passes the start gate and then grants, ring by ring.
What people ask of it while it runs are events like any other; ``_verbs`` says which are legal when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from ._cluster import PauseAfter
from ._evolve import evolve
from ._gates import START, wave_gate
from ._grants import flying, grants, ring_gate, usable, useful
from ._plan_check import filtered, plan_problems
from ._repair import PendingRepair
from ._rollout_policy import allowed, cluster_plan
from ._rollout_state import (
    AbortRequested,
    CancelCluster,
    CloseGate,
    ClusterEnded,
    ClusterNotPlanned,
    ClusterPlanned,
    ClusterProgressed,
    ClusterView,
    EndRollout,
    GatePassed,
    GateShut,
    HistoryFull,
    LimitsRequested,
    OpenGate,
    PauseRequested,
    RepairRequested,
    ResumeRequested,
    RolloutCommand,
    RolloutEvent,
    RolloutState,
    SkipRequested,
    TellCluster,
    WindowChanged,
    WindowsClosed,
    unfinished,
    view_of,
    with_cluster,
)
from ._rules import canonical
from ._states import Outcome

MAX_PROBLEMS = 20


Decision: TypeAlias = "tuple[RolloutState, tuple[RolloutCommand, ...]]"


def decide(state: RolloutState, event: RolloutEvent) -> Decision:
    """What follows from an event."""
    if state.phase == "ended":
        return state, ()
    return _DECIDE[type(event)](state, event)


# Planning


def _planned(state: RolloutState, event: ClusterPlanned) -> Decision:
    if view_of(state, event.cluster).phase != "listing":
        return state, ()
    seen, twice = dict(state.seen), list[str]()
    for host in event.hosts:
        there = seen.setdefault(canonical(host), event.cluster)
        if there != event.cluster:
            twice.append(f"host {host!r} is in cluster {there!r} and in cluster {event.cluster!r}")
    if not event.hosts and not state.limits.allow_empty:
        twice.append(
            f"cluster {event.cluster!r} has no hosts{filtered(state.limits)} "
            "(allow_empty=True lets an empty one pass)"
        )
    state = evolve(
        with_cluster(
            state,
            event.cluster,
            phase="planned",
            hosts=len(event.hosts),
            name_characters=sum(map(len, event.hosts)),
            longest_name=max(map(len, event.hosts), default=0),
            max_parallel=event.max_parallel,
            needs=len(event.hosts),
        ),
        seen=seen,
        named=state.named | {canonical(name) for name in event.named},
        problems=(*state.problems, *twice),
        digest=event.digest or state.digest,
    )
    return _when_planned(state)


def _not_planned(state: RolloutState, event: ClusterNotPlanned) -> Decision:
    if view_of(state, event.cluster).phase != "listing":
        return state, ()
    problem = f"cluster {event.cluster!r}: {event.problem}"
    state = evolve(
        with_cluster(state, event.cluster, phase="planned"), problems=(*state.problems, problem)
    )
    return _when_planned(state)


def _when_planned(state: RolloutState) -> Decision:
    if state.phase != "listing" or any(view.phase == "listing" for view in state.clusters):
        return state, ()
    problems = (*state.problems, *plan_problems(state))
    if problems:
        said = "; ".join(problems[:MAX_PROBLEMS])
        more = len(problems) - MAX_PROBLEMS
        reason = f"the plan is refused: {said}" + (f"; and {more} more" if more > 0 else "")
        return _shut(state, Outcome.STOPPED, reason)
    if state.limits.dry_run:
        return _shut(state, Outcome.PLANNED, "a dry run: nothing was to be started")
    if START in state.gates:
        state = evolve(state, phase="gate", asked=state.asked | {START})
        return state, (OpenGate(START),)
    return _run(state)


def _run(state: RolloutState) -> Decision:
    return _grant(evolve(state, phase="running", begun=True, seen={}))


def _shut(state: RolloutState, outcome: Outcome, reason: str) -> Decision:
    """Ends a rollout of which nothing has started: its clusters only wait."""
    state = evolve(state, outcome=outcome, reason=reason, phase="stopping", seen={})
    state, commands = _told_to_stop(state, unfinished(state), reason)
    return _when_ended(state, commands)


def _told_to_stop(state: RolloutState, clusters: Iterable[str], reason: str) -> Decision:
    views = (view_of(state, name) for name in clusters)
    told = tuple(view.name for view in views if view.phase != "ended" and view.stop is None)
    for name in told:
        state = with_cluster(
            state, name, stop=reason, quiet=False
        )  # what stood still moves, to be given back
    return state, tuple(TellCluster(name) for name in told)


# Gates


def _gate_passed(state: RolloutState, event: GatePassed) -> Decision:
    if event.gate in state.passed or event.gate not in state.asked:
        return state, ()
    state = evolve(state, passed=state.passed | {event.gate})
    if event.gate == START and state.phase == "gate":
        return _run(state)
    if state.phase != "running":
        return state, ()
    if event.gate == START:  # it was asked again
        return state, tuple(TellCluster(name) for name in unfinished(state))
    state, commands = _let_pass(state)
    state, granted = _grant(state)
    return state, (*commands, *granted)


def _gate_shut(state: RolloutState, event: GateShut) -> Decision:
    if event.gate in state.passed or event.gate not in state.asked:
        return state, ()
    if state.phase == "gate" and event.gate == START:
        return _shut(state, event.outcome, event.reason)
    if state.phase != "running":
        return state, ()
    if state.outcome is None:  # else a cluster has stopped alone before: the first reason stays
        state = evolve(state, outcome=event.outcome, reason=event.reason)
    cluster = event.gate.partition("/")[2]
    if cluster and state.policy.stop_scope == "cluster":
        state, told = _told_to_stop(state, [cluster], event.reason)
        state, granted = _grant(state)
        return state, (*told, *granted)
    return _stop_all(state, event.reason)


def _without_its_gates(state: RolloutState, cluster: str) -> Decision:
    """Closes the gates of a cluster that has ended: they would expire, and stop all the others."""
    own = [gate for gate in state.asked - state.passed if gate.partition("/")[2] == cluster]
    state = evolve(state, asked=state.asked.difference(own))
    return state, tuple(CloseGate(gate) for gate in sorted(own))


def gate_before(state: RolloutState, cluster: str, wave: int) -> str | None:
    """The gate that a cluster has to pass before a wave: its own, or that of all; None: there is none."""
    name = wave_gate(wave)
    return next((each for each in (f"{name}/{cluster}", name) if each in state.gates), None)


def _at_gates(state: RolloutState) -> Decision:
    """Lets pass who may, and asks for the gates whose turn it is.

    A gate of all clusters asks when no cluster is on its way to it any more: who votes has seen them all.
    """
    state, commands = _let_pass(state)
    waiting = [view for view in state.clusters if view.at_gate and view.phase == "running"]
    for view in waiting:
        gate = gate_before(state, view.name, view.at_gate or 0)
        if gate is None or gate in state.asked:
            continue
        on_their_way = (_is_on_its_way(each, view.at_gate or 0) for each in state.clusters)
        if "/" in gate or not any(on_their_way):
            state = evolve(state, asked=state.asked | {gate})
            commands = (*commands, OpenGate(gate))
    return state, commands


def _is_on_its_way(view: ClusterView, wave: int) -> bool:
    # One without slots does not move: to wait for it would be to wait for whoever has them, for ever.
    if view.phase != "running" or view.stop is not None or _grant_used_up(view):
        return False
    return view.at_gate is None or view.at_gate < wave


def _grant_used_up(view: ClusterView) -> bool:
    none = view.slots == 0 or (view.risk is not None and usable(view) == 0)
    return none and not flying(view)


def _let_pass(state: RolloutState) -> Decision:
    commands: list[RolloutCommand] = []
    for view in state.clusters:
        wave = view.at_gate
        if wave is None or view.phase == "ended" or wave in view.opened:
            continue
        gate = gate_before(state, view.name, wave)
        if gate is None or gate in state.passed:
            state = with_cluster(state, view.name, opened=view.opened | {wave})
            commands.append(TellCluster(view.name))
    return state, tuple(commands)


# Running


def _progressed(state: RolloutState, event: ClusterProgressed) -> Decision:
    view = view_of(state, event.cluster)
    if view.phase == "ended":
        return state, ()
    pending = tuple(repair for repair in view.repairs if repair.number > event.repaired)
    holds, risks = _answered(view, event)
    asked = {repair.host for repair in pending}
    state = with_cluster(
        state,
        event.cluster,
        acted=event.acted,
        failed=event.failed,
        unreachable=event.unreachable,
        quiet=event.quiet,
        at_gate=event.at_gate,
        holds=holds,
        risks=risks,
        # It never rises: an old message takes back nothing that another cluster has by now.
        needs=min((each for each in (view.needs, event.needs) if each is not None), default=None),
        parked={host: step for host, step in event.parked.items() if host not in asked},
        repairs=pending,
        repairs_waiting=event.repairs_waiting,
        waiting=event.waiting,
    )
    return _after_counts(state, event.cluster, event.stopped)


def _answered(view: ClusterView, event: ClusterProgressed) -> tuple[int, int | None]:
    """How much it holds, and has at risk, by what it tells.

    If it knows its newest grant it holds that at most, or what it has in flight beyond it.
    """
    if event.in_flight is None:
        return view.holds, view.risks
    holds = max(event.in_flight, view.max_parallel if view.slots is None else view.slots)
    risks = view.risks
    if view.risk is not None:
        lost = event.failed + event.unreachable
        known = max(event.in_flight + lost, view.risk)
        risks = known if risks is None else min(risks, known)
    return min(view.holds, holds), risks


def _ended(state: RolloutState, event: ClusterEnded) -> Decision:
    view = view_of(state, event.cluster)
    if view.phase == "ended":
        return state, ()
    # One that ended without a report does not know better than its last message.
    least = ClusterView(name="") if event.reported else view
    state = with_cluster(
        state,
        event.cluster,
        phase="ended",
        slots=0,
        risk=None,
        holds=0,
        risks=0,
        at_gate=None,
        acted=max(least.acted, event.acted),
        failed=max(least.failed, event.failed),
        unreachable=max(least.unreachable, event.unreachable),
        parked={},
        repairs=(),
        repairs_waiting=0,
        waiting={},
    )
    why = event.reason or event.outcome.value
    if state.phase == "listing":  # its own list may be complete: without it the plan is not
        state = evolve(state, problems=(*state.problems, f"cluster {event.cluster!r}: {why}"))
        return _when_planned(state)
    if state.phase == "gate":
        reason = f"cluster {event.cluster!r} ended before it was started: {why}"
        return _shut(state, Outcome.STOPPED, reason)
    stopped = why if event.outcome in (Outcome.STOPPED, Outcome.ABORTED) else None
    state, closed = _without_its_gates(state, event.cluster)
    state, commands = _after_counts(state, event.cluster, stopped)
    return _when_ended(state, (*closed, *commands))


def _after_counts(state: RolloutState, cluster: str, stopped: str | None) -> Decision:
    if state.phase == "running":
        if stopped is not None and state.outcome is None:
            reason = f"cluster {cluster!r}: {stopped}"
            state = evolve(state, outcome=Outcome.STOPPED, reason=reason)
            if state.policy.stop_scope == "rollout":
                return _stop_all(state, reason)
        why = _total_exceeded(state)
        if why is not None:
            return _stop_all(state, f"over all clusters: {why}")
        state, asked = _at_gates(state)
        state, granted = _grant(state)
        return state, (*asked, *granted)
    return state, ()


def _total_exceeded(state: RolloutState) -> str | None:
    budget = state.policy.total_failure_budget
    if budget is None:
        return None
    views = state.clusters
    return allowed(budget, sum(view.hosts for view in views)).why_exceeded(
        failed=sum(view.failed for view in views),
        unreachable=sum(view.unreachable for view in views),
        sample=sum(view.acted for view in views),
    )


def _stop_all(state: RolloutState, reason: str) -> Decision:
    outcome = state.outcome or Outcome.STOPPED
    state = evolve(state, phase="stopping", outcome=outcome, reason=state.reason or reason)
    return _told_to_stop(state, unfinished(state), reason)


# What people ask for. ``_verbs.why_refused`` has said that it is legal.


def _pause_requested(state: RolloutState, event: PauseRequested) -> Decision:
    if event.cluster is not None:
        state = with_cluster(state, event.cluster, paused=event.after)
    else:
        state = evolve(state, paused=event.after)
    return _pause_told(state)


def _resume_requested(state: RolloutState, event: ResumeRequested) -> Decision:
    if event.cluster is not None:
        state = with_cluster(state, event.cluster, paused=None)
    else:
        state = evolve(state, paused=None)
        for view in state.clusters:
            state = with_cluster(state, view.name, paused=None)
    return _pause_told(state)


def _pause_told(state: RolloutState) -> Decision:
    names = unfinished(state)
    for name in names:  # whoever stood still says so again
        state = with_cluster(state, name, quiet=False)
    return state, tuple(TellCluster(name) for name in names)


def pause_of(state: RolloutState, cluster: ClusterView) -> PauseAfter | None:
    """What holds for a cluster: its own pause and the rollout's, the stricter of the two."""
    both = {state.paused, cluster.paused}
    return "step" if "step" in both else "host" if "host" in both else None


def is_paused(state: RolloutState) -> bool:
    """Whether all that is paused has come to rest."""
    return all(view.quiet for view in state.clusters if view.phase != "ended")


def shown_phase(state: RolloutState) -> str:
    """The phase that people see: a pause is one, too."""
    if state.phase in ("stopping", "ended") or state.paused is None:
        return state.phase
    return "paused" if is_paused(state) else "pausing"


def _limits_requested(state: RolloutState, event: LimitsRequested) -> Decision:
    state = evolve(state, policy=event.policy)
    for view in state.clusters:
        if view.phase in ("planned", "running"):
            wide = cluster_plan(event.policy, view.hosts).max_parallel
            state = with_cluster(state, view.name, max_parallel=wide)
    commands = tuple(TellCluster(name) for name in unfinished(state))
    why = _total_exceeded(state) if state.phase == "running" else None
    if why is not None:
        return _stop_all(state, f"over all clusters: {why}")
    if state.phase != "running":
        return state, commands
    state, granted = _grant(state)
    return state, (*commands, *(each for each in granted if each not in commands))


def _skip_requested(state: RolloutState, event: SkipRequested) -> Decision:
    names = [event.cluster] if event.cluster is not None else list(unfinished(state))
    waves = frozenset[int]() if event.wave is None else frozenset({event.wave})
    for name in names:
        view = view_of(state, name)
        state = with_cluster(
            state, name, skip=view.skip | event.hosts, skip_waves=view.skip_waves | waves
        )
    return state, tuple(TellCluster(name) for name in names)


def _repair_requested(state: RolloutState, event: RepairRequested) -> Decision:
    view = view_of(state, event.cluster)
    if view.phase != "running":
        return state, ()
    host, number = canonical(event.host), view.repairs_asked + 1
    repair = PendingRepair(number=number, host=host, how=event.how, step=event.step)
    state = with_cluster(
        state,
        event.cluster,
        parked={name: step for name, step in view.parked.items() if name != host},
        repairs=(*view.repairs, repair),
        repairs_asked=number,
        quiet=view.quiet and event.how != "restore",  # that moves, also while it is paused
    )
    told = TellCluster(event.cluster)
    if state.phase != "running":
        return state, (told,)
    state, granted = _grant(state)
    return state, (told, *(each for each in granted if each != told))


def _window_changed(state: RolloutState, event: WindowChanged) -> Decision:
    if state.window_open == event.open:
        return state, ()
    state = evolve(state, window_open=event.open)
    if event.open and event.stale and state.phase == "running" and START in state.passed:
        # Nobody is told that hosts may start: first the people are asked again.
        return evolve(state, passed=state.passed - {START}), (OpenGate(START),)
    return state, tuple(TellCluster(name) for name in unfinished(state))


def hosts_may_start(state: RolloutState) -> bool:
    """Whether the windows are open, the approval to start still holds, and nobody has ended it."""
    holds = START not in state.asked - state.passed
    # The orders of an abort may be heard before its cancel.
    return state.window_open and holds and state.aborting is None


def _windows_closed(state: RolloutState, event: WindowsClosed | HistoryFull) -> Decision:
    if state.phase == "listing" and event.for_good:  # refused with all its problems, dry run or not
        news = () if event.reason in state.problems else (event.reason,)
        return evolve(state, problems=(*state.problems, *news)), ()
    if state.phase == "gate" and event.for_good:
        return _shut(state, Outcome.STOPPED, event.reason)
    if state.phase != "running":
        return state, ()  # nothing has begun: it waits for the next ones
    for name in unfinished(state):  # what has started is never cut off by a window that closes
        state = with_cluster(state, name, finishes=True)
    return _stop_all(state, event.reason)


def _abort_requested(state: RolloutState, event: AbortRequested) -> Decision:
    if state.outcome in (Outcome.REJECTED, Outcome.EXPIRED) and not state.begun:
        return state, ()  # nothing has started: it ends by itself
    if state.aborting == "kill" or (state.aborting == "cancel" and not event.now):
        return state, ()
    commands: list[RolloutCommand] = []
    if event.now:  # a cancel is heard only once: what it does not stop is told to the clusters
        commands += [TellCluster(name) for name in unfinished(state)]
    if state.aborting is None:
        commands += [CancelCluster(name, event.reason) for name in unfinished(state)]
        why = f"{event.reason}; before that: {state.reason}" if state.reason else event.reason
        state = evolve(state, outcome=Outcome.ABORTED, reason=why, phase="stopping", seen={})
    state = evolve(state, aborting="kill" if event.now else "cancel")
    return _when_ended(state, tuple(commands))


# Grants


def _grant(state: RolloutState) -> Decision:
    """Slots for the clusters whose turn it is.

    A share is freed by the end of its cluster, by a lower limit, or by a cluster that cannot use it any more.
    """
    commands: list[RolloutCommand] = []
    for name, (slots, risk) in grants(state).items():
        view = view_of(state, name)
        holds = max(view.holds, view.max_parallel if slots is None else slots)
        if (view.slots, view.risk) == (slots, risk) and view.phase == "running":
            if holds != view.holds:
                state = with_cluster(state, name, holds=holds)
        else:
            # One that has given slots back need not be told: it cannot use them.
            told = view.phase == "planned" or not slots == useful(view) < usable(view)
            state = with_cluster(
                state,
                name,
                slots=slots,
                risk=risk,
                phase="running",
                holds=holds,
                risks=None if None in (risk, view.risks) else max(risk or 0, view.risks or 0),
            )
            commands += [TellCluster(name)] if told else []
    gate = ring_gate(state)
    if gate is not None and gate not in state.asked:
        state = evolve(state, asked=state.asked | {gate})
        commands.append(OpenGate(gate))
    return state, tuple(commands)


def _when_ended(state: RolloutState, commands: tuple[RolloutCommand, ...]) -> Decision:
    if any(view.phase != "ended" for view in state.clusters):
        return state, commands
    return evolve(state, phase="ended"), (*commands, EndRollout())


_DECIDE: Mapping[type, Callable[[RolloutState, Any], Decision]] = {
    ClusterPlanned: _planned,
    ClusterNotPlanned: _not_planned,
    GatePassed: _gate_passed,
    GateShut: _gate_shut,
    ClusterProgressed: _progressed,
    ClusterEnded: _ended,
    PauseRequested: _pause_requested,
    ResumeRequested: _resume_requested,
    AbortRequested: _abort_requested,
    LimitsRequested: _limits_requested,
    SkipRequested: _skip_requested,
    RepairRequested: _repair_requested,
    WindowChanged: _window_changed,
    WindowsClosed: _windows_closed,
    HistoryFull: _windows_closed,
}
