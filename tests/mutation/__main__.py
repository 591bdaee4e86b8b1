"""``python -m tests.mutation run``: changes ``policy/`` in one place after the other, and looks who notices.

Each mutant is tried in a process of its own, first by the simulation, then by the unit tests, until the first
complaint. What survives is a gap of the tests, or no bug: ``REASONS`` says which.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import pytest

from .mutants import POLICY, Mutant, mutants
from .reasons import REASONS

for name in (
    "cattrs",
    "hypothesis",
    "temporalio.client",
    "temporalio.testing",
    "temporalio.worker",
):
    importlib.import_module(name)  # once for all mutants, whose processes are forked from this one

ROOT = POLICY.parent.parent.parent
RESULTS = ROOT / "build" / "mutation.json"
PAGE = ROOT / "docs" / "explanation" / "mutants.md"

MODULES = (
    "_rollout_policy",
    "_grants",
    "_tally",
    "_approval",
    "_cluster",
    "_rollout",
    "_host",
    "_window",
    "_verbs",
    "_gates",
    "_amount",
    "_order",
    "_steps",
    "_plan_check",
    "_news",
    "_plan",
    "_rollout_state",
    "_rules",
    "_evolve",
    "_explain",
)
"""All that compare anything, those first in which a mistake costs most; the page is about these."""

FIRST = {
    "_rollout_policy": ("rollout_policy", "cluster", "explain"),
    "_cluster": ("cluster", "steering", "parking"),
    "_grants": ("grants", "rollout", "steering"),
    "_rollout": ("grants", "rollout_windows", "rollout", "steering", "repair", "verbs"),
    "_approval": ("approval",),
    "_window": ("window",),
    "_tally": ("cluster", "parking"),
    "_host": ("host", "parking"),
    "_verbs": ("verbs", "steering", "rollout"),
    "_order": ("order", "cluster"),
    "_gates": ("gates", "rollout"),
    "_amount": ("amount", "rollout_policy"),
    "_steps": ("steps", "host"),
    "_plan_check": ("rollout", "verbs"),
    "_news": ("news",),
    "_plan": ("plan",),
    "_rollout_state": ("rollout_windows", "verbs", "rollout", "steering", "explanations"),
    "_rules": ("rules", "rollout_policy", "order", "steps", "amount"),
    "_explain": ("explanations", "explain", "repair"),
    "_evolve": ("evolve",),
}
"""The unit tests that know most of a module. The others are asked with ``--again``."""

ROLLOUTS = 80
MORE_ROLLOUTS = 2_000
SECONDS = 15
"""Of one core, for each part of a trial: several times what it takes. What takes longer hangs, and is noticed."""


class _Planted(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports one module from another source."""

    def __init__(self, name: str, source: str) -> None:
        self._name, self._source = name, source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin="mutant")

    def get_source(self, fullname: str) -> str:
        return self._source


def _unit_tests(module: str, *, every: bool) -> list[str]:
    folder = ROOT / "tests" / "unit"
    beside = {"plan": folder / "test_plan.py", "carried": folder / "test_carried.py"}
    first = [beside.get(name, folder / f"test_policy_{name}.py") for name in FIRST.get(module, ())]
    rest = [*sorted(folder.glob("test_policy_*.py")), *beside.values()]
    # No path at all would be the whole suite, which takes longer than it may, and so would notice anything.
    return [str(path) for path in dict.fromkeys((*first, *(rest if every or not first else ())))]


def _limit(seconds: int) -> None:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    most = int(spent.ru_utime + spent.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))


def _simulated(first: int, rollouts: int) -> str | None:
    _limit(SECONDS + rollouts // 100)
    try:
        from tests.sim import play

        for seed in range(first, first + rollouts):
            failure = play.play(seed).failure
            if failure is not None:
                return "the simulation"
    except Exception:
        return "the simulation"
    return None


def _tested(module: str, *, every: bool) -> bool:
    _limit(SECONDS * (4 if every else 1))
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    arguments = ["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", "--tb=short"]
    arguments += ["--hypothesis-profile=few", "-m", "not volume"]
    code = pytest.main([*arguments, *_unit_tests(module, every=every)])
    return code == 0


def _trial(mutant: Mutant | None, pipe: int, *, every: bool) -> None:
    if mutant is not None:
        name = f"temporal_patching.policy.{mutant.module}"
        sys.meta_path.insert(0, _Planted(name, mutant.source))
    by = _simulated(0, ROLLOUTS)
    if by is None:
        # The suite ends its process by itself, so what it has found is told by the exit status, not by a return.
        child = os.fork()
        if not child:
            module = mutant.module if mutant is not None else ""
            os._exit(0 if _tested(module, every=every or mutant is None) else 1)
        by = None if os.waitpid(child, 0)[1] == 0 else "the unit tests"
    if by is None and every:
        by = _simulated(ROLLOUTS, MORE_ROLLOUTS)
    os.write(pipe, (by or "").encode())


def tried(mutant: Mutant | None, *, every: bool) -> str | None:
    """Who has noticed a mutant; None: nobody."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        os.close(out)
        _trial(mutant, into, every=every)
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as told:
        by = told.read()
    status = os.waitpid(child, 0)[1]
    return by or (None if status == 0 else "the simulation")  # out of time, or out of its mind


def run(modules: Iterable[str], *, again: bool) -> int:
    """Tries what has not been tried yet, or again what has survived."""
    known: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if "nothing" not in known or again:
        by = tried(None, every=again)
        if by is not None:
            print(f"nothing is changed, and yet {by} complain")
            return 1
        known["nothing"] = ""
    for module in modules:
        there = list(mutants(module))
        keys = {mutant.key for mutant in there}
        for key in [key for key in known if key.startswith(f"{module}.") and key not in keys]:
            del known[key]
        for mutant in there:
            if mutant.key in known and (known[mutant.key] or not again or mutant.key in REASONS):
                continue
            began = time.monotonic()
            by = tried(mutant, every=again)
            known[mutant.key] = by or ""
            print(
                f"{by or 'SURVIVED'}: {mutant.key} [{time.monotonic() - began:.1f} s]", flush=True
            )
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(known, indent=0, ensure_ascii=False))
    unexplained = [
        key for key, by in known.items() if not by and key != "nothing" and key not in REASONS
    ]
    for key in unexplained:
        print(f"no reason: {key}")
    return 1 if unexplained else 0


def page() -> str:
    """The page of the documentation."""
    tried: dict[str, str] = json.loads(RESULTS.read_text())
    known: dict[str, str] = {}
    rows, there = [], 0
    for module in MODULES:
        keys = [mutant.key for mutant in mutants(module)]
        found = {key: tried[key] for key in keys if key in tried}
        rows.append(_row(f"`{module}`", len(keys), found))
        there += len(keys)
        known |= found
    rows.append(_row("together", there, known))
    survivors = "\n".join(
        f"| `{key.partition(': ')[0]}` | {_code(key)} | {REASONS.get(key, 'not looked at yet')} |"
        for key, by in known.items()
        if not by
    )
    return f"""\
# Mutants

[The table of planted bugs](proof.md) holds mistakes that people make. Here a program makes them, without
thinking: it changes each comparison and each boolean of the rules, one at a time, to what else could stand
there (`<` becomes `<=` and `>=`, `==` becomes `!=`, `in` becomes `not in`; `and` becomes `or`; a condition is
negated; `True` becomes `False`), by [cosmic-ray](https://cosmic-ray.readthedocs.io). Each mutant is tried
first by {ROLLOUTS} rollouts of the simulation, then by the unit tests, then by {MORE_ROLLOUTS:,} rollouts
more, until one complains. A mutant that nobody notices is a gap of the tests, or changes nothing.

| module of `policy/` | mutants | tried | noticed by the simulation | by the unit tests | by nobody |
| --- | ---: | ---: | ---: | ---: | ---: |
{chr(10).join(rows)}

`make mutate` tries them all, which takes two hours or more, and writes this page; `make mutate
MODULES="_verbs _order"` tries some. {_left_out()}

## Those that nobody notices

| where | change | why |
| --- | --- | --- |
{survivors}
"""


def _left_out() -> str:
    """What the page says of the modules that have no row."""
    others = sorted(path.stem for path in POLICY.glob("_*.py") if path.stem != "__init__")
    there = {name: any(mutants(name)) for name in others if name not in MODULES}
    plain = [f"`{name}`" for name, some in there.items() if not some]
    waiting = [f"`{name}`" for name, some in there.items() if some]
    said = [f"Of {' and '.join(plain)} there are no mutants: nothing is compared there."]
    if waiting:
        said.append(f"Not tried yet: {', '.join(waiting)}.")
    return " ".join(said)


def _row(name: str, there: int, found: Mapping[str, str]) -> str:
    by = Counter(found.values())
    counts = (there, len(found), by["the simulation"], by["the unit tests"], by[""])
    return f"| {name} | " + " | ".join(f"{count:,}" for count in counts) + " |"


def _code(key: str) -> str:
    before, _, after = key.partition(": ")[2].partition(" → ")
    return f"`{_cell(before)}` → `{_cell(after)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    trying = verbs.add_parser("run", help="try what has not been tried yet")
    trying.add_argument("modules", nargs="*", default=MODULES)
    trying.add_argument(
        "--again", action="store_true", help="and what has survived for no reason, by more"
    )
    verbs.add_parser("page", help="write docs/explanation/mutants.md")
    asked = parser.parse_args()
    if asked.verb == "run":
        return run(asked.modules, again=asked.again)
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
