"""Exercise 0: what the machines and the server say of it."""

from __future__ import annotations

from examples.workshop.e0_setup import run
from examples.workshop.stage import Stage
from temporal_patching.models import HostState, Outcome


async def test_both_patch_what_they_say(stage: Stage) -> None:
    """Each machine is updated, whoever wrote the workflow."""
    seen = await run.show(stage)
    assert seen.by_hand == ["e0-a", "e0-b"]
    assert seen.report.outcome is Outcome.PATCHED
    assert seen.report.counts[HostState.PATCHED] == 4
    assert seen.updated == ["e0-c", "e0-d", "e0-e", "e0-f"]
    assert all(row.holds for row in run.rows(seen))
