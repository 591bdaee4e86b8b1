"""What people do while a rollout is rehearsed: a script, carried out in workflow time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, final

import attrs

from ..client import Rollout
from ..exceptions import InvalidRequest
from ..models import ApprovalReport, GateReport, PatchRequest
from ..policy._rules import did_you_mean
from ._environment import Alarms, Clock
from ._watch import Attempt

ASKED_AT_ONCE = timedelta(0)


@final
@attrs.frozen(kw_only=True)
class Approve:
    """Somebody approves a gate, each time that it asks.

    Attributes:
        by: Who.
        gate: Which gate. ``"promote"`` is also every cluster's (``"promote/eu-1"``). Default ``"start"``.
        after: How long after the gate has begun to ask. Default: at once.
        reason: Why, for the record.
    """

    by: str
    gate: str = "start"
    after: timedelta = ASKED_AT_ONCE
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.by} approves {self.gate!r}"


@final
@attrs.frozen(kw_only=True)
class Reject:
    """Somebody rejects a gate, when it asks. That ends the rollout, whatever the quorum.

    Attributes:
        by: Who.
        gate: Which gate, as in ``Approve``. Default ``"start"``.
        after: How long after the gate has begun to ask. Default: at once.
        reason: Why, for the record.
    """

    by: str
    gate: str = "start"
    after: timedelta = ASKED_AT_ONCE
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.by} rejects {self.gate!r}"


@final
@attrs.frozen
class Steer:
    """Somebody uses a verb, once, at a moment.

    Args:
        verb: What is done: ``lambda rollout: rollout.pause(by="bob@example.com")``. An error ends the rehearsal.
        at: When: so long after the rollout began, or at a moment, or when a step of this name begins; the
            step goes on when the verb is answered.
        host: Only when the step begins on this host. Default: on the first that comes there.

    Raises:
        InvalidRequest: ``host`` without a step.
    """

    verb: Callable[[Rollout[Any]], Awaitable[object]]
    at: timedelta | datetime | str = attrs.field(kw_only=True)
    host: str | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.host is not None and not isinstance(self.at, str):
            raise InvalidRequest([f"'host' needs a step in 'at' (got {self.at!r})"])
        if isinstance(self.at, datetime) and self.at.tzinfo is None:
            raise InvalidRequest([f"'at' must have a time zone (got {self.at!r})"])

    def __str__(self) -> str:
        place = f" on {self.host}" if self.host else ""
        return f"a verb at {self.at}{place}"


Deed = Approve | Reject | Steer
"""What somebody does: one entry of a rehearsal's ``people``."""


@final
class Script:
    """Carries out what people do.

    Args:
        deeds: What they do.
        request: Whose gates.
        clock: Held while anything of it is called.
        alarms: How it waits.
    """

    def __init__(
        self, deeds: Sequence[Deed], request: PatchRequest, clock: Clock, alarms: Alarms
    ) -> None:
        self._deeds = tuple(deeds)
        self._clock = clock
        self._alarms = alarms
        self._answered: set[tuple[int, str, datetime | None]] = set()
        self._done: set[int] = set()
        self.ready: Callable[[Callable[[], Awaitable[None]]], object] = lambda _: None
        self.rollout: Rollout[Any]
        _check_gates(self._deeds, request)

    @property
    def has_gates(self) -> bool:
        """Whether anybody waits for a gate."""
        return any(isinstance(each, (Approve, Reject)) for each in self._deeds)

    @property
    def left(self) -> tuple[Deed, ...]:
        """What nobody came to do."""
        return tuple(each for n, each in enumerate(self._deeds) if n not in self._done)

    async def begin(self, rollout: Rollout[Any], began: datetime) -> None:
        """Sets an alarm for what is done at a moment."""
        self.rollout = rollout
        for number, deed in enumerate(self._deeds):
            if isinstance(deed, Steer) and not isinstance(deed.at, str):
                after = deed.at if isinstance(deed.at, timedelta) else deed.at - began
                if after < timedelta(0):
                    raise InvalidRequest(
                        [f"'at' must not be before the rollout begins, {began} (got {deed.at})"]
                    )
                await self._later(number, after, self._steering(number, deed))

    async def look(self, report: ApprovalReport) -> None:
        """Answers the gates that ask, or sets an alarm for that."""
        for gate in report.pending:
            await self._asked(gate)

    async def _asked(self, gate: GateReport) -> None:
        now = await self._clock.now()
        for number, deed in enumerate(self._deeds):
            if isinstance(deed, Steer) or not _is_for(deed.gate, gate.gate):
                continue
            asking = (number, gate.gate, gate.opened_at)
            if asking in self._answered:
                continue
            self._answered.add(asking)
            due = (gate.opened_at or now) + deed.after
            if due <= now:
                await self._vote(number, deed, gate.gate)
            else:
                await self._later(number, due - now, self._voting(number, deed, gate.gate))

    async def _later(
        self, number: int, after: timedelta, deed: Callable[[], Awaitable[None]]
    ) -> None:
        await self._alarms.set(after, lambda: self.ready(deed))

    def _voting(self, number: int, deed: Approve | Reject, gate: str) -> Callable[..., Any]:
        async def vote() -> None:
            # It may have been decided meanwhile, or the rollout may have gone on without it.
            report = await self.rollout.approvals.report()
            if any(each.gate == gate for each in report.pending):
                await self._vote(number, deed, gate)

        return vote

    def _steering(self, number: int, deed: Steer) -> Callable[[], Awaitable[None]]:
        async def steer() -> None:
            self._done.add(number)
            await deed.verb(self.rollout)

        return steer

    async def _vote(self, number: int, deed: Approve | Reject, gate: str) -> None:
        self._done.add(number)
        if isinstance(deed, Approve):
            await self.rollout.approve(by=deed.by, gate=gate, reason=deed.reason)
        else:
            await self.rollout.reject(by=deed.by, gate=gate, reason=deed.reason)

    def at_step(self, attempt: Attempt) -> list[Callable[[], Awaitable[None]]]:
        """What is done when this step begins, taken off the script."""
        found: list[Callable[[], Awaitable[None]]] = []
        for number, deed in enumerate(self._deeds):
            if (
                isinstance(deed, Steer)
                and number not in self._done
                and deed.at == attempt.step
                and deed.host in (None, attempt.host)
            ):
                self._done.add(number)
                found.append(self._steering(number, deed))
        return found


def _is_for(named: str, gate: str) -> bool:
    return gate == named or gate.startswith(f"{named}/")


def _check_gates(deeds: Sequence[Deed], request: PatchRequest) -> None:
    """A gate that is written wrong would never ask. Your own ``run`` may have gates that the request has not."""
    known = list(request.approvals)
    wrong = [
        f"'people' names the gate {gate!r}, which is not in the request's 'approvals'{meant}"
        for gate in dict.fromkeys(each.gate for each in deeds if not isinstance(each, Steer))
        if not any(_is_for(gate, one) or _is_for(one, gate) for one in known)
        and (meant := did_you_mean(gate, known))
    ]
    if wrong:
        raise InvalidRequest(wrong)
