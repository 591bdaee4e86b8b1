"""A worker in a process of its own, to be killed, stopped, cut off and restarted."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio.client import Client
from temporalio.worker import Worker

from temporal_patching.activity import Checkpoint, PatchActivities
from temporal_patching.models import HostList, HostQuery, HostTask, StepResult
from temporal_patching.worker import PatchingPlugin
from tests.chaos.next_release import NextChaosFleet
from tests.chaos.truth import Truth
from tests.chaos.workflows import CHAOS_STEPS, ChaosFleet

UNITS = 5


class Orders:
    """What a test wants of the hosts, in a file that it may change while they are worked on.

    ``hosts``: names, by cluster. ``pace``: seconds that a unit of work takes, also of the one that goes on now.
    ``hold``: triples of host, step and place (``before`` or ``after`` its effect) at which each attempt waits.
    ``refuse``: the step at which a host fails, by host. ``output``: how many characters each step says.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def now(self) -> Mapping[str, Any]:
        """As they are now."""
        given: Mapping[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
        return given

    async def work(self, share: float = 1) -> None:
        """A unit of work, or a part of one."""
        began = time.monotonic()
        while (left := began + share * self.now["pace"] - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.1))

    async def pass_gate(self, task: HostTask, place: str) -> None:
        """Waits as long as this place is held."""
        while [task.host, task.step, place] in self.now["hold"]:
            await asyncio.sleep(0.1)


class FileHosts(PatchActivities):
    """Every step of the default procedure, on hosts that are files."""

    def __init__(self, folder: Path) -> None:
        self._truth = Truth(folder / "hosts")
        self._orders = Orders(folder / "orders.json")

    async def list_hosts(self, query: HostQuery) -> HostList:
        return HostList(hosts=self._orders.now["hosts"][query.cluster])

    async def _step(self, task: HostTask) -> StepResult:
        """One attempt of any step."""
        orders = self._orders.now
        began = self._truth.begin(task)
        try:
            await self._orders.pass_gate(task, "before")
            if orders["refuse"].get(task.host) == task.step:
                self._truth.say(began, "failed")
                return StepResult(ok=False, message="it was ordered to" + "x" * orders["output"])
            if task.step == "perform_update":
                async with Checkpoint(int, default=0) as checkpoint:
                    for unit in range(checkpoint.value, UNITS):
                        await self._orders.work()
                        self._truth.act(began, "unit", unit)
                        checkpoint.save(unit + 1)
            else:
                await self._orders.work(0.5)
            healthy = self._truth.now(task.host).services_running
            if task.step == "check_service_health" and not healthy:
                self._truth.say(began, "failed")
                return StepResult(ok=False, message="its services do not run")
            before, after = self._truth.act(began, "done")
            await self._orders.pass_gate(task, "after")
        except asyncio.CancelledError:
            self._truth.say(began, "cancelled")
            raise
        changed = before != after
        if (
            task.step == "reboot"
        ):  # proven by the boot of now, also where an earlier attempt made it
            boots = (f"boot-{after.boot - 1}", f"boot-{after.boot}")
        else:
            boots = (f"boot-{before.boot}", f"boot-{after.boot}")
        return StepResult(
            changed=changed,
            output="x" * orders["output"],
            previous_boot_id=boots[0],
            boot_id=boots[1],
        )


def _method(name: str) -> Callable[..., Coroutine[Any, Any, StepResult]]:
    async def run(self: FileHosts, task: HostTask) -> StepResult:
        return await self._step(task)

    run.__name__ = run.__qualname__ = name
    run.__annotations__ = {"task": HostTask, "return": StepResult}
    return run


# One method a step, as a user writes them; they differ in nothing but their name.
ChaosHosts: type[FileHosts] = type(
    "ChaosHosts", (FileHosts,), {name: _method(name) for name in CHAOS_STEPS.names}
)


def plugin(folder: Path, *, next_release: bool = False) -> PatchingPlugin:
    """What such a worker runs."""
    fleet = NextChaosFleet if next_release else ChaosFleet
    return PatchingPlugin(ChaosHosts(folder), workflows=[fleet])


async def main() -> None:
    """Works until it is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("task_queue")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cached", type=int, default=1000)
    parser.add_argument("--next-release", action="store_true")
    given = parser.parse_args()
    client = await Client.connect(given.address, identity=f"worker-{os.getpid()}")
    async with Worker(
        client,
        task_queue=given.task_queue,
        plugins=[plugin(given.folder, next_release=given.next_release)],
        max_cached_workflows=given.cached,
        # Half of the SDK's default: how long the server holds on to a worker that is dead.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=5),
    ):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)
