"""Plans, rollouts that touch only the hosts of theirs, and requests for what a rollout left undone."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

from temporal_patching.client import Rollout, _asking, _hosts
from temporal_patching.exceptions import (
    InvalidRequest,
    NotAnswered,
    Refused,
    RolloutFailed,
    RolloutNotFound,
)
from temporal_patching.models import (
    Host,
    HostState,
    Outcome,
    PatchRequest,
    RolloutPlan,
)
from temporal_patching.policy import (
    ApprovalPolicy,
    Calendar,
    DatedPeriod,
    FailureBudget,
    MaintenanceWindows,
    RolloutPolicy,
    Soak,
    Step,
)
from temporal_patching.testing import FailAt, SimulatedFleet, Unreachable
from temporal_patching.worker import PatchingPlugin
from temporal_patching.workflow import (
    ClusterPatchWorkflow,
    HostPatchWorkflow,
    SystemPatchWorkflow,
    _cluster_shown,
)
from tests.rollouts import (
    ALICE,
    ALL_AT_ONCE,
    BOB,
    Site,
    ask,
    ending,
    eventually,
    reported,
    site,
    status,
)
from tests.workflows import QuickFleet

START = ApprovalPolicy(approvers=[ALICE, BOB], timeout=timedelta(hours=4))
TOLERANT = FailureBudget(max_failures="100%", stop_on_failed_wave=False)


@pytest.fixture
def eu() -> str:
    """A cluster's name that no other test has."""
    return f"eu-{uuid.uuid4().hex[:6]}"


@pytest.fixture
def us() -> str:
    """Another cluster's name that no other test has."""
    return f"us-{uuid.uuid4().hex[:6]}"


async def plan_of(here: Site, request: PatchRequest, kind: type[Any] = QuickFleet) -> RolloutPlan:
    """The plan of a request."""
    id = f"plan-{uuid.uuid4().hex[:8]}"
    here.ids.append(id)
    return await Rollout.plan(here.client, kind, request, id=id, task_queue=here.task_queue)


async def test_a_plan_says_what_would_be_done(client: Client, eu: str, us: str) -> None:
    """Hosts by cluster, waves, steps, gates, windows, the least time; and nothing is touched, nobody told."""
    fleet = SimulatedFleet({eu: 12, us: 3})
    always = DatedPeriod(start="2020-01-01T00:00", duration=timedelta(days=3650))
    policy = RolloutPolicy(
        pilot_hosts=1,
        waves=[2, "100%"],
        max_parallel=2,
        rings=[[eu], [us]],
        soak=Soak(duration=timedelta(minutes=10)),
        windows=MaintenanceWindows(
            calendars=[Calendar(time_zone="UTC", dated=[always])],
            host_duration=timedelta(minutes=5),
        ),
    )
    gates = {"ring-2": START, f"promote/{eu}": START, "start": START, "wave-2": START}
    async with site(client, fleet) as here:
        plan = await plan_of(here, ask(eu, us, policy=policy, approvals=gates))
        again = await plan_of(here, ask(eu, us, policy=policy, approvals=gates))
    assert [(each.ring, each.hosts, each.pilots, each.waves) for each in plan.clusters] == [
        (1, 12, 1, (2, 9)),
        (2, 3, 1, (2,)),
    ]
    assert plan.hosts == {
        eu: tuple(f"{eu}-{n}" for n in range(1, 13)),
        us: tuple(f"{us}-{n}" for n in range(1, 4)),
    }
    assert plan.gates == ("start", f"promote/{eu}", "wave-2", "ring-2")
    assert plan.steps[:2] == ("check_preconditions", "run_pre_downtime_scripts")
    assert plan.windows == "open: it does not close in the next 400 days"
    # eu: 1 + 1 + 5 rounds and two soaks; us: 1 + 1 rounds and one soak.
    assert plan.least_duration == timedelta(minutes=7 * 5 + 20 + 2 * 5 + 10)
    assert plan.health == "checked"
    assert len(plan.digest) == 32
    assert [len(each.digest) for each in plan.clusters] == [16, 16]
    assert again.digest == plan.digest
    assert f"{eu} (ring 1): 12 hosts, 1 pilot, waves of 2, 9; 2 at once" in plan.summary
    assert fleet.started == ()
    assert fleet.notices == ()


async def test_the_digest_is_that_of_all_that_is_done(client: Client, eu: str) -> None:
    """Another host, command or policy is another plan; who asks and who agrees is not."""
    async with site(client, SimulatedFleet({eu: 3})) as here:
        request = ask(eu, update_command="upgrade")
        first = (await plan_of(here, request)).digest
        same = attrs.evolve(request, requester=BOB, approvals={"start": START}, max_hosts=9)
        assert (await plan_of(here, same)).digest == first
        for other in (
            attrs.evolve(request, exclude_hosts=[f"{eu}-2"]),
            attrs.evolve(request, update_command="upgrade -y"),
            attrs.evolve(request, policy=attrs.evolve(request.policy, max_parallel=1)),
        ):
            assert (await plan_of(here, other)).digest != first


async def test_a_refused_plan_says_why(client: Client, eu: str) -> None:
    """All its problems, as a rollout would."""
    async with site(client, SimulatedFleet({eu: 3})) as here:
        with pytest.raises(RolloutFailed, match="'max_hosts' is 2") as failed:
            await plan_of(here, ask(eu, max_hosts=2, expect_hosts=9))
    assert "'expect_hosts' is 9" in failed.value.report.reason
    assert failed.value.report.outcome is Outcome.STOPPED


@pytest.mark.parametrize("dry_run", [True, False])
async def test_windows_that_never_open(client: Client, eu: str, dry_run: bool) -> None:
    """A plan that can never start is refused, for this reason, and nobody is asked to approve it."""
    over = DatedPeriod(start="2020-01-01T00:00", duration=timedelta(days=1))
    windows = MaintenanceWindows(calendars=[Calendar(time_zone="UTC", dated=[over])])
    request = ask(eu, policy=attrs.evolve(ALL_AT_ONCE, windows=windows), approvals={"start": START})
    fleet = SimulatedFleet({eu: 1})
    async with site(client, fleet) as here:
        asking = plan_of(here, request) if dry_run else result_of(here, request)
        with pytest.raises(RolloutFailed) as failed:
            await asking
    report = failed.value.report
    assert report.outcome is Outcome.STOPPED
    assert report.reason.startswith(
        "the plan is refused: closed, and no opening in the next 400 days"
    )
    assert report.gates == ()
    assert not any(notice.kind == "approval_requested" for notice in fleet.notices)


async def result_of(here: Site, request: PatchRequest) -> Any:
    """How a rollout ends."""
    return await (await here.start(request)).result()


async def test_windows_that_open_later(client: Client, eu: str) -> None:
    """The plan shows until when they are closed; a dry run does not wait for them."""
    start = datetime.now(timezone.utc) + timedelta(days=2)
    later = DatedPeriod(start=f"{start:%Y-%m-%dT%H:%M}", duration=timedelta(days=1))
    windows = MaintenanceWindows(
        calendars=[Calendar(time_zone="UTC", dated=[later], name="nights")]
    )
    async with site(client, SimulatedFleet({eu: 1})) as here:
        plan = await plan_of(here, ask(eu, policy=attrs.evolve(ALL_AT_ONCE, windows=windows)))
    assert plan.windows.startswith("closed until ")
    assert "nights" in plan.windows


# Who waits for a plan


async def test_a_plan_without_a_worker(
    client: Client, task_queue: str, workflow_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so within a bounded time, and the dry run that nobody wants any more is ended."""
    monkeypatch.setattr(_asking, "PATIENCE", timedelta(seconds=1))
    planning = Rollout.plan(client, QuickFleet, ask("eu-1"), id=workflow_id, task_queue=task_queue)
    with pytest.raises(NotAnswered, match=r"no worker answered .* was ended: plan again"):
        await asyncio.wait_for(planning, timeout=20)
    assert await status(client, workflow_id) == "TERMINATED"


@pytest.mark.provokes_task_failure("the class is not registered")
async def test_a_plan_of_which_nobody_knows_the_class(
    client: Client, task_queue: str, workflow_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that does not know the class can never answer: what is missing is said."""
    monkeypatch.setattr(_asking, "PATIENCE", timedelta(seconds=3))
    async with Worker(
        client, task_queue=task_queue, plugins=[PatchingPlugin(SimulatedFleet({"eu-1": 1}))]
    ):
        planning = Rollout.plan(
            client, QuickFleet, ask("eu-1"), id=workflow_id, task_queue=task_queue
        )
        with pytest.raises(NotAnswered, match="its class among the workflows"):
            await asyncio.wait_for(planning, timeout=30)
    assert await status(client, workflow_id) == "TERMINATED"


async def test_a_long_list_is_waited_for(
    client: Client, eu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that lists for long answers all the time; who cancels the plan ends the dry run."""
    monkeypatch.setattr(_asking, "PATIENCE", timedelta(seconds=2))
    fleet = SimulatedFleet({eu: 2})
    async with site(client, fleet, replays=False) as here:
        for times in (1, 2):
            fleet.hold("list_hosts")
            planning = asyncio.ensure_future(plan_of(here, ask(eu)))
            await fleet.reached("list_hosts", times=times)
            done, _ = await asyncio.wait([planning], timeout=5)
            assert not done
            if times == 1:
                fleet.release("list_hosts")
                assert len((await planning).hosts[eu]) == 2
        planning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await planning
        fleet.release("list_hosts")
        assert await status(client, here.ids[-1]) == "TERMINATED"

        async def is_over() -> bool:
            return await status(client, f"{here.ids[-1]}/{eu}") not in ("", "RUNNING")

        await eventually(is_over)  # its cluster is told by the server, and needs the worker to end


async def test_only_the_hosts_of_the_plan(client: Client, eu: str) -> None:
    """Hosts that came later are left out and reported, those that went are GONE, the order stays."""
    async with site(client, SimulatedFleet({eu: [f"{eu}-{n}" for n in (3, 1, 2)]})) as here:
        plan = await plan_of(here, ask(eu, policy=RolloutPolicy(pilot_hosts=0)))
    now = SimulatedFleet({eu: [f"{eu}-{n}" for n in (4, 2, 3, 5)]})
    async with site(client, now) as here:
        rollout = await here.start(plan.planned)
        report = await ending(rollout)
        shown = await rollout.planned()
    assert now.started == (f"{eu}-3", f"{eu}-2")
    assert report.outcome is Outcome.PARTIAL
    assert report.counts[HostState.PATCHED] == 2
    assert report.counts[HostState.GONE] == 1
    assert reported(report, f"{eu}-1").state is HostState.GONE
    assert report.clusters[0].came_later == 2
    assert (report.came_later, report.came_later_omitted) == ((f"{eu}-4", f"{eu}-5"), 0)
    assert report.summary.endswith("; 2 not in the plan were left out")
    assert report.digest == plan.digest
    assert report.clusters[0].digest == plan.clusters[0].digest
    (outline,) = shown.clusters
    assert (outline.gone, outline.came_later) == (1, (f"{eu}-4", f"{eu}-5"))
    assert "2 not in the plan are left out" in shown.summary
    assert shown.hosts == plan.hosts


@workflow.defn
class WithOneMore(HostPatchWorkflow):
    """A procedure that a release has changed."""

    steps = HostPatchWorkflow.steps.replace(
        Step("check_service_health", start_to_close_timeout=timedelta(minutes=7))
    )


@workflow.defn(name="PlannedFleet")
class Before(SystemPatchWorkflow):
    """Before the release."""


@workflow.defn(name="PlannedFleet")
class After(SystemPatchWorkflow):
    """After the release."""

    host_workflow = WithOneMore


async def test_a_plan_that_is_another_one_by_now_is_refused(client: Client, eu: str) -> None:
    """Steps that changed since are not run: nothing is touched."""
    fleet = SimulatedFleet({eu: 2})
    async with site(client, fleet, workflows=[Before]) as here:
        plan = await plan_of(here, ask(eu), Before)
    async with site(client, fleet, workflows=[After]) as here:
        with pytest.raises(RolloutFailed, match="not the plan of 'plan_digest' any more"):
            await (await here.start(plan.planned, After)).result()
    assert fleet.started == ()


@workflow.defn
class Noisy(ClusterPatchWorkflow):
    """Hooks that act."""

    async def before_cluster(self, request: Any) -> None:
        raise RuntimeError("called")

    def order_hosts(self, hosts: Sequence[Host]) -> Sequence[Host]:
        return tuple(reversed(hosts))


@workflow.defn
class NoisyFleet(SystemPatchWorkflow):
    """Hooks that act."""

    cluster_workflow = Noisy

    async def before_rollout(self, request: PatchRequest) -> None:
        raise RuntimeError("called")


async def test_a_dry_run_calls_no_hook_but_the_order(client: Client, eu: str) -> None:
    """A hook may act; the order of the hosts belongs to the plan."""
    fleet = SimulatedFleet({eu: 2})
    async with site(client, fleet, workflows=[NoisyFleet]) as here:
        plan = await plan_of(here, ask(eu), NoisyFleet)
    assert plan.hosts == {eu: (f"{eu}-2", f"{eu}-1")}


async def test_votes_are_bound_to_the_plan(client: Client, eu: str) -> None:
    """One for another plan is refused, early or not; where the policy says so, each must name it."""
    bound = attrs.evolve(START, bound_to_plan=True, quorum=2)
    other = "f" * 32
    async with site(client, SimulatedFleet({eu: 1})) as here:
        plan = await plan_of(here, ask(eu))
        rollout = await here.start(attrs.evolve(plan.planned, approvals={"start": bound}))
        await eventually(lambda: waits_at(rollout, "start"))
        with pytest.raises(Refused, match="must name the 'digest'"):
            await rollout.approve(by=ALICE)
        with pytest.raises(Refused, match="has voted for another plan"):
            await rollout.approve(by=ALICE, digest=other)
        assert (await rollout.approve(by=ALICE, digest=plan.digest)).digest == plan.digest
        await rollout.approve(by=BOB, digest=plan.digest)
        assert (await ending(rollout)).outcome is Outcome.PATCHED

        fleet_is_listed = attrs.evolve(START, quorum=2)
        rollout = await here.start(ask(eu, approvals={"start": fleet_is_listed}))
        await rollout.handle.signal("approve", {"by": ALICE, "digest": other})
        await eventually(lambda: waits_at(rollout, "start"))
        (gate,) = (await rollout.progress()).gates
        assert gate.votes == ()
        assert gate.refused == 1
        await rollout.approve(by=ALICE, digest=gate.digest)
        await rollout.approve(by=BOB)
        assert (await ending(rollout)).outcome is Outcome.PATCHED


# What a rollout left undone


async def test_the_rest_of_a_rollout(client: Client, eu: str, us: str) -> None:
    """Failed, unreachable, cancelled and never started hosts, and nothing else; then exactly those are patched."""
    faults = {
        f"{eu}-2": FailAt("perform_update", retryable=False),
        f"{eu}-3": Unreachable("check_preconditions"),
        f"{us}-2": FailAt("perform_update", retryable=False),
    }
    fleet = SimulatedFleet({eu: 4, us: 4}, faults=faults)
    policy = RolloutPolicy(
        pilot_hosts=0,
        max_out_of_service=4,
        rings=[[eu], [us]],
        failure_budget=FailureBudget(max_failures=2, stop_on_failed_wave=False),
        total_failure_budget=FailureBudget(max_failures=2),
    )
    gates = {"start": START, "ring-2": START, f"wave-2/{eu}": START}
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, us, policy=policy, approvals=gates))
        await rollout.approve(by=ALICE)
        with pytest.raises(Refused, match="has not ended"):
            await Rollout.rest_of(client, rollout.id)
        await eventually(lambda: waits_at(rollout, "ring-2"))
        await rollout.approve(by=ALICE, gate="ring-2")
        report = await ending(rollout)
        assert report.outcome is Outcome.STOPPED
        request = await Rollout.rest_of(client, rollout.id, requester="dora@example.com")
    assert request.planned_hosts == {
        eu: (f"{eu}-2", f"{eu}-3"),
        us: (f"{us}-2", f"{us}-3", f"{us}-4"),
    }
    assert request.requester == "dora@example.com"
    assert set(request.approvals) == set(gates)
    mended = SimulatedFleet({eu: 4, us: 4})
    async with site(client, mended) as here:
        rollout = await here.start(attrs.evolve(request, approvals={}))
        assert (await ending(rollout)).outcome is Outcome.PATCHED
        with pytest.raises(InvalidRequest, match="nothing is left to do"):
            await Rollout.rest_of(client, rollout.id)
    assert sorted(mended.started) == sorted(
        [name for names in request.planned_hosts.values() for name in names]
    )


async def test_the_rest_begins_with_the_gate_of_its_first_ring(
    client: Client, eu: str, us: str
) -> None:
    """The first ring is done: who guarded the second one is asked before the rest begins, after "start"."""
    fleet = SimulatedFleet({eu: 1, us: 1}, faults={f"{us}-1": FailAt("perform_update")})
    policy = attrs.evolve(ALL_AT_ONCE, rings=[[eu], [us]])
    gates = {"start": START, "ring-2": attrs.evolve(START, approvers=[BOB])}
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, us, policy=policy, approvals=gates))
        await rollout.approve(by=ALICE)
        await rollout.approve(by=BOB, gate="ring-2")
        await ending(rollout)
        request = await Rollout.rest_of(client, rollout.id)
    assert request.policy.rings == ((us,),)
    assert request.approvals == {"start": START, "ring-1": gates["ring-2"]}
    mended = SimulatedFleet({eu: 1, us: 1})
    async with site(client, mended) as here:
        rollout = await here.start(request)
        await rollout.approve(by=ALICE)
        await eventually(lambda: waits_at(rollout, "ring-1"))
        assert mended.started == ()
        await rollout.approve(by=BOB, gate="ring-1")
        assert (await ending(rollout)).outcome is Outcome.PATCHED


async def waits_at(rollout: Rollout[Any], gate: str) -> bool:
    """Whether that gate is open."""
    gates = (await rollout.progress()).gates
    return any(each.gate == gate and each.waiting for each in gates)


async def test_the_rest_of_a_killed_cluster(client: Client, eu: str) -> None:
    """Whoever was in flight is not known to be well: it belongs to the rest."""
    fleet = SimulatedFleet({eu: 3})
    fleet.hold("perform_update", f"{eu}-2")
    async with site(client, fleet, replays=False) as here:
        rollout = await here.start(ask(eu, policy=RolloutPolicy(pilot_hosts=0)))
        await fleet.reached("perform_update", f"{eu}-2")
        await rollout.cluster_handle(eu).terminate("by mistake")
        fleet.release("perform_update", f"{eu}-2")
        assert (await ending(rollout)).outcome is Outcome.STOPPED
        request = await Rollout.rest_of(client, rollout.id)
    assert request.planned_hosts == {eu: (f"{eu}-2", f"{eu}-3")}


async def test_the_rest_of_a_rollout_that_still_ends(client: Client, eu: str) -> None:
    """Terminated, its cluster and its hosts go on for a while: what they leave is not known before they end."""
    fleet = SimulatedFleet({eu: 3})
    fleet.hold("perform_update", f"{eu}-1")
    async with site(client, fleet, replays=False) as here:
        rollout = await here.start(ask(eu, policy=RolloutPolicy(pilot_hosts=0)))
        await fleet.reached("perform_update", f"{eu}-1")
        await rollout.handle.terminate("by mistake")
        with pytest.raises(Refused, match=f"cluster '{eu}' of .* still works"):
            await Rollout.rest_of(client, rollout.id)
        cluster = rollout.cluster_handle(eu)
        await cluster.terminate("by mistake, too")
        with pytest.raises(Refused, match=f"{eu}-1 of cluster '{eu}' of .* still works"):
            await Rollout.rest_of(client, rollout.id)
        fleet.release("perform_update", f"{eu}-1")
        await rollout.host_handle(f"{eu}-1").result()
        request = await Rollout.rest_of(client, rollout.id)
    assert request.planned_hosts == {eu: (f"{eu}-1", f"{eu}-2", f"{eu}-3")}


async def test_the_rest_after_retention(
    client: Client, eu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster that the server has forgotten is named; no host is taken for done or for left."""
    async with site(client, SimulatedFleet({eu: 1})) as here:
        rollout = await here.start(ask(eu))
        await ending(rollout)
        monkeypatch.setattr(_hosts, "cluster_workflow_id", lambda id, name: f"{id}/gone-{name}")
        with pytest.raises(RolloutNotFound, match=f"cluster '{eu}' of .* retention is over"):
            await Rollout.rest_of(client, rollout.id)


async def test_the_rest_of_nothing(client: Client, eu: str) -> None:
    """No such rollout, or its retention is over: it is said, and not taken for an empty rest."""
    with pytest.raises(RolloutNotFound, match="retention is over"):
        await Rollout.rest_of(client, f"never-{eu}")


async def test_a_large_cluster_is_read_in_pages(
    client: Client, eu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More hosts than one page: each is there, once, in order; and a request that is too large is refused."""
    monkeypatch.setattr(_cluster_shown, "PAGE", 1_000)
    names = [f"{eu}-{n}" for n in range(4_400)]
    fleet = SimulatedFleet({eu: names}, page_size=1_000)
    async with site(client, fleet) as here:
        plan = await plan_of(here, ask(eu, policy=ALL_AT_ONCE))
        assert list(plan.hosts[eu]) == names
        rollout = await here.start(attrs.evolve(plan.planned, approvals={"start": START}))
        await rollout.reject(by=ALICE)
        assert (await ending(rollout)).outcome is Outcome.REJECTED
        rest = await Rollout.rest_of(client, rollout.id)
        assert list(rest.planned_hosts[eu]) == names
        too_many = {f"c{n}": [f"{n}-{'x' * 200}-{m}" for m in range(800)] for n in range(10)}
        large = ask(*too_many, planned_hosts=too_many)
        with pytest.raises(InvalidRequest, match="split it by cluster"):
            await Rollout.start(
                client, QuickFleet, large, id=f"large-{eu}", task_queue=here.task_queue
            )
