"""One host, once with activities and once with local ones. The update itself is never local."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from ..hosts import HandHosts

__all__ = ["PatchHost", "PatchHostLocally"]

LIMIT = timedelta(minutes=5)


@workflow.defn
class PatchHost:
    @workflow.run
    async def run(self, host: str) -> None:
        for step in (
            HandHosts.stop_services,
            HandHosts.perform_update,
            HandHosts.start_services,
            HandHosts.check_service_health,
        ):
            await workflow.execute_activity_method(step, host, start_to_close_timeout=LIMIT)


@workflow.defn
class PatchHostLocally:
    @workflow.run
    async def run(self, host: str) -> None:
        await workflow.execute_local_activity_method(
            HandHosts.stop_services, host, start_to_close_timeout=LIMIT
        )
        await workflow.execute_activity_method(
            HandHosts.perform_update, host, start_to_close_timeout=LIMIT
        )
        for step in (HandHosts.start_services, HandHosts.check_service_health):
            await workflow.execute_local_activity_method(step, host, start_to_close_timeout=LIMIT)
