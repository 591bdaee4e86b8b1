"""The command line without a server: what it prints, what it refuses, its exit codes."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from temporalio.service import RPCError, RPCStatusCode

from temporal_patching.cli import _exits, _screen, _show, _show_changes, _show_gates, _show_plan
from temporal_patching.cli._commands import commands, run
from temporal_patching.cli._connect import Connection
from temporal_patching.cli._main import BROKEN_PIPE
from temporal_patching.exceptions import InvalidRequest, NotAnswered, Refused, RolloutNotFound
from temporal_patching.models import (
    AuditRecord,
    AuditReport,
    Because,
    ClusterOutline,
    ClusterProgress,
    ClusterSummary,
    Explanation,
    GateReport,
    HostReport,
    HostState,
    Outcome,
    ParkedHost,
    PatchRequest,
    RolloutPlan,
    RolloutProgress,
    RolloutReport,
    Steered,
    VoteReport,
)
from temporal_patching.models._wire import from_json

ROOT = Path(__file__).parents[2]
NOBODY = ["--address", "127.0.0.1:1"]
AT = datetime(2026, 11, 24, 22, 5, 1, 999, tzinfo=timezone.utc)
LONG = "a-host-whose-name-is-as-long-as-a-name-may-be." * 5 + "example.com"
NASTY = "\x1b]0;owned\x07\x1b[2J disk\r\nfull \u202e" + "no space left on device " * 20

FAILED = HostReport(
    cluster="eu-1", host=LONG, state=HostState.FAILED, reason=NASTY, left_out="health: 503 " * 30
)
GATES = (
    GateReport(
        gate="start",
        outcome="approved",
        approvers=("alice@example.com",),
        votes=(VoteReport(by="alice@example.com", approve=True, reason=NASTY, at=AT),),
        opened_at=AT,
    ),
    GateReport(
        gate="wave-2/eu-1",
        waiting=True,
        approvers=tuple(f"approver-{number}@example.com" for number in range(30)),
        quorum=2,
        opened_at=AT,
        deadline=AT + timedelta(hours=4),
        digest="0123456789abcdef" * 2,
    ),
)
PROGRESS = RolloutProgress(
    rollout="patch-2026-11",
    phase="running",
    waits_for="clusters eu-1, us-1",
    hosts=400,
    counts={HostState.PATCHED: 7, HostState.FAILED: 30, HostState.NOT_STARTED: 363},
    clusters=(
        ClusterProgress(
            cluster="eu-1",
            phase="wave 2",
            hosts=200,
            counts={HostState.PATCHED: 7, HostState.FAILED: 30, HostState.NOT_STARTED: 163},
            in_flight=tuple(f"eu-1-{number}" for number in range(60)),
            waits_for="60 hosts in flight",
            failures=(FAILED,) * 30,
            left_out_of_service=30,
        ),
        ClusterProgress(cluster="us-1", phase="stopping", hosts=200, stopped="2 failed, 1 allowed"),
    ),
    gates=GATES,
    health="not checked",
    notices_failed=3,
)
REPORT = RolloutReport(
    rollout="patch-2026-11",
    outcome=Outcome.STOPPED,
    reason="cluster 'eu-1': 30 failed, 20 allowed",
    counts=PROGRESS.counts,
    clusters=(
        ClusterSummary(
            cluster="eu-1",
            outcome=Outcome.STOPPED,
            counts=PROGRESS.counts,
            waves=2,
            digest="d" * 64,
        ),
    ),
    hosts=(FAILED,),
    hosts_omitted=29,
    left_out_of_service=tuple(f"eu-1-{number}.example.com" for number in range(30)),
    gates=GATES,
)
EXPLANATION = Explanation(
    rollout="patch-2026-11",
    phase="paused",
    waits=(Because(why="it is paused: " + NASTY, evidence={"after": "host", "moving": LONG}),),
    stopped=(Because(why="STOPPED: too many", evidence={"eu-1": "3 failed of 200"}),),
    next=(Because(why="1 more failure in cluster 'us-1' would stop the rollout"),),
)
AUDIT = AuditReport(
    records=(
        AuditRecord(at=AT, by=LONG, what="pause", reason=NASTY, before="running", after="pausing"),
    ),
    omitted=12,
)
STEERED = Steered(phase="pausing", message="pause", waits_for=PROGRESS.clusters[0].in_flight)

PLAN = RolloutPlan(
    rollout="plan-2026-11",
    request=PatchRequest(clusters=["eu-1", "us-1"], requester="carol@example.com"),
    digest="d" * 64,
    clusters=(
        ClusterOutline(
            cluster="eu-1",
            hosts=20,
            pilots=1,
            waves=(1,) * 19,
            max_parallel=5,
            gone=2,
            came_later=("eu-1-99",) * 200,
            came_later_omitted=3,
        ),
        ClusterOutline(cluster="us-1", ring=2, hosts=4, waves=(4,), max_parallel=2),
    ),
    hosts={
        "eu-1": tuple(f"eu-1-{number}" for number in range(20)),
        "us-1": tuple(f"us-1-{number}" for number in range(4)),
    },
    steps=("check_preconditions", "perform_update"),
    gates=("start", "ring-2"),
    windows="open: it does not close in the next 400 days",
    least_duration=timedelta(hours=1, minutes=30),
    health="not checked",
)
START = _show_plan.Start(
    type="PatchWebFleet", task_queue="patching", file="a file.json", namespace="prod"
)

SAID: list[tuple[Any, Any, list[str]]] = [
    (
        PROGRESS,
        _show.status,
        [
            "running, 60 in flight",
            "clusters eu-1, us-1",
            "400: 7 patched, 30 failed, 363 not started",
            "wave 2",
            "37/200 done",
            "eu-1-9 and 50 more",
            "2 failed, 1 allowed",
            "open, 0 of 2 votes",
            "answer temporal-patching approve patch-2026-11 --gate wave-2/eu-1 --by YOU",
            "approver-9@example.com and 20 more",
            "2026-11-25 02:05:01Z",
            "alice@example.com, 2026-11-24 22:05:01Z",
            "FAILED",
            "and 10 more",
            "30 held",
            "not checked",
            "3 not delivered",
        ],
    ),
    (
        PROGRESS,
        lambda now: _show_changes.changes(None, now),
        [
            "running, 60 in flight",
            "wave 2 37/200",
            "PEOPLE gate 'wave-2/eu-1' waits for 2 more votes: temporal-patching approve",
            "--gate wave-2/eu-1 --by YOU",
        ],
    ),
    (
        REPORT,
        _show.report,
        ["STOPPED", "30 failed, 20 allowed", "2 waves", "and 29 more", "eu-1-29.example.com"],
    ),
    (
        EXPLANATION,
        _show.explanation,
        ["patch-2026-11 paused", "it waits", "after host", "it stopped", "3 failed of 200", "next"],
    ),
    (AUDIT, _show.audit, ["12 older", "2026-11-24 22:05:01Z", "pause", "(running → pausing)"]),
    (STEERED, _show.steered, ["pause", "phase pausing", "eu-1-9 and 50 more"]),
    (
        PLAN,
        lambda plan: _show_plan.plan(plan, START, hosts=True),
        [
            "hosts 24 in 2 clusters",
            "start, ring-2",
            "takes 1:30:00 at least",
            "us-1 ring 2 4 hosts 2 at once no pilots, wave of 4",
            "eu-1 ring 1 20 hosts 5 at once 1 pilot, waves of 1, 1, 1",
            "and 9 more",
            "gone 2 are not there any more",
            "not planned 203 are left out: eu-1-99",
            "pilots eu-1-0",
            "wave 19 eu-1-19",
            "d" * 64,
            "not checked",
            "--input-file 'a file.json'",
            "--namespace prod",
        ],
    ),
    (
        PLAN.planned,
        lambda rest: _show_plan.rest(rest, START),
        ["24 hosts in 2 clusters", "eu-1-9 and 10 more", "--workflow-id NEW-ID"],
    ),
    (GATES[1], _show_gates.voted, ["gate wave-2/eu-1: open, 0 of 2 votes"]),
]


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "TEMPORAL_PATCHING_BY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("value", "said", "parts"), SAID)
def test_said_in_80_columns(
    value: Any, said: Any, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each answer fits, whatever the lengths, has no colour, and says what an operator needs."""
    _screen.Screen(as_json=False).show(value, said)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80, printed
    assert re.search(r"[^\n -~…→—]", printed) is None, printed  # nor what would steer a terminal
    flat = " ".join(printed.split())
    for part in parts:
        assert part in flat, printed


@pytest.mark.parametrize(("value", "said", "_parts"), SAID)
def test_json_parses_back(
    value: Any, said: Any, _parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """--json is the wire type's own form, in ASCII, and in one line where there are many."""
    _screen.Screen(as_json=True).show(value, said, one_line=True)
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert printed.count("\n") == 1
    assert from_json(json.loads(printed), type(value)) == value


def test_colour_is_for_those_who_ask(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Colour where a terminal is, or is claimed; never with NO_COLOR."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    _screen.Screen(as_json=False).show(REPORT, _show.report)
    coloured = capsys.readouterr().out
    assert "\x1b[1;31mSTOPPED" in coloured
    assert "\x1b]0" not in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    _screen.Screen(as_json=False).show(REPORT, _show.report)
    assert "\x1b[1;31m" not in capsys.readouterr().out


def test_commands_that_are_shown_go_to_the_same_server() -> None:
    """What was said on the command line is said in them, too."""
    options = Connection(address=None, namespace="prod", profile="eu 1", converter=None).options
    [(_, command)] = _show_changes.needs(PROGRESS, options)
    assert command == (
        "temporal-patching approve patch-2026-11 --gate wave-2/eu-1 --namespace prod "
        "--profile 'eu 1' --by YOU"
    )


def test_hosts_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    """Who counts the hosts of the status misses none: those in flight and those parked are told, too."""
    screen = _screen.Screen(as_json=False)
    parked = ParkedHost(
        host="eu-1-9",
        state=HostState.FAILED,
        step="perform_update",
        reason="locked",
    )
    cluster = ClusterProgress(
        cluster="eu-1",
        phase="wave 1",
        hosts=4,
        counts={HostState.PATCHED: 1},
        in_flight=("eu-1-1", "eu-1-2"),
        parked=(parked,),
    )
    progress = RolloutProgress(
        rollout="patch-1", phase="running", hosts=4, counts=cluster.counts, clusters=(cluster,)
    )
    screen.say(_show.status(progress))
    said = " ".join(capsys.readouterr().out.split())
    assert "hosts 4: 1 patched, 2 in flight, 1 parked" in said
    assert "eu-1 wave 1 1/4 done 2 in flight 1 patched, 1 parked" in said


def test_only_what_has_changed_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """A cluster, a failure or a gate that is as it was is not said again."""
    screen = _screen.Screen(as_json=False)
    screen.say(_show_changes.changes(PROGRESS, PROGRESS))
    assert capsys.readouterr().out == ""
    first = RolloutProgress(
        rollout="patch-2026-11", gates=GATES[1:], clusters=PROGRESS.clusters[1:]
    )
    screen.say(_show_changes.changes(first, PROGRESS))
    printed = capsys.readouterr().out
    assert "gate start" in printed
    assert "wave-2/eu-1" not in printed
    assert "us-1  stopping" not in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status"], "Missing argument 'ROLLOUT'"),
        (["stauts", "patch-1"], "No such command 'stauts'"),
        (["status", "patch-1", "--nope"], "No such option"),
        (["approve", "patch-1"], "Missing option '--by'"),
        (["pause", "patch-1", "--by", "a", "--after", "never"], "'--after'"),
        (["set", "patch-1", "--by", "a"], "at least one limit"),
        (["set", "patch-1", "--by", "a", "--max-failures", "x"], "must be a whole number >= 0"),
        (["set", "patch-1", "--by", "a", "--max-parallel-clusters", "5%"], "not a valid integer"),
        (["skip", "patch-1", "--by", "a"], "either '--host' or '--wave'"),
        (["skip", "patch-1", "--by", "a", "--host", "h", "--wave", "1"], "not both"),
        (["abort", "patch-1", "--by", "a"], "--yes"),
        (["watch", "patch-1", "--every", "0"], "'--every'"),
        (["watch", "patch-1", "--every", "nan"], "'--every'"),
        (["watch", "patch-1", "--every", "1e300"], "'--every'"),
        (["status", ""], "ROLLOUT must not be empty"),
        (["status", "patch-1", "--converter", "json"], "package.module:name"),
        (["status", "patch-1", "--converter", "no.such:thing"], "ModuleNotFoundError"),
        (["status", "patch-1", "--converter", "json:dumps"], "DataConverter"),
        (["status", "patch-1", "--profile", "no-such"], "'no-such' not found"),
        (["status", "patch-1", "--address", "::bad::"], "'::bad::'"),
        ([], "Usage: temporal-patching"),
    ],
)
def test_usage(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """What is wrong on the command line is said, with exit code 2, before anything is sent."""
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "none.toml"))
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    assert run(arguments, program="temporal-patching") == _exits.INVALID
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in " ".join(printed.err.split())


@pytest.mark.parametrize("command", sorted(commands.commands))
def test_no_server(command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Every command says in one line that there is no server, and ends with 5."""
    own = {
        "set": ["--max-parallel", "5%"],
        **{verb: ["--host", "eu-1-1"] for verb in ("skip", "retry", "accept", "restore")},
        "abort": ["--yes"],
        "plan": ["-t", "patching"],
    }
    by = ["--by", "alice@example.com"]
    looks = command in ("status", "watch", "explain", "audit", "report", "plan", "rest")
    request = tmp_path / "request.json"
    request.write_text('{"clusters": ["eu-1"], "requester": "carol"}', encoding="utf-8")
    what = str(request) if command == "plan" else "patch-1"
    arguments = [command, what, *NOBODY, *own.get(command, []), *([] if looks else by)]
    assert run(arguments, program="temporal-patching") == _exits.NOT_ANSWERED
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err == "no server answered at 127.0.0.1:1: Connection refused\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("", "is no JSON"),
        ("[1]", "request.json: "),
        ("[" * 100_000, "nested too deeply"),
        ('{"clusters": []}', "'clusters' must have at least 1 (got []) @ $.clusters"),
        ('{"clusters": ["eu-1"], "requester": "c", "wave": 1}', "extra fields found (wave) @ $"),
    ],
)
def test_a_request_is_checked_before_it_is_sent(
    text: str | None, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What is wrong with the file is said with its path, with 2, and no server is asked."""
    file = tmp_path / "request.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    assert run(["plan", str(file), "-t", "patching", *NOBODY], program="p") == _exits.INVALID
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in " ".join(printed.err.split()), printed.err


def test_where_the_request_goes_is_checked_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A folder that is not there is no surprise after the dry run."""
    for out in (str(tmp_path), str(tmp_path / "no" / "planned.json")):
        assert run(["rest", "patch-1", "--out", out, *NOBODY], program="p") == _exits.INVALID
        assert "'--out'" in capsys.readouterr().err
    file = tmp_path / "request.json"
    file.write_text('{"clusters": ["eu-1"], "requester": "carol"}', encoding="utf-8")
    assert run(["plan", str(file), *NOBODY], program="p") == _exits.INVALID
    assert "Missing option '--task-queue'" in capsys.readouterr().err


def test_the_configuration_file_is_the_temporal_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its profiles are used, an option beats it, and a broken one is named."""
    file = tmp_path / "temporal.toml"
    file.write_text('[profile.prod]\naddress = "127.0.0.1:2"\n', encoding="utf-8")
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(file))
    monkeypatch.delenv("TEMPORAL_ADDRESS", raising=False)
    arguments = ["status", "patch-1", "--profile", "prod"]
    assert run(arguments, program="p") == _exits.NOT_ANSWERED
    assert "at 127.0.0.1:2" in capsys.readouterr().err
    assert run([*arguments, *NOBODY], program="p") == _exits.NOT_ANSWERED
    assert "at 127.0.0.1:1" in capsys.readouterr().err
    file.write_text("[profile", encoding="utf-8")
    assert run(["status", "patch-1"], program="p") == _exits.INVALID
    assert "configuration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest(["'limit' must be >= 1 (got 0)"]), _exits.INVALID),
        (Refused("it is paused already"), _exits.REFUSED),
        (RolloutNotFound("no workflow"), _exits.NOT_FOUND),
        (NotAnswered("no worker"), _exits.NOT_ANSWERED),
        (RPCError("gone", RPCStatusCode.UNAVAILABLE, b""), _exits.NOT_ANSWERED),
        (RPCError("no", RPCStatusCode.PERMISSION_DENIED, b""), _exits.REFUSED),
        (RPCError("bug", RPCStatusCode.INTERNAL, b""), _exits.UNEXPECTED),
        (KeyError("a bug"), _exits.UNEXPECTED),
    ],
)
def test_exit_code(error: Exception, code: int) -> None:
    """Each kind of error has its exit code, and a line."""
    found, line = _exits.told(error)
    assert found == code
    assert line


def test_unexpected_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody thought of ends with 70 and one line; --debug shows where it was."""

    async def broken(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("temporal_patching.cli._connect.Connection.client", broken)
    assert run(["status", "patch-1"], program="p") == _exits.UNEXPECTED
    printed = capsys.readouterr().err
    assert printed == "unexpected: KeyError: 'a bug' (--debug shows where)\n"
    assert run(["status", "patch-1", "--debug"], program="p") == _exits.UNEXPECTED
    assert "Traceback" in capsys.readouterr().err


class _Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stderr", [None, _Full()])
def test_complaints_that_nobody_can_read(
    stderr: io.StringIO | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The exit code is right all the same, and stdout stays free of them."""
    monkeypatch.setattr(sys, "stderr", stderr)
    assert run(["status", "patch-1", *NOBODY], program="p") == _exits.NOT_ANSWERED
    assert run(["stauts"], program="p") == _exits.INVALID
    assert capsys.readouterr().out == ""


def test_answers_without_a_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """That stdout is closed is no bug of ours: nobody reads."""
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(BrokenPipeError):
        _screen.Screen(as_json=False).show(REPORT, _show.report)


def test_help_and_page_name_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    """The codes in --help and in the reference are those of the code; every command is there."""
    assert run(["--help"], program="temporal-patching") == _exits.DONE
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    page = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (\d+) \| (.+) \|$", page, re.MULTILINE)
    assert {int(code): said for code, said in table} == _exits.MEANINGS
    for code, said in _exits.MEANINGS.items():
        assert f"{code:>5}  {said}" in printed
    assert set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE)) == set(commands.commands)
    assert BROKEN_PIPE == _exits.UNREAD


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_without_the_extra() -> None:
    """The command line says what to install; the demo and the rest of the library need none of it."""
    hidden = "import runpy, sys; sys.modules['click'] = None; sys.argv = ['x', {}]; "
    program = "runpy.run_module('temporal_patching', run_name='__main__')"
    there = _python(hidden.format("'status'") + program)
    assert there.returncode == 2
    assert "pip install 'temporal-patching[cli]'" in there.stderr
    assert "Traceback" not in there.stderr
    assert _python(hidden.format("'demo', '--help'") + program).returncode == 0
