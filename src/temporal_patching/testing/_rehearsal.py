"""What a rehearsal has seen, and the questions that a test asks of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Literal, NamedTuple, final

import attrs
from temporalio.client import WorkflowHistory

from ..exceptions import InvalidRequest
from ..models import AuditReport, HostReport, HostState, RolloutReport
from ..policy._rules import did_you_mean
from ._fleet import SimulatedFleet
from ._log import OF_CLUSTERS, Effect
from ._people import Deed
from ._watch import Crash

Counted = Literal["out of service", "in flight"]
"""What ``assert_at_most`` counts."""

_NAMED = 10
"""Hosts that a message names."""

_GOOD = frozenset({HostState.PATCHED, HostState.UNCHANGED})


class _Change(NamedTuple):
    """A host that begins or ceases to be counted."""

    at: datetime
    host: str
    counts: bool
    why: str


@final
@attrs.frozen(kw_only=True, eq=False)
class Rehearsal:
    """A rollout that has been rehearsed: what it reported, and what was really done to its hosts.

    Attributes:
        id: The rollout's workflow id.
        report: Its report.
        audit: Who decided what, in order.
        histories: The history of every run: the rollout's first, then its clusters' and hosts'. All of them
            were replayed.
        began: When it began, in workflow time.
        took: How long it took, in workflow time.
        crashes: Where the worker died.
        undone: What ``people`` never came to do: their gate did not ask, or the step was not reached.
        fleet: The hosts.
    """

    id: str
    report: RolloutReport
    audit: AuditReport
    histories: tuple[WorkflowHistory, ...]
    began: datetime
    took: timedelta
    crashes: tuple[Crash, ...] = ()
    undone: tuple[Deed, ...] = ()
    fleet: SimulatedFleet

    @property
    def history(self) -> WorkflowHistory:
        """The rollout's own: of its first run."""
        return self.histories[0]

    def __str__(self) -> str:
        return f"{self.id}: {self.report.summary}, in {self.took}"

    # Questions

    def assert_patched(self, *hosts: str) -> None:
        """Every host is patched, or needed nothing.

        Args:
            hosts: Only these. Default: every host of the rollout.

        Raises:
            AssertionError: Names each host that is not, its state, its reason, and when its last step began.
        """
        self._check_names(hosts)
        bad = [
            each
            for each in self.report.hosts
            if each.state not in _GOOD and (not hosts or each.host in hosts)
        ]
        if hosts:
            named = {each.host for each in bad}
            untouched = [each for each in hosts if each not in named and not self._log_of(each)]
            complaints = [self._not_patched(each) for each in bad]
            complaints += [f"{each}: it was never touched" for each in untouched]
        else:
            complaints = [self._not_patched(each) for each in bad]
            if self.report.hosts_omitted:
                complaints.append(f"and {self.report.hosts_omitted} more")
            if not complaints and self.report.outcome.value != "PATCHED":
                complaints = [self.report.reason or self.report.summary]
        if complaints:
            raise AssertionError(_listed(f"not patched ({self.report.outcome.value})", complaints))

    def assert_in_service(self, *hosts: str) -> None:
        """Every host serves at the end: what was taken away is given back.

        Asked of the hosts, not of the report.

        Args:
            hosts: Only these. Default: every host of the fleet.

        Raises:
            AssertionError: Names each host that does not serve, and when and by which step it was taken out.
        """
        self._check_names(hosts)
        out = [each for each in self.fleet.out_of_service if not hosts or each in hosts]
        if out:
            raise AssertionError(
                _listed("out of service at the end", [self._out(each) for each in out])
            )

    def assert_untouched(self, *hosts: str) -> None:
        """No step has begun on any of these hosts.

        Args:
            hosts: Their names. Default: every host of the fleet.

        Raises:
            AssertionError: Names each host on which one has, the step, and when.
        """
        self._check_names(hosts)
        names = hosts or [each.name for each in self.fleet.hosts]
        touched = [(each, log[0]) for each in names if (log := self._log_of(each))]
        if touched:
            raise AssertionError(
                _listed(
                    "touched",
                    [
                        f"{host}: {first.step} began at {self._when(first)}"
                        for host, first in touched
                    ],
                )
            )

    def assert_order(self, *steps: str, host: str | None = None) -> None:
        """On each host these steps were done in this order, whatever was done in between.

        The first time counts. A host on which one of them was not done is named, too; one on which no step
        has begun is not looked at.

        Args:
            steps: Two or more.
            host: Only on this host. Default: on every host that was touched.

        Raises:
            AssertionError: Names each host on which they were not, the two steps, and when they began.
        """
        if len(steps) < 2:
            raise InvalidRequest([f"'steps' must be two or more (got {list(steps)!r})"])
        self._check_names([] if host is None else [host])
        names = [host] if host is not None else [each.name for each in self.fleet.hosts]
        complaints: list[str] = []
        for name in names:
            log = self._log_of(name)
            if log or host is not None:
                complaints += self._disorder(name, log, steps)
        if complaints:
            raise AssertionError(_listed(f"not in the order {' → '.join(steps)}", complaints))

    def assert_at_most(self, number: int, what: Counted, *, cluster: str | None = None) -> None:
        """At no moment were more hosts than that out of service, or in flight.

        Args:
            number: How many are allowed.
            what: ``"out of service"``: in maintenance, or their services stopped. ``"in flight"``: between
                the first step and the last.
            cluster: Count only this cluster's. Default: all.

        Raises:
            AssertionError: Names the moment, and each host that counted then, since when.
        """
        if what not in ("out of service", "in flight"):
            raise InvalidRequest([f"'what' must be 'out of service' or 'in flight' (got {what!r})"])
        known = sorted({each.cluster for each in self.fleet.hosts})
        if cluster is not None and cluster not in known:
            raise InvalidRequest(
                [f"{cluster!r} is no cluster of the fleet{did_you_mean(cluster, known)}"]
            )
        changes = self._turned(cluster) if what == "out of service" else self._flights(cluster)
        counted: dict[str, _Change] = {}
        worst: list[_Change] = []
        for change in changes:
            if change.counts:
                counted[change.host] = change
            else:
                counted.pop(change.host, None)
            if len(counted) > max(number, len(worst)):
                worst = list(counted.values())
        if worst:
            raise AssertionError(
                _listed(
                    f"at most {number} {what}, but at {self._moment(worst[-1].at)} it was {len(worst)}",
                    [
                        f"{each.host}: since {self._moment(each.at)}, by {each.why}"
                        for each in worst
                    ],
                )
            )

    # How they are answered

    def _log_of(self, host: str) -> list[Effect]:
        return [each for each in self.fleet.log if each.host == host and each.rollout == self.id]

    def _check_names(self, hosts: Iterable[str]) -> None:
        known = [each.name for each in self.fleet.hosts]
        unknown = [each for each in hosts if each not in known]
        if unknown:
            raise InvalidRequest(
                f"{name!r} is no host of the fleet{did_you_mean(name, known)}" for name in unknown
            )

    def _not_patched(self, host: HostReport) -> str:
        log = self._log_of(host.host)
        last = f"; {log[-1].step} began at {self._when(log[-1])}" if log else ""
        return f"{host.host} ({host.cluster}): {host.state.value}, {host.reason}{last}"

    def _out(self, host: str) -> str:
        held = host in self.report.left_out_of_service
        told = " (the report names it)" if held else " (the report does not say so)"
        turns = [each for each in self._turned(None) if each.host == host]
        if not turns or not turns[-1].counts:
            return f"{host}: it was so before the rollout{told}"
        return (
            f"{host}: {turns[-1].why} took it out at {self._moment(turns[-1].at)}, and nothing gave it "
            f"back{told}"
        )

    def _disorder(self, host: str, log: Sequence[Effect], steps: Sequence[str]) -> Iterator[str]:
        done: dict[str, Effect] = {}
        for each in log:
            if each.what == "done":
                done.setdefault(each.step, each)
        missing = [each for each in steps if each not in done]
        if missing:
            last = f"; the last that was done is {log[-1].step}" if log else ""
            yield f"{host}: {', '.join(missing)} was not done{last}"
        there = [done[each] for each in steps if each in done]
        for first, then in pairwise(there):
            if first.number > then.number:
                yield (
                    f"{host}: {then.step} at {self._when(then)} came before {first.step} at "
                    f"{self._when(first)}"
                )

    def _turned(self, cluster: str | None) -> Iterator[_Change]:
        """Each time that a host went out of service, or came back."""
        serves: dict[str, bool] = {}
        for each in self.fleet.log:
            if each.then is None or cluster not in (None, each.cluster):
                continue
            before = serves.setdefault(each.host, each.then.serves)
            if each.then.serves != before:
                serves[each.host] = each.then.serves
                yield _Change(self._at(each), each.host, not each.then.serves, each.step)

    def _flights(self, cluster: str | None) -> Iterator[_Change]:
        log = [
            each
            for each in self.fleet.log
            if each.rollout == self.id
            and each.step not in OF_CLUSTERS
            and cluster in (None, each.cluster)
        ]
        last = {each.host: each.number for each in log}
        flying: set[str] = set()
        for each in log:
            if each.host not in flying:
                flying.add(each.host)
                yield _Change(self._at(each), each.host, True, each.step)
            if last[each.host] == each.number:
                yield _Change(self._at(each), each.host, False, each.step)

    def _at(self, effect: Effect) -> datetime:
        return effect.when or self.began

    def _when(self, effect: Effect) -> str:
        return self._moment(self._at(effect))

    def _moment(self, at: datetime) -> str:
        since = at - self.began
        hours, rest = divmod(since.seconds, 3600)
        clock = f"{hours:02}:{rest // 60:02}:{rest % 60:02}"
        days = f"day {since.days + 1}, " if since.days else ""
        return f"{days}{clock} ({at:%Y-%m-%d %H:%M:%S %Z})"


def _listed(what: str, complaints: Sequence[str]) -> str:
    more = len(complaints) - _NAMED
    lines = [*complaints[:_NAMED], *([f"and {more} more"] if more > 0 else [])]
    return f"{what}:\n" + "\n".join(f"  {each}" for each in lines)
