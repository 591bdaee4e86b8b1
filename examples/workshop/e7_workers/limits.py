"""The configurations that are tried: how many workers, and with which of Temporal's options."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TypedDict

import attrs
from temporalio.worker import ResourceBasedSlotConfig, WorkerTuner

__all__ = ["CONFIGURATIONS", "HOSTS", "RATE", "SLOTS", "TUNER_SLOTS", "Configuration", "Limits"]

HOSTS = 6

SLOTS = 2
RATE = 8.0
TUNER_SLOTS = (2, 4)
"""The fewest and the most."""


class Limits(TypedDict, total=False):
    """Options of Temporal's ``Worker``, under its own names."""

    max_concurrent_activities: int
    max_concurrent_workflow_tasks: int
    max_activities_per_second: float
    max_task_queue_activities_per_second: float
    disable_eager_activity_execution: bool
    tuner: WorkerTuner


@attrs.frozen
class Configuration:
    """One way to run the same rollout.

    Attributes:
        limits: What each worker's constructor gets.
        workers: How many worker processes there are.
        max_parallel: How many hosts the rollout may have in flight, whoever works on them.
    """

    limits: Limits
    workers: int = 1
    max_parallel: int = HOSTS


CONFIGURATIONS: Mapping[str, Configuration] = {
    "defaults": Configuration({}),
    "slots": Configuration({"max_concurrent_activities": SLOTS}),
    "slots, 2 workers": Configuration({"max_concurrent_activities": SLOTS}, workers=2),
    "workflow slots": Configuration({"max_concurrent_workflow_tasks": SLOTS}),
    # This limit is not held: activities that start eagerly pass it. See the README.
    "rate, eager": Configuration({"max_activities_per_second": RATE}),
    "rate, 2 workers": Configuration(
        {"max_activities_per_second": RATE, "disable_eager_activity_execution": True}, workers=2
    ),
    "queue rate, 2 workers": Configuration(
        {"max_task_queue_activities_per_second": RATE}, workers=2
    ),
    "tuner": Configuration(
        {
            "tuner": WorkerTuner.create_resource_based(
                target_memory_usage=0.8,
                target_cpu_usage=0.9,
                activity_config=ResourceBasedSlotConfig(
                    minimum_slots=TUNER_SLOTS[0],
                    maximum_slots=TUNER_SLOTS[1],
                    ramp_throttle=timedelta(milliseconds=50),
                ),
            )
        }
    ),
    "max_parallel, 2 workers": Configuration({}, workers=2, max_parallel=2),
}
