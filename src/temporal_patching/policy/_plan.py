"""What a plan says beside its hosts: how long it takes at least, and a fingerprint of what would be done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import timedelta

from ._gates import START, wave_gate
from ._rollout_policy import ClusterPlan, RolloutPolicy, wave_sizes


def fingerprint(what: object) -> str:
    """The same for the same JSON, on every machine."""
    written = json.dumps(what, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(written.encode("utf-8", "backslashreplace")).hexdigest()


def least_duration(
    policy: RolloutPolicy, plans: Sequence[tuple[str, ClusterPlan]]
) -> timedelta | None:
    """How long a rollout takes at least, if each host takes as long as it is declared to.

    Waiting for people and for windows is not counted. None if no duration is declared.

    Args:
        policy: The policy.
        plans: Each cluster's name and plan.
    """
    each = policy.windows.host_duration if policy.windows is not None else timedelta(0)
    if not each:
        return None
    soak = policy.soak.duration if policy.soak is not None else timedelta(0)
    alone = {name: _of_cluster(plan, each, soak) for name, plan in plans}
    rings = policy.rings or (tuple(alone),)
    at_once = policy.max_parallel_clusters
    return sum((_of_ring([alone[name] for name in ring], at_once) for ring in rings), timedelta(0))


def _of_cluster(plan: ClusterPlan, each: timedelta, soak: timedelta) -> timedelta:
    groups = [size for size in (plan.pilots, *wave_sizes(plan)) if size]
    width = min(plan.max_parallel, plan.max_out_of_service)
    rounds = sum(-(-size // width) for size in groups)
    return rounds * each + max(len(groups) - 1, 0) * soak


def _of_ring(clusters: Iterable[timedelta], at_once: int | None) -> timedelta:
    """The clusters begin in their order, so many at once."""
    lanes: list[timedelta] = []
    for duration in clusters:
        if at_once is None or len(lanes) < at_once:
            lanes.append(duration)
        else:
            lanes[lanes.index(min(lanes))] += duration
    return max(lanes, default=timedelta(0))


def in_order(gates: Iterable[str], waves: int, rings: int) -> tuple[str, ...]:
    """The gates in the order in which they ask, one ring after the other.

    Args:
        gates: Names of all gates.
        waves: The most waves of a cluster.
        rings: How many rings there are.
    """
    left = set(gates)
    names = [START, *(f"ring-{number}" for number in range(1, rings + 1))]
    names += [wave_gate(wave) for wave in range(1, waves + 1)]
    found: list[str] = []
    for name in names:
        found += sorted(gate for gate in left if gate.partition("/")[0] == name)
    return (*found, *sorted(left.difference(found)))
