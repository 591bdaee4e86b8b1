"""A workflow for one host that can be asked what it has done: a list, and a query."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from ..hosts import HandHosts

__all__ = ["HostByHand"]


@workflow.defn
class HostByHand:
    def __init__(self) -> None:
        self._completed: list[str] = []

    @workflow.query
    def completed_steps(self) -> list[str]:
        return self._completed

    @workflow.run
    async def run(self, host: str) -> None:
        for step in (
            HandHosts.stop_services,
            HandHosts.perform_update,
            HandHosts.start_services,
            HandHosts.check_service_health,
        ):
            await workflow.execute_activity_method(
                step, host, start_to_close_timeout=timedelta(minutes=5)
            )
            self._completed.append(step.__name__)
