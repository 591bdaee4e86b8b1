"""Hosts that fail and are parked: what a person may answer, and what becomes of them, on a real server."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import attrs
import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from temporal_patching.client import Rollout
from temporal_patching.exceptions import Refused
from temporal_patching.models import ClusterProgress, HostState, Outcome, Retry, Steered
from temporal_patching.policy import FailureBudget, RolloutPolicy
from temporal_patching.testing import FailAt, RefuseAt, SimulatedFleet, Unreachable
from temporal_patching.workflow import _length
from tests.rollouts import ALICE, BOB, ask, ending, eventually, reported, site, status

TOLERANT = FailureBudget(max_failures=9, stop_on_failed_wave=False)
PARK = RolloutPolicy(
    pilot_hosts=0,
    max_out_of_service=9,
    failure_budget=TOLERANT,
    on_host_failure="park",
)
STEPS = (
    "set_maintenance_mode",
    "perform_update",
    "check_service_health",
    "clear_maintenance_mode",
)
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


async def parked(rollout: Rollout[Any], *hosts: str) -> ClusterProgress:
    """Waits until exactly these hosts are parked, and nothing else is left to do."""
    found = list[ClusterProgress]()

    async def are() -> bool:
        progress = await rollout.progress()
        found[:] = progress.clusters
        names = [each.host for cluster in progress.clusters for each in cluster.parked]
        rest = all(cluster.phase in ("parked", "ended") for cluster in progress.clusters)
        return sorted(names) == sorted(hosts) and rest

    await eventually(are, timeout=timedelta(seconds=120))
    return found[0]


# The four answers


async def test_a_parked_host_stands_as_it_is_while_the_others_go_on(
    client: Client, eu: str
) -> None:
    """Nothing is closed, its child has ended, the others are patched, and it is said for whom it waits."""
    bad = f"{eu}-2"
    fleet = SimulatedFleet({eu: 4}, faults={bad: RefuseAt("perform_update", times=1)})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=PARK))
        cluster = await parked(rollout, bad)
        (told,) = cluster.parked
        assert (told.state, told.step) == (HostState.FAILED, "perform_update")
        assert told.reason == "perform_update: simulated refusal"
        assert "parked, waits for retry, accept, restore or skip" in (told.left_out or "")
        assert cluster.waits_for == "1 parked host: retry, accept, restore or skip"
        assert cluster.counts[HostState.PATCHED] == 3
        assert sum(cluster.counts.values()) == 3
        assert await status(client, f"patch-host/{bad}") == "FAILED"
        assert fleet.steps_of(bad, "failed")[-1] == "perform_update"
        assert not fleet.host(bad).in_service
        waits = (await rollout.explain()).waits
        assert any("1 parked host waits for a person" in each.why for each in waits)
        answer = await rollout.retry(bad, by=ALICE, reason="lock removed")
        assert bad in answer.message
        report = await ending(rollout)
        assert report.outcome is Outcome.PATCHED
        assert report.counts[HostState.PATCHED] == 4
        assert report.hosts == ()
        records = [(each.by, each.what, each.reason) for each in (await rollout.audit()).records]
        assert any(
            by == ALICE and what.startswith("retry") and why == "lock removed"
            for by, what, why in records
        )
    assert fleet.out_of_service == ()
    assert fleet.host(bad).version == 2
    steps = fleet.steps_of(bad)
    assert steps.count("set_maintenance_mode") == 1, "it goes on where it stood"


async def test_retry_from_an_earlier_step(client: Client, eu: str) -> None:
    """Steps from there on are done again; a step behind the failed one, or an unknown one, is refused."""
    bad = f"{eu}-1"
    fleet = SimulatedFleet({eu: 1}, faults={bad: RefuseAt("check_service_health", times=1)})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=PARK))
        await parked(rollout, bad)
        with pytest.raises(Refused, match="clear_maintenance_mode"):
            await rollout.retry(bad, by=ALICE, from_step="clear_maintenance_mode")
        with pytest.raises(Refused, match="did you mean 'perform_update'"):
            await rollout.retry(bad, by=ALICE, from_step="preform_update")
        await rollout.retry(bad, by=ALICE, from_step="perform_update")
        assert (await ending(rollout)).outcome is Outcome.PATCHED
    keys = [each.key for each in fleet.log if each.step == "perform_update" and each.what == "done"]
    assert [key.rsplit("/", 1)[1] for key in keys] == ["1", "2"]


async def test_accept_goes_on_behind_the_failed_step(client: Client, eu: str) -> None:
    """A person says that the host is healthy: it returns to service and is patched."""
    bad = f"{eu}-1"
    fleet = SimulatedFleet({eu: 2}, faults={bad: RefuseAt("check_service_health")})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=PARK))
        await parked(rollout, bad)
        await rollout.accept(bad, by=BOB, reason="looked at it")
        report = await ending(rollout)
    assert report.counts[HostState.PATCHED] == 2
    assert report.left_out_of_service == ()
    assert fleet.out_of_service == ()


@pytest.mark.parametrize(
    ("step", "out"),
    [("run_pre_update_scripts", False), ("perform_update", False), ("check_service_health", True)],
)
async def test_restore_gives_back_as_if_it_had_not_been_parked(
    client: Client, eu: str, step: str, out: bool
) -> None:
    """What the report says is what it says without parking."""
    bad = f"{eu}-2"
    reports = list[Any]()
    for policy in (PARK, attrs.evolve(PARK, on_host_failure="fail")):
        fleet = SimulatedFleet({eu: 3}, faults={bad: RefuseAt(step)})
        async with site(client, fleet) as here:
            rollout = await here.start(ask(eu, policy=policy))
            if policy is PARK:
                await parked(rollout, bad)
                await rollout.restore(bad, by=ALICE)
            reports.append(attrs.evolve(await ending(rollout), rollout="", digest=""))
        assert [each.name for each in fleet.hosts if not each.serves] == ([bad] if out else [])
    assert reports[0] == reports[1]
    assert reports[0].left_out_of_service == ((bad,) if out else ())


async def test_skip_leaves_it_as_it_is(client: Client, eu: str) -> None:
    """It has failed, nothing more is done to it, and the report names it as left out of service."""
    bad = f"{eu}-2"
    fleet = SimulatedFleet({eu: 2}, faults={bad: Unreachable("perform_update")})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=PARK))
        await parked(rollout, bad)
        done = len(fleet.log)
        await rollout.skip(by=ALICE, host=bad, reason="to be thrown away")
        report = await ending(rollout)
    assert len(fleet.log) == done
    assert report.outcome is Outcome.PARTIAL
    assert report.counts[HostState.UNREACHABLE] == 1
    assert report.left_out_of_service == (bad,)
    assert "left as it is, on request" in (reported(report, bad).left_out or "")


async def test_it_may_fail_and_be_answered_again(client: Client, eu: str) -> None:
    """Retried, it fails again and is parked again; one answer at a time; who is not parked is refused."""
    bad, good = f"{eu}-1", f"{eu}-2"
    fleet = SimulatedFleet({eu: 2}, faults={bad: RefuseAt("perform_update", times=2)})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=PARK))
        await parked(rollout, bad)
        with pytest.raises(Refused, match=r"not parked"):
            await rollout.retry(good, by=ALICE)
        with pytest.raises(Refused, match="no host"):
            await rollout.retry("nobody", by=ALICE)
        fleet.hold("perform_update", bad)
        await rollout.retry(bad, by=ALICE)
        with pytest.raises(Refused, match=r"retried already|in flight, not parked"):
            await rollout.restore(bad, by=ALICE)
        await fleet.reached("perform_update", bad)

        async def is_gone_on_with() -> bool:
            return (await rollout.progress()).clusters[0].parked == ()

        await eventually(is_gone_on_with)  # the cluster tells it after it has begun
        with pytest.raises(Refused, match=r"retried already|in flight, not parked"):
            await rollout.accept(bad, by=ALICE)
        fleet.release("perform_update", bad)
        await parked(rollout, bad)
        await rollout.retry(bad, by=ALICE)
        report = await ending(rollout)
    assert report.outcome is Outcome.PATCHED


# What it costs


async def test_a_repaired_host_gives_its_unit_back(client: Client, eu: str) -> None:
    """Two may fail; three do, one after the other, and each is repaired in time."""
    budget = FailureBudget(max_failures=1, stop_on_failed_wave=False)
    bad = [f"{eu}-{n}" for n in (1, 3)]
    fleet = SimulatedFleet(
        {eu: 4}, faults={each: RefuseAt("perform_update", times=1) for each in bad}
    )
    fleet.hold("check_preconditions", f"{eu}-2")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=attrs.evolve(PARK, failure_budget=budget)))
        await fleet.reached("check_preconditions", f"{eu}-2")

        async def is_parked() -> bool:
            return [each.host for each in (await rollout.progress()).clusters[0].parked] == [bad[0]]

        await eventually(is_parked)
        await rollout.retry(bad[0], by=ALICE)
        fleet.release("check_preconditions", f"{eu}-2")
        await parked(rollout, bad[1])
        await rollout.retry(bad[1], by=ALICE)
        report = await ending(rollout)
    assert report.outcome is Outcome.PATCHED
    assert fleet.out_of_service == ()


async def test_what_stops_gives_back(client: Client, eu: str) -> None:
    """The failure that exceeds the budget stops the cluster: every parked host is restored at once."""
    budget = FailureBudget(max_failures=1, stop_on_failed_wave=False)
    bad = [f"{eu}-{n}" for n in (1, 2)]
    fleet = SimulatedFleet({eu: 4}, faults={each: RefuseAt("perform_update") for each in bad})
    async with site(client, fleet) as here:
        report = await here.report(ask(eu, policy=attrs.evolve(PARK, failure_budget=budget)))
    assert report.outcome is Outcome.STOPPED
    assert report.counts[HostState.FAILED] == 2
    assert report.counts[HostState.NOT_STARTED] == 2
    assert report.left_out_of_service == ()
    assert fleet.out_of_service == ()


@pytest.mark.parametrize("how", ["abort", "abort now", "cancel"])
@pytest.mark.parametrize("paused", [False, True])
async def test_an_abort_gives_back(client: Client, eu: str, how: str, paused: bool) -> None:
    """Also while it is paused, and by a plain workflow cancel."""
    bad = f"{eu}-1"
    fleet = SimulatedFleet({eu: 2}, faults={bad: RefuseAt("perform_update")})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=PARK))
        await parked(rollout, bad)
        if paused:
            await rollout.pause(by=ALICE)
        if how == "cancel":
            await rollout.handle.cancel()
        else:
            await rollout.abort(by=ALICE, now=how == "abort now")
        report = await ending(rollout)
    assert report.outcome is Outcome.ABORTED
    assert report.counts[HostState.FAILED] == 1
    assert report.counts[HostState.PATCHED] == 1
    assert report.left_out_of_service == ()
    assert fleet.out_of_service == ()


async def test_a_pause_holds_up_retries_but_not_a_restore(client: Client, eu: str) -> None:
    """Paused, a retry waits for the resume; a host is given back at once."""
    bad, worse = f"{eu}-1", f"{eu}-2"
    fleet = SimulatedFleet(
        {eu: 2},
        faults={
            bad: RefuseAt("perform_update", times=1),
            worse: RefuseAt("perform_update"),
        },
    )
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=PARK))
        await parked(rollout, bad, worse)
        await rollout.pause(by=ALICE)
        await rollout.retry(bad, by=ALICE)
        await rollout.restore(worse, by=ALICE)

        async def given_back() -> bool:
            return fleet.host(worse).serves

        await eventually(given_back)
        with pytest.raises(Refused, match="is being retried already"):
            await rollout.accept(bad, by=ALICE)
        with pytest.raises(Refused, match="is being retried already"):
            await rollout.skip(by=ALICE, host=bad)
        assert fleet.steps_of(bad, "failed")[-1] == "perform_update"
        assert not fleet.host(bad).in_service
        assert (await rollout.progress()).phase in ("paused", "pausing")
        await rollout.resume(by=ALICE)
        report = await ending(rollout)
    assert report.counts[HostState.PATCHED] == 1
    assert report.counts[HostState.FAILED] == 1
    assert fleet.out_of_service == ()


async def test_full_of_parked_hosts_it_waits_for_people(client: Client, eu: str) -> None:
    """By default one host may be out of service: the parked one holds up the others, and it is said so."""
    bad = f"{eu}-1"
    policy = attrs.evolve(PARK, max_out_of_service=None)
    fleet = SimulatedFleet({eu: 3}, faults={bad: RefuseAt("perform_update", times=1)})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=policy))
        await parked(rollout, bad)
        assert len(fleet.started) == 1
        await rollout.retry(bad, by=ALICE)
        report = await ending(rollout)
    assert report.outcome is Outcome.PATCHED


async def test_the_checkpoint_is_kept(client: Client, eu: str) -> None:
    """A step that saved, and failed for good, resumes from there when its host is retried."""
    bad = f"{eu}-1"
    fleet = SimulatedFleet(
        {eu: 1}, faults={bad: FailAt("perform_update", times=1, retryable=False)}
    )
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=PARK))
        await parked(rollout, bad)
        progress = await rollout.host_progress(bad)
        assert progress.state is HostState.FAILED
        await rollout.retry(bad, by=ALICE)
        assert (await ending(rollout)).outcome is Outcome.PATCHED


async def test_a_verb_twice_is_answered_as_the_first_time(client: Client, eu: str) -> None:
    """The same operation again does nothing more, also after the host was parked again."""
    bad = f"{eu}-1"
    fleet = SimulatedFleet({eu: 1}, faults={bad: RefuseAt("perform_update", times=2)})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=PARK))
        await parked(rollout, bad)
        order = Retry(by=ALICE, operation="once", host=bad)
        first = await rollout.handle.execute_update("retry", order, result_type=Steered)

        async def again() -> bool:
            return fleet.steps_of(bad, "failed").count("perform_update") == 2

        await eventually(again)
        await parked(rollout, bad)
        assert await rollout.handle.execute_update("retry", order, result_type=Steered) == first
        await parked(rollout, bad)
        await rollout.restore(bad, by=ALICE)
        await ending(rollout)
    assert fleet.steps_of(bad, "failed").count("perform_update") == 2


# A busy host


async def test_another_rollout_has_it_by_now(client: Client, eu: str) -> None:
    """A parked host is no lock: if another rollout works on it, a retry leaves it parked and says why."""
    bad = f"{eu}-1"
    fleet = SimulatedFleet({eu: 1}, faults={bad: RefuseAt("perform_update", times=1)})
    async with site(client, fleet) as here:
        first = await here.start(ask(eu, policy=PARK))
        await parked(first, bad)
        fleet.hold("perform_update", bad)
        second = await here.start(ask(eu, policy=PARK))
        await fleet.reached("perform_update", bad, times=2)
        await first.retry(bad, by=ALICE)

        async def says_so() -> bool:
            told = (await first.progress()).clusters[0].parked
            return bool(told) and f"busy: rollout {second.id!r}" in told[0].reason

        await eventually(says_so)
        fleet.release("perform_update", bad)
        assert (await ending(second)).outcome is Outcome.PATCHED
        await first.retry(bad, by=ALICE)
        assert (await ending(first)).outcome is Outcome.PATCHED


async def test_what_another_rollout_has_cannot_be_given_back(client: Client, eu: str) -> None:
    """The report says why it was not given back, and asks nobody for anything any more."""
    bad = f"{eu}-1"
    fleet = SimulatedFleet({eu: 1}, faults={bad: RefuseAt("perform_update", times=1)})
    async with site(client, fleet) as here:
        first = await here.start(ask(eu, policy=PARK))
        await parked(first, bad)
        fleet.hold("perform_update", bad)
        second = await here.start(ask(eu))
        await fleet.reached("perform_update", bad, times=2)
        await first.abort(by=ALICE)
        left_out = reported(await ending(first), bad).left_out or ""
        fleet.release("perform_update", bad)
        assert (await ending(second)).outcome is Outcome.PATCHED
    assert "set_maintenance_mode" in left_out
    assert f"not given back: busy: rollout {second.id!r} works on it" in left_out
    assert "waits for retry" not in left_out


async def test_who_is_in_flight_beside_many_parked_hosts(client: Client, eu: str) -> None:
    """None: the rollout hears when nothing but parked hosts is left, and a message names only ten of them."""
    fleet = SimulatedFleet(
        {eu: 14}, faults={f"{eu}-{n}": RefuseAt("perform_update") for n in range(1, 13)}
    )
    policy = attrs.evolve(
        PARK, max_out_of_service=20, failure_budget=FailureBudget(max_failures=20)
    )
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=attrs.evolve(policy, max_parallel=20)))
        await parked(rollout, *(f"{eu}-{n}" for n in range(1, 13)))

        async def none_flies() -> bool:
            waits = (await rollout.explain()).waits
            works = [each for each in waits if each.why.startswith(f"cluster {eu!r}: parked")]
            return [each.evidence["in flight"].partition(",")[0] for each in works] == ["0"]

        await eventually(none_flies)
        await rollout.abort(by=ALICE)
        await ending(rollout)


# From run to run


@pytest.mark.timeout(240)
@pytest.mark.parametrize("cached", [1_000, pytest.param(1, marks=HARDLY_CACHED)])
async def test_parked_hosts_from_run_to_run(
    client: Client, eu: str, short: None, cached: int
) -> None:
    """The cluster continues as new many times; who was parked runs ago is still answered, each once."""
    bad = [f"{eu}-{n}" for n in (2, 5, 9, 14)]
    fleet = SimulatedFleet(
        {eu: 16}, faults={each: RefuseAt("perform_update", times=1) for each in bad}
    )
    policy = attrs.evolve(PARK, max_parallel=2)
    steps = fleet.implementing(*STEPS)
    async with site(client, steps, max_cached_workflows=cached) as here:
        rollout = await here.start(ask(eu, policy=policy))
        await parked(rollout, *bad)
        await rollout.retry(bad[0], by=ALICE)
        await rollout.accept(bad[1], by=ALICE)
        await rollout.restore(bad[2], by=ALICE)
        await rollout.skip(by=ALICE, host=bad[3])
        report = await asyncio.wait_for(ending(rollout), 120)
        runs = await here.runs(eu)
    assert runs >= 4
    assert report.counts[HostState.PATCHED] == 14
    assert report.counts[HostState.FAILED] == 2
    assert report.left_out_of_service == (bad[3],)
    assert fleet.out_of_service == (bad[3],)


async def test_an_abort_gives_back_what_was_parked_runs_ago(
    client: Client, eu: str, short: None
) -> None:
    """The first host is parked in the first run; the abort comes runs later."""
    bad = f"{eu}-1"
    fleet = SimulatedFleet({eu: 12}, faults={bad: RefuseAt("perform_update")})
    fleet.hold("perform_update", f"{eu}-12")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=PARK))
        await fleet.reached("perform_update", f"{eu}-12")
        await rollout.abort(by=ALICE)
        fleet.release("perform_update", f"{eu}-12")
        report = await ending(rollout)
        assert await here.runs(eu) >= 3
    assert report.outcome is Outcome.ABORTED
    assert report.counts[HostState.FAILED] == 1
    assert fleet.out_of_service == ()


async def test_people_may_take_weeks(env: WorkflowEnvironment, client: Client) -> None:
    """Parking has no clock of its own."""
    eu = f"eu-{uuid.uuid4().hex[:6]}"
    bad = f"{eu}-1"
    fleet = SimulatedFleet({eu: 2}, faults={bad: RefuseAt("perform_update", times=1)})
    async with site(env.client, fleet) as here:
        rollout = await here.start(ask(eu, policy=PARK))
        await parked(rollout, bad)
        await env.sleep(timedelta(days=20))
        await parked(rollout, bad)
        await rollout.retry(bad, by=ALICE)
        assert (await ending(rollout)).outcome is Outcome.PATCHED
