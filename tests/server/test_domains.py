"""Failure domains: what holds for hosts that have no label, on a real server."""

from __future__ import annotations

import uuid

import pytest
from temporalio.client import Client

from temporal_patching.models import Outcome
from temporal_patching.policy import HostOrder, RolloutPolicy
from temporal_patching.testing import SimulatedFleet
from tests.rollouts import ask, site


def by_rack(most: int | None = 1) -> RolloutPolicy:
    """As wide as it may be, spread over racks."""
    order = HostOrder(by="spread", domain_label="rack", max_per_domain=most)
    return RolloutPolicy(pilot_hosts=0, max_parallel="100%", order=order)


@pytest.fixture
def eu() -> str:
    """A cluster's name that no other test has."""
    return f"eu-{uuid.uuid4().hex[:6]}"


async def test_a_label_that_no_host_has_is_refused(client: Client, eu: str) -> None:
    """It would be one domain of all: said while planning, with what the hosts have, and nothing is touched."""
    other = f"{eu}-b"
    labels = {f"{eu}-1": {"rack": "r1"}, f"{other}-1": {"rakc": "r1"}, f"{other}-2": {"zone": "a"}}
    fleet = SimulatedFleet({eu: 1, other: 2}, labels=labels)
    async with site(client, fleet) as here:
        report = await here.report(ask(eu, other, policy=by_rack()))
    assert report.outcome is Outcome.STOPPED
    assert f"cluster '{other}': 'policy.order.domain_label' must be a label" in report.reason
    assert "did you mean 'rakc'?; they have 'rakc', 'zone'" in report.reason
    assert f"cluster '{eu}'" not in report.reason
    assert fleet.started == ()


async def test_hosts_without_the_label_are_one_domain(client: Client, eu: str) -> None:
    """Nobody knows that they are apart: one of them at a time, beside one of each rack."""
    labels = {f"{eu}-{n}": {"rack": f"r{n}"} for n in (1, 2)}
    fleet = SimulatedFleet({eu: 5}, labels=labels)
    async with site(client, fleet) as here:
        report = await here.report(ask(eu, policy=by_rack()))
    assert report.outcome is Outcome.PATCHED
    assert fleet.most_in_flight() <= 3
    out: set[str] = set()
    for effect in fleet.log:
        if effect.host in labels or effect.host == eu:
            continue
        if (effect.step, effect.what) == ("clear_maintenance_mode", "done"):
            out.discard(effect.host)  # its last step
        else:
            out.add(effect.host)
            assert len(out) == 1, effect


async def test_the_rest_may_be_those_without_a_label(client: Client, eu: str) -> None:
    """What is left to do is not asked for the label, as long as some host of the cluster has it."""
    fleet = SimulatedFleet({eu: 3}, labels={f"{eu}-1": {"rack": "r1"}})
    async with site(client, fleet) as here:
        some = ask(eu, policy=by_rack(), planned_hosts={eu: [f"{eu}-2", f"{eu}-3"]})
        report = await here.report(some)
    assert report.outcome is Outcome.PATCHED
    assert fleet.most_in_flight() == 1
