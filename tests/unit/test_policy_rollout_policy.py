"""What a policy means in numbers: waves, widths and failure budgets."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_patching.exceptions import InvalidRequest
from temporal_patching.policy import FailureBudget, RolloutPolicy, Soak
from temporal_patching.policy._rollout_policy import (
    MAX_CHECKS,
    MAX_PARALLEL,
    NOTICE_KINDS,
    allowed,
    cluster_plan,
    wave_sizes,
)
from tests.strategies import failure_budgets, rollout_policies


@pytest.mark.parametrize(
    ("waves", "hosts", "expected"),
    [
        (["10%", "100%"], 3, (1, 1)),
        (["10%", "100%"], 7, (1, 5)),
        (["10%", "100%"], 50, (5, 44)),
        (["10%", "100%"], 1000, (100, 899)),
        ([1, "5%", "25%", "100%"], 3, (1, 1)),
        ([1, "5%", "25%", "100%"], 7, (1, 1, 1, 3)),
        ([1, "5%", "25%", "100%"], 50, (1, 2, 12, 34)),
        ([1, "5%", "25%", "100%"], 1000, (1, 50, 250, 698)),
        ([1, "10%"], 10, (1, 1, 1, 1, 1, 1, 1, 1, 1)),
        ([4], 10, (4, 4, 1)),
        (["100%"], 1, ()),
        (["100%"], 0, ()),
    ],
)
def test_the_table_of_waves(waves: list[int | str], hosts: int, expected: tuple[int, ...]) -> None:
    """Waves are sizes of the whole list, not cumulative; the last repeats until no host is left."""
    plan = cluster_plan(RolloutPolicy(pilot_hosts=1, waves=waves), hosts)
    assert plan.pilots == min(1, hosts)
    assert wave_sizes(plan) == expected


@given(rollout_policies(), st.integers(0, 2_000))
def test_a_plan_goes_through_the_whole_list(policy: RolloutPolicy, hosts: int) -> None:
    """Pilots and waves are all hosts, no wave is empty, and something may always run."""
    plan = cluster_plan(policy, hosts)
    sizes = wave_sizes(plan)
    assert plan.pilots + sum(sizes) == hosts
    assert all(sizes)
    assert 1 <= plan.max_parallel <= MAX_PARALLEL
    assert plan.max_out_of_service >= 1
    if policy.max_out_of_service is None:
        assert plan.max_out_of_service == plan.max_parallel


def test_widths_round_down_to_one_and_pilots_round_up() -> None:
    """10 % of 5 hosts: one in flight at least, and one pilot."""
    plan = cluster_plan(RolloutPolicy(pilot_hosts="1%", max_parallel="10%"), 5)
    assert (plan.max_parallel, plan.pilots) == (1, 1)


@pytest.mark.parametrize(
    ("max_failures", "hosts", "tolerated"),
    [("5%", 50, 2), ("5%", 1000, 50), ("5%", 19, 0), (3, 1, 3), (0, 9, 0)],
)
def test_a_budget_stops_when_it_is_exceeded(
    max_failures: int | str, hosts: int, tolerated: int
) -> None:
    """5 % of 50 tolerate two failures and stop at the third; of 1,000 they stop at the 51st."""
    budget = allowed(FailureBudget(max_failures=max_failures), hosts)
    for unreachable in range(tolerated + 1):
        told: dict[str, int] = {"unreachable": unreachable, "sample": hosts}
        assert budget.why_exceeded(failed=tolerated - unreachable, **told) is None
        why = budget.why_exceeded(failed=tolerated + 1 - unreachable, **told)
        assert why == f"{tolerated + 1} host{'s' if tolerated else ''} failed, {tolerated} allowed"


def test_unreachable_hosts_have_their_own_limit_where_there_is_one() -> None:
    """With max_unreachable they do not count as failures, and failures do not count there."""
    budget = allowed(FailureBudget(max_failures=1, max_unreachable=2), 50)
    assert budget.why_exceeded(failed=1, unreachable=2, sample=3) is None
    assert budget.why_exceeded(failed=2, unreachable=0, sample=3) == "2 hosts failed, 1 allowed"
    assert (
        budget.why_exceeded(failed=0, unreachable=3, sample=3) == "3 hosts unreachable, 2 allowed"
    )


def test_a_percentage_waits_for_its_sample_and_a_number_does_not() -> None:
    """min_sample holds back a percentage only."""
    percent = allowed(FailureBudget(max_failures="5%", min_sample=10), 50)
    assert percent.why_exceeded(failed=9, unreachable=0, sample=9) is None
    assert percent.why_exceeded(failed=3, unreachable=0, sample=10) is not None
    number = allowed(FailureBudget(max_failures=2, min_sample=10), 50)
    assert number.why_exceeded(failed=3, unreachable=0, sample=3) is not None


def test_a_percentage_of_unreachable_hosts_waits_for_its_sample_too() -> None:
    """Stopping by it, and holding back by it; a number waits for nothing."""
    percent = allowed(FailureBudget(max_unreachable="4%", min_sample=10, strict=True), 50)
    assert percent.why_exceeded(failed=0, unreachable=9, sample=9) is None
    why = percent.why_exceeded(failed=0, unreachable=3, sample=10)
    assert why == "3 hosts unreachable, 2 allowed"
    number = allowed(FailureBudget(max_unreachable=2, min_sample=10, strict=True), 50)
    assert number.why_exceeded(failed=0, unreachable=3, sample=3) is not None
    told = {"failed": 0, "unreachable": 3, "in_flight": 0}
    assert percent.admits(**told, sample=9)
    assert not percent.admits(**told, sample=10)
    assert not number.admits(**told, sample=9)


@given(failure_budgets(), st.integers(0, 60), st.data())
def test_only_a_strict_budget_holds_hosts_back_and_never_for_ever(
    budget: FailureBudget, hosts: int, data: st.DataObject
) -> None:
    """With nothing in flight a budget that is not exceeded always admits one more host."""
    numbers = allowed(budget, hosts)
    failed, unreachable = data.draw(st.integers(0, 30)), data.draw(st.integers(0, 30))
    sample = failed + unreachable + data.draw(st.integers(0, 30))
    told: dict[str, Any] = {"failed": failed, "unreachable": unreachable, "sample": sample}
    if not budget.strict:
        assert numbers.admits(**told, in_flight=data.draw(st.integers(0, 30)))
    if numbers.why_exceeded(**told) is None:
        assert numbers.admits(**told, in_flight=0)


def test_the_defaults_are_slow_rather_than_wide() -> None:
    """A careless request patches one host after the other and stops at the first failure."""
    policy = RolloutPolicy()
    assert (policy.pilot_hosts, policy.waves, policy.max_parallel) == (1, ("100%",), 1)
    assert policy.failure_budget == policy.pilot_budget == FailureBudget(max_failures=0)
    assert policy.failure_budget.min_sample == 0
    assert (policy.in_flight, policy.stop_scope, policy.on_busy_host) == (
        "cancel",
        "rollout",
        "fail",
    )


def test_nobody_is_told_of_each_host_that_went_well() -> None:
    """Of five thousand hosts that would be ten thousand notices; all else is told."""
    assert set(NOTICE_KINDS) - set(RolloutPolicy().notices) == {"host_started", "host_patched"}


def test_all_problems_at_once() -> None:
    """Every field that is wrong is named, with its value and what is allowed."""
    with pytest.raises(InvalidRequest) as refused:
        RolloutPolicy(
            pilot_hosts=-1,
            waves=[],
            in_flight="cancl",  # type: ignore[arg-type]
            busy_host_timeout=timedelta(0),
            notices=["host_faild"],  # type: ignore[list-item]
            reboot=True,  # type: ignore[arg-type]
            failure_budget={"max_failures": 1},  # type: ignore[arg-type]
        )
    assert refused.value.problems == (
        "'pilot_hosts' must be >= 0 (got -1)",
        "'waves' must have at least 1 (got [])",
        "'failure_budget' must be a FailureBudget (got {'max_failures': 1})",
        "'in_flight' must be in ('cancel', 'finish') (got 'cancl'), did you mean 'cancel'?",
        "'busy_host_timeout' must be > 0 seconds (got datetime.timedelta(0))",
        "'reboot' must be in ('never', 'if_needed', 'always') (got True)",
        refused.value.problems[-1],
    )
    assert refused.value.problems[-1].startswith("'notices[0]' must be in ('approval_requested'")
    assert refused.value.problems[-1].endswith("(got 'host_faild'), did you mean 'host_failed'?")


def test_a_duration_has_an_end() -> None:
    """A deadline that is no date any more would hang a workflow: durations end at ten years."""
    with pytest.raises(InvalidRequest, match="'busy_host_timeout' must be <= 3650 days"):
        RolloutPolicy(busy_host_timeout=timedelta.max)


def test_a_soak_looks_a_thousand_times_at_most() -> None:
    """More would fill a history; exactly as many are allowed, and so is a soak that only waits."""
    second = timedelta(seconds=1)
    assert Soak(duration=MAX_CHECKS * second, check_every=second).check_every == second
    assert Soak(duration=(MAX_CHECKS + 1) * second).check_every is None
    with pytest.raises(InvalidRequest, match="'check_every' must be >= 1/1000 of 'duration'"):
        Soak(duration=(MAX_CHECKS + 1) * second, check_every=second)


def test_a_strict_total_budget_has_no_conditions() -> None:
    """It is shared out ahead, so it cannot depend on what turns out later."""
    budget = FailureBudget(strict=True, min_sample=3, max_unreachable=1)
    with pytest.raises(InvalidRequest) as refused:
        RolloutPolicy(total_failure_budget=budget)
    assert list(refused.value.problems) == [
        "'total_failure_budget.min_sample' must be 0 if it is strict (got 3)",
        "'total_failure_budget.max_unreachable' must not be set if it is strict (got 1)",
    ]
    assert RolloutPolicy(total_failure_budget=FailureBudget(strict=True)).total_failure_budget


def test_rubbish_is_told_in_bounded_words() -> None:
    """A hundred problems are told and none at any length, however large the rubbish is."""
    with pytest.raises(InvalidRequest) as refused:
        RolloutPolicy(waves=["x" * 10_000] * 5_000)
    assert len(refused.value.problems) == 101
    assert refused.value.problems[-1] == "and more"
    assert len(str(refused.value)) < 60_000
