"""Runs: chaos from a seed, then everything is mended and the rollout has to end. Replayed, and made smaller."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, get_args

import attrs

from temporal_patching.policy import FailureBudget
from temporal_patching.policy._repair import Repair
from temporal_patching.policy._rollout_state import ResumeRequested
from temporal_patching.policy._verbs import why_refused

from . import fleet, scenario
from .invariants import Broken
from .scenario import APPROVERS, DIGEST, FAULTS, Scenario, budget, total_budget
from .world import Action, World

REGRESSIONS = Path(__file__).parent.parent / "regressions"

REPAIRS: tuple[Repair, ...] = get_args(Repair)

DOUBLED = ("orders", "news", "host_orders", "host_news", "result")
"""Actions that deliver a message: it may arrive again."""

SEEN_BY_EVERY_BATCH = (
    *(f"fault {fault}" for fault in FAULTS),
    "fault interrupted",
    "fault interrupted_done",
    "fault interrupted_fails",
    *(f"repair {how}" for how in REPAIRS),
    *(
        f"host {state}"
        for state in (
            "PATCHED",
            "UNCHANGED",
            "FAILED",
            "UNREACHABLE",
            "REBOOT_PENDING",
            "SKIPPED",
            "CANCELLED",
            "NOT_STARTED",
            "GONE",
        )
    ),
    *(
        f"rollout {outcome}"
        for outcome in ("PATCHED", "PARTIAL", "STOPPED", "REJECTED", "EXPIRED", "ABORTED")
    ),
    "rollout PLANNED",
    *(f"abort while {phase}" for phase in ("listing", "gate", "running", "pausing", "paused")),
    "abort while stopping",
    *(
        f"a cluster cancelled while {phase}"
        for phase in (
            "listing",
            "waiting",
            "in its pilots",
            "in a wave",
            "soaking",
            "at a gate",
            "parked",
            "stopping",
        )
    ),
    "verb PauseRequested",
    "verb ResumeRequested",
    "verb LimitsRequested",
    "verb SkipRequested",
    "verb RepairRequested",
    "a verb was refused",
    "a vote was refused",
    "a gate asked again",
    "a cluster stopped by itself",
    "a pause hit in mid-procedure",
    "everything stood still",
    "an update was torn apart",
    "a host cancelled in mid-procedure",
    "a host was busy",
    "a host was in maintenance before",
    "a host was left out of service",
    "a host needed nothing",
    "a retry with a checkpoint",
    "a closer ran on the way back",
    "a cluster continued as new",
    "a parked host was carried over",
    "a message came twice",
    "a message was overtaken",
    "a strict budget held",
    "a cluster was stuck",
    "a window closed",
    "a soak ended",
)
"""What has to have happened in a batch of 2,000 runs: else it has proven nothing about it."""


@attrs.frozen
class Failure:
    """A run in which something did not hold."""

    invariant: str
    said: str
    scenario: Scenario
    actions: Sequence[Action]

    @property
    def line(self) -> str:
        """What to tell of it."""
        seed = self.scenario.seed
        return f"seed {seed}: {self.said} | replay: python -m tests.sim replay {seed}"


@attrs.define
class Run:
    """One run, as it went."""

    world: World
    actions: list[Action]
    failure: Failure | None = None


# By chance


def play(seed: int) -> Run:
    """A run by chance: the same for the same seed."""
    return play_scenario(scenario.scenario(seed))


def play_scenario(given: Scenario) -> Run:
    """A run by chance of what is given."""
    chance = _Chance(given)

    def next_action(world: World) -> Action | None:
        return chance.next_action(world) if world.moment < given.turns else None

    return _run(given, next_action)


def replay(given: Scenario, actions: Iterable[Action]) -> Run:
    """The same run again. What can not happen any more is left out."""
    rest = iter(actions)
    return _run(given, lambda world: next(rest, None))


def _run(given: Scenario, next_action: Callable[[World], Action | None]) -> Run:
    actions: list[Action] = []
    world = World(given)
    run = Run(world, actions)
    try:
        while not world.ended:
            action = next_action(world)
            if action is None:
                break
            actions.append(action)
            world.apply(action)
        mend(world)
        world.watch.rollout_over()
    except Broken as broken:
        run.failure = Failure(broken.invariant, str(broken), given, actions)
    except Exception as error:
        name = type(error).__name__
        run.failure = Failure(name, f"{name} at moment {world.moment}: {error}", given, actions)
    return run


class _Chance:
    """Chooses what happens next. Each host has a stream of its own for how its attempts end."""

    def __init__(self, given: Scenario) -> None:
        self._given = given
        self._rng = Random(f"{given.seed}/what")
        self._hosts = {
            host.name: Random(f"{given.seed}/{host.name}/how")
            for hosts in given.clusters.values()
            for host in hosts
        }

    def next_action(self, world: World) -> Action | None:
        """What happens next; None: nothing can, by itself."""
        rng, given = self._rng, self._given
        if rng.random() < given.steered:
            steered = self._steer(world)
            if steered is not None:
                return steered
        if rng.random() < given.drains:
            return ["drain", rng.choice(list(given.clusters))]
        ready = world.ready()
        if not ready:
            return None
        action = rng.choice(ready)
        if action[0] == "step":
            return [*action, self._how(world, action[1])]
        if action[0] == "vote":
            return self._vote(action[1])
        if action[0] in DOUBLED and rng.random() < given.doubled:
            return [*action, True]
        return action

    def _how(self, world: World, host: str) -> str:
        """How an attempt ends."""
        flight, rng = world._flight(host), self._hosts[host]
        if flight is None or flight.running is None:
            return "ok"
        last = flight.attempt >= fleet.MAX_ATTEMPTS
        possible = fleet.ends(flight.running.step, interrupted=flight.interrupted, last=last)
        if flight.interrupted and rng.random() < 0.8:
            return rng.choice([how for how in possible if how.startswith("interrupted")])
        draw = rng.uniform(0, 100)
        for how in possible:
            rare = 4.0 if how == "lies_about_boot" else 1.0  # few reach their reboot
            draw -= self._given.faults.get(how, 0.0) * rare
            if draw < 0:
                return how
        return "ok"

    def _vote(self, gate: str) -> Action:
        rng = self._rng
        if rng.random() < 0.02:
            return ["expire", gate]
        by = rng.choice((*APPROVERS, "mallory@example.com"))
        by = rng.choice((by, by, by.upper(), f"  {by} "))
        approve = rng.random() < 0.97
        digest = rng.choice(("", DIGEST, DIGEST, "plan-0" if rng.random() < 0.3 else ""))
        return ["vote", gate, by, approve, digest]

    def _steer(self, world: World) -> Action | None:
        """Somebody asks for something, votes before it is time, or a window opens or closes."""
        rng, given = self._rng, self._given
        clusters, draw = list(given.clusters), rng.random()
        where = rng.choice((None, None, *clusters))
        parked = [host for view in world.state.clusters for host in view.parked]
        if parked and draw < (0.7 if given.repairs_only else 0.4):
            how = rng.choice(("retry", "retry", "accept", "restore", "skip"))
            said: dict[str, Any] = {"verb": how, "host": rng.choice(parked)}
            if how == "retry" and rng.random() < 0.4:
                said["step"] = rng.choice(given.steps).name
            return ["verb", said]
        if draw < 0.5:
            return [
                "verb",
                {"verb": "pause", "after": rng.choice(("host", "step")), "cluster": where},
            ]
        if draw < 0.68:
            return ["verb", {"verb": "resume", "cluster": where}]
        if draw < 0.74:
            return ["verb", {"verb": "set_limits", "to": self._limits()}]
        if draw < 0.80:
            if rng.random() < 0.4:
                return ["verb", {"verb": "skip", "wave": rng.randint(1, 3), "cluster": where}]
            names = [host.name for hosts in given.clusters.values() for host in hosts]
            return ["verb", {"verb": "skip", "host": rng.choice(names)}] if names else None
        if draw < 0.83:
            return ["verb", {"verb": "abort", "now": rng.random() < 0.6}]
        if draw < 0.85:
            return rng.choice((["full"], ["windows_closed", True], ["windows_closed", False]))
        if draw < 0.95:
            return ["window", rng.random() < 0.6, rng.random() < 0.2]
        return self._vote(rng.choice(list(given.gates))) if given.gates else None

    def _limits(self) -> dict[str, Any]:
        rng = self._rng
        to: dict[str, Any] = {}
        if rng.random() < 0.5:
            to["max_parallel"] = rng.choice((1, 2, 4, "50%"))
        if rng.random() < 0.3:
            to["max_out_of_service"] = rng.choice((1, 3, 9))
        if rng.random() < 0.3:
            to["max_parallel_total"] = rng.choice((None, 1, 3))
        if rng.random() < 0.2:
            to["failure_budget"] = _plain(budget(rng))
        if rng.random() < 0.2:
            to["total_failure_budget"] = _plain(total_budget(rng))
        return to


def _plain(of: FailureBudget) -> dict[str, Any]:
    return {each.name: getattr(of, each.name) for each in attrs.fields(FailureBudget)}


# Everything is mended


def mend(world: World) -> None:
    """No more faults, windows open, people there: it has to end, within a bound.

    Nothing is left to chance here, so a failing run is its scenario and its list of actions, no more.
    """
    world.watch.mended = True
    for cluster in world.clusters.values():
        for host in cluster.hosts:
            host.healthy = host.reachable = True
    steps = len(world.scenario.steps)
    hosts = sum(len(cluster.hosts) for cluster in world.clusters.values())
    bound = 200 + hosts * (steps * 6 + 40) + len(world.clusters) * 200
    answered = 0
    for turn in range(bound):
        if world.ended:
            return
        action = _mending(world, turn, answered)
        answered += action is not None and action[0] == "verb"
        if action is None:
            waits = {name: each.state for name, each in world.clusters.items()}
            raise world.watch.broken("L1", f"it hangs: {world.state}; {waits}")
        world.apply(action)
    raise world.watch.broken("L1", f"it has not ended after {bound} more actions")


def _mending(world: World, turn: int, answered: int) -> Action | None:
    if not world.state.window_open:
        return ["window", True]
    if why_refused(world.state, ResumeRequested()) is None:
        return ["verb", {"verb": "resume"}]
    ready = world.ready()
    if not ready:
        parked = [host for view in world.state.clusters for host in view.parked]
        if not parked:
            return None
        # Not by the turn: to retry what fails each time, whenever it is its turn, would go on for ever.
        return ["verb", {"verb": REPAIRS[answered % len(REPAIRS)], "host": parked[0]}]
    action = ready[turn % len(ready)]
    if action[0] == "vote":
        return ["vote", action[1], APPROVERS[turn % 3], True, DIGEST]
    return action


# Many of them


@attrs.define
class Batch:
    """What came of many runs."""

    runs: int = 0
    decided: int = 0
    seconds: float = 0.0
    sizes: Counter[int] = attrs.field(factory=Counter)
    """Runs by the number of their hosts."""
    seen: Counter[str] = attrs.field(factory=Counter)
    failures: list[Failure] = attrs.field(factory=list)

    def add(self, run: Run) -> None:
        """One more."""
        self.runs += 1
        self.decided += run.world.decided
        self.sizes[sum(len(cluster.hosts) for cluster in run.world.clusters.values())] += 1
        self.seen.update(run.world.seen)
        if run.failure is not None:
            self.failures.append(run.failure)

    def unseen(self) -> list[str]:
        """What ought to have happened, and has not."""
        return [what for what in SEEN_BY_EVERY_BATCH if not self.seen[what]]


def batch(
    first: int,
    *,
    seeds: int | None = None,
    seconds: float | None = None,
    failures: int = 5,
) -> Batch:
    """Runs seed after seed, until there were so many, so long, or so many failures.

    The seconds are those of one core: what else the machine does makes no difference.
    """
    done, began = Batch(), time.process_time()
    seed = first
    while len(done.failures) < failures:
        if seeds is not None and seed - first >= seeds:
            break
        if seconds is not None and time.process_time() - began >= seconds:
            break
        done.add(play(seed))
        seed += 1
    done.seconds = time.process_time() - began
    return done


# Made smaller


def shrunk(failure: Failure, *, seconds: float = 60.0) -> Failure:
    """The same invariant broken by fewer actions and fewer hosts, as far as the time goes."""
    until = time.monotonic() + seconds
    best = failure
    smaller = True
    while smaller and time.monotonic() < until:
        before = (len(best.actions), _size(best.scenario))
        best = _fewer_hosts(best, until)
        best = _fewer_actions(best, until)
        smaller = (len(best.actions), _size(best.scenario)) < before
    return best


def _size(given: Scenario) -> int:
    return sum(map(len, given.clusters.values())) + len(given.gates)


def _still(failure: Failure, given: Scenario, actions: Sequence[Action]) -> Failure | None:
    found = replay(given, actions).failure
    return found if found is not None and found.invariant == failure.invariant else None


def _fewer_actions(best: Failure, until: float) -> Failure:
    size = max(len(best.actions) // 2, 1)
    while time.monotonic() < until:
        at = 0
        while at < len(best.actions) and time.monotonic() < until:
            less = [*best.actions[:at], *best.actions[at + size :]]
            found = _still(best, best.scenario, less)
            if found is None:
                at += size
            else:
                best = found
        if size == 1:
            break
        size = max(size // 2, 1)
    return best


def _fewer_hosts(best: Failure, until: float) -> Failure:
    for given in _smaller(best.scenario):
        if time.monotonic() >= until:
            break
        found = _still(best, given, best.actions)
        if found is not None:
            return _fewer_hosts(found, until)
    return best


def _smaller(given: Scenario) -> Iterable[Scenario]:
    clusters: Mapping[str, Any] = given.clusters
    for gate in given.gates:
        rest = {name: each for name, each in given.gates.items() if name != gate}
        yield attrs.evolve(given, gates=rest)
    for name, hosts in clusters.items():
        if len(clusters) > 1 and not given.policy.rings:
            yield attrs.evolve(
                given, clusters={each: some for each, some in clusters.items() if each != name}
            )
        if len(hosts) > 1:
            yield attrs.evolve(given, clusters={**clusters, name: hosts[: len(hosts) // 2]})
            yield attrs.evolve(given, clusters={**clusters, name: hosts[:-1]})


# Kept for ever


def keep(failure: Failure, folder: Path = REGRESSIONS, name: str | None = None) -> Path:
    """Writes the failing list of actions, to be replayed whatever becomes of the generator."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name or f'{failure.invariant.lower()}-{failure.scenario.seed}'}.json"
    actions = ",\n  ".join(json.dumps(action) for action in failure.actions)
    path.write_text(
        "{\n"
        f' "invariant": {json.dumps(failure.invariant)},\n'
        f' "said": {json.dumps(failure.said[:500])},\n'
        f' "scenario": {json.dumps(scenario.written(failure.scenario))},\n'
        f' "actions": [\n  {actions}\n ]\n'
        "}\n"
    )
    return path


def kept(path: Path) -> tuple[str, Scenario, list[Action]]:
    """A failure that was kept: what it broke, its scenario, its actions."""
    plain = json.loads(path.read_text())
    return plain["invariant"], scenario.read(plain["scenario"]), plain["actions"]
