"""Starts a rollout, approves it, watches it and reports: `python operate.py [ID]`."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta

from temporalio.client import Client

from temporal_patching.client import Rollout
from temporal_patching.exceptions import RolloutExists, RolloutFailed
from temporal_patching.models import HostState, PatchRequest
from temporal_patching.policy import ApprovalPolicy, FailureBudget, RolloutPolicy
from workflows import PatchWebFleet


async def main(id: str = "patch-2026-11") -> None:
    client = await Client.connect(os.environ.get("TEMPORAL_ADDRESS", "localhost:7233"))
    rollout = await Rollout.start(
        client,
        PatchWebFleet,
        PatchRequest(
            clusters=["eu-1", "us-1"],
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
        id=id,  # used once: another rollout needs another one
        task_queue="patching",
    )
    await rollout.approve(by="alice@example.com", reason="CHG-4711")
    async for progress in rollout.watch():  # ends with the rollout
        print(progress.summary)
    again = Rollout.get(client, id)  # the same, as another program finds it
    try:
        report = await again.result()
    except RolloutFailed as failed:  # rejected, expired, stopped, aborted, or hosts not patched
        report = failed.report
    print(report.outcome, "with", report.counts[HostState.PATCHED], "hosts patched")
    for host in report.hosts:  # those that are not
        print(host.cluster, host.host, host.state, host.reason)
    print("left out of service:", list(report.left_out_of_service))


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except RolloutExists as exists:
        sys.exit(str(exists))
