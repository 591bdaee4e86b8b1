"""Rollouts over real Debian hosts: what dpkg and the services say afterwards is what counts."""

from __future__ import annotations

import asyncio
import fcntl
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHistory
from temporalio.testing import WorkflowEnvironment

from examples.debian_fleet.fleet import NEW, OLD, PACKAGES, DebianFleet, DebianHost
from examples.debian_fleet.workflows import PatchDebianFleet
from temporal_patching.client import Rollout
from temporal_patching.exceptions import RolloutFailed
from temporal_patching.models import HostState, PatchRequest
from temporal_patching.policy import ApprovalPolicy, FailureBudget, Outcome, RolloutPolicy

ROOT = Path(__file__).parents[2]
LONG = 240.0


class Worker:
    """A worker in a process of its own, which can be killed."""

    def __init__(self, fleet: DebianFleet, dev: WorkflowEnvironment, task_queue: str) -> None:
        address = dev.client.service_client.config.target_host
        self._argv = [sys.executable, "-m", "examples.debian_fleet.worker"]
        self._argv += [address, task_queue, str(fleet.folder)]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._argv, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 60)
        assert line == b"worker ready\n"
        self._notices = asyncio.create_task(self._process.stdout.read())

    async def kill(self) -> str:
        """SIGKILL it. Answers the notices it had sent."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        return (await self._notices).decode()


class Patching:
    """A fleet, a worker for it and a client."""

    def __init__(self, fleet: DebianFleet, dev: WorkflowEnvironment) -> None:
        self.fleet = fleet
        self.client = dev.client
        self.task_queue = f"fleet-{uuid.uuid4()}"
        self.worker = Worker(fleet, dev, self.task_queue)

    async def start(
        self,
        clusters: Sequence[str] = ("eu-1", "us-1"),
        *,
        command: str = "apt-get -y upgrade",
        **policy: object,
    ) -> Rollout[PatchDebianFleet]:
        """Start a rollout of `apt-get upgrade` and approve it."""
        rollout = await Rollout.start(
            self.client,
            PatchDebianFleet,
            PatchRequest(
                clusters=clusters,
                requester="carol@example.com",
                update_command=command,
                services=["orders"],
                policy=RolloutPolicy(**policy),  # type: ignore[arg-type]
                approvals={
                    "start": ApprovalPolicy(
                        approvers=["alice@example.com"], timeout=timedelta(minutes=10)
                    )
                },
            ),
            id=f"fleet-{uuid.uuid4()}",
            task_queue=self.task_queue,
        )
        await rollout.approve(by="alice@example.com", reason="CHG-4711")
        return rollout

    async def history(self, host: DebianHost) -> WorkflowHistory:
        """The history of a host's workflow."""
        executions = self.client.list_workflows(f"TaskQueue = '{self.task_queue}'")
        handles = [
            self.client.get_workflow_handle(each.id, run_id=each.run_id)
            async for each in executions
            if host.name in each.id
        ]
        assert len(handles) == 1
        return await handles[0].fetch_history()


@asynccontextmanager
async def _patching(fleet: DebianFleet, dev: WorkflowEnvironment) -> AsyncIterator[Patching]:
    patching = Patching(fleet, dev)
    await patching.worker.start()
    try:
        yield patching
    finally:
        await patching.worker.kill()


@pytest.fixture
async def patching(fleet: DebianFleet, dev: WorkflowEnvironment) -> AsyncIterator[Patching]:
    """A worker that patches a fresh fleet."""
    async with _patching(fleet, dev) as patching:
        yield patching


async def until(true: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait for a condition, not for a time."""

    async def wait() -> None:
        while not await asyncio.to_thread(true):
            await asyncio.sleep(0.02)

    try:
        await asyncio.wait_for(wait(), seconds)
    except asyncio.TimeoutError:
        pytest.fail(f"not within {seconds} s: {what}")


def is_configuring(host: DebianHost) -> bool:
    """Whether the slow post-install script of the new version runs, or was torn apart."""
    begun = f"status half-configured search-index:all {NEW}" in host.dpkg_log()
    return begun and host.package_status("search-index") == "half-configured"


def answers(host: DebianHost) -> list[str]:
    """What the package that asks took for an answer."""
    return host.run("cat", "/var/lib/search-index/answers").splitlines()


def attempts(history: WorkflowHistory, step: str) -> list[int]:
    """The attempts that the server counted for each time a step was scheduled."""
    scheduled = {
        event.event_id
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
        and event.activity_task_scheduled_event_attributes.activity_type.name == step
    }
    return [
        event.activity_task_started_event_attributes.attempt
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED
        and event.activity_task_started_event_attributes.scheduled_event_id in scheduled
    ]


def assert_patched_once(host: DebianHost) -> None:
    """Both packages are new and installed, dpkg unpacked each once, the service serves the new."""
    assert {package: host.version(package) for package in PACKAGES} == dict.fromkeys(PACKAGES, NEW)
    assert {host.package_status(package) for package in PACKAGES} == {"installed"}
    upgrades = [line for line in host.dpkg_log() if line.startswith("upgrade ")]
    assert sorted(upgrades) == [f"upgrade {package}:all {OLD} {NEW}" for package in PACKAGES]
    assert host.orders() == f"orders {NEW} serving"


async def test_a_rollout_upgrades_and_reboots_every_host(patching: Patching) -> None:
    """Six hosts get both packages and a reboot; a second rollout finds nothing to do."""
    hosts = patching.fleet.hosts.values()
    boots = {host.name: host.boot_id() for host in hosts}
    rollout = await patching.start(max_parallel=2, reboot="always")
    report = await asyncio.wait_for(rollout.result(), LONG)
    assert report.outcome is Outcome.PATCHED
    assert report.counts[HostState.PATCHED] == 6
    assert report.left_out_of_service == ()
    for host in hosts:
        assert_patched_once(host)
        assert host.boot_id() not in ("", boots[host.name])

    boots = {host.name: host.boot_id() for host in hosts}
    again = await patching.start(max_parallel=3, reboot="always")
    report = await asyncio.wait_for(again.result(), LONG)
    assert report.counts[HostState.UNCHANGED] == 6
    assert boots == {host.name: host.boot_id() for host in hosts}
    for host in hosts:
        assert_patched_once(host)


@pytest.mark.provokes_task_failure("its worker is killed")
async def test_a_killed_worker_resumes_in_the_middle_of_an_upgrade(patching: Patching) -> None:
    """SIGKILL in a post-install script: the next worker goes on, and nothing is done twice."""
    host = patching.fleet.hosts["eu-1-a"]
    host.slow_down(80)
    rollout = await patching.start(["eu-1"])
    await until(lambda: is_configuring(host), "the post-install script runs")
    await patching.worker.kill()
    assert is_configuring(host)
    await patching.worker.start()
    report = await asyncio.wait_for(rollout.result(), LONG)
    assert report.counts[HostState.PATCHED] == 3
    for each in patching.fleet.cluster("eu-1"):
        assert_patched_once(each)
    assert attempts(await patching.history(host), "perform_update") == [2]
    # The script was begun once and reached its end once: the death of the worker did not tear it.
    assert host.run("cat", "/var/lib/search-index/built").split() == [OLD, NEW]


@pytest.mark.provokes_task_failure("its worker is killed")
async def test_an_upgrade_that_was_torn_apart_is_finished(patching: Patching) -> None:
    """Worker and dpkg killed while a package is half configured: the next attempt configures it."""
    host = patching.fleet.hosts["eu-1-a"]
    host.slow_down(80)
    rollout = await patching.start(["eu-1"])
    await until(lambda: is_configuring(host), "the post-install script runs")
    await patching.worker.kill()
    host.kill_dpkg()
    host.slow_down(5)
    await patching.worker.start()
    report = await asyncio.wait_for(rollout.result(), LONG)
    assert report.counts[HostState.PATCHED] == 3
    assert_patched_once(host)
    assert host.run("cat", "/var/lib/search-index/built").split() == [OLD, NEW]
    assert not host.run("dpkg", "--audit")


async def test_a_host_that_fails_is_held_and_its_siblings_serve(patching: Patching) -> None:
    """A broken package on one host: it is held and named; siblings are restored or finished."""
    fleet = patching.fleet
    pilot, broken, early = fleet.cluster("eu-1")
    broken.break_orders()
    early.slow_stop(6)  # it is still being stopped when its sibling fails
    rollout = await patching.start(["eu-1"], max_parallel=2)
    with pytest.raises(RolloutFailed) as failed:
        await asyncio.wait_for(rollout.result(), LONG)
    report = failed.value.report
    assert report.outcome is Outcome.STOPPED
    assert report.left_out_of_service == (broken.name,)
    named = {host.host: host for host in report.hosts}
    assert named[broken.name].state is HostState.FAILED
    assert "apt-get ended with exit status 100" in named[broken.name].reason
    assert "orders: cannot migrate the order book" in named[broken.name].reason
    assert "error processing package orders" in named[broken.name].reason
    assert named[broken.name].left_out
    assert named[early.name].state is HostState.CANCELLED
    assert named[early.name].left_out is None

    assert_patched_once(pilot)
    assert broken.package_status("orders") == "half-configured"
    assert not broken.orders().endswith("serving")
    assert (broken.root / "var/lib/orders/maintenance").exists()
    assert {early.version(package) for package in PACKAGES} == {OLD}
    assert early.orders() == f"orders {OLD} serving"
    for host in fleet.cluster("us-1"):
        assert host.dpkg_log() == []


async def test_a_sibling_whose_update_has_begun_is_finished(patching: Patching) -> None:
    """A host in the middle of its upgrade is not torn apart because its sibling failed."""
    _, broken, late = patching.fleet.cluster("eu-1")
    broken.break_orders()
    late.slow_down(80)
    rollout = await patching.start(["eu-1"], max_parallel=2)
    with pytest.raises(RolloutFailed) as failed:
        await asyncio.wait_for(rollout.result(), LONG)
    report = failed.value.report
    assert report.left_out_of_service == (broken.name,)
    assert report.counts[HostState.PATCHED] == 2
    assert report.counts[HostState.FAILED] == 1
    assert_patched_once(late)


async def test_a_package_that_asks_gets_no_answer_and_nothing_waits(
    dev: WorkflowEnvironment,
) -> None:
    """By its script, debconf or a changed file: what is there holds, or it fails in its own words."""
    if reason := DebianFleet.why_not():
        pytest.skip(reason)
    with DebianFleet({"eu-1": 3}) as fleet:
        by_hand, asks, insists = fleet.cluster("eu-1")
        for host in fleet.hosts.values():
            host.ask(insists=host is insists)
        # That it does ask: somebody who types is heard, by the script and about the file.
        by_hand.run("apt-get", "-q", "update")
        by_hand.run("apt-get", "-y", "-q", "-o", "Dpkg::Use-Pty=0", "upgrade", input="blue\ny\n")
        assert answers(by_hand) == ["colour blue", "depth 3"]
        assert by_hand.run("cat", "/etc/search-index.conf") == "words = 2\n"

        async with _patching(fleet, dev) as patching:
            rollout = await patching.start(["eu-1"], max_parallel=2, pilot_hosts=0)
            with pytest.raises(RolloutFailed) as failed:
                await asyncio.wait_for(rollout.result(), LONG)
        report = failed.value.report
        named = {host.host: host for host in report.hosts}
        assert named.keys() == {insists.name}
        assert report.counts[HostState.PATCHED] == 1
        assert_patched_once(asks)
        assert answers(asks) == ["colour none", "depth 3"]
        assert asks.run("cat", "/etc/search-index.conf") == "words = ours\n"
        assert named[insists.name].state is HostState.FAILED
        assert "search-index: nobody says which colour" in named[insists.name].reason
        # Nothing of it was unpacked: the host is as healthy as before, and serves.
        assert insists.version("search-index") == OLD
        assert insists.orders().endswith(" serving")
        assert report.left_out_of_service == ()


TOLERANT = {
    "max_parallel": 3,
    "pilot_hosts": 0,
    "max_out_of_service": "100%",
    "failure_budget": FailureBudget(max_failures="100%", stop_on_failed_wave=False),
}


@contextmanager
def locked(host: DebianHost) -> Generator[Path, None, None]:
    """Hold the lock of apt, as another apt does."""
    path = host.root / "var/lib/dpkg/lock-frontend"
    with path.open("r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path


async def test_a_lock_of_somebody_else_is_waited_for(dev: WorkflowEnvironment) -> None:
    """Until it is given back, or for so long as the command says; it is never removed."""
    if reason := DebianFleet.why_not():
        pytest.skip(reason)
    with DebianFleet({"eu-1": 2}) as fleet:
        soon, never = fleet.cluster("eu-1")
        async with _patching(fleet, dev) as patching:
            with locked(never) as lock, ExitStack() as soon_free:
                soon_free.enter_context(locked(soon))
                inode = lock.stat().st_ino
                rollout = await patching.start(
                    ["eu-1"], command="apt-get -y upgrade -o DPkg::Lock::Timeout=5", **TOLERANT
                )
                log = soon.root / "var/log/patching.log"
                await until(
                    lambda: log.exists() and "Waiting for cache lock" in log.read_text(),
                    "apt waits for the lock",
                )
                soon_free.close()
                with pytest.raises(RolloutFailed) as failed:
                    await asyncio.wait_for(rollout.result(), LONG)
                assert lock.stat().st_ino == inode
        report = failed.value.report
        (named,) = report.hosts
        assert (named.host, named.state) == (never.name, HostState.FAILED)
        assert "/var/lib/dpkg/lock-frontend" in named.reason
        assert_patched_once(soon)
        assert {never.version(package) for package in PACKAGES} == {OLD}
        assert never.orders() == f"orders {OLD} serving"
        assert report.left_out_of_service == ()


def fill_up(host: DebianHost) -> None:
    """Let the disk have no room where `orders` is."""
    folder = host.root / "usr/lib/orders"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o755)
    with suppress(OSError):
        (folder / "core").write_bytes(bytes(64 * 1024))


def make_read_only(host: DebianHost) -> None:
    """Let dpkg's part of the disk be read-only, as a disk with errors is."""
    folder = host.root / "var/lib/dpkg"
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)


async def test_no_room_no_writing_no_memory(dev: WorkflowEnvironment) -> None:
    """On a disk that is full, or read-only, it fails and says why; what was killed is done again."""
    if reason := DebianFleet.why_not():
        pytest.skip(reason)
    with DebianFleet({"eu-1": 3}) as fleet:
        full, read_only, killed = fleet.cluster("eu-1")
        fill_up(full)
        make_read_only(read_only)
        killed.slow_down(80)
        async with _patching(fleet, dev) as patching:
            rollout = await patching.start(["eu-1"], **TOLERANT)
            await until(lambda: is_configuring(killed), "the post-install script runs")
            killed.kill_dpkg()
            killed.slow_down(5)
            with pytest.raises(RolloutFailed) as failed:
                await asyncio.wait_for(rollout.result(), LONG)
        report = failed.value.report
        named = {host.host: host for host in report.hosts}
        assert named.keys() == {full.name, read_only.name}
        assert {host.state for host in report.hosts} == {HostState.FAILED}
        assert "No space left on device" in named[full.name].reason
        assert "Read-only file system" in named[read_only.name].reason
        assert_patched_once(killed)
        assert {read_only.version(package) for package in PACKAGES} == {OLD}
        assert full.version("orders") == OLD
        for host in (full, read_only):
            assert host.orders() == f"orders {OLD} serving"
        assert report.left_out_of_service == ()


async def test_a_host_that_was_in_maintenance_stays_there(patching: Patching) -> None:
    """What was switched off before we came is patched and not switched on."""
    host = patching.fleet.hosts["us-1-b"]
    host.run("touch", "/var/lib/orders/maintenance")
    rollout = await patching.start(["us-1"])
    report = await asyncio.wait_for(rollout.result(), LONG)
    assert report.counts[HostState.PATCHED] == 3
    assert host.orders() == f"orders {NEW} maintenance"
    for other in patching.fleet.cluster("us-1"):
        if other is not host:
            assert_patched_once(other)
