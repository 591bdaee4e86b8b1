"""The rollout as a state machine over its clusters.

``decide(state, event) -> (state, commands)``. Pure. The clusters list their hosts first and wait for
a grant of slots; the rollout checks the whole plan, passes the start gate and then grants, ring by ring.
What people ask of it while it runs are events like any other; ``_verbs`` says which are legal when.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import attrs

from ._amount import rounded_down
from ._cluster import PauseAfter
from ._gates import START, wave_gate
from ._repair import PendingRepair, Repair
from ._rollout_policy import RolloutPolicy, allowed, cluster_plan
from ._rules import canonical, did_you_mean
from ._states import Outcome

ClusterPhase = Literal["listing", "planned", "running", "ended"]
RolloutPhase = Literal["listing", "gate", "running", "stopping", "ended"]

MAX_PROBLEMS = 20

MAX_HINTS = 5
"""Problems that come with a guess of what was meant: each looks through all names."""

MAX_NAMES = 500_000
"""Characters of the names of all hosts that may be out of service together: a report names every one."""


@attrs.frozen(kw_only=True)
class PlanLimits:
    """What the request says about the hosts it means. See ``PatchRequest``."""

    max_hosts: int | None = None
    expect_hosts: int | None = None
    only_hosts: tuple[str, ...] = ()
    exclude_hosts: tuple[str, ...] = ()
    allow_empty: bool = False
    dry_run: bool = False
    plan_digest: str = ""


@attrs.frozen(kw_only=True)
class ClusterView:
    """What the rollout knows of one cluster."""

    name: str
    phase: ClusterPhase = "listing"
    hosts: int = 0
    name_characters: int = 0
    """Of all its hosts' names."""
    longest_name: int = 0
    max_parallel: int = 0
    slots: int | None = 0
    risk: int | None = None
    """How many of its hosts may have failed or be in flight, under a strict total budget."""
    needs: int | None = None
    """How many slots it can use at most, as it has told. None: its list is not known yet."""
    stop: str | None = None
    finishes: bool = False
    """What is in flight when it stops runs to its end, whatever the policy says."""
    acted: int = 0
    failed: int = 0
    unreachable: int = 0
    paused: PauseAfter | None = None
    """Its own pause; the rollout's comes on top."""
    quiet: bool = False
    """It has said that what is in flight stands still, since it was last told to pause."""
    at_gate: int | None = None
    """The wave before which it waits."""
    opened: frozenset[int] = frozenset()
    """Waves before which it need not wait."""
    skip: frozenset[str] = frozenset()
    """Hosts that it is not to start."""
    skip_waves: frozenset[int] = frozenset()
    parked: Mapping[str, str] = attrs.field(factory=dict[str, str])
    """Hosts that failed and wait for a person: canonical name to the step that failed."""
    repairs: tuple[PendingRepair, ...] = ()
    """What people have asked for parked hosts, and the cluster has not taken up yet."""
    repairs_asked: int = 0
    """How many it was ever asked for: the number of the last one."""
    repairs_waiting: int = 0
    """How many it has taken up, but not begun."""


@attrs.frozen(kw_only=True)
class RolloutState:
    """Where a rollout is."""

    policy: RolloutPolicy
    limits: PlanLimits
    clusters: tuple[ClusterView, ...]
    gates: frozenset[str] = frozenset()
    """Names of all gates that people guard."""
    asked: frozenset[str] = frozenset()
    """Gates that have been opened for votes."""
    passed: frozenset[str] = frozenset()
    phase: RolloutPhase = "listing"
    begun: bool = False
    """Some cluster was told to go."""
    paused: PauseAfter | None = None
    window_open: bool = True
    aborting: Literal["cancel", "kill"] | None = None
    seen: Mapping[str, str] = attrs.field(factory=dict[str, str])
    """Canonical host name to its cluster, while the plan is checked."""
    named: frozenset[str] = frozenset()
    """Names of ``only_hosts`` and ``exclude_hosts`` that some cluster has."""
    problems: tuple[str, ...] = ()
    digest: str = ""
    outcome: Outcome | None = None
    reason: str = ""


def rollout_state(
    policy: RolloutPolicy,
    limits: PlanLimits,
    clusters: tuple[str, ...],
    *,
    gates: Iterable[str] = (),
) -> RolloutState:
    """A rollout of which nothing has started."""
    views = tuple(ClusterView(name=name) for name in clusters)
    return RolloutState(
        policy=policy,
        limits=limits,
        clusters=views,
        gates=frozenset(gates),
        window_open=policy.windows is None,  # until somebody has looked
    )


# Events


@attrs.frozen(kw_only=True)
class ClusterPlanned:
    """A cluster has frozen its list.

    ``named``: names of the request's lists that it has. ``digest``: that of the whole plan, if this was
    the last list that was missing.
    """

    cluster: str
    hosts: tuple[str, ...]
    max_parallel: int
    named: tuple[str, ...] = ()
    digest: str = ""


@attrs.frozen(kw_only=True)
class ClusterNotPlanned:
    """A cluster could not make its list."""

    cluster: str
    problem: str


@attrs.frozen
class GatePassed:
    """A gate was approved."""

    gate: str = START


@attrs.frozen(kw_only=True)
class GateShut:
    """A gate was rejected, or expired."""

    gate: str = START
    outcome: Outcome
    reason: str


@attrs.frozen(kw_only=True)
class ClusterProgressed:
    """How far a cluster is that runs. It replaces what was known of it: a repair makes failures fall.

    ``stopped``: why it has stopped by itself. ``parked``: its hosts that wait for a person, and the step
    that failed of each. ``repaired``: the number of the last repair that it has taken up;
    ``repairs_waiting``: how many of those it has not begun.
    """

    cluster: str
    acted: int
    failed: int
    unreachable: int
    stopped: str | None = None
    quiet: bool = False
    at_gate: int | None = None
    needs: int | None = None
    """How many slots it can use at most from now on. None: no news."""
    parked: Mapping[str, str] = attrs.field(factory=dict[str, str])
    repaired: int = 0
    repairs_waiting: int = 0


@attrs.frozen(kw_only=True)
class ClusterEnded:
    """A cluster's child has ended. ``reported``: the counts are its own, and the truth."""

    cluster: str
    outcome: Outcome
    reason: str = ""
    acted: int = 0
    failed: int = 0
    unreachable: int = 0
    reported: bool = True


@attrs.frozen(kw_only=True)
class PauseRequested:
    """Nothing new may start in the rollout, or in one cluster."""

    after: PauseAfter
    cluster: str | None = None


@attrs.frozen(kw_only=True)
class ResumeRequested:
    """It goes on; without a cluster, all of it."""

    cluster: str | None = None


@attrs.frozen(kw_only=True)
class AbortRequested:
    """Somebody ends the rollout. ``now``: updates that run are torn apart, too."""

    reason: str
    now: bool = False


@attrs.frozen(kw_only=True)
class LimitsRequested:
    """Another policy: how many at once, how many may fail."""

    policy: RolloutPolicy


@attrs.frozen(kw_only=True)
class SkipRequested:
    """These hosts of a cluster are not to be started; or a wave, of one cluster or of all."""

    cluster: str | None = None
    hosts: frozenset[str] = frozenset()
    wave: int | None = None


@attrs.frozen(kw_only=True)
class RepairRequested:
    """What is to be done with a parked host. ``step``: where a retry begins; None: at the step that failed."""

    cluster: str
    host: str
    how: Repair
    step: str | None = None


@attrs.frozen
class WindowChanged:
    """Hosts may start now, or may not. ``stale``: the approval to start is too old by now."""

    open: bool
    stale: bool = False


@attrs.frozen
class WindowsClosed:
    """The maintenance windows have closed, and it is not to wait. ``for_good``: there are no more."""

    reason: str
    for_good: bool = False


@attrs.frozen
class HistoryFull:
    """It has to end before the server ends it: nothing new may start."""

    reason: str
    for_good: bool = True


RolloutEvent: TypeAlias = (
    ClusterPlanned
    | ClusterNotPlanned
    | GatePassed
    | GateShut
    | ClusterProgressed
    | ClusterEnded
    | PauseRequested
    | ResumeRequested
    | AbortRequested
    | LimitsRequested
    | SkipRequested
    | RepairRequested
    | WindowChanged
    | WindowsClosed
    | HistoryFull
)


# Commands


@attrs.frozen
class OpenGate:
    """Ask the approvers."""

    gate: str = START


@attrs.frozen
class TellCluster:
    """Tell a cluster all that is wanted of it: its view has it."""

    cluster: str


@attrs.frozen
class CancelCluster:
    """Cancel a cluster's child: an abort."""

    cluster: str
    reason: str


@attrs.frozen
class EndRollout:
    """Every cluster has ended."""


RolloutCommand: TypeAlias = OpenGate | TellCluster | CancelCluster | EndRollout
Decision: TypeAlias = "tuple[RolloutState, tuple[RolloutCommand, ...]]"


def decide(state: RolloutState, event: RolloutEvent) -> Decision:
    """What follows from an event."""
    if state.phase == "ended":
        return state, ()
    return _DECIDE[type(event)](state, event)


# Planning


def _planned(state: RolloutState, event: ClusterPlanned) -> Decision:
    if _view(state, event.cluster).phase != "listing":
        return state, ()
    seen, twice = dict(state.seen), list[str]()
    for host in event.hosts:
        there = seen.setdefault(canonical(host), event.cluster)
        if there != event.cluster:
            twice.append(f"host {host!r} is in cluster {there!r} and in cluster {event.cluster!r}")
    if not event.hosts and not state.limits.allow_empty:
        twice.append(
            f"cluster {event.cluster!r} has no hosts{_filtered(state.limits)} "
            "(allow_empty=True lets an empty one pass)"
        )
    state = attrs.evolve(
        _with(
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


def _filtered(limits: PlanLimits) -> str:
    named = [name for name in ("only_hosts", "exclude_hosts") if getattr(limits, name)]
    return f" that {' and '.join(named)} leave in" if named else ""


def _not_planned(state: RolloutState, event: ClusterNotPlanned) -> Decision:
    if _view(state, event.cluster).phase != "listing":
        return state, ()
    problem = f"cluster {event.cluster!r}: {event.problem}"
    state = attrs.evolve(
        _with(state, event.cluster, phase="planned"), problems=(*state.problems, problem)
    )
    return _when_planned(state)


def _when_planned(state: RolloutState) -> Decision:
    if state.phase != "listing" or any(view.phase == "listing" for view in state.clusters):
        return state, ()
    problems = (*state.problems, *_plan_problems(state))
    if problems:
        said = "; ".join(problems[:MAX_PROBLEMS])
        more = len(problems) - MAX_PROBLEMS
        reason = f"the plan is refused: {said}" + (f"; and {more} more" if more > 0 else "")
        return _shut(state, Outcome.STOPPED, reason)
    if state.limits.dry_run:
        return _shut(state, Outcome.PLANNED, "a dry run: nothing was to be started")
    if START in state.gates:
        state = attrs.evolve(state, phase="gate", asked=state.asked | {START})
        return state, (OpenGate(START),)
    return _run(state)


def _plan_problems(state: RolloutState) -> list[str]:
    limits, found = state.limits, list[str]()
    hosts = sum(view.hosts for view in state.clusters)
    for field in ("only_hosts", "exclude_hosts"):
        for name in getattr(limits, field):
            if canonical(name) not in state.named:
                few = len(found) < MAX_HINTS
                hint = did_you_mean(canonical(name), state.seen) if few else ""
                found.append(f"{field!r} names {name!r}, which no cluster has{hint}")
    unnamed = why_unnamed(state, state.policy)
    if unnamed is not None:
        found.append(f"{unnamed}; lower it, or split the rollout")
    if limits.max_hosts is not None and hosts > limits.max_hosts:
        found.append(f"'max_hosts' is {limits.max_hosts}, but the clusters have {hosts} hosts")
    if limits.plan_digest and state.digest and limits.plan_digest != state.digest:
        found.append(
            "it is not the plan of 'plan_digest' any more: its steps, commands or policy have changed since; "
            "make a new plan"
        )
    expected = limits.expect_hosts
    if expected is not None and abs(hosts - expected) * 10 > expected:
        found.append(
            f"'expect_hosts' is {expected}, but the clusters have {hosts} hosts: more than 10% off"
        )
    return found


def why_unnamed(state: RolloutState, policy: RolloutPolicy) -> str | None:
    """Why the report could not name all hosts that may be out of service together, or None if it could."""
    names = 0
    for view in state.clusters:
        most = cluster_plan(policy, view.hosts).max_out_of_service
        names += min(view.name_characters, most * view.longest_name)
    if names <= MAX_NAMES:
        return None
    return (
        f"'max_out_of_service' lets hosts be out of service whose names have {names:,} characters together, "
        f"and a report names at most {MAX_NAMES:,}"
    )


def _run(state: RolloutState) -> Decision:
    return _grant(attrs.evolve(state, phase="running", begun=True, seen={}))


def _shut(state: RolloutState, outcome: Outcome, reason: str) -> Decision:
    """Ends a rollout of which nothing has started: its clusters only wait."""
    state = attrs.evolve(state, outcome=outcome, reason=reason, phase="stopping", seen={})
    state, commands = _told_to_stop(state, _unfinished(state), reason)
    return _when_ended(state, commands)


def _told_to_stop(state: RolloutState, clusters: Iterable[str], reason: str) -> Decision:
    views = (_view(state, name) for name in clusters)
    told = tuple(view.name for view in views if view.phase != "ended" and view.stop is None)
    for name in told:
        state = _with(
            state, name, stop=reason, quiet=False
        )  # what stood still moves, to be given back
    return state, tuple(TellCluster(name) for name in told)


# Gates


def _gate_passed(state: RolloutState, event: GatePassed) -> Decision:
    if event.gate in state.passed or event.gate not in state.asked:
        return state, ()
    state = attrs.evolve(state, passed=state.passed | {event.gate})
    if event.gate == START and state.phase == "gate":
        return _run(state)
    if state.phase != "running":
        return state, ()
    if event.gate == START:  # it was asked again
        return state, tuple(TellCluster(name) for name in _unfinished(state))
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
        state = attrs.evolve(state, outcome=event.outcome, reason=event.reason)
    cluster = event.gate.partition("/")[2]
    if cluster and state.policy.stop_scope == "cluster":
        state, told = _told_to_stop(state, [cluster], event.reason)
        state, granted = _grant(state)
        return state, (*told, *granted)
    return _stop_all(state, event.reason)


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
            state = attrs.evolve(state, asked=state.asked | {gate})
            commands = (*commands, OpenGate(gate))
    return state, commands


def _is_on_its_way(view: ClusterView, wave: int) -> bool:
    # One without slots does not move: to wait for it would be to wait for whoever has them, for ever.
    if view.phase != "running" or view.stop is not None or _grant_used_up(view):
        return False
    return view.at_gate is None or view.at_gate < wave


def _grant_used_up(view: ClusterView) -> bool:
    return view.slots == 0 or (view.risk is not None and _usable(view) == 0)


def _let_pass(state: RolloutState) -> Decision:
    commands: list[RolloutCommand] = []
    for view in state.clusters:
        wave = view.at_gate
        if wave is None or view.phase == "ended" or wave in view.opened:
            continue
        gate = gate_before(state, view.name, wave)
        if gate is None or gate in state.passed:
            state = _with(state, view.name, opened=view.opened | {wave})
            commands.append(TellCluster(view.name))
    return state, tuple(commands)


# Running


def _progressed(state: RolloutState, event: ClusterProgressed) -> Decision:
    view = _view(state, event.cluster)
    if view.phase == "ended":
        return state, ()
    pending = tuple(repair for repair in view.repairs if repair.number > event.repaired)
    asked = {repair.host for repair in pending}
    state = _with(
        state,
        event.cluster,
        acted=event.acted,
        failed=event.failed,
        unreachable=event.unreachable,
        quiet=event.quiet,
        at_gate=event.at_gate,
        # It never rises: an old message takes back nothing that another cluster has by now.
        needs=min((each for each in (view.needs, event.needs) if each is not None), default=None),
        parked={host: step for host, step in event.parked.items() if host not in asked},
        repairs=pending,
        repairs_waiting=event.repairs_waiting,
    )
    return _after_counts(state, event.cluster, event.stopped)


def _ended(state: RolloutState, event: ClusterEnded) -> Decision:
    view = _view(state, event.cluster)
    if view.phase == "ended":
        return state, ()
    # One that ended without a report does not know better than its last message.
    least = ClusterView(name="") if event.reported else view
    state = _with(
        state,
        event.cluster,
        phase="ended",
        slots=0,
        risk=None,
        at_gate=None,
        acted=max(least.acted, event.acted),
        failed=max(least.failed, event.failed),
        unreachable=max(least.unreachable, event.unreachable),
        parked={},
        repairs=(),
        repairs_waiting=0,
    )
    why = event.reason or event.outcome.value
    if state.phase == "listing":  # its own list may be complete: without it the plan is not
        state = attrs.evolve(state, problems=(*state.problems, f"cluster {event.cluster!r}: {why}"))
        return _when_planned(state)
    if state.phase == "gate":
        reason = f"cluster {event.cluster!r} ended before it was started: {why}"
        return _shut(state, Outcome.STOPPED, reason)
    stopped = why if event.outcome in (Outcome.STOPPED, Outcome.ABORTED) else None
    state, commands = _after_counts(state, event.cluster, stopped)
    return _when_ended(state, commands)


def _after_counts(state: RolloutState, cluster: str, stopped: str | None) -> Decision:
    if state.phase == "running":
        if stopped is not None and state.outcome is None:
            reason = f"cluster {cluster!r}: {stopped}"
            state = attrs.evolve(state, outcome=Outcome.STOPPED, reason=reason)
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
    state = attrs.evolve(state, phase="stopping", outcome=outcome, reason=state.reason or reason)
    return _told_to_stop(state, _unfinished(state), reason)


# What people ask for. ``_verbs.why_refused`` has said that it is legal.


def _pause_requested(state: RolloutState, event: PauseRequested) -> Decision:
    if event.cluster is not None:
        state = _with(state, event.cluster, paused=event.after)
    else:
        state = attrs.evolve(state, paused=event.after)
    return _pause_told(state)


def _resume_requested(state: RolloutState, event: ResumeRequested) -> Decision:
    if event.cluster is not None:
        state = _with(state, event.cluster, paused=None)
    else:
        state = attrs.evolve(state, paused=None)
        for view in state.clusters:
            state = _with(state, view.name, paused=None)
    return _pause_told(state)


def _pause_told(state: RolloutState) -> Decision:
    names = _unfinished(state)
    for name in names:  # whoever stood still says so again
        state = _with(state, name, quiet=False)
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
    state = attrs.evolve(state, policy=event.policy)
    for view in state.clusters:
        if view.phase in ("planned", "running"):
            wide = cluster_plan(event.policy, view.hosts).max_parallel
            state = _with(state, view.name, max_parallel=wide)
    commands = tuple(TellCluster(name) for name in _unfinished(state))
    why = _total_exceeded(state) if state.phase == "running" else None
    if why is not None:
        return _stop_all(state, f"over all clusters: {why}")
    if state.phase != "running":
        return state, commands
    state, granted = _grant(state)
    return state, (*commands, *(each for each in granted if each not in commands))


def _skip_requested(state: RolloutState, event: SkipRequested) -> Decision:
    names = [event.cluster] if event.cluster is not None else list(_unfinished(state))
    waves = frozenset[int]() if event.wave is None else frozenset({event.wave})
    for name in names:
        view = _view(state, name)
        state = _with(state, name, skip=view.skip | event.hosts, skip_waves=view.skip_waves | waves)
    return state, tuple(TellCluster(name) for name in names)


def _repair_requested(state: RolloutState, event: RepairRequested) -> Decision:
    view = _view(state, event.cluster)
    if view.phase != "running":
        return state, ()
    host, number = canonical(event.host), view.repairs_asked + 1
    repair = PendingRepair(number=number, host=host, how=event.how, step=event.step)
    state = _with(
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
    state = attrs.evolve(state, window_open=event.open)
    if event.open and event.stale and state.phase == "running" and START in state.passed:
        # Nobody is told that hosts may start: first the people are asked again.
        return attrs.evolve(state, passed=state.passed - {START}), (OpenGate(START),)
    return state, tuple(TellCluster(name) for name in _unfinished(state))


def hosts_may_start(state: RolloutState) -> bool:
    """Whether the windows are open, the approval to start still holds, and nobody has ended it."""
    holds = START not in state.asked - state.passed
    # The orders of an abort may be heard before its cancel.
    return state.window_open and holds and state.aborting is None


def _windows_closed(state: RolloutState, event: WindowsClosed | HistoryFull) -> Decision:
    if state.phase == "listing" and event.for_good:  # refused with all its problems, dry run or not
        news = () if event.reason in state.problems else (event.reason,)
        return attrs.evolve(state, problems=(*state.problems, *news)), ()
    if state.phase == "gate" and event.for_good:
        return _shut(state, Outcome.STOPPED, event.reason)
    if state.phase != "running":
        return state, ()  # nothing has begun: it waits for the next ones
    for name in _unfinished(state):  # what has started is never cut off by a window that closes
        state = _with(state, name, finishes=True)
    return _stop_all(state, event.reason)


def _abort_requested(state: RolloutState, event: AbortRequested) -> Decision:
    if state.outcome in (Outcome.REJECTED, Outcome.EXPIRED) and not state.begun:
        return state, ()  # nothing has started: it ends by itself
    if state.aborting == "kill" or (state.aborting == "cancel" and not event.now):
        return state, ()
    commands: list[RolloutCommand] = []
    if event.now:  # a cancel is heard only once: what it does not stop is told to the clusters
        commands += [TellCluster(name) for name in _unfinished(state)]
    if state.aborting is None:
        commands += [CancelCluster(name, event.reason) for name in _unfinished(state)]
        why = f"{event.reason}; before that: {state.reason}" if state.reason else event.reason
        state = attrs.evolve(state, outcome=Outcome.ABORTED, reason=why, phase="stopping", seen={})
    state = attrs.evolve(state, aborting="kill" if event.now else "cancel")
    return _when_ended(state, tuple(commands))


# Grants


def _grant(state: RolloutState) -> Decision:
    """Slots for the clusters whose turn it is.

    A share is freed by the end of its cluster, by a lower limit, or by a cluster that cannot use it any more.
    """
    commands: list[RolloutCommand] = []
    for name, (slots, risk) in grants(state).items():
        view = _view(state, name)
        if (view.slots, view.risk) != (slots, risk) or view.phase == "planned":
            # One that has given slots back need not be told: it cannot use them.
            told = view.phase == "planned" or not slots == _useful(view) < _usable(view)
            state = _with(state, name, slots=slots, risk=risk, phase="running")
            commands += [TellCluster(name)] if told else []
    gate = _ring_gate(state)
    if gate is not None and gate not in state.asked:
        state = attrs.evolve(state, asked=state.asked | {gate})
        commands.append(OpenGate(gate))
    return state, tuple(commands)


def ring_of(state: RolloutState) -> tuple[int, tuple[str, ...]]:
    """The ring whose turn it is, from 1, and its clusters. Without rings all are one."""
    rings = state.policy.rings or (tuple(view.name for view in state.clusters),)
    unfinished = set(_unfinished(state))
    for number, ring in enumerate(rings, start=1):
        if unfinished.intersection(ring):
            return number, ring
    return len(rings), ()


def _ring_gate(state: RolloutState) -> str | None:
    """The gate before the ring whose turn it is, if people guard it and have not opened it."""
    number, ring = ring_of(state)
    gate = f"ring-{number}"
    return gate if ring and gate in state.gates - state.passed else None


def _turn(state: RolloutState) -> list[ClusterView]:
    """The clusters that may work now: those that do, and those that come next."""
    if _ring_gate(state) is not None:
        return []
    at_once, ring = state.policy.max_parallel_clusters, ring_of(state)[1]
    running = [view for view in state.clusters if view.phase == "running"]
    planned = [view for view in state.clusters if view.phase == "planned" and view.name in ring]
    more = None if at_once is None else max(at_once - len(running), 0)
    return [*(view for view in running if view.stop is None), *planned[:more]]


def grants(state: RolloutState) -> dict[str, tuple[int | None, int | None]]:
    """How many hosts each cluster whose turn it is may have in flight, and how many of them at risk.

    None: as many as its plan says. A strict total budget limits both: as many may be at risk (failed, or in
    flight) as may fail, and one more. So the failure that exceeds the budget is the last one. What was
    granted at risk is only taken back by a lower budget: a host in flight again, since it is repaired, had
    its unit already, and may need it again before the cluster hears anything else.
    """
    turn, most, at_risk = _turn(state), _at_once(state), _at_risk(state)
    if most is None and at_risk is None:
        return {view.name: (None, None) for view in turn}
    shares = {view.name: _useful(view) for view in turn}
    spare = {view.name: _spare(view) for view in turn}
    wanted = {view.name: max(_needed(view, view.max_parallel), 1) for view in turn}
    others = [
        view for view in state.clusters if view.phase == "running" and view.name not in shares
    ]
    slots = sum(_needed(view, _usable(view)) for view in others)
    units = sum(map(_spare, others))
    free = math.inf if most is None else most - slots - sum(shares.values())
    left = math.inf
    if at_risk is not None:
        taken = slots + units + sum(shares.values()) + sum(spare.values())
        left = at_risk - sum(map(_certain, state.clusters)) - taken
    while left < 0 and any(
        spare.values()
    ):  # the budget was lowered: what is not in use gives first
        spare[_widest(spare)] -= 1
        left += 1
    while (free < 0 or left < 0) and any(shares.values()):  # the limit was: the widest gives first
        widest = _widest(shares)
        shares[widest] -= 1
        free += 1
        if left < 0:
            left += 1
        else:
            spare[widest] += 1
    gives = True
    while gives:
        gives = False
        for name in shares:
            if shares[name] < wanted[name] and free > 0 and (spare[name] or left > 0):
                shares[name], free, gives = shares[name] + 1, free - 1, True
                if spare[name]:
                    spare[name] -= 1
                else:
                    left -= 1
    failed = {view.name: _certain(view) for view in turn}
    begun = {view.name for view in turn if view.phase == "running"}
    return {
        name: (share, None if at_risk is None else failed[name] + share + spare[name])
        for name, share in shares.items()
        if share or name in begun
    }


def _widest(shares: Mapping[str, int]) -> str:
    return max(shares, key=lambda name: shares[name])


def _at_once(state: RolloutState) -> int | None:
    """How many hosts of all clusters may be in flight. None: there is no such limit."""
    limit = state.policy.max_parallel_total
    hosts = sum(view.hosts for view in state.clusters)
    return None if limit is None else max(rounded_down(limit, hosts), 1)


def _at_risk(state: RolloutState) -> int | None:
    """How many hosts of all clusters may have failed or be in flight. None: there is no such limit."""
    budget = state.policy.total_failure_budget
    if budget is None or not budget.strict:
        return None
    return allowed(budget, sum(view.hosts for view in state.clusters)).failures + 1


def _usable(view: ClusterView) -> int:
    """What a cluster has of its grant: under a strict total budget a failure uses up a slot."""
    slots = view.slots or 0
    return slots if view.risk is None else max(min(slots, view.risk - _certain(view)), 0)


def _spare(view: ClusterView) -> int:
    """What a cluster has at risk beyond its slots."""
    return 0 if view.risk is None else max(view.risk - _certain(view) - (view.slots or 0), 0)


def _certain(view: ClusterView) -> int:
    """The failures that nobody is about to repair: for the others it needs slots again."""
    again = sum(repair.how in ("retry", "accept") for repair in view.repairs)
    return max(failures_of(view) - again - view.repairs_waiting, 0)


def _useful(view: ClusterView) -> int:
    """What a cluster has of its grant and can still use."""
    usable = _usable(view)
    # One at least, until it has ended: its go may still be on the way, and newer orders replace it.
    return min(usable, max(_needed(view, usable), 1))


def _needed(view: ClusterView, slots: int) -> int:
    return slots if view.needs is None else min(slots, view.needs)


def failures_of(view: ClusterView) -> int:
    """How many of a cluster's hosts have failed, unreachable ones included."""
    return view.failed + view.unreachable


def _when_ended(state: RolloutState, commands: tuple[RolloutCommand, ...]) -> Decision:
    if any(view.phase != "ended" for view in state.clusters):
        return state, commands
    return attrs.evolve(state, phase="ended"), (*commands, EndRollout())


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


def _unfinished(state: RolloutState) -> tuple[str, ...]:
    return tuple(view.name for view in state.clusters if view.phase != "ended")


def _view(state: RolloutState, cluster: str) -> ClusterView:
    return next(view for view in state.clusters if view.name == cluster)


def _with(state: RolloutState, cluster: str, **changes: Any) -> RolloutState:
    views = tuple(
        attrs.evolve(view, **changes) if view.name == cluster else view for view in state.clusters
    )
    return attrs.evolve(state, clusters=views)
