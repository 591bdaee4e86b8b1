"""The quickstart in a folder of its own, as its reader runs it."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from examples.workshop.stage import PATIENCE, Stage
from temporal_patching.client import Rollout
from temporal_patching.exceptions import RolloutFailed
from temporal_patching.models import HostState, Outcome

from .programs import ENDED_WELL, REFUSED, program, run

QUICKSTART = Path(__file__).parents[2] / "examples/quickstart"
PACKAGES = ("openssl", "nginx", "linux-image")
HOSTS = ("eu-1/eu-web-1", "eu-1/eu-web-2", "eu-1/eu-web-3", "us-1/us-web-1", "us-1/us-web-2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the files, and nothing else."""
    for file in QUICKSTART.glob("*.py"):
        shutil.copy(file, tmp_path)
    return tmp_path


@asynccontextmanager
async def working(stage: Stage, folder: Path) -> AsyncGenerator[asyncio.subprocess.Process]:
    """The worker; unless it was killed, Ctrl-C ends it well."""
    async with program(stage, folder, "worker.py") as worker:
        assert worker.stdout is not None
        assert await asyncio.wait_for(worker.stdout.readline(), PATIENCE)
        yield worker
        if worker.returncode is None:
            worker.send_signal(signal.SIGINT)
            await asyncio.wait_for(worker.wait(), PATIENCE)
            assert worker.returncode in ENDED_WELL


def versions(folder: Path, host: str) -> set[str]:
    """The versions of a host's packages."""
    return {(folder / "fleet" / host / package).read_text() for package in PACKAGES}


async def test_rollout_and_release(stage: Stage, folder: Path) -> None:
    """Every host has every package and the own step's file; the pager rang; a used id is refused."""
    async with working(stage, folder):
        told = await run(stage, folder, "operate.py")
        told_again = await run(stage, folder, "operate.py", ends=REFUSED)
        released = await run(stage, folder, "release.py", "1.4")
    assert told[-2:] == ["PATCHED with 5 hosts patched", "left out of service: []"]
    assert told_again == []
    assert len(released) == 3
    runs = [each async for each in stage.client.list_workflows("WorkflowId = 'patch-2026-11'")]
    assert len(runs) == 1
    report = await Rollout.get(stage.client, "patch-2026-11").result()
    assert report.outcome is Outcome.PATCHED
    assert report.counts[HostState.PATCHED] == len(HOSTS)
    for host in HOSTS:
        assert versions(folder, host) == {"2\n"}
        assert (folder / "fleet" / host / "initramfs").read_text() == "2\n"
    assert "patch-2026-11" in (folder / "fleet/pager").read_text()
    for region in ("eu", "us", "ap"):
        assert (folder / f"fleet/{region}.release").read_text() == "1.4\n"


async def test_broken_host(stage: Stage, folder: Path) -> None:
    """A pilot that cannot be updated stops the rollout, which names it; the next hosts are as they were."""
    nginx = folder / "fleet/eu-1/eu-web-1/nginx"
    async with working(stage, folder):
        nginx.unlink()
        nginx.mkdir()
        told = await run(stage, folder, "operate.py", "quickstart-broken")
    assert told[-1] == "left out of service: []"
    with pytest.raises(RolloutFailed) as failed:
        await Rollout.get(stage.client, "quickstart-broken").result()
    report = failed.value.report
    assert report.outcome is Outcome.STOPPED
    assert [host.host for host in report.hosts if host.state is HostState.FAILED] == ["eu-web-1"]
    assert versions(folder, "eu-1/eu-web-2") == versions(folder, "eu-1/eu-web-3") == {"1\n"}
