"""The activities that touch your machines."""

from __future__ import annotations

from machines import PACKAGES, install, inventory, pager, run
from temporal_patching.activity import Checkpoint, PatchActivities
from temporal_patching.models import HostList, HostQuery, HostTask, Notice, StepResult


class DebianHosts(PatchActivities):
    async def list_hosts(self, query: HostQuery) -> HostList:
        return HostList(hosts=await inventory(query.cluster))

    async def perform_update(self, task: HostTask) -> StepResult:
        async with Checkpoint(
            int, default=0
        ) as checkpoint:  # resumes where the last attempt stopped
            for index, package in enumerate(PACKAGES):
                if index >= checkpoint.value:
                    await install(task.host, package)
                    checkpoint.save(index + 1)
        return StepResult(changed=True)

    # A step's activity is the method of its name: see workflows.py.
    async def rebuild_initramfs(self, task: HostTask) -> StepResult:
        return await run(task.host, ["cp", "linux-image", "initramfs"])

    # A method that is not async runs in a thread.
    def notify(self, notice: Notice) -> None:
        pager.send(notice.text)
