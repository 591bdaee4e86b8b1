"""Rollouts that are typical, each told so that its histories can be recorded anew."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from temporal_patching.client import Rollout
from temporal_patching.models import Outcome, PatchRequest, RolloutReport
from temporal_patching.policy import (
    DEFAULT_STEPS,
    ApprovalPolicy,
    FailureBudget,
    RolloutPolicy,
    Soak,
)
from temporal_patching.testing import (
    DoneButLost,
    NeedsReboot,
    RefuseAt,
    SimulatedFleet,
    Unreachable,
)
from tests.rollouts import ALICE, BOB, ask, ending
from tests.workflows import QuickFleet

GATE = ApprovalPolicy(approvers=[ALICE, BOB], timeout=timedelta(hours=1))
TOLERANT = FailureBudget(max_failures="100%", stop_on_failed_wave=False)
HEALTH = ("check_service_health", "clear_maintenance_mode")


@dataclass(frozen=True)
class Case:
    """One rollout of a simulated fleet, and what is done to it meanwhile."""

    fleet: Callable[[], SimulatedFleet]
    request: PatchRequest
    outcome: Outcome
    steer: Callable[[Rollout[Any], SimulatedFleet], Awaitable[object]] | None = None
    workflow: type[Any] = QuickFleet
    steps: tuple[str, ...] = ("set_maintenance_mode", "perform_update", *HEALTH)
    """Which steps its activities have. Default: few, so that the histories are short."""
    lengths: Mapping[str, int] = field(default_factory=dict)
    """Constants of `workflow/_length.py` that make its runs short; the replay needs the same."""


async def _votes(rollout: Rollout[Any], fleet: SimulatedFleet) -> None:
    await rollout.approve(by=ALICE)
    await fleet.reached("clear_maintenance_mode", times=1)
    await rollout.approve(by=BOB, gate="promote")


async def _pauses(rollout: Rollout[Any], fleet: SimulatedFleet) -> None:
    fleet.hold("perform_update", "eu-2")
    await fleet.reached("perform_update", "eu-2")
    pausing = asyncio.create_task(rollout.pause(by=ALICE, reason="lunch"))
    fleet.release("perform_update", "eu-2")
    await pausing
    await rollout.set_limits(by=ALICE, max_parallel=2)
    await rollout.skip(by=ALICE, host="eu-3", reason="not today")
    await rollout.resume(by=ALICE)


async def _aborts(rollout: Rollout[Any], fleet: SimulatedFleet) -> None:
    fleet.hold("set_maintenance_mode", "eu-1")
    await fleet.reached("set_maintenance_mode", "eu-1")
    aborting = asyncio.create_task(rollout.abort(by=ALICE, reason="wrong day"))
    fleet.release("set_maintenance_mode", "eu-1")
    await aborting


async def _repairs(rollout: Rollout[Any], fleet: SimulatedFleet) -> None:
    await fleet.reached("perform_update", "eu-1")
    async for progress in rollout.watch():
        if any(cluster.parked for cluster in progress.clusters):
            break
    await rollout.retry("eu-1", by=ALICE, reason="mended")


CASES: Mapping[str, Case] = {
    "patched": Case(
        fleet=lambda: SimulatedFleet({"eu": 2}, faults={"eu-1": NeedsReboot()}),
        request=ask("eu", policy=RolloutPolicy(pilot_hosts=1, reboot="if_needed")),
        outcome=Outcome.PATCHED,
        steps=DEFAULT_STEPS.names,
    ),
    "two-clusters-of-which-one-stops": Case(
        fleet=lambda: SimulatedFleet(
            {"eu": 2, "us": 1}, faults={"eu-1": RefuseAt("check_service_health")}
        ),
        request=ask("eu", "us", policy=RolloutPolicy(pilot_hosts=0, rings=[["us"], ["eu"]])),
        outcome=Outcome.STOPPED,
    ),
    "retries": Case(
        fleet=lambda: SimulatedFleet(
            {"eu": 2},
            faults={
                "eu-1": DoneButLost("perform_update"),
                "eu-2": Unreachable("set_maintenance_mode", times=3),
            },
        ),
        request=ask(
            "eu",
            policy=RolloutPolicy(pilot_hosts=0, max_parallel=2, failure_budget=TOLERANT),
        ),
        outcome=Outcome.PARTIAL,
    ),
    "gates-and-soak": Case(
        fleet=lambda: SimulatedFleet({"eu": 2}),
        request=ask(
            "eu",
            policy=RolloutPolicy(
                pilot_hosts=1,
                soak=Soak(duration=timedelta(seconds=1)),
            ),
            approvals={"start": GATE, "promote": GATE},
        ),
        outcome=Outcome.PATCHED,
        steer=_votes,
    ),
    "paused-and-steered": Case(
        fleet=lambda: SimulatedFleet({"eu": 4}),
        request=ask("eu", policy=RolloutPolicy(pilot_hosts=0)),
        outcome=Outcome.PARTIAL,
        steer=_pauses,
    ),
    "aborted": Case(
        fleet=lambda: SimulatedFleet({"eu": 2}),
        request=ask("eu", policy=RolloutPolicy(pilot_hosts=0)),
        outcome=Outcome.ABORTED,
        steer=_aborts,
    ),
    "parked-and-repaired": Case(
        fleet=lambda: SimulatedFleet(
            {"eu": 1}, faults={"eu-1": RefuseAt("perform_update", times=1)}
        ),
        request=ask(
            "eu",
            policy=RolloutPolicy(
                pilot_hosts=0, on_host_failure="park", failure_budget=TOLERANT, max_out_of_service=2
            ),
        ),
        outcome=Outcome.PATCHED,
        steer=_repairs,
    ),
    "continued-as-new": Case(
        fleet=lambda: SimulatedFleet({"eu": 4}),
        request=ask("eu", policy=RolloutPolicy(pilot_hosts=0, max_parallel=2)),
        outcome=Outcome.PATCHED,
        lengths={"LONG_ENOUGH": 30, "TOO_SHORT": 0},
    ),
}


async def played(case: Case, rollout: Rollout[Any], fleet: SimulatedFleet) -> RolloutReport:
    """Does what is done to a rollout, and waits for its end."""
    if case.steer is not None:
        await case.steer(rollout, fleet)
    return await asyncio.wait_for(ending(rollout), 60)
