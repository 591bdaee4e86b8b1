"""Three workflows as they are written by hand: a fleet starts its clusters, a cluster its hosts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from ..hosts import HandHosts

__all__ = ["ClusterByHand", "FleetByHand", "HostByHand"]

LIMIT = timedelta(minutes=5)


@workflow.defn
class FleetByHand:
    @workflow.run
    async def run(self, clusters: Sequence[str]) -> None:
        # The ids are made of what an operator knows: without them they would be random.
        fleet = workflow.info().workflow_id
        await asyncio.gather(
            *[
                workflow.execute_child_workflow(ClusterByHand.run, cluster, id=f"{fleet}/{cluster}")
                for cluster in clusters
            ]
        )


@workflow.defn
class ClusterByHand:
    @workflow.run
    async def run(self, cluster: str) -> None:
        hosts = await workflow.execute_activity_method(
            HandHosts.list_hosts, cluster, start_to_close_timeout=LIMIT
        )
        here = workflow.info().workflow_id
        await asyncio.gather(
            *[
                workflow.execute_child_workflow(HostByHand.run, host, id=f"{here}/{host}")
                for host in hosts
            ]
        )


@workflow.defn
class HostByHand:
    @workflow.run
    async def run(self, host: str) -> None:
        for step in (
            HandHosts.stop_services,
            HandHosts.perform_update,
            HandHosts.start_services,
            HandHosts.check_service_health,
        ):
            await workflow.execute_activity_method(step, host, start_to_close_timeout=LIMIT)
