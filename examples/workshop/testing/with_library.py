"""The subclass that is tested: a procedure with a step of its own. `test_patch_web.py` tests it."""

from __future__ import annotations

from temporalio import workflow

from temporal_patching.policy import Step
from temporal_patching.workflow import HostPatchWorkflow, SystemPatchWorkflow

__all__ = ["PatchWebFleet", "PatchWebHost"]


@workflow.defn
class PatchWebHost(HostPatchWorkflow):
    steps = HostPatchWorkflow.steps.after("start_services", Step("warm_cache"))


@workflow.defn
class PatchWebFleet(SystemPatchWorkflow):
    host_workflow = PatchWebHost
