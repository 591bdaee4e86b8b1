"""The same with the library: ``local=True`` on the steps that are short."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

from temporal_patching.policy import Step, Steps
from temporal_patching.worker import PatchingPlugin
from temporal_patching.workflow import HostPatchWorkflow, SystemPatchWorkflow

with workflow.unsafe.imports_passed_through():
    from ..hosts import WorkshopHosts
    from ..machines import Fleet
    from ..worker import work_until_killed

__all__ = ["LocalFleet", "OrdinaryFleet", "work", "worker"]

SHORT = (
    "check_preconditions",
    "set_maintenance_mode",
    "stop_services",
    "start_services",
    "check_service_health",
    "clear_maintenance_mode",
)
BEAT = timedelta(seconds=2)


@workflow.defn
class OrdinaryHost(HostPatchWorkflow):
    """Each step is an activity. The death of a worker is noticed within 2 seconds."""

    steps = Steps(Step(name, heartbeat_timeout=BEAT) for name in HostPatchWorkflow.steps.names)


@workflow.defn
class OrdinaryFleet(SystemPatchWorkflow):
    host_workflow = OrdinaryHost


@workflow.defn
class LocalHost(HostPatchWorkflow):
    """The short steps are local activities. The update must not be one."""

    steps = Steps(Step(name, local=name in SHORT) for name in HostPatchWorkflow.steps.names)


@workflow.defn
class LocalFleet(SystemPatchWorkflow):
    host_workflow = LocalHost


def worker(client: Client, fleet: Fleet, *, task_queue: str) -> Worker:
    plugin = PatchingPlugin(WorkshopHosts(fleet), workflows=[OrdinaryFleet, LocalFleet])
    return Worker(
        client,
        task_queue=task_queue,
        plugins=[plugin],
        # How long a workflow waits for the worker that had it before. Default: 10 seconds.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
    )


async def work(address: str, task_queue: str, folder: str) -> None:
    """What a worker process does: see ``stage.worker_process``."""
    client = await Client.connect(address)
    await work_until_killed(worker(client, Fleet(Path(folder)), task_queue=task_queue))
