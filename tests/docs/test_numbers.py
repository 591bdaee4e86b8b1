"""The tables of numbers in the pages are what the code computes."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from temporal_patching.policy import DEFAULT_STEPS, FailureBudget, RolloutPolicy
from temporal_patching.policy._rollout_policy import ClusterPlan, cluster_plan, wave_sizes

PAGE = Path(__file__).parents[2] / "docs/how-to/rollout-policy.md"


def _table(name: str) -> tuple[list[int], dict[str, list[str]]]:
    """The numbers of hosts in a table's head, and its rows by their first cell."""
    text = PAGE.read_text(encoding="utf-8").partition(f"<!-- table: {name} -->\n\n")[2]
    lines = text.partition("\n\n")[0].splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    hosts = [int(re.sub(r"[^0-9]", "", cell)) for cell in head[1:]]
    return hosts, {row[0].strip("`"): row[1:] for row in rows}


def _waves(plan: ClusterPlan) -> str:
    sizes = wave_sizes(plan)
    shown = ", ".join(map(str, sizes))
    return f"{', '.join(map(str, sizes[:3]))}, …" if len(sizes) > 4 else shown


@pytest.mark.parametrize(
    ("name", "policy", "shown"),
    [
        ("waves", lambda value: RolloutPolicy(waves=value), _waves),
        (
            "max_parallel",
            lambda value: RolloutPolicy(max_parallel=value),
            lambda plan: str(plan.max_parallel),
        ),
        (
            "max_failures",
            lambda value: RolloutPolicy(failure_budget=FailureBudget(max_failures=value)),
            lambda plan: str(plan.budget.failures),
        ),
    ],
)
def test_table(
    name: str, policy: Callable[[Any], RolloutPolicy], shown: Callable[[ClusterPlan], str]
) -> None:
    """Each number of the table is what the policy means for that many hosts."""
    hosts, rows = _table(name)
    assert len(rows) >= 3
    assert len(hosts) == 4
    for value, cells in rows.items():
        made = policy(ast.literal_eval(value))
        assert cells == [shown(cluster_plan(made, number)) for number in hosts], value


def test_default_steps() -> None:
    """The table of the default procedure is the procedure."""
    text = (PAGE.parent / "own-step.md").read_text(encoding="utf-8")
    lines = text.partition("<!-- table: steps -->\n\n")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    assert rows == [[step.name, step.kind, step.closed_by or ""] for step in DEFAULT_STEPS]
