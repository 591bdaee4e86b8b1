"""Two releases of one procedure. The second checks each host's health at its end."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

from temporal_patching.workflow import HostPatchWorkflow, SystemPatchWorkflow

with workflow.unsafe.imports_passed_through():
    from temporalio.client import Client
    from temporalio.worker import Worker, WorkerDeploymentConfig

    from temporal_patching.worker import PatchingPlugin

    from ..hosts import WorkshopHosts
    from ..machines import Fleet

__all__ = ["FirstRelease", "NextRelease", "worker"]


@workflow.defn(name="PatchWebHost")
class FirstHost(HostPatchWorkflow):
    steps = HostPatchWorkflow.steps.without("check_service_health")


@workflow.defn(name="PatchWebFleet")
class FirstRelease(SystemPatchWorkflow):
    host_workflow = FirstHost


@workflow.defn(name="PatchWebHost")
class NextHost(HostPatchWorkflow):
    pass


@workflow.defn(name="PatchWebFleet")
class NextRelease(SystemPatchWorkflow):
    host_workflow = NextHost


def worker(
    client: Client,
    fleet: Fleet,
    release: type[SystemPatchWorkflow],
    *,
    task_queue: str,
    deployment: WorkerDeploymentConfig | None = None,
) -> Worker:
    """A worker of one release, with a deployment version or without."""
    return Worker(
        client,
        task_queue=task_queue,
        plugins=[PatchingPlugin(WorkshopHosts(fleet), workflows=[release])],
        deployment_config=deployment,
        # Stopped in the middle of an update, it finishes that one before it goes.
        graceful_shutdown_timeout=timedelta(seconds=10),
    )
