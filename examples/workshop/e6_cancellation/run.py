"""Exercise 6, by hand in three ways and with the library. `make workshop EXERCISE=6`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import attrs
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.worker import Worker
from temporalio.workflow import ParentClosePolicy

from temporal_patching.models import Outcome, RolloutReport
from temporal_patching.worker import PatchingPlugin

from ..machines import Fleet, Machine
from ..stage import PATIENCE, Row, Stage
from .by_hand import ClusterWithGather, ClusterWithTaskGroup, DrainingHandHosts, HostByHand
from .with_library import DrainingHosts, PatchDrainingFleet, start

__all__ = ["Grouped", "Host", "Patched", "Scene", "Seen", "rows", "show"]


@attrs.frozen
class Host:
    """One host, when nothing works on it any more.

    Attributes:
        ended: How its workflow ended: by hand its status, with the library the host's state.
        services_running: Whether its services run.
        in_service: Whether it is out of maintenance mode.
        updated: Whether its update is complete.
        done: All that was done on it, in order.
        late: Of that, what was done after the server had said that all is over.
    """

    ended: str
    services_running: bool
    in_service: bool
    updated: bool
    done: Sequence[str]
    late: Sequence[str]

    @property
    def units_under_services(self) -> int:
        """How much of its update was done after its services had been started again."""
        if "start_services" not in self.done:
            return 0
        after = self.done[self.done.index("start_services") :]
        return sum(what.startswith("unit") for what in after)


@attrs.frozen
class Grouped:
    """What became of `asyncio.TaskGroup`.

    Attributes:
        hosts: The hosts.
        status: What the server says of the workflow when all its hosts have ended.
        failed_tasks: How often its workflow task has failed by then.
        message: What its history says of the first time.
    """

    hosts: Mapping[str, Host]
    status: str
    failed_tasks: int
    message: str


@attrs.frozen
class Patched:
    """What became of the library's rollout.

    Attributes:
        hosts: The hosts.
        reason: Why it failed, as its report says it.
        report: Its report.
    """

    hosts: Mapping[str, Host]
    reason: str
    report: RolloutReport


@attrs.frozen
class Seen:
    """What happened. Hosts are named by what they were doing: see ``Scene``.

    Attributes:
        terminated: Under `asyncio.gather`, whose children are terminated with it.
        abandoned: Under `asyncio.gather`, whose children are not terminated with it.
        grouped: Under `asyncio.TaskGroup`. None before Python 3.11, which has none.
        patched: With the library.
    """

    terminated: Mapping[str, Host]
    abandoned: Mapping[str, Host]
    grouped: Grouped | None
    patched: Patched


@attrs.frozen
class Scene:
    """A cluster of three hosts, named by what they do at the moment when one of them fails.

    ``broken`` is the one that fails: its update does not work. ``updating`` is in the middle of its
    update. ``draining`` has stopped its services and waits for its users to go.
    """

    fleet: Fleet
    broken: Machine
    updating: Machine
    draining: Machine

    @classmethod
    def make(cls, stage: Stage, name: str) -> Scene:
        names = [stage.id(f"e6-{what}") for what in ("broken", "updating", "draining")]
        fleet = stage.fleet(f"e6-{name}", {"eu-1": names}, unit_seconds=0.2, units=20)
        scene = cls(fleet, *map(fleet.machine, names))
        scene.broken.break_at("perform_update")
        # Users hold the broken one, too: until the others are where they should be.
        scene.broken.let_users_in()
        scene.draining.let_users_in()
        return scene

    async def play(self, stage: Stage) -> None:
        """Waits until each host is in the middle of it, and lets the one fail."""
        stopped = (self.broken, self.draining)
        await stage.until(lambda: all("stop_services" in machine.done() for machine in stopped))
        await stage.until(lambda: "unit 0" in self.updating.done())
        self.broken.send_users_home()

    def lengths(self) -> Mapping[str, int]:
        """How much was done on each host until now."""
        return {machine.name: len(machine.done()) for machine in self.fleet.machines()}

    def hosts(self, ended: Mapping[str, str], lengths: Mapping[str, int]) -> dict[str, Host]:
        """What became of each: how its workflow ended, and what came after these lengths."""
        return {
            what: Host(
                ended=ended[machine.name],
                services_running=machine.services_running,
                in_service=machine.in_service,
                updated=machine.updated,
                done=machine.done(),
                late=machine.done()[lengths[machine.name] :],
            )
            for what, machine in (
                ("broken", self.broken),
                ("updating", self.updating),
                ("draining", self.draining),
            )
        }


async def show(stage: Stage) -> Seen:
    stage.say("By hand, asyncio.gather: one host fails, and so does the workflow. At once.")
    terminated = await _gathered(stage, "terminated", ParentClosePolicy.TERMINATE)
    _tell(stage, terminated)

    stage.say("By hand, asyncio.gather again: its children may outlive it.")
    abandoned = await _gathered(stage, "abandoned", ParentClosePolicy.ABANDON)
    _tell(stage, abandoned)

    grouped = None
    if hasattr(asyncio, "TaskGroup"):
        stage.say("By hand, asyncio.TaskGroup: it cancels the others, and raises a group.")
        grouped = await _grouped(stage)
        _tell(stage, grouped.hosts)
        stage.say(
            f"  the workflow is {grouped.status}, {grouped.failed_tasks} of its tasks failed:"
        )
        stage.say(f"    {grouped.message}")
    else:
        stage.say("asyncio.TaskGroup is left out: it is there from Python 3.11 on.")

    stage.say("With the library: first the others are given back or finished, then it fails.")
    patched = await _patched(stage)
    _tell(stage, patched.hosts)
    stage.say(f"  {stage.short(patched.report.summary)}")
    for host in patched.report.hosts:
        stage.say(stage.short(f"    {host.host} is {host.state}: {host.reason}"))
    return Seen(terminated, abandoned, grouped, patched)


async def _gathered(stage: Stage, name: str, when_closed: ParentClosePolicy) -> dict[str, Host]:
    scene = Scene.make(stage, name)
    async with _worker_by_hand(stage, scene) as worker:
        handle = await stage.client.start_workflow(
            ClusterWithGather.run,
            args=["eu-1", when_closed],
            id=stage.id(f"e6-{name}"),
            task_queue=worker.task_queue,
        )
        await scene.play(stage)
        await asyncio.wait_for(_failed(handle), PATIENCE)
        lengths = scene.lengths()
        # For its operator it is over. On the hosts it is not: the users go home …
        scene.draining.send_users_home()
        ended = await _ended(stage, handle.id, scene)
        # … and what the worker had begun, it ends.
        await stage.until(lambda: scene.updating.updated)
    return scene.hosts(ended, lengths)


async def _grouped(stage: Stage) -> Grouped:
    scene = Scene.make(stage, "grouped")
    async with _worker_by_hand(stage, scene) as worker:
        handle = await stage.client.start_workflow(
            ClusterWithTaskGroup.run,
            "eu-1",
            id=stage.id("e6-grouped"),
            task_queue=worker.task_queue,
        )
        await scene.play(stage)
        ended = await _ended(stage, handle.id, scene)
        lengths = scene.lengths()

        async def failed_again() -> bool:
            return await _failed_tasks(handle) >= 2

        await stage.until(failed_again)
        await stage.until(lambda: scene.updating.updated)
        status, failed_tasks = await _status(handle), await _failed_tasks(handle)
        message = await _task_failure(handle)
        await handle.terminate("it would try for ever")
    return Grouped(scene.hosts(ended, lengths), status, failed_tasks, message)


async def _patched(stage: Stage) -> Patched:
    scene = Scene.make(stage, "patched")
    queue = stage.id("e6-patched")
    plugin = PatchingPlugin(DrainingHosts(scene.fleet), workflows=[PatchDrainingFleet])
    async with Worker(stage.client, task_queue=queue, plugins=[plugin]):
        rollout = await start(stage.client, stage.id("e6-patch"), queue)
        await scene.play(stage)
        report = await asyncio.wait_for(rollout.report(), PATIENCE)
        lengths = scene.lengths()
        ended: dict[str, str] = {}
        for host in scene.fleet.hosts("eu-1"):
            state = (await rollout.host_progress(host)).state
            ended[host] = "still running" if state is None else str(state)
    return Patched(scene.hosts(ended, lengths), stage.short(report.reason), report)


def _worker_by_hand(stage: Stage, scene: Scene) -> Worker:
    return Worker(
        stage.client,
        task_queue=stage.id(scene.fleet.folder.name),
        workflows=[ClusterWithGather, ClusterWithTaskGroup, HostByHand],
        activities=DrainingHandHosts(scene.fleet).all(),
    )


# What the server says


async def _failed(handle: WorkflowHandle[Any, Any]) -> None:
    """Waits until a workflow has failed."""
    with suppress(WorkflowFailureError):
        await handle.result()


async def _ended(stage: Stage, parent: str, scene: Scene) -> dict[str, str]:
    """Waits until each host's workflow has ended, and says how."""
    ended: dict[str, str] = {}

    async def all_have() -> bool:
        for host in scene.fleet.hosts("eu-1"):
            handle = stage.client.get_workflow_handle(f"{parent}/{host}")
            ended[host] = await _status(handle)
        return "RUNNING" not in ended.values()

    await stage.until(all_have)
    return ended


async def _status(handle: WorkflowHandle[Any, Any]) -> str:
    status = (await handle.describe()).status
    return (status or WorkflowExecutionStatus.RUNNING).name


async def _failed_tasks(handle: WorkflowHandle[Any, Any]) -> int:
    """How often in a row its task has failed: the history has only the first, the rest is tried anew."""
    return (await handle.describe()).raw_description.pending_workflow_task.attempt - 1


async def _task_failure(handle: WorkflowHandle[Any, Any]) -> str:
    """What the history says of the first workflow task that failed."""
    async for event in handle.fetch_history_events():
        if event.HasField("workflow_task_failed_event_attributes"):
            return event.workflow_task_failed_event_attributes.failure.message
    return "no task has failed"


# What is told


def _tell(stage: Stage, hosts: Mapping[str, Host]) -> None:
    for what, host in hosts.items():
        services = "run" if host.services_running else "ARE STOPPED"
        stage.say(f"  {what}: {host.ended}, its services {services}")
        if host.late:
            stage.say(f"    after it was over: {' … '.join(dict.fromkeys(_ends(host.late)))}")


def _ends(done: Sequence[str]) -> tuple[str, str]:
    return done[0], done[-1]


def rows(seen: Seen) -> list[Row]:
    terminated, abandoned, patched = seen.terminated, seen.abandoned, seen.patched
    stopped = [what for what, host in terminated.items() if not host.services_running]
    begun = [what for what, host in abandoned.items() if "perform_update" in host.late]
    table = [
        Row(
            "gather",
            "2 hosts are left with their services stopped",
            f"stopped: {', '.join(stopped) or 'none'}",
            stopped == ["updating", "draining"],
        ),
        Row(
            "gather, children abandoned",
            "an update begins after the workflow has failed",
            f"begins: {', '.join(begun) or 'none'}",
            begun == ["draining"],
        ),
    ]
    if seen.grouped is not None:
        table += _rows_of_group(seen.grouped)
    states = ", ".join(f"{what} {host.ended}" for what, host in patched.hosts.items())
    given_back = sum(host.services_running and host.in_service for host in patched.hosts.values())
    late = sum(len(host.late) + host.units_under_services for host in patched.hosts.values())
    return [
        *table,
        Row(
            "the library: hosts",
            "broken FAILED, updating PATCHED, draining CANCELLED",
            states,
            states == "broken FAILED, updating PATCHED, draining CANCELLED"
            and patched.hosts["updating"].updated
            and not patched.hosts["draining"].updated,
        ),
        Row(
            "the library: what is left",
            "3 hosts in service with their services; nothing runs on",
            f"{given_back} hosts in service with their services; {late} things run on",
            given_back == 3 and late == 0,
        ),
        Row(
            "the library: says why",
            "STOPPED, and the host",
            f"{patched.report.outcome}: {patched.reason}",
            patched.report.outcome is Outcome.STOPPED and "e6-broken" in patched.reason,
        ),
    ]


def _rows_of_group(grouped: Grouped) -> list[Row]:
    units = grouped.hosts["updating"].units_under_services
    return [
        Row(
            "TaskGroup",
            "its workflow hangs: RUNNING, its task fails again and again",
            f"{grouped.status}, its task failed {grouped.failed_tasks} times",
            grouped.status == "RUNNING" and grouped.failed_tasks >= 2,
        ),
        Row(
            "TaskGroup, the cancelled update",
            "goes on after its services were started",
            f"{units} units after that",
            units > 0,
        ),
    ]
