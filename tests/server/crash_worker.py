"""A worker process to be killed: its hosts are files, so that their truth outlives it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

from temporal_patching.activity import Checkpoint, PatchActivities
from temporal_patching.models import HostList, HostQuery, HostTask, StepResult
from temporal_patching.policy import Step
from temporal_patching.worker import PatchingPlugin
from temporal_patching.workflow import HostPatchWorkflow, SystemPatchWorkflow

UNITS = 40
UNIT_SECONDS = 0.1
HEARTBEAT_TIMEOUT = timedelta(seconds=2)
HOSTS = ["crash-1", "crash-2"]


@workflow.defn
class CrashHost(HostPatchWorkflow):
    steps = HostPatchWorkflow.steps.replace(
        "perform_update", Step("perform_update", heartbeat_timeout=HEARTBEAT_TIMEOUT)
    )


@workflow.defn
class CrashFleet(SystemPatchWorkflow):
    host_workflow = CrashHost


class FileHosts(PatchActivities):
    """A host is a file with a line for each unit of work: when, which unit, which attempt."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def list_hosts(self, query: HostQuery) -> HostList:
        return HostList(hosts=HOSTS)

    async def set_maintenance_mode(self, task: HostTask) -> StepResult:
        self._write(task, "out")
        return StepResult(changed=True)

    async def perform_update(self, task: HostTask) -> StepResult:
        async with Checkpoint(int, default=0) as checkpoint:
            for unit in range(checkpoint.value, UNITS):
                await asyncio.sleep(UNIT_SECONDS)
                self._write(task, str(unit))
                checkpoint.save(unit + 1)
        return StepResult(changed=True)

    async def check_service_health(self, task: HostTask) -> StepResult:
        return StepResult()

    async def clear_maintenance_mode(self, task: HostTask) -> StepResult:
        self._write(task, "in")
        return StepResult(changed=True)

    def _write(self, task: HostTask, what: str) -> None:
        with open(self._folder / task.host, "a", encoding="utf-8") as file:
            file.write(f"{time.time()} {what} {task.attempt}\n")


async def main(address: str, task_queue: str, folder: str) -> None:
    """Works until it is killed."""
    client = await Client.connect(address)
    plugin = PatchingPlugin(FileHosts(Path(folder)), workflows=[CrashFleet])
    async with Worker(client, task_queue=task_queue, plugins=[plugin]):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
    os._exit(0)
