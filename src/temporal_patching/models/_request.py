"""What a user asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast, final

import attrs

from ..policy._approval import ApprovalPolicy
from ..policy._gates import START, why_no_gate
from ..policy._rollout_policy import RolloutPolicy
from ..policy._rules import (
    as_tuple,
    at_least,
    at_most,
    canonical,
    distinct,
    each,
    flag,
    instance_of,
    json_value,
    must,
    node_name,
    optional,
    reference,
    string,
    text,
    values,
)
from ._wire import WireType


def as_hosts_of(entries: Mapping[str, Iterable[str]]) -> Mapping[str, tuple[str, ...]]:
    """Freezes lists of hosts by cluster; leaves what is no such thing to the rules, which name it."""
    given: Any = entries
    if not isinstance(given, Mapping):
        return cast("Mapping[str, tuple[str, ...]]", given)
    return {cluster: as_tuple(hosts) for cluster, hosts in entries.items()}


@final
@attrs.frozen(kw_only=True)
class PatchRequest(WireType):
    """One rollout: which hosts, what is done to them, how carefully, and who must agree.

    It is plain JSON in the web UI and can be written by hand for the ``temporal`` command. Durations are
    written ``"4h"`` or ``"1h30m"``, percentages ``"5%"``.

    Args:
        clusters: Names of the clusters. Their hosts come from ``PatchActivities.list_hosts``.
        requester: Who asks, usually an e-mail address. May not vote on the own request.
        update_command: Handed to ``perform_update``.
        services: Handed to the steps that stop, start and check services.
        pre_downtime_scripts: Handed to ``run_pre_downtime_scripts``.
        pre_update_scripts: Handed to ``run_pre_update_scripts``.
        post_update_scripts: Handed to ``run_post_update_scripts``.
        secrets: References to secrets by name (``{"ssh_key": "vault:patching/ssh#key"}``), never a
            secret itself: this request is readable in the history. Activities fetch the values.
        params: Your own, any JSON. ``HostTask.params_as`` reads them with a type.
        policy: How wide, how fast, when to stop. The default is one host at a time.
        approvals: Who must agree, by gate. ``"start"``: before the first host is touched; ``"promote"``:
            after the pilots; ``"wave-2"``: before the second wave; ``"ring-2"``: before the second ring
            (``"ring-1"``: before the first, after ``"start"``). ``"promote/eu-1"`` and ``"wave-2/eu-1"`` are
            gates of one cluster.
        max_hosts: Refuse a plan with more hosts than this.
        expect_hosts: Refuse a plan whose number of hosts is more than 10% off.
        only_hosts: Touch only these hosts of the clusters. An unknown name refuses the plan.
        exclude_hosts: Leave these out. An unknown name refuses the plan.
        allow_empty: Let a cluster without hosts pass. Default: it refuses the plan.
        planned_hosts: Exactly these hosts of each cluster, in this order. One that ``list_hosts`` does not
            name any more is GONE; one that came later is left out and reported. ``RolloutPlan.planned``
            and ``Rollout.rest_of`` fill it in. Default: all that ``list_hosts`` names.
        plan_digest: Refuse the plan if its fingerprint is another one.
        dry_run: List the hosts, check the plan, and end as PLANNED: no gate asks, no step and no hook runs,
            nobody is told. ``Rollout.plan`` does it.

    Raises:
        InvalidRequest: A field is not valid; it names all that are not.

    Example:
        >>> PatchRequest(clusters=["eu-1"], requester="carol@example.com").policy.max_parallel
        1
    """

    clusters: tuple[str, ...] = attrs.field(
        converter=as_tuple, metadata=must(each(node_name, least=1), distinct)
    )
    requester: str = attrs.field(metadata=must(text))
    update_command: str = attrs.field(default="", metadata=must(string))
    services: tuple[str, ...] = attrs.field(
        default=(), converter=as_tuple, metadata=must(each(text), distinct)
    )
    pre_downtime_scripts: tuple[str, ...] = attrs.field(
        default=(), converter=as_tuple, metadata=must(each(text))
    )
    pre_update_scripts: tuple[str, ...] = attrs.field(
        default=(), converter=as_tuple, metadata=must(each(text))
    )
    post_update_scripts: tuple[str, ...] = attrs.field(
        default=(), converter=as_tuple, metadata=must(each(text))
    )
    secrets: Mapping[str, str] = attrs.field(
        factory=dict[str, str], metadata=must(values(reference))
    )
    params: Mapping[str, object] = attrs.field(
        factory=dict[str, object], metadata=must(values(json_value))
    )
    policy: RolloutPolicy = attrs.field(
        factory=RolloutPolicy, metadata=must(instance_of(RolloutPolicy))
    )
    approvals: Mapping[str, ApprovalPolicy] = attrs.field(
        factory=dict[str, ApprovalPolicy], metadata=must(values(instance_of(ApprovalPolicy)))
    )
    max_hosts: int | None = attrs.field(default=None, metadata=must(optional(at_least(1))))
    expect_hosts: int | None = attrs.field(default=None, metadata=must(optional(at_least(1))))
    only_hosts: tuple[str, ...] = attrs.field(
        default=(), converter=as_tuple, metadata=must(each(node_name), distinct)
    )
    exclude_hosts: tuple[str, ...] = attrs.field(
        default=(), converter=as_tuple, metadata=must(each(node_name), distinct)
    )
    allow_empty: bool = attrs.field(default=False, metadata=must(flag))
    planned_hosts: Mapping[str, tuple[str, ...]] = attrs.field(
        factory=dict[str, tuple[str, ...]],
        converter=as_hosts_of,
        metadata=must(values(each(node_name), distinct)),
    )
    plan_digest: str = attrs.field(default="", metadata=must(string, at_most(200)))
    dry_run: bool = attrs.field(default=False, metadata=must(flag))

    def _relations(self) -> Iterator[str]:
        in_rings = [name for ring in self.policy.rings for name in ring]
        if in_rings and sorted(in_rings) != sorted(self.clusters):
            yield (
                "'policy.rings' must have each cluster of 'clusters' exactly once "
                f"(got {in_rings!r} for {list(self.clusters)!r})"
            )
        if self.planned_hosts:
            if sorted(self.planned_hosts) != sorted(self.clusters):
                yield (
                    "'planned_hosts' must have a list for each cluster of 'clusters' and no other "
                    f"(got {sorted(self.planned_hosts)!r} for {sorted(self.clusters)!r})"
                )
            for name in ("only_hosts", "exclude_hosts"):
                if getattr(self, name):
                    yield f"{name!r} must be empty where 'planned_hosts' names the hosts"
        windows = self.policy.windows
        valid_for = windows.approval_valid_for if windows is not None else None
        if valid_for is not None and START not in self.approvals:
            yield "'policy.windows.approval_valid_for' needs the gate 'start' in 'approvals'"
        for gate, policy in self.approvals.items():
            why = why_no_gate(
                gate,
                clusters=self.clusters,
                rings=len(self.policy.rings),
                has_pilots=self.policy.pilot_hosts not in (0, "0%"),
            )
            if why is not None:
                yield f"'approvals' must name gates of the rollout (got {gate!r}): {why}"
            others = {canonical(name) for name in policy.approvers} - {canonical(self.requester)}
            if not others:
                yield (
                    f"'approvals[{gate!r}].approvers' must name somebody beside the requester, whose own vote "
                    f"does not count (got {list(policy.approvers)!r})"
                )
            elif len(others) < policy.quorum:
                yield (
                    f"'approvals[{gate!r}].quorum' must be <= {len(others)}, the approvers without "
                    f"the requester (got {policy.quorum})"
                )
        both = {canonical(name) for name in self.only_hosts} & {
            canonical(name) for name in self.exclude_hosts
        }
        if both:
            yield f"'exclude_hosts' must not name hosts of 'only_hosts' (got {sorted(both)!r})"


@final
@attrs.frozen(kw_only=True)
class Vote(WireType):
    """One person's word at a gate: the argument of the ``approve`` and ``reject`` handlers.

    Until votes are signed, ``by`` is a claim: whoever can write to the namespace can vote as anyone.

    Args:
        by: Who votes, at most 320 characters. Case and spaces do not matter.
        gate: Which gate, at most 200 characters. Default ``"start"``.
        reason: Why, for the record; at most 2,000 characters.
        digest: The fingerprint of the plan that is voted on, as ``GateReport`` and ``RolloutPlan`` show it.
            Does the gate show another one, the vote is refused. Default: whatever the gate is about.
    """

    by: str = attrs.field(metadata=must(text, at_most(320)))
    gate: str = attrs.field(default="start", metadata=must(text, at_most(200)))
    reason: str = attrs.field(default="", metadata=must(string, at_most(2_000)))
    digest: str = attrs.field(default="", metadata=must(string, at_most(200)))
