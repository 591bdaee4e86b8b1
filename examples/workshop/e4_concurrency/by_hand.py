"""Two clusters by hand: in nested loops, all at once, and so many at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from ..hosts import HandHosts

__all__ = ["AllAtOnceByHand", "LimitedByHand", "LoopsByHand"]

LIMIT = timedelta(minutes=5)


async def list_hosts(cluster: str) -> list[str]:
    return await workflow.execute_activity_method(
        HandHosts.list_hosts, cluster, start_to_close_timeout=LIMIT
    )


async def patch_host(host: str) -> None:
    for step in (
        HandHosts.stop_services,
        HandHosts.perform_update,
        HandHosts.start_services,
        HandHosts.check_service_health,
    ):
        await workflow.execute_activity_method(step, host, start_to_close_timeout=LIMIT)


@workflow.defn
class LoopsByHand:
    @workflow.run
    async def run(self, clusters: list[str]) -> None:
        for cluster in clusters:
            for host in await list_hosts(cluster):
                await patch_host(host)


@workflow.defn
class AllAtOnceByHand:
    @workflow.run
    async def run(self, clusters: list[str]) -> None:
        lists = await asyncio.gather(*[list_hosts(cluster) for cluster in clusters])
        await asyncio.gather(*[patch_host(host) for hosts in lists for host in hosts])


@workflow.defn
class LimitedByHand:
    @workflow.run
    async def run(self, clusters: list[str]) -> None:
        limit = asyncio.Semaphore(5)

        async def patch_within_limit(host: str) -> None:
            async with limit:
                await patch_host(host)

        lists = await asyncio.gather(*[list_hosts(cluster) for cluster in clusters])
        await asyncio.gather(*[patch_within_limit(host) for hosts in lists for host in hosts])
