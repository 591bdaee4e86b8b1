"""Exercise 4, both ways. `make workshop EXERCISE=4`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
from matplotlib.figure import Figure
from temporalio.worker import Worker

from ..hosts import HandHosts
from ..machines import Fleet, Machine
from ..stage import PATIENCE, Row, Stage
from .by_hand import AllAtOnceByHand, LimitedByHand, LoopsByHand
from .with_library import IN_PARALLEL, ONE_AFTER_THE_OTHER, patch

__all__ = ["Run", "Seen", "Span", "rows", "show"]

CLUSTERS = ("eu-1", "us-1")
HOSTS = 10
COLOURS = {"eu-1": "tab:blue", "us-1": "tab:orange"}

WIDTH = 60
"""Characters of the longest run's line."""


@attrs.frozen
class Span:
    """When a host was in flight, from its log.

    Attributes:
        cluster: The host's cluster.
        host: Its name, without the run's word.
        began: Seconds since the run's first host began.
        ended: Likewise.
    """

    cluster: str
    host: str
    began: float
    ended: float


@attrs.frozen
class Run:
    """One way through the hosts, as their logs tell it.

    Attributes:
        spans: Each host's time.
        updated: How many machines are updated, and their services run.
        seconds: From the first host's beginning to the last one's end.
        most: The greatest number of hosts that were in flight at once.
        most_in: The same for each cluster.
        first: How many hosts had begun when the first one was done.
    """

    spans: Sequence[Span]
    updated: int
    seconds: float
    most: int
    most_in: Mapping[str, int]
    first: int


@attrs.frozen
class Seen:
    """Each way through the same hosts.

    Attributes:
        loops: By hand, nested loops.
        all_at_once: By hand, ``asyncio.gather``.
        limited: By hand, the same with an ``asyncio.Semaphore``.
        one_by_one: With the library, one after the other.
        in_parallel: With the library, within limits.
        picture: Where the library's two runs are drawn.
    """

    loops: Run
    all_at_once: Run
    limited: Run
    one_by_one: Run
    in_parallel: Run
    picture: Path


async def show(stage: Stage) -> Seen:
    stage.say("By hand: nested loops, then asyncio.gather, then the same with asyncio.Semaphore.")
    loops = await _by_hand(stage, "loops", LoopsByHand)
    all_at_once = await _by_hand(stage, "gather", AllAtOnceByHand)
    limited = await _by_hand(stage, "semaphore", LimitedByHand)

    stage.say("With the library: one after the other, then in parallel within limits.")
    fleet = _fleet(stage, "one-by-one")
    await asyncio.wait_for(patch(stage, fleet, "one-by-one", ONE_AFTER_THE_OTHER), PATIENCE)
    one_by_one = _run(stage, fleet)
    _tell(stage, "one after the other", one_by_one)
    fleet = _fleet(stage, "in-parallel")
    await asyncio.wait_for(patch(stage, fleet, "in-parallel", IN_PARALLEL), PATIENCE)
    in_parallel = _run(stage, fleet)
    _tell(stage, "in parallel", in_parallel)

    drawn = {"one after the other": one_by_one, "in parallel": in_parallel}
    for name, run in drawn.items():
        stage.say(f"{name}, {run.seconds:.1f} s:")
        _draw(stage, run, longest=max(each.seconds for each in drawn.values()))
    picture = stage.picture("workshop-4.png")
    _paint(picture, drawn)
    stage.say(f"drawn in {picture}")
    return Seen(loops, all_at_once, limited, one_by_one, in_parallel, picture)


def rows(seen: Seen) -> list[Row]:
    one, many = seen.one_by_one, seen.in_parallel
    return [
        Row(
            "by hand, loops",
            f"{HOSTS} updated, never more than 1 at once",
            _said(seen.loops),
            seen.loops.updated == HOSTS and seen.loops.most == 1,
        ),
        Row(
            "by hand, gather",
            f"no limit: all {HOSTS} hosts at once",
            _said(seen.all_at_once),
            seen.all_at_once.most == HOSTS,
        ),
        Row(
            "by hand, semaphore",
            f"{HOSTS} updated, 5 at once, 5 before the first one is done",
            f"{_said(seen.limited)}, {seen.limited.first} before the first one is done",
            seen.limited.updated == HOSTS and seen.limited.most == seen.limited.first == 5,
        ),
        Row(
            "with the library, one after the other",
            f"{HOSTS} updated, never more than 1 at once",
            _said(one),
            one.updated == HOSTS and one.most == 1,
        ),
        Row(
            "with the library, in parallel",
            f"{HOSTS} updated, sooner, up to 3 a cluster and 5 in all at once, 2 pilots first",
            f"{_said(many)}, {many.first} before the first one is done",
            many.updated == HOSTS
            and many.seconds < one.seconds
            and max(many.most_in.values()) == 3
            and many.most == 5
            and many.first <= 2,
        ),
    ]


def _fleet(stage: Stage, name: str) -> Fleet:
    hosts = stage.hosts("e4", HOSTS)
    clusters = {"eu-1": hosts[: HOSTS // 2], "us-1": hosts[HOSTS // 2 :]}
    return stage.fleet(f"e4-{name}", clusters, unit_seconds=0.1)


async def _by_hand(
    stage: Stage, name: str, workflow: type[LoopsByHand | AllAtOnceByHand | LimitedByHand]
) -> Run:
    fleet = _fleet(stage, name)
    queue = stage.id(f"e4-{name}")
    activities = HandHosts(fleet).all()
    async with Worker(stage.client, task_queue=queue, workflows=[workflow], activities=activities):
        running = stage.client.execute_workflow(
            workflow.run, list(CLUSTERS), id=queue, task_queue=queue
        )
        await asyncio.wait_for(running, PATIENCE)
    run = _run(stage, fleet)
    _tell(stage, name, run)
    return run


# What the machines' logs say


def _run(stage: Stage, fleet: Fleet) -> Run:
    machines = fleet.machines()
    start = min(_began(machine) for machine in machines)
    spans = [
        Span(
            cluster=machine.folder.parent.name,
            host=stage.short(machine.name),
            began=_began(machine) - start,
            ended=machine.log()[-1].at - start,
        )
        for machine in machines
    ]
    return Run(
        spans=spans,
        updated=sum(machine.updated and machine.services_running for machine in machines),
        seconds=max(span.ended for span in spans),
        most=_most_at_once(spans),
        most_in={
            cluster: _most_at_once([span for span in spans if span.cluster == cluster])
            for cluster in CLUSTERS
        },
        first=sum(span.began < min(each.ended for each in spans) for span in spans),
    )


def _began(machine: Machine) -> float:
    # A step is in the log when it is done.
    return machine.log()[0].at - machine.step_seconds


def _most_at_once(spans: Sequence[Span]) -> int:
    # There are most when one of them begins.
    return max(sum(each.began <= span.began < each.ended for each in spans) for span in spans)


# Telling and drawing


def _said(run: Run) -> str:
    clusters = ", ".join(f"{most} in {cluster}" for cluster, most in run.most_in.items())
    return f"{run.updated} updated in {run.seconds:.1f} s, at most {run.most} at once ({clusters})"


def _tell(stage: Stage, name: str, run: Run) -> None:
    stage.say(f"  {name}: {_said(run)}")


def _draw(stage: Stage, run: Run, *, longest: float) -> None:
    for span in run.spans:
        first, last = (round(at / longest * WIDTH) for at in (span.began, span.ended))
        stage.say(f"  {span.cluster} {span.host} {'·' * first}{'█' * max(last - first, 1)}")


def _paint(path: Path, runs: Mapping[str, Run]) -> None:
    figure = Figure(figsize=(8, 5.6), dpi=100, layout="constrained")
    plots = figure.subplots(len(runs), 1, sharex=True)
    for plot, (name, run) in zip(plots, runs.items(), strict=True):
        for span in run.spans:
            host = f"{span.cluster} {span.host}"
            took = span.ended - span.began
            plot.barh(host, took, left=span.began, color=COLOURS[span.cluster])
        plot.invert_yaxis()
        plot.set_title(f"{name}: {run.seconds:.1f} s, at most {run.most} at once")
        plot.grid(axis="x", alpha=0.4)
    figure.supxlabel("seconds")
    figure.savefig(path)
