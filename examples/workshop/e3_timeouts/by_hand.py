"""Two workflows by hand: one limits an attempt's time, the other notices a dead worker."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from ..hosts import HandHosts
    from ..machines import Fleet
    from ..worker import work_until_killed

__all__ = ["HurriedByHand", "PatientByHand", "work"]


@workflow.defn
class HurriedByHand:
    """An attempt may take 1.5 seconds. Nobody said how many attempts there are."""

    @workflow.run
    async def run(self, host: str) -> None:
        limit = timedelta(seconds=1.5)
        for step in (HandHosts.stop_services, HandHosts.perform_update, HandHosts.start_services):
            await workflow.execute_activity_method(step, host, start_to_close_timeout=limit)


@workflow.defn
class PatientByHand:
    """The update may take a minute, and must heartbeat every 2 seconds."""

    @workflow.run
    async def run(self, host: str) -> None:
        await workflow.execute_activity_method(
            HandHosts.perform_update,
            host,
            start_to_close_timeout=timedelta(minutes=1),
            heartbeat_timeout=timedelta(seconds=2),
        )


async def work(address: str, task_queue: str, folder: str) -> None:
    """What a worker process does: see ``stage.worker_process``."""
    worker = Worker(
        await Client.connect(address),
        task_queue=task_queue,
        workflows=[PatientByHand],
        activities=HandHosts(Fleet(Path(folder))).all(),
        # How long a workflow waits for the worker that had it before. Default: 10 seconds.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
    )
    await work_until_killed(worker)
