"""The rollout as a state machine over its clusters.

``decide(state, event) -> (state, commands)``. Pure. The clusters list their hosts first and wait for
a grant of slots; the rollout checks the whole plan, passes the start gate and then grants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import attrs

from ._amount import rounded_down
from ._rollout_policy import RolloutPolicy, allowed
from ._rules import canonical, did_you_mean
from ._states import Outcome

ClusterPhase = Literal["listing", "planned", "running", "ended"]
RolloutPhase = Literal["listing", "gate", "running", "stopping", "ended"]

MAX_PROBLEMS = 20

MAX_NAMES = 500_000
"""Characters of all host names: a report that names every one of them still crosses the wire."""


@attrs.frozen(kw_only=True)
class PlanLimits:
    """What the request says about the hosts it means. See ``PatchRequest``."""

    max_hosts: int | None = None
    expect_hosts: int | None = None
    only_hosts: tuple[str, ...] = ()
    exclude_hosts: tuple[str, ...] = ()
    allow_empty: bool = False


@attrs.frozen(kw_only=True)
class ClusterView:
    """What the rollout knows of one cluster."""

    name: str
    phase: ClusterPhase = "listing"
    hosts: int = 0
    max_parallel: int = 0
    slots: int | None = 0
    acted: int = 0
    failed: int = 0
    unreachable: int = 0


@attrs.frozen(kw_only=True)
class RolloutState:
    """Where a rollout is."""

    policy: RolloutPolicy
    limits: PlanLimits
    clusters: tuple[ClusterView, ...]
    has_gate: bool
    phase: RolloutPhase = "listing"
    seen: Mapping[str, str] = attrs.field(factory=dict[str, str])
    """Canonical host name to its cluster, while the plan is checked."""
    named: frozenset[str] = frozenset()
    """Names of ``only_hosts`` and ``exclude_hosts`` that some cluster has."""
    problems: tuple[str, ...] = ()
    outcome: Outcome | None = None
    reason: str = ""


def rollout_state(
    policy: RolloutPolicy, limits: PlanLimits, clusters: tuple[str, ...], *, has_gate: bool
) -> RolloutState:
    """A rollout of which nothing has started."""
    views = tuple(ClusterView(name=name) for name in clusters)
    return RolloutState(policy=policy, limits=limits, clusters=views, has_gate=has_gate)


# Events


@attrs.frozen(kw_only=True)
class ClusterPlanned:
    """A cluster has frozen its list. ``named``: names of the request's lists that it has."""

    cluster: str
    hosts: tuple[str, ...]
    max_parallel: int
    named: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class ClusterNotPlanned:
    """A cluster could not make its list."""

    cluster: str
    problem: str


@attrs.frozen
class GatePassed:
    """The start gate was approved."""


@attrs.frozen(kw_only=True)
class GateShut:
    """The start gate was rejected, or expired."""

    outcome: Outcome
    reason: str


@attrs.frozen(kw_only=True)
class ClusterProgressed:
    """Cumulative counts of a cluster that runs. ``stopped``: why it has stopped by itself."""

    cluster: str
    acted: int
    failed: int
    unreachable: int
    stopped: str | None = None


@attrs.frozen(kw_only=True)
class ClusterEnded:
    """A cluster's child has ended."""

    cluster: str
    outcome: Outcome
    reason: str = ""
    acted: int = 0
    failed: int = 0
    unreachable: int = 0


@attrs.frozen
class AbortRequested:
    """Somebody cancelled the rollout."""

    reason: str


RolloutEvent: TypeAlias = (
    ClusterPlanned
    | ClusterNotPlanned
    | GatePassed
    | GateShut
    | ClusterProgressed
    | ClusterEnded
    | AbortRequested
)


# Commands


@attrs.frozen
class OpenGate:
    """The plan is complete: ask the approvers."""


@attrs.frozen
class GrantSlots:
    """Tell a cluster how many hosts it may have in flight."""

    cluster: str
    slots: int | None


@attrs.frozen
class StopCluster:
    """Tell a cluster to start nothing new; its in-flight policy says what becomes of the others."""

    cluster: str
    reason: str


@attrs.frozen
class CancelCluster:
    """Cancel a cluster's child: an abort."""

    cluster: str
    reason: str


@attrs.frozen
class EndRollout:
    """Every cluster has ended."""


RolloutCommand: TypeAlias = OpenGate | GrantSlots | StopCluster | CancelCluster | EndRollout
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
            max_parallel=event.max_parallel,
        ),
        seen=seen,
        named=state.named | {canonical(name) for name in event.named},
        problems=(*state.problems, *twice),
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
    if state.has_gate:
        return attrs.evolve(state, phase="gate"), (OpenGate(),)
    return _run(state)


def _plan_problems(state: RolloutState) -> list[str]:
    limits, found = state.limits, list[str]()
    hosts = sum(view.hosts for view in state.clusters)
    for field in ("only_hosts", "exclude_hosts"):
        for name in getattr(limits, field):
            if canonical(name) not in state.named:
                hint = did_you_mean(canonical(name), state.seen)
                found.append(f"{field!r} names {name!r}, which no cluster has{hint}")
    if sum(map(len, state.seen)) > MAX_NAMES:
        found.append(
            f"the names of all hosts have more than {MAX_NAMES:,} characters: no report could name them; "
            "split the rollout"
        )
    if limits.max_hosts is not None and hosts > limits.max_hosts:
        found.append(f"'max_hosts' is {limits.max_hosts}, but the clusters have {hosts} hosts")
    expected = limits.expect_hosts
    if expected is not None and abs(hosts - expected) * 10 > expected:
        found.append(
            f"'expect_hosts' is {expected}, but the clusters have {hosts} hosts: more than 10% off"
        )
    return found


def _gate_passed(state: RolloutState, event: GatePassed) -> Decision:
    return _run(state) if state.phase == "gate" else (state, ())


def _run(state: RolloutState) -> Decision:
    return _grant(attrs.evolve(state, phase="running", seen={}))


def _gate_shut(state: RolloutState, event: GateShut) -> Decision:
    return _shut(state, event.outcome, event.reason) if state.phase == "gate" else (state, ())


def _shut(state: RolloutState, outcome: Outcome, reason: str) -> Decision:
    """Ends a rollout of which nothing has started: its clusters only wait."""
    state = attrs.evolve(state, outcome=outcome, reason=reason, phase="stopping", seen={})
    return _when_ended(state, tuple(StopCluster(name, reason) for name in _unfinished(state)))


# Running


def _progressed(state: RolloutState, event: ClusterProgressed) -> Decision:
    view = _view(state, event.cluster)
    if view.phase == "ended":
        return state, ()
    state = _with(
        state,
        event.cluster,
        acted=max(view.acted, event.acted),
        failed=max(view.failed, event.failed),
        unreachable=max(view.unreachable, event.unreachable),
    )
    return _after_counts(state, event.cluster, event.stopped)


def _ended(state: RolloutState, event: ClusterEnded) -> Decision:
    view = _view(state, event.cluster)
    if view.phase == "ended":
        return state, ()
    state = _with(
        state,
        event.cluster,
        phase="ended",
        slots=0,
        # One that ended without a report does not know better than its last message.
        acted=max(view.acted, event.acted),
        failed=max(view.failed, event.failed),
        unreachable=max(view.unreachable, event.unreachable),
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
        return _grant(state)
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
    commands = tuple(StopCluster(name, reason) for name in _unfinished(state))
    outcome = state.outcome or Outcome.STOPPED
    state = attrs.evolve(state, phase="stopping", outcome=outcome, reason=state.reason or reason)
    return state, commands


def _abort_requested(state: RolloutState, event: AbortRequested) -> Decision:
    if state.outcome in (Outcome.ABORTED, Outcome.REJECTED, Outcome.EXPIRED):
        return state, ()  # of what was rejected or expired nothing has started: it ends by itself
    why = f"{event.reason}; before that: {state.reason}" if state.reason else event.reason
    state = attrs.evolve(state, outcome=Outcome.ABORTED, reason=why, phase="stopping", seen={})
    return _when_ended(
        state, tuple(CancelCluster(name, event.reason) for name in _unfinished(state))
    )


def _grant(state: RolloutState) -> Decision:
    """Slots for the clusters whose turn it is. A grant is never taken back, only the cluster's end frees it."""
    commands: list[RolloutCommand] = []
    for name, slots in grants(state).items():
        if _view(state, name).slots != slots or _view(state, name).phase == "planned":
            state = _with(state, name, slots=slots, phase="running")
            commands.append(GrantSlots(name, slots))
    return state, tuple(commands)


def grants(state: RolloutState) -> dict[str, int | None]:
    """How many hosts each cluster whose turn it is may have in flight. None: as many as its plan says."""
    at_once = state.policy.max_parallel_clusters
    turn = [view for view in state.clusters if view.phase in ("planned", "running")][:at_once]
    limit = state.policy.max_parallel_total
    if limit is None:
        return {view.name: None for view in turn}
    total = max(rounded_down(limit, sum(view.hosts for view in state.clusters)), 1)
    shares = {view.name: view.slots or 0 for view in turn}
    wanted = {view.name: max(view.max_parallel, 1) for view in turn}
    free = total - sum(shares.values())
    while free > 0 and any(shares[name] < wanted[name] for name in shares):
        for name in shares:
            if free > 0 and shares[name] < wanted[name]:
                shares[name] += 1
                free -= 1
    return {name: share for name, share in shares.items() if share}


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
    AbortRequested: _abort_requested,
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
