"""What the SDK's own metrics say of a worker, read from its Prometheus endpoint."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import attrs
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

__all__ = ["Reading", "parse", "scrape"]


@attrs.frozen
class Reading:
    """What one worker's metrics said at one moment.

    Attributes:
        slots: How many activity slots it has; None where a tuner decides that as it goes.
        slots_used: Activities that it is working on.
        workflow_slots: How many workflow task slots it has; None as above.
        started: Activities that it has started so far.
        eager: How many of these came with a workflow task's answer, not from the task queue.
        waited: Seconds that they waited in the task queue, together.
    """

    slots: int | None
    slots_used: int
    workflow_slots: int | None
    started: int
    eager: int
    waited: float


def scrape(port: int) -> str:
    """What the endpoint says, as text."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text: bytes = answer.read()
        return text.decode()


def parse(text: str) -> Reading:
    # Most lines are a histogram's buckets. Its sum and its count are enough here.
    short = "".join(line for line in text.splitlines(True) if "_bucket{" not in line)
    samples = [sample for each in text_string_to_metric_families(short) for sample in each.samples]
    used = _slots(samples, "used")
    available = _slots(samples, "available")

    def size(kind: str) -> int | None:
        return used[kind] + available[kind] if kind in available else None

    received = list(_named(samples, "temporal_activity_task_received_total"))
    waits = "temporal_activity_schedule_to_start_latency_seconds"
    return Reading(
        slots=size("ActivityWorker"),
        slots_used=used.get("ActivityWorker", 0),
        workflow_slots=size("WorkflowWorker"),
        started=sum(int(sample.value) for sample in received),
        eager=sum(int(sample.value) for sample in received if sample.labels["eager"] == "true"),
        waited=sum(sample.value for sample in _named(samples, f"{waits}_sum")),
    )


def _named(samples: list[Sample], name: str) -> Iterator[Sample]:
    return (sample for sample in samples if sample.name == name)


def _slots(samples: list[Sample], which: str) -> dict[str, int]:
    found = _named(samples, f"temporal_worker_task_slots_{which}")
    return {sample.labels["worker_type"]: int(sample.value) for sample in found}
