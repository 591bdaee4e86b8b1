"""Whatever a hook or an activity raises: the workflow ends, no task of it fails, the worker survives."""

from __future__ import annotations

import asyncio
import gc
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_patching.activity import Checkpoint, PatchActivities
from temporal_patching.exceptions import InvalidRequest
from temporal_patching.models import (
    HostList,
    HostQuery,
    HostState,
    HostTask,
    RolloutReport,
    StepResult,
)
from temporal_patching.policy import ApprovalPolicy, FailureBudget, Outcome, RolloutPolicy
from temporal_patching.testing import SimulatedFleet
from temporal_patching.workflow import gather
from tests.raising import NOTABLE, RAISABLE, at, named_after
from tests.rollouts import ALICE, Site, ask, ending, eventually, site
from tests.workflows import (
    BrokenInitFleet,
    CausedFleet,
    CollectingFleet,
    NotedFleet,
    PatientFleet,
    QuickFleet,
    RaisingFleet,
)

TOLERANT = RolloutPolicy(
    pilot_hosts=0,
    max_parallel=40,
    max_out_of_service="100%",
    failure_budget=FailureBudget(max_failures="100%", stop_on_failed_wave=False),
    stop_scope="cluster",
)


class Raising(PatchActivities):
    """Hosts that raise in their update, asynchronously or in a thread, what they are named after."""

    def __init__(self, clusters: dict[str, list[str]]) -> None:
        self.clusters = clusters

    async def list_hosts(self, query: HostQuery) -> HostList:
        return HostList(hosts=self.clusters[query.cluster])

    async def perform_update(self, task: HostTask) -> StepResult:
        at("perform_update", task.host)
        return StepResult(changed=True)

    def check_preconditions(self, task: HostTask) -> StepResult:
        at("check_preconditions", task.host)
        return StepResult()


@pytest.fixture
def tag() -> str:
    """What makes names unique."""
    return uuid.uuid4().hex[:6]


async def survives(here: Site, tag: str) -> None:
    """The worker still patches."""
    report = await here.report(ask(f"{tag}-well", policy=TOLERANT), RaisingFleet)
    assert report.outcome is Outcome.PATCHED


def well(tag: str) -> dict[str, list[str]]:
    """A cluster in which nothing is raised."""
    return {f"{tag}-well": [f"{tag}-well-1"]}


def test_the_walk_finds_what_matters() -> None:
    """The walk over all exception classes has found the dangerous ones, and many others."""
    assert set(NOTABLE) <= set(RAISABLE)
    assert len(RAISABLE) > 150


@pytest.mark.timeout(180)
@pytest.mark.parametrize("place", ["before_host", "perform_update", "check_preconditions"])
async def test_raised_at_a_host(client: Client, tag: str, place: str) -> None:
    """Whatever class is raised there, the host is FAILED with a reason, and the rollout goes on."""
    hosts = [f"{tag}-{name}" for name in named_after(place)]
    activities = Raising({tag: hosts, **well(tag)})
    async with site(client, activities, [RaisingFleet], sandboxed=False) as here:
        report = await asyncio.wait_for(
            here.report(ask(tag, policy=TOLERANT), RaisingFleet), timeout=150
        )
        await survives(here, tag)
    failed = report.counts[HostState.FAILED] + report.counts[HostState.UNREACHABLE]
    assert failed == len(hosts), report.summary
    assert all(host.reason.startswith(f"{place}: ") for host in report.hosts)
    assert report.left_out_of_service == ()


class Returning(PatchActivities):
    """Hosts whose update answers what they are named after; clusters likewise."""

    ANSWERS: ClassVar[dict[str, Any]] = {
        "none": None,
        "text": "ok",
        "true": True,
        "dict": {"ok": True},
        "list": HostList(hosts=["a"]),
        "class": StepResult,
    }

    async def list_hosts(self, query: HostQuery) -> HostList:
        tag, _, name = query.cluster.partition("-")
        if name:
            answer: HostList = self.ANSWERS[name]
            return answer
        return HostList(hosts=[f"{tag}-{each}" for each in self.ANSWERS])

    def perform_update(self, task: HostTask) -> StepResult:
        answer: StepResult = self.ANSWERS[task.host.partition("-")[2]]
        return answer


async def test_an_activity_that_returns_something_else(client: Client, tag: str) -> None:
    """The host has failed, or the plan is refused; the reason names the method, and what it returned."""
    async with site(client, Returning()) as here:
        report = await here.report(ask(tag, policy=TOLERANT))
        unlisted = await here.report(ask(f"{tag}-text", policy=TOLERANT))
    assert report.counts[HostState.FAILED] == len(Returning.ANSWERS)
    said = {host.host.partition("-")[2]: host.reason for host in report.hosts}
    for name, answer in Returning.ANSWERS.items():
        wanted = f"'perform_update' must return a StepResult (got {type(answer).__name__})"
        assert wanted in said[name], said[name]
    assert unlisted.outcome is Outcome.STOPPED
    assert "'list_hosts' must return a HostList (got str)" in unlisted.reason


class Stubborn(PatchActivities):
    """A host whose services stop all the same, whoever cancels that."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.done: list[str] = []
        self.began = asyncio.Event()

    async def list_hosts(self, query: HostQuery) -> HostList:
        return HostList(hosts=[self.host])

    async def stop_services(self, task: HostTask) -> StepResult:
        self.began.set()
        with suppress(asyncio.CancelledError):
            async with Checkpoint(int, default=0, heartbeat_every=timedelta(milliseconds=100)):
                await asyncio.Event().wait()
        self.done.append("stop_services")
        return StepResult(changed=True)

    async def start_services(self, task: HostTask) -> StepResult:
        self.done.append("start_services")
        return StepResult(changed=True)

    async def perform_update(self, task: HostTask) -> StepResult:
        raise AssertionError("it was aborted before")


async def test_an_activity_that_swallows_a_cancel(client: Client, tag: str) -> None:
    """It has ended when it ends, and counts so: what it took is given back, and nothing comes after it."""
    activities = Stubborn(f"{tag}-1")
    async with site(client, activities) as here:
        rollout = await here.start(ask(tag))
        await activities.began.wait()
        await rollout.abort(by=ALICE)
        report = await ending(rollout)
    assert report.outcome is Outcome.ABORTED
    assert report.counts[HostState.CANCELLED] == 1
    assert activities.done == ["stop_services", "start_services"]
    assert report.left_out_of_service == ()


@pytest.mark.timeout(180)
async def test_raised_after_a_host(client: Client, tag: str) -> None:
    """Whatever class is raised after a host is done, it is patched all the same."""
    hosts = [f"{tag}-{name}" for name in named_after("after_host", *NOTABLE)]
    activities = Raising({tag: hosts, **well(tag)})
    async with site(client, activities, [RaisingFleet], sandboxed=False) as here:
        report = await asyncio.wait_for(
            here.report(ask(tag, policy=TOLERANT), RaisingFleet), timeout=150
        )
        await survives(here, tag)
    assert report.counts[HostState.PATCHED] == len(hosts), report.summary


@pytest.mark.timeout(180)
@pytest.mark.parametrize("place", ["before_cluster", "after_cluster", "order_hosts"])
async def test_raised_at_a_cluster(client: Client, tag: str, place: str) -> None:
    """What is raised before a cluster starts refuses the plan, by name; afterwards it changes nothing."""
    names = [f"{tag}-{name}" for name in named_after(place, *NOTABLE)]
    clusters = {name: [name] for name in names}
    activities = Raising({**clusters, **well(tag)})
    async with site(client, activities, [RaisingFleet], sandboxed=False) as here:
        reports = await asyncio.wait_for(
            gather(
                *[here.report(ask(name, policy=TOLERANT), RaisingFleet) for name in names], limit=8
            ),
            timeout=150,
        )
        await survives(here, tag)
    for name, report in zip(names, reports, strict=True):
        if place == "after_cluster":
            assert report.outcome is Outcome.PATCHED, report
            assert report.clusters[0].reason.startswith("after_cluster: ")
        else:
            assert report.outcome is Outcome.STOPPED
            assert report.reason.startswith(f"the plan is refused: cluster '{name}': "), report
            assert report.counts[HostState.PATCHED] == 0


@pytest.mark.timeout(180)
async def test_raised_before_a_rollout(client: Client, tag: str) -> None:
    """Whatever class is raised before a rollout starts, it fails, with the class's name, untouched."""
    names = named_after("before_rollout", *NOTABLE)
    activities = Raising(well(tag))
    async with site(client, activities, [RaisingFleet], sandboxed=False) as here:

        async def failed(name: str) -> str:
            rollout = await here.start(ask(f"{tag}-well", update_command=name), RaisingFleet)
            with pytest.raises((WorkflowFailureError, InvalidRequest)) as refused:
                await rollout.result()
            return type(refused.value).__name__

        await asyncio.wait_for(gather(*[failed(name) for name in names], limit=20), timeout=150)
        await survives(here, tag)


@pytest.mark.timeout(120)
async def test_raised_after_a_rollout(client: Client, tag: str) -> None:
    """What is raised after a rollout stands in the report's reason; the outcome stays."""
    names = named_after("after_rollout", *NOTABLE)
    activities = Raising({f"{tag}-{n}": [f"{tag}-{n}-1"] for n in range(len(names))} | well(tag))
    async with site(client, activities, [RaisingFleet], sandboxed=False) as here:

        async def report(n: int, name: str) -> RolloutReport:
            request = ask(f"{tag}-{n}")
            return await ending(await here.start(request, RaisingFleet, id=f"{tag}-{name}"))

        reports = await gather(*[report(n, name) for n, name in enumerate(names)], limit=8)
        await survives(here, tag)
    for each in reports:
        assert each.outcome is Outcome.PATCHED
        assert each.reason.startswith("after_rollout: "), each


@activity.defn
async def breaks() -> None:
    """An activity of a hook's own."""
    raise ApplicationError("the activity's words", type="Broken")


async def test_causes_are_kept(client: Client, tag: str) -> None:
    """A failure arrives with its causes, an activity's with what the activity said."""
    async with site(client, Raising(well(tag)), [CausedFleet], activities=[breaks]) as here:

        async def failure(update_command: str) -> BaseException:
            request = ask(f"{tag}-well", update_command=update_command)
            rollout = await here.start(request, CausedFleet)
            with pytest.raises(WorkflowFailureError) as failed:
                await rollout.result()
            return failed.value.cause

        raised, broken = await failure(""), await failure("breaks")
    assert isinstance(raised, ApplicationError)
    assert (raised.type, raised.message) == ("ValueError", "outer")
    assert "inner" in str(raised.cause)
    assert isinstance(broken, ActivityError)
    assert "the activity's words" in str(broken.cause)


RUBBISH: list[tuple[list[Any], str]] = [
    ([], "takes exactly one PatchRequest (got 0 arguments)"),
    ([1, 2], "takes exactly one PatchRequest (got 2 arguments)"),
    (["rubbish"], "must be an object with the fields of PatchRequest"),
    ([{"clusters": [], "requester": 5, "nope": 1}], "extra fields found (nope) @ $"),
]


@pytest.mark.parametrize("fleet", [QuickFleet, NotedFleet])
async def test_rubbish_ends_the_workflow(client: Client, tag: str, fleet: type[Any]) -> None:
    """Wrong arity and rubbish end the workflow with a message, also with an own `__init__`."""
    async with site(client, Raising(well(tag)), [fleet]) as here:

        async def said(arguments: Sequence[Any]) -> str:
            id = f"{tag}-{uuid.uuid4().hex[:6]}"
            here.ids.append(id)
            handle: Any = await client.start_workflow(
                fleet.__name__, args=arguments, id=id, task_queue=here.task_queue
            )
            with pytest.raises(WorkflowFailureError) as failed:
                await asyncio.wait_for(handle.result(), timeout=20)
            cause = failed.value.cause
            assert isinstance(cause, ApplicationError)
            assert cause.type == "InvalidRequest"
            return cause.message

        messages = await asyncio.gather(*(said(arguments) for arguments, _ in RUBBISH))
    for message, (_, expected) in zip(messages, RUBBISH, strict=True):
        assert expected in message


async def test_a_bug_in_the_constructor(client: Client, tag: str) -> None:
    """What a class's own `__init__` raises fails the workflow with it."""
    async with site(client, Raising(well(tag)), [BrokenInitFleet]) as here:
        rollout = await here.start(ask(f"{tag}-well"), BrokenInitFleet)
        with pytest.raises(WorkflowFailureError) as failed:
            await asyncio.wait_for(rollout.result(), timeout=20)
    assert "a bug in the constructor" in str(failed.value.cause)


async def test_a_workflow_that_is_thrown_away_is_quiet(
    client: Client, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that ends drops its workflows; whoever runs when they are collected does not notice."""
    unraisable: list[object] = []
    gc.collect()
    gc.disable()  # so that they are collected where the second rollout says so
    try:
        async with site(client, SimulatedFleet({tag: 1}), [PatientFleet], replays=False) as here:
            at_hook = await here.start(ask(tag, params={"slow": True}), PatientFleet)
            gate = ApprovalPolicy(approvers=[ALICE], timeout=timedelta(hours=1))
            at_gate = await here.start(ask(tag, approvals={"start": gate}), PatientFleet)

            async def waits() -> bool:
                return (await at_gate.progress()).phase == "gate"

            await eventually(waits)
        monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
        fleet = SimulatedFleet(well(tag))
        async with site(client, fleet, [CollectingFleet], sandboxed=False) as there:
            report = await there.report(ask(f"{tag}-well"), CollectingFleet)
    finally:
        gc.enable()
    for left in (at_hook, at_gate):
        await client.get_workflow_handle(left.id).terminate()
    assert report.outcome is Outcome.PATCHED
    assert [str(each) for each in unraisable] == []


@pytest.mark.parametrize("signal", ["cluster_update", "orders", "approve", "reject"])
async def test_rubbish_signals_are_ignored(client: Client, tag: str, signal: str) -> None:
    """Signals with rubbish, wrong arity or from nobody's cluster neither hang nor steer anything."""
    stray: list[list[Any]] = [[], [1, 2], ["rubbish"], [{"sequence": "first"}]]
    if signal == "cluster_update":
        stray.append([{"sequence": 99, "progress": {"cluster": "nobody"}, "planned": True}])
    fleet = SimulatedFleet({tag: 1})
    fleet.hold("perform_update")
    async with site(client, fleet, [QuickFleet]) as here:
        rollout = await here.start(ask(tag))
        await fleet.reached("perform_update")
        target = f"{rollout.id}/{tag}" if signal == "orders" else rollout.id
        for arguments in stray:
            await client.get_workflow_handle(target).signal(signal, args=arguments)
        fleet.release("perform_update")
        report = await rollout.result()
    assert report.outcome is Outcome.PATCHED
