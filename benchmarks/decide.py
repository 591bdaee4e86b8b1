"""How many events a second the machines of ``policy`` decide, on one core.

    python benchmarks/decide.py [--seeds 300] [--rounds 5]

Rollouts of 20 hosts are simulated as in ``tests/sim``, faults, verbs and overtaken messages included, and what
each machine was told is written down. Then only ``decide`` runs: each machine from the same state with the same
events, without hosts, messages or checks; the states at the end have to be the same again. What is printed is
the best of the rounds, in seconds of one core: whatever else the machine does only ever adds to it.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

sys.path.insert(0, str(Path(__file__).parent.parent))

from temporal_patching.policy import FailureBudget, HostState
from temporal_patching.policy import _cluster as cluster
from temporal_patching.policy import _host as host
from temporal_patching.policy import _rollout as rollout
from tests.sim import play
from tests.sim.scenario import HostTraits, Scenario, scenario

HOSTS = 20
FINISHED = (HostState.PATCHED, HostState.UNCHANGED, HostState.REBOOT_PENDING)
MACHINES: dict[str, Any] = {"host": host, "cluster": cluster, "rollout": rollout}

Decide = Callable[[Any, Any], tuple[Any, Any]]


@attrs.define
class Stretch:
    """What one machine was told, from a state that it was given to the one that it was left in."""

    first: Any
    last: Any
    events: list[Any]


class Recorder:
    """Stands in for ``decide`` while rollouts are simulated."""

    def __init__(self, decide: Decide) -> None:
        self._decide = decide
        self._open: dict[int, Stretch] = {}
        self.stretches: list[Stretch] = []

    def __call__(self, state: Any, event: Any) -> tuple[Any, Any]:
        stretch = self._open.pop(id(state), None)
        if stretch is None or stretch.last is not state:
            stretch = Stretch(state, state, [])
            self.stretches.append(stretch)
        stretch.events.append(event)
        stretch.last, commands = self._decide(state, event)
        self._open[id(stretch.last)] = stretch
        return stretch.last, commands


def twenty_hosts(seed: int) -> Scenario:
    """The rollout of a seed, for 20 hosts that it mostly gets through, in as many clusters."""
    given = scenario(seed)
    names, tolerant = (
        list(given.clusters),
        FailureBudget(max_failures=99, stop_on_failed_wave=False),
    )
    clusters = {
        name: tuple(
            HostTraits(name=f"{name}-{number}", domain=f"r{number % 3}")
            for number in range(at, HOSTS, len(names))
        )
        for at, name in enumerate(names)
    }
    return attrs.evolve(
        given,
        clusters=clusters,
        policy=attrs.evolve(
            given.policy,
            pilot_budget=tolerant,
            failure_budget=tolerant,
            total_failure_budget=None,
            max_out_of_service=HOSTS,
        ),
        limits=attrs.evolve(
            given.limits, plan_digest="", dry_run=False, max_hosts=None, expect_hosts=None
        ),
        faults={fault: min(weight, 1.0) for fault, weight in given.faults.items()},
        steered=min(given.steered, 0.02),
    )


def record(seeds: int) -> tuple[dict[str, list[Stretch]], float]:
    """What the machines are told in that many rollouts, and how many hosts the median one finishes."""
    recorders = {name: Recorder(machine.decide) for name, machine in MACHINES.items()}
    finished = []
    for name, machine in MACHINES.items():
        machine.decide = recorders[name]
    try:
        for seed in range(seeds):
            run = play.play_scenario(twenty_hosts(seed))
            assert run.failure is None, run.failure.line
            states = [each.state for each in run.world.clusters.values()]
            found = [
                cluster.host_state(state, at) for state in states for at in range(len(state.codes))
            ]
            finished.append(sum(each in FINISHED for each in found))
    finally:
        for name, machine in MACHINES.items():
            machine.decide = recorders[name]._decide
    return {name: each.stretches for name, each in recorders.items()}, statistics.median(finished)


def replay(decide: Decide, stretches: list[Stretch]) -> list[Any]:
    """The machines again; answers the states that they end in."""
    ends = []
    for stretch in stretches:
        state = stretch.first
        for event in stretch.events:
            state, _ = decide(state, event)
        ends.append(state)
    return ends


def seconds(decide: Decide, stretches: list[Stretch], rounds: int) -> float:
    """The best of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        gc.collect()
        began = time.process_time()
        ends = replay(decide, stretches)
        best = min(best, time.process_time() - began)
        assert ends == [stretch.last for stretch in stretches]
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    recorded, finished = record(asked.seeds)
    print(f"{asked.seeds} rollouts of {HOSTS} hosts; the median one finishes {finished:g}")
    all_events, all_seconds = 0, 0.0
    for name, stretches in recorded.items():
        events = sum(len(stretch.events) for stretch in stretches)
        took = seconds(MACHINES[name].decide, stretches, asked.rounds)
        all_events, all_seconds = all_events + events, all_seconds + took
        print(f"{name:8} {events:9,} events {events / took:9,.0f} events/s")
    print(f"{'together':8} {all_events:9,} events {all_events / all_seconds:9,.0f} events/s")


if __name__ == "__main__":
    main()
