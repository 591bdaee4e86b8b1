"""Three releases of one workflow. The second and the third check each host's health at its end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from ..hosts import HandHosts

__all__ = ["FirstRelease", "GuardedRelease", "NextRelease"]

LIMIT = timedelta(minutes=5)
STEPS = (HandHosts.stop_services, HandHosts.perform_update, HandHosts.start_services)


async def do(step: Callable[[HandHosts, str], Any], host: str) -> None:
    await workflow.execute_activity_method(step, host, start_to_close_timeout=LIMIT)


@workflow.defn(name="PatchByHand")
class FirstRelease:
    @workflow.run
    async def run(self, hosts: list[str]) -> None:
        for host in hosts:
            for step in STEPS:
                await do(step, host)


@workflow.defn(name="PatchByHand")
class NextRelease:
    """The new step, just written down."""

    @workflow.run
    async def run(self, hosts: list[str]) -> None:
        for host in hosts:
            for step in STEPS:
                await do(step, host)
            await do(HandHosts.check_service_health, host)


@workflow.defn(name="PatchByHand")
class GuardedRelease:
    """The new step, for runs that did not begin without it."""

    @workflow.run
    async def run(self, hosts: list[str]) -> None:
        for host in hosts:
            for step in STEPS:
                await do(step, host)
            if workflow.patched("check-service-health"):
                await do(HandHosts.check_service_health, host)
