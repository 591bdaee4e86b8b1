"""Clusters that continue as new in the middle: what holds for one run holds over many."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import attrs
import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError
from temporalio.testing import WorkflowEnvironment

from temporal_patching.client import Rollout
from temporal_patching.exceptions import Refused
from temporal_patching.models import FleetHealth, HostState, Outcome, RolloutReport
from temporal_patching.models._carried import Carried
from temporal_patching.policy import (
    ApprovalPolicy,
    Calendar,
    DatedPeriod,
    FailureBudget,
    MaintenanceWindows,
    RolloutPolicy,
    Soak,
)
from temporal_patching.testing import RefuseAt, SimulatedFleet, Unreachable
from temporal_patching.workflow import _cluster_run, _length, _listing
from tests import noted
from tests.rollouts import ALICE, BOB, Site, ask, ending, eventually, history_of, runs_of, site
from tests.workflows import NotedClusterFleet, QuickFleet

TAKING = (
    "set_maintenance_mode",
    "perform_update",
    "check_service_health",
    "clear_maintenance_mode",
)
STEPS = ("stop_services", "perform_update", "start_services", "check_service_health")
TOLERANT = FailureBudget(max_failures=9, stop_on_failed_wave=False)
PROMOTE = ApprovalPolicy(approvers=[ALICE, BOB], timeout=timedelta(hours=4))
MANY = 6
"""Runs, at least: the test is about what happens between them."""
HARDLY_CACHED = pytest.mark.provokes_task_failure("evicting, the SDK loses a task now and then")


@pytest.fixture
def eu() -> str:
    """A cluster's name that no other test has."""
    return f"eu-{uuid.uuid4().hex[:6]}"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run takes over after every few hosts."""
    monkeypatch.setattr(_length, "LONG_ENOUGH", 30)
    monkeypatch.setattr(_length, "TOO_SHORT", 0)


def compared(report: RolloutReport) -> RolloutReport:
    """The report without what is another one each time."""
    return attrs.evolve(report, rollout="")


async def drains(rollout: Rollout[Any], cluster: str) -> None:
    """Waits until the cluster drains."""

    async def does() -> bool:
        return "continue" in (await rollout.cluster_progress(cluster)).waits_for

    await eventually(does)


async def in_phase(rollout: Rollout[Any], phase: str) -> None:
    """Waits until the rollout is in that phase."""

    async def there() -> bool:
        return (await rollout.progress()).phase == phase

    await eventually(there)


# The same as in one run


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("hosts", "cached"), [(64, 1_000), pytest.param(24, 0, marks=HARDLY_CACHED)]
)
async def test_the_report_is_the_same(
    client: Client, eu: str, monkeypatch: pytest.MonkeyPatch, hosts: int, cached: int
) -> None:
    """With failures, held and unreachable hosts: over many runs, with no worker's cache, as over one."""

    def fleet() -> SimulatedFleet:
        return SimulatedFleet(
            {eu: hosts},
            faults={
                f"{eu}-3": RefuseAt("perform_update"),
                f"{eu}-11": RefuseAt("check_service_health"),
                f"{eu}-17": Unreachable("perform_update", times=3),
                f"{eu}-{hosts}": RefuseAt("set_maintenance_mode"),
            },
            labels={f"{eu}-{n}": {"rack": f"r{n % 7}"} for n in range(1, hosts + 1)},
        )

    policy = RolloutPolicy(
        max_parallel=4,
        max_out_of_service=20,
        waves=["25%"],
        failure_budget=TOLERANT,
        notices=["host_failed", "host_patched"],
    )
    reports, runs = list[RolloutReport](), list[int]()
    for long_enough in (9_500, 30):
        monkeypatch.setattr(_length, "LONG_ENOUGH", long_enough)
        there = fleet()
        options: dict[str, Any] = {"max_cached_workflows": cached} if cached == 0 else {}
        async with site(client, there.implementing(*TAKING, notify=True), **options) as here:
            rollout = await here.start(ask(eu, policy=policy))
            reports.append(await asyncio.wait_for(ending(rollout), 120))
            listed = await rollout.planned()
            assert len(listed.hosts[eu]) == hosts
        runs.append(await here.runs(eu))
        done = Counter((each.host, each.step) for each in there.log if each.what == "done")
        assert set(done.values()) == {1}, "each step once"
        assert len(there.started) == hosts
        assert len(there.notices) == hosts
    one, many = reports
    assert runs[0] == 1
    assert runs[1] >= hosts // 6
    assert compared(many) == compared(one)
    assert one.outcome is Outcome.PARTIAL
    assert one.counts[HostState.PATCHED] == hosts - 4
    assert one.counts[HostState.UNREACHABLE] == 1
    assert many.left_out_of_service == one.left_out_of_service != ()


async def test_a_budget_counts_over_all_runs(client: Client, eu: str, short: None) -> None:
    """Two failures are tolerated; the third lies runs later, and stops it."""
    bad = (2, 9, 21, 22)
    fleet = SimulatedFleet({eu: 30}, faults={f"{eu}-{n}": RefuseAt("perform_update") for n in bad})
    budget = FailureBudget(max_failures=2, stop_on_failed_wave=False)
    policy = RolloutPolicy(pilot_hosts=0, max_out_of_service=9, failure_budget=budget)
    async with site(client, fleet.implementing(*STEPS)) as here:
        report = await here.report(ask(eu, policy=policy))
    assert await here.runs(eu) >= MANY
    assert report.outcome is Outcome.STOPPED
    assert "3 hosts failed, 2 allowed" in report.reason
    assert report.counts[HostState.PATCHED] == 18
    assert report.counts[HostState.NOT_STARTED] == 9
    assert len(fleet.started) == 21


async def test_hooks_are_called_once(client: Client, eu: str, short: None) -> None:
    """Before the first run and after the last; an own run begins in each."""
    fleet = SimulatedFleet({eu: 12})
    async with site(
        client, fleet.implementing(*STEPS), [NotedClusterFleet], sandboxed=False
    ) as here:
        policy = RolloutPolicy(pilot_hosts=0, max_parallel=2)
        report = await here.report(ask(eu, policy=policy), NotedClusterFleet)
        runs = await here.runs(eu)
    assert report.outcome is Outcome.PATCHED
    assert runs >= 4
    calls = noted.calls(f"{here.ids[0]}/{eu}")
    assert calls == [
        "run", "before_cluster", "order_hosts", *["run"] * (runs - 1), "after_cluster"
    ]  # fmt: skip


# Verbs that arrive while it drains


@pytest.fixture
def fleet(eu: str) -> SimulatedFleet:
    """Twelve hosts, the second of which is held at its update."""
    fleet = SimulatedFleet({eu: 12})
    fleet.hold("perform_update", f"{eu}-2")
    return fleet


async def draining(here: Site, fleet: SimulatedFleet, cluster: str) -> Rollout[Any]:
    """A rollout that drains: one host is in flight."""
    policy = RolloutPolicy(pilot_hosts=0, max_parallel=2)
    rollout = await here.start(ask(cluster, policy=policy))
    await fleet.reached("perform_update", f"{cluster}-2")
    await drains(rollout, cluster)
    return rollout


async def test_pause_and_resume_while_it_drains(
    client: Client, eu: str, fleet: SimulatedFleet, short: None
) -> None:
    """Paused, it continues as new all the same, is paused there, and goes on when it is resumed."""
    async with site(client, fleet) as here:
        rollout = await draining(here, fleet, eu)
        await rollout.pause(by=ALICE)
        assert (await rollout.progress()).phase == "pausing"
        fleet.release("perform_update", f"{eu}-2")
        await in_phase(rollout, "paused")

        async def continued() -> bool:
            return len(await runs_of(client, f"{rollout.id}/{eu}")) > 1

        await eventually(continued)
        assert (await rollout.cluster_progress(eu)).phase == "paused"
        assert len(fleet.started) == 2
        await rollout.resume(by=ALICE)
        report = await ending(rollout)
    assert report.counts[HostState.PATCHED] == 12
    assert await here.runs(eu) >= 4


async def test_a_host_that_stands_still_is_waited_for(client: Client, eu: str, short: None) -> None:
    """To continue as new would cancel it: paused after the step, that waits for the resume."""
    fleet = SimulatedFleet({eu: 6})
    fleet.hold("stop_services", f"{eu}-2")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=RolloutPolicy(pilot_hosts=0, max_parallel=2)))
        await fleet.reached("stop_services", f"{eu}-2")
        await drains(rollout, eu)
        await rollout.pause(by=ALICE, after="step")
        fleet.release("stop_services", f"{eu}-2")
        await in_phase(rollout, "paused")
        assert (await rollout.host_progress(f"{eu}-2")).halted
        assert "stand still" in (await rollout.cluster_progress(eu)).waits_for
        assert len(await runs_of(client, f"{rollout.id}/{eu}")) == 1
        await rollout.resume(by=ALICE)
        report = await ending(rollout)
    assert report.counts[HostState.PATCHED] == 6


async def test_limits_and_skips_while_it_drains(
    client: Client, eu: str, fleet: SimulatedFleet, short: None
) -> None:
    """What was asked for then holds in the runs after it."""
    async with site(client, fleet) as here:
        rollout = await draining(here, fleet, eu)
        await rollout.set_limits(by=ALICE, max_parallel=5)
        assert "is skipped" in (await rollout.skip(by=ALICE, host=f"{eu}-9")).message
        assert "too late" in (await rollout.skip(by=ALICE, host=f"{eu}-1")).message
        fleet.hold("perform_update")
        fleet.release("perform_update", f"{eu}-2")
        await fleet.reached("perform_update", times=7)
        assert fleet.most_in_flight() == 5
        fleet.release("perform_update")
        report = await ending(rollout)
    assert report.counts[HostState.SKIPPED] == 1
    assert report.counts[HostState.PATCHED] == 11
    assert f"{eu}-9" not in fleet.started


@pytest.mark.parametrize("moment", ["drains", "continued"])
async def test_abort(
    client: Client, eu: str, fleet: SimulatedFleet, short: None, moment: str
) -> None:
    """A cancel reaches the run that is there: hosts in flight end, nothing new starts."""
    async with site(client, fleet) as here:
        rollout = await draining(here, fleet, eu)
        fleet.hold("perform_update")
        if moment == "continued":
            fleet.release("perform_update", f"{eu}-2")
            await fleet.reached("perform_update", times=3)
        await rollout.abort(by=ALICE, reason="enough")
        await in_phase(rollout, "stopping")
        if moment == "drains":
            fleet.release("perform_update", f"{eu}-2")
        fleet.release("perform_update")
        report = await asyncio.wait_for(ending(rollout), 30)
    assert report.outcome is Outcome.ABORTED
    assert report.counts[HostState.NOT_STARTED] >= 8
    assert sum(report.counts.values()) == 12
    assert fleet.out_of_service == ()


async def test_a_rollout_that_is_terminated_cancels_the_run_that_is_there(
    client: Client, eu: str, fleet: SimulatedFleet, short: None
) -> None:
    """The server does it, and it finds the newest run: hosts in flight end, nothing new starts."""
    async with site(client, fleet) as here:
        rollout = await draining(here, fleet, eu)
        fleet.hold("perform_update")
        fleet.release("perform_update", f"{eu}-2")
        await fleet.reached("perform_update", times=3)
        await rollout.handle.terminate()

        async def stops() -> bool:
            return (await rollout.cluster_progress(eu)).phase == "stopping"

        await eventually(stops)
        fleet.release("perform_update")
        with pytest.raises(WorkflowFailureError) as ended:
            await asyncio.wait_for(rollout.cluster_handle(eu).result(), 30)
    assert "ABORTED" in str(ended.value.cause)
    assert fleet.out_of_service == ()


# Verbs that arrive in the moment


@pytest.mark.parametrize("workflow", [QuickFleet, NotedClusterFleet])
async def test_no_verb_is_lost_whenever_it_comes(
    client: Client, eu: str, short: None, workflow: type[Any]
) -> None:
    """Somebody steers all the time, while one run follows the other: each answer is true in the end."""
    fleet = SimulatedFleet({eu: 40})
    said = dict[str, str]()
    async with site(client, fleet.implementing(*STEPS), [workflow], sandboxed=False) as here:
        policy = RolloutPolicy(pilot_hosts=0, max_parallel=2)
        rollout = await here.start(ask(eu, policy=policy), workflow)
        await fleet.reached("perform_update", times=2)
        for n in range(40, 10, -3):
            host = f"{eu}-{n}"
            try:
                said[host] = (await rollout.skip(by=ALICE, host=host)).message
                await rollout.pause(by=ALICE)
                await rollout.resume(by=ALICE)
                await rollout.set_limits(by=ALICE, max_parallel=1 + n % 3)
            except Refused:  # it has ended, or the last resume is not through
                break
        report = await asyncio.wait_for(ending(rollout), 60)
    assert await here.runs(eu) >= MANY
    skipped = {host for host, message in said.items() if "is skipped" in message}
    assert len(skipped) >= 5
    assert report.counts[HostState.SKIPPED] == len(skipped)
    assert report.counts[HostState.PATCHED] == 40 - len(skipped)
    assert not skipped & set(fleet.started)


@pytest.mark.provokes_task_failure("a verb comes in the middle of a task, which is done again")
@pytest.mark.parametrize("verb", ["pause", "abort"])
async def test_a_verb_in_the_very_task_that_continues(
    client: Client, eu: str, short: None, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """The server has it before the task is answered: the task is done again, with it."""
    loop, carry = asyncio.get_running_loop(), _cluster_run.ClusterRun._carried
    steered = list[str]()
    wanted = {
        "pause": EventType.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_SIGNALED,
        "abort": EventType.EVENT_TYPE_EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED,
    }[verb]

    async def arrived() -> int:
        history = await history_of(client, rollout.id)
        return sum(event.event_type == wanted for event in history.events)

    async def steer() -> None:
        before = await arrived()
        await getattr(rollout, verb)(by=ALICE)

        async def more() -> bool:
            return await arrived() > before

        await eventually(more)

    def in_between(run: _cluster_run.ClusterRun) -> Carried:
        if not steered and len(fleet.started) >= 4:
            steered.append(verb)
            waits: Coroutine[Any, Any, None] = steer()
            asyncio.run_coroutine_threadsafe(waits, loop).result()  # this is the workflow's thread
        return carry(run)

    monkeypatch.setattr(_cluster_run.ClusterRun, "_carried", in_between)
    fleet = SimulatedFleet({eu: 10})
    async with site(client, fleet.implementing(*STEPS)) as here:
        policy = RolloutPolicy(pilot_hosts=0, max_parallel=2)
        rollout = await here.start(ask(eu, policy=policy))
        if verb == "pause":
            await in_phase(rollout, "paused")
            assert 4 <= len(fleet.started) <= 6
            await rollout.resume(by=ALICE)
        report = await asyncio.wait_for(ending(rollout), 30)
    assert steered
    if verb == "pause":
        assert report.outcome is Outcome.PATCHED
    else:
        assert report.outcome is Outcome.ABORTED
        assert report.counts[HostState.NOT_STARTED] >= 4
    tasks = [
        event.workflow_task_failed_event_attributes.cause
        for history in await runs_of(client, f"{here.ids[0]}/{eu}")
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED
    ]
    assert tasks, "the task was really done again"


# What waits, goes on waiting


async def test_a_soak_goes_on_where_it_was(env: WorkflowEnvironment, eu: str, short: None) -> None:
    """Each soak takes its time and asks its times, however many runs it goes through."""
    fleet = SimulatedFleet({eu: 3}, health=[FleetHealth(verdict="healthy")])
    soak = Soak(duration=timedelta(minutes=100), check_every=timedelta(minutes=5))
    policy = RolloutPolicy(pilot_hosts=0, waves=[1], soak=soak)
    began = await env.get_current_time()
    async with site(env.client, fleet) as here:
        rollout = await here.start(ask(eu, policy=policy))
        report = await ending(rollout)
        closed = (await rollout.handle.describe()).close_time
        runs = await here.runs(eu)
    assert report.outcome is Outcome.PATCHED
    assert runs >= MANY
    assert closed is not None
    assert timedelta(minutes=200) <= closed - began < timedelta(minutes=215)
    asked = [each for each in fleet.log if (each.step, each.what) == ("check_fleet_health", "done")]
    assert len(asked) == 40


async def test_a_gate_goes_on_waiting(client: Client, eu: str, short: None) -> None:
    """Somebody steers while it asks, so it continues as new there; the approval still counts."""
    fleet = SimulatedFleet({eu: 4})
    request = ask(eu, policy=RolloutPolicy(max_parallel=2), approvals={"promote": PROMOTE})
    async with site(client, fleet.implementing(*STEPS)) as here:
        rollout = await here.start(request)

        async def asks() -> bool:
            gates = (await rollout.progress()).gates
            return any(gate.waiting for gate in gates)

        await eventually(asks)
        before = (await rollout.cluster_handle(eu).describe()).run_id
        for n in range(1, 7):
            await rollout.set_limits(by=ALICE, max_parallel=n)

        async def continued() -> bool:
            return (await rollout.cluster_handle(eu).describe()).run_id != before

        await eventually(continued)
        assert (await rollout.cluster_progress(eu)).phase == "gate"
        assert len(fleet.started) == 1
        await rollout.approve(by=ALICE, gate="promote")
        report = await ending(rollout)
    assert report.counts[HostState.PATCHED] == 4


async def test_a_window_that_is_closed_stays_closed(
    env: WorkflowEnvironment, eu: str, short: None
) -> None:
    """It closes in the middle, and the rest waits for the next one, in another run."""
    fleet = SimulatedFleet({eu: 4})
    now = await env.get_current_time()
    opens = [now + timedelta(days=2), now + timedelta(days=3)]
    dated = [
        DatedPeriod(start=each.strftime("%Y-%m-%dT%H:%M"), duration=timedelta(hours=1))
        for each in opens
    ]
    windows = MaintenanceWindows(
        calendars=[Calendar(time_zone="UTC", dated=dated)], on_window_close="wait"
    )
    # A host every 25 minutes: the fourth one's turn comes when the first window has closed.
    policy = RolloutPolicy(
        pilot_hosts=0, waves=[1], windows=windows, soak=Soak(duration=timedelta(minutes=25))
    )
    async with site(env.client, fleet.implementing(*STEPS)) as here:
        rollout = await here.start(ask(eu, policy=policy))
        report = await ending(rollout)
        closed = (await rollout.handle.describe()).close_time
        runs = await here.runs(eu)
    assert report.outcome is Outcome.PATCHED
    assert runs >= 3
    assert closed is not None
    assert closed > opens[1] - timedelta(minutes=1)


# Where it cannot


async def test_what_is_too_large_goes_on_in_its_run(
    client: Client, eu: str, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No workflow task fails for it: the cluster goes on as long as its history can hold it."""
    monkeypatch.setattr(_cluster_run, "MAX_CARRIED", 1_000)
    fleet = SimulatedFleet({eu: 8})
    policy = RolloutPolicy(
        pilot_hosts=0, max_parallel=2, waves=[4], soak=Soak(duration=timedelta(seconds=0.2))
    )
    async with site(client, fleet.implementing(*STEPS)) as here:
        report = await here.report(ask(eu, policy=policy))
        assert await here.runs(eu) == 1
    assert report.outcome is Outcome.PATCHED


async def test_a_list_that_cannot_be_carried_is_refused(
    client: Client, eu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is touched, with what to do."""
    monkeypatch.setattr(_listing, "MAX_LIST", 100)
    fleet = SimulatedFleet({eu: 20})
    async with site(client, fleet) as here:
        report = await here.report(ask(eu))
    assert report.outcome is Outcome.STOPPED
    assert "at most 100 can be carried from run to run: split it" in report.reason
    assert fleet.started == ()


async def test_a_notifier_that_hangs_holds_up_no_run(
    client: Client, eu: str, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is under way is given up after a moment; what waits for its turn goes along, and is sent."""
    from temporal_patching.workflow import _notices

    monkeypatch.setattr(_notices, "PATIENCE", timedelta(seconds=0.5))
    fleet = SimulatedFleet({eu: 8})
    fleet.hold("notify")
    policy = RolloutPolicy(pilot_hosts=0, max_parallel=4, notices=["host_patched"])
    async with site(client, fleet.implementing(*STEPS, notify=True)) as here:
        rollout = await here.start(ask(eu, policy=policy))
        await fleet.reached("perform_update", times=5)  # the first run has ended
        fleet.release("notify")
        report = await ending(rollout)
        assert await here.runs(eu) >= 2
    assert report.counts[HostState.PATCHED] == 8
    assert 1 <= report.notices_failed < 4
    assert len(fleet.notices) + report.notices_failed >= 8
