"""Where each parked host of a cluster stands: what a person decides about, and what goes on from there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import attrs

from ..exceptions import InvalidRequest
from ..models import HostReport, HostResult, ParkedHost
from ..models._carried import CarriedHost, size
from ..policy import Step
from ..policy import _host as procedure
from ..policy._cluster import RepairHost

MAX_KEPT = 256 * 1024
"""Characters of all checkpoints together: they are carried over. What a host beyond it had saved is dropped."""


class ParkedHosts:
    """The procedures of a cluster's parked hosts, each as the host's workflow has handed it up."""

    def __init__(self, cluster: str, steps: tuple[Step, ...]) -> None:
        self._cluster = cluster
        self._steps = steps
        self._stands: dict[int, procedure.Procedure] = {}
        self._names: dict[int, str] = {}
        self._notes: dict[int, str] = {}
        """Why a host could not go on when it was last asked to."""

    def take_over(self, carried: Iterable[CarriedHost], names: Mapping[int, str]) -> None:
        """Knows what the run before this one knew. Every host has the same steps: they are not carried."""
        for each in carried:
            self._stands[each.index] = attrs.evolve(each.stands, steps=self._steps)
            self._names[each.index] = names[each.index]
            self._notes[each.index] = each.note

    def carried(self) -> tuple[CarriedHost, ...]:
        """What the next run has to know."""
        return tuple(
            CarriedHost(
                index=index,
                stands=attrs.evolve(stands, steps=()),
                note=self._notes.get(index, ""),
            )
            for index, stands in sorted(self._stands.items())
        )

    def keep(self, index: int, host: str, stands: procedure.Procedure, *, note: str = "") -> None:
        """Keeps where a host stands that has just been parked, or could not go on (``note``: why)."""
        failure = stands.failure
        if failure is not None and failure.checkpoint is not None:
            there = (each.failure for each in self._stands.values())
            kept = sum(size(each.checkpoint) for each in there if each and each.checkpoint)
            if kept + size(failure.checkpoint) > MAX_KEPT:
                stands = attrs.evolve(stands, failure=attrs.evolve(failure, checkpoint=None))
        self._stands[index], self._names[index] = stands, host
        self._notes[index] = note

    def leave(self, index: int) -> HostReport:
        """What the report says of a host that nobody does anything with any more: it stays as it is."""
        stands, host = self._stands[index], self._names[index]
        self.forget(index)
        out = procedure.why_left_out(stands)
        return HostReport(
            cluster=self._cluster,
            host=host,
            state=procedure.verdict(stands),
            reason=procedure.reason(stands),
            left_out=None
            if out is None
            else f"{', '.join(stands.open)}: left as it is, on request",
        )

    def go_on(self, repair: RepairHost) -> procedure.Procedure:
        """From where a parked host goes on. It is kept, until it is known what became of it."""
        stands = self._stands[repair.host]
        if repair.how == "accept":
            return procedure.accepted(stands)
        if repair.how == "restore":
            return procedure.restored(stands)
        try:
            return procedure.retried(stands, repair.step)
        except InvalidRequest:  # it failed again at an earlier step than the person saw
            return procedure.retried(stands)

    def still(self, index: int, host: str, why: str) -> HostResult:
        """The host could not go on: it stands where it stood."""
        stands = self._stands[index]
        self.keep(index, host, stands, note=why)
        return HostResult(
            cluster=self._cluster,
            host=host,
            state=procedure.verdict(stands),
            reason=self._reason(index),
            left_out=procedure.why_left_out(stands),
            touched=stands.touched,
            completed=stands.completed,
            parked=stands,
        )

    def forget(self, index: int) -> None:
        """The host has gone on, and ended."""
        self._stands.pop(index, None)
        self._names.pop(index, None)
        self._notes.pop(index, None)

    def _reason(self, index: int) -> str:
        note, reason = self._notes.get(index, ""), procedure.reason(self._stands[index])
        return f"{reason}; {note}" if note else reason

    def stands(self, index: int) -> procedure.Procedure | None:
        """Where a host stands; None: it is not parked."""
        return self._stands.get(index)

    def step(self, index: int) -> str:
        """The step that failed."""
        failure = self._stands[index].failure
        return failure.step if failure is not None else ""

    def shown(self, which: Iterable[int]) -> Iterator[ParkedHost]:
        """These hosts, as people see them."""
        for index in which:
            stands = self._stands[index]
            yield ParkedHost(
                host=self._names[index],
                state=procedure.verdict(stands),
                step=self.step(index),
                tries=stands.tries,
                reason=self._reason(index),
                left_out=procedure.why_left_out(stands),
            )
