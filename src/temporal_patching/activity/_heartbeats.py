"""Heartbeats while a step runs, without a line of the user's: a dead worker is noticed, a cancel arrives.

An attempt has one heartbeat slot and the last details win, so a beat repeats what was sent last: the
checkpoint of this attempt, or of the one before until this one has saved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from temporalio import activity
from temporalio.worker import (
    ActivityInboundInterceptor,
    ActivityOutboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
)

BEATS = "_temporal_patching_beats"
"""Set on the activity functions that are kept alive."""

SHARE = 0.4
"""Of the heartbeat timeout, between two beats: the SDK sends one in 0.8 of it."""


class HeartbeatInterceptor(Interceptor):
    """Keeps the library's own activities alive; leaves all others alone."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """See base class."""
        return _Inbound(next)


class _Outbound(ActivityOutboundInterceptor):
    def __init__(self, next: ActivityOutboundInterceptor, details: Sequence[Any]) -> None:
        super().__init__(next)
        self.details = tuple(details)

    def heartbeat(self, *details: Any) -> None:
        self.details = details
        self.next.heartbeat(*details)

    def repeat(self) -> None:
        self.next.heartbeat(*self.details)


class _Inbound(ActivityInboundInterceptor):
    _outbound: _Outbound

    def init(self, outbound: ActivityOutboundInterceptor) -> None:
        self._outbound = _Outbound(outbound, activity.info().heartbeat_details)
        super().init(self._outbound)

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        timeout = activity.info().heartbeat_timeout
        if timeout is None or not getattr(input.fn, BEATS, False):
            return await super().execute_activity(input)
        # Whoever could beat, too (contrib.ssh), sees that it is done for them.
        object.__setattr__(activity.info(), BEATS, True)
        beating = asyncio.create_task(self._beat(timeout.total_seconds() * SHARE))
        try:
            return await super().execute_activity(input)
        finally:
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating

    async def _beat(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            self._outbound.repeat()
