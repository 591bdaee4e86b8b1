"""A rollout of thousands of hosts: how long its histories get, how large its payloads, what the worker needs.

    python benchmarks/scale.py [--hosts 5000] [--clusters 1] [--parallel 100]

Each host is a child workflow with three empty steps. It runs on a dev server, with the worker in a process of
its own. Then each run of each workflow is read, and it fails if one has more than 10,240 events or a payload of
more than 2 MB: from there on Temporal warns, or refuses.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import shutil
import signal
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from temporal_patching.activity import PatchActivities
from temporal_patching.client import Rollout
from temporal_patching.models import (
    Host,
    HostList,
    HostQuery,
    HostState,
    HostTask,
    PatchRequest,
    StepResult,
)
from temporal_patching.policy import RolloutPolicy
from temporal_patching.worker import PatchingPlugin
from temporal_patching.workflow import SystemPatchWorkflow

MOST_EVENTS = 10_240
MOST_BYTES = 2 * 1024 * 1024
PAGE = 1_000


class EmptySteps(PatchActivities):
    """Three steps that do nothing, for clusters whose names end in how many hosts they have."""

    async def list_hosts(self, query: HostQuery) -> HostList:
        name, _, count = query.cluster.rpartition("-")
        begin, total = int(query.page or 0), int(count)
        end = min(begin + PAGE, total)
        hosts = [
            Host(name=f"{name}-{n:05}.example.com", labels={"rack": f"r{n % 40}"})
            for n in range(begin, end)
        ]
        return HostList(hosts=hosts, next_page=str(end) if end < total else None)

    async def stop_services(self, task: HostTask) -> StepResult:
        return StepResult(changed=True)

    perform_update = start_services = stop_services


async def work(address: str, task_queue: str) -> None:
    """The worker's process: it prints its peak memory and its CPU seconds when it is told to end."""
    client = await Client.connect(address)
    worker = Worker(
        client,
        task_queue=task_queue,
        max_concurrent_workflow_tasks=100,
        max_concurrent_activities=200,
        plugins=[PatchingPlugin(EmptySteps())],
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with worker:
        print("ready", flush=True)
        await stop.wait()
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_maxrss, used.ru_utime + used.ru_stime, flush=True)
    os._exit(0)


@dataclass
class Kind:
    """What the workflows of one kind have left on the server, over all of their runs."""

    workflows: int = 0
    runs: list[int] = field(default_factory=list)
    """Events of each run."""
    payload: int = 0

    def __str__(self) -> str:
        runs = ", ".join(f"{events:,}" for events in self.runs[:20]) + (
            ", …" if len(self.runs) > 20 else ""
        )
        return (
            f"{self.workflows:,} workflows, {len(self.runs):,} runs, at most {max(self.runs):,} events "
            f"and {self.payload / 1024:,.0f} KB a payload; events of the runs: {runs}"
        )


async def read(client: Client, id: str, kind: Kind) -> list[str]:
    """Reads every run of a workflow. Answers the ids of its children."""
    kind.workflows += 1
    latest = await client.get_workflow_handle(id).fetch_history()
    run_id = latest.events[0].workflow_execution_started_event_attributes.first_execution_run_id
    children = list[str]()
    while run_id:
        history = await client.get_workflow_handle(id, run_id=run_id).fetch_history()
        kind.runs.append(len(history.events))
        for event in history.events:
            kind.payload = max(kind.payload, *(len(each.data) for each in payloads(event)), 0)
            child = event.child_workflow_execution_started_event_attributes.workflow_execution
            if child.workflow_id:
                children.append(child.workflow_id)
        last = history.events[-1].workflow_execution_continued_as_new_event_attributes
        run_id = last.new_execution_run_id
    return children


def payloads(message: Message) -> Iterator[Payload]:
    """Every payload in a message, however deep."""
    if isinstance(message, Payload):
        yield message
        return
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        if isinstance(value, Message):
            yield from payloads(value)
            continue
        of_map = descriptor.message_type.GetOptions().map_entry
        for each in value.values() if of_map else value:
            if isinstance(each, Message):
                yield from payloads(each)


async def read_all(client: Client, id: str) -> dict[str, Kind]:
    """The rollout, its clusters, its hosts."""
    rollout, cluster, host = Kind(), Kind(), Kind()
    hosts = list[str]()
    for each in await read(client, id, rollout):
        hosts += await read(client, each, cluster)
    slots = asyncio.Semaphore(8)

    async def read_one(id: str) -> None:
        async with slots:
            await read(client, id, host)

    await asyncio.gather(*map(read_one, hosts))
    return {"rollout": rollout, "clusters": cluster, "hosts": host}


async def measure(hosts: int, clusters: int, parallel: int) -> bool:
    """Runs it, prints the figures, and answers whether they are as they must be."""
    binary = shutil.which("temporal", path=sysconfig.get_path("scripts")) or shutil.which(
        "temporal"
    )
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=binary, dev_server_log_level="error"
    ) as server:
        client = server.client
        id = f"scale-{uuid4().hex[:8]}"
        worker = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--worker", client.service_client.config.target_host, id,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert worker.stdout is not None
        assert await worker.stdout.readline() == b"ready\n"
        each = hosts // clusters
        policy = RolloutPolicy(pilot_hosts=1, max_parallel=parallel)
        names = [f"web-{n}-{each}" for n in range(1, clusters + 1)]
        request = PatchRequest(clusters=names, requester="carol@example.com", policy=policy)
        began = time.perf_counter()
        rollout: Rollout[Any] = await Rollout.start(
            client, SystemPatchWorkflow, request, id=id, task_queue=id
        )
        report = await rollout.result()
        seconds = time.perf_counter() - began
        worker.terminate()
        memory, cpu = (await worker.stdout.readline()).split()
        await worker.wait()
        found = await read_all(client, id)
    patched = report.counts[HostState.PATCHED]
    print(f"{patched:,} hosts in {clusters} clusters, {parallel} at once in each")
    print(f"  {seconds:.0f} s, {patched / seconds:.1f} hosts/s, worker {float(cpu):.0f} CPU s")
    print(f"  worker's peak memory {int(memory) / 1024:.0f} MB")
    for what, kind in found.items():
        print(f"  {what}: {kind}")
    holds = {
        "every host is patched": patched == each * clusters == found["hosts"].workflows,
        f"at most {MOST_EVENTS:,} events a run": all(
            max(kind.runs) <= MOST_EVENTS for kind in found.values()
        ),
        "at most 2 MB a payload": all(kind.payload <= MOST_BYTES for kind in found.values()),
    }
    for what, holding in holds.items():
        print(f"  {'holds' if holding else 'DOES NOT HOLD'}: {what}")
    return all(holds.values())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        asyncio.run(work(*sys.argv[2:]))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=5_000)
    parser.add_argument("--clusters", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=100)
    options = parser.parse_args()
    all_hold = asyncio.run(measure(options.hosts, options.clusters, options.parallel))
    sys.stdout.flush()
    os._exit(not all_hold)  # the SDK may crash at interpreter exit, after the figures are printed
