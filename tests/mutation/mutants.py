"""Which mutants of ``policy/`` there are: each comparison and each boolean, changed one at a time.

The changes are cosmic-ray's, and one that it lacks: ``in`` for ``not in``.
"""

from __future__ import annotations

import ast
import difflib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import cosmic_ray.mutating
import parso
from cosmic_ray import plugins
from cosmic_ray.operators.boolean_replacer import AddNot
from cosmic_ray.operators.operator import Operator

POLICY = Path(__file__).parent.parent.parent / "src" / "temporal_patching" / "policy"

REPLACED = {
    "Lt": ("LtE", "GtE"),
    "LtE": ("Lt", "Gt"),
    "Gt": ("GtE", "LtE"),
    "GtE": ("Gt", "Lt"),
    "Eq": ("NotEq",),
    "NotEq": ("Eq",),
    "Is": ("IsNot",),
    "IsNot": ("Is",),
}
"""What each comparison becomes: the opposite, and where there is one its neighbour."""


class Negate(AddNot):
    """A condition negated, where that is not the same as another comparison, or a ``not`` that is taken away."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        """Where one stands."""
        for position in super().mutation_positions(node):
            condition = node.children[1 if isinstance(node, self.NODE_TYPES) else 2]
            if condition.type not in ("comparison", "not_test"):
                yield position


class SwapIn(Operator):
    """``in`` for ``not in``, and the other way round."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        """Where one of them stands."""
        if node.type == "comparison":
            for at in self._places(node):
                yield node.children[at].start_pos, node.children[at].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """The node with another operator there."""
        at = self._places(node)[index]
        there = node.children[at].get_code().split()
        node.children[at] = parso.parse(" in" if there == ["not", "in"] else " not in")
        return node

    @staticmethod
    def _places(node: Any) -> list[int]:
        some = range(1, len(node.children), 2)
        return [
            at for at in some if node.children[at].get_code().split() in (["in"], ["not", "in"])
        ]

    @classmethod
    def examples(cls) -> tuple[Any, ...]:
        """None."""
        return ()


def operators() -> dict[str, Operator]:
    """All that may be changed."""
    names = [
        f"ReplaceComparisonOperator_{each}_{other}"
        for each, others in REPLACED.items()
        for other in others
    ]
    names += ["ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceUnaryOperator_Delete_Not"]
    names += ["ReplaceTrueWithFalse", "ReplaceFalseWithTrue"]
    found: dict[str, Operator] = {name: plugins.get_operator(f"core/{name}")() for name in names}
    return {**found, "Negate": Negate(), "SwapIn": SwapIn()}


@attrs.frozen(kw_only=True)
class Mutant:
    """One change of one module."""

    module: str
    where: str
    """The function, or the class."""
    before: str
    after: str
    """The lines that changed."""
    nth: int
    """Of those that look the same."""
    source: str = attrs.field(repr=False, eq=False)

    @property
    def key(self) -> str:
        """What it is called in the table: the same as long as its lines are the same."""
        more = f" ({self.nth})" if self.nth > 1 else ""
        return f"{self.module}.{self.where}: {self.before} → {self.after}{more}"


def mutants(module: str) -> Iterator[Mutant]:
    """All of one module."""
    source = (POLICY / f"{module}.py").read_text()
    scopes = _scopes(source)
    alike: Counter[tuple[str, str, str]] = Counter()
    for operator in operators().values():
        for occurrence in range(len(source)):
            mutated = cosmic_ray.mutating.mutate_code(source, operator, occurrence)
            if mutated is None:
                break
            line, before, after = _change(source, mutated)
            if before.startswith(("@", "assert")):  # what a decorator says is a matter of types
                continue
            where = scopes.get(line, "module")
            alike[where, before, after] += 1
            nth = alike[where, before, after]
            yield Mutant(
                module=module, where=where, before=before, after=after, nth=nth, source=mutated
            )


def _scopes(source: str) -> dict[int, str]:
    scopes: dict[int, str] = {}

    def visit(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = name
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                inner = f"{name}.{child.name}" if name else child.name
                for line in range(child.lineno, (child.end_lineno or child.lineno) + 1):
                    scopes[line] = inner
            visit(child, inner)

    visit(ast.parse(source), "")
    return scopes


def _change(source: str, mutated: str) -> tuple[int, str, str]:
    old, new = source.splitlines(), mutated.splitlines()
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, old, new, False).get_opcodes():
        if tag != "equal":
            return i1 + 1, _text(old[i1:i2]), _text(new[j1:j2])
    raise ValueError("nothing has changed")


def _text(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())
