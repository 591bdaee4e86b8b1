"""Rehearsals: weeks of a user's rollout in seconds, the worker dead at every step, and bugs that are found."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from itertools import count
from typing import Any

import attrs
import pytest
import pytest_asyncio
from temporalio.testing import WorkflowEnvironment

from temporal_patching.activity import PatchActivities
from temporal_patching.client import Rollout
from temporal_patching.exceptions import InvalidRequest, Refused
from temporal_patching.models import (
    HostList,
    HostQuery,
    HostState,
    HostTask,
    Outcome,
    PatchRequest,
    StepResult,
)
from temporal_patching.policy import (
    ApprovalPolicy,
    Calendar,
    DatedPeriod,
    FailureBudget,
    MaintenanceWindows,
    RolloutPolicy,
    Soak,
)
from temporal_patching.testing import (
    Approve,
    Coverage,
    FailAt,
    InvariantsBroken,
    LiesAboutSuccess,
    RefuseAt,
    Rehearsal,
    RehearsalFailed,
    Rehearser,
    Reject,
    SimulatedFleet,
    Slow,
    Steer,
    rehearse,
    start_environment,
)
from temporal_patching.workflow import SystemPatchWorkflow
from tests.server import rehearsed
from tests.server.rehearsed import (
    BlockingFleet,
    DriftingFleet,
    ForbiddenFleet,
    PatchWebFleet,
    RaisingFleet,
    ShortFleet,
)

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ALICE, BOB, CAROL = "alice@example.com", "bob@example.com", "carol@example.com"
GATE = ApprovalPolicy(approvers=[ALICE, BOB], timeout=3 * DAY)

# The machine may be busy: these bounds only keep a test from hanging.
PATIENCE = timedelta(seconds=240)
pytestmark = pytest.mark.timeout(300)


@pytest_asyncio.fixture(scope="module")
async def rehearsing() -> AsyncIterator[Rehearser]:
    """One server for the rehearsals of this module: its clock is not the suite's."""
    async with await start_environment() as environment:
        yield Rehearser(environment)


def ask(*, clusters: tuple[str, ...] = ("eu-1",), **policy: object) -> PatchRequest:
    """A request with gates at the start and after the pilots."""
    return PatchRequest(
        clusters=clusters,
        requester=CAROL,
        policy=attrs.evolve(RolloutPolicy(pilot_hosts=1, max_parallel=2), **policy),
        approvals={"start": GATE, "promote": GATE},
    )


async def _abort(rollout: Rollout[Any]) -> object:
    return await rollout.abort(by=BOB)


async def _pause_and_resume(rollout: Rollout[Any]) -> None:
    await rollout.pause(by=BOB)
    await rollout.resume(by=BOB)


SICK_AT_NOTHING = SimulatedFleet({"eu-1": 1}, faults={"eu-1-1": FailAt("perfrom_update")})

BOTH = (Approve(by=ALICE, after=3 * HOUR), Approve(by=BOB, gate="promote", after=DAY))


# Weeks in seconds


@pytest.mark.smoke
async def test_three_weeks(rehearsing: Rehearser) -> None:
    """Soaks of a week and votes after hours: all is there, in the order and at the moments of workflow time."""
    fleet = SimulatedFleet({"eu-1": 5})
    request = ask(waves=["40%", "100%"], soak=Soak(duration=7 * DAY))
    began = time.monotonic()
    seen = await rehearsing(PatchWebFleet, request, fleet, people=BOTH, patience=PATIENCE)
    assert time.monotonic() - began < PATIENCE.total_seconds()
    assert seen.report.counts[HostState.PATCHED] == 5
    assert 3 * HOUR + 7 * DAY + DAY + 7 * DAY <= seen.took < 15 * DAY + 5 * HOUR
    votes = [each for each in seen.audit.records if each.what.startswith("approve")]
    assert [each.by for each in votes] == [ALICE, BOB]
    assert timedelta(0) <= votes[0].at - (seen.began + 3 * HOUR) < timedelta(minutes=5)
    assert len(seen.histories) == 1 + 1 + 5
    assert seen.undone == ()
    seen.assert_patched()
    seen.assert_in_service()
    seen.assert_order("set_maintenance_mode", "perform_update", "rebuild_index")
    seen.assert_at_most(2, "out of service")
    seen.assert_at_most(2, "in flight", cluster="eu-1")


async def test_a_window_that_opens_next_month() -> None:
    """It begins when it is told to, and no host starts before the window does."""
    begin = datetime.now(timezone.utc) + 30 * DAY
    opens = (begin + 2 * DAY).replace(second=0, microsecond=0)
    period = DatedPeriod(start=opens.strftime("%Y-%m-%dT%H:%M"), duration=4 * HOUR)
    windows = MaintenanceWindows(calendars=[Calendar(time_zone="UTC", dated=[period])])
    request = PatchRequest(
        clusters=["eu-1"], requester=CAROL, policy=RolloutPolicy(windows=windows)
    )
    fleet = SimulatedFleet({"eu-1": 2})
    seen = await rehearse(PatchWebFleet, request, fleet, begin=begin, patience=PATIENCE)
    assert timedelta(0) <= seen.began - begin < timedelta(minutes=5)
    first = next(each for each in fleet.log if each.step == "perform_update")
    assert first.when is not None
    assert opens <= first.when < opens + timedelta(minutes=5)


# People


async def test_people_reject_steer_and_come_too_late(rehearsing: Rehearser) -> None:
    """A pause in mid-step and a resume a day later; a vote that nobody waits for is told."""
    fleet = SimulatedFleet({"eu-1": 3})
    request = attrs.evolve(ask(), approvals={"start": GATE, "wave-9": GATE})
    seen = await rehearsing(
        PatchWebFleet,
        request,
        fleet,
        people=[
            Approve(by=ALICE),
            Steer(lambda rollout: rollout.pause(by=BOB), at="perform_update", host="eu-1-1"),
            Steer(lambda rollout: rollout.resume(by=ALICE), at=2 * DAY),
            Approve(by=BOB, gate="wave-9"),
        ],
        patience=PATIENCE,
    )
    assert 2 * DAY <= seen.took < 2 * DAY + HOUR
    verbs = [each.what.split()[0] for each in seen.audit.records if each.by != "policy"]
    assert verbs == ["approve", "pause", "resume"]
    assert [str(each) for each in seen.undone] == [f"{BOB} approves 'wave-9'"]


async def test_limits_are_changed_on_the_way(rehearsing: Rehearser) -> None:
    """What people widened is allowed: the judge knows their verbs on this server, too."""
    wider = Steer(lambda rollout: rollout.set_limits(by=BOB, max_parallel=3), at="perform_update")
    request = PatchRequest(
        clusters=["eu-1"], requester=CAROL, policy=RolloutPolicy(pilot_hosts=3, max_parallel=1)
    )
    fleet = SimulatedFleet({"eu-1": 3})
    seen = await rehearsing(PatchWebFleet, request, fleet, people=[wider], patience=PATIENCE)
    with pytest.raises(AssertionError, match="at most 1 in flight"):
        seen.assert_at_most(1, "in flight")
    coverage = Coverage()
    pause = Steer(_pause_and_resume, at="perform_update")
    fleet = SimulatedFleet({"eu-1": 1})
    seen = await rehearsing(PatchWebFleet, request, fleet, people=[pause], patience=PATIENCE)
    coverage.add(fleet, seen.report, seen.histories)
    coverage.require("paused in mid-step")


async def test_a_reject_and_nobody(rehearsing: Rehearser) -> None:
    """Who rejects ends it, and where nobody votes it expires: nothing is touched."""
    for people, outcome, took in (
        ([Reject(by=BOB, after=HOUR)], Outcome.REJECTED, HOUR),
        ([], Outcome.EXPIRED, 3 * DAY),
    ):
        fleet = SimulatedFleet({"eu-1": 2})
        seen = await rehearsing(PatchWebFleet, ask(), fleet, people=people, patience=PATIENCE)
        assert seen.report.outcome is outcome
        assert took <= seen.took < took + HOUR
        seen.assert_untouched()
        with pytest.raises(AssertionError, match=rf"not patched \({outcome.value}\):\n  eu-1-1 "):
            seen.assert_patched()


async def test_who_may_not_vote_is_told(rehearsing: Rehearser) -> None:
    """A vote that does not count ends the rehearsal: the script is wrong, or the policy."""
    with pytest.raises(Refused, match="carol"):
        await rehearsing(
            PatchWebFleet,
            ask(),
            SimulatedFleet({"eu-1": 1}),
            people=[Approve(by=CAROL)],
            patience=PATIENCE,
        )


# The worker dies


def _told(seen: Rehearsal) -> object:
    """A report without what differs from run to run: ids, moments, digests."""
    report = seen.report
    return (
        report.outcome,
        dict(report.counts),
        [(each.host, each.state, each.reason) for each in report.hosts],
        report.left_out_of_service,
    )


async def test_the_worker_dies_at_every_step(rehearsing: Rehearser) -> None:
    """Twice at each step, and the rollout reports the same as if nothing had been, a failure included."""
    faults = {"eu-1-2": RefuseAt("check_service_health")}
    policy = {"failure_budget": FailureBudget(max_failures=1), "soak": Soak(duration=DAY)}
    told = []
    for crash_at in ((), "every step"):
        fleet = SimulatedFleet({"eu-1": 2}, faults=faults)
        seen = await rehearsing(
            PatchWebFleet,
            ask(**policy),
            fleet,
            people=BOTH,
            crash_at=crash_at,
            patience=PATIENCE,
        )
        told.append(_told(seen))
    assert told[0] == told[1]
    died = {(each.step, each.edge) for each in seen.crashes}
    steps = {each.step for each in fleet.log}
    assert died >= {
        (step, edge) for step in steps - {"notify", "reboot"} for edge in ("before", "after")
    }
    assert fleet.host("eu-1-1").version == 2  # updated once, though it was asked for three times
    with pytest.raises(
        AssertionError, match=r"eu-1-2: set_maintenance_mode took it out at .*the report names it"
    ):
        seen.assert_in_service()
    with pytest.raises(AssertionError, match="eu-1-2: clear_maintenance_mode was not done"):
        seen.assert_order("perform_update", "clear_maintenance_mode")


# Bugs in what users write


@pytest.mark.parametrize("crash_at", [(), "list_hosts"])
async def test_a_workflow_that_is_not_deterministic(
    rehearsing: Rehearser, crash_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end, when its history is replayed, or when the worker dies: the message says what that means."""
    monkeypatch.setattr(rehearsed, "RUNS", count())
    with pytest.raises(
        RehearsalFailed, match=r"DriftingFleet 'rehearsal-\w+' is not deterministic"
    ):
        await rehearsing(
            DriftingFleet,
            PatchRequest(clusters=["eu-1"], requester=CAROL),
            SimulatedFleet({"eu-1": 1}),
            crash_at=crash_at,
            patience=PATIENCE,
        )


async def test_a_hook_that_raises(rehearsing: Rehearser) -> None:
    """It cannot spoil the rollout, and the report says which hook, and what it raised."""
    seen = await rehearsing(
        RaisingFleet,
        PatchRequest(clusters=["eu-1"], requester=CAROL),
        SimulatedFleet({"eu-1": 1}),
        patience=PATIENCE,
    )
    assert "after_rollout: KeyError" in seen.report.reason


@pytest.mark.parametrize(
    ("fleet_workflow", "said"),
    [
        (
            ForbiddenFleet,
            r"ended without a report: .*RestrictedWorkflowAccessError: Cannot access threading",
        ),
        (BlockingFleet, r"a workflow task of BlockingFleet 'rehearsal-\w+' failed, .*deadlock"),
    ],
)
async def test_what_no_workflow_may_do(
    rehearsing: Rehearser, fleet_workflow: type[SystemPatchWorkflow], said: str
) -> None:
    """It fails the workflow, or a workflow task: the rehearsal ends at once, and says which and why."""
    with pytest.raises(RehearsalFailed, match=said):
        await rehearsing(
            fleet_workflow,
            PatchRequest(clusters=["eu-1"], requester=CAROL),
            SimulatedFleet({"eu-1": 1}),
            patience=PATIENCE,
        )


async def test_a_restore_that_does_nothing(rehearsing: Rehearser) -> None:
    """A step that says it gave the host back and did not: the invariants, and the question, name it."""
    request = PatchRequest(clusters=["eu-1"], requester=CAROL)
    faults = {"eu-1-1": LiesAboutSuccess("clear_maintenance_mode")}
    fleet = SimulatedFleet({"eu-1": 1}, faults=faults)
    with pytest.raises(InvariantsBroken, match="eu-1-1"):
        await rehearsing(PatchWebFleet, request, fleet, patience=PATIENCE)
    fleet = SimulatedFleet({"eu-1": 1}, faults=faults)
    seen = await rehearsing(PatchWebFleet, request, fleet, invariants=False, patience=PATIENCE)
    assert seen.report.outcome is Outcome.PATCHED
    with pytest.raises(
        AssertionError,
        match=r"eu-1-1: set_maintenance_mode took it out at 00:0.*the report does not say so",
    ):
        seen.assert_in_service()


class OwnHosts(PatchActivities):
    """Their class: it does not have the step that their workflow asks for."""

    async def list_hosts(self, query: HostQuery) -> HostList:
        raise AssertionError("a class is not called")

    async def perform_update(self, task: HostTask) -> StepResult:
        raise AssertionError("a class is not called")


async def test_a_step_without_its_method(rehearsing: Rehearser) -> None:
    """With their activities class only the steps that it implements are there, so a missing one is found."""
    with pytest.raises(InvalidRequest, match="rebuild_index"):
        await rehearsing(
            PatchWebFleet,
            PatchRequest(clusters=["eu-1"], requester=CAROL),
            SimulatedFleet({"eu-1": 1}),
            activities=OwnHosts,
            patience=PATIENCE,
        )


# It never hangs, and is never taken for more


async def test_it_ends_in_time(rehearsing: Rehearser) -> None:
    """A rollout that waits for ever, and a step that runs for ever: it ends, and says where it stood."""
    pause = Steer(lambda rollout: rollout.pause(by=BOB), at=timedelta(0))
    request = PatchRequest(clusters=["eu-1"], requester=CAROL)
    with pytest.raises(RehearsalFailed, match=r"not ended after 10 days, 0:00:00 of workflow time"):
        await rehearsing(
            PatchWebFleet,
            attrs.evolve(ask(), approvals={"start": GATE}, policy=RolloutPolicy()),
            SimulatedFleet({"eu-1": 2}),
            people=[
                Approve(by=ALICE, after=HOUR),
                attrs.evolve(pause, at="perform_update"),
            ],
            within=10 * DAY,
            patience=PATIENCE,
        )
    with pytest.raises(
        RehearsalFailed, match=r"real time \('patience'\): 'perform_update' runs on"
    ):
        await rehearsing(
            PatchWebFleet,
            request,
            SimulatedFleet({"eu-1": 1}, faults={"eu-1-1": Slow("perform_update", duration=HOUR)}),
            patience=timedelta(seconds=12),
        )
    with pytest.raises(RehearsalFailed, match=r"0:00:03 of workflow time .*It was still going on"):
        await rehearsing(
            PatchWebFleet,
            request,
            SimulatedFleet(
                {"eu-1": 1},
                faults={"eu-1-1": Slow("perform_update", duration=timedelta(seconds=4))},
            ),
            within=timedelta(seconds=3),
            patience=PATIENCE,
        )
    # And nothing of them is left: the same hosts are free.
    seen = await rehearsing(PatchWebFleet, request, SimulatedFleet({"eu-1": 2}), patience=PATIENCE)
    seen.assert_patched()


async def test_another_server_is_refused(dev: WorkflowEnvironment) -> None:
    """A rehearsal runs on a time-skipping server only, where nobody patches a real host."""
    with pytest.raises(InvalidRequest, match="'environment' must be a time-skipping one"):
        await rehearse(
            PatchWebFleet,
            PatchRequest(clusters=["eu-1"], requester=CAROL),
            SimulatedFleet({"eu-1": 1}),
            environment=dev,
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"crash_at": "perform_updates"}, "'crash_at' names 'perform_updates'.*did you mean"),
        ({"people": [Approve(by=ALICE, gate="promotte")]}, "'promotte'.*did you mean 'promote'"),
        ({"people": [Steer(_abort, at=-DAY)]}, "'at' must not be"),
        (
            {"people": [Steer(_abort, at="perform_updat")]},
            "'at' names 'perform_updat'.*did you mean",
        ),
        ({"people": [Steer(_abort, at="reboot", host="eu-1-9")]}, "'host' names 'eu-1-9'"),
        ({"people": Approve(by=ALICE)}, "'people' must be a list"),
        ({"people": ["alice"]}, "'people' must be Approve, Reject or Steer"),
        ({"crash_at": -1}, "'crash_at' must be names of steps, or 'every step' .got -1"),
        ({"crash_at": [2]}, "'crash_at' names 2, which is no step"),
        ({"within": timedelta(0)}, "'within' must be a timedelta > 0"),
        ({"patience": 60}, "'patience' must be a timedelta > 0 .got 60"),
        ({"workflow": PatchWebFleet.host_workflow}, "'workflow' must be a subclass of SystemPatch"),
        (
            {"fleet": SICK_AT_NOTHING},
            "FailAt is about 'perfrom_update', which is no step of PatchWeb",
        ),
    ],
)
async def test_bad_arguments(rehearsing: Rehearser, arguments: dict[str, Any], said: str) -> None:
    """What is written wrong is refused before anything runs, and says what was meant."""
    fleet = SimulatedFleet({"eu-1": 1})
    given: dict[str, Any] = {
        "workflow": PatchWebFleet,
        "request": ask(),
        "fleet": fleet,
        **arguments,
    }
    with pytest.raises(InvalidRequest, match=said):
        await rehearsing(**given)
    assert fleet.started == ()
    assert SICK_AT_NOTHING.started == ()


async def test_a_fault_of_the_default_procedure_only(rehearsing: Rehearser) -> None:
    """Chance draws faults from the default procedure: a step that this one has not is no mistake."""
    fleet = SimulatedFleet({"eu-1": 1}, faults={"eu-1-1": FailAt("stop_services")})
    await rehearsing(ShortFleet, ask(), fleet, people=BOTH, patience=PATIENCE)
