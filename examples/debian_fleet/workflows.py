"""Where the procedure of these hosts differs from the default."""

from __future__ import annotations

from datetime import timedelta

import attrs
from temporalio import workflow

from temporal_patching.policy import Step, Steps
from temporal_patching.workflow import HostPatchWorkflow, SystemPatchWorkflow

__all__ = ["PatchDebianFleet", "PatchDebianHost"]

# A cancel closes the connection, and does not stop what runs on the host: a service that is still
# being stopped would meet its own start. So a stop that has begun is waited for.
_STOP = Step("stop_services", shielded=True, start_to_close_timeout=timedelta(minutes=2))
_UPDATE = Step("perform_update", start_to_close_timeout=timedelta(minutes=30))


@workflow.defn
class PatchDebianHost(HostPatchWorkflow):
    # A worker that died is noticed after 5 seconds.
    steps = Steps(
        attrs.evolve(step, heartbeat_timeout=timedelta(seconds=5))
        for step in HostPatchWorkflow.steps.replace(_STOP).replace(_UPDATE)
    )


@workflow.defn
class PatchDebianFleet(SystemPatchWorkflow):
    host_workflow = PatchDebianHost
