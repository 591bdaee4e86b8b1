"""The same world, led by Hypothesis: what it finds it makes as small as it can be.

The seeds of ``play`` try far more, and far larger rollouts. Here each choice is Hypothesis's own, down to the
hosts and the policy, so a failure is shown as the few steps that are needed for it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import hypothesis
import pytest
from hypothesis import Phase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from temporal_patching.policy import (
    DEFAULT_STEPS,
    ApprovalPolicy,
    FailureBudget,
    RolloutPolicy,
    Soak,
)
from temporal_patching.policy import _cluster as cluster_machine
from temporal_patching.policy._steps import resolve

from . import fleet, play
from .invariants import Broken
from .scenario import APPROVERS, DIGEST, HostTraits, Scenario
from .world import World

STEPS = resolve(
    DEFAULT_STEPS,
    {"set_maintenance_mode", "perform_update", "check_service_health", "clear_maintenance_mode"},
)
"""As few as there are with something to give back."""

budgets = st.builds(FailureBudget, max_failures=st.sampled_from((0, 1, 9)), strict=st.booleans())
policies = st.builds(
    RolloutPolicy,
    pilot_hosts=st.integers(0, 1),
    waves=st.sampled_from((("100%",), (1, 2))),
    max_parallel=st.integers(1, 3),
    max_out_of_service=st.sampled_from((9, None)),
    max_parallel_total=st.sampled_from((None, 1, 2)),
    soak=st.sampled_from((None, Soak(duration=timedelta(minutes=1)))),
    failure_budget=budgets,
    total_failure_budget=st.none() | budgets,
    in_flight=st.sampled_from(("cancel", "finish")),
    stop_scope=st.sampled_from(("rollout", "cluster")),
    on_host_failure=st.sampled_from(("fail", "park")),
)
verbs = st.one_of(
    st.fixed_dictionaries({"verb": st.just("pause"), "after": st.sampled_from(("host", "step"))}),
    st.fixed_dictionaries({"verb": st.just("resume")}),
    st.fixed_dictionaries({"verb": st.just("abort"), "now": st.booleans()}),
    st.fixed_dictionaries({"verb": st.just("skip"), "host": st.sampled_from(("c0-0", "c1-1"))}),
    st.fixed_dictionaries(
        {
            "verb": st.just("set_limits"),
            "to": st.fixed_dictionaries({"max_parallel_total": st.sampled_from((None, 1, 3))}),
        }
    ),
)


class RolloutMachine(RuleBasedStateMachine):
    """A rollout of a few hosts. After each step, and at its end, all the invariants hold."""

    world: World

    @initialize(
        policy=policies,
        sizes=st.lists(st.integers(1, 3), min_size=1, max_size=2),
        gates=st.sets(st.sampled_from(("start", "promote", "wave-2"))),
    )
    def begin(self, policy: RolloutPolicy, sizes: list[int], gates: set[str]) -> None:
        """Some hosts, a policy, and the gates that people guard."""
        guarded = ApprovalPolicy(approvers=APPROVERS, timeout=timedelta(hours=1))
        self.world = World(
            Scenario(
                seed=0,
                clusters={
                    f"c{number}": tuple(HostTraits(name=f"c{number}-{at}") for at in range(size))
                    for number, size in enumerate(sizes)
                },
                policy=policy,
                gates={
                    gate: guarded
                    for gate in sorted(gates)
                    if policy.pilot_hosts or gate != "promote"
                },
                steps=STEPS,
            )
        )

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        """One of what may happen next; a step's attempt ends well, or as it may."""
        ready = [] if self.world.ended else self.world.ready()
        if not ready:
            return
        action = data.draw(st.sampled_from(ready))
        if action[0] == "step":
            flight = self.world._flight(action[1])
            assert flight is not None
            assert flight.running is not None
            last = flight.attempt >= fleet.MAX_ATTEMPTS
            ends = fleet.ends(flight.running.step, interrupted=flight.interrupted, last=last)
            action = [*action, data.draw(st.sampled_from(("ok", *ends)))]
        elif action[0] == "vote":
            action = [*action, data.draw(st.sampled_from(APPROVERS)), True, DIGEST]
        elif action[0] in play.DOUBLED and data.draw(st.booleans()):
            action = [*action, True]
        self.world.apply(action)

    @rule(said=verbs)
    def somebody_asks(self, said: dict[str, Any]) -> None:
        """A verb, legal or not."""
        self.world.apply(["verb", said])

    @rule(is_open=st.booleans())
    def a_window(self, is_open: bool) -> None:
        """Opens or closes."""
        self.world.apply(["window", is_open])

    @rule(which=st.integers(0, 1))
    def a_history_is_full(self, which: int) -> None:
        """A cluster drains, and continues as new."""
        names = list(self.world.clusters)
        self.world.apply(["drain", names[which % len(names)]])

    def teardown(self) -> None:
        """Everything is mended: it ends."""
        if hasattr(self, "world"):
            play.mend(self.world)
            self.world.watch.rollout_over()


FEW = hypothesis.settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)


def test_whatever_happens_the_invariants_hold() -> None:
    """A few dozen rollouts of up to six hosts; ``--hypothesis-profile=nightly`` leaves it at that."""
    hypothesis.stateful.run_state_machine_as_test(RolloutMachine, settings=FEW)


def test_what_it_finds_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that starts one host too many is shown with two hosts, and little else."""
    may_start = cluster_machine._may_start

    def one_more(state: cluster_machine.ClusterState) -> bool:
        room = state.in_flight == state.plan.max_parallel and cluster_machine._room_in_group(state)
        return may_start(state) or (room and state.slots != 0)

    monkeypatch.setattr(cluster_machine, "_may_start", one_more)
    found: list[World] = []

    class Found(RolloutMachine):
        def teardown(self) -> None:
            found.append(self.world)
            super().teardown()

    settings = hypothesis.settings(FEW, max_examples=300, database=None, derandomize=True)
    with pytest.raises(Broken, match="S1"):
        hypothesis.stateful.run_state_machine_as_test(Found, settings=settings)
    smallest = found[-1]
    assert sum(len(each.hosts) for each in smallest.clusters.values()) == 2
