"""With the library: the same options of the same Worker, and `max_parallel` in the rollout's policy."""

from __future__ import annotations

from temporalio.client import Client
from temporalio.worker import Worker

from temporal_patching.client import Rollout
from temporal_patching.models import PatchRequest, RolloutReport
from temporal_patching.policy import RolloutPolicy
from temporal_patching.worker import PatchingPlugin
from temporal_patching.workflow import SystemPatchWorkflow

from ..hosts import WorkshopHosts
from ..machines import Fleet
from .limits import Limits

__all__ = ["make_worker", "patch"]


def make_worker(client: Client, queue: str, fleet: Fleet, limits: Limits) -> Worker:
    plugin = PatchingPlugin(WorkshopHosts(fleet))
    return Worker(client, task_queue=queue, plugins=[plugin], **limits)


async def patch(client: Client, queue: str, max_parallel: int) -> RolloutReport:
    policy = RolloutPolicy(pilot_hosts=0, max_parallel=max_parallel)
    rollout = await Rollout.start(
        client,
        SystemPatchWorkflow,
        PatchRequest(clusters=["eu-1"], requester="carol@example.com", policy=policy),
        id=queue,
        task_queue=queue,
    )
    return await rollout.result()
