"""What a plan says beside its hosts: how long it takes at least, and a fingerprint of what would be done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

from ._gates import START, wave_gate
from ._rollout_policy import ClusterPlan, RolloutPolicy, wave_sizes
from ._rules import canonical


def fingerprint(what: object) -> str:
    """The same for the same JSON, on every machine, and short enough for a line: 128 bits, in hex."""
    written = json.dumps(what, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(written.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def list_fingerprint(names: Iterable[str]) -> str:
    """That of a frozen list of hosts, whole: the plan's is made of it. The order counts."""
    return hashlib.sha256("\n".join(map(canonical, names)).encode()).hexdigest()


def shown_fingerprint(whole: str) -> str:
    """What people are shown of a list's fingerprint."""
    return whole[:16]


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


def gates_in_order(
    gates: Iterable[str], rings: Iterable[Iterable[str]], waves: Mapping[str, int]
) -> tuple[str, ...]:
    """The gates in the order in which they ask, ring by ring; last those that will not ask.

    A gate of all clusters asks in the first ring that has a cluster that comes to it, and not to its own.

    Args:
        gates: Names of all gates.
        rings: The clusters of each ring.
        waves: How many waves each cluster has after its pilots.
    """
    given = set(gates)
    names = [START]
    for number, ring in enumerate(rings, start=1):
        clusters = tuple(ring)
        names.append(f"ring-{number}")
        for wave in range(1, max((waves[each] for each in clusters), default=0) + 1):
            gate = wave_gate(wave)
            there = [each for each in clusters if waves[each] >= wave]
            own = [f"{gate}/{each}" for each in there]
            names += own
            if not given.issuperset(own):
                names.append(gate)
    asking = tuple(dict.fromkeys(name for name in names if name in given))
    return (*asking, *sorted(given.difference(asking)))
