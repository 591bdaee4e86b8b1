"""The order of hosts: as listed, shuffled by a seed, or spread over failure domains."""

from __future__ import annotations

import doctest
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_patching.exceptions import InvalidRequest
from temporal_patching.models._wire import from_json, to_json
from temporal_patching.policy import _order
from temporal_patching.policy._order import (
    HostOrder,
    OrderBy,
    domain_of,
    ordered,
    why_no_domains,
)
from temporal_patching.policy._rules import canonical
from tests.strategies import names, words

Facts = list[tuple[str, str, bool]]

ORDERS: tuple[OrderBy, ...] = ("listed", "shuffled", "spread")


@st.composite
def orders(draw: st.DrawFn) -> HostOrder:
    """Orders."""
    by = draw(st.sampled_from(ORDERS))
    most = draw(st.none() | st.integers(1, 3))
    return HostOrder(
        by=by,
        seed=None if by == "listed" else draw(st.none() | words),
        domain_label="rack" if by == "spread" or most else None,
        max_per_domain=most,
        down_first=draw(st.booleans()),
    )


@st.composite
def fleets(draw: st.DrawFn, most: int = 30) -> Facts:
    """Hosts with their domain and whether they are down."""
    racks = st.sampled_from(["", "r1", "r2", "r3", "r4", "r5"])
    return [(name, draw(racks), draw(st.booleans())) for name in draw(names(most=most))]


def place(hosts: Facts, order: HostOrder, rollout_id: str = "patch-1") -> list[str]:
    """The names in order."""
    return [hosts[each][0] for each in ordered(order, hosts, rollout_id=rollout_id)]


def least_distance(domains: Sequence[str]) -> int | None:
    """The least distance between two of one domain; None where no domain has two."""
    last: dict[str, int] = {}
    found: list[int] = []
    for each, domain in enumerate(domains):
        if domain in last:
            found.append(each - last[domain])
        last[domain] = each
    return min(found, default=None)


@given(orders(), fleets())
def test_every_order_has_every_host_once(order: HostOrder, hosts: Facts) -> None:
    """An order is a permutation, and the same whenever it is asked for."""
    found = ordered(order, hosts, rollout_id="patch-1")
    assert sorted(found) == list(range(len(hosts)))
    assert ordered(order, hosts, rollout_id="patch-1") == found


@given(fleets(), st.booleans())
def test_listed_is_as_listed(hosts: Facts, down_first: bool) -> None:
    """Without a wish the order is the inventory's; hosts that are down go first if asked, else not."""
    found = place(hosts, HostOrder(down_first=down_first))
    if down_first:
        hosts = sorted(hosts, key=lambda host: not host[2])
    assert found == [name for name, _, _ in hosts]


@given(orders(), fleets())
def test_down_first(order: HostOrder, hosts: Facts) -> None:
    """Hosts that are down go before all others, each part in the order that it has alone."""
    first = attrs.evolve(order, down_first=True)
    down, others = [each for each in hosts if each[2]], [each for each in hosts if not each[2]]
    assert place(hosts, first) == place(down, order) + place(others, order)


def test_who_asks_for_no_order_gets_the_list() -> None:
    """As it is: not even hosts that are down go first."""
    hosts = [("b", "r1", False), ("a", "r1", True), ("c", "r2", False)]
    assert place(hosts, HostOrder()) == ["b", "a", "c"]
    assert place(hosts, HostOrder(by="spread", domain_label="rack")) == ["b", "c", "a"]


# Shuffled


@given(fleets(), words, st.data())
def test_a_host_more_or_less_leaves_the_others_in_their_order(
    hosts: Facts, seed: str, data: st.DataObject
) -> None:
    """A shuffle places each host by itself: neither the others nor the listing's order matter."""
    order = HostOrder(by="shuffled", seed=seed)
    found = place(hosts, order)
    some = data.draw(st.lists(st.sampled_from(hosts), unique=True)) if hosts else []
    kept = {name for name, _, _ in some}
    assert place(some, order) == [name for name in found if name in kept]
    respelt = [(name.swapcase(), domain, down) for name, domain, down in hosts]
    assert [canonical(name) for name in place(respelt, order)] == [
        canonical(name) for name in found
    ]


def test_the_same_shuffle_on_every_machine() -> None:
    """A shuffle is anchored: it must not change with Python, the machine or a release."""
    hosts = [(f"web-{each}", "", False) for each in range(8)]
    july = HostOrder(by="shuffled", seed="2026-07")
    assert place(hosts, july) == JULY
    assert place(hosts, HostOrder(by="shuffled"), rollout_id="2026-07") == JULY
    assert place(hosts, july, rollout_id="patch-2") == JULY


JULY = ["web-1", "web-3", "web-6", "web-7", "web-0", "web-5", "web-2", "web-4"]


def test_shuffles_are_fair() -> None:
    """Over many rollouts every host is the pilot about equally often, and the orders differ."""
    hosts = [(f"web-{each}", "", False) for each in range(10)]
    found = [place(hosts, HostOrder(by="shuffled"), f"patch-{each}") for each in range(2_000)]
    for position in (0, 5, 9):
        often = Counter(each[position] for each in found)
        # 200 each; the hashes are fixed, so this is no matter of luck.
        assert len(often) == 10
        assert all(150 <= number <= 250 for number in often.values())
    assert len({tuple(each) for each in found}) == 2_000


# Spread

SPREAD = HostOrder(by="spread", domain_label="rack")


def arrangements(left: Counter[str]) -> Iterator[list[str]]:
    """All orders of a multiset of domains."""
    if not any(left.values()):
        yield []
    for domain in [each for each, number in left.items() if number]:
        left[domain] -= 1
        yield from ([domain, *rest] for rest in arrangements(left))
        left[domain] += 1


def sizes(total: int, most: int) -> Iterator[list[int]]:
    """All ways to have so many hosts in domains, none larger than ``most``."""
    if not total:
        yield []
    for first in range(min(total, most), 0, -1):
        yield from ([first, *rest] for rest in sizes(total - first, first))


@pytest.mark.parametrize("total", range(8))
def test_no_order_spreads_better(total: int) -> None:
    """Of all orders of up to seven hosts, in domains of any sizes, none has a larger least distance."""
    for numbers in sizes(total, total):
        domains = [f"r{rack}" for rack, number in enumerate(numbers) for _ in range(number)]
        best = max(
            (least_distance(each) or 0 for each in arrangements(Counter(domains))), default=0
        )
        for listed in (domains, domains[::-1], domains[::2] + domains[1::2]):
            hosts = [(f"h{each}", domain, False) for each, domain in enumerate(listed)]
            found = ordered(SPREAD, hosts, rollout_id="patch-1")
            assert (least_distance([listed[each] for each in found]) or 0) == best, numbers


@given(st.lists(st.integers(0, 12), min_size=0, max_size=400))
def test_many_hosts_are_spread_as_far_as_they_can_be(racks: list[int]) -> None:
    """The hosts of the largest domains are spaced evenly; inside of a domain the listing's order stays."""
    hosts = [(f"h{each}", f"r{rack}", False) for each, rack in enumerate(racks)]
    found = ordered(SPREAD, hosts, rollout_id="patch-1")
    often = Counter(racks)
    largest = max(often.values(), default=0)
    if largest > 1:
        # `largest - 1` gaps, and behind the last one a host of each of the largest domains.
        ends = list(often.values()).count(largest)
        expected = (len(racks) - ends) // (largest - 1)
        assert least_distance([hosts[each][1] for each in found]) == expected
    for rack in often:
        own = [each for each in found if racks[each] == rack]
        assert own == sorted(own)


@pytest.mark.parametrize(
    ("racks", "expected"),
    [
        ("AABB", "ABAB"),
        ("AAABBC", "ABCABA"),
        ("BAAA", "ABAA"),
        ("AAAAABBB", "ABABABAA"),
        ("AAABCDEFG", "ABDFACEGA"),
        ("ABCABC", "ABCABC"),
        ("AAAA", "AAAA"),
        ("CBA", "CBA"),
    ],
)
def test_spread_by_hand(racks: str, expected: str) -> None:
    """Domains take turns, in as many rounds as the largest has hosts; the first rounds are the mixed ones."""
    hosts = [(f"h{each}", rack, False) for each, rack in enumerate(racks)]
    found = ordered(SPREAD, hosts, rollout_id="patch-1")
    assert "".join(racks[each] for each in found) == expected


def test_a_seed_shuffles_what_is_spread() -> None:
    """With a seed other hosts of a domain go first; without one the rollout's id changes nothing."""
    hosts = [(f"h{each}", f"r{each % 3}", False) for each in range(30)]
    listed = place(hosts, SPREAD)
    assert place(hosts, SPREAD, "patch-2") == listed == [name for name, _, _ in hosts]
    seeded = HostOrder(by="spread", domain_label="rack", seed="2026-07")
    found = ordered(seeded, hosts, rollout_id="patch-1")
    assert [hosts[each][0] for each in found] != listed
    assert least_distance([hosts[each][1] for each in found]) == 3
    shuffled = place(hosts, HostOrder(by="shuffled", seed="2026-07"))
    for rack in ("r0", "r1", "r2"):
        own = [hosts[each][0] for each in found if hosts[each][1] == rack]
        assert own == [name for name in shuffled if (name, rack, False) in hosts]


# Domains and what people write


def test_hosts_without_the_label_are_one_domain() -> None:
    """What nobody labelled counts together: that it is apart is not known."""
    order = HostOrder(domain_label="rack", max_per_domain=1)
    assert domain_of(order, {"rack": "r1", "zone": "a"}) == "r1"
    assert domain_of(order, {"zone": "a"}) == domain_of(order, {"rack": " "}) == ""
    assert domain_of(HostOrder(), {"rack": "r1"}) == ""
    hosts = [("a", "", False), ("b", "", False), ("c", "r1", False)]
    assert place(hosts, SPREAD) == ["a", "c", "b"]


RACKS = HostOrder(by="spread", domain_label="rack")


@pytest.mark.parametrize(
    ("order", "labels", "said"),
    [
        (
            RACKS,
            [{"Rack": "r1"}, {"zone": "a"}],
            "no host has, did you mean 'Rack'?; they have 'Rack', ",
        ),
        (RACKS, [{}, {}], "they have no labels at all"),
        (RACKS, [{"rack": " "}, {"rack": ""}], "(got 'rack', which no host has"),
        (RACKS, [{}, {"rack": "r1"}], None),
        (RACKS, [], None),
        (HostOrder(), [{}, {}], None),
    ],
)
def test_a_label_that_no_host_has(
    order: HostOrder, labels: list[dict[str, str]], said: str | None
) -> None:
    """It would make one domain of all hosts: it is refused, and says what they have instead."""
    why = why_no_domains(order, labels)
    assert why is None if said is None else said in (why or ""), why


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"by": "random"}, "'by' must be in ('listed', 'shuffled', 'spread') (got 'random')"),
        ({"by": "shuffled", "seed": 7}, "'seed' must be a text (got 7)"),
        ({"by": "shuffled", "seed": ""}, "'seed' must not be empty (got '')"),
        ({"seed": "x"}, "'seed' changes nothing (got 'x'): set 'by' to 'shuffled' or to 'spread'"),
        ({"by": "spread"}, "'domain_label' must name the label to spread by"),
        ({"max_per_domain": 1}, "'domain_label' must name the label that 'max_per_domain' counts"),
        ({"domain_label": "rack"}, "'domain_label' changes nothing (got 'rack'): set 'by'"),
        (
            {"domain_label": "rack", "max_per_domain": 0},
            "'max_per_domain' must be >= 1 (got 0)",
        ),
        ({"domain_label": " ", "by": "spread"}, "'domain_label' must not be empty (got ' ')"),
        ({"down_first": 1}, "'down_first' must be True or False (got 1)"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], said: str) -> None:
    """What makes no sense or changes nothing is refused when it is written."""
    with pytest.raises(InvalidRequest) as refused:
        HostOrder(**fields)
    assert said in str(refused.value)


@given(orders())
def test_any_order_travels(order: HostOrder) -> None:
    """Every order comes back from JSON as it was."""
    assert from_json(json.loads(json.dumps(to_json(order))), HostOrder) == order


def test_examples() -> None:
    """The examples of the docstrings run."""
    assert doctest.testmod(_order) == (0, 3)
