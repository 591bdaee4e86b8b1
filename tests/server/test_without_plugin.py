"""The parts on a worker that knows nothing of this library: the default sandbox, no plugin."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.client import Client
from temporalio.worker import Replayer, Worker

from temporal_patching.client import Approvals
from temporal_patching.exceptions import Refused
from temporal_patching.models import Vote
from tests.gates import ALICE, DAVE, GATE, Release, Sealed


@pytest.mark.smoke
async def test_votes_count(client: Client, workflow_id: str, task_queue: str) -> None:
    """By update, by signal, and refused with the reason: as with the plugin."""
    async with Worker(client, task_queue=task_queue, workflows=[Release]):
        handle = await client.start_workflow(
            "Release", {"quorum": 2}, id=workflow_id, task_queue=task_queue, result_type=str
        )
        votes = Approvals(client, workflow_id)
        while not (await votes.report()).pending:
            await asyncio.sleep(0.02)
        with pytest.raises(Refused, match="is not an approver"):
            await votes.approve(by=DAVE, gate=GATE)
        await votes.approve(by=ALICE, gate=GATE)
        await handle.signal("approve", Vote(by="bob@example.com", gate=GATE))
        assert await handle.result() == f"approved by {ALICE}, bob@example.com"
        await Replayer(workflows=[Release]).replay_workflow(await handle.fetch_history())


@pytest.mark.smoke
async def test_a_wire_type_is_taken_and_given(
    client: Client, workflow_id: str, task_queue: str
) -> None:
    """A user's own workflow may take and return a wire type."""
    async with Worker(client, task_queue=task_queue, workflows=[Sealed]):
        vote = Vote(by=ALICE, gate=GATE, reason="CHG-1")
        sealed = await client.execute_workflow(
            Sealed.run, vote, id=workflow_id, task_queue=task_queue
        )
        assert sealed == Vote(by=ALICE, gate=GATE, reason="CHG-1, sealed")
