"""Why a rollout waits, why it stopped, and what would stop it next: each with its evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import final

import attrs

from ._rollout import ClusterView, RolloutState, pause_of, ring_of, shown_phase
from ._rollout_policy import FailureBudget, allowed


@final
@attrs.frozen(kw_only=True)
class Because:
    """One reason.

    Attributes:
        why: In one line.
        evidence: What it follows from: counts, limits, votes, times.
    """

    why: str
    evidence: Mapping[str, str] = attrs.field(factory=dict[str, str])


@attrs.frozen(kw_only=True)
class OpenGate:
    """A gate that waits for votes."""

    gate: str
    approvers: tuple[str, ...]
    approved_by: tuple[str, ...]
    quorum: int
    deadline: datetime | None


@attrs.frozen(kw_only=True)
class Work:
    """What a cluster said last of its own work."""

    cluster: str
    phase: str
    waits_for: str
    in_flight: int


def why_it_waits(
    state: RolloutState,
    *,
    gates: tuple[OpenGate, ...] = (),
    work: tuple[Work, ...] = (),
    paused_by: str = "",
    window: str = "",
) -> tuple[Because, ...]:
    """Everything that must happen before it goes on; empty for a rollout that has ended.

    Args:
        state: The rollout.
        gates: The gates that wait for votes.
        work: What each cluster said last.
        paused_by: Who paused it, and why.
        window: Why no host may start now, on the calendars' clocks.
    """
    return tuple(_waits(state, gates, work, paused_by, window))


def _waits(
    state: RolloutState,
    gates: tuple[OpenGate, ...],
    work: tuple[Work, ...],
    paused_by: str,
    window: str,
) -> Iterator[Because]:
    if state.phase == "ended":
        return
    listing = [view.name for view in state.clusters if view.phase == "listing"]
    if state.phase == "listing":
        yield Because(why="the hosts are being listed", evidence={"clusters": ", ".join(listing)})
    if state.paused is not None:
        moving = [v.name for v in state.clusters if v.phase != "ended" and not v.quiet]
        yield Because(
            why=f"it is {shown_phase(state)}: {paused_by}" if paused_by else "it is paused",
            evidence={"after": state.paused, "still moving": ", ".join(moving) or "nothing"},
        )
    for view in state.clusters:
        if view.paused is not None and view.phase != "ended" and state.paused is None:
            yield Because(
                why=f"cluster {view.name!r} is paused",
                evidence={"after": pause_of(state, view) or "", "quiet": str(view.quiet).lower()},
            )
    for gate in gates:
        more = gate.quorum - len(gate.approved_by)
        yield Because(
            why=f"gate {gate.gate!r} waits for {more} more {'vote' if more == 1 else 'votes'}",
            evidence={
                "approved by": ", ".join(gate.approved_by) or "nobody",
                "may vote": ", ".join(each for each in gate.approvers),
                "expires": gate.deadline.isoformat() if gate.deadline is not None else "never",
            },
        )
    if not state.window_open:
        yield Because(why="no host may start now", evidence={"windows": window})
    if state.phase in ("running", "stopping"):
        yield from _waits_for_work(state, work)


def _waits_for_work(state: RolloutState, work: tuple[Work, ...]) -> Iterator[Because]:
    said = {each.cluster: each for each in work}
    number, ring = ring_of(state)
    for view in state.clusters:
        if view.phase == "ended":
            continue
        told = said.get(view.name)
        if view.phase == "planned" and state.phase == "running":
            later = "" if view.name in ring else f", which begins after ring {number}"
            yield Because(
                why=f"cluster {view.name!r} waits for its turn{later}",
                evidence={
                    "max_parallel_clusters": str(state.policy.max_parallel_clusters or "no limit"),
                    "max_parallel_total": str(state.policy.max_parallel_total or "no limit"),
                },
            )
        elif told is not None:
            waits = f", waits for {told.waits_for}" if told.waits_for else ""
            yield Because(
                why=f"cluster {view.name!r}: {told.phase}{waits}",
                evidence={
                    "in flight": str(told.in_flight),
                    "max_parallel": str(view.max_parallel),
                    "slots": "as its policy says" if view.slots is None else str(view.slots),
                },
            )


def why_it_stopped(state: RolloutState) -> tuple[Because, ...]:
    """Why nothing new starts any more; empty while something may."""
    if state.outcome is None:
        return ()
    evidence = {
        view.name: f"{view.failed} failed, {view.unreachable} unreachable of {view.hosts}"
        for view in state.clusters
    }
    return (Because(why=f"{state.outcome.value}: {state.reason}", evidence=evidence),)


def what_would_stop_it(
    state: RolloutState, *, gates: tuple[OpenGate, ...] = (), closes: str = ""
) -> tuple[Because, ...]:
    """What would stop it next: the budgets with what is left of them, and the deadlines.

    Args:
        state: The rollout.
        gates: The gates that wait for votes.
        closes: When the maintenance windows close, if that stops it.
    """
    return tuple(_would_stop(state, gates, closes))


def _would_stop(state: RolloutState, gates: tuple[OpenGate, ...], closes: str) -> Iterator[Because]:
    if state.phase in ("stopping", "ended"):
        return
    policy = state.policy
    for view in state.clusters:
        if view.phase != "ended":
            whole = policy.stop_scope == "rollout"
            what = "the rollout" if whole else f"cluster {view.name!r}"
            yield _left(policy.failure_budget, f"in cluster {view.name!r}", what, view)
    if policy.total_failure_budget is not None:
        views = state.clusters
        total = ClusterView(
            name="",
            hosts=sum(view.hosts for view in views),
            failed=sum(view.failed for view in views),
            unreachable=sum(view.unreachable for view in views),
            acted=sum(view.acted for view in views),
        )
        yield _left(policy.total_failure_budget, "over all clusters", "the rollout", total)
    for gate in gates:
        if gate.deadline is not None:
            yield Because(
                why=f"gate {gate.gate!r} expires, or somebody rejects at it",
                evidence={"expires": gate.deadline.isoformat()},
            )
    if closes:
        yield Because(why="the maintenance windows close", evidence={"windows": closes})


def _left(budget: FailureBudget, where: str, what: str, view: ClusterView) -> Because:
    limit = allowed(budget, view.hosts)
    counted = view.failed + (view.unreachable if limit.unreachable is None else 0)
    more = max(limit.failures + 1 - counted, 1)
    evidence = {
        "failed": str(view.failed),
        "unreachable": str(view.unreachable),
        "allowed": f"{limit.failures} ({budget.max_failures} of {view.hosts})",
    }
    if limit.unreachable is not None:
        evidence["allowed unreachable"] = str(limit.unreachable)
    if limit.min_sample > view.acted:
        evidence["a percentage counts after"] = f"{limit.min_sample} hosts"
    some = "1 more failure" if more == 1 else f"{more} more failures"
    return Because(why=f"{some} {where} would stop {what}", evidence=evidence)
