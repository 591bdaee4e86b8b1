"""Where this shop's procedure differs from the default one."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

from ..policy import Step
from ..workflow import HostPatchWorkflow, SystemPatchWorkflow


@workflow.defn
class PatchShopHost(HostPatchWorkflow):
    """Orders something from the new version before customers may."""

    steps = HostPatchWorkflow.steps.after("check_service_health", Step("place_test_order")).replace(
        # A cancel arrives with a heartbeat: this step may wait for long, so it beats often.
        "wait_for_workload_drain",
        Step("wait_for_workload_drain", heartbeat_timeout=timedelta(seconds=4)),
    )


@workflow.defn
class PatchShopFleet(SystemPatchWorkflow):
    """A rollout over shops."""

    host_workflow = PatchShopHost
