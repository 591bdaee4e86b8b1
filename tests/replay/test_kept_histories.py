"""Histories that were recorded from each release, and from what comes next, replay against the code of now.

A rollout may run for weeks while its worker is upgraded. If a history here does not replay, neither do such
rollouts: guard the change with ``workflow.patched``. Only what is not released yet (the folder
``unreleased``) may be recorded anew, with ``python -m tests.replay``.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.worker import Replayer

from temporal_patching.models._orders import HostRequest
from temporal_patching.testing import SimulatedFleet
from temporal_patching.worker import PatchingPlugin
from temporal_patching.workflow import HostPatchWorkflow, SystemPatchWorkflow
from tests.replay.cases import CASES
from tests.replay.kept import HISTORIES, UNRELEASED, from_file, run_lengths, unpacked
from tests.workflows import QUICK_STEPS


def case_of(file: Path) -> str:
    """Which case a file is of."""
    return file.name.partition(".")[0]


FILES = sorted(HISTORIES.glob("*/*.json.gz"))


@workflow.defn(name="QuickHost")
class LaterQuickHost(HostPatchWorkflow):
    steps = QUICK_STEPS

    async def before_host(self, request: HostRequest) -> None:
        await workflow.sleep(timedelta(seconds=1))


@workflow.defn(name="QuickFleet")
class LaterQuickFleet(SystemPatchWorkflow):
    host_workflow = LaterQuickHost


def replayer(*workflows: type) -> Replayer:
    """A replayer as a worker with these would be."""
    plugin = PatchingPlugin(SimulatedFleet({"eu": 1}), workflows=workflows)
    return Replayer(workflows=[], plugins=[plugin])


@pytest.mark.parametrize("seed", ["1", "2"])
def test_it_replays_whatever_the_hash_seed(seed: str) -> None:
    """No command depends on the order in which a set happens to be."""
    arguments = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "test_it_replays[",
    ]
    ran = subprocess.run(
        [*arguments, __file__],
        # It has no fleet tests, whatever the whole run must have.
        env={**os.environ, "PYTHONHASHSEED": seed, "REQUIRE_FLEET": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert f"{len(FILES)} passed" in ran.stdout, ran.stdout


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{case_of(file)}")
async def test_it_replays(file: Path) -> None:
    """Every run of that rollout, its clusters and its hosts decides again what it has decided."""
    case = CASES[case_of(file)]
    with run_lengths(case.lengths):
        for name, history in from_file(file).items():
            answer = await replayer(case.workflow).replay_workflow(
                history, raise_on_replay_failure=False
            )
            assert answer.replay_failure is None, f"{name}: {answer.replay_failure}; {__doc__}"


async def test_what_does_not_fit_is_found() -> None:
    """A release in which a host waits before its first step does not replay."""
    (name,) = [each for each in from_file(FIRST) if each.startswith("patch-host/eu-1")]
    answer = await replayer(LaterQuickFleet).replay_workflow(
        from_file(FIRST)[name], raise_on_replay_failure=False
    )
    assert "ondeterminism" in str(answer.replay_failure)


FIRST = HISTORIES / UNRELEASED / "patched.json.gz"


def test_each_case_is_kept() -> None:
    """Those of now, whole and no others; a case that a release was recorded with stays."""
    assert {case_of(file) for file in FILES if file.parent.name == UNRELEASED} == set(CASES)
    assert {case_of(file) for file in FILES} <= set(CASES)


def test_they_are_small_and_of_no_machine() -> None:
    """No path, no host name, no address; some hundred kilobytes a release."""
    root = str(Path(__file__).parents[2])
    for release in {file.parent for file in FILES}:
        assert sum(file.stat().st_size for file in release.glob("*.json.gz")) < 300_000
    for file in FILES:
        text = unpacked(file)
        for place in (root, socket.gethostname(), "site-packages", "/usr/", "/home/", "127.0.0.1"):
            assert place not in text, f"{file.name} names {place!r}"
