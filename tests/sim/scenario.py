"""What a simulated rollout is given, by chance from a seed: hosts, policy, gates, and how much goes wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from random import Random
from typing import Any

import attrs

from temporal_patching.models._wire import from_json, to_json
from temporal_patching.policy import (
    DEFAULT_STEPS,
    ApprovalPolicy,
    FailureBudget,
    HostOrder,
    RolloutPolicy,
    Soak,
    Step,
)
from temporal_patching.policy._rollout_state import PlanLimits
from temporal_patching.policy._steps import resolve

REQUESTER = "carol@example.com"
APPROVERS = ("alice@example.com", "bob@example.com", "dave@example.com", REQUESTER)
DIGEST = "plan-1"
"""The fingerprint of the plan. A vote may name another one: then it counts for nothing."""

GATES = ("start", "promote", "promote/c0", "wave-2", "wave-2/c0", "wave-3", "ring-2")

FAULTS = (
    "request_lost",
    "reply_lost",
    "fails",
    "fails_done",
    "unreachable",
    "refuses",
    "unhealthy_after",
    "needs_reboot",
    "lies_about_boot",
    "saves_and_fails",
)
"""What may go wrong with one attempt of a step."""

_OPTIONAL = tuple(step.name for step in DEFAULT_STEPS if step.kind != "update")
_PAIRS = {"set_maintenance_mode": "clear_maintenance_mode", "stop_services": "start_services"}


@attrs.frozen(kw_only=True)
class HostTraits:
    """How a host is before anybody comes."""

    name: str
    in_service: bool = True
    """False: somebody has put it into maintenance before."""
    up_to_date: bool = False
    """Its update finds nothing to do."""
    needed: bool = True
    """False: its preconditions say that it needs nothing."""
    gone: bool = False
    """It is in the plan, but not there any more."""
    busy: bool = False
    """Another rollout works on it when its turn comes."""
    domain: str = ""


@attrs.frozen(kw_only=True)
class Scenario:
    """All that a simulated rollout is given. It is kept with a failure, so that the failure can be replayed."""

    seed: int
    clusters: Mapping[str, tuple[HostTraits, ...]]
    policy: RolloutPolicy
    gates: Mapping[str, ApprovalPolicy]
    steps: tuple[Step, ...]
    limits: PlanLimits = attrs.field(factory=PlanLimits)
    faults: Mapping[str, float] = attrs.field(factory=dict)
    """How often each goes wrong, of a hundred attempts."""
    steered: float = 0.0
    """How often somebody asks for something, votes or closes a window."""
    doubled: float = 0.0
    """How many messages arrive more than once."""
    drains: float = 0.0
    """How often a cluster's history is long enough."""
    repairs_only: bool = False
    """People do no more than to answer for parked hosts, to pause and to resume."""
    turns: int = 300
    """How long it goes on before everything is mended and the rollout has to end."""

    def hosts(self, cluster: str) -> tuple[HostTraits, ...]:
        """The frozen list of a cluster."""
        return self.clusters[cluster]


def scenario(seed: int) -> Scenario:
    """A rollout, by chance."""
    rng = Random(seed)
    shares = rng.random() < 0.1  # little but failures, repairs, and a strict budget over all
    names = tuple(f"c{number}" for number in range(3 if shares else rng.choice((1, 1, 2, 2, 3))))
    rings = rng.choice(((), (names[:1], names[1:]))) if len(names) > 1 else ()
    domains = rng.random() < 0.2
    policy = _policy(rng, rings, domains)
    if shares:
        policy = _sharing(rng, policy)
    elif len(names) > 1 and rng.random() < 0.15:
        policy = _stopping_alone(rng, policy)
    clusters = {name: _hosts(rng, seed, name, domains) for name in names}
    limits = PlanLimits()
    if rng.random() < 0.04:  # a plan that must be refused, or only shown
        clusters, limits = _wrong(rng, clusters)
    gates = {
        gate: ApprovalPolicy(
            approvers=APPROVERS,
            quorum=rng.choice((1, 2, 3)),
            timeout=timedelta(hours=1),
            bound_to_plan=rng.random() < 0.3,
        )
        for gate in GATES
        if rng.random() < 0.35
        and (gate != "ring-2" or rings)
        and (policy.pilot_hosts or not gate.startswith("promote"))
    }
    trouble = rng.choice((0.0, 1.0, 1.0, 2.0, 5.0))
    if shares:
        trouble, gates = rng.choice((2.0, 4.0)), {}
    # About half of the faults are off in each seed: otherwise they mask each other.
    faults = {fault: trouble * rng.randint(1, 4) for fault in FAULTS if rng.random() < 0.5}
    return Scenario(
        seed=seed,
        clusters=clusters,
        policy=policy,
        gates=gates,
        steps=resolve(DEFAULT_STEPS, {"perform_update"}) if shares else _steps(rng),
        limits=limits,
        faults=faults,
        repairs_only=shares,
        steered=0.2 if shares else rng.choice((0.0, 0.02, 0.08, 0.2)),
        doubled=rng.choice((0.0, 0.1, 0.4)),
        drains=rng.choice((0.0, 0.03, 0.1)),
        turns=900 if shares else rng.choice((60, 300, 900)),
    )


def total_budget(rng: Random) -> FailureBudget:
    """One over all clusters, by chance."""
    some = budget(rng)
    if some.strict or rng.random() < 0.5:
        return FailureBudget(max_failures=rng.randint(0, 5), strict=True)
    return some


def budget(rng: Random) -> FailureBudget:
    """A failure budget, by chance. Many tolerate a lot, or nothing would happen after the first failure."""
    return FailureBudget(
        max_failures=rng.choice((0, 1, 2, 99, 99, 99, "10%", "30%")),
        max_unreachable=rng.choice((None, None, None, 0, 2)),
        min_sample=rng.choice((0, 0, 3)),
        strict=rng.random() < 0.25,
        stop_on_failed_wave=rng.random() < 0.4,
    )


def _policy(rng: Random, rings: Any, domains: bool) -> RolloutPolicy:
    return RolloutPolicy(
        pilot_hosts=rng.choice((0, 1, 1, 2, "20%")),
        pilot_budget=rng.choice((FailureBudget(), FailureBudget(max_failures=9), budget(rng))),
        waves=rng.choice(((1,), (2, 3), (3,), ("20%", "100%"), ("100%",))),
        max_parallel=rng.choice((1, 2, 3, 5, "50%")),
        max_out_of_service=rng.choice((None, None, 2, 4, 9, 9)),
        max_parallel_total=rng.choice((None, None, 1, 2, 4)),
        max_parallel_clusters=rng.choice((None, None, 1, 2)),
        rings=rings,
        soak=rng.choice((None, None, Soak(duration=timedelta(minutes=1)))),
        order=HostOrder(domain_label="rack", max_per_domain=rng.choice((1, 2)))
        if domains
        else HostOrder(),
        failure_budget=budget(rng),
        total_failure_budget=rng.choice((None, None, total_budget(rng), total_budget(rng))),
        in_flight=rng.choice(("cancel", "finish")),
        stop_scope=rng.choice(("rollout", "cluster")),
        on_host_failure=rng.choice(("fail", "park")),
        on_busy_host=rng.choice(("fail", "skip")),
        reboot=rng.choice(("never", "if_needed", "if_needed", "always")),
    )


def _sharing(rng: Random, policy: RolloutPolicy) -> RolloutPolicy:
    """Little but failures and repairs, and a strict budget over all clusters."""
    tolerant = FailureBudget(max_failures=99, stop_on_failed_wave=False)
    return attrs.evolve(
        policy,
        pilot_hosts=0,
        waves=("100%",),
        max_parallel=rng.choice((1, 2)),
        max_out_of_service=9,
        max_parallel_total=rng.choice((None, None, 2)),
        failure_budget=tolerant,
        total_failure_budget=FailureBudget(max_failures=rng.randint(1, 4), strict=True),
        on_host_failure="park",
        order=HostOrder(),
        rings=(),
        soak=None,
    )


def _stopping_alone(rng: Random, policy: RolloutPolicy) -> RolloutPolicy:
    """A cluster stops, and its hosts in flight end, while others go on beside it within one width."""
    return attrs.evolve(
        policy,
        pilot_hosts=0,
        max_parallel=3,
        max_out_of_service=9,
        max_parallel_total=rng.choice((2, 3, 4)),
        failure_budget=FailureBudget(max_failures=rng.choice((0, 1))),
        total_failure_budget=None,
        rings=(),
        in_flight="finish",
        stop_scope="cluster",
    )


def _hosts(rng: Random, seed: int, cluster: str, domains: bool) -> tuple[HostTraits, ...]:
    size = rng.choice((1, 2, 3, 4, 6, 8, 12)) if rng.random() < 0.97 else 40
    return tuple(_traits(seed, f"{cluster}-{number}", domains) for number in range(size))


def _traits(seed: int, name: str, domains: bool) -> HostTraits:
    rng = Random(f"{seed}/{name}")  # of its own: one host more leaves the others as they are
    return HostTraits(
        name=name,
        in_service=rng.random() < 0.93,
        up_to_date=rng.random() < 0.07,
        needed=rng.random() < 0.93,
        gone=rng.random() < 0.03,
        busy=rng.random() < 0.03,
        domain=f"r{rng.randint(0, 2)}" if domains else "",
    )


def _wrong(
    rng: Random, clusters: dict[str, tuple[HostTraits, ...]]
) -> tuple[dict[str, tuple[HostTraits, ...]], PlanLimits]:
    names, hosts = list(clusters), sum(map(len, clusters.values()))
    how = rng.choice(("empty", "may_be_empty", "twice", "too_many", "unexpected", "dry", "another"))
    if how in ("empty", "may_be_empty"):
        return {**clusters, names[-1]: ()}, PlanLimits(allow_empty=how == "may_be_empty")
    if how == "twice" and len(names) > 1:
        again = attrs.evolve(clusters[names[0]][0], name=clusters[names[0]][0].name.upper())
        return {**clusters, names[1]: (*clusters[names[1]], again)}, PlanLimits()
    if how == "too_many":
        return clusters, PlanLimits(max_hosts=max(hosts - 1, 0))
    if how == "unexpected":
        return clusters, PlanLimits(expect_hosts=hosts * 2)
    if how == "another":
        return clusters, PlanLimits(plan_digest="plan-0")
    return clusters, PlanLimits(dry_run=True)


def must_be_refused(scenario: Scenario) -> str | None:
    """Why nothing of this rollout may ever start, worked out without the code under test."""
    limits, clusters = scenario.limits, scenario.clusters
    names = [host.name.lower() for hosts in clusters.values() for host in hosts]
    if not limits.allow_empty and not all(clusters.values()):
        return "a cluster is empty"
    if len(set(names)) < len(names):
        return "a host is listed twice"
    if limits.max_hosts is not None and len(names) > limits.max_hosts:
        return "there are more hosts than max_hosts"
    if limits.expect_hosts is not None and abs(len(names) - limits.expect_hosts) > (
        limits.expect_hosts / 10
    ):
        return "there are other hosts than expected"
    if limits.plan_digest and limits.plan_digest != DIGEST:
        return "it is another plan"
    return "it is a dry run" if limits.dry_run else None


def _steps(rng: Random) -> tuple[Step, ...]:
    steps, methods = DEFAULT_STEPS, {"perform_update"}
    some = rng.choice((1.0, 0.8, 0.5))
    methods |= {name for name in _OPTIONAL if rng.random() < some}
    for taking, closer in _PAIRS.items():
        if taking in methods:
            methods.add(closer)
    if rng.random() < 0.3:
        steps = steps.after("perform_update", Step("rebuild_initramfs"))
        methods.add("rebuild_initramfs")
    if rng.random() < 0.3:
        steps = steps.after("check_service_health", Step("check_more_health", kind="health"))
        methods.add("check_more_health")
    if rng.random() < 0.3:
        steps = steps.before("perform_update", Step("snapshot", shielded=rng.random() < 0.5))
        methods.add("snapshot")
    if (
        rng.random() < 0.3
    ):  # a third thing that is taken away, and given back whatever the health is
        silence = Step("silence_alerts", kind="takes", closed_by="restore_alerts")
        steps = steps.before("perform_update", silence)
        steps = steps.after("perform_update", Step("restore_alerts", kind="closes"))
        methods |= {"silence_alerts", "restore_alerts"}
    return resolve(steps, methods)


# As JSON


def written(scenario: Scenario) -> dict[str, Any]:
    """The scenario as JSON."""
    plain: dict[str, Any] = json.loads(
        json.dumps({name: to_json(value) for name, value in _fields(scenario).items()})
    )
    return plain


def read(plain: Mapping[str, Any]) -> Scenario:
    """A scenario that was written."""
    types: Mapping[str, Any] = {
        "clusters": Mapping[str, tuple[HostTraits, ...]],
        "policy": RolloutPolicy,
        "gates": Mapping[str, ApprovalPolicy],
        "steps": tuple[Step, ...],
        "limits": PlanLimits,
    }
    return Scenario(
        **{
            name: from_json(value, types[name]) if name in types else value
            for name, value in plain.items()
        }
    )


def _fields(scenario: Scenario) -> dict[str, Any]:
    return {each.name: getattr(scenario, each.name) for each in attrs.fields(Scenario)}
