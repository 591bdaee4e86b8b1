"""Each verb in each phase of a rollout that really runs, and two of them in one workflow task."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any, get_args

import attrs
import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from temporal_patching.client import Rollout
from temporal_patching.exceptions import NotAnswered, Refused, RolloutNotFound
from temporal_patching.models import HostState, Outcome, Pause, Steered
from temporal_patching.policy import (
    ApprovalPolicy,
    Calendar,
    DatedPeriod,
    FailureBudget,
    MaintenanceWindows,
    RolloutPolicy,
    Soak,
    _verbs,
)
from temporal_patching.policy._repair import Repair
from temporal_patching.policy._verbs import LEGAL, PHASES, VERBS, Verb
from temporal_patching.testing import RefuseAt, SimulatedFleet
from temporal_patching.workflow import _rollout_run
from tests.rollouts import ALICE, BOB, ask, ending, eventually, site

POLICY = RolloutPolicy(pilot_hosts=1, waves=[1], in_flight="finish")
START = ApprovalPolicy(approvers=[ALICE, BOB], timeout=timedelta(hours=4))

Calls = Mapping[Verb, Callable[[Rollout[Any]], Awaitable[Steered]]]

CALLS: Calls = {
    "pause": lambda rollout: rollout.pause(by=ALICE, after="step", reason="because"),
    "resume": lambda rollout: rollout.resume(by=ALICE, reason="because"),
    "abort": lambda rollout: rollout.abort(by=ALICE, reason="because"),
    "set_limits": lambda rollout: rollout.set_limits(by=ALICE, max_parallel=2, reason="because"),
    "skip": lambda rollout: rollout.skip(by=ALICE, wave=3, reason="because"),
    "retry": lambda rollout: about_a_host(rollout, rollout.retry),
    "accept": lambda rollout: about_a_host(rollout, rollout.accept),
    "restore": lambda rollout: about_a_host(rollout, rollout.restore),
}


async def about_a_host(rollout: Rollout[Any], verb: Callable[..., Awaitable[Steered]]) -> Steered:
    """Asks for the last host, which is not parked."""
    (cluster,) = (await rollout.progress()).clusters
    return await verb(f"{cluster.cluster}-4", by=ALICE, reason="because")


BY_HAND: Mapping[Verb, Mapping[str, Any]] = {
    "pause": {"by": ALICE},
    "resume": {"by": ALICE},
    "abort": {"by": ALICE},
    "set_limits": {"by": ALICE, "max_parallel": 2},
    "skip": {"by": ALICE, "wave": 3},
}


@pytest.fixture
def eu() -> str:
    """A cluster's name that no other test has."""
    return f"eu-{uuid.uuid4().hex[:6]}"


async def in_phase(rollout: Rollout[Any], phase: str) -> None:
    """Waits until the rollout is in that phase."""

    async def there() -> bool:
        return (await rollout.progress()).phase == phase

    await eventually(there)


@asynccontextmanager
async def reached(client: Client, cluster: str, phase: str) -> AsyncIterator[Rollout[Any]]:
    """A rollout of four hosts in that phase; afterwards nothing holds it up any more."""
    fleet = SimulatedFleet({cluster: 4})
    holds = {"listing": "list_hosts", "stopping": "perform_update"}.get(phase, "stop_services")
    fleet.hold(holds)
    approvals = {"start": START} if phase == "gate" else {}
    async with site(client, fleet) as here:
        rollout = await here.start(ask(cluster, policy=POLICY, approvals=approvals))
        if phase == "ended":
            await rollout.cancel()
            await ending(rollout)
        elif phase not in ("listing", "gate"):
            await fleet.reached(holds)
            if phase == "pausing":
                await rollout.pause(by=BOB)
            elif phase == "paused":
                await rollout.pause(by=BOB)
                fleet.release(holds)
            elif phase == "stopping":
                await rollout.abort(by=BOB)
        if phase != "ended":
            await in_phase(rollout, phase)
        yield rollout
        if phase not in ("paused", "ended"):
            fleet.release(holds)
        if phase != "ended":
            await rollout.cancel()
        report = await asyncio.wait_for(ending(rollout), timeout=30)
        assert report.outcome is Outcome.ABORTED
        assert sum(report.counts.values()) in ((0, 4) if phase in ("listing", "ended") else (4,))
        assert not report.left_out_of_service


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("verb", VERBS)
async def test_each_verb_in_each_phase(client: Client, eu: str, verb: Verb, phase: str) -> None:
    """It is done and recorded, or refused with a reason that leaves no record, as the table says."""
    async with reached(client, eu, phase) as rollout:
        paused_alone = verb == "resume" and phase == "running"
        if paused_alone:
            await rollout.pause(by=BOB, cluster=eu)
        before = (await rollout.audit()).records
        if phase not in LEGAL[verb]:
            over = phase == "ended"
            said = "has ended" if over else f"cannot {verb} while {phase}"
            with pytest.raises(RolloutNotFound if over else Refused, match=said):
                await CALLS[verb](rollout)
            assert (await rollout.audit()).records == before
            return
        if verb in get_args(Repair) and verb != "skip":
            with pytest.raises(Refused, match=r"is not parked: only parked hosts can be "):
                await CALLS[verb](rollout)
            assert (await rollout.audit()).records == before
            return
        answer = await CALLS[verb](rollout)
        assert answer.message
        records = (await rollout.audit()).records[len(before) :]
        assert [(each.by, each.reason) for each in records if each.by != "policy"] == [
            (ALICE, "because")
        ]
        if verb == "abort" and phase != "stopping":
            assert answer.phase in ("stopping", "ended")


PAIRS: list[tuple[Verb, Verb]] = [
    *itertools.permutations(("pause", "resume", "abort"), 2),
    ("pause", "pause"),
    ("skip", "skip"),
    ("set_limits", "abort"),
    ("abort", "set_limits"),
]


@pytest.mark.provokes_task_failure("no worker is there for a while")
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
async def test_two_verbs_in_one_task(client: Client, eu: str, pair: tuple[Verb, Verb]) -> None:
    """They arrive while no worker is there; each is done or refused by what the first has made of it."""
    fleet = SimulatedFleet({eu: 4})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=POLICY, approvals={"start": START}))
        await in_phase(rollout, "gate")
    asked = list[asyncio.Task[Steered]]()
    for verb in pair:
        asked.append(asyncio.create_task(sent(rollout, verb)))
        await asyncio.sleep(0.3)  # the server keeps them in the order in which they came
    async with here.again():
        answers = await asyncio.gather(*asked, return_exceptions=True)
        done = [isinstance(answer, Steered) for answer in answers]
        assert done == WHAT_FOLLOWS[pair], answers
        assert all(
            isinstance(answer, (Steered, WorkflowUpdateFailedError)) for answer in answers
        ), answers
        if "abort" not in pair:
            await rollout.cancel()
        report = await ending(rollout)
    assert report.outcome is Outcome.ABORTED
    assert fleet.started == ()
    await here.replay()


async def sent(rollout: Rollout[Any], verb: Verb) -> Steered:
    """The answer of the update, however long it takes."""
    answer: Steered = await rollout.handle.execute_update(verb, BY_HAND[verb], result_type=Steered)
    return answer


WHAT_FOLLOWS: Mapping[tuple[Verb, Verb], list[bool]] = {
    ("pause", "resume"): [True, True],
    ("resume", "pause"): [False, True],  # nothing is paused
    ("pause", "abort"): [True, True],
    ("abort", "pause"): [True, False],
    ("resume", "abort"): [False, True],
    ("abort", "resume"): [True, False],
    ("pause", "pause"): [True, False],  # paused already
    ("skip", "skip"): [True, False],
    ("set_limits", "abort"): [True, True],
    ("abort", "set_limits"): [True, False],
}


# What else may be the matter when somebody steers


async def test_a_verb_is_the_first_that_comes_to_a_new_worker(client: Client, eu: str) -> None:
    """Whatever has happened in the tasks before it, and whoever replays them, it means the same.

    Where they had left no commands behind, the SDK would replay them in one with the verb, after it, and later
    before it (temporalio/sdk-rust#1146). Without a cache each task is a new worker's.
    """
    us, ap = f"{eu}-us", f"{eu}-ap"
    fleet = SimulatedFleet({name: [f"{name}-1"] for name in (eu, us, ap)})
    for name in (eu, us, ap):
        fleet.hold("perform_update", f"{name}-1")
    async with site(client, fleet, sandboxed=False, max_cached_workflows=0) as here:
        rollout = await here.start(ask(eu, us, ap))

        async def have_ended(number: int) -> bool:
            return [each.phase for each in (await rollout.progress()).clusters].count(
                "ended"
            ) == number

        for name in (eu, us, ap):
            await fleet.reached("perform_update", f"{name}-1")
        for _ in range(3):  # three clusters are told, and hear it in tasks of their own, maybe
            await rollout.pause(by=ALICE)
            await rollout.resume(by=ALICE)
        for number, name in enumerate((us, ap), 1):
            fleet.release("perform_update", f"{name}-1")
            await eventually(partial(have_ended, number))
            await rollout.pause(by=ALICE)
            await rollout.resume(by=ALICE)
        handle = client.get_workflow_handle(rollout.id)

        async def memo() -> str:
            return str((await (await handle.describe()).memo())["progress"])

        async def shows_it_running() -> bool:
            return await memo() == "running, 2 of 3 clusters ended"

        await eventually(shows_it_running)
        fleet.release("perform_update", f"{eu}-1")
        report = await ending(rollout)
        assert await memo() == report.summary
    assert report.outcome is Outcome.PATCHED


async def test_a_gate_is_approved_while_paused(client: Client, eu: str) -> None:
    """The vote counts, and nothing starts before the resume."""
    fleet = SimulatedFleet({eu: 2})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=POLICY, approvals={"start": START}))
        await in_phase(rollout, "gate")
        await rollout.pause(by=BOB)
        assert (await rollout.approve(by=ALICE)).outcome == "approved"
        await in_phase(rollout, "paused")
        assert fleet.started == ()
        await rollout.resume(by=BOB)
        assert (await ending(rollout)).outcome is Outcome.PATCHED


@pytest.mark.parametrize("where", ["soak", "gate", "restore"])
async def test_abort_while_it(client: Client, eu: str, where: str) -> None:
    """Soaks, waits at a gate, restores a host: it ends as aborted, and no host stays out of service."""
    fleet = SimulatedFleet({eu: 3})
    policy = attrs.evolve(
        POLICY, soak=Soak(duration=timedelta(hours=2)) if where == "soak" else None
    )
    approvals = {"promote": START} if where == "gate" else {}
    if where == "restore":
        fleet.hold("stop_services")
        fleet.hold("start_services")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=policy, approvals=approvals))
        if where == "restore":
            await fleet.reached("stop_services")
            await rollout.cancel(reason="the first word")
            fleet.release("stop_services")
            await fleet.reached("start_services")
            await rollout.abort(by=ALICE, now=True)
            fleet.release("start_services")
        else:

            async def waits() -> bool:
                phase = (await rollout.progress()).clusters[0].phase
                return phase == ("soaking" if where == "soak" else "gate")

            await eventually(waits)
            await rollout.abort(by=ALICE)
        report = await asyncio.wait_for(ending(rollout), timeout=30)
    assert report.outcome is Outcome.ABORTED
    assert report.left_out_of_service == ()
    assert report.counts[HostState.PATCHED] == (0 if where == "restore" else 1)
    for n in range(1, 4):
        assert fleet.host(f"{eu}-{n}").in_service


async def test_a_window_closes_in_the_middle_of_a_wave_in_the_night_the_clocks_change(
    env: WorkflowEnvironment, eu: str
) -> None:
    """A window of four hours from 22:00 in New York has five on the clocks of the night in November."""
    # That night has the hour from 01:00 twice.
    now = await env.get_current_time()
    changes = next(
        day
        for day in (now.date() + timedelta(days=n) for n in range(1, 400))
        if day.month == 11 and day.weekday() == 6 and day.day <= 7  # first Sunday of November
    )
    evening = changes - timedelta(days=1)
    night = f"{evening.isoformat()}T22:00"
    window = DatedPeriod(start=night, duration=timedelta(hours=4))
    windows = MaintenanceWindows(
        calendars=[Calendar(time_zone="America/New_York", dated=[window])], on_window_close="stop"
    )
    # A host every 100 minutes from 02:00 UTC: at 02:00, 03:40 and 05:20; the window shuts at 06:00.
    policy = RolloutPolicy(
        pilot_hosts=0, waves=[1], windows=windows, soak=Soak(duration=timedelta(minutes=100))
    )
    fleet = SimulatedFleet({eu: 5})
    async with site(env.client, fleet) as here:
        rollout = await here.start(ask(eu, policy=policy))
        report = await ending(rollout)
        closed = (await rollout.handle.describe()).close_time
    assert report.outcome is Outcome.STOPPED
    assert report.counts[HostState.PATCHED] == 3
    assert report.counts[HostState.NOT_STARTED] == 2
    assert closed is not None
    assert closed.strftime("%d %H:%M") == f"{changes.day:02} 06:00"


async def test_after_so_many_verbs_it_takes_none_but_abort(
    client: Client, eu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so before the server would; votes still count, and so does an abort."""
    monkeypatch.setattr(_verbs, "MAX_ACCEPTED", 4)
    fleet = SimulatedFleet({eu: 4})
    fleet.hold("stop_services")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=POLICY, approvals={"start": START}))
        await in_phase(rollout, "gate")
        for most in (2, 3):
            await rollout.set_limits(by=ALICE, max_parallel=most)
        again = Pause(by=ALICE, operation="op-1")
        for update_id in ("op-1", "op-1-again"):
            await rollout.handle.execute_update("pause", again, id=update_id, result_type=Steered)
        with pytest.raises(Refused, match="it has taken 4 verbs, and takes none but abort"):
            await rollout.resume(by=ALICE)
        with pytest.raises(WorkflowUpdateFailedError):
            await rollout.handle.execute_update("pause", again, id="op-1-once-more")
        assert (await rollout.approve(by=BOB)).outcome == "approved"
        await rollout.abort(by=ALICE)
        assert (await ending(rollout)).outcome is Outcome.ABORTED
        assert [each.by for each in (await rollout.audit()).records].count(ALICE) == 4


async def test_a_rollout_whose_history_is_full_stops(
    client: Client, eu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the server would end it without any clean-up: what is in flight runs to its end."""
    fleet = SimulatedFleet(
        {eu: 6}, faults={f"{eu}-{n}": RefuseAt("perform_update") for n in (1, 2)}
    )
    most_events = [1_000_000]

    def is_full() -> bool:
        return workflow.info().get_current_history_length() > most_events[0]

    monkeypatch.setattr(_rollout_run, "is_full", is_full)
    budget = FailureBudget(max_failures=5, stop_on_failed_wave=False)
    policy = RolloutPolicy(pilot_hosts=0, failure_budget=budget, max_out_of_service=6)
    fleet.hold("perform_update")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=policy))
        await fleet.reached("perform_update")
        for most in (2, 3, 2):
            await rollout.set_limits(by=ALICE, max_parallel=most)
        # Soon, and not before: it is the same when it is replayed.
        most_events[0] = (await rollout.handle.describe()).history_length + 3
        fleet.release("perform_update")
        report = await ending(rollout)
        assert "its history is full" in report.reason
    assert report.outcome is Outcome.STOPPED
    assert 0 < report.counts[HostState.NOT_STARTED] < 6


@pytest.mark.timeout(240)
@pytest.mark.provokes_task_failure("more messages come than the server keeps while a task runs")
async def test_it_ends_after_ten_thousand_messages(client: Client, eu: str) -> None:
    """A script votes in a loop; the server takes no more signals then, and an abort still ends it."""
    fleet = SimulatedFleet({eu: 3})
    async with site(client, fleet, replays=False) as here:
        rollout = await here.start(ask(eu, policy=POLICY, approvals={"start": START}))
        await in_phase(rollout, "gate")

        async def vote(number: int) -> None:
            await rollout.handle.signal("approve", {"by": f"stranger-{number}@example.com"})

        async def has_caught_up() -> bool:
            with suppress(NotAnswered):  # a machine that is busy
                await rollout.progress()
                return True
            return False

        full = False
        for first in range(0, 11_000, 250):
            votes = map(vote, range(first, first + 250))
            answers = await asyncio.gather(*votes, return_exceptions=True)
            full = full or any(isinstance(each, RPCError) for each in answers)
            await eventually(has_caught_up)
        assert full, "the server takes only so many"
        await rollout.abort(by=ALICE)
        report = await asyncio.wait_for(ending(rollout), timeout=60)
    assert report.outcome is Outcome.ABORTED
    assert report.counts[HostState.NOT_STARTED] == 3
    assert fleet.started == ()
