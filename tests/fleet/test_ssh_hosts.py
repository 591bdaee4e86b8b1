"""contrib.ssh against real OpenSSH."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from examples.debian_fleet.fleet import DebianFleet
from temporal_patching.contrib.ssh import CommandFailed, HostKeyRefused, Ssh
from temporal_patching.exceptions import HostUnreachable, OutcomeUnknown

LONG = timedelta(seconds=30)


@pytest.fixture(scope="module")
def fleet(shared_fleet: DebianFleet) -> DebianFleet:
    """One fleet for all tests here: they use different hosts or leave no trace."""
    return shared_fleet


@pytest.fixture
def ssh(fleet: DebianFleet) -> Ssh:
    """Log in to the fleet's hosts."""
    return fleet.ssh()


async def test_each_name_reaches_its_host(fleet: DebianFleet, ssh: Ssh) -> None:
    """Commands to all hosts at once arrive each where its name says, as root."""
    names = list(fleet.hosts)
    results = await asyncio.gather(
        *[ssh.run(name, ["sh", "-c", "id -u; cat /etc/hostname"], timeout=LONG) for name in names]
    )
    assert [result.output for result in results] == [f"0\n{name}\n" for name in names]


async def test_a_host_with_the_key_of_another_gets_no_command(fleet: DebianFleet, ssh: Ssh) -> None:
    """A host that shows another key than the known one is not touched."""
    host, other = fleet.cluster("eu-1")[:2]
    known = fleet.known_hosts.read_text().splitlines()
    impostor = f"{known[0].split(' ', 1)[0]} {known[1].split(' ', 1)[1]}\n"
    ssh = Ssh(
        known_hosts=impostor.encode(), config=fleet.ssh_config, client_keys=[fleet.client_key]
    )
    for name in (host.name, other.name):
        with pytest.raises(HostKeyRefused):
            await ssh.run(name, ["touch", "/tmp/touched"], timeout=LONG)
    assert not (host.root / "tmp/touched").exists()
    assert not (other.root / "tmp/touched").exists()


async def test_arguments_are_quoted_for_the_hosts_shell(fleet: DebianFleet, ssh: Ssh) -> None:
    """What looks like shell in an argument is a file name on the host, no command."""
    host = fleet.hosts["us-1-a"]
    name = 'it\'s $(touch pwned); `touch pwned` & "x"\nend é'
    await ssh.run(host.name, ["touch", "--", f"/root/{name}"], timeout=LONG)
    made = {path.name for path in (host.root / "root").iterdir()} - {".ssh", ".profile", ".bashrc"}
    assert made == {name}


async def test_input_environment_status_and_cap(fleet: DebianFleet, ssh: Ssh) -> None:
    """Input and variables arrive; status, signal and the end of a long output come back."""
    host = "us-1-b"
    done = await ssh.run(
        host,
        ["sh", "-c", 'cat; echo "$A" >&2; exit 3'],
        timeout=LONG,
        input="in\n",
        env={"A": "b c"},
        check=False,
    )
    assert (done.exit_status, done.stdout) == (3, "in\n")
    assert sorted(done.output.splitlines()) == ["b c", "in"]
    done = await ssh.run(host, ["sh", "-c", "kill -9 $$"], timeout=LONG, check=False)
    assert done.exit_status == 137
    done = await ssh.run(host, ["seq", "1000000"], timeout=LONG)
    assert done.truncated
    assert len(done.output) == 4096
    assert done.output.endswith("\n999999\n1000000\n")
    with pytest.raises(CommandFailed, match="dpkg-query: no packages found matching nope"):
        await ssh.run(host, ["dpkg-query", "--show", "nope"], timeout=LONG)


async def test_a_reboot_is_proven_by_the_boot_id(fleet: DebianFleet, ssh: Ssh) -> None:
    """The host comes back with a new boot id and its service; a second attempt leaves it alone."""
    host = fleet.hosts["eu-1-c"]
    before = host.boot_id()
    done = await ssh.reboot(host.name, timeout=LONG, poll_interval=timedelta(milliseconds=100))
    assert (done.previous_boot_id, done.boot_id) == (before, host.boot_id())
    assert before != host.boot_id()
    assert host.orders()
    again = await ssh.reboot(host.name, timeout=LONG, previous_boot_id=before)
    assert again == done
    assert host.boot_id() == done.boot_id


async def test_a_host_that_goes_down_makes_a_running_command_unknown(
    fleet: DebianFleet, ssh: Ssh
) -> None:
    """A command whose host reboots under it has neither failed nor succeeded."""
    host = fleet.hosts["eu-1-a"]
    running = asyncio.create_task(
        ssh.run(host.name, ["sh", "-c", "touch /tmp/began; sleep 60"], timeout=LONG)
    )

    async def began() -> None:
        while not (host.root / "tmp/began").exists():
            await asyncio.sleep(0.02)

    await asyncio.wait_for(began(), 20)
    await asyncio.to_thread(host.run, "/sbin/reboot")
    with pytest.raises(OutcomeUnknown, match="while 'sh' ran"):
        await running


async def test_a_host_without_sshd_is_unreachable(fleet: DebianFleet, tmp_path: Path) -> None:
    """Where nobody listens nothing was done."""
    config = tmp_path / "ssh_config"
    config.write_text(
        f"Host gone\n  HostName 127.0.1.99\n  Port {fleet.hosts['eu-1-a'].ssh_port}\n"
    )
    ssh = Ssh(known_hosts=fleet.known_hosts, config=config, client_keys=[fleet.client_key])
    with pytest.raises(HostUnreachable, match="gone"):
        await ssh.run("gone", ["true"], timeout=LONG)
