"""Why a rollout waits, why it stopped, and what would stop it next: each with its evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import final, get_args

import attrs

from ._repair import Repair
from ._rollout import ClusterView, RolloutState, pause_of, ring_of, shown_phase
from ._rollout_policy import FailureBudget, allowed
from ._rules import canonical

MAX_PARKED_SHOWN = 20
"""Parked hosts that an explanation names; the cluster's progress has them all."""


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
class Parked:
    """A host that failed and waits for a person."""

    host: str
    step: str
    reason: str = ""
    left_out: str | None = None


@attrs.frozen(kw_only=True)
class Work:
    """What a cluster said last of its own work."""

    cluster: str
    phase: str
    waits_for: str
    in_flight: int
    parked: tuple[Parked, ...] = ()


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
    if state.phase == "running":
        for view in state.clusters:
            yield from _waits_for_repair(state, view, work)


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


def _waits_for_repair(
    state: RolloutState, view: ClusterView, work: tuple[Work, ...]
) -> Iterator[Because]:
    """The parked hosts of a cluster, which people have to answer, and the answers that wait to begin."""
    if view.parked:
        number, said = (
            len(view.parked),
            {
                canonical(each.host): each
                for told in work
                if told.cluster == view.name
                for each in told.parked
            },
        )
        evidence = {
            host: _why_parked(step, said.get(host))
            for host, step in islice(view.parked.items(), MAX_PARKED_SHOWN)
        }
        if number > MAX_PARKED_SHOWN:
            evidence["and"] = f"{number - MAX_PARKED_SHOWN} more"
        limit = allowed(state.policy.failure_budget, view.hosts).failures
        evidence["of the failure budget"] = f"{number} of {limit} used by parked hosts"
        evidence["may be asked"] = ", ".join(get_args(Repair))
        hosts = "1 parked host waits" if number == 1 else f"{number} parked hosts wait"
        yield Because(why=f"cluster {view.name!r}: {hosts} for a person", evidence=evidence)
    waiting = len(view.repairs) + view.repairs_waiting
    if waiting and view.phase == "running":
        repairs = "1 repair has" if waiting == 1 else f"{waiting} repairs have"
        yield Because(
            why=f"cluster {view.name!r}: {repairs} not begun",
            evidence={
                "they begin": "before any new host, when hosts may start",
                "paused": pause_of(state, view) or "no",
                "windows": "open" if state.window_open else "closed",
                "slots": "as its policy says" if view.slots is None else str(view.slots),
                "max_out_of_service": str(
                    state.policy.max_out_of_service or state.policy.max_parallel
                ),
            },
        )


def _why_parked(step: str, said: Parked | None) -> str:
    if said is None or not said.reason:
        return step
    out = f"; out of service: {said.left_out}" if said.left_out else ""
    return f"{said.reason}{out}" if said.reason.startswith(step) else f"{step}: {said.reason}{out}"


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
            parked={host: step for view in views for host, step in view.parked.items()},
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
    if view.parked:
        evidence["of those parked"] = str(len(view.parked))
    if limit.min_sample > view.acted:
        evidence["a percentage counts after"] = f"{limit.min_sample} hosts"
    some = "1 more failure" if more == 1 else f"{more} more failures"
    return Because(why=f"{some} {where} would stop {what}", evidence=evidence)
