"""Notices: sent in the background, never waited for by the work."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import FailureError

from ..models import Notice
from ..policy import NoticeKind

PATIENCE = timedelta(seconds=30)
"""How long a workflow that has ended its work waits for the notices that are still under way."""


class Notices:
    """Sends what the policy wants sent. A dead notifier is counted, no more."""

    def __init__(self, *, notifies: bool, kinds: Iterable[NoticeKind]) -> None:
        self._kinds = frozenset(kinds) if notifies else frozenset[NoticeKind]()
        self._under_way: set[asyncio.Task[None]] = set()
        self.failed = 0

    def send(self, notice: Notice) -> None:
        """Schedules the activity ``notify`` and returns at once."""
        if notice.kind in self._kinds:
            task = asyncio.create_task(self._deliver(notice))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _deliver(self, notice: Notice) -> None:
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

    async def drain(self) -> None:
        """Gives what is under way a moment, then gives it up."""
        if not self._under_way:
            return
        try:
            await workflow.wait_condition(
                lambda: not self._under_way, timeout=PATIENCE, timeout_summary="notices"
            )
        except (asyncio.TimeoutError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and workflow.cancellation_reason() is None:
                raise  # the worker throws this instance out of its cache
            self.failed += len(self._under_way)
            for task in list(self._under_way):
                task.cancel()
