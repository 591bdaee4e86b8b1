"""The same with the library: the step is replaced by one with other timeouts and retries."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from temporalio import workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.worker import Worker

from temporal_patching.policy import Step
from temporal_patching.worker import PatchingPlugin
from temporal_patching.workflow import HostPatchWorkflow, SystemPatchWorkflow

with workflow.unsafe.imports_passed_through():
    from ..hosts import WorkshopHosts
    from ..machines import Fleet
    from ..worker import work_until_killed

__all__ = ["HurriedFleet", "PatientFleet", "work"]


@workflow.defn
class HurriedHost(HostPatchWorkflow):
    """An attempt of the update may take 1.5 seconds, and there are three."""

    steps = HostPatchWorkflow.steps.replace(
        Step(
            "perform_update",
            start_to_close_timeout=timedelta(seconds=1.5),
            heartbeat_timeout=timedelta(seconds=2),
            retry_policy=RetryPolicy(
                initial_interval=timedelta(seconds=1), backoff_coefficient=2, maximum_attempts=3
            ),
        ),
    )


@workflow.defn
class HurriedFleet(SystemPatchWorkflow):
    host_workflow = HurriedHost


@workflow.defn
class PatientHost(HostPatchWorkflow):
    """The update may take a minute, and its heartbeats are missed after 2 seconds."""

    steps = HostPatchWorkflow.steps.replace(
        Step(
            "perform_update",
            start_to_close_timeout=timedelta(minutes=1),
            heartbeat_timeout=timedelta(seconds=2),
        ),
    )


@workflow.defn
class PatientFleet(SystemPatchWorkflow):
    host_workflow = PatientHost


async def work(address: str, task_queue: str, folder: str) -> None:
    """What a worker process does: see ``stage.worker_process``."""
    worker = Worker(
        await Client.connect(address),
        task_queue=task_queue,
        plugins=[PatchingPlugin(WorkshopHosts(Fleet(Path(folder))), workflows=[PatientFleet])],
        # How long a workflow waits for the worker that had it before. Default: 10 seconds.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
    )
    await work_until_killed(worker)
