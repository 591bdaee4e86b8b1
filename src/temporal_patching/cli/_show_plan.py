"""Says for people what would be done, and how to start it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import islice

import attrs
from rich.padding import Padding
from rich.text import Text

from ..models import ClusterOutline, PatchRequest, RolloutPlan
from ._screen import HEAD, WARN, Cell, Lines, names, plain, table


@attrs.frozen(kw_only=True)
class Start:
    """What it takes to start a request by hand."""

    type: str
    task_queue: str
    file: str | None
    address: str | None = None
    namespace: str | None = None
    profile: str | None = None


def plan(told: RolloutPlan, start: Start, *, hosts: bool) -> Lines:
    """What a request would do, and how to start just that."""
    yield Text(plain(told.rollout), style=HEAD)
    number = sum(each.hosts for each in told.clusters)
    facts: list[tuple[str, Cell]] = [
        ("hosts", f"{number} in {_many(len(told.clusters), 'cluster')}"),
        ("steps", ", ".join(map(plain, told.steps))),
        ("gates", ", ".join(map(plain, told.gates)) or "none: nobody is asked"),
    ]
    if told.windows:
        facts.append(("windows", plain(told.windows)))
    if told.least_duration is not None:
        facts.append(("takes", f"{told.least_duration} at least, people and windows not counted"))
    if told.health != "checked":
        facts.append(("health", Text(told.health, style=WARN)))
    facts.append(("digest", told.digest))
    yield table(facts)
    yield Text("clusters", style=HEAD)
    rings = max((each.ring for each in told.clusters), default=1)
    for each in told.clusters:
        ring = [f"ring {each.ring}"] if rings > 1 else []
        width = f"{each.max_parallel} at once"
        yield table([(plain(each.cluster), *ring, _many(each.hosts, "host"), width, _groups(each))])
        later = len(each.came_later) + each.came_later_omitted
        left: list[tuple[str, Cell]] = []
        if each.gone:
            left.append(("gone", Text(f"{each.gone} are not there any more", style=WARN)))
        if later:
            some = Text(f"{later} are left out: {names(each.came_later)}", style=WARN)
            left.append(("not planned", some))
        if left:
            yield table(left, indent=4)
    if hosts:
        yield Text("hosts", style=HEAD)
        for each in told.clusters:
            yield from _hosts(each, told.hosts.get(each.cluster, ()))
    yield from _how(start)


def rest(told: PatchRequest, start: Start) -> Lines:
    """What is left of a rollout, and how to start it."""
    number = sum(map(len, told.planned_hosts.values()))
    yield Text(f"{_many(number, 'host')} in {_many(len(told.planned_hosts), 'cluster')}")
    yield table(
        (plain(cluster), _many(len(some), "host"), names(some))
        for cluster, some in told.planned_hosts.items()
    )
    yield from _how(start)


def _groups(each: ClusterOutline) -> str:
    waves = names([str(size) for size in each.waves])
    said = [_many(each.pilots, "pilot") if each.pilots else "no pilots"]
    if waves:
        said.append(f"{'wave' if len(each.waves) == 1 else 'waves'} of {waves}")
    return ", ".join(said)


def _hosts(each: ClusterOutline, listed: Sequence[str]) -> Lines:
    """All of them: what would be done to which host is what a plan is read for."""
    some = iter(listed)
    groups = [("pilots", each.pilots)] if each.pilots else []
    groups += [(f"wave {number}", size) for number, size in enumerate(each.waves, start=1)]
    yield table(
        (plain(each.cluster), group, ", ".join(map(plain, islice(some, size))))
        for group, size in groups
    )


def _how(start: Start) -> Lines:
    """The command, as it can be copied."""
    if start.file is None:
        yield Text("to start exactly this: again with --out planned.json, and then", style=HEAD)
    else:
        yield Text(f"to start exactly this, which {plain(start.file)} asks for", style=HEAD)
    words = [
        ("--type", start.type),
        ("--task-queue", start.task_queue),
        ("--workflow-id", "NEW-ID"),
        ("--id-reuse-policy", "RejectDuplicate"),
        ("--input-file", start.file or "planned.json"),
        ("--address", start.address),
        ("--namespace", start.namespace),
        ("--profile", start.profile),
    ]
    parts = [f"{option} {shlex.quote(plain(value))}" for option, value in words if value]
    lines = ["temporal workflow start", *(f"    {part}" for part in parts)]
    yield Padding(Text(" \\\n".join(lines)), (0, 0, 0, 2), expand=False)


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
