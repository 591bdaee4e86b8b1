"""Hypothesis strategies for what users write and for everything that crosses the wire: their one home."""

from __future__ import annotations

import types
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

import attrs
from hypothesis import strategies as st
from temporalio.common import RetryPolicy

from temporal_patching.models import (
    Abort,
    Accept,
    FleetHealth,
    Host,
    HostList,
    HostsQuery,
    PatchRequest,
    Pause,
    Restore,
    Resume,
    Retry,
    SetLimits,
    Skip,
    StepResult,
    Vote,
)
from temporal_patching.policy import (
    DEFAULT_STEPS,
    ApprovalPolicy,
    Calendar,
    DatedPeriod,
    FailureBudget,
    HostOrder,
    MaintenanceWindows,
    RolloutPolicy,
    Soak,
    Step,
    WeeklyPeriod,
)
from temporal_patching.policy._approval import MAX_REMINDERS
from temporal_patching.policy._rollout_policy import MAX_CHECKS, NOTICE_KINDS
from temporal_patching.policy._rules import LONGEST, canonical
from temporal_patching.policy._window import WEEKDAYS

NAME = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,20}"

texts = st.text(max_size=30)
"""Any text, also an empty one."""

words = st.text(min_size=1, max_size=30).filter(lambda text: text.strip())
"""Text that is not blank."""

durations = st.timedeltas(min_value=timedelta(microseconds=1), max_value=LONGEST)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def names(least: int = 0, most: int = 5) -> st.SearchStrategy[list[str]]:
    """Names of clusters or hosts, none twice in any spelling."""
    name = st.from_regex(NAME, fullmatch=True)
    return st.lists(name, min_size=least, max_size=most, unique_by=canonical)


def people(least: int = 1, most: int = 5) -> st.SearchStrategy[list[str]]:
    """People, none twice in any spelling."""
    return st.lists(words, min_size=least, max_size=most, unique_by=canonical)


def percentages(least: int = 0) -> st.SearchStrategy[str]:
    """``"5%"``, ``"0.25%"``."""
    hundredths = st.integers(1 if least else 0, 10_000)
    return hundredths.map(lambda each: f"{each / 100:g}%")


def amounts(least: int = 0, most: int = 60) -> st.SearchStrategy[int | str]:
    """A number of hosts or a percentage of a list."""
    return st.integers(least, most) | percentages(least)


def failure_budgets(strict: bool | None = None) -> st.SearchStrategy[FailureBudget]:
    """Failure budgets."""
    return st.builds(
        FailureBudget,
        max_failures=amounts(most=20),
        max_unreachable=st.none() | amounts(most=20),
        min_sample=st.just(0) | st.integers(0, 20),
        strict=st.booleans() if strict is None else st.just(strict),
        stop_on_failed_wave=st.booleans(),
    )


@st.composite
def soaks(draw: st.DrawFn) -> Soak:
    """Soaks, with and without checks."""
    check_every = draw(st.none() | durations)
    longest = LONGEST if check_every is None else min(LONGEST, MAX_CHECKS * check_every)
    least = timedelta(microseconds=1)
    return Soak(
        duration=draw(st.timedeltas(min_value=least, max_value=longest)), check_every=check_every
    )


@st.composite
def host_orders(draw: st.DrawFn) -> HostOrder:
    """Orders of hosts."""
    by: Any = draw(st.sampled_from(["listed", "shuffled", "spread"]))
    most = draw(st.none() | st.integers(1, 5))
    return HostOrder(
        by=by,
        seed=draw(st.none() | words) if by != "listed" else None,
        domain_label=draw(words) if by == "spread" or most is not None else None,
        max_per_domain=most,
        down_first=draw(st.booleans()),
    )


weeks = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=7))

weekly_periods = st.builds(
    WeeklyPeriod,
    days=st.lists(st.sampled_from(WEEKDAYS), min_size=1, max_size=7, unique=True),
    start=st.times().map(lambda time: f"{time:%H:%M}"),
    duration=weeks.filter(bool),
)

dated_periods = st.builds(
    DatedPeriod,
    start=st.datetimes(datetime(2000, 1, 1), datetime(2999, 12, 31)).map(
        lambda moment: moment.isoformat(timespec="minutes")
    ),
    duration=durations,
)

calendars = st.builds(
    Calendar,
    time_zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
    name=texts,
    weekly=st.lists(weekly_periods, min_size=1, max_size=2),
    dated=st.lists(dated_periods, max_size=2),
    freezes=st.lists(dated_periods, max_size=2),
)

maintenance_windows = st.builds(
    MaintenanceWindows,
    calendars=st.lists(calendars, min_size=1, max_size=2),
    cutoff=weeks,
    host_duration=weeks,
    on_window_close=st.sampled_from(["stop", "wait"]),
    approval_valid_for=st.none() | durations,
)


def rings_of(clusters: list[str]) -> st.SearchStrategy[list[list[str]]]:
    """No rings, or each of these clusters in exactly one."""
    cut = st.lists(st.booleans(), min_size=len(clusters), max_size=len(clusters))
    return st.just([]) | st.tuples(st.permutations(clusters), cut).map(lambda each: _cut(*each))


def _cut(clusters: list[str], where: list[bool]) -> list[list[str]]:
    rings: list[list[str]] = []
    for cluster, begins in zip(clusters, where, strict=True):
        if begins or not rings:
            rings.append([])
        rings[-1].append(cluster)
    return rings


def rollout_policies(clusters: list[str] | None = None) -> st.SearchStrategy[RolloutPolicy]:
    """Rollout policies; with ``clusters`` their rings are of these."""
    rings = names(1).flatmap(rings_of) if clusters is None else rings_of(clusters)
    return st.builds(
        RolloutPolicy,
        pilot_hosts=amounts(most=6),
        pilot_budget=failure_budgets(),
        waves=st.lists(amounts(1), min_size=1, max_size=4),
        max_parallel=amounts(1, 20),
        max_out_of_service=st.none() | amounts(1, 20),
        max_parallel_total=st.none() | amounts(1, 20),
        max_parallel_clusters=st.none() | st.integers(1, 4),
        rings=rings,
        soak=st.none() | soaks(),
        order=host_orders(),
        windows=st.none() | maintenance_windows,
        failure_budget=failure_budgets(),
        total_failure_budget=st.none() | failure_budgets(strict=False),
        in_flight=st.sampled_from(["cancel", "finish"]),
        stop_scope=st.sampled_from(["rollout", "cluster"]),
        on_host_failure=st.sampled_from(["fail", "park"]),
        on_busy_host=st.sampled_from(["fail", "skip", "wait"]),
        busy_host_timeout=durations,
        reboot=st.sampled_from(["never", "if_needed", "always"]),
        notices=st.lists(st.sampled_from(NOTICE_KINDS), max_size=8),
    )


@st.composite
def approval_policies(draw: st.DrawFn, others_than: str = "") -> ApprovalPolicy:
    """Approval policies that can be met without ``others_than``."""
    approvers = draw(
        people().filter(
            lambda some: any(canonical(each) != canonical(others_than) for each in some)
        )
    )
    others = [each for each in approvers if canonical(each) != canonical(others_than)]
    timeout = draw(durations)
    least = max(timeout // MAX_REMINDERS + timedelta(microseconds=1), timedelta(microseconds=1))
    return ApprovalPolicy(
        approvers=approvers,
        quorum=draw(st.integers(1, len(others))),
        timeout=timeout,
        on_timeout=draw(st.sampled_from(["fail", "complete"])),
        remind_every=draw(st.none() | st.timedeltas(min_value=least, max_value=LONGEST)),
        bound_to_plan=draw(st.booleans()),
    )


@st.composite
def requests(draw: st.DrawFn) -> PatchRequest:
    """Requests."""
    requester = draw(words)
    clusters = draw(names(1))
    hosts = draw(names(most=4))
    middle = draw(st.integers(0, len(hosts)))
    scripts = st.lists(words, max_size=2)
    start = st.fixed_dictionaries({"start": approval_policies(others_than=requester)})
    approvals = draw(st.just({}) | start)
    policy = draw(rollout_policies(clusters))
    if policy.windows is not None and not approvals:  # there is no approval that could be too old
        windows = attrs.evolve(policy.windows, approval_valid_for=None)
        policy = attrs.evolve(policy, windows=windows)
    return PatchRequest(
        clusters=clusters,
        requester=requester,
        update_command=draw(texts),
        services=draw(people(0, 2)),
        pre_downtime_scripts=draw(scripts),
        pre_update_scripts=draw(scripts),
        post_update_scripts=draw(scripts),
        secrets=draw(
            st.dictionaries(
                words, st.from_regex(r"(vault|env):[\w/#.-]{1,10}", fullmatch=True), max_size=2
            )
        ),
        params=draw(st.dictionaries(words, json_values, max_size=2)),
        policy=policy,
        approvals=approvals,
        max_hosts=draw(st.none() | st.integers(1)),
        expect_hosts=draw(st.none() | st.integers(1)),
        only_hosts=hosts[:middle],
        exclude_hosts=hosts[middle:],
        allow_empty=draw(st.booleans()),
    )


@st.composite
def retry_policies(draw: st.DrawFn) -> RetryPolicy:
    """Retry policies that the SDK accepts."""
    first = draw(durations)
    return RetryPolicy(
        initial_interval=first,
        backoff_coefficient=draw(st.floats(1, 1e6)),
        maximum_interval=draw(st.none() | st.timedeltas(min_value=first, max_value=LONGEST)),
        maximum_attempts=draw(st.integers(1, 2**31 - 1)),
        non_retryable_error_types=draw(st.none() | st.lists(texts, max_size=2).map(tuple)),
    )


@st.composite
def steps(draw: st.DrawFn) -> Step:
    """Steps by themselves, of any kind and name."""
    kind: Any = draw(
        st.sampled_from(["gate", "takes", "update", "closes", "plain", "reboot", "health"])
    )
    identifier = st.from_regex(r"[a-z][a-z_]{0,10}", fullmatch=True)
    return Step(
        draw(identifier),
        kind=kind,
        closed_by=draw(identifier) if kind == "takes" else None,
        returns_to_service=kind == "closes" and draw(st.booleans()),
        shielded=draw(st.booleans()),
        local=kind not in ("update", "reboot") and draw(st.booleans()),
        start_to_close_timeout=draw(durations),
        schedule_to_close_timeout=draw(st.none() | durations),
        heartbeat_timeout=draw(st.none() | durations),
        retry_policy=draw(retry_policies()),
    )


who_and_why: dict[str, st.SearchStrategy[str]] = {
    "by": words,
    "reason": texts,
    "operation": texts,
}
"""What every verb carries."""

node_names = st.from_regex(NAME, fullmatch=True)

skips = st.builds(Skip, host=node_names, cluster=st.none() | node_names, **who_and_why) | st.builds(
    Skip, wave=st.integers(1), cluster=st.none() | node_names, **who_and_why
)

set_limits = st.builds(
    SetLimits,
    max_parallel=amounts(1),
    max_parallel_total=st.none() | amounts(1),
    max_parallel_clusters=st.none() | st.integers(1),
    max_out_of_service=st.none() | amounts(1),
    failure_budget=st.none() | failure_budgets(),
    total_failure_budget=st.none() | failure_budgets(strict=False),
    **who_and_why,
)

votes = st.builds(Vote, by=words, gate=words, reason=texts)

hosts = st.builds(
    Host,
    name=st.from_regex(NAME, fullmatch=True),
    labels=st.dictionaries(words, texts, max_size=2),
)

step_results = st.builds(
    StepResult,
    ok=st.booleans(),
    needed=st.booleans(),
    changed=st.booleans(),
    reboot_required=st.none() | st.booleans(),
    boot_id=st.none() | words,
    previous_boot_id=st.none() | words,
    already=st.lists(words, max_size=2),
    message=texts,
    output=texts,
    attempt=st.integers(1, 9),
)

WRITTEN: dict[Any, st.SearchStrategy[Any]] = {
    str: texts,
    int: st.integers(),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    object: json_values,
    type(None): st.none(),
    timedelta: durations,
    datetime: st.datetimes(timezones=st.just(timezone.utc)),
    FailureBudget: failure_budgets(),
    RolloutPolicy: rollout_policies(),
    ApprovalPolicy: approval_policies(),
    PatchRequest: requests(),
    RetryPolicy: retry_policies(),
    Step: steps(),
    HostOrder: host_orders(),
    Soak: soaks(),
    WeeklyPeriod: weekly_periods,
    DatedPeriod: dated_periods,
    Calendar: calendars,
    MaintenanceWindows: maintenance_windows,
    Abort: st.builds(Abort, now=st.booleans(), **who_and_why),
    Pause: st.builds(
        Pause,
        after=st.sampled_from(["host", "step"]),
        cluster=st.none() | node_names,
        **who_and_why,
    ),
    Resume: st.builds(Resume, cluster=st.none() | node_names, **who_and_why),
    Retry: st.builds(
        Retry,
        host=node_names,
        from_step=st.none() | st.sampled_from(DEFAULT_STEPS.names),
        **who_and_why,
    ),
    Accept: st.builds(Accept, host=node_names, **who_and_why),
    Restore: st.builds(Restore, host=node_names, **who_and_why),
    SetLimits: set_limits,
    Skip: skips,
    HostsQuery: st.builds(HostsQuery, page=st.integers(0)),
    FleetHealth: st.builds(
        FleetHealth,
        verdict=st.sampled_from(["healthy", "failed", "inconclusive"]),
        message=words,
    ),
    Vote: votes,
    Host: hosts,
    HostList: st.builds(HostList, hosts=st.lists(hosts, max_size=3), next_page=st.none() | words),
    StepResult: step_results,
}


def instances(wanted: Any) -> st.SearchStrategy[Any]:
    """Valid instances of a wire type or of the type of one of its fields."""
    if wanted in WRITTEN:
        return WRITTEN[wanted]
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin is Literal:
        return st.sampled_from(inner)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(instances, inner))
    if origin is tuple:
        return st.lists(instances(inner[0]), max_size=3).map(tuple)
    if origin is Mapping:
        return st.dictionaries(instances(inner[0]), instances(inner[1]), max_size=3)
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        return st.sampled_from(list(wanted))
    assert attrs.has(wanted), wanted
    fields = attrs.fields(attrs.resolve_types(wanted))
    return st.builds(wanted, **{field.name: instances(field.type) for field in fields})
