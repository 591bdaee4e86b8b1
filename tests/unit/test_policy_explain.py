"""Why a rollout waits, why it stopped, what would stop it next: in each state, from what is decided."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_patching.policy import FailureBudget, Outcome, RolloutPolicy, Soak
from temporal_patching.policy._explain import (
    Because,
    Gate,
    Known,
    Work,
    _until_exceeded,
    what_would_stop_it,
    why_it_stopped,
    why_it_waits,
)
from temporal_patching.policy._rollout import decide
from temporal_patching.policy._rollout_policy import allowed
from temporal_patching.policy._rollout_state import (
    AbortRequested,
    ClusterEnded,
    ClusterPlanned,
    ClusterProgressed,
    ClusterView,
    GatePassed,
    GateShut,
    PauseRequested,
    PlanLimits,
    ResumeRequested,
    RolloutState,
    rollout_state,
)

AT = datetime(2026, 11, 27, 22, 5, tzinfo=timezone.utc)
SOME = FailureBudget(max_failures=2)


def begun(
    *events: Any, hosts: int = 50, gates: tuple[str, ...] = (), **policy: Any
) -> RolloutState:
    """Two clusters of so many hosts that were told to go, and what has happened since."""
    policy = {"max_parallel": "10%", "max_out_of_service": "100%", **policy}
    names = ("eu-1", "us-1")
    state = rollout_state(RolloutPolicy(**policy), PlanLimits(), names, gates=gates)
    for name in names:
        named = tuple(f"{name}-{n}" for n in range(hosts))
        planned = ClusterPlanned(cluster=name, hosts=named, max_parallel=hosts // 10)
        state, _ = decide(state, planned)
    for event in events:
        state, _ = decide(state, event)
    return state


def progressed(**told: Any) -> ClusterProgressed:
    """What the first cluster tells."""
    return ClusterProgressed(
        **{"cluster": "eu-1", "acted": 0, "failed": 0, "unreachable": 0, **told}
    )


def said(**told: Any) -> Known:
    """What the first cluster said last."""
    return Known(work=(Work(**{"cluster": "eu-1", "phase": "wave 1", "said_at": AT, **told}),))


def about(found: tuple[Because, ...], what: str) -> Because:
    """The one reason that is about this."""
    (one,) = [each for each in found if what in each.why]
    return one


# It waits


def test_a_cluster_that_is_told_to_stop_is_not_at_its_wave() -> None:
    """Its last word was "wave 2"; since then the rollout has decided to stop."""
    state = begun(progressed(acted=1, failed=1, stopped="1 failed, 0 allowed"))
    known = said(phase="wave 2", in_flight=3, waits_for="3 hosts in flight")
    eu = about(why_it_waits(state, known), "eu-1")
    assert eu.why == "cluster 'eu-1' stops: its hosts in flight have to end"
    assert eu.evidence["because"] == "cluster 'eu-1': 1 failed, 0 allowed"
    assert eu.evidence["in flight"] == "3, as it said at 2026-11-27 22:05:00Z"
    assert "before their update are restored" in eu.evidence["they"]


@pytest.mark.parametrize(
    ("event", "they"),
    [
        (AbortRequested(reason="aborted"), "the others go to their end"),
        (AbortRequested(reason="aborted", now=True), "updates that run included"),
    ],
)
def test_nothing_but_what_is_in_flight_is_awaited_after_an_abort(event: Any, they: str) -> None:
    """A pause, an open gate or a closed window keeps nobody waiting any more."""
    state = begun(PauseRequested(after="host"), event, gates=("promote",), in_flight="finish")
    state = attrs.evolve(state, window_open=False)
    known = attrs.evolve(said(phase="gate"), gates=(Gate(gate="promote", approvers=("a",)),))
    waits = why_it_waits(state, known)
    assert [each.why.partition(":")[0] for each in waits] == [
        "cluster 'eu-1' stops",
        "cluster 'us-1' stops",
    ]
    assert they in waits[0].evidence["they"]
    assert what_would_stop_it(state, known) == ()


def test_a_stop_may_let_all_finish() -> None:
    """And the evidence says so."""
    state = begun(progressed(acted=1, failed=1, stopped="too many"), in_flight="finish")
    assert about(why_it_waits(state, said()), "eu-1").evidence["they"] == "all go to their end"


def test_one_that_never_began_just_ends() -> None:
    """It has nothing in flight."""
    state = begun(max_parallel_clusters=1)
    state, _ = decide(state, AbortRequested(reason="aborted"))
    us = about(why_it_waits(state, Known()), "us-1")
    assert us.why == "cluster 'us-1' ends: nothing of it has started"


def test_a_pause_is_seen_at_once_and_so_is_its_end() -> None:
    """The cluster's own words come later."""
    state = begun(PauseRequested(after="step"))
    known = attrs.evolve(said(waits_for="5 hosts in flight"), paused_by={"": "alice: graphs"})
    waits = why_it_waits(state, known)
    assert waits[0].why == "it is pausing: alice: graphs"
    assert waits[0].evidence == {"after": "step", "still moving": "eu-1, us-1"}
    assert about(waits, "cluster 'eu-1'").why == "cluster 'eu-1': pausing"
    state, _ = decide(state, progressed(quiet=True))
    still = said(phase="paused", in_flight=2, waits_for="resume; 2 hosts stand still")
    waits = why_it_waits(state, still)
    assert waits[0].evidence["still moving"] == "us-1"
    eu = about(waits, "cluster 'eu-1'")
    assert eu.why == "cluster 'eu-1': paused, waits for resume; 2 hosts stand still"
    assert [each for each in why_it_waits(state, said(phase="paused")) if "eu-1" in each.why] == []
    state, _ = decide(state, ResumeRequested())
    waits = why_it_waits(state, said(phase="paused", waits_for="resume"))
    assert about(waits, "eu-1").why == "cluster 'eu-1': was told to go on"


def test_who_paused_a_cluster_is_not_who_paused_the_rollout() -> None:
    """Each pause has its own name."""
    state = begun(PauseRequested(after="host", cluster="eu-1"))
    known = Known(paused_by={"": "alice", "eu-1": "bob: disks"})
    assert (
        about(why_it_waits(state, known), "is paus").why == "cluster 'eu-1' is pausing: bob: disks"
    )


def test_one_that_was_just_told_to_start_does_not_wait_for_the_go() -> None:
    """It said "waiting" before it heard."""
    eu = about(why_it_waits(begun(), said(phase="waiting", waits_for="the rollout's go")), "eu-1")
    assert eu.why == "cluster 'eu-1': was told to start"


def test_held_hosts_and_a_closed_window_are_told_as_what_keeps_others_from_starting() -> None:
    """Each with its numbers."""
    state = attrs.evolve(begun(max_out_of_service=4), window_open=False)
    known = attrs.evolve(said(held=3), window="closed until Sat")
    waits = why_it_waits(state, known)
    assert about(waits, "no host may start").evidence == {"windows": "closed until Sat"}
    eu = about(waits, "eu-1")
    assert eu.evidence["held out of service"] == "3; at most 4 in flight or held"
    assert eu.evidence["new hosts"] == "none may start now"


# It stopped


def test_a_stop_has_the_counts_and_the_limits() -> None:
    """Of each cluster, and of all."""
    state = begun(
        progressed(acted=9, failed=2, unreachable=1, stopped="3 failed, 2 allowed"),
        failure_budget=SOME,
        total_failure_budget=FailureBudget(max_failures="10%", max_unreachable=1),
    )
    (why,) = why_it_stopped(state, Known())
    assert why.why == "STOPPED: cluster 'eu-1': 3 failed, 2 allowed"
    assert why.evidence == {
        "eu-1": "2 failed, 1 unreachable of 50; 2 allowed together",
        "us-1": "0 failed, 0 unreachable of 50; 2 allowed together",
        "over all clusters": "2 failed, 1 unreachable; 10 failed and 1 unreachable allowed",
    }


def test_a_cluster_that_stopped_alone_has_not_stopped_the_others() -> None:
    """The rollout will end as STOPPED, but nobody is to believe that nothing starts any more."""
    state = begun(
        progressed(acted=1, failed=1, stopped="too many"),
        stop_scope="cluster",
        total_failure_budget=SOME,
    )
    (why,) = why_it_stopped(state, said())
    assert why.why == "cluster 'eu-1': too many; the other clusters go on"
    assert why.evidence["over all clusters"].startswith("1 failed, 0 unreachable; 2 allowed")


def test_one_that_ended_short_of_its_hosts_says_so() -> None:
    """It was not stopped, and is not PATCHED either."""
    ends = [
        ClusterEnded(cluster="eu-1", outcome=Outcome.PARTIAL, acted=50, failed=2),
        ClusterEnded(cluster="us-1", outcome=Outcome.PATCHED, acted=50),
    ]
    state = begun(*ends, failure_budget=SOME)
    (why,) = why_it_stopped(state, Known(short_of="PARTIAL: 98 patched, 2 failed"))
    assert why.why == "PARTIAL: 98 patched, 2 failed"
    assert why.evidence["eu-1"].startswith("2 failed, 0 unreachable of 50; 2 allowed")
    assert why_it_stopped(state, Known()) == ()


def test_nothing_is_told_of_numbers_that_nobody_knows_yet() -> None:
    """While the hosts are listed there are no shares of them."""
    policy = RolloutPolicy(total_failure_budget=SOME)
    state = rollout_state(policy, PlanLimits(), ("eu-1", "us-1"))
    assert what_would_stop_it(state, Known()) == ()


def test_a_rejection_has_its_votes() -> None:
    """Who agreed, and who did not."""
    state = begun(gates=("start",))
    shut = GateShut(outcome=Outcome.REJECTED, reason="gate 'start' was rejected by bob")
    state, _ = decide(state, shut)
    gate = Gate(
        gate="start", approved_by=("alice",), rejected_by=("bob",), quorum=2, outcome="rejected"
    )
    (why,) = why_it_stopped(state, Known(gates=(gate,)))
    votes = "rejected; 1 of 2 approved: alice; rejected by bob"
    assert why.evidence["gate 'start'"] == votes
    assert why_it_stopped(begun(), Known()) == ()


# What would stop it next


def test_the_pilots_own_budget_while_they_run() -> None:
    """Fifty may fail, but no pilot; when they have ended it says nothing more of them."""
    state = begun(pilot_hosts=3, failure_budget=FailureBudget(max_failures="100%"))
    found = what_would_stop_it(state, said(phase="pilots", wave=0))
    pilots = about(found, "1 more failure among the pilots of cluster 'eu-1'")
    assert pilots.why.endswith("would stop the rollout")
    assert pilots.evidence["allowed"] == "0 (0 of 3)"
    assert about(found, "failures in cluster 'eu-1'").why.startswith("no number of failures")
    for later in (said(phase="wave 1", wave=1), said(phase="soaking", wave=0)):
        assert not any("pilots" in each.why for each in what_would_stop_it(state, later))
    state, _ = decide(state, progressed(acted=3))  # all have ended; it has not said what comes next
    paused = what_would_stop_it(state, said(phase="paused", wave=0))
    assert not any("pilots" in each.why for each in paused)


def test_a_cluster_whose_turn_comes_later_is_not_next() -> None:
    """While others run; before the start all are."""
    state = begun(rings=[["eu-1"], ["us-1"]])
    assert not any("us-1" in each.why for each in what_would_stop_it(state, said()))
    state = begun(rings=[["eu-1"], ["us-1"]], gates=("start",))
    assert any("us-1" in each.why for each in what_would_stop_it(state, Known()))


def test_pilots_that_may_fail_count_in_the_other_budget_too() -> None:
    """Both are told, each with what is left of it."""
    state = begun(
        progressed(acted=2, failed=1), pilot_hosts=4, pilot_budget=SOME, failure_budget=SOME
    )
    found = what_would_stop_it(state, said(phase="pilots", wave=0, acted=2, failed=1))
    for where in ("among the pilots of cluster 'eu-1'", "in cluster 'eu-1'"):
        assert about(found, f"2 more failures {where} would stop")


def test_unreachable_hosts_with_a_limit_of_their_own() -> None:
    """They take nothing from the failures, and have a line of their own."""
    budget = FailureBudget(max_failures=2, max_unreachable="10%")
    state = begun(progressed(acted=9, failed=1, unreachable=5), failure_budget=budget)
    found = what_would_stop_it(state, said())
    assert about(found, "2 more failures in cluster 'eu-1' would stop the rollout")
    lost = about(found, "1 more unreachable host in cluster 'eu-1' would stop the rollout")
    assert lost.evidence["allowed unreachable"] == "5 (10% of 50)"


def test_without_a_limit_of_their_own_they_count_as_failures() -> None:
    """Two failed and one not reached are three."""
    state = begun(
        progressed(acted=9, failed=2, unreachable=1), failure_budget=FailureBudget(max_failures=4)
    )
    assert about(what_would_stop_it(state, said()), "2 more failures in cluster 'eu-1'")


def test_a_sample_that_is_too_small_yet() -> None:
    """A percentage trips only then; one that is exceeded already trips by success, too."""
    budget = FailureBudget(max_failures="4%", min_sample=20)
    state = begun(progressed(acted=5, failed=1), failure_budget=budget)
    left = about(what_would_stop_it(state, said()), "in cluster 'eu-1' would stop")
    assert left.why == (
        "2 more failures in cluster 'eu-1' would stop the rollout, once the update was tried on 15 more "
        "hosts in cluster 'eu-1'"
    )
    assert left.evidence["a percentage counts after"] == "20 hosts, 5 so far"
    state, _ = decide(state, progressed(acted=8, failed=3))
    left = about(what_would_stop_it(state, said()), "too many have failed already")
    assert left.why.startswith("the rollout stops when the update was tried on 12 more hosts in")
    number = FailureBudget(max_failures=2, min_sample=20)  # a number does not wait for a sample
    state = begun(progressed(acted=5, failed=1), failure_budget=number)
    left = about(what_would_stop_it(state, said()), "in cluster 'eu-1'")
    assert left.why == "2 more failures in cluster 'eu-1' would stop the rollout"


@given(
    failures=st.sampled_from([0, 1, 3, "10%", "30%", "100%"]),
    unreachable=st.sampled_from([None, 0, 2, "20%"]),
    min_sample=st.integers(0, 12),
    hosts=st.integers(1, 20),
    counts=st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)),
)
def test_the_arithmetic_is_the_budgets_own(
    failures: Any,
    unreachable: Any,
    min_sample: int,
    hosts: int,
    counts: tuple[int, int, int],
) -> None:
    """What is said to be left is what, tried out one by one, exceeds the budget; not one less."""
    failed, lost, well = counts
    acted = failed + lost + well
    budget = FailureBudget(
        max_failures=failures, max_unreachable=unreachable, min_sample=min_sample
    )
    limit = allowed(budget, hosts)
    view = ClusterView(name="eu-1", hosts=hosts, acted=acted, failed=failed, unreachable=lost)
    if acted > hosts or limit.why_exceeded(failed=failed, unreachable=lost, sample=acted):
        return
    untried = hosts - acted

    def trips(bad: int, tried: int) -> bool:
        why = limit.why_exceeded(failed=failed + bad, unreachable=lost, sample=acted + tried)
        return why is not None and "unreachable" not in why

    possible = [
        (bad, tried)
        for tried in range(untried + 1)
        for bad in range(tried + 1)
        if trips(bad, tried)
    ]
    counted = failed + (lost if unreachable is None else 0)
    wait = min_sample - acted if limit.failures_in_percent else 0
    told = _until_exceeded(limit.failures + 1 - counted, wait, "failure", "here", "it", view)
    if not possible:
        # The unreachable hosts' own limit may come first: then it is no failure that stops it.
        if limit.unreachable is None or lost <= limit.unreachable:
            assert told.startswith("no number of failures"), told
        return
    bad, tried = min(bad for bad, _ in possible), min(tried for _, tried in possible)
    if bad == 0:
        assert told.startswith(f"it stops when the update was tried on {tried} more host"), told
    else:
        assert told.startswith(f"{bad} more failure"), told
        assert ("once" in told) == (tried > bad), told


def test_a_wave_in_which_every_host_failed() -> None:
    """As long as none of it went well, and where the budget does not come first."""
    state = begun(progressed(acted=4, failed=2), waves=[3], failure_budget=tolerant())
    known = said(phase="wave 1", wave=1, acted=2, failed=2)
    wave = about(what_would_stop_it(state, known), "wave 1 of cluster 'eu-1'")
    assert wave.why.endswith("would stop the rollout if every host of it that is acted on fails")
    assert wave.evidence == {
        "failed so far": "2 of 2 acted on, as it said at 2026-11-27 22:05:00Z",
        "hosts of it": "at most 3",
    }
    for spoilt, work in (
        (state, said(phase="wave 1", wave=1, acted=3, failed=2)),  # one went well
        (state, said(phase="soaking", wave=1, acted=2, failed=2)),  # it is over
        (begun(waves=[1]), said(wave=1)),  # one host is no wave
        (begun(waves=[3]), said(wave=1)),  # the first failure stops anyway
        (begun(waves=[3], failure_budget=tolerant(stop_on_failed_wave=False)), said(wave=1)),
    ):
        assert not any("every host" in each.why for each in what_would_stop_it(spoilt, work))
    pilots = begun(pilot_hosts=3, pilot_budget=SOME, failure_budget=tolerant())
    found = what_would_stop_it(pilots, said(phase="pilots", wave=0))
    assert about(found, "the pilots of cluster 'eu-1' would stop the rollout if every host")


def tolerant(**fields: Any) -> FailureBudget:
    """A budget that nothing exceeds."""
    return FailureBudget(max_failures="100%", **fields)


def test_tolerated_failures_that_pile_up_as_lost_capacity() -> None:
    """With as many held as may be out of service, nothing could start: that comes before the budget."""
    state = begun(max_out_of_service=3, failure_budget=FailureBudget(max_failures=10))
    found = what_would_stop_it(state, said(held=2))
    held = about(found, "1 more host held out of service in cluster 'eu-1' would stop the rollout")
    assert held.evidence["max_out_of_service"] == "3"
    assert not any("held" in each.why for each in what_would_stop_it(begun(), said()))


def test_a_cluster_that_has_stopped_alone_is_not_stopped_again() -> None:
    """Only the others can be, and only they are named."""
    state = begun(progressed(acted=1, failed=1, stopped="too many"), stop_scope="cluster")
    found = what_would_stop_it(state, said(phase="stopping", stopped="too many"))
    assert [each.why for each in found if "eu-1" in each.why] == []
    assert about(found, "1 more failure in cluster 'us-1' would stop cluster 'us-1'")
    eu = about(why_it_waits(state, said(phase="stopping", stopped="too many")), "eu-1")
    assert eu.evidence["because"] == "too many"


def test_a_gate_and_a_look_at_the_fleet() -> None:
    """A gate by its clock or by a reject, a look by what it says."""
    soak = Soak(duration=timedelta(minutes=30), check_every=timedelta(minutes=5))
    state = begun(GatePassed(), gates=("promote",), soak=soak)
    gate = Gate(gate="promote", approvers=("alice",), deadline=AT)
    known = attrs.evolve(said(phase="soaking"), gates=(gate, Gate(gate="x", outcome="approved")))
    found = what_would_stop_it(state, known)
    assert about(found, "gate 'promote' expires").evidence == {
        "expires": f"{AT:%Y-%m-%d %H:%M:%SZ}"
    }
    look = about(found, "a look at the fleet in cluster 'eu-1' that says 'failed'")
    assert look.evidence == {"a look every": "0:05:00"}
    waits = why_it_waits(state, known)
    assert about(waits, "eu-1").evidence["soak"] == "0:30:00, a look every 0:05:00"
    assert not any("gate 'x'" in each.why for each in (*waits, *found))


def test_after_the_end_only_why_it_stopped_is_told() -> None:
    """Nothing waits, nothing can stop it."""
    ended = [ClusterEnded(cluster=name, outcome=Outcome.PATCHED) for name in ("eu-1", "us-1")]
    state = begun(*ended)
    assert state.phase == "ended"
    assert why_it_waits(state, said()) == what_would_stop_it(state, said()) == ()
