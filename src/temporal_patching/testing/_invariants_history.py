"""What must hold in every rollout, as far as its histories are needed to judge it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from fractions import Fraction
from typing import Any

from ..models import ClusterSummary
from ..models._duration import parse_duration
from ..policy import HostState, Outcome
from ._evidence import Evidence
from ._invariants import Case, Span, at, canonical, server_time, spans_of
from ._log import Effect

FAILURE = (HostState.FAILED, HostState.UNREACHABLE)
TRIED = (HostState.PATCHED, HostState.REBOOT_PENDING, *FAILURE)
BY_HAND = ("skip", "retry", "accept", "restore")


def with_history(case: Case) -> Iterator[str]:
    """All that does not hold by the histories."""
    evidence = case.evidence
    if evidence is None:
        return
    yield from _starts(case, evidence)
    yield from _counts_fall(evidence)
    if evidence.request is None:
        return
    yield from _as_asked(case, evidence.request)
    yield from _start_gate(case, evidence, evidence.request)
    yield from _width(case, evidence)
    yield from _out_of_service(case, evidence)
    yield from _budgets(case, evidence)
    if not evidence.has(*BY_HAND):
        yield from _healthy(case)
        yield from _not_worse(case)
        yield from _not_done(case)
    if not evidence.has(*BY_HAND) and not _lets_hosts_wait(evidence.request):
        for cluster in case.report.clusters:
            yield from _waves(case, cluster, evidence.request)
    yield from _verbs(evidence)
    yield from _others_stop(case, evidence, evidence.request)
    yield from _after_the_end(case, evidence)


# Amounts, worked out anew


def _amount(amount: Any, of: int) -> int:
    """That many of so many; a percentage rounds down."""
    if isinstance(amount, int):
        return amount
    return int(Fraction(amount.rstrip("%")) * of / 100)


def _amount_up(amount: Any, of: int) -> int:
    if isinstance(amount, int):
        return amount
    return -int(-Fraction(amount.rstrip("%")) * of // 100)


def _size(cluster: ClusterSummary) -> int:
    return sum(cluster.counts.values())


def _lets_hosts_wait(request: Mapping[str, Any]) -> bool:
    """Whether a host may stay begun while others go on: then the log does not say who is in flight."""
    policy = request["policy"]
    return bool(policy["on_host_failure"] == "park" or policy["on_busy_host"] == "wait")


def _wide(policies: Sequence[Mapping[str, Any]], of: int) -> int:
    return max(max(_amount(policy["max_parallel"], of), 1) for policy in policies)


# S1


def _width(case: Case, evidence: Evidence) -> Iterator[str]:
    if evidence.request is None or _lets_hosts_wait(evidence.request) or evidence.has(*BY_HAND):
        return
    for cluster in case.report.clusters:
        allowed = _wide(evidence.policies, _size(cluster))
        where = f"in {cluster.cluster}"
        yield from _too_many(spans_of(case.in_cluster(cluster.cluster)), allowed, where)
    limits = [policy.get("max_parallel_total") for policy in evidence.policies]
    if None not in limits:
        hosts = sum(_size(cluster) for cluster in case.report.clusters)
        allowed = max(max(_amount(limit, hosts), 1) for limit in limits)
        yield from _too_many(spans_of(case.lines), allowed, "in all")


def _too_many(spans: Sequence[Span], allowed: int, where: str) -> Iterator[str]:
    for index, span in enumerate(spans):
        flying = [each for each in spans[: index + 1] if each.last.number >= span.first.number]
        if len(flying) > allowed:
            names = ", ".join(each.host for each in flying)
            yield (
                f"S1 {span.host} {at(span.first)}: one of {len(flying)} in flight {where}, {allowed} "
                f"allowed ({names})"
            )
            return


def _out_of_service(case: Case, evidence: Evidence) -> Iterator[str]:
    for cluster in case.report.clusters:
        allowed = max(
            max(
                _amount(policy.get("max_out_of_service") or policy["max_parallel"], _size(cluster)),
                1,
            )
            for policy in evidence.policies
        )
        lines = case.in_cluster(cluster.cluster)
        ours = {host for host in lines if (was := case.was(host)) is not None and was.serves}
        out: dict[str, None] = {}
        for line in sorted(
            (line for host in ours for line in lines[host]), key=lambda line: line.number
        ):
            if line.then is None or line.then.serves:
                out.pop(line.host, None)
                continue
            out[line.host] = None
            if len(out) > allowed:
                yield (
                    f"S1 {line.host} {at(line)}: one of {len(out)} out of service in {cluster.cluster}, "
                    f"{allowed} allowed ({', '.join(out)})"
                )
                break


# S2


def _as_asked(case: Case, request: Mapping[str, Any]) -> Iterator[str]:
    """The report's gates are those of the request: who may vote, and how many must."""
    for gate in case.report.gates:
        asked = request["approvals"].get(gate.gate)
        if asked is None:
            continue  # of the workflow's own run
        if gate.quorum < asked["quorum"]:
            yield f"S2 gate {gate.gate!r}: {gate.quorum} had to approve, {asked['quorum']} asked for"
        people = {canonical(each) for each in asked["approvers"]}
        for person in gate.approvers:
            if canonical(person) not in people:
                yield f"S2 gate {gate.gate!r}: {person!r} could vote, and is no approver of the request"


def _start_gate(case: Case, evidence: Evidence, request: Mapping[str, Any]) -> Iterator[str]:
    windows = request["policy"].get("windows") or {}
    if "start" not in request["approvals"] or windows.get("approval_valid_for") is not None:
        return
    first = min(
        (some[0] for some in case.lines.values()), key=lambda line: line.number, default=None
    )
    if first is None:
        return
    yield from _passed(case, "start", first)


def _passed(case: Case, name: str, first: Effect) -> Iterator[str]:
    """A gate was passed before this step began."""
    gate = next((each for each in case.report.gates if each.gate == name), None)
    if gate is None or not gate.approved:
        said = "unknown" if gate is None else gate.outcome
        yield f"S2 {first.host} {at(first)}: {first.step} began, and gate {name!r} is {said}"
        return
    times = sorted(vote.at for vote in gate.votes if vote.approve and vote.at is not None)
    if first.when is not None and len(times) >= gate.quorum:
        passed = times[gate.quorum - 1]
        if first.when < passed:
            yield (
                f"S2 {first.host} {at(first)}: {first.step} began before gate {name!r} was passed, "
                f"{server_time(passed)}"
            )


# S3


def _starts(case: Case, evidence: Evidence) -> Iterator[str]:
    """What a cluster had been told when it started a host."""
    sizes = {each.cluster: _size(each) for each in case.report.clusters}
    request = evidence.request or {}
    waits = request.get("policy", {}).get("on_busy_host") == "wait"  # those may be told in between
    for start in evidence.starts:
        if start.again:
            continue
        where = (
            f"{start.host} at {server_time(start.when)} (event {start.event} of {start.cluster})"
        )
        orders = start.orders
        if orders is None or orders.get("slots") == 0:
            yield f"S3 {where}: started before the rollout let {start.cluster} start any"
            continue
        for what, is_so in (
            ("is paused", orders.get("paused") is not None),
            ("was told to stop", orders.get("stop") is not None),
            ("was told of an abort", orders.get("kill") is not None),
            ("is outside of its windows", orders.get("window_open") is False),
            ("was cancelled", start.cancelled and not waits),
        ):
            if is_so:
                yield f"S3 {where}: started, and {start.cluster} {what}"
        policy = orders.get("policy") or request.get("policy")
        if policy is None or start.cluster not in sizes:
            continue
        allowed = max(_amount(policy["max_parallel"], sizes[start.cluster]), 1)
        if orders.get("slots") is not None:
            allowed = min(allowed, orders["slots"])
        if start.in_flight > allowed:
            yield f"S1 {where}: one of {start.in_flight} in flight in {start.cluster}, {allowed} allowed"


def _budgets(case: Case, evidence: Evidence) -> Iterator[str]:
    """No more failures than are tolerated, and than were in flight when the last one of these came."""
    policies = evidence.policies
    clusters = case.report.clusters
    for cluster in clusters:
        size = _size(cluster)
        lines = case.in_cluster(cluster.cluster)
        budgets = [policy["failure_budget"] for policy in policies]
        wide, where = _wide(policies, size), f"in {cluster.cluster}"
        yield from _over(case, budgets, size, wide, cluster.counts, lines, where)
    totals = [policy.get("total_failure_budget") for policy in policies]
    budgets = [each for each in totals if each is not None]
    if len(budgets) == len(totals):
        hosts = sum(_size(cluster) for cluster in clusters)
        wide = sum(_wide(policies, _size(cluster)) for cluster in clusters)
        yield from _over(case, budgets, hosts, wide, case.report.counts, case.lines, "in all")


def _over(
    case: Case,
    budgets: Sequence[Mapping[str, Any]],
    size: int,
    wide: int,
    counts: Mapping[HostState, int],
    lines: Mapping[str, list[Effect]],
    where: str,
) -> Iterator[str]:
    apart = any(budget.get("max_unreachable") is not None for budget in budgets)
    for states, field in (
        ((HostState.FAILED,) if apart else FAILURE, "max_failures"),
        *([((HostState.UNREACHABLE,), "max_unreachable")] if apart else []),
    ):
        amounts = [budget.get(field) for budget in budgets]
        if None in amounts:
            continue
        allowed = max(
            max(
                _amount(budget[field], size),
                budget["min_sample"] if isinstance(budget[field], str) else 0,
            )
            for budget in budgets
        )
        failed = sum(counts[state] for state in states)
        if failed > allowed + wide:
            last = max(
                (some[-1] for host, some in lines.items() if case.state_of(host) in states),
                key=lambda line: line.number,
                default=None,
            )
            who = "" if last is None else f" {last.host} {at(last)}"
            yield (
                f"S3{who}: {failed} hosts failed {where}, {allowed} allowed and {wide} in flight at most"
            )


def _after_the_end(case: Case, evidence: Evidence) -> Iterator[str]:
    if evidence.ended is None:
        return
    for host, lines in case.lines.items():
        for line in lines:
            if line.what == "began" and line.when is not None and line.when > evidence.ended:
                yield (
                    f"S3 {host} {at(line)}: {line.step} began after the rollout had ended, "
                    f"{server_time(evidence.ended)}"
                )
                break


# S4


def _waves(case: Case, cluster: ClusterSummary, request: Mapping[str, Any]) -> Iterator[str]:
    """Groups of hosts, in the order in which they began: the pilots, then each wave. S2: their gates."""
    policy = request["policy"]
    size = _size(cluster)
    pilots = min(_amount_up(policy["pilot_hosts"], size), size)
    waves = [max(_amount(each, size), 1) for each in policy["waves"]]
    soak = policy.get("soak")
    wait = timedelta(0) if soak is None else parse_duration(soak["duration"])
    begun: list[Span] = []
    group, room = 0, 0
    for span in spans_of(case.in_cluster(cluster.cluster)):
        states = {each.host: case.state_of(each.host) for each in begun}
        if None in states.values():
            return  # the report leaves hosts out
        flies = [each for each in begun if each.last.number >= span.first.number]
        counted = [each for each in begun if each in flies or states[each.host] in TRIED]
        if group == 0 and len(counted) < pilots:
            begun.append(span)
            continue
        if group == 0 or room == 0:
            group += 1
            room = waves[min(group, len(waves)) - 1]
            before = "the pilots" if group == 1 else f"wave {group - 1}"
            if flies:
                yield (
                    f"S4 {span.host} {at(span.first)}: starts wave {group} of {cluster.cluster}, and "
                    f"{flies[0].host} of {before} is in flight"
                )
                return
            yield from _soaked(begun, span, wait, before)
            gate = "promote" if group == 1 else f"wave-{group}"
            for name in (f"{gate}/{cluster.cluster}", gate):
                if name in request["approvals"]:
                    yield from _passed(case, name, span.first)
                    break  # a cluster's own gate stands in for everybody's
        room -= 1
        begun.append(span)


def _soaked(begun: Sequence[Span], span: Span, wait: timedelta, before: str) -> Iterator[str]:
    ends = [each.last.when for each in begun if each.last.when is not None]
    if not ends or span.first.when is None:
        return
    healthy = span.first.when - max(ends)
    if healthy < wait:
        yield f"S4 {span.host} {at(span.first)}: {before} soaked {healthy}, {wait} asked for"


# S8, S9


def _healthy(case: Case) -> Iterator[str]:
    """What an update has touched returns to service by a health check only, where there is one."""
    checks = (line for some in case.lines.values() for line in some)
    if not any(line.step == "check_service_health" for line in checks):
        return  # there is none, or it is a step of another name
    for host, lines in case.lines.items():
        touched = False
        healthy = False
        for line in lines:
            if line.step == "perform_update" and line.what == "began":
                touched, healthy = True, False
            if line.step == "check_service_health" and line.what == "done":
                healthy = True
            if line.step == "clear_maintenance_mode" and line.what == "done":
                if touched and not healthy:
                    yield f"S8 {host} {at(line)}: returned to service, and no health check went well"
                break


def _not_worse(case: Case) -> Iterator[str]:
    """Nobody had a host gone on with by hand: then what was patched is reported so."""
    if case.report.hosts_omitted:
        return
    good = {
        host
        for host in case.lines
        if case.state_of(host) in (HostState.PATCHED, HostState.UNCHANGED)
    }
    patched = [host for host in good if case.is_patched(host)]
    counted = case.report.counts[HostState.PATCHED]
    if len(patched) > counted:
        last = max((case.lines[host][-1] for host in patched), key=lambda line: line.number)
        names = ", ".join(sorted(patched))
        yield f"S9 {names} {at(last)}: really patched, and {counted} hosts are PATCHED"


def _not_done(case: Case) -> Iterator[str]:
    """A success has had the effect of every step that it began: nobody had it gone on with by hand."""
    if case.report.hosts_omitted:
        return
    for host, lines in case.lines.items():
        if case.state_of(host) not in (HostState.PATCHED, HostState.UNCHANGED):
            continue
        done = {(line.step, line.key) for line in lines if line.what == "done"}
        for line in lines:
            if line.what == "failed" and (line.step, line.key) not in done:
                yield f"S9 {host} {at(line)}: reported as a success, and {line.step} never went well"
                break


# S10, S13


def _counts_fall(evidence: Evidence) -> Iterator[str]:
    """What clusters told, by its number: a final state is final."""
    last: dict[str, Mapping[str, Any]] = {}
    for when, told in sorted(evidence.told, key=lambda each: each[1]["sequence"]):
        progress = told["progress"]
        name = progress["cluster"]
        before = last.get(name, {})
        for state, number in progress["counts"].items():
            if number < before.get(state, 0) and state != HostState.NOT_STARTED:
                yield (
                    f"S10 {name} at {server_time(when)}: {before[state]} hosts were {state}, now {number}"
                )
        last[name] = progress["counts"]


def _verbs(evidence: Evidence) -> Iterator[str]:
    for verb in evidence.verbs:
        if not str(verb.given.get("by") or "").strip():
            yield f"S13 {verb.name} at {server_time(verb.when)}: nobody's name"


# S15


def _others_stop(case: Case, evidence: Evidence, request: Mapping[str, Any]) -> Iterator[str]:
    """A cluster that fails stops no other: nothing else can have stopped these."""
    policy = request["policy"]
    other_reasons = (
        policy["stop_scope"] != "cluster"
        or any(each.get("total_failure_budget") for each in evidence.policies)
        or policy.get("soak") is not None
        or policy.get("windows") is not None
        or policy["rings"]
        or request["approvals"]
        or evidence.has("abort")
        or case.report.outcome is Outcome.ABORTED
    )
    if other_reasons:
        return
    failed = [each for each in case.report.clusters if any(each.counts[s] for s in FAILURE)]
    for cluster in case.report.clusters:
        if cluster.outcome is Outcome.STOPPED and failed and cluster not in failed:
            lines = case.in_cluster(cluster.cluster)
            last = max((some[-1] for some in lines.values()), key=lambda x: x.number, default=None)
            when = "" if last is None else f" after {last.host} {at(last)}"
            yield (
                f"S15 {cluster.cluster}{when}: stopped without a failure of its own, beside "
                f"{failed[0].cluster}"
            )
