"""Verbs: what an order of a person means to the rollout's machine, whether it may be, and what was answered."""

from __future__ import annotations

from collections.abc import Mapping

from ..models import Abort, Accept, Pause, Restore, Resume, Retry, SetLimits, Skip, Steered
from ..models._steering import Order, RepairOrder
from ..policy import _rollout_state as data
from ..policy import _verbs as verbs
from ..policy._repair import Repair
from ..policy._rules import canonical
from ._cluster_told import ToldByClusters

MAX_ANSWERS = 500
"""Operations whose answers are kept, so that the same one again is answered as the first time."""

_REPAIRS: Mapping[type[RepairOrder], Repair] = {
    Retry: "retry",
    Accept: "accept",
    Restore: "restore",
}


class Answers:
    """What each operation was answered."""

    def __init__(self) -> None:
        self._answers: dict[tuple[verbs.Verb, str], Steered] = {}

    def of(self, verb: verbs.Verb, operation: str) -> Steered | None:
        """What it was answered, if it was asked for before."""
        return self._answers.get((verb, operation)) if operation else None

    def keep(self, verb: verbs.Verb, operation: str, answer: Steered) -> None:
        """Keeps it, in place of the oldest."""
        self._answers[verb, operation] = answer
        if len(self._answers) > MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]


def is_parked(state: data.RolloutState, host: str | None) -> bool:
    """Whether this host waits for a person, as far as its cluster has told."""
    return host is not None and any(canonical(host) in view.parked for view in state.clusters)


def asked(order: Order, state: data.RolloutState, told: ToldByClusters) -> verbs.Asked:
    """What an order means to the machine."""
    if isinstance(order, Pause):
        return data.PauseRequested(after=order.after, cluster=order.cluster)
    if isinstance(order, Resume):
        return data.ResumeRequested(cluster=order.cluster)
    if isinstance(order, SetLimits):
        return data.LimitsRequested(policy=order.applied_to(state.policy))
    if isinstance(order, Skip):
        if order.host is None:
            return data.SkipRequested(cluster=order.cluster, wave=order.wave)
        cluster = told.cluster_of(order.host)
        if is_parked(state, order.host):
            return _repair(order.host, cluster, state, "skip")
        return data.SkipRequested(cluster=cluster, hosts=frozenset({canonical(order.host)}))
    if isinstance(order, RepairOrder):
        how, step = _REPAIRS[type(order)], order.from_step if isinstance(order, Retry) else None
        return _repair(order.host, told.cluster_of(order.host), state, how, step)
    assert isinstance(order, Abort)
    why = f": {order.reason}" if order.reason else ""
    return data.AbortRequested(reason=f"aborted by {order.by}{why}", now=order.now)


def _repair(
    host: str, cluster: str | None, state: data.RolloutState, how: Repair, step: str | None = None
) -> data.RepairRequested:
    cluster = cluster or state.clusters[0].name
    return data.RepairRequested(cluster=cluster, host=host, how=how, step=step)


def why_refused(
    order: Order, state: data.RolloutState, told: ToldByClusters, *, steps: tuple[str, ...]
) -> str | None:
    """Why this may not be done now, or None if it may. ``steps``: those of the procedure."""
    host = order.host if isinstance(order, (Skip, RepairOrder)) else None
    if host is None or state.phase == "listing":
        return verbs.why_refused(state, asked(order, state, told))
    if told.cluster_of(host) is None:
        return f"no host {host!r} in the plan"
    known = told.known_of(host)
    return verbs.why_refused(state, asked(order, state, told), steps=steps, known=known)
