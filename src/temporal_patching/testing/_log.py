"""What was really done, written where it is done, before anybody is answered. No workflow can edit it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal, final

import attrs

from ..models import Notice
from ..policy._rules import as_tuple
from ._hosts import SimulatedHost

What = Literal["began", "done", "failed", "cancelled", "struck"]
"""What a line of the log says."""

OF_CLUSTERS = frozenset({"list_hosts", "check_fleet_health"})
"""Activities that are about a cluster, not about a host."""


@final
@attrs.frozen(kw_only=True)
class Effect:
    """One line of the fleet's log, written before the answer is sent.

    Attributes:
        number: Its place in the log, from 0.
        at: Seconds since the fleet was made.
        what: ``began``: an attempt has begun. Then one of ``done`` (its effect is there), ``failed`` (it
            was refused or raised, without an effect) or ``cancelled`` (it was told to stop, likewise).
            ``struck``: a fault has changed the host, and no rollout did.
        rollout: Who did it: the rollout's workflow id. Empty for ``struck``.
        cluster: Where.
        host: On which host; the cluster's name for ``list_hosts``.
        step: Which step.
        attempt: Which attempt of it.
        key: The step's idempotency key.
        when: The moment by the Temporal server's clock, which time skipping moves: when it scheduled an attempt
            that began, about when the attempt ended. None outside of an activity.
        faults: Names of the faults that spoil this attempt.
        then: The host as it was after this line. None for what is about a cluster.
    """

    number: int
    at: float
    what: What
    rollout: str
    cluster: str
    host: str
    step: str
    attempt: int = 1
    key: str = ""
    when: datetime | None = None
    faults: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    then: SimulatedHost | None = None


class FleetTruth:
    """What is so, and what was done: what a test looks at."""

    @property
    def hosts(self) -> tuple[SimulatedHost, ...]:
        """Every host, as it is now."""
        raise NotImplementedError

    def host(self, name: str) -> SimulatedHost:
        """One host, as it is now."""
        return next(host for host in self.hosts if host.name == name)

    @property
    def log(self) -> tuple[Effect, ...]:
        """Everything that was done, in order."""
        raise NotImplementedError

    @property
    def notices(self) -> tuple[Notice, ...]:
        """Every notice that was delivered, in order."""
        raise NotImplementedError

    @property
    def out_of_service(self) -> tuple[str, ...]:
        """Names of the hosts that do not serve now."""
        return tuple(host.name for host in self.hosts if not host.serves)

    def steps_of(self, host: str, what: What = "done") -> tuple[str, ...]:
        """The steps that one host's log has, in order. Default: those that had their effect."""
        return tuple(each.step for each in self.log if each.host == host and each.what == what)

    @property
    def started(self) -> tuple[str, ...]:
        """Names of the hosts that any step has begun on, in the order of their first step."""
        return tuple(dict.fromkeys(each.host for each in _of_hosts(self.log)))

    def most_in_flight(self, cluster: str | None = None) -> int:
        """How many hosts were in flight at once at most, between first and last step of each.

        Args:
            cluster: Count only this cluster's. Default: all.
        """
        some = [each for each in _of_hosts(self.log) if cluster in (None, each.cluster)]
        moves = [
            move for first, last in spans(some).values() for move in ((first, 1), (last + 1, -1))
        ]
        now = most = 0
        for _, change in sorted(moves):
            now += change
            most = max(most, now)
        return most

    def overlaps(self) -> tuple[str, ...]:
        """Names of hosts that two rollouts worked on at the same time. Must be empty."""
        found = spans(_of_hosts(self.log))
        return tuple(
            host
            for (rollout, host), (first, last) in found.items()
            if any(
                there == host and other < rollout and first <= end and begin <= last
                for (other, there), (begin, end) in found.items()
            )
        )


def _of_hosts(log: Iterable[Effect]) -> list[Effect]:
    return [each for each in log if each.step not in OF_CLUSTERS and each.what != "struck"]


def spans(effects: Iterable[Effect]) -> dict[tuple[str, str], tuple[int, int]]:
    """First and last number in the log of each rollout's work on each host."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for each in effects:
        key = (each.rollout, each.host)
        first, _ = found.get(key, (each.number, 0))
        found[key] = (first, each.number)
    return found
