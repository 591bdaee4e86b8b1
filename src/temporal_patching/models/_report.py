"""What is reported: how hosts, clusters and a rollout ended, and where they are while they run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal, final

import attrs

from ..policy._approval import ApprovalOutcome
from ..policy._host import Procedure
from ..policy._rules import as_tuple
from ..policy._states import SUCCESSES, HostState, Outcome
from ._wire import WireType

HealthChecked = Literal["checked", "not checked"]

MAX_LISTED = 200
"""Hosts that a report or a progress lists one by one."""

REASON_LIMIT = 500


def as_reason(text: str) -> str:
    """A reason in one line that cannot blow up a report: long ones keep their beginning and their end."""
    text = " ".join(text.split())
    if len(text) <= REASON_LIMIT:
        return text
    return text[: REASON_LIMIT // 2] + " … " + text[-REASON_LIMIT // 2 :]


def as_reason_or_none(text: str | None) -> str | None:
    """As ``as_reason``, where there may be none."""
    return None if text is None else as_reason(text)


def all_counts(counts: Mapping[HostState, int]) -> Mapping[HostState, int]:
    """Every state has a number, also those that did not occur."""
    return {state: counts.get(state, 0) for state in HostState}


@final
@attrs.frozen(kw_only=True)
class HostReport(WireType):
    """One host in a report.

    Attributes:
        cluster: Its cluster.
        host: Its name.
        state: What became of it.
        reason: Why, in one line. Empty where there is nothing to say.
        left_out: Why it is out of service now, or None if it is in service.
    """

    _refuses_unknown = False

    cluster: str
    host: str
    state: HostState
    reason: str = attrs.field(default="", converter=as_reason)
    left_out: str | None = attrs.field(default=None, converter=as_reason_or_none)


@final
@attrs.frozen(kw_only=True)
class HostResult(WireType):
    """How a host's workflow ended: its result, or the details of its failure.

    Attributes:
        cluster: The host's cluster.
        host: The host's name.
        state: What became of it.
        reason: Why, in one line.
        left_out: Why it is out of service now, or None.
        touched: Whether its update had begun.
        completed: The steps that were done, in order.
        already: What was in effect before we came, and was left so.
        step: The step that failed. Empty if none did.
        parked: Where it stands, if it waits for a person. Only for the library: it is handed on to the workflow
            that goes on from there, and its fields may change. None if the host has ended for good.
    """

    _refuses_unknown = False
    _written_short = True

    cluster: str
    host: str
    state: HostState
    reason: str = attrs.field(default="", converter=as_reason)
    left_out: str | None = attrs.field(default=None, converter=as_reason_or_none)
    touched: bool = False
    completed: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    already: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    step: str = ""
    parked: Procedure | None = None


@final
@attrs.frozen(kw_only=True)
class ClusterReport(WireType):
    """How a cluster ended: its workflow's result, or the details of its failure.

    Attributes:
        cluster: Its name.
        outcome: PATCHED, PARTIAL, STOPPED, ABORTED, or PLANNED (a dry run).
        reason: Why it stopped. Empty if it did not.
        counts: Hosts by state; every state has a number.
        hosts: Those not patched (left out of service first), at most 200.
        hosts_omitted: How many more there are.
        left_out_of_service: Names of all hosts that are out of service now. Never shortened.
        waves: How many waves it began, the pilots not counted.
        digest: Fingerprint of the frozen host list.
        came_later: Hosts that were left out, since they are not in the request's ``planned_hosts``; at most 200.
        came_later_omitted: How many more there are.
        notices_failed: How many notices could not be delivered.
    """

    _refuses_unknown = False

    cluster: str
    outcome: Outcome
    reason: str = attrs.field(default="", converter=as_reason)
    counts: Mapping[HostState, int] = attrs.field(
        factory=dict[HostState, int], converter=all_counts
    )
    hosts: tuple[HostReport, ...] = ()
    hosts_omitted: int = 0
    left_out_of_service: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    waves: int = 0
    digest: str = ""
    came_later: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    came_later_omitted: int = 0
    notices_failed: int = 0


@final
@attrs.frozen(kw_only=True)
class VoteReport(WireType):
    """One person's vote, as it was counted.

    Attributes:
        by: Who voted.
        approve: Whether it approves or rejects.
        reason: Why, as the voter said.
        at: When it was counted (workflow time).
    """

    _refuses_unknown = False

    by: str
    approve: bool
    reason: str = ""
    at: datetime | None = None


@final
@attrs.frozen(kw_only=True)
class GateReport(WireType):
    """One gate: who may decide, who has said what, what is missing.

    Attributes:
        gate: Its name.
        outcome: approved, rejected, expired, or cancelled (its workflow went on without it); None while
            it waits.
        waiting: Whether it is open now.
        approvers: Who may vote.
        quorum: How many must approve.
        votes: What counts so far.
        opened_at: When it opened (workflow time); None before that.
        deadline: When it expires; None before it opens.
        refused: How many votes were refused since it is known, as far as history has them.
        digest: Fingerprint of what people are asked for, if it has one.
    """

    _refuses_unknown = False

    gate: str
    outcome: ApprovalOutcome | None = None
    waiting: bool = False
    approvers: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    quorum: int = 1
    votes: tuple[VoteReport, ...] = ()
    opened_at: datetime | None = None
    deadline: datetime | None = None
    refused: int = 0
    digest: str = ""

    @property
    def approved(self) -> bool:
        """Whether the gate may be passed."""
        return self.outcome == "approved"


@final
@attrs.frozen(kw_only=True)
class RefusedVote(WireType):
    """A vote by signal that did not count, and why.

    Attributes:
        reason: Why it did not count.
        by: Who voted, as far as it could be read.
        gate: At which gate, as far as it could be read.
    """

    _refuses_unknown = False

    reason: str = attrs.field(converter=as_reason)
    by: str = ""
    gate: str = ""


@final
@attrs.frozen(kw_only=True)
class ApprovalReport(WireType):
    """The answer of the ``approvals`` query: every gate, and the last votes that were refused.

    Attributes:
        gates: Every gate that is known.
        refused: The last votes by signal that did not count, at most 50.
        held: Votes that came before any gate was known; they are judged when theirs opens.
    """

    _refuses_unknown = False

    gates: tuple[GateReport, ...] = ()
    refused: tuple[RefusedVote, ...] = ()
    held: int = 0
    """Votes that came before any gate was known; they are judged when theirs opens."""

    @property
    def pending(self) -> tuple[GateReport, ...]:
        """The gates that wait for votes now."""
        return tuple(gate for gate in self.gates if gate.waiting)


@final
@attrs.frozen(kw_only=True)
class ClusterSummary(WireType):
    """One cluster in a rollout's report.

    Attributes:
        cluster: Its name.
        outcome: How it ended.
        reason: Why it stopped. Empty if it did not.
        counts: Hosts by state; every state has a number.
        waves: How many waves it began, the pilots not counted.
        digest: Fingerprint of the frozen host list.
        came_later: How many hosts were left out, since they are not in the request's ``planned_hosts``.
    """

    _refuses_unknown = False

    cluster: str
    outcome: Outcome
    reason: str = attrs.field(default="", converter=as_reason)
    counts: Mapping[HostState, int] = attrs.field(
        factory=dict[HostState, int], converter=all_counts
    )
    waves: int = 0
    digest: str = ""
    came_later: int = 0


@final
@attrs.frozen(kw_only=True)
class RolloutReport(WireType):
    """How a rollout ended: its workflow's result, or the details of its failure.

    Attributes:
        rollout: Its workflow id.
        outcome: PATCHED, PARTIAL, STOPPED, REJECTED, EXPIRED, ABORTED, or PLANNED (a dry run).
        reason: Why, in one line. Empty if everything is patched.
        counts: Hosts by state; every state has a number.
        clusters: A summary for each.
        hosts: Those not patched (left out of service first), at most 200.
        hosts_omitted: How many more there are.
        came_later: Hosts that were left out, since they are not in the request's ``planned_hosts``; at most 200.
        came_later_omitted: How many more there are.
        left_out_of_service: Names of all hosts that are out of service now. Never shortened.
        health: ``"not checked"`` if the activities class has no health check.
        gates: Who decided what.
        digest: Fingerprint of the whole plan. Empty if it was not complete.
        notices_failed: How many notices could not be delivered.
    """

    _refuses_unknown = False

    rollout: str
    outcome: Outcome
    reason: str = attrs.field(default="", converter=as_reason)
    counts: Mapping[HostState, int] = attrs.field(
        factory=dict[HostState, int], converter=all_counts
    )
    clusters: tuple[ClusterSummary, ...] = ()
    hosts: tuple[HostReport, ...] = ()
    hosts_omitted: int = 0
    came_later: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    came_later_omitted: int = 0
    left_out_of_service: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    health: HealthChecked = "checked"
    gates: tuple[GateReport, ...] = ()
    digest: str = ""
    notices_failed: int = 0

    @property
    def summary(self) -> str:
        """One line for people."""
        later = len(self.came_later) + self.came_later_omitted
        said = f"{later} came later and {'was' if later == 1 else 'were'} left out" if later else ""
        return "; ".join(
            part
            for part in (said_counts(self.outcome.value, self.counts, self.reason), said)
            if part
        )


@final
@attrs.frozen(kw_only=True)
class CompletedSteps(WireType):
    """The answer of the ``completed_steps`` query: what is done, in order, the last 1,000.

    Attributes:
        steps: What is done, in order.
        omitted: How many older ones are left out.
    """

    _refuses_unknown = False

    steps: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    omitted: int = 0


@final
@attrs.frozen(kw_only=True)
class HostProgress(WireType):
    """Where a host is.

    Attributes:
        host: Its name.
        cluster: Its cluster.
        rollout: The rollout that works on it.
        step: The step that runs now, or None.
        completed: The steps that are done.
        open: What was taken away and not given back yet.
        cancelled: Why it is being cancelled, or None.
        failure: What failed for good, or None.
        attempt: Which attempt of the step is under way or waits for its turn. Only ``Rollout.host_progress``
            knows it; a workflow is not told.
        last_failure: Why the attempt before it failed, likewise.
        halted: Whether it stands still, because the rollout is paused after each step.
        state: What became of it, once it has ended.
    """

    _refuses_unknown = False

    host: str
    cluster: str
    rollout: str = ""
    step: str | None = None
    completed: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    open: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    cancelled: str | None = attrs.field(default=None, converter=as_reason_or_none)
    failure: str | None = attrs.field(default=None, converter=as_reason_or_none)
    attempt: int | None = None
    last_failure: str | None = attrs.field(default=None, converter=as_reason_or_none)
    halted: bool = False
    state: HostState | None = None


@final
@attrs.frozen(kw_only=True)
class ParkedHost(WireType):
    """A host of which a step failed, and that waits for a person: ``retry``, ``accept``, ``restore``, ``skip``.

    Attributes:
        host: Its name.
        state: What it counts as until then: FAILED or UNREACHABLE.
        step: The step that failed.
        reason: Why, in one line.
        left_out: Why it is out of service now, or None if it is in service.
        tries: How often it has gone through its procedure: each retry is one more.
    """

    _refuses_unknown = False

    host: str
    state: HostState = HostState.FAILED
    step: str = ""
    tries: int = 1
    reason: str = attrs.field(default="", converter=as_reason)
    left_out: str | None = attrs.field(default=None, converter=as_reason_or_none)


@final
@attrs.frozen(kw_only=True)
class ClusterProgress(WireType):
    """Where a cluster is.

    Attributes:
        cluster: Its name.
        phase: ``listing``, ``waiting`` (for the rollout's go), ``pilots``, ``wave 1``, …, ``soaking``,
            ``gate``, ``parked`` (only parked hosts are left), ``pausing``, ``paused``, ``stopping`` or ``ended``.
        hosts: Length of its frozen list.
        counts: Hosts by state; every state has a number. Those in flight or parked are in none.
        in_flight: Names of the hosts in flight, at most 200.
        waits_for: What it waits for, in one line.
        failures: Hosts that failed, with reasons, at most 200.
        stopped: Why it stopped by itself, or None.
        left_out_of_service: How many hosts are held out of service.
        parked: Hosts that failed and wait for a person, at most 200. ``Rollout.cluster_progress`` knows the
            reasons of all of them, the rollout's own query of the last ones.
    """

    _refuses_unknown = False

    cluster: str
    phase: str = "listing"
    hosts: int = 0
    counts: Mapping[HostState, int] = attrs.field(
        factory=dict[HostState, int], converter=all_counts
    )
    in_flight: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    waits_for: str = ""
    failures: tuple[HostReport, ...] = ()
    stopped: str | None = attrs.field(default=None, converter=as_reason_or_none)
    left_out_of_service: int = 0
    parked: tuple[ParkedHost, ...] = ()


@final
@attrs.frozen(kw_only=True)
class RolloutProgress(WireType):
    """Where a rollout is.

    Attributes:
        rollout: Its workflow id.
        phase: ``listing``, ``gate`` (before the start), ``running``, ``pausing`` (what is in flight still
            moves), ``paused``, ``stopping`` or ``ended``.
        waits_for: What it waits for, in one line.
        hosts: How many hosts the plan has.
        counts: Hosts by state; every state has a number. Those in flight or parked are in none.
        clusters: Each cluster. The rollout's own query knows them as of their last report;
            ``Rollout.progress`` asks each for the newest.
        gates: The gates and their votes.
        outcome: How it ended, or None.
        reason: Why it stopped, or empty.
        notices_failed: How many notices could not be delivered.
        digest: Fingerprint of the plan, once it is complete.
        health: ``"not checked"`` if the activities class has no health check.
    """

    _refuses_unknown = False

    rollout: str
    phase: str = "listing"
    waits_for: str = ""
    hosts: int = 0
    counts: Mapping[HostState, int] = attrs.field(
        factory=dict[HostState, int], converter=all_counts
    )
    clusters: tuple[ClusterProgress, ...] = ()
    gates: tuple[GateReport, ...] = ()
    outcome: Outcome | None = None
    reason: str = attrs.field(default="", converter=as_reason)
    notices_failed: int = 0
    digest: str = ""
    health: HealthChecked = "checked"

    @property
    def summary(self) -> str:
        """One line for people."""
        if self.outcome is not None:
            return said_counts(self.outcome.value, self.counts, self.reason)
        flying = sum(len(cluster.in_flight) for cluster in self.clusters)
        what = f"{self.phase}, {flying} in flight" if flying else self.phase
        parked = sum(len(cluster.parked) for cluster in self.clusters)
        what = f"{what}, {parked} parked" if parked else what
        waits = f"; waits for {self.waits_for}" if self.waits_for else ""
        return said_counts(what, self.counts, "") + waits


def said_counts(what: str, counts: Mapping[HostState, int], why: str) -> str:
    """``PARTIAL: 6 patched, 1 failed: reason``."""
    some = [
        f"{number} {state.value.lower().replace('_', ' ')}"
        for state, number in counts.items()
        if number
    ]
    return ": ".join(part for part in (what, ", ".join(some), why) if part)


def rank(host: HostReport) -> int:
    """Where a report lists it: held ones and failures come first."""
    ranks = {HostState.FAILED: 1, HostState.UNREACHABLE: 1, HostState.NOT_STARTED: 3}
    return 0 if host.left_out is not None else ranks.get(host.state, 2)


def listed(hosts: Iterable[HostReport]) -> tuple[tuple[HostReport, ...], int]:
    """The hosts that a report lists, and how many it leaves out. Held ones and failures come first."""
    some = [each for each in hosts if each.state not in SUCCESSES or each.left_out is not None]
    some.sort(key=rank)
    return tuple(some[:MAX_LISTED]), max(len(some) - MAX_LISTED, 0)
