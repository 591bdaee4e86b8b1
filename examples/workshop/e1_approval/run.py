"""Exercise 1, both ways. `make workshop EXERCISE=1`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.worker import Worker

from temporal_patching.exceptions import Refused
from temporal_patching.models import Outcome, RefusedVote, Vote
from temporal_patching.worker import PatchingPlugin
from temporal_patching.workflow import SystemPatchWorkflow

from ..hosts import HandHosts, WorkshopHosts
from ..machines import Fleet, Machine
from ..stage import Row, Stage
from . import with_library as library
from .by_hand import ApprovedByHand
from .with_library import ALICE, BOB, CAROL, MALLORY, Started

__all__ = ["ByHand", "Ending", "Seen", "rows", "show"]


@attrs.frozen
class ByHand:
    """What became of the workflows by hand.

    Attributes:
        stranger_patched: Whether two votes of a stranger got the machine updated.
        stranger_events: How many events of that history have the stranger's name.
        twice_patched: Whether two votes of one person did.
        expired: What the workflow failed with when nobody voted: the type and the message.
        expired_patched: Whether that machine was updated.
    """

    stranger_patched: bool
    stranger_events: int
    twice_patched: bool
    expired: tuple[str | None, str]
    expired_patched: bool


@attrs.frozen
class Ending:
    """How a rollout ended.

    Attributes:
        outcome: What its report says.
        status: What the server says of its workflow.
        signals: How many votes by signal are in its history.
        updates: How many accepted updates.
        stranger_events: How many events of its history have the stranger's name.
        notices: What ``notify`` was told of it, in order.
        done: What was done on its machine.
        patched: Whether the machine is updated and serves.
    """

    outcome: Outcome
    status: WorkflowExecutionStatus | None
    signals: int
    updates: int
    stranger_events: int
    notices: Sequence[str]
    done: Sequence[str]
    patched: bool


@attrs.frozen
class Seen:
    """What happened.

    Attributes:
        by_hand: The workflows by hand.
        recipients: To whom the request for approval went.
        done_before: What was done on the machine before anybody had agreed.
        refused: Why the votes of the stranger and of the requester, by update, were refused.
        votes: The votes that counted after each of Alice, Alice again and Bob.
        by_update: Two approvals by update.
        refused_signals: Votes by signal that were refused, as the query lists them.
        by_signal: Two approvals by signal.
        rejected: One approves, one rejects.
        expired: Nobody votes, ``on_timeout="fail"``.
        expired_well: Nobody votes, ``on_timeout="complete"``.
        with_signal: A vote sent with the start, by signal.
        with_update: A vote sent with the start, by update.
        answer_by: Whose vote the answer to that update names.
    """

    by_hand: ByHand
    recipients: Sequence[str]
    done_before: Sequence[str]
    refused: Sequence[str]
    votes: Sequence[int]
    by_update: Ending
    refused_signals: Sequence[RefusedVote]
    by_signal: Ending
    rejected: Ending
    expired: Ending
    expired_well: Ending
    with_signal: Ending
    with_update: Ending
    answer_by: Sequence[str]


async def show(stage: Stage) -> Seen:
    by_hand = await _by_hand(stage)

    clusters = ["update", "signal", "reject", "expire", "expire-well", "with-signal", "with-update"]
    fleet = stage.fleet("e1-library", {name: [stage.id(f"e1-{name}")] for name in clusters})
    hosts = WorkshopHosts(fleet)
    async with Worker(
        stage.client, task_queue=library.queue(stage), plugins=[PatchingPlugin(hosts)]
    ):
        stage.say("\nWith the library: votes by update. Two must agree, the requester may not.")
        rollout = await library.start(stage, "update", library.both_of_them)
        asked = await library.notice(stage, hosts, rollout, "approval_requested")
        stage.say(f"  notice to {', '.join(asked.recipients)}: {asked.text}")
        done_before = _machine(fleet, "update").done()
        refused = [await _refused(rollout, MALLORY), await _refused(rollout, CAROL)]
        for reason in refused:
            stage.say(f"  refused: {reason}")
        votes: list[int] = []
        for by in (ALICE, "Alice@Example.com", BOB):
            gate = await rollout.approve(by=by, reason="CHG-4711")
            votes.append(len(gate.votes))
            stage.say(f"  {by} approves: {len(gate.votes)} of {gate.quorum}")
        by_update = await _ending(stage, rollout, hosts, "update")

        stage.say("\nVotes by signal: nobody gets an answer, but the query tells.")
        rollout = await library.start(stage, "signal", library.both_of_them)
        await library.notice(stage, hosts, rollout, "approval_requested")
        for by in (MALLORY, ALICE, BOB):
            await rollout.handle.signal(SystemPatchWorkflow.approve_by_signal, Vote(by=by))
        by_signal = await _ending(stage, rollout, hosts, "signal")
        refused_signals = (await rollout.approvals.report()).refused
        for each in refused_signals:
            stage.say(f"  the query lists as refused: {each.reason}")

        stage.say("\nOne approves, one rejects: a reject ends it.")
        rollout = await library.start(stage, "reject", library.both_of_them)
        await library.notice(stage, hosts, rollout, "approval_requested")
        await rollout.approve(by=ALICE)
        await rollout.reject(by=BOB, reason="not on a Friday")
        rejected = await _ending(stage, rollout, hosts, "reject")

        stage.say("\nNobody votes: the rollout fails, or ends well if the policy says so.")
        rollout = await library.start(stage, "expire", library.for_two_seconds)
        expired = await _ending(stage, rollout, hosts, "expire")
        ends_well = attrs.evolve(library.for_two_seconds, on_timeout="complete")
        rollout = await library.start(stage, "expire-well", ends_well)
        expired_well = await _ending(stage, rollout, hosts, "expire-well")

        stage.say("\nA vote sent together with the start, by signal, then by update.")
        vote = Vote(by=ALICE, reason="CHG-4712")
        rollout = await library.start_with_signal(stage, "with-signal", library.one_of_them, vote)
        with_signal = await _ending(stage, rollout, hosts, "with-signal")
        rollout, answer = await library.start_with_update(
            stage, "with-update", library.one_of_them, vote
        )
        with_update = await _ending(stage, rollout, hosts, "with-update")

    return Seen(
        by_hand=by_hand,
        recipients=asked.recipients,
        done_before=done_before,
        refused=refused,
        votes=votes,
        by_update=by_update,
        refused_signals=refused_signals,
        by_signal=by_signal,
        rejected=rejected,
        expired=expired,
        expired_well=expired_well,
        with_signal=with_signal,
        with_update=with_update,
        answer_by=[each.by for each in answer.votes],
    )


async def _by_hand(stage: Stage) -> ByHand:
    names = [stage.id(f"e1-{name}") for name in ("stranger", "twice", "late")]
    fleet = stage.fleet("e1-by-hand", {"eu-1": names})
    stranger, twice, late = map(fleet.machine, names)
    queue = stage.id("e1-by-hand")

    async def patch(machine: Machine, *votes: str) -> WorkflowHandle[ApprovedByHand, None]:
        handle = await stage.client.start_workflow(
            ApprovedByHand.run, machine.name, id=machine.name, task_queue=queue
        )
        for by in votes:
            await handle.signal(ApprovedByHand.approve, by)
        return handle

    stage.say("By hand: a signal, and a wait for two of them.")
    async with Worker(
        stage.client,
        task_queue=queue,
        workflows=[ApprovedByHand],
        activities=[HandHosts(fleet).perform_update],
    ):
        strangers = await patch(stranger, MALLORY, MALLORY)
        await strangers.result()
        stage.say(f"  {MALLORY} votes twice, machine updated: {stranger.updated}")
        await (await patch(twice, ALICE, ALICE)).result()
        stage.say(f"  {ALICE} votes twice, machine updated: {twice.updated}")
        expired = await _failure(await patch(late))
        stage.say(f"  nobody votes, the workflow fails with: {expired[0]}: {expired[1]!r}")
    return ByHand(
        stranger_patched=stranger.updated,
        stranger_events=await _mentions(strangers, MALLORY),
        twice_patched=twice.updated,
        expired=expired,
        expired_patched=late.updated,
    )


async def _failure(handle: WorkflowHandle[ApprovedByHand, None]) -> tuple[str | None, str]:
    """What the web UI shows of the failure."""
    try:
        await handle.result()
    except WorkflowFailureError:
        last = (await handle.fetch_history()).events[-1]
        failure = last.workflow_execution_failed_event_attributes.failure
        return failure.application_failure_info.type or None, failure.message
    return None, ""


async def _refused(rollout: Started, by: str) -> str:
    """Tries to approve. Answers why that was refused; empty if it was not."""
    try:
        await rollout.approve(by=by)
    except Refused as refused:
        return str(refused)
    return ""


async def _mentions(handle: WorkflowHandle[Any, Any], name: str) -> int:
    """How many events of a history have a name in them, wherever."""
    events = (await handle.fetch_history()).events
    return sum(name.encode() in event.SerializeToString() for event in events)


async def _ending(stage: Stage, rollout: Started, hosts: WorkshopHosts, cluster: str) -> Ending:
    """Waits for the end, and reads what the server and the machine say."""
    report = await rollout.report()
    status = (await rollout.handle.describe()).status
    stage.say(f"  {report.summary}")
    stage.say(f"  the workflow: {status.name if status else '?'}, {stage.link(rollout.id)}")
    events = (await rollout.handle.fetch_history()).events
    signals = [event.workflow_execution_signaled_event_attributes.signal_name for event in events]
    accepted = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED
    machine = _machine(hosts.fleet, cluster)
    return Ending(
        outcome=report.outcome,
        status=status,
        signals=sum(name in ("approve", "reject") for name in signals),
        updates=sum(event.event_type == accepted for event in events),
        stranger_events=await _mentions(rollout.handle, MALLORY),
        notices=[told.kind for told in hosts.notices if told.rollout == rollout.id],
        done=machine.done(),
        patched=machine.updated and machine.in_service and machine.services_running,
    )


def _machine(fleet: Fleet, cluster: str) -> Machine:
    (host,) = fleet.hosts(cluster)
    return fleet.machine(host)


def rows(seen: Seen) -> list[Row]:
    hand = seen.by_hand
    kind, message = hand.expired
    refused = sum(bool(reason) for reason in seen.refused)
    by_update, by_signal = seen.by_update, seen.by_signal
    listed = [vote.by for vote in seen.refused_signals]
    return [
        Row(
            "by hand: a stranger votes twice",
            "updated",
            _updated(hand.stranger_patched),
            hand.stranger_patched,
        ),
        Row(
            "by hand: one person votes twice",
            "updated",
            _updated(hand.twice_patched),
            hand.twice_patched,
        ),
        Row(
            "by hand: nobody votes",
            "not updated, an error without a word",
            f"{_updated(hand.expired_patched)}, {kind}: {message!r}",
            kind == "TimeoutError" and not message and not hand.expired_patched,
        ),
        Row(
            "the request for approval",
            "goes to 2 people, nothing is done yet",
            f"goes to {len(seen.recipients)} people, {len(seen.done_before)} steps done",
            list(seen.recipients) == [ALICE, BOB] and not seen.done_before,
        ),
        Row(
            "a stranger and the requester, by update",
            "2 refused with a reason, the stranger in 0 events",
            f"{refused} refused with a reason, the stranger in {by_update.stranger_events} events",
            refused == 2 and by_update.stranger_events == 0,
        ),
        Row(
            "Alice, Alice again, Bob",
            "1, 1, 2 votes",
            f"{', '.join(map(str, seen.votes))} votes",
            list(seen.votes) == [1, 1, 2],
        ),
        Row(
            "approved by update",
            "PATCHED, 3 updates in history",
            f"{by_update.outcome}, {by_update.updates} updates in history",
            by_update.outcome is Outcome.PATCHED
            and by_update.patched
            and (by_update.updates, by_update.signals) == (3, 0),
        ),
        Row(
            "approved by signal, a stranger among them",
            "PATCHED, 3 signals in history, 1 listed as refused",
            f"{by_signal.outcome}, {by_signal.signals} signals in history, "
            f"{len(listed)} listed as refused",
            by_signal.outcome is Outcome.PATCHED
            and by_signal.patched
            and by_signal.signals == 3
            and listed == [MALLORY],
        ),
        _ended("rejected", seen.rejected, "REJECTED", "FAILED"),
        _ended("expired, on_timeout='fail'", seen.expired, "EXPIRED", "FAILED"),
        _ended("expired, on_timeout='complete'", seen.expired_well, "EXPIRED", "COMPLETED"),
        _ended("a signal with the start", seen.with_signal, "PATCHED", "COMPLETED"),
        _ended("an update with the start", seen.with_update, "PATCHED", "COMPLETED"),
    ]


def _ended(what: str, ending: Ending, outcome: str, status: str) -> Row:
    """Right if the report, the server and the machine say the same."""
    said = (str(ending.outcome), ending.status.name if ending.status else "unknown")
    touched = bool(ending.done)
    return Row(
        what,
        f"{outcome}, {status}",
        ", ".join(said),
        said == (outcome, status) and ending.patched == touched == (outcome == "PATCHED"),
    )


def _updated(updated: bool) -> str:
    return "updated" if updated else "not updated"
