"""What a rollout does, or would do, and the fingerprint that people vote on."""

from __future__ import annotations

from ..models import ClusterOutline, PatchRequest, RolloutPlan
from ..models._orders import ClusterUpdate, ResolvedProcedure
from ..models._report import MAX_LISTED, HealthChecked
from ..models._wire import to_json
from ..policy._gates import gated_waves
from ..policy._plan import fingerprint, gates_in_order, least_duration, shown_fingerprint
from ..policy._rollout_policy import ClusterPlan, cluster_plan, wave_sizes
from ._cluster_told import ToldByClusters

_NO_WORK = frozenset(
    {
        "requester",
        "approvals",
        "max_hosts",
        "expect_hosts",
        "only_hosts",
        "exclude_hosts",
        "allow_empty",
        "planned_hosts",
        "plan_digest",
        "dry_run",
    }
)
"""Fields of a request that do not say what is done: who asks, who agrees, and how the hosts are named."""


def plan_digest(
    request: PatchRequest, procedure: ResolvedProcedure | None, told: ToldByClusters
) -> str:
    """The fingerprint of what is done: hosts, steps, commands, policy. Empty until all lists are made."""
    lists = told.digests()
    if len(lists) < len(request.clusters) or not all(lists.values()):
        return ""
    asked = {name: value for name, value in to_json(request).items() if name not in _NO_WORK}
    return fingerprint([lists, to_json(procedure), asked])


def health_of(procedure: ResolvedProcedure | None) -> HealthChecked:
    """Whether some step looks at a host's health."""
    known = procedure is None or any(step.kind == "health" for step in procedure.steps)
    return "checked" if known else "not checked"


def rollout_plan(
    rollout: str,
    request: PatchRequest,
    procedure: ResolvedProcedure | None,
    told: ToldByClusters,
    *,
    digest: str,
    windows: str,
) -> RolloutPlan:
    """What it does, or would do. ``windows``: why the maintenance windows are open or closed."""
    steps, gates = procedure.steps if procedure else (), request.approvals
    rings = request.policy.rings or (request.clusters,)
    plans = [
        (
            name,
            cluster_plan(request.policy, len(told.hosts(name)), gates=gated_waves(gates, name)),
        )
        for name in request.clusters
    ]
    outlines, room = list[ClusterOutline](), MAX_LISTED
    for name, plan in plans:
        ring = next(number for number, ring in enumerate(rings, start=1) if name in ring)
        outline = _outline(name, ring, plan, told.first(name), room=room)
        outlines.append(outline)
        room -= len(outline.came_later)
    waves = {each.cluster: len(each.waves) for each in outlines}
    return RolloutPlan(
        rollout=rollout,
        request=request,
        digest=digest,
        clusters=tuple(outlines),
        steps=tuple(step.name for step in steps),
        gates=gates_in_order(gates, rings, waves),
        windows=windows,
        least_duration=least_duration(request.policy, plans),
        health=health_of(procedure),
    )


def _outline(
    name: str, ring: int, plan: ClusterPlan, told: ClusterUpdate | None, *, room: int
) -> ClusterOutline:
    """``room``: how many of its hosts that are left out can be named."""
    later = told.came_later if told is not None else ()
    some = later[:room]
    return ClusterOutline(
        cluster=name,
        ring=ring,
        hosts=plan.hosts,
        pilots=plan.pilots,
        waves=wave_sizes(plan),
        max_parallel=plan.max_parallel,
        digest=shown_fingerprint(told.digest) if told is not None else "",
        came_later=some,
        came_later_omitted=len(later) - len(some) + told.came_later_omitted
        if told is not None
        else 0,
        gone=told.gone if told is not None else 0,
    )
