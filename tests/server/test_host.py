"""One host, through real rollouts: whatever fails or is cancelled, it is given back or named."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from datetime import timedelta

import attrs
import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from temporal_patching.models import HostResult, HostState, RolloutReport
from temporal_patching.models._wire import from_json
from temporal_patching.policy import DEFAULT_STEPS, Outcome, RebootWhen
from temporal_patching.testing import (
    Already,
    DoneButLost,
    FailAt,
    Fault,
    Hang,
    LiesAboutBoot,
    NeedsReboot,
    NotNeeded,
    RefuseAt,
    SimulatedFleet,
    Unchanged,
    Unreachable,
)
from temporal_patching.workflow import gather
from tests.rollouts import (
    ALICE,
    ALL_AT_ONCE,
    ask,
    children_of,
    ending,
    eventually,
    history_of,
    reported,
    site,
    status,
)
from tests.workflows import (
    EndlessFleet,
    ExtraStepFleet,
    ImpatientFleet,
    LocalStepFleet,
    OwnRunFleet,
    PatientFleet,
    QuickFleet,
)

WITHOUT_REBOOT = tuple(name for name in DEFAULT_STEPS.names if name != "reboot")
BEFORE_THE_UPDATE = DEFAULT_STEPS.names[: DEFAULT_STEPS.names.index("perform_update")]


@pytest.fixture
def eu() -> str:
    """A cluster's name that no other test has."""
    return f"eu-{uuid.uuid4().hex[:6]}"


def same_out_of_service(fleet: SimulatedFleet, reports: Sequence[RolloutReport]) -> None:
    """Every host that does not serve is named in a report, and no other one is."""
    named = sorted(name for report in reports for name in report.left_out_of_service)
    assert named == sorted(fleet.out_of_service)


async def test_default_procedure(client: Client, eu: str) -> None:
    """A host goes through the steps in order; no step is left out but the reboot nobody needs."""
    fleet = SimulatedFleet({eu: 1})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu))
        report = await rollout.result()
        assert await status(client, f"patch-host/{eu}-1") == "COMPLETED"
        done = await rollout.completed_steps(host=f"{eu}-1")
    assert report.outcome is Outcome.PATCHED
    assert report.counts[HostState.PATCHED] == 1
    assert report.health == "checked"
    assert fleet.steps_of(f"{eu}-1") == done.steps == WITHOUT_REBOOT
    assert fleet.out_of_service == ()
    assert fleet.host(f"{eu}-1").version == 2


async def test_what_is_not_implemented_is_not_scheduled(client: Client, eu: str) -> None:
    """Only what the activities class has is run, and the report says that health is not checked."""
    fleet = SimulatedFleet({eu: 1})
    async with site(client, fleet.implementing("check_preconditions", "perform_update")) as here:
        report = await here.report(ask(eu))
    assert report.outcome is Outcome.PATCHED
    assert report.health == "not checked"
    assert fleet.steps_of(f"{eu}-1", "began") == ("check_preconditions", "perform_update")


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("kind", "positions"), [(RefuseAt, (1, 2, 3)), (FailAt, (2,))], ids=["refuse", "fail"]
)
async def test_failure_at_every_step_and_position(
    client: Client, eu: str, kind: type[FailAt | RefuseAt], positions: tuple[int, ...]
) -> None:
    """Whichever step fails on whichever host: it is FAILED, siblings are given back, all else named."""
    cases = {
        f"{eu}-{step.replace('_', '-')}-{position}": (step, position)
        for step in WITHOUT_REBOOT
        for position in positions
    }
    fleet = SimulatedFleet(
        dict.fromkeys(cases, 3),
        faults={f"{name}-{position}": kind(step) for name, (step, position) in cases.items()},
    )
    async with site(client, fleet, sandboxed=False) as here:
        reports = dict(
            zip(
                cases,
                await gather(*[here.report(ask(name)) for name in cases], limit=6),
                strict=True,
            )
        )
        statuses = {
            host.name: await status(client, f"patch-host/{host.name}") for host in fleet.hosts
        }
    same_out_of_service(fleet, list(reports.values()))
    for name, (step, position) in cases.items():
        report = reports[name]
        assert report.outcome is Outcome.STOPPED, (name, report)
        broken = reported(report, f"{name}-{position}")
        assert broken.state is HostState.FAILED
        assert broken.reason.startswith(f"{step}: simulated"), broken
        assert statuses[broken.host] == "FAILED"
        assert sum(report.counts.values()) == 3
        held = step in ("start_services", "check_service_health", "clear_maintenance_mode")
        assert (broken.left_out is not None) == held, broken
        began = step not in BEFORE_THE_UPDATE
        assert ("perform_update" in fleet.steps_of(broken.host, "began")) == began
        for other in {1, 2, 3} - {position}:
            sibling = f"{name}-{other}"
            assert fleet.host(sibling).serves
            patched = fleet.host(sibling).version == 2
            state = HostState.PATCHED if patched else HostState.CANCELLED
            assert all(each.state is state for each in report.hosts if each.host == sibling)
            assert statuses[sibling] in (
                {"COMPLETED"} if patched else {"CANCELED", ""}  # "": cancelled before it started
            )


@pytest.mark.timeout(240)
async def test_cancel_at_every_step(client: Client, eu: str) -> None:
    """A cancel before the update restores the host; from the update on the host goes to its end."""
    cases = {f"{eu}-{step.replace('_', '-')}": step for step in DEFAULT_STEPS.names}
    fleet = SimulatedFleet(dict.fromkeys(cases, 2))
    policy = attrs.evolve(ALL_AT_ONCE, reboot="always")
    for name, step in cases.items():
        fleet.hold(step, f"{name}-1")

    async with site(client, fleet, sandboxed=False) as here:

        async def cancelled(name: str, step: str) -> RolloutReport:
            rollout = await here.start(ask(name, policy=policy))
            await fleet.reached(step, f"{name}-1", timeout=timedelta(seconds=120))
            await rollout.cancel(reason="the change is off")
            if step not in BEFORE_THE_UPDATE:
                await eventually(lambda: asked(name))
                fleet.release(step, f"{name}-1")
            report = await ending(rollout)
            assert await status(client, rollout.id) == "FAILED"
            assert await status(client, f"{rollout.id}/{name}") == "FAILED"
            return report

        async def asked(name: str) -> bool:
            history = await history_of(client, f"patch-host/{name}-1")
            return any(
                event.HasField("workflow_execution_cancel_requested_event_attributes")
                for event in history.events
            )

        reports = dict(
            zip(
                cases,
                await asyncio.gather(*(cancelled(*case) for case in cases.items())),
                strict=True,
            )
        )
        statuses = {name: await status(client, f"patch-host/{name}-1") for name in cases}
    assert fleet.out_of_service == ()
    for name, step in cases.items():
        report, host = reports[name], f"{name}-1"
        assert report.outcome is Outcome.ABORTED
        assert "the change is off" in report.reason
        assert report.left_out_of_service == ()
        if step in BEFORE_THE_UPDATE:
            assert reported(report, host).state is HostState.CANCELLED
            assert "the change is off" in reported(report, host).reason
            assert statuses[name] == "CANCELED"
            assert fleet.steps_of(host, "cancelled") == (step,)
            assert fleet.host(host).version == 1
        else:
            assert statuses[name] == "COMPLETED", (name, report)
            assert fleet.host(host).version == 2
            assert fleet.steps_of(host)[-1] == "clear_maintenance_mode"


@pytest.mark.parametrize(
    ("policy", "faults", "state", "reboots"),
    [
        ("never", [], HostState.PATCHED, 0),
        ("never", [NeedsReboot()], HostState.REBOOT_PENDING, 0),
        ("if_needed", [], HostState.PATCHED, 0),
        ("if_needed", [NeedsReboot()], HostState.PATCHED, 1),
        ("always", [], HostState.PATCHED, 1),
        ("always", [LiesAboutBoot()], HostState.FAILED, 0),
        ("always", [DoneButLost("reboot")], HostState.PATCHED, 1),
    ],
)
async def test_reboot(
    client: Client,
    eu: str,
    policy: RebootWhen,
    faults: list[Fault],
    state: HostState,
    reboots: int,
) -> None:
    """The policy decides whether a host reboots; only a new boot id proves that it did."""
    fleet = SimulatedFleet({eu: 1}, faults={f"{eu}-1": faults})
    async with site(client, fleet) as here:
        report = await here.report(ask(eu, policy=attrs.evolve(ALL_AT_ONCE, reboot=policy)))
    assert report.counts[state] == 1, report
    assert fleet.host(f"{eu}-1").boot_id == f"boot-{1 + reboots}"
    assert fleet.out_of_service == ()
    if state is HostState.FAILED:
        assert "the reboot is not proven: the boot id is still" in report.hosts[0].reason


async def test_single_faults(client: Client, eu: str) -> None:
    """Each kind of fault ends in the state that says what is so, in one rollout each."""
    cases: dict[str, tuple[Fault, Outcome, HostState]] = {
        "not-needed": (NotNeeded(), Outcome.PATCHED, HostState.UNCHANGED),
        "unchanged": (Unchanged(), Outcome.PATCHED, HostState.UNCHANGED),
        "unreachable": (Unreachable("stop_services"), Outcome.STOPPED, HostState.UNREACHABLE),
        "unreachable-once": (
            Unreachable("stop_services", times=1),
            Outcome.PATCHED,
            HostState.PATCHED,
        ),
        "final": (FailAt("perform_update", retryable=False), Outcome.STOPPED, HostState.FAILED),
        "lost-update": (DoneButLost("perform_update"), Outcome.PATCHED, HostState.PATCHED),
        "lost-stop": (DoneButLost("stop_services", times=None), Outcome.STOPPED, HostState.FAILED),
    }
    fleet = SimulatedFleet(
        {f"{eu}-{name}": 1 for name in cases},
        faults={f"{eu}-{name}-1": fault for name, (fault, _, _) in cases.items()},
    )
    async with site(client, fleet) as here:
        reports = await asyncio.gather(*(here.report(ask(f"{eu}-{name}")) for name in cases))
    for (name, (_, outcome, state)), report in zip(cases.items(), reports, strict=True):
        assert report.outcome is outcome, (name, report)
        assert report.counts[state] == 1, (name, report)
    assert fleet.out_of_service == ()
    attempts = {
        name: [
            each.attempt
            for each in fleet.log
            if each.host == f"{eu}-{name}-1"
            and each.what != "began"
            and each.step == "perform_update"
        ]
        for name in cases
    }
    assert attempts["not-needed"] == []
    assert attempts["final"] == [1]
    assert attempts["lost-update"] == [1, 2]
    keys = {
        each.key
        for each in fleet.log
        if each.host == f"{eu}-lost-update-1" and each.step == "perform_update"
    }
    assert [key.split("/", 1)[1] for key in keys] == [f"{eu}-lost-update-1/perform_update/1"]
    # A taking step whose answer is lost may have acted: it is closed, too.
    assert fleet.steps_of(f"{eu}-lost-stop-1")[-2:] == ("start_services", "clear_maintenance_mode")


async def test_not_needed_touches_nothing(client: Client, eu: str) -> None:
    """A host that needs nothing is UNCHANGED after its preconditions; no other step runs."""
    fleet = SimulatedFleet({eu: 1}, faults={f"{eu}-1": NotNeeded()})
    async with site(client, fleet) as here:
        report = await here.report(ask(eu))
    assert report.outcome is Outcome.PATCHED
    assert fleet.steps_of(f"{eu}-1", "began") == ("check_preconditions",)


@pytest.mark.parametrize("breaks", [None, "perform_update"])
async def test_maintenance_that_we_did_not_set_stays(
    client: Client, eu: str, breaks: str | None
) -> None:
    """A host that was in maintenance before us is neither put there nor returned, also if it fails."""
    faults: list[Fault] = [Already("set_maintenance_mode")]
    if breaks is not None:
        faults.append(RefuseAt(breaks))
    fleet = SimulatedFleet({eu: 1}, faults={f"{eu}-1": faults})
    async with site(client, fleet) as here:
        report = await here.report(ask(eu))
    assert report.outcome is (Outcome.PATCHED if breaks is None else Outcome.STOPPED)
    assert {"set_maintenance_mode", "clear_maintenance_mode"} & {
        *fleet.steps_of(f"{eu}-1", "began")
    } == set()
    assert not fleet.host(f"{eu}-1").in_service
    assert fleet.host(f"{eu}-1").services_running
    assert report.left_out_of_service == ()  # we did not leave it out


async def test_unhealthy_host_is_held(client: Client, eu: str) -> None:
    """After an update that failed an unhealthy host gets its services, but does not return; it is named."""
    fleet = SimulatedFleet(
        {eu: 1},
        faults={f"{eu}-1": [RefuseAt("run_post_update_scripts"), RefuseAt("check_service_health")]},
    )
    async with site(client, fleet) as here:
        report = await here.report(ask(eu))
        with pytest.raises(WorkflowFailureError) as failed:
            await client.get_workflow_handle(f"patch-host/{eu}-1").result()
    host = reported(report, f"{eu}-1")
    assert host.state is HostState.FAILED
    assert host.reason == "run_post_update_scripts: simulated refusal"
    assert host.left_out == "set_maintenance_mode: held: not healthy"
    assert report.left_out_of_service == fleet.out_of_service == (f"{eu}-1",)
    assert fleet.host(f"{eu}-1").services_running
    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == "HostFailed"
    assert from_json(cause.details[0], HostResult).left_out == host.left_out


async def test_healthy_host_returns_after_a_failed_update(client: Client, eu: str) -> None:
    """After an update that failed a healthy host returns to service, in the order: services, health."""
    fleet = SimulatedFleet({eu: 1}, faults={f"{eu}-1": RefuseAt("perform_update")})
    async with site(client, fleet) as here:
        report = await here.report(ask(eu))
    assert fleet.steps_of(f"{eu}-1")[-3:] == (
        "start_services",
        "check_service_health",
        "clear_maintenance_mode",
    )
    assert report.left_out_of_service == fleet.out_of_service == ()


async def test_without_a_health_check_a_failed_update_is_held(client: Client, eu: str) -> None:
    """Nothing says that a host with half an update may return, so it does not."""
    steps = ("set_maintenance_mode", "clear_maintenance_mode", "perform_update")
    fleet = SimulatedFleet({eu: 1}, faults={f"{eu}-1": RefuseAt("perform_update")})
    async with site(client, fleet.implementing(*steps)) as here:
        report = await here.report(ask(eu))
    assert report.left_out_of_service == fleet.out_of_service == (f"{eu}-1",)
    left_out = reported(report, f"{eu}-1").left_out
    assert left_out is not None
    assert "no health check" in left_out


@pytest.mark.parametrize("closer", ["start_services", "clear_maintenance_mode"])
async def test_closer_that_fails_is_named(client: Client, eu: str, closer: str) -> None:
    """What could not be given back is named with the reason; the other closers still run."""
    fleet = SimulatedFleet(
        {eu: 1}, faults={f"{eu}-1": [RefuseAt("wait_for_workload_drain"), RefuseAt(closer)]}
    )
    async with site(client, fleet) as here:
        report = await here.report(ask(eu))
    host = reported(report, f"{eu}-1")
    assert host.reason == "wait_for_workload_drain: simulated refusal"
    assert f"{closer} failed: simulated refusal" in (host.left_out or "")
    assert report.left_out_of_service == fleet.out_of_service == (f"{eu}-1",)
    other = {"start_services", "clear_maintenance_mode"} - {closer}
    assert other <= {*fleet.steps_of(f"{eu}-1")}


async def test_step_that_timed_out_is_closed(client: Client, eu: str) -> None:
    """An attempt that timed out may have acted: its closer runs, and the reason says timed out."""
    fleet = SimulatedFleet({eu: 1}, faults={f"{eu}-1": Hang("stop_services")})
    async with site(client, fleet, [ImpatientFleet]) as here:
        report = await here.report(ask(eu), ImpatientFleet)
    assert reported(report, f"{eu}-1").reason.startswith(
        "stop_services: timed out (start_to_close)"
    )
    assert fleet.steps_of(f"{eu}-1")[-2:] == ("start_services", "clear_maintenance_mode")
    assert fleet.out_of_service == ()


async def test_own_steps(client: Client, eu: str) -> None:
    """A step of one's own runs where it was put; a local step runs, too."""
    fleet = SimulatedFleet({eu: 1, f"{eu}-local": 1})
    own = fleet.implementing("check_preconditions", "perform_update", "rebuild_initramfs")
    async with site(client, own, [ExtraStepFleet]) as here:
        assert (await here.report(ask(eu), ExtraStepFleet)).outcome is Outcome.PATCHED
    async with site(client, fleet, [LocalStepFleet]) as here:
        report = await here.report(ask(f"{eu}-local"), LocalStepFleet)
    assert report.outcome is Outcome.PATCHED, report
    assert fleet.steps_of(f"{eu}-1") == (
        "check_preconditions",
        "perform_update",
        "rebuild_initramfs",
    )
    assert fleet.steps_of(f"{eu}-local-1") == WITHOUT_REBOOT


async def test_own_run(client: Client, eu: str) -> None:
    """Classes with a `run` of their own work, on all three levels."""
    fleet = SimulatedFleet({eu: 2})
    async with site(client, fleet, [OwnRunFleet]) as here:
        report = await here.report(ask(eu), OwnRunFleet)
    assert report.outcome is Outcome.PATCHED


async def test_hooks_that_wait(client: Client, eu: str) -> None:
    """Hooks may await, on all three levels."""
    fleet = SimulatedFleet({eu: 2})
    async with site(client, fleet, [PatientFleet]) as here:
        report = await here.report(ask(eu), PatientFleet)
    assert report.outcome is Outcome.PATCHED


@pytest.mark.parametrize("level", ["host", "cluster", "rollout"])
async def test_hook_that_swallows_a_cancel(client: Client, eu: str, level: str) -> None:
    """A cancel is not lost in a hook that catches it: nothing is touched, the rollout is aborted."""
    cluster = f"{eu}-slow-cluster" if level == "cluster" else eu
    host = f"{cluster}-slow" if level == "host" else f"{cluster}-1"
    fleet = SimulatedFleet({cluster: [host]})
    params = {"slow": True} if level == "rollout" else {}
    async with site(client, fleet, [PatientFleet]) as here:
        rollout = await here.start(ask(cluster, params=params), PatientFleet)
        waits = {
            "host": f"patch-host/{host}",
            "cluster": f"{rollout.id}/{cluster}",
            "rollout": rollout.id,
        }

        async def in_the_hook() -> bool:
            if await status(client, waits[level]) != "RUNNING":
                return False
            history = await history_of(client, waits[level])
            return any(
                event.timer_started_event_attributes.start_to_fire_timeout.seconds == 60
                for event in history.events
            )

        await eventually(in_the_hook)
        await rollout.cancel(reason="off")
        report = await ending(rollout)
    assert report.outcome is Outcome.ABORTED
    assert fleet.started == ()
    expected = HostState.CANCELLED if level == "host" else HostState.NOT_STARTED
    assert level == "rollout" or report.counts[expected] == 1


@pytest.mark.parametrize("level", ["host", "cluster", "rollout"])
async def test_hook_that_never_ends(client: Client, eu: str, level: str) -> None:
    """It holds up its own workflow only, which is seen in the progress, until somebody aborts."""
    well, stuck = f"{eu}-well", f"{eu}-endless-cluster" if level == "cluster" else eu
    host = f"{stuck}-endless-host" if level == "host" else f"{stuck}-1"
    fleet = SimulatedFleet({well: 1, stuck: [host]})
    params = {"endless": True} if level == "rollout" else {}
    async with site(client, fleet, [EndlessFleet]) as here:
        rollout = await here.start(ask(well, stuck, params=params), EndlessFleet)

        async def only_that_one_waits() -> bool:
            if level == "rollout":
                return await status(client, rollout.id) == "RUNNING"
            progress = await rollout.progress()
            phases = {each.cluster: each for each in progress.clusters}
            if level == "host" and phases[stuck].in_flight != (host,):
                return False
            return level == "cluster" or progress.counts[HostState.PATCHED] == 1

        await eventually(only_that_one_waits)
        assert (await rollout.progress()).phase != "ended"
        await rollout.abort(by=ALICE, reason="its hook does not end")
        report = await ending(rollout)
    assert report.outcome is Outcome.ABORTED
    assert host not in fleet.started
    assert fleet.out_of_service == report.left_out_of_service == ()


async def test_terminated_host(client: Client, eu: str) -> None:
    """A host whose workflow was killed is FAILED for that reason and named; its sibling is given back."""
    fleet = SimulatedFleet({eu: 2})
    fleet.hold("wait_for_workload_drain")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu))
        await fleet.reached("wait_for_workload_drain", times=2)
        await client.get_workflow_handle(f"patch-host/{eu}-1").terminate("by hand")
        report = await ending(rollout)
        assert await status(client, f"patch-host/{eu}-2") == "CANCELED"
    lost = reported(report, f"{eu}-1")
    assert lost.state is HostState.FAILED
    assert "ended without a report" in lost.reason
    assert "unknown" in (lost.left_out or "")
    assert report.left_out_of_service == fleet.out_of_service == (f"{eu}-1",)
    assert reported(report, f"{eu}-2").state is HostState.CANCELLED


async def test_host_cancelled_by_somebody_else(client: Client, eu: str) -> None:
    """A host that somebody cancels by its id is restored and CANCELLED; the rollout goes on, PARTIAL."""
    fleet = SimulatedFleet({eu: 2})
    fleet.hold("stop_services", f"{eu}-1")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu))
        await fleet.reached("stop_services", f"{eu}-1")
        await client.get_workflow_handle(f"patch-host/{eu}-1").cancel()
        report = await ending(rollout)
    assert report.outcome is Outcome.PARTIAL
    assert report.counts[HostState.PATCHED] == 1
    assert reported(report, f"{eu}-1").state is HostState.CANCELLED
    assert fleet.out_of_service == ()


@pytest.mark.provokes_task_failure(
    "without a cache the SDK may drop a task that comes while the workflow is evicted"
)
async def test_in_memory_of_no_worker(client: Client, eu: str) -> None:
    """Without a cache, where every task replays the whole history, it goes the same way."""
    fleet = SimulatedFleet({eu: 2}, faults={f"{eu}-2": RefuseAt("perform_update")})
    async with site(client, fleet, max_cached_workflows=0) as here:
        report = await here.report(ask(eu))
    assert reported(report, f"{eu}-2").state is HostState.FAILED
    assert fleet.out_of_service == ()


async def test_ids_and_summaries(client: Client, eu: str) -> None:
    """Children have ids and summaries that an operator understands."""
    fleet = SimulatedFleet({eu: 1})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu))
        await rollout.result()
        clusters = children_of(await history_of(client, rollout.id))
        hosts = children_of(await history_of(client, f"{rollout.id}/{eu}"))
        said = [
            await (await client.get_workflow_handle(id).describe()).static_summary()
            for id in (rollout.id, f"{rollout.id}/{eu}", f"patch-host/{eu}-1")
        ]
    assert [id for id, _ in clusters] == [f"{rollout.id}/{eu}"]
    assert [id for id, _ in hosts] == [f"patch-host/{eu}-1"]
    assert said == [
        f"patch {eu} for carol@example.com",
        f"cluster {eu} of {rollout.id}",
        f"{eu}-1 in {eu}",
    ]


def test_quick_fleet_is_the_default_procedure() -> None:
    """What these tests run is the default procedure with other timeouts."""
    assert QuickFleet.host_workflow.steps.names == DEFAULT_STEPS.names
