"""Workers, servers and the wire between them die, stop and come back: no host is lost, none is done twice.

Each case has a server of its own on a file, workers in processes of their own, and hosts that are files, so that
whoever dies takes no truth along. The cases marked `chaos` run with `make chaos` only.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError
from temporalio.worker import Replayer

from temporal_patching.exceptions import NotAnswered
from temporal_patching.models import HostState, Outcome, RolloutReport
from temporal_patching.policy import ApprovalPolicy
from tests.chaos import judge
from tests.chaos.ground import ALICE, Ground, ask, ground, until
from tests.chaos.proxy import Wire, proxy
from tests.chaos.truth import Line
from tests.chaos.worker import UNITS, plugin
from tests.chaos.workflows import CHAOS_STEPS, HEARTBEAT_TIMEOUT

ID = "rollout-1"
PLACES = [(step, place) for step in CHAOS_STEPS.names for place in ("before", "after")]
RECOVERED_IN = HEARTBEAT_TIMEOUT.total_seconds() + 12
"""What a dead worker costs: its heartbeats are missed, then its sticky queue is given up after 10 s."""

pytestmark = pytest.mark.timeout(400)


async def judged(here: Ground, hosts: Sequence[str], *also: str) -> RolloutReport:
    """The report, after everything that must hold of every case was looked at.

    Args:
        here: Where.
        hosts: All that there are.
        also: What the histories may say besides tasks that timed out.
    """
    report: RolloutReport = await here.report(ID)
    problems = judge.wrong(here.truth, hosts, report, ID)
    replayer = Replayer(workflows=[], plugins=[plugin(here.folder)])
    problems += await judge.wrong_in_histories(here.client, replayer, may=(*judge.KILLED, *also))
    assert not problems, "\n".join(problems)
    if folder := os.environ.get("CHAOS_HISTORIES"):
        name = os.environ["PYTEST_CURRENT_TEST"].split("::")[-1].split(" ")[0]
        where = Path(folder) / name.replace("/", "-")
        where.mkdir(parents=True, exist_ok=True)
        for run, history in (await judge.histories(here.client)).items():
            (where / f"{run.replace('/', '-')}.json").write_text(history.to_json())
    return report


def all_patched(report: RolloutReport, hosts: Sequence[str]) -> bool:
    """Whether everything came out as if nothing had happened."""
    return report.outcome is Outcome.PATCHED and report.counts[HostState.PATCHED] == len(hosts)


def has(here: Ground, host: str, what: str, step: str, *, times: int = 1) -> bool:
    """Whether a host's file has such a line."""
    return len(found(here, host, what, step)) >= times


def found(here: Ground, host: str, what: str, step: str) -> list[Line]:
    """Such lines of a host's file."""
    return [each for each in here.truth.lines(host) if (each.what, each.step) == (what, step)]


# A worker dies


async def dies_at(here: Ground, places: dict[str, tuple[str, str]]) -> dict[str, float]:
    """Kills the only worker when each host is at its place; answers how long each took to go on."""
    here.order(hold=[[host, *place] for host, place in places.items()])
    first = await here.worker()
    await here.start(ID, ask("eu"))
    for host, (step, place) in places.items():
        what = "began" if place == "before" else "done"
        await until(partial(has, here, host, what, step))
    at = await first.kill()
    here.order(hold=[])
    await here.worker()
    hosts = list(places)
    report = await judged(here, hosts)
    assert all_patched(report, hosts), report
    for host, (step, _) in places.items():
        assert has(here, host, "began", step, times=2), f"{host}: {step} was not tried again"
        assert len(found(here, host, "done", step)) == 1, f"{host}: {step} was done twice"
    return judge.recoveries(here.truth, ID, at, hosts=hosts)


async def test_a_worker_dies_at_every_step_boundary(tmp_path: Path) -> None:
    """A host stands before and after each step's effect; after one SIGKILL each is patched, once."""
    places = {f"{step}-{place}".replace("_", "-"): (step, place) for step, place in PLACES}
    async with ground(tmp_path, {"eu": list(places)}) as here:
        took = await dies_at(here, places)
    # How soon is judged below and in the soak: two dozen at once keep a small machine busy.
    assert len(took) >= len(places) - 1  # the last one may have been through


@pytest.mark.chaos
@pytest.mark.parametrize(("step", "place"), PLACES)
async def test_a_worker_dies_at_a_step_boundary(tmp_path: Path, step: str, place: str) -> None:
    """As above, one boundary a server, so that nothing else happens in the histories."""
    async with ground(tmp_path, {"eu": ["only"]}) as here:
        took = await dies_at(here, {"only": (step, place)})
    assert max(took.values(), default=0) < RECOVERED_IN, took


def more(here: Ground, hosts: Sequence[str], lines: int) -> bool:
    """Whether that many lines are in all files together."""
    return sum(len(here.truth.lines(host)) for host in hosts) >= lines


@pytest.mark.chaos
async def test_workers_die_one_after_the_other(tmp_path: Path) -> None:
    """Five times in one rollout; what each left behind is gone on with."""
    hosts = [f"host-{number}" for number in range(8)]
    async with ground(tmp_path, {"eu": hosts}, pace=0.5) as here:
        worker = await here.worker()
        await here.start(ID, ask("eu"))
        for death in range(5):
            begun = sum(len(here.truth.lines(host)) for host in hosts)
            await until(partial(more, here, hosts, begun + 16))
            await worker.kill()
            assert not all(judge.finished(here.truth.lines(host)) for host in hosts), death
            worker = await here.worker()
        here.order(pace=0)
        assert all_patched(await judged(here, hosts), hosts)


# A worker comes back


def begun_by(here: Ground, pid: int) -> bool:
    """Whether that process has begun the update."""
    return any(line.pid == pid for line in found(here, "only", "began", "perform_update"))


def refused(here: Ground, pid: int) -> bool:
    """Whether that process was told that the host is another's now."""
    mine = [line for line in here.truth.lines("only") if line.pid == pid]
    return bool(mine) and mine[-1].what in ("fenced", "cancelled")


NEVER = 10_000.0
"""A pace: the unit ends when the pace has changed."""


async def test_a_zombie_is_refused(tmp_path: Path) -> None:
    """Stopped beyond its heartbeats, and another worker at work: when it wakes up it may do nothing more."""
    async with ground(tmp_path, {"eu": ["only"]}, pace=0.2) as here:
        zombie = await here.worker()
        await here.start(ID, ask("eu"))
        await until(partial(has, here, "only", "unit", "perform_update"))
        here.order(pace=NEVER)
        zombie.send(signal.SIGSTOP)
        other = await here.worker()
        await until(partial(begun_by, here, other.pid))
        zombie.send(signal.SIGCONT)
        here.order(pace=0.2)
        await until(partial(refused, here, zombie.pid))
        report = await judged(here, ["only"])
    assert all_patched(report, ["only"]), report


# The server dies


@pytest.mark.chaos
@pytest.mark.parametrize("with_worker", [False, True], ids=["alone", "with-the-worker"])
async def test_a_server_dies_with_hosts_at_every_step(tmp_path: Path, with_worker: bool) -> None:
    """It comes back on its file; what was done meanwhile and could not be told is not done again."""
    places = {f"{step}-{place}".replace("_", "-"): (step, place) for step, place in PLACES}
    async with ground(tmp_path, {"eu": list(places)}) as here:
        here.order(hold=[[host, *place] for host, place in places.items()])
        worker = await here.worker()
        await here.start(ID, ask("eu"))
        for host, (step, place) in places.items():
            what = "began" if place == "before" else "done"
            await until(partial(has, here, host, what, step))
        here.server.kill()
        if with_worker:
            await worker.kill()
        here.order(hold=[])  # whoever lives ends its steps, and has nobody to tell
        await asyncio.sleep(HEARTBEAT_TIMEOUT.total_seconds())
        await here.restart_server()
        if with_worker:
            await here.worker()
        report = await judged(here, list(places))
    assert all_patched(report, list(places)), report


async def vote(here: Ground, by: str) -> None:
    """One vote, by a client of the server that is there now."""
    await here.rollout(ID).approve(by=by)


async def test_a_server_dies_while_it_is_asked(tmp_path: Path) -> None:
    """A start and a vote whose answers are lost: asked again, there is one rollout and one vote."""
    gate = ApprovalPolicy(
        approvers=[ALICE, "bob@example.com"], quorum=2, timeout=timedelta(hours=1)
    )
    async with ground(tmp_path, {"eu": ["host-1", "host-2"]}) as here:
        await here.worker()
        request = ask("eu", approvals={"start": gate})
        starting = asyncio.create_task(here.start(ID, request))
        await asyncio.sleep(0.01)
        here.server.kill()
        await here.restart_server()
        rollout = await starting
        for by in (ALICE, "bob@example.com"):
            voting = asyncio.create_task(here.insisting(partial(vote, here, by)))
            await asyncio.sleep(0.005)
            here.server.kill()
            await here.restart_server()
            await voting
        report = await judged(here, ["host-1", "host-2"])
        assert all_patched(report, ["host-1", "host-2"]), report
        votes = (await here.insisting(lambda: here.rollout(ID).audit())).records
        assert [each.by for each in votes if each.by != "policy"] == [ALICE, "bob@example.com"]
        assert rollout.id == ID


# The wire between them is cut


@pytest.mark.parametrize("how", ["drop", pytest.param("half-open", marks=pytest.mark.chaos)])
async def test_a_worker_is_cut_off(tmp_path: Path, how: Wire) -> None:
    """It works on, and so does another one: the fence lets one of them act, and none has a third attempt."""
    async with (
        ground(tmp_path, {"eu": ["only"]}, pace=0.2) as here,
        proxy("127.0.0.1", here.server.port) as wire,
    ):
        first = await here.worker(address=wire.address)
        await here.start(ID, ask("eu"))
        await until(partial(has, here, "only", "unit", "perform_update"))
        here.order(pace=NEVER)
        wire.cut(how)
        other = await here.worker()
        await until(partial(begun_by, here, other.pid))
        wire.cut("open")
        here.order(pace=0.2)
        await until(partial(refused, here, first.pid))
        report = await judged(here, ["only"])
    assert all_patched(report, ["only"]), report
    assert wire.lost, "nothing was lost"


@pytest.mark.chaos
async def test_the_only_worker_is_cut_off(tmp_path: Path) -> None:
    """Nobody else is there: when the wire is mended the same worker goes on."""
    hosts = ["host-1", "host-2", "host-3"]
    async with (
        ground(tmp_path, {"eu": hosts}, pace=0.5) as here,
        proxy("127.0.0.1", here.server.port) as wire,
    ):
        await here.worker(address=wire.address)
        await here.start(ID, ask("eu"))
        await until(lambda: all(has(here, each, "unit", "perform_update") for each in hosts))
        wire.cut("drop")
        await asyncio.sleep(2 * HEARTBEAT_TIMEOUT.total_seconds())
        wire.cut("open")
        assert all_patched(await judged(here, hosts), hosts)


@pytest.mark.chaos
async def test_connections_are_reset(tmp_path: Path) -> None:
    """Again and again, and refused for a while: calls are sent again, steps are not done again."""
    hosts = [f"host-{number}" for number in range(4)]
    async with (
        ground(tmp_path, {"eu": hosts}, pace=0.3) as here,
        proxy("127.0.0.1", here.server.port) as wire,
    ):
        await here.worker(address=wire.address)
        await here.start(ID, ask("eu"))
        await until(lambda: any(here.truth.lines(host) for host in hosts))
        for _ in range(10):
            wire.reset()
            await asyncio.sleep(0.2)
        wire.cut("refuse")
        wire.reset()
        await asyncio.sleep(1)
        wire.cut("open")
        assert all_patched(await judged(here, hosts), hosts)


@pytest.mark.chaos
async def test_the_wire_is_slow(tmp_path: Path) -> None:
    """A quarter of a second for each piece, each way: it takes longer, and nothing is tried twice."""
    hosts = ["host-1", "host-2"]
    async with ground(tmp_path, {"eu": hosts}) as here:
        async with proxy("127.0.0.1", here.server.port) as wire:
            wire.delay = 0.25
            await here.worker(address=wire.address)
            await here.start(ID, ask("eu"))
            assert all_patched(await judged(here, hosts), hosts)
        attempts = {line.attempt for host in hosts for line in here.truth.lines(host)}
        assert attempts == {1}


# Nobody is there


@pytest.mark.chaos
async def test_nobody_works_for_a_while(tmp_path: Path) -> None:
    """Before the start and in the middle: who asks is told so, nothing is touched, then it goes on."""
    hosts = ["host-1", "host-2"]
    async with ground(tmp_path, {"eu": hosts}, pace=0.3) as here:
        rollout = await here.start(ID, ask("eu"))
        with pytest.raises(NotAnswered):
            await rollout.progress()
        assert here.truth.hosts == []
        worker = await here.worker()
        await until(lambda: all(has(here, host, "unit", "perform_update") for host in hosts))
        await worker.kill()
        with pytest.raises(NotAnswered):
            await rollout.progress()
        await asyncio.sleep(2 * HEARTBEAT_TIMEOUT.total_seconds())
        await here.worker()
        assert all_patched(await judged(here, hosts), hosts)
        assert max(line.attempt for host in hosts for line in here.truth.lines(host)) == 2


@pytest.mark.chaos
async def test_a_worker_without_a_cache_dies(tmp_path: Path) -> None:
    """Where each task replays the whole history the next worker does, too."""
    hosts = ["host-1", "host-2", "host-3"]
    async with ground(tmp_path, {"eu": hosts}, pace=0.2) as here:
        worker = await here.worker("--cached=0")
        await here.start(ID, ask("eu"))
        await until(lambda: any(has(here, host, "unit", "perform_update") for host in hosts))
        await worker.kill()
        await here.worker("--cached=0")
        assert all_patched(await judged(here, hosts), hosts)


# Other code is there


async def test_a_release_that_does_not_fit(tmp_path: Path) -> None:
    """Its workflow tasks fail, the rollout does not; with the old code it goes on as if nothing had been."""
    hold = ["only", "perform_update", "before"]
    async with ground(tmp_path, {"eu": ["only"]}, hold=[hold]) as here:
        old = await here.worker()
        await here.start(ID, ask("eu"))
        await until(lambda: has(here, "only", "began", "perform_update"))
        await old.kill()
        new = await here.worker("--next-release")
        here.order(hold=[])
        host = here.client.get_workflow_handle("patch-host/only")

        async def tasks_failed() -> int:
            failed = EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED
            return sum(e.event_type == failed for e in (await host.fetch_history()).events)

        for _ in range(600):
            if await tasks_failed():
                break
            await asyncio.sleep(0.1)
        assert await tasks_failed(), "the replay did not fail"
        for id in (ID, f"{ID}/eu", "patch-host/only"):
            state = (await here.client.get_workflow_handle(id).describe()).status
            assert state is WorkflowExecutionStatus.RUNNING, id
        # What CI says of such a release, before anybody installs it.
        replayer = Replayer(workflows=[], plugins=[plugin(here.folder, next_release=True)])
        replayed = await replayer.replay_workflow(
            await host.fetch_history(), raise_on_replay_failure=False
        )
        assert "ondeterminism" in str(replayed.replay_failure)
        await new.kill()
        await here.worker()
        report = await judged(
            here, ["only"], "WORKFLOW_TASK_FAILED (WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC"
        )
        assert all_patched(report, ["only"]), report


# Too much of everything


@pytest.mark.chaos
async def test_too_much_of_everything(tmp_path: Path) -> None:
    """Steps that say 5 MB, a failure that does, signals of 1.9 MB, and a worker that dies in between."""
    hosts = ["host-1", "host-2", "host-3"]
    orders = {"output": 5_000_000, "refuse": {"host-3": "perform_update"}, "pace": 0.2}
    async with ground(tmp_path, {"eu": hosts}, **orders) as here:
        worker = await here.worker()
        rollout = await here.start(ID, ask("eu"))
        await until(lambda: any(has(here, host, "began", "perform_update") for host in hosts))
        for name in ("approve", "cluster_update", "nobody_knows_it"):
            await rollout.handle.signal(name, "x" * 1_900_000)
        with pytest.raises(RPCError):
            await rollout.handle.signal("approve", "x" * 5_000_000)
        await worker.kill()
        await here.worker()
        # The server keeps 2 MB of messages while a task runs; then it has the task begun again.
        flushed = "WORKFLOW_TASK_FAILED (WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND"
        report = await judged(here, hosts, flushed)
    assert report.counts[HostState.PATCHED] == 2
    assert report.counts[HostState.FAILED] == 1
    assert len(report.hosts[0].reason) < 1_000


def test_the_update_can_be_torn_apart() -> None:
    """It has units, so that there is something between its beginning and its end."""
    assert UNITS > 2
