"""What people may ask of a rollout, and when: ``why_refused`` says no, with the reason.

The table ``LEGAL`` is what the documentation shows. It is judged by the phase that people see, and every
verb has conditions of its own on top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast, get_args

import attrs

from ._plan_check import why_unnamed
from ._repair import BEING, Repair
from ._rollout import pause_of, shown_phase
from ._rollout_policy import FailureBudget, RolloutPolicy, allowed, cluster_plan, wave_sizes
from ._rollout_state import (
    AbortRequested,
    ClusterView,
    LimitsRequested,
    PauseRequested,
    RepairRequested,
    ResumeRequested,
    RolloutState,
    SkipRequested,
)
from ._rules import canonical, did_you_mean

Verb = Literal["pause", "resume", "abort", "set_limits", "skip", "retry", "accept", "restore"]
"""What people may ask of a rollout, approving and rejecting aside."""

VERBS: tuple[Verb, ...] = get_args(Verb)

PHASES = ("listing", "gate", "running", "pausing", "paused", "stopping", "ended")
"""The phases of a rollout, as people see them."""

Asked: TypeAlias = (
    PauseRequested
    | ResumeRequested
    | AbortRequested
    | LimitsRequested
    | SkipRequested
    | RepairRequested
)

_NAMES: Mapping[type, Verb] = {
    PauseRequested: "pause",
    ResumeRequested: "resume",
    AbortRequested: "abort",
    LimitsRequested: "set_limits",
    SkipRequested: "skip",
}

_UNFINISHED = frozenset(PHASES) - {"ended"}
_GOING_ON = _UNFINISHED - {"stopping"}
_BEGUN = _GOING_ON - {"listing", "gate"}

LEGAL: Mapping[Verb, frozenset[str]] = {
    "pause": _GOING_ON,
    "resume": _BEGUN,  # running: a cluster may be paused
    "abort": _UNFINISHED,
    "set_limits": _GOING_ON,
    "skip": _GOING_ON - {"listing"},
    "retry": _BEGUN,
    "accept": _BEGUN,
    "restore": _BEGUN,
}
"""In which phases a verb is legal, if its own conditions hold."""


def verb_of(asked: Asked) -> Verb:
    """The verb with which somebody asks for this."""
    return asked.how if isinstance(asked, RepairRequested) else _NAMES[type(asked)]


MAX_ACCEPTED = 1_000
"""Verbs that a rollout takes, repeats included. The server takes 2,000 updates, an abort among them."""

MAX_EVENTS = 30_000
"""Events of its history beyond which it takes none: the server ends it at 51,200."""


def why_full(verb: Verb, *, accepted: int, events: int) -> str | None:
    """Why a rollout that has lived long takes no more verbs, or None. It always takes an abort.

    Args:
        verb: What is asked for.
        accepted: Verbs that it has taken.
        events: Length of its history.
    """
    if verb == "abort" or (accepted < MAX_ACCEPTED and events < MAX_EVENTS):
        return None
    what = f"it has taken {accepted:,} verbs" if accepted >= MAX_ACCEPTED else "its history is long"
    return (
        f"cannot {verb}: {what}, and takes none but abort any more; let it end, or abort it, and start "
        "another for the rest (Rollout.rest_of)"
    )


def why_refused(
    state: RolloutState, asked: Asked, *, steps: Sequence[str] = (), known: str = ""
) -> str | None:
    """Why this may not be done now, or None if it may.

    Args:
        state: The rollout.
        asked: What somebody asks for.
        steps: The procedure's steps, in order, for a retry that names one.
        known: What is known of the host that is named, in a few words, for one that is not parked.
    """
    verb, phase = verb_of(asked), shown_phase(state)
    if phase == "ended":
        outcome = f" as {state.outcome.value}" if state.outcome is not None else ""
        return f"cannot {verb}: the rollout has ended{outcome}"
    if phase not in LEGAL[verb]:
        return f"cannot {verb} while {phase}: possible while {_phases(LEGAL[verb])}"
    refused = _unknown_cluster(state, asked)
    if refused is None and isinstance(asked, RepairRequested):
        return _repair(state, asked, steps, known)
    return refused or _CONDITIONS[type(asked)](state, asked)


def said(asked: Asked, before: RolloutPolicy) -> str:
    """What was asked for, in a few words, for the record. ``before``: the policy that held until then."""
    if isinstance(asked, PauseRequested):
        where = f"cluster {asked.cluster!r}" if asked.cluster is not None else "the rollout"
        return f"pause {where} after each {asked.after}"
    if isinstance(asked, ResumeRequested):
        return (
            f"resume {f'cluster {asked.cluster!r}' if asked.cluster is not None else 'the rollout'}"
        )
    if isinstance(asked, AbortRequested):
        return "abort now" if asked.now else "abort"
    if isinstance(asked, SkipRequested):
        where = f" of cluster {asked.cluster!r}" if asked.cluster is not None else ""
        what = f"wave {asked.wave}" if asked.wave is not None else ", ".join(sorted(asked.hosts))
        return f"skip {what}{where}"
    if isinstance(asked, RepairRequested):
        begin = f" from {asked.step}" if asked.step is not None else ""
        return f"{asked.how} parked host {asked.host!r} of cluster {asked.cluster!r}{begin}"
    changes = ", ".join(_changes("", before, asked.policy))
    return f"set {changes}" if changes else "set the limits that hold already"


def _changes(prefix: str, before: Any, after: Any) -> Iterator[str]:
    """``max_parallel 5 → 2``, ``failure_budget.max_failures 0 → '5%'``."""
    for field in attrs.fields(cast("type[attrs.AttrsInstance]", type(after))):
        was, now = getattr(before, field.name), getattr(after, field.name)
        if was == now:
            continue
        if isinstance(was, FailureBudget) and isinstance(now, FailureBudget):
            yield from _changes(f"{field.name}.", was, now)
        else:
            yield f"{prefix}{field.name} {_value(was)} → {_value(now)}"


def _value(value: object) -> str:
    if isinstance(value, FailureBudget):
        return f"{value.max_failures} failures"
    return "none" if value is None else str(value)


def _phases(phases: frozenset[str]) -> str:
    return ", ".join(phase for phase in PHASES if phase in phases)


def _unknown_cluster(state: RolloutState, asked: Asked) -> str | None:
    cluster = getattr(asked, "cluster", None)
    if cluster is None:
        return None
    view = next((view for view in state.clusters if view.name == cluster), None)
    if view is None:
        known = [view.name for view in state.clusters]
        return f"'cluster' must be one of {', '.join(known)} (got {cluster!r}){did_you_mean(cluster, known)}"
    return f"cluster {cluster!r} has ended" if view.phase == "ended" else None


def _pause(state: RolloutState, asked: PauseRequested) -> str | None:
    held = state.paused
    if asked.cluster is not None:
        held = next(pause_of(state, each) for each in state.clusters if each.name == asked.cluster)
    if held == asked.after or held == "step":
        return f"it is paused already, after each {held}"
    return None


def _resume(state: RolloutState, asked: ResumeRequested) -> str | None:
    paused = [view.name for view in state.clusters if view.paused is not None]
    if asked.cluster is None:
        return None if state.paused is not None or paused else "nothing is paused"
    if state.paused is not None:
        return "the whole rollout is paused: resume it without 'cluster'"
    return None if asked.cluster in paused else f"cluster {asked.cluster!r} is not paused"


def _abort(state: RolloutState, asked: AbortRequested) -> str | None:
    return None


def _set_limits(state: RolloutState, asked: LimitsRequested) -> str | None:
    """A limit below what has failed already would be an abort by another name."""
    policy, now = asked.policy, state.policy
    unnamed = why_unnamed(state, policy)
    if unnamed is not None:
        return unnamed
    # A budget that stays as it is was not asked for, also where it has stopped a cluster.
    for view in state.clusters if policy.failure_budget != now.failure_budget else ():
        why = allowed(policy.failure_budget, view.hosts).why_exceeded(
            failed=view.failed, unreachable=view.unreachable, sample=view.acted
        )
        if why is not None and view.phase != "ended":
            return f"'failure_budget' is below what has failed in cluster {view.name!r}: {why}"
    if policy.total_failure_budget not in (None, now.total_failure_budget):
        views = state.clusters
        why = allowed(policy.total_failure_budget, sum(v.hosts for v in views)).why_exceeded(
            failed=sum(view.failed for view in views),
            unreachable=sum(view.unreachable for view in views),
            sample=sum(view.acted for view in views),
        )
        if why is not None:
            return f"'total_failure_budget' is below what has failed: {why}"
    return None


def _skip(state: RolloutState, asked: SkipRequested) -> str | None:
    if state.phase == "listing":
        return "cannot skip before the hosts are known"
    if asked.wave is not None:
        going = [view for view in state.clusters if view.phase != "ended"]
        meant = [view for view in going if asked.cluster in (None, view.name)]
        most = max((len(wave_sizes(cluster_plan(state.policy, v.hosts))) for v in meant), default=0)
        if asked.wave > most:
            return f"there is no wave {asked.wave}: the last one is wave {most}"
        again = all(asked.wave in view.skip_waves for view in meant)
        return f"wave {asked.wave} is skipped already" if again else None
    views = [view for view in state.clusters if view.name == asked.cluster]
    twice = [host for view in views for host in asked.hosts if canonical(host) in view.skip]
    if twice:
        return f"host {twice[0]!r} is skipped already"
    repaired = (_being_repaired(view, host) for view in views for host in sorted(asked.hosts))
    return next((each for each in repaired if each is not None), None)


def _being_repaired(view: ClusterView, host: str) -> str | None:
    """What was asked for a parked host, and is not done yet."""
    pending: dict[str, Repair] = {
        **view.waiting,
        **{each.host: each.how for each in view.repairs},
    }
    how = pending.get(canonical(host))
    return f"host {host!r} is being {BEING[how]} already" if how is not None else None


def _repair(
    state: RolloutState, asked: RepairRequested, steps: Sequence[str], known: str
) -> str | None:
    view = next(view for view in state.clusters if view.name == asked.cluster)
    host = canonical(asked.host)
    repaired = _being_repaired(view, asked.host)
    if repaired is not None:
        return repaired
    if host not in view.parked:
        what = f"is {known}, not parked" if known else "is not parked"
        return (
            f"host {asked.host!r} {what}: only parked hosts can be {BEING[asked.how]} "
            "(on_host_failure='park'); Rollout.rest_of() makes a request for the rest"
        )
    if view.stop is not None:
        return f"cluster {view.name!r} stops: its parked hosts are being restored"
    if asked.step is None:
        return None
    if asked.step not in steps:
        hint = did_you_mean(asked.step, steps)
        return f"'from_step' must be one of {', '.join(steps)} (got {asked.step!r}){hint}"
    failed = view.parked[host]
    if failed in steps and steps.index(asked.step) > steps.index(failed):
        return (
            f"'from_step' must not be behind {failed}, which failed (got {asked.step!r}): "
            "accept takes it as done"
        )
    return None


_CONDITIONS: Mapping[type, Callable[[RolloutState, Any], str | None]] = {
    PauseRequested: _pause,
    ResumeRequested: _resume,
    AbortRequested: _abort,
    LimitsRequested: _set_limits,
    SkipRequested: _skip,
}
