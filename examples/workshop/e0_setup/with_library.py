"""The same with the library: there is no workflow to write, only what is asked for."""

from __future__ import annotations

from temporalio.worker import Worker

from temporal_patching.client import Rollout
from temporal_patching.models import PatchRequest, RolloutReport
from temporal_patching.worker import PatchingPlugin
from temporal_patching.workflow import SystemPatchWorkflow

from ..hosts import WorkshopHosts
from ..machines import Fleet
from ..stage import Stage

__all__ = ["patch"]


async def patch(stage: Stage, fleet: Fleet) -> RolloutReport:
    queue = stage.id("e0-library")
    plugin = PatchingPlugin(WorkshopHosts(fleet))
    async with Worker(stage.client, task_queue=queue, plugins=[plugin]):
        rollout = await Rollout.start(
            stage.client,
            SystemPatchWorkflow,
            PatchRequest(clusters=["eu-1", "us-1"], requester="carol@example.com"),
            id=stage.id("e0-library"),
            task_queue=queue,
        )
        async for progress in rollout.watch():
            stage.say(f"  {progress.summary}")
        stage.say(f"  in the web UI: {stage.link(rollout.id)}")
        return await rollout.result()
