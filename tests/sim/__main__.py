"""``python -m tests.sim run --seconds 60``, ``replay SEED``, ``planted``: the simulation from the command line."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import temporal_patching

from . import play
from .invariants import INVARIANTS


def main(arguments: list[str] | None = None) -> int:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="run seed after seed, print what has happened")
    run.add_argument("--seconds", type=float)
    run.add_argument("--seeds", type=int)
    run.add_argument("--seed", type=int, default=0, help="the first one")
    run.add_argument("--failures", type=int, default=5, help="end after so many")
    run.add_argument("--keep", action="store_true", help="shrink and keep what fails")
    run.add_argument("--json", action="store_true", help="print only what the last failure was")
    again = verbs.add_parser("replay", help="one seed, or a file of tests/regressions")
    again.add_argument("what", help="a seed, or a file")
    again.add_argument("--shrink", type=float, metavar="SECONDS", default=0.0)
    again.add_argument("--keep", action="store_true", help="write it to tests/regressions")
    again.add_argument("--show", action="store_true", help="print the actions")
    planted = verbs.add_parser("planted", help="plant bugs in a copy of the source, one at a time")
    planted.add_argument("names", nargs="*", help="which; default: all")
    planted.add_argument("--seconds", type=float, default=60.0, help="for each")
    planted.add_argument("--write", action="store_true", help="write docs/explanation/proof.md")
    asked = parser.parse_args(arguments)
    if asked.verb == "run":
        return _run(asked)
    if asked.verb == "replay":
        return _replay(asked)
    from . import planted as table

    return table.main(asked.names, seconds=asked.seconds, write=asked.write)


def _run(asked: argparse.Namespace) -> int:
    seconds = asked.seconds if asked.seconds or asked.seeds else 60.0
    done = play.batch(asked.seed, seeds=asked.seeds, seconds=seconds, failures=asked.failures)
    if asked.json:
        return _tell(done)
    hosts = sum(size * runs for size, runs in done.sizes.items())
    print(
        f"{done.runs:,} rollouts from seed {asked.seed} in {done.seconds:.1f} s: "
        f"{done.runs / done.seconds:,.0f} rollouts/s, {done.decided / done.seconds:,.0f} events/s, "
        f"{done.decided:,} events"
    )
    print(f"hosts: {hosts:,}, by rollout: {_table(done.sizes)}")
    for what, times in sorted(done.seen.items()):
        print(f"  {what}: {times:,}")
    unseen = done.unseen()
    for what in unseen:  # a batch that has not met it proves nothing of it
        print(f"NEVER: {what}")
    for failure in done.failures:
        print(failure.line[:1500])
        if asked.keep:
            print(f"  kept: {play.keep(play.shrunk(failure))}")
    return 1 if done.failures or unseen else 0


def _tell(done: play.Batch) -> int:
    last = done.failures[-1] if done.failures else None
    told = {
        "source": temporal_patching.__file__,
        "runs": done.runs,
        "seconds": round(done.seconds, 2),
        "invariant": last.invariant if last is not None else None,
        "said": last.said[:500] if last is not None else "",
        "seed": last.scenario.seed if last is not None else None,
    }
    print(json.dumps(told))
    return 1 if done.failures else 0


def _table(sizes: Counter[int]) -> str:
    return ", ".join(f"{size}: {runs}" for size, runs in sorted(sizes.items()))


def _replay(asked: argparse.Namespace) -> int:
    if asked.what.isdigit():
        run = play.play(int(asked.what))
    else:
        _, scenario, actions = play.kept(Path(asked.what))
        run = play.replay(scenario, actions)
    failure = run.failure
    if failure is not None and asked.shrink:
        failure = play.shrunk(failure, seconds=asked.shrink)
    if asked.show:
        given = failure.scenario if failure is not None else run.world.scenario
        print(given)
        for action in failure.actions if failure is not None else run.actions:
            print(action)
    if failure is None:
        print(f"nothing is broken: {len(run.actions)} actions, {run.world.decided} events")
        return 0
    print(failure.line)
    print(f"  {failure.invariant}: {INVARIANTS.get(failure.invariant, 'the code itself failed')}")
    if asked.keep:
        print(f"  kept: {play.keep(failure)}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
