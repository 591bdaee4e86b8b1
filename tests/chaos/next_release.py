"""The same workflows in a release that forgot that rollouts were running: a host waits before its first step."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

from temporal_patching.models._orders import HostRequest
from temporal_patching.workflow import HostPatchWorkflow, SystemPatchWorkflow
from tests.chaos.workflows import CHAOS_STEPS


@workflow.defn(name="ChaosHost")
class NextChaosHost(HostPatchWorkflow):
    steps = CHAOS_STEPS

    async def before_host(self, request: HostRequest) -> None:
        await workflow.sleep(timedelta(milliseconds=10))


@workflow.defn(name="ChaosFleet")
class NextChaosFleet(SystemPatchWorkflow):
    host_workflow = NextChaosHost
