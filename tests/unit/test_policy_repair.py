"""Parked hosts as people see them: in an explanation, in a progress, in what a message says of them."""

from __future__ import annotations

from typing import Any

from temporal_patching.models import ClusterProgress, HostState, ParkedHost, RolloutProgress
from temporal_patching.models._orders import ClusterOrders
from temporal_patching.policy import DEFAULT_STEPS, FailureBudget, Outcome, RolloutPolicy
from temporal_patching.policy._explain import (
    Because,
    Known,
    Parked,
    Work,
    what_would_stop_it,
    why_it_waits,
)
from temporal_patching.policy._host import Failure, Procedure
from temporal_patching.policy._repair import PendingRepair
from temporal_patching.policy._rollout import decide
from temporal_patching.policy._rollout_state import (
    ClusterPlanned,
    ClusterProgressed,
    PlanLimits,
    RepairRequested,
    RolloutEvent,
    RolloutState,
    rollout_state,
)
from temporal_patching.workflow._parked import MAX_KEPT, ParkedHosts

POLICY = RolloutPolicy(
    failure_budget=FailureBudget(max_failures=5), max_out_of_service=3, on_host_failure="park"
)


def told(*events: RolloutEvent) -> RolloutState:
    """A rollout that runs, after these events."""
    state = rollout_state(POLICY, PlanLimits(), ("eu-1",))
    names = tuple(f"web-{number}" for number in range(40))
    for event in (ClusterPlanned(cluster="eu-1", hosts=names, max_parallel=1), *events):
        state, _ = decide(state, event)
    return state


def parked(*hosts: str, **news: Any) -> ClusterProgressed:
    """These hosts wait for a person."""
    counts = {"acted": len(hosts), "failed": len(hosts), "unreachable": 0}
    steps = dict.fromkeys(hosts, "perform_update")
    return ClusterProgressed(cluster="eu-1", parked=steps, **{**counts, **news})


def work(*hosts: Parked) -> Work:
    """What the cluster said of its work."""
    return Work(cluster="eu-1", phase="wave 1", waits_for="", in_flight=0, parked=hosts)


def about(becauses: tuple[Because, ...], what: str) -> Because:
    """The one reason that is about this."""
    (one,) = (each for each in becauses if what in each.why)
    return one


def test_it_says_who_waits_for_a_person_and_why() -> None:
    """Each host with its step and its reason, what may be asked, and what of the budget they use up."""
    state = told(parked("web-1", "web-2"))
    said = work(
        Parked(
            host="WEB-1",
            step="perform_update",
            reason="perform_update: dpkg was interrupted",
            left_out="stop_services: parked",
        )
    )
    because = about(why_it_waits(state, Known(work=(said,))), "parked")
    assert because.why == "cluster 'eu-1': 2 parked hosts wait for a person"
    assert because.evidence == {
        "web-1": "perform_update: dpkg was interrupted; out of service: stop_services: parked",
        "web-2": "perform_update",
        "of the failure budget": "2 of 5 used by parked hosts",
        "may be asked": "retry, accept, restore, skip",
    }
    one = about(why_it_waits(told(parked("web-1")), Known()), "parked")
    assert one.why == "cluster 'eu-1': 1 parked host waits for a person"


def test_many_parked_hosts_are_not_all_named() -> None:
    """An explanation stays short: the cluster's progress has them all."""
    state = told(parked(*(f"web-{number}" for number in range(25))))
    evidence = about(why_it_waits(state, Known()), "parked").evidence
    assert evidence["and"] == "5 more"
    assert sum(name.startswith("web-") for name in evidence) == 20


def test_it_says_what_holds_up_a_repair() -> None:
    """Pauses, windows, slots and room: what a repair needs to begin."""
    asked = RepairRequested(cluster="eu-1", host="web-1", how="retry")
    for state in (
        told(parked("web-1"), asked),
        told(parked("web-1"), asked, parked(failed=1, repaired=1, repairs_waiting=1)),
    ):
        becauses = why_it_waits(state, Known())
        assert not [each for each in becauses if "parked" in each.why]
        because = about(becauses, "not begun")
        assert because.why == "cluster 'eu-1': 1 repair has not begun"
        assert because.evidence["paused"] == "no"
        assert because.evidence["max_out_of_service"] == "3"
    begun = told(parked("web-1"), asked, parked(repaired=1))
    assert not [each for each in why_it_waits(begun, Known()) if "repair" in each.why]


def test_it_says_how_many_failures_are_only_parked() -> None:
    """What would stop it next: those can still give their unit back."""
    because = about(what_would_stop_it(told(parked("web-1", "web-2")), Known()), "more failures")
    assert because.why == "4 more failures in cluster 'eu-1' would stop the rollout"
    assert because.evidence["of those parked"] == "2"


def test_parked_hosts_that_are_out_of_service_stop_nothing() -> None:
    """They wait for people, and so does the rollout."""
    because = about(what_would_stop_it(told(), Known()), "held out of service")
    assert because.why == (
        "3 more hosts held out of service in cluster 'eu-1' would hold up the rollout until a parked host is "
        "answered: nothing could start before"
    )


def test_a_summary_counts_parked_hosts() -> None:
    """They are in none of the states, as those in flight."""
    cluster = ClusterProgress(
        cluster="eu-1",
        counts={HostState.PATCHED: 3},
        in_flight=("web-4",),
        parked=(ParkedHost(host="web-1"), ParkedHost(host="web-2", state=HostState.UNREACHABLE)),
    )
    counts = {HostState.PATCHED: 3}
    progress = RolloutProgress(
        rollout="r", phase="running", clusters=(cluster,), counts=counts, waits_for="eu-1"
    )
    assert progress.summary == "running, 1 in flight, 2 parked: 3 patched; waits for eu-1"
    ended = RolloutProgress(rollout="r", phase="ended", outcome=Outcome.PATCHED, counts=counts)
    assert ended.summary == "PATCHED: 3 patched"


def test_a_repair_is_acknowledged() -> None:
    """People wait for it, so it is more than a grant."""
    repair = PendingRepair(number=1, host="web-1", how="retry")
    assert ClusterOrders(sequence=1, repairs=(repair,)).steered
    assert not ClusterOrders(sequence=1, slots=4).steered


def test_a_host_that_could_not_go_on_keeps_what_it_had_saved() -> None:
    """What is kept of a host replaces what was kept of it: it is not counted beside itself."""
    kept = ParkedHosts("eu-1", tuple(DEFAULT_STEPS))
    saved = "x" * (MAX_KEPT // 4 - 100)
    failure = Failure(step="perform_update", message="no lock", checkpoint=saved)
    for index in range(4):
        stands = Procedure(steps=tuple(DEFAULT_STEPS), way="parked", failure=failure, parks=True)
        kept.keep(index, f"web-{index}", stands)
    result = kept.still(0, "web-0", "busy")
    assert result.parked is kept.stands(0)
    assert result.parked is not None
    assert result.parked.failure == failure
