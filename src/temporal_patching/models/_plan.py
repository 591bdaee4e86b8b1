"""What a rollout would do: its hosts by cluster, its waves, its gates, and a fingerprint of it all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import final

import attrs

from ..exceptions import InvalidRequest
from ..policy._approval import ApprovalPolicy
from ..policy._rules import as_tuple, at_least, must
from ._report import HealthChecked
from ._request import PatchRequest, as_hosts_of
from ._wire import WireType

PAGE = 5_000
"""Hosts of one page."""

SHOWN_WAVES = 8
"""Sizes of waves that a plan in lines shows."""


@final
@attrs.frozen(kw_only=True)
class HostsQuery(WireType):
    """Which hosts a cluster has frozen, and what became of each: the argument of the ``hosts`` query.

    Args:
        page: Which page, from 0.
    """

    _refuses_unknown = False

    page: int = attrs.field(default=0, metadata=must(at_least(0)))


@final
@attrs.frozen(kw_only=True)
class HostsPage(WireType):
    """The answer of a cluster's ``hosts`` query: at most 5,000 hosts of its frozen list.

    Attributes:
        hosts: Names, in the order in which they are patched.
        codes: One letter a host: ``.`` not started, ``r`` in flight, ``w`` parked, ``P`` patched, ``U``
            unchanged, ``F`` failed, ``X`` unreachable, ``B`` reboot pending, ``S`` skipped, ``C`` cancelled,
            ``G`` gone.
        listed: Whether the list was made at all.
        next_page: The page after this one, or None.
    """

    _refuses_unknown = False
    _written_short = True

    hosts: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    codes: str = ""
    listed: bool = True
    next_page: int | None = None


@final
@attrs.frozen(kw_only=True)
class ClusterOutline(WireType):
    """One cluster of a plan.

    Attributes:
        cluster: Its name.
        ring: In which ring, from 1.
        hosts: How many hosts it has.
        pilots: How many of them go first.
        waves: Sizes of the waves after the pilots, if every pilot counts.
        max_parallel: How many at once.
        digest: Fingerprint of its list.
        came_later: Hosts that are not in ``planned_hosts`` and are left out, at most 200 of all clusters.
        came_later_omitted: How many more there are.
        gone: How many hosts of ``planned_hosts`` are not there any more.
    """

    _refuses_unknown = False

    cluster: str
    ring: int = 1
    hosts: int = 0
    pilots: int = 0
    waves: tuple[int, ...] = ()
    max_parallel: int = 1
    digest: str = ""
    came_later: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    came_later_omitted: int = 0
    gone: int = 0


@final
@attrs.frozen(kw_only=True)
class RolloutPlan(WireType):
    """What a rollout does, or would do.

    Attributes:
        rollout: The workflow id of the rollout that was asked.
        request: What it was asked for.
        digest: Fingerprint of hosts, steps, commands and policy. Empty while the lists are not complete.
        clusters: Each cluster.
        hosts: The hosts of each cluster, in the order in which they start: the pilots first, then the waves.
            Filled in by the client: the ``plan`` query leaves them out.
        steps: The steps of each host that will run, in order.
        gates: The gates, in the order in which they ask, ring by ring; last those that will not.
        windows: Whether hosts may start now and until when, for people. Empty without windows.
        least_duration: How long it takes at least, by ``MaintenanceWindows.host_duration`` and the soaks.
            Waiting for people and windows is not counted. None if nothing is declared.
        health: ``"not checked"`` if the activities class has no health check.
    """

    _refuses_unknown = False

    rollout: str
    request: PatchRequest
    digest: str = ""
    clusters: tuple[ClusterOutline, ...] = ()
    hosts: Mapping[str, tuple[str, ...]] = attrs.field(
        factory=dict[str, tuple[str, ...]], converter=as_hosts_of
    )
    steps: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    gates: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    windows: str = ""
    least_duration: timedelta | None = None
    health: HealthChecked = "checked"

    @property
    def planned(self) -> PatchRequest:
        """The request that carries out this plan and nothing else: its hosts, its steps, its policy.

        Hosts that come later are left out and reported, hosts that go are GONE. If anything else
        would be done than what this plan shows, the rollout is refused before it begins.

        Raises:
            InvalidRequest: The plan is not complete, or does not name its hosts: the ``plan`` query alone
                does not. ``Rollout.plan`` and ``Rollout.planned`` read them.
        """
        # No names would be all hosts that there are.
        named = all(len(self.hosts.get(each.cluster, ())) == each.hosts for each in self.clusters)
        if not (self.digest and self.clusters and named):
            what = "does not name its hosts" if self.digest else "is not complete"
            raise InvalidRequest(
                [f"this plan of {self.rollout!r} {what}: read it by Rollout.plan() or planned()"]
            )
        return attrs.evolve(
            self.request,
            planned_hosts=self.hosts,
            plan_digest=self.digest,
            dry_run=False,
            only_hosts=(),
            exclude_hosts=(),
        )

    @property
    def summary(self) -> str:
        """The plan in lines, for people."""
        return "\n".join(_lines(self))


def _lines(plan: RolloutPlan) -> list[str]:
    hosts = sum(each.hosts for each in plan.clusters)
    lines = [f"{plan.rollout}: {hosts} hosts in {len(plan.clusters)} clusters"]
    for each in plan.clusters:
        waves = ", ".join(map(str, each.waves[:SHOWN_WAVES])) or "none"
        if len(each.waves) > SHOWN_WAVES:
            waves += f", … ({len(each.waves)} in all)"
        lines.append(
            f"  {each.cluster} (ring {each.ring}): {each.hosts} hosts, {each.pilots} pilots, "
            f"waves of {waves}; {each.max_parallel} at once"
        )
        if each.gone:
            lines.append(f"    {each.gone} of them are not there any more")
        later = len(each.came_later) + each.came_later_omitted
        if later:
            lines.append(f"    {later} came later and are left out")
    lines.append(f"  steps: {', '.join(plan.steps)}")
    lines.append(f"  health: {plan.health}")
    lines.append(f"  gates: {', '.join(plan.gates) or 'none'}")
    if plan.windows:
        lines.append(f"  windows: {plan.windows}")
    if plan.least_duration is not None:
        lines.append(f"  takes at least {plan.least_duration}")
    lines.append(f"  digest: {plan.digest}")
    return lines


def for_hosts(
    request: PatchRequest, hosts: Mapping[str, Iterable[str]], *, requester: str
) -> PatchRequest:
    """The same request for these hosts alone, with the clusters, rings and gates that are left.

    Raises:
        InvalidRequest: No host is left.
    """
    left = {cluster: some for cluster, names in hosts.items() if (some := tuple(names))}
    if not left:
        raise InvalidRequest(["nothing is left to do: each host is patched, skipped or gone"])
    rings = [[name for name in ring if name in left] for ring in request.policy.rings]
    numbers = [number for number, ring in enumerate(rings, start=1) if ring]
    approvals = dict[str, ApprovalPolicy]()
    for gate, policy in request.approvals.items():
        name, _, cluster = gate.partition("/")
        if cluster and cluster not in left:
            continue
        if name.startswith("ring-"):
            ring = int(name.removeprefix("ring-"))
            if ring not in numbers:
                continue  # nothing is left behind it
            gate = f"ring-{numbers.index(ring) + 1}"
        approvals[gate] = policy
    return attrs.evolve(
        request,
        clusters=tuple(left),
        requester=requester,
        policy=attrs.evolve(request.policy, rings=[ring for ring in rings if ring]),
        approvals=approvals,
        planned_hosts=left,
        plan_digest="",
        dry_run=False,
        only_hosts=(),
        exclude_hosts=(),
        max_hosts=None,
        expect_hosts=None,
    )
