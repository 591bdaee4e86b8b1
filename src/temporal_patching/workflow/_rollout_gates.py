"""A rollout's gates: asked for votes when its machine says so, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from typing import Any

from temporalio import workflow

from ..exceptions import ApprovalExpired, ApprovalRejected
from ..models import GateReport
from ..policy import ApprovalPolicy, NoticeKind, Outcome
from ..policy import _rollout_state as data
from ..policy._gates import START
from ._approval import ApprovalEvent, ApprovalMixin

KINDS: Mapping[ApprovalEvent, NoticeKind] = {
    "requested": "approval_requested",
    "reminder": "approval_reminder",
    "expired": "approval_expired",
}
"""The notice that tells of each."""


class RolloutGates:
    """The gates that are open for votes.

    Args:
        policies: Who may pass each gate.
        votes: Where they are counted.
        start: Runs something beside the rollout's loop.
        digest: The plan's fingerprint: what is voted on.
    """

    def __init__(
        self,
        policies: Mapping[str, ApprovalPolicy],
        votes: ApprovalMixin,
        *,
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        digest: Callable[[], str],
    ) -> None:
        self._policies = policies
        self._votes = votes
        self._start = start
        self._digest = digest
        self._open: dict[str, asyncio.Task[None]] = {}
        self._approved_at: datetime | None = None
        """When the gate "start" was passed last."""
        self.ends_well = False
        """One has expired whose policy says that the rollout then ends as completed."""

    def reports(self) -> tuple[GateReport, ...]:
        """How each gate stands."""
        return self._votes.approvals().gates

    def open(self, gate: str, tell: Callable[[data.GatePassed | data.GateShut], None]) -> None:
        """Asks for votes, and tells what came of it."""
        self._open[gate] = self._start(self._pass(gate, tell))

    def close(self, gate: str) -> None:
        """Asks no more."""
        waiting = self._open.pop(gate, None)
        if waiting is not None:
            waiting.cancel()

    def close_all(self) -> None:
        """Asks for nothing any more."""
        for waiting in self._open.values():
            waiting.cancel()

    def is_stale(self, valid_for: timedelta | None) -> bool:
        """Whether the approval to start is too old."""
        approved = self._approved_at
        return (
            valid_for is not None and approved is not None and workflow.now() > approved + valid_for
        )

    async def _pass(
        self, gate: str, tell: Callable[[data.GatePassed | data.GateShut], None]
    ) -> None:
        try:
            again = gate == START and self._approved_at is not None
            decision = await self._votes.approval(
                gate, self._policies[gate], again=again, digest=self._digest()
            )
        except ApprovalRejected as no:
            event: data.GatePassed | data.GateShut = data.GateShut(
                gate=gate, outcome=Outcome.REJECTED, reason=no.message
            )
        except ApprovalExpired as late:
            event = data.GateShut(gate=gate, outcome=Outcome.EXPIRED, reason=late.message)
        else:
            if decision.approved:
                if gate == START:
                    self._approved_at = workflow.now()
                event = data.GatePassed(gate)
            else:
                self.ends_well = True
                reason = f"gate {gate!r} expired"
                event = data.GateShut(gate=gate, outcome=Outcome.EXPIRED, reason=reason)
        self._open.pop(gate, None)
        tell(event)


def gate_said(event: ApprovalEvent, gate: GateReport, what: str) -> str:
    """The text of the notice. ``what``: which rollout, of which hosts."""
    if event == "expired":
        return f"{what}: gate {gate.gate!r} has expired"
    return (
        f"{what}: gate {gate.gate!r} waits for {gate.quorum} of {', '.join(gate.approvers)}"
        f" (plan {gate.digest})"
    )
