"""Writes answers: as JSON, or for people, in 80 columns, with or without colour; and the parts of a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import TypeVar, final

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..models import HostState, WireType
from ..models._wire import to_json

WireT = TypeVar("WireT", bound=WireType)

GOOD, BAD, WARN, QUIET, HEAD = "green", "bold red", "yellow", "dim", "bold"

SOME_NAMES = 10
"""Names that a line lists."""

Cell = str | Text
Lines = Iterator[RenderableType]


@final
class Screen:
    """Writes answers to stdout, as JSON or for people.

    Args:
        as_json: JSON, in the wire types' own form.
        options: What commands that are shown need to go to the same server.
    """

    def __init__(self, *, as_json: bool, options: Mapping[str, str] | None = None) -> None:
        self.as_json = as_json
        self.options = options or {}
        self._console = Console(highlight=False, emoji=False, markup=False)
        for stream in (sys.stdout, sys.stderr):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:  # a name or a dash that the terminal does not know
                reconfigure(errors="backslashreplace")

    def show(self, value: WireT, said: Callable[[WireT], Lines], *, one_line: bool = False) -> None:
        """Writes one answer.

        Args:
            value: The answer.
            said: How it is said for people.
            one_line: JSON in one line.
        """
        if self.as_json:
            self.show_json(value, one_line=one_line)
        else:
            self.say(said(value))

    def show_json(self, value: WireType, *, one_line: bool = False) -> None:
        """Writes one answer that is for programs, whoever asks."""
        # ASCII: whatever encoding the reader's side has, it is the same JSON.
        self._write(json.dumps(to_json(value), indent=None if one_line else 2) + "\n")

    def say(self, lines: Iterable[RenderableType]) -> None:
        """Writes lines for people."""
        # Not printed by rich, which ends the process by itself when nobody reads.
        with self._console.capture() as captured:
            for line in lines:
                self._console.print(line)
        self._write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))

    def _write(self, text: str) -> None:
        if sys.stdout is None:
            raise BrokenPipeError
        sys.stdout.write(text)
        sys.stdout.flush()


def plain(text: str) -> str:
    """One line that can do nothing to a terminal: what a host said may hold anything."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in " ".join(text.split())
    )


def counts(some: Mapping[HostState, int]) -> str:
    """``3 patched, 1 failed``."""
    return ", ".join(
        f"{number} {state.value.lower().replace('_', ' ')}"
        for state, number in some.items()
        if number
    )


def names(some: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(map(plain, some[:SOME_NAMES]))
    more = len(some) - SOME_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def moment(at: datetime) -> str:
    """A time in UTC, to the second."""
    return at.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")


def after(mark: str, text: str) -> str:
    """The mark and the text, if there is any."""
    return f"{mark}{text}" if text else ""


def table(rows: Iterable[Sequence[Cell]], indent: int = 2) -> RenderableType:
    """Rows in columns."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for row in rows:
        while len(grid.columns) < len(row):
            grid.add_column(overflow="fold")
        grid.add_row(*(Text(each) if isinstance(each, str) else each for each in row))
    return Padding(grid, (0, 0, 0, indent), expand=False)
