"""Whole explanations, word for word: what is in them, and that nothing else is.

``python -m tests.unit.test_policy_explanations`` writes ``explanations.txt`` anew: look at the difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs

from temporal_patching.policy import (
    Calendar,
    DatedPeriod,
    FailureBudget,
    MaintenanceWindows,
    Outcome,
    RolloutPolicy,
    Soak,
)
from temporal_patching.policy._explain import (
    MAX_PARKED_SHOWN,
    Because,
    Gate,
    Known,
    Parked,
    Work,
    what_would_stop_it,
    why_it_stopped,
    why_it_waits,
)
from temporal_patching.policy._rollout import decide
from temporal_patching.policy._rollout_state import (
    AbortRequested,
    ClusterEnded,
    ClusterPlanned,
    GateShut,
    LimitsRequested,
    PauseRequested,
    PlanLimits,
    RepairRequested,
    RolloutState,
    WindowChanged,
    WindowsClosed,
    rollout_state,
)
from tests.unit.test_policy_explain import AT, begun, progressed, said

SNAPSHOT = Path(__file__).with_name("explanations.txt")
REGENERATE = "python -m tests.unit.test_policy_explanations"

FOUR = FailureBudget(max_failures=4)
TOLERANT = FailureBudget(max_failures="100%")
FAILED = progressed(acted=1, failed=1, stopped="too many")
ENOUGH = AbortRequested(reason="enough")
HALF_AN_HOUR = timedelta(minutes=30)

GATES = (
    Gate(
        gate="start",
        approvers=("alice", "bob", "carol"),
        approved_by=("alice", "bob"),
        quorum=3,
        deadline=AT,
    ),
    Gate(gate="wave-2", approvers=("dan",), quorum=2),
    Gate(gate="over", outcome="approved", deadline=AT),
)
"""One of which a vote is missing, one without a deadline, and one that is over."""


def one(*events: Any, hosts: int = 50, **policy: Any) -> RolloutState:
    """A rollout of one cluster that runs, and what has happened since."""
    policy = {"max_parallel": 5, "max_out_of_service": "100%", **policy}
    state = rollout_state(RolloutPolicy(**policy), PlanLimits(), ("eu-1",))
    names = tuple(f"eu-1-{n}" for n in range(hosts))
    for event in (ClusterPlanned(cluster="eu-1", hosts=names, max_parallel=5), *events):
        state, _ = decide(state, event)
    return state


def listing() -> RolloutState:
    """One of two clusters has made its list."""
    policy = RolloutPolicy(total_failure_budget=FOUR)
    state = rollout_state(policy, PlanLimits(), ("eu-1", "us-1"))
    state, _ = decide(state, ClusterPlanned(cluster="us-1", hosts=("a", "b"), max_parallel=1))
    return state


def windows(on_window_close: Any) -> MaintenanceWindows:
    """Windows that somebody else looks at."""
    always = DatedPeriod(start="2020-01-01T00:00", duration=timedelta(days=3650))
    calendar = Calendar(time_zone="UTC", dated=[always])
    return MaintenanceWindows(calendars=[calendar], on_window_close=on_window_close)


def parked(*hosts: str, **news: Any) -> Any:
    """These hosts failed and wait for a person."""
    counts = {"acted": len(hosts), "failed": len(hosts)}
    return progressed(**{**counts, "parked": dict.fromkeys(hosts, "perform_update"), **news})


RETRY = RepairRequested(cluster="eu-1", host="web-1", how="retry")

WINDOW = attrs.evolve(said(), window="as the calendars say")


def cases() -> dict[str, tuple[RolloutState, Known]]:
    """Rollouts, and what is known beside their states."""
    return {
        "listing": (listing(), Known()),
        "at gates": (begun(gates=("start",), total_failure_budget=FOUR), Known(gates=GATES)),
        "a ring later": (begun(rings=[["eu-1"], ["us-1"]], max_parallel_total=7), said()),
        "a turn later": (begun(max_parallel_clusters=1), said(phase="listing")),
        "no slots yet": (begun(max_parallel_total=1), Known()),
        "the slots of one": (begun(max_parallel_total=1), said(phase="waiting")),
        "one cluster pauses": (
            begun(PauseRequested(after="step", cluster="eu-1")),
            said(in_flight=2),
        ),
        "one cluster is paused": (
            begun(PauseRequested(after="host", cluster="eu-1"), progressed(quiet=True)),
            said(),
        ),
        "a paused cluster stands still with hosts": (
            begun(PauseRequested(after="step", cluster="eu-1"), progressed(quiet=True)),
            said(phase="paused", in_flight=2, waits_for="resume"),
        ),
        "a paused cluster has ended": (
            begun(
                PauseRequested(after="host", cluster="eu-1"),
                ClusterEnded(cluster="eu-1", outcome=Outcome.PATCHED),
            ),
            said(),
        ),
        "all is paused": (
            begun(
                PauseRequested(after="host", cluster="eu-1"),
                PauseRequested(after="host"),
                progressed(quiet=True),
                progressed(cluster="us-1", quiet=True),
            ),
            attrs.evolve(said(), paused_by={"": "alice"}),
        ),
        "all pauses, one has ended": (
            begun(
                PauseRequested(after="host"), ClusterEnded(cluster="eu-1", outcome=Outcome.PATCHED)
            ),
            said(),
        ),
        "it stops": (begun(FAILED), said(in_flight=2)),
        "it stops and all may finish": (begun(FAILED, in_flight="finish"), said(in_flight=2)),
        "an abort lets nobody finish": (begun(ENOUGH, in_flight="finish"), said(in_flight=2)),
        "an abort now": (begun(attrs.evolve(ENOUGH, now=True)), said(in_flight=2)),
        "the windows have closed": (begun(WindowsClosed("closed")), said(in_flight=3)),
        "the other one never began": (begun(FAILED, rings=[["eu-1"], ["us-1"]]), said(in_flight=1)),
        "one has said that it stops": (begun(), said(stopped="its own word", in_flight=1)),
        "one stops alone": (
            begun(FAILED, stop_scope="cluster"),
            said(in_flight=2, stopped="too many"),
        ),
        "the one that stopped has ended": (
            begun(FAILED, ClusterEnded(cluster="eu-1", outcome=Outcome.STOPPED, reason="x")),
            said(in_flight=2),
        ),
        "windows that stop it": (begun(WindowChanged(True), windows=windows("stop")), WINDOW),
        "windows that do not stop it": (
            begun(WindowChanged(True), windows=windows("wait")),
            WINDOW,
        ),
        "windows that are closed": (begun(WindowChanged(False), windows=windows("stop")), WINDOW),
        "windows that are closed (2)": (
            begun(WindowChanged(False), windows=windows("wait")),
            WINDOW,
        ),
        "at a gate while they are closed": (
            one(WindowChanged(False), windows=windows("wait")),
            attrs.evolve(said(phase="gate", waits_for="votes"), window="x"),
        ),
        "told to start while they are closed": (
            one(WindowChanged(False), windows=windows("wait")),
            attrs.evolve(said(phase="waiting", waits_for="the go"), window="x"),
        ),
        "a sample too small": (
            one(
                progressed(acted=4, failed=2),
                failure_budget=FailureBudget(max_failures="4%", min_sample=10),
            ),
            said(wave=1, acted=4, failed=2),
        ),
        "a sample just large enough": (
            one(
                progressed(acted=10, failed=2),
                failure_budget=FailureBudget(max_failures="4%", min_sample=10),
            ),
            said(wave=1, acted=4, failed=4),
        ),
        "unreachable hosts in percent": (
            one(
                progressed(acted=4, failed=1, unreachable=1),
                failure_budget=FailureBudget(max_failures=3, max_unreachable="4%", min_sample=10),
            ),
            said(),
        ),
        "failures in percent beside unreachable hosts": (
            one(
                progressed(acted=4, failed=1, unreachable=1),
                failure_budget=FailureBudget(max_failures="8%", max_unreachable=3, min_sample=10),
            ),
            said(),
        ),
        "as many left as it takes": (one(progressed(acted=45), failure_budget=FOUR), said()),
        "fewer left than it takes": (one(progressed(acted=46), failure_budget=FOUR), said()),
        "the total of one cluster": (
            one(
                progressed(acted=9, failed=1, unreachable=1),
                failure_budget=TOLERANT,
                total_failure_budget=FOUR,
            ),
            said(),
        ),
        "the total of two": (
            begun(
                progressed(acted=9, failed=1, unreachable=1, parked={"web-1": "reboot"}),
                failure_budget=TOLERANT,
                total_failure_budget=FOUR,
            ),
            said(),
        ),
        "it soaks without a look": (one(soak=Soak(duration=HALF_AN_HOUR)), said(phase="soaking")),
        "a gate of a cluster": (
            one(waves=[3], failure_budget=TOLERANT),
            said(phase="gate", wave=1, acted=2, failed=2),
        ),
        "two pilots": (
            one(pilot_hosts=2, pilot_budget=FOUR, failure_budget=TOLERANT),
            said(phase="pilots", wave=0),
        ),
        "two pilots, of whom one went well": (
            one(progressed(acted=1), pilot_hosts=2, pilot_budget=FOUR, failure_budget=TOLERANT),
            said(phase="pilots", wave=0, acted=1),
        ),
        "two pilots, of whom the first may not fail": (
            one(pilot_hosts=2, failure_budget=TOLERANT),
            said(phase="pilots", wave=0),
        ),
        "a wave of two": (one(waves=[2], failure_budget=TOLERANT), said(wave=1)),
        "a wave of which nobody speaks": (
            one(
                waves=[2],
                failure_budget=FailureBudget(max_failures="100%", stop_on_failed_wave=False),
            ),
            said(wave=1),
        ),
        "a wave with one failure left, whose sample is too small": (
            one(
                progressed(acted=9, failed=1),
                waves=[3],
                failure_budget=FailureBudget(max_failures=1, min_sample=10),
            ),
            said(wave=3, acted=1, failed=1),
        ),
        "a wave with one failure left, whose sample is just large enough": (
            one(
                progressed(acted=10, failed=1),
                waves=[3],
                failure_budget=FailureBudget(max_failures=1, min_sample=10),
            ),
            said(wave=3, acted=1, failed=1),
        ),
        "room as large as the budget": (one(max_out_of_service=5, failure_budget=FOUR), said()),
        "room just below the budget": (
            one(max_out_of_service=5, failure_budget=FOUR),
            said(held=1),
        ),
        "no room any more": (one(max_out_of_service=5, failure_budget=FOUR), said(held=5)),
        "room as large as the rest": (
            one(progressed(acted=47), max_out_of_service=3, failure_budget=FOUR),
            said(),
        ),
        "room below the budget, with unreachable hosts": (
            one(
                progressed(acted=3, failed=1, unreachable=2),
                max_out_of_service=1,
                failure_budget=FOUR,
            ),
            said(),
        ),
        "room below the budget, unreachable hosts apart": (
            one(
                progressed(acted=3, failed=1, unreachable=2),
                max_out_of_service=2,
                failure_budget=FailureBudget(max_failures=4, max_unreachable=4),
            ),
            said(),
        ),
        "as many parked hosts as are shown": (
            one(
                parked(*(f"web-{n}" for n in range(MAX_PARKED_SHOWN))),
                on_host_failure="park",
                failure_budget=TOLERANT,
            ),
            said(),
        ),
        "parked hosts by their reasons": (
            one(
                parked("web-1", "web-2", "web-3", "web-4"),
                on_host_failure="park",
                failure_budget=TOLERANT,
            ),
            said(
                parked=(
                    Parked(
                        host="WEB-1", step="perform_update", reason="no lock", left_out="drained"
                    ),
                    Parked(host="web-2", step="perform_update", reason="perform_update: no lock"),
                    Parked(host="web-3", step="perform_update", left_out="drained"),
                )
            ),
        ),
        "two repairs that have not begun": (
            one(
                parked("web-1"),
                RETRY,
                parked("web-1", repairs_waiting=1),
                PauseRequested(after="step"),
                WindowChanged(False),
                on_host_failure="park",
                failure_budget=TOLERANT,
                max_parallel_total=3,
                max_out_of_service=None,
                windows=windows("wait"),
            ),
            attrs.evolve(said(), window="x"),
        ),
        "a repair that has not begun": (
            one(parked("web-1"), RETRY, on_host_failure="park", failure_budget=TOLERANT),
            said(),
        ),
        "expired": (
            begun(GateShut(outcome=Outcome.EXPIRED, reason="late"), gates=("start",)),
            Known(
                gates=(
                    Gate(gate="start", outcome="expired", quorum=2),
                    Gate(gate="x", outcome="approved"),
                )
            ),
        ),
        "rejected": (
            begun(GateShut(outcome=Outcome.REJECTED, reason="no"), gates=("start",)),
            Known(
                gates=(
                    Gate(
                        gate="start",
                        outcome="rejected",
                        approved_by=("alice",),
                        rejected_by=("bob", "carol"),
                    ),
                )
            ),
        ),
        "stopped behind a gate": (
            begun(FAILED),
            Known(gates=(Gate(gate="start", outcome="rejected"),)),
        ),
        "one cluster with a total": (one(FAILED, total_failure_budget=FOUR), said()),
        "two clusters without": (
            begun(FAILED, failure_budget=FailureBudget(max_failures=0, max_unreachable=3)),
            said(),
        ),
        "a soak that has not begun": (
            one(soak=Soak(duration=HALF_AN_HOUR, check_every=HALF_AN_HOUR)),
            said(),
        ),
        "the gates of both are rejected": (
            begun(
                progressed(at_gate=1),
                progressed(cluster="us-1", at_gate=1),
                GateShut(gate="promote/us-1", outcome=Outcome.REJECTED, reason="no"),
                GateShut(gate="promote/eu-1", outcome=Outcome.REJECTED, reason="never"),
                gates=("promote/eu-1", "promote/us-1"),
                stop_scope="cluster",
            ),
            said(phase="gate"),
        ),
        "one stops alone, and the other one has ended": (
            begun(
                FAILED,
                ClusterEnded(cluster="us-1", outcome=Outcome.PATCHED),
                stop_scope="cluster",
            ),
            said(in_flight=2, stopped="too many"),
        ),
        "a sample that is large enough by then": (
            one(progressed(acted=4), failure_budget=FailureBudget(max_failures="8%", min_sample=9)),
            said(),
        ),
        "no slot any more": (
            begun(
                LimitsRequested(
                    policy=attrs.evolve(RolloutPolicy(max_parallel=5), max_parallel_total=1)
                ),
                max_parallel=5,
                max_parallel_total=2,
            ),
            Known(work=(Work(cluster="us-1", phase="waiting", waits_for="a slot"),)),
        ),
    }


def lines() -> Iterator[str]:
    """All that is told of them."""
    for name, (state, known) in cases().items():
        yield f"# {name}"
        yield from of("waits", why_it_waits(state, known))
        yield from of("stopped", why_it_stopped(state, known))
        yield from of("next", what_would_stop_it(state, known))
        yield ""


def of(what: str, found: tuple[Because, ...]) -> Iterator[str]:
    """Each reason, and its evidence behind it."""
    for each in found:
        evidence = (f"{key}: {value}" for key, value in each.evidence.items())
        yield " | ".join((f"{what}: {each.why}", *evidence))


def test_explanations_are_as_they_were() -> None:
    """A change is made on purpose: people and their scripts read them."""
    told = "\n".join(lines())
    assert told == SNAPSHOT.read_text(encoding="utf-8"), f"if it is meant: {REGENERATE}"


if __name__ == "__main__":
    SNAPSHOT.write_text("\n".join(lines()), encoding="utf-8")
