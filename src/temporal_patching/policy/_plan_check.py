"""Whether a plan may be carried out at all: what is wrong with the lists of all clusters together."""

from __future__ import annotations

from ._rollout_policy import RolloutPolicy, cluster_plan
from ._rollout_state import PlanLimits, RolloutState
from ._rules import canonical, did_you_mean

MAX_HINTS = 5
"""Problems that come with a guess of what was meant: each looks through all names."""

MAX_NAMES = 500_000
"""Characters of the names of all hosts that may be out of service together: a report names every one."""


def filtered(limits: PlanLimits) -> str:
    named = [name for name in ("only_hosts", "exclude_hosts") if getattr(limits, name)]
    return f" that {' and '.join(named)} leave in" if named else ""


def plan_problems(state: RolloutState) -> list[str]:
    limits, found = state.limits, list[str]()
    hosts = sum(view.hosts for view in state.clusters)
    for field in ("only_hosts", "exclude_hosts"):
        for name in getattr(limits, field):
            if canonical(name) not in state.named:
                few = len(found) < MAX_HINTS
                hint = did_you_mean(canonical(name), state.seen) if few else ""
                found.append(f"{field!r} names {name!r}, which no cluster has{hint}")
    unnamed = why_unnamed(state, state.policy)
    if unnamed is not None:
        found.append(f"{unnamed}; lower it, or split the rollout")
    if limits.max_hosts is not None and hosts > limits.max_hosts:
        found.append(f"'max_hosts' is {limits.max_hosts}, but the clusters have {hosts} hosts")
    if limits.plan_digest and state.digest and limits.plan_digest != state.digest:
        found.append(
            "it is not the plan of 'plan_digest' any more: its steps, commands or policy have changed since; "
            "make a new plan"
        )
    expected = limits.expect_hosts
    if expected is not None and abs(hosts - expected) * 10 > expected:
        found.append(
            f"'expect_hosts' is {expected}, but the clusters have {hosts} hosts: more than 10% off"
        )
    return found


def why_unnamed(state: RolloutState, policy: RolloutPolicy) -> str | None:
    """Why the report could not name all hosts that may be out of service together, or None if it could."""
    names = 0
    for view in state.clusters:
        most = cluster_plan(policy, view.hosts).max_out_of_service
        names += min(view.name_characters, most * view.longest_name)
    if names <= MAX_NAMES:
        return None
    return (
        f"'max_out_of_service' lets hosts be out of service whose names have {names:,} characters together, "
        f"and a report names at most {MAX_NAMES:,}"
    )
