"""The same with the library: rollout, cluster and host answer by themselves."""

from __future__ import annotations

from temporal_patching.client import Rollout
from temporal_patching.exceptions import RolloutNotFound
from temporal_patching.models import PatchRequest
from temporal_patching.workflow import SystemPatchWorkflow

from ..stage import Stage

__all__ = ["completed", "start"]


async def start(stage: Stage, queue: str) -> Rollout[SystemPatchWorkflow]:
    return await Rollout.start(
        stage.client,
        SystemPatchWorkflow,
        PatchRequest(clusters=["eu-1", "us-1"], requester="carol@example.com"),
        id=stage.id("e2-library"),
        task_queue=queue,
    )


async def completed(
    rollout: Rollout[SystemPatchWorkflow], *, cluster: str | None = None, host: str | None = None
) -> tuple[str, ...]:
    """What is done: of the rollout, or of one cluster, or of one host."""
    try:
        return (await rollout.completed_steps(cluster=cluster, host=host)).steps
    except RolloutNotFound:
        return ()  # its turn has not come yet
