"""The same with the library: how many at once is data."""

from __future__ import annotations

from temporalio.worker import Worker

from temporal_patching.client import Rollout
from temporal_patching.models import PatchRequest, RolloutReport
from temporal_patching.policy import RolloutPolicy
from temporal_patching.worker import PatchingPlugin
from temporal_patching.workflow import SystemPatchWorkflow

from ..hosts import WorkshopHosts
from ..machines import Fleet
from ..stage import Stage

__all__ = ["IN_PARALLEL", "ONE_AFTER_THE_OTHER", "patch"]

ONE_AFTER_THE_OTHER = RolloutPolicy(max_parallel=1, max_parallel_clusters=1)

# In each cluster one host first, the pilot; then up to 3 at once, and up to 5 in all.
IN_PARALLEL = RolloutPolicy(pilot_hosts=1, max_parallel=3, max_parallel_total=5)


async def patch(stage: Stage, fleet: Fleet, name: str, policy: RolloutPolicy) -> RolloutReport:
    plugin = PatchingPlugin(WorkshopHosts(fleet))
    queue = stage.id(f"e4-{name}")
    async with Worker(stage.client, task_queue=queue, plugins=[plugin]):
        rollout = await Rollout.start(
            stage.client,
            SystemPatchWorkflow,
            PatchRequest(clusters=["eu-1", "us-1"], requester="carol@example.com", policy=policy),
            id=stage.id(f"e4-{name}"),
            task_queue=queue,
        )
        return await rollout.result()
