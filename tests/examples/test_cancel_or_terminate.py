"""Cancel or terminate: what the machines' logs say afterwards."""

from __future__ import annotations

from examples.workshop.cancel_or_terminate import run
from examples.workshop.stage import Stage
from temporal_patching.models import HostState, Outcome


async def test_what_each_leaves_behind(stage: Stage) -> None:
    """By hand a termination leaves services down; the library's hosts are whole either way."""
    seen = await run.show(stage)

    torn, killed = seen.by_hand_cancelled, seen.by_hand_terminated
    assert torn.hosts == killed.hosts == 2
    assert torn.services_down == []
    assert len(torn.half_updated) == len(torn.updated_while_serving) == 2
    # Who is last may be caught by the end of its parent, which does not wait for it.
    assert {"CANCELED"} <= {status for _, status in torn.workflows} <= {"CANCELED", "TERMINATED"}
    assert len(killed.services_down) == len(killed.half_updated) == 2
    assert {status for _, status in killed.workflows} == {"TERMINATED"}

    for left in (seen.cancelled, seen.terminated):
        assert left.hosts == 2
        assert left.services_down == left.half_updated == left.updated_while_serving == []
        assert left.workflows.count(("HostPatchWorkflow", "COMPLETED")) == 2
    assert ("SystemPatchWorkflow", "FAILED") in seen.cancelled.workflows
    assert ("SystemPatchWorkflow", "TERMINATED") in seen.terminated.workflows
    assert seen.report_of_cancelled is not None
    assert seen.report_of_cancelled.outcome is Outcome.ABORTED
    assert seen.report_of_cancelled.counts[HostState.PATCHED] == 2
    assert seen.report_of_terminated is None

    assert all(row.holds for row in run.rows(seen))
