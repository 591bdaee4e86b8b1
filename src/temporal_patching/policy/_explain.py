"""Why a rollout waits, why it stopped, and what would stop it next: each with its evidence.

What a cluster said last may be older than what was decided since. So what it is doing is told from the
rollout's own decisions first, and what only the cluster knows is told with the time at which it said so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from itertools import islice
from typing import final, get_args

import attrs

from ._grants import ring_of
from ._repair import Repair
from ._rollout import hosts_may_start, pause_of, shown_phase
from ._rollout_policy import Allowed, ClusterPlan, FailureBudget, allowed, cluster_plan
from ._rollout_state import ClusterView, RolloutState
from ._rules import canonical
from ._states import Outcome

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
class Gate:
    """A gate with its votes. ``outcome`` is None while it waits for them."""

    gate: str
    approvers: tuple[str, ...] = ()
    approved_by: tuple[str, ...] = ()
    rejected_by: tuple[str, ...] = ()
    quorum: int = 1
    deadline: datetime | None = None
    outcome: str | None = None


@attrs.frozen(kw_only=True)
class Parked:
    """A host that failed and waits for a person."""

    host: str
    step: str
    reason: str = ""
    left_out: str | None = None


@attrs.frozen(kw_only=True)
class Work:
    """What a cluster said last of its own work, and when."""

    cluster: str
    phase: str
    waits_for: str = ""
    in_flight: int = 0
    said_at: datetime | None = None
    wave: int | None = None
    """The group that it is at, 0 for the pilots. None: it has not said so yet."""
    acted: int = 0
    """How many hosts of that group were acted on."""
    failed: int = 0
    """How many of those failed, unreachable ones included."""
    held: int = 0
    """How many of its hosts are held out of service."""
    stopped: str | None = None
    """Why it has stopped by itself."""
    parked: tuple[Parked, ...] = ()
    """Its hosts that wait for a person."""


@attrs.frozen(kw_only=True)
class Known:
    """What is known beside the state itself.

    Attributes:
        gates: The gates that have been opened.
        work: What each cluster said last.
        paused_by: Who paused the rollout (under ``""``) or a cluster, and why.
        window: Whether hosts may start now and until when, on the calendars' clocks.
        short_of: How it ended, if it was not stopped and has not patched all: ``PARTIAL: 4 patched, 1 failed``.
    """

    gates: tuple[Gate, ...] = ()
    work: tuple[Work, ...] = ()
    paused_by: Mapping[str, str] = attrs.field(factory=dict[str, str])
    window: str = ""
    short_of: str = ""

    @property
    def waiting(self) -> tuple[Gate, ...]:
        """The gates that wait for votes."""
        return tuple(each for each in self.gates if each.outcome is None)

    def of(self, cluster: str) -> Work:
        """What that cluster said last."""
        nothing = Work(cluster=cluster, phase="listing")
        return next((each for each in self.work if each.cluster == cluster), nothing)


# It waits


def why_it_waits(state: RolloutState, known: Known) -> tuple[Because, ...]:
    """Everything that must happen before it goes on; empty for a rollout that has ended."""
    if state.phase == "ended":
        return ()
    if state.phase == "stopping":  # no vote, resume or window makes it start anything any more
        return tuple(_waits_for_work(state, known))
    return tuple(_waits(state, known))


def _waits(state: RolloutState, known: Known) -> Iterator[Because]:
    if state.phase == "listing":
        listing = [view.name for view in state.clusters if view.phase == "listing"]
        yield Because(why="the hosts are being listed", evidence={"clusters": ", ".join(listing)})
    if state.paused is not None:
        moving = [v.name for v in state.clusters if v.phase != "ended" and not v.quiet]
        yield Because(
            why=_paused(f"it is {shown_phase(state)}", known.paused_by.get("")),
            evidence={"after": state.paused, "still moving": ", ".join(moving) or "nothing"},
        )
    for view in state.clusters:
        if view.paused is not None and view.phase != "ended" and state.paused is None:
            rest = "paused" if view.quiet else "pausing"
            yield Because(
                why=_paused(f"cluster {view.name!r} is {rest}", known.paused_by.get(view.name)),
                evidence={
                    "after": pause_of(state, view) or "",
                    "still moving": "nothing" if view.quiet else "hosts in flight",
                },
            )
    for gate in known.waiting:
        more = gate.quorum - len(gate.approved_by)
        yield Because(
            why=f"gate {gate.gate!r} waits for {more} more {'vote' if more == 1 else 'votes'}",
            evidence={
                "approved by": ", ".join(gate.approved_by) or "nobody",
                "may vote": ", ".join(each for each in gate.approvers),
                "expires": _moment(gate.deadline) if gate.deadline is not None else "never",
            },
        )
    if not state.window_open:
        yield Because(why="no host may start now", evidence={"windows": known.window})
    if state.phase == "running":
        yield from _waits_for_work(state, known)
        for view in state.clusters:
            yield from _waits_for_repair(state, view, known.of(view.name))


def _paused(what: str, by: str | None) -> str:
    return f"{what}: {by}" if by else what


def _waits_for_work(state: RolloutState, known: Known) -> Iterator[Because]:
    number, ring = ring_of(state)
    for view in state.clusters:
        told = known.of(view.name)
        if view.phase == "ended":
            continue
        if state.phase == "stopping" or view.stop is not None or told.stopped is not None:
            yield _stops(state, view, told)
        elif view.phase == "planned":
            later = "" if view.name in ring else f", which begins after ring {number}"
            yield Because(
                why=f"cluster {view.name!r} waits for its turn{later}",
                evidence={
                    "max_parallel_clusters": str(state.policy.max_parallel_clusters or "no limit"),
                    "max_parallel_total": str(state.policy.max_parallel_total or "no limit"),
                },
            )
        elif pause_of(state, view) is None or not view.quiet or told.in_flight:
            yield _works(state, view, told)  # else it is told already that it is paused


def _stops(state: RolloutState, view: ClusterView, told: Work) -> Because:
    if view.phase != "running":
        return Because(why=f"cluster {view.name!r} ends: nothing of it has started")
    if state.aborting == "kill":
        how = "all are cancelled, updates that run included"
    elif view.finishes or (state.policy.in_flight == "finish" and state.aborting is None):
        how = "all go to their end"
    else:
        how = "those before their update are restored, the others go to their end"
    return Because(
        why=f"cluster {view.name!r} stops: its hosts in flight have to end",
        evidence={
            "because": told.stopped or view.stop or state.reason,
            "in flight": _as_said(str(told.in_flight), told),
            "they": how,
        },
    )


def _works(state: RolloutState, view: ClusterView, told: Work) -> Because:
    doing = told.phase
    if pause_of(state, view) is not None:
        doing = "paused" if view.quiet else "pausing"
    elif told.phase in ("pausing", "paused"):
        doing = "was told to go on"
    elif told.phase in ("listing", "waiting") and view.slots != 0:
        doing = "was told to start"
    waits = f", waits for {told.waits_for}" if told.waits_for and doing == told.phase else ""
    evidence = {
        "in flight": _as_said(str(told.in_flight), told),
        "max_parallel": str(view.max_parallel),
        "slots": "as its policy says" if view.slots is None else str(view.slots),
    }
    if told.held:
        most = cluster_plan(state.policy, view.hosts).max_out_of_service
        evidence["held out of service"] = f"{told.held}; at most {most} in flight or held"
    soak = state.policy.soak
    if doing == "soaking" and soak is not None:
        look = f", a look every {soak.check_every}" if soak.check_every is not None else ""
        evidence["soak"] = f"{soak.duration}{look}"
    if doing == told.phase and told.phase != "gate" and not hosts_may_start(state):
        evidence["new hosts"] = "none may start now"
    return Because(why=f"cluster {view.name!r}: {doing}{waits}", evidence=evidence)


def _as_said(what: str, told: Work) -> str:
    if told.said_at is None:
        return what
    return f"{what}, as it said at {_moment(told.said_at)}"


def _moment(at: datetime) -> str:
    return f"{at.astimezone(timezone.utc):%Y-%m-%d %H:%M:%SZ}"


def _waits_for_repair(state: RolloutState, view: ClusterView, told: Work) -> Iterator[Because]:
    """The parked hosts of a cluster, which people have to answer, and the answers that wait to begin."""
    if view.parked:
        number = len(view.parked)
        said = {canonical(each.host): each for each in told.parked}
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


# It stopped


def why_it_stopped(state: RolloutState, known: Known) -> tuple[Because, ...]:
    """Why nothing new starts any more, or in one cluster; empty while all goes on, or has gone well."""
    if state.outcome is None and not known.short_of:
        return ()
    evidence = dict[str, str]()
    if state.outcome in (Outcome.REJECTED, Outcome.EXPIRED):
        for gate in known.gates:
            if gate.outcome in ("rejected", "expired"):
                evidence[f"gate {gate.gate!r}"] = (
                    f"{gate.outcome}; {len(gate.approved_by)} of {gate.quorum} approved: "
                    f"{', '.join(gate.approved_by) or 'nobody'}; rejected by "
                    f"{', '.join(gate.rejected_by) or 'nobody'}"
                )
    for view in state.clusters:
        limit = allowed(state.policy.failure_budget, view.hosts)
        evidence[view.name] = (
            f"{view.failed} failed, {view.unreachable} unreachable of {view.hosts}; {_most(limit)}"
        )
    total = state.policy.total_failure_budget
    if total is not None and len(state.clusters) > 1:
        limit = allowed(total, sum(view.hosts for view in state.clusters))
        failed = sum(view.failed for view in state.clusters)
        unreachable = sum(view.unreachable for view in state.clusters)
        evidence["over all clusters"] = (
            f"{failed} failed, {unreachable} unreachable; {_most(limit)}"
        )
    if state.outcome is None:
        why = known.short_of
    elif state.phase == "running" and _some_go_on(state, known):  # a cluster has stopped alone
        why = f"{state.reason}; the other clusters go on"
    else:
        why = f"{state.outcome.value}: {state.reason}"
    return (Because(why=why, evidence=evidence),)


def _some_go_on(state: RolloutState, known: Known) -> bool:
    going = (view.name for view in state.clusters if view.phase != "ended" and view.stop is None)
    return any(known.of(name).stopped is None for name in going)


def _most(limit: Allowed) -> str:
    if limit.unreachable is None:
        return f"{limit.failures} allowed together"
    return f"{limit.failures} failed and {limit.unreachable} unreachable allowed"


# What would stop it next


def what_would_stop_it(state: RolloutState, known: Known) -> tuple[Because, ...]:
    """What would stop it next: the budgets with what is left of them, and the deadlines."""
    if state.phase in ("stopping", "ended"):
        return ()
    return tuple(_would_stop(state, known))


def _would_stop(state: RolloutState, known: Known) -> Iterator[Because]:
    policy = state.policy
    for view in state.clusters:
        told = known.of(view.name)
        later = view.phase == "planned" and state.phase == "running"  # it is not its turn
        known_hosts = view.phase in ("planned", "running")  # else there are no numbers
        if known_hosts and view.stop is None and told.stopped is None and not later:
            yield from _would_stop_cluster(state, view, told)
    if policy.total_failure_budget is not None and state.phase != "listing":
        views = state.clusters
        total = ClusterView(
            name="",
            hosts=sum(view.hosts for view in views),
            failed=sum(view.failed for view in views),
            unreachable=sum(view.unreachable for view in views),
            acted=sum(view.acted for view in views),
            parked={host: step for view in views for host, step in view.parked.items()},
        )
        limit = allowed(policy.total_failure_budget, total.hosts)
        where = "over all clusters"
        yield from _left(policy.total_failure_budget, limit, where, "the rollout", total)
    for gate in known.waiting:
        if gate.deadline is not None:
            yield Because(
                why=f"gate {gate.gate!r} expires, or somebody rejects at it",
                evidence={"expires": _moment(gate.deadline)},
            )
    windows = policy.windows
    if windows is not None and windows.on_window_close == "stop" and state.window_open:
        yield Because(why="the maintenance windows close", evidence={"windows": known.window})


def _would_stop_cluster(state: RolloutState, view: ClusterView, told: Work) -> Iterator[Because]:
    policy, plan = state.policy, cluster_plan(state.policy, view.hosts)
    where = f"in cluster {view.name!r}"
    what = "the rollout" if policy.stop_scope == "rollout" else f"cluster {view.name!r}"
    between = told.phase in ("soaking", "gate")
    if told.wave == 0 and view.acted < plan.pilots and not between:
        # While the pilots run, all that the cluster has acted on are pilots.
        pilots = attrs.evolve(view, hosts=plan.pilots)
        among = f"among the pilots of cluster {view.name!r}"
        yield from _left(policy.pilot_budget, plan.pilot_budget, among, what, pilots)
    yield from _left(policy.failure_budget, plan.budget, where, what, view)
    if told.wave is not None and not between:
        yield from _failed_wave(plan, view, told, told.wave, what)
    room = plan.max_out_of_service - told.held
    if 0 < room < min(_more_failures(plan.budget, view), view.hosts - view.acted):
        then = f"would stop {what}, since nothing could start any more"
        if policy.on_host_failure == "park":
            then = (
                f"would hold up {what} until a parked host is answered: nothing could start before"
            )
        yield Because(
            why=f"{_count(room, 'more host')} held out of service {where} {then}",
            evidence={
                "held": _as_said(str(told.held), told),
                "max_out_of_service": str(plan.max_out_of_service),
            },
        )
    if told.phase == "soaking" and policy.soak is not None and policy.soak.check_every is not None:
        yield Because(
            why=f"a look at the fleet {where} that says 'failed' would stop {what}",
            evidence={"a look every": str(policy.soak.check_every)},
        )


def _failed_wave(
    plan: ClusterPlan, view: ClusterView, told: Work, wave: int, what: str
) -> Iterator[Because]:
    budget = plan.budget if wave else plan.pilot_budget
    size = plan.wave_size(wave) if wave else plan.pilots
    some_are_well = told.acted > told.failed
    next_one_stops = _more_failures(budget, view) == 1 and budget.min_sample <= view.acted
    if not budget.stop_on_failed_wave or size < 2 or some_are_well or next_one_stops:
        return  # it is switched off, or cannot be any more, or the budget comes first
    which = f"wave {wave}" if wave else "the pilots"
    yield Because(
        why=f"{which} of cluster {view.name!r} would stop {what} if every host of it that is acted on fails",
        evidence={
            "failed so far": _as_said(f"{told.failed} of {told.acted} acted on", told),
            "hosts of it": f"at most {size}",
        },
    )


def _more_failures(limit: Allowed, view: ClusterView) -> int:
    """How many more failures it takes at least, if all that the numbers ask for is given."""
    counted = view.failed + (view.unreachable if limit.unreachable is None else 0)
    return max(limit.failures + 1 - counted, 1)


def _left(
    budget: FailureBudget, limit: Allowed, where: str, what: str, view: ClusterView
) -> Iterator[Because]:
    """What is left of one budget: of its failures, and of its unreachable hosts if they have their own."""
    evidence = {
        "failed": str(view.failed),
        "unreachable": str(view.unreachable),
        "allowed": f"{limit.failures} ({budget.max_failures} of {view.hosts})",
    }
    if limit.unreachable is not None:
        evidence["allowed unreachable"] = (
            f"{limit.unreachable} ({budget.max_unreachable} of {view.hosts})"
        )
    if view.parked:
        evidence["of those parked"] = str(len(view.parked))
    if limit.min_sample > view.acted:
        evidence["a percentage counts after"] = f"{limit.min_sample} hosts, {view.acted} so far"
    apart = limit.unreachable is not None
    counted = view.failed + (0 if apart else view.unreachable)
    wait = limit.min_sample - view.acted if limit.failures_in_percent else 0
    yield Because(
        why=_until_exceeded(limit.failures + 1 - counted, wait, "failure", where, what, view),
        evidence=evidence,
    )
    if limit.unreachable is not None:
        more = limit.unreachable + 1 - view.unreachable
        wait = limit.min_sample - view.acted if limit.unreachable_in_percent else 0
        yield Because(
            why=_until_exceeded(more, wait, "unreachable host", where, what, view),
            evidence=evidence,
        )


def _until_exceeded(
    more: int, wait: int, kind: str, where: str, what: str, view: ClusterView
) -> str:
    """How far a limit is from being exceeded.

    Args:
        more: How many more of the kind exceed it. 0 or less: only the sample is too small yet.
        wait: On how many more hosts the update has to be tried before it may trip at all.
        kind: What is counted.
        where: Where.
        what: What it would stop.
        view: The counts.
    """
    untried = max(view.hosts - view.acted, 0)
    if max(more, wait) > untried:
        return f"no number of {kind}s {where} would stop {what}: {_count(untried, 'host')} left"
    tried = f"the update was tried on {_count(wait, 'more host')} {where}"
    if more <= 0:
        return (
            f"{what} stops when {tried}, also if none of them fails: too many have failed already"
        )
    once = f", once {tried}" if wait > more else ""
    return f"{_count(more, f'more {kind}')} {where} would stop {what}{once}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
