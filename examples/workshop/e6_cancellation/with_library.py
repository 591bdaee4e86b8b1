"""The same with the library: what fails cancels what runs beside it, and waits until all is given back."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy

from temporal_patching.client import Rollout
from temporal_patching.models import HostTask, PatchRequest, StepResult
from temporal_patching.policy import RolloutPolicy, Step
from temporal_patching.workflow import HostPatchWorkflow, SystemPatchWorkflow

with workflow.unsafe.imports_passed_through():
    from ..hosts import WorkshopHosts

__all__ = ["DrainingHosts", "PatchDrainingFleet", "PatchDrainingHost", "start"]


class DrainingHosts(WorkshopHosts):
    """One more step: it waits until nobody works on the host."""

    async def wait_for_workload_drain(self, task: HostTask) -> StepResult:
        await self.fleet.machine(task.host).drain()
        return StepResult()


@workflow.defn
class PatchDrainingHost(HostPatchWorkflow):
    """The default procedure in a hurry: two attempts, and a cancel is heard within about 2 seconds."""

    steps = HostPatchWorkflow.steps.replace(
        Step("wait_for_workload_drain", heartbeat_timeout=timedelta(seconds=2)),
    ).replace(
        Step(
            "perform_update",
            retry_policy=RetryPolicy(
                initial_interval=timedelta(milliseconds=100), maximum_attempts=2
            ),
        ),
    )


@workflow.defn
class PatchDrainingFleet(SystemPatchWorkflow):
    host_workflow = PatchDrainingHost


async def start(client: Client, id: str, task_queue: str) -> Rollout[PatchDrainingFleet]:
    return await Rollout.start(
        client,
        PatchDrainingFleet,
        PatchRequest(
            clusters=["eu-1"],
            requester="carol@example.com",
            policy=RolloutPolicy(pilot_hosts=0, max_parallel=3),
        ),
        id=id,
        task_queue=task_queue,
    )
