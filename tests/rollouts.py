"""Rollouts of simulated fleets: what the server tests start, and how they look at the end of it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHistory
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, Worker, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from temporal_patching.activity import PatchActivities
from temporal_patching.client import Rollout
from temporal_patching.exceptions import RolloutFailed
from temporal_patching.models import HostReport, PatchRequest, RolloutReport
from temporal_patching.policy import RolloutPolicy
from temporal_patching.worker import PatchingPlugin
from tests.workflows import QuickFleet

CAROL = "carol@example.com"
ALICE = "alice@example.com"
BOB = "bob@example.com"

ALL_AT_ONCE = RolloutPolicy(pilot_hosts=0, max_parallel="100%")


def ask(*clusters: str, policy: RolloutPolicy = ALL_AT_ONCE, **fields: Any) -> PatchRequest:
    """A request of Carol's for these clusters, by default without pilots and all hosts at once."""
    return PatchRequest(clusters=clusters, requester=CAROL, policy=policy, **fields)


@dataclass
class Site:
    """A worker that patches one fleet, and the rollouts that a test started on it."""

    client: Client
    task_queue: str
    plugin: PatchingPlugin
    runner: WorkflowRunner
    ids: list[str] = field(default_factory=list)

    async def start(
        self, request: PatchRequest, workflow: type[Any] = QuickFleet, *, id: str | None = None
    ) -> Rollout[Any]:
        """Starts a rollout."""
        id = id or f"rollout-{uuid.uuid4().hex[:8]}"
        self.ids.append(id)
        return await Rollout.start(
            self.client, workflow, request, id=id, task_queue=self.task_queue
        )

    async def report(
        self, request: PatchRequest, workflow: type[Any] = QuickFleet
    ) -> RolloutReport:
        """Starts a rollout and waits for its report, whatever the outcome."""
        return await ending(await self.start(request, workflow))

    def again(self) -> Worker:
        """Another worker, after the first has ended."""
        return Worker(
            self.client,
            task_queue=self.task_queue,
            plugins=[self.plugin],
            workflow_runner=self.runner,
        )

    async def replay(self) -> int:
        """Replays every history of the rollouts and their children; answers how many."""
        replayer = Replayer(
            workflows=[],
            plugins=[self.plugin],
            workflow_runner=self.runner,
            data_converter=self.client.data_converter,
        )
        replayed, left = 0, [(id, None) for id in self.ids]
        while left:
            id, run_id = left.pop()
            history = await history_of(self.client, id, run_id)
            await replayer.replay_workflow(history)
            replayed += 1
            left += [*children_of(history), *continuation_of(history, id)]
        return replayed

    async def runs(self, cluster: str) -> int:
        """How many runs the workflow of a cluster of the last rollout had."""
        return len(await runs_of(self.client, f"{self.ids[-1]}/{cluster}"))


@asynccontextmanager
async def site(
    client: Client,
    hosts: PatchActivities,
    workflows: Sequence[type] = (QuickFleet,),
    *,
    replays: bool = True,
    sandboxed: bool = True,
    **options: Any,
) -> AsyncIterator[Site]:
    """A worker for these hosts; when it has ended, every history is replayed."""
    runner = SandboxedWorkflowRunner() if sandboxed else UnsandboxedWorkflowRunner()
    task_queue = f"queue-{uuid.uuid4().hex[:8]}"
    plugin = PatchingPlugin(hosts, workflows=workflows)
    async with Worker(
        client, task_queue=task_queue, plugins=[plugin], workflow_runner=runner, **options
    ):
        here = Site(client, task_queue, plugin, runner)
        yield here
    if replays:
        await here.replay()


async def ending(rollout: Rollout[Any]) -> RolloutReport:
    """The report of a rollout, whatever its outcome."""
    try:
        return await rollout.result()
    except RolloutFailed as failed:
        return failed.report


def reported(report: RolloutReport, host: str) -> HostReport:
    """What a report says of a host that was not patched."""
    return next(each for each in report.hosts if each.host == host)


async def status(client: Client, id: str) -> str:
    """How a workflow ended, or that it runs; empty if there never was one."""
    try:
        description = await client.get_workflow_handle(id).describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return ""
    found = description.status
    assert isinstance(found, WorkflowExecutionStatus)
    return found.name


async def history_of(client: Client, id: str, run_id: str | None = None) -> WorkflowHistory:
    """The history of one run, the latest by default."""
    return await client.get_workflow_handle(id, run_id=run_id).fetch_history()


def children_of(history: WorkflowHistory) -> list[tuple[str, str]]:
    """Id and run id of every child that a workflow started."""
    started = EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED
    executions = [
        event.child_workflow_execution_started_event_attributes.workflow_execution
        for event in history.events
        if event.event_type == started
    ]
    return [(each.workflow_id, each.run_id) for each in executions]


def continuation_of(history: WorkflowHistory, id: str) -> list[tuple[str, str]]:
    """Id and run id of the run that continued a workflow as new, if one did."""
    last = history.events[-1].workflow_execution_continued_as_new_event_attributes
    return [(id, last.new_execution_run_id)] if last.new_execution_run_id else []


async def runs_of(client: Client, id: str) -> list[WorkflowHistory]:
    """The histories of all runs of a workflow so far, the first one first."""
    latest = await history_of(client, id)
    begun = latest.events[0].workflow_execution_started_event_attributes
    run_id, found = begun.first_execution_run_id, list[WorkflowHistory]()
    while run_id:
        found.append(await history_of(client, id, run_id))
        run_id = next((run for _, run in continuation_of(found[-1], id)), "")
    return found


async def eventually(
    holds: Callable[[], Awaitable[bool]], *, timeout: timedelta = timedelta(seconds=30)
) -> None:
    """Asks again and again, until the answer is yes or the time is over."""
    deadline = asyncio.get_running_loop().time() + timeout.total_seconds()
    while not await holds():
        if asyncio.get_running_loop().time() > deadline:
            raise asyncio.TimeoutError(f"it did not happen in {timeout}")
        await asyncio.sleep(0.05)
