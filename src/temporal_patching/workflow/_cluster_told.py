"""What clusters have told their rollout: the newest of each, its list, and which host is whose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

import attrs
from temporalio import workflow

from ..models import ClusterProgress, ParkedHost
from ..models._orders import ClusterUpdate
from ..policy import _rollout_state as data
from ..policy._rules import canonical


class ToldByClusters:
    """The messages of the clusters of a rollout, as far as they are still of use."""

    def __init__(self, clusters: tuple[str, ...]) -> None:
        self._clusters = clusters
        self._newest: dict[str, ClusterUpdate] = {}
        self._said_at: dict[str, datetime] = {}
        """When each cluster told its newest."""
        self._first: dict[str, ClusterUpdate] = {}
        """What each cluster told when its list was made."""
        self._hosts: dict[str, tuple[str, ...]] = {}
        """Each cluster's frozen list, to name its hosts if it ends without a report."""
        self._where: dict[str, str] = {}
        """The cluster of each host."""
        self._heard: dict[str, int] = {}
        """When each cluster has asked for a pause last, by its ``asked_at``."""

    def take(self, update: ClusterUpdate) -> bool:
        """Takes up a message, if it is news. A newer one has all that an older one had, but the list."""
        cluster = update.progress.cluster
        if cluster not in self._clusters:
            return False  # not from a cluster of ours
        last = self._newest.get(cluster)
        if last is not None and update.sequence <= last.sequence:
            return False
        self._newest[cluster] = attrs.evolve(update, host_names=())
        self._said_at[cluster] = workflow.now()
        if update.host_names:
            self._hosts[cluster] = update.host_names
            self._where.update((canonical(name), cluster) for name in update.host_names)
        if last is None:
            self._first[cluster] = update
        return True

    def asks_pause(self, update: ClusterUpdate) -> str | None:
        """Why a cluster needs a person, if it has not been heard yet."""
        cluster = update.progress.cluster
        if update.asks_pause is None or update.asked_at <= self.heard(cluster):
            return None
        self._heard[cluster] = update.asked_at
        return update.asks_pause

    def heard(self, cluster: str) -> int:
        """Which of its wishes for a pause was heard last."""
        return self._heard.get(cluster, 0)

    def newest(self, cluster: str) -> ClusterUpdate | None:
        """What it told last."""
        return self._newest.get(cluster)

    def obeyed(self, cluster: str) -> int:
        """The number of the orders that it has taken up last; -1 if it has told nothing."""
        update = self._newest.get(cluster)
        return update.obeyed if update is not None else -1

    def first(self, cluster: str) -> ClusterUpdate | None:
        """What it told when its list was made."""
        return self._first.get(cluster)

    def said_at(self, cluster: str) -> datetime:
        """When it told its newest."""
        return self._said_at[cluster]

    def hosts(self, cluster: str) -> tuple[str, ...]:
        """Its frozen list."""
        return self._hosts.get(cluster, ())

    def digests(self) -> Mapping[str, str]:
        """The fingerprints of the lists that are there."""
        return {name: update.digest for name, update in self._newest.items()}

    def cluster_of(self, host: str) -> str | None:
        """Whose this host is."""
        return self._where.get(canonical(host))

    def known_of(self, host: str) -> str:
        """What the host is, in a few words."""
        wanted = canonical(host)
        for update in self._newest.values():
            if any(canonical(name) == wanted for name in update.progress.in_flight):
                return "in flight"
            for failed in update.progress.failures:
                if canonical(failed.host) == wanted:
                    return failed.state.value
        return ""

    def in_flight(self) -> Iterator[tuple[str, str]]:
        """Hosts in flight, each with its cluster."""
        for cluster, update in self._newest.items():
            for name in update.progress.in_flight:
                yield cluster, name

    def progress(self, cluster: str) -> ClusterProgress:
        """Where it is, with every parked host: a message gives the reasons of the last ones only."""
        update = self._newest.get(cluster)
        if update is None:
            return ClusterProgress(cluster=cluster)
        named = {canonical(each.host) for each in update.progress.parked}
        more = (
            ParkedHost(host=host, step=step)
            for host, step in update.parked.items()
            if host not in named
        )
        return attrs.evolve(update.progress, parked=(*update.progress.parked, *more))


def events_of(
    update: ClusterUpdate, *, first: bool, digest: str, wanted: int
) -> Iterator[data.RolloutEvent]:
    """What a message means to the rollout's machine.

    Args:
        update: The message.
        first: Whether it is the cluster's first.
        digest: The whole plan's, if this was the last list that was missing.
        wanted: The number of the cluster's newest orders.
    """
    cluster = update.progress.cluster
    if first and update.problem is not None:
        yield data.ClusterNotPlanned(cluster=cluster, problem=update.problem)
    elif first and update.planned:
        yield data.ClusterPlanned(
            cluster=cluster,
            hosts=update.host_names,
            max_parallel=update.max_parallel,
            named=update.named,
            digest=digest,
        )
    knows = update.obeyed >= wanted
    yield data.ClusterProgressed(
        cluster=cluster,
        acted=update.acted,
        failed=update.failed,
        unreachable=update.unreachable,
        stopped=update.progress.stopped,
        quiet=update.quiet and knows,
        at_gate=update.at_gate,
        needs=update.needs if update.planned else None,
        in_flight=update.in_flight if knows else None,
        parked=update.parked,
        repaired=update.repaired,
        repairs_waiting=update.repairs_waiting,
        waiting=update.waiting,
    )
