"""An activity whose first attempt fails after the work is done. Nothing reminds the second one to look first."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from ..machines import Fleet

__all__ = ["StopByHand", "UnsteadyHandHosts"]


class UnsteadyHandHosts:
    """The connection is lost once, when the services have been stopped already."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    @activity.defn
    async def stop_services(self, host: str) -> None:
        await self._fleet.machine(host).do("stop_services")
        if activity.info().attempt == 1:
            raise ConnectionError(f"{host}: the connection is lost")


@workflow.defn
class StopByHand:
    @workflow.run
    async def run(self, host: str) -> None:
        await workflow.execute_activity_method(
            UnsteadyHandHosts.stop_services,
            host,
            start_to_close_timeout=timedelta(minutes=5),
            # Time to look, before the second attempt.
            retry_policy=RetryPolicy(initial_interval=timedelta(seconds=2)),
        )
