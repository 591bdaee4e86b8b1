"""A workflow that waits for two approvals, as it is written first: a signal and a timeout."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from ..hosts import HandHosts

__all__ = ["ApprovedByHand"]


@workflow.defn
class ApprovedByHand:
    def __init__(self) -> None:
        self._approvals: list[str] = []

    @workflow.signal
    def approve(self, by: str) -> None:
        self._approvals.append(by)

    @workflow.run
    async def run(self, host: str) -> None:
        await workflow.wait_condition(
            lambda: len(self._approvals) >= 2, timeout=timedelta(seconds=3)
        )
        await workflow.execute_activity_method(
            HandHosts.perform_update, host, start_to_close_timeout=timedelta(minutes=5)
        )
