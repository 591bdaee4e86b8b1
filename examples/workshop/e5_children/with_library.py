"""The same with the library: the tree of child workflows is there, nobody writes it."""

from __future__ import annotations

from temporalio.client import Client

from temporal_patching.client import Rollout
from temporal_patching.models import PatchRequest
from temporal_patching.policy import RolloutPolicy
from temporal_patching.workflow import SystemPatchWorkflow

__all__ = ["start"]


async def start(client: Client, id: str, task_queue: str) -> Rollout[SystemPatchWorkflow]:
    return await Rollout.start(
        client,
        SystemPatchWorkflow,
        PatchRequest(
            clusters=["eu-1", "us-1"],
            requester="carol@example.com",
            policy=RolloutPolicy(pilot_hosts=0, max_parallel=3),
        ),
        id=id,
        task_queue=task_queue,
    )
