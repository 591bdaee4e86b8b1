"""Who may have how many hosts in flight: what moves from one cluster to another, and what does not."""

from __future__ import annotations

from typing import Any

import attrs

from temporal_patching.policy import FailureBudget, RolloutPolicy
from temporal_patching.policy._grants import flying, grants
from temporal_patching.policy._rollout import decide
from temporal_patching.policy._rollout_state import (
    ClusterProgressed,
    ClusterView,
    LimitsRequested,
    OpenGate,
    PlanLimits,
    RepairRequested,
    RolloutState,
    TellCluster,
    rollout_state,
)


def at_work(name: str, slots: int, *, risk: int | None = None, **told: Any) -> ClusterView:
    """A cluster of nine hosts that has answered its grant."""
    held: dict[str, Any] = {"slots": slots, "holds": slots, "risk": risk, "risks": risk}
    counts: dict[str, Any] = {"phase": "running", "hosts": 9, "needs": 9, "max_parallel": 3}
    return ClusterView(name=name, **{**counts, **held, **told})


def among(policy: RolloutPolicy, *views: ClusterView) -> RolloutState:
    """A rollout of these clusters."""
    state = rollout_state(policy, PlanLimits(), tuple(view.name for view in views))
    return attrs.evolve(state, clusters=views, phase="running", begun=True)


def test_a_cluster_keeps_what_it_has() -> None:
    """A total that is given out is not shared anew, however uneven it is."""
    policy = RolloutPolicy(max_parallel=3, max_parallel_total=4)
    state = among(policy, at_work("a", 3), at_work("b", 1))
    assert grants(state) == {"a": (3, None), "b": (1, None)}


def test_what_is_free_goes_to_the_narrowest() -> None:
    """One slot that nobody has, and no more than that."""
    policy = RolloutPolicy(max_parallel=3, max_parallel_total=4)
    state = among(policy, at_work("a", 2), at_work("b", 1))
    assert grants(state) == {"a": (2, None), "b": (2, None)}


def test_what_a_stopping_cluster_has_in_flight_is_nobody_elses() -> None:
    """Until it has said that it holds no more."""
    policy = RolloutPolicy(max_parallel=3, max_parallel_total=4, stop_scope="cluster")
    stopping, other = at_work("a", 3, stop="enough"), at_work("b", 1)
    assert grants(among(policy, stopping, other)) == {"b": (1, None)}
    assert grants(among(policy, attrs.evolve(stopping, holds=1), other)) == {"b": (3, None)}


def strict(failures: int, **more: Any) -> RolloutPolicy:
    """A strict total budget: one host more than may fail is at risk."""
    budget = FailureBudget(max_failures=failures, strict=True)
    return RolloutPolicy(max_parallel=3, total_failure_budget=budget, **more)


def test_what_is_not_in_use_is_given_on_when_its_cluster_has_said_so() -> None:
    """Until it answers, one that was granted more at risk than it needs now may have it at risk."""
    before = at_work("a", 2, risk=3, max_parallel=2)
    assert grants(among(strict(3), before, at_work("b", 1, risk=1))) == {"a": (2, 2), "b": (2, 1)}
    answered = at_work("a", 2, risk=2, max_parallel=2)
    assert grants(among(strict(3), answered, at_work("b", 2, risk=1))) == {"a": (2, 2), "b": (2, 2)}


def test_a_slot_less_is_one_less_at_risk() -> None:
    """A lower total: what may not be in flight cannot fail."""
    state = among(strict(2, max_parallel_total=2), at_work("a", 3, risk=3))
    assert grants(state) == {"a": (2, 2)}


def test_a_lower_budget_takes_from_the_widest() -> None:
    """And nobody may start while more may be at risk than is allowed."""
    policy, narrow = strict(1), at_work("b", 1, risk=1)
    unused = at_work("a", 2, risk=3, max_parallel=2)
    assert grants(among(strict(2), unused, narrow)) == {"a": (2, 2), "b": (1, 0)}
    assert grants(among(policy, unused, narrow)) == {"a": (1, 1), "b": (1, 0)}
    fallen = at_work("a", 1, risk=1, max_parallel=2)
    assert grants(among(policy, fallen, narrow)) == {"a": (1, 1), "b": (1, 1)}


def test_a_wider_cluster_is_known_to_be_wider() -> None:
    """Without a total it may use its new width at once, so a total that comes later has to count it."""
    narrow = RolloutPolicy(max_parallel=3)
    free = [attrs.evolve(at_work(name, 3), slots=None) for name in ("a", "b")]
    state = among(narrow, *free)
    wide = attrs.evolve(narrow, max_parallel=5)
    state, _ = decide(state, LimitsRequested(policy=wide))
    assert [flying(view) for view in state.clusters] == [5, 5]


def test_a_gate_of_all_does_not_wait_for_a_cluster_that_can_start_nothing() -> None:
    """Its share of a strict total budget is used up: to wait for it would be to wait for ever."""
    for failed, asks in ((1, True), (0, False)):
        other = at_work("b", 1, risk=1, acted=failed, failed=failed)
        state = among(strict(1), at_work("a", 1, risk=1), other)
        state = attrs.evolve(state, gates=frozenset({"wave-2"}))
        arrived = ClusterProgressed(
            cluster="a", acted=0, failed=0, unreachable=0, at_gate=2, in_flight=0
        )
        _, commands = decide(state, arrived)
        assert (OpenGate("wave-2") in commands) == asks


def test_what_was_granted_counts_until_the_cluster_has_answered() -> None:
    """A lower budget may reach it after the next host has started."""
    state = among(strict(3), at_work("a", 3, risk=4))
    state, _ = decide(state, LimitsRequested(policy=strict(1)))
    (view,) = state.clusters
    assert (view.slots, view.risk, view.holds, view.risks) == (2, 2, 3, 4)
    told = ClusterProgressed(cluster="a", acted=0, failed=0, unreachable=0, in_flight=2)
    state, _ = decide(state, told)
    (view,) = state.clusters
    assert (view.holds, view.risks) == (2, 2)


def test_a_repair_brings_its_slot_along_and_is_told_once() -> None:
    """The failure is none for now: the host may be in flight again beside the others."""
    failed = {"acted": 1, "failed": 1, "parked": {"web-1": "perform_update"}}
    state = among(strict(1), at_work("a", 1, risk=2, **failed))
    retry = RepairRequested(cluster="a", host="web-1", how="retry")
    state, commands = decide(state, retry)
    assert commands == (TellCluster("a"),)
    assert (state.clusters[0].slots, state.clusters[0].risk) == (2, 2)


def test_other_limits_are_told_to_each_once() -> None:
    """A grant that they change goes along."""
    policy = RolloutPolicy(max_parallel=3, max_parallel_total=4)
    state = among(policy, at_work("a", 3), at_work("b", 1))
    lower = LimitsRequested(policy=attrs.evolve(policy, max_parallel_total=2))
    state, commands = decide(state, lower)
    assert commands == (TellCluster("a"), TellCluster("b"))
    assert [view.slots for view in state.clusters] == [1, 0]
