"""A worker for one fleet: `python -m examples.debian_fleet.worker ADDRESS TASK_QUEUE FLEET_FOLDER`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from temporalio.client import Client
from temporalio.worker import Worker

from temporal_patching.worker import PatchingPlugin

from .fleet import inventory_of, ssh_to
from .hosts import DebianHosts
from .workflows import PatchDebianFleet, PatchDebianHost

__all__ = ["main"]


async def main(address: str, task_queue: str, folder: Path) -> None:
    client = await Client.connect(address)
    hosts = DebianHosts(ssh_to(folder), inventory_of(folder))
    plugin = PatchingPlugin(hosts, workflows=[PatchDebianFleet, PatchDebianHost])
    async with Worker(client, task_queue=task_queue, plugins=[plugin]):
        print("worker ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    address, task_queue, folder = sys.argv[1:]
    asyncio.run(main(address, task_queue, Path(folder)))
