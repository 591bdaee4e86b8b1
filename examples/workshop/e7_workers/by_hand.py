"""By hand: nothing in the workflow says how many hosts at once, so the worker's slots have to."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from ..hosts import HandHosts
    from ..machines import Fleet
    from .limits import Limits

__all__ = ["PatchAtOnce", "make_worker"]


@workflow.defn
class PatchAtOnce:
    @workflow.run
    async def run(self, cluster: str) -> None:
        hosts = await workflow.execute_activity_method(
            HandHosts.list_hosts, cluster, start_to_close_timeout=timedelta(minutes=5)
        )
        await asyncio.gather(*[self._patch(host) for host in hosts])

    async def _patch(self, host: str) -> None:
        for step in (
            HandHosts.stop_services,
            HandHosts.perform_update,
            HandHosts.start_services,
            HandHosts.check_service_health,
        ):
            await workflow.execute_activity_method(
                step, host, start_to_close_timeout=timedelta(minutes=5)
            )


def make_worker(client: Client, queue: str, fleet: Fleet, limits: Limits) -> Worker:
    activities = HandHosts(fleet).all()
    return Worker(
        client, task_queue=queue, workflows=[PatchAtOnce], activities=activities, **limits
    )
