"""How wide, how fast, and when to stop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Literal, cast, final, get_args

import attrs

from ._amount import Amount, amount, as_amounts, percentage, rounded_down, rounded_up
from ._order import HostOrder
from ._rules import (
    Checked,
    as_tuple,
    at_least,
    each,
    flag,
    frozen,
    instance_of,
    must,
    one_of,
    optional,
    positive,
    text,
)
from ._window import MaintenanceWindows

InFlight = Literal["cancel", "finish"]
"""What becomes of the hosts in flight when a cluster stops."""

StopScope = Literal["rollout", "cluster"]
"""Whether a cluster that stops takes the other clusters along."""

OnBusyHost = Literal["fail", "skip", "wait"]
"""What to do with a host that another rollout is working on."""

OnHostFailure = Literal["fail", "park"]
"""What becomes of a host of which a step failed for good."""

RebootWhen = Literal["never", "if_needed", "always"]
"""When the ``reboot`` step runs."""

NoticeKind = Literal[
    "approval_requested",
    "approval_reminder",
    "approval_expired",
    "host_started",
    "host_patched",
    "host_failed",
    "stopped",
    "paused",
    "finished",
]
"""What ``notify`` can be told."""

NOTICE_KINDS: tuple[NoticeKind, ...] = get_args(NoticeKind)

MAX_CHECKS = 1_000
"""Health checks of one soak: each is a few events in a history that has to stay short."""

MAX_PARALLEL = 500
"""Children at once that one cluster may have: what Temporal advises for one parent."""


def as_notices(entries: Iterable[NoticeKind]) -> tuple[NoticeKind, ...]:
    """Freezes a list of notice kinds."""
    return cast("tuple[NoticeKind, ...]", frozen(entries))


@final
@attrs.frozen(kw_only=True)
class FailureBudget(Checked):
    """How many hosts may fail before the rollout stops. Not SRE's error budget.

    It stops when failures *exceed* the allowed number: 5 % of 50 hosts are 2, so the third failure
    stops; 5 % of 1,000 are 50, so the 51st does. Failed, unreachable and timed-out hosts count;
    cancelled and skipped ones do not.

    Args:
        max_failures: How many are tolerated: a number, or a percentage of the frozen list (rounds down,
            may be 0). Default 0: the first failure stops.
        max_unreachable: A limit of their own for unreachable hosts, which then do not count in
            ``max_failures``. Default: they count as failures.
        min_sample: A percentage stops nothing before the update was tried on this many hosts. Default 0.
        strict: Hosts in flight count as possible failures when the next one is started, so that never
            more hosts fail than the one that stops the rollout. Slower near the limit. Default False.
        stop_on_failed_wave: A wave of two or more hosts in which every host acted on failed stops, whatever the
            numbers say. Default True.

    Example:
        >>> FailureBudget(max_failures="5%").max_failures
        '5%'
    """

    max_failures: Amount = attrs.field(default=0, metadata=must(amount()))
    max_unreachable: Amount | None = attrs.field(default=None, metadata=must(optional(amount())))
    min_sample: int = attrs.field(default=0, metadata=must(at_least(0)))
    strict: bool = attrs.field(default=False, metadata=must(flag))
    stop_on_failed_wave: bool = attrs.field(default=True, metadata=must(flag))


@final
@attrs.frozen(kw_only=True)
class Soak(Checked):
    """Healthy waiting after the pilots and after each wave, before the next one.

    Its clock stands still while the rollout or its cluster is paused, also by a look that was inconclusive. A
    gate before a wave asks when the soak before it is over.

    Args:
        duration: How long at least.
        check_every: Ask ``check_fleet_health`` that often, and once at the end. Default: only wait. It
            answers healthy, failed (the cluster stops) or inconclusive (the rollout pauses for a
            person). A check that gives no answer is inconclusive.

    Raises:
        InvalidRequest: A field is not valid; it names all that are not.

    Example:
        >>> Soak(duration=timedelta(minutes=30), check_every=timedelta(minutes=5)).duration
        datetime.timedelta(seconds=1800)
    """

    duration: timedelta = attrs.field(metadata=must(positive))
    check_every: timedelta | None = attrs.field(default=None, metadata=must(optional(positive)))

    def _relations(self) -> Iterator[str]:
        if self.check_every is not None and self.duration > MAX_CHECKS * self.check_every:
            yield (
                f"'check_every' must be >= 1/{MAX_CHECKS} of 'duration', {self.duration!r} "
                f"(got {self.check_every!r})"
            )


def as_rings(entries: Iterable[Iterable[str]]) -> tuple[tuple[str, ...], ...]:
    """Freezes a list of rings."""
    some = frozen(entries)
    if not isinstance(some, tuple):
        return cast("tuple[tuple[str, ...], ...]", some)
    return tuple(as_tuple(each) for each in cast("tuple[Iterable[str], ...]", some))


@final
@attrs.frozen(kw_only=True)
class RolloutPolicy(Checked):
    """How a rollout goes through its hosts. The defaults are slow rather than wide.

    Args:
        pilot_hosts: The first hosts of each cluster: nothing else starts until they have ended well. A
            number, or a percentage of the list (rounds up). Only a host that its update changed counts.
            Default 1.
        pilot_budget: The pilots' own failure budget. Default: none may fail.
        waves: Sizes of the barrier groups after the pilots, each a number or a percentage of the whole
            list (rounds down, at least 1), not cumulative; the last repeats until no host is left.
            Default: one wave.
        max_parallel: Hosts of a cluster in flight at once: a number or a percentage of its list (rounds
            down, at least 1). Default 1. At most 500.
        max_out_of_service: Hosts of a cluster in flight or held out of service at once. Default: the same
            as ``max_parallel``, so that tolerated failures do not pile up as lost capacity.
        max_parallel_total: Hosts in flight over all clusters, a number or a percentage of all hosts (rounds
            down, at least 1). Default: no limit of its own.
        max_parallel_clusters: Clusters that are worked on at once. Default: all.
        rings: Clusters in groups that come one after the other; inside a ring they run beside each other.
            Each cluster of the request in exactly one. Default: all are one ring.
        soak: Healthy waiting between waves. Default: none.
        order: In which order the hosts of a cluster start, and how many of one failure domain may be out
            of service together. Default: as listed.
        windows: When hosts may start. Default: at any time.
        failure_budget: For each cluster. Default: the first failure stops.
        total_failure_budget: Over all clusters. Default: no limit of its own. A strict one is shared out
            among the clusters that are at work, so it also limits how many hosts are in flight; it cannot
            have ``min_sample`` or ``max_unreachable``.
        in_flight: When a cluster stops, its hosts in flight are cancelled (``"cancel"``, the default:
            restored where the update has not begun, run to the end where it has) or all run to the end
            (``"finish"``).
        stop_scope: A cluster that stops stops the whole rollout (``"rollout"``, the default) or only
            itself (``"cluster"``).
        on_host_failure: A host of which a step failed for good is given back where that is safe, and has
            failed (``"fail"``, the default), or stays as it is and waits for a person (``"park"``), who
            says ``retry``, ``accept``, ``restore`` or ``skip``. Until then it counts as failed: with a
            ``failure_budget`` of 0 it stops the cluster like any failure, and what stops gives back.
        on_busy_host: A host that another rollout is working on fails (``"fail"``, the default), is left
            out (``"skip"``), or is waited for (``"wait"``).
        busy_host_timeout: How long ``"wait"`` waits before the host fails. Default 1 hour.
        reboot: When the ``reboot`` step runs. Default ``"if_needed"``: if a step said so.
        notices: What ``notify`` is told. Default: all but the start and the success of each host.

    Raises:
        InvalidRequest: A field is not valid; it names all that are not.

    Example:
        >>> RolloutPolicy(pilot_hosts=1, waves=["10%", "100%"], max_parallel="10%").waves
        ('10%', '100%')
    """

    pilot_hosts: Amount = attrs.field(default=1, metadata=must(amount()))
    pilot_budget: FailureBudget = attrs.field(
        factory=FailureBudget, metadata=must(instance_of(FailureBudget))
    )
    waves: tuple[Amount, ...] = attrs.field(
        default=("100%",), converter=as_amounts, metadata=must(each(amount(least=1), least=1))
    )
    max_parallel: Amount = attrs.field(default=1, metadata=must(amount(least=1)))
    max_out_of_service: Amount | None = attrs.field(
        default=None, metadata=must(optional(amount(least=1)))
    )
    max_parallel_total: Amount | None = attrs.field(
        default=None, metadata=must(optional(amount(least=1)))
    )
    max_parallel_clusters: int | None = attrs.field(
        default=None, metadata=must(optional(at_least(1)))
    )
    rings: tuple[tuple[str, ...], ...] = attrs.field(
        default=(), converter=as_rings, metadata=must(each(each(text, least=1)))
    )
    soak: Soak | None = attrs.field(default=None, metadata=must(optional(instance_of(Soak))))
    order: HostOrder = attrs.field(factory=HostOrder, metadata=must(instance_of(HostOrder)))
    windows: MaintenanceWindows | None = attrs.field(
        default=None, metadata=must(optional(instance_of(MaintenanceWindows)))
    )
    failure_budget: FailureBudget = attrs.field(
        factory=FailureBudget, metadata=must(instance_of(FailureBudget))
    )
    total_failure_budget: FailureBudget | None = attrs.field(
        default=None, metadata=must(optional(instance_of(FailureBudget)))
    )
    in_flight: InFlight = attrs.field(default="cancel", metadata=must(one_of("cancel", "finish")))
    stop_scope: StopScope = attrs.field(
        default="rollout", metadata=must(one_of("rollout", "cluster"))
    )
    on_host_failure: OnHostFailure = attrs.field(
        default="fail", metadata=must(one_of("fail", "park"))
    )
    on_busy_host: OnBusyHost = attrs.field(
        default="fail", metadata=must(one_of("fail", "skip", "wait"))
    )
    busy_host_timeout: timedelta = attrs.field(default=timedelta(hours=1), metadata=must(positive))
    reboot: RebootWhen = attrs.field(
        default="if_needed", metadata=must(one_of("never", "if_needed", "always"))
    )
    notices: tuple[NoticeKind, ...] = attrs.field(
        default=tuple(k for k in NOTICE_KINDS if k not in ("host_started", "host_patched")),
        converter=as_notices,
        metadata=must(each(one_of(*NOTICE_KINDS))),
    )

    def _relations(self) -> Iterator[str]:
        total = self.total_failure_budget
        if total is not None and total.strict:
            # Its shares are granted ahead: they cannot depend on what turns out later.
            if total.min_sample:
                yield f"'total_failure_budget.min_sample' must be 0 if it is strict (got {total.min_sample})"
            if total.max_unreachable is not None:
                yield (
                    "'total_failure_budget.max_unreachable' must not be set if it is strict "
                    f"(got {total.max_unreachable!r})"
                )


@attrs.frozen(kw_only=True)
class Allowed:
    """A failure budget in numbers, for a list of known length."""

    failures: int
    unreachable: int | None = None
    failures_in_percent: bool = False
    unreachable_in_percent: bool = False
    min_sample: int = 0
    strict: bool = False
    stop_on_failed_wave: bool = True

    def why_exceeded(self, *, failed: int, unreachable: int, sample: int) -> str | None:
        """Why these counts are too many, or None."""
        trusted = sample >= self.min_sample
        counted, said = failed + unreachable, "failed"
        if self.unreachable is not None:
            counted = failed
            if unreachable > self.unreachable and (trusted or not self.unreachable_in_percent):
                return f"{_hosts(unreachable)} unreachable, {self.unreachable} allowed"
        if counted > self.failures and (trusted or not self.failures_in_percent):
            return f"{_hosts(counted)} {said}, {self.failures} allowed"
        return None

    def admits(self, *, failed: int, unreachable: int, in_flight: int, sample: int) -> bool:
        """Whether one more host may start. Only a strict budget ever says no."""
        if not self.strict:
            return True
        # A percentage that cannot trip yet must not hold anything back either: nothing would free it.
        trusted = sample + in_flight >= self.min_sample
        counted = failed + in_flight + (unreachable if self.unreachable is None else 0)
        if counted > self.failures and (trusted or not self.failures_in_percent):
            return False
        return (
            self.unreachable is None
            or unreachable + in_flight <= self.unreachable
            or (self.unreachable_in_percent and not trusted)
        )


def allowed(budget: FailureBudget, total: int) -> Allowed:
    """The budget for ``total`` hosts. Percentages round down and may be 0."""
    unreachable = budget.max_unreachable
    return Allowed(
        failures=rounded_down(budget.max_failures, total),
        unreachable=None if unreachable is None else rounded_down(unreachable, total),
        failures_in_percent=percentage(budget.max_failures) is not None,
        unreachable_in_percent=unreachable is not None and percentage(unreachable) is not None,
        min_sample=budget.min_sample,
        strict=budget.strict,
        stop_on_failed_wave=budget.stop_on_failed_wave,
    )


@attrs.frozen(kw_only=True)
class ClusterPlan:
    """A policy in numbers, for a cluster whose list is frozen."""

    hosts: int
    pilots: int
    waves: tuple[int, ...]
    max_parallel: int
    max_out_of_service: int
    budget: Allowed
    pilot_budget: Allowed
    in_flight: InFlight
    soaks: bool = False
    gates: frozenset[int] = frozenset()
    """Waves before which people are asked; the wave after the pilots is 1."""
    domains: tuple[str, ...] = ()
    """Each host's failure domain, where ``max_per_domain`` is set."""
    max_per_domain: int | None = None

    def wave_size(self, wave: int) -> int:
        """How many hosts wave 1, 2, … may have. The last size repeats."""
        return self.waves[min(wave, len(self.waves)) - 1]


def cluster_plan(
    policy: RolloutPolicy,
    hosts: int,
    *,
    gates: frozenset[int] = frozenset(),
    domains: tuple[str, ...] = (),
) -> ClusterPlan:
    """What the policy means for a cluster of that many hosts.

    Args:
        policy: The policy.
        hosts: How many hosts the frozen list has.
        gates: Waves before which people are asked.
        domains: The failure domain of each host, in the list's order.
    """
    max_parallel = min(max(rounded_down(policy.max_parallel, hosts), 1), MAX_PARALLEL)
    pilots = min(rounded_up(policy.pilot_hosts, hosts), hosts)
    out = policy.max_out_of_service
    return ClusterPlan(
        hosts=hosts,
        pilots=pilots,
        waves=tuple(max(rounded_down(size, hosts), 1) for size in policy.waves),
        max_parallel=max_parallel,
        max_out_of_service=max_parallel if out is None else max(rounded_down(out, hosts), 1),
        budget=allowed(policy.failure_budget, hosts),
        pilot_budget=allowed(policy.pilot_budget, pilots),
        in_flight=policy.in_flight,
        soaks=policy.soak is not None,
        gates=gates,
        domains=domains,
        max_per_domain=policy.order.max_per_domain,
    )


def wave_sizes(plan: ClusterPlan) -> tuple[int, ...]:
    """The waves after the pilots, if every pilot counts: what a plan shows.

    Example:
        >>> policy = RolloutPolicy(pilot_hosts=1, waves=[1, "5%", "25%", "100%"])
        >>> wave_sizes(cluster_plan(policy, 50))
        (1, 2, 12, 34)
    """
    sizes: list[int] = []
    left = plan.hosts - plan.pilots
    while left:
        sizes.append(min(plan.wave_size(len(sizes) + 1), left))
        left -= sizes[-1]
    return tuple(sizes)


def _hosts(count: int) -> str:
    return f"{count} host" if count == 1 else f"{count} hosts"
