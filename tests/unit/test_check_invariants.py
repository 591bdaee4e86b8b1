"""Each invariant, broken on purpose by a log, a report and histories made by hand: what is said of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHistory

from temporal_patching.exceptions import InvalidRequest
from temporal_patching.models import (
    ClusterSummary,
    GateReport,
    HostReport,
    PatchRequest,
    RolloutReport,
    VoteReport,
)
from temporal_patching.models._wire import to_json
from temporal_patching.policy import (
    ApprovalPolicy,
    FailureBudget,
    HostState,
    Outcome,
    RolloutPolicy,
    Soak,
)
from temporal_patching.testing import (
    Coverage,
    DoneButLost,
    Effect,
    FailAt,
    FleetTruth,
    InvariantsBroken,
    NotSeen,
    SimulatedHost,
    check_invariants,
)

NOON = datetime(2026, 11, 2, 12, 0, tzinfo=timezone.utc)
ALICE, CAROL = "alice@example.com", "carol@example.com"


class Truth(FleetTruth):
    """Hosts and a log made by hand; each line is a second after the one before."""

    def __init__(self, *names: str) -> None:
        self._hosts = {n: SimulatedHost(name=n, cluster=n.rpartition("-")[0]) for n in names}
        self._log: list[Effect] = []

    @property
    def hosts(self) -> tuple[SimulatedHost, ...]:
        return tuple(self._hosts.values())

    @property
    def log(self) -> tuple[Effect, ...]:
        return tuple(self._log)

    def line(
        self,
        what: Any,
        step: str,
        host: str,
        *,
        rollout: str = "r",
        attempt: int = 1,
        faults: Sequence[str] = (),
        cluster: str = "",
        **changes: Any,
    ) -> Truth:
        """Adds a line, and what it changed."""
        self._hosts[host] = then = attrs.evolve(self._hosts[host], **changes)
        number = len(self._log)
        self._log.append(
            Effect(
                number=number,
                at=float(number),
                what=what,
                rollout=rollout,
                cluster=cluster or then.cluster,
                host=host,
                step=step,
                attempt=attempt,
                key=f"{rollout}/{host}/{step}/1",
                when=NOON + timedelta(seconds=number),
                faults=tuple(faults),
                then=then,
            )
        )
        return self

    def did(self, host: str, step: str, *, rollout: str = "r", **changes: Any) -> Truth:
        """A step that begins, and has its effect."""
        self.line("began", step, host, rollout=rollout)
        return self.line("done", step, host, rollout=rollout, **changes)

    def patched(self, *hosts: str) -> Truth:
        """The whole procedure, host after host."""
        for host in hosts:
            self.did(host, "set_maintenance_mode", in_service=False)
            self.did(host, "perform_update", packages=NEW)
            self.did(host, "check_service_health")
            self.did(host, "clear_maintenance_mode", in_service=True)
        return self


NEW = {"linux-image": 2, "nginx": 2, "openssl": 2}


def report(
    *listed: HostReport,
    outcome: Outcome = Outcome.PATCHED,
    patched: int = 0,
    unchanged: int = 0,
    clusters: Sequence[ClusterSummary] = (),
    left_out: Sequence[str] = (),
    gates: Sequence[GateReport] = (),
    **counts: int,
) -> RolloutReport:
    """A report of one cluster, whose sums agree, unless others are given."""
    numbers = {HostState.PATCHED: patched, HostState.UNCHANGED: unchanged}
    for each in listed:
        numbers[each.state] = numbers.get(each.state, 0) + 1
    for state, number in counts.items():
        numbers[HostState(state)] = number
    return RolloutReport(
        rollout="r",
        outcome=outcome,
        counts=numbers,
        hosts=tuple(listed),
        clusters=tuple(clusters)
        or (ClusterSummary(cluster="eu", outcome=outcome, counts=numbers),),
        left_out_of_service=tuple(left_out),
        gates=tuple(gates),
    )


def became(host: str, state: HostState, left_out: str | None = None) -> HostReport:
    """A host that is listed."""
    return HostReport(cluster="eu", host=host, state=state, left_out=left_out)


def broken(truth: Truth, told: RolloutReport, *history: WorkflowHistory, **more: Any) -> list[str]:
    """What is said not to hold."""
    try:
        check_invariants(truth, told, history or None, **more)
    except InvariantsBroken as error:
        return list(error.broken)
    return []


# From the log and the report


def test_a_good_rollout_breaks_nothing() -> None:
    """All holds: nothing is raised."""
    truth = Truth("eu-1", "eu-2", "eu-3").patched("eu-1", "eu-2")
    assert broken(truth, report(patched=2, unchanged=1)) == []


def two_rollouts() -> tuple[Truth, RolloutReport]:
    """Two rollouts on one host."""
    truth = Truth("eu-1").line("began", "perform_update", "eu-1")
    truth.did("eu-1", "stop_services", rollout="other")
    truth.line("done", "perform_update", "eu-1", packages=NEW)
    return truth, report(patched=1)


def a_zombie() -> tuple[Truth, RolloutReport]:
    """An older attempt acts after a newer one began."""
    truth = Truth("eu-1").line("began", "perform_update", "eu-1")
    truth.line("began", "perform_update", "eu-1", attempt=2)
    truth.line("done", "perform_update", "eu-1", packages=NEW)
    truth.line("done", "perform_update", "eu-1", attempt=2)
    return truth, report(patched=1)


def another_cluster() -> tuple[Truth, RolloutReport]:
    """A host of a cluster that was not asked for."""
    return Truth("us-1", "eu-1").did("us-1", "stop_services"), report(unchanged=1)


def not_to_be_started() -> tuple[Truth, RolloutReport]:
    """A host that is said not to have started."""
    truth = Truth("eu-1").did("eu-1", "check_preconditions")
    return truth, report(became("eu-1", HostState.NOT_STARTED), outcome=Outcome.STOPPED)


def cancelled_and_updated() -> tuple[Truth, RolloutReport]:
    """A host that was updated, and is said to have been cancelled."""
    truth = Truth("eu-1").patched("eu-1")
    return truth, report(became("eu-1", HostState.CANCELLED), outcome=Outcome.ABORTED)


def sums_of_clusters() -> tuple[Truth, RolloutReport]:
    """The clusters count more than the whole."""
    part = ClusterSummary(cluster="eu", outcome=Outcome.PATCHED, counts={HostState.UNCHANGED: 2})
    return Truth("eu-1", "eu-2"), report(unchanged=1, clusters=[part])


def too_many_listed() -> tuple[Truth, RolloutReport]:
    """A host is listed, and not counted."""
    failed = became("eu-1", HostState.FAILED)
    return Truth("eu-1"), report(failed, outcome=Outcome.PARTIAL, FAILED=0, UNCHANGED=1)


def not_listed() -> tuple[Truth, RolloutReport]:
    """A host is counted, and not listed."""
    return Truth("eu-1"), report(outcome=Outcome.PARTIAL, FAILED=1)


def omitted_and_not_there() -> tuple[Truth, RolloutReport]:
    """Hosts are said to be omitted that nobody has counted."""
    return Truth("eu-1"), attrs.evolve(report(unchanged=1), hosts_omitted=1)


def listed_twice() -> tuple[Truth, RolloutReport]:
    """One host twice."""
    failed = became("eu-1", HostState.FAILED)
    return Truth("eu-1", "eu-2"), report(failed, failed, outcome=Outcome.PARTIAL)


def more_than_there_are() -> tuple[Truth, RolloutReport]:
    """More hosts counted than the cluster has."""
    return Truth("eu-1"), report(unchanged=2)


def more_acted_on_than_planned() -> tuple[Truth, RolloutReport]:
    """More hosts acted on than were planned."""
    return Truth("eu-1", "eu-2").patched("eu-1", "eu-2"), report(patched=1)


def left_out() -> tuple[Truth, RolloutReport]:
    """A host is out of service, and nobody says so."""
    truth = Truth("eu-1").did("eu-1", "set_maintenance_mode", in_service=False)
    truth.line("began", "perform_update", "eu-1").line("failed", "perform_update", "eu-1")
    return truth, report(became("eu-1", HostState.FAILED), outcome=Outcome.STOPPED)


def not_given_back() -> tuple[Truth, RolloutReport]:
    """A host that is said to be as it was found, and is not."""
    truth = Truth("eu-1").did("eu-1", "stop_services", services_running=False)
    told = report(
        became("eu-1", HostState.CANCELLED, "unknown"), outcome=Outcome.ABORTED, left_out=["eu-1"]
    )
    return truth, told


def taken_out_of_maintenance() -> tuple[Truth, RolloutReport]:
    """What was in maintenance before is given to users."""
    truth = Truth("eu-1")
    for what in ("began", "done"):
        truth.line(what, "check_preconditions", "eu-1", faults=["Already"], in_service=False)
    truth.did("eu-1", "perform_update", packages=NEW)
    truth.did("eu-1", "clear_maintenance_mode", in_service=True)
    return truth, report(patched=1)


def better_outcome() -> tuple[Truth, RolloutReport]:
    """The outcome is better than its counts."""
    return Truth("eu-1"), report(became("eu-1", HostState.SKIPPED))


def half_configured() -> tuple[Truth, RolloutReport]:
    """A success that is half-configured."""
    truth = Truth("eu-1").did("eu-1", "perform_update", dpkg="half-configured")
    return truth, report(unchanged=1)


def old_kernel() -> tuple[Truth, RolloutReport]:
    """A success on which the old kernel runs."""
    truth = Truth("eu-1").did("eu-1", "perform_update", packages=NEW, installed_kernel=2)
    return truth, report(patched=1)


def lied() -> tuple[Truth, RolloutReport]:
    """A host that said it was updated, and was not."""
    truth = Truth("eu-1", "eu-2").patched("eu-1").did("eu-2", "perform_update")
    return truth, report(patched=2)


def no_quorum() -> tuple[Truth, RolloutReport]:
    """A gate passed by somebody else, against a reject."""
    votes = (VoteReport(by="Mallory", approve=True, at=NOON), VoteReport(by=ALICE, approve=False))
    gate = GateReport(gate="start", outcome="approved", approvers=(ALICE,), votes=votes)
    return Truth("eu-1"), report(unchanged=1, gates=[gate])


FROM_THE_TRUTH: Mapping[Callable[[], tuple[Truth, RolloutReport]], str] = {
    two_rollouts: r"S5 eu-1 at 1.000 s \(log line 1, .*12:00:01.000 by the server\): 'r' and 'other' work on it",
    a_zombie: r"S5 eu-1 at 2.000 s .*: perform_update #1 has its effect after perform_update #2 had begun",
    another_cluster: r"S6 us-1 at 0.000 s .*: stop_services on a host of 'us', which is no cluster of the",
    not_to_be_started: r"S6 eu-1 at 0.000 s .*: check_preconditions began, and the report says NOT_STARTED",
    cancelled_and_updated: r"S6 eu-1 at 3.000 s .*: it was updated, and the report says CANCELLED",
    sums_of_clusters: r"S7: 1 hosts are UNCHANGED, 2 by the sum of the clusters",
    too_many_listed: r"S7 eu-1: 1 are listed as FAILED, 0 counted",
    not_listed: r"S7: 1 hosts are FAILED, only 0 are listed",
    omitted_and_not_there: r"S7: 1 hosts are said to be omitted, 0 are not listed",
    listed_twice: r"S7 eu-1: listed more than once",
    more_than_there_are: r"S7 eu: 2 hosts are counted, it has 1",
    more_acted_on_than_planned: r"S7 eu-2 at 8.000 s .*: host 2 of a plan of 1",
    left_out: r"S8 eu-1 at 1.000 s .*: out of service since set_maintenance_mode, and the report does not say",
    not_given_back: r"S8 eu-1 at 1.000 s .*: reported as CANCELLED, and it was not given back",
    taken_out_of_maintenance: r"S8 eu-1 at 5.000 s .*: it was in maintenance before, and is taken out of it",
    better_outcome: r"S9: the outcome is PATCHED, with 1 SKIPPED",
    half_configured: r"S9 eu-1 at 1.000 s .*: reported as a success, and dpkg is half-configured",
    old_kernel: r"S9 eu-1 at 1.000 s .*: reported as a success, and kernel 1 runs, not 2",
    lied: r"S9 eu-2 at 9.000 s \(.*\) is as it was: 2 hosts are PATCHED, really 1",
    no_quorum: r"S2 gate 'start': approved by 0 of its approvers, 1 needed",
}


@pytest.mark.parametrize("case", FROM_THE_TRUTH, ids=lambda case: case.__name__)
def test_broken_by_the_truth(case: Callable[[], tuple[Truth, RolloutReport]]) -> None:
    """The log contradicts the report: it is said which host, and when."""
    said = broken(*case())
    assert any(re.match(FROM_THE_TRUTH[case], each) for each in said), said


def test_all_that_is_broken_is_named() -> None:
    """One error has everything; its text has one line for each."""
    truth, told = left_out()
    truth.did("eu-1", "stop_services", rollout="other")
    truth.line("began", "reboot", "eu-1")
    with pytest.raises(
        InvariantsBroken, match=r"2 things do not hold:\nS5 eu-1 .*\nS8 eu-1 "
    ) as error:
        check_invariants(truth, told)
    assert len(error.value.broken) == 2


def test_a_report_that_says_less_is_not_better() -> None:
    """Worse than the truth is no breach: a host named as out of service that is not, a failure that is patched."""
    truth = Truth("eu-1").patched("eu-1")
    failed = became("eu-1", HostState.FAILED, left_out="unknown")
    assert broken(truth, report(failed, outcome=Outcome.STOPPED, left_out=["eu-1"])) == []


# Histories made by hand


def payloads(*values: object) -> Payloads:
    """Values as the default converter writes them."""
    return Payloads(
        payloads=[
            Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(value).encode())
            for value in values
        ]
    )


class Events:
    """A history, an event a second."""

    def __init__(self, id: str, given: object) -> None:
        self.id = id
        self.events: list[HistoryEvent] = []
        self.add().workflow_execution_started_event_attributes.input.CopyFrom(payloads(given))

    def add(self, kind: Any = None) -> HistoryEvent:
        """The next event."""
        event = HistoryEvent(event_id=len(self.events) + 1)
        event.event_time.FromDatetime(NOON + timedelta(seconds=len(self.events)))
        if kind is not None:
            event.event_type = kind
        self.events.append(event)
        return event

    def signal(self, name: str, given: object) -> Events:
        """A signal came."""
        signal = self.add().workflow_execution_signaled_event_attributes
        signal.signal_name = name
        signal.input.CopyFrom(payloads(given))
        return self

    def verb(self, name: str, *, refused: bool = False, id: str = "", **given: object) -> Events:
        """A verb came, and was answered: by the event's number, or as the time-skipping server does, by the id."""
        event = self.add()
        request = event.workflow_execution_update_accepted_event_attributes.accepted_request
        request.meta.update_id = id
        request.input.name = name
        request.input.args.CopyFrom(payloads(given))
        done = self.add().workflow_execution_update_completed_event_attributes
        done.meta.update_id = id
        if not id:
            done.accepted_event_id = event.event_id
        if refused:
            done.outcome.failure.message = "no"
        else:
            done.outcome.success.CopyFrom(payloads({}))
        return self

    def starts(self, *hosts: str, **more: object) -> Events:
        """One workflow task starts hosts."""
        task = self.add(EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED)
        done = self.add(EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
        done.workflow_task_completed_event_attributes.started_event_id = task.event_id
        for host in hosts:
            child = self.add().start_child_workflow_execution_initiated_event_attributes
            child.workflow_task_completed_event_id = done.event_id
            child.input.CopyFrom(payloads({"task": {"host": host}, **more}))
        return self

    def made(self) -> WorkflowHistory:
        """The history."""
        return WorkflowHistory(self.id, self.events)


def asked(**policy: Any) -> Events:
    """A rollout of one cluster with this policy."""
    request = PatchRequest(clusters=["eu"], requester=CAROL, policy=RolloutPolicy(**policy))
    return Events("r", to_json(request))


def cluster(orders: Mapping[str, object] | None = None) -> Events:
    """The cluster's workflow, with the orders that let it start hosts."""
    events = Events("r/eu", {"cluster": "eu", "rollout": "r", "procedure": {}, "orders": None})
    go: dict[str, object] = {"sequence": 1, "slots": None, "window_open": True}
    return events.signal("orders", {**go, **(orders or {})})


def side_by_side(*hosts: str) -> Truth:
    """All begin before any goes on."""
    truth = Truth(*hosts)
    for host in hosts:
        truth.line("began", "set_maintenance_mode", host)
        truth.line("done", "set_maintenance_mode", host, in_service=False)
    for host in hosts:
        truth.did(host, "perform_update", packages=NEW)
        truth.did(host, "check_service_health")
        truth.did(host, "clear_maintenance_mode", in_service=True)
    return truth


THREE = ("eu-1", "eu-2", "eu-3")
WIDE = {"pilot_hosts": 0, "max_parallel": 3}


def test_what_the_histories_allow() -> None:
    """Widths, waves and starts as they were asked for break nothing."""
    rollout = asked(**WIDE)
    assert broken(side_by_side(*THREE), report(patched=3), rollout.made()) == []
    rollout = asked(pilot_hosts=1, waves=[1, 5], max_parallel=3)
    truth = Truth(*THREE).patched(*THREE)
    started = cluster().starts("eu-1")
    assert broken(truth, report(patched=3), rollout.made(), started.made()) == []


def test_too_wide() -> None:
    """S1: hosts in flight and out of service, by the log."""
    rollout = asked(pilot_hosts=0, max_parallel=2)
    said = broken(side_by_side(*THREE), report(patched=3), rollout.made())
    assert said == [
        "S1 eu-3 at 4.000 s (log line 4, 2026-11-02 12:00:04.000 by the server): one of 3 in flight in "
        "eu, 2 allowed (eu-1, eu-2, eu-3)",
        "S1 eu-3 at 5.000 s (log line 5, 2026-11-02 12:00:05.000 by the server): one of 3 out of service "
        "in eu, 2 allowed (eu-1, eu-2, eu-3)",
    ]
    rollout = asked(**WIDE, max_parallel_total="50%")
    (said_total,) = broken(side_by_side(*THREE), report(patched=3), rollout.made())
    assert re.match(r"S1 eu-2 at 2.000 s .*: one of 2 in flight in all, 1 allowed", said_total)
    rollout = asked(pilot_hosts=0).verb("set_limits", by=ALICE, max_parallel=3)
    assert broken(side_by_side(*THREE), report(patched=3), rollout.made()) == []
    rollout = asked(pilot_hosts=0).verb("set_limits", id="1", by=ALICE, max_parallel=3)
    assert broken(side_by_side(*THREE), report(patched=3), rollout.made()) == []
    rollout = asked(pilot_hosts=0).verb("set_limits", refused=True, by=ALICE, max_parallel=3)
    assert broken(side_by_side(*THREE), report(patched=3), rollout.made())


@pytest.mark.parametrize(
    ("orders", "said"),
    [
        ({"paused": "host"}, "is paused"),
        ({"stop": "2 hosts failed"}, "was told to stop"),
        ({"kill": "aborted"}, "was told of an abort"),
        ({"window_open": False}, "is outside of its windows"),
    ],
)
def test_a_start_that_was_not_allowed(orders: Mapping[str, object], said: str) -> None:
    """S3: a cluster starts a host against what it had been told; what comes later is no order yet."""
    news = {"sequence": 2, "slots": None, **orders}
    started = cluster().signal("orders", news).starts("eu-1")
    found = broken(Truth("eu-1"), report(unchanged=1), asked().made(), started.made())
    assert found == [f"S3 eu-1 at 2026-11-02 12:00:05.000 (event 6 of eu): started, and eu {said}"]
    later = cluster().starts("eu-1").signal("orders", news)
    assert broken(Truth("eu-1"), report(unchanged=1), asked().made(), later.made()) == []
    old = cluster({"sequence": 3}).signal("orders", news).starts("eu-1")
    assert broken(Truth("eu-1"), report(unchanged=1), asked().made(), old.made()) == []


def test_starts_in_a_clusters_history() -> None:
    """S1 and S3: too many children, one before the rollout's go, one after a cancel; a repair is no start."""
    wide = cluster().starts("eu-1", "eu-2").made()
    (said,) = broken(Truth("eu-1", "eu-2"), report(unchanged=2), asked().made(), wide)
    assert re.match(r"S1 eu-2 at .* \(event 6 of eu\): one of 2 in flight in eu, 1 allowed", said)
    early = cluster({"slots": 0}).starts("eu-1").made()
    (said,) = broken(Truth("eu-1"), report(unchanged=1), asked().made(), early)
    assert said.endswith("started before the rollout let eu start any")
    late = cluster()
    late.add().workflow_execution_cancel_requested_event_attributes.SetInParent()
    (said,) = broken(Truth("eu-1"), report(unchanged=1), asked().made(), late.starts("eu-1").made())
    assert said.endswith("started, and eu was cancelled")
    repaired = cluster({"stop": "over"}).starts("eu-1", resume={"way": "back"}).made()
    assert broken(Truth("eu-1"), report(unchanged=1), asked().made(), repaired) == []


def test_over_the_budget() -> None:
    """S3: more hosts failed than may, with all that were in flight."""
    truth = Truth(*THREE)
    for host in THREE:
        truth.line("began", "perform_update", host).line("failed", "perform_update", host)
    told = report(*[became(host, HostState.FAILED) for host in THREE], outcome=Outcome.STOPPED)
    rollout = asked(pilot_hosts=0, failure_budget=FailureBudget(max_failures=1))
    (said,) = broken(truth, told, rollout.made())
    assert re.match(
        r"S3 eu-3 at 5.000 s .*: 3 hosts failed in eu, 1 allowed and 1 in flight at most", said
    )
    total = FailureBudget(max_failures="40%")
    rollout = asked(
        pilot_hosts=0, failure_budget=FailureBudget(max_failures=3), total_failure_budget=total
    )
    (said,) = broken(truth, told, rollout.made())
    assert "3 hosts failed in all, 1 allowed" in said
    apart = FailureBudget(max_failures=0, max_unreachable=3)
    far = report(*[became(host, HostState.UNREACHABLE) for host in THREE], outcome=Outcome.STOPPED)
    assert broken(truth, far, asked(pilot_hosts=0, failure_budget=apart).made()) == []


def test_after_the_end() -> None:
    """S3: a step begins when the rollout has ended."""
    rollout = asked()
    rollout.add(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED)
    (said,) = broken(Truth("eu-1").patched("eu-1"), report(patched=1), rollout.made())
    assert re.match(
        r"S3 eu-1 at 2.000 s .*: perform_update began after the rollout had ended, .*12:00:01", said
    )


def test_before_the_gate() -> None:
    """S2: a host starts, and the gate was not passed, or not yet."""
    policy = ApprovalPolicy(approvers=[ALICE], timeout=timedelta(hours=1))
    request = PatchRequest(clusters=["eu"], requester=CAROL, approvals={"start": policy})
    history = Events("r", to_json(request)).made()
    truth = Truth("eu-1").patched("eu-1")
    (said,) = broken(truth, report(patched=1), history)
    assert re.match(r"S2 eu-1 at 0.000 s .*: set_maintenance_mode began, and gate 'start' is", said)
    vote = VoteReport(by=ALICE, approve=True, at=NOON + timedelta(seconds=1))
    gate = GateReport(gate="start", outcome="approved", approvers=(ALICE,), votes=(vote,))
    (said,) = broken(truth, report(patched=1, gates=[gate]), history)
    assert "began before gate 'start' was passed, 2026-11-02 12:00:01.000" in said
    own = attrs.evolve(
        gate, approvers=(CAROL,), votes=(attrs.evolve(vote, by="Carol@example.com "),)
    )
    (said, *_) = broken(truth, report(patched=1, gates=[own]), history)
    assert said == "S2 gate 'start': approved by 0 of its approvers, 1 needed"


def test_a_gate_that_is_another_than_was_asked_for() -> None:
    """S2: the request says who may vote and how many must, not the report."""
    two = ApprovalPolicy(approvers=[ALICE, "bob@example.com"], quorum=2, timeout=timedelta(hours=1))
    request = PatchRequest(clusters=["eu"], requester=CAROL, approvals={"start": two})
    history = Events("r", to_json(request)).made()
    votes = [VoteReport(by=ALICE, approve=True, at=NOON - timedelta(seconds=1))]
    gate = GateReport(gate="start", outcome="approved", approvers=(ALICE,), votes=votes)
    told = report(patched=1, gates=[gate])
    truth = Truth("eu-1").patched("eu-1")
    assert broken(truth, told) == []
    assert broken(truth, told, history) == ["S2 gate 'start': 1 had to approve, 2 asked for"]
    votes.append(attrs.evolve(votes[0], by="mallory"))
    gate = attrs.evolve(gate, approvers=(ALICE, "mallory"), votes=votes, quorum=2)
    assert broken(truth, report(patched=1, gates=[gate]), history) == [
        "S2 gate 'start': 'mallory' could vote, and is no approver of the request"
    ]


def test_before_the_gate_of_its_wave() -> None:
    """S2: a host starts after the pilots, and the gate in between was not passed, or not yet."""
    policy = ApprovalPolicy(approvers=[ALICE], timeout=timedelta(hours=1))
    for name, host, second in (("promote", "eu-2", 8), ("wave-2/eu", "eu-3", 16)):
        request = PatchRequest(
            clusters=["eu"],
            requester=CAROL,
            policy=RolloutPolicy(waves=[1]),
            approvals={name: policy},
        )
        history = Events("r", to_json(request)).made()
        truth = Truth(*THREE).patched(*THREE)
        (said,) = broken(truth, report(patched=3), history)
        assert re.match(
            rf"S2 {host} at {second}.000 s .* began, and gate '{name}' is unknown", said
        )
        vote = VoteReport(by=ALICE, approve=True, at=NOON + timedelta(seconds=second + 1))
        gate = GateReport(gate=name, outcome="approved", approvers=(ALICE,), votes=(vote,))
        (said,) = broken(truth, report(patched=3, gates=[gate]), history)
        assert f"S2 {host}" in said
        assert f"began before gate '{name}' was passed" in said
        early = attrs.evolve(gate, votes=(attrs.evolve(vote, at=NOON),))
        assert broken(truth, report(patched=3, gates=[early]), history) == []
        # Its own gate stands in for everybody's, which then is not asked.
        both = {"promote": policy, "promote/eu": policy} if name == "promote" else {}
        own = attrs.evolve(early, gate="promote/eu")
        history = Events("r", to_json(attrs.evolve(request, approvals=both))).made()
        assert broken(truth, report(patched=3, gates=[own]), history) == []


def test_before_its_turn() -> None:
    """S4: a wave begins while a pilot, or the wave before, is in flight, or before it has soaked."""
    truth = side_by_side(*THREE)
    rollout = asked(pilot_hosts=1, max_parallel=3)
    (said,) = broken(truth, report(patched=3), rollout.made())
    assert re.match(
        r"S4 eu-2 at 2.000 s .*: starts wave 1 of eu, and eu-1 of the pilots is in flight", said
    )
    rollout = asked(pilot_hosts=0, max_parallel=3, waves=[2, "100%"])
    (said,) = broken(truth, report(patched=3), rollout.made())
    assert re.match(r"S4 eu-3 at 4.000 s .*: starts wave 2 of eu, and eu-1 of wave 1 is", said)
    rollout = asked(pilot_hosts=1, soak=Soak(duration=timedelta(minutes=5)))
    (said,) = broken(Truth(*THREE).patched(*THREE), report(patched=3), rollout.made())
    assert re.match(r"S4 eu-2 at 8.000 s .*: the pilots soaked 0:00:02, 0:05:00 asked for", said)


def test_a_pilot_that_was_unchanged_is_replaced() -> None:
    """S4: only a host that its update changed is a pilot; the next one may start beside the others."""
    truth = Truth(*THREE)
    truth.line("began", "set_maintenance_mode", "eu-1")
    truth.did("eu-2", "perform_update")
    truth.did("eu-3", "perform_update", packages=NEW)
    truth.did("eu-1", "perform_update", packages=NEW)
    rollout = asked(pilot_hosts=2, max_parallel=3, max_out_of_service=3)
    assert broken(truth, report(patched=2, unchanged=1), rollout.made()) == []


def test_returned_unhealthy() -> None:
    """S8: a host that was touched returns to service, and no health check went well since its update."""
    truth = Truth("eu-1").did("eu-1", "set_maintenance_mode", in_service=False)
    truth.did("eu-1", "check_service_health").did("eu-1", "perform_update", packages=NEW)
    truth.line("began", "check_service_health", "eu-1").line(
        "failed", "check_service_health", "eu-1"
    )
    truth.did("eu-1", "clear_maintenance_mode", in_service=True)
    told = report(became("eu-1", HostState.FAILED), outcome=Outcome.STOPPED)
    (said,) = broken(truth, told, asked().made())
    assert re.match(
        r"S8 eu-1 at 9.000 s .*: returned to service, and no health check went well", said
    )
    accepted = asked().verb("accept", by=ALICE, host="eu-1").made()
    assert broken(truth, told, accepted) == []


def test_a_procedure_with_an_update_of_its_own() -> None:
    """S9 is silent where the fleet cannot know what an update is; without any step it is not."""
    truth = Truth("eu-1").did("eu-1", "apply_release")
    assert broken(truth, report(patched=1)) == []
    assert broken(Truth("eu-1"), report(patched=1)) == [
        "S9 no host is named: 1 hosts are PATCHED, really 0"
    ]


def test_patched_and_said_to_be_unchanged() -> None:
    """S9: what a lost attempt has patched is not unchanged."""
    truth = Truth("eu-1").did("eu-1", "perform_update", packages=NEW)
    (said,) = broken(truth, report(unchanged=1), asked().made())
    assert re.match(r"S9 eu-1 at 1.000 s .*: really patched, and 0 hosts are PATCHED", said)


def test_a_success_that_has_not_done_all() -> None:
    """S9: a step that never went well is no success, unless somebody accepted it."""
    truth = Truth("eu-1").did("eu-1", "check_preconditions")
    truth.line("began", "snapshot", "eu-1").line("failed", "snapshot", "eu-1")
    (said,) = broken(truth, report(unchanged=1), asked().made())
    assert re.match(r"S9 eu-1 at 3.000 s .*: reported as a success, and snapshot never went", said)
    accepted = asked().verb("accept", by=ALICE, host="eu-1").made()
    assert broken(truth, report(unchanged=1), accepted) == []
    truth.did("eu-1", "snapshot")
    assert broken(truth, report(unchanged=1), asked().made()) == []


def test_a_request_that_was_written_by_hand() -> None:
    """What it leaves out is as the library has it."""
    by_hand = Events("r", {"clusters": ["eu"], "requester": CAROL, "policy": {"pilot_hosts": 0}})
    (said, *_) = broken(side_by_side(*THREE), report(patched=3), by_hand.made())
    assert re.match(r"S1 eu-2 .*: one of 2 in flight in eu, 1 allowed", said)


def told(number: int, **counts: int) -> dict[str, object]:
    """What a cluster tells the rollout."""
    return {"sequence": number, "progress": {"cluster": "eu", "counts": counts}}


def test_what_is_final_stays() -> None:
    """S10: a count of a final state falls. What is told late is put in order, what is doubled is no news."""
    first, second = told(1, PATCHED=1, NOT_STARTED=2), told(2, PATCHED=2, NOT_STARTED=1)
    rollout = asked()
    for news in (second, first, first):
        rollout.signal("cluster_update", news)
    assert broken(Truth("eu-1"), report(unchanged=1), rollout.made()) == []
    rollout.signal("cluster_update", told(3, PATCHED=1))
    assert broken(Truth("eu-1"), report(unchanged=1), rollout.made()) == [
        "S10 eu at 2026-11-02 12:00:04.000: 2 hosts were PATCHED, now 1"
    ]


def test_nobodys_verb() -> None:
    """S13: a verb and a vote have a name, a vote a time."""
    rollout = asked().verb("pause", by=" ").made()
    vote = VoteReport(by=ALICE, approve=True)
    gate = GateReport(gate="promote", outcome="approved", approvers=(ALICE,), votes=(vote,))
    assert broken(Truth("eu-1"), report(unchanged=1, gates=[gate]), rollout) == [
        "S13 gate 'promote': a vote of 'alice@example.com' without a name or a time",
        "S13 pause at 2026-11-02 12:00:01.000: nobody's name",
    ]


def test_a_canary() -> None:
    """S14: a secret is in the report or in a history; where, and never the secret itself."""
    secret = "hunter2-hunter2"
    failed = attrs.evolve(became("eu-1", HostState.FAILED), reason=f"wrong password {secret}")
    told = report(failed, outcome=Outcome.STOPPED)
    rollout = asked().verb("pause", by=ALICE, reason=secret).made()
    said = broken(Truth("eu-1"), told, rollout, canaries=[secret])
    assert said == [
        "S14: a canary of 15 characters is in the report",
        "S14: a canary of 15 characters is in the history of 'r'",
    ]


def test_a_cluster_takes_another_along() -> None:
    """S15: with stop_scope="cluster" one that has no failure does not stop."""
    parts = [
        ClusterSummary(cluster="eu", outcome=Outcome.STOPPED, counts={HostState.FAILED: 1}),
        ClusterSummary(cluster="us", outcome=Outcome.STOPPED, counts={HostState.NOT_STARTED: 1}),
    ]
    listed = [became("eu-1", HostState.FAILED), became("us-1", HostState.NOT_STARTED)]
    told = report(*listed, outcome=Outcome.STOPPED, clusters=parts)
    truth = Truth("eu-1", "us-1")
    assert broken(truth, told, asked(stop_scope="cluster").made()) == [
        "S15 us: stopped without a failure of its own, beside eu"
    ]
    assert broken(truth, told, asked(stop_scope="rollout").made()) == []


def test_a_history_that_cannot_be_read() -> None:
    """An encrypted history is refused, not passed over."""
    rollout = asked()
    first = rollout.events[0].workflow_execution_started_event_attributes.input.payloads[0]
    first.metadata["encoding"] = b"binary/encrypted"
    with pytest.raises(InvalidRequest, match="decode it with your codec first"):
        check_invariants(Truth("eu-1"), report(unchanged=1), rollout.made())


# Non-vacuity


def test_coverage() -> None:
    """A batch that has not met what it was made to meet fails, and says what and how often."""
    coverage = Coverage()
    truth = Truth("eu-1", "eu-2").line(
        "began", "perform_update", "eu-1", attempt=2, faults=["FailAt", "DoneButLost"]
    )
    truth.line("done", "perform_update", "eu-1", faults=["DoneButLost"], packages=NEW)
    told = report(became("eu-2", HostState.FAILED), outcome=Outcome.STOPPED, patched=1)
    rollout = asked().verb("pause", by=ALICE).made()
    coverage.add(truth, told, rollout)
    coverage.require(
        FailAt, DoneButLost, HostState.FAILED, HostState.PATCHED, Outcome.STOPPED,
        "budget exceeded", "attempt repeated", "reply lost",
    )  # fmt: skip
    with pytest.raises(NotSeen) as error:
        coverage.require(FailAt, HostState.GONE, Outcome.PATCHED, least=2)
    assert error.value.missing == (
        "FailAt (1 of 2)",
        "HostState.GONE (0 of 2)",
        "Outcome.PATCHED (0 of 2)",
    )
    assert str(error.value).startswith("in 1 rollouts not seen: FailAt (1 of 2); ")


@pytest.mark.parametrize(("seconds", "expected"), [(0, 0), (1, 1), (2, 1), (4, 0)])
def test_coverage_of_a_pause(seconds: int, expected: int) -> None:
    """A pause counts if a step of a host was under way then, by the histories of both."""
    host = Events("patch-host/eu-1", {"task": {"host": "eu-1"}})
    step = host.add()
    step.activity_task_scheduled_event_attributes.activity_id = "1"
    done = host.add(EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)
    done.activity_task_completed_event_attributes.scheduled_event_id = step.event_id
    rollout = asked()
    for _ in range(seconds):
        rollout.add()
    rollout.verb("pause", by=ALICE)
    rollout.events[-2].event_time.FromDatetime(NOON + timedelta(seconds=seconds))
    coverage = Coverage()
    coverage.add(Truth("eu-1"), report(unchanged=1), [host.made(), rollout.made()])
    assert coverage.seen["paused in mid-step"] == expected
