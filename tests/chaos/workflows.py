"""What the chaos tests run: the default procedure, in which a dead worker is noticed soon."""

from __future__ import annotations

from datetime import timedelta

import attrs
from temporalio import workflow
from temporalio.common import RetryPolicy

from temporal_patching.policy import DEFAULT_STEPS, Step, Steps
from temporal_patching.workflow import HostPatchWorkflow, SystemPatchWorkflow

HEARTBEAT_TIMEOUT = timedelta(seconds=2)
ATTEMPTS = 8


def soon(step: Step) -> Step:
    """The step with a short heartbeat timeout and quick retries."""
    return attrs.evolve(
        step,
        heartbeat_timeout=HEARTBEAT_TIMEOUT,
        start_to_close_timeout=timedelta(minutes=2),
        retry_policy=RetryPolicy(
            initial_interval=timedelta(milliseconds=100),
            maximum_interval=timedelta(seconds=2),
            maximum_attempts=ATTEMPTS,
        ),
    )


CHAOS_STEPS = Steps(soon(step) for step in DEFAULT_STEPS)


@workflow.defn
class ChaosHost(HostPatchWorkflow):
    steps = CHAOS_STEPS


@workflow.defn
class ChaosFleet(SystemPatchWorkflow):
    host_workflow = ChaosHost
