"""The activities that touch the hosts: what a user of the library writes."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable

from ..activity import PatchActivities
from ..models import HostList, HostQuery, HostTask, Notice, StepResult
from ._machines import Machines

SPACE = 10_000_000
"""Bytes that must be free before an update."""

HEALTHY_WITHIN = 30.0
"""Seconds that a service may take to answer."""


class ShopHosts(PatchActivities):
    """Patches the demo's hosts.

    Args:
        machines: The hosts.
        tell: Where notices go.
    """

    def __init__(self, machines: Machines, tell: Callable[[Notice], None]) -> None:
        self._machines = machines
        self._tell = tell

    async def list_hosts(self, query: HostQuery) -> HostList:
        """The cluster's hosts; the first ones will be the pilots."""
        return HostList(hosts=[each.name for each in self._machines.of(query.cluster)])

    async def check_preconditions(self, task: HostTask) -> StepResult:
        """Refuses a host whose disk is full."""
        free = shutil.disk_usage(self._machines[task.host].path).free
        return StepResult(ok=free >= SPACE, message=f"{free} bytes free, {SPACE} needed")

    async def set_maintenance_mode(self, task: HostTask) -> StepResult:
        """Takes the host out of service."""
        self._machines[task.host].maintenance = True
        return StepResult(changed=True)

    async def stop_services(self, task: HostTask) -> StepResult:
        """Lets the shop take no new customers."""
        return StepResult(changed=self._machines[task.host].stop())

    async def wait_for_workload_drain(self, task: HostTask) -> StepResult:
        """Waits until the last customer has left."""
        while True:
            if self._machines[task.host].drained():
                return StepResult()
            await asyncio.sleep(0.1)

    async def perform_update(self, task: HostTask) -> StepResult:
        """Runs the request's update command on the host."""
        machine = self._machines[task.host]
        before = await machine.version()
        code, output = await machine.run(task.update_command)
        if code:
            return StepResult(ok=False, message=f"exit code {code}", output=output)
        return StepResult(changed=await machine.version() != before, output=output)

    async def start_services(self, task: HostTask) -> StepResult:
        """Starts the shop, if it does not run."""
        return StepResult(changed=self._machines[task.host].start())

    async def check_service_health(self, task: HostTask) -> StepResult:
        """Asks the shop for its version until it answers, has ended, or time is up."""
        machine = self._machines[task.host]
        deadline = time.monotonic() + HEALTHY_WITHIN
        while (served := await machine.serves()) is None:
            if machine.last_words is not None:
                return StepResult(ok=False, message=f"it has ended: {machine.last_words}")
            if time.monotonic() > deadline:
                return StepResult(ok=False, message=f"no answer within {HEALTHY_WITHIN} seconds")
            await asyncio.sleep(0.1)
        installed = await machine.version()
        return StepResult(
            ok=served == installed, message=f"{installed} is installed, it is {served}"
        )

    async def place_test_order(self, task: HostTask) -> StepResult:
        """A step that ``_workflows.py`` adds: buys something."""
        return StepResult(ok=await self._machines[task.host].order(), message="no receipt")

    async def clear_maintenance_mode(self, task: HostTask) -> StepResult:
        """Returns the host to service."""
        self._machines[task.host].maintenance = False
        return StepResult(changed=True)

    async def notify(self, notice: Notice) -> None:
        """Shows a notice."""
        self._tell(notice)
