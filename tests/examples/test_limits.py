"""Execution limits: what servers say at them, and what a rollout leaves in its histories."""

from __future__ import annotations

from examples.workshop.limits import run
from examples.workshop.stage import Stage
from temporal_patching.models import HostState, Outcome


async def test_limits_are_met_by_hand_only(stage: Stage) -> None:
    """By hand the server ends or stalls the workflow; a rollout over 300 hosts is far below."""
    seen = await run.show(stage)
    hand = seen.by_hand
    assert hand.history.startswith("TERMINATED")
    assert 0 < hand.updated < hand.hosts
    assert hand.pending == "PENDING_ACTIVITIES_LIMIT_EXCEEDED"
    assert hand.begun == 0
    assert hand.payload
    assert hand.attempts > 1

    assert seen.report.counts[HostState.PATCHED] == 300
    assert seen.largest.workflows == 303
    assert 100 < seen.largest.events < 10_240
    assert 4_096 < seen.largest.payload < 256 * 1024

    # One after the other they cost more. Some hundreds of them have to fit into one run all the same.
    assert seen.narrow.workflows == 62
    assert seen.largest.events / 150 < seen.narrow.events / 60 < 4_096 / 300

    assert seen.too_large.outcome is Outcome.STOPPED
    assert seen.too_large.counts[HostState.PATCHED] == 0
    assert all(row.holds for row in run.rows(seen))
