"""What a cluster tells its rollout, and when: one message at a time, always the newest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

import attrs
from temporalio import workflow
from temporalio.exceptions import FailureError

from ..models import ClusterProgress
from ..models._orders import ClusterRequest, ClusterUpdate
from ..models._report import MAX_LISTED
from ..policy import HostState
from ..policy import _cluster as machine
from ..policy._news import NEWS, News, patience
from ..policy._rules import canonical
from ._listing import Listing
from ._parked import ParkedHosts

MAX_TOLD = 10
"""Failures that a message to the rollout names; the cluster's own progress and report name more."""


class ClusterNews:
    """What the rollout has been told, and what it is to be told.

    Args:
        request: What the cluster was given.
        state: Where the cluster is now.
    """

    def __init__(
        self, request: ClusterRequest, *, state: Callable[[], machine.ClusterState]
    ) -> None:
        self._clusters = len(request.request.clusters)
        self._state = state
        self.sequence = 0
        """How many messages it has sent."""
        self.untold: News | None = None
        """The most important of what is new."""
        self.telling = False
        """A message is under way."""
        self.known_parked: frozenset[int] = frozenset()
        """Parked hosts that the rollout knows of. Who sees another one could not ask for anything."""
        self._told_at: datetime | None = None
        self._told: machine.Told | None = None
        """What it has told last of what it uses."""

    def add(self, news: News) -> None:
        """There is something to tell, if not something more important already."""
        if self.untold is None or NEWS.index(news) > NEWS.index(self.untold):
            self.untold = news

    def note(self, before: machine.ClusterState, *, in_total: bool) -> None:
        """Adds what is worth telling of what has been decided: not each success.

        Args:
            before: The state before it.
            in_total: Whether a failure counts in a budget over all clusters.
        """
        now = self._state()

        def changed(*names: str) -> bool:
            return any(getattr(now, name) != getattr(before, name) for name in names)

        if now.parked is not before.parked:
            self.add("counts")
        if now.group.wave != before.group.wave:
            self.add("rest")
        if (
            before.in_flight == 0 < now.in_flight
        ):  # else it was told to start, for all that is known
            self.add("rest")
        if changed("stopped", "at_barrier", "paused") or machine.quiet(now) != machine.quiet(
            before
        ):
            self.add("decision")
        if changed("failed", "unreachable", "held"):
            self.add("counts" if in_total else "rest")
        if machine.gives_back(now, self._told) or machine.gives_way(before, now, self._told):
            self.add("counts")
        if machine.only_parked(now) and not machine.only_parked(before):
            self.add("counts")  # from now on it waits for people alone

    async def tell(self, message: Callable[[], ClusterUpdate]) -> None:
        """Tells the rollout, until the cluster has ended."""
        parent = workflow.info().parent
        while True:
            await workflow.wait_condition(lambda: self.untold is not None or self._state().ended)
            await self._until_due()
            if self.untold is None or parent is None:
                return
            self.untold, self.telling = None, True
            self.sequence += 1
            rollout = workflow.get_external_workflow_handle(parent.workflow_id)
            state = self._state()
            update, parked = message(), frozenset(machine.unanswered(state))
            self._told = machine.Told.of(state)
            try:
                await rollout.signal("cluster_update", update)
            except FailureError as error:
                workflow.logger.info("The rollout was not told, it has ended: %s", error)
            self.known_parked = parked
            self.telling, self._told_at = False, workflow.now()
            if self._state().ended:
                return

    async def _until_due(self) -> None:
        """Waits until what is new may be told, or something more important is."""
        while (news := self.untold) is not None and self._told_at is not None:
            wait = patience(news, told=self.sequence, clusters=self._clusters)
            left = self._told_at + wait - workflow.now()
            if left <= timedelta(0) or self._state().ended:
                return
            try:
                await workflow.wait_condition(
                    lambda news=news: self.untold != news or self._state().ended,  # type: ignore[misc]
                    timeout=left,
                    timeout_summary="news for the rollout",
                )
            except asyncio.TimeoutError:
                return


def cluster_update(
    sequence: int,
    state: machine.ClusterState,
    progress: ClusterProgress,
    listing: Listing,
    parked: ParkedHosts,
    *,
    problem: str | None,
    obeyed: int,
    too_late: Iterable[str],
    asks_pause: str | None,
    asked_at: int,
) -> ClusterUpdate:
    """A message: all that the rollout has to know. What it needs once, stands in the first one only."""
    first, names = sequence == 1, listing.hosts.names
    waiting = machine.unanswered(state)
    return ClusterUpdate(
        sequence=sequence,
        # A signal for each failure with all the failures before it would fill both histories.
        progress=attrs.evolve(
            progress,
            failures=progress.failures[-MAX_TOLD:],
            parked=tuple(parked.shown(waiting[-MAX_TOLD:])),
        ),
        planned=listing.frozen,
        problem=problem,
        host_names=names if first else (),
        named=listing.named if first else (),
        max_parallel=state.plan.max_parallel,
        digest=listing.digest,
        acted=state.acted,
        failed=state.failed,
        unreachable=state.unreachable,
        obeyed=obeyed,
        quiet=machine.quiet(state),
        at_gate=state.group.wave + 1 if state.at_barrier == "gate" else None,
        wave=state.group.wave if listing.frozen else None,
        wave_acted=state.group.acted,
        wave_failed=state.group.failed + state.group.unreachable,
        parked={canonical(names[each]): parked.step(each) for each in waiting},
        repaired=state.repaired,
        repairs_waiting=len(state.repairs),
        waiting={canonical(names[each.host]): each.how for each in state.repairs},
        too_late=tuple(too_late),
        asks_pause=asks_pause,
        asked_at=asked_at,
        needs=machine.needs(state),
        in_flight=state.in_flight,
        came_later=listing.came_later[:MAX_LISTED] if first else (),
        came_later_omitted=max(len(listing.came_later) - MAX_LISTED, 0) if first else 0,
        gone=machine.counts(state).get(HostState.GONE, 0) if first else 0,
    )
