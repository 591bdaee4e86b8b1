"""The parts alone, in a workflow that patches nothing: `python release.py 1.4`, while the worker runs."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client

from temporal_patching.client import Approvals
from temporal_patching.policy import ApprovalPolicy
from temporal_patching.workflow import ApprovalMixin, gather

with workflow.unsafe.imports_passed_through():
    from machines import publish

REGIONS = ["eu", "us", "ap"]


@activity.defn
async def deploy_to(region: str, version: str) -> str:
    publish(region, version)
    return f"{region} has {version}"


async def deploy(region: str, version: str) -> str:
    return await workflow.execute_activity(
        deploy_to, args=[region, version], start_to_close_timeout=timedelta(minutes=1)
    )


@workflow.defn
class Release(ApprovalMixin):
    @workflow.run
    async def run(self, version: str) -> list[str]:
        await self.approval(
            "release", ApprovalPolicy(approvers=["alice@example.com"], timeout=timedelta(hours=4))
        )
        # The first failure cancels the others and awaits them.
        return await gather(*[deploy(region, version) for region in REGIONS], limit=3)


async def main(version: str = "1.4") -> None:
    client = await Client.connect(os.environ.get("TEMPORAL_ADDRESS", "localhost:7233"))
    handle = await client.start_workflow(
        Release.run, version, id=f"release-{version}", task_queue="patching"
    )
    await Approvals(client, handle.id).approve(by="alice@example.com", gate="release")
    print(*await handle.result(), sep="\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
