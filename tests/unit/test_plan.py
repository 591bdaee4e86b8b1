"""What follows from a plan: the request that carries it out, the request for a rest, how large both may be."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_patching.exceptions import InvalidRequest
from temporal_patching.models import PatchRequest
from temporal_patching.models._plan import for_hosts
from temporal_patching.policy import ApprovalPolicy, RolloutPolicy

ALICE, CAROL = "alice@example.com", "carol@example.com"


def asks(hours: int = 4) -> ApprovalPolicy:
    """A gate of Alice's; its timeout tells it from the others."""
    return ApprovalPolicy(approvers=[ALICE], timeout=timedelta(hours=hours))


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
