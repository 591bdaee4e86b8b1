"""The fleet of Debian hosts that the other tests trust."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.debian_fleet.fleet import NEW, OLD, PACKAGES, DebianFleet


def wait_until(true: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for a condition, not for a time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "condition did not come true in time"
        time.sleep(0.02)


def processes_in(folder: Path) -> list[str]:
    """Command lines of the processes whose root is below a folder."""
    found: list[str] = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/root").startswith(f"{folder}/"):
                found.append(Path(f"/proc/{pid}/cmdline").read_text())
        except OSError:
            continue
    return found


def test_hosts_are_at_the_old_version_and_serve(fleet: DebianFleet) -> None:
    """Six hosts in two clusters, each with its own service, address, boot and two old packages."""
    assert [len(fleet.cluster(name)) for name in ("eu-1", "us-1")] == [3, 3]
    for host in fleet.hosts.values():
        assert {host.version(package) for package in PACKAGES} == {OLD}
        assert host.orders() == f"orders {OLD} serving"
        assert host.run("cat", "/etc/hostname").strip() == host.name
    assert len({host.boot_id() for host in fleet.hosts.values()}) == 6
    assert len({host.address for host in fleet.hosts.values()}) == 6


def test_an_upgrade_concerns_one_host_only(fleet: DebianFleet) -> None:
    """What apt does on one host is seen neither on another nor in the cached base."""
    host, other = fleet.cluster("eu-1")[:2]

    def digest() -> str:
        files = ["find", "usr", "etc", "-type", "f", "-exec", "sha256sum", "{}", "+"]
        return subprocess.run(
            files, cwd=other.root, check=True, capture_output=True, text=True
        ).stdout

    before = digest()  # /usr is the base's by hard links
    host.run("apt-get", "-y", "-q", "-o", "Dpkg::Use-Pty=0", "upgrade")
    assert {host.version(package) for package in PACKAGES} == {NEW}
    assert {other.version(package) for package in PACKAGES} == {OLD}
    assert digest() == before


def test_apt_checks_the_signature_of_the_repository(fleet: DebianFleet) -> None:
    """A package list that was changed after signing is refused: nothing here is trusted blindly."""
    host = fleet.hosts["eu-1-a"]
    host.run("apt-get", "update")
    release = host.root / "srv/repo/InRelease"
    release.write_text(release.read_text().replace("Label: fleet", "Label: other"))
    with pytest.raises(subprocess.CalledProcessError) as refused:
        host.run("apt-get", "-o", "APT::Update::Error-Mode=any", "update")
    assert "BADSIG" in refused.value.stderr


def test_a_broken_package_breaks_one_host(fleet: DebianFleet) -> None:
    """The broken build leaves its package half configured, as in real life."""
    host = fleet.hosts["us-1-b"]
    host.break_orders()
    host.run("apt-get", "update")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        host.run("apt-get", "-y", "-q", "-o", "Dpkg::Use-Pty=0", "upgrade")
    assert "cannot migrate the order book" in failed.value.stderr
    assert host.package_status("orders") == "half-configured"


def test_nothing_is_left_behind() -> None:
    """After the block no process, no folder and no mount of the fleet is there."""
    if reason := DebianFleet.why_not():
        pytest.skip(reason)
    with DebianFleet({"eu-1": 1}) as fleet:
        folder = fleet.folder
        assert processes_in(folder)
    assert processes_in(folder) == []
    assert not folder.exists()
    assert str(folder) not in Path("/proc/mounts").read_text()


def test_two_fleets_run_beside_each_other(fleet: DebianFleet) -> None:
    """A second fleet finds ports of its own and leaves the first alone."""
    with DebianFleet({"eu-1": 1}) as second:
        assert second.hosts["eu-1-a"].ssh_port != fleet.hosts["eu-1-a"].ssh_port
        assert second.hosts["eu-1-a"].orders()
    assert fleet.hosts["eu-1-a"].orders()


def test_hosts_end_with_an_owner_that_is_killed() -> None:
    """SIGKILL of the owner stops its hosts; the next fleet removes what is left on disk."""
    if reason := DebianFleet.why_not():
        pytest.skip(reason)
    code = (
        "from examples.debian_fleet.fleet import DebianFleet\n"
        "with DebianFleet({'eu-1': 2}) as fleet:\n"
        "    print(fleet.folder, flush=True)\n"
        "    input()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdin is not None
    assert owner.stdout is not None
    folder = Path(owner.stdout.readline().strip())
    assert processes_in(folder)
    owner.kill()
    owner.wait()
    owner.stdin.close()
    owner.stdout.close()
    wait_until(lambda: not processes_in(folder))
    assert folder.exists()
    with DebianFleet({"eu-1": 1}):
        assert not folder.exists()
