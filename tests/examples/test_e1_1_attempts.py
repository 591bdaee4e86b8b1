"""Exercise 1.1: what the history says of an activity whose first attempt failed."""

from __future__ import annotations

from examples.workshop.e1_1_attempts import run
from examples.workshop.stage import Stage
from temporal_patching.models import HostState


async def test_a_failed_attempt_leaves_its_trace_in_the_next_one(stage: Stage) -> None:
    """No event while it waits; then the started event has the attempt and the failure before it."""
    seen = await run.show(stage)

    for waits in (seen.by_hand_waits, seen.step_waits):
        assert waits.attempt == 2
        assert "the connection is lost" in waits.last_failure
        assert waits.events == ["ACTIVITY_TASK_SCHEDULED"]
    for ended in (seen.by_hand_ended, seen.step_ended):
        assert ended.attempt == 2
        assert "the connection is lost" in ended.last_failure
        assert ended.events == [
            "ACTIVITY_TASK_SCHEDULED",
            "ACTIVITY_TASK_STARTED",
            "ACTIVITY_TASK_COMPLETED",
        ]

    # The second attempt that is told its number does not do the work again.
    assert seen.by_hand_done == 2
    assert seen.step_done == 1
    assert seen.answer.attempt == 2

    assert seen.progress.step == "stop_services"
    assert seen.progress.attempt == 2
    assert "the connection is lost" in (seen.progress.last_failure or "")
    assert seen.progress.completed == ("check_preconditions", "set_maintenance_mode")
    assert seen.result.state is HostState.PATCHED
    assert seen.result.completed.count("stop_services") == 1
    assert seen.updated

    assert all(row.holds for row in run.rows(seen))
