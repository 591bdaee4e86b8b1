"""The library against hand-written workflows: 200 hosts, 11 steps each, 50 at once.

    python benchmarks/throughput.py [--pairs 5] [--hosts 200]

Both run on the same dev server with ``max_concurrent_workflow_tasks=100`` and
``max_concurrent_activities=200``, each in a worker process of its own whose CPU seconds are counted; the
runs are interleaved, and what is printed are medians and their ratios. A ratio above 1.00 means that
the library is faster, or uses less.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import statistics
import sys
import sysconfig
import time
from dataclasses import dataclass
from uuid import uuid4

from hand_written import STEPS, HandCluster, HandHost, PatchByHand, hand_step
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from temporal_patching.activity import PatchActivities
from temporal_patching.client import Rollout
from temporal_patching.models import HostList, HostQuery, HostTask, PatchRequest, StepResult
from temporal_patching.policy import RolloutPolicy
from temporal_patching.worker import PatchingPlugin
from temporal_patching.workflow import SystemPatchWorkflow

SERVICES, COMMAND = ["nginx"], "apt-get -y upgrade"


class EmptySteps(PatchActivities):
    """Eleven steps that do nothing."""

    def __init__(self, hosts: list[str]) -> None:
        self._hosts = hosts

    async def list_hosts(self, query: HostQuery) -> HostList:
        return HostList(hosts=self._hosts)

    async def check_preconditions(self, task: HostTask) -> StepResult:
        return StepResult(changed=True)

    run_pre_downtime_scripts = set_maintenance_mode = stop_services = check_preconditions
    wait_for_workload_drain = run_pre_update_scripts = perform_update = check_preconditions
    start_services = run_post_update_scripts = check_preconditions
    check_service_health = clear_maintenance_mode = check_preconditions


async def work(kind: str, address: str, task_queue: str, hosts: list[str]) -> None:
    client = await Client.connect(address)
    worker = Worker(
        client,
        task_queue=task_queue,
        max_concurrent_workflow_tasks=100,
        max_concurrent_activities=200,
        activities=[hand_step] if kind == "hand" else [],
        workflows=[HandHost, PatchByHand] if kind == "hand" else [],
        plugins=[PatchingPlugin(EmptySteps(hosts))] if kind == "library" else [],
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with worker:
        started = time.process_time()
        print("ready", flush=True)
        await stop.wait()
        print(time.process_time() - started, flush=True)
    os._exit(0)


@dataclass
class Run:
    seconds: float
    cpu: float


async def measure(kind: str, client: Client, address: str, hosts: list[str], parallel: int) -> Run:
    id = f"{kind}-{uuid4().hex[:8]}"
    worker = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--worker", kind, address, id, str(len(hosts)),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert worker.stdout is not None
    assert await worker.stdout.readline() == b"ready\n"
    started = time.perf_counter()
    if kind == "hand":
        done = await client.execute_workflow(
            PatchByHand.run,
            HandCluster("eu-1", hosts, parallel, SERVICES, COMMAND),
            id=id,
            task_queue=id,
        )
    else:
        rollout = await Rollout.start(
            client,
            SystemPatchWorkflow,
            PatchRequest(
                clusters=["eu-1"],
                requester="carol@example.com",
                services=SERVICES,
                update_command=COMMAND,
                policy=RolloutPolicy(pilot_hosts=0, max_parallel=parallel),
            ),
            id=id,
            task_queue=id,
        )
        report = await rollout.result()
        done = sum(report.counts.values())
    seconds = time.perf_counter() - started
    assert done == len(hosts), f"{kind}: {done} of {len(hosts)} hosts"
    worker.terminate()
    cpu = float(await worker.stdout.readline())
    await worker.wait()
    return Run(seconds, cpu)


async def compare(pairs: int, count: int, parallel: int) -> None:
    hosts = [f"host-{number:04}" for number in range(count)]
    binary = shutil.which("temporal", path=sysconfig.get_path("scripts")) or shutil.which(
        "temporal"
    )
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=binary, dev_server_log_level="error"
    ) as server:
        address = server.client.service_client.config.target_host
        runs: dict[str, list[Run]] = {"hand": [], "library": []}
        for pair in range(pairs):
            for kind in ("hand", "library") if pair % 2 == 0 else ("library", "hand"):
                run = await measure(kind, server.client, address, hosts, parallel)
                runs[kind].append(run)
                print(f"pair {pair + 1} {kind:8} {run.seconds:6.2f} s  worker {run.cpu:6.2f} CPU s")
    hand, ours = runs["hand"], runs["library"]
    seconds = [statistics.median(run.seconds for run in each) for each in (hand, ours)]
    cpu = [statistics.median(run.cpu for run in each) for each in (hand, ours)]
    print(f"\n{count} hosts, {len(STEPS)} steps, {parallel} at once, median of {pairs} pairs")
    print("            hand-written   library   ratio")
    print(f"wall clock  {seconds[0]:10.2f} s {seconds[1]:7.2f} s {seconds[0] / seconds[1]:7.2f}")
    print(f"worker CPU  {cpu[0]:10.2f} s {cpu[1]:7.2f} s {cpu[0] / cpu[1]:7.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _, _, kind, address, task_queue, count = sys.argv
        names = [f"host-{number:04}" for number in range(int(count))]
        asyncio.run(work(kind, address, task_queue, names))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--parallel", type=int, default=50)
    options = parser.parse_args()
    asyncio.run(compare(options.pairs, options.hosts, options.parallel))
    sys.stdout.flush()
    os._exit(0)  # the SDK may crash at interpreter exit, after the figures are printed
