"""A workflow as it is written first: one cluster, one host after the other."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from ..hosts import HandHosts

__all__ = ["PatchByHand"]


@workflow.defn
class PatchByHand:
    @workflow.run
    async def run(self, cluster: str) -> int:
        limit = timedelta(minutes=5)
        hosts = await workflow.execute_activity_method(
            HandHosts.list_hosts, cluster, start_to_close_timeout=limit
        )
        for host in hosts:
            for step in (
                HandHosts.stop_services,
                HandHosts.perform_update,
                HandHosts.start_services,
                HandHosts.check_service_health,
            ):
                await workflow.execute_activity_method(step, host, start_to_close_timeout=limit)
        return len(hosts)
