"""The pure core against simulated hosts: whatever goes wrong and whatever people ask, the invariants hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

import pytest

from temporal_patching.policy._cluster import HostEnded
from temporal_patching.policy._states import HostState

from . import planted, play, scenario
from .__main__ import main
from .world import Flight, World

SEEDS = 2_000
REGRESSIONS = sorted(play.REGRESSIONS.glob("*.json"))

# Chosen anew with each change of the table, the same in between.
SOME = Random(len(planted.BUGS)).sample(sorted(planted.BUGS), 3)


@pytest.mark.timeout(300)
def test_no_invariant_is_broken() -> None:
    """Two thousand rollouts; in them every fault, every state and every way of steering has occurred."""
    done = play.batch(0, seeds=SEEDS, failures=3)
    said = "\n".join(failure.line[:1000] for failure in done.failures)
    assert not done.failures, said
    assert done.runs == SEEDS
    assert not done.unseen(), f"never seen in {SEEDS} rollouts: {', '.join(done.unseen())}"


def test_a_batch_that_meets_nothing_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """At the command line, too: what it has not met is named."""
    assert main(["run", "--seeds", "1"]) == 1
    assert "NEVER: fault " in capsys.readouterr().out


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.stem)
def test_what_was_broken_once_holds(path: Path) -> None:
    """The events of each failure that was ever found, again."""
    _, given, actions = play.kept(path)
    failure = play.replay(given, actions).failure
    assert failure is None, failure.said


def test_a_run_is_its_scenario_and_its_actions() -> None:
    """Written as JSON and read again it goes the same way, to the same end."""
    for seed in range(40):
        run = play.play(seed)
        given = scenario.read(json.loads(json.dumps(scenario.written(run.world.scenario))))
        assert given == run.world.scenario
        again = play.replay(given, json.loads(json.dumps(run.actions)))
        assert again.world.log == run.world.log
        assert again.world.state == run.world.state
        assert again.actions == run.actions


def test_one_host_more_leaves_the_others_as_they_are() -> None:
    """Each host has a stream of its own."""
    few = scenario._hosts(Random(5), 7, "c0", domains=True)
    many = tuple(scenario._traits(7, f"c0-{number}", True) for number in range(50))
    assert many[: len(few)] == few


def test_a_failure_becomes_smaller_and_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It fails for the same reason, with fewer actions and hosts, and again from its file."""

    def result(self: World, flight: Flight) -> HostEnded:  # a host that is told as another state
        ended = truly(self, flight)
        return HostEnded(host=ended.host, state=HostState.PATCHED, why=ended.why)

    truly = World._result
    monkeypatch.setattr(World, "_result", result)
    run = next(run for run in map(play.play, range(200)) if run.failure is not None)
    assert run.failure is not None
    smaller = play.shrunk(run.failure, seconds=20)
    assert smaller.invariant == run.failure.invariant
    assert len(smaller.actions) < max(len(run.actions), 2)
    path = play.keep(smaller, tmp_path)
    invariant, given, actions = play.kept(path)
    assert (invariant, actions) == (smaller.invariant, list(smaller.actions))
    again = play.replay(given, actions).failure
    assert again is not None
    assert again.invariant == invariant
    monkeypatch.undo()
    assert play.replay(given, actions).failure is None


@pytest.mark.parametrize("name", planted.BUGS)
def test_a_planted_bug_is_a_change_of_this_source(name: str, tmp_path: Path) -> None:
    """Each text that it changes is there, once: the table follows the code."""
    source = planted.ROOT / "src" / "temporal_patching" / planted.BUGS[name].file
    copy = tmp_path / source.name
    shutil.copy(source, copy)
    planted._plant(copy, planted.BUGS[name])
    assert copy.read_text() != source.read_text()
    compile(copy.read_text(), str(copy), "exec")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SOME)
def test_a_planted_bug_is_caught(name: str) -> None:
    """By the general suite alone, within a minute; `python -m tests.sim planted` tries all of them."""
    caught = planted.catch(name, seconds=60)
    assert caught.by is not None, f"{name} was not caught in {caught.runs} rollouts"
