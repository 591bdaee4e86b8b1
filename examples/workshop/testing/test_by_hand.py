"""Tests of the workflow by hand. The machines that they need are written here, too."""

from __future__ import annotations

from datetime import timedelta

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from .by_hand import PatchByHand
from .conftest import NoteDuration


class Machines:
    """Machines that are not there. What they do, and what goes wrong with them, is ours to write."""

    def __init__(self, *, broken: str = "") -> None:
        self.broken = broken
        self.stopped: set[str] = set()
        self.updated: list[str] = []

    @activity.defn
    async def stop_services(self, host: str) -> None:
        self.stopped.add(host)

    @activity.defn
    async def perform_update(self, host: str) -> None:
        if host == self.broken:
            raise ApplicationError("does not work", non_retryable=True)
        self.updated.append(host)

    @activity.defn
    async def start_services(self, host: str) -> None:
        self.stopped.discard(host)

    def worker(self, client: Client, task_queue: str) -> Worker:
        activities = [self.stop_services, self.perform_update, self.start_services]
        return Worker(client, task_queue=task_queue, workflows=[PatchByHand], activities=activities)


async def start(client: Client, id: str) -> WorkflowHandle[PatchByHand, None]:
    return await client.start_workflow(
        PatchByHand.run, ["web-1", "web-2"], id=id, task_queue="by-hand"
    )


async def test_nobody_approves(client: Client, note_duration: NoteDuration) -> None:
    """After four hours it ends, and nothing was touched."""
    machines = Machines()
    async with machines.worker(client, "by-hand"):
        handle = await start(client, "nobody")
        with pytest.raises(WorkflowFailureError):
            await handle.result()
    assert await note_duration(handle) >= timedelta(hours=4)
    assert machines.updated == []


async def test_a_host_fails(client: Client) -> None:
    """The services of the host that failed stay down, and nobody says so."""
    machines = Machines(broken="web-2")
    async with machines.worker(client, "by-hand"):
        handle = await start(client, "fails")
        await handle.signal(PatchByHand.approve)
        with pytest.raises(WorkflowFailureError):
            await handle.result()
    assert machines.updated == ["web-1"]
    assert machines.stopped == {"web-2"}
