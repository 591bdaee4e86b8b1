"""`gather`: a release goes to two regions at a time, and one that fails stops what runs beside it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.worker import Worker

from temporal_patching.workflow import gather


@activity.defn
def deploy(region: str, version: str) -> str:
    """Copies the pages of a version to a region, which is a folder, and then switches to it."""
    if Path(region, version).exists():
        return f"{region} has {version} already"
    incoming = Path(region, "incoming")
    shutil.rmtree(incoming, ignore_errors=True)  # an attempt's that was killed
    incoming.mkdir()
    try:
        for number in range(10):
            time.sleep(0.2)  # the way to the region
            (incoming / f"page-{number}.html").write_text(version, encoding="utf-8")
            activity.heartbeat()  # its answer tells of a cancel, which is then raised here
        incoming.replace(Path(region, version))
    finally:
        shutil.rmtree(incoming, ignore_errors=True)  # nothing half is left
    return f"{region} has {version}"


@workflow.defn
class ReleaseToRegions:
    @workflow.run
    async def run(self, version: str, regions: list[str]) -> list[str]:
        return await gather(*[self.deploy(region, version) for region in regions], limit=2)

    async def deploy(self, region: str, version: str) -> str:
        return await workflow.execute_activity(
            deploy,
            args=[region, version],
            start_to_close_timeout=timedelta(minutes=5),
            heartbeat_timeout=timedelta(seconds=1),
            # Without it a cancelled activity counts as ended while it still clears away.
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            # A region that is not there is not there a second later, either.
            retry_policy=RetryPolicy(non_retryable_error_types=["FileNotFoundError"]),
        )


async def release(queue: str, version: str, regions: list[str]) -> None:
    client = await Client.connect(os.environ.get("TEMPORAL_ADDRESS", "localhost:7233"))
    async with Worker(
        client,
        task_queue=queue,
        workflows=[ReleaseToRegions],
        activities=[deploy],
        activity_executor=ThreadPoolExecutor(),
    ):
        id = f"{queue}-{version}"
        print(f"workflow {id}: to {', '.join(regions)}")
        try:
            done = await client.execute_workflow(
                ReleaseToRegions.run, args=[version, regions], id=id, task_queue=queue
            )
            print(*done, sep="\n")
        except WorkflowFailureError as error:
            print("failed:", error.cause.__cause__)


def main(folder: Path) -> None:
    queue = f"release-{uuid.uuid4().hex[:6]}"
    eu, us, ap, mars = (str(folder / name) for name in ("eu", "us", "ap", "mars"))
    for region in (eu, us, ap):  # there is no mars
        Path(region).mkdir(parents=True)
    asyncio.run(release(queue, "1.4", [eu, us, ap]))
    asyncio.run(release(queue, "1.5", [eu, mars, us, ap]))
    for region in (eu, us, ap):
        print(region, "has", os.listdir(region))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
