"""By hand: wait four hours for an approval, then update each host. `test_by_hand.py` tests it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from temporalio import workflow

__all__ = ["PatchByHand"]

LIMIT = timedelta(minutes=5)


@workflow.defn
class PatchByHand:
    def __init__(self) -> None:
        self._approved = False

    @workflow.run
    async def run(self, hosts: Sequence[str]) -> None:
        await workflow.wait_condition(lambda: self._approved, timeout=timedelta(hours=4))
        for host in hosts:
            for step in ("stop_services", "perform_update", "start_services"):
                await workflow.execute_activity(step, host, start_to_close_timeout=LIMIT)

    @workflow.signal
    def approve(self) -> None:
        self._approved = True
