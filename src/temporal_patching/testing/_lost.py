"""Workflow tasks that the time-skipping server loses."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from time import monotonic
from typing import final

from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHistory

PATIENCE = timedelta(seconds=15)
"""Longer than a workflow task may take (10 seconds): any server would have given it to somebody else by then."""


@final
class LostTasks:
    """Finds a workflow task that has begun, and neither ends nor times out.

    The server refuses the answer of a task that cancels an activity which it has just been told of
    (``ACTIVITY_UNKNOWN``, temporalio/sdk-java#2391), and then forgets the task (#3088).

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._since: dict[tuple[str | None, int], float] = {}

    def look(self, history: WorkflowHistory) -> str | None:
        """What is wrong, if this one's last task was there when it was looked at long ago."""
        last = history.events[-1]
        if last.event_type != EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED:
            return None
        since = self._since.setdefault((history.run_id, last.event_id), self._clock())
        if self._clock() - since < PATIENCE.total_seconds():
            return None
        return (
            f"the time-skipping server has lost a workflow task of {history.workflow_id!r}. It does so now and "
            "then when a workflow is cancelled, by an abort, say, or a stop, while its next step is being "
            "scheduled (temporalio/sdk-java#2391). That is no mistake of yours: rehearse it again, or at another "
            "moment, and try cancels in mid-step on a development server, which loses none"
        )
