"""What an operator can do to a rollout while it runs, on a real server."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowUpdateStage
from temporalio.testing import WorkflowEnvironment

from temporal_patching.client import Rollout
from temporal_patching.exceptions import InvalidRequest, Refused, RolloutNotFound
from temporal_patching.models import (
    Abort,
    FleetHealth,
    HostState,
    Outcome,
    PatchRequest,
    Pause,
    RolloutReport,
    Skip,
    Steered,
)
from temporal_patching.policy import (
    DEFAULT_STEPS,
    ApprovalPolicy,
    Calendar,
    DatedPeriod,
    FailureBudget,
    HostOrder,
    MaintenanceWindows,
    OnWindowClose,
    RolloutPolicy,
    Soak,
)
from temporal_patching.testing import FailAt, SimulatedFleet
from temporal_patching.workflow import SystemPatchWorkflow
from tests.rollouts import ALICE, BOB, ask, ending, eventually, history_of, reported, site


@workflow.defn
class WaitsFirst(SystemPatchWorkflow):
    """Its own run waits for a word before it hands over."""

    _goes = False

    @workflow.run
    async def run(self, request: PatchRequest) -> RolloutReport:
        await workflow.wait_condition(lambda: self._goes)
        return await self.rollout(request)

    @workflow.signal
    def go(self) -> None:
        """The word."""
        self._goes = True


ONE_BY_ONE = RolloutPolicy(pilot_hosts=0)
WIDE = RolloutPolicy(pilot_hosts=0, max_parallel="100%")
PROMOTE = ApprovalPolicy(approvers=[ALICE, BOB], timeout=timedelta(hours=4))


@pytest.fixture
def eu() -> str:
    """A cluster's name that no other test has."""
    return f"eu-{uuid.uuid4().hex[:6]}"


@pytest.fixture
def us() -> str:
    """Another cluster's name that no other test has."""
    return f"us-{uuid.uuid4().hex[:6]}"


async def in_phase(rollout: Rollout[Any], phase: str) -> None:
    """Waits until the rollout is in that phase."""

    async def there() -> bool:
        return (await rollout.progress()).phase == phase

    await eventually(there)


async def patched(rollout: Rollout[Any], count: int) -> None:
    """Waits until so many hosts are patched."""

    async def there() -> bool:
        return (await rollout.progress()).counts[HostState.PATCHED] == count

    await eventually(there)


# Pause and resume


async def test_pause_lets_the_hosts_in_flight_finish(client: Client, eu: str) -> None:
    """What is in flight ends, nothing starts while it is paused, and a resume goes on to the end."""
    fleet = SimulatedFleet({eu: 3})
    fleet.hold("perform_update")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=ONE_BY_ONE))
        await fleet.reached("perform_update")
        answer = await rollout.pause(by=ALICE, reason="looking at graphs")
        assert answer.phase == "pausing"
        assert (await rollout.progress()).phase == "pausing"
        fleet.release("perform_update")
        await in_phase(rollout, "paused")
        assert len(fleet.started) == 1
        assert (await rollout.progress()).counts[HostState.PATCHED] == 1
        with pytest.raises(Refused, match="paused already"):
            await rollout.pause(by=BOB)
        assert (await rollout.resume(by=BOB, reason="fine")).phase == "running"
        with pytest.raises(Refused, match=r"cannot resume|nothing is paused"):
            await rollout.resume(by=BOB)
        report = await ending(rollout)
        assert report.outcome is Outcome.PATCHED
        records = (await rollout.audit()).records
        steered = [(each.by, each.what, each.reason) for each in records if each.by != "policy"]
        assert steered == [
            (ALICE, "pause the rollout after each host", "looking at graphs"),
            (BOB, "resume the rollout", "fine"),
        ]


async def test_pause_after_step_halts_hosts_before_their_update(client: Client, eu: str) -> None:
    """A host whose update has not begun stands still after its step; one that has begun finishes."""
    fleet = SimulatedFleet({eu: 2})
    touched, untouched = f"{eu}-1", f"{eu}-2"
    fleet.hold("perform_update", touched)
    fleet.hold("stop_services", untouched)
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=WIDE))
        await fleet.reached("perform_update", touched)
        await fleet.reached("stop_services", untouched)
        await rollout.pause(by=ALICE, after="step")
        fleet.release("stop_services", untouched)
        fleet.release("perform_update", touched)
        await in_phase(rollout, "paused")
        assert (await rollout.progress()).counts[HostState.PATCHED] == 1
        standing = await rollout.host_progress(untouched)
        assert standing.halted
        assert standing.step is None
        assert standing.open == ("set_maintenance_mode", "stop_services")
        assert "perform_update" not in fleet.steps_of(untouched)
        await rollout.resume(by=ALICE)
        assert (await ending(rollout)).outcome is Outcome.PATCHED
    assert fleet.out_of_service == ()


async def test_paused_again_means_that_hosts_stand_still_again(client: Client, eu: str) -> None:
    """A host that stood still, was let go and is at its next step holds up the second pause."""
    fleet = SimulatedFleet({eu: 3})
    first, second = DEFAULT_STEPS.names[:2]
    fleet.hold(first, f"{eu}-1")

    async def told(orders: int) -> None:
        async def has() -> bool:
            history = await history_of(client, f"patch-host/{eu}-1")
            signalled = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
            return [event.event_type for event in history.events].count(signalled) >= orders

        await eventually(has)

    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=ONE_BY_ONE))
        await fleet.reached(first)
        await rollout.pause(by=ALICE, after="step")
        await told(1)
        fleet.release(first, f"{eu}-1")
        await in_phase(rollout, "paused")
        fleet.hold(second, f"{eu}-1")
        await rollout.resume(by=ALICE)
        await fleet.reached(second)
        await rollout.pause(by=ALICE, after="step")
        await told(3)
        assert (await rollout.progress()).phase == "pausing"
        fleet.release(second, f"{eu}-1")
        await in_phase(rollout, "paused")
        # Let go and told to stop at once, it may not even have moved: it answers all the same.
        await rollout.resume(by=ALICE)
        await rollout.pause(by=ALICE, after="step")
        await in_phase(rollout, "paused")
        assert fleet.started == (f"{eu}-1",)
        await rollout.resume(by=ALICE)
        assert (await ending(rollout)).outcome is Outcome.PATCHED


async def test_an_abort_before_it_begins(client: Client, eu: str) -> None:
    """Legal, too: a run of one's own may wait for hours before it hands over. The same answers the same."""
    fleet = SimulatedFleet({eu: 2})
    async with site(client, fleet, workflows=[WaitsFirst]) as here:
        rollout = await here.start(ask(eu), WaitsFirst)
        with pytest.raises(Refused, match="not begun"):
            await rollout.pause(by=ALICE)
        order = Abort(by=ALICE, reason="not today", operation="the same")
        answers = [
            await rollout.handle.execute_update("abort", order, id=id, result_type=Steered)
            for id in ("first", "second")
        ]
        assert (await rollout.abort(by=BOB, now=True)).message == answers[0].message
        await rollout.handle.signal(WaitsFirst.go)
        report = await ending(rollout)
        audit = await rollout.audit()
    assert answers[0] == answers[1]
    assert report.outcome is Outcome.ABORTED
    assert fleet.started == ()
    assert [each.by for each in audit.records if each.what.startswith("abort")] == [ALICE, BOB]


async def test_limits_go_back_to_what_was_asked_for(client: Client, eu: str) -> None:
    """Widened and set back to the request's own value: the cluster is told, too."""
    fleet = SimulatedFleet({eu: 8})
    fleet.hold("perform_update")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=ONE_BY_ONE))
        await fleet.reached("perform_update")
        await rollout.set_limits(by=ALICE, max_parallel=3)
        await fleet.reached("perform_update", times=3)
        await rollout.set_limits(by=ALICE, max_parallel=1)
        await rollout.skip(by=ALICE, host=f"{eu}-8")  # answers when the cluster has taken up all
        fleet.release("perform_update")
        assert (await ending(rollout)).counts[HostState.PATCHED] == 7
    later = [each.host for each in fleet.log if each.host in fleet.started[3:]]
    assert len([host for host, _ in itertools.groupby(later)]) == 4, "one after the other again"


async def test_a_lower_total_holds_over_all_clusters(client: Client, eu: str, us: str) -> None:
    """What one cluster gives back is not used by the other while the first has too many in flight."""
    policy = RolloutPolicy(
        pilot_hosts=0, max_parallel=2, max_parallel_total=4, max_out_of_service="100%"
    )
    fleet = SimulatedFleet({eu: 4, us: 4})
    first = [f"{eu}-1", f"{eu}-2", f"{us}-1", f"{us}-2"]
    for host in first:
        fleet.hold("perform_update", host)
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, us, policy=policy))
        for host in first:
            await fleet.reached("perform_update", host)
        await rollout.set_limits(by=ALICE, max_parallel_total=2)
        for host in first[2:]:
            fleet.release("perform_update", host)

        async def us_is_idle() -> bool:
            return (await rollout.progress()).clusters[1].counts.get(HostState.PATCHED) == 2

        await fleet.until(lambda: all(fleet.host(host).serves for host in first[2:]))
        await rollout.skip(by=ALICE, host=f"{us}-4")  # answers when the cluster has taken up all
        await eventually(us_is_idle)
        assert sorted(fleet.started) == first
        before = len(fleet.log)
        for host in first[:2]:
            fleet.release("perform_update", host)
        report = await ending(rollout)
    assert report.counts[HostState.PATCHED] == 7
    later = {each.host for each in fleet.log[before:]} - {*first}
    assert later == {f"{eu}-3", f"{eu}-4", f"{us}-3"}
    flying, most = {*first[:2]}, 0
    for each in fleet.log[before:]:
        if each.host in first[2:] or each.step == "list_hosts":
            continue
        flying.add(each.host)
        most = max(most, len(flying))
        if (each.step, each.what) == ("clear_maintenance_mode", "done"):
            flying.discard(each.host)
    assert most == 2, "never more than the new total from then on, and both were used"


async def test_one_cluster_can_be_paused(client: Client, eu: str) -> None:
    """The other cluster goes on to its end."""
    other = f"{eu}-b"
    fleet = SimulatedFleet({eu: 3, other: 3})
    fleet.hold("perform_update")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, other, policy=ONE_BY_ONE))
        await fleet.reached("perform_update", times=2)
        await rollout.pause(by=ALICE, cluster=eu)
        with pytest.raises(Refused, match="'cluster' must be one of"):
            await rollout.pause(by=ALICE, cluster="nowhere")
        fleet.release("perform_update")

        async def other_is_done() -> bool:
            clusters = {each.cluster: each for each in (await rollout.progress()).clusters}
            return clusters[other].phase == "ended" and clusters[eu].phase == "paused"

        await eventually(other_is_done)
        assert len([host for host in fleet.started if host.startswith(f"{eu}-b")]) == 3
        await rollout.resume(by=ALICE)
        assert (await ending(rollout)).outcome is Outcome.PATCHED


async def test_abort_while_paused(client: Client, eu: str) -> None:
    """Hosts that stand still are given back; nothing is left out of service."""
    fleet = SimulatedFleet({eu: 2})
    fleet.hold("stop_services")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=WIDE))
        await fleet.reached("stop_services", times=2)
        await rollout.pause(by=ALICE, after="step")
        fleet.release("stop_services")
        await in_phase(rollout, "paused")
        await rollout.abort(by=BOB, reason="wrong release")
        report = await ending(rollout)
    assert report.outcome is Outcome.ABORTED
    assert report.counts[HostState.CANCELLED] == 2
    assert "aborted by bob@example.com: wrong release" in report.reason
    assert fleet.out_of_service == ()


# Abort


async def test_abort_now_tears_updates_apart_and_names_their_hosts(client: Client, eu: str) -> None:
    """The update that runs is cancelled, and its host is held and named."""
    fleet = SimulatedFleet({eu: 2})
    fleet.hold("perform_update", f"{eu}-1")
    fleet.hold("stop_services", f"{eu}-2")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=WIDE))
        await fleet.reached("perform_update", f"{eu}-1")
        await fleet.reached("stop_services", f"{eu}-2")
        await rollout.abort(by=ALICE, reason="it wipes disks")
        await rollout.abort(by=ALICE, reason="it wipes disks", now=True)
        report = await ending(rollout)
    assert report.outcome is Outcome.ABORTED
    assert report.left_out_of_service == (f"{eu}-1",)
    torn = reported(report, f"{eu}-1")
    assert torn.state is HostState.FAILED
    assert torn.left_out is not None
    assert "it wipes disks" in torn.left_out
    assert reported(report, f"{eu}-2").state is HostState.CANCELLED
    assert fleet.out_of_service == (f"{eu}-1",)


@pytest.mark.provokes_task_failure("no worker is there for a while")
async def test_abort_without_a_worker_is_kept_by_the_server(client: Client, eu: str) -> None:
    """When no worker answers, a cancel is sent, and obeyed by the next worker."""
    fleet = SimulatedFleet({eu: 2})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, approvals={"start": PROMOTE}))
        await in_phase(rollout, "gate")
    answer = await rollout.abort(by=ALICE, reason="no change window")
    assert "a cancel was sent instead" in answer.message
    async with here.again():
        report = await ending(rollout)
    assert report.outcome is Outcome.ABORTED
    assert "no change window" in report.reason
    assert fleet.started == ()


# Limits and skips


async def test_limits_change_while_it_runs(client: Client, eu: str) -> None:
    """A wider limit starts more at once; a budget below what has failed is refused."""
    fleet = SimulatedFleet({eu: 6}, faults={f"{eu}-1": FailAt("perform_update", retryable=False)})
    fleet.hold("perform_update", f"{eu}-2")
    policy = RolloutPolicy(
        pilot_hosts=0, max_out_of_service=6, failure_budget=FailureBudget(max_failures=2)
    )
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=policy))
        await fleet.reached("perform_update", f"{eu}-2")
        with pytest.raises(Refused, match="below what has failed"):
            await rollout.set_limits(by=ALICE, failure_budget=FailureBudget(max_failures=0))
        fleet.hold("perform_update")
        await rollout.set_limits(by=ALICE, max_parallel=4)
        await fleet.reached("perform_update", times=5)
        fleet.release("perform_update")
        fleet.release("perform_update", f"{eu}-2")
        report = await ending(rollout)
    assert report.counts[HostState.PATCHED] == 5
    assert report.counts[HostState.FAILED] == 1
    assert fleet.most_in_flight() == 4


async def test_skip_a_host_and_be_told_when_it_is_too_late(client: Client, eu: str) -> None:
    """A host that has not started is left out; one that has is named as too late, and goes on."""
    fleet = SimulatedFleet({eu: 3})
    fleet.hold("perform_update", f"{eu}-1")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=ONE_BY_ONE))
        await fleet.reached("perform_update", f"{eu}-1")
        assert "is skipped" in (await rollout.skip(by=ALICE, host=f"{eu}-2")).message
        assert "too late" in (await rollout.skip(by=ALICE, host=f"{eu}-1".upper())).message
        with pytest.raises(Refused, match="no host 'nobody'"):
            await rollout.skip(by=ALICE, host="nobody")
        fleet.release("perform_update", f"{eu}-1")
        report = await ending(rollout)
    assert report.outcome is Outcome.PARTIAL
    assert report.counts[HostState.SKIPPED] == 1
    assert f"{eu}-2" not in fleet.started
    assert reported(report, f"{eu}-2").reason


async def test_a_skip_waits_for_no_other_cluster(client: Client, eu: str, us: str) -> None:
    """Another one may be silent for long; and what was too late there is said of it alone."""
    fleet = SimulatedFleet({eu: 3, us: 3})
    fleet.hold("perform_update", f"{eu}-1")
    fleet.hold("perform_update", f"{us}-2")
    policy = attrs.evolve(ONE_BY_ONE, waves=[1, "100%"])
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, us, policy=policy))
        await fleet.reached("perform_update", f"{eu}-1")
        await fleet.reached("perform_update", f"{us}-2")
        assert "is skipped" in (await rollout.skip(by=ALICE, host=f"{eu}-3")).message
        assert "too late" in (await rollout.skip(by=ALICE, wave=2, cluster=us)).message
        assert "is skipped" in (await rollout.skip(by=ALICE, wave=2, cluster=eu)).message
        fleet.release("perform_update", f"{eu}-1")
        fleet.release("perform_update", f"{us}-2")
        report = await ending(rollout)
    assert report.counts[HostState.SKIPPED] == 2
    assert report.counts[HostState.PATCHED] == 4


async def test_only_parked_hosts_are_repaired(client: Client, eu: str) -> None:
    """The refusal says what the host is, and what to do; whoever asks for another step is not parked either."""
    fleet = SimulatedFleet({eu: 2})
    fleet.hold("perform_update", f"{eu}-1")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=ONE_BY_ONE))
        await fleet.reached("perform_update", f"{eu}-1")
        for verb in (rollout.retry, rollout.accept, rollout.restore):
            with pytest.raises(Refused, match="no host 'nobody' in the plan"):
                await verb("nobody", by=ALICE)
            with pytest.raises(Refused, match=r"not parked: only parked hosts can be .*rest_of"):
                await verb(f"{eu}-1".upper(), by=ALICE)
        with pytest.raises(InvalidRequest, match="'from_step' must be the name of a public method"):
            await rollout.retry(f"{eu}-1", by=ALICE, from_step="no step")
        fleet.release("perform_update", f"{eu}-1")
        assert (await ending(rollout)).outcome is Outcome.PATCHED


async def test_the_same_operation_is_answered_as_the_first_time(client: Client, eu: str) -> None:
    """The same verb again is done once and answered alike, also after the end."""
    fleet = SimulatedFleet({eu: 2})
    fleet.hold("perform_update")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=ONE_BY_ONE))
        await fleet.reached("perform_update")
        order = Pause(by=ALICE, operation="op-1")

        async def ask_again(update_id: str) -> Steered:
            return await rollout.handle.execute_update(
                "pause", order, id=update_id, result_type=Steered
            )

        first = await ask_again("op-1")
        assert await ask_again("op-1") == first
        assert await ask_again("op-1-by-another-way") == first
        fleet.release("perform_update")
        await in_phase(rollout, "paused")
        await rollout.resume(by=ALICE)
        await ending(rollout)
        assert await ask_again("op-1") == first
        with pytest.raises(RolloutNotFound, match="has ended"):
            await rollout.pause(by=ALICE)


@pytest.mark.provokes_task_failure("no worker is there for a while")
async def test_two_verbs_in_one_task(client: Client, eu: str) -> None:
    """With no worker there, a pause and an abort arrive together: the abort wins, whatever came first."""
    for first, second in (("pause", "abort"), ("abort", "pause")):
        cluster = f"{eu}-{first}"
        fleet = SimulatedFleet({cluster: 2})
        async with site(client, fleet) as here:
            rollout = await here.start(ask(cluster, approvals={"start": PROMOTE}))
            await in_phase(rollout, "gate")
        handles = []
        for verb in (first, second):
            sending = asyncio.create_task(
                rollout.handle.start_update(
                    verb,
                    {"by": ALICE},
                    wait_for_stage=WorkflowUpdateStage.ACCEPTED,
                    result_type=Steered,
                )
            )
            handles.append(sending)
            await asyncio.sleep(0.3)  # the server keeps them in the order in which they came
        async with here.again():
            report = await ending(rollout)
            await asyncio.gather(*handles, return_exceptions=True)
        assert report.outcome is Outcome.ABORTED
        assert fleet.started == ()


# Gates in the middle


async def test_promote_gate_waits_for_all_clusters(client: Client, eu: str) -> None:
    """It asks when every cluster's pilots have ended, and one approval lets all go on."""
    other = f"{eu}-b"
    fleet = SimulatedFleet({eu: 3, other: 3})
    fleet.hold("perform_update", f"{other}-1")
    request = ask(eu, other, policy=RolloutPolicy(pilot_hosts=1), approvals={"promote": PROMOTE})
    async with site(client, fleet) as here:
        rollout = await here.start(request)
        await patched(rollout, 1)
        assert not any(gate.waiting for gate in (await rollout.progress()).gates)
        fleet.release("perform_update", f"{other}-1")

        async def asks() -> bool:
            return [gate.gate for gate in (await rollout.progress()).gates if gate.waiting] == [
                "promote"
            ]

        await eventually(asks)
        assert len(fleet.started) == 2
        await rollout.approve(by=BOB, gate="promote")
        report = await ending(rollout)
    assert report.outcome is Outcome.PATCHED
    assert report.counts[HostState.PATCHED] == 6


async def test_to_skip_a_wave_passes_no_gate(client: Client, eu: str, us: str) -> None:
    """What comes after the wave is asked for; a gate behind which nothing is left closes, and stops nobody."""
    fleet = SimulatedFleet({eu: 4, us: 2})
    policy = RolloutPolicy(waves=[1])
    soon = ApprovalPolicy(approvers=[ALICE], timeout=timedelta(seconds=15))
    gates = {f"promote/{eu}": PROMOTE, f"promote/{us}": soon}
    fleet.hold("perform_update", f"{eu}-3")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, us, policy=policy, approvals=gates))

        async def both_ask() -> bool:
            return sum(gate.waiting for gate in (await rollout.progress()).gates) == 2

        await eventually(both_ask)
        await rollout.skip(by=BOB, wave=1)

        async def one_is_closed() -> bool:
            told = {gate.gate: gate.outcome for gate in (await rollout.progress()).gates}
            return told == {f"promote/{eu}": None, f"promote/{us}": "cancelled"}

        await eventually(one_is_closed)
        (deadline,) = {
            gate.deadline for gate in (await rollout.progress()).gates if gate.outcome is not None
        }
        assert deadline is not None
        assert sorted(fleet.started) == [f"{eu}-1", f"{us}-1"]
        await rollout.approve(by=ALICE, gate=f"promote/{eu}")
        await fleet.reached("perform_update", f"{eu}-3")
        left = deadline - datetime.now(timezone.utc)
        await asyncio.sleep(left.total_seconds() + 1)
        fleet.release("perform_update", f"{eu}-3")
        report = await ending(rollout)
    assert report.outcome is Outcome.PARTIAL
    assert report.counts[HostState.PATCHED] == 4
    assert report.counts[HostState.SKIPPED] == 2


async def test_rejected_in_the_middle(client: Client, eu: str) -> None:
    """A reject at a later gate ends the rollout: what is patched stays, the rest is not started."""
    fleet = SimulatedFleet({eu: 4})
    policy = RolloutPolicy(pilot_hosts=1, waves=[1, "100%"])
    request = ask(eu, policy=policy, approvals={f"wave-2/{eu}": PROMOTE})
    async with site(client, fleet) as here:
        rollout = await here.start(request)
        await patched(rollout, 2)
        await rollout.reject(by=BOB, gate=f"wave-2/{eu}", reason="errors in the logs")
        report = await ending(rollout)
    assert report.outcome is Outcome.REJECTED
    assert "errors in the logs" in report.reason
    assert report.counts[HostState.PATCHED] == 2
    assert report.counts[HostState.NOT_STARTED] == 2


async def test_rings_come_one_after_the_other(client: Client, eu: str) -> None:
    """The second ring starts when the first has ended, and its gate was passed."""
    a, b, c = f"{eu}-a", f"{eu}-b", f"{eu}-c"
    fleet = SimulatedFleet({a: 2, b: 2, c: 2})
    policy = RolloutPolicy(pilot_hosts=0, rings=[[a, b], [c]])
    request = ask(a, b, c, policy=policy, approvals={"ring-2": PROMOTE})
    async with site(client, fleet) as here:
        rollout = await here.start(request)
        await patched(rollout, 4)

        async def asks() -> bool:
            return any(gate.waiting for gate in (await rollout.progress()).gates)

        await eventually(asks)
        assert not any(host.startswith(c) for host in fleet.started)
        await rollout.approve(by=ALICE, gate="ring-2")
        assert (await ending(rollout)).outcome is Outcome.PATCHED


def test_gates_that_cannot_be_are_refused() -> None:
    """A request names only gates that its rollout has."""
    for gate in ("wave-1", "ring-1", "ring-2", "promote/nowhere", "start/eu-1", "sart", "wave-0"):
        with pytest.raises(InvalidRequest, match="must name gates"):
            PatchRequest(clusters=["eu-1"], requester=BOB, approvals={gate: PROMOTE})
    with pytest.raises(InvalidRequest, match="no pilots"):
        PatchRequest(
            clusters=["eu-1"],
            requester=BOB,
            policy=RolloutPolicy(pilot_hosts=0),
            approvals={"promote": PROMOTE},
        )
    with pytest.raises(InvalidRequest, match="exactly once"):
        PatchRequest(
            clusters=["eu-1", "eu-2"], requester=BOB, policy=RolloutPolicy(rings=[["eu-1"]])
        )
    with pytest.raises(InvalidRequest, match="either 'host' or 'wave'"):
        Skip(by=ALICE)
    assert attrs.fields(Skip).host is not None


# Soak, order, windows, and why


async def test_soak_waits_and_looks(client: Client, eu: str) -> None:
    """After the pilots it soaks; no host starts before, and a failed look stops the cluster."""
    healthy = FleetHealth(verdict="healthy")
    failed = FleetHealth(verdict="failed", message="error rate 12%")
    fleet = SimulatedFleet({eu: 3}, health=[healthy, failed])
    soak = Soak(duration=timedelta(seconds=4), check_every=timedelta(seconds=1))
    async with site(client, fleet) as here:
        report = await here.report(ask(eu, policy=RolloutPolicy(soak=soak)))
    assert report.outcome is Outcome.STOPPED
    assert "fleet health after the pilots: error rate 12%" in report.reason
    assert report.counts[HostState.PATCHED] == 1
    assert report.counts[HostState.NOT_STARTED] == 2


async def test_no_data_pauses_for_a_person(client: Client, eu: str) -> None:
    """An inconclusive look pauses the rollout; after a resume it looks again."""
    unknown = FleetHealth(verdict="inconclusive", message="no data from the metrics")
    fleet = SimulatedFleet({eu: 2}, health=[unknown, FleetHealth(verdict="healthy")])
    soak = Soak(duration=timedelta(seconds=0.5), check_every=timedelta(seconds=0.5))
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=RolloutPolicy(soak=soak)))
        await in_phase(rollout, "paused")
        why = await rollout.explain()
        assert "no data from the metrics" in why.waits[0].why
        assert len(fleet.started) == 1
        assert [notice.kind for notice in fleet.notices].count("paused") == 1
        await rollout.resume(by=ALICE, reason="the dashboard is broken, the shop is not")
        assert (await ending(rollout)).outcome is Outcome.PATCHED


async def test_who_resumes_at_once_is_asked_again(client: Client, eu: str) -> None:
    """Each look without data needs a person, also where the pause before it was over before the cluster saw it."""
    unknown = FleetHealth(verdict="inconclusive", message="no data")
    times = 15
    fleet = SimulatedFleet({eu: 2}, health=[unknown] * times + [FleetHealth(verdict="healthy")])
    soak = Soak(duration=timedelta(seconds=0.1), check_every=timedelta(seconds=0.1))
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=RolloutPolicy(soak=soak)))
        for _ in range(times):

            async def resumed() -> bool:
                try:
                    await rollout.resume(by=ALICE)
                except Refused:  # nothing is paused yet
                    return False
                return True

            await eventually(resumed)
        assert (await ending(rollout)).outcome is Outcome.PATCHED
    looks = [each for each in fleet.log if each.step == "check_fleet_health"]
    assert sum(each.what == "began" for each in looks) == times + 1


async def test_a_check_that_cannot_run_is_refused(client: Client, eu: str) -> None:
    """Soaking with checks needs the activity: said before anything is touched."""
    fleet = SimulatedFleet({eu: 1})
    soak = Soak(duration=timedelta(minutes=1), check_every=timedelta(seconds=30))
    async with site(client, fleet.implementing("perform_update")) as here:
        rollout = await here.start(ask(eu, policy=RolloutPolicy(soak=soak)))
        with pytest.raises(InvalidRequest, match="needs 'check_fleet_health'"):
            await rollout.result()


async def test_hosts_of_one_domain_are_not_out_together(client: Client, eu: str) -> None:
    """Whatever the width: of each rack one host at a time; and who is down already goes first."""
    racks = {f"{eu}-{n}": {"rack": f"r{n % 2}"} for n in range(1, 7)}
    fleet = SimulatedFleet({eu: 6}, labels=racks, down=[f"{eu}-6"])
    order = HostOrder(by="spread", domain_label="rack", max_per_domain=1, down_first=True)
    policy = RolloutPolicy(pilot_hosts=0, max_parallel="100%", order=order)
    async with site(client, fleet) as here:
        report = await here.report(ask(eu, policy=policy))
    assert report.outcome is Outcome.PATCHED
    assert f"{eu}-6" in fleet.started[:2]
    assert fleet.most_in_flight() == 2
    out: dict[str, set[str]] = {"r0": set(), "r1": set()}
    for effect in fleet.log:
        if effect.host in racks:
            there = out[racks[effect.host]["rack"]]
            if (effect.step, effect.what) == ("clear_maintenance_mode", "done"):
                there.discard(effect.host)  # its last step
            else:
                there.add(effect.host)
                assert len(there) == 1, effect


@pytest.mark.parametrize("on_close", ["stop", "wait"])
async def test_windows_open_and_close(
    env: WorkflowEnvironment, eu: str, on_close: OnWindowClose
) -> None:
    """Hosts start only while a window is open; when it closes the rest is not started, or waits for the next."""
    fleet = SimulatedFleet({eu: 3})
    now = await env.get_current_time()
    first, second = now + timedelta(days=2), now + timedelta(days=3)
    periods = [
        DatedPeriod(start=opens.strftime("%Y-%m-%dT%H:%M"), duration=timedelta(hours=1))
        for opens in (first, second)
    ]
    windows = MaintenanceWindows(
        calendars=[Calendar(time_zone="UTC", dated=periods)], on_window_close=on_close
    )
    # One host every 50 minutes: the third one's turn comes when the first window has closed.
    policy = RolloutPolicy(
        pilot_hosts=0, waves=[1], windows=windows, soak=Soak(duration=timedelta(minutes=50))
    )
    async with site(env.client, fleet) as here:
        rollout = await here.start(ask(eu, policy=policy))
        report = await ending(rollout)
        closed = (await rollout.handle.describe()).close_time
        decided = [each.what for each in (await rollout.audit()).records]
    assert closed is not None
    took = closed - now
    told = [each.removeprefix("the maintenance windows are ") for each in decided]
    if on_close == "stop":
        assert told[1:4] == ["open", "closed", "nothing new starts"]
        assert report.outcome is Outcome.STOPPED
        assert "closed until" in report.reason
        assert report.counts[HostState.PATCHED] == 2
        assert report.counts[HostState.NOT_STARTED] == 1
        assert timedelta(days=2) - timedelta(minutes=1) < took < timedelta(days=2, hours=2)
    else:
        assert told[1:4] == ["open", "closed", "open"]
        assert report.outcome is Outcome.PATCHED
        assert took > timedelta(days=3) - timedelta(minutes=1)


@pytest.mark.parametrize("agreed", [True, False])
async def test_an_old_approval_is_asked_for_again(
    env: WorkflowEnvironment, eu: str, agreed: bool
) -> None:
    """Approved on Thursday for a day, the windows open on Saturday: nothing starts before a fresh vote."""
    fleet = SimulatedFleet({eu: 2})
    now = await env.get_current_time()
    opens = (now + timedelta(days=2)).strftime("%Y-%m-%dT%H:%M")
    windows = MaintenanceWindows(
        calendars=[
            Calendar(time_zone="UTC", dated=[DatedPeriod(start=opens, duration=timedelta(hours=9))])
        ],
        on_window_close="wait",
        approval_valid_for=timedelta(days=1),
    )
    request = ask(eu, policy=RolloutPolicy(windows=windows), approvals={"start": PROMOTE})
    async with site(env.client, fleet) as here:
        rollout = await here.start(request)
        await rollout.approve(by=ALICE)
        await in_phase(rollout, "running")
        await env.sleep(timedelta(days=2, minutes=2))

        async def asks_again() -> bool:
            gates = (await rollout.progress()).gates
            return any(gate.waiting and not gate.votes for gate in gates)

        await eventually(asks_again)
        assert not fleet.started
        (why,) = [each for each in (await rollout.explain()).waits if "gate" in each.why]
        assert "start" in why.why
        if agreed:
            await rollout.approve(by=ALICE)
        else:
            await rollout.reject(by=BOB, reason="the change was called off")
        report = await ending(rollout)
        decided = [each.what for each in (await rollout.audit()).records]
    assert decided.count("gate 'start' asks again") == 1
    assert decided.count("gate 'start' is passed") == (2 if agreed else 1)
    assert report.outcome is (Outcome.PATCHED if agreed else Outcome.REJECTED)
    assert len(fleet.started) == (2 if agreed else 0)
    if not agreed:
        assert report.counts[HostState.NOT_STARTED] == 2
        assert "called off" in report.reason


async def test_two_rollouts_that_wait_for_each_other_end(client: Client, eu: str) -> None:
    """Each holds a host that the other one waits for: what is in flight ends, so both do."""
    fleet = SimulatedFleet({eu: 2}, down=[f"{eu}-2"])
    fleet.hold("stop_services")
    waits = RolloutPolicy(pilot_hosts=0, max_parallel=1, on_busy_host="wait")
    down_first = attrs.evolve(waits, order=HostOrder(down_first=True))
    async with site(client, fleet) as here:
        one = await here.start(ask(eu, policy=waits))
        await fleet.reached("stop_services", f"{eu}-1")
        other = await here.start(ask(eu, policy=down_first))
        await fleet.reached("stop_services", f"{eu}-2")
        for rollout, host, holder in ((one, f"{eu}-2", other), (other, f"{eu}-1", one)):
            await rollout.set_limits(by=ALICE, max_parallel=2)
            said = f"{host} is busy: rollout {holder.id!r} works on it"

            async def says(rollout: Rollout[Any] = rollout, said: str = said) -> bool:
                return said in (await rollout.cluster_progress(eu)).waits_for

            await eventually(says)
        fleet.release("stop_services")
        reports = [await ending(one), await ending(other)]
    assert [report.outcome for report in reports] == [Outcome.PATCHED] * 2
    assert fleet.overlaps() == ()


async def test_a_strict_total_budget_is_not_overshot(client: Client, eu: str, us: str) -> None:
    """Two clusters, wide, and every update fails: one more than may fail, and not one after that."""
    fleet = SimulatedFleet(
        {eu: 8, us: 8},
        faults={
            f"{name}-{n}": FailAt("perform_update", retryable=False)
            for name in (eu, us)
            for n in range(1, 9)
        },
    )
    tolerant = FailureBudget(max_failures="100%", stop_on_failed_wave=False)
    policy = attrs.evolve(
        WIDE,
        max_out_of_service="100%",
        failure_budget=tolerant,
        total_failure_budget=FailureBudget(max_failures=2, strict=True),
    )
    async with site(client, fleet) as here:
        report = await here.report(ask(eu, us, policy=policy))
    assert report.outcome is Outcome.STOPPED
    assert "over all clusters: 3 hosts failed, 2 allowed" in report.reason
    assert report.counts[HostState.FAILED] == 3
    assert fleet.most_in_flight() <= 3


async def test_the_audit_has_each_vote_verb_and_decision_in_order(
    client: Client, eu: str, us: str
) -> None:
    """Who voted and why, also before it began; what the rules made of it; a stop; an abort."""
    fleet = SimulatedFleet(
        {eu: 2, us: 2}, faults={f"{eu}-1": FailAt("perform_update", retryable=False)}
    )
    policy = RolloutPolicy(rings=[[eu], [us]], stop_scope="cluster")
    both = attrs.evolve(PROMOTE, quorum=2)
    async with site(client, fleet) as here:
        rollout = await here.start(
            ask(eu, us, policy=policy, approvals={"start": both, "ring-2": PROMOTE})
        )
        await rollout.approve(by=BOB, reason="CHG-1")
        await rollout.approve(by=BOB, reason="CHG-1")
        await in_phase(rollout, "gate")
        await rollout.approve(by=ALICE, reason="looks good")

        async def asks() -> bool:
            return any(g.gate == "ring-2" and g.waiting for g in (await rollout.progress()).gates)

        await eventually(asks)
        await rollout.approve(by=ALICE, gate="ring-2")
        await fleet.reached("perform_update", f"{us}-1")
        await rollout.abort(by=BOB, reason="enough")
        await ending(rollout)
        records = (await rollout.audit()).records
    assert [(each.by, each.what) for each in records] == [
        (BOB, "approve gate 'start'"),
        ("policy", "the plan is complete, gate 'start' asks"),
        (ALICE, "approve gate 'start'"),
        ("policy", "gate 'start' is passed"),
        ("policy", "the clusters begin"),
        ("policy", f"cluster '{eu}' stops"),
        ("policy", "it is the turn of ring 2"),
        ("policy", "gate 'ring-2' asks"),
        (ALICE, "approve gate 'ring-2'"),
        ("policy", "gate 'ring-2' is passed"),
        (BOB, "abort"),
        ("policy", "nothing new starts"),
        ("policy", "the rollout has ended"),
    ]
    assert [each.reason for each in records[:3:2]] == ["CHG-1", "looks good"]
    assert "1 host failed, 0 allowed" in records[5].reason
    assert (records[10].before, records[10].after) == ("running", "stopping")
    assert list(records) == sorted(records, key=lambda each: each.at)


async def test_explains_itself(client: Client, eu: str) -> None:
    """Why it waits, with the votes; what would stop it, with the numbers; why it stopped."""
    fleet = SimulatedFleet({eu: 3}, faults={f"{eu}-1": FailAt("perform_update", retryable=False)})
    request = ask(eu, approvals={"start": PROMOTE})
    async with site(client, fleet) as here:
        rollout = await here.start(request)
        await in_phase(rollout, "gate")
        why = await rollout.explain()
        (gate,) = why.waits
        assert gate.why == "gate 'start' waits for 1 more vote"
        assert gate.evidence["may vote"] == f"{ALICE}, {BOB}"
        assert "1 more failure in cluster" in why.next[0].why
        assert why.next[0].evidence["allowed"] == "0 (0 of 3)"
        assert why.stopped == ()
        await rollout.approve(by=ALICE)
        report = await ending(rollout)
        why = await rollout.explain()
    assert report.outcome is Outcome.STOPPED
    assert why.waits == why.next == ()
    assert "1 host failed, 0 allowed" in why.stopped[0].why


async def test_explains_what_is_decided_and_not_what_was_said(
    client: Client, eu: str, us: str
) -> None:
    """While the pilots run their own budget is named; after a stop no cluster is "at its wave" any more."""
    fleet = SimulatedFleet(
        {eu: 3, us: 3}, faults={f"{us}-1": FailAt("perform_update", retryable=False)}
    )
    fleet.hold("perform_update", f"{eu}-1")
    fleet.hold("check_service_health", f"{us}-1")
    policy = RolloutPolicy(failure_budget=FailureBudget(max_failures=2))
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, us, policy=policy))
        await fleet.reached("perform_update", f"{eu}-1")
        await fleet.reached("check_service_health", f"{us}-1")
        told = [each.why for each in (await rollout.explain()).next]
        for name in (eu, us):
            pilots = f"1 more failure among the pilots of cluster '{name}' would stop the rollout"
            assert pilots in told
            assert f"3 more failures in cluster '{name}' would stop the rollout" in told
        fleet.release("check_service_health", f"{us}-1")
        await in_phase(rollout, "stopping")
        why = await rollout.explain()
        assert why.next == ()
        assert "pilots: 1 host failed, 0 allowed" in why.stopped[0].why
        assert why.stopped[0].evidence[us] == "1 failed, 0 unreachable of 3; 2 allowed together"
        (waits,) = [each for each in why.waits if eu in each.why]
        assert waits.why == f"cluster '{eu}' stops: its hosts in flight have to end"
        assert "others go to their end" in waits.evidence["they"]
        assert (await rollout.progress()).waits_for.startswith(f"clusters {eu}")
        fleet.release("perform_update", f"{eu}-1")
        await ending(rollout)
