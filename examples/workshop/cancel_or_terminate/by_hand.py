"""A child workflow per host. Written with care: its services are started again whatever happens."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from ..hosts import HandHosts

__all__ = ["PatchByHand", "PatchHostByHand"]

LIMIT = timedelta(minutes=5)
BEAT = timedelta(seconds=2)


@workflow.defn
class PatchHostByHand:
    @workflow.run
    async def run(self, host: str) -> None:
        await workflow.execute_activity_method(
            HandHosts.stop_services, host, start_to_close_timeout=LIMIT
        )
        try:
            await workflow.execute_activity_method(
                HandHosts.perform_update, host, start_to_close_timeout=LIMIT, heartbeat_timeout=BEAT
            )
        finally:
            await workflow.execute_activity_method(
                HandHosts.start_services, host, start_to_close_timeout=LIMIT
            )


@workflow.defn
class PatchByHand:
    @workflow.run
    async def run(self, cluster: str) -> None:
        hosts = await workflow.execute_activity_method(
            HandHosts.list_hosts, cluster, start_to_close_timeout=LIMIT
        )
        await asyncio.gather(
            *[workflow.execute_child_workflow(PatchHostByHand.run, host) for host in hosts]
        )
