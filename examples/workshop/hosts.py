"""What a worker does to the machines: once as plain activities, once for the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from temporalio import activity

from temporal_patching.activity import Checkpoint, PatchActivities
from temporal_patching.models import HostList, HostQuery, HostTask, Notice, StepResult

from .machines import Fleet

__all__ = ["HandHosts", "WorkshopHosts"]


class HandHosts:
    """Activities as everybody writes them. Hand them to a worker with ``activities=hosts.all()``."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    @activity.defn
    async def list_hosts(self, cluster: str) -> list[str]:
        return self._fleet.hosts(cluster)

    @activity.defn
    async def stop_services(self, host: str) -> None:
        await self._fleet.machine(host).do("stop_services")

    @activity.defn
    async def perform_update(self, host: str) -> None:
        machine = self._fleet.machine(host)
        await machine.do("perform_update")
        for unit in range(machine.units):
            await machine.update_unit(unit)
            activity.heartbeat(unit)

    @activity.defn
    async def start_services(self, host: str) -> None:
        await self._fleet.machine(host).do("start_services")

    @activity.defn
    async def check_service_health(self, host: str) -> None:
        await self._fleet.machine(host).do("check_service_health")

    def all(self) -> list[Callable[..., Any]]:
        """What a worker registers."""
        return [
            *(self.list_hosts, self.stop_services, self.perform_update),
            *(self.start_services, self.check_service_health),
        ]


class WorkshopHosts(PatchActivities):
    """The same for the library. A step's activity is the method of its name."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.notices: list[Notice] = []

    async def list_hosts(self, query: HostQuery) -> HostList:
        return HostList(hosts=self.fleet.hosts(query.cluster))

    async def check_preconditions(self, task: HostTask) -> StepResult:
        return await self._do(task)

    async def set_maintenance_mode(self, task: HostTask) -> StepResult:
        return await self._do(task)

    async def stop_services(self, task: HostTask) -> StepResult:
        return await self._do(task)

    async def perform_update(self, task: HostTask) -> StepResult:
        machine = self.fleet.machine(task.host)
        async with Checkpoint(int, default=0) as checkpoint:
            await machine.do(task.step)
            for unit in range(checkpoint.value, machine.units):
                await machine.update_unit(unit)
                checkpoint.save(unit + 1)
        return StepResult(changed=True)

    async def start_services(self, task: HostTask) -> StepResult:
        return await self._do(task)

    async def check_service_health(self, task: HostTask) -> StepResult:
        return await self._do(task)

    async def clear_maintenance_mode(self, task: HostTask) -> StepResult:
        return await self._do(task)

    async def notify(self, notice: Notice) -> None:
        self.notices.append(notice)

    async def _do(self, task: HostTask) -> StepResult:
        await self.fleet.machine(task.host).do(task.step)
        return StepResult(changed=True)
