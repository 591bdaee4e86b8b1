"""One cluster: pilots, waves, widths and budgets hold for any order in which hosts end."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any, get_args

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_patching.models._carried import CarriedState
from temporal_patching.policy import (
    FailureBudget,
    HostOrder,
    HostState,
    InFlight,
    Outcome,
    PauseAfter,
    RolloutPolicy,
    Soak,
)
from temporal_patching.policy._cluster import (
    AskGate,
    BeginSoak,
    CancelHosts,
    ClusterCommand,
    ClusterEvent,
    ClusterState,
    DrainEnded,
    DrainRequested,
    EndCluster,
    HaltHosts,
    HostEnded,
    HostHalted,
    HostPutBack,
    LimitsChanged,
    Ordered,
    PauseChanged,
    RepairAsked,
    RepairHost,
    Skipped,
    SlotsGranted,
    SoakEnded,
    StartHost,
    StopRequested,
    Told,
    WavesOpened,
    WindowChanged,
    cluster_state,
    counts,
    decide,
    drained,
    gives_back,
    gives_way,
    host_state,
    may_begin,
    needs,
    only_parked,
    outcome,
    quiet,
    unanswered,
    wave_begun,
)
from temporal_patching.policy._repair import MAX_PARKED, Repair
from temporal_patching.policy._rollout_policy import ClusterPlan, cluster_plan
from tests.strategies import rollout_policies

SEEDS = 6_000
GOOD, SAME, BAD, GONE = (
    HostState.PATCHED,
    HostState.UNCHANGED,
    HostState.FAILED,
    HostState.UNREACHABLE,
)
ENDINGS = [state for state in HostState if state is not HostState.NOT_STARTED]
REPAIRS: tuple[Repair, ...] = get_args(Repair)
COUNTS_AS_PILOT = {GOOD, BAD, GONE, HostState.REBOOT_PENDING}


@attrs.define
class ClusterRun:
    """A cluster that is driven event by event, and an account of it that is kept from outside."""

    state: ClusterState
    flying: list[int] = attrs.field(factory=list[int])
    started: list[int] = attrs.field(factory=list[int])
    ends: dict[int, HostState] = attrs.field(factory=dict[int, HostState])
    """What each host counts as that is not in flight."""
    held: set[int] = attrs.field(factory=set[int])
    parked: set[int] = attrs.field(factory=set[int])
    repairing: set[int] = attrs.field(factory=set[int])
    asked: int = 0
    slots: int | None = 0
    cancelled: list[str] = attrs.field(factory=list[str])
    over: int = 0
    # The group that hosts start in, by rule 1.
    wave: int = 0
    in_group: list[int] = attrs.field(factory=list[int])

    @property
    def plan(self) -> ClusterPlan:
        """The plan."""
        return self.state.plan

    def failures(self, hosts: list[int] | None = None) -> tuple[int, int, int]:
        """Failed, unreachable and acted on, of these hosts or of all."""
        states = [
            self.ends[each] for each in (self.ends if hosts is None else hosts) if each in self.ends
        ]
        acted = sum(state in COUNTS_AS_PILOT for state in states)
        return states.count(BAD), states.count(GONE), acted

    def tell(self, event: ClusterEvent) -> None:
        """One event; what follows is checked against the account."""
        before = self.state
        self.state, commands = decide(before, event)
        if isinstance(event, SlotsGranted):
            self.slots = event.slots
        if isinstance(event, HostEnded):
            self.flying.remove(event.host)
            self.repairing.discard(event.host)
            self.ends[event.host] = event.state
            (self.held.add if event.left_out else self.held.discard)(event.host)
            if event.parked:
                self.parked.add(event.host)
            self.check_budget(before)
        if isinstance(event, RepairAsked) and event.how == "skip":
            self.parked.remove(event.host)
        others = bool(self.flying)
        for command in commands:
            if isinstance(command, StartHost):
                self.start(command.host)
            elif isinstance(command, RepairHost):
                self.repair(command)
            elif isinstance(command, CancelHosts):
                assert self.flying
                asked = isinstance(event, StopRequested) and event.cancel
                assert asked or before.stopped is None, "a failure after the stop cancels nobody"
                self.cancelled.append(command.reason)
            else:
                assert isinstance(command, EndCluster)
                self.over += 1
        if isinstance(event, HostEnded) and before.stopped is None and self.state.stopped:
            cancels = any(isinstance(command, CancelHosts) for command in commands)
            assert cancels == (others and self.plan.in_flight == "cancel")
        assert self.state.in_flight == len(self.flying)
        assert self.state.ended == bool(self.over)
        assert set(self.state.parked) == self.parked
        assert not (self.parked and self.state.stopped), "what stops gives back"
        assert (*self.failures(),) == (self.state.failed, self.state.unreachable, self.state.acted)
        if not (isinstance(event, HostEnded) and event.host in self.flying):  # restored at once
            assert decide(self.state, event) == (self.state, ()), "the same again is no news"

    def answer(self, host: int, how: Repair) -> None:
        """Somebody says what is to be done with a parked host."""
        self.asked += 1
        self.tell(RepairAsked(number=self.asked, host=host, how=how))

    def repair(self, command: RepairHost) -> None:
        """What holds whenever a parked host is gone on with."""
        host, plan = command.host, self.plan
        self.parked.remove(host)
        self.repairing.add(host)
        del self.ends[host]
        self.flying.append(host)
        assert not self.over
        if command.how == "restore":
            return
        assert self.state.stopped is None
        assert len(self.flying) <= plan.max_parallel
        assert self.slots is None or len(self.flying) <= self.slots
        assert host in self.held or len({*self.flying} | self.held) <= plan.max_out_of_service

    def start(self, host: int) -> None:
        """What holds whenever a host starts."""
        plan = self.plan
        assert self.state.stopped is None
        assert not self.over
        assert host == len(self.started), "in order, each once"
        if not self.has_room():
            assert not self.flying, "a group starts when the one before has ended"
            self.wave, self.in_group = self.wave + 1, []
        self.started.append(host)
        self.in_group.append(host)
        self.flying.append(host)
        assert len(self.flying) <= plan.max_parallel
        assert self.slots is None or len(self.flying) <= self.slots
        assert len({*self.flying} | self.held) <= plan.max_out_of_service
        for budget, hosts in ((plan.budget, None), (plan.pilot_budget, self.in_group)):
            failed, unreachable, acted = self.failures(hosts)
            flying = len(self.flying)
            if not budget.strict or (budget is plan.pilot_budget and self.wave):
                continue
            trusted = acted + flying - 1 >= budget.min_sample
            if trusted or not budget.failures_in_percent:
                lost = failed + (unreachable if budget.unreachable is None else 0)
                assert lost + flying <= budget.failures + 1, "strict: never overshot"
            limit = budget.unreachable
            if limit is not None and (trusted or not budget.unreachable_in_percent):
                assert unreachable + flying <= limit + 1, "strict: of unreachable ones neither"

    def has_room(self) -> bool:
        """Whether the group takes one more host, by rule 1."""
        if self.wave == 0:
            counting = sum(self.ends.get(each) in COUNTS_AS_PILOT for each in self.in_group)
            return counting + len(self.flying) < self.plan.pilots
        return len(self.in_group) < self.plan.wave_size(self.wave)

    def check_budget(self, before: ClusterState) -> None:
        """It stops exactly when a budget is exceeded, or a whole wave has failed."""
        if before.stopped is not None:
            assert self.state.stopped == before.stopped, "the first reason stays"
            return
        plan = self.plan
        exceeded = []
        for budget, hosts in ((plan.budget, None), (plan.pilot_budget, self.in_group)):
            if hosts is not None and self.wave:
                continue
            failed, unreachable, acted = self.failures(hosts)
            trusted = acted >= budget.min_sample
            if budget.unreachable is None:
                failed, unreachable = failed + unreachable, 0
            elif unreachable > budget.unreachable:
                exceeded.append(trusted or not budget.unreachable_in_percent)
            exceeded.append(
                failed > budget.failures and (trusted or not budget.failures_in_percent)
            )
        failed, unreachable, acted = self.failures(self.in_group)
        switch = plan.budget if self.wave else plan.pilot_budget
        done = not self.flying and (not self.has_room() or len(self.started) == plan.hosts)
        whole_wave = (
            switch.stop_on_failed_wave
            and done
            and len(self.in_group) >= 2
            and acted == failed + unreachable > 0
        )
        stuck = (self.state.stopped or "").startswith("nothing may start")
        assert (self.state.stopped is not None) == (any(exceeded) or whole_wave or stuck)
        if stuck:
            assert len(self.held) >= plan.max_out_of_service


def begin(policy: RolloutPolicy, hosts: int, slots: int | None = None) -> ClusterRun:
    """A cluster that has been granted its slots."""
    run = ClusterRun(cluster_state(cluster_plan(policy, hosts)))
    if not run.plan.pilots:
        run.wave = 1
    run.tell(SlotsGranted(slots))
    return run


def play(rng: random.Random, policy: RolloutPolicy, hosts: int) -> ClusterRun:
    """Hosts end in any order and any state; slots come late; somebody may stop or abort it."""
    run = ClusterRun(cluster_state(cluster_plan(policy, hosts)))
    if not run.plan.pilots:
        run.wave = 1
    waits = [rng.randint(1, 5)] if rng.random() < 0.5 else []
    run.tell(SlotsGranted(waits[0] if waits else None))
    trouble = rng.choice([0.0, 0.05, 0.3, 1.0])
    stop = rng.choice([0.0, 0.0, 0.02])
    parks, stops = rng.choice([0.0, 0.5, 1.0]), 0
    for _ in range(30 * hosts + 20):
        if run.over:
            break
        # Chance may be malicious: what moves nothing comes only so often.
        if stops < 5 and rng.random() < stop:
            stops += 1
            cancel, aborted = rng.random() < 0.5, rng.random() < 0.5
            run.tell(StopRequested(reason="told to", cancel=cancel, aborted=aborted))
        elif run.slots is not None and run.slots < 10 and rng.random() < 0.2:
            run.tell(SlotsGranted(run.slots + rng.randint(1, 5)))
        elif (waiting := unanswered(run.state)) and (not run.flying or rng.random() < 0.2):
            run.answer(rng.choice(waiting), rng.choice(REPAIRS))
        elif run.flying:
            bad = rng.random() < trouble
            state = rng.choice(ENDINGS if bad else [GOOD, GOOD, GOOD, SAME])
            if run.state.stopped is not None and rng.random() < 0.5:
                state = HostState.CANCELLED
            left_out = bad and rng.random() < 0.3
            host = rng.choice(run.flying)
            # What a stop gives back has no way to fail that could be gone on with.
            parked = state in (BAD, GONE) and run.state.stopped is None and rng.random() < parks
            run.tell(HostEnded(host=host, state=state, left_out=left_out, parked=parked))
    return run


def check(run: ClusterRun) -> None:
    """What holds for every cluster at its end."""
    state = run.state
    assert run.over == 1, "it ends, once"
    assert not run.flying
    assert not run.parked
    found = counts(state)
    assert sum(found.values()) == state.plan.hosts
    for host in range(state.plan.hosts):
        assert host_state(state, host) is run.ends.get(host, HostState.NOT_STARTED)
    if state.stopped is None:
        assert HostState.NOT_STARTED not in found, "through the whole list"
    good = found.get(GOOD, 0) + found.get(SAME, 0) == state.plan.hosts
    if state.aborted:
        assert outcome(state) is Outcome.ABORTED
    elif state.stopped is not None:
        assert outcome(state) is Outcome.STOPPED
    else:
        assert outcome(state) is (Outcome.PATCHED if good else Outcome.PARTIAL)
    assert decide(state, SlotsGranted(None)) == (state, ())
    assert decide(state, StopRequested(reason="late", aborted=True)) == (state, ())


@given(rollout_policies(), st.integers(0, 60), st.randoms(use_true_random=False))
def test_any_policy_holds_in_any_order(
    policy: RolloutPolicy, hosts: int, rng: random.Random
) -> None:
    """Whatever the policy and however hosts end: widths, barriers, budgets, and it ends."""
    # Soaks and failure domains have runs of their own: here hosts start in order and nothing else is awaited.
    check(play(rng, attrs.evolve(policy, soak=None, order=HostOrder()), hosts))


def a_policy(rng: random.Random) -> RolloutPolicy:
    """A policy, by chance."""

    def amount(least: int) -> int | str:
        return (
            rng.randint(least, 12) if rng.random() < 0.5 else f"{rng.randint(max(least, 1), 60)}%"
        )

    def budget() -> FailureBudget:
        return FailureBudget(
            max_failures=amount(0),
            max_unreachable=rng.choice([None, amount(0)]),
            min_sample=rng.choice([0, 0, rng.randint(0, 15)]),
            strict=rng.random() < 0.4,
            stop_on_failed_wave=rng.random() < 0.5,
        )

    return RolloutPolicy(
        pilot_hosts=rng.choice([0, 1, amount(0)]),
        pilot_budget=budget(),
        waves=[amount(1) for _ in range(rng.randint(1, 4))],
        max_parallel=amount(1),
        max_out_of_service=rng.choice([None, amount(1)]),
        failure_budget=budget(),
        in_flight=rng.choice(["cancel", "finish"]),
    )


@pytest.mark.volume
@pytest.mark.parametrize("block", range(6))
def test_thousands_of_clusters(block: int) -> None:
    """The same for a volume of clusters up to 200 hosts; a failure names its seed."""
    for seed in range(block * SEEDS // 6, (block + 1) * SEEDS // 6):
        rng = random.Random(seed)
        try:
            check(play(rng, a_policy(rng), rng.choice([0, 1, 2, 5, 20, 60, 200])))
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error}") from error


# By example


def finish(run: ClusterRun, *states: HostState, left_out: bool = False) -> ClusterRun:
    """Ends the hosts in flight, the oldest first, in these states."""
    for state in states:
        run.tell(HostEnded(host=run.flying[0], state=state, left_out=left_out))
    return run


def tolerant(most: int | str = 1_000) -> FailureBudget:
    """A budget of which no test trips by accident."""
    return FailureBudget(max_failures=most, stop_on_failed_wave=False)


def test_nothing_starts_before_the_grant() -> None:
    """A cluster whose list is frozen waits for the rollout's go."""
    run = ClusterRun(cluster_state(cluster_plan(RolloutPolicy(), 3)))
    assert (run.started, run.state.ended) == ([], False)
    run.tell(SlotsGranted(0))
    assert (run.started, run.state.ended) == ([], False)
    run.tell(SlotsGranted(None))
    assert run.started == [0]


@pytest.mark.parametrize(("hosts", "waves"), [(3, [1, 1]), (7, [1, 5]), (50, [5, 44])])
def test_groups_start_one_after_the_other(hosts: int, waves: list[int]) -> None:
    """A pilot, then the waves of the table, each when the one before has ended."""
    run = begin(RolloutPolicy(pilot_hosts=1, waves=["10%", "100%"], max_parallel="100%"), hosts)
    assert len(run.flying) == 1
    seen = []
    while run.flying:
        finish(run, *[GOOD] * len(run.flying))
        seen.append(len(run.flying))
    assert seen == [*waves, 0]
    assert outcome(run.state) is Outcome.PATCHED


def test_an_unchanged_pilot_is_replaced() -> None:
    """Only a host that its update changed says something: the next one is the pilot then."""
    run = begin(RolloutPolicy(pilot_hosts=2, max_parallel=10), 10)
    assert run.flying == [0, 1]
    finish(run, SAME)
    assert run.flying == [1, 2]
    finish(run, GOOD)
    assert run.flying == [2], "no wave yet"
    finish(run, SAME)
    assert run.flying == [3]
    finish(run, GOOD)
    assert len(run.flying) == 6


def test_pilots_keep_max_parallel() -> None:
    """Five pilots, two at a time."""
    run = begin(RolloutPolicy(pilot_hosts=5, max_parallel=2), 10)
    assert run.flying == [0, 1]
    finish(run, GOOD)
    assert run.flying == [1, 2]


def test_only_unchanged_hosts_end_well() -> None:
    """A cluster in which nothing is to do goes through its list, pilot by pilot."""
    run = begin(RolloutPolicy(pilot_hosts=3, max_parallel=3), 20)
    while run.flying:
        finish(run, SAME)
    assert counts(run.state) == {SAME: 20}
    assert outcome(run.state) is Outcome.PATCHED


@pytest.mark.parametrize(("hosts", "fails_at"), [(50, 3), (1000, 51)])
def test_five_percent_stop_at_the_next_failure(hosts: int, fails_at: int) -> None:
    """5 % of 50 hosts tolerate two failures, of 1,000 fifty: one more stops."""
    policy = RolloutPolicy(
        pilot_hosts=0, max_parallel=1, max_out_of_service=100, failure_budget=tolerant("5%")
    )
    run = begin(policy, hosts)
    for count in range(1, fails_at):
        finish(run, BAD)
        assert run.state.stopped is None, count
    finish(run, BAD)
    assert run.state.stopped == f"{fails_at} hosts failed, {fails_at - 1} allowed"
    assert run.over
    assert outcome(run.state) is Outcome.STOPPED


def test_a_failed_pilot_stops() -> None:
    """The pilots have a budget of their own, zero unless said otherwise."""
    run = begin(RolloutPolicy(pilot_hosts=2, max_parallel=2, failure_budget=tolerant()), 10)
    run.tell(HostEnded(host=0, state=BAD, why="web-0: dpkg"))
    assert run.state.stopped == "pilots: 1 host failed, 0 allowed (web-0: dpkg)"
    assert run.cancelled == [run.state.stopped]
    finish(run, HostState.CANCELLED)
    assert counts(run.state) == {BAD: 1, HostState.CANCELLED: 1, HostState.NOT_STARTED: 8}


def test_a_percentage_of_the_pilots_is_one_of_pilots() -> None:
    """50 % of four pilots are two: the third failure stops, whatever the cluster's size."""
    policy = RolloutPolicy(
        pilot_hosts=4,
        pilot_budget=tolerant("50%"),
        failure_budget=tolerant(),
        max_out_of_service=40,
    )
    run = finish(begin(policy, 40), BAD, BAD)
    assert run.state.stopped is None
    finish(run, BAD)
    assert run.state.stopped == "pilots: 3 hosts failed, 2 allowed"


def test_pilots_count_in_the_other_budget_too() -> None:
    """A pilot that its own budget forgives has failed for the cluster's all the same."""
    policy = RolloutPolicy(
        pilot_hosts=1, pilot_budget=tolerant(), failure_budget=tolerant(1), max_out_of_service=9
    )
    run = finish(begin(policy, 10), BAD)
    assert run.state.stopped is None
    finish(run, BAD)
    assert run.state.stopped == "2 hosts failed, 1 allowed"


def test_a_wave_in_which_every_host_failed_stops() -> None:
    """Whatever the numbers allow; a wave of one host is no evidence, and it can be switched off."""
    forgiving = FailureBudget(max_failures=100)
    policy = RolloutPolicy(pilot_hosts=0, waves=[1, 2], max_parallel=5, failure_budget=forgiving)
    run = finish(begin(policy, 9), BAD)
    assert run.state.stopped is None
    finish(run, BAD, GONE)
    assert run.state.stopped == "every host of wave 2 that was acted on failed"
    switched_off = attrs.evolve(policy, failure_budget=tolerant(100))
    assert finish(begin(switched_off, 9), BAD, BAD, GONE).state.stopped is None


def test_pilots_that_all_failed_stop_by_their_own_switch() -> None:
    """For pilots the pilots' budget says whether a group that failed as a whole stops."""
    policy = RolloutPolicy(
        pilot_hosts=2,
        max_parallel=2,
        pilot_budget=FailureBudget(max_failures=2),
        failure_budget=tolerant(),
    )
    run = finish(begin(policy, 9), BAD, BAD)
    assert run.state.stopped == "every pilot that was acted on failed"
    off = attrs.evolve(policy, pilot_budget=tolerant())
    assert finish(begin(off, 9), BAD, BAD).state.stopped is None


def test_a_strict_budget_is_never_overshot() -> None:
    """Hosts in flight count as possible failures: with none allowed one runs at a time."""
    strict = FailureBudget(max_failures=2, strict=True, stop_on_failed_wave=False)
    run = begin(RolloutPolicy(pilot_hosts=0, max_parallel=10, failure_budget=strict), 20)
    assert len(run.flying) == 3
    finish(run, GOOD)
    assert len(run.flying) == 3
    finish(run, BAD)
    assert len(run.flying) == 2
    finish(run, BAD)
    assert len(run.flying) == 1
    finish(run, BAD)
    assert run.state.stopped == "3 hosts failed, 2 allowed"
    assert run.over


def test_a_strict_limit_of_unreachable_hosts_is_never_overshot() -> None:
    """Hosts in flight count as possibly unreachable, too, where those have a limit of their own."""
    strict = FailureBudget(
        max_failures=9, max_unreachable=1, strict=True, stop_on_failed_wave=False
    )
    run = begin(RolloutPolicy(pilot_hosts=0, max_parallel=10, failure_budget=strict), 20)
    assert len(run.flying) == 2
    finish(run, GONE)
    assert len(run.flying) == 1
    finish(run, GONE)
    assert run.state.stopped == "2 hosts unreachable, 1 allowed"
    assert run.over


def test_a_strict_pilot_budget_is_never_overshot() -> None:
    """Five pilots, none of which may fail, strictly: one at a time."""
    policy = RolloutPolicy(pilot_hosts=5, max_parallel=5, pilot_budget=FailureBudget(strict=True))
    assert begin(policy, 20).flying == [0]


def test_a_strict_percentage_without_its_sample_does_not_block() -> None:
    """What cannot stop yet must not hold back for ever either."""
    budget = FailureBudget(max_failures="5%", min_sample=10, strict=True, stop_on_failed_wave=False)
    policy = RolloutPolicy(pilot_hosts=0, max_out_of_service=20, failure_budget=budget)
    run = begin(policy, 20)
    for _ in range(9):
        finish(run, BAD)
    assert run.state.stopped is None
    finish(run, BAD)
    assert run.state.stopped == "10 hosts failed, 1 allowed"


def test_held_hosts_are_lost_capacity() -> None:
    """What is held out of service counts in max_out_of_service; if nothing may start it says so."""
    policy = RolloutPolicy(pilot_hosts=0, max_parallel=2, failure_budget=tolerant())
    run = begin(policy, 9)
    finish(run, BAD, left_out=True)
    assert len(run.flying) == 1
    finish(run, BAD, left_out=True)
    assert run.state.stopped == (
        "nothing may start: 2 held out of service, max_out_of_service is 2"
    )
    assert outcome(run.state) is Outcome.STOPPED


@pytest.mark.parametrize("in_flight", ["cancel", "finish"])
def test_hosts_in_flight_are_cancelled_or_finish(in_flight: str) -> None:
    """When the budget is exceeded nothing new starts, and the policy says what becomes of the rest."""
    policy = RolloutPolicy(pilot_hosts=0, max_parallel=3, in_flight=in_flight)  # type: ignore[arg-type]
    run = finish(begin(policy, 9), BAD)
    assert run.cancelled == (["1 host failed, 0 allowed"] if in_flight == "cancel" else [])
    assert len(run.flying) == 2
    finish(run, GOOD, GOOD)
    assert run.over
    assert run.started == [0, 1, 2]


def test_the_first_reason_of_a_stop_stays_and_an_abort_counts() -> None:
    """A second stop changes nothing; an abort of a cluster that stops makes it ABORTED."""
    run = begin(RolloutPolicy(pilot_hosts=0, max_parallel=2, in_flight="finish"), 5)
    run.tell(StopRequested(reason="us-1 stopped", cancel=False))
    run.tell(StopRequested(reason="again", cancel=True))
    assert (run.state.stopped, run.cancelled) == ("us-1 stopped", [])
    run.tell(StopRequested(reason="aborted: enough", aborted=True))
    assert (run.state.stopped, run.cancelled) == ("us-1 stopped", ["aborted: enough"])
    finish(run, HostState.CANCELLED, GOOD)
    assert outcome(run.state) is Outcome.ABORTED


def test_stop_and_abort_before_the_grant_end_it_at_once() -> None:
    """Nothing is in flight, so nothing is waited for."""
    for aborted in (False, True):
        run = ClusterRun(cluster_state(cluster_plan(RolloutPolicy(), 3)))
        run.tell(StopRequested(reason="rejected", aborted=aborted))
        assert run.over
        assert counts(run.state) == {HostState.NOT_STARTED: 3}


def test_rubbish_about_hosts_changes_nothing() -> None:
    """A host that is not in flight cannot end, nor one that does not exist."""
    run = begin(RolloutPolicy(), 3)
    for host in (1, 2, 3, 99, -1):
        assert decide(run.state, HostEnded(host=host, state=GOOD)) == (run.state, ())


def test_an_empty_cluster_ends_with_its_grant() -> None:
    """Where an empty one is allowed it is PATCHED, after the rollout's go."""
    run = ClusterRun(cluster_state(cluster_plan(RolloutPolicy(), 0)))
    assert not run.over
    run.tell(SlotsGranted(None))
    assert run.over
    assert outcome(run.state) is Outcome.PATCHED


# Steered: paused, at a gate, soaking, outside of a window, skipped, limited


@attrs.define
class SteeredRun:
    """A cluster that people steer, with an account of it that is kept from outside."""

    state: ClusterState
    flying: set[int] = attrs.field(factory=set[int])
    standing: set[int] = attrs.field(factory=set[int])
    """Hosts in flight that stand still."""
    still: set[int] = attrs.field(factory=set[int])
    """Those of them that have said so since they were last told to stand still or to go on."""
    started: list[int] = attrs.field(factory=list[int])
    ends: dict[int, HostState] = attrs.field(factory=dict[int, HostState])
    skipped: set[int] = attrs.field(factory=set[int])
    """Hosts that were to be skipped before they had started."""
    paused: PauseAfter | None = None
    halting: bool = False
    draining: bool = False
    window_open: bool = True
    soaking: int | None = None
    at_gate: int | None = None
    opened: set[int] = attrs.field(factory=set[int])
    slots: int | None = 0
    held: set[int] = attrs.field(factory=set[int])
    parked: dict[int, HostState] = attrs.field(factory=dict[int, HostState])
    """Parked hosts, and what each counts as."""
    asked: list[RepairAsked] = attrs.field(factory=list[RepairAsked])
    answered: set[int] = attrs.field(factory=set[int])
    """Parked hosts for which somebody has asked."""
    repairing: dict[int, Repair] = attrs.field(factory=dict[int, Repair])
    waves: dict[int, int] = attrs.field(factory=dict[int, int])
    cancelled: bool = False
    over: int = 0
    steered: set[str] = attrs.field(factory=set[str])

    def tell(self, event: ClusterEvent) -> None:
        """One event; the rules hold after it whatever it is."""
        before = self.state
        self.note(event)
        self.state, commands = decide(before, event)
        for command in commands:
            self.take(command)
        if not (isinstance(event, HostEnded) and event.host in self.flying):  # restored at once
            assert decide(self.state, event) == (self.state, ()), "told twice"
        self.check_counts()
        assert self.state.in_flight == len(self.flying)
        assert self.state.ended == bool(self.over)
        stands = self.paused is not None and self.flying == self.still
        if self.state.stopped is None:
            assert quiet(self.state) == stands, "quiet means that what is in flight stands still"
        else:
            assert not quiet(self.state)
            assert not (self.flying and self.halting and not self.cancelled), (
                "nothing stands still for ever"
            )

    def check_counts(self) -> None:
        """A parked host counts as what it is, one that is repaired as none, and the group's are its own."""
        state, counted = self.state, {**self.ends, **self.parked}
        assert set(state.parked) == set(self.parked)
        assert set(unanswered(state)) == set(self.parked) - self.answered
        assert set(state.repairing) == set(self.repairing)
        assert state.held == self.held
        if state.stopped is not None:
            assert not self.parked, "what stops gives back"
        own = [each for host, each in counted.items() if self.waves[host] == state.group.wave]
        for counts_of, states in ((state, [*counted.values()]), (state.group, own)):
            assert counts_of.failed == states.count(BAD)
            assert counts_of.unreachable == states.count(GONE)
            assert counts_of.acted == sum(each in COUNTS_AS_PILOT for each in states)

    def answer(self, host: int, how: Repair) -> RepairAsked:
        """What somebody says of a parked host."""
        return RepairAsked(number=len(self.asked) + 1, host=host, how=how)

    def note(self, event: ClusterEvent) -> None:
        """Keeps the account."""
        self.steered.add(type(event).__name__)
        if isinstance(event, Ordered):
            for each in event.events:
                self.note(each)
        elif isinstance(event, SlotsGranted):
            self.slots = event.slots
        elif isinstance(event, HostEnded):
            self.flying.remove(event.host)
            self.standing.discard(event.host)
            self.still.discard(event.host)
            self.repairing.pop(event.host, None)
            assert event.host not in self.ends, "each ends once"
            (self.parked if event.parked else self.ends)[event.host] = event.state
            (self.held.add if event.left_out else self.held.discard)(event.host)
        elif isinstance(event, HostPutBack):
            self.flying.remove(event.host)
            self.standing.discard(event.host)
            self.still.discard(event.host)
            self.started.remove(event.host)
            del self.waves[event.host]
        elif isinstance(event, RepairAsked):
            if event.number <= len(self.asked):
                return  # told again
            self.asked.append(event)
            if event.host in self.parked and event.how == "skip":
                self.ends[event.host] = self.parked.pop(event.host)
            elif event.host in self.parked:
                self.answered.add(event.host)
        elif isinstance(event, PauseChanged):
            self.paused = event.after
        elif isinstance(event, HostHalted):
            for said in (self.standing, self.still):
                (said.add if event.halted else said.discard)(event.host)
        elif isinstance(event, DrainRequested):
            self.draining = self.state.stopped is None
        elif isinstance(event, DrainEnded):
            if drained(self.state):  # another run takes over: it knows the same
                again = CarriedState.of(self.state).restored(self.state.plan)
                assert again == self.state
            self.draining = False
        elif isinstance(event, WindowChanged):
            self.window_open = event.open
        elif isinstance(event, SoakEnded):
            self.soaking = None
        elif isinstance(event, WavesOpened):
            self.opened |= event.waves
            if self.at_gate in event.waves:
                self.at_gate = None
        elif isinstance(event, Skipped):
            self.skipped |= {host for host in event.hosts if host not in self.started}
            if self.at_gate in event.waves:
                self.at_gate = None

    def take(self, command: ClusterCommand) -> None:
        """Carries a command out."""
        plan = self.state.plan
        if isinstance(command, StartHost):
            host = command.host
            assert host not in self.started, "each once"
            assert host not in self.skipped, "what was skipped never starts"
            assert self.paused is None
            assert not self.draining
            assert self.window_open
            assert self.soaking is None
            assert self.at_gate is None
            assert self.state.stopped is None
            assert self.slots is None or len(self.flying) < self.slots
            assert len(self.flying) < plan.max_parallel
            assert len(self.flying | self.held) < plan.max_out_of_service
            if plan.max_per_domain is not None:
                out = [plan.domains[each] for each in self.flying | self.held]
                assert out.count(plan.domains[host]) < plan.max_per_domain
            self.started.append(host)
            self.flying.add(host)
            self.waves[host] = self.state.group.wave
        elif isinstance(command, RepairHost):
            self.take_repair(command)
        elif isinstance(command, CancelHosts):
            self.cancelled = True
        elif isinstance(command, HaltHosts):
            assert command.halt != self.halting, "told when it changes"
            self.halting = command.halt
            self.still.clear()
        elif isinstance(command, BeginSoak):
            assert not self.flying
            assert not self.draining
            assert self.soaking is None
            self.soaking = command.wave
        elif isinstance(command, AskGate):
            assert not self.flying, "at a barrier"
            assert not self.draining
            assert command.wave in plan.gates
            assert command.wave not in self.opened
            assert self.soaking is None, "it soaks before it asks"
            self.at_gate = command.wave
        else:
            assert isinstance(command, EndCluster)
            self.over += 1

    def take_repair(self, command: RepairHost) -> None:
        """Goes on with a parked host."""
        host, plan = command.host, self.state.plan
        del self.parked[host]
        if command.how != "restore":
            assert host in self.answered, "nobody is retried unasked"
            assert self.paused is None
            assert self.window_open
            assert self.state.stopped is None
            assert self.slots is None or len(self.flying) < self.slots
            assert len(self.flying) < plan.max_parallel
            if host not in self.held:
                assert len(self.flying | self.held) < plan.max_out_of_service
                out = [plan.domains[each] for each in self.flying | self.held if plan.domains]
                most = plan.max_per_domain
                assert most is None or out.count(plan.domains[host]) < most
        self.answered.discard(host)
        self.repairing[host] = command.how
        self.flying.add(host)


def a_steered_plan(rng: random.Random, hosts: int) -> ClusterPlan:
    """A plan, by chance, with soaks, gates and failure domains."""
    order = HostOrder()
    if rng.random() < 0.5:
        order = HostOrder(domain_label="rack", max_per_domain=rng.randint(1, 3))
    policy = attrs.evolve(
        a_policy(rng),
        order=order,
        soak=rng.choice([None, Soak(duration=timedelta(minutes=1))]),
    )
    if rng.random() < 0.5:  # else budgets trip before anybody has answered
        policy = attrs.evolve(policy, failure_budget=tolerant(), pilot_budget=tolerant())
    pilots = policy.pilot_hosts not in (0, "0%")
    gates = frozenset(wave for wave in range(1 if pilots else 2, 5) if rng.random() < 0.4)
    domains = tuple(f"r{rng.randint(0, 4)}" for _ in range(hosts))
    return cluster_plan(policy, hosts, gates=gates, domains=domains)


def steer(rng: random.Random, run: SteeredRun) -> None:
    """Somebody asks for something."""
    plan = run.state.plan
    waiting = [host for host in range(plan.hosts) if host not in run.started]
    wider = attrs.evolve(
        plan,
        max_parallel=rng.randint(1, 9),
        max_out_of_service=rng.randint(1, 9),
        budget=attrs.evolve(plan.budget, failures=plan.budget.failures + rng.randint(0, 2)),
    )
    asked: list[ClusterEvent] = [
        PauseChanged(rng.choice([None, "host", "step"])),
        WindowChanged(rng.random() < 0.5),
        LimitsChanged(wider),
        SlotsGranted(rng.choice([None, 0, 1, 3])),
        Skipped(hosts=frozenset(waiting[: rng.randint(0, 2)])),
        WavesOpened(frozenset({rng.randint(1, 4)})),
        *rng.sample(run.asked, min(len(run.asked), 1)),  # told again
        rng.choice([DrainRequested(), DrainEnded()]),
    ]
    if rng.random() < 0.2:  # else hardly a host would be left to start
        asked += [Skipped(waves=frozenset({rng.randint(1, 4)}))]
    waiting = sorted(set(run.parked) - run.answered)
    if waiting:
        asked += [run.answer(rng.choice(waiting), rng.choice(REPAIRS))]
    # Or all at once, as the rollout sends them.
    run.tell(rng.choice([*asked, Ordered(tuple(rng.sample(asked, 4)))]))


def something_happens(rng: random.Random, run: SteeredRun, trouble: float) -> bool:
    """A host moves, a soak ends, a vote comes. False: nothing can, but by somebody who steers."""
    moves = sorted(run.flying if run.cancelled else run.flying - run.standing)
    waits = sorted(run.standing - run.still if run.halting else run.standing)
    if drained(run.state):
        assert not run.flying
        run.tell(DrainEnded())
        return True
    if run.halting and not run.cancelled and moves and rng.random() < 0.3:
        run.tell(HostHalted(host=rng.choice(moves), halted=True))
        return True
    if waits and not run.cancelled and rng.random() < 0.5:
        run.tell(HostHalted(host=rng.choice(waits), halted=run.halting))
        return True
    if moves and not may_begin(run.state) and rng.random() < 0.3:
        waited = [host for host in moves if host not in run.repairing and not run.cancelled]
        if waited:  # for another rollout, as far as anybody knows here
            run.tell(HostPutBack(rng.choice(waited)))
            return True
    if moves:
        bad = [BAD] * 4 + [GONE] * 2 + ENDINGS
        state = rng.choice(bad) if rng.random() < trouble else GOOD
        if run.cancelled and rng.random() < 0.5:
            state = HostState.CANCELLED
        out = state in (BAD, GONE) and rng.random() < 0.3
        host = rng.choice(moves)
        parked = state in (BAD, GONE) and run.repairing.get(host) != "restore"
        parked = parked and rng.random() < 0.7
        run.tell(HostEnded(host=host, state=state, left_out=out, parked=parked))
        return True
    if run.soaking is not None and run.paused is None and run.state.at_barrier == "soak":
        run.tell(SoakEnded())
        return True
    if run.at_gate is not None and rng.random() < 0.5:
        run.tell(WavesOpened(frozenset({run.at_gate})))
        return True
    if (waiting := unanswered(run.state)) and rng.random() < 0.5:
        run.tell(run.answer(rng.choice(waiting), rng.choice(REPAIRS)))
        return True
    return False


def play_steered(seed: int) -> SteeredRun:
    """Anything in any order; then whatever is waited for is answered, and it has to end."""
    rng = random.Random(seed)
    hosts = rng.choice([0, 1, 2, 5, 12, 30])
    run = SteeredRun(cluster_state(a_steered_plan(rng, hosts)))
    trouble, steers = rng.choice([0.0, 0.2, 0.6]), rng.choice([0.05, 0.3])
    stop = rng.choice([0.0, 0.0, 0.02])
    for _ in range(15 * hosts + 30):
        if run.over:
            return run
        if rng.random() < stop:
            cancel, aborted = rng.random() < 0.5, rng.random() < 0.3
            run.tell(StopRequested(reason="told to", cancel=cancel or aborted, aborted=aborted))
        elif rng.random() < steers or not something_happens(rng, run, trouble):
            steer(rng, run)
    for event in (PauseChanged(None), WindowChanged(True), SlotsGranted(None)):
        if not run.over:
            run.tell(event)
    for _ in range(60 * hosts + 60):
        if run.over:
            return run
        something_happens(rng, run, trouble)
    raise AssertionError(f"it hangs: {run.state}")


def check_steered(run: SteeredRun) -> None:
    """What holds for every steered cluster at its end."""
    assert run.over == 1
    assert not run.flying
    assert sum(counts(run.state).values()) == run.state.plan.hosts
    for host in range(run.state.plan.hosts):
        ended = host_state(run.state, host)
        assert ended is not None
        if host in run.ends:
            assert ended is run.ends[host]
        else:
            assert ended in (HostState.SKIPPED, HostState.NOT_STARTED)
            assert host not in run.started
        if host in run.skipped:
            assert ended is HostState.SKIPPED
    if run.state.stopped is None:
        assert HostState.NOT_STARTED not in counts(run.state)


@pytest.mark.volume
@pytest.mark.parametrize("block", range(6))
def test_thousands_of_steered_clusters(block: int) -> None:
    """Nothing starts that may not, quiet means still, and each ends; a failure names its seed."""
    for seed in range(block * SEEDS // 6, (block + 1) * SEEDS // 6):
        try:
            check_steered(play_steered(seed))
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@given(st.integers(min_value=SEEDS))
def test_any_steered_cluster(seed: int) -> None:
    """The same, as a property."""
    check_steered(play_steered(seed))


def test_steered_clusters_see_everything() -> None:
    """The simulation is not empty: each event comes, hosts stand still, gates ask, soaks begin."""
    runs = [play_steered(seed) for seed in range(500)]
    assert set.union(*(run.steered for run in runs)) == {
        each.__name__ for each in get_args(ClusterEvent)
    }
    assert {outcome(run.state) for run in runs} == {
        Outcome.PATCHED,
        Outcome.PARTIAL,
        Outcome.STOPPED,
        Outcome.ABORTED,
    }
    assert sum(bool(run.skipped) for run in runs) > 50
    assert sum(bool(run.opened) for run in runs) > 50
    done = [each.how for run in runs for each in run.asked]
    assert all(done.count(how) > 25 for how in REPAIRS)


def patched(seed: int, *, pauses: bool = False, drains: bool = False, alone: bool = False) -> bytes:
    """What becomes of a cluster's hosts, with and without pauses and drains. How a host ends is its own.

    ``alone``: one host at a time, under budgets that may stop it.
    """
    rng, fate = random.Random(seed), random.Random(f"fate {seed}")
    hosts = rng.choice([1, 5, 12])
    policy = a_policy(rng)
    if alone:
        policy = attrs.evolve(policy, max_parallel=1)
    else:
        policy = attrs.evolve(
            policy,
            failure_budget=tolerant(),
            pilot_budget=tolerant(),
            max_out_of_service=100,
        )
    soak = rng.choice([None, Soak(duration=timedelta(minutes=1))])
    plan = cluster_plan(attrs.evolve(policy, soak=soak), hosts, gates=frozenset({2}))
    ends = [fate.choice([GOOD, GOOD, SAME, BAD]) for _ in range(hosts)]
    out = [fate.random() < 0.2 for _ in range(hosts)]
    run = SteeredRun(cluster_state(plan))
    run.tell(SlotsGranted(None))
    for _ in range(50 * hosts):
        if run.over:
            return run.state.codes
        if pauses and rng.random() < 0.3:
            run.tell(PauseChanged(rng.choice([None, "host", "step"])))
        if drains and rng.random() < 0.3:
            run.tell(DrainRequested())
        moves = sorted(run.flying - run.standing)
        waits = sorted(run.standing - run.still if run.halting else run.standing)
        if drained(run.state):
            run.tell(DrainEnded())
        elif waits:
            run.tell(HostHalted(host=waits[0], halted=run.halting))
        elif moves and run.halting and rng.random() < 0.5:
            run.tell(HostHalted(host=moves[0], halted=True))
        elif moves:
            host = rng.choice(moves)
            left_out = out[host] and ends[host] is BAD
            run.tell(HostEnded(host=host, state=ends[host], left_out=left_out))
        elif run.soaking is not None and run.paused is None:
            run.tell(SoakEnded())
        elif run.at_gate is not None:
            run.tell(WavesOpened(frozenset({run.at_gate})))
    raise AssertionError(f"it hangs: {run.state}")


@pytest.mark.volume
@pytest.mark.parametrize("block", range(4))
def test_pauses_and_drains_change_nothing_in_the_end(block: int) -> None:
    """Paused, resumed and drained anywhere, the same hosts are patched as without; a failure names its seed."""
    for seed in range(block * 500, (block + 1) * 500):
        as_ever = patched(seed)
        assert patched(seed, pauses=True) == as_ever, f"seed {seed}, paused"
        assert patched(seed, drains=True) == as_ever, f"seed {seed}, drained"
        assert patched(seed, pauses=True, drains=True) == as_ever, f"seed {seed}, both"


@given(st.integers(0))
def test_a_drain_counts_no_failure_twice_and_forgets_none(seed: int) -> None:
    """One host at a time, budgets stop it at the same host, however often it drains."""
    assert patched(seed, drains=True, alone=True) == patched(seed, alone=True)


def test_what_drains_starts_nothing_and_comes_to_rest() -> None:
    """Hosts in flight end; then another run may take over, and it goes on where it was."""
    policy = RolloutPolicy(pilot_hosts=0, max_parallel=2, waves=[3])
    state, _ = decide(cluster_state(cluster_plan(policy, 5)), SlotsGranted(None))
    state, commands = decide(state, DrainRequested())
    assert (commands, drained(state)) == ((), False)
    state, commands = decide(state, HostEnded(host=0, state=GOOD))
    assert (commands, drained(state)) == ((), False)
    state, commands = decide(state, HostEnded(host=1, state=GOOD))
    assert (commands, drained(state)) == ((), True)
    state, commands = decide(state, DrainEnded())
    assert commands == (StartHost(2),), "the third of its wave"


def test_a_stop_ends_a_drain() -> None:
    """What stops is on its way out: no other run has to take over."""
    state, _ = decide(cluster_state(cluster_plan(RolloutPolicy(), 3)), SlotsGranted(None))
    state, _ = decide(state, DrainRequested())
    state, commands = decide(state, HostEnded(host=0, state=BAD))
    assert state.stopped is not None
    assert (commands, drained(state), state.draining) == ((EndCluster(),), False, False)


def test_what_was_said_about_an_earlier_order_is_not_believed() -> None:
    """Paused after the step, resumed, paused again: who stood still may have moved since."""
    policy = RolloutPolicy(pilot_hosts=0, max_parallel=1)
    state, _ = decide(cluster_state(cluster_plan(policy, 3)), SlotsGranted(None))
    state, _ = decide(state, PauseChanged("step"))
    state, _ = decide(state, HostHalted(host=0, halted=True))
    assert quiet(state)
    state, _ = decide(state, PauseChanged(None))
    state, _ = decide(state, PauseChanged("step"))
    assert not quiet(state)
    state, _ = decide(state, HostHalted(host=0, halted=True))
    assert quiet(state)


def halted_run(in_flight: InFlight) -> ClusterRun:
    """Three hosts in flight of which two stand still, paused after the step."""
    policy = RolloutPolicy(pilot_hosts=0, max_parallel=3, in_flight=in_flight)
    run = begin(policy, 9)
    run.state, commands = decide(run.state, PauseChanged("step"))
    assert commands == (HaltHosts(halt=True),)
    for host in (1, 2):
        run.state, _ = decide(run.state, HostHalted(host=host, halted=True))
    return run


def test_a_stop_lets_go_what_stands_still() -> None:
    """in_flight="finish": nobody can resume what stops, so its hosts would stand still for ever."""
    state, commands = decide(halted_run("finish").state, HostEnded(host=0, state=BAD))
    assert state.stopped is not None
    assert commands == (HaltHosts(halt=False),)
    assert decide(state, PauseChanged("step")) == (state, ())
    told, commands = decide(
        halted_run("finish").state, StopRequested(reason="us-1 stopped", cancel=False)
    )
    assert (told.paused, commands) == (None, (HaltHosts(halt=False),))


def test_a_stop_cancels_what_stands_still() -> None:
    """in_flight="cancel": they are restored, and while they are the cluster is not quiet."""
    state, commands = decide(halted_run("cancel").state, HostEnded(host=0, state=BAD))
    assert commands == (CancelHosts("1 host failed, 0 allowed"),)
    assert not quiet(state)


def test_a_wave_of_which_nothing_has_started_can_be_skipped() -> None:
    """Also the first one, where there are no pilots: before the go, and while paused."""
    plan = cluster_plan(RolloutPolicy(pilot_hosts=0, waves=[2, 3], max_parallel=9), 5)
    state, commands = decide(cluster_state(plan), Skipped(waves=frozenset({1})))
    assert (commands, wave_begun(state, 1)) == ((), False)
    state, commands = decide(state, SlotsGranted(None))
    assert commands == (StartHost(2), StartHost(3), StartHost(4))
    assert counts(state) == {HostState.SKIPPED: 2}
    assert [wave_begun(state, wave) for wave in (1, 2, 3)] == [True, True, False]


@pytest.mark.parametrize("at_gate", [True, False])
def test_to_skip_a_wave_passes_no_gate(at_gate: bool) -> None:
    """What comes after the wave is behind its gate, too: somebody has to approve, then the wave is left out."""
    plan = cluster_plan(RolloutPolicy(waves=[2]), 5, gates=frozenset({1}))
    skipped, ended = Skipped(waves=frozenset({1})), HostEnded(host=0, state=GOOD)
    state, _ = decide(cluster_state(plan), SlotsGranted(None))
    state, commands = decide(state, ended if at_gate else skipped)
    assert commands == ((AskGate(1),) if at_gate else ())
    state, commands = decide(state, skipped if at_gate else ended)
    assert commands == (() if at_gate else (AskGate(1),))
    state, commands = decide(state, WavesOpened(frozenset({1})))
    assert commands == (StartHost(3),)
    assert counts(state)[HostState.SKIPPED] == 2


@pytest.mark.parametrize("at_gate", [True, False])
@pytest.mark.parametrize("waves", [[4], [2], [1, 9]])
def test_a_gate_behind_which_nothing_is_left_is_not_waited_for(
    at_gate: bool, waves: list[int]
) -> None:
    """Nobody has to approve what does not come: each wave after the pilots is skipped, and the cluster ends."""
    plan = cluster_plan(RolloutPolicy(waves=waves), 5, gates=frozenset({1, 2}))
    skipped, ended = Skipped(waves=frozenset({1, 2})), HostEnded(host=0, state=GOOD)
    state, _ = decide(cluster_state(plan), SlotsGranted(None))
    state, _ = decide(state, ended if at_gate else skipped)
    state, commands = decide(state, skipped if at_gate else ended)
    assert commands == (EndCluster(),)
    assert counts(state) == {HostState.PATCHED: 1, HostState.SKIPPED: 4}


@given(st.integers(1, 700), st.integers(1, 500), st.integers(0, 3))
def test_slots_are_given_back_in_few_messages(hosts: int, wide: int, failing: int) -> None:
    """Few slots idle at a cluster's end (an eighth of what it has, none of eight), told in few messages."""
    policy = RolloutPolicy(
        pilot_hosts=0, max_parallel=wide, max_out_of_service=9_999, failure_budget=tolerant()
    )
    state, _ = decide(cluster_state(cluster_plan(policy, hosts)), SlotsGranted(wide))
    told, messages, ended = Told.of(state), 0, 0
    assert told.needs == hosts
    while not state.ended:
        state, _ = decide(state, HostEnded(host=ended, state=BAD if ended < failing else GOOD))
        ended += 1
        assert needs(state) == hosts - ended
        if gives_back(state, told):
            told, messages = Told.of(state), messages + 1
        counted = min(wide, told.needs)
        assert counted - needs(state) < max(counted / 8, 1), "too many idle"
    assert messages <= min(wide, hosts, 48)


def test_no_slot_is_given_back_before_the_end() -> None:
    """While there are more hosts than slots each success frees one for the next host: nothing is told."""
    policy = RolloutPolicy(pilot_hosts=0, max_parallel=3)
    run = begin(policy, 9, slots=3)
    told = Told.of(run.state)
    assert (told.needs, gives_back(run.state, told)) == (9, False)
    run.tell(HostEnded(host=0, state=GOOD))
    assert (needs(run.state), gives_back(run.state, told)) == (8, False)
    run.tell(StopRequested(reason="enough", cancel=False))
    assert (needs(run.state), gives_back(run.state, told)) == (3, False)
    run.tell(HostEnded(host=1, state=GOOD))
    assert (needs(run.state), gives_back(run.state, told)) == (2, True)
    free = begin(policy, 1)
    assert not gives_back(free.state, None), "without a total nobody counts"


def test_what_another_waits_for_is_told_at_once() -> None:
    """A smaller grant, and each host that ends while more are in flight than it allows; nothing else."""
    wide = begin(RolloutPolicy(pilot_hosts=0, max_parallel=3), 9, slots=3).state
    told = Told.of(wide)
    same, _ = decide(wide, SlotsGranted(3))
    assert not gives_way(wide, same, told)
    narrow, _ = decide(wide, SlotsGranted(2))
    assert gives_way(wide, narrow, told)
    assert gives_way(wide, narrow, None)
    halted, _ = decide(narrow, HostHalted(host=0, halted=True))
    assert not gives_way(narrow, halted, told), "as many are in flight as it has said"
    fallen, _ = decide(narrow, HostEnded(host=0, state=GOOD))
    assert gives_way(narrow, fallen, told)
    assert not gives_way(narrow, fallen, None), "it has not said anything yet"
    assert not gives_way(narrow, fallen, Told.of(fallen))
    assert not gives_way(wide, decide(wide, HostEnded(host=0, state=GOOD))[0], told)


def test_what_may_fail_elsewhere_is_told_at_once() -> None:
    """A smaller share of a strict total budget, and each success while more is at risk than it allows."""
    policy = RolloutPolicy(pilot_hosts=0, max_parallel=3, failure_budget=tolerant())
    free = begin(policy, 9).state
    wide, _ = decide(free, SlotsGranted(None, 3))
    assert gives_way(free, wide, Told.of(free))
    told = Told.of(wide)
    narrow, _ = decide(wide, SlotsGranted(None, 2))
    assert gives_way(wide, narrow, told)
    failed, _ = decide(narrow, HostEnded(host=0, state=BAD))
    assert not gives_way(narrow, failed, told), "it counts as before"
    fallen, _ = decide(narrow, HostEnded(host=0, state=GOOD))
    assert gives_way(narrow, fallen, told)


def test_the_limit_that_holds_is_the_one_that_is_named() -> None:
    """A cluster that is stuck at both of its limits is stuck at the larger one."""
    for out, said in ((1, "max_out_of_service is 1"), (2, "max_per_domain is 1")):
        policy = RolloutPolicy(
            pilot_hosts=0,
            failure_budget=tolerant(),
            max_out_of_service=out,
            order=HostOrder(domain_label="rack", max_per_domain=1),
        )
        state, _ = decide(
            cluster_state(cluster_plan(policy, 2, domains=("r1", "r1"))), SlotsGranted(None)
        )
        state, _ = decide(state, HostEnded(host=0, state=BAD, left_out=True))
        assert state.stopped == f"nothing may start: 1 held out of service, {said}"


def test_a_host_that_had_to_wait_begins_only_where_hosts_may_start() -> None:
    """Not while it is paused, outside a window, or when it stops; that it drains is no matter."""
    flying = begin(RolloutPolicy(pilot_hosts=0), 3).state
    assert may_begin(flying)
    assert may_begin(decide(flying, DrainRequested())[0])
    for event in (
        PauseChanged("host"),
        PauseChanged("step"),
        WindowChanged(False),
        StopRequested(reason="enough", cancel=False),
    ):
        after, _ = decide(flying, event)
        assert not may_begin(after), event


def test_a_lower_budget_stops_at_once() -> None:
    """It has been exceeded already: nothing starts any more. What has stopped keeps its reason."""
    wide = RolloutPolicy(pilot_hosts=0, failure_budget=tolerant())
    failed, _ = decide(begin(wide, 4).state, HostEnded(host=0, state=BAD))
    strict = LimitsChanged(cluster_plan(attrs.evolve(wide, failure_budget=FailureBudget()), 4))
    stopped, commands = decide(failed, strict)
    assert stopped.stopped == "1 host failed, 0 allowed"
    assert commands == (CancelHosts("1 host failed, 0 allowed"),)
    told, _ = decide(failed, StopRequested(reason="enough", cancel=False))
    assert decide(told, strict)[0].stopped == "enough"


def test_only_people_can_move_a_cluster_whose_room_is_parked() -> None:
    """As many are out of service as may be: nothing starts beside a parked host, until it is not held."""
    policy = RolloutPolicy(pilot_hosts=0, failure_budget=tolerant(), max_out_of_service=1)
    held = park(begin(policy, 3), BAD)
    assert held.state.in_flight == 0
    assert only_parked(held.state)
    serving = park(begin(policy, 3), BAD, left_out=False)
    assert serving.state.in_flight == 1
    assert not only_parked(serving.state)
    paused, _ = decide(held.state, PauseChanged("host"))
    asked, _ = decide(paused, RepairAsked(number=1, host=0, how="retry"))
    assert not only_parked(asked), "somebody has said what is to be done"
    # Or by rack: only one of each may be out of service.
    order = HostOrder(domain_label="rack", max_per_domain=1)
    policy = attrs.evolve(policy, order=order, max_out_of_service=2)
    for racks, alone in ((("r1", "r1"), True), (("r1", "r2"), False)):
        plan = cluster_plan(policy, 2, domains=racks)
        state, _ = decide(cluster_state(plan), SlotsGranted(1))
        state, _ = decide(state, PauseChanged("host"))
        state, _ = decide(state, HostEnded(host=0, state=BAD, left_out=True, parked=True))
        assert state.in_flight == 0
        assert only_parked(state) == alone


def test_a_cluster_whose_slots_were_taken_back_ends_with_its_last_host() -> None:
    """It does not wait for slots that it cannot use; one that has not begun waits for its go."""
    state, _ = decide(cluster_state(cluster_plan(RolloutPolicy(), 1)), SlotsGranted(1))
    state, commands = decide(state, SlotsGranted(0))
    assert commands == ()
    assert decide(state, HostEnded(host=0, state=GOOD))[1] == (EndCluster(),)
    waits, commands = decide(
        cluster_state(cluster_plan(RolloutPolicy(), 1)), Skipped(hosts=frozenset({0}))
    )
    assert commands == ()
    assert decide(waits, SlotsGranted(None))[1] == (EndCluster(),)


# Parked


def park(run: ClusterRun, *states: HostState, left_out: bool = True) -> ClusterRun:
    """Parks the hosts in flight, the oldest first, which failed like this."""
    for state in states:
        run.tell(HostEnded(host=run.flying[0], state=state, left_out=left_out, parked=True))
    return run


def roomy(most: int = 5, **changes: Any) -> RolloutPolicy:
    """One host at a time, and five may be out of service; no pilots."""
    return attrs.evolve(
        RolloutPolicy(pilot_hosts=0, max_out_of_service=5, failure_budget=tolerant(most)), **changes
    )


def codes(run: ClusterRun) -> str:
    """One letter a host."""
    return run.state.codes.decode()


def test_the_rollout_goes_on_beside_a_parked_host() -> None:
    """It counts as failed and as out of service, and the next host starts."""
    run = park(begin(roomy(), 3), BAD)
    assert codes(run) == "wr."
    assert unanswered(run.state) == (0,)
    assert (run.state.failed, run.state.held) == (1, {0})
    assert host_state(run.state, 0) is None
    assert counts(run.state) == {HostState.NOT_STARTED: 1}


def test_a_cluster_waits_for_the_people_of_its_parked_hosts() -> None:
    """Its list is done, and it does not end before each is answered."""
    run = finish(park(begin(roomy(), 2), BAD), GOOD)
    assert (codes(run), run.over) == ("wP", 0)
    run.answer(0, "retry")
    assert (codes(run), run.flying) == ("rP", [0])
    finish(run, GOOD)
    assert run.over
    assert outcome(run.state) is Outcome.PATCHED


def test_a_repaired_host_gives_its_unit_back() -> None:
    """One failure is allowed: after the repair another one is."""
    run = park(begin(roomy(1), 4), BAD)
    run.answer(0, "retry")
    finish(run, GOOD)
    assert codes(run) == "rP.."
    assert (run.state.failed, run.state.acted) == (0, 1), "in flight, it counts as neither"
    finish(run, GOOD)
    assert (run.state.failed, run.state.held) == (0, frozenset())
    finish(run, BAD)
    assert run.state.stopped is None
    assert codes(run) == "PPFr"


def test_a_host_that_fails_again_takes_its_unit_again() -> None:
    """Parked again, or for good."""
    run = park(begin(roomy(1), 4), BAD)
    run.answer(0, "retry")
    finish(run, GOOD)
    run.tell(HostEnded(host=0, state=GONE, left_out=True, parked=True))
    assert (run.state.failed, run.state.unreachable) == (0, 1)
    finish(run, BAD)
    assert run.state.stopped == "2 hosts failed, 1 allowed"


def test_by_default_a_parked_host_is_restored_at_once() -> None:
    """The default budget of 0 is exceeded by the first failure: nothing is left to wait for."""
    state, _ = decide(cluster_state(cluster_plan(RolloutPolicy(), 3)), SlotsGranted(None))
    failed = HostEnded(host=0, state=BAD, left_out=True, parked=True, why="web-0: dpkg")
    state, commands = decide(state, failed)
    assert commands == (RepairHost(0, "restore"),)
    assert state.stopped == "pilots: 1 host failed, 0 allowed (web-0: dpkg)"
    state, commands = decide(state, HostEnded(host=0, state=BAD))
    assert (commands, state.codes) == ((EndCluster(),), b"F..")


def test_a_stop_gives_back_every_parked_host() -> None:
    """Also those for which somebody had asked, and what parks while it is stopping; then it ends."""
    run = park(begin(roomy(max_parallel=2), 6), BAD, BAD)
    run.tell(PauseChanged("host"))
    run.answer(0, "retry")
    state, commands = decide(run.state, StopRequested(reason="us-1 stopped"))
    assert commands == (
        CancelHosts("us-1 stopped"),
        RepairHost(0, "restore"),
        RepairHost(1, "restore"),
    )
    state, commands = decide(state, HostEnded(host=2, state=BAD, left_out=True, parked=True))
    assert commands == (RepairHost(2, "restore"),)
    for host in (3, 0, 1):
        state, commands = decide(state, HostEnded(host=host, state=BAD))
        assert commands == ()
    state, commands = decide(state, HostEnded(host=2, state=BAD, left_out=True))
    assert commands == (EndCluster(),)
    assert (state.codes, state.held) == (b"FFFF..", {2})


def test_to_skip_a_parked_host_leaves_it_as_it_is() -> None:
    """Its unit stays used, and it stays out of service, in its own state."""
    run = park(begin(roomy(), 3), GONE)
    run.answer(0, "skip")
    assert (codes(run), run.state.unreachable, run.state.held) == ("Xr.", 1, {0})
    finish(run, GOOD, GOOD)
    assert run.over
    assert outcome(run.state) is Outcome.PARTIAL


def test_a_wave_or_a_host_that_is_skipped_leaves_parked_hosts_alone() -> None:
    """They have started: what is to be done with them is said by their own name."""
    run = park(begin(roomy(), 3), BAD)
    run.tell(Skipped(hosts=frozenset({0}), waves=frozenset({1})))
    assert codes(run) == "wr."


def test_a_repair_starts_before_any_new_host() -> None:
    """As soon as there is room."""
    run = park(begin(roomy(), 3), BAD)
    run.answer(0, "accept")
    assert run.flying == [1]
    finish(run, GOOD)
    assert codes(run) == "rP."


def test_a_restore_starts_whatever_holds() -> None:
    """Paused, outside of a window, without slots: to give a host back needs none of it. A retry waits."""
    run = park(begin(roomy(), 3), BAD, BAD)
    run.tell(WindowChanged(False))
    run.tell(SlotsGranted(0))
    run.state, _ = decide(run.state, PauseChanged("host"))
    run.answer(0, "retry")
    assert codes(run) == "wwr"
    run.answer(1, "restore")
    assert codes(run) == "wrr"
    finish(run, GOOD, BAD)
    assert codes(run) == "wFP"
    for event in (PauseChanged(None), WindowChanged(True)):
        run.tell(event)
        assert codes(run) == "wFP"
    run.tell(SlotsGranted(1))
    assert codes(run) == "rFP"


def test_nothing_is_repaired_before_all_orders_are_heard() -> None:
    """A restore, too: the pause that comes with it is known when it starts."""
    run = park(begin(roomy(), 3), BAD)
    asked = RepairAsked(number=1, host=0, how="retry")
    together = Ordered((asked, PauseChanged("host"), SlotsGranted(3)))
    state, commands = decide(run.state, together)
    assert (commands, state.codes) == ((), b"wr.")


def test_an_order_counts_once() -> None:
    """The same message again after the host was parked again: nobody has asked for that."""
    run = park(begin(roomy(), 1), BAD)
    asked = RepairAsked(number=1, host=0, how="retry")
    run.tell(asked)
    park(run, BAD)
    assert decide(run.state, asked) == (run.state, ())
    again = attrs.evolve(asked, number=2, step="stop_services")
    assert decide(run.state, again)[1] == (RepairHost(0, "retry", "stop_services"),)


def test_who_is_out_of_service_may_be_repaired_there() -> None:
    """By default one may be out: it is the parked one, and its repair takes no more room."""
    run = park(begin(roomy(max_out_of_service=1), 3), BAD)
    assert codes(run) == "w.."
    run.answer(0, "retry")
    assert codes(run) == "r.."
    finish(run, GOOD)
    assert codes(run) == "Pr."


def test_who_is_in_service_is_repaired_only_where_there_is_room() -> None:
    """It would be one more that is out; as long as somebody can make room, it waits."""
    run = begin(roomy(max_out_of_service=1), 3)
    park(run, BAD, left_out=False)
    park(run, BAD)
    run.answer(0, "retry")
    assert (codes(run), run.over) == ("ww.", 0)
    run.answer(1, "restore")
    finish(run, BAD)
    assert codes(run) == "rF."


def test_a_repair_for_which_nobody_can_make_room_stops() -> None:
    """It says so, as for a new host, and the host is given back."""
    run = begin(roomy(max_out_of_service=1), 2)
    park(run, BAD, left_out=False)
    park(run, BAD)
    run.answer(0, "retry")
    run.answer(1, "skip")
    assert run.state.stopped == "nothing may start: 1 held out of service, max_out_of_service is 1"
    assert (codes(run), run.flying) == ("rF", [0])
    finish(run, BAD)
    assert run.over


def test_who_has_no_room_does_not_wait_for_a_unit_of_the_total_budget() -> None:
    """The unit would be of no use; and the rollout may wait for the one that the repair would give back."""
    run = begin(roomy(max_out_of_service=1), 3)
    run.tell(SlotsGranted(1, 2))
    park(run, BAD, left_out=False)
    park(run, BAD)
    run.answer(0, "retry")
    assert run.state.stopped is None, "a person can make room"
    run.answer(1, "skip")
    assert run.state.stopped == "nothing may start: 1 held out of service, max_out_of_service is 1"


def test_who_has_room_waits_for_a_unit_of_the_total_budget() -> None:
    """Another cluster may give it back."""
    run = begin(roomy(max_out_of_service=2), 3)
    run.tell(SlotsGranted(1, 1))
    finish(run, BAD, left_out=True)
    assert (codes(run), run.state.stopped) == ("F..", None)
    run.tell(SlotsGranted(1, 2))
    assert codes(run) == "Fr."


def test_a_wave_goes_on_past_a_parked_host() -> None:
    """For a barrier it has ended; a repair is in flight, so the next wave waits for its end."""
    run = begin(roomy(waves=[1, 1, 9]), 3)
    park(run, BAD)
    assert codes(run) == "wr."
    run.answer(0, "retry")
    finish(run, GOOD)
    assert codes(run) == "rP."
    finish(run, GOOD)
    assert codes(run) == "PPr"


def test_a_repair_counts_in_the_wave_that_it_was_of() -> None:
    """Its new end says nothing of the present wave, in which every host fails."""
    forgiving = FailureBudget(max_failures=9)
    run = begin(roomy(waves=[1, 3], max_parallel=2, failure_budget=forgiving), 4)
    park(run, BAD)
    run.answer(0, "retry")
    finish(run, BAD, BAD)
    assert codes(run) == "rFFr"
    run.tell(HostEnded(host=0, state=GOOD))
    run.tell(HostEnded(host=3, state=BAD))
    assert run.state.stopped == "every host of wave 2 that was acted on failed"


def test_a_pilot_that_is_repaired_after_its_gate_asks_is_not_replaced() -> None:
    """People have been asked about these pilots: no host starts while they vote."""
    policy = roomy(pilot_hosts=2, pilot_budget=tolerant(2))
    state = cluster_state(cluster_plan(policy, 9, gates=frozenset({1})))
    state, _ = decide(state, SlotsGranted(None))
    state, _ = decide(state, HostEnded(host=0, state=BAD, parked=True))
    state, commands = decide(state, HostEnded(host=1, state=GOOD))
    assert commands == (AskGate(1),)
    state, commands = decide(state, RepairAsked(number=1, host=0, how="retry"))
    assert commands == (RepairHost(0, "retry"),)
    state, commands = decide(state, HostEnded(host=0, state=SAME))
    assert commands == ()
    state, commands = decide(state, WavesOpened(frozenset({1})))
    assert (commands, state.group.wave) == ((StartHost(2),), 1)


def test_only_so_many_are_parked_at_once() -> None:
    """The next one is restored at once; the budget counts it all the same."""
    policy = roomy(MAX_PARKED, max_out_of_service=1_000)
    run = park(begin(policy, MAX_PARKED + 2), *[BAD] * MAX_PARKED)
    assert len(unanswered(run.state)) == MAX_PARKED
    run.state = attrs.evolve(run.state, plan=cluster_plan(roomy(999), MAX_PARKED + 2))
    state, commands = decide(
        run.state, HostEnded(host=MAX_PARKED, state=BAD, left_out=True, parked=True)
    )
    assert commands == (RepairHost(MAX_PARKED, "restore"),)
    assert len(unanswered(state)) == MAX_PARKED


def skipped_or_failed(seed: int, *, parks: bool) -> tuple[bytes, str | None, frozenset[int]]:
    """What becomes of a cluster whose failed hosts fail, or are parked and skipped at once."""
    rng, fate = random.Random(seed), random.Random(f"fate {seed}")
    hosts = rng.choice([1, 5, 12])
    ends = [(fate.choice([GOOD, GOOD, SAME, BAD, GONE]), fate.random() < 0.5) for _ in range(hosts)]
    run = begin(a_policy(rng), hosts)
    while run.flying:
        host = rng.choice(sorted(run.flying))
        state, out = ends[host][0], ends[host][1] and ends[host][0] in (BAD, GONE)
        may_park = parks and state in (BAD, GONE) and host not in run.repairing
        run.tell(HostEnded(host=host, state=state, left_out=out, parked=may_park))
        if host in run.flying:  # it has stopped: given back, it fails
            run.tell(HostEnded(host=host, state=state, left_out=out))
        elif may_park and not run.over:
            run.answer(host, "skip")
    assert run.over
    return run.state.codes, run.state.stopped, run.state.held


@pytest.mark.parametrize("block", range(4))
def test_to_park_and_skip_is_to_fail(block: int) -> None:
    """The same hosts end the same, and it stops for the same reason; a failure names its seed."""
    for seed in range(block * 500, (block + 1) * 500):
        failed = skipped_or_failed(seed, parks=False)
        assert skipped_or_failed(seed, parks=True) == failed, f"seed {seed}"
