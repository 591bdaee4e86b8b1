"""Who may have how many hosts in flight: rings, the total width, and the shares of a strict total budget."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ._amount import rounded_down
from ._rollout_policy import allowed
from ._rollout_state import ClusterView, RolloutState, failures_of, unfinished


def ring_of(state: RolloutState) -> tuple[int, tuple[str, ...]]:
    """The ring whose turn it is, from 1, and its clusters. Without rings all are one."""
    rings = state.policy.rings or (tuple(view.name for view in state.clusters),)
    left = frozenset(unfinished(state))
    for number, ring in enumerate(rings, start=1):
        if not left.isdisjoint(ring):
            return number, ring
    return len(rings), ()


def ring_gate(state: RolloutState) -> str | None:
    """The gate before the ring whose turn it is, if people guard it and have not opened it."""
    return _guarded(state, *ring_of(state))


def _guarded(state: RolloutState, number: int, ring: tuple[str, ...]) -> str | None:
    gate = f"ring-{number}"
    return gate if ring and gate in state.gates - state.passed else None


def _turn(state: RolloutState) -> list[ClusterView]:
    """The clusters that may work now: those that do, and those that come next."""
    number, ring = ring_of(state)
    if _guarded(state, number, ring) is not None:
        return []
    at_once = state.policy.max_parallel_clusters
    running = [view for view in state.clusters if view.phase == "running"]
    planned = [view for view in state.clusters if view.phase == "planned" and view.name in ring]
    more = None if at_once is None else max(at_once - len(running), 0)
    return [*(view for view in running if view.stop is None), *planned[:more]]


def grants(state: RolloutState) -> dict[str, tuple[int | None, int | None]]:
    """How many hosts each cluster whose turn it is may have in flight, and how many of them at risk.

    None: as many as its plan says. A strict total budget limits both: as many may be at risk (failed, or in
    flight) as may fail, and one more. So the failure that exceeds the budget is the last one.

    What a cluster is to give back is given to another only when it has said that it holds it no more.
    """
    turn, most, at_risk = _turn(state), _at_once(state), _at_risk(state)
    if most is None and at_risk is None:
        return {view.name: (None, None) for view in turn}
    names = {view.name for view in turn}
    others = [view for view in state.clusters if view.phase == "running" and view.name not in names]
    free, left = math.inf, math.inf
    if most is not None:
        free = most - sum(map(flying, others))
    if at_risk is not None:
        certain = sum(map(_certain, state.clusters))
        left = at_risk - certain - sum(map(_at_stake, others))
    shares = slots = units = _fair(turn, min(free, left))
    if most is not None:
        slots = _given(shares, {view.name: flying(view) for view in turn}, free)
    if at_risk is not None:
        units = _given(shares, {view.name: _at_stake(view) for view in turn}, left)
    return {
        view.name: (
            slots[view.name],
            None if at_risk is None else _certain(view) + units[view.name],
        )
        for view in turn
        if slots[view.name] or view.phase == "running"
    }


def _fair(turn: list[ClusterView], most: float) -> dict[str, int]:
    """The slots that each cluster is to have, at most so many in all.

    It keeps what it has. The widest gives first, the narrowest gets first.
    """
    shares = {view.name: useful(view) for view in turn}
    wanted = {view.name: max(_needed(view, view.max_parallel), 1) for view in turn}
    free = most - sum(shares.values())
    while free < 0 and any(shares.values()):  # a limit was lowered
        shares[max(shares, key=lambda name: shares[name])] -= 1
        free += 1
    return _raised(shares, wanted, free)


def _given(wanted: Mapping[str, int], held: Mapping[str, int], most: float) -> dict[str, int]:
    """What can be given of what is wanted, so that never more than ``most`` is held, whoever hears of it first.

    Where more is held, nobody gets so much that a start could keep it up: first it has to fall.
    """
    room = most - sum(held.values())
    over = max(-room, 0)
    given = {name: int(min(want, max(held[name] - over, 0))) for name, want in wanted.items()}
    return _raised(given, wanted, room)


def _raised(shares: Mapping[str, int], wanted: Mapping[str, int], room: float) -> dict[str, int]:
    """The shares, raised one by one as far as there is room: the narrowest that wants more gets first."""
    raised = dict(shares)
    while room > 0:
        able = [name for name, want in wanted.items() if raised[name] < want]
        if not able:
            break
        raised[min(able, key=lambda name: raised[name])] += 1
        room -= 1
    return raised


def _at_once(state: RolloutState) -> int | None:
    """How many hosts of all clusters may be in flight. None: there is no such limit."""
    limit = state.policy.max_parallel_total
    if limit is None:
        return None
    return max(rounded_down(limit, sum(view.hosts for view in state.clusters)), 1)


def _at_risk(state: RolloutState) -> int | None:
    """How many hosts of all clusters may have failed or be in flight. None: there is no such limit."""
    budget = state.policy.total_failure_budget
    if budget is None or not budget.strict:
        return None
    return allowed(budget, sum(view.hosts for view in state.clusters)).failures + 1


def usable(view: ClusterView) -> int:
    """What a cluster has of its grant: under a strict total budget a failure uses up a slot."""
    slots = view.slots or 0
    return slots if view.risk is None else max(min(slots, view.risk - _certain(view)), 0)


def _certain(view: ClusterView) -> int:
    """The failures that nobody is about to repair: for the others it needs slots again."""
    return max(failures_of(view) - _again(view), 0)


def _again(view: ClusterView) -> int:
    """How many failed hosts are about to be repaired, or are in flight again by now."""
    asked = sum(repair.how in ("retry", "accept") for repair in view.repairs)
    return asked + view.repairs_waiting


def flying(view: ClusterView) -> int:
    """How many hosts a cluster may have in flight, for all that is known: its newest orders may be on the way."""
    most = _needed(view, view.holds)
    return most if view.risks is None else max(min(most, view.risks - _certain(view)), 0)


def _at_stake(view: ClusterView) -> int:
    """How many of its hosts may be at risk, for all that is known, beside those that have certainly failed."""
    if view.risks is None:
        return flying(view) + _again(view)
    left = max(view.risks - _certain(view), 0)
    return left if view.needs is None else min(left, view.needs + _again(view))


def useful(view: ClusterView) -> int:
    """What a cluster has of its grant and can still use."""
    slots = usable(view)
    # One at least, until it has ended: its go may still be on the way, and newer orders replace it.
    return min(slots, max(_needed(view, slots), 1))


def _needed(view: ClusterView, slots: int) -> int:
    return slots if view.needs is None else min(slots, view.needs)
