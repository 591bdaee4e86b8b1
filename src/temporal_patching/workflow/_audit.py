"""The audit: every decision and every accepted verb, with who, when, why, before and after."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice

import attrs
from temporalio import workflow

from ..models import AuditRecord, AuditReport
from ..policy import _grants as grants
from ..policy import _rollout_state as data
from ..policy._gates import START

MAX_AUDIT = 500
"""Records that the audit keeps."""

POLICY = "policy"
"""Who decides in the audit, where it is no person."""

_BECAME: Mapping[data.RolloutPhase, str] = {
    "listing": "the hosts are listed",
    "gate": "the plan is complete, gate 'start' asks",
    "running": "the clusters begin",
    "stopping": "nothing new starts",
    "ended": "the rollout has ended",
}
"""What the audit says of a phase that begins."""


class Audit:
    """The records of a rollout, the newest of them."""

    def __init__(self) -> None:
        self._records: deque[AuditRecord] = deque(maxlen=MAX_AUDIT)
        self._count = 0

    def record(
        self,
        by: str,
        what: str,
        reason: str,
        *,
        before: str,
        after: str,
        at: datetime | None = None,
    ) -> int:
        """Adds a record, and answers its number. ``before``, ``after``: the phase."""
        self._count += 1
        self._records.append(
            AuditRecord(
                at=at or workflow.now(),
                by=by,
                what=what,
                reason=reason,
                before=before,
                after=after,
            )
        )
        return self._count

    def came_to(self, number: int, after: str) -> None:
        """Says of a record what came of it in the end."""
        at = number - self._count - 1
        self._records[at] = attrs.evolve(self._records[at], after=after)

    def paused_by(self, clusters: Iterable[str]) -> Mapping[str, str]:
        """Who paused what last, and why: the rollout (``""``), or a cluster."""
        found: dict[str, str] = {}
        for cluster in ("", *clusters):
            what = f"pause {f'cluster {cluster!r}' if cluster else 'the rollout'} "
            records = (each for each in reversed(self._records) if each.what.startswith(what))
            for record in islice(records, 1):
                found[cluster] = f"{record.by}: {record.reason}" if record.reason else record.by
        return found

    def report(self) -> AuditReport:
        """The records, in order."""
        return AuditReport(records=tuple(self._records), omitted=self._count - len(self._records))


def decided(
    before: data.RolloutState, now: data.RolloutState, *, window: str
) -> Iterator[tuple[str, str]]:
    """What the rules have decided, and why. ``window``: why the maintenance windows are open or closed."""
    for gate in sorted(now.passed - before.passed):
        yield f"gate {gate!r} is passed", ""
    if now.window_open != before.window_open:
        yield f"the maintenance windows are {'open' if now.window_open else 'closed'}", window
    if START in before.passed - now.passed:
        yield f"gate {START!r} asks again", "its approval is too old"
    if now.phase != before.phase:
        yield _BECAME[now.phase], now.reason
    ring = grants.ring_of(now)[0]
    if ring != grants.ring_of(before)[0] and now.phase == "running":
        yield f"it is the turn of ring {ring}", f"ring {ring - 1} has ended"
    for gate in sorted(now.asked - before.asked - {START}):
        yield f"gate {gate!r} asks", ""
    for view, was in zip(now.clusters, before.clusters, strict=True):
        if view.stop is not None and was.stop is None and now.phase == "running":
            yield f"cluster {view.name!r} is stopped", view.stop
