"""The same with the library: the task says which attempt it is, so the step can look first."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

from temporal_patching.client import Rollout
from temporal_patching.exceptions import OutcomeUnknown
from temporal_patching.models import HostTask, PatchRequest, StepResult
from temporal_patching.policy import Step
from temporal_patching.workflow import HostPatchWorkflow, SystemPatchWorkflow

with workflow.unsafe.imports_passed_through():
    from ..hosts import WorkshopHosts
    from ..stage import Stage

__all__ = ["PatchUnsteadyFleet", "PatchUnsteadyHost", "UnsteadyHosts", "start"]


class UnsteadyHosts(WorkshopHosts):
    """The connection is lost once, when the services have been stopped already."""

    async def stop_services(self, task: HostTask) -> StepResult:
        machine = self.fleet.machine(task.host)
        if task.attempt > 1 and not machine.services_running:
            return StepResult(changed=True, message="an earlier attempt has stopped them")
        await machine.do(task.step)
        if task.attempt == 1:
            raise OutcomeUnknown(f"{task.host}: the connection is lost")
        return StepResult(changed=True)


@workflow.defn
class PatchUnsteadyHost(HostPatchWorkflow):
    steps = HostPatchWorkflow.steps.replace(
        Step(
            "stop_services",
            # Time to look, before the second attempt. Without maximum_attempts it would never give up.
            retry_policy=RetryPolicy(initial_interval=timedelta(seconds=2), maximum_attempts=5),
        ),
    )


@workflow.defn
class PatchUnsteadyFleet(SystemPatchWorkflow):
    host_workflow = PatchUnsteadyHost


async def start(stage: Stage, queue: str) -> Rollout[PatchUnsteadyFleet]:
    return await Rollout.start(
        stage.client,
        PatchUnsteadyFleet,
        PatchRequest(clusters=["eu-1"], requester="carol@example.com"),
        id=stage.id("e1-1-library"),
        task_queue=queue,
    )
