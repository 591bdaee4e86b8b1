"""Three workflows that are fine with ten hosts. Each runs into a limit of Temporal's with more."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import activity, workflow

with workflow.unsafe.imports_passed_through():
    from ..hosts import HandHosts

__all__ = ["AllAtOnce", "KeepsTheOutput", "OneHistory", "perform_chatty_update"]

LIMIT = timedelta(minutes=5)


@workflow.defn
class OneHistory:
    """All hosts in one workflow, one after the other: each is some more events in one history."""

    @workflow.run
    async def run(self, hosts: list[str]) -> None:
        for host in hosts:
            for step in (
                HandHosts.stop_services,
                HandHosts.perform_update,
                HandHosts.start_services,
            ):
                await workflow.execute_activity_method(step, host, start_to_close_timeout=LIMIT)


@workflow.defn
class AllAtOnce:
    """All hosts at once: each is one more activity that is pending."""

    @workflow.run
    async def run(self, hosts: list[str]) -> None:
        await asyncio.gather(
            *[
                workflow.execute_activity_method(
                    HandHosts.perform_update, host, start_to_close_timeout=LIMIT
                )
                for host in hosts
            ]
        )


@activity.defn
async def perform_chatty_update(megabytes: int) -> str:
    """An update that prints a lot, and all of it is returned."""
    return "x" * megabytes * 1024 * 1024


@workflow.defn
class KeepsTheOutput:
    """What an activity returns goes into the history."""

    @workflow.run
    async def run(self, megabytes: int) -> int:
        output = await workflow.execute_activity(
            perform_chatty_update, megabytes, start_to_close_timeout=LIMIT
        )
        return len(output)
