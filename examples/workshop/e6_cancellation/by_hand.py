"""A child workflow a host, by hand: beside each other with `asyncio.gather`, and with `asyncio.TaskGroup`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.workflow import ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from ..hosts import HandHosts

__all__ = ["ClusterWithGather", "ClusterWithTaskGroup", "DrainingHandHosts", "HostByHand"]

LIMIT = timedelta(minutes=5)


class DrainingHandHosts(HandHosts):
    """One more step: it waits until nobody works on the host."""

    @activity.defn
    async def wait_for_workload_drain(self, host: str) -> None:
        await self._fleet.machine(host).drain()

    def all(self) -> list[Callable[..., Any]]:
        return [*super().all(), self.wait_for_workload_drain]


@workflow.defn
class HostByHand:
    """Somebody has thought of the services: ``finally`` starts them again, whatever happens."""

    @workflow.run
    async def run(self, host: str) -> None:
        await self.do(HandHosts.stop_services, host)
        try:
            await self.do(DrainingHandHosts.wait_for_workload_drain, host)
            await self.do(HandHosts.perform_update, host)
        finally:
            await self.do(HandHosts.start_services, host)
        await self.do(HandHosts.check_service_health, host)

    async def do(self, step: Callable[..., Any], host: str) -> None:
        await workflow.execute_activity_method(
            step,
            host,
            start_to_close_timeout=LIMIT,
            retry_policy=RetryPolicy(
                initial_interval=timedelta(milliseconds=100), maximum_attempts=2
            ),
        )


@workflow.defn
class ClusterWithGather:
    @workflow.run
    async def run(self, cluster: str, when_closed: ParentClosePolicy) -> None:
        hosts = await _list(cluster)
        await asyncio.gather(
            *[
                workflow.execute_child_workflow(
                    HostByHand.run, host, id=_id(host), parent_close_policy=when_closed
                )
                for host in hosts
            ]
        )


@workflow.defn
class ClusterWithTaskGroup:
    @workflow.run
    async def run(self, cluster: str) -> None:
        hosts = await _list(cluster)
        if sys.version_info >= (3, 11):
            async with asyncio.TaskGroup() as group:
                for host in hosts:
                    group.create_task(
                        workflow.execute_child_workflow(HostByHand.run, host, id=_id(host))
                    )
        else:
            raise ApplicationError("asyncio.TaskGroup is there from Python 3.11 on")


async def _list(cluster: str) -> list[str]:
    return await workflow.execute_activity_method(
        HandHosts.list_hosts, cluster, start_to_close_timeout=LIMIT
    )


def _id(host: str) -> str:
    return f"{workflow.info().workflow_id}/{host}"
