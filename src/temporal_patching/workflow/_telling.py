"""What a cluster tells the rollout: one message at a time, always the newest, and not more than it can hear."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError

from ..models._orders import ClusterUpdate
from ..policy._news import NEWS, News, patience


class Telling:
    """Sends updates to the rollout, by signals.

    Args:
        clusters: How many clusters the rollout has: they share what one history holds.
        told: How many messages it has got, from the runs before this one.
        untold: Something is new to it, from the run before this one.
    """

    def __init__(self, *, clusters: int, told: int = 0, untold: bool = False) -> None:
        self._clusters = clusters
        self._new: News | None = "rest" if untold else None
        self._told_at: datetime | None = None
        self.told = told
        """How many messages the rollout has got. Each has its number."""
        self.under_way = False
        """A message is under way: it would be lost if another run took over now."""

    @property
    def untold(self) -> bool:
        """Whether something is new that the rollout was not told yet."""
        return self._new is not None

    def news(self, news: News) -> None:
        """There is something to tell, if not something more important already."""
        if self._new is None or NEWS.index(news) > NEWS.index(self._new):
            self._new = news

    def forget(self) -> None:
        """Nothing is to be told any more: the result says it all."""
        self._new = None

    async def run(self, update: Callable[[int], ClusterUpdate], ended: Callable[[], bool]) -> None:
        """Tells what is new until the cluster has ended.

        Args:
            update: Makes the message of that number.
            ended: Whether the cluster has ended.
        """
        parent = workflow.info().parent
        while True:
            await workflow.wait_condition(lambda: self.untold or ended())
            await self._until_due(ended)
            if not self.untold or parent is None:
                return
            self._new, self.under_way = None, True
            self.told += 1
            rollout = workflow.get_external_workflow_handle(parent.workflow_id)
            try:
                await rollout.signal("cluster_update", update(self.told))
            except FailureError as error:
                workflow.logger.info("The rollout was not told, it has ended: %s", error)
            self.under_way, self._told_at = False, workflow.now()
            if ended():
                return

    async def _until_due(self, ended: Callable[[], bool]) -> None:
        """Waits until what is new may be told, or something more important is."""
        while self._new is not None and self._told_at is not None:
            new = self._new
            wait = patience(new, told=self.told, clusters=self._clusters)
            left = self._told_at + wait - workflow.now()
            if left <= timedelta(0) or ended():
                return

            def is_other(new: News = new) -> bool:
                return self._new != new or ended()

            try:
                await workflow.wait_condition(
                    is_other, timeout=left, timeout_summary="news for the rollout"
                )
            except asyncio.TimeoutError:
                return
