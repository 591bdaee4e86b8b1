"""What fields allow: each rule at its edges, and what is told of a value that keeps none."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import attrs
import pytest

from temporal_patching.exceptions import InvalidRequest
from temporal_patching.policy._rules import (
    LONGEST,
    MAX_COMPARED,
    MAX_MISSPELT,
    MAX_PROBLEM,
    MAX_PROBLEMS,
    Checked,
    Rule,
    at_least,
    at_most,
    bounded,
    did_you_mean,
    distinct,
    each,
    flag,
    frozen,
    identifier,
    instance_of,
    json_value,
    must,
    node_name,
    one_of,
    optional,
    positive,
    reference,
    string,
    text,
    values,
)

MOMENT = timedelta(microseconds=1)

ALLOWED: list[tuple[Rule, Iterable[Any]]] = [
    (at_least(2), (2, 3)),
    (positive, (MOMENT, LONGEST)),
    (at_most(3), ("abc", "", 5)),  # what is no text is for another rule to name
    (flag, (True, False)),
    (text, ("x", " x ")),
    (string, ("", "x")),
    (identifier, ("stop_services",)),
    (instance_of(int, str), (1, "x")),
    (node_name, ("a", "web-1.eu:22", "x" * 253)),
    (reference, ("vault:path#key", "env:NAME")),
    (json_value, (None, [1, {"a": "b"}])),
    (one_of("stop", "wait"), ("stop", "wait")),
    (optional(flag), (None, True)),
    (each(flag), ((), (True,))),
    (each(flag, least=2), ((True, True), (True, True, False))),
    (distinct, ((), ("a", "b"), (1, 1), ("a", 1, "b", 1), ["a", "a"])),
    (values(flag), ({}, {"a": True})),
]

REFUSED: list[tuple[Rule, Any, list[str]]] = [
    (at_least(2), 1, ["'x' must be >= 2 (got 1)"]),
    (at_least(0), True, ["'x' must be a whole number (got True)"]),
    (at_least(0), 1.5, ["'x' must be a whole number (got 1.5)"]),
    (positive, timedelta(0), ["'x' must be > 0 seconds (got datetime.timedelta(0))"]),
    (positive, -MOMENT, [f"'x' must be > 0 seconds (got {-MOMENT!r})"]),
    (positive, LONGEST + MOMENT, [f"'x' must be <= 3650 days (got {LONGEST + MOMENT!r})"]),
    (positive, 5, ["'x' must be a timedelta (got 5)"]),
    (at_most(3), "abcd", ["'x' must have at most 3 characters (got 4)"]),
    (flag, 1, ["'x' must be True or False (got 1)"]),
    (text, " ", ["'x' must not be empty (got ' ')"]),
    (text, 5, ["'x' must be a text (got 5)"]),
    (string, None, ["'x' must be a text (got None)"]),
    (identifier, "_private", ["'x' must be the name of a public method (got '_private')"]),
    (identifier, "no-name", ["'x' must be the name of a public method (got 'no-name')"]),
    (identifier, 5, ["'x' must be the name of a public method (got 5)"]),
    (instance_of(int, str), 1.5, ["'x' must be a int or str (got 1.5)"]),
    (reference, 5, ["'x' must be a reference like 'vault:path#key' or 'env:NAME', not the secret"]),
    (
        reference,
        "hunter2",
        ["'x' must be a reference like 'vault:path#key' or 'env:NAME', not the secret"],
    ),
    (
        one_of("stop", "wait"),
        "stpo",
        ["'x' must be in ('stop', 'wait') (got 'stpo'), did you mean 'stop'?"],
    ),
    (one_of("stop", "wait"), 5, ["'x' must be in ('stop', 'wait') (got 5)"]),
    (optional(flag), 1, ["'x' must be True or False (got 1)"]),
    (each(flag), [True], ["'x' must be a list (got [True])"]),
    (each(flag, least=2), (True,), ["'x' must have at least 2 (got [True])"]),
    (each(flag), (True, 1, 2), [f"'x[{n}]' must be True or False (got {n})" for n in (1, 2)]),
    (distinct, ("a", "b", 1, " A"), ["'x' must not name ' A' twice"]),
    (values(flag), [1], ["'x' must be a mapping (got [1])"]),
    (values(flag), {" ": True}, ["'x' must have texts as keys (got ' ')"]),
    (values(flag), {5: True}, ["'x' must have texts as keys (got 5)"]),
    (values(flag), {"a": 1}, ["\"x['a']\" must be True or False (got 1)"]),
]


@pytest.mark.parametrize(("rule", "some"), ALLOWED)
def test_what_a_rule_allows(rule: Rule, some: Iterable[Any]) -> None:
    """To its edges, and those are allowed."""
    for value in some:
        assert list(rule("x", value)) == [], value


@pytest.mark.parametrize(("rule", "value", "problems"), REFUSED)
def test_what_a_rule_refuses(rule: Rule, value: Any, problems: list[str]) -> None:
    """By the field's name, with what is allowed and what it got."""
    assert list(rule("x", value)) == problems


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "ä", "x" * 254, 5, None])
def test_what_is_no_name_of_a_node(name: object) -> None:
    """It goes into workflow ids and command lines."""
    (said,) = node_name("x", name)
    assert said.endswith(f"starts with a letter or digit (got {name!r})")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, [object()]])
def test_what_is_no_json(value: object) -> None:
    """Also what Python writes and nobody else reads."""
    (said,) = json_value("x", value)
    assert said.startswith("'x' must be a JSON value (")


def test_how_fields_relate_means_something_once_each_is_right() -> None:
    """Until then it is not asked for."""

    @attrs.frozen
    class Range(Checked):
        first: int = attrs.field(metadata=must(at_least(0)))
        last: int = attrs.field(metadata=must(at_least(0)))

        def _relations(self) -> Iterable[str]:
            if self.last < self.first:
                yield "'last' must be >= 'first'"

    assert Range(1, 1).last == 1
    for fields, problems in (
        ((2, 1), ("'last' must be >= 'first'",)),
        ((1, -1), ("'last' must be >= 0 (got -1)",)),
        ((-1, -2), ("'first' must be >= 0 (got -1)", "'last' must be >= 0 (got -2)")),
    ):
        with pytest.raises(InvalidRequest) as refused:
            Range(*fields)
        assert refused.value.problems == problems


def test_problems_are_told_up_to_a_number_and_a_length() -> None:
    """Exactly so many, exactly so long; what is longer loses its middle."""
    many = [str(number) for number in range(MAX_PROBLEMS)]
    assert bounded(many) == many
    assert bounded([*many, "one"]) == bounded([*many, "one", "two"]) == [*many, "and more"]
    assert bounded(["x" * MAX_PROBLEM]) == ["x" * MAX_PROBLEM]
    half = MAX_PROBLEM // 2
    assert bounded(["a" * MAX_PROBLEM + "z"]) == ["a" * half + " … " + "a" * (half - 1) + "z"]


def test_what_is_misspelt_is_a_name() -> None:
    """As long as a name can be; what is longer, or like none, gets no hint."""
    assert did_you_mean("drian", ["stop", "drain"]) == ", did you mean 'drain'?"
    assert did_you_mean("reboot", ["stop", "drain"]) == ""
    long = "a" * MAX_MISSPELT
    assert did_you_mean(long, [long[1:]]) == f", did you mean {long[1:]!r}?"
    assert did_you_mean(f"{long}a", [long]) == ""


def test_few_names_are_all_compared() -> None:
    """Of more only those that begin or end as the misspelt one does."""
    meant, misspelt = "m-drain-the-host-m", "a-drain-the-host-a"
    others = [f"b{number}b" for number in range(MAX_COMPARED - 1)]
    assert did_you_mean(misspelt, [*others, meant]) == f", did you mean {meant!r}?"
    assert did_you_mean(misspelt, [*others, "bb", meant]) == ""


def test_lists_are_frozen_and_texts_are_none() -> None:
    """A text is iterable, too, and its letters are never what its author meant."""
    for some in (["a"], ("a",), {"a"}, frozenset({"a"})):
        assert frozen(some) == ("a",)
    for other in ("ab", 5, None):
        assert frozen(other) is other
