"""The rollout and its clusters together: messages are late and overtake each other, people steer, and it ends."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import get_args

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_patching.policy import FailureBudget, HostState, Outcome, RolloutPolicy, Soak
from temporal_patching.policy import _cluster as cluster_machine
from temporal_patching.policy import _rollout as machine
from temporal_patching.policy import _rollout_state as data
from temporal_patching.policy._gates import gated_waves
from temporal_patching.policy._repair import Repair
from temporal_patching.policy._rollout_policy import cluster_plan
from temporal_patching.policy._verbs import Asked, why_refused

SEEDS = 3_000
REPAIRS: tuple[Repair, ...] = get_args(Repair)
GATES = ("start", "promote", "wave-2", "wave-2/c0", "wave-3", "ring-2")


@attrs.define
class Child:
    """A cluster's run, as its workflow makes it: late orders in, late messages out."""

    name: str
    hosts: int
    state: cluster_machine.ClusterState
    listed: bool = False
    told_end: bool = False
    untold: bool = False
    orders: list[data.ClusterView] = attrs.field(factory=list[data.ClusterView])
    """What it has not heard yet. Only the newest counts."""
    pauses: list[cluster_machine.PauseAfter | None] = attrs.field(factory=list)
    ordered: int = 0
    """The number of the newest orders that were sent to it."""
    obeyed: int = 0
    sent: list[tuple[int, int, data.ClusterProgressed]] = attrs.field(factory=list)
    """Messages on their way up: the number of each, and of the orders that it had heard by then."""
    messages: int = 0
    heard: int = 0
    """The number of the newest message that the rollout has."""
    parked: set[int] = attrs.field(factory=set[int])
    repairing: dict[int, Repair] = attrs.field(factory=dict[int, Repair])
    cancel: str | None = None
    flying: dict[int, int] = attrs.field(factory=dict[int, int])
    """Hosts in flight, and how many steps they have before their update."""
    still: set[int] = attrs.field(factory=set[int])
    halting: bool = False
    cancelled: bool = False
    soaking: bool = False
    ends: dict[int, HostState] = attrs.field(factory=dict[int, HostState])


@attrs.define
class Together:
    """A rollout, its clusters, and everything that is on its way between them."""

    rng: random.Random
    state: data.RolloutState
    children: dict[str, Child]
    trouble: float
    parks: bool
    repairs: Counter[Repair] = attrs.field(factory=Counter[Repair])
    asked: int = 0
    begun: int = 0
    """Repairs that people asked for, and that have begun."""
    quietly: bool = False
    """People do no more than to pause, to resume, and to answer for parked hosts."""
    votes: list[str] = attrs.field(factory=list[str])
    passed: set[str] = attrs.field(factory=set[str])
    lowered: bool = False
    renewed: bool = False
    """An approval was too old when the windows opened."""

    # The rollout

    def tell(self, event: data.RolloutEvent) -> None:
        """Something happens to the rollout."""
        self.asked += isinstance(event, data.RepairRequested)
        self.state, commands = machine.decide(self.state, event)
        for command in commands:
            if isinstance(command, data.OpenGate):
                self.votes.append(command.gate)
                self.renewed = self.renewed or command.gate in self.passed
                self.passed.discard(command.gate)
            elif isinstance(command, data.CloseGate):
                self.votes = [gate for gate in self.votes if gate != command.gate]
            elif isinstance(command, data.TellCluster):
                child = self.children[command.cluster]
                (view,) = (each for each in self.state.clusters if each.name == child.name)
                child.orders.append(view)
                child.ordered += 1
                child.pauses.append(machine.pause_of(self.state, view))
            elif isinstance(command, data.CancelCluster):
                self.children[command.cluster].cancel = command.reason

    def check_paused(self) -> None:
        """PAUSED means it: nothing moves, and what is in flight stands still before its update."""
        if machine.shown_phase(self.state) == "paused":
            for child in self.children.values():
                assert {*child.flying} == child.still, "paused, but something moves"
                assert all(child.flying[host] > 0 for host in child.still)

    # A cluster

    def happens(self, child: Child, event: cluster_machine.ClusterEvent) -> None:
        """Something happens to a cluster."""
        before = cluster_machine.needs(child.state)
        child.state, commands = cluster_machine.decide(child.state, event)
        assert cluster_machine.needs(child.state) <= before, "what was given back is gone"
        child.untold = True
        for command in commands:
            if isinstance(command, cluster_machine.StartHost):
                self.check_start(child, command.host)
                child.flying[command.host] = self.rng.randint(0, 2)
            elif isinstance(command, cluster_machine.RepairHost):
                self.repair(child, command)
            elif isinstance(command, cluster_machine.CancelHosts):
                child.cancelled = True
            elif isinstance(command, cluster_machine.HaltHosts):
                child.halting = command.halt
            elif isinstance(command, cluster_machine.BeginSoak):
                child.soaking = True
        if not child.halting and child.still:  # it hears of it and goes on
            for host in sorted(child.still):
                child.still.discard(host)
                self.happens(child, cluster_machine.HostHalted(host=host, halted=False))

    def repair(self, child: Child, command: cluster_machine.RepairHost) -> None:
        """A cluster goes on with a parked host."""
        host = command.host
        child.parked.remove(host)
        self.repairs[command.how] += 1
        if child.state.stopped is None:
            self.begun += 1
            assert self.begun <= self.asked, "each answer counts once"
        if command.how != "restore":
            assert machine.shown_phase(self.state) != "paused"
            self.check_width()
        child.repairing[host] = command.how
        child.flying[host] = 0 if command.how == "restore" else self.rng.randint(0, 2)

    def check_width(self) -> None:
        """One more may be in flight. What is given back needs no room."""
        total = self.state.policy.max_parallel_total
        if isinstance(total, int) and not self.lowered:
            flying = (
                child.repairing.get(host) != "restore"
                for child in self.children.values()
                for host in child.flying
            )
            assert sum(flying) < total

    def check_start(self, child: Child, host: int) -> None:
        """No host starts before the gates of its cluster, its ring and its wave."""
        assert host not in child.ends
        assert machine.shown_phase(self.state) != "paused"
        # It may not have heard yet that the windows have closed since.
        unheard = self.renewed and bool(child.orders)
        needed = set[str]() if unheard else {"start"}
        for number, ring in enumerate(self.state.policy.rings, start=1):
            if child.name in ring:
                needed.add(f"ring-{number}")
                earlier = [name for each in self.state.policy.rings[: number - 1] for name in each]
                assert all(self.children[name].state.ended for name in earlier)
        for wave in range(1, child.state.group.wave + 1):
            gate = machine.gate_before(self.state, child.name, wave)
            if gate is not None:  # also before a wave that is skipped: what starts is behind it
                needed.add(gate)
        assert needed & self.state.gates <= self.passed
        self.check_width()
        budget = self.state.policy.total_failure_budget
        if budget is not None and budget.strict:
            assert isinstance(budget.max_failures, int)
            lost = [ended for each in self.children.values() for ended in each.ends.values()]
            parked = sum(len(each.parked) for each in self.children.values())
            flying = sum(len(each.flying) for each in self.children.values())
            at_risk = lost.count(HostState.FAILED) + parked + flying
            assert at_risk <= budget.max_failures, "overshot"

    def obey(self, child: Child) -> None:
        """A cluster hears the newest of its orders."""
        view, after = child.orders[-1], child.pauses[-1]
        child.obeyed = child.ordered
        if self.rng.random() < 0.7:
            child.orders.clear()
        if view.stop is not None:
            cancel = self.state.policy.in_flight == "cancel"
            self.happens(child, cluster_machine.StopRequested(reason=view.stop, cancel=cancel))
            return
        plan = cluster_plan(self.state.policy, child.hosts, gates=child.state.plan.gates)
        hosts = frozenset(int(name.partition("-")[2]) for name in view.skip)
        events: tuple[cluster_machine.ClusterEvent, ...] = (
            cluster_machine.PauseChanged(after),
            cluster_machine.WindowChanged(machine.hosts_may_start(self.state)),
            cluster_machine.LimitsChanged(plan),
            cluster_machine.Skipped(hosts=hosts, waves=view.skip_waves),
            cluster_machine.WavesOpened(view.opened),
            *(
                cluster_machine.RepairAsked(
                    number=each.number, host=int(each.host.partition("-")[2]), how=each.how
                )
                for each in view.repairs
            ),
            cluster_machine.SlotsGranted(view.slots, view.risk),
        )
        self.happens(child, cluster_machine.Ordered(events))
        for host in sorted(child.parked - set(child.state.parked)):  # skipped: it stays as it is
            child.parked.remove(host)
            child.ends[host] = HostState.FAILED
            self.repairs["skip"] += 1

    def report(self, child: Child) -> None:
        """A cluster tells the rollout how far it is. The message may be overtaken; its end is the truth."""
        state, child.untold = child.state, False
        at_gate = state.group.wave + 1 if state.at_barrier == "gate" else None
        counts = {"acted": state.acted, "failed": state.failed, "unreachable": state.unreachable}
        if not state.ended:
            child.messages += 1
            told = data.ClusterProgressed(
                cluster=child.name,
                stopped=state.stopped,
                quiet=cluster_machine.quiet(state),
                at_gate=at_gate,
                parked={
                    f"{child.name}-{host}": "perform_update"
                    for host in cluster_machine.unanswered(state)
                },
                needs=cluster_machine.needs(state),
                in_flight=state.in_flight,
                repaired=state.repaired,
                repairs_waiting=len(state.repairs),
                **counts,
            )
            child.sent.append((child.messages, child.obeyed, told))
        elif not child.told_end:
            child.told_end = True
            outcome = cluster_machine.outcome(state)
            reason = state.stopped or ""
            self.tell(
                data.ClusterEnded(cluster=child.name, outcome=outcome, reason=reason, **counts)
            )

    def arrives(self, child: Child) -> None:
        """One of a cluster's messages arrives, any of them. An older one than the last is no news."""
        number, obeyed, told = child.sent.pop(self.rng.randrange(len(child.sent)))
        if number > child.heard:
            child.heard = number
            knows = obeyed >= child.ordered
            self.tell(
                attrs.evolve(
                    told, quiet=told.quiet and knows, in_flight=told.in_flight if knows else None
                )
            )

    def host_moves(self, child: Child, host: int) -> None:
        """A host in flight ends a step, stands still, or ends."""
        left = child.flying[host]
        if child.halting and not child.cancelled and left > 0:
            child.still.add(host)
            self.happens(child, cluster_machine.HostHalted(host=host, halted=True))
        elif left > 0 and not child.cancelled:
            child.flying[host] -= 1
        else:
            bad = self.rng.random() < self.trouble
            ended = HostState.FAILED if bad else HostState.PATCHED
            ended = HostState.CANCELLED if child.cancelled and left > 0 else ended
            how = child.repairing.pop(host, None)
            if how == "restore":
                ended = HostState.FAILED
            del child.flying[host]
            child.still.discard(host)
            left_out = ended is HostState.FAILED and self.rng.random() < 0.2
            parked = self.parks and ended is HostState.FAILED and how != "restore"
            if parked:
                child.parked.add(host)
            else:
                child.ends[host] = ended
            self.happens(
                child,
                cluster_machine.HostEnded(host=host, state=ended, left_out=left_out, parked=parked),
            )

    # What may happen next

    def step(self) -> bool:
        """One thing happens, by chance. False: nothing can, but by somebody who steers."""
        rng, ready = self.rng, list[tuple[str, str, int]]()
        for name, child in self.children.items():
            if not child.listed and child.cancel is None:
                ready.append(("list", name, 0))
                continue
            if child.state.ended:
                if not child.told_end:
                    ready.append(("report", name, 0))
                continue
            ready += [("report", name, 0)] if child.untold else []
            ready += [("arrives", name, 0)] if child.sent else []
            ready += [("obey", name, 0)] if child.orders and child.listed else []
            ready += [("cancel", name, 0)] if child.cancel is not None else []
            stands = set[int]() if child.cancelled else child.still
            ready += [("host", name, host) for host in child.flying if host not in stands]
            if child.soaking and child.state.paused is None:
                ready.append(("soak", name, 0))
        ready += [("vote", gate, 0) for gate in self.votes]
        if not ready:
            return False
        what, name, host = rng.choice(ready)
        if what == "vote":
            self.votes.remove(name)
            self.vote(name)
            return True
        child = self.children[name]
        if what == "list":
            child.listed = True
            hosts = tuple(f"{name}-{index}" for index in range(child.hosts))
            wide = child.state.plan.max_parallel
            self.tell(data.ClusterPlanned(cluster=name, hosts=hosts, max_parallel=wide))
        elif what == "report":
            self.report(child)
        elif what == "arrives":
            self.arrives(child)
        elif what == "obey":
            self.obey(child)
        elif what == "cancel":
            reason, child.cancel = child.cancel or "", None
            self.happens(child, cluster_machine.StopRequested(reason=reason, aborted=True))
        elif what == "soak":
            child.soaking = False
            self.happens(child, cluster_machine.SoakEnded())
        else:
            self.host_moves(child, host)
        return True

    def vote(self, gate: str) -> None:
        """People decide at a gate."""
        if self.rng.random() < 0.95:
            self.passed.add(gate)
            self.tell(data.GatePassed(gate))
        else:
            self.tell(data.GateShut(gate=gate, outcome=Outcome.REJECTED, reason="no"))

    def steer(self) -> None:
        """Somebody asks for something, where it is legal."""
        rng = self.rng
        where = rng.choice([None, None, *self.children])
        host = frozenset({f"c0-{rng.randint(0, 5)}"})
        limits = attrs.evolve(
            self.state.policy,
            max_parallel_total=rng.choice([None, rng.randint(1, 6)]),
            max_parallel=rng.randint(1, 5),
        )
        asked: list[Asked] = [
            data.PauseRequested(after=rng.choice(["host", "step"]), cluster=where),
            data.PauseRequested(after="step"),
            data.ResumeRequested(cluster=where),
            data.LimitsRequested(policy=limits),
            data.SkipRequested(cluster=where, wave=rng.randint(1, 3)),
            data.SkipRequested(cluster="c0", hosts=host),
            *self.answers(),
            *self.answers(),
        ]
        if self.quietly:
            pause = data.PauseRequested(after="host")
            asked = [pause, data.ResumeRequested(), data.ResumeRequested(), *self.answers()]
        elif rng.random() < 0.05:
            asked = [data.AbortRequested(reason="enough", now=rng.random() < 0.5)]
        one = rng.choice(asked)
        if why_refused(self.state, one) is None:
            self.lowered = self.lowered or isinstance(one, data.LimitsRequested)
            self.tell(one)
        if not self.quietly:
            self.tell(data.WindowChanged(rng.random() < 0.7, stale=rng.random() < 0.2))

    def answers(self) -> list[Asked]:
        """What somebody may say of a parked host, if there is one."""
        parked = [(view.name, host) for view in self.state.clusters for host in view.parked]
        if not parked:
            return []
        cluster, host = self.rng.choice(parked)
        how = self.rng.choice(REPAIRS)
        return [data.RepairRequested(cluster=cluster, host=host, how=how)]


def begin(seed: int) -> Together:
    """A rollout, by chance."""
    rng = random.Random(seed)
    names = tuple(f"c{index}" for index in range(rng.randint(1, 4)))
    rings = rng.choice([(), (names[:1], names[1:])]) if len(names) > 1 else ()
    tolerant = FailureBudget(max_failures=rng.choice([0, 2, 99]), stop_on_failed_wave=False)
    policy = RolloutPolicy(
        pilot_hosts=rng.choice([0, 1, 2]),
        pilot_budget=tolerant,
        waves=[rng.randint(1, 6)],
        max_parallel=rng.choice([1, 3, 6]),
        max_out_of_service=9,
        max_parallel_total=rng.choice([None, None, rng.randint(1, 6)]),
        max_parallel_clusters=rng.choice([None, 1, 2]),
        failure_budget=tolerant,
        total_failure_budget=rng.choice(
            [None, None, FailureBudget(max_failures=rng.randint(0, 6), strict=rng.random() < 0.7)]
        ),
        rings=rings,
        soak=rng.choice([None, Soak(duration=timedelta(minutes=1))]),
        in_flight=rng.choice(["cancel", "finish"]),
        stop_scope=rng.choice(["rollout", "cluster"]),
    )
    gates = tuple(
        gate
        for gate in GATES
        if rng.random() < 0.5
        and (gate != "ring-2" or rings)
        and (gate != "promote" or policy.pilot_hosts)
    )
    children = dict[str, Child]()
    for name in names:
        hosts = rng.randint(1, 12)
        plan = cluster_plan(policy, hosts, gates=gated_waves(gates, name))
        children[name] = Child(name=name, hosts=hosts, state=cluster_machine.cluster_state(plan))
    state = data.rollout_state(policy, data.PlanLimits(), names, gates=gates)
    parks = rng.random() < 0.5
    return Together(rng, state, children, trouble=rng.choice([0.0, 0.1, 0.4]), parks=parks)


def begin_strict(seed: int) -> Together:
    """A rollout with a strict total budget, by chance, of which many hosts fail, are parked and repaired."""
    rng = random.Random(seed)
    names = tuple(f"c{index}" for index in range(rng.randint(2, 4)))
    tolerant = FailureBudget(max_failures=99, stop_on_failed_wave=False)
    policy = RolloutPolicy(
        pilot_hosts=0,
        max_parallel=rng.randint(1, 2),
        max_out_of_service=9,
        max_parallel_total=rng.choice([None, None, 2]),
        max_parallel_clusters=rng.choice([None, 2]),
        failure_budget=tolerant,
        total_failure_budget=FailureBudget(max_failures=rng.randint(1, 4), strict=True),
    )
    children = dict[str, Child]()
    for name in names:
        plan = cluster_plan(policy, 9)
        children[name] = Child(name=name, hosts=9, state=cluster_machine.cluster_state(plan))
    state = data.rollout_state(policy, data.PlanLimits(), names)
    return Together(rng, state, children, trouble=0.3, parks=True, quietly=True)


def play(seed: int, begin: Callable[[int], Together] = begin) -> Together:
    """People steer for a while; then they resume and vote, and it has to end."""
    run = begin(seed)
    steers = run.rng.choice([0.0, 0.1, 0.3])
    for turn in range(4_000):
        if run.state.phase == "ended":
            return run
        if turn < 200 and run.rng.random() < steers:
            run.steer()
        elif turn >= 200 or not run.step():
            if why_refused(run.state, data.ResumeRequested()) is None:
                run.tell(data.ResumeRequested())
            run.tell(data.WindowChanged(True))
            for answer in run.answers():
                if why_refused(run.state, answer) is None:
                    run.tell(answer)
            if not run.step():
                waits = {name: each.state for name, each in run.children.items()}
                assert machine.shown_phase(run.state) == "ended", f"it hangs: {run.state}; {waits}"
        run.check_paused()
    raise AssertionError("it does not come to an end")


def check(run: Together) -> None:
    """What holds for every rollout at its end."""
    for child in run.children.values():
        assert child.state.ended
        assert not child.flying
        assert not child.parked
        found = cluster_machine.counts(child.state)
        assert sum(found.values()) == child.state.plan.hosts
        for host, ended in child.ends.items():
            assert cluster_machine.host_state(child.state, host) is ended
    if run.state.outcome is None:
        left = [cluster_machine.counts(each.state) for each in run.children.values()]
        assert not any(HostState.NOT_STARTED in found for found in left)


@pytest.mark.volume
@pytest.mark.parametrize("block", range(6))
def test_together_they_end(block: int) -> None:
    """Whatever is asked, and however late it is heard; a failure names its seed."""
    for seed in range(block * SEEDS // 6, (block + 1) * SEEDS // 6):
        try:
            check(play(seed))
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@given(st.integers(min_value=SEEDS))
def test_together_they_end_property(seed: int) -> None:
    """The same, as a property."""
    check(play(seed))


@pytest.mark.volume
@pytest.mark.parametrize("block", range(4))
def test_together_they_keep_a_strict_budget(block: int) -> None:
    """However hosts are repaired and fail again, and however late that is heard: never overshot."""
    for seed in range(block * 300, (block + 1) * 300):
        try:
            check(play(seed, begin_strict))
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.volume
def test_together_they_see_everything() -> None:
    """The simulated rollouts end in every way."""
    runs = [play(seed) for seed in range(400)]
    outcomes = {run.state.outcome for run in runs}
    assert sum(run.renewed for run in runs) > 10
    done = sum((run.repairs for run in runs), Counter[Repair]())
    assert all(done[how] > 20 for how in REPAIRS), done
    assert outcomes == {None, Outcome.STOPPED, Outcome.REJECTED, Outcome.ABORTED}
