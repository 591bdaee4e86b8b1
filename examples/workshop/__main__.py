"""Runs one exercise or all: `python -m examples.workshop [EXERCISE…]`. Ends with a table of what was seen."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from rich.console import Console
from rich.table import Table
from temporalio.runtime import (
    LogForwardingConfig,
    LoggingConfig,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)

from .stage import NoServer, Row, Stage, open_stage

LOG = Path("build/workshop/log.txt")


def _name(folder: str) -> str:
    numbered = re.fullmatch(r"e(\d+)(?:_(\d+))?_\D.*", folder)
    if numbered is None:
        return folder.replace("_", "-")
    return ".".join(number for number in numbered.groups() if number)


def _folders() -> list[str]:
    """The exercises in order, then what leads further."""
    found = [path.parent.name for path in Path(__file__).parent.glob("*/run.py")]
    numbers = {
        folder: [int(each) for each in re.findall(r"\d+", _name(folder))] for folder in found
    }
    return sorted(found, key=lambda folder: (not numbers[folder], numbers[folder], folder))


EXERCISES: Mapping[str, str] = {_name(folder): folder for folder in _folders()}
"""The name on the command line, and the folder."""


class Exercise(Protocol):
    """What each folder's ``run`` module has."""

    show: Callable[[Stage], Awaitable[object]]
    rows: Callable[[object], list[Row]]


def find(name: str) -> Exercise:
    """The exercise of a name."""
    return cast("Exercise", importlib.import_module(f"{__package__}.{EXERCISES[name]}.run"))


async def run(names: Sequence[str], *, own_server: bool, pictures: Path) -> bool:
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table("exercise", "what", "expected", "seen", "", title="The workshop")
    all_hold = True
    async with open_stage(own_server=own_server, pictures=pictures) as stage:
        console.print(f"Temporal server: {stage.address}, web UI: {stage.web or 'unknown'}")
        for name in names:
            console.rule(f"exercise {name}")
            began = time.monotonic()
            try:
                exercise = find(name)
                rows = exercise.rows(await exercise.show(stage.anew()))
            except Exception as error:
                traceback.print_exc()
                rows = [Row("", "it runs", f"{type(error).__name__}: {error}", False)]
            console.print(f"({time.monotonic() - began:.0f} s)")
            for row in rows:
                all_hold = all_hold and row.holds is not False
                mark = {True: "✓", False: "✗", None: "–"}[row.holds]
                table.add_row(name, row.what, row.expected, row.seen, mark)
            table.add_section()
    console.print(table)
    return all_hold


def log_to(file: Path) -> None:
    """Sends what the SDK logs to a file: much fails on purpose here, and is told in plain words."""
    file.parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=file, filemode="w", force=True)
    levels = TelemetryFilter(core_level="WARN", other_level="ERROR")
    forwarding = LogForwardingConfig(logger=logging.getLogger("temporal-core"))
    logs = LoggingConfig(filter=levels, forwarding=forwarding)
    Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=logs)))
    sys.unraisablehook = log_unraisable


def log_unraisable(what: sys.UnraisableHookArgs) -> None:
    """Logs what Python would print: a workflow by hand that hangs says so when it is thrown away."""
    message = what.err_msg or "Exception ignored in"
    logging.getLogger("python").warning("%s: %r", message, what.object, exc_info=what.exc_value)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.workshop", description=__doc__)
    parser.add_argument("exercise", nargs="*", help=f"one of {', '.join(EXERCISES)}; default: all")
    parser.add_argument(
        "--own-server", action="store_true", help="start a Temporal server even if one is there"
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        default=Path("build/workshop"),
        help="where plots and web pages are saved (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    unknown = [each for each in options.exercise if each not in EXERCISES]
    if unknown:
        parser.error(f"no exercise {unknown[0]!r}: choose from {', '.join(EXERCISES)}")
    log_to(LOG)
    try:
        names = options.exercise or list(EXERCISES)
        right = asyncio.run(run(names, own_server=options.own_server, pictures=options.pictures))
    except NoServer as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(f"What the SDK logged meanwhile is in {LOG}.")
    return 0 if right else 1


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # The SDK's runtime may crash while the interpreter shuts down.
    os._exit(status)
