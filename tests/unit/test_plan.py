"""What follows from a plan: the request that carries it out, the request for a rest, how large both may be."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_patching.client._rollout import _LARGEST as LARGEST
from temporal_patching.exceptions import InvalidRequest
from temporal_patching.models import ClusterOutline, HostsPage, PatchRequest, RolloutPlan
from temporal_patching.models._orders import ClusterRequest, ResolvedProcedure
from temporal_patching.models._plan import PAGE, for_hosts
from temporal_patching.models._wire import from_json, to_json
from temporal_patching.policy import (
    DEFAULT_STEPS,
    ApprovalPolicy,
    Calendar,
    DatedPeriod,
    MaintenanceWindows,
    RolloutPolicy,
    Soak,
)
from temporal_patching.policy._plan import fingerprint, gates_in_order, least_duration
from temporal_patching.policy._plan_check import MAX_NAMES
from temporal_patching.policy._rollout_policy import cluster_plan

ALICE, CAROL = "alice@example.com", "carol@example.com"


def asks(hours: int = 4) -> ApprovalPolicy:
    """A gate of Alice's; its timeout tells it from the others."""
    return ApprovalPolicy(approvers=[ALICE], timeout=timedelta(hours=hours))


def a_plan(hosts: int = 2) -> RolloutPlan:
    """What the ``plan`` query answers: no host is named."""
    request = PatchRequest(clusters=["a"], requester=CAROL, allow_empty=True)
    outline = ClusterOutline(cluster="a", hosts=hosts)
    return RolloutPlan(rollout="plan-1", request=request, digest="d", clusters=[outline])


# The request that carries a plan out


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (a_plan(), "does not name its hosts"),
        (attrs.evolve(a_plan(), hosts={"a": ["a-1"]}), "does not name its hosts"),
        (attrs.evolve(a_plan(), hosts={"b": ["a-1", "a-2"]}), "does not name its hosts"),
        (attrs.evolve(a_plan(), clusters=(), hosts={}), "does not name its hosts"),
        (attrs.evolve(a_plan(), digest="", hosts={"a": ["a-1", "a-2"]}), "is not complete"),
    ],
)
def test_a_plan_without_names_is_not_all_hosts(plan: RolloutPlan, said: str) -> None:
    """What names nothing never means everything."""
    with pytest.raises(InvalidRequest, match=f"'plan-1' {said}: read it by"):
        assert plan.planned


def test_a_plan_with_names_is_carried_out() -> None:
    """Its hosts and nothing else; a cluster without any stays without any."""
    named = attrs.evolve(a_plan(), hosts={"a": ["a-1", "a-2"]}).planned
    assert (named.planned_hosts, named.plan_digest) == ({"a": ("a-1", "a-2")}, "d")
    assert attrs.evolve(a_plan(0), hosts={"a": []}).planned.planned_hosts == {"a": ()}


def test_many_waves_are_not_all_printed() -> None:
    """A plan in lines stays one that people read."""
    outline = ClusterOutline(cluster="a", hosts=4_001, pilots=1, waves=[2] * 2_000)
    lines = attrs.evolve(a_plan(), clusters=[outline]).summary.splitlines()
    assert lines[1].endswith("waves of 2, 2, 2, 2, 2, 2, 2, 2, … (2000 in all); 1 at once")


@pytest.mark.parametrize(
    ("gates", "order"),
    [
        (["wave-2", "start", "promote"], ["start", "promote", "wave-2"]),
        # c has a gate of its own, so that of all asks in the second ring.
        (["promote", "ring-2", "promote/c"], ["promote/c", "ring-2", "promote"]),
        (["wave-2/a", "ring-1", "ring-2", "promote"], ["ring-1", "promote", "ring-2", "wave-2/a"]),
        # c, in the first ring, has one wave only; nobody has nine.
        (["wave-9", "wave-2", "ring-2"], ["ring-2", "wave-2", "wave-9"]),
        (["wave-2/b", "wave-2/a", "wave-2"], ["wave-2/a", "wave-2/b", "wave-2"]),
    ],
)
def test_gates_in_the_order_in_which_they_ask(gates: list[str], order: list[str]) -> None:
    """Ring by ring, wave by wave; the gates that nobody comes to are last."""
    waves = {"a": 2, "b": 3, "c": 1}
    assert gates_in_order(gates, [["c"], ["a", "b"]], waves) == tuple(order)


# How long it takes at least, and what it is called


def takes(hosts: dict[str, int], **fields: Any) -> timedelta | None:
    """How long a rollout takes at least whose hosts take five minutes each."""
    always = DatedPeriod(start="2020-01-01T00:00", duration=timedelta(days=3650))
    windows = MaintenanceWindows(
        calendars=[Calendar(time_zone="UTC", dated=[always])], host_duration=timedelta(minutes=5)
    )
    policy = RolloutPolicy(**{"pilot_hosts": 0, "windows": windows, **fields})
    return least_duration(policy, [(name, cluster_plan(policy, n)) for name, n in hosts.items()])


def test_a_cluster_takes_its_rounds_and_a_soak_between_two_groups() -> None:
    """No group begins before the one before it has ended; as many hosts at once as both widths let."""
    one, minutes = {"a": 12}, timedelta(minutes=1)
    assert takes(one) == 12 * 5 * minutes
    wide = {"max_parallel": 4, "max_out_of_service": 3}
    assert takes(one, **wide) == 4 * 5 * minutes
    assert takes(one, max_parallel=3, max_out_of_service=4) == 4 * 5 * minutes
    waves = {**wide, "pilot_hosts": 1, "waves": [4, "100%"]}
    assert takes(one, **waves) == (1 + 2 + 3) * 5 * minutes
    soak = Soak(duration=7 * minutes)
    assert takes(one, **waves, soak=soak) == ((1 + 2 + 3) * 5 + 2 * 7) * minutes
    assert takes({"a": 0}, soak=soak) == 0 * minutes


def test_rings_take_their_time_one_after_the_other_and_clusters_at_once() -> None:
    """Each ring as long as its longest lane; without rings all clusters are one."""
    some, minutes = {"a": 6, "b": 4, "c": 3, "d": 2}, timedelta(minutes=1)
    assert takes(some) == 6 * 5 * minutes
    assert takes(some, max_parallel_clusters=1) == 15 * 5 * minutes
    assert takes(some, max_parallel_clusters=2) == (6 + 2) * 5 * minutes  # c behind b, d behind a
    assert takes(some, max_parallel_clusters=9) == 6 * 5 * minutes
    rings = [["c", "b"], ["d", "a"]]
    assert takes(some, rings=rings) == (4 + 6) * 5 * minutes
    assert takes(some, rings=rings, max_parallel_clusters=1) == 15 * 5 * minutes


def test_nobody_knows_how_long_it_takes_if_no_host_does() -> None:
    """Without windows nothing is declared, nor with windows that say nothing of it."""
    assert takes({"a": 3}, windows=None) is None
    always = DatedPeriod(start="2020-01-01T00:00", duration=timedelta(days=3650))
    silent = MaintenanceWindows(calendars=[Calendar(time_zone="UTC", dated=[always])])
    assert takes({"a": 3}, windows=silent, soak=Soak(duration=timedelta(hours=1))) is None


def test_a_fingerprint_is_that_of_what_is_written_not_of_how() -> None:
    """The order of the fields is not part of it; it is anchored, since people compare it over releases."""
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1, "b": [2]}) == "0855bfc20eb6cfaa4be7d6b510c63dd2"
    assert fingerprint({"a": 1, "b": [3]}) != fingerprint({"a": 1, "b": [2]})


# The request for a rest

CLUSTERS = ("a", "b", "c", "d", "e")


@given(st.data())
def test_a_rest_asks_before_whatever_was_asked_before(data: st.DataObject) -> None:
    """Whichever clusters are left: each stands behind the gates that it stood behind; none asks about nothing."""
    ring_of = {name: data.draw(st.integers(1, 3)) for name in CLUSTERS}
    numbers = sorted(set(ring_of.values()))
    rings = [[name for name in CLUSTERS if ring_of[name] == number] for number in numbers]
    names = ["start", "promote", *(f"wave-2/{name}" for name in CLUSTERS)]
    names += [f"ring-{number}" for number in range(1, len(rings) + 1)]
    gates = {
        name: asks(hours) for hours, name in enumerate(names, start=1) if data.draw(st.booleans())
    }
    left = data.draw(st.sets(st.sampled_from(CLUSTERS), min_size=1))
    request = PatchRequest(
        clusters=CLUSTERS, requester=CAROL, policy=RolloutPolicy(rings=rings), approvals=gates
    )
    hosts = {name: [f"{name}-1"] if name in left else [] for name in CLUSTERS}
    rest = for_hosts(request, hosts, requester=CAROL)
    assert set(rest.clusters) == left

    def before(asked: PatchRequest, cluster: str) -> list[ApprovalPolicy | None]:
        (ring,) = (n for n, ring in enumerate(asked.policy.rings, start=1) if cluster in ring)
        wanted = ("start", f"ring-{ring}", "promote", f"wave-2/{cluster}")
        return [asked.approvals.get(gate) for gate in wanted]

    for cluster in left:
        assert before(rest, cluster) == before(request, cluster)
    behind = {id(policy) for cluster in left for policy in before(rest, cluster)}
    for policy in rest.approvals.values():
        assert id(policy) in behind, "a gate before nothing would never ask"


def test_a_rest_of_nothing_is_refused() -> None:
    """No host is never taken for all of them."""
    request = PatchRequest(clusters=["a"], requester=CAROL)
    with pytest.raises(InvalidRequest, match="nothing is left to do"):
        for_hosts(request, {"a": []}, requester=CAROL)


def test_a_rest_of_fifteen_thousand_hosts_can_be_sent() -> None:
    """Names as long as a rollout may have: the request, each cluster's part and a page fit in their payloads."""
    all_hosts = {
        f"cluster-{n}": [f"rack-{n:02}-host-{m:05}.example".ljust(25, "x") for m in range(4_000)]
        for n in range(5)
    }
    request = PatchRequest(
        clusters=[*all_hosts],
        requester=CAROL,
        policy=RolloutPolicy(rings=[[each] for each in all_hosts]),
    )
    rest = {
        name: [host for index, host in enumerate(hosts) if index % 4]
        for name, hosts in all_hosts.items()
    }
    asked = for_hosts(request, rest, requester=CAROL)
    assert sum(map(len, asked.planned_hosts.values())) == 15_000
    longest = MAX_NAMES / 20_000
    assert max(len(host) for hosts in all_hosts.values() for host in hosts) >= longest
    assert size(asked) < LARGEST / 2
    assert from_json(json.loads(json.dumps(to_json(asked))), PatchRequest) == asked
    # What the rollout answers to the "plan" query has the request in it.
    outlines = [ClusterOutline(cluster=name, hosts=len(hosts)) for name, hosts in rest.items()]
    plan = RolloutPlan(rollout="rest-1", request=asked, digest="d" * 32, clusters=outlines)
    assert size(plan) < LARGEST / 2
    for name in asked.clusters:
        part = ClusterRequest(
            rollout="rest-1",
            cluster=name,
            request=attrs.evolve(asked, planned_hosts={}),
            procedure=ResolvedProcedure(
                steps=DEFAULT_STEPS, host_workflow="h", cluster_workflow="c"
            ),
            planned_hosts=asked.planned_hosts[name],
        )
        assert size(part) < LARGEST / 4
    page = HostsPage(hosts=["x" * 253] * PAGE, codes="." * PAGE)
    assert size(page) < LARGEST


def size(value: object) -> int:
    """Characters of a payload."""
    return len(json.dumps(to_json(value)))
