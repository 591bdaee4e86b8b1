"""The baseline: the same rollout as anybody would write it by hand, in the default sandbox."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from temporalio import activity, workflow

STEPS = (
    "check_preconditions",
    "run_pre_downtime_scripts",
    "set_maintenance_mode",
    "stop_services",
    "wait_for_workload_drain",
    "run_pre_update_scripts",
    "perform_update",
    "start_services",
    "run_post_update_scripts",
    "check_service_health",
    "clear_maintenance_mode",
)


@dataclass
class HandTask:
    """What each step is told."""

    cluster: str
    host: str
    services: list[str]
    update_command: str


@dataclass
class HandCluster:
    """What the cluster is told."""

    cluster: str
    hosts: list[str]
    max_parallel: int
    services: list[str]
    update_command: str


@activity.defn(name="hand_step")
async def hand_step(task: HandTask) -> bool:
    return True


@workflow.defn
class HandHost:
    @workflow.run
    async def run(self, task: HandTask) -> bool:
        for _ in STEPS:
            await workflow.execute_activity(
                hand_step,
                task,
                start_to_close_timeout=timedelta(minutes=10),
                heartbeat_timeout=timedelta(seconds=30),
            )
        return True


@workflow.defn
class PatchByHand:
    @workflow.run
    async def run(self, cluster: HandCluster) -> int:
        semaphore = asyncio.Semaphore(cluster.max_parallel)

        async def patch(host: str) -> bool:
            async with semaphore:
                return await workflow.execute_child_workflow(
                    HandHost.run,
                    HandTask(cluster.cluster, host, cluster.services, cluster.update_command),
                    id=f"{workflow.info().workflow_id}/{host}",
                )

        return sum(await asyncio.gather(*[patch(host) for host in cluster.hosts]))
