"""Workflows with gates: light, since the sandbox imports this module again for each workflow."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import attrs
from temporalio import workflow
from temporalio.exceptions import ApplicationError

from temporal_patching.models import GateReport, Vote
from temporal_patching.policy import ApprovalPolicy
from temporal_patching.workflow import ApprovalMixin, gather

ALICE, BOB, CAROL, DAVE = (f"{name}@example.com" for name in ("alice", "bob", "carol", "dave"))
HOURS = timedelta(hours=4)
GATE = "release"


def policy(quorum: int = 1, timeout: timedelta = HOURS, **told: Any) -> ApprovalPolicy:
    """Alice, Bob and Carol decide."""
    return ApprovalPolicy(approvers=[ALICE, BOB, CAROL], quorum=quorum, timeout=timeout, **told)


async def decided(gates: ApprovalMixin, asked: Mapping[str, Any]) -> str:
    """Waits at the gate; what a workflow of the tests does."""
    report = await gates.approval(
        GATE,
        policy(
            quorum=asked.get("quorum", 1),
            timeout=timedelta(seconds=asked.get("timeout", 14_400)),
            on_timeout=asked.get("on_timeout", "fail"),
        ),
    )
    # The answers to votes under way come first, as Temporal's documentation has it.
    await workflow.wait_condition(workflow.all_handlers_finished)
    return f"{report.outcome} by {', '.join(vote.by for vote in report.votes)}"


@workflow.defn
class Release(ApprovalMixin):
    """No declared gate, no requester, no __init__."""

    @workflow.run
    async def run(self, asked: dict[str, Any]) -> str:
        return await decided(self, asked)


@workflow.defn
class Declared(ApprovalMixin):
    """Its gate and its requester are known before it opens, and it opens late."""

    def __init__(self) -> None:
        self.go = False
        self.told: list[str] = []

    def approval_policies(self) -> Mapping[str, ApprovalPolicy]:
        return {GATE: policy(quorum=2)}

    def approval_requester(self) -> str:
        return DAVE

    def on_approval(self, event: str, gate: GateReport) -> None:
        self.told.append(event)

    @workflow.signal
    def open(self) -> None:
        self.go = True

    @workflow.query
    def events(self) -> list[str]:
        return self.told

    @workflow.run
    async def run(self, asked: dict[str, Any]) -> str:
        await workflow.wait_condition(lambda: self.go)
        narrower = asked.get("approvers")
        if narrower:
            await self.approval(GATE, ApprovalPolicy(approvers=narrower, timeout=HOURS))
        return await decided(self, asked) if not narrower else "narrower"


@workflow.defn
class Late(ApprovalMixin):
    """Nobody knows its gate before it opens."""

    def __init__(self) -> None:
        self.go = False

    @workflow.signal
    def open(self) -> None:
        self.go = True

    @workflow.run
    async def run(self, asked: dict[str, Any]) -> str:
        await workflow.wait_condition(lambda: self.go)
        return await decided(self, asked)


@workflow.defn
class Reminding(ApprovalMixin):
    """Notes what it is told about its gate."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def on_approval(self, event: str, gate: GateReport) -> None:
        self.told.append(event)

    @workflow.run
    async def run(self, asked: dict[str, Any]) -> list[str]:
        await self.approval(GATE, policy(remind_every=timedelta(hours=1), on_timeout="complete"))
        return self.told


@workflow.defn
class TwoGates(ApprovalMixin):
    """Two gates at once; the first that fails closes the other."""

    def __init__(self) -> None:
        self.over = False

    @workflow.signal
    def end(self) -> None:
        self.over = True

    @workflow.run
    async def run(self, asked: dict[str, Any]) -> str:
        try:
            await gather(self.approval("eu", policy()), self.approval("us", policy()))
        except ApplicationError as error:
            await workflow.wait_condition(lambda: self.over)
            return f"{error.type}: {error.message}"
        return "both"


@workflow.defn
class Twice(ApprovalMixin):
    """Opens its gate twice."""

    @workflow.run
    async def run(self, asked: dict[str, Any]) -> str:
        await decided(self, asked)
        return await decided(self, asked)


@workflow.defn
class Bound(ApprovalMixin):
    """Its gate is bound to a plan, and shows its fingerprint if there is one."""

    def __init__(self) -> None:
        self.go = False

    @workflow.signal
    def open(self) -> None:
        self.go = True

    @workflow.run
    async def run(self, asked: dict[str, Any]) -> str:
        await workflow.wait_condition(lambda: self.go)
        report = await self.approval(
            GATE, policy(quorum=2, bound_to_plan=asked["bound"]), digest=asked["digest"]
        )
        await workflow.wait_condition(workflow.all_handlers_finished)
        return f"{report.outcome} by {', '.join(vote.by for vote in report.votes)}"


@workflow.defn
class BrokenHook(ApprovalMixin):
    """Its hook raises."""

    def __init__(self) -> None:
        self.go = False

    def approval_policies(self) -> Mapping[str, ApprovalPolicy]:
        raise KeyError("a bug")

    @workflow.signal
    def end(self) -> None:
        self.go = True

    @workflow.run
    async def run(self, asked: dict[str, Any]) -> str:
        await workflow.wait_condition(lambda: self.go)
        return "done"


# With other classes, in any order


class Pausable:
    """Another mixin, with an ``__init__`` that goes on, and one handler."""

    def __init__(self) -> None:
        super().__init__()
        self.paused = False

    @workflow.signal
    def pause(self) -> None:
        self.paused = True


class Selfish:
    """A mixin that does not call ``super().__init__()``."""

    def __init__(self) -> None:
        self.selfish = True


class Counted:
    """A mixin with a ``__new__`` that wants the workflow's arguments."""

    count: int

    def __new__(cls, *arguments: object) -> Counted:
        self = super().__new__(cls)
        self.count = len(arguments)
        return self


@workflow.defn
class First(ApprovalMixin, Pausable):
    @workflow.run
    async def run(self, asked: dict[str, Any]) -> str:
        assert self.paused is False
        return await decided(self, asked)


@workflow.defn
class Last(Pausable, ApprovalMixin):
    @workflow.run
    async def run(self, asked: dict[str, Any]) -> str:
        assert self.paused is False
        return await decided(self, asked)


@workflow.defn
class AfterSelfish(Selfish, ApprovalMixin):
    @workflow.run
    async def run(self, asked: dict[str, Any]) -> str:
        assert self.selfish
        return await decided(self, asked)


@workflow.defn
class BeforeSelfish(ApprovalMixin, Selfish, Pausable):
    def __init__(self) -> None:
        Selfish.__init__(self)

    @workflow.run
    async def run(self, asked: dict[str, Any]) -> str:
        return await decided(self, asked)


@workflow.defn
class OwnInit(ApprovalMixin):
    """An ``__init__`` that forgets ``super().__init__()``."""

    def __init__(self) -> None:
        self.mine = True

    @workflow.run
    async def run(self, asked: dict[str, Any]) -> str:
        assert self.mine
        return await decided(self, asked)


@workflow.defn
class WithInput(ApprovalMixin, Counted):
    """Takes its input in ``__init__``."""

    @workflow.init
    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked = asked

    @workflow.run
    async def run(self, asked: dict[str, Any]) -> str:
        assert self.asked == asked
        assert self.count == 1
        return await decided(self, self.asked)


@workflow.defn
class WithInputLast(Counted, Pausable, ApprovalMixin):
    """The same, with the mixin last."""

    @workflow.init
    def __init__(self, asked: dict[str, Any]) -> None:
        super().__init__()
        self.asked = asked

    @workflow.run
    async def run(self, asked: dict[str, Any]) -> str:
        assert self.count == 1
        return await decided(self, self.asked)


MIXED = [First, Last, AfterSelfish, BeforeSelfish, OwnInit, WithInput, WithInputLast]
CLASSES = [Release, Declared, Late, Reminding, TwoGates, Twice, Bound, BrokenHook, *MIXED]


@workflow.defn
class Sealed:
    """Takes a wire type and gives one."""

    @workflow.run
    async def run(self, vote: Vote) -> Vote:
        return attrs.evolve(vote, reason=f"{vote.reason}, sealed")
