"""Only where the procedure differs from the library's."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

from temporal_patching.policy import Step
from temporal_patching.workflow import HostPatchWorkflow, SystemPatchWorkflow


@workflow.defn
class PatchWebHost(HostPatchWorkflow):
    steps = HostPatchWorkflow.steps.after(
        "perform_update", Step("rebuild_initramfs", start_to_close_timeout=timedelta(minutes=5))
    )


@workflow.defn
class PatchWebFleet(SystemPatchWorkflow):
    host_workflow = PatchWebHost
