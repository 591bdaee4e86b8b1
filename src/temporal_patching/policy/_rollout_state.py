"""What a rollout knows of its clusters, what happens to it, and what it wants done: plain data.

``_rollout`` decides over it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import attrs

from ._cluster import PauseAfter
from ._evolve import evolve
from ._gates import START
from ._repair import PendingRepair, Repair
from ._rollout_policy import RolloutPolicy
from ._states import Outcome

ClusterPhase = Literal["listing", "planned", "running", "ended"]
RolloutPhase = Literal["listing", "gate", "running", "stopping", "ended"]


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


@attrs.frozen(kw_only=True, slots=False)
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
    holds: int = 0
    """How many may be in flight by all the grants that it has not yet answered, and by those in flight then."""
    risks: int | None = 0
    """The same of those that may have failed or be in flight. None: nothing limits them."""
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
    waiting: Mapping[str, Repair] = attrs.field(factory=dict[str, Repair])
    """Of which hosts those are, in canonical form, and what is to be done with each."""


@attrs.frozen(kw_only=True, slots=False)
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
    ``repairs_waiting``: how many of those it has not begun; ``waiting``: of which hosts, and what.
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
    in_flight: int | None = None
    """How many of its hosts are in flight. None: it does not know its newest orders yet."""
    parked: Mapping[str, str] = attrs.field(factory=dict[str, str])
    repaired: int = 0
    repairs_waiting: int = 0
    waiting: Mapping[str, Repair] = attrs.field(factory=dict[str, Repair])


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
class CloseGate:
    """Ask no more: nobody waits at this gate."""

    gate: str


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


RolloutCommand: TypeAlias = OpenGate | CloseGate | TellCluster | CancelCluster | EndRollout


# What is asked of a state


def failures_of(view: ClusterView) -> int:
    """How many of a cluster's hosts have failed, unreachable ones included."""
    return view.failed + view.unreachable


def unfinished(state: RolloutState) -> tuple[str, ...]:
    return tuple(view.name for view in state.clusters if view.phase != "ended")


def view_of(state: RolloutState, cluster: str) -> ClusterView:
    return next(view for view in state.clusters if view.name == cluster)


def with_cluster(state: RolloutState, cluster: str, **changes: Any) -> RolloutState:
    views = tuple(
        evolve(view, **changes) if view.name == cluster else view for view in state.clusters
    )
    return evolve(state, clusters=views)
