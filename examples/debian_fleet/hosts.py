"""The activities that touch the hosts: apt over SSH, and an init-style service."""

from __future__ import annotations

import asyncio
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta

from temporal_patching.activity import Checkpoint, PatchActivities
from temporal_patching.contrib.ssh import CommandResult, Ssh
from temporal_patching.models import HostList, HostQuery, HostTask, Notice, StepResult

__all__ = ["DebianHosts"]

SHORT = timedelta(seconds=30)
UPDATE = timedelta(minutes=20)
MAINTENANCE = "/var/lib/orders/maintenance"
LOG = "/var/log/patching.log"

# No question is ever asked, changed configuration stays, and another apt is waited for: its lock is
# respected, never removed.
_APT = (
    *("-q", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=120"),
    *("-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"),
)
_ENV = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}

_VERSION = ("dpkg-query", "--show", "--showformat=${Version}")
_PACKAGES = ("dpkg-query", "--show", "--showformat=${Package} ${Version} ${db:Status-Status}\\n")

# The line before it is the package's own, unless it is dpkg's progress.
_ERROR = re.compile(
    r"^((?!Preparing to |Unpacking |Setting up ).*\n)?dpkg: .*\berror[ :,].*\n.*", re.MULTILINE
)

# Its output goes to a file of the host: apt that writes to a connection which is gone, because the
# worker died, would be killed in the middle of its work.
_LOGGED = (
    'log=$1; shift; "$@" >>"$log" 2>&1 </dev/null; status=$?; tail -c 4096 "$log"; exit $status'
)


class DebianHosts(PatchActivities):
    """Upgrades Debian hosts.

    Args:
        ssh: How to reach them.
        inventory: Host names by cluster. A real one asks a CMDB.
        health_timeout: How long a service may take to become healthy.
    """

    def __init__(
        self,
        ssh: Ssh,
        inventory: Mapping[str, Sequence[str]],
        *,
        health_timeout: timedelta = timedelta(seconds=20),
    ) -> None:
        self._ssh = ssh
        self._inventory = inventory
        self._health_timeout = health_timeout

    async def list_hosts(self, query: HostQuery) -> HostList:
        """The cluster's hosts, from the inventory."""
        return HostList(hosts=self._inventory[query.cluster])

    async def check_preconditions(self, task: HostTask) -> StepResult:
        """Anything to upgrade? What was switched off before we came?"""
        await self._run(task, ["apt-get", *_APT, "update"])
        plan = await self._run(task, ["apt-get", *_APT, "--simulate", "upgrade"])
        unfinished = await self._unfinished(task)
        already: list[str] = []
        if await self._succeeds(task, ["test", "-e", MAINTENANCE]):
            already.append("set_maintenance_mode")
        if task.services and not any([await self._answers(task, s) for s in task.services]):
            already.append("stop_services")
        return StepResult(
            needed=bool(re.search("^(Inst|Conf) ", plan.stdout, re.MULTILINE) or unfinished),
            already=already,
            boot_id=await self._ssh.boot_id(task.host),
        )

    async def set_maintenance_mode(self, task: HostTask) -> StepResult:
        """The service refuses new orders."""
        await self._run(task, ["touch", MAINTENANCE])
        return StepResult(changed=True)

    async def clear_maintenance_mode(self, task: HostTask) -> StepResult:
        """The service takes orders again."""
        await self._run(task, ["rm", "-f", MAINTENANCE])
        return StepResult(changed=True)

    async def stop_services(self, task: HostTask) -> StepResult:
        """Stop them; one that is stopped already is no error."""
        for name in task.services:
            await self._run(task, ["service", _service(name), "stop"])
        return StepResult(changed=True)

    async def start_services(self, task: HostTask) -> StepResult:
        """Start them; one that runs already is no error."""
        for name in task.services:
            await self._run(task, ["service", _service(name), "start"])
        return StepResult(changed=True)

    async def perform_update(self, task: HostTask) -> StepResult:
        """Run the update command, and prove by dpkg's own database what it changed.

        An attempt whose worker died leaves apt running on the host. The next one waits for apt's lock, runs
        the command again, which then finds nothing left to do, and still tells the change, because a
        digest of all packages from before the first attempt travels in the checkpoint.
        """
        # Beats by itself, for one upgrade is a single long command.
        every = timedelta(seconds=1)
        async with Checkpoint(str, default="", heartbeat_every=every) as checkpoint:
            if not checkpoint.value:
                checkpoint.save(await self._packages(task))
            command = _update_command(task.update_command)
            done = await self._logged(task, command)
            if done.exit_status != 0 and await self._unfinished(task):
                await self._logged(task, ["dpkg", "--configure", "-a", "--force-confold"])
                done = await self._logged(task, command)
            changed = checkpoint.value != await self._packages(task)
        if done.exit_status != 0 or await self._unfinished(task):
            return StepResult(
                ok=False,
                changed=changed,
                message=f"{command[0]} ended with exit status {done.exit_status}: {_reason(done)}",
                output=done.output,
            )
        return StepResult(
            changed=changed,
            reboot_required=await self._succeeds(task, ["test", "-e", "/run/reboot-required"]),
            output=done.output,
        )

    async def reboot(self, task: HostTask) -> StepResult:
        """Reboot, and wait until the host is back with a new boot id."""
        async with Checkpoint(str, default="", heartbeat_every=timedelta(seconds=1)) as checkpoint:
            if not checkpoint.value:
                checkpoint.save(await self._ssh.boot_id(task.host))
            done = await self._ssh.reboot(
                task.host, previous_boot_id=checkpoint.value, timeout=timedelta(minutes=5)
            )
        return StepResult(
            changed=True, boot_id=done.boot_id, previous_boot_id=done.previous_boot_id
        )

    async def check_service_health(self, task: HostTask) -> StepResult:
        """No package is half configured, and each service soon answers with the installed version."""
        if unfinished := await self._unfinished(task):
            return StepResult(ok=False, message=f"dpkg: {unfinished}")
        deadline = time.monotonic() + self._health_timeout.total_seconds()
        problem = ""
        for name in task.services:
            installed = (await self._run(task, [*_VERSION, _service(name)])).stdout
            while not (answer := await self._answers(task, name)).startswith(
                f"{name} {installed} "
            ):
                problem = f"{name} {installed} is installed, its service says {answer or 'nothing'}"
                if time.monotonic() > deadline:
                    return StepResult(ok=False, message=problem)
                await asyncio.sleep(0.5)
        return StepResult(message="healthy")

    def notify(self, notice: Notice) -> None:
        """A real one would page somebody."""
        print(f"[{notice.kind}] {notice.text}", flush=True)

    async def _run(
        self, task: HostTask, argv: Sequence[str], *, check: bool = True
    ) -> CommandResult:
        return await self._ssh.run(task.host, argv, timeout=SHORT, env=_ENV, check=check)

    async def _succeeds(self, task: HostTask, argv: Sequence[str]) -> bool:
        return (await self._run(task, argv, check=False)).exit_status == 0

    async def _logged(self, task: HostTask, argv: Sequence[str]) -> CommandResult:
        return await self._ssh.run(
            task.host,
            ["sh", "-c", _LOGGED, "sh", LOG, *argv],
            timeout=UPDATE,
            env=_ENV,
            check=False,
        )

    async def _answers(self, task: HostTask, service: str) -> str:
        return (await self._run(task, ["service", _service(service), "status"], check=False)).stdout

    async def _unfinished(self, task: HostTask) -> str:
        """What dpkg says of packages that are not installed to the end; "" if there are none."""
        return " ".join((await self._run(task, ["dpkg", "--audit"])).stdout.split())

    async def _packages(self, task: HostTask) -> str:
        """A digest of the names, versions and states of all packages."""
        command = f"{shlex.join(_PACKAGES)} | sha256sum"
        return (await self._run(task, ["sh", "-c", command])).stdout.split()[0]


def _reason(done: CommandResult) -> str:
    """One line for the report: what the package and then dpkg say of it, else the last line."""
    found = _ERROR.search(done.output)
    lines = found.group().splitlines() if found else done.output.strip().splitlines()[-1:]
    return " ".join(line.strip() for line in lines) or "no output"


def _service(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]*", name):
        raise ValueError(f"'services' must be names of services (got {name!r})")
    return name


def _update_command(text: str) -> list[str]:
    program, *arguments = shlex.split(text) or ["apt-get", "-y", "upgrade"]
    return [program, *(_APT if program == "apt-get" else ()), *arguments]
