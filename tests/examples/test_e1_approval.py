"""Exercise 1: what the machines, the server and the notices say of each vote."""

from __future__ import annotations

from temporalio.client import WorkflowExecutionStatus

from examples.workshop.e1_approval import run
from examples.workshop.e1_approval.with_library import ALICE, BOB, MALLORY
from examples.workshop.stage import Stage
from temporal_patching.models import Outcome


async def test_who_may_vote_and_what_becomes_of_it(stage: Stage) -> None:
    """By hand anybody opens the gate; with the library the approvers do, once each, in time."""
    seen = await run.show(stage)

    assert seen.by_hand.stranger_patched
    assert seen.by_hand.stranger_events == 2
    assert seen.by_hand.twice_patched
    assert seen.by_hand.expired == ("TimeoutError", "")
    assert not seen.by_hand.expired_patched

    assert seen.recipients == (ALICE, BOB)
    assert seen.done_before == []
    assert len(seen.refused) == 2
    assert all(seen.refused)
    assert seen.votes == [1, 1, 2]

    patched = (Outcome.PATCHED, WorkflowExecutionStatus.COMPLETED, True)
    for ending in (seen.by_update, seen.by_signal, seen.with_signal, seen.with_update):
        assert (ending.outcome, ending.status, ending.patched) == patched
    # Alice's second vote is an event, the stranger's and the requester's are none.
    assert (seen.by_update.updates, seen.by_update.signals) == (3, 0)
    assert (seen.by_signal.updates, seen.by_signal.signals) == (0, 3)
    assert seen.by_update.stranger_events == 0
    assert seen.by_signal.stranger_events == 1
    assert [vote.by for vote in seen.refused_signals] == [MALLORY]
    assert all(vote.reason for vote in seen.refused_signals)

    for ending, outcome, status in (
        (seen.rejected, Outcome.REJECTED, WorkflowExecutionStatus.FAILED),
        (seen.expired, Outcome.EXPIRED, WorkflowExecutionStatus.FAILED),
        (seen.expired_well, Outcome.EXPIRED, WorkflowExecutionStatus.COMPLETED),
    ):
        assert (ending.outcome, ending.status) == (outcome, status)
        assert ending.done == []
    assert "approval_requested" in seen.rejected.notices
    for ending in (seen.expired, seen.expired_well):
        assert ending.notices[:2] == ["approval_requested", "approval_expired"]

    # Who voted with the start was never asked.
    assert (seen.with_signal.signals, seen.with_signal.updates) == (1, 0)
    assert (seen.with_update.signals, seen.with_update.updates) == (0, 1)
    assert seen.answer_by == [ALICE]
    for ending in (seen.with_signal, seen.with_update):
        assert "approval_requested" not in ending.notices

    assert all(row.holds for row in run.rows(seen))
