"""A cluster's list: asked for once, checked, put in order and frozen; no host joins it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import attrs
from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy

from ..exceptions import InvalidRequest
from ..models import Host, HostList, HostQuery
from ..models._carried import MAX_LIST, Carried, CarriedState, FrozenHosts, size
from ..models._orders import ClusterRequest
from ..policy import RolloutPolicy
from ..policy import _cluster as machine
from ..policy._order import domain_of, ordered, why_no_domains
from ..policy._plan import list_fingerprint
from ..policy._rollout_policy import ClusterPlan, cluster_plan
from ..policy._rules import canonical
from ..policy._tally import Group
from ._raw import read

MAX_HOSTS = 50_000
"""Hosts of one cluster: what each run of its workflow has to know of them grows with them."""

MAX_INPUT = 1_500_000
"""Characters of a list and of the request: beside them there is room for what happens to the hosts."""

MAX_PAGES = 1_000

_NOTHING = CarriedState(codes="", group=Group(wave=0, limit=0))


def _places(listing: Listing) -> Mapping[str, int]:
    return {canonical(name): index for index, name in enumerate(listing.hosts.names)}


@attrs.frozen(kw_only=True)
class Listing:
    """What is known of a cluster's list. Hosts are numbers everywhere else: their places in it."""

    frozen: bool = False
    hosts: FrozenHosts = attrs.field(factory=FrozenHosts)
    digest: str = ""
    named: tuple[str, ...] = ()
    """Names of the request's ``only_hosts`` and ``exclude_hosts`` that are listed."""
    came_later: tuple[str, ...] = ()
    """Hosts that are not in the plan that was given, and are left out."""
    came_later_count: int = 0
    gone: frozenset[int] = frozenset()
    """Hosts that are in that plan, but are not listed any more."""
    index: Mapping[str, int] = attrs.field(
        init=False, eq=False, default=attrs.Factory(_places, takes_self=True)
    )
    """The place of each host, by its canonical name."""


async def list_hosts(request: ClusterRequest) -> list[Host]:
    """Asks for all pages of the list."""
    hosts: list[Host] = []
    pages: set[str | None] = set()
    page: str | None = None
    while page not in pages:
        pages.add(page)
        query = HostQuery(
            cluster=request.cluster,
            page=page,
            rollout=request.rollout,
            params=request.request.params,
            secrets=request.request.secrets,
        )
        answer = await workflow.execute_activity(
            "list_hosts",
            query,
            result_type=RawValue,
            start_to_close_timeout=timedelta(minutes=10),
            heartbeat_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(maximum_interval=timedelta(minutes=1), maximum_attempts=5),
        )
        found = read(answer, HostList)
        hosts.extend(found.hosts)
        if len(hosts) > MAX_HOSTS:
            raise InvalidRequest([f"has more than {MAX_HOSTS:,} hosts: split it"])
        page = found.next_page
        if page is None:
            return hosts
        if len(pages) >= MAX_PAGES:
            raise InvalidRequest([f"list_hosts answered more than {MAX_PAGES} pages"])
    raise InvalidRequest([f"list_hosts came back to page {page!r}: its pages do not end"])


def listed(request: ClusterRequest, hosts: Sequence[Host]) -> Listing:
    """What can be said of a list before it is checked: the rollout is told, refused or not."""
    seen = {canonical(host.name) for host in hosts}
    asked = {canonical(name) for name in request.request.only_hosts}
    asked |= {canonical(name) for name in request.request.exclude_hosts}
    later: tuple[str, ...] = ()
    if request.planned_hosts is not None:
        meant = {canonical(name) for name in request.planned_hosts}
        later = tuple(host.name for host in hosts if canonical(host.name) not in meant)
    return Listing(named=tuple(sorted(seen & asked)), came_later=later, came_later_count=len(later))


def frozen(
    listing: Listing,
    request: ClusterRequest,
    hosts: Sequence[Host],
    order: Callable[[Sequence[Host]], Sequence[Host]],
) -> Listing:
    """The list in its order, and frozen. ``order``: the user's hook.

    Raises:
        InvalidRequest: With all that is wrong with it.
    """
    seen: set[str] = set()
    problems: list[str] = []
    for host in hosts:
        if canonical(host.name) in seen:
            problems.append(f"host {host.name!r} is listed twice")
        seen.add(canonical(host.name))
    # Of all that are listed: those that are left to do may be the ones that nobody has labelled.
    unknown = why_no_domains(request.request.policy.order, (host.labels for host in hosts))
    if unknown is not None:
        problems.append(unknown)
    gone = frozenset[int]()
    if request.planned_hosts is not None:
        in_order, gone = _as_planned(hosts, request.planned_hosts)
    else:
        wanted = _wanted(request, hosts)
        in_order = tuple(order(_in_order(request, wanted)))
        if sorted(map(id, in_order)) != sorted(map(id, wanted)):
            problems.append("order_hosts() must return the hosts it was given, each once")
    if len(in_order) > MAX_HOSTS:
        problems.append(f"has more than {MAX_HOSTS:,} hosts: split it")
    if problems:
        raise InvalidRequest(problems[:20])
    kept = FrozenHosts.of(in_order)
    _check_size(request, kept, listing.named)
    return attrs.evolve(
        listing, frozen=True, hosts=kept, digest=list_fingerprint(kept.names), gone=gone
    )


def taken_over(carried: Carried) -> Listing:
    """The list as the run before this one had it."""
    return Listing(
        frozen=True,
        hosts=carried.hosts,
        digest=carried.digest,
        came_later=carried.came_later,
        came_later_count=carried.came_later_count,
    )


def plan_of(
    hosts: FrozenHosts, *, asked: RolloutPolicy, now: RolloutPolicy, gates: frozenset[int]
) -> ClusterPlan:
    """The plan that was asked for, under the limits that hold now."""
    domains = tuple(domain_of(asked.order, hosts.labels(n)) for n in range(len(hosts)))
    plan = cluster_plan(asked, len(hosts), gates=gates, domains=domains)
    return machine.limited(plan, cluster_plan(now, len(hosts)))


def _wanted(request: ClusterRequest, hosts: Sequence[Host]) -> list[Host]:
    only = {canonical(name) for name in request.request.only_hosts}
    left_out = {canonical(name) for name in request.request.exclude_hosts}
    return [
        host
        for host in hosts
        if canonical(host.name) not in left_out and (not only or canonical(host.name) in only)
    ]


def _in_order(request: ClusterRequest, hosts: Sequence[Host]) -> tuple[Host, ...]:
    order = request.request.policy.order
    told = [(host.name, domain_of(order, host.labels), host.down) for host in hosts]
    return tuple(hosts[at] for at in ordered(order, told, rollout_id=request.rollout))


def _as_planned(
    hosts: Sequence[Host], planned: Sequence[str]
) -> tuple[tuple[Host, ...], frozenset[int]]:
    """The hosts of the plan in its order, whatever is listed now, and which of them are gone."""
    there = {canonical(host.name): host for host in hosts}
    gone = (index for index, name in enumerate(planned) if canonical(name) not in there)
    known = (there.get(canonical(name)) or Host(name=name) for name in planned)
    return tuple(known), frozenset(gone)


def _check_size(request: ClusterRequest, hosts: FrozenHosts, named: tuple[str, ...]) -> None:
    """A list that no run could hand to the next, or tell the rollout, is refused now."""
    there = size(hosts)
    asked = request.continued(Carried(hosts=FrozenHosts(), state=_NOTHING), None, None)
    if there > MAX_LIST:
        raise InvalidRequest(
            [
                f"its hosts' names and labels have {there:,} characters, at most {MAX_LIST:,} can be "
                "carried from run to run: split it, or give its hosts fewer labels"
            ]
        )
    most = max(size(asked), size(named))
    if there + most > MAX_INPUT:
        raise InvalidRequest(
            [
                f"its hosts' names and labels and the request have {there + most:,} characters, at most "
                f"{MAX_INPUT:,} can be carried from run to run: split it, or ask for less at once"
            ]
        )
