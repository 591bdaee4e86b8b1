"""`Rollout`, as an operator holds it: found again, watched, refused, without a worker."""

from __future__ import annotations

import asyncio
import itertools
import time
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowQueryFailedError
from temporalio.worker import Worker, WorkerTuner

from temporal_patching.activity import PatchActivities
from temporal_patching.client import Approvals, Rollout
from temporal_patching.client._asking import query
from temporal_patching.exceptions import (
    InvalidRequest,
    NotAnswered,
    Refused,
    RolloutExists,
    RolloutFailed,
    RolloutNotFound,
)
from temporal_patching.models import CompletedSteps, HostList, HostQuery, Outcome, RolloutProgress
from temporal_patching.policy import ApprovalPolicy, RolloutPolicy
from temporal_patching.testing import FailAt, RefuseAt, SimulatedFleet
from temporal_patching.worker import PatchingPlugin
from tests.rollouts import ALICE, BOB, CAROL, ask, ending, eventually, site
from tests.workflows import QuickFleet

GATE = {"start": ApprovalPolicy(approvers=[ALICE, BOB], timeout=timedelta(hours=1))}


async def test_progress_shows_the_pilots(client: Client, unique: str) -> None:
    """A cluster whose last word was that it waits is asked again: its pilots are seen."""
    fleet = SimulatedFleet({unique: 3})
    pilot = f"{unique}-1"
    fleet.hold("perform_update", pilot)
    async with site(client, fleet) as here:
        rollout = await here.start(ask(unique, policy=RolloutPolicy()))
        await fleet.reached("perform_update", pilot)
        progress = await rollout.progress()
        (cluster,) = progress.clusters
        assert cluster.phase == "pilots"
        assert cluster.in_flight == (pilot,)
        assert "1 in flight" in progress.summary
        host = await rollout.host_progress(pilot)
        assert host.step == "perform_update"
        assert (await rollout.completed_steps(host=pilot)).steps == host.completed
        fleet.release("perform_update", pilot)
        assert (await ending(rollout)).outcome is Outcome.PATCHED


async def test_watch_ends_with_the_rollout(client: Client, unique: str) -> None:
    """Each progress is another one, the last has the outcome, and a failure is not raised."""
    fleet = SimulatedFleet({unique: 2}, faults={f"{unique}-1": FailAt("perform_update")})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(unique, policy=RolloutPolicy()))
        seen: list[RolloutProgress] = []
        async for progress in rollout.watch(every=timedelta(milliseconds=50)):
            seen.append(progress)
        assert all(one != other for one, other in itertools.pairwise(seen))
        assert seen[-1].outcome is Outcome.STOPPED
        with pytest.raises(RolloutFailed) as failed:
            await rollout.result()
        assert failed.value.report.outcome is Outcome.STOPPED


async def test_found_again_by_its_id(client: Client, unique: str) -> None:
    """Who did not start it can watch it, vote and wait for its end."""
    async with site(client, SimulatedFleet({unique: 1})) as here:
        await here.start(ask(unique, approvals=GATE), id=unique)
        found = Rollout.get(client, unique)
        with pytest.raises(Refused, match="may not vote"):
            await found.approve(by=CAROL)
        gate = await found.approve(by=ALICE.upper(), reason="CHG-1")
        assert await found.approve(by=ALICE) == gate
        assert (await found.result()).outcome is Outcome.PATCHED


async def test_an_id_is_used_once(client: Client, unique: str) -> None:
    """Starting it again is refused while it runs and after its end: never a second patching."""
    fleet = SimulatedFleet({unique: 1})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(unique, approvals=GATE), id=unique)
        with pytest.raises(RolloutExists, match="used once"):
            await here.start(ask(unique), id=unique)
        await rollout.reject(by=BOB)
        assert (await ending(rollout)).outcome is Outcome.REJECTED
        with pytest.raises(RolloutExists, match="used once"):
            await here.start(ask(unique), id=unique)
        assert not fleet.started


async def test_what_is_not_there_is_said(client: Client, unique: str) -> None:
    """An unknown id is a RolloutNotFound for every verb, not a bare RPC error."""
    rollout = Rollout.get(client, unique)
    for asking in (
        rollout.progress(),
        rollout.approve(by=ALICE),
        rollout.result(),
        rollout.cancel(reason="no"),
        rollout.host_progress("nobody"),
        Approvals(client, unique).report(),
    ):
        with pytest.raises(RolloutNotFound):
            await asking


async def test_after_the_end_it_is_said(client: Client, unique: str) -> None:
    """A vote that comes too late says that the rollout has ended; a cancel changes nothing."""
    async with site(client, SimulatedFleet({unique: 1})) as here:
        rollout = await here.start(ask(unique))
        await ending(rollout)
        with pytest.raises(RolloutNotFound, match="has ended"):
            await rollout.approve(by=ALICE)
        await rollout.cancel()
        assert (await rollout.result()).outcome is Outcome.PATCHED


async def test_without_a_worker_it_says_so(client: Client, unique: str, task_queue: str) -> None:
    """No verb hangs when no worker answers; a cancel is kept by the server and obeyed later."""
    fleet = SimulatedFleet({unique: 1})
    rollout = await Rollout.start(
        client, QuickFleet, ask(unique, approvals=GATE), id=unique, task_queue=task_queue
    )
    began = time.monotonic()
    answers = await asyncio.gather(
        rollout.progress(), rollout.reject(by=ALICE), return_exceptions=True
    )
    assert time.monotonic() - began < 15
    assert all(isinstance(answer, NotAnswered) for answer in answers), answers
    assert "task queue" in str(answers[0])
    await rollout.cancel(reason="nobody is there")
    plugin = PatchingPlugin(fleet, workflows=[QuickFleet])
    async with Worker(client, task_queue=task_queue, plugins=[plugin]):
        report = await ending(rollout)
    assert report.outcome in (Outcome.ABORTED, Outcome.REJECTED)
    assert not fleet.started


async def eventually_in(rollout: Rollout[QuickFleet], phase: str) -> None:
    """Waits until the rollout is in that phase."""

    async def there() -> bool:
        return (await rollout.progress()).phase == phase

    await eventually(there)


async def test_the_attempts_of_a_step_are_told(client: Client, unique: str) -> None:
    """A step that is being retried does not look like one that runs well."""
    name = f"{unique}-1"
    fleet = SimulatedFleet(
        {unique: 1}, faults={name: FailAt("stop_services", times=1, message="no such unit")}
    )
    async with site(client, fleet) as here:
        rollout = await here.start(ask(unique))
        await fleet.reached("stop_services", name)
        fleet.hold("stop_services", name)
        await fleet.reached("stop_services", name, times=2)
        progress = await rollout.host_progress(name)
        assert (progress.step, progress.attempt) == ("stop_services", 2)
        assert progress.last_failure == "no such unit"
        assert progress.failure is None
        fleet.release("stop_services", name)
        assert (await ending(rollout)).outcome is Outcome.PATCHED
        assert (await rollout.host_progress(name)).attempt is None
        assert (await rollout.host_handle(name).result()).host == name
        assert (await rollout.cluster_handle(unique).result()).cluster == unique


async def test_a_rollout_whose_id_begins_alike_is_another(client: Client, unique: str) -> None:
    """Ids may have slashes: what ``a/b`` patched is none of ``a``."""
    fleet = SimulatedFleet({unique: 1})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(unique), id=f"{unique}/again")
        assert (await rollout.report()).outcome is Outcome.PATCHED
        assert (await rollout.completed_steps(host=f"{unique}-1")).steps
        with pytest.raises(RolloutNotFound, match="has not started"):
            await Rollout.get(client, unique).completed_steps(host=f"{unique}-1")


async def test_report_is_there_whatever_the_outcome(client: Client, unique: str) -> None:
    """Where result() raises, report() answers; its failure's type is told by result()."""
    fleet = SimulatedFleet({unique: 1}, faults={f"{unique}-1": RefuseAt("check_preconditions")})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(unique))
        report = await rollout.report()
        assert report.outcome is Outcome.STOPPED
        assert str(report.outcome) == f"{report.outcome}" == "STOPPED"
        with pytest.raises(RolloutFailed) as failed:
            await rollout.result()
        assert failed.value.type == "RolloutStopped"
        assert failed.value.report == report


class OnceConfused:
    """A handle whose worker takes a part of the history for the whole, so many times."""

    id = "patch-1"

    def __init__(self, times: int) -> None:
        self.left = times

    async def query(self, name: str, **_: object) -> CompletedSteps:
        """Answers, or fails as the SDK does then."""
        if self.left:
            self.left -= 1
            raise WorkflowQueryFailedError("[TMPRL1100] Nondeterminism error: …")
        return CompletedSteps(steps=(name,))


async def test_a_confused_worker_is_asked_again() -> None:
    """Once: what fails twice is told."""
    once: Any = OnceConfused(1)
    assert (await query(once, "progress", CompletedSteps)).steps == ("progress",)
    twice: Any = OnceConfused(2)
    with pytest.raises(NotAnswered, match="TMPRL1100"):
        await query(twice, "progress", CompletedSteps)


async def test_a_tuner_gets_threads_for_all_that_it_may_allow(client: Client, unique: str) -> None:
    """Plain methods run in threads: as many as there are slots, and a tuner does not tell them."""

    class Plain(PatchActivities):
        def list_hosts(self, query: HostQuery) -> HostList:
            return HostList(hosts=())

    def threads(**options: Any) -> int:
        queue = f"{unique}-{'-'.join(options)}"
        worker = Worker(client, task_queue=queue, plugins=[PatchingPlugin(Plain())], **options)
        executor: Any = worker.config(active_config=True)["activity_executor"]
        return executor._max_workers

    assert threads() == 100
    assert threads(max_concurrent_activities=130) == 130
    assert threads(tuner=WorkerTuner.create_fixed(activity_slots=400)) == 1_000


async def test_a_host_of_a_former_rollout_is_not_asked(client: Client, unique: str) -> None:
    """It has not started here: that is said at once, though the former one's worker is gone."""
    fleet = SimulatedFleet({unique: 1})
    async with site(client, fleet) as here:
        former = await here.start(ask(unique))
        assert (await ending(former)).outcome is Outcome.PATCHED
    async with site(client, fleet) as here:
        rollout = await here.start(ask(unique, approvals=GATE))
        await eventually_in(rollout, "gate")
        began = time.monotonic()
        with pytest.raises(RolloutNotFound, match=f"has not started.*{former.id}"):
            await rollout.host_progress(f"{unique}-1")
        with pytest.raises(RolloutNotFound, match="has not started"):
            await rollout.completed_steps(host=f"{unique}-1")
        assert time.monotonic() - began < 5
        with pytest.raises(InvalidRequest, match="either 'cluster' or 'host'"):
            await rollout.completed_steps(host=f"{unique}-1", cluster=unique)
        await rollout.cancel()
        await ending(rollout)


async def test_watch_says_that_no_worker_is_there(
    client: Client, unique: str, task_queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits, as ever, but not without a word."""
    rollout = await Rollout.start(client, QuickFleet, ask(unique), id=unique, task_queue=task_queue)

    async def watch() -> list[RolloutProgress]:
        return [each async for each in rollout.watch()]

    watching = asyncio.create_task(watch())

    async def said() -> bool:
        return "no worker answered" in caplog.text

    await eventually(said)
    plugin = PatchingPlugin(SimulatedFleet({unique: 1}), workflows=[QuickFleet])
    async with Worker(client, task_queue=task_queue, plugins=[plugin]):
        assert (await watching)[-1].outcome is Outcome.PATCHED
    assert caplog.text.count("no worker answered") == 1


@pytest.mark.provokes_task_failure("the worker does not have the class")
async def test_a_class_that_the_worker_does_not_have(
    client: Client, unique: str, task_queue: str
) -> None:
    """Said as such, instead of the server's own words."""
    async with Worker(client, task_queue=task_queue, plugins=[PatchingPlugin()]):
        rollout = await Rollout.start(
            client, QuickFleet, ask(unique), id=unique, task_queue=task_queue
        )

        async def fails() -> bool:
            try:
                await rollout.progress()
            except NotAnswered as error:
                return "is its class among the workflows" in str(error)
            return False

        await eventually(fails)
        await rollout.handle.terminate("nobody will ever run it")
