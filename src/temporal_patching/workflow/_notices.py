"""Notices: sent in the background, never waited for by the work."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import FailureError

from ..models import Notice
from ..policy import NoticeKind
from ._failures import wait_undisturbed

PATIENCE = timedelta(seconds=30)
"""How long a workflow that has ended its work waits for the notices that are still under way."""

MAX_WAITING = 100
"""Notices that wait for their turn. What comes when so many wait is not delivered."""


class Notices:
    """Sends what the policy wants sent, one at a time. A dead notifier is counted, no more.

    One at a time, because a notice that hangs holds an activity slot of the worker that steps need, too.

    Args:
        notifies: Whether there is a notifier.
        kinds: What it is told.
        waiting: What another run has left.
        failed: How many could not be delivered so far.
        sent: Called when no more are under way, whatever became of them.
    """

    def __init__(
        self,
        *,
        notifies: bool,
        kinds: Iterable[NoticeKind],
        waiting: Iterable[Notice] = (),
        failed: int = 0,
        sent: Callable[[], None] = lambda: None,
    ) -> None:
        self._kinds = frozenset(kinds) if notifies else frozenset[NoticeKind]()
        self._waiting: deque[Notice] = deque(waiting)
        self._sending: asyncio.Task[None] | None = None
        self._held = False
        self._sent = sent
        self.failed = failed

    @property
    def waiting(self) -> tuple[Notice, ...]:
        """Those that wait for their turn."""
        return tuple(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether none is under way."""
        return self._sending is None or self._sending.done()

    def send(self, notice: Notice) -> None:
        """Puts the notice in line and returns at once."""
        if notice.kind not in self._kinds:
            return
        if len(self._waiting) >= MAX_WAITING:
            self.failed += 1
            return
        self._waiting.append(notice)
        if not self._held:
            self.go_on()

    def go_on(self) -> None:
        """Sends what waits: after ``hold``, or in the run that has taken over."""
        self._held = False
        if self._waiting and self.idle:
            self._sending = asyncio.create_task(self._send_all())

    async def _send_all(self) -> None:
        while self._waiting and not self._held:
            notice = self._waiting.popleft()
            try:
                await workflow.execute_activity(
                    "notify",
                    notice,
                    start_to_close_timeout=timedelta(seconds=30),
                    schedule_to_close_timeout=timedelta(minutes=2),
                    retry_policy=RetryPolicy(maximum_attempts=5),
                    summary=f"{notice.kind}: {notice.text}"[:100],
                )
            except FailureError as error:
                self.failed += 1
                workflow.logger.warning("A notice was not delivered: %s", error)
        self._sent()

    async def hold(self) -> None:
        """Gives what is under way a moment. What waits for its turn waits for another run."""
        self._held = True
        await self._give_up()

    async def drain(self) -> None:
        """Gives what is under way a moment, then gives it up."""
        self.go_on()
        if not await self._give_up():
            self.failed += len(self._waiting)
            self._waiting.clear()

    async def _give_up(self) -> bool:
        """Whether it has ended by itself."""
        sending = self._sending
        if sending is None or sending.done():
            return True
        try:
            await workflow.wait_condition(sending.done, timeout=PATIENCE, timeout_summary="notices")
        except (asyncio.TimeoutError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and workflow.cancellation_reason() is None:
                raise  # the worker throws this instance out of its cache
            self._held = True
            sending.cancel()
            await wait_undisturbed(sending.done)
            return False
        return True
