"""Run commands on hosts over SSH, from activities.

Install it with ``pip install 'temporal-patching[ssh]'``.

What it is careful about:

* A host whose key is not in ``known_hosts`` gets no command, and no switch turns that off.
* A command is a list of arguments, quoted; a string is refused. Nothing of a request becomes shell
  syntax.
* Everything has a time limit, and no output grows: its last 4 KiB are kept.
* *Not reached*, *failed* and *nobody knows* are three things. Before the command was sent it is
  ``HostUnreachable``; a command that ended badly is ``CommandFailed``; a connection that dropped,
  or a time limit that passed, while the command ran is ``OutcomeUnknown``: the command may still be
  running, or may have done everything. The next attempt has to look at the host first.
* In an activity it heartbeats while a command runs, so that a cancel arrives and a dead worker is
  noticed. The details of the last attempt are repeated. With the ``PatchingPlugin`` its heartbeats do,
  with an open ``Checkpoint`` (give it ``heartbeat_every``) those.

Example::

    ssh = Ssh(known_hosts="/etc/patching/known_hosts", username="patch")

    class WebHosts(PatchActivities):
        async def perform_update(self, task: HostTask) -> StepResult:
            done = await ssh.run(
                task.host, ["sudo", "apt-get", "-y", "upgrade"], timeout=timedelta(minutes=30)
            )
            return StepResult(changed=True, output=done.output)
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import time
from collections.abc import Awaitable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast, final

import attrs
from temporalio import activity
from temporalio.exceptions import ApplicationError

from ..activity._checkpoint import _OPENED as CHECKPOINT
from ..activity._heartbeats import BEATS
from ..exceptions import HostUnreachable, OutcomeUnknown

try:
    import asyncssh
    from asyncssh.constants import EXTENDED_DATA_STDERR
except ImportError as _missing:
    raise ImportError(
        "temporal_patching.contrib.ssh needs asyncssh: pip install 'temporal-patching[ssh]'"
    ) from _missing

__all__ = ["CommandFailed", "CommandResult", "HostKeyRefused", "Reboot", "Ssh"]

_OUTPUT_LIMIT = 4096
_GOING_DOWN = 3.0
"""Seconds within which a host that killed a command ends the connection, too, if it goes down."""
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:%-]*", re.ASCII)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@final
class HostKeyRefused(ApplicationError):
    """The host showed a key that ``known_hosts`` does not have for it. No command was sent.

    Somebody reinstalled the host, or somebody is in between. Trying again does not help: it is not
    retried.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, type="HostKeyRefused", non_retryable=True)


@final
@attrs.frozen(kw_only=True)
class CommandResult:
    """What a command did that ran to its end.

    Attributes:
        exit_status: Its exit status; 128 + the signal's number if a signal killed it, as shells say
            it.
        output: The end of what it wrote to standard output and standard error, in the order of
            arrival: at most 4,096 bytes of UTF-8. Bytes that are no UTF-8 are replaced.
        stdout: The same of standard output alone: read answers from here, so that a warning cannot
            spoil them.
        truncated: It wrote more than ``output`` holds.
        duration: How long it ran.
    """

    exit_status: int
    output: str
    stdout: str
    truncated: bool
    duration: timedelta


@final
class CommandFailed(ApplicationError):
    """The command ran to its end, and its exit status was not 0.

    The message names the host, the program (not its arguments) and the end of its output.

    Attributes:
        result: All that is known of it.
    """

    def __init__(self, message: str, result: CommandResult) -> None:
        super().__init__(message, type="CommandFailed")
        self.result = result


@final
@attrs.frozen(kw_only=True)
class Reboot:
    """A reboot that happened.

    Attributes:
        previous_boot_id: The boot id before.
        boot_id: The boot id after. It is always another one.
    """

    previous_boot_id: str
    boot_id: str


def _known_hosts(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, (str, os.PathLike, bytes)):
        raise ValueError(
            f"{attribute.name!r} must be a file or the bytes of one: host keys are always checked "
            f"(got {value!r}); `ssh-keyscan` collects keys, compare them before you trust them"
        )
    _read_known_hosts(cast("str | os.PathLike[str] | bytes", value))


def _readable(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    try:
        Path(value).read_bytes()
    except (OSError, TypeError) as error:
        raise ValueError(
            f"{attribute.name!r} must be a readable file (got {value!r}: {error})"
        ) from error


def _positive(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    _check_positive(attribute.name, value)


def _check_positive(name: str, value: object) -> None:
    if not isinstance(value, timedelta) or value <= timedelta(0):
        raise ValueError(f"{name!r} must be a timedelta > 0 (got {value!r})")


def _command(_: object, attribute: attrs.Attribute[Any], value: Sequence[object]) -> None:
    _check_argv(attribute.name, value)


def _port(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int) or not 1 <= value <= 65535:
        raise ValueError(f"{attribute.name!r} must be 1 to 65535 (got {value!r})")


def _client_keys(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or not value:
        raise ValueError(
            f"{attribute.name!r} must be a list of at least one file or asyncssh.SSHKey; "
            "leave it out for those of `config`, the SSH agent and ~/.ssh"
        )


@final
@attrs.frozen(kw_only=True)
class Ssh:
    """How to reach hosts. Make one and share it: it holds no connection.

    Each command has a connection of its own, so nothing is shared and a drop concerns one command
    only. Passwords are not supported. ``~/.ssh/config`` is not read unless it is named.

    Args:
        known_hosts: The hosts' public keys: a file in OpenSSH's format, or the bytes of one.
            Certificate authorities and hashed names work. It is read again for each connection.
            There is no default, and None is refused. It overrides whatever ``config`` says about
            it.
        username: Who logs in. Default: what ``config`` says, else the user of this process.
        client_keys: Private keys: files (a certificate beside one is used, too), or keys that were
            made with ``asyncssh.import_private_key``, if they come from a vault. Default: what
            ``config``, the agent and ``~/.ssh`` have.
        port: Default: what ``config`` says, else 22.
        config: An OpenSSH client configuration: ``HostName``, ``Port``, ``User``, ``ProxyJump`` and
            the like. The key of a jump host is checked as this file says, the host's own always by
            ``known_hosts``.
        connect_timeout: From the first packet until logged in. Default 15 seconds.
        keepalive_interval: How often to ask a silent host for a sign of life. After three times
            without one the connection counts as lost. Default 15 seconds.
        boot_id_command: Prints an id that is new after each boot. Default: the kernel's.
        reboot_command: Default ``systemctl reboot``.

    Raises:
        ValueError: An argument is not valid, or a file cannot be read.
    """

    known_hosts: str | os.PathLike[str] | bytes = attrs.field(validator=_known_hosts, repr=False)
    username: str | None = None
    client_keys: Sequence[str | os.PathLike[str] | asyncssh.SSHKey] | None = attrs.field(
        default=None, validator=attrs.validators.optional(_client_keys), repr=False
    )
    port: int | None = attrs.field(default=None, validator=attrs.validators.optional(_port))
    config: str | os.PathLike[str] | None = attrs.field(
        default=None, validator=attrs.validators.optional(_readable)
    )
    connect_timeout: timedelta = attrs.field(default=timedelta(seconds=15), validator=_positive)
    keepalive_interval: timedelta = attrs.field(default=timedelta(seconds=15), validator=_positive)
    boot_id_command: Sequence[str] = attrs.field(
        default=("cat", "/proc/sys/kernel/random/boot_id"), validator=_command
    )
    reboot_command: Sequence[str] = attrs.field(default=("systemctl", "reboot"), validator=_command)

    async def run(
        self,
        host: str,
        argv: Sequence[str],
        *,
        timeout: timedelta,
        input: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> CommandResult:
        """Run one command and wait for its end.

        Cancelling closes the connection. Neither a cancel nor the time limit kills the command: on
        the host it goes on, until it writes to the connection that is not there any more. Let a
        command that must not be torn apart write to a file. A command that leaves a process in the
        background must redirect its output, or the end of the command is not seen.

        Args:
            host: The host's name, as ``known_hosts`` or ``config`` has it.
            argv: The program and its arguments, each quoted for a POSIX shell.
            timeout: How long it may run. Connecting has its own limit.
            input: What it reads from standard input; None for nothing. The place for secrets:
                arguments and environment can be seen by every user of the host.
            env: Variables to set for it.
            check: False: an exit status other than 0 is an answer, no failure.

        Raises:
            ValueError, TypeError: An argument is not valid. Nothing was sent.
            HostUnreachable: No connection or no login. Nothing was sent.
            HostKeyRefused: The host's key is not the one that is known. Nothing was sent.
            CommandFailed: The exit status is not 0, and ``check`` is True.
            OutcomeUnknown: The connection dropped or ``timeout`` passed while the command ran.
        """
        command = _command_line(argv, env)
        if not _HOST.fullmatch(host):
            raise ValueError(f"'host' must be a host name or address (got {host!r})")
        _check_positive("timeout", timeout)
        data = input.encode() if isinstance(input, str) else input or b""

        connection = await self._connect(host)
        try:
            result = await _execute(connection, host, argv[0], command, data, timeout)
        except BaseException:
            connection.abort()
            raise
        connection.close()
        if check and result.exit_status != 0:
            raise _failed(host, argv[0], result)
        return result

    async def boot_id(self, host: str, *, timeout: timedelta = timedelta(seconds=30)) -> str:
        """The id of the host's present boot, by ``boot_id_command``.

        Raises:
            Exception: Like ``run``.
        """
        result = await self.run(host, self.boot_id_command, timeout=timeout)
        return result.stdout.strip()

    async def reboot(
        self,
        host: str,
        *,
        timeout: timedelta,
        previous_boot_id: str | None = None,
        poll_interval: timedelta = timedelta(seconds=1),
    ) -> Reboot:
        """Reboot a host and wait until it is back, proven by a new boot id.

        The connection that drops because of the reboot is no failure.

        Args:
            host: The host's name.
            timeout: For all of it: waiting for the host, the reboot, and its return.
            previous_boot_id: The boot id that has to go. A host that has another one already was
                rebooted by an attempt before this one, and is not rebooted again: read it with
                ``boot_id`` and keep it (in a ``Checkpoint``) before calling this. Default: the
                present one.
            poll_interval: How often to look. Default 1 second.

        Raises:
            HostUnreachable: The host did not come back in time.
            OutcomeUnknown: The host still has its old boot id after ``timeout``.
            CommandFailed: The host refused to reboot.
            HostKeyRefused: The host that came back has another key.
        """
        _check_positive("timeout", timeout)
        _check_positive("poll_interval", poll_interval)
        deadline = time.monotonic() + timeout.total_seconds()
        present = await self._wait_for_boot(host, None, deadline, poll_interval)
        if previous_boot_id is not None and present != previous_boot_id:
            return Reboot(previous_boot_id=previous_boot_id, boot_id=present)
        try:
            result = await self.run(
                host, self.reboot_command, timeout=_remaining(deadline), check=False
            )
        except OutcomeUnknown:
            pass  # it went down while we listened, as it was told to
        else:
            # a shell that is killed by the shutdown is no refusal
            if 0 < result.exit_status < 128:
                raise _failed(host, self.reboot_command[0], result)
        boot_id = await self._wait_for_boot(host, present, deadline, poll_interval)
        return Reboot(previous_boot_id=present, boot_id=boot_id)

    async def _wait_for_boot(
        self, host: str, old: str | None, deadline: float, poll_interval: timedelta
    ) -> str:
        problem: ApplicationError | None = None
        while True:
            try:
                boot_id = await self.boot_id(host, timeout=_remaining(deadline))
                problem = OutcomeUnknown(
                    f"{host}: it still has the boot id that it had before the reboot"
                )
            except (HostUnreachable, OutcomeUnknown, CommandFailed) as error:
                boot_id = ""
                # a look that the deadline cut short says less than the one before it
                if problem is None or time.monotonic() < deadline:
                    problem = error
            if boot_id and boot_id != old:
                return boot_id
            if time.monotonic() + poll_interval.total_seconds() > deadline:
                raise problem
            _heartbeat()
            await asyncio.sleep(poll_interval.total_seconds())

    def _options(self) -> dict[str, Any]:
        """What the files of this machine say. Read first: a missing key is no unreachable host."""
        options: dict[str, Any] = {
            "known_hosts": _read_known_hosts(self.known_hosts),
            # other ways to accept a host than its key in known_hosts
            "x509_trusted_certs": None,
            "gss_kex": False,
            "config": None,
        }
        if self.config is not None:
            Path(self.config).read_bytes()
            options["config"] = [os.fspath(self.config)]
        if self.client_keys is not None:
            options["client_keys"] = asyncssh.load_keypairs(
                [os.fspath(k) if isinstance(k, os.PathLike) else k for k in self.client_keys]
            )
        if self.username is not None:
            options["username"] = self.username
        if self.port is not None:
            options["port"] = self.port
        return options

    async def _connect(self, host: str) -> asyncssh.SSHClientConnection:
        options = self._options()
        try:
            return await asyncssh.connect(
                host,
                connect_timeout=self.connect_timeout.total_seconds(),
                keepalive_interval=self.keepalive_interval.total_seconds(),
                keepalive_count_max=3,
                **options,
            )
        except asyncssh.HostKeyNotVerifiable as error:
            raise HostKeyRefused(f"{host}: {error.reason}") from error
        except asyncssh.KeyExchangeFailed as error:
            # the server has only keys of other kinds than known_hosts knows of it
            if "host key" in error.reason.lower():
                raise HostKeyRefused(f"{host}: {error.reason}") from error
            raise HostUnreachable(f"{host}: {error.reason}") from error
        except asyncssh.PermissionDenied as error:
            raise HostUnreachable(f"{host}: login refused: {error.reason}") from error
        except asyncio.TimeoutError as error:
            seconds = self.connect_timeout.total_seconds()
            raise HostUnreachable(f"{host}: no connection within {seconds:g} s") from error
        except (OSError, asyncssh.Error) as error:
            raise HostUnreachable(f"{host}: {_reason(error)}") from error


def _read_known_hosts(source: str | os.PathLike[str] | bytes) -> asyncssh.SSHKnownHosts:
    # Never handed over as a file or bytes: asyncssh takes empty ones for "the default file".
    if not isinstance(source, bytes):
        try:
            source = Path(source).read_bytes()
        except OSError as error:
            raise ValueError(
                f"'known_hosts' must be a readable file (got {str(source)!r}: {error})"
            ) from error
    return asyncssh.import_known_hosts(source.decode())


def _check_argv(name: str, argv: Sequence[object]) -> None:
    if isinstance(argv, (str, bytes)):
        raise TypeError(
            f"{name!r} must be a list of arguments, which is quoted (got the {type(argv).__name__} "
            f"{argv!r}); for a pipeline write ['sh', '-c', '…']"
        )
    if not argv:
        raise ValueError(f"{name!r} must name a program (got {argv!r})")
    for index, argument in enumerate(argv):
        if not isinstance(argument, str):
            raise TypeError(f"'{name}[{index}]' must be a str (got {argument!r})")
        if "\0" in argument:
            raise ValueError(f"'{name}[{index}]' must not have a NUL byte")
    # a shell takes NAME=value for an assignment, quoted as it may be by shlex
    if not argv[0] or "=" in str(argv[0]):
        raise ValueError(
            f"'{name}[0]' must name a program (got {argv[0]!r}); variables go into 'env'"
        )


def _command_line(argv: Sequence[str], env: Mapping[str, str] | None) -> str:
    _check_argv("argv", argv)
    for name, value in (env or {}).items():
        if not _ENV_NAME.fullmatch(name):
            raise ValueError(f"'env' must have names of letters, digits and _ (got {name!r})")
        if "\0" in value:
            raise ValueError(f"'env[{name!r}]' must not have a NUL byte")
    # sshd drops variables that its AcceptEnv does not name, so they travel in the command
    variables = ["env", *(f"{name}={value}" for name, value in env.items())] if env else []
    return shlex.join([*variables, *argv])


class _Tail:
    """The last bytes of a stream."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self.total = 0

    def write(self, data: bytes) -> None:
        self.total += len(data)
        self._bytes += data[-_OUTPUT_LIMIT:]
        del self._bytes[:-_OUTPUT_LIMIT]

    def text(self) -> str:
        kept = bytes(self._bytes)
        if self.total > len(kept):
            kept = kept.lstrip(bytes(range(0x80, 0xC0)))  # the rest of a cut character
        # a replaced byte takes three, so it may have to be cut again
        return kept.decode(errors="replace").encode()[-_OUTPUT_LIMIT:].decode(errors="ignore")


class _Session(asyncssh.SSHClientSession[bytes]):
    """Collects what a command writes, until its channel is closed."""

    def __init__(self) -> None:
        self.opened = False
        self.output = _Tail()
        self.stdout = _Tail()
        self.exit_status: int | None = None
        self.killed = False
        self.lost: Exception | None = None
        self.closed = asyncio.Event()

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self.opened = True

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self.output.write(data)
        if datatype != EXTENDED_DATA_STDERR:
            self.stdout.write(data)

    def exit_status_received(self, status: int) -> None:
        self.exit_status = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self.exit_status, self.killed = _status_of(signal), True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = exc
        self.closed.set()


def _status_of(name: str) -> int:
    try:
        return 128 + signal.Signals[f"SIG{name}"]
    except KeyError:
        return 255


async def _execute(
    connection: asyncssh.SSHClientConnection,
    host: str,
    program: str,
    command: str,
    data: bytes,
    timeout: timedelta,
) -> CommandResult:
    session = _Session()

    async def talk() -> None:
        opening = cast(
            "Awaitable[tuple[asyncssh.SSHClientChannel[bytes], object]]",
            connection.create_session(  # pyright: ignore[reportUnknownMemberType]
                lambda: session, command, encoding=None
            ),
        )
        channel, _ = await opening
        channel.write(data)  # pyright: ignore[reportUnknownMemberType]
        channel.write_eof()
        await session.closed.wait()

    began = time.monotonic()
    talking = asyncio.ensure_future(talk())
    try:
        # Not asyncio.wait_for: before 3.12 it loses a cancel that meets the end of its task.
        while not talking.done():
            left = began + timeout.total_seconds() - time.monotonic()
            if left <= 0:
                raise OutcomeUnknown(
                    f"{host}: {program!r} did not end within {timeout.total_seconds():g} s; "
                    "it may still be running there"
                )
            await asyncio.wait({talking}, timeout=min(left, _heartbeat()))
    finally:
        talking.cancel()
        await asyncio.wait({talking})

    problem = talking.exception() or session.lost
    goes_down = session.killed and await _goes_down(connection)
    if session.exit_status is not None and not goes_down:
        return CommandResult(
            exit_status=session.exit_status,
            output=session.output.text(),
            stdout=session.stdout.text(),
            truncated=session.output.total > _OUTPUT_LIMIT,
            duration=timedelta(seconds=time.monotonic() - began),
        )
    reason = "the connection was closed" if problem is None else _reason(problem)
    if not session.opened:
        raise HostUnreachable(f"{host}: {reason}") from problem
    raise OutcomeUnknown(f"{host}: {reason} while {program!r} ran") from problem


async def _goes_down(connection: asyncssh.SSHClientConnection) -> bool:
    """Whether the connection ends, too: a host that goes down may kill a command before its sshd."""
    closing = asyncio.ensure_future(connection.wait_closed())
    try:
        return bool((await asyncio.wait({closing}, timeout=_GOING_DOWN))[0])
    finally:
        closing.cancel()
        await asyncio.wait({closing})


def _failed(host: str, program: str, result: CommandResult) -> CommandFailed:
    end = result.output.strip()[-500:]
    return CommandFailed(
        f"{host}: {program!r} ended with exit status {result.exit_status}"
        + (f": {end}" if end else ""),
        result,
    )


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _remaining(deadline: float) -> timedelta:
    return timedelta(seconds=max(deadline - time.monotonic(), 0.001))


def _heartbeat() -> float:
    """Beat if we are in an activity. Answers after how many seconds to look again."""
    if not activity.in_activity():
        return 10.0
    info = activity.info()
    # A beat replaces the details, and those of a Checkpoint or of the plugin are newer than ours.
    if not hasattr(info, CHECKPOINT) and not hasattr(info, BEATS):
        activity.heartbeat(*info.heartbeat_details)
    limit = info.heartbeat_timeout
    return 10.0 if not limit else min(limit.total_seconds() / 3, 10.0)
