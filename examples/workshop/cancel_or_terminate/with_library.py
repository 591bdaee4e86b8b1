"""The same two hosts with the library: the default workflows, nothing of our own."""

from __future__ import annotations

from temporalio.client import Client, WorkflowFailureError

from temporal_patching.client import Rollout
from temporal_patching.models import PatchRequest, RolloutReport
from temporal_patching.policy import RolloutPolicy
from temporal_patching.workflow import SystemPatchWorkflow

__all__ = ["report_of", "start"]


async def start(client: Client, *, id: str, task_queue: str) -> Rollout[SystemPatchWorkflow]:
    """Both hosts at once."""
    request = PatchRequest(
        clusters=["eu-1"],
        requester="carol@example.com",
        policy=RolloutPolicy(pilot_hosts=0, max_parallel=2),
    )
    return await Rollout.start(client, SystemPatchWorkflow, request, id=id, task_queue=task_queue)


async def report_of(rollout: Rollout[SystemPatchWorkflow]) -> RolloutReport | None:
    """What the rollout has to say in the end; None if it had no time to say anything."""
    try:
        return await rollout.report()
    except WorkflowFailureError:
        return None
