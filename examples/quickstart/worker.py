"""Does the work, until Ctrl-C ends it. Start as many as you like."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from temporalio.client import Client
from temporalio.worker import Worker

from hosts import DebianHosts
from machines import build
from release import Release, deploy_to
from temporal_patching.worker import PatchingPlugin
from workflows import PatchWebFleet, PatchWebHost


async def main() -> None:
    build()
    client = await Client.connect(os.environ.get("TEMPORAL_ADDRESS", "localhost:7233"))
    worker = Worker(
        client,
        task_queue="patching",
        workflows=[Release],
        activities=[deploy_to],
        plugins=[PatchingPlugin(DebianHosts(), workflows=[PatchWebFleet, PatchWebHost])],
    )
    print("working", flush=True)
    await worker.run()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
