"""The steps of simulated hosts as activities, wherever the hosts are."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from typing_extensions import override

from ..activity import PatchActivities
from ..models import HostList, HostQuery, HostTask, Notice, StepResult

NOTIFIER = "notify"


class SimulatedSteps(PatchActivities):
    """Every step of the default procedure, each an attempt on a host."""

    async def _run(self, step: str, task: HostTask) -> StepResult:
        """One attempt of a step."""
        raise NotImplementedError

    @override
    async def list_hosts(self, query: HostQuery) -> HostList:
        raise NotImplementedError

    @override
    async def notify(self, notice: Notice) -> None:
        raise NotImplementedError

    def implementing(self, *steps: str, notify: bool = False) -> PatchActivities:
        """Activities on these hosts that have only these steps, your own among them.

        For a subclass with steps of its own: ``fleet.implementing(*PatchWebHost.steps.names)``.

        Args:
            steps: Names of the methods, ``list_hosts`` aside, which is always there.
            notify: Whether ``notify`` is there.
        """

        def method(step: str) -> Callable[..., Coroutine[Any, Any, StepResult]]:
            async def run(_: PatchActivities, task: HostTask) -> StepResult:
                return await self._run(step, task)

            return run

        async def list_hosts(_: PatchActivities, query: HostQuery) -> HostList:
            return await self.list_hosts(query)

        async def tell(_: PatchActivities, notice: Notice) -> None:
            await self.notify(notice)

        methods: dict[str, Any] = {step: method(step) for step in steps}
        methods["list_hosts"] = list_hosts
        if notify:
            methods[NOTIFIER] = tell
        kind: type[PatchActivities] = type("SimulatedSteps", (PatchActivities,), methods)
        return kind()

    @override
    async def check_preconditions(self, task: HostTask) -> StepResult:
        return await self._run("check_preconditions", task)

    @override
    async def run_pre_downtime_scripts(self, task: HostTask) -> StepResult:
        return await self._run("run_pre_downtime_scripts", task)

    @override
    async def set_maintenance_mode(self, task: HostTask) -> StepResult:
        return await self._run("set_maintenance_mode", task)

    @override
    async def stop_services(self, task: HostTask) -> StepResult:
        return await self._run("stop_services", task)

    @override
    async def wait_for_workload_drain(self, task: HostTask) -> StepResult:
        return await self._run("wait_for_workload_drain", task)

    @override
    async def run_pre_update_scripts(self, task: HostTask) -> StepResult:
        return await self._run("run_pre_update_scripts", task)

    @override
    async def perform_update(self, task: HostTask) -> StepResult:
        return await self._run("perform_update", task)

    @override
    async def start_services(self, task: HostTask) -> StepResult:
        return await self._run("start_services", task)

    @override
    async def run_post_update_scripts(self, task: HostTask) -> StepResult:
        return await self._run("run_post_update_scripts", task)

    @override
    async def reboot(self, task: HostTask) -> StepResult:
        return await self._run("reboot", task)

    @override
    async def check_service_health(self, task: HostTask) -> StepResult:
        return await self._run("check_service_health", task)

    @override
    async def clear_maintenance_mode(self, task: HostTask) -> StepResult:
        return await self._run("clear_maintenance_mode", task)
