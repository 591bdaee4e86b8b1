"""A worker process to be killed: its hosts are a simulated fleet that the test serves."""

from __future__ import annotations

import asyncio
import os
import sys

from temporalio.client import Client
from temporalio.worker import Worker

from temporal_patching.testing import SimulatedFleet
from temporal_patching.worker import PatchingPlugin
from tests.workflows import QuickFleet


async def main(temporal: str, task_queue: str, fleet: str) -> None:
    """Works until it is killed."""
    client = await Client.connect(temporal)
    plugin = PatchingPlugin(SimulatedFleet.at(fleet), workflows=[QuickFleet])
    async with Worker(client, task_queue=task_queue, plugins=[plugin]):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
    os._exit(0)
