"""contrib.ssh against sham servers: what they were sent is the truth."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

asyncssh = pytest.importorskip("asyncssh")

from temporal_patching.activity import Checkpoint  # noqa: E402
from temporal_patching.contrib.ssh import (  # noqa: E402
    CommandFailed,
    HostKeyRefused,
    Ssh,
)
from temporal_patching.exceptions import HostUnreachable, OutcomeUnknown  # noqa: E402

Process = Any
Behaviour = Callable[["Server", Process], Awaitable[None]]

SECOND = timedelta(seconds=1)
LONG = timedelta(seconds=20)


async def run_in_shell(server: Server, process: Process) -> None:
    """What a real sshd does: the command goes to a shell."""
    done = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        process.command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    stdout, stderr = await done.communicate(await process.stdin.read())
    process.stdout.write(stdout)
    process.stderr.write(stderr)
    process.exit(done.returncode)


class Server:
    """An SSH server on loopback that notes every command that it is sent."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.commands: list[str] = []
        self.inputs: list[bytes] = []
        self.asked = asyncio.Event()
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.client_key = asyncssh.generate_private_key("ssh-ed25519")
        self.port = 0

    async def handle(self, process: Process) -> None:
        self.commands.append(process.command)
        self.asked.set()
        await self.behaviour(self, process)

    def known_hosts(self, key: Any = None) -> bytes:
        public: bytes = (key or self.host_key).export_public_key()
        return f"[127.0.0.1]:{self.port} ".encode() + public

    def ssh(self, **options: Any) -> Ssh:
        return Ssh(
            **{
                "known_hosts": self.known_hosts(),
                "username": "patch",
                "client_keys": [self.client_key],
                "port": self.port,
                **options,
            }
        )


@asynccontextmanager
async def serve(behaviour: Behaviour = run_in_shell) -> AsyncIterator[Server]:
    """Serve while the block runs."""
    server = Server(behaviour)
    authorized = asyncssh.import_authorized_keys(server.client_key.export_public_key().decode())
    async with asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[server.host_key],
        authorized_client_keys=authorized,
        process_factory=server.handle,
        encoding=None,
    ) as listener:
        server.port = listener.get_port()
        yield server


# Who is at the other end


async def test_no_known_hosts_is_refused() -> None:
    """Host keys cannot be left unchecked: None and nothing at all are refused."""
    with pytest.raises(ValueError, match=r"'known_hosts' must be a file .* always checked"):
        Ssh(known_hosts=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="known_hosts"):
        Ssh()  # type: ignore[call-arg]


async def test_unknown_host_key_gets_no_command() -> None:
    """A server with another key than the known one sees no command, and it is not retried."""
    async with serve() as server:
        ssh = server.ssh(
            known_hosts=server.known_hosts(asyncssh.generate_private_key("ssh-ed25519"))
        )
        with pytest.raises(HostKeyRefused) as refused:
            await ssh.run("127.0.0.1", ["true"], timeout=LONG)
        assert refused.value.non_retryable
        assert refused.value.type == "HostKeyRefused"
        assert server.commands == []


async def test_server_that_shows_only_another_kind_of_key_gets_no_command() -> None:
    """A server that has no key of the known kind is refused like one with a wrong key."""
    async with serve() as server:
        ssh = server.ssh(
            known_hosts=server.known_hosts(asyncssh.generate_private_key("ecdsa-sha2-nistp256"))
        )
        with pytest.raises(HostKeyRefused):
            await ssh.run("127.0.0.1", ["true"], timeout=LONG)
        assert server.commands == []


@pytest.mark.parametrize("known", [b"", b"\n# nobody\n"], ids=["empty", "comment"])
async def test_empty_known_hosts_is_nobody_and_not_the_default_file(
    known: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty file means that no host is known, although ~/.ssh/known_hosts knows this one."""
    async with serve() as server:
        (tmp_path / ".ssh").mkdir()
        (tmp_path / ".ssh/known_hosts").write_bytes(server.known_hosts())
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(HostKeyRefused):
            await server.ssh(known_hosts=known).run("127.0.0.1", ["true"], timeout=LONG)
        assert server.commands == []


async def test_a_configuration_cannot_turn_the_check_off(tmp_path: Path) -> None:
    """StrictHostKeyChecking and UserKnownHostsFile of a configuration do not weaken the check."""
    async with serve() as server:
        config = tmp_path / "config"
        config.write_text(
            f"Host web-1\n  HostName 127.0.0.1\n  Port {server.port}\n"
            "  StrictHostKeyChecking no\n  UserKnownHostsFile none\n"
        )
        ssh = server.ssh(known_hosts=b"", config=config, port=None)
        with pytest.raises(HostKeyRefused):
            await ssh.run("web-1", ["true"], timeout=LONG)
        assert server.commands == []
        ssh = server.ssh(config=config, port=None)
        assert (await ssh.run("web-1", ["echo", "hello"], timeout=LONG)).output == "hello\n"


async def test_no_configuration_is_read_unless_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a user's ~/.ssh/config says does not change what a worker does."""
    async with serve() as server:
        (tmp_path / ".ssh").mkdir()
        (tmp_path / ".ssh/config").write_text("Host *\n  HostName host.invalid\n")
        monkeypatch.setenv("HOME", str(tmp_path))
        done = await server.ssh().run("127.0.0.1", ["echo", "hello"], timeout=LONG)
        assert done.output == "hello\n"


async def test_key_files_are_read_anew(tmp_path: Path) -> None:
    """A host key that was added to the file after the Ssh was made is known."""
    async with serve() as server:
        known = tmp_path / "known_hosts"
        known.write_bytes(b"")
        key = tmp_path / "key"
        server.client_key.write_private_key(key)
        ssh = server.ssh(known_hosts=known, client_keys=[key])
        with pytest.raises(HostKeyRefused):
            await ssh.run("127.0.0.1", ["true"], timeout=LONG)
        known.write_bytes(server.known_hosts())
        assert (await ssh.run("127.0.0.1", ["true"], timeout=LONG)).exit_status == 0


async def test_missing_key_file_is_no_unreachable_host(tmp_path: Path) -> None:
    """A private key that is not there is reported as such, before any connection."""
    async with serve() as server:
        ssh = server.ssh(client_keys=[tmp_path / "gone"])
        with pytest.raises(FileNotFoundError, match="gone"):
            await ssh.run("127.0.0.1", ["true"], timeout=LONG)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("known_hosts", "/nowhere/known_hosts", "'known_hosts' must be a readable file"),
        ("config", "/nowhere/config", "'config' must be a readable file"),
        ("client_keys", "/etc/key", "'client_keys' must be a list"),
        ("client_keys", [], "'client_keys' must be a list of at least one"),
        ("port", 0, r"'port' must be 1 to 65535 \(got 0\)"),
        ("connect_timeout", timedelta(0), "'connect_timeout' must be a timedelta > 0"),
        ("keepalive_interval", 15, r"'keepalive_interval' must be a timedelta > 0 \(got 15\)"),
        ("boot_id_command", "uptime", "'boot_id_command' must be a list of arguments"),
        ("reboot_command", [], "'reboot_command' must name a program"),
    ],
)
async def test_wrong_options_are_refused_at_once(field: str, value: Any, message: str) -> None:
    """An option that cannot work is refused when the Ssh is made, and named."""
    options: dict[str, Any] = {"known_hosts": b"", field: value}
    with pytest.raises((ValueError, TypeError), match=message):
        Ssh(**options)


async def test_keys_are_not_in_the_repr() -> None:
    """Printing an Ssh shows neither keys nor known hosts."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    assert "client_keys" not in repr(Ssh(known_hosts=b"", client_keys=[key]))


# What is sent


async def test_arguments_arrive_as_they_are() -> None:
    """Whatever is in an argument, the program gets it unchanged and the shell sees none of it."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    alphabet = " \t\n'\"\\$`;&|<>(){}[]*?!#~=%^-é€😀a"
    arguments = ["$(reboot)", "; reboot", "`reboot`", "", "'", "-rf", "a\nb"]
    arguments += ["".join(dice.choices(alphabet, k=dice.randint(0, 20))) for _ in range(50)]
    async with serve() as server:
        script = 'for a in "$@"; do printf "%s\\0" "$a"; done'
        done = await server.ssh().run(
            "127.0.0.1", ["sh", "-c", script, "sh", *arguments], timeout=LONG
        )
        assert done.stdout.split("\0")[:-1] == arguments


async def test_environment_and_input_arrive() -> None:
    """Variables are set without sshd's AcceptEnv; the input is read from standard input."""
    async with serve() as server:
        done = await server.ssh().run(
            "127.0.0.1",
            ["sh", "-c", 'cat; printf "%s" "$WHO"'],
            timeout=LONG,
            env={"WHO": "it's $me"},
            input="a secret\n",
        )
        assert done.output == "a secret\nit's $me"
        assert "secret" not in server.commands[0]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("apt-get upgrade", r"'argv' must be a list of arguments.*'sh', '-c'"),
        ([], r"'argv' must name a program \(got \[\]\)"),
        ([""], r"'argv\[0\]' must name a program \(got ''\)"),
        (["LD_PRELOAD=/tmp/x", "ls"], r"'argv\[0\]' must name a program .* 'env'"),
        (["ls", 1], r"'argv\[1\]' must be a str \(got 1\)"),
        (["ls", "a\0b"], r"'argv\[1\]' must not have a NUL byte"),
    ],
)
async def test_wrong_commands_are_refused(argv: Any, message: str) -> None:
    """A command that is no list of arguments is refused before any connection."""
    with pytest.raises((ValueError, TypeError), match=message):
        await Ssh(known_hosts=b"").run("127.0.0.1", argv, timeout=SECOND)


@pytest.mark.parametrize("host", ["", "-oProxyCommand=reboot", "a b", "web;reboot", "$(x)"])
async def test_wrong_host_names_are_refused(host: str) -> None:
    """A host that is no name is refused before any connection."""
    with pytest.raises(ValueError, match="'host' must be a host name or address"):
        await Ssh(known_hosts=b"").run(host, ["true"], timeout=SECOND)


@pytest.mark.parametrize("env", [{"A B": "x"}, {"A=B": "x"}, {"": "x"}, {"A": "x\0"}])
async def test_wrong_variables_are_refused(env: dict[str, str]) -> None:
    """A variable that is none is refused before any connection."""
    with pytest.raises(ValueError, match="'env"):
        await Ssh(known_hosts=b"").run("h", ["true"], timeout=SECOND, env=env)


# What comes back


async def test_exit_status_other_than_0_fails_and_shows_no_arguments() -> None:
    """A failed command raises with status and output; its arguments stay out of the message."""
    async with serve() as server:
        argv = ["sh", "-c", "echo before; echo broken >&2; exit 7", "canary"]
        with pytest.raises(
            CommandFailed, match=r"127.0.0.1: 'sh' ended with exit status 7"
        ) as failed:
            await server.ssh().run("127.0.0.1", argv, timeout=LONG)
        assert failed.value.result.exit_status == 7
        assert "broken" in str(failed.value)
        assert "canary" not in str(failed.value)
        assert not failed.value.non_retryable
        done = await server.ssh().run("127.0.0.1", argv, timeout=LONG, check=False)
        assert (done.exit_status, done.stdout) == (7, "before\n")
        assert sorted(done.output.splitlines()) == ["before", "broken"]


async def test_a_signal_is_an_exit_status_as_shells_say_it() -> None:
    """A command that a signal killed has 128 + the signal as its status."""

    async def killed(server: Server, process: Process) -> None:
        process.exit_with_signal("KILL")

    async with serve(killed) as server:
        done = await server.ssh().run("127.0.0.1", ["x"], timeout=LONG, check=False)
        assert done.exit_status == 137


async def test_a_command_that_is_killed_with_its_host_is_unknown() -> None:
    """One that goes down may kill the command first and its sshd a moment later: nobody knows what was done."""

    async def goes_down(server: Server, process: Process) -> None:
        process.exit_with_signal("KILL")
        await asyncio.sleep(0.1)
        process.channel.get_connection().abort()

    async with serve(goes_down) as server:
        with pytest.raises(OutcomeUnknown, match="while 'x' ran"):
            await server.ssh().run("127.0.0.1", ["x"], timeout=LONG)


@pytest.mark.parametrize("end", ["", "!", "!!", "!!!"])
@pytest.mark.parametrize("unit", ["x", "é", "€", "😀"])
async def test_output_is_capped_at_4_kib(unit: str, end: str) -> None:
    """Only the end of long output is kept, whole characters of it, and it says so."""

    async def talkative(server: Server, process: Process) -> None:
        for part in range(20):
            process.stderr.write(f"{part}?".encode())
            process.stdout.write((unit * 5000).encode())
            await process.stdout.drain()
        process.stdout.write(end.encode())
        process.exit(0)

    async with serve(talkative) as server:
        done = await server.ssh().run("127.0.0.1", ["x"], timeout=LONG)
        for text in (done.output, done.stdout):
            assert 4093 <= len(text.encode()) <= 4096
        assert set(done.stdout) == {unit, *end}
        assert done.truncated


async def test_bytes_that_are_no_text_do_not_grow_over_the_cap() -> None:
    """Binary output is replaced character by character and still fits into 4 KiB."""

    async def binary(server: Server, process: Process) -> None:
        process.stdout.write(b"\xff" * 4096)
        process.exit(0)

    async with serve(binary) as server:
        done = await server.ssh().run("127.0.0.1", ["x"], timeout=LONG)
        assert len(done.output.encode()) <= 4096
        assert set(done.output) == {"\ufffd"}


async def test_short_output_is_whole() -> None:
    """Output up to the cap is kept to the byte."""
    async with serve() as server:
        done = await server.ssh().run("127.0.0.1", ["printf", "%4096s", ""], timeout=LONG)
        assert done.output == " " * 4096
        assert not done.truncated
        assert timedelta(0) < done.duration < LONG


# Not reached, failed, unknown


def closed_port() -> int:
    """Find a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_refused_connection_is_unreachable() -> None:
    """Nobody listens: the host is unreachable, which may be retried."""
    with pytest.raises(HostUnreachable, match=r"127\.0\.0\.1: ") as unreachable:
        await Ssh(known_hosts=b"", port=closed_port()).run("127.0.0.1", ["true"], timeout=LONG)
    assert not unreachable.value.non_retryable


async def test_unknown_name_is_unreachable() -> None:
    """A name that does not resolve is an unreachable host."""
    with pytest.raises(HostUnreachable, match=r"host\.invalid: "):
        await Ssh(known_hosts=b"").run("host.invalid", ["true"], timeout=LONG)


async def test_silent_server_is_unreachable_within_the_connect_timeout() -> None:
    """A server that accepts and says nothing costs connect_timeout, no more."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        ssh = Ssh(
            known_hosts=b"",
            port=silent.getsockname()[1],
            connect_timeout=timedelta(milliseconds=200),
        )
        with pytest.raises(HostUnreachable, match=r"no connection within 0\.2 s"):
            await asyncio.wait_for(ssh.run("127.0.0.1", ["true"], timeout=LONG), 10)


async def test_refused_login_is_unreachable() -> None:
    """A login that is refused sends nothing and counts as unreachable."""
    async with serve() as server:
        ssh = server.ssh(client_keys=[asyncssh.generate_private_key("ssh-ed25519")])
        with pytest.raises(HostUnreachable, match="login refused"):
            await ssh.run("127.0.0.1", ["true"], timeout=LONG)
        assert server.commands == []


async def test_connection_lost_before_the_command_is_unreachable() -> None:
    """A server that hangs up after the login, before it takes a command, was not reached."""

    class HangsUp(asyncssh.SSHServer):  # type: ignore[misc,name-defined]
        def connection_made(self, conn: Any) -> None:
            self.conn = conn

        def session_requested(self) -> bool:
            self.conn.abort()
            return False

    key, client = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    authorized = asyncssh.import_authorized_keys(client.export_public_key().decode())
    async with asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[key],
        authorized_client_keys=authorized,
        server_factory=HangsUp,
    ) as listener:
        port = listener.get_port()
        known = f"[127.0.0.1]:{port} ".encode() + key.export_public_key()
        ssh = Ssh(known_hosts=known, username="patch", client_keys=[client], port=port)
        with pytest.raises(HostUnreachable):
            await ssh.run("127.0.0.1", ["true"], timeout=LONG)


async def test_connection_lost_while_the_command_runs_is_unknown() -> None:
    """A connection that drops in the middle of a command is not a failed command."""

    async def drops(server: Server, process: Process) -> None:
        process.stdout.write(b"half ")
        process.channel.get_connection().abort()

    async with serve(drops) as server:
        with pytest.raises(OutcomeUnknown, match="while 'apt-get' ran") as unknown:
            await server.ssh().run("127.0.0.1", ["apt-get", "upgrade"], timeout=LONG)
        assert server.commands == ["apt-get upgrade"]
        assert not unknown.value.non_retryable


async def test_orderly_close_without_a_status_is_unknown() -> None:
    """A server that closes the channel and never says how the command ended proves nothing."""

    async def closes(server: Server, process: Process) -> None:
        process.close()

    async with serve(closes) as server:
        with pytest.raises(OutcomeUnknown):
            await server.ssh().run("127.0.0.1", ["x"], timeout=LONG)


async def test_status_that_arrived_counts_although_the_connection_drops() -> None:
    """Once the exit status is known a connection that drops makes nothing unknown."""

    async def drops_after_status(server: Server, process: Process) -> None:
        process.channel._send_request(b"exit-status", (3).to_bytes(4, "big"))
        process.channel.get_connection().abort()

    async with serve(drops_after_status) as server:
        done = await server.ssh().run("127.0.0.1", ["x"], timeout=LONG, check=False)
        assert done.exit_status == 3


async def forever(server: Server, process: Process) -> None:
    """Run until the client is gone."""
    await process.stdin.channel.wait_closed()


async def test_time_limit_is_unknown() -> None:
    """A command that does not end in time may still be running."""
    async with serve(forever) as server:
        with pytest.raises(OutcomeUnknown, match=r"'sleep' did not end within 0\.3 s"):
            await server.ssh().run("127.0.0.1", ["sleep"], timeout=timedelta(seconds=0.3))


async def test_host_that_falls_silent_is_noticed_by_keepalive() -> None:
    """A host that dies without a word is noticed long before the time limit."""
    async with serve(forever) as server:
        # between client and server, so that the packets can stop without a goodbye
        frozen = asyncio.Event()

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65536):
                if frozen.is_set():
                    continue
                writer.write(data)
            writer.close()

        pumps: list[asyncio.Task[None]] = []

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", server.port)
            pumps.append(asyncio.create_task(pump(reader, far_writer)))
            pumps.append(asyncio.create_task(pump(far_reader, writer)))

        proxy = await asyncio.start_server(relay, "127.0.0.1", 0)
        port = proxy.sockets[0].getsockname()[1]
        known = f"[127.0.0.1]:{port} ".encode() + server.host_key.export_public_key()
        ssh = server.ssh(
            known_hosts=known, port=port, keepalive_interval=timedelta(milliseconds=100)
        )
        running = asyncio.create_task(ssh.run("127.0.0.1", ["x"], timeout=timedelta(hours=1)))
        await asyncio.wait_for(server.asked.wait(), 10)
        frozen.set()
        with pytest.raises(OutcomeUnknown):
            await asyncio.wait_for(running, 10)
        proxy.close()
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def test_cancel_closes_the_connection() -> None:
    """A cancelled run ends at once as cancelled, and the server sees the connection go."""
    gone = asyncio.Event()

    async def watch(server: Server, process: Process) -> None:
        await forever(server, process)
        gone.set()

    async with serve(watch) as server:
        running = asyncio.create_task(server.ssh().run("127.0.0.1", ["x"], timeout=LONG))
        await asyncio.wait_for(server.asked.wait(), 10)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await asyncio.wait_for(gone.wait(), 10)


async def test_nothing_is_left_open() -> None:
    """After a command, a failure and a time limit no task of this library is left."""
    before = len(asyncio.all_tasks())
    async with serve() as server:
        for argv, limit in ((["true"], LONG), (["false"], LONG), (["sleep", "2"], SECOND / 5)):
            try:
                await server.ssh().run("127.0.0.1", argv, timeout=limit)
            except ApplicationError:
                continue
    for _ in range(100):
        if len(asyncio.all_tasks()) == before:
            break
        await asyncio.sleep(0.05)
    assert len(asyncio.all_tasks()) == before


# Heartbeats


def environment(beats: list[tuple[Any, ...]], *details: Any) -> ActivityEnvironment:
    """Make an activity's surroundings that note each heartbeat."""
    env = ActivityEnvironment()
    env.info = replace(
        env.info, heartbeat_timeout=timedelta(seconds=0.3), heartbeat_details=list(details)
    )
    env.on_heartbeat = lambda *sent: beats.append(sent)
    return env


async def test_it_heartbeats_while_a_command_runs() -> None:
    """In an activity a long command beats well within the heartbeat timeout."""
    beats: list[tuple[Any, ...]] = []
    async with serve() as server:
        ssh = server.ssh()

        async def step() -> None:
            await ssh.run("127.0.0.1", ["sleep", "1"], timeout=LONG)

        await environment(beats, "left by the last attempt").run(step)
    assert len(beats) >= 6
    assert set(beats) == {("left by the last attempt",)}


async def test_heartbeats_leave_a_checkpoint_alone() -> None:
    """What a Checkpoint has saved is still the newest detail after a command ran."""
    beats: list[tuple[Any, ...]] = []
    async with serve() as server:

        async def step() -> None:
            async with Checkpoint(int, default=0) as checkpoint:
                checkpoint.save(41)
                await server.ssh().run("127.0.0.1", ["sleep", "0.5"], timeout=LONG)

        await environment(beats, {"checkpoint": 3}).run(step)
    assert beats
    assert beats[-1] == ({"checkpoint": 41},)


# Reboots


class Machine:
    """A machine whose boot id changes when it is rebooted."""

    def __init__(self, *, reboots: bool = True, refuses: bool = False) -> None:
        self.boot = 1
        self.reboots = reboots
        self.refuses = refuses
        self.reboot_commands = 0
        self.away = 0

    async def __call__(self, server: Server, process: Process) -> None:
        connection = process.channel.get_connection()
        if process.command == "reboot":
            self.reboot_commands += 1
            if self.refuses:
                process.stderr.write(b"Interactive authentication required.")
                process.exit(1)
                return
            if self.reboots:
                self.boot += 1
                self.away = 2
            connection.abort()
        elif self.away:
            self.away -= 1
            connection.abort()
        else:
            process.stdout.write(f"boot-{self.boot}\n".encode())
            process.exit(0)


def rebooting(server: Server) -> Ssh:
    """Make an Ssh that reboots a `Machine`."""
    return server.ssh(boot_id_command=["boot-id"], reboot_command=["reboot"])


QUICKLY = timedelta(milliseconds=20)


async def test_reboot_is_proven_by_a_new_boot_id() -> None:
    """The connection that drops and the time away are no failure; the new boot id is the proof."""
    machine = Machine()
    async with serve(machine) as server:
        done = await rebooting(server).reboot("127.0.0.1", timeout=LONG, poll_interval=QUICKLY)
        assert (done.previous_boot_id, done.boot_id) == ("boot-1", "boot-2")
        assert machine.reboot_commands == 1


async def test_a_host_that_was_rebooted_already_is_not_rebooted_again() -> None:
    """A second attempt sees the new boot id, waits for the host if need be, and does nothing."""
    machine = Machine()
    machine.boot, machine.away = 2, 2
    async with serve(machine) as server:
        done = await rebooting(server).reboot(
            "127.0.0.1", timeout=LONG, previous_boot_id="boot-1", poll_interval=QUICKLY
        )
        assert (done.previous_boot_id, done.boot_id) == ("boot-1", "boot-2")
        assert machine.reboot_commands == 0


async def test_a_host_that_only_drops_the_connection_was_not_rebooted() -> None:
    """Without a new boot id nothing is proven."""
    machine = Machine(reboots=False)
    async with serve(machine) as server:
        with pytest.raises(OutcomeUnknown, match="still has the boot id"):
            await rebooting(server).reboot(
                "127.0.0.1", timeout=timedelta(seconds=3), poll_interval=timedelta(seconds=1)
            )


async def test_a_look_that_the_deadline_cuts_short_does_not_hide_what_the_last_one_saw() -> None:
    """The host answered with its old boot id and then hung: the old boot id is what is known."""
    machine = Machine(reboots=False)
    looks = 0

    async def hang(server: Server, process: Process) -> None:
        nonlocal looks
        looks += process.command == "boot-id"
        if looks > 2:
            await asyncio.sleep(60)
        await machine(server, process)

    async with serve(hang) as server:
        with pytest.raises(OutcomeUnknown, match="still has the boot id"):
            await rebooting(server).reboot(
                "127.0.0.1", timeout=timedelta(seconds=3), poll_interval=QUICKLY
            )


async def test_a_refused_reboot_is_a_failed_command() -> None:
    """A reboot command that says no is reported at once with its output."""
    machine = Machine(refuses=True)
    async with serve(machine) as server:
        with pytest.raises(CommandFailed, match="Interactive authentication required"):
            await rebooting(server).reboot("127.0.0.1", timeout=LONG, poll_interval=QUICKLY)


async def test_a_host_that_does_not_come_back_is_reported() -> None:
    """A host that stays away is unreachable or unknown after the time limit, never rebooted."""
    machine = Machine()
    async with serve(machine) as server:
        ssh = rebooting(server)

        async def vanish(_: Server, process: Process) -> None:
            if process.command == "reboot":
                machine.away = 10**6
            await machine(server, process)

        server.behaviour = vanish
        machine.reboots = False
        with pytest.raises((HostUnreachable, OutcomeUnknown)):
            await ssh.reboot("127.0.0.1", timeout=timedelta(seconds=0.5), poll_interval=QUICKLY)


# Without asyncssh


def test_import_without_asyncssh_says_what_to_install() -> None:
    """Without asyncssh the import fails with the command that helps."""
    code = "import sys; sys.modules['asyncssh'] = None; import temporal_patching.contrib.ssh"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'temporal-patching[ssh]'" in done.stderr.splitlines()[-1]
