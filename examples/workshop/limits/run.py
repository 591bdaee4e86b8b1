"""What happens at Temporal's limits, and how far a rollout is from them. `make workshop EXERCISE=limits`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import attrs
from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import TerminatedError
from temporalio.worker import Worker

from temporal_patching.models import HostState, RolloutReport

from ..hosts import HandHosts
from ..machines import Fleet
from ..stage import PATIENCE, Row, Stage, dev_server
from .by_hand import AllAtOnce, KeepsTheOutput, OneHistory, perform_chatty_update
from .with_library import NARROW, patch

__all__ = ["ByHand", "Largest", "Seen", "rows", "show"]

EVENTS, PENDING = 500, 50
"""The limits of the server that is started here. Usual are 51,200 and 2,000."""

ADVISED_EVENTS = 10_240
"""From here on a usual server warns; at 51,200 it ends the workflow."""

SUGGESTED_EVENTS = 4_096
"""Here it suggests to continue as new, which a cluster of the library does."""

LARGEST_CLUSTER = 50_000
"""The library refuses a larger one."""

LARGEST_PAYLOAD = 2 * 1024 * 1024

HOSTS = 150
"""Hosts in each of the two clusters."""

NARROW_HOSTS = 60
"""Hosts of the cluster that are patched one after the other."""


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
        narrow: What one over a cluster of ``NARROW_HOSTS``, one after the other, left there.
        too_large: The rollout over a cluster that is too large.
        said: What that one says of itself.
    """

    by_hand: ByHand
    report: RolloutReport
    largest: Largest
    narrow: Largest
    too_large: RolloutReport
    said: str


async def show(stage: Stage) -> Seen:
    stage.say(f"By hand, on a server whose limits are {EVENTS} events and {PENDING} activities.")
    by_hand = await _by_hand(stage)
    stage.say(f"With the library: two clusters of {HOSTS} hosts.")
    began = time.monotonic()
    # A simulated host has the name of its cluster, and a number.
    eu, us, one, huge = (stage.id(f"lim-{name}") for name in ("eu", "us", "one", "huge"))
    report = await patch(
        stage.client, {eu: HOSTS, us: HOSTS}, chatty=f"{eu}-2", id=stage.id("limits")
    )
    stage.say(f"  {stage.short(report.summary)} ({time.monotonic() - began:.0f} s)")
    largest = await _largest(stage, report.rollout, workflows=3 + 2 * HOSTS)
    stage.say(
        f"  {largest.workflows} workflows: at most {largest.events:,} events in a history, "
        f"{largest.payload:,} bytes in a payload"
    )
    stage.say(f"With the library: a cluster of {NARROW_HOSTS} hosts, one after the other.")
    slow = await patch(
        stage.client, {one: NARROW_HOSTS}, policy=NARROW, id=stage.id("limits-narrow")
    )
    narrow = await _largest(stage, slow.rollout, workflows=2 + NARROW_HOSTS)
    for what, events in (("50 at once", largest.events / HOSTS), ("one by one", _each(narrow))):
        stage.say(
            f"  {what}: {events:.1f} events for each host of a cluster; "
            f"it continues as new after some {SUGGESTED_EVENTS / events:,.0f} hosts"
        )
    stage.say(f"With the library: a cluster of {LARGEST_CLUSTER + 1:,} hosts.")
    too_large = await patch(stage.client, {huge: LARGEST_CLUSTER + 1}, id=stage.id("limits-huge"))
    said = stage.short(too_large.summary)
    stage.say(f"  {said}")
    return Seen(by_hand, report, largest, narrow, too_large, said)


# By hand


async def _by_hand(stage: Stage) -> ByHand:
    fleet = stage.fleet(
        "limits",
        {"eu-1": [stage.id(f"lim-{number}") for number in range(60)]},
        step_seconds=0,
        unit_seconds=0,
        units=1,
    )
    hosts = fleet.hosts("eu-1")
    async with (
        # On the usual limits 51,200 events would take a while.
        dev_server(
            stage.folder / "limits.log",
            *("--dynamic-config-value", f"limit.historyCount.error={EVENTS}"),
            *("--dynamic-config-value", f"limit.numPendingActivities.error={PENDING}"),
        ) as (client, _),
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
        endless = await _start(client, AllAtOnce, hosts)
        pending = await stage.failed_task(endless)
        await endless.terminate("it would try for ever")
        begun = _lines(fleet) - lines
        stage.say(f"  all at once: {pending}; {begun} steps were done on hosts")
        payload, attempts = await _failed_activity(stage, await _start(client, KeepsTheOutput, 3))
        stage.say(f"  the output of an update, attempt {attempts}: {payload}")
    return ByHand(history, len(hosts), updated, pending, begun, payload, attempts)


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


async def _failed_activity(stage: Stage, handle: WorkflowHandle[Any, Any]) -> tuple[str, int]:
    """Why its activity has failed, and its attempt. That, too, would go on for ever."""
    failures: list[tuple[str, int]] = []

    async def failed() -> bool:
        for each in (await handle.describe()).raw_description.pending_activities:
            if each.HasField("last_failure") and each.attempt > 1:
                failures.append((each.last_failure.message, each.attempt))
        return bool(failures)

    await stage.until(failed)
    await handle.terminate()
    return failures[0]


def _updated(fleet: Fleet) -> int:
    return sum(machine.updated for machine in fleet.machines())


def _lines(fleet: Fleet) -> int:
    return sum(len(machine.log()) for machine in fleet.machines())


# With the library


async def _largest(stage: Stage, rollout: str, *, workflows: int) -> Largest:
    """Reads every history of a rollout and of all below it."""
    found = await stage.listed(f"RootWorkflowId = '{rollout}'", workflows)
    events = payload = 0
    for each in found:
        history = await stage.client.get_workflow_handle(each.id).fetch_history()
        events = max(events, len(history.events))
        for event in history.events:
            payload = max(payload, *(len(part.data) for part in _payloads(event)), 0)
    return Largest(len(found), events, payload)


def _each(narrow: Largest) -> float:
    """Events for each host: the longest history is the cluster's."""
    return narrow.events / NARROW_HOSTS


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
            f"with the library, {NARROW_HOSTS} hosts one by one",
            "more events a host; hundreds of hosts in a run",
            f"{_each(seen.narrow):.1f} a host, {largest.events / HOSTS:.1f} with 50 at once; "
            f"{SUGGESTED_EVENTS / _each(seen.narrow):,.0f} hosts in a run",
            largest.events / HOSTS < _each(seen.narrow) < SUGGESTED_EVENTS / 100,
        ),
        Row(
            f"with the library, {LARGEST_CLUSTER + 1:,} hosts",
            "refused, nothing is touched",
            seen.said,
            f"{LARGEST_CLUSTER:,}" in huge.reason and huge.counts[HostState.PATCHED] == 0,
        ),
    ]
