"""Maintenance windows: opened and closed with the calendars. Recorded: time zone rules differ between workers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy

from ..models._orders import WindowAnswer, WindowQuery
from ..policy import _rollout_state as data
from ..policy._window import MaintenanceWindows
from ._raw import read

RARELY = timedelta(days=300)
"""When calendars are looked at again that do not change for longer than can be foreseen."""


class WatchedWindows:
    """A rollout's maintenance windows, if it has any.

    Args:
        windows: The policy's.
        stale: Whether the approval to start is older than this.
    """

    def __init__(
        self,
        windows: MaintenanceWindows | None,
        *,
        stale: Callable[[timedelta | None], bool],
    ) -> None:
        self._windows = windows
        self._stale = stale
        self._opening: WindowAnswer | None = None

    @property
    def reason(self) -> str:
        """Why they are open or closed; empty if nobody has looked."""
        return self._opening.reason if self._opening is not None else ""

    async def look(self) -> data.WindowsClosed | None:
        """Looks for the first time. Answers if they never open."""
        if self._windows is None:
            return None
        opening = self._opening = await _look_at(self._windows)
        return data.WindowsClosed(opening.reason, for_good=True) if _stays_closed(opening) else None

    async def watch(
        self, windows: MaintenanceWindows, tell: Callable[[data.RolloutEvent], None]
    ) -> None:
        """Tells of each opening and closing, until it is cancelled."""
        was_open, opening = False, self._opening
        if opening is None or (opening.until is not None and opening.until <= workflow.now()):
            opening = await _look_at(windows)
        while True:
            self._opening = opening
            tell(data.WindowChanged(opening.open, stale=self._stale(windows.approval_valid_for)))
            for_good = _stays_closed(opening)
            stops = was_open and not opening.open and windows.on_window_close == "stop"
            if for_good or stops:
                tell(data.WindowsClosed(opening.reason, for_good))
            was_open = was_open or opening.open
            until = opening.until or workflow.now() + RARELY
            await workflow.sleep(until - workflow.now(), summary=opening.reason[:100])
            opening = await _look_at(windows)


def _stays_closed(opening: WindowAnswer) -> bool:
    return not opening.open and opening.until is None


async def _look_at(windows: MaintenanceWindows) -> WindowAnswer:
    answer = await workflow.execute_activity(
        "look_at_windows",
        WindowQuery(windows=windows, at=workflow.now()),
        result_type=RawValue,
        start_to_close_timeout=timedelta(minutes=1),
        retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=30)),
        summary="maintenance windows, recorded",
    )
    return read(answer, WindowAnswer)
