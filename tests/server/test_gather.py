"""``gather`` inside workflows: activities, children, clean-up, cancels, races, replay."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import (
    AsyncActivityCancelledError,
    Client,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
)
from temporalio.common import RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    ChildWorkflowError,
)
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions
from temporalio.workflow import ActivityCancellationType, ChildWorkflowCancellationType

from temporal_patching.workflow import gather

# The tests, too: pytest rewrites a test module each time that a sandbox imports it.
RUNNER = SandboxedWorkflowRunner(
    restrictions=SandboxRestrictions.default.with_passthrough_modules(
        "temporal_patching", "attr", "attrs", "cattrs", "pytest", "tests"
    )
)
ONCE = RetryPolicy(maximum_attempts=1)
MINUTE = timedelta(minutes=1)


@dataclass
class World:
    """The activities, and what the tests see of them."""

    log: list[str] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    tokens: dict[str, bytes] = field(default_factory=dict)

    @activity.defn
    async def note(self, text: str) -> str:
        self.log.append(text)
        return text

    @activity.defn
    async def fail_when_ready(self, text: str) -> str:
        await self.ready.wait()
        raise ApplicationError(text, type="Boom", non_retryable=True)

    @activity.defn
    async def hold(self, name: str) -> str:
        """Ends when the test says so, also while no worker runs."""
        self.tokens[name] = activity.info().task_token
        activity.raise_complete_async()

    @activity.defn
    async def until_cancelled(self, name: str) -> str:
        self.log.append(f"{name} runs")
        try:
            while True:
                activity.heartbeat()
                await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            self.log.append(f"{name} cleaned up")
            raise


@workflow.defn
class Deploy:
    """One activity for each name, at most so many at once."""

    @workflow.run
    async def run(self, names: list[str], limit: int | None) -> list[str]:
        return await gather(
            *[
                workflow.execute_activity_method(World.note, name, start_to_close_timeout=MINUTE)
                for name in names
            ],
            limit=limit,
        )


@workflow.defn
class HostChild:
    """Waits to be cancelled; then cleans up, and ends as it was told to."""

    def __init__(self) -> None:
        self.released = False

    @workflow.run
    async def run(self, name: str, manner: str) -> str:
        try:
            await note(f"{name} runs")
            await workflow.wait_condition(lambda: self.released)
        except BaseException:
            await note(f"{name} cleans up: {workflow.cancellation_reason()}")
            if manner == "fails":
                raise ApplicationError("cannot restore", type="Later") from None
            if manner != "deaf":
                raise
            await workflow.wait_condition(lambda: self.released)
            await note(f"{name} was released")
        return name

    @workflow.signal
    def release(self) -> None:
        self.released = True


@workflow.defn
class FailingChild:
    @workflow.run
    async def run(self) -> str:
        return await workflow.execute_activity_method(
            World.fail_when_ready,
            "no space left",
            start_to_close_timeout=MINUTE,
            retry_policy=ONCE,
        )


async def note(text: str) -> str:
    """Put a text into the world's log."""
    return await workflow.execute_activity_method(World.note, text, start_to_close_timeout=MINUTE)


async def hold(name: str) -> str:
    """Run an activity that the test ends."""
    return await workflow.execute_activity_method(
        World.hold,
        name,
        start_to_close_timeout=MINUTE,
        retry_policy=ONCE,
        activity_id=name,
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    )


def child(name: str, manner: str = "heeds") -> Any:
    """Run a host as a child that is awaited even when it is cancelled."""
    return workflow.execute_child_workflow(
        HostChild.run,
        args=[name, manner],
        id=f"{workflow.info().workflow_id}/{name}",
        cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
    )


@workflow.defn
class Fleet:
    """Children beside each other, and one that fails."""

    @workflow.run
    async def run(self, manners: list[str], fails: bool, handles: bool) -> list[str]:
        children = [child(f"host-{n}", manner) for n, manner in enumerate(manners)]
        if handles:  # started before the gather, as tasks
            children = [asyncio.create_task(each) for each in children]
        if fails:
            failing = workflow.execute_child_workflow(
                FailingChild.run, id=f"{workflow.info().workflow_id}/failing"
            )
            children.append(failing)
        return await gather(*children)


@workflow.defn
class Activities:
    """Activities beside each other, started as handles, and one that fails."""

    @workflow.run
    async def run(self, fails: bool) -> list[str]:
        handles = [
            workflow.start_activity_method(
                World.until_cancelled,
                name,
                start_to_close_timeout=MINUTE,
                heartbeat_timeout=timedelta(seconds=20),
                cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            )
            for name in ("a", "b")
        ]
        if not fails:
            return await gather(*handles)
        return await gather(
            *handles,
            workflow.execute_activity_method(
                World.fail_when_ready, "disk", start_to_close_timeout=MINUTE, retry_policy=ONCE
            ),
        )


@workflow.defn
class Raises:
    """A coroutine that raises something unusual, beside an activity that is held."""

    @workflow.run
    async def run(self, kind: str) -> list[str]:
        if kind == "limit":
            return await gather(hold("held"), limit=0)
        return await gather(hold("held"), self.fail(kind))

    async def fail(self, kind: str) -> str:
        await note(kind)
        if kind == "SystemExit":
            raise SystemExit("out")
        if kind == "KeyboardInterrupt":
            raise KeyboardInterrupt("out")
        if kind == "group":
            async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined]
                group.create_task(self.fail("Boom"))
                group.create_task(asyncio.sleep(100))
        if kind == "ContinueAsNewError":
            workflow.continue_as_new("Boom")
        raise ApplicationError("out", type=kind)


@workflow.defn
class Nested:
    """Gathers in a gather, thousands of turns, no server needed: pure determinism."""

    @workflow.run
    async def run(self, count: int) -> int:
        running = most = 0

        async def number(n: int) -> int:
            for _ in range(n * 7 % 5):
                await asyncio.sleep(0)
            return n

        async def pair(n: int) -> list[int]:
            nonlocal running, most
            running += 1
            most = max(most, running)
            both = await gather(number(n), number(-n))
            running -= 1
            return list(both)

        pairs = await gather(*[pair(n) for n in range(count)], limit=10)
        assert pairs == [[n, -n] for n in range(count)]
        return most


@workflow.defn
class Timers:
    """A thousand timers, at most a hundred at once."""

    @workflow.run
    async def run(self, count: int, limit: int) -> list[int]:
        async def sleep(n: int) -> int:
            await workflow.sleep(timedelta(minutes=1 + n * 7 % 5))
            return n

        return await gather(*[sleep(n) for n in range(count)], limit=limit)


@workflow.defn
class Deadline:
    """``asyncio.wait_for`` around a gather, and around a bare child for comparison."""

    @workflow.run
    async def run(self, name: str, bare: bool) -> str:
        try:
            awaited = child(name) if bare else gather(child(name))
            await asyncio.wait_for(awaited, timeout=2)
        except asyncio.TimeoutError:
            return "timed out"
        except ChildWorkflowError:
            return "child workflow error"
        return "ended"


@workflow.defn
class OneChild:
    """A child whose worker is another one, gathered or bare."""

    @workflow.run
    async def run(self, queue: str, bare: bool) -> str:
        awaited = workflow.execute_child_workflow(
            HostChild.run,
            args=["host-0", "heeds"],
            id=f"{workflow.info().workflow_id}/host-0",
            task_queue=queue,
        )
        if bare:
            return await awaited
        (name,) = await gather(awaited)
        return name


@workflow.defn
class Racing:
    """Two held activities, a child and a signal that makes a coroutine fail."""

    def __init__(self) -> None:
        self.failed = False

    @workflow.run
    async def run(self, what: list[str]) -> list[str]:
        parts: dict[str, Callable[[], Any]] = {
            "one": lambda: hold("one"),
            "two": lambda: hold("two"),
            "signal": self.fail_on_signal,
            "steps": self.steps,
        }
        return await gather(*[parts[name]() for name in what])

    async def fail_on_signal(self) -> str:
        await workflow.wait_condition(lambda: self.failed)
        raise ApplicationError("signalled", type="Boom")

    async def steps(self) -> str:
        await hold("step 1")
        return await note("step 2")

    @workflow.signal
    def fail(self) -> None:
        self.failed = True


WORKFLOWS = [
    Deploy,
    HostChild,
    FailingChild,
    Fleet,
    Activities,
    Raises,
    Nested,
    Timers,
    Deadline,
    OneChild,
    Racing,
]


@pytest.fixture
def world() -> World:
    """One world a test."""
    return World()


def working(
    client: Client, task_queue: str, world: World, **options: Any
) -> AbstractAsyncContextManager[Worker]:
    """Have a worker."""
    return Worker(
        client,
        task_queue=task_queue,
        workflows=WORKFLOWS,
        activities=[world.note, world.fail_when_ready, world.hold, world.until_cancelled],
        workflow_runner=RUNNER,
        **options,
    )


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until it is so; the test's own timeout bounds it."""
    while not condition():
        await asyncio.sleep(0.01)


async def idle(handle: WorkflowHandle[Any, Any]) -> None:
    """Wait until its child runs and it has no task, so that its worker can stop without losing one."""
    while True:
        events = [event.event_type async for event in handle.fetch_history_events()]
        if (
            EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED in events
            and events[-1] == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
        ):
            return
        await asyncio.sleep(0.01)


async def failure(handle: WorkflowHandle[Any, Any]) -> BaseException | None:
    """What the workflow failed with."""
    with pytest.raises(WorkflowFailureError) as error:
        await handle.result()
    return error.value.cause


async def replay(*handles: WorkflowHandle[Any, Any]) -> None:
    """Replay the histories of ended workflows."""
    replayer = Replayer(workflows=WORKFLOWS, workflow_runner=RUNNER)
    for handle in handles:
        await replayer.replay_workflow(await handle.fetch_history())


async def most_at_once(handle: WorkflowHandle[Any, Any]) -> int:
    """How many activities were open at the same time, by the history."""
    open_now = most = 0
    async for event in handle.fetch_history_events():
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            open_now += 1
            most = max(most, open_now)
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            open_now -= 1
    return most


def children_of(client: Client, workflow_id: str, count: int) -> list[WorkflowHandle[Any, Any]]:
    """Handles on the hosts of a fleet."""
    return [client.get_workflow_handle(f"{workflow_id}/host-{n}") for n in range(count)]


async def status(handle: WorkflowHandle[Any, Any]) -> WorkflowExecutionStatus | None:
    """How a workflow stands now."""
    return (await handle.describe()).status


@pytest.mark.smoke
@pytest.mark.parametrize(("limit", "most"), [(None, 20), (4, 4), (1, 1)])
async def test_limit_holds_back_activities(
    client: Client, workflow_id: str, task_queue: str, world: World, limit: int | None, most: int
) -> None:
    """By the history, never more activities than the limit are open, and as many as it allows."""
    names = [f"host-{n}" for n in range(20)]
    # Without a cache each workflow task replays the whole run: a change of order cannot hide.
    async with working(client, task_queue, world, max_cached_workflows=0):
        handle = await client.start_workflow(
            Deploy.run, args=[names, limit], id=workflow_id, task_queue=task_queue
        )
        assert await handle.result() == names
    assert sorted(world.log) == sorted(names)
    assert await most_at_once(handle) == most
    await replay(handle)


@pytest.mark.smoke
@pytest.mark.parametrize("handles", [False, True], ids=["coroutines", "tasks"])
async def test_a_failed_child_cancels_its_siblings_which_clean_up(
    client: Client, workflow_id: str, task_queue: str, world: World, handles: bool
) -> None:
    """Siblings end as cancelled, after their clean-up and before their parent, and know why."""
    async with working(client, task_queue, world):
        handle = await client.start_workflow(
            Fleet.run,
            args=[["heeds"] * 3, True, handles],
            id=workflow_id,
            task_queue=task_queue,
        )
        await eventually(lambda: len(world.log) == 3)
        world.ready.set()
        error = await failure(handle)
    assert isinstance(error, ChildWorkflowError)
    assert error.workflow_type == "FailingChild"
    assert isinstance(error.cause, ActivityError)
    assert isinstance(error.cause.cause, ApplicationError)
    assert error.cause.cause.message == "no space left"
    reason = (
        f"execute_child_workflow (4 of 4) failed: child workflow '{workflow_id}/failing':"
        " activity 'fail_when_ready': Boom: no space left"
    )
    assert sorted(world.log[3:]) == [f"host-{n} cleans up: {reason[:300]}" for n in range(3)]
    children = children_of(client, workflow_id, 3)
    assert [await status(each) for each in children] == [WorkflowExecutionStatus.CANCELED] * 3
    ends = [
        event.event_type
        async for event in handle.fetch_history_events()
        if event.event_type
        in (
            EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED,
            EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
        )
    ]
    assert ends == [EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED] * 3 + [
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED
    ]
    await replay(handle, *children)


async def test_a_clean_up_that_fails_is_logged_and_does_not_mask(
    client: Client,
    workflow_id: str,
    task_queue: str,
    world: World,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The workflow fails with the first failure; the later one is in the log of its worker."""
    async with working(client, task_queue, world):
        handle = await client.start_workflow(
            Fleet.run, args=[["fails", "heeds"], True, False], id=workflow_id, task_queue=task_queue
        )
        await eventually(lambda: len(world.log) == 2)
        world.ready.set()
        error = await failure(handle)
    assert isinstance(error, ChildWorkflowError)
    assert error.workflow_type == "FailingChild"
    (record,) = [record for record in caplog.records if "failed, too" in record.getMessage()]
    assert record.name == "temporalio.workflow"
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(
        "gather: execute_child_workflow (1 of 3) failed, too:"
        f" child workflow '{workflow_id}/host-0': Later: cannot restore"
    )
    assert record.exc_info is not None
    await replay(handle)
    assert sum("failed, too" in record.getMessage() for record in caplog.records) == 1


async def test_a_deaf_child_is_awaited(
    client: Client, workflow_id: str, task_queue: str, world: World
) -> None:
    """A child that swallows its cancel is not left behind: the gather waits for its own end."""
    async with working(client, task_queue, world):
        handle = await client.start_workflow(
            Fleet.run, args=[["deaf"], True, False], id=workflow_id, task_queue=task_queue
        )
        await eventually(lambda: len(world.log) == 1)
        world.ready.set()
        await eventually(lambda: len(world.log) == 2)
        assert await status(handle) == WorkflowExecutionStatus.RUNNING
        (deaf,) = children_of(client, workflow_id, 1)
        await deaf.signal(HostChild.release)
        error = await failure(handle)
    assert isinstance(error, ChildWorkflowError)
    assert error.workflow_type == "FailingChild"
    assert await status(deaf) == WorkflowExecutionStatus.COMPLETED
    assert world.log[-1] == "host-0 was released"
    await replay(handle, deaf)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("manners", "ends"),
    [
        (["heeds", "heeds"], WorkflowExecutionStatus.CANCELED),
        (["deaf"], WorkflowExecutionStatus.CANCELED),
        (["heeds", "fails"], WorkflowExecutionStatus.FAILED),
    ],
)
async def test_cancelling_the_workflow(
    client: Client,
    workflow_id: str,
    task_queue: str,
    world: World,
    manners: list[str],
    ends: WorkflowExecutionStatus,
) -> None:
    """A cancelled workflow hands its reason on, awaits its children and ends as cancelled.

    Also when a child swallowed its cancel; but a child that fails to clean up makes it fail.
    """
    async with working(client, task_queue, world):
        handle = await client.start_workflow(
            Fleet.run, args=[manners, False, False], id=workflow_id, task_queue=task_queue
        )
        await eventually(lambda: len(world.log) == len(manners))
        await handle.cancel(reason="window closed")
        await handle.cancel(reason="again")
        await eventually(lambda: len(world.log) == 2 * len(manners))
        children = children_of(client, workflow_id, len(manners))
        if "deaf" in manners:
            await children[0].signal(HostChild.release)
        error = await failure(handle)
    assert await status(handle) == ends
    assert isinstance(error, CancelledError if "fails" not in manners else ChildWorkflowError)
    cleaned = [text for text in world.log if "cleans up" in text]
    assert sorted(cleaned) == [f"host-{n} cleans up: window closed" for n in range(len(manners))]
    await replay(handle, *children)


@pytest.mark.parametrize(
    "fails", [True, False], ids=["a sibling fails", "the workflow is cancelled"]
)
async def test_activities_clean_up(
    client: Client, workflow_id: str, task_queue: str, world: World, fails: bool
) -> None:
    """Activities that wait for their cancellation have cleaned up when the workflow ends."""
    async with working(client, task_queue, world, max_heartbeat_throttle_interval=MINUTE / 600):
        handle = await client.start_workflow(
            Activities.run, fails, id=workflow_id, task_queue=task_queue
        )
        await eventually(lambda: len(world.log) == 2)
        if fails:
            world.ready.set()
        else:
            await handle.cancel()
        error = await failure(handle)
        assert sorted(world.log[2:]) == ["a cleaned up", "b cleaned up"]
    if fails:
        assert isinstance(error, ActivityError)
        assert isinstance(error.cause, ApplicationError)
        assert error.cause.message == "disk"
    else:
        assert isinstance(error, CancelledError)
    await replay(handle)


@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt", "Boom", "group", "limit"])
async def test_whatever_is_raised_the_workflow_ends_and_the_worker_lives(
    client: Client, workflow_id: str, task_queue: str, world: World, kind: str
) -> None:
    """Exits, groups and bad limits fail the workflow with their type; the same worker goes on."""
    if kind == "group" and not hasattr(asyncio, "TaskGroup"):
        pytest.skip("Python 3.10 has no TaskGroup")
    async with working(client, task_queue, world):
        handle = await client.start_workflow(
            Raises.run, kind, id=workflow_id, task_queue=task_queue
        )
        if kind != "limit":
            await eventually(lambda: "held" in world.tokens)
            await release(client, world, "held", cancelled=True)
        error = await failure(handle)
        assert isinstance(error, ApplicationError)
        assert error.type == {"limit": "InvalidRequest", "group": "Boom"}.get(kind, kind)
        assert await client.execute_workflow(
            Deploy.run, args=[["alive"], None], id=f"{workflow_id}-after", task_queue=task_queue
        ) == ["alive"]
    await replay(handle)


async def release(client: Client, world: World, name: str, *, cancelled: bool = False) -> None:
    """End a held activity: as cancelled once its cancel has arrived, or with its name."""
    held = client.get_async_activity_handle(task_token=world.tokens.pop(name))
    if not cancelled:
        await held.complete(name)
        return
    try:
        while True:
            await held.heartbeat()
            await asyncio.sleep(0.01)
    except AsyncActivityCancelledError:
        await held.report_cancellation()


async def test_continue_as_new_out_of_a_coroutine(
    client: Client, workflow_id: str, task_queue: str, world: World
) -> None:
    """Siblings are cancelled and awaited before the workflow continues as new."""
    async with working(client, task_queue, world):
        handle = await client.start_workflow(
            Raises.run, "ContinueAsNewError", id=workflow_id, task_queue=task_queue
        )
        for _ in range(2):
            await eventually(lambda: "held" in world.tokens)
            await release(client, world, "held", cancelled=True)
        error = await failure(handle)
    assert isinstance(error, ApplicationError)
    assert error.type == "Boom"
    assert world.log == ["ContinueAsNewError", "Boom"]
    first = client.get_workflow_handle(workflow_id, run_id=handle.first_execution_run_id)
    await replay(first)


@pytest.mark.parametrize(
    ("what", "events", "outcome", "logged"),
    [
        # A result, a failure and a cancel that the workflow learns of all at once.
        (["one", "two"], ["complete one", "cancel"], "CANCELED", None),
        (["one"], ["complete one", "cancel"], "CANCELED", None),
        (["one"], ["cancel", "complete one"], "CANCELED", None),
        # The SDK itself drops an activity's failure for a cancel that comes in the same task.
        (["one"], ["fail one", "cancel"], "CANCELED", None),
        (["one", "two"], ["fail two", "complete one"], "two", None),
        (["one", "two"], ["fail two", "fail one"], "two", "one"),
        (["signal", "one"], ["signal", "complete one"], "signalled", None),
        (["signal", "one"], ["complete one", "signal", "cancel"], "signalled", None),
        (["signal", "one"], ["cancel", "signal", "complete one"], "signalled", None),
        (["signal", "one"], ["signal", "fail one"], "signalled", "one"),
        # The sibling's cancel is too late for its first step, and so is not heard at all.
        (["signal", "steps"], ["signal", "complete step 1"], "signalled", None),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else None,
)
async def test_everything_at_once(
    client: Client,
    workflow_id: str,
    task_queue: str,
    world: World,
    caplog: pytest.LogCaptureFixture,
    what: list[str],
    events: list[str],
    outcome: str,
    logged: str | None,
) -> None:
    """What happened while no worker ran comes in one task, and still the first failure wins."""
    held = {"one", "two", "steps"} & set(what)
    # No cache: the next worker gets one task that holds everything.
    async with working(client, task_queue, world, max_cached_workflows=0):
        handle = await client.start_workflow(
            Racing.run, what, id=workflow_id, task_queue=task_queue
        )
        await eventually(lambda: len(world.tokens) == len(held))
    for event in events:
        verb, _, name = event.partition(" ")
        if verb == "signal":
            await handle.signal(Racing.fail)
        elif verb == "cancel":
            await handle.cancel()
        else:
            token = world.tokens.pop(name)
            answer = client.get_async_activity_handle(task_token=token)
            if verb == "complete":
                await answer.complete(name)
            else:
                await answer.fail(ApplicationError(name, type="Boom", non_retryable=True))
    async with working(client, task_queue, world, max_cached_workflows=0):
        for name in list(world.tokens):
            await release(client, world, name, cancelled=True)
        error = await failure(handle)
    if outcome == "CANCELED":
        assert isinstance(error, CancelledError)
        assert await status(handle) == WorkflowExecutionStatus.CANCELED
    else:
        cause = error.cause if isinstance(error, ActivityError) else error
        assert isinstance(cause, ApplicationError)
        assert cause.message == outcome
    assert world.log == (["step 2"] if "steps" in what else [])
    warnings = [r.getMessage() for r in caplog.records if "failed, too" in r.getMessage()]
    assert [f"Boom: {logged}" in text for text in warnings] == ([True] if logged else [])
    await replay(handle)


@pytest.mark.parametrize("bare", [False, True], ids=["gathered", "bare"])
async def test_a_cancel_that_races_a_childs_end(
    client: Client, workflow_id: str, task_queue: str, world: World, bare: bool
) -> None:
    """A cancel in the task of the child's result ends a gather; a bare await swallows it."""
    children = f"{task_queue}-children"
    async with working(client, children, world):
        async with working(client, task_queue, world, max_cached_workflows=0):
            handle = await client.start_workflow(
                OneChild.run, args=[children, bare], id=workflow_id, task_queue=task_queue
            )
            await eventually(lambda: world.log)
            await idle(handle)
        (held,) = children_of(client, workflow_id, 1)
        await held.signal(HostChild.release)
        assert await held.result() == "host-0"
        await handle.cancel()
        async with working(client, task_queue, world, max_cached_workflows=0):
            if bare:
                assert await handle.result() == "host-0"
            else:
                assert isinstance(await failure(handle), CancelledError)
    await replay(handle)


async def test_eviction_is_silent(
    client: Client,
    workflow_id: str,
    task_queue: str,
    world: World,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A workflow that is evicted in the middle of a gather, or of its clean-up, says nothing."""
    # Without a cache each workflow is evicted after each of its tasks.
    async with working(client, task_queue, world, max_cached_workflows=0):
        handle = await client.start_workflow(
            Fleet.run, args=[["deaf", "deaf"], True, False], id=workflow_id, task_queue=task_queue
        )
        await eventually(lambda: len(world.log) == 2)
        world.ready.set()
        await eventually(lambda: len(world.log) == 4)
        for deaf in children_of(client, workflow_id, 2):
            await deaf.signal(HostChild.release)
        assert isinstance(await failure(handle), ChildWorkflowError)
    # The failing activity is logged, as it should be; nothing else is.
    warned = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert {(r.name, r.levelno) for r in warned} == {("temporalio.activity", logging.WARNING)}
    await replay(handle)


@pytest.mark.smoke
async def test_a_thousand_in_a_workflow(
    env: WorkflowEnvironment, workflow_id: str, task_queue: str, world: World
) -> None:
    """A thousand timers, a hundred at once, and a thousand coroutines in nested gathers."""
    async with working(env.client, task_queue, world):
        handle = await env.client.start_workflow(
            Timers.run, args=[1000, 100], id=workflow_id, task_queue=task_queue
        )
        assert await handle.result() == list(range(1000))
        nested = await env.client.start_workflow(
            Nested.run, 500, id=f"{workflow_id}-nested", task_queue=task_queue
        )
        assert await nested.result() == 10
    await replay(handle, nested)


async def test_a_timeout_around_a_gather_is_a_timeout(
    client: Client, workflow_id: str, task_queue: str, world: World
) -> None:
    """Around a bare child it is not: there the child's cancellation comes out."""
    async with working(client, task_queue, world):
        outcomes = []
        for bare in (False, True):
            handle = await client.start_workflow(
                Deadline.run,
                args=[f"host-{bare}", bare],
                id=f"{workflow_id}-{bare}",
                task_queue=task_queue,
            )
            outcomes.append(await handle.result())
            await replay(handle)
    assert outcomes == ["timed out", "child workflow error"]
