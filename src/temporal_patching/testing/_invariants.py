"""What must hold in every rollout, judged from what was really done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import final

import attrs
from temporalio.client import WorkflowHistory

from ..models import HostReport, RolloutReport
from ..policy import DEFAULT_STEPS, HostState, Outcome
from ._evidence import Evidence, read
from ._hosts import SimulatedHost
from ._log import OF_CLUSTERS, Effect, FleetTruth

SUCCESS = (HostState.PATCHED, HostState.UNCHANGED)
NEVER_TOUCHED = (HostState.NOT_STARTED, HostState.SKIPPED, HostState.GONE)


@final
class InvariantsBroken(AssertionError):
    """What must hold in every rollout does not.

    Attributes:
        broken: All that does not hold, in order: which invariant, which host, when, and what.
    """

    def __init__(self, broken: Iterable[str]) -> None:
        self.broken: tuple[str, ...] = tuple(broken)
        many = f"{len(self.broken)} things do not hold:\n" if len(self.broken) > 1 else ""
        super().__init__(many + "\n".join(self.broken))


def check_invariants(
    fleet: FleetTruth,
    report: RolloutReport,
    history: WorkflowHistory | Iterable[WorkflowHistory] | None = None,
    *,
    canaries: Iterable[str] = (),
) -> None:
    """Compares what a rollout says with what was really done to its hosts.

    It works everything out anew, from the log and from the histories' JSON: no rule of the library is asked
    about itself. Only what can be told for certain is judged; what is late or lost does not raise a false
    alarm.

    From the fleet and the report alone:

    * S5: one rollout, and one attempt, acts on a host at a time.
    * S6: nothing is done to hosts that are not in the plan, or were not to be started.
    * S7: each host has one final state, and the sums agree.
    * S8: what is out of service is named, and what was so before stays so.
    * S9: the report is never better than the truth.
    * S13: whoever decided at a gate is known, with a time. S2: an approved gate has its quorum.
    * S14: none of ``canaries`` is in the report (nor in a history).

    With the rollout's history also, by its request: S1 (never more hosts in flight or out of service than
    allowed), S2 (each gate has the approvers and the quorum that were asked for, and is passed before the hosts
    behind it start), the budgets of S3 (no more failures than allowed, and as many as were in flight), S4 (pilots,
    then wave by wave, with soaks between), S9 (a success has had the effect of each step that it began), S10 (what
    is final stays), S13 (each verb has a name), S15 (a cluster that fails stops no other, where that was asked
    for), and that nothing begins after the end. With the clusters' histories also: S3 (no host starts while its
    cluster has been told to pause, to stop, or that no window is open).

    Not judged: waves, their gates and in-flight counts from the log where hosts are parked, waited for or skipped
    by hand (S1 then needs the clusters' histories), ``max_per_domain``, rings and their gates, whether an update
    of another name than ``perform_update`` was made, how an expired approval is asked for again, why an outcome
    is not PATCHED, hosts that are named as out of service and are not, and S11 and S12, which compare runs:
    ``rehearse`` and a ``Replayer`` do that.

    Args:
        fleet: The simulated fleet, after the rollout; or what ``ServedFleet.truth()`` gave.
        report: How the rollout ended.
        history: Histories of the rollout and of its clusters, all runs, in any order; those of hosts are searched
            for canaries. They must be plain JSON. Default: what needs one is not judged.
        canaries: Texts that must be nowhere: the secrets that the activities had.

    Raises:
        InvariantsBroken: Something does not hold. It names all of it, each with host and moment.
        InvalidRequest: A history cannot be read.

    Example:
        >>> from temporal_patching.models import RolloutReport
        >>> from temporal_patching.policy import Outcome
        >>> from temporal_patching.testing import SimulatedFleet
        >>> fleet = SimulatedFleet({"eu-1": 2})
        >>> check_invariants(fleet, RolloutReport(rollout="r", outcome=Outcome.REJECTED))
    """
    from ._invariants_history import with_history

    case = Case(fleet, report, read(history), tuple(canaries))
    broken = [*_truth(case), *with_history(case)]
    if broken:
        raise InvariantsBroken(broken)


class Case:
    """One rollout, its evidence in order."""

    def __init__(
        self,
        fleet: FleetTruth,
        report: RolloutReport,
        evidence: Evidence | None,
        canaries: tuple[str, ...],
    ) -> None:
        self.fleet = fleet
        self.report = report
        self.evidence = evidence
        self.canaries = canaries
        self.listed: dict[str, HostReport] = {each.host: each for each in report.hosts}
        self.lines: dict[str, list[Effect]] = {}
        """What this rollout did to each host, in order."""
        for line in fleet.log:
            if line.rollout == report.rollout and line.step not in OF_CLUSTERS:
                self.lines.setdefault(line.host, []).append(line)

    def was(self, host: str) -> SimulatedHost | None:
        """A host before this rollout came."""
        return self.lines[host][0].then

    def became(self, host: str) -> SimulatedHost | None:
        """A host when this rollout was done with it."""
        return self.lines[host][-1].then

    def in_cluster(self, cluster: str) -> dict[str, list[Effect]]:
        """What was done in one cluster, by host in the order of their first step."""
        return {host: some for host, some in self.lines.items() if some[0].cluster == cluster}

    def is_patched(self, host: str) -> bool:
        """Whether this rollout has really brought something newer."""
        was, became = self.was(host), self.became(host)
        return was is not None and became is not None and became.version > was.version

    def state_of(self, host: str) -> HostState | None:
        """What became of a host, as far as the report says; of those not listed, by the truth."""
        if host in self.listed:
            return self.listed[host].state
        if self.report.hosts_omitted:
            return None
        return HostState.PATCHED if self.is_patched(host) else HostState.UNCHANGED


def at(line: Effect) -> str:
    """When: for messages."""
    server = "" if line.when is None else f", {server_time(line.when)} by the server"
    return f"at {line.at:.3f} s (log line {line.number}{server})"


def server_time(when: datetime) -> str:
    """A moment of the server's clock: for messages."""
    return f"{when:%Y-%m-%d %H:%M:%S.%f}"[:-3]


def _truth(case: Case) -> Iterator[str]:
    yield from _one_holder(case)
    yield from _only_the_plan(case)
    yield from _sums(case)
    yield from _service(case)
    yield from _not_better(case)
    yield from _gates(case)
    yield from _canaries(case)


# S5


def _one_holder(case: Case) -> Iterator[str]:
    others: dict[str, dict[str, list[Effect]]] = {}
    for line in case.fleet.log:
        if line.rollout not in ("", case.report.rollout) and line.host in case.lines:
            others.setdefault(line.host, {}).setdefault(line.rollout, []).append(line)
    for host, lines in case.lines.items():
        for other, theirs in others.get(host, {}).items():
            if theirs[0].number < lines[-1].number and lines[0].number < theirs[-1].number:
                later = max(theirs[0], lines[0], key=lambda line: line.number)
                yield (
                    f"S5 {host} {at(later)}: {case.report.rollout!r} and {other!r} work on it at the same "
                    "time"
                )
        yield from _zombies(host, lines)


def _zombies(host: str, lines: list[Effect]) -> Iterator[str]:
    newest: Effect | None = None
    for line in lines:
        if line.what == "began":
            newest = line
        elif line.what == "done" and newest is not None and _attempt(line) != _attempt(newest):
            yield (
                f"S5 {host} {at(line)}: {line.step} #{line.attempt} has its effect after {newest.step} "
                f"#{newest.attempt} had begun"
            )


def _attempt(line: Effect) -> tuple[str, str, int]:
    return line.key, line.step, line.attempt


# S6


def _only_the_plan(case: Case) -> Iterator[str]:
    clusters = {each.cluster for each in case.report.clusters}
    for host, lines in case.lines.items():
        first = lines[0]
        if first.cluster not in clusters:
            yield (
                f"S6 {host} {at(first)}: {first.step} on a host of {first.cluster!r}, which is no cluster "
                "of the report"
            )
        said = case.listed.get(host)
        if said is None:
            continue
        if said.state in NEVER_TOUCHED:
            yield f"S6 {host} {at(first)}: {first.step} began, and the report says {said.state}"
        updates = [line for line in lines if line.step == "perform_update" and line.what == "done"]
        if said.state is HostState.CANCELLED and updates:
            yield f"S6 {host} {at(updates[0])}: it was updated, and the report says CANCELLED"


# S7


def _sums(case: Case) -> Iterator[str]:
    report = case.report
    for state in HostState:
        parts = sum(each.counts[state] for each in report.clusters)
        if report.clusters and parts != report.counts[state]:
            yield f"S7: {report.counts[state]} hosts are {state}, {parts} by the sum of the clusters"
        listed = [each.host for each in report.hosts if each.state is state]
        if len(listed) > report.counts[state]:
            names = ", ".join(listed)
            yield f"S7 {names}: {len(listed)} are listed as {state}, {report.counts[state]} counted"
        missing = report.counts[state] - len(listed)
        if state not in SUCCESS and missing > report.hosts_omitted:
            yield f"S7: {report.counts[state]} hosts are {state}, only {len(listed)} are listed"
    others = sum(n for state, n in report.counts.items() if state not in SUCCESS)
    others -= sum(each.state not in SUCCESS for each in report.hosts)
    # Successes that are out of service are listed, too.
    if report.hosts_omitted > max(others, 0) + len(report.left_out_of_service):
        yield f"S7: {report.hosts_omitted} hosts are said to be omitted, {others} are not listed"
    if len(case.listed) < len(report.hosts):
        every = [each.host for each in report.hosts]
        twice = sorted({name for name in every if every.count(name) > 1})
        yield f"S7 {', '.join(twice)}: listed more than once"
    sizes: dict[str, int] = {}
    for host in case.fleet.hosts:
        sizes[host.cluster] = sizes.get(host.cluster, 0) + 1
    for each in report.clusters:
        known = sum(each.counts.values()) - each.counts[HostState.GONE]
        acted = case.in_cluster(each.cluster)
        if known > sizes.get(each.cluster, 0):
            yield f"S7 {each.cluster}: {known} hosts are counted, it has {sizes.get(each.cluster, 0)}"
        if known < len(acted):
            last = next(reversed(acted.values()))[0]
            yield f"S7 {last.host} {at(last)}: host {len(acted)} of a plan of {known}"


# S8


def _service(case: Case) -> Iterator[str]:
    for host, lines in case.lines.items():
        was, became = case.was(host), case.became(host)
        if was is None or became is None:
            continue
        if was.serves and not became.serves and host not in case.report.left_out_of_service:
            out = next((each for each in reversed(lines) if _takes(each, lines)), lines[-1])
            yield (
                f"S8 {host} {at(out)}: out of service since {out.step}, and the report does not say so"
            )
        said = case.listed.get(host)
        cancelled = said is not None and said.state is HostState.CANCELLED
        if cancelled and was.serves and not became.serves:
            yield f"S8 {host} {at(lines[-1])}: reported as CANCELLED, and it was not given back"
        told = any(
            each.step == "check_preconditions" and "Already" in each.faults for each in lines
        )
        if told and not was.in_service:
            for each in lines:
                if each.step == "clear_maintenance_mode" and each.what == "done":
                    yield f"S8 {host} {at(each)}: it was in maintenance before, and is taken out of it"
                    break


def _takes(line: Effect, lines: list[Effect]) -> bool:
    """Whether the host served before this line of its, and not after it."""
    index = lines.index(line)
    before = lines[index - 1].then if index else None
    served = before is None or before.serves
    return line.then is not None and served and not line.then.serves


# S9


def _not_better(case: Case) -> Iterator[str]:
    report = case.report
    bad = {s: n for s, n in report.counts.items() if n and s not in SUCCESS}
    if report.outcome is Outcome.PATCHED and bad:
        others = ", ".join(f"{number} {state}" for state, number in bad.items())
        yield f"S9: the outcome is PATCHED, with {others}"
    patched = [host for host in case.lines if case.is_patched(host)]
    good: list[str] = []
    for host, lines in case.lines.items():
        said = case.listed.get(host)
        if said.state not in SUCCESS if said is not None else report.hosts_omitted:
            continue
        became, last = case.became(host), lines[-1]
        good.append(host)
        if became is None:
            continue
        if not became.whole:
            yield f"S9 {host} {at(last)}: reported as a success, and dpkg is {became.dpkg}"
        elif became.needs_reboot and host in patched:
            yield (
                f"S9 {host} {at(last)}: reported as a success, and kernel {became.running_kernel} runs, "
                f"not {became.installed_kernel}"
            )
    if _has_its_own_update(case):
        return
    real = patched if report.hosts_omitted else [host for host in good if host in patched]
    if report.counts[HostState.PATCHED] > len(real):
        updates = [
            line
            for host in good
            if host not in patched
            for line in case.lines[host]
            if line.step == "perform_update" and line.what == "done"
        ]
        which = "; ".join(f"{line.host} {at(line)} is as it was" for line in updates)
        yield (
            f"S9 {which or 'no host is named'}: {report.counts[HostState.PATCHED]} hosts are PATCHED, "
            f"really {len(real)}"
        )


def _has_its_own_update(case: Case) -> bool:
    """Whether the procedure updates by a step of another name, of which the fleet knows nothing."""
    steps = {line.step for some in case.lines.values() for line in some}
    return "perform_update" not in steps and not steps <= set(DEFAULT_STEPS.names)


# S2, S13


def _gates(case: Case) -> Iterator[str]:
    asked = case.evidence.request if case.evidence is not None else None
    requester = canonical(asked["requester"]) if asked is not None else None
    for gate in case.report.gates:
        for vote in gate.votes:
            if not vote.by or vote.at is None:
                yield f"S13 gate {gate.gate!r}: a vote of {vote.by!r} without a name or a time"
        if not gate.approved:
            continue
        people = {canonical(each) for each in gate.approvers}
        voters = {canonical(vote.by) for vote in gate.votes if vote.approve} & people
        if requester in voters:
            voters.remove(requester)
        if len(voters) < gate.quorum:
            yield (
                f"S2 gate {gate.gate!r}: approved by {len(voters)} of its approvers, {gate.quorum} needed"
            )
        if any(not vote.approve for vote in gate.votes):
            yield f"S2 gate {gate.gate!r}: approved, and somebody rejected"


def canonical(person: str) -> str:
    """A person, however it is written."""
    return " ".join(person.split()).casefold()


# S14


def _canaries(case: Case) -> Iterator[str]:
    texts = [("the report", repr(case.report).encode())]
    if case.evidence is not None:
        texts += [(f"the history of {id!r}", raw) for id, raw in case.evidence.raw]
    for canary in case.canaries:
        for where, text in texts:
            if canary.encode() in text:
                yield f"S14: a canary of {len(canary)} characters is in {where}"


@attrs.frozen
class Span:
    """From the beginning of a host's first attempt to the beginning of its last: it was in flight."""

    host: str
    first: Effect
    last: Effect


def spans_of(lines: dict[str, list[Effect]]) -> list[Span]:
    """The spans of some hosts, in the order in which they began."""
    found: list[Span] = []
    for host, some in lines.items():
        began = [line for line in some if line.what == "began"]
        if began:
            found.append(Span(host, began[0], began[-1]))
    return sorted(found, key=lambda span: span.first.number)
