"""In which order the hosts of a cluster have their turn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal, final

import attrs

from ._rules import (
    Checked,
    at_least,
    at_most,
    canonical,
    did_you_mean,
    flag,
    must,
    one_of,
    optional,
    text,
)

OrderBy = Literal["listed", "shuffled", "spread"]
"""What the order of the hosts follows."""

MAX_KNOWN = 20
"""Labels that are named where the one that was meant is not there."""


@final
@attrs.frozen(kw_only=True)
class HostOrder(Checked):
    """In which order the hosts of a cluster start, pilots first.

    A failure domain is what fails together: a rack, a zone. A label of the host names it. The hosts that
    lack the label, or have it empty, are together one more domain: nobody knows that they are apart. A
    label that no host of a cluster has refuses the plan.

    Args:
        by: As the inventory lists them (``"listed"``, the default); in an order that looks random
            (``"shuffled"``), so that not the same host is a pilot each time; or with the hosts of one
            failure domain apart from each other (``"spread"``): the least distance between two of one
            domain is as large as the list allows.
        seed: The same seed gives the same order, on every machine; a host that is added or removed leaves
            the order of the others as it is. Default with ``"shuffled"``: the rollout's id. With
            ``"spread"`` the list is shuffled first if there is a seed, and inside of a domain the hosts
            are in that order, else as listed.
        domain_label: The label that names a host's failure domain. ``"spread"`` and ``max_per_domain``
            need it.
        max_per_domain: Hosts of one domain in flight or held out of service at once, whatever the order.
            Default: no limit of its own.
        down_first: Hosts that were already down when they were listed start first: nobody misses them.
            Among themselves they are in this order, too, and so are the others. Default False.

    Raises:
        InvalidRequest: A field is not valid; it names all that are not.

    Example:
        >>> order = HostOrder(by="spread", domain_label="rack")
        >>> hosts = [("a", "r1", False), ("b", "r1", False), ("c", "r2", False), ("d", "r2", False)]
        >>> [hosts[each][0] for each in ordered(order, hosts, rollout_id="patch-2026-11")]
        ['a', 'c', 'b', 'd']
    """

    by: OrderBy = attrs.field(
        default="listed", metadata=must(one_of("listed", "shuffled", "spread"))
    )
    seed: str | None = attrs.field(default=None, metadata=must(optional(text, at_most(200))))
    domain_label: str | None = attrs.field(
        default=None, metadata=must(optional(text, at_most(200)))
    )
    max_per_domain: int | None = attrs.field(default=None, metadata=must(optional(at_least(1))))
    down_first: bool = attrs.field(default=False, metadata=must(flag))

    def _relations(self) -> Iterator[str]:
        if self.domain_label is None and self.by == "spread":
            yield "'domain_label' must name the label to spread by, since 'by' is 'spread'"
        if self.domain_label is None and self.max_per_domain is not None:
            yield "'domain_label' must name the label that 'max_per_domain' counts by"
        if self.domain_label is not None and self.by != "spread" and self.max_per_domain is None:
            yield (
                f"'domain_label' changes nothing (got {self.domain_label!r}): set 'by' to 'spread', or "
                "'max_per_domain'"
            )
        if self.seed is not None and self.by == "listed":
            yield (
                f"'seed' changes nothing (got {self.seed!r}): set 'by' to 'shuffled' or to 'spread'"
            )


def domain_of(order: HostOrder, labels: Mapping[str, str]) -> str:
    """The failure domain of a host with these labels. ``""``: not known, or none are asked for."""
    if order.domain_label is None:
        return ""
    return labels.get(order.domain_label, "").strip()


def why_no_domains(order: HostOrder, labels: Iterable[Mapping[str, str]]) -> str | None:
    """Why the hosts cannot be told apart by the label, or None if they can, or need not be.

    Without this, a label that is misspelt would make one domain of the whole cluster.

    Args:
        order: What the order follows.
        labels: The labels of each host that is listed.
    """
    if order.domain_label is None:
        return None
    listed, known = False, dict[str, None]()
    for some in labels:
        if domain_of(order, some):
            return None
        listed = True
        known.update(dict.fromkeys(some))
    if not listed:
        return None  # an empty cluster is another problem
    has = ", ".join(map(repr, islice(known, MAX_KNOWN)))
    return (
        f"'policy.order.domain_label' must be a label of the hosts (got {order.domain_label!r}, which no "
        f"host has{did_you_mean(order.domain_label, islice(known, MAX_KNOWN))}; they have "
        f"{has or 'no labels at all'}): have list_hosts() give it to them, or name another"
    )


def ordered(
    order: HostOrder, hosts: Sequence[tuple[str, str, bool]], *, rollout_id: str
) -> tuple[int, ...]:
    """The order of the hosts, as positions in ``hosts``.

    Args:
        order: What the order follows.
        hosts: Name, failure domain (see ``domain_of``) and whether it is already down.
        rollout_id: The seed of a shuffle that has none of its own.
    """
    base: Sequence[int] = range(len(hosts))
    seed = order.seed
    if seed is None and order.by == "shuffled":
        seed = rollout_id
    if seed is not None and order.by != "listed":
        keys = [_key(seed, name) for name, _, _ in hosts]
        base = sorted(base, key=keys.__getitem__)
    parts: tuple[Sequence[int], ...] = (base,)
    if order.down_first:
        down = [each for each in base if hosts[each][2]]
        parts = (down, [each for each in base if not hosts[each][2]])
    if order.by == "spread":
        domains = [domain for _, domain, _ in hosts]
        parts = tuple(_spread(part, domains) for part in parts)
    return tuple(each for part in parts for each in part)


def _key(seed: str, name: str) -> bytes:
    # A host's place depends on itself only; and unlike random.shuffle it is the same in every Python.
    written = f"{len(seed)}:{seed}{canonical(name)}"
    return hashlib.sha256(written.encode("utf-8", "backslashreplace")).digest()


def _spread(base: Sequence[int], domains: Sequence[str]) -> list[int]:
    """With two hosts of one domain never closer to each other than they have to be."""
    by_domain: dict[str, list[int]] = {}
    for host in base:
        by_domain.setdefault(domains[host], []).append(host)
    # As many rounds as the largest domains have hosts: one of each in every round. The last round is theirs
    # alone; all others share the rounds before it, largest first, so that these are of one length.
    largest = max(map(len, by_domain.values()), default=0)
    rounds: list[list[int]] = [[] for _ in range(largest)]
    turn = 0
    for hosts in sorted(by_domain.values(), key=len, reverse=True):
        turns = list(range(largest))
        if len(hosts) < largest:
            turns = sorted((turn + each) % (largest - 1) for each in range(len(hosts)))
            turn += len(hosts)
        for each, host in zip(turns, hosts, strict=True):
            rounds[each].append(host)
    return [host for each in rounds for host in each]
