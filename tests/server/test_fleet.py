"""The simulated fleet and what it judges by, in rollouts on a real server."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from temporalio.client import Client, WorkflowHistory
from temporalio.testing import WorkflowEnvironment

from temporal_patching.activity import PatchActivities
from temporal_patching.client import Rollout
from temporal_patching.models import HostList, HostQuery, HostState, HostTask, Outcome, StepResult
from temporal_patching.policy import FailureBudget, RolloutPolicy
from temporal_patching.testing import (
    Coverage,
    Delayed,
    DoneButLost,
    Doubled,
    Fault,
    InvariantsBroken,
    LiesAboutSuccess,
    NotNeeded,
    RefuseAt,
    RequestLost,
    SimulatedFleet,
    Slow,
    check_invariants,
    some_faults,
)
from tests.rollouts import (
    ALICE,
    ask,
    children_of,
    continuation_of,
    ending,
    history_of,
    reported,
    site,
)
from tests.workflows import LimitedFleet, QuickFleet

ROOT = Path(__file__).parents[2]


@pytest.fixture
def eu() -> str:
    """A cluster's name that no other test has."""
    return f"eu-{uuid.uuid4().hex[:6]}"


async def histories(client: Client, id: str) -> list[WorkflowHistory]:
    """Those of a rollout, of its clusters and of its hosts."""
    found: list[WorkflowHistory] = []
    left: list[tuple[str, str | None]] = [(id, None)]
    while left:
        each, run_id = left.pop()
        found.append(await history_of(client, each, run_id))
        left += [*children_of(found[-1]), *continuation_of(found[-1], each)]
    return found


class Careless(PatchActivities):
    """Somebody's own activities: they count what they did, and do it again when asked again."""

    def __init__(self, hosts: list[str]) -> None:
        self._hosts = hosts
        self.updates: list[str] = []

    async def list_hosts(self, query: HostQuery) -> HostList:
        return HostList(hosts=self._hosts)

    async def set_maintenance_mode(self, task: HostTask) -> StepResult:
        return StepResult(changed=True)

    def perform_update(self, task: HostTask) -> StepResult:
        self.updates.append(f"{task.host}#{task.attempt}")
        return StepResult(changed=True)

    async def clear_maintenance_mode(self, task: HostTask) -> StepResult:
        return StepResult(changed=True)


async def test_around_somebodys_own_activities(client: Client, eu: str) -> None:
    """Faults around a user's class find what is not careful in it; the truth log judges the report."""
    names = [f"{eu}-{n}" for n in (1, 2, 3)]
    faults: dict[str, Fault] = {
        names[0]: DoneButLost("perform_update"),
        names[1]: Doubled("perform_update"),
        names[2]: LiesAboutSuccess(),
    }
    fleet, theirs = SimulatedFleet({eu: 3}, faults=faults), Careless(names)
    async with site(client, fleet.around(theirs)) as here:
        report = await here.report(ask(eu))
        found = await histories(client, here.ids[-1])
    assert sorted(theirs.updates) == [
        *(f"{names[0]}#1", f"{names[0]}#2"),
        *(f"{names[1]}#1", f"{names[1]}#1"),
    ]
    assert report.counts[HostState.PATCHED] == 3  # nobody looks at the host after the update
    with pytest.raises(InvariantsBroken, match=rf"S9 {names[2]} at .* is as it was: 3 .* really 2"):
        check_invariants(fleet, report, found)


class Distrustful(PatchActivities):
    """Somebody's own activities: after the update they look which version the host really has."""

    def __init__(self, fleet: SimulatedFleet, hosts: list[str]) -> None:
        self._fleet, self._hosts = fleet, hosts

    async def list_hosts(self, query: HostQuery) -> HostList:
        return HostList(hosts=self._hosts)

    async def perform_update(self, task: HostTask) -> StepResult:
        return StepResult(changed=True)

    async def check_service_health(self, task: HostTask) -> StepResult:
        version = self._fleet.host(task.host).version
        return StepResult(ok=version == 2, message=f"version {version}")


async def test_who_looks_finds_a_host_that_lies(client: Client, eu: str) -> None:
    """An update that answers, and has not been: the host has failed, and the report is as good as the truth."""
    names = [f"{eu}-{n}" for n in (1, 2)]
    fleet = SimulatedFleet({eu: 2}, faults={names[1]: LiesAboutSuccess()})
    async with site(client, fleet.around(Distrustful(fleet, names))) as here:
        report = await here.report(ask(eu))
        found = await histories(client, here.ids[-1])
    assert report.counts[HostState.PATCHED] == 1
    assert reported(report, names[1]).state is HostState.FAILED
    assert "version 1" in reported(report, names[1]).reason
    check_invariants(fleet, report, found)


@pytest.mark.provokes_task_failure("the worker is killed")
async def test_served_to_a_worker_that_is_killed(
    dev: WorkflowEnvironment, client: Client, eu: str, task_queue: str
) -> None:
    """The truth outlives the worker; what it had asked for is fenced off when the next attempt has begun."""
    fleet = SimulatedFleet({eu: 2})
    first = f"{eu}-1"
    fleet.hold("perform_update", first)
    temporal = client.service_client.config.target_host
    async with fleet.served() as address:
        async with worker_process(temporal, task_queue, address) as doomed:
            rollout = await Rollout.start(
                client, QuickFleet, ask(eu), id=f"rollout-{eu}", task_queue=task_queue
            )
            await fleet.reached("perform_update", first)
            doomed.kill()
            await doomed.wait()
        async with worker_process(temporal, task_queue, address):
            await fleet.reached("perform_update", first, times=2)
            fleet.release("perform_update", first)
            report = await ending(rollout)
    assert report.outcome is Outcome.PATCHED
    assert [host.version for host in fleet.hosts] == [2, 2]
    assert fleet.steps_of(first, "failed") == ("perform_update",)
    assert fleet.steps_of(first).count("perform_update") == 1
    check_invariants(fleet, report, await histories(client, rollout.id))


async def test_steps_that_end_at_their_limit(client: Client, unique: str) -> None:
    """Just before it, at it, just after it: one outcome counts for each host, and it is what was done."""
    milliseconds = [100, *range(1900, 2080, 20), 3000]  # the limit is two seconds
    hosts = {f"{unique}-{each}": timedelta(milliseconds=each) for each in milliseconds}
    faults = {name: Slow("perform_update", duration=each) for name, each in hosts.items()}
    fleet = SimulatedFleet({unique: list(hosts)}, faults=faults)
    policy = RolloutPolicy(
        pilot_hosts=0,
        max_parallel="100%",
        max_out_of_service="100%",
        failure_budget=FailureBudget(max_failures="100%", stop_on_failed_wave=False),
    )
    async with site(client, fleet, [LimitedFleet], replays=False) as here:
        rollout = await here.start(ask(unique, policy=policy), LimitedFleet)
        report = await ending(rollout)
        check_invariants(fleet, report, await histories(client, rollout.id))
    failed = {each.host: each for each in report.hosts}
    assert f"{unique}-100" not in failed
    assert f"{unique}-3000" in failed
    assert report.counts[HostState.PATCHED] + report.counts[HostState.FAILED] == len(hosts)
    for host in fleet.hosts:
        if host.name in failed:
            assert "timed out (start_to_close)" in failed[host.name].reason
        else:
            assert host.version == 2
            assert host.in_service


@asynccontextmanager
async def worker_process(
    temporal: str, task_queue: str, fleet: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker in a process of its own, killed at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.server.fleet_worker", temporal, task_queue, fleet,
        stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_batch_in_which_much_goes_wrong(client: Client) -> None:
    """Nothing is broken in rollouts with faults by chance, a pause in mid-step and an abort; all were met."""
    coverage = Coverage()
    policy = RolloutPolicy(
        pilot_hosts=1,
        waves=["40%", "100%"],
        max_parallel=2,
        pilot_budget=FailureBudget(max_failures=1),
        failure_budget=FailureBudget(max_failures=1),
    )
    unique = uuid.uuid4().hex[:6]

    async def one(number: int, faults: dict[str, tuple[Fault, ...]], verb: str) -> None:
        cluster = f"eu-{unique}-{number}"
        named = {name.replace("eu", cluster): some for name, some in faults.items()}
        fleet = SimulatedFleet({cluster: 5}, seed=number, faults=named)
        third = f"{cluster}-3"
        fleet.hold("stop_services", third)
        async with site(client, fleet, replays=False) as here:
            rollout = await here.start(ask(cluster, policy=policy))
            if verb:
                await fleet.reached("stop_services", third)
            if verb == "pause":
                await rollout.pause(by=ALICE, after="step")
            fleet.release("stop_services", third)
            if verb == "pause":
                await rollout.resume(by=ALICE)
            if verb == "abort":
                await rollout.abort(by=ALICE)
            report = await ending(rollout)
            found = await histories(client, rollout.id)
        check_invariants(fleet, report, found, canaries=["a secret that nobody has"])
        coverage.add(fleet, report, found)

    known: dict[str, tuple[Fault, ...]] = {
        "eu-1": (NotNeeded(),),
        "eu-2": (RequestLost("perform_update"),),
        "eu-4": (RefuseAt("perform_update"),),
        "eu-5": (RefuseAt("check_preconditions"),),
    }
    chance = some_faults(14, {"eu": 5}, weights={Slow: 0, Delayed: 0})
    await asyncio.gather(
        one(1, known, ""), one(2, {}, "pause"), one(3, {}, "abort"), one(4, chance, "")
    )
    coverage.require(
        *(NotNeeded, RequestLost, RefuseAt),
        *(HostState.PATCHED, HostState.UNCHANGED, HostState.FAILED, HostState.NOT_STARTED),
        *(Outcome.STOPPED, Outcome.ABORTED, Outcome.PATCHED),
        *("budget exceeded", "paused in mid-step", "attempt repeated"),
    )


async def test_the_judge_is_not_blind(client: Client, eu: str) -> None:
    """A true report passes; the same one, improved by hand, does not."""
    fleet = SimulatedFleet({eu: 2}, faults={f"{eu}-1": RefuseAt("check_service_health")})
    async with site(client, fleet) as here:
        report = await here.report(ask(eu))
        found = await histories(client, here.ids[-1])
    assert reported(report, f"{eu}-1").left_out is not None
    check_invariants(fleet, report, found)
    better = attrs.evolve(report, left_out_of_service=())
    with pytest.raises(InvariantsBroken, match=rf"S8 {eu}-1 at .*: out of service since"):
        check_invariants(fleet, better, found)
