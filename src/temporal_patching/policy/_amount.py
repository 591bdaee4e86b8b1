"""Amounts of hosts: a number, or a percentage of a list."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import cast

from ._rules import Rule, frozen

Amount = int | str
"""How many hosts: a number (``5``) or a percentage of the frozen list (``"5%"``, ``"0.5%"``)."""

_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,4})?)%")


def percentage(amount: Amount) -> Fraction | None:
    """The percentage as a fraction of 100, or None where the amount is a number."""
    match = _PERCENT.fullmatch(amount) if isinstance(amount, str) else None
    return Fraction(match.group(1)) if match else None


def rounded_down(amount: Amount, total: int) -> int:
    """That many of ``total`` hosts; a percentage rounds down."""
    percent = percentage(amount)
    return int(amount) if percent is None else int(percent * total / 100)


def rounded_up(amount: Amount, total: int) -> int:
    """That many of ``total`` hosts; a percentage rounds up."""
    percent = percentage(amount)
    return int(amount) if percent is None else -int(-percent * total // 100)


def amount(least: int = 0) -> Rule:
    """A number of hosts, ``least`` or more, or a percentage from 0% to 100%."""

    def rule(name: str, value: object) -> Iterator[str]:
        form = f'a whole number >= {least} or a percentage like "5%"'
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            yield f"{name!r} must be {form} (got {value!r})"
        elif isinstance(value, int):
            if value < least:
                yield f"{name!r} must be >= {least} (got {value!r})"
        else:
            percent = percentage(value)
            if percent is None:
                yield f"{name!r} must be {form} (got {value!r})"
            elif percent > 100:
                yield f"{name!r} must be at most 100% (got {value!r})"
            elif least and not percent:
                yield f"{name!r} must be more than 0% (got {value!r})"

    return rule


def as_amounts(entries: Iterable[Amount]) -> tuple[Amount, ...]:
    """Freezes a list of amounts."""
    return cast("tuple[Amount, ...]", frozen(entries))
