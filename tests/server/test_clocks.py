"""Which clocks stand still while a rollout is paused, or while people are awaited: each row of the table.

The table is in ``docs/how-to/steer.md``. Hours pass by time skipping; seconds where one rollout holds a host.
"""

from __future__ import annotations

import asyncio
import uuid
from datetime import datetime, timedelta
from typing import Any

import attrs
import pytest
from temporalio import workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.testing import WorkflowEnvironment

from temporal_patching.client import Rollout
from temporal_patching.models import HostState, Outcome
from temporal_patching.policy import (
    DEFAULT_STEPS,
    ApprovalPolicy,
    Calendar,
    DatedPeriod,
    MaintenanceWindows,
    OnWindowClose,
    RolloutPolicy,
    Soak,
    Step,
)
from temporal_patching.testing import Hang, SimulatedFleet
from temporal_patching.workflow import HostPatchWorkflow, SystemPatchWorkflow
from tests.rollouts import ALICE, BOB, ask, ending, eventually, reported, site

HOUR, DAY, MINUTE = timedelta(hours=1), timedelta(days=1), timedelta(minutes=1)
LONG = ApprovalPolicy(approvers=[ALICE, BOB], timeout=30 * DAY)


@pytest.fixture
def eu() -> str:
    """A cluster's name that no other test has."""
    return f"eu-{uuid.uuid4().hex[:6]}"


async def in_phase(rollout: Rollout[Any], phase: str) -> None:
    """Waits until the rollout is in that phase."""

    async def there() -> bool:
        return (await rollout.progress()).phase == phase

    await eventually(there)


async def asks(rollout: Rollout[Any], gate: str) -> None:
    """Waits until that gate asks."""

    async def waits() -> bool:
        gates = (await rollout.progress()).gates
        return any(each.gate == gate and each.waiting for each in gates)

    await eventually(waits)


async def soaks(rollout: Rollout[Any], cluster: str) -> None:
    """Waits until that cluster soaks."""

    async def does() -> bool:
        clusters = (await rollout.progress()).clusters
        return any(each.cluster == cluster and each.phase == "soaking" for each in clusters)

    await eventually(does)


async def ended_at(rollout: Rollout[Any]) -> datetime:
    """When it has ended."""
    closed = (await rollout.handle.describe()).close_time
    assert closed is not None
    return closed


def open_for_an_hour(
    *opens: datetime, on_close: OnWindowClose = "wait", valid_for: timedelta | None = None
) -> MaintenanceWindows:
    """Windows of an hour from each of these moments, to the minute."""
    periods = [DatedPeriod(start=each.strftime("%Y-%m-%dT%H:%M"), duration=HOUR) for each in opens]
    return MaintenanceWindows(
        calendars=[Calendar(time_zone="UTC", dated=periods)],
        on_window_close=on_close,
        approval_valid_for=valid_for,
    )


# A gate's timeout and reminders


@pytest.mark.parametrize("while_", ["paused", "closed"])
async def test_a_gates_clock_runs(env: WorkflowEnvironment, eu: str, while_: str) -> None:
    """While it is paused and while the windows are closed: it reminds, and expires."""
    fleet = SimulatedFleet({eu: 1})
    gate = ApprovalPolicy(approvers=[ALICE], timeout=HOUR, remind_every=25 * MINUTE)
    began = await env.get_current_time()
    windows = open_for_an_hour(began + 2 * DAY) if while_ == "closed" else None
    async with site(env.client, fleet) as here:
        policy = RolloutPolicy(windows=windows)
        rollout = await here.start(ask(eu, policy=policy, approvals={"start": gate}))
        await in_phase(rollout, "gate")
        if while_ == "paused":
            await rollout.pause(by=BOB)
            await in_phase(rollout, "paused")
        report = await ending(rollout)
        assert await ended_at(rollout) - began < 2 * HOUR
    assert report.outcome is Outcome.EXPIRED
    kinds = [notice.kind for notice in fleet.notices]
    assert kinds.count("approval_reminder") == 2
    assert fleet.started == ()


# A soak


@pytest.mark.parametrize("alone", [False, True])
async def test_a_soak_stands_still_while_paused(
    env: WorkflowEnvironment, eu: str, alone: bool
) -> None:
    """Of the whole rollout or of its cluster: after a day it has as long to go as before, and nobody looked."""
    fleet = SimulatedFleet({eu: 2})
    soak = Soak(duration=HOUR, check_every=20 * MINUTE)
    async with site(env.client, fleet) as here:
        rollout = await here.start(ask(eu, policy=RolloutPolicy(soak=soak)))
        await soaks(rollout, eu)
        began = await env.get_current_time()
        await rollout.pause(by=ALICE, cluster=eu if alone else None)
        await env.sleep(DAY)
        assert len(fleet.started) == 1
        await rollout.resume(by=ALICE)
        report = await ending(rollout)
        took = await ended_at(rollout) - began
    assert report.outcome is Outcome.PATCHED
    assert DAY + HOUR - 5 * MINUTE < took < DAY + HOUR + 25 * MINUTE
    looks = [each for each in fleet.log if each.step == "check_fleet_health"]
    assert sum(each.what == "began" for each in looks) in (3, 4)  # as often as without the pause


async def test_a_soak_ends_before_its_own_gate_and_runs_beside_anothers(
    env: WorkflowEnvironment, eu: str
) -> None:
    """The gate of its wave asks when it has soaked; the other cluster soaks on while that gate waits."""
    other = f"{eu}-b"
    fleet = SimulatedFleet({eu: 2, other: 3})
    policy = RolloutPolicy(waves=[1], soak=Soak(duration=HOUR), max_out_of_service=3)
    async with site(env.client, fleet) as here:
        began = await env.get_current_time()
        request = ask(eu, other, policy=policy, approvals={f"promote/{eu}": LONG})
        rollout = await here.start(request)
        await soaks(rollout, eu)
        await env.sleep(HOUR + MINUTE)
        await asks(rollout, f"promote/{eu}")
        (gate,) = (await rollout.progress()).gates
        assert gate.opened_at is not None
        assert gate.opened_at - began >= HOUR
        await env.sleep(2 * HOUR)

        async def other_is_done() -> bool:
            return {f"{other}-{n}" for n in (1, 2, 3)} <= set(fleet.started)

        await eventually(other_is_done)
        assert f"{eu}-2" not in fleet.started
        await rollout.approve(by=ALICE, gate=f"promote/{eu}")
        assert (await ending(rollout)).outcome is Outcome.PATCHED


async def test_a_soak_runs_while_the_windows_are_closed(env: WorkflowEnvironment, eu: str) -> None:
    """Two hosts in the first window; when the second opens, the third has soaked, and starts at once."""
    fleet = SimulatedFleet({eu: 3})
    now = await env.get_current_time()
    first, second = now + 2 * DAY, now + 3 * DAY
    policy = RolloutPolicy(
        pilot_hosts=0,
        waves=[1],
        windows=open_for_an_hour(first, second),
        soak=Soak(duration=50 * MINUTE),
    )
    async with site(env.client, fleet) as here:
        rollout = await here.start(ask(eu, policy=policy))
        assert (await ending(rollout)).outcome is Outcome.PATCHED
        assert (await ended_at(rollout)) - second < 20 * MINUTE


# Maintenance windows


@pytest.mark.parametrize("while_", ["paused", "gate"])
async def test_windows_close_also_while_people_are_awaited(
    env: WorkflowEnvironment, eu: str, while_: str
) -> None:
    """They are the calendar's: one that closes stops the rollout, if it was to stop."""
    fleet = SimulatedFleet({eu: 3})
    now = await env.get_current_time()
    windows = open_for_an_hour(now - MINUTE, on_close="stop")
    gates = {"promote": LONG} if while_ == "gate" else {}
    policy = RolloutPolicy(windows=windows, soak=None if gates else Soak(duration=30 * MINUTE))
    async with site(env.client, fleet) as here:
        rollout = await here.start(ask(eu, policy=policy, approvals=gates))
        if gates:
            await asks(rollout, "promote")
        else:
            await soaks(rollout, eu)
            await rollout.pause(by=ALICE)
        report = await ending(rollout)
        assert await ended_at(rollout) - now < 2 * HOUR
    assert report.outcome is Outcome.STOPPED
    assert "closed" in report.reason
    assert report.counts[HostState.NOT_STARTED] == 2


@pytest.mark.parametrize("while_", ["paused", "gate", "closed"])
async def test_an_approval_grows_old(env: WorkflowEnvironment, eu: str, while_: str) -> None:
    """While it is paused, while another gate waits, while the windows are closed: it is asked for again."""
    fleet = SimulatedFleet({eu: 2})
    now = await env.get_current_time()
    opens = [now + 2 * DAY] if while_ != "gate" else [now - MINUTE, now + 2 * DAY]
    gates = {"start": LONG, **({"promote": LONG} if while_ == "gate" else {})}
    policy = RolloutPolicy(windows=open_for_an_hour(*opens, valid_for=DAY))
    async with site(env.client, fleet) as here:
        rollout = await here.start(ask(eu, policy=policy, approvals=gates))
        await rollout.approve(by=ALICE)
        if while_ == "gate":
            await asks(rollout, "promote")
        else:
            await in_phase(rollout, "running")
        if while_ == "paused":
            await rollout.pause(by=ALICE)
        begun = len(fleet.started)
        await env.sleep(2 * DAY + 2 * MINUTE)
        await asks(rollout, "start")
        if while_ == "paused":
            await rollout.resume(by=ALICE)
        if while_ == "gate":
            await rollout.approve(by=BOB, gate="promote")
        assert len(fleet.started) == begun
        await rollout.approve(by=BOB)
        assert (await ending(rollout)).outcome is Outcome.PATCHED


# Hosts in flight


async def test_the_wait_for_a_busy_host_runs_while_paused(client: Client, eu: str) -> None:
    """It is bounded, whoever is slow: the host fails, and then the rollout is paused."""
    fleet = SimulatedFleet({eu: 1})
    fleet.hold("perform_update")
    policy = RolloutPolicy(
        pilot_hosts=0, on_busy_host="wait", busy_host_timeout=timedelta(seconds=4)
    )
    async with site(client, fleet) as here:
        holder = await here.start(ask(eu))
        await fleet.reached("perform_update")
        waiting = await here.start(ask(eu, policy=policy))

        async def waits() -> bool:
            return "is busy" in (await waiting.progress()).clusters[0].waits_for

        await eventually(waits)
        await waiting.pause(by=ALICE)
        assert (await waiting.progress()).phase == "pausing"
        report = await asyncio.wait_for(ending(waiting), 30)
        fleet.release("perform_update")
        assert (await ending(holder)).outcome is Outcome.PATCHED
    assert "busy" in reported(report, f"{eu}-1").reason


def brief(step: Step) -> Step:
    """The step with one attempt of two seconds."""
    return attrs.evolve(
        step,
        start_to_close_timeout=timedelta(seconds=2),
        retry_policy=RetryPolicy(maximum_attempts=1),
    )


@workflow.defn
class BriefHost(HostPatchWorkflow):
    steps = HostPatchWorkflow.steps.replace(
        brief(DEFAULT_STEPS[DEFAULT_STEPS.names.index("stop_services")])
    )


@workflow.defn
class BriefFleet(SystemPatchWorkflow):
    host_workflow = BriefHost


async def test_a_steps_timeout_runs_while_paused(client: Client, eu: str) -> None:
    """A pause after each step waits for the step, and not longer than the step may take."""
    fleet = SimulatedFleet({eu: 2}, faults={f"{eu}-1": Hang("stop_services")})
    async with site(client, fleet, workflows=[BriefFleet, BriefHost]) as here:
        rollout = await here.start(ask(eu, policy=RolloutPolicy(pilot_hosts=0)), BriefFleet)
        await fleet.reached("stop_services", f"{eu}-1")
        await rollout.pause(by=ALICE, after="step")
        report = await asyncio.wait_for(ending(rollout), 30)
    assert report.outcome is Outcome.STOPPED
    assert "stop_services" in reported(report, f"{eu}-1").reason
    assert fleet.out_of_service == ()
