"""The rollout over its clusters: the plan, the gate, grants, and who stops whom, in any order of events."""

from __future__ import annotations

import random
import time
from difflib import SequenceMatcher
from typing import Any, get_args

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_patching.policy import FailureBudget, Outcome, RolloutPolicy
from temporal_patching.policy._amount import rounded_down
from temporal_patching.policy._repair import PendingRepair, Repair
from temporal_patching.policy._rollout import (
    decide,
    gate_before,
    hosts_may_start,
    is_paused,
    pause_of,
    shown_phase,
)
from temporal_patching.policy._rollout_state import (
    AbortRequested,
    CancelCluster,
    CloseGate,
    ClusterEnded,
    ClusterNotPlanned,
    ClusterPlanned,
    ClusterProgressed,
    ClusterView,
    EndRollout,
    GatePassed,
    GateShut,
    LimitsRequested,
    OpenGate,
    PauseRequested,
    PlanLimits,
    RepairRequested,
    ResumeRequested,
    RolloutCommand,
    RolloutEvent,
    RolloutState,
    SkipRequested,
    TellCluster,
    WindowChanged,
    WindowsClosed,
    failures_of,
    rollout_state,
)
from temporal_patching.policy._rules import did_you_mean
from temporal_patching.policy._verbs import Asked, why_refused

SEEDS = 6_000
REPAIRS: tuple[Repair, ...] = get_args(Repair)


# What a cluster reads out of its view when it is told, beside pauses, windows and limits


@attrs.frozen
class GrantSlots:
    """It may have so many hosts in flight now: another number than before, or for the first time."""

    cluster: str
    slots: int | None


@attrs.frozen
class StopCluster:
    """Nothing new may start in it, for this reason."""

    cluster: str
    reason: str


@attrs.frozen
class OpenWaves:
    """It may go on past the gates before these waves, too."""

    cluster: str
    waves: frozenset[int]


Followed = RolloutCommand | GrantSlots | StopCluster | OpenWaves


@attrs.define
class Cluster:
    """A cluster as the rollout knows it from outside: what it was told, and what it may still do."""

    name: str
    hosts: int
    planned: bool = False
    ended: bool = False
    slots: int | None = 0
    granted: bool = False
    told: list[str] = attrs.field(factory=list[str])
    cancelled: list[str] = attrs.field(factory=list[str])
    opened: frozenset[int] = frozenset()
    gates: list[int] = attrs.field(factory=list[int])
    """Waves before which it will stand at a gate."""
    at_gate: int | None = None
    quiet: bool = False
    """It has said that it stands still, after it was last told about a pause."""
    failed: int = 0
    needs: int = 10**9
    """How many slots it can use at most, as it has told."""
    flying: int = 0
    held: int = 0
    """How many may be in flight, for all that it has told."""

    @property
    def counts(self) -> int:
        """Slots that it has and can use; one at least, until it is told to end."""
        if not self.granted or self.ended:
            return 0
        return min(self.slots or 0, self.needs if self.stopping else max(self.needs, 1))

    def may_fly(self, max_parallel: int) -> int:
        """How many it may have in flight."""
        return max_parallel if self.slots is None else self.slots

    parked: set[str] = attrs.field(factory=set[str])
    """Hosts that wait for a person. They have failed."""
    asked: list[PendingRepair] = attrs.field(factory=list[PendingRepair])
    """What it was told to do with them, not taken up yet."""
    repaired: int = 0

    def said(self) -> dict[str, Any]:
        """What it tells of its hosts."""
        counts = {"acted": self.failed, "failed": self.failed, "unreachable": 0}
        parked = dict.fromkeys(sorted(self.parked), "perform_update")
        in_flight = self.flying if self.granted else None
        return {**counts, "parked": parked, "repaired": self.repaired, "in_flight": in_flight}

    @property
    def stopping(self) -> bool:
        """Whether it was told to end, in one way or the other."""
        return bool(self.told or self.cancelled)


@attrs.define
class RolloutRun:
    """A rollout that is driven event by event, and an account of it."""

    state: RolloutState
    clusters: dict[str, Cluster]
    open_gates: list[str] = attrs.field(factory=list[str])
    passed: set[str] = attrs.field(factory=set[str])
    over: int = 0
    aborted: bool = False
    lowered: bool = False
    """Somebody has changed the limits: a cluster that runs may be left without slots."""
    commands: list[Followed] = attrs.field(factory=list[Followed])

    @property
    def at_start_gate(self) -> bool:
        """Whether the start gate waits for votes."""
        return "start" in self.open_gates and "start" not in self.passed

    def tell(self, event: RolloutEvent) -> list[Followed]:
        """One event; the rules hold after it whatever it is. Returns what followed from it."""
        before = self.state
        self.state, commands = decide(before, event)
        if isinstance(event, (ClusterPlanned, ClusterNotPlanned)):
            self.clusters[event.cluster].planned = True
        if isinstance(event, ClusterPlanned):
            self.clusters[event.cluster].needs = len(event.hosts)
        if isinstance(event, ClusterProgressed) and event.needs is not None:
            cluster = self.clusters[event.cluster]
            cluster.needs = min(cluster.needs, event.needs)
        if isinstance(event, ClusterProgressed) and event.in_flight is not None:
            self.answers(self.clusters[event.cluster], event.in_flight, before)
        if isinstance(event, ClusterEnded):
            self.clusters[event.cluster].ended = True
            self.clusters[event.cluster].flying = 0
        if isinstance(event, GatePassed) and event.gate in self.open_gates:
            self.passed.add(event.gate)
        if isinstance(event, ClusterProgressed):
            self.clusters[event.cluster].quiet = event.quiet
        if isinstance(event, (PauseRequested, ResumeRequested)):
            for cluster in self.clusters.values():
                cluster.quiet = False
        if isinstance(event, RepairRequested) and event.how == "restore":
            self.clusters[event.cluster].quiet = False  # it moves, whatever holds
        if isinstance(event, LimitsRequested):
            self.lowered = True
        if isinstance(event, AbortRequested):
            self.check_abort(before)
        followed = [each for command in commands for each in self.take(command)]
        self.commands += followed
        for cluster in self.clusters.values():
            if cluster.granted and not cluster.ended and cluster.slots is None:
                cluster.held = max(cluster.held, self.view(cluster).max_parallel)
        if not isinstance(
            event,
            (PauseRequested, ResumeRequested, LimitsRequested, SkipRequested, RepairRequested),
        ):  # those are refused when they are no news, or answered as the first time
            again = event
            if isinstance(event, ClusterProgressed):  # what follows from it, it does not know yet
                again = attrs.evolve(event, in_flight=None)
            assert decide(self.state, again) == (self.state, ()), "told twice"
        self.check_grants()
        self.check_pause()
        self.check_parked()
        assert self.over == (self.state.phase == "ended")
        return followed

    def take(self, command: RolloutCommand) -> list[Followed]:
        """Carries a command out, and says what it came to."""
        if isinstance(command, OpenGate):
            self.check_asked(command.gate)
            self.open_gates.append(command.gate)
        elif isinstance(command, CloseGate):
            assert command.gate in self.open_gates
            assert self.clusters[command.gate.partition("/")[2]].ended, "somebody waits at it"
            self.open_gates.remove(command.gate)
        elif isinstance(command, TellCluster):
            return self.take_view(self.clusters[command.cluster])
        elif isinstance(command, CancelCluster):
            cluster = self.clusters[command.cluster]
            assert not cluster.ended
            assert not cluster.cancelled, "a second cancel is not heard"
            cluster.cancelled.append(command.reason)
        else:
            assert isinstance(command, EndRollout)
            assert all(each.ended for each in self.clusters.values())
            self.over += 1
        return [command]

    def view(self, cluster: Cluster) -> ClusterView:
        """What the rollout knows of it."""
        return next(each for each in self.state.clusters if each.name == cluster.name)

    def answers(self, cluster: Cluster, in_flight: int, before: RolloutState) -> None:
        """A cluster says how many are in flight, and so that it knows what it was granted."""
        (view,) = (each for each in before.clusters if each.name == cluster.name)
        cluster.held = max(in_flight, cluster.may_fly(view.max_parallel))

    def starts(self, cluster: Cluster) -> None:
        """A cluster starts as many hosts as it may."""
        view = self.view(cluster)
        if cluster.stopping or self.state.phase != "running":
            return
        most = min(cluster.may_fly(view.max_parallel), cluster.needs)
        started = max(most - cluster.flying, 0)
        cluster.flying += started
        total = self.total()
        if started and total is not None:
            assert sum(each.flying for each in self.clusters.values()) <= total, "too many fly"

    def total(self) -> int | None:
        """How many may be in flight in all."""
        hosts, most = sum(view.hosts for view in self.state.clusters), self.state.policy
        if most.max_parallel_total is None:
            return None
        return max(rounded_down(most.max_parallel_total, hosts), 1)

    def take_view(self, cluster: Cluster) -> list[Followed]:
        """Reads out of its view what a cluster is told."""
        view = self.view(cluster)
        assert not cluster.ended, "nobody is told after the end"
        followed: list[Followed] = []
        goes = view.phase == "running"
        if goes and (view.slots != cluster.slots or not cluster.granted):
            self.check_go(cluster, view.slots)
            cluster.granted, cluster.slots = True, view.slots
            cluster.held = max(cluster.held, cluster.may_fly(view.max_parallel))
            followed.append(GrantSlots(cluster.name, view.slots))
        if view.stop is not None and view.stop not in cluster.told:
            assert not cluster.told, "the first reason stays"
            cluster.told.append(view.stop)
            cluster.quiet = False  # what stands still is given back
            followed.append(StopCluster(cluster.name, view.stop))
        for repair in view.repairs:
            if repair.number > max([cluster.repaired, *(each.number for each in cluster.asked)]):
                assert repair.host in cluster.parked, "only what is parked"
                cluster.asked.append(repair)
        if view.opened != cluster.opened:
            assert view.opened > cluster.opened, "a gate that is passed stays passed"
            for wave in view.opened:
                gate = gate_before(self.state, cluster.name, wave)
                assert gate is None or gate in self.passed, "nothing before the gate"
            cluster.opened = view.opened
            followed.append(OpenWaves(cluster.name, view.opened))
        return followed

    def check_go(self, cluster: Cluster, slots: int | None) -> None:
        """What holds whenever a cluster is granted slots."""
        assert all(each.planned or each.ended for each in self.clusters.values())
        assert "start" in self.passed or "start" not in self.state.gates, "nothing before the gate"
        more = slots is None or (cluster.slots is not None and slots > cluster.slots)
        assert not (more and self.aborted)
        assert not (more and cluster.stopping), "nothing is granted to who was told to stop"
        if not self.lowered and cluster.granted:
            given_back = slots is not None and slots >= max(cluster.needs, 1)
            assert more or given_back, "a grant is taken back only if a limit was lowered"
        rings = self.state.policy.rings
        for number, ring in enumerate(rings, start=1):
            if cluster.name in ring:
                if f"ring-{number}" in self.state.gates:
                    assert f"ring-{number}" in self.passed, "nothing before the gate of its ring"
                for earlier in rings[: number - 1]:
                    assert all(self.clusters[name].ended for name in earlier), "ring by ring"
        at_once = self.state.policy.max_parallel_clusters
        if not cluster.granted and at_once is not None:
            running = [each for each in self.clusters.values() if each.granted and not each.ended]
            assert len(running) < at_once, "one more only if one more may"

    def check_asked(self, gate: str) -> None:
        """What holds whenever a gate is opened for votes."""
        assert gate in self.state.gates
        assert gate not in self.open_gates, "asked once"
        assert self.state.phase in ("gate", "running")
        assert all(each.planned or each.ended for each in self.clusters.values())
        name, _, only = gate.partition("/")
        if name.startswith("ring-"):
            number = int(name.removeprefix("ring-"))
            rings = self.state.policy.rings
            before = [each for ring in rings[: number - 1] for each in ring]
            assert all(self.clusters[each].ended for each in before), "after the ring before it"
            assert any(not self.clusters[each].ended for each in rings[number - 1])
        elif name != "start":
            wave = 1 if name == "promote" else int(name.removeprefix("wave-"))
            there = [each for each in self.clusters.values() if each.at_gate == wave]
            assert there, "somebody stands at it"
            assert not only or [each.name for each in there if each.name == only]
            for each in self.clusters.values() if not only else ():
                on_its_way = (
                    each.granted and not each.ended and not each.stopping and each.slots != 0
                )
                early = each.at_gate is None or each.at_gate < wave or each.at_gate in each.opened
                behind = any(passed >= wave for passed in each.opened)
                assert not (on_its_way and early and not behind), f"{each.name} is still on its way"

    def check_abort(self, before: RolloutState) -> None:
        """An abort ends whatever is pending, but what people have decided before anything began."""
        decided = before.outcome in (Outcome.REJECTED, Outcome.EXPIRED) and not before.begun
        if before.phase != "ended" and not decided:
            assert self.state.outcome is Outcome.ABORTED
            assert self.state.phase in ("stopping", "ended")
            self.aborted = True

    def check_grants(self) -> None:
        """Never more slots than max_parallel_total, and without one as many as the plan says."""
        policy = self.state.policy
        strict = policy.total_failure_budget is not None and policy.total_failure_budget.strict
        if self.state.phase != "running" or strict:
            return
        running = [
            each
            for each in self.clusters.values()
            if each.granted and not each.ended and not each.stopping
        ]
        budget = policy.total_failure_budget
        if budget is not None and budget.strict:
            assert isinstance(budget.max_failures, int)
            failed = sum(view.failed for view in self.state.clusters)
            left = sum(each.counts for each in self.clusters.values())
            assert failed + left <= budget.max_failures + 1, "it could be overshot"
            return
        total = self.total()
        if total is None:
            assert all(each.slots is None for each in running)
            return
        idle = total - sum(each.counts for each in self.clusters.values())
        assert self.lowered or idle >= 0, "never more than the total"
        assert sum(each.counts for each in running) <= total
        held = [each for each in self.clusters.values() if each.granted and not each.ended]
        if any(min(each.held, each.needs) > each.counts for each in held):
            return  # somebody has to give back something first
        self.check_idle(running, idle)
        assert all(each.slots is not None for each in running)
        assert self.lowered or all(each.slots for each in running)
        if running and not any(each.stopping and not each.ended for each in self.clusters.values()):
            assert any(each.slots for each in running), "somebody goes on"

    def check_idle(self, running: list[Cluster], idle: int) -> None:
        """No slot idles while a cluster that works, or may begin, could use it."""
        views = {view.name: view for view in self.state.clusters}
        if idle > 0:
            for each in running:
                assert each.counts >= min(views[each.name].max_parallel, each.needs), (
                    "it could use it"
                )
            if self.state.policy.max_parallel_clusters is None and not self.state.policy.rings:
                assert all(each.granted or each.ended for each in self.clusters.values())

    def check_parked(self) -> None:
        """One answer a host, and none of a cluster that has ended; what is asked is in order."""
        for view in self.state.clusters:
            asked = [each.host for each in view.repairs]
            assert not set(asked) & set(view.parked), "answered, it does not wait"
            assert len(asked) == len(set(asked))
            numbers = [each.number for each in view.repairs]
            assert numbers == sorted(set(numbers))
            assert all(number <= view.repairs_asked for number in numbers)
            if view.phase == "ended":
                assert not view.parked
                assert not asked

    def check_pause(self) -> None:
        """It is paused only if every cluster that has not ended said so after it was told."""
        open_clusters = [each for each in self.clusters.values() if not each.ended]
        assert is_paused(self.state) == all(each.quiet for each in open_clusters)
        if shown_phase(self.state) == "paused":
            assert self.state.paused is not None
            assert all(each.quiet for each in open_clusters)


def names(cluster: str, count: int) -> tuple[str, ...]:
    """Host names of a cluster."""
    return tuple(f"{cluster}-{index}" for index in range(count))


def new(
    hosts: dict[str, int],
    policy: RolloutPolicy | None = None,
    *,
    gate: bool = False,
    more_gates: tuple[str, ...] = (),
    **limits: Any,
) -> RolloutRun:
    """A rollout whose clusters list their hosts."""
    gates = ("start", *more_gates) if gate else more_gates
    state = rollout_state(
        policy or RolloutPolicy(), PlanLimits(**limits), tuple(hosts), gates=gates
    )
    return RolloutRun(state, {name: Cluster(name, count) for name, count in hosts.items()})


def planned(run: RolloutRun, cluster: str, **told: Any) -> list[Followed]:
    """This cluster has made its list."""
    hosts = told.pop("hosts", names(cluster, run.clusters[cluster].hosts))
    return run.tell(
        ClusterPlanned(
            cluster=cluster, hosts=hosts, max_parallel=told.pop("max_parallel", 5), **told
        )
    )


def running(
    hosts: dict[str, int],
    policy: RolloutPolicy | None = None,
    *,
    gate: bool = False,
    more_gates: tuple[str, ...] = (),
) -> RolloutRun:
    """A rollout whose plan is complete and whose gate was passed."""
    run = new(hosts, policy, gate=gate, more_gates=more_gates)
    for cluster in hosts:
        planned(run, cluster)
    if gate:
        run.tell(GatePassed())
    return run


def ended(
    cluster: str, outcome: Outcome = Outcome.PATCHED, reason: str = "", **counts: int
) -> ClusterEnded:
    """A cluster's child has ended."""
    return ClusterEnded(cluster=cluster, outcome=outcome, reason=reason, **counts)


def arrives(run: RolloutRun, cluster: str, wave: int, **told: Any) -> list[Followed]:
    """A cluster has come to the gate before a wave."""
    run.clusters[cluster].at_gate = wave
    return progressed(run, cluster, at_gate=wave, **told)


def progressed(run: RolloutRun, cluster: str, **told: Any) -> list[Followed]:
    """A cluster tells how far it is."""
    counts = {"acted": 0, "failed": 0, "unreachable": 0, **told}
    return run.tell(ClusterProgressed(cluster=cluster, **counts))


def some_gates(rng: random.Random, clusters: tuple[str, ...], rings: int) -> tuple[str, ...]:
    """Gates, by chance: of waves, for all and for one, and of rings."""
    waves = ("promote", "wave-2", "wave-3")
    every = [*waves, *(f"{wave}/{rng.choice(clusters)}" for wave in waves)]
    every += [f"ring-{number}" for number in range(1, rings + 1)]
    share = rng.choice([0.0, 0.3, 0.8])
    return tuple(gate for gate in every if rng.random() < share)


def asked_by_somebody(rng: random.Random, run: RolloutRun) -> Asked:
    """A verb, by chance; it may well be refused."""
    where = rng.choice([None, None, *run.clusters])
    policy = attrs.evolve(
        run.state.policy,
        max_parallel_total=rng.choice([None, rng.randint(1, 9), f"{rng.randint(1, 100)}%"]),
        max_parallel_clusters=rng.choice([None, rng.randint(1, 4)]),
        max_parallel=rng.randint(1, 9),
    )
    verbs: list[Asked] = [
        PauseRequested(after=rng.choice(["host", "step"]), cluster=where),
        ResumeRequested(cluster=where),
        ResumeRequested(),
        LimitsRequested(policy=policy),
        SkipRequested(cluster=where, wave=rng.randint(1, 3)),
        SkipRequested(cluster=rng.choice([*run.clusters]), hosts=frozenset({"c0-0"})),
        *some_repair(rng, run),
        *some_repair(rng, run),
    ]
    return rng.choice(verbs)


def some_repair(rng: random.Random, run: RolloutRun) -> list[Asked]:
    """Something is asked for a parked host, if there is one."""
    parked = [(view.name, host) for view in run.state.clusters for host in sorted(view.parked)]
    if not parked:
        return []
    cluster, host = rng.choice(parked)
    return [RepairRequested(cluster=cluster, host=host, how=rng.choice(REPAIRS))]


def play(rng: random.Random, policy: RolloutPolicy | None = None) -> RolloutRun:
    """Any legal order of events: clusters plan, fail to, run, stop, die; people vote, steer and abort."""
    clusters = tuple(f"c{index}" for index in range(rng.randint(1, 6)))
    policy = a_policy(rng, clusters) if policy is None else policy
    run = new(
        {name: rng.choice([0, 1, 5, 50]) for name in clusters},
        policy,
        gate=rng.random() < 0.5,
        more_gates=some_gates(rng, clusters, len(policy.rings)),
        allow_empty=rng.random() < 0.8,
        max_hosts=rng.choice([None, None, None, 60]),
        expect_hosts=rng.choice([None, None, None, 50]),
    )
    if not run.state.window_open:
        run.tell(WindowChanged(True))
    for cluster in run.clusters.values():
        gated = (wave for wave in (1, 2, 3) if gate_before(run.state, cluster.name, wave))
        cluster.gates = [wave for wave in gated if rng.random() < 0.9]
    trouble, death = rng.choice([0.0, 0.1, 0.5]), rng.choice([0.0, 0.0, 0.05])
    abort, steers = rng.choice([0.0, 0.0, 0.02]), rng.choice([0.0, 0.05, 0.2])
    closes = rng.choice([0.0, 0.0, 0.01])
    for turn in range(1_500):
        if run.over:
            break
        if turn > 500:  # people have done all that they wanted
            steers = abort = 0.0
            if why_refused(run.state, ResumeRequested()) is None:
                run.tell(ResumeRequested())
            if not run.state.window_open:
                run.tell(WindowChanged(True))
            for asked in some_repair(rng, run):
                if why_refused(run.state, asked) is None:
                    run.tell(asked)
        play_a_turn(
            rng, run, trouble=trouble, death=death, abort=abort, steers=steers, closes=closes
        )
    return run


def play_a_turn(
    rng: random.Random,
    run: RolloutRun,
    *,
    trouble: float,
    death: float,
    abort: float,
    steers: float,
    closes: float,
) -> None:
    """Something happens."""
    if rng.random() < abort:
        run.tell(AbortRequested(reason="enough", now=rng.random() < 0.5))
    if rng.random() < steers:
        asked = asked_by_somebody(rng, run)
        if why_refused(run.state, asked) is None:
            run.tell(asked)
        run.tell(WindowChanged(rng.random() < 0.7))
    for repair in some_repair(rng, run) if rng.random() < 0.2 else ():
        if why_refused(run.state, repair) is None:
            run.tell(repair)
    if rng.random() < closes:
        run.tell(WindowsClosed("the windows have closed", for_good=rng.random() < 0.3))
    waiting = [gate for gate in run.open_gates if gate not in run.passed]
    if waiting and rng.random() < 0.2:
        gate, outcome = rng.choice(waiting), rng.choice([Outcome.REJECTED, Outcome.EXPIRED])
        no = GateShut(gate=gate, outcome=outcome, reason="no")
        if rng.random() < 0.9:
            run.tell(GatePassed(gate))
        else:
            run.tell(no)
    cluster = rng.choice(
        [each for each in run.clusters.values() if not each.ended] or [*run.clusters.values()]
    )
    if rng.random() < death:
        died = ended(cluster.name, Outcome.STOPPED, "terminated")
        run.tell(attrs.evolve(died, reported=False))
    elif not cluster.planned and not cluster.stopping:
        if rng.random() < 0.05:
            run.tell(ClusterNotPlanned(cluster=cluster.name, problem="no inventory"))
        else:
            planned(run, cluster.name, max_parallel=rng.randint(1, 9))
    elif cluster.stopping:
        # Its list may be on its way still; somebody who was told to stop ends, sooner or later.
        if not cluster.planned and rng.random() < 0.3:
            planned(run, cluster.name)
        if rng.random() < 0.5:
            reason = (*cluster.told, *cluster.cancelled)[0]
            run.tell(ended(cluster.name, Outcome.STOPPED, reason))
    else:
        goes_on(rng, run, cluster, trouble)


def goes_on(rng: random.Random, run: RolloutRun, cluster: Cluster, trouble: float) -> None:
    """A cluster that has its list tells something, where it has something to tell."""
    if pause_of(run.state, run.view(cluster)) is None and run.state.window_open:
        run.starts(cluster)
    if rng.random() < 0.5:
        cluster.flying = rng.randint(0, cluster.flying)
    view = run.view(cluster)
    if cluster.asked and rng.random() < 0.5:
        take_up(rng, cluster)
    counts = cluster.said()
    still: dict[str, Any] = {"at_gate": cluster.at_gate, **counts}
    if pause_of(run.state, view) is not None:
        progressed(run, cluster.name, quiet=rng.random() < 0.5, **still)
    elif (run.state.paused is None and rng.random() < 0.1) or cluster.slots == 0:
        progressed(run, cluster.name, **still)
    elif cluster.granted and cluster.slots != 0 and run.state.window_open:
        if cluster.at_gate is not None and cluster.at_gate not in cluster.opened:
            return
        if cluster.gates and rng.random() < 0.5:
            arrives(run, cluster.name, cluster.gates.pop(0), **counts)
            return
        cluster.at_gate = None
        bad = rng.random() < trouble
        cluster.failed += bad
        if bad and rng.random() < 0.9:
            cluster.parked.add(f"{cluster.name}-{cluster.failed}-{rng.randint(0, 99)}")
        stopped = "too many" if bad and rng.random() < 0.15 else None
        if stopped is not None:
            cluster.parked.clear()
        counts = cluster.said()
        done = {name: counts[name] for name in ("acted", "failed", "unreachable")}
        if rng.random() < 0.3:  # it may be an old message, which says more than a newer one
            needs = rng.choice([cluster.needs, cluster.needs + 1, rng.randint(0, 9)])
            waits = len(cluster.parked) + len(cluster.asked)
            counts["needs"] = max(needs, waits + cluster.flying)
        busy = cluster.parked or cluster.asked
        if stopped is None and rng.random() < 0.4 and not cluster.gates and not busy:
            outcome = Outcome.PARTIAL if cluster.failed else Outcome.PATCHED
            run.tell(ended(cluster.name, outcome, **done))
        else:
            run.tell(ClusterProgressed(cluster=cluster.name, stopped=stopped, **counts))
            if stopped:
                run.tell(ended(cluster.name, Outcome.STOPPED, stopped, **done))


def take_up(rng: random.Random, cluster: Cluster) -> None:
    """A cluster does what it was asked for a parked host: that may help."""
    repair = cluster.asked.pop(0)
    cluster.repaired = repair.number
    cluster.parked.discard(repair.host)
    if repair.how in ("retry", "accept") and rng.random() < 0.5:
        cluster.failed -= 1
    elif repair.how != "skip" and rng.random() < 0.3:
        cluster.parked.add(repair.host)


def check(run: RolloutRun) -> None:
    """What holds for every rollout at its end."""
    assert run.over == 1, f"it ends (it is {shown_phase(run.state)})"
    if run.state.outcome is None:
        assert all(each.granted for each in run.clusters.values()), "every cluster had its turn"
    else:
        assert run.state.reason


def a_policy(rng: random.Random, clusters: tuple[str, ...]) -> RolloutPolicy:
    """A policy, by chance."""
    rings: list[list[str]] = []
    if rng.random() < 0.5:
        for name in clusters:
            if not rings or rng.random() < 0.5:
                rings.append([])
            rings[-1].append(name)
        rng.shuffle(rings)
    return RolloutPolicy(
        rings=rings,
        max_parallel_total=rng.choice([None, rng.randint(1, 9), f"{rng.randint(1, 100)}%"]),
        max_parallel_clusters=rng.choice([None, rng.randint(1, 4)]),
        total_failure_budget=rng.choice([None, FailureBudget(max_failures=rng.randint(0, 5))]),
        failure_budget=FailureBudget(max_failures=rng.choice([0, 5, 50])),
        stop_scope=rng.choice(["rollout", "cluster"]),
    )


@pytest.mark.volume
@pytest.mark.parametrize("block", range(6))
def test_any_order_of_events_ends(block: int) -> None:
    """Thousands of rollouts: grants keep their sums, nothing runs before its gates, each one ends."""
    for seed in range(block * SEEDS // 6, (block + 1) * SEEDS // 6):
        try:
            check(play(random.Random(seed)))
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@given(st.integers(min_value=SEEDS))
def test_any_order_of_events_ends_property(seed: int) -> None:
    """The same, as a property."""
    check(play(random.Random(seed)))


@pytest.mark.volume
def test_the_simulation_reaches_every_outcome() -> None:
    """The simulated rollouts end in every way that a rollout can decide by itself, and are steered."""
    runs = [play(random.Random(seed)) for seed in range(1_000)]
    assert {run.state.outcome for run in runs} == {
        None,
        Outcome.STOPPED,
        Outcome.REJECTED,
        Outcome.EXPIRED,
        Outcome.ABORTED,
    }
    asked = {gate.partition("/")[0] for run in runs for gate in run.open_gates}
    assert {"start", "promote", "wave-2", "wave-3", "ring-2"} <= asked
    assert any("/" in gate for run in runs for gate in run.open_gates)
    granted = [each for run in runs for each in run.commands if isinstance(each, GrantSlots)]
    assert sum(each.slots == 0 for each in granted) > 5, "slots are taken back"
    assert sum(each.repaired for run in runs for each in run.clusters.values()) > 100


# The plan


def refused(run: RolloutRun) -> str:
    """Why the plan was refused: every cluster has been told, and nothing was granted."""
    assert run.state.outcome is Outcome.STOPPED
    assert not any(isinstance(command, (GrantSlots, OpenGate)) for command in run.commands)
    open_clusters = [each for each in run.clusters.values() if not each.ended]
    assert all(each.told == [run.state.reason] for each in open_clusters)
    assert run.state.reason.startswith("the plan is refused: ")
    return run.state.reason.removeprefix("the plan is refused: ")


def test_a_complete_plan_runs() -> None:
    """Without a gate the last list starts the rollout, and not before."""
    run = new({"eu-1": 3, "us-1": 3})
    assert planned(run, "eu-1") == []
    assert planned(run, "us-1") == [GrantSlots("eu-1", None), GrantSlots("us-1", None)]


@pytest.mark.parametrize("spelling", ["web-1", "WEB-1", "Web-1", " web-1", "web-1\t"])
def test_a_host_in_two_clusters_is_refused(spelling: str) -> None:
    """However it is spelt: two clusters would patch it at once."""
    run = new({"eu-1": 1, "us-1": 1})
    planned(run, "eu-1", hosts=("web-1",))
    planned(run, "us-1", hosts=(spelling,))
    assert refused(run) == f"host {spelling!r} is in cluster 'eu-1' and in cluster 'us-1'"


def test_an_empty_cluster_is_refused_unless_allowed() -> None:
    """Nothing is never what was meant, unless it is said."""
    run = new({"eu-1": 0})
    planned(run, "eu-1")
    assert refused(run) == "cluster 'eu-1' has no hosts (allow_empty=True lets an empty one pass)"
    allowed = new({"eu-1": 0}, allow_empty=True)
    assert planned(allowed, "eu-1") == [GrantSlots("eu-1", None)]


@pytest.mark.parametrize(
    ("hosts", "limits", "said"),
    [
        (10, {"max_hosts": 10}, None),
        (11, {"max_hosts": 10}, "'max_hosts' is 10, but the clusters have 11 hosts"),
        (90, {"expect_hosts": 100}, None),
        (110, {"expect_hosts": 100}, None),
        (
            89,
            {"expect_hosts": 100},
            "'expect_hosts' is 100, but the clusters have 89 hosts: more than 10% off",
        ),
        (
            111,
            {"expect_hosts": 100},
            "'expect_hosts' is 100, but the clusters have 111 hosts: more than 10% off",
        ),
        (9, {"expect_hosts": 9}, None),
        (
            8,
            {"expect_hosts": 9},
            "'expect_hosts' is 9, but the clusters have 8 hosts: more than 10% off",
        ),
    ],
)
def test_the_number_of_hosts(hosts: int, limits: dict[str, Any], said: str | None) -> None:
    """More than max_hosts, or more than 10 % off expect_hosts, is refused."""
    run = new({"eu-1": hosts}, **limits)
    planned(run, "eu-1")
    if said is None:
        assert run.state.phase == "running"
    else:
        assert refused(run) == said


@pytest.mark.parametrize("field", ["only_hosts", "exclude_hosts"])
def test_an_unknown_host_name_is_refused(field: str) -> None:
    """A name that no cluster has is an error, with a hint; spelling does not matter."""
    limits: dict[str, Any] = {field: ("EU-1-0", "us-1-7")}
    run = new({"eu-1": 2, "us-1": 2}, **limits)
    planned(run, "eu-1", named=("eu-1-0",))
    planned(run, "us-1")
    assert refused(run).startswith(
        f"{field!r} names 'us-1-7', which no cluster has, did you mean 'us-1-"
    )
    limits = {field: ("EU-1-0",)}
    known = new({"eu-1": 2}, **limits)
    planned(known, "eu-1", named=("eu-1-0",))
    assert known.state.phase == "running"


@pytest.mark.parametrize(
    ("limits", "left_in"),
    [
        ({"only_hosts": ("web-1",)}, " that only_hosts leave in"),
        ({"exclude_hosts": ("web-1",)}, " that exclude_hosts leave in"),
        (
            {"only_hosts": ("web-1",), "exclude_hosts": ("web-1",)},
            " that only_hosts and exclude_hosts leave in",
        ),
    ],
)
def test_who_left_nothing_in_is_named(limits: dict[str, Any], left_in: str) -> None:
    """An empty cluster may be so only by the request's own lists."""
    run = new({"eu-1": 0}, **limits)
    planned(run, "eu-1", named=("web-1",))
    assert refused(run).startswith(f"cluster 'eu-1' has no hosts{left_in} (allow_empty=True")


@pytest.mark.parametrize(
    ("wanted", "found", "fits"),
    [("d1", "d1", True), ("d1", "d2", False), ("", "d2", True), ("d1", "", True), ("", "", True)],
)
def test_another_plan_than_the_one_that_was_meant(wanted: str, found: str, fits: bool) -> None:
    """It is refused if both are known and differ, and says what to do."""
    run = new({"eu-1": 1}, plan_digest=wanted)
    planned(run, "eu-1", digest=found)
    if fits:
        assert run.state.phase == "running"
    else:
        assert refused(run).startswith("it is not the plan of 'plan_digest' any more: its steps")


def test_the_first_unknown_names_come_with_a_hint() -> None:
    """Five of them: each looks through all names."""
    run = new({"eu-1": 1}, only_hosts=tuple(f"web-{n}" for n in range(7)))
    planned(run, "eu-1", hosts=("web",))
    said = refused(run).split("; ")
    assert ["did you mean 'web'?" in each for each in said] == [True] * 5 + [False] * 2


def test_all_problems_of_a_plan_at_once() -> None:
    """Every cluster's problem is told, not the first one only; a flood is cut."""
    run = new({"a": 0, "b": 1, "c": 1}, max_hosts=1, only_hosts=("nope",))
    planned(run, "a")
    run.tell(ClusterNotPlanned(cluster="b", problem="no inventory"))
    planned(run, "c")
    said = refused(run).split("; ")
    assert [text.split(" names")[0][:11] for text in said] == [
        "cluster 'a'",
        "cluster 'b'",
        "'only_hosts",
    ]
    flood = new({"a": 100, "b": 100})
    planned(flood, "a")
    planned(flood, "b", hosts=names("a", 100))
    assert refused(flood).endswith("; and 80 more")


@pytest.mark.parametrize(("twice", "more"), [(20, ""), (21, "; and 1 more")])
def test_so_many_problems_are_named(twice: int, more: str) -> None:
    """Twenty, and how many more there are."""
    run = new({"eu-1": twice, "us-1": twice})
    planned(run, "eu-1", hosts=names("web", twice))
    planned(run, "us-1", hosts=names("web", twice))
    said = refused(run)
    assert said.count("is in cluster 'eu-1' and in cluster 'us-1'") == 20
    assert said.endswith(f"'us-1'{more}")


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("before", [0, 1])
def test_a_plan_that_can_never_start_is_refused(dry_run: bool, before: int) -> None:
    """Windows that never open are a problem like the others, a dry run or not, whenever it is known."""
    run = new({"a": 1, "b": 9}, gate=True, dry_run=dry_run, max_hosts=5)
    never = WindowsClosed("closed for good", for_good=True)
    for cluster in ("a", "b")[:before]:
        planned(run, cluster)
    run.tell(never)
    for cluster in ("a", "b")[before:]:
        planned(run, cluster)
    assert refused(run) == "closed for good; 'max_hosts' is 5, but the clusters have 10 hosts"


def test_hints_of_a_large_fleet_take_no_time() -> None:
    """A thousand unknown names among 50,000: a workflow task may take two seconds, with all that it does."""
    unknown = tuple(f"web-00l{n:03}.eu.example.com" for n in range(1_000))
    run = new({"eu-1": 50_000}, only_hosts=unknown)
    hosts = tuple(f"web-{n:06}.eu.example.com" for n in range(50_000))
    began = time.process_time()
    planned(run, "eu-1", hosts=hosts)
    assert time.process_time() - began < 1
    said = refused(run)
    assert "did you mean 'web-0" in said
    assert said.endswith("; and 980 more")


@pytest.mark.parametrize("meant", ["xeb-023456", "web-0234x6", "web-02345", "web-023456x"])
def test_hints_of_a_large_fleet_are_good(meant: str) -> None:
    """One letter is wrong, missing or too many: a host that is hardly another is found among 50,000."""
    known = [f"web-{n:06}.example.com" for n in range(50_000)]
    name = f"{meant}.example.com"
    guess = did_you_mean(name, known).split("'")[1]
    assert SequenceMatcher(None, name, guess).ratio() > 0.95
    assert did_you_mean("x" * 100_000, known) == ""


@pytest.mark.parametrize(("out", "fits"), [(500, True), (501, False)])
def test_every_host_that_may_be_out_of_service_can_be_named(out: int, fits: bool) -> None:
    """100,000 hosts with long names are no problem, as long as few are out of service together."""
    policy = RolloutPolicy(max_parallel=10, max_out_of_service=out)
    clusters = {f"c{n}": 25_000 for n in range(4)}
    run = new(clusters, policy)
    for cluster in clusters:
        planned(run, cluster, hosts=tuple(f"{cluster}-{n:0>247}" for n in range(25_000)))
    if fits:
        assert run.state.phase == "running"
        wider = LimitsRequested(policy=attrs.evolve(policy, max_out_of_service="100%"))
        assert "a report names at most 500,000" in (why_refused(run.state, wider) or "")
    else:
        assert "'max_out_of_service' lets hosts be out of service whose names" in refused(run)


@pytest.mark.parametrize("first", ["planned", "listing"])
def test_a_cluster_that_ends_while_others_list_spoils_the_plan(first: str) -> None:
    """Its hosts are not there: a gate would ask for the approval of another plan."""
    run = new({"eu-1": 2, "us-1": 2}, gate=True)
    if first == "planned":
        planned(run, "eu-1")
    run.tell(ended("eu-1", Outcome.STOPPED, "terminated"))
    planned(run, "us-1")
    assert refused(run) == "cluster 'eu-1': terminated"


# The gate


def test_nothing_starts_before_the_gate() -> None:
    """The gate opens when every list is there; its approval grants."""
    run = new({"eu-1": 2, "us-1": 2}, gate=True)
    assert run.tell(GatePassed()) == [], "an approval of nothing is none"
    planned(run, "eu-1")
    assert run.tell(GatePassed()) == []
    assert planned(run, "us-1") == [OpenGate()]
    assert run.tell(GatePassed()) == [GrantSlots("eu-1", None), GrantSlots("us-1", None)]


@pytest.mark.parametrize("outcome", [Outcome.REJECTED, Outcome.EXPIRED])
def test_a_gate_that_is_shut_ends_the_rollout(outcome: Outcome) -> None:
    """The clusters are told to stop; an abort in the meantime does not change what people decided."""
    run = new({"eu-1": 2}, gate=True)
    planned(run, "eu-1")
    assert run.tell(GateShut(outcome=outcome, reason="no")) == [StopCluster("eu-1", "no")]
    assert run.tell(AbortRequested(reason="enough")) == []
    assert run.tell(ended("eu-1", Outcome.STOPPED, "no")) == [EndRollout()]
    assert (run.state.outcome, run.state.reason) == (outcome, "no")


def test_a_cluster_that_dies_at_the_gate_ends_the_rollout() -> None:
    """What would be approved is not there any more."""
    run = new({"eu-1": 2, "us-1": 2}, gate=True)
    planned(run, "eu-1")
    planned(run, "us-1")
    commands = run.tell(ended("eu-1", Outcome.STOPPED, "terminated"))
    assert commands == [StopCluster("us-1", run.state.reason)]
    assert run.state.reason == "cluster 'eu-1' ended before it was started: terminated"


# Grants


def test_a_total_is_shared_and_grows_when_clusters_end() -> None:
    """Three clusters share four slots; what one leaves goes to the narrowest, nothing is taken back."""
    run = running({"a": 9, "b": 9, "c": 9}, RolloutPolicy(max_parallel_total=4))
    assert run.commands == [GrantSlots("a", 2), GrantSlots("b", 1), GrantSlots("c", 1)]
    assert run.tell(ended("b")) == [GrantSlots("c", 2)]
    assert run.tell(ended("a")) == [GrantSlots("c", 4)]


def test_every_cluster_gets_its_turn() -> None:
    """With one slot for all, one after the other."""
    run = running({"a": 9, "b": 9, "c": 9}, RolloutPolicy(max_parallel_total=1))
    assert run.commands == [GrantSlots("a", 1)]
    assert run.tell(ended("a")) == [GrantSlots("b", 1)]
    assert run.tell(ended("b")) == [GrantSlots("c", 1)]
    assert run.tell(ended("c")) == [EndRollout()]


def test_clusters_at_once() -> None:
    """max_parallel_clusters lets the next cluster start when one has ended."""
    run = running({"a": 9, "b": 9, "c": 9}, RolloutPolicy(max_parallel_clusters=2))
    assert run.commands == [GrantSlots("a", None), GrantSlots("b", None)]
    assert run.tell(ended("a")) == [GrantSlots("c", None)]


def test_no_cluster_gets_more_than_it_can_use() -> None:
    """Slots go where they can be used: a cluster that runs one host at a time gets one."""
    run = new({"a": 9, "b": 9}, RolloutPolicy(max_parallel_total=6))
    planned(run, "a", max_parallel=1)
    assert planned(run, "b", max_parallel=9) == [GrantSlots("a", 1), GrantSlots("b", 5)]


def test_slots_that_a_cluster_cannot_use_go_to_others() -> None:
    """At its end it has fewer hosts than slots: the others get them at once, and it need not be told."""
    policy = RolloutPolicy(max_parallel_total=6, max_parallel_clusters=2, max_parallel=5)
    run = running({"a": 9, "b": 9, "c": 9}, policy)
    assert run.commands == [GrantSlots("a", 3), GrantSlots("b", 3)]
    assert progressed(run, "a", needs=3) == []
    assert progressed(run, "a", needs=2) == [GrantSlots("b", 4)]
    assert progressed(run, "a", needs=1) == [GrantSlots("b", 5)]
    assert progressed(run, "a", needs=3) == [], "an old message takes nothing back"
    assert progressed(run, "b", needs=4) == []
    assert run.tell(ended("a")) == [GrantSlots("c", 2)]


def test_a_small_cluster_gets_no_more_than_its_hosts() -> None:
    """As many at once as a cluster may have is more than it has."""
    run = running({"a": 2, "b": 9}, RolloutPolicy(max_parallel_total=7, max_parallel=5))
    assert run.commands == [GrantSlots("a", 2), GrantSlots("b", 5)]


def test_what_a_stopping_cluster_cannot_use_goes_to_others() -> None:
    """It starts nothing: it needs slots for its hosts in flight, down to none."""
    policy = RolloutPolicy(max_parallel_total=6, max_parallel=5, stop_scope="cluster")
    run = running({"a": 9, "b": 9}, policy)
    assert progressed(run, "a", failed=1, stopped="1 host failed", needs=2) == [GrantSlots("b", 4)]
    assert progressed(run, "a", failed=1, stopped="1 host failed", needs=0) == [GrantSlots("b", 5)]


def test_a_strict_budget_holds_while_slots_move() -> None:
    """What one cluster can still lose and what the others can is never more than the budget."""
    budget = FailureBudget(max_failures=3, strict=True)
    run = running({"a": 2, "b": 9}, RolloutPolicy(total_failure_budget=budget, max_parallel=9))
    run.lowered = True  # a failure uses up a slot
    assert [view.risk for view in run.state.clusters] == [2, 2]
    progressed(run, "a", acted=1, needs=1)
    assert [view.risk for view in run.state.clusters] == [1, 3]
    progressed(run, "a", acted=2, failed=1, needs=0)
    assert [view.risk for view in run.state.clusters] == [1, 3]
    progressed(run, "b", acted=2, failed=2, needs=7)
    assert [view.slots for view in run.state.clusters] == [0, 1]


# Stops


def test_a_cluster_that_stops_takes_the_others_along() -> None:
    """The default: they start nothing new, and the first reason is the rollout's."""
    run = running({"eu-1": 9, "us-1": 9})
    commands = run.tell(
        ClusterProgressed(cluster="eu-1", acted=1, failed=1, unreachable=0, stopped="1 host failed")
    )
    assert StopCluster("us-1", "cluster 'eu-1': 1 host failed") in commands
    run.tell(ended("us-1", Outcome.STOPPED, "cluster 'eu-1': 1 host failed"))
    run.tell(ended("eu-1", Outcome.STOPPED, "1 host failed"))
    assert (run.state.outcome, run.state.reason) == (
        Outcome.STOPPED,
        "cluster 'eu-1': 1 host failed",
    )


@pytest.mark.parametrize("outcome", [Outcome.STOPPED, Outcome.ABORTED])
def test_a_cluster_that_ends_as_stopped_takes_the_others_along(outcome: Outcome) -> None:
    """Also if its end is the first that is heard of it, and if it gives no reason."""
    run = running({"eu-1": 9, "us-1": 9})
    reason = f"cluster 'eu-1': {outcome.value}"
    assert run.tell(ended("eu-1", outcome)) == [StopCluster("us-1", reason)]


def test_a_cluster_may_stop_alone() -> None:
    """With stop_scope="cluster" the others go on, and the rollout ends as STOPPED all the same."""
    run = running(
        {"a": 9, "b": 9, "c": 9}, RolloutPolicy(stop_scope="cluster", max_parallel_clusters=2)
    )
    assert run.tell(ended("a", Outcome.STOPPED, "1 host failed")) == [GrantSlots("c", None)]
    run.tell(ended("b"))
    assert run.tell(ended("c")) == [EndRollout()]
    assert (run.state.outcome, run.state.reason) == (Outcome.STOPPED, "cluster 'a': 1 host failed")


def test_failures_add_up_over_all_clusters() -> None:
    """total_failure_budget counts everywhere, in clusters that have ended, too, and stops all."""
    policy = RolloutPolicy(
        total_failure_budget=FailureBudget(max_failures="10%"), stop_scope="cluster"
    )
    run = running({"a": 10, "b": 10, "c": 10}, policy)
    run.tell(ended("a", Outcome.PARTIAL, acted=10, failed=2, unreachable=0))
    assert run.state.outcome is None
    run.tell(ClusterProgressed(cluster="b", acted=5, failed=1, unreachable=0))
    assert run.state.outcome is None
    commands = run.tell(ClusterProgressed(cluster="b", acted=6, failed=1, unreachable=1))
    reason = "over all clusters: 4 hosts failed, 3 allowed"
    assert commands == [StopCluster("b", reason), StopCluster("c", reason)]


def test_a_lower_total_budget_stops_at_once() -> None:
    """It has been exceeded already. Before anything runs it is only noted."""
    tolerant = FailureBudget(max_failures=9)
    policy = RolloutPolicy(failure_budget=tolerant, total_failure_budget=tolerant)
    lower = LimitsRequested(
        policy=attrs.evolve(policy, total_failure_budget=FailureBudget(max_failures=1))
    )
    run = running({"eu-1": 9, "us-1": 9}, policy)
    progressed(run, "eu-1", acted=1, failed=1)
    progressed(run, "us-1", acted=1, failed=1)
    reason = "over all clusters: 2 hosts failed, 1 allowed"
    assert run.tell(lower) == [StopCluster(name, reason) for name in ("eu-1", "us-1")]
    assert (run.state.phase, run.state.outcome) == ("stopping", Outcome.STOPPED)


def test_only_an_end_without_a_report_keeps_the_larger_counts() -> None:
    """A newer message replaces an older one, since a repair makes failures fall; nobody's silence does."""
    policy = RolloutPolicy(total_failure_budget=FailureBudget(max_failures=3), stop_scope="cluster")
    run = running({"a": 10, "b": 10}, policy)
    run.tell(ClusterProgressed(cluster="a", acted=5, failed=2, unreachable=1))
    told = ended("a", Outcome.STOPPED, "it ended without a report")
    lost = attrs.evolve(told, reported=False)
    assert failures_of(decide(run.state, told)[0].clusters[0]) == 0
    run.tell(lost)
    assert run.tell(ClusterProgressed(cluster="b", acted=1, failed=1, unreachable=0)) == [
        StopCluster("b", "over all clusters: 4 hosts failed, 3 allowed")
    ]


@pytest.mark.parametrize("phase", ["listing", "gate", "running", "stopping"])
def test_an_abort_is_legal_in_every_phase(phase: str) -> None:
    """Every cluster that has not ended is cancelled, once, and the rollout is ABORTED."""
    run = new({"a": 2, "b": 2}, gate=True)
    if phase != "listing":
        planned(run, "a")
        planned(run, "b")
    if phase in ("running", "stopping"):
        run.tell(GatePassed())
    if phase == "stopping":
        run.tell(ended("a", Outcome.STOPPED, "1 host failed"))
    commands = run.tell(AbortRequested(reason="aborted: enough"))
    left = ["b"] if phase == "stopping" else ["a", "b"]
    assert commands == [CancelCluster(name, "aborted: enough") for name in left]
    assert run.tell(AbortRequested(reason="again")) == []
    for name in left:
        run.tell(ended(name, Outcome.ABORTED, "aborted: enough"))
    before = "; before that: cluster 'a': 1 host failed" if phase == "stopping" else ""
    assert (run.state.phase, run.state.outcome, run.state.reason) == (
        "ended",
        Outcome.ABORTED,
        f"aborted: enough{before}",
    )


def test_a_list_that_comes_after_the_abort_starts_nothing() -> None:
    """It was on its way already: neither the gate opens nor is anything granted."""
    for gate in (True, False):
        run = new({"a": 2, "b": 2}, gate=gate)
        planned(run, "a")
        run.tell(AbortRequested(reason="enough"))
        assert planned(run, "b") == []
        assert run.state.outcome is Outcome.ABORTED


def test_the_first_of_several_reasons_stays() -> None:
    """Clusters that stop one after the other, each alone: the rollout names the first."""
    run = running({"a": 9, "b": 9}, RolloutPolicy(stop_scope="cluster"))
    run.tell(ended("a", Outcome.STOPPED, "1 host failed"))
    run.tell(ended("b", Outcome.STOPPED, "2 hosts failed"))
    assert run.state.reason == "cluster 'a': 1 host failed"


# Gates before waves and rings


def test_a_gate_of_all_asks_when_nobody_is_on_the_way_to_it() -> None:
    """Who stands at an earlier gate is on the way, too; who has passed it or has ended is not."""
    gates = ("promote/us-1", "wave-2")
    run = running({"eu-1": 9, "us-1": 9}, more_gates=gates)
    assert arrives(run, "eu-1", 2) == []
    assert arrives(run, "us-1", 1) == [OpenGate("promote/us-1")]
    assert run.tell(GatePassed("promote/us-1")) == [OpenWaves("us-1", frozenset({1}))]
    assert progressed(run, "us-1") == []
    assert arrives(run, "us-1", 2) == [OpenGate("wave-2")]
    assert set(run.tell(GatePassed("wave-2"))) == {
        OpenWaves("eu-1", frozenset({2})),
        OpenWaves("us-1", frozenset({1, 2})),
    }


def test_a_gate_of_all_does_not_wait_for_a_cluster_that_stops() -> None:
    """It will not come any more."""
    run = running(
        {"eu-1": 9, "us-1": 9},
        RolloutPolicy(stop_scope="cluster"),
        more_gates=("wave-2", "promote/us-1"),
    )
    assert arrives(run, "us-1", 1) == [OpenGate("promote/us-1")]
    assert arrives(run, "eu-1", 2) == []
    shut = GateShut(gate="promote/us-1", outcome=Outcome.REJECTED, reason="not now")
    assert run.tell(shut) == [StopCluster("us-1", "not now")]
    assert arrives(run, "eu-1", 2) == [OpenGate("wave-2")]


def test_a_gate_of_one_cluster_asks_at_once_and_stops_it_alone() -> None:
    """Rejected under stop_scope="cluster" the others go on, and the first reason stays."""
    policy = RolloutPolicy(stop_scope="cluster")
    run = running({"a": 9, "b": 9, "c": 9}, policy, more_gates=("promote/a", "promote/b"))
    assert arrives(run, "a", 1) == [OpenGate("promote/a")]
    no = GateShut(gate="promote/a", outcome=Outcome.REJECTED, reason="not a")
    assert run.tell(no) == [StopCluster("a", "not a")]
    arrives(run, "b", 1)
    run.tell(GateShut(gate="promote/b", outcome=Outcome.EXPIRED, reason="too late"))
    assert (run.state.outcome, run.state.reason) == (Outcome.REJECTED, "not a")
    for cluster, outcome in (("a", Outcome.STOPPED), ("b", Outcome.STOPPED)):
        run.tell(ended(cluster, outcome, run.clusters[cluster].told[0]))
    assert run.tell(ended("c")) == [EndRollout()]


def test_a_vote_on_a_cluster_that_has_ended_tells_it_nothing() -> None:
    """Its workflow may have been terminated while people voted."""
    policy = RolloutPolicy(stop_scope="cluster")
    run = running({"a": 9, "b": 9}, policy, more_gates=("promote/a",))
    arrives(run, "a", 1)
    assert run.tell(ended("a", Outcome.STOPPED, "terminated")) == [CloseGate("promote/a")]
    no = GateShut(gate="promote/a", outcome=Outcome.REJECTED, reason="no")
    assert run.tell(no) == []
    assert run.state.reason == "cluster 'a': terminated"


def test_the_gate_of_a_cluster_that_has_ended_stops_nobody() -> None:
    """All that was behind it was skipped: nobody votes any more, and its time-out is nobody's."""
    run = running({"a": 9, "b": 9}, more_gates=("promote/a",))
    assert arrives(run, "a", 1) == [OpenGate("promote/a")]
    assert run.tell(ended("a", Outcome.PARTIAL)) == [CloseGate("promote/a")]
    assert run.tell(GateShut(gate="promote/a", outcome=Outcome.EXPIRED, reason="too late")) == []
    assert (run.state.phase, run.state.outcome) == ("running", None)


def test_rings_come_one_after_the_other_behind_their_gates() -> None:
    """The gate of a ring asks when the ring before it has ended."""
    policy = RolloutPolicy(rings=[["b", "c"], ["a"]])
    run = running({"a": 9, "b": 9, "c": 9}, policy, more_gates=("ring-2",))
    assert run.commands == [GrantSlots("b", None), GrantSlots("c", None)]
    assert run.tell(ended("b")) == []
    assert run.tell(ended("c")) == [OpenGate("ring-2")]
    assert run.tell(GatePassed("ring-2")) == [GrantSlots("a", None)]


def test_a_ring_of_which_nobody_is_left_is_not_asked_for() -> None:
    """Its clusters died while the first ring ran: a vote would be about nothing."""
    policy = RolloutPolicy(rings=[["a"], ["b"]], stop_scope="cluster")
    run = running({"a": 9, "b": 9}, policy, more_gates=("ring-2",))
    run.tell(ended("b", Outcome.STOPPED, "terminated"))
    assert run.tell(ended("a")) == [EndRollout()]


# Limits


def limits(run: RolloutRun, **changes: Any) -> list[Followed]:
    """Somebody changes limits."""
    return run.tell(LimitsRequested(policy=attrs.evolve(run.state.policy, **changes)))


def test_a_lower_total_takes_slots_back() -> None:
    """Nobody gets one with which too many could be in flight, for all that the clusters have said."""
    run = running({"a": 9, "b": 9, "c": 9}, RolloutPolicy(max_parallel_total=5, max_parallel=9))
    assert run.commands == [GrantSlots("a", 2), GrantSlots("b", 2), GrantSlots("c", 1)]
    assert {*limits(run, max_parallel_total=3)} == {GrantSlots(each, 0) for each in "abc"}
    assert progressed(run, "c", in_flight=0) == [GrantSlots("a", 1), GrantSlots("b", 1)]
    assert progressed(run, "b", in_flight=2) == []
    assert progressed(run, "a", in_flight=1) == []
    assert progressed(run, "b", in_flight=1) == [GrantSlots("c", 1)]


def test_a_lower_total_leaves_one_to_nobody_while_too_many_fly() -> None:
    """Two fly, one may: until one of them has ended no start may keep it up."""
    run = running({"a": 9, "b": 9}, RolloutPolicy(max_parallel_total=2, max_parallel=9))
    limits(run, max_parallel_total=1)
    progressed(run, "a", in_flight=1)
    assert progressed(run, "b", in_flight=1) == []
    assert progressed(run, "b", in_flight=0) == [GrantSlots("a", 1)]
    assert run.tell(ended("a")) == [GrantSlots("b", 1)]


def test_a_first_total_counts_what_is_in_flight_without_one() -> None:
    """A cluster without a grant of its own holds what its plan says, until it answers."""
    run = running({"a": 9, "b": 9}, RolloutPolicy(max_parallel=4))
    assert run.commands == [GrantSlots("a", None), GrantSlots("b", None)]
    assert {*limits(run, max_parallel_total=4)} == {GrantSlots("a", 0), GrantSlots("b", 0)}
    progressed(run, "a", in_flight=4)
    assert progressed(run, "b", in_flight=0) == [GrantSlots("a", 2)]
    assert progressed(run, "a", in_flight=2) == [GrantSlots("b", 2)]


def test_a_cluster_without_slots_holds_up_no_gate() -> None:
    """It would wait for slots that the cluster at the gate has, and that one for it."""
    run = running({"a": 9, "b": 9}, RolloutPolicy(max_parallel_total=2), more_gates=("promote",))
    limits(run, max_parallel_total=1)
    for name in run.clusters:
        progressed(run, name, in_flight=0)
    (one,) = (each.name for each in run.clusters.values() if each.slots)
    assert arrives(run, one, 1) == [OpenGate("promote")]


def test_fewer_clusters_at_once_end_what_has_begun() -> None:
    """They keep their slots, which count in the total; none begins in their place."""
    policy = RolloutPolicy(max_parallel_total=6, max_parallel_clusters=3, max_parallel=9)
    run = new({"a": 9, "b": 9, "c": 9, "d": 9}, policy)
    for cluster in run.clusters:
        planned(run, cluster, max_parallel=9)
    limits(run, max_parallel_clusters=1)
    assert [each.slots for each in run.clusters.values()] == [2, 2, 2, 0]
    run.tell(ended("a"))
    assert not run.clusters["d"].granted


def test_a_wider_cluster_gets_more_of_the_total() -> None:
    """A share is bounded by what the cluster can use now, not by what it could when it was planned."""
    run = new({"a": 9}, RolloutPolicy(max_parallel_total=6))
    planned(run, "a", max_parallel=1)
    assert run.commands == [GrantSlots("a", 1)]
    assert limits(run, max_parallel=4) == [GrantSlots("a", 4)]


# Pause


def test_it_is_paused_only_if_everybody_said_so_after_it_was_told() -> None:
    """What a cluster said before the pause, or before the next one, does not count."""
    run = running({"a": 9, "b": 9})
    progressed(run, "a", quiet=True)
    run.tell(PauseRequested(after="host"))
    assert shown_phase(run.state) == "pausing"
    progressed(run, "a", quiet=True)
    assert shown_phase(run.state) == "pausing"
    progressed(run, "b", quiet=True)
    assert shown_phase(run.state) == "paused"
    run.tell(PauseRequested(after="step"))
    assert shown_phase(run.state) == "pausing"
    progressed(run, "a", quiet=True)
    run.tell(ended("b"))
    assert shown_phase(run.state) == "paused"
    run.tell(ResumeRequested())
    assert shown_phase(run.state) == "running"


def test_a_resume_of_all_resumes_every_cluster() -> None:
    """Also one that was paused alone; the stricter of two pauses holds until then."""
    run = running({"a": 9, "b": 9})
    run.tell(PauseRequested(after="step", cluster="a"))
    run.tell(PauseRequested(after="host"))
    assert [pause_of(run.state, view) for view in run.state.clusters] == ["step", "host"]
    run.tell(ResumeRequested())
    assert [pause_of(run.state, view) for view in run.state.clusters] == [None, None]


# Parked hosts


def failed_and_parked(run: RolloutRun, cluster: str, **news: Any) -> list[Followed]:
    """The first host of a cluster has failed and waits for a person."""
    host = f"{cluster}-0"
    run.clusters[cluster].parked = {host}
    told = {"acted": 1, "failed": 1, "parked": {host: "reboot"}, **news}
    return progressed(run, cluster, **told)


def view_of(run: RolloutRun, cluster: str) -> ClusterView:
    """What the rollout knows of a cluster."""
    return next(view for view in run.state.clusters if view.name == cluster)


def test_what_is_asked_is_told_until_the_cluster_has_taken_it_up() -> None:
    """With every order, under its number; the host waits for nobody from the moment it is accepted."""
    run = running({"a": 9})
    failed_and_parked(run, "a")
    run.tell(RepairRequested(cluster="a", host="A-0", how="retry", step="stop_services"))
    repair = PendingRepair(number=1, host="a-0", how="retry", step="stop_services")
    for _ in range(2):
        assert (view_of(run, "a").parked, view_of(run, "a").repairs) == ({}, (repair,))
        failed_and_parked(run, "a")  # sent before it had heard of it
    progressed(run, "a", repaired=1)
    assert (view_of(run, "a").parked, view_of(run, "a").repairs) == ({}, ())
    failed_and_parked(run, "a", repaired=1)
    run.tell(RepairRequested(cluster="a", host="a-0", how="accept"))
    assert [each.number for each in view_of(run, "a").repairs] == [2]


def test_a_repaired_host_gives_its_unit_of_the_total_back() -> None:
    """Failures fall while it is in flight again; what is failed afterwards counts."""
    policy = RolloutPolicy(total_failure_budget=FailureBudget(max_failures=1), stop_scope="cluster")
    run = running({"a": 9, "b": 9}, policy)
    failed_and_parked(run, "a")
    progressed(run, "a", repaired=1)
    progressed(run, "b", acted=1, failed=1)
    assert run.state.outcome is None
    progressed(run, "a", acted=1, failed=1, repaired=1)
    assert run.state.reason == "over all clusters: 2 hosts failed, 1 allowed"


def test_a_repair_has_its_share_of_a_strict_budget() -> None:
    """Its unit becomes a slot again, also while it waits, and nobody else gets it before the cluster ends."""
    strict = FailureBudget(max_failures=1, strict=True)
    run = running({"a": 9, "b": 9}, RolloutPolicy(total_failure_budget=strict))
    assert run.commands == [GrantSlots("a", 1), GrantSlots("b", 1)]
    run.lowered = True  # under a strict budget a failure uses up a slot
    assert failed_and_parked(run, "a") == [GrantSlots("a", 0)]
    retry = RepairRequested(cluster="a", host="a-0", how="retry")
    assert run.tell(retry) == [GrantSlots("a", 1)]
    assert progressed(run, "a", acted=1, failed=1, repaired=1, repairs_waiting=1) == []
    assert progressed(run, "a", repaired=1) == []
    assert [(view.slots, view.risk) for view in run.state.clusters] == [(1, 1), (1, 1)]
    assert progressed(run, "a", acted=1, failed=1, repaired=1) == [GrantSlots("a", 0)]
    assert progressed(run, "a", acted=1, repaired=2) == [GrantSlots("a", 1)]
    assert run.tell(ended("a", acted=1)) == [GrantSlots("b", 2)]


def test_the_unit_of_a_repaired_host_comes_back_when_the_cluster_has_said_so() -> None:
    """Until then it may fail there again before the cluster hears that it has less at risk."""
    strict = FailureBudget(max_failures=2, strict=True)
    run = running({"a": 9, "b": 9}, RolloutPolicy(total_failure_budget=strict, max_parallel=2))
    run.lowered = True  # under a strict budget a failure uses up a slot
    assert run.commands == [GrantSlots("a", 2), GrantSlots("b", 1)]
    assert failed_and_parked(run, "a", in_flight=1) == [GrantSlots("a", 1)]
    run.tell(RepairRequested(cluster="a", host="a-0", how="retry"))
    assert [view.slots for view in run.state.clusters] == [2, 1]
    progressed(run, "a", repaired=1, needs=1)
    assert [(view.slots, view.risk) for view in run.state.clusters] == [(1, 1), (2, 2)]


def test_a_restore_while_it_is_paused_moves() -> None:
    """So it is pausing until the cluster has said that it stands still again; a retry waits and does not."""
    run = running({"a": 9})
    run.tell(PauseRequested(after="host"))
    failed_and_parked(run, "a", quiet=True)
    run.tell(RepairRequested(cluster="a", host="a-0", how="retry"))
    assert shown_phase(run.state) == "paused"
    failed_and_parked(run, "a", quiet=True, repaired=1)
    run.tell(RepairRequested(cluster="a", host="a-0", how="restore"))
    assert shown_phase(run.state) == "pausing"
    progressed(run, "a", quiet=True, acted=1, failed=1, repaired=2)
    assert shown_phase(run.state) == "paused"


def test_an_abort_opens_no_window() -> None:
    """What it tells its clusters may be heard before the cancel: nothing starts in between."""
    run = running({"a": 9})
    assert hosts_may_start(run.state)
    run.tell(AbortRequested(reason="enough", now=True))
    assert not hosts_may_start(run.state)
