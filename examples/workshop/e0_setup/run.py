"""Exercise 0, both ways. `make workshop EXERCISE=0`."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from temporalio.worker import Worker

from temporal_patching.models import HostState, RolloutReport

from ..hosts import HandHosts
from ..stage import Row, Stage
from .by_hand import PatchByHand
from .with_library import patch

__all__ = ["Seen", "rows", "show"]


@attrs.frozen
class Seen:
    """What happened.

    Attributes:
        by_hand: Which machines of eu-1 the workflow by hand has updated.
        report: The rollout's report.
        updated: Which machines of the second fleet are updated, serve and are in service.
    """

    by_hand: Sequence[str]
    report: RolloutReport
    updated: Sequence[str]


async def show(stage: Stage) -> Seen:
    stage.say("By hand: one cluster, one host after the other, nobody is asked.")
    a, b, c, d, e, f = stage.hosts("e0", 6)
    fleet = stage.fleet("e0-by-hand", {"eu-1": [a, b]})
    queue = stage.id("e0-by-hand")
    hosts = HandHosts(fleet)
    async with Worker(
        stage.client, task_queue=queue, workflows=[PatchByHand], activities=hosts.all()
    ):
        await stage.client.execute_workflow(
            PatchByHand.run, "eu-1", id=stage.id("e0-by-hand"), task_queue=queue
        )
    by_hand = [stage.short(machine.name) for machine in fleet.machines() if machine.updated]

    stage.say("With the library: two clusters beside each other, a pilot each, then the rest.")
    fleet = stage.fleet("e0-library", {"eu-1": [c, d], "us-1": [e, f]})
    report = await patch(stage, fleet)
    updated = [
        stage.short(machine.name)
        for machine in fleet.machines()
        if machine.updated and machine.in_service and machine.services_running
    ]
    return Seen(by_hand, report, updated)


def rows(seen: Seen) -> list[Row]:
    patched = seen.report.counts[HostState.PATCHED]
    return [
        Row("by hand", "2 updated", f"{len(seen.by_hand)} updated", len(seen.by_hand) == 2),
        Row(
            "with the library",
            "4 reported, 4 updated and in service",
            f"{patched} reported, {len(seen.updated)} updated and in service",
            patched == len(seen.updated) == 4,
        ),
    ]
