"""A rollout over many hosts, one of which prints three megabytes; and a cluster that is too large."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from temporalio.client import Client
from temporalio.worker import Worker

from temporal_patching.client import Rollout
from temporal_patching.models import PatchRequest, RolloutReport, StepResult
from temporal_patching.policy import RolloutPolicy
from temporal_patching.testing import Fault, SimulatedFleet
from temporal_patching.worker import PatchingPlugin
from temporal_patching.workflow import SystemPatchWorkflow

__all__ = ["NARROW", "WIDE", "Chatty", "patch"]

NARROW = RolloutPolicy()
"""The default: a cluster's hosts go one after the other."""
WIDE = RolloutPolicy(max_parallel=50)

STEPS = ("perform_update", "check_service_health")


@attrs.frozen
class Chatty(Fault):
    """The step prints that many megabytes."""

    megabytes: int = attrs.field(default=3, kw_only=True)

    def after(self, result: StepResult) -> StepResult:
        return attrs.evolve(result, output="x" * self.megabytes * 1024 * 1024)


async def patch(
    client: Client,
    clusters: Mapping[str, int],
    *,
    id: str,
    policy: RolloutPolicy = WIDE,
    chatty: str | None = None,
) -> RolloutReport:
    """Patches clusters of simulated hosts."""
    fleet = SimulatedFleet(
        clusters,
        faults={chatty: Chatty("perform_update")} if chatty else {},
        page_size=5_000,  # a list is a payload, too
    )
    request = PatchRequest(clusters=list(clusters), requester="carol@example.com", policy=policy)
    plugin = PatchingPlugin(fleet.implementing(*STEPS))
    async with Worker(client, task_queue=id, plugins=[plugin]):
        rollout = await Rollout.start(client, SystemPatchWorkflow, request, id=id, task_queue=id)
        return await rollout.report()
