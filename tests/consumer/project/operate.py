"""python operate.py ADDRESS QUEUE ID CLUSTER...: starts, approves, watches, reports as JSON."""

import asyncio
import json
import os
import sys
from datetime import timedelta

from temporalio.client import Client

from release import Release
from temporal_patching.client import Approvals, Rollout
from temporal_patching.exceptions import RolloutFailed
from temporal_patching.models import HostState, PatchRequest, RolloutReport
from temporal_patching.policy import ApprovalPolicy, FailureBudget, RolloutPolicy
from workflows import PatchWebFleet


async def patch(client: Client, task_queue: str, id: str, clusters: list[str]) -> RolloutReport:
    rollout = await Rollout.start(
        client,
        PatchWebFleet,
        PatchRequest(
            clusters=clusters,
            requester="carol@example.com",
            update_command="apt-get -y upgrade",
            services=["nginx"],
            policy=RolloutPolicy(
                pilot_hosts=1,
                waves=["10%", "100%"],
                max_parallel="10%",
                failure_budget=FailureBudget(max_failures="5%"),
            ),
            approvals={
                "start": ApprovalPolicy(
                    approvers=["alice@example.com", "bob@example.com"],
                    quorum=1,
                    timeout=timedelta(hours=4),
                )
            },
        ),
        id=id,
        task_queue=task_queue,
    )
    await rollout.approve(by="alice@example.com", reason="CHG-4711")
    async for progress in rollout.watch():
        print(progress.summary, file=sys.stderr)
    again = Rollout.get(client, id)
    try:
        return await again.result()
    except RolloutFailed as failed:
        return failed.report


async def release(client: Client, task_queue: str, id: str) -> list[str]:
    handle = await client.start_workflow(Release.run, "1.2", id=id, task_queue=task_queue)
    await Approvals(client, id).approve(by="alice@example.com", gate="release")
    return await handle.result()


async def main(address: str, task_queue: str, id: str, *clusters: str) -> None:
    client = await Client.connect(address)
    report = await patch(client, task_queue, id, list(clusters))
    print(
        json.dumps(
            {
                "outcome": report.outcome,
                "patched": report.counts[HostState.PATCHED],
                "failed": report.counts[HostState.FAILED],
                "hosts": [
                    [host.cluster, host.host, host.state, host.reason] for host in report.hosts
                ],
                "left_out_of_service": list(report.left_out_of_service),
                "released": await release(client, task_queue, f"{id}-release"),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
    os._exit(0)  # a short-lived process that used the SDK may crash in the interpreter's shutdown
