"""The activities of a team whose hosts are folders, and whose packages are files in them."""

import asyncio
import os
import shutil
from pathlib import Path

from temporal_patching.activity import Checkpoint, PatchActivities
from temporal_patching.models import HostList, HostQuery, HostTask, Notice, StepResult

FLEET = Path(os.environ.get("FLEET", "fleet"))
PACKAGES = ["openssl", "nginx", "linux-image"]


async def inventory(cluster: str) -> list[str]:
    return sorted(path.name for path in (FLEET / cluster).iterdir())


def folder(task: HostTask) -> Path:
    return FLEET / task.cluster / task.host


async def run(directory: Path, command: list[str]) -> StepResult:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=directory, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    ok = process.returncode == 0
    message = "" if ok else f"{command[0]} exited with {process.returncode}"
    return StepResult(ok=ok, message=message, output=output.decode())


class DebianHosts(PatchActivities):
    async def list_hosts(self, query: HostQuery) -> HostList:
        return HostList(hosts=await inventory(query.cluster))

    async def set_maintenance_mode(self, task: HostTask) -> StepResult:
        (folder(task) / "maintenance").touch()
        return StepResult()

    async def clear_maintenance_mode(self, task: HostTask) -> StepResult:
        (folder(task) / "maintenance").unlink(missing_ok=True)
        return StepResult()

    async def perform_update(self, task: HostTask) -> StepResult:
        async with Checkpoint(int, default=0) as checkpoint:
            for index, package in enumerate(PACKAGES):
                if index >= checkpoint.value:
                    installed = await run(folder(task), ["cp", f"{package}.new", package])
                    if not installed.ok:
                        return installed
                    checkpoint.save(index + 1)
        return StepResult(changed=True)

    async def rebuild_initramfs(self, task: HostTask) -> StepResult:
        return await run(folder(task), ["cp", "linux-image", "initramfs"])

    def check_service_health(self, task: HostTask) -> StepResult:
        ok = shutil.which("cp") is not None and (folder(task) / "nginx").read_text() == "2\n"
        return StepResult(ok=ok, message="" if ok else "nginx has the wrong version")

    def notify(self, notice: Notice) -> None:
        with (FLEET.parent / "notices").open("a") as file:
            file.write(f"{notice.kind}: {notice.text}\n")
