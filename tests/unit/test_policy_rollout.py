"""The rollout over its clusters: the plan, the gate, grants, and who stops whom, in any order of events."""

from __future__ import annotations

import random
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_patching.policy import FailureBudget, Outcome, RolloutPolicy
from temporal_patching.policy._amount import rounded_down
from temporal_patching.policy._rollout import (
    AbortRequested,
    CancelCluster,
    ClusterEnded,
    ClusterNotPlanned,
    ClusterPlanned,
    ClusterProgressed,
    EndRollout,
    GatePassed,
    GateShut,
    GrantSlots,
    OpenGate,
    PlanLimits,
    RolloutCommand,
    RolloutEvent,
    RolloutState,
    StopCluster,
    decide,
    rollout_state,
)

SEEDS = 6_000


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
    failed: int = 0


@attrs.define
class RolloutRun:
    """A rollout that is driven event by event, and an account of it."""

    state: RolloutState
    clusters: dict[str, Cluster]
    gate_open: bool = False
    gate_passed: bool = False
    over: int = 0
    commands: list[RolloutCommand] = attrs.field(factory=list[RolloutCommand])

    def tell(self, event: RolloutEvent) -> list[RolloutCommand]:
        """One event; the rules hold after it whatever it is."""
        before = self.state
        self.state, commands = decide(before, event)
        if isinstance(event, (ClusterPlanned, ClusterNotPlanned)):
            self.clusters[event.cluster].planned = True
        if isinstance(event, ClusterEnded):
            self.clusters[event.cluster].ended = True
        if isinstance(event, GatePassed) and self.gate_open:
            self.gate_passed = True
        for command in commands:
            self.take(command)
        assert decide(self.state, event) == (self.state, ()), "told twice"
        self.check_grants()
        assert self.over == (self.state.phase == "ended")
        return list(commands)

    def take(self, command: RolloutCommand) -> None:
        """Carries a command out."""
        self.commands.append(command)
        if isinstance(command, OpenGate):
            assert not self.gate_open
            assert all(each.planned for each in self.clusters.values())
            self.gate_open = True
        elif isinstance(command, GrantSlots):
            cluster = self.clusters[command.cluster]
            assert all(each.planned or each.ended for each in self.clusters.values())
            assert self.gate_passed or not self.state.has_gate, "nothing before the gate"
            assert not cluster.ended
            assert not cluster.told, "nothing is granted to who was told to stop"
            if cluster.granted:
                assert cluster.slots is not None
                assert command.slots is not None
                assert command.slots > cluster.slots, "a grant is never taken back"
            cluster.granted, cluster.slots = True, command.slots
        elif isinstance(command, (StopCluster, CancelCluster)):
            assert not self.clusters[command.cluster].ended
            self.clusters[command.cluster].told.append(command.reason)
        else:
            assert isinstance(command, EndRollout)
            assert all(each.ended for each in self.clusters.values())
            self.over += 1

    def check_grants(self) -> None:
        """Never more slots than max_parallel_total, never more clusters than may run at once."""
        running = [each for each in self.clusters.values() if each.granted and not each.ended]
        policy = self.state.policy
        if policy.max_parallel_total is not None:
            hosts = sum(view.hosts for view in self.state.clusters)
            total = max(rounded_down(policy.max_parallel_total, hosts), 1)
            assert sum(each.slots or 0 for each in running) <= total
            assert all(each.slots for each in running)
        if policy.max_parallel_clusters is not None:
            assert len(running) <= policy.max_parallel_clusters


def names(cluster: str, count: int) -> tuple[str, ...]:
    """Host names of a cluster."""
    return tuple(f"{cluster}-{index}" for index in range(count))


def new(
    hosts: dict[str, int], policy: RolloutPolicy | None = None, *, gate: bool = False, **limits: Any
) -> RolloutRun:
    """A rollout whose clusters list their hosts."""
    state = rollout_state(
        policy or RolloutPolicy(), PlanLimits(**limits), tuple(hosts), has_gate=gate
    )
    return RolloutRun(state, {name: Cluster(name, count) for name, count in hosts.items()})


def planned(run: RolloutRun, cluster: str, **told: Any) -> list[RolloutCommand]:
    """This cluster has made its list."""
    hosts = told.pop("hosts", names(cluster, run.clusters[cluster].hosts))
    return run.tell(
        ClusterPlanned(
            cluster=cluster, hosts=hosts, max_parallel=told.pop("max_parallel", 5), **told
        )
    )


def running(
    hosts: dict[str, int], policy: RolloutPolicy | None = None, *, gate: bool = False
) -> RolloutRun:
    """A rollout whose plan is complete and whose gate was passed."""
    run = new(hosts, policy, gate=gate)
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


def play(rng: random.Random, policy: RolloutPolicy) -> RolloutRun:
    """Any legal order of events: clusters plan, fail to, run, stop, die; people vote and abort."""
    count = rng.randint(1, 6)
    gate = rng.random() < 0.5
    run = new(
        {f"c{index}": rng.choice([0, 1, 5, 50]) for index in range(count)},
        policy,
        gate=gate,
        allow_empty=rng.random() < 0.8,
        max_hosts=rng.choice([None, None, None, 60]),
        expect_hosts=rng.choice([None, None, None, 50]),
    )
    trouble, death = rng.choice([0.0, 0.1, 0.5]), rng.choice([0.0, 0.0, 0.05])
    abort = rng.choice([0.0, 0.0, 0.05])
    for _ in range(500):
        if run.over:
            break
        if rng.random() < abort:
            run.tell(AbortRequested("enough"))
        cluster = rng.choice(
            [each for each in run.clusters.values() if not each.ended] or [*run.clusters.values()]
        )
        if rng.random() < death:
            run.tell(ended(cluster.name, Outcome.STOPPED, "terminated"))
        elif run.gate_open and not run.gate_passed and not cluster.told:
            if rng.random() < 0.3:
                outcome = rng.choice([Outcome.REJECTED, Outcome.EXPIRED])
                run.tell(
                    GatePassed() if rng.random() < 0.6 else GateShut(outcome=outcome, reason="no")
                )
        elif not cluster.planned and not cluster.told:
            if rng.random() < 0.05:
                run.tell(ClusterNotPlanned(cluster=cluster.name, problem="no inventory"))
            else:
                planned(run, cluster.name, max_parallel=rng.randint(1, 9))
        elif cluster.told:
            # Its list may be on its way still; somebody who was told to stop ends, sooner or later.
            if not cluster.planned and rng.random() < 0.3:
                planned(run, cluster.name)
            if rng.random() < 0.5:
                run.tell(ended(cluster.name, Outcome.STOPPED, cluster.told[0]))
        elif cluster.granted:
            bad = rng.random() < trouble
            cluster.failed += bad
            counts: dict[str, Any] = {
                "acted": cluster.failed,
                "failed": cluster.failed,
                "unreachable": 0,
            }
            stopped = "too many" if bad and rng.random() < 0.3 else None
            if stopped is None and rng.random() < 0.4:
                outcome = Outcome.PARTIAL if cluster.failed else Outcome.PATCHED
                run.tell(ended(cluster.name, outcome, **counts))
            else:
                run.tell(ClusterProgressed(cluster=cluster.name, stopped=stopped, **counts))
                if stopped:
                    run.tell(ended(cluster.name, Outcome.STOPPED, stopped, **counts))
    return run


def check(run: RolloutRun) -> None:
    """What holds for every rollout at its end."""
    assert run.over == 1, "it ends"
    if run.state.outcome is None:
        assert all(each.granted for each in run.clusters.values()), "every cluster had its turn"
    else:
        assert run.state.reason


def a_policy(rng: random.Random) -> RolloutPolicy:
    """A policy, by chance."""
    return RolloutPolicy(
        max_parallel_total=rng.choice([None, rng.randint(1, 9), f"{rng.randint(1, 100)}%"]),
        max_parallel_clusters=rng.choice([None, rng.randint(1, 4)]),
        total_failure_budget=rng.choice([None, FailureBudget(max_failures=rng.randint(0, 5))]),
        stop_scope=rng.choice(["rollout", "cluster"]),
    )


@pytest.mark.parametrize("block", range(6))
def test_any_order_of_events_ends(block: int) -> None:
    """Thousands of rollouts: grants keep their sums, nothing runs before the gate, each one ends."""
    for seed in range(block * SEEDS // 6, (block + 1) * SEEDS // 6):
        rng = random.Random(seed)
        try:
            check(play(rng, a_policy(rng)))
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@given(st.integers(min_value=SEEDS))
def test_any_order_of_events_ends_property(seed: int) -> None:
    """The same, as a property."""
    rng = random.Random(seed)
    check(play(rng, a_policy(rng)))


def test_the_simulation_reaches_every_outcome() -> None:
    """The simulated rollouts end in every way that a rollout can decide by itself."""
    outcomes = set()
    for seed in range(1_000):
        rng = random.Random(seed)
        outcomes.add(play(rng, a_policy(rng)).state.outcome)
    assert outcomes == {None, Outcome.STOPPED, Outcome.REJECTED, Outcome.EXPIRED, Outcome.ABORTED}


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
    assert run.tell(AbortRequested("enough")) == []
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
    """Three clusters share four slots; what one leaves goes to the others, nothing is taken back."""
    run = running({"a": 9, "b": 9, "c": 9}, RolloutPolicy(max_parallel_total=4))
    assert run.commands == [GrantSlots("a", 2), GrantSlots("b", 1), GrantSlots("c", 1)]
    assert run.tell(ended("b")) == [GrantSlots("a", 3)]
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


def test_counts_are_cumulative() -> None:
    """Neither an old message nor an end without a report makes failures undone."""
    policy = RolloutPolicy(total_failure_budget=FailureBudget(max_failures=3), stop_scope="cluster")
    run = running({"a": 10, "b": 10}, policy)
    run.tell(ClusterProgressed(cluster="a", acted=5, failed=2, unreachable=1))
    run.tell(ClusterProgressed(cluster="a", acted=4, failed=1, unreachable=0))
    run.tell(ended("a", Outcome.STOPPED, "its workflow ended without a report"))
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
    commands = run.tell(AbortRequested("aborted: enough"))
    left = ["b"] if phase == "stopping" else ["a", "b"]
    assert commands == [CancelCluster(name, "aborted: enough") for name in left]
    assert run.tell(AbortRequested("again")) == []
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
        run.tell(AbortRequested("enough"))
        assert planned(run, "b") == []
        assert run.state.outcome is Outcome.ABORTED


def test_the_first_of_several_reasons_stays() -> None:
    """Clusters that stop one after the other, each alone: the rollout names the first."""
    run = running({"a": 9, "b": 9}, RolloutPolicy(stop_scope="cluster"))
    run.tell(ended("a", Outcome.STOPPED, "1 host failed"))
    run.tell(ended("b", Outcome.STOPPED, "2 hosts failed"))
    assert run.state.reason == "cluster 'a': 1 host failed"


def test_an_old_message_takes_no_sample_back() -> None:
    """The sample of a percentage is cumulative, too."""
    budget = FailureBudget(max_failures="10%", min_sample=8)
    run = running({"a": 10, "b": 10}, RolloutPolicy(total_failure_budget=budget))
    run.tell(ClusterProgressed(cluster="a", acted=7, failed=3, unreachable=0))
    run.tell(ClusterProgressed(cluster="a", acted=1, failed=1, unreachable=0))
    assert run.state.outcome is None
    run.tell(ClusterProgressed(cluster="b", acted=1, failed=0, unreachable=0))
    assert run.state.reason == "over all clusters: 3 hosts failed, 2 allowed"
