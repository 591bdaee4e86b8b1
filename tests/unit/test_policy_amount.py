"""Amounts: numbers and percentages of a list, and which way they round."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_patching.exceptions import InvalidRequest
from temporal_patching.policy import RolloutPolicy
from temporal_patching.policy._amount import percentage, rounded_down, rounded_up
from tests.strategies import percentages


@given(percentages(), st.integers(0, 50_000))
def test_a_percentage_rounds_to_the_neighbour_on_its_side(amount: str, total: int) -> None:
    """A percentage is exact: rounded down it is the next whole number below, rounded up the one above."""
    exact = Fraction(amount.rstrip("%")) * total / 100
    assert rounded_down(amount, total) <= exact < rounded_down(amount, total) + 1
    assert rounded_up(amount, total) - 1 < exact <= rounded_up(amount, total)
    assert 0 <= rounded_down(amount, total) <= rounded_up(amount, total) <= total


@given(st.integers(0), st.integers(0, 50_000))
def test_a_number_is_itself(amount: int, total: int) -> None:
    """A number of hosts does not depend on the list."""
    assert percentage(amount) is None
    assert rounded_down(amount, total) == rounded_up(amount, total) == amount


@pytest.mark.parametrize(
    ("amount", "total", "down", "up"),
    [
        ("5%", 50, 2, 3),
        ("5%", 1000, 50, 50),
        ("0.1%", 999, 0, 1),
        ("100%", 7, 7, 7),
        ("0%", 7, 0, 0),
        ("29%", 100, 29, 29),
    ],
)
def test_percentages_by_example(amount: str, total: int, down: int, up: int) -> None:
    """Percentages have no binary fractions in them: 29 % of 100 is 29."""
    assert (rounded_down(amount, total), rounded_up(amount, total)) == (down, up)


@pytest.mark.parametrize(
    "amount",
    [
        -1,
        True,
        1.5,
        None,
        "",
        "5",
        "five%",
        "-5%",
        "5 %",
        " 5%",
        "5%%",
        "101%",
        "100.01%",
        "1e1%",
        "5,5%",
        "٥%",
        "0.00001%",
        b"5%",
        ["5%"],
    ],
)
def test_what_is_no_amount_is_refused(amount: object) -> None:
    """Anything but a whole number or a percentage from 0% to 100% is refused by the field's name."""
    with pytest.raises(InvalidRequest, match="'pilot_hosts' must be") as refused:
        RolloutPolicy(pilot_hosts=amount)  # type: ignore[arg-type]
    assert len(refused.value.problems) == 1


@pytest.mark.parametrize("nothing", [0, "0%", "0.0%"])
def test_nothing_is_no_width(nothing: int | str) -> None:
    """What must let something through cannot be zero."""
    with pytest.raises(InvalidRequest) as refused:
        RolloutPolicy(
            max_parallel=nothing,
            max_parallel_total=nothing,
            max_out_of_service=nothing,
            waves=[1, nothing],
        )
    assert [problem.split()[0] for problem in refused.value.problems] == [
        "'waves[1]'",
        "'max_parallel'",
        "'max_out_of_service'",
        "'max_parallel_total'",
    ]
