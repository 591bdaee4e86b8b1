"""Gates in any workflow: who may vote, what a vote does, and that nothing of it hangs a workflow."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, cast

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateFailedError,
)
from temporalio.common import RawValue, WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer, Worker

from temporal_patching.client import Approvals, _asking
from temporal_patching.exceptions import InvalidRequest, NotAnswered, Refused, RolloutNotFound
from temporal_patching.models import ApprovalReport, GateReport, Vote
from temporal_patching.worker import PatchingPlugin
from temporal_patching.workflow import ApprovalMixin
from tests.gates import (
    ALICE,
    BOB,
    CAROL,
    CLASSES,
    DAVE,
    GATE,
    HOURS,
    MIXED,
    Bound,
    BrokenHook,
    Declared,
    Late,
    Release,
    Reminding,
    Twice,
    TwoGates,
    WithInput,
)


class Desk:
    """Workflows with gates, on one task queue, with or without a worker."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.task_queue = f"approval-{uuid.uuid4().hex[:8]}"
        self.handles: list[WorkflowHandle[Any, Any]] = []

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        """A worker."""
        async with Worker(
            self.client, task_queue=self.task_queue, workflows=CLASSES, plugins=[PatchingPlugin()]
        ):
            yield

    def operation(self, kind: type[Any], **asked: Any) -> WithStartWorkflowOperation[Any, Any]:
        """What update-with-start starts."""
        return WithStartWorkflowOperation(
            kind.__name__,
            asked,
            id=f"{kind.__name__}-{uuid.uuid4().hex[:8]}",
            task_queue=self.task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            result_type=str,
        )

    async def start(
        self,
        kind: type[Any] = Release,
        *,
        signal: tuple[str, Sequence[Any]] = ("", ()),
        **asked: Any,
    ) -> WorkflowHandle[Any, Any]:
        """Starts one."""
        handle: Any = await self.client.start_workflow(
            kind.__name__,
            asked,
            id=f"{kind.__name__}-{uuid.uuid4().hex[:8]}",
            task_queue=self.task_queue,
            start_signal=signal[0] or None,
            start_signal_args=signal[1],
        )
        self.handles.append(handle)
        return cast("WorkflowHandle[Any, Any]", handle)

    async def replay(self) -> None:
        """Replays every history."""
        replayer = Replayer(
            workflows=CLASSES,
            plugins=[PatchingPlugin()],
            data_converter=self.client.data_converter,
        )
        for handle in self.handles:
            await replayer.replay_workflow(await handle.fetch_history())


@asynccontextmanager
async def desk(client: Client) -> AsyncIterator[Desk]:
    """A desk with a worker; when the test is over every history is replayed."""
    here = Desk(client)
    async with here.worker():
        yield here
    await here.replay()


async def report(handle: WorkflowHandle[Any, Any]) -> ApprovalReport:
    """What the query answers."""
    return await handle.query(ApprovalMixin.approvals)


async def opened(handle: WorkflowHandle[Any, Any], gate: str = GATE) -> GateReport:
    """Waits until the gate is open."""
    return await gate_with(handle, lambda each: each.waiting, gate)


async def gate_with(
    handle: WorkflowHandle[Any, Any], what: Callable[[GateReport], Any], gate: str = GATE
) -> GateReport:
    """Waits until this holds of the gate."""
    found: list[GateReport] = []

    async def there() -> bool:
        found[:] = [
            each for each in (await report(handle)).gates if each.gate == gate and what(each)
        ]
        return bool(found)

    await until(there)
    return found[0]


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Waits until it holds."""
    end = asyncio.get_running_loop().time() + 20
    while not await holds():
        assert asyncio.get_running_loop().time() < end, "waited for 20 seconds"
        await asyncio.sleep(0.02)


def gates(here: Desk, handle: WorkflowHandle[Any, Any]) -> Approvals:
    """What an operator holds."""
    return Approvals(here.client, handle.id)


async def events(handle: WorkflowHandle[Any, Any]) -> int:
    """How long its history is."""
    return len((await handle.fetch_history()).events)


async def failure(handle: WorkflowHandle[Any, Any]) -> ApplicationError:
    """What it failed with."""
    with pytest.raises(WorkflowFailureError) as failed:
        await asyncio.wait_for(handle.result(), timeout=30)
    assert isinstance(failed.value.cause, ApplicationError)
    return failed.value.cause


# Votes by update


@pytest.mark.smoke
async def test_an_approval_opens_the_gate(any_client: Client) -> None:
    """One approver approves, in any spelling, and the workflow goes on; under any converter."""
    async with desk(any_client) as here:
        handle = await here.start()
        await opened(handle)
        answer = await gates(here, handle).approve(by=" Alice@EXAMPLE.com", gate=GATE, reason="ok")
        assert await handle.result() == "approved by  Alice@EXAMPLE.com"
        asked = await report(handle)
    assert (answer.outcome, answer.approved) == ("approved", True)
    (vote,) = answer.votes
    assert (vote.approve, vote.reason) == (True, "ok")
    assert vote.at is not None
    assert asked.gates == (answer,)


async def test_a_quorum(client: Client) -> None:
    """Two of three must approve; the query says who has, and how long the gate is open."""
    async with desk(client) as here:
        handle = await here.start(quorum=2)
        gate = await opened(handle)
        assert gate.approvers == (ALICE, BOB, CAROL)
        assert gate.quorum == 2
        assert gate.opened_at is not None
        assert gate.deadline == gate.opened_at + HOURS
        first = await gates(here, handle).approve(by=ALICE, gate=GATE)
        assert (first.outcome, first.waiting) == (None, True)
        assert [each.by for each in (await report(handle)).pending[0].votes] == [ALICE]
        await gates(here, handle).approve(by=CAROL, gate=GATE)
        assert await handle.result() == f"approved by {ALICE}, {CAROL}"
        assert (await report(handle)).pending == ()


async def test_one_reject_ends_it(client: Client) -> None:
    """Whatever the quorum, with the reason in the failure and the gate in its details."""
    async with desk(client) as here:
        handle = await here.start(quorum=3)
        await gates(here, handle).approve(by=ALICE, gate=GATE)
        answer = await gates(here, handle).reject(by=BOB, gate=GATE, reason="freeze")
        error = await failure(handle)
    assert answer.outcome == "rejected"
    assert error.type == "ApprovalRejected"
    assert error.message == f"gate 'release' was rejected by {BOB}: freeze"
    assert error.details[0]["outcome"] == "rejected"


async def test_a_mind_may_be_changed_to_a_reject(client: Client) -> None:
    """Who has approved may still reject while the gate is open."""
    async with desk(client) as here:
        handle = await here.start(quorum=2)
        await gates(here, handle).approve(by=ALICE, gate=GATE)
        await gates(here, handle).reject(by=ALICE.upper(), gate=GATE)
        assert (await failure(handle)).type == "ApprovalRejected"


async def test_refusals_leave_nothing_in_history(client: Client) -> None:
    """A stranger, the requester, an unknown gate: refused with a reason, without an event."""
    async with desk(client) as here:
        handle = await here.start(Declared, quorum=2)
        await handle.signal(Declared.open)
        await opened(handle)
        await gates(here, handle).approve(by=ALICE, gate=GATE)
        before = await events(handle)
        refusals = {
            (
                True,
                "mallory@example.com",
                GATE,
            ): "'mallory@example.com' is not an approver of gate 'release'",
            (False, DAVE, GATE): f"{DAVE!r} made the request and may not vote on it",
            (
                True,
                " DAVE@example.com",
                GATE,
            ): "' DAVE@example.com' made the request and may not vote on it",
            (
                True,
                BOB,
                "relase",
            ): "there is no gate 'relase', did you mean 'release'? (gates: release)",
        }
        for (approve, by, gate), why in refusals.items():
            verb = gates(here, handle).approve if approve else gates(here, handle).reject
            with pytest.raises(Refused) as refused:
                await verb(by=by, gate=gate)
            assert str(refused.value) == why
        with pytest.raises(InvalidRequest, match="'by' must not be empty"):
            await gates(here, handle).approve(by=" ", gate=GATE)
        assert await events(handle) == before
        assert (await report(handle)).refused == ()
        await gates(here, handle).approve(by=BOB, gate=GATE)
        await handle.result()


async def test_the_same_vote_again_is_answered_as_the_first_time(client: Client) -> None:
    """Also when more has happened since, and when the gate is closed; it counts once."""
    async with desk(client) as here:
        handle = await here.start(TwoGates)
        await opened(handle, "us")
        eu = gates(here, handle)
        first = await eu.approve(by=ALICE, gate="eu")
        again = await eu.approve(by=ALICE.upper(), gate="eu", reason="once more")
        assert again == first
        with pytest.raises(Refused, match="gate 'eu' is closed: it was approved"):
            await eu.approve(by=BOB, gate="eu")
        with pytest.raises(Refused, match="gate 'eu' is closed: it was approved"):
            await eu.reject(by=ALICE, gate="eu")
        await eu.approve(by=ALICE, gate="us")
        assert await handle.result() == "both"


WRONG_ARGUMENTS: list[list[Any]] = [
    [],
    [None],
    ["alice"],
    [5],
    [[]],
    [{"by": ALICE, "gate": GATE, "nope": 1}],
    [{"gate": GATE}],
    [{"by": ["x"]}],
    [Vote(by=ALICE, gate=GATE), 1],
    [RawValue(Payload(metadata={"encoding": b"json/plain"}, data=b"{nope"))],
    [RawValue(Payload(metadata={"encoding": b"json/plain"}, data=b'"\xff"'))],
    [RawValue(Payload(metadata={"encoding": b"made/up"}, data=b"{}"))],
    [{"by": "x" * 100_000, "gate": GATE}],
    [{"by": "\ud800", "gate": GATE}],
]


async def test_rubbish_by_update_is_refused(client: Client) -> None:
    """Whatever its arity or payload: an answer, no event, no failed task, and the gate still works."""
    async with desk(client) as here:
        handle = await here.start()
        await opened(handle)
        before = await events(handle)
        for verb in ("approve", "reject"):
            for arguments in WRONG_ARGUMENTS:
                with pytest.raises(WorkflowUpdateFailedError):
                    await asyncio.wait_for(handle.execute_update(verb, args=arguments), timeout=20)
        assert await events(handle) == before
        await gates(here, handle).approve(by=ALICE, gate=GATE)
        assert await handle.result() == f"approved by {ALICE}"


async def test_what_was_wrong_with_an_update_is_said(client: Client) -> None:
    """By field and path, as with every other wire type."""
    async with desk(client) as here:
        handle = await here.start()
        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await handle.execute_update("approve", {"bye": ALICE})
        assert isinstance(refused.value.cause, ApplicationError)
        assert refused.value.cause.message == (
            "Vote: extra fields found (bye) @ $, did you mean 'by'?; required field missing @ $.by"
        )
        await gates(here, handle).approve(by=ALICE, gate=GATE)
        await handle.result()


# Votes by signal


async def test_votes_by_signal(client: Client) -> None:
    """They count like those by update; a bad one is recorded as refused."""
    async with desk(client) as here:
        handle = await here.start(quorum=2)
        await handle.signal("approve", Vote(by=ALICE, gate=GATE))
        await handle.signal("approve", Vote(by=ALICE.upper(), gate=GATE))
        await handle.signal("approve", Vote(by="mallory", gate=GATE))
        gate = await gate_with(handle, lambda each: each.refused)
        assert [each.by for each in gate.votes] == [ALICE]
        (refused,) = (await report(handle)).refused
        assert refused.reason == "'mallory' is not an approver of gate 'release'"
        assert (refused.by, refused.gate) == ("mallory", GATE)
        await handle.signal(Release.approve_by_signal, Vote(by=BOB, gate=GATE))
        assert await handle.result() == f"approved by {ALICE}, {BOB}"


async def test_a_reject_by_signal(client: Client) -> None:
    """Ends it like one by update."""
    async with desk(client) as here:
        handle = await here.start(quorum=2)
        await handle.signal("reject", Vote(by=BOB, gate=GATE, reason="no"))
        assert (await failure(handle)).type == "ApprovalRejected"


async def test_rubbish_by_signal_is_recorded(client: Client) -> None:
    """Whatever its arity or payload, it is in the query as refused, and no task fails."""
    async with desk(client) as here:
        handle = await here.start()
        await opened(handle)
        for arguments in WRONG_ARGUMENTS:
            await handle.signal("approve", args=arguments)
        await handle.signal("reject", args=[1, 2, 3])

        async def all_read() -> bool:
            return len((await report(handle)).refused) == len(WRONG_ARGUMENTS) + 1

        await until(all_read)
        refused = [each.reason for each in (await report(handle)).refused]
        assert refused[0] == "a vote takes one argument (got 0)"
        assert refused[5] == "extra fields found (nope) @ $"
        assert refused[8] == "a vote takes one argument (got 2)"
        assert all("the payload cannot be read" in each for each in refused[9:12])
        assert refused[14] == "a vote takes one argument (got 3)"
        await gates(here, handle).approve(by=ALICE, gate=GATE)
        assert await handle.result() == f"approved by {ALICE}"


async def test_refused_signals_do_not_pile_up(client: Client) -> None:
    """The query shows the last fifty; the gate counts all of them."""
    async with desk(client) as here:
        handle = await here.start()
        await opened(handle)
        for index in range(60):
            await handle.signal("approve", Vote(by=f"mallory-{index}", gate=GATE))
        gate = await gate_with(handle, lambda each: each.refused == 60)
        asked = await report(handle)
        assert gate.waiting
        assert [each.by for each in asked.refused] == [
            f"mallory-{index}" for index in range(10, 60)
        ]
        await gates(here, handle).approve(by=ALICE, gate=GATE)
        await handle.result()


@pytest.mark.parametrize("reason", ["\ud800", "\x00", "é" * 2_000, "line\nbreak"])
async def test_any_reason_ends_the_workflow_with_it(client: Client, reason: str) -> None:
    """A reason that no failure's message could hold does not hang the workflow."""
    async with desk(client) as here:
        handle = await here.start()
        # Written by hand: JSON has a form for half of a surrogate pair.
        written = json.dumps({"by": ALICE, "gate": GATE, "reason": reason}).encode()
        payload = Payload(metadata={"encoding": b"json/plain"}, data=written)
        await handle.signal("reject", RawValue(payload))
        error = await failure(handle)
    assert error.message.startswith(f"gate 'release' was rejected by {ALICE}: ")


async def test_a_hook_that_raises_hangs_nothing(client: Client) -> None:
    """A vote is refused, by update and by signal, and the workflow goes on."""
    async with desk(client) as here:
        handle = await here.start(BrokenHook)
        await handle.signal("approve", Vote(by=ALICE, gate=GATE))
        with pytest.raises(Refused):
            await gates(here, handle).approve(by=ALICE, gate=GATE)
        (refused,) = (await report(handle)).refused
        assert "KeyError" in refused.reason
        await handle.signal(BrokenHook.end)
        assert await handle.result() == "done"


# Time


@pytest.mark.parametrize("on_timeout", ["fail", "complete"])
async def test_a_gate_expires(env: WorkflowEnvironment, on_timeout: str) -> None:
    """It fails the workflow with a type of its own, or lets it complete, as the policy chose."""
    async with desk(env.client) as here:
        handle = await here.start(quorum=2, on_timeout=on_timeout)
        await handle.signal("approve", Vote(by=ALICE, gate=GATE))
        if on_timeout == "complete":
            assert await handle.result() == f"expired by {ALICE}"
        else:
            error = await failure(handle)
            assert error.type == "ApprovalExpired"
            assert error.message == "gate 'release' expired: 1 of 2 approvals within 4:00:00"
            assert error.details[0]["outcome"] == "expired"
        (gate,) = (await report(handle)).gates
    assert (gate.outcome, gate.waiting) == ("expired", False)


async def test_it_reminds(env: WorkflowEnvironment) -> None:
    """It asks once, reminds while it is open, and says that it expired."""
    async with desk(env.client) as here:
        handle = await here.start(Reminding)
        told = await handle.result()
    assert told == ["requested", "reminder", "reminder", "reminder", "expired"]


async def test_the_deadline_runs_from_the_opening(env: WorkflowEnvironment) -> None:
    """However early the vote was, and however late the gate opened."""
    async with desk(env.client) as here:
        handle = await here.start(Late, quorum=2, on_timeout="complete")
        await handle.signal("approve", Vote(by=ALICE, gate=GATE))
        await env.sleep(timedelta(hours=9))
        await handle.signal(Late.open)
        gate = await opened(handle)
        assert gate.opened_at is not None
        early = gate.votes[0].at
        assert early is not None
        assert gate.opened_at - early > timedelta(hours=8)
        assert gate.deadline == gate.opened_at + HOURS
        assert await handle.result() == f"expired by {ALICE}"


# Votes before the gate opens


@pytest.mark.parametrize("kind", [Declared, Late])
async def test_votes_before_the_gate_opens(client: Client, kind: type[Any]) -> None:
    """They wait for it, whether the workflow declares its gate or nobody knows it yet."""
    async with desk(client) as here:
        handle = await here.start(kind, quorum=2)
        answer = await gates(here, handle).approve(by=ALICE, gate=GATE)
        again = await gates(here, handle).approve(by=ALICE, gate=GATE)
        assert again == answer
        assert [each.by for each in answer.votes] == [ALICE]
        asked = await report(handle)
        assert asked.pending == ()
        assert asked.held == (1 if kind is Late else 0)
        await gates(here, handle).approve(by=BOB, gate=GATE)
        await handle.signal("open")
        assert await handle.result() == f"approved by {ALICE}, {BOB}"


async def test_early_votes_at_a_declared_gate_are_judged_at_once(client: Client) -> None:
    """Strangers, the requester and other gates are refused before it opens; a reject is final."""
    async with desk(client) as here:
        handle = await here.start(Declared, quorum=2)
        vote = gates(here, handle)
        for by in ("mallory", DAVE):
            with pytest.raises(Refused):
                await vote.approve(by=by, gate=GATE)
        with pytest.raises(Refused, match="there is no gate 'other'"):
            await vote.approve(by=ALICE, gate="other")
        assert (await vote.reject(by=ALICE, gate=GATE)).outcome == "rejected"
        with pytest.raises(Refused, match="gate 'release' is closed: it was rejected"):
            await vote.approve(by=BOB, gate=GATE)
        await handle.signal(Declared.open)
        assert (await failure(handle)).type == "ApprovalRejected"


async def test_early_votes_at_an_unknown_gate_are_judged_when_it_opens(client: Client) -> None:
    """A stranger's is recorded as refused then; a reject wins over approvals that came before it."""
    async with desk(client) as here:
        handle = await here.start(Late)
        vote = gates(here, handle)
        await vote.approve(by="mallory", gate=GATE)
        await vote.approve(by=ALICE, gate=GATE)
        await vote.reject(by=BOB, gate=GATE)
        with pytest.raises(Refused, match="has rejected already: a reject is final"):
            await vote.approve(by=BOB.upper(), gate=GATE)
        await handle.signal(Late.open)
        error = await failure(handle)
        asked = await report(handle)
    assert error.message == f"gate 'release' was rejected by {BOB}"
    assert [each.by for each in asked.refused] == ["mallory"]
    assert asked.gates[0].refused == 1
    assert asked.held == 0


@pytest.mark.parametrize("bound", [False, True])
async def test_a_vote_about_another_plan_is_no_repeat(client: Client, bound: bool) -> None:
    """Before the gate is known and while it is open, by update and by signal."""
    async with desk(client) as here:
        handle = await here.start(Bound, bound=bound, digest="one")
        vote = gates(here, handle)
        first = await vote.approve(by=ALICE, gate=GATE, digest="one")
        with pytest.raises(Refused, match="has approved plan 'one' already"):
            await vote.approve(by=ALICE, gate=GATE, digest="two")
        await handle.signal(Bound.open)
        await opened(handle)
        assert await vote.approve(by=ALICE, gate=GATE, digest="one") == first
        with pytest.raises(Refused, match="voted for another plan: gate 'release' shows 'one'"):
            await vote.approve(by=ALICE, gate=GATE, digest="two")
        await handle.signal("approve", Vote(by=ALICE, gate=GATE, digest="two"))
        await vote.approve(by=BOB, gate=GATE, digest="one")
        assert await handle.result() == f"approved by {ALICE}, {BOB}"
        (refused,) = (await report(handle)).refused
    assert "voted for another plan" in refused.reason


@pytest.mark.parametrize(
    ("digest", "said"),
    [
        ("", "is bound to a plan, so no vote can count without one: hand approval(digest=...)"),
        ("x" * 201, "'digest' must have at most 200 characters (got 201)"),
    ],
)
async def test_a_gate_at_which_no_vote_can_count_is_refused(
    client: Client, digest: str, said: str
) -> None:
    """Bound to a plan that it does not show, or that no vote can name: it would wait for its timeout."""
    async with desk(client) as here:
        handle = await here.start(Bound, bound=True, digest=digest)
        await handle.signal(Bound.open)
        error = await failure(handle)
    assert error.type == "InvalidRequest"
    assert said in error.message


async def test_votes_for_nobodys_gate_are_bounded(client: Client) -> None:
    """A hundred wait for a gate; one more is refused, so that nobody fills the workflow's memory."""
    async with desk(client) as here:
        handle = await here.start(Late)
        for index in range(100):
            await handle.signal("approve", Vote(by=f"mallory-{index}", gate="nowhere"))
        with pytest.raises(Refused, match="no gate is open yet, and 100 votes are waiting for one"):
            await gates(here, handle).approve(by=ALICE, gate=GATE)
        assert (await report(handle)).held == 100
        again = await gates(here, handle).approve(by="MALLORY-7", gate="nowhere")
        assert [vote.by for vote in again.votes] == ["mallory-7"], "answered as the first time"
        await handle.signal(Late.open)
        await opened(handle)
        await gates(here, handle).approve(by=ALICE, gate=GATE)
        assert await handle.result() == f"approved by {ALICE}"


async def test_early_votes_are_judged_by_the_policy_that_holds(client: Client) -> None:
    """What was declared before is not what counts when the gate opens with a narrower policy."""
    async with desk(client) as here:
        handle = await here.start(Declared, approvers=[CAROL])
        await gates(here, handle).approve(by=ALICE, gate=GATE)
        await handle.signal(Declared.open)
        gate = await opened(handle)
        assert (gate.votes, gate.approvers, gate.refused) == ((), (CAROL,), 1)
        await gates(here, handle).approve(by=CAROL, gate=GATE)
        assert await handle.result() == "narrower"


async def test_signal_with_start(client: Client) -> None:
    """A vote that comes with the start, before the first line of run, counts."""
    async with desk(client) as here:
        handle = await here.start(signal=("approve", [Vote(by=ALICE, gate=GATE)]))
        assert await handle.result() == f"approved by {ALICE}"


@pytest.mark.parametrize("kind", [Release, WithInput])
async def test_update_with_start(client: Client, kind: type[Any]) -> None:
    """The start and the vote in one call, answered."""
    async with desk(client) as here:
        operation = here.operation(kind)
        answer = await client.execute_update_with_start_workflow(
            "approve",
            Vote(by=ALICE, gate=GATE),
            start_workflow_operation=operation,
            result_type=GateReport,
        )
        handle = await operation.workflow_handle()
        here.handles.append(handle)
        assert [each.by for each in answer.votes] == [ALICE]
        assert await handle.result() == f"approved by {ALICE}"


# One activation


async def test_approve_and_reject_while_no_worker_runs(client: Client) -> None:
    """All that waited is read at once, in its order: the first that decides counts, whatever comes after."""
    here = Desk(client)
    first, second = await here.start(), await here.start()
    await first.signal("approve", Vote(by=ALICE, gate=GATE))
    await first.signal("reject", Vote(by=BOB, gate=GATE))
    await second.signal("reject", Vote(by=BOB, gate=GATE))
    await second.signal("approve", Vote(by=ALICE, gate=GATE))
    async with here.worker():
        # Both came before the gate was open, so the reject wins in either order.
        for handle in (first, second):
            assert (await failure(handle)).type == "ApprovalRejected"
    await here.replay()


async def test_approve_and_reject_at_an_open_gate_in_one_activation(client: Client) -> None:
    """The one that came first decides; the other is recorded as refused."""
    here = Desk(client)
    async with here.worker():
        handle = await here.start()
        await opened(handle)
    await handle.signal("approve", Vote(by=ALICE, gate=GATE))
    await handle.signal("reject", Vote(by=BOB, gate=GATE))
    async with here.worker():
        assert await handle.result() == f"approved by {ALICE}"
        (refused,) = (await report(handle)).refused
    assert refused.reason == "gate 'release' is closed: it was approved"
    await here.replay()


async def test_a_vote_in_the_activation_of_the_deadline_counts(client: Client) -> None:
    """No worker was there: the deadline passed and a vote came; both are read at once."""
    here = Desk(client)
    async with here.worker():
        handle = await here.start(timeout=1)
        gate = await opened(handle)

    async def fired() -> bool:
        history = await handle.fetch_history()
        return any(each.event_type == EventType.EVENT_TYPE_TIMER_FIRED for each in history.events)

    await until(fired)
    await handle.signal("approve", Vote(by=ALICE, gate=GATE))
    async with here.worker():
        assert await handle.result() == f"approved by {ALICE}"
        (closed,) = (await report(handle)).gates
    assert gate.deadline == closed.deadline
    await here.replay()


# Other classes


@pytest.mark.parametrize("kind", MIXED)
async def test_it_combines_with_anything(client: Client, kind: type[Any]) -> None:
    """Any order of mixins, any ``__init__``: a vote that comes with the start counts."""
    async with desk(client) as here:
        handle = await here.start(kind, quorum=2, signal=("approve", [Vote(by=ALICE, gate=GATE)]))
        await gates(here, handle).approve(by=BOB, gate=GATE)
        assert await handle.result() == f"approved by {ALICE}, {BOB}"


async def test_a_gate_opens_once(client: Client) -> None:
    """A second approval of the same name is a mistake that fails the workflow."""
    async with desk(client) as here:
        handle = await here.start(Twice)
        await gates(here, handle).approve(by=ALICE, gate=GATE)
        error = await failure(handle)
    assert error.type == "InvalidRequest"
    assert error.message == "gate 'release' was opened before: each gate opens once"


async def test_a_gate_nobody_waits_at_is_closed(client: Client) -> None:
    """When the waiting is cancelled, a sibling was rejected say, later votes are refused."""
    async with desk(client) as here:
        handle = await here.start(TwoGates)
        await opened(handle, "us")
        await gates(here, handle).reject(by=ALICE, gate="eu")
        gate = await gate_with(handle, lambda each: each.outcome, "us")
        assert gate.outcome == "cancelled"
        with pytest.raises(Refused, match="gate 'us' is closed: it was cancelled"):
            await gates(here, handle).approve(by=ALICE, gate="us")
        await handle.signal(TwoGates.end)
        assert await handle.result() == f"ApprovalRejected: gate 'eu' was rejected by {ALICE}"


# The operator's side


async def test_without_a_worker_nobody_answers(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NotAnswered, not a hang: for votes and for the report."""
    assert _asking.PATIENCE.seconds == 10
    monkeypatch.setattr(_asking, "PATIENCE", timedelta(seconds=1))
    here = Desk(client)
    handle = await here.start()
    for asking in (
        gates(here, handle).approve(by=ALICE, gate=GATE),
        gates(here, handle).reject(by=ALICE, gate=GATE),
        gates(here, handle).report(),
    ):
        with pytest.raises(NotAnswered, match="no worker answered for 'Release-"):
            await asyncio.wait_for(asking, timeout=15)
    await handle.terminate()


async def test_a_workflow_that_is_not_there(client: Client) -> None:
    """RolloutNotFound, for one that never was and for one that has ended."""
    async with desk(client) as here:
        nobody = Approvals(client, "nobody")
        for asking in (nobody.approve(by=ALICE), nobody.reject(by=ALICE), nobody.report()):
            with pytest.raises(RolloutNotFound, match="there is no workflow 'nobody'"):
                await asking
        handle = await here.start(signal=("approve", [Vote(by=ALICE, gate=GATE)]))
        await handle.result()
        with pytest.raises(RolloutNotFound, match="has ended: it takes no more messages"):
            await gates(here, handle).approve(by=BOB, gate=GATE)
        assert (await gates(here, handle).report()).gates[0].approved
