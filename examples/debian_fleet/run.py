"""All of it: hosts, server, worker, rollout. As root: `python -m examples.debian_fleet.run`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import sysconfig
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from temporal_patching.client import Rollout
from temporal_patching.models import HostState, PatchRequest, RolloutReport
from temporal_patching.policy import ApprovalPolicy, RolloutPolicy

from .fleet import NEW, PACKAGES, DebianFleet
from .workflows import PatchDebianFleet

__all__ = ["main"]

TASK_QUEUE = "debian-fleet"


async def patch(client: Client, clusters: Sequence[str], *, reboot: bool) -> RolloutReport:
    rollout = await Rollout.start(
        client,
        PatchDebianFleet,
        PatchRequest(
            clusters=clusters,
            requester="carol@example.com",
            update_command="apt-get -y upgrade",
            services=["orders"],
            policy=RolloutPolicy(max_parallel=2, reboot="always" if reboot else "if_needed"),
            approvals={
                "start": ApprovalPolicy(
                    approvers=["alice@example.com"], timeout=timedelta(minutes=10)
                )
            },
        ),
        id="debian-fleet",
        task_queue=TASK_QUEUE,
    )
    voting = asyncio.create_task(approve(rollout))
    async for progress in rollout.watch():
        print(progress.summary, flush=True)
    await voting
    return await rollout.report()


async def approve(rollout: Rollout[PatchDebianFleet]) -> None:
    # Counted also if it comes before the gate opens.
    await rollout.approve(by="alice@example.com", reason="the example approves itself")


def agrees(fleet: DebianFleet, report: RolloutReport) -> bool:
    """Compare the report with what dpkg says on each host."""
    not_patched = {host.host: host for host in report.hosts}
    right = True
    for host in fleet.hosts.values():
        versions = {package: host.version(package) for package in PACKAGES}
        reported = not_patched.get(host.name)
        state = reported.state if reported else HostState.PATCHED
        print(f"{host.name}: {state.value:12} {versions} · {host.orders() or 'no answer'}")
        if reported:
            print(f"    {reported.reason}")
        elif set(versions.values()) != {NEW} or host.orders() != f"orders {NEW} serving":
            right = False
    return right


async def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=3, help="hosts of each of the two clusters")
    parser.add_argument("--break-host", metavar="NAME", help="a host that gets a broken package")
    parser.add_argument("--reboot", action="store_true", help="reboot every host")
    options = parser.parse_args(arguments)
    if reason := DebianFleet.why_not():
        print(reason, file=sys.stderr)
        return 2
    server = Path(sysconfig.get_path("scripts")) / "temporal"
    with DebianFleet({"eu-1": options.hosts, "us-1": options.hosts}) as fleet:
        if options.break_host:
            fleet.hosts[options.break_host].break_orders()
        async with await WorkflowEnvironment.start_local(
            dev_server_existing_path=str(server) if server.exists() else None
        ) as environment:
            address = environment.client.service_client.config.target_host
            worker = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", f"{__package__}.worker"),
                *(address, TASK_QUEUE, str(fleet.folder)),
            )
            try:
                report = await patch(environment.client, ["eu-1", "us-1"], reboot=options.reboot)
            finally:
                worker.terminate()
                await worker.wait()
        print(f"\n{report.outcome.value}; out of service: {list(report.left_out_of_service)}")
        right = agrees(fleet, report)
    expected = "STOPPED" if options.break_host else "PATCHED"
    return 0 if right and report.outcome.name == expected else 1


if __name__ == "__main__":
    status = asyncio.run(main())
    sys.stdout.flush()
    # The SDK's runtime may crash while the interpreter shuts down.
    os._exit(status)
