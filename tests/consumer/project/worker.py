"""python worker.py ADDRESS TASK_QUEUE: works until its standard input ends."""

import asyncio
import sys

from temporalio.client import Client
from temporalio.worker import Worker

from hosts import DebianHosts
from release import Release, deploy_to
from temporal_patching.worker import PatchingPlugin
from workflows import PatchWebFleet, PatchWebHost


async def main(address: str, task_queue: str) -> None:
    client = await Client.connect(address)
    worker = Worker(
        client,
        task_queue=task_queue,
        workflows=[Release],
        activities=[deploy_to],
        plugins=[PatchingPlugin(DebianHosts(), workflows=[PatchWebFleet, PatchWebHost])],
    )
    async with worker:
        print("working", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
