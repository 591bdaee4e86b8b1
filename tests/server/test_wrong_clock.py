"""A worker whose clock is days wrong, or was changed: what is decided goes by the server's time."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from temporalio.client import Client

from temporal_patching.client import Rollout
from temporal_patching.models import HostState, Outcome
from temporal_patching.policy import (
    ApprovalPolicy,
    Calendar,
    DatedPeriod,
    MaintenanceWindows,
    RolloutPolicy,
    Soak,
)
from temporal_patching.testing import SimulatedFleet
from tests.rollouts import ALICE, ask, eventually
from tests.workflows import QuickFleet

ROOT = Path(__file__).parents[2]
DAYS = timedelta(days=3)


@pytest.mark.parametrize("wrong", [DAYS, -DAYS], ids=["ahead", "behind"])
async def test_a_workers_clock_is_wrong(
    client: Client, unique: str, task_queue: str, wrong: timedelta
) -> None:
    """A window that is open on its clock only stays shut; one that is open does open; gates and soaks last."""
    now = datetime.now(timezone.utc)

    def windows(at: datetime) -> MaintenanceWindows:
        opens = [at - timedelta(hours=1), now + timedelta(days=20)]
        periods = [
            DatedPeriod(start=each.strftime("%Y-%m-%dT%H:%M"), duration=timedelta(hours=3))
            for each in opens
        ]
        return MaintenanceWindows(calendars=[Calendar(time_zone="UTC", dated=periods)])

    clusters = [f"{unique}-{name}" for name in ("open", "shut")]
    fleet = SimulatedFleet(dict.fromkeys(clusters, 2))
    async with fleet.served() as served:
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.server.wrong_clock", str(wrong.total_seconds())),
            *(client.service_client.config.target_host, task_queue, served),
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        try:
            assert worker.stdout is not None
            assert await asyncio.wait_for(worker.stdout.readline(), 30) == b"ready\n"

            async def start(cluster: str, at: datetime) -> Rollout[QuickFleet]:
                policy = RolloutPolicy(
                    windows=windows(at), soak=Soak(duration=timedelta(seconds=1))
                )
                gate = ApprovalPolicy(approvers=[ALICE], timeout=timedelta(hours=1))
                request = ask(cluster, policy=policy, approvals={"start": gate})
                return await Rollout.start(
                    client, QuickFleet, request, id=f"rollout-{cluster}", task_queue=task_queue
                )

            open_now, open_there = await asyncio.gather(
                start(clusters[0], now), start(clusters[1], now + wrong)
            )
            for rollout in (open_now, open_there):
                await rollout.approve(by=ALICE)
            report = await open_now.report()
            assert report.outcome is Outcome.PATCHED
            assert report.counts[HostState.PATCHED] == 2

            async def waits() -> bool:
                return "window" in (await open_there.progress()).waits_for

            await eventually(waits)
            (gate,) = (await open_there.approvals.report()).gates
            assert gate.opened_at is not None
            assert now - timedelta(minutes=1) < gate.opened_at < now + timedelta(minutes=5)
            await open_there.abort(by=ALICE)
            assert (await open_there.report()).outcome is Outcome.ABORTED
        finally:
            worker.kill()
            await worker.wait()
    assert {each.rpartition("-")[0] for each in fleet.started} == {clusters[0]}
