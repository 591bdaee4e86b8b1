"""Exercise 3: what the machines and the server say of it."""

from __future__ import annotations

from examples.workshop.e3_timeouts import run
from examples.workshop.stage import Stage
from temporal_patching.models import HostState, Outcome


async def test_slow_updates_and_killed_workers(stage: Stage) -> None:
    """A slow update fails and gives its host back; after a kill only what no heartbeat told is repeated."""
    seen = await run.show(stage)

    by_hand = seen.slow_by_hand
    assert by_hand.attempts == 3
    assert by_hand.runs_on
    assert by_hand.two_at_once
    assert by_hand.late > 0
    assert not by_hand.services_running

    slow, report = seen.slow, seen.end.report
    assert slow.attempts == len(slow.began) == 3
    assert run.waited(slow)
    assert not slow.runs_on
    assert not slow.two_at_once
    assert slow.late == 0
    assert slow.services_running
    assert seen.end.timed_out
    assert seen.end.no_more_attempts
    assert report.outcome is Outcome.STOPPED
    assert report.counts[HostState.FAILED] == 1
    assert report.left_out_of_service == ()

    again = seen.killed_by_hand
    assert again.updated
    assert again.went_on_at == 0
    assert again.repeated == again.done

    on = seen.killed
    assert on.updated
    assert on.went_on_at == on.known > 0
    assert on.repeated == on.done - on.known
    assert on.repeated < again.repeated

    assert all(row.holds for row in run.rows(seen))
