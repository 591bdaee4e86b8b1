"""What a rollout makes of its windows, of a full history, and of an approval that has become too old."""

from __future__ import annotations

import attrs
import pytest

from temporal_patching.policy import Outcome, RolloutPolicy
from temporal_patching.policy._rollout import decide, hosts_may_start
from temporal_patching.policy._rollout_state import (
    AbortRequested,
    CancelCluster,
    ClusterPlanned,
    ClusterProgressed,
    GatePassed,
    GateShut,
    HistoryFull,
    OpenGate,
    PlanLimits,
    RolloutState,
    TellCluster,
    WindowChanged,
    WindowsClosed,
    rollout_state,
)

TOLD = (TellCluster("a"), TellCluster("b"))


def listing() -> RolloutState:
    """Two clusters that make their lists, and a gate before the start."""
    return rollout_state(RolloutPolicy(), PlanLimits(), ("a", "b"), gates=("start",))


def at_gate() -> RolloutState:
    """Both lists are there; people are asked."""
    state = listing()
    for name in ("a", "b"):
        planned = ClusterPlanned(cluster=name, hosts=(f"{name}-1",), max_parallel=1)
        state, _ = decide(state, planned)
    assert state.phase == "gate"
    return state


def at_work() -> RolloutState:
    """They have approved."""
    return decide(at_gate(), GatePassed())[0]


@pytest.mark.parametrize(
    "never",
    [
        WindowsClosed("there are no more windows", for_good=True),
        HistoryFull("there are no more windows"),
    ],
)
def test_what_can_never_start_is_refused_once(never: WindowsClosed | HistoryFull) -> None:
    """While it is planned that is one problem more; at the gate it ends."""
    state, commands = decide(listing(), never)
    assert (state.problems, commands) == (("there are no more windows",), ())
    assert decide(state, never)[0].problems == state.problems
    state, commands = decide(at_gate(), never)
    assert (state.phase, state.outcome) == ("stopping", Outcome.STOPPED)
    assert (state.reason, commands) == ("there are no more windows", TOLD)


def test_before_it_has_begun_it_waits_for_the_next_window() -> None:
    """Nothing is cut off by a window that closes before anything has started."""
    for waits in (listing(), at_gate()):
        assert decide(waits, WindowsClosed("closed for today")) == (waits, ())


@pytest.mark.parametrize("for_good", [True, False])
def test_what_has_started_runs_to_its_end(for_good: bool) -> None:
    """No host starts any more, and none in flight is cancelled, whatever the policy says."""
    state, commands = decide(at_work(), WindowsClosed("closed", for_good=for_good))
    assert (state.phase, state.outcome, state.reason) == ("stopping", Outcome.STOPPED, "closed")
    assert [(view.stop, view.finishes) for view in state.clusters] == [("closed", True)] * 2
    assert commands == TOLD
    assert state.problems == ()


def test_after_a_failure_the_policy_says_what_becomes_of_hosts_in_flight() -> None:
    """Only what stops a rollout that goes well lets all of them finish."""
    failed = ClusterProgressed(cluster="a", acted=1, failed=1, unreachable=0, stopped="1 failed")
    state, _ = decide(at_work(), failed)
    assert state.outcome is Outcome.STOPPED
    assert [view.finishes for view in state.clusters] == [False] * 2


def test_an_approval_that_is_too_old_is_asked_for_again() -> None:
    """When the window opens nobody is told to start, before people have said so."""
    shut, commands = decide(at_work(), WindowChanged(False))
    assert commands == TOLD
    assert not hosts_may_start(shut)
    fresh, commands = decide(shut, WindowChanged(True))
    assert (hosts_may_start(fresh), commands) == (True, TOLD)
    stale, commands = decide(shut, WindowChanged(True, stale=True))
    assert (hosts_may_start(stale), commands) == (False, (OpenGate("start"),))
    again, commands = decide(stale, GatePassed())
    assert (hosts_may_start(again), commands) == (True, TOLD)
    assert again.clusters == stale.clusters
    before, _ = decide(at_gate(), WindowChanged(False))
    asked, commands = decide(before, WindowChanged(True, stale=True))
    assert (asked.phase, commands) == ("gate", TOLD)


def test_an_approval_that_is_not_given_again_stops_what_runs() -> None:
    """It has started, so it does not end as if nothing had."""
    shut, _ = decide(at_work(), WindowChanged(False))
    stale, _ = decide(shut, WindowChanged(True, stale=True))
    no = GateShut(outcome=Outcome.REJECTED, reason="not any more")
    state, commands = decide(stale, no)
    assert (state.phase, state.outcome) == ("stopping", Outcome.REJECTED)
    assert commands == TOLD
    assert state.seen == {}
    running = attrs.evolve(stale, outcome=Outcome.STOPPED, reason="b has stopped alone")
    state, _ = decide(running, no)
    assert (state.outcome, state.reason) == (Outcome.STOPPED, "b has stopped alone")


def test_an_abort_cancels_what_a_late_reject_lets_end() -> None:
    """Hosts are in flight. Where nothing has begun there is nothing to cancel: it ends by itself."""
    no, abort = GateShut(outcome=Outcome.REJECTED, reason="no"), AbortRequested(reason="enough")
    shut, _ = decide(at_work(), WindowChanged(False))
    stale, _ = decide(shut, WindowChanged(True, stale=True))
    late, _ = decide(stale, no)
    aborted, commands = decide(late, abort)
    assert aborted.outcome is Outcome.ABORTED
    assert commands == (CancelCluster("a", "enough"), CancelCluster("b", "enough"))
    early, _ = decide(at_gate(), no)
    assert decide(early, abort) == (early, ())
