"""The steps of simulated hosts as activities, wherever the hosts are."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Literal

import attrs
from temporalio.client import Client
from typing_extensions import override

from ..activity import PatchActivities
from ..exceptions import InvalidRequest
from ..models import HostList, HostQuery, HostTask, Notice, StepResult

NOTIFIER = "notify"

_log = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class Opened:
    """An attempt that has begun, and that somebody else's activity carries out."""

    number: int
    deliveries: int = 1
    answer: StepResult | None = None
    """What is answered in its place."""


class SimulatedSteps(PatchActivities):
    """Every step of the default procedure, each an attempt on a simulated host.

    What a fleet of this process (``SimulatedFleet``) and one of another process (``ServedFleet``) have in common.
    Not to be subclassed.
    """

    _targets: Collection[str] = ()

    async def _run(self, step: str, task: HostTask) -> StepResult:
        """One attempt of a step, from its beginning to its answer."""
        raise NotImplementedError

    async def _open(self, step: str, task: HostTask) -> Opened:
        """An attempt begins whose effect is somebody else's."""
        raise NotImplementedError

    async def _close(
        self, number: int, what: Literal["done", "failed", "cancelled"], answer: StepResult
    ) -> StepResult:
        """It has ended, and this is its answer."""
        raise NotImplementedError

    async def _listed(self, cluster: str, names: list[str]) -> None:
        """Somebody else's ``list_hosts`` has named these."""
        raise NotImplementedError

    @override
    def _worker_starts(self, client: Client, task_queue: str) -> None:
        # Steps that do nothing must never be taken for a rollout that has happened.
        target = client.service_client.config.target_host
        if not _is_here(target) and target not in self._targets:
            raise InvalidRequest(
                [
                    f"a simulated fleet touches no machine, and {target!r} is not on this machine: use "
                    "your own activities there. If it is a server for tests, name it: "
                    f"targets=[{target!r}]"
                ]
            )
        _log.warning(
            "%r works on task queue %r of %s: no machine is touched", self, task_queue, target
        )

    @override
    async def list_hosts(self, query: HostQuery) -> HostList:
        raise NotImplementedError

    @override
    async def notify(self, notice: Notice) -> None:
        raise NotImplementedError

    def around(self, theirs: PatchActivities) -> PatchActivities:
        """Your own activities, with this fleet's faults around them and its log beside them.

        Each step is done by your method. What a fault says happens before, after or instead of it: with
        ``Doubled`` your method is called twice, with ``LiesAboutSuccess`` never. A host of the fleet is taken
        to be as your method's answer says. Hosts that your ``list_hosts`` names and the fleet does not
        know are taken in, without faults.

        Args:
            theirs: An instance of your class. Its plain methods run in threads, as always.

        Example:
            >>> class Hosts(PatchActivities):
            ...     async def list_hosts(self, query: HostQuery) -> HostList:
            ...         return HostList(hosts=["web-1"])
            ...     async def perform_update(self, task: HostTask) -> StepResult:
            ...         return StepResult(changed=True)
            >>> from temporal_patching.testing import DoneButLost, SimulatedFleet
            >>> fleet = SimulatedFleet({"eu-1": ["web-1"]}, faults={"web-1": DoneButLost("perform_update")})
            >>> activities = fleet.around(Hosts())
        """
        from ._around import around

        return around(self, theirs)

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
        return simulated(self, methods)

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


def simulated(steps: SimulatedSteps, methods: dict[str, Any]) -> PatchActivities:
    """Activities that have just these methods, and refuse what the fleet refuses."""

    def starts(_: PatchActivities, client: Client, task_queue: str) -> None:
        steps._worker_starts(client, task_queue)

    def shown(_: PatchActivities) -> str:
        return repr(steps)

    methods = {**methods, "_worker_starts": starts, "__repr__": shown}
    kind: type[PatchActivities] = type("SimulatedSteps", (PatchActivities,), methods)
    return kind()


def _is_here(target: str) -> bool:
    """Whether an address is on this machine."""
    host = target.rpartition("://")[2].rpartition(":")[0].strip("[]") or target
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
