"""Draws what metrics and machines said over time: a row a configuration, a column a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path

import attrs
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .metrics import Reading

__all__ = ["Series", "draw"]

Series = tuple[Sequence[float], Sequence[Sequence[Reading]], Sequence[tuple[float, float]]]
"""Moments; what each worker's metrics said at each of them; and when each host was in flight."""

WINDOW = 0.5
"""Seconds over which rates and waits are averaged."""

TITLES = (
    *("hosts in flight", "activities in flight"),
    *("activities started a second", "schedule to start, seconds"),
)
COLORS = ("tab:purple", "tab:blue", "tab:green", "tab:red")


@attrs.frozen
class Steps:
    """Values, and the moments between which each of them holds: one more than there are values."""

    edges: Sequence[float]
    values: Sequence[float]


def draw(path: Path, runs: Mapping[str, Series]) -> None:
    figure = Figure(figsize=(10, 0.9 * len(runs) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(runs), len(TITLES), sharex=True, sharey="col", squeeze=False)
    for row, (name, series) in zip(grid, runs.items(), strict=True):
        label = name.replace(", ", ",\n")
        row[0].set_ylabel(label, fontsize=9, rotation=0, ha="right", va="center")
        columns = (_hosts(series), _in_flight(series), *_rates_and_waits(series))
        for axes, steps, color in zip(row, columns, COLORS, strict=True):
            axes.stairs(steps.values, steps.edges, fill=True, color=color, alpha=0.7)
            axes.tick_params(labelsize=8)
            axes.grid(alpha=0.3)
    for axes in grid[0][:2]:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    for axes, title in zip(grid[0], TITLES, strict=True):
        axes.set_title(title, fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("seconds", fontsize=9)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    figure.savefig(path, dpi=100)


def _hosts(series: Series) -> Steps:
    *_, spans = series
    edges = sorted({0.0, *(moment for span in spans for moment in span)})
    counts = [sum(begin <= moment < end for begin, end in spans) for moment in edges[:-1]]
    return Steps(edges, counts)


def _in_flight(series: Series) -> Steps:
    at, readings, _ = series
    return Steps([0, *at], [sum(reading.slots_used for reading in each) for each in readings])


def _rates_and_waits(series: Series) -> tuple[Steps, Steps]:
    """What both counters grew by in each window."""
    at, readings, _ = series
    edges, rates, waits = [0.0], list[float](), list[float]()
    started, waited = 0, 0.0
    for moment, each in zip(at, readings, strict=True):
        # The last window takes in what is left, if that is too short for a window of its own.
        if moment - edges[-1] >= WINDOW and (at[-1] - moment >= WINDOW or moment == at[-1]):
            more = sum(reading.started for reading in each) - started
            longer = sum(reading.waited for reading in each) - waited
            rates.append(more / (moment - edges[-1]))
            waits.append(longer / more if more else nan)
            edges.append(moment)
            started, waited = started + more, waited + longer
    return Steps(edges, rates), Steps(edges, waits)
