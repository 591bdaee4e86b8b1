"""Exercise 5, both ways. `make workshop EXERCISE=5`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import attrs
from rich.console import Console
from rich.tree import Tree
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.worker import Worker

from temporal_patching.worker import PatchingPlugin

from ..hosts import HandHosts, WorkshopHosts
from ..machines import Fleet
from ..stage import PATIENCE, Row, Stage
from ..web import browser, photograph
from .by_hand import ClusterByHand, FleetByHand, HostByHand
from .with_library import start

__all__ = ["Node", "Seen", "rows", "show"]


@attrs.frozen
class Node:
    """A workflow and its children, as the server knows them.

    Attributes:
        id: The workflow's id.
        run_id: Which run of that id.
        type: The workflow's type.
        status: How it ended: COMPLETED, FAILED, TERMINATED, … or RUNNING.
        summary: What it is about, as its parent said when it started it. May be empty.
        children: The workflows that it has started.
    """

    id: str
    run_id: str
    type: str
    status: str
    summary: str
    children: Sequence[Node]

    def all(self) -> Iterator[Node]:
        """This one and all below it."""
        yield self
        for child in self.children:
            yield from child.all()


@attrs.frozen
class Left:
    """What a workflow leaves behind that is terminated in the middle of an update.

    Attributes:
        tree: The workflows, once all of them have ended.
        stopped: The machines whose services do not run.
    """

    tree: Node
    stopped: Sequence[str]


@attrs.frozen
class Seen:
    """What happened.

    Attributes:
        tree: The workflows of a rollout that went well.
        picture: The web UI's page of that tree. None: there is none.
        skipped: Why nobody tried to take it; empty if somebody did.
        by_hand: After the workflow by hand was terminated.
        with_library: After the library's rollout was terminated.
    """

    tree: Node
    picture: Path | None
    skipped: str
    by_hand: Left
    with_library: Left


async def show(stage: Stage) -> Seen:
    stage.say("With the library: a workflow for the rollout, for each cluster and for each host.")
    tree = await asyncio.wait_for(_patched_with_library(stage), PATIENCE)
    _print(tree)
    skipped = ""
    if stage.web is None:
        skipped = "set TEMPORAL_UI to the address of your server's web UI"
    elif browser() is None:
        skipped = "no Chromium"
    picture = None if skipped else await _photograph(stage, tree)

    stage.say("By hand: the same three levels. Somebody terminates the top in the middle of it.")
    by_hand = await asyncio.wait_for(_terminated_by_hand(stage), PATIENCE)
    _print(by_hand.tree)
    stage.say(f"  services stopped, and nobody will start them: {_names(by_hand.stopped)}")

    stage.say("With the library: its top is terminated in the same place.")
    with_library = await asyncio.wait_for(_terminated_with_library(stage), PATIENCE)
    _print(with_library.tree)
    stage.say(f"  services stopped: {_names(with_library.stopped)}")
    return Seen(tree, picture, skipped, by_hand, with_library)


async def read_tree(client: Client, id: str, run_id: str | None = None) -> Node:
    """A workflow and what it has started: each child is in its parent's history."""
    handle = client.get_workflow_handle(id, run_id=run_id)
    children: list[Node] = []
    async for event in handle.fetch_history_events():
        if event.HasField("child_workflow_execution_started_event_attributes"):
            child = event.child_workflow_execution_started_event_attributes.workflow_execution
            children.append(await read_tree(client, child.workflow_id, child.run_id))
    description = await handle.describe()
    status = description.status or WorkflowExecutionStatus.RUNNING
    return Node(
        id=id,
        run_id=description.run_id,
        type=description.workflow_type,
        status=status.name,
        summary=await description.static_summary() or "",
        children=sorted(children, key=lambda child: child.id),
    )


async def _patched_with_library(stage: Stage) -> Node:
    hosts = stage.hosts("e5", 6)
    fleet = stage.fleet("e5-patched", {"eu-1": hosts[:3], "us-1": hosts[3:]})
    queue = stage.id("e5-library")
    async with Worker(
        stage.client, task_queue=queue, plugins=[PatchingPlugin(WorkshopHosts(fleet))]
    ):
        rollout = await start(stage.client, stage.id("e5-patch"), queue)
        await rollout.result()
    return await read_tree(stage.client, rollout.id)


async def _terminated_by_hand(stage: Stage) -> Left:
    fleet = _slow_fleet(stage, "e5-by-hand")
    queue = stage.id("e5-by-hand")
    async with Worker(
        stage.client,
        task_queue=queue,
        workflows=[FleetByHand, ClusterByHand, HostByHand],
        activities=HandHosts(fleet).all(),
    ):
        handle = await stage.client.start_workflow(
            FleetByHand.run, ["eu-1", "us-1"], id=stage.id("e5-fleet-by-hand"), task_queue=queue
        )
        await _updates_have_begun(stage, fleet)
        await handle.terminate("wrong button")
        tree = await _ended_tree(stage, handle.id)
    return Left(tree, _stopped(stage, fleet))


async def _terminated_with_library(stage: Stage) -> Left:
    fleet = _slow_fleet(stage, "e5-terminated")
    queue = stage.id("e5-terminated")
    async with Worker(
        stage.client, task_queue=queue, plugins=[PatchingPlugin(WorkshopHosts(fleet))]
    ):
        rollout = await start(stage.client, stage.id("e5-terminated"), queue)
        await _updates_have_begun(stage, fleet)
        await rollout.handle.terminate("wrong button")
        tree = await _ended_tree(stage, rollout.id)
    return Left(tree, _stopped(stage, fleet))


def _slow_fleet(stage: Stage, name: str) -> Fleet:
    """Their updates take 3 seconds: time enough to terminate the workflow in the middle."""
    one, other = stage.hosts(name, 2)
    return stage.fleet(name, {"eu-1": [one], "us-1": [other]}, unit_seconds=0.2, units=15)


async def _updates_have_begun(stage: Stage, fleet: Fleet) -> None:
    machines = fleet.machines()
    await stage.until(lambda: all("unit 0" in machine.done() for machine in machines))


async def _ended_tree(stage: Stage, id: str) -> Node:
    trees: list[Node] = []

    async def has_ended() -> bool:
        trees.append(await read_tree(stage.client, id))
        return all(node.status != "RUNNING" for node in trees[-1].all())

    await stage.until(has_ended)
    return trees[-1]


def _stopped(stage: Stage, fleet: Fleet) -> list[str]:
    return [stage.short(each.name) for each in fleet.machines() if not each.services_running]


async def _photograph(stage: Stage, tree: Node) -> Path | None:
    file = stage.picture("workshop-5.png")
    there = await photograph(
        f"{stage.link(quote(tree.id, safe=''))}/{tree.run_id}/relationships",
        file,
        shows=[node.id for node in tree.all()],
        press='input[data-track-text="Expand All"]',
        # The list: the page's drawing puts the hosts of two clusters on top of each other.
        part="main div.flex-col.bg-surface-secondary",
        size=(1700, 1500),
    )
    if not there:
        return None
    stage.say(f"  the web UI's page of it: {file}")
    return file


def _print(tree: Node) -> None:
    def grow(branch: Tree, node: Node) -> Tree:
        for child in node.children:
            grow(branch.add(_label(child)), child)
        return branch

    Console(width=120, highlight=False).print(grow(Tree(_label(tree)), tree))


def _label(node: Node) -> str:
    color = "green" if node.status == "COMPLETED" else "red"
    return f"[{color}]{node.status}[/] [bold]{node.id}[/] {node.summary}"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _statuses(level: Sequence[Node]) -> str:
    """The statuses of a level, each once."""
    return "/".join(sorted({node.status for node in level}))


def _levels(tree: Node) -> list[Sequence[Node]]:
    """The workflows, level by level, from the top."""
    levels: list[Sequence[Node]] = [[tree]]
    while below := [child for node in levels[-1] for child in node.children]:
        levels.append(below)
    return levels


def _drawn(tree: Node) -> str:
    """How many workflows each level has, and how they ended, like ``1 COMPLETED > 2 FAILED``."""
    return " > ".join(f"{len(level)} {_statuses(level)}" for level in _levels(tree))


def rows(seen: Seen) -> list[Row]:
    tree = "1 COMPLETED > 2 COMPLETED > 6 COMPLETED"
    killed = "1 TERMINATED > 2 TERMINATED > 2 TERMINATED"
    ended = "1 TERMINATED > 2 FAILED > 2 COMPLETED"
    by_hand, library = seen.by_hand, seen.with_library
    return [
        Row("the tree", tree, _drawn(seen.tree), _drawn(seen.tree) == tree),
        Row(
            "by hand, the top terminated",
            f"{killed}, services stopped on 2 hosts",
            f"{_drawn(by_hand.tree)}, services stopped on {len(by_hand.stopped)} hosts",
            _drawn(by_hand.tree) == killed and len(by_hand.stopped) == 2,
        ),
        Row(
            "with the library, the top terminated",
            f"{ended}, services stopped on 0 hosts",
            f"{_drawn(library.tree)}, services stopped on {len(library.stopped)} hosts",
            _drawn(library.tree) == ended and not library.stopped,
        ),
        _picture_row(seen),
    ]


def _picture_row(seen: Seen) -> Row:
    what, expected = "the picture", "1 to 150 kB"
    if seen.skipped:
        return Row(what, expected, f"skipped: {seen.skipped}", None)
    if seen.picture is None:
        return Row(what, expected, "there is none", False)
    size = len(seen.picture.read_bytes()) // 1024
    return Row(what, expected, f"{size} kB", 1 <= size <= 150)
