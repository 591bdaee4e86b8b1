"""The workflow classes of ``test_rehearse.py``, some of them wrong: light, since each sandbox imports it again."""

from __future__ import annotations

import threading
import time
from itertools import count

from temporalio import workflow

from temporal_patching.models import HostResult, PatchRequest, RolloutReport
from temporal_patching.policy import Step
from temporal_patching.workflow import HostPatchWorkflow, SystemPatchWorkflow


@workflow.defn
class PatchWebHost(HostPatchWorkflow):
    steps = HostPatchWorkflow.steps.after("perform_update", Step("rebuild_index"))


@workflow.defn
class PatchWebFleet(SystemPatchWorkflow):
    host_workflow = PatchWebHost


@workflow.defn
class ShortHost(HostPatchWorkflow):
    steps = HostPatchWorkflow.steps.without("stop_services", "start_services")


@workflow.defn
class ShortFleet(SystemPatchWorkflow):
    host_workflow = ShortHost


RUNS = count()


@workflow.defn(sandboxed=False)
class DriftingFleet(SystemPatchWorkflow):
    """Sleeps only the first time that it is run: not when it is replayed."""

    async def before_rollout(self, request: PatchRequest) -> None:
        if next(RUNS) == 0:
            await workflow.sleep(60)


@workflow.defn
class RaisingHost(HostPatchWorkflow):
    async def after_host(self, result: HostResult) -> None:
        raise KeyError("ticket")


@workflow.defn
class RaisingFleet(SystemPatchWorkflow):
    host_workflow = RaisingHost

    async def after_rollout(self, report: RolloutReport) -> None:
        raise KeyError("ticket")


@workflow.defn
class ForbiddenFleet(SystemPatchWorkflow):
    async def before_rollout(self, request: PatchRequest) -> None:
        threading.Event().wait(0.1)


@workflow.defn(sandboxed=False)
class BlockingFleet(SystemPatchWorkflow):
    async def before_rollout(self, request: PatchRequest) -> None:
        time.sleep(3)
