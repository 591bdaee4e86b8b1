"""A rollout as an operator sees it: the gate, the outcomes, notices, progress, cancels, releases."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import attrs
import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowUpdateStage
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from temporal_patching.activity import PatchActivities
from temporal_patching.client import Rollout
from temporal_patching.exceptions import (
    InvalidRequest,
    NotAnswered,
    Refused,
    RolloutExists,
    RolloutFailed,
)
from temporal_patching.models import (
    HostList,
    HostQuery,
    HostState,
    HostTask,
    RolloutReport,
    StepResult,
)
from temporal_patching.models._wire import from_json
from temporal_patching.policy import (
    ApprovalPolicy,
    FailureBudget,
    Outcome,
    RolloutPolicy,
)
from temporal_patching.policy._rollout_policy import NOTICE_KINDS
from temporal_patching.testing import FailAt, Fault, RefuseAt, SimulatedFleet, Unreachable
from temporal_patching.worker import PatchingPlugin
from tests.rollouts import (
    ALICE,
    ALL_AT_ONCE,
    BOB,
    CAROL,
    ask,
    ending,
    eventually,
    history_of,
    reported,
    site,
    status,
)
from tests.workflows import (
    ExtraStepFleet,
    FleetOfTheNewRelease,
    FleetOfTheOldRelease,
    NotedFleet,
    QuickFleet,
    TypedFleet,
)

START = ApprovalPolicy(approvers=[ALICE, BOB], timeout=timedelta(hours=4))


@pytest.fixture
def eu() -> str:
    """A cluster's name that no other test has."""
    return f"eu-{uuid.uuid4().hex[:6]}"


async def phase_is(rollout: Rollout[Any], phase: str) -> bool:
    """Whether the rollout is in that phase. Without a cache the SDK may lose a task: then it says nothing."""
    try:
        return (await rollout.progress()).phase == phase
    except NotAnswered:
        return False


async def failure_of(handle: WorkflowHandle[Any, Any]) -> ApplicationError:
    """What a workflow failed with, as any client sees it."""
    with pytest.raises(WorkflowFailureError) as failed:
        await handle.result()
    assert isinstance(failed.value.cause, ApplicationError)
    return failed.value.cause


# The gate


async def test_start_gate(client: Client, eu: str) -> None:
    """The gate shows the frozen plan, touches nothing before the vote, and lets it start afterwards."""
    fleet = SimulatedFleet({eu: 3, f"{eu}-b": 2})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, f"{eu}-b", approvals={"start": START}))
        await eventually(lambda: phase_is(rollout, "gate"))
        progress = await rollout.progress()
        assert progress.hosts == 5
        assert [(each.hosts, each.phase) for each in progress.clusters] == [
            (3, "waiting"),
            (2, "waiting"),
        ]
        assert len(progress.digest) == 32
        assert f"approval of gate 'start': 0 of 1 by {ALICE}, {BOB}" in progress.waits_for
        assert fleet.started == ()
        with pytest.raises(Refused, match="made the request and may not vote"):
            await rollout.approve(by=CAROL)
        with pytest.raises(Refused):
            await rollout.approve(by="mallory@example.com")
        await rollout.approve(by=" Alice@Example.com", reason="CHG-4711")
        report = await rollout.result()
    assert report.outcome is Outcome.PATCHED
    assert report.digest == progress.digest
    assert report.gates[0].votes[0].reason == "CHG-4711"
    assert report.counts[HostState.PATCHED] == 5


async def test_list_is_frozen_before_the_gate(client: Client, eu: str) -> None:
    """A host that appears after the list was made is not patched: the plan is what was approved."""
    fleet = SimulatedFleet({eu: 1})

    hosts = [f"{eu}-1"]

    class Growing(PatchActivities):
        async def list_hosts(self, query: HostQuery) -> HostList:
            return HostList(hosts=hosts)

        async def perform_update(self, task: HostTask) -> StepResult:
            return await fleet.perform_update(task)

    async with site(client, Growing()) as here:
        rollout = await here.start(ask(eu, approvals={"start": START}))
        await eventually(lambda: phase_is(rollout, "gate"))
        hosts.append(f"{eu}-2")
        await rollout.approve(by=ALICE)
        report = await rollout.result()
    assert report.counts[HostState.PATCHED] == 1
    assert fleet.started == (f"{eu}-1",)


async def test_rejected(client: Client, eu: str) -> None:
    """A rejected rollout is FAILED as RolloutRejected; nothing was touched, the clusters have ended."""
    fleet = SimulatedFleet({eu: 2})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, approvals={"start": START}))
        await rollout.reject(by=BOB, reason="not today")
        failure = await failure_of(rollout.handle)
        assert await status(client, f"{rollout.id}/{eu}") == "FAILED"
    assert failure.type == "RolloutRejected"
    report = from_json(failure.details[0], RolloutReport)
    assert report.outcome is Outcome.REJECTED
    assert "not today" in report.reason
    assert report.counts[HostState.NOT_STARTED] == 2
    assert fleet.started == ()


@pytest.mark.parametrize("on_timeout", ["fail", "complete"])
async def test_expired(env: WorkflowEnvironment, eu: str, on_timeout: Any) -> None:
    """Nobody votes: FAILED as RolloutExpired, or COMPLETED with that outcome; nothing was touched."""
    fleet = SimulatedFleet({eu: 1})
    policy = attrs.evolve(START, on_timeout=on_timeout)
    async with site(env.client, fleet) as here:
        rollout = await here.start(ask(eu, approvals={"start": policy}))
        if on_timeout == "fail":
            assert (await failure_of(rollout.handle)).type == "RolloutExpired"
            report = await ending(rollout)
        else:
            report = await rollout.result()
        ended = "FAILED" if on_timeout == "fail" else "COMPLETED"
        assert await status(env.client, rollout.id) == ended
    assert report.outcome is Outcome.EXPIRED
    assert fleet.started == ()
    assert [notice.kind for notice in fleet.notices] == [
        "approval_requested",
        "approval_expired",
        "finished",
    ]


# Outcomes


OUTCOMES: dict[str, tuple[dict[int, Fault], RolloutPolicy, str | None]] = {
    "patched": ({}, ALL_AT_ONCE, None),
    "stopped": ({1: RefuseAt("perform_update")}, ALL_AT_ONCE, "RolloutStopped"),
    "partial": (
        {1: Unreachable("stop_services")},
        attrs.evolve(ALL_AT_ONCE, failure_budget=FailureBudget(max_failures=1)),
        "RolloutPartial",
    ),
}


@pytest.mark.parametrize("name", OUTCOMES)
async def test_outcomes(client: Client, eu: str, name: str) -> None:
    """Each outcome has its own failure type, with the report in its details; only success completes."""
    faults, policy, expected = OUTCOMES[name]
    fleet = SimulatedFleet({eu: 2}, faults={f"{eu}-{n}": fault for n, fault in faults.items()})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=policy))
        if expected is None:
            assert (await rollout.result()).outcome is Outcome.PATCHED
            assert await status(client, rollout.id) == "COMPLETED"
            return
        failure = await failure_of(rollout.handle)
        assert failure.type == expected
        report = from_json(failure.details[0], RolloutReport)
        assert report.outcome.value == name.upper()
        assert await status(client, rollout.id) == "FAILED"
        cluster = await failure_of(client.get_workflow_handle(f"{rollout.id}/{eu}"))
        assert cluster.type == "ClusterFailed"
        with pytest.raises(RolloutFailed) as failed:
            await Rollout.get(client, rollout.id).result()
        assert failed.value.report == report


async def test_ids_are_used_once(client: Client, eu: str) -> None:
    """The same id is refused while the rollout runs and after its end: never a second patching."""
    fleet = SimulatedFleet({eu: 1})
    fleet.hold("perform_update")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu))
        await fleet.reached("perform_update")
        with pytest.raises(RolloutExists):
            await here.start(ask(eu), id=rollout.id)
        fleet.release("perform_update")
        await rollout.result()
        with pytest.raises(RolloutExists):
            await here.start(ask(eu), id=rollout.id)
        here.ids = [rollout.id]
    assert fleet.host(f"{eu}-1").version == 2


# Notices


async def test_notices_by_kind(client: Client, eu: str) -> None:
    """Every kind that the policy names is sent, to whom it concerns, and no other."""
    fleet = SimulatedFleet({eu: 2}, faults={f"{eu}-2": RefuseAt("perform_update")})
    policy = RolloutPolicy(notices=NOTICE_KINDS)
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=policy, approvals={"start": START}))
        await fleet.until(lambda: len(fleet.notices) == 1)
        await rollout.approve(by=ALICE)
        await ending(rollout)
        assert [notice.kind for notice in fleet.notices] == [
            "approval_requested",
            "host_started",
            "host_patched",
            "host_started",
            "host_failed",
            "stopped",
            "finished",
        ]
        assert fleet.notices[0].recipients == (ALICE, BOB)
        assert fleet.notices[4].host == f"{eu}-2"
        assert fleet.notices[4].recipients == (CAROL,)
        before = len(fleet.notices)
        only = RolloutPolicy(notices=["host_patched"])
        await here.report(ask(eu, policy=only, only_hosts=[f"{eu}-1"]))
    assert [notice.kind for notice in fleet.notices[before:]] == ["host_patched"]


async def test_dead_notifier(client: Client, eu: str) -> None:
    """A notifier that always fails blocks no host: all are patched, and the report counts what was lost."""
    fleet = SimulatedFleet({eu: 3}, faults={"notify": FailAt("notify", retryable=False)})
    policy = attrs.evolve(ALL_AT_ONCE, notices=NOTICE_KINDS)
    async with site(client, fleet) as here:
        report = await here.report(ask(eu, policy=policy))
    assert report.outcome is Outcome.PATCHED
    assert report.notices_failed >= 6
    assert fleet.notices == ()


async def test_hanging_notifier(env: WorkflowEnvironment, eu: str) -> None:
    """A notifier that never answers holds up no host."""
    fleet = SimulatedFleet({eu: 2})
    fleet.hold("notify")
    policy = RolloutPolicy(notices=NOTICE_KINDS)
    async with site(env.client, fleet) as here:
        rollout = await here.start(ask(eu, policy=policy))
        await fleet.until(lambda: all(host.version == 2 for host in fleet.hosts))
        fleet.release("notify")
        assert (await rollout.result()).outcome is Outcome.PATCHED


# The procedure


class NoUpdate(PatchActivities):
    async def list_hosts(self, query: HostQuery) -> HostList:
        return HostList(hosts=[f"{query.cluster}-1"])

    async def perform_updat(self, task: HostTask) -> StepResult:
        raise AssertionError("never called")


class NoCloser(PatchActivities):
    async def list_hosts(self, query: HostQuery) -> HostList:
        return HostList(hosts=[f"{query.cluster}-1"])

    async def perform_update(self, task: HostTask) -> StepResult:
        raise AssertionError("never called")

    async def stop_services(self, task: HostTask) -> StepResult:
        raise AssertionError("never called")

    async def start_service(self, task: HostTask) -> StepResult:
        raise AssertionError("never called")


@pytest.mark.parametrize(
    ("activities", "workflow", "expected"),
    [
        (
            NoUpdate(),
            QuickFleet,
            [
                "step 'perform_update' has no method of its name in the activities class, did you "
                "mean 'perform_updat'?",
                "method 'perform_updat' takes a HostTask, but no step has its name, did you mean "
                "'perform_update'?",
            ],
        ),
        (
            NoCloser(),
            QuickFleet,
            [
                "step 'stop_services' takes something away, but its closer 'start_services' has no "
                "method in the activities class, did you mean 'start_service'?"
            ],
        ),
        (
            SimulatedFleet({}),
            ExtraStepFleet,
            ["step 'rebuild_initramfs' has no method of its name"],
        ),
    ],
    ids=["update", "closer", "own-step"],
)
async def test_refused_procedure(
    client: Client,
    eu: str,
    activities: PatchActivities,
    workflow: type[Any],
    expected: list[str],
) -> None:
    """A procedure that cannot run is refused before the hosts are listed, with "did you mean"."""
    async with site(client, activities, [workflow]) as here:
        rollout = await here.start(ask(eu), workflow)
        with pytest.raises(InvalidRequest) as refused:
            await rollout.result()
        assert await status(client, f"{rollout.id}/{eu}") == ""
        assert await status(client, rollout.id) == "FAILED"
    for each in expected:
        assert each in str(refused.value)


async def test_typed_parameters(client: Client, eu: str) -> None:
    """Parameters that do not fit the class's type are refused before the hosts are listed."""
    fleet = SimulatedFleet({eu: 1})
    async with site(client, fleet, [TypedFleet]) as here:
        wrong = await here.start(ask(eu, params={"channel": 7, "bild": 1}), TypedFleet)
        with pytest.raises(InvalidRequest) as refused:
            await wrong.result()
        assert await status(client, f"{wrong.id}/{eu}") == ""
        right = await here.start(ask(eu, params={"channel": "stable"}), TypedFleet)
        assert (await right.result()).outcome is Outcome.PATCHED
    assert "'channel' must be a text (got 7) @ $.channel" in str(refused.value)
    assert "extra fields found (bild) @ $" in str(refused.value)


@pytest.mark.provokes_task_failure(
    "without a cache the SDK may drop a task that comes while the workflow is evicted"
)
async def test_release_in_the_middle(client: Client, eu: str) -> None:
    """A release that changes the steps while a rollout runs does not change what that rollout does."""
    fleet = SimulatedFleet({eu: 2})
    own = fleet.implementing(
        "check_preconditions", "perform_update", "rebuild_initramfs", "check_service_health"
    )
    old = fleet.implementing("check_preconditions", "perform_update", "check_service_health")
    fleet.hold("perform_update", f"{eu}-1")
    queue = f"queue-{uuid.uuid4().hex[:8]}"

    def worker(activities: PatchActivities, workflow: type[Any]) -> Worker:
        plugin = PatchingPlugin(activities, workflows=[workflow])
        return Worker(client, task_queue=queue, plugins=[plugin], max_cached_workflows=0)

    async with worker(old, FleetOfTheOldRelease):
        rollout = await Rollout.start(
            client,
            FleetOfTheOldRelease,
            ask(eu, policy=RolloutPolicy()),
            id=f"release-{eu}",
            task_queue=queue,
        )
        await fleet.reached("perform_update", f"{eu}-1")
        fleet.release("perform_update", f"{eu}-1")
        fleet.hold("check_preconditions", f"{eu}-2")
        await fleet.reached("check_preconditions", f"{eu}-2")
    fleet.release("check_preconditions", f"{eu}-2")
    async with worker(own, FleetOfTheNewRelease):
        report = await rollout.result()
        assert report.outcome is Outcome.PATCHED
        again = await Rollout.start(
            client,
            FleetOfTheNewRelease,
            ask(eu, only_hosts=[f"{eu}-1"]),
            id=f"release-{eu}-again",
            task_queue=queue,
        )
        await again.result()
    steps = ("check_preconditions", "perform_update", "check_service_health")
    assert tuple(dict.fromkeys(fleet.steps_of(f"{eu}-2"))) == steps
    assert fleet.steps_of(f"{eu}-1")[-3:] == (
        "check_preconditions",
        "perform_update",
        "rebuild_initramfs",
    )


# Cancelled in each phase


@pytest.mark.parametrize(
    "cached",
    [
        pytest.param(
            0,
            marks=pytest.mark.provokes_task_failure(
                "without a cache the SDK may drop a task that comes while the workflow is evicted"
            ),
        ),
        1000,
    ],
)
@pytest.mark.parametrize("phase", ["listing", "gate", "pilot", "wave", "closing"])
async def test_cancel_in_each_phase(client: Client, eu: str, phase: str, cached: int) -> None:
    """A cancel ends the rollout as RolloutAborted, FAILED, in whatever phase it comes; nothing stays open."""
    fleet = SimulatedFleet({eu: 3}, faults={f"{eu}-2": RefuseAt("run_pre_update_scripts")})
    holds = {
        "listing": ("list_hosts", eu),
        "pilot": ("stop_services", f"{eu}-1"),
        "wave": ("stop_services", f"{eu}-3"),
        "closing": ("start_services", f"{eu}-2"),
    }
    policy = RolloutPolicy(max_parallel="100%", failure_budget=FailureBudget(max_failures=1))
    if phase in holds:
        fleet.hold(*holds[phase])
    approvals = {"start": START} if phase == "gate" else {}
    async with site(client, fleet, max_cached_workflows=cached) as here:
        rollout = await here.start(ask(eu, policy=policy, approvals=approvals))
        if phase in holds:
            await fleet.reached(*holds[phase])
        elif phase == "gate":
            await eventually(lambda: phase_is(rollout, "gate"))
        await rollout.cancel(reason="off")
        if phase == "closing":
            await eventually(lambda: asked_to_cancel(client, f"{rollout.id}/{eu}"))
            fleet.release(*holds[phase])
        failure = await asyncio.wait_for(failure_of(rollout.handle), timeout=50)
    assert failure.type == "RolloutAborted"
    report = from_json(failure.details[0], RolloutReport)
    assert report.outcome is Outcome.ABORTED
    assert "off" in report.reason
    assert fleet.out_of_service == report.left_out_of_service == ()
    if phase in ("listing", "gate"):
        assert fleet.started == ()


async def test_cancel_before_the_procedure_is_known(client: Client, eu: str) -> None:
    """While no worker knows the class the rollout says so, waits, and can be aborted."""
    fleet = SimulatedFleet({eu: 1})
    queue = f"queue-{uuid.uuid4().hex[:8]}"
    async with Worker(
        client, task_queue=queue, workflows=[TypedFleet], plugins=[PatchingPlugin(fleet)]
    ):
        rollout = await Rollout.start(
            client, TypedFleet, ask(eu), id=f"unknown-{eu}", task_queue=queue
        )
        progress = await rollout.progress()
        assert progress.waits_for == "a worker that knows the procedure"
        await rollout.cancel(reason="off")
        failure = await asyncio.wait_for(failure_of(rollout.handle), timeout=30)
        assert await status(client, f"{rollout.id}/{eu}") == ""
    assert failure.type == "RolloutAborted"
    report = from_json(failure.details[0], RolloutReport)
    assert report.reason == "aborted: off"
    assert [each.outcome for each in report.clusters] == [Outcome.ABORTED]


async def asked_to_cancel(client: Client, id: str) -> bool:
    """Whether a workflow has been asked to cancel."""
    wanted = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
    return any(event.event_type == wanted for event in (await history_of(client, id)).events)


# Queries and handlers


async def test_progress_on_three_levels(client: Client, eu: str) -> None:
    """Progress and completed steps of rollout, cluster and host, while it runs and after its end."""
    fleet = SimulatedFleet({eu: 3}, faults={f"{eu}-2": RefuseAt("check_preconditions")})
    fleet.hold("perform_update", f"{eu}-3")
    policy = RolloutPolicy(failure_budget=FailureBudget(max_failures=1))
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=policy))
        await fleet.reached("perform_update", f"{eu}-3")
        progress = await rollout.progress()
        assert progress.phase == "running"
        assert progress.waits_for == f"clusters {eu}"
        assert progress.counts[HostState.PATCHED] == 1
        assert progress.counts[HostState.FAILED] == 1
        cluster = progress.clusters[0]
        assert cluster.phase == "wave 1"
        assert cluster.in_flight == (f"{eu}-3",)
        assert cluster.waits_for == "1 host in flight"
        assert [(each.host, each.reason) for each in cluster.failures] == [
            (f"{eu}-2", "check_preconditions: simulated refusal")
        ]
        host = await rollout.host_progress(f"{eu}-3")
        assert host.step == "perform_update"
        assert host.open == ("set_maintenance_mode", "stop_services")
        assert host.state is None
        done = await rollout.completed_steps(cluster=eu)
        assert done.steps == ("3 hosts listed", f"{eu}-1 PATCHED", "pilots done", f"{eu}-2 FAILED")
        fleet.release("perform_update", f"{eu}-3")
        watched = [each async for each in rollout.watch(every=timedelta(milliseconds=50))]
        report = await ending(rollout)
        after = await rollout.progress()
        ended = await rollout.host_progress(f"{eu}-3")
        steps = await rollout.completed_steps()
    assert watched[-1].outcome is report.outcome is after.outcome is Outcome.PARTIAL
    assert after.counts == report.counts
    assert ended.state is HostState.PATCHED
    assert steps.steps == ("procedure resolved", "plan complete", f"cluster '{eu}' PARTIAL")


async def test_own_handlers(client: Client, eu: str) -> None:
    """A subclass's own update and query work, and an update under way at the end still gets its answer."""
    fleet = SimulatedFleet({eu: 1})
    fleet.hold("perform_update")
    async with site(client, fleet, [NotedFleet]) as here:
        rollout: Rollout[NotedFleet] = await here.start(ask(eu), NotedFleet)
        await fleet.reached("perform_update")
        assert await rollout.handle.execute_update(NotedFleet.note, "first") == 1
        assert await rollout.handle.query(NotedFleet.notes) == ["first"]
        late = [
            await rollout.handle.start_update(
                NotedFleet.note, f"late {n}", wait_for_stage=WorkflowUpdateStage.ACCEPTED
            )
            for n in range(3)
        ]
        fleet.release("perform_update")
        answers = await asyncio.gather(*(each.result() for each in late))
        await rollout.result()
    assert sorted(answers) == [2, 3, 4]


@pytest.mark.provokes_task_failure(
    "without a cache the SDK may drop a task that comes while the workflow is evicted"
)
async def test_in_a_small_cache(client: Client, eu: str) -> None:
    """With room for two workflows in memory a rollout of many goes the same way."""
    fleet = SimulatedFleet({eu: 6}, faults={f"{eu}-4": RefuseAt("perform_update")})
    policy = attrs.evolve(ALL_AT_ONCE, failure_budget=FailureBudget(max_failures=1))
    async with site(client, fleet, max_cached_workflows=2) as here:
        report = await here.report(ask(eu, policy=policy))
    assert report.counts[HostState.PATCHED] == 5
    assert reported(report, f"{eu}-4").state is HostState.FAILED
    assert fleet.out_of_service == ()
