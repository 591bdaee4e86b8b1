"""Tests of the subclass. The machines come with the library, and so does what can go wrong with them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from temporalio.client import Client
from temporalio.worker import Worker

from temporal_patching.client import Rollout
from temporal_patching.exceptions import RolloutFailed
from temporal_patching.models import HostState, Outcome, PatchRequest
from temporal_patching.policy import ApprovalPolicy
from temporal_patching.testing import FailAt, RefuseAt, SimulatedFleet
from temporal_patching.worker import PatchingPlugin

from .conftest import NoteDuration
from .with_library import PatchWebFleet, PatchWebHost

ALICE = "alice@example.com"


def worker(client: Client, fleet: SimulatedFleet) -> Worker:
    activities = fleet.implementing(*PatchWebHost.steps.names)
    plugin = PatchingPlugin(activities, workflows=[PatchWebFleet])
    return Worker(client, task_queue="web", plugins=[plugin])


async def start(client: Client, id: str) -> Rollout[PatchWebFleet]:
    start_gate = ApprovalPolicy(approvers=[ALICE], timeout=timedelta(hours=4))
    request = PatchRequest(
        clusters=["web"], requester="carol@example.com", approvals={"start": start_gate}
    )
    return await Rollout.start(client, PatchWebFleet, request, id=id, task_queue="web")


async def test_nobody_approves(client: Client, note_duration: NoteDuration) -> None:
    """After four hours the rollout is over, and no host was touched."""
    fleet = SimulatedFleet({"web": 2})
    async with worker(client, fleet):
        rollout = await start(client, "nobody")
        with pytest.raises(RolloutFailed) as failed:
            await rollout.result()
    assert failed.value.report.outcome is Outcome.EXPIRED
    assert await note_duration(rollout.handle) >= timedelta(hours=4)
    assert fleet.started == ()


async def test_a_host_is_not_healthy(client: Client) -> None:
    """It is held out of service, and the report names it."""
    fleet = SimulatedFleet({"web": 2}, faults={"web-2": RefuseAt("check_service_health")})
    async with worker(client, fleet):
        rollout = await start(client, "not-healthy")
        await rollout.approve(by=ALICE)
        with pytest.raises(RolloutFailed) as failed:
            await rollout.result()
    assert failed.value.report.left_out_of_service == ("web-2",)
    assert fleet.out_of_service == ("web-2",)


async def test_the_own_step_fails_twice(client: Client, note_duration: NoteDuration) -> None:
    """It is tried again, some seconds later, for which nobody waits."""
    fleet = SimulatedFleet({"web": 2}, faults={"web-1": FailAt("warm_cache", times=2)})
    async with worker(client, fleet):
        rollout = await start(client, "fails-twice")
        await rollout.approve(by=ALICE)
        report = await rollout.result()
    assert report.counts[HostState.PATCHED] == 2
    assert fleet.steps_of("web-1", "began").count("warm_cache") == 3
    assert await note_duration(rollout.handle) >= timedelta(seconds=3)
