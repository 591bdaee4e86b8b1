"""The workflow classes of the server tests: module-level, as the SDK wants them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from datetime import timedelta

import attrs
from temporalio import workflow
from temporalio.common import RetryPolicy

from temporal_patching.models import (
    ClusterReport,
    Host,
    HostResult,
    PatchRequest,
    RolloutReport,
)
from temporal_patching.models._orders import ClusterRequest, HostRequest
from temporal_patching.policy import DEFAULT_STEPS, Step, Steps
from temporal_patching.workflow import (
    ClusterPatchWorkflow,
    HostPatchWorkflow,
    SystemPatchWorkflow,
)

with workflow.unsafe.imports_passed_through():
    from tests import noted, raising


def quick(step: Step) -> Step:
    """The step with timeouts for tests: a cancel arrives soon, three quick attempts."""
    return attrs.evolve(
        step,
        heartbeat_timeout=timedelta(seconds=2),
        start_to_close_timeout=timedelta(seconds=20),
        retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_attempts=3),
    )


QUICK_STEPS = Steps(quick(step) for step in DEFAULT_STEPS)


@workflow.defn
class QuickHost(HostPatchWorkflow):
    steps = QUICK_STEPS


@workflow.defn
class QuickFleet(SystemPatchWorkflow):
    host_workflow = QuickHost


# Other procedures


@workflow.defn
class ExtraStepHost(HostPatchWorkflow):
    steps = QUICK_STEPS.after("perform_update", quick(Step("rebuild_initramfs")))


@workflow.defn
class ExtraStepFleet(SystemPatchWorkflow):
    host_workflow = ExtraStepHost


@workflow.defn
class LocalStepHost(HostPatchWorkflow):
    steps = QUICK_STEPS.replace("check_preconditions", attrs.evolve(QUICK_STEPS[0], local=True))


@workflow.defn
class LocalStepFleet(SystemPatchWorkflow):
    host_workflow = LocalStepHost


@workflow.defn
class ImpatientHost(HostPatchWorkflow):
    """One attempt of a second for each step."""

    steps = Steps(
        attrs.evolve(
            step,
            start_to_close_timeout=timedelta(seconds=1),
            retry_policy=RetryPolicy(maximum_attempts=1),
        )
        for step in QUICK_STEPS
    )


@workflow.defn
class ImpatientFleet(SystemPatchWorkflow):
    host_workflow = ImpatientHost


@workflow.defn
class LimitedHost(HostPatchWorkflow):
    """One attempt of two seconds for its update."""

    steps = QUICK_STEPS.replace(
        attrs.evolve(
            QUICK_STEPS[QUICK_STEPS.names.index("perform_update")],
            start_to_close_timeout=timedelta(seconds=2),
            retry_policy=RetryPolicy(maximum_attempts=1),
        )
    )


@workflow.defn
class LimitedFleet(SystemPatchWorkflow):
    host_workflow = LimitedHost


# A release in the middle of a rollout: two versions of one class, under one name


@workflow.defn(name="ReleasedHost")
class HostOfTheOldRelease(HostPatchWorkflow):
    steps = QUICK_STEPS


@workflow.defn(name="ReleasedFleet")
class FleetOfTheOldRelease(SystemPatchWorkflow):
    host_workflow = HostOfTheOldRelease


@workflow.defn(name="ReleasedHost")
class HostOfTheNewRelease(HostPatchWorkflow):
    steps = QUICK_STEPS.without("check_service_health").after(
        "perform_update", quick(Step("rebuild_initramfs"))
    )


@workflow.defn(name="ReleasedFleet")
class FleetOfTheNewRelease(SystemPatchWorkflow):
    host_workflow = HostOfTheNewRelease


# Own run methods


@workflow.defn
class OwnRunHost(HostPatchWorkflow):
    steps = QUICK_STEPS

    @workflow.run
    async def run(self, request: HostRequest) -> HostResult:
        return await self.patch_host(request)


@workflow.defn
class OwnRunCluster(ClusterPatchWorkflow):
    @workflow.run
    async def run(self, request: ClusterRequest) -> ClusterReport:
        return await self.patch_cluster(request)


@workflow.defn
class OwnRunFleet(SystemPatchWorkflow):
    host_workflow = OwnRunHost
    cluster_workflow = OwnRunCluster

    @workflow.run
    async def run(self, request: PatchRequest) -> RolloutReport:
        await workflow.sleep(timedelta(milliseconds=1))
        return await self.rollout(request)


# An own handler


@workflow.defn
class NotedFleet(SystemPatchWorkflow):
    host_workflow = QuickHost

    @workflow.init
    def __init__(self, request: PatchRequest) -> None:
        super().__init__(request)
        self._notes: list[str] = []

    @workflow.update
    async def note(self, text: str) -> int:
        await workflow.sleep(timedelta(milliseconds=10))
        self._notes.append(text)
        return len(self._notes)

    @workflow.query
    def notes(self) -> list[str]:
        return self._notes


# Typed parameters


@attrs.frozen
class Params:
    """What the rollouts of `TypedFleet` take."""

    channel: str
    build: int = 0


@workflow.defn
class TypedFleet(SystemPatchWorkflow):
    host_workflow = QuickHost
    params_type = Params


# Another order


@workflow.defn
class BackwardsCluster(ClusterPatchWorkflow):
    def order_hosts(self, hosts: Sequence[Host]) -> Sequence[Host]:
        return tuple(reversed(hosts))


@workflow.defn
class BackwardsFleet(SystemPatchWorkflow):
    host_workflow = QuickHost
    cluster_workflow = BackwardsCluster


@workflow.defn
class ForgetfulCluster(ClusterPatchWorkflow):
    def order_hosts(self, hosts: Sequence[Host]) -> Sequence[Host]:
        return hosts[1:]


@workflow.defn
class ForgetfulFleet(SystemPatchWorkflow):
    host_workflow = QuickHost
    cluster_workflow = ForgetfulCluster


# Hooks that are noted, and a run that waits once more after each run


@workflow.defn
class NotedCluster(ClusterPatchWorkflow):
    def order_hosts(self, hosts: Sequence[Host]) -> Sequence[Host]:
        noted.call("order_hosts", workflow.info().workflow_id)
        return hosts

    async def before_cluster(self, request: ClusterRequest) -> None:
        noted.call("before_cluster", workflow.info().workflow_id)

    async def after_cluster(self, report: ClusterReport) -> None:
        noted.call("after_cluster", workflow.info().workflow_id)

    @workflow.run
    async def run(self, request: ClusterRequest) -> ClusterReport:
        noted.call("run", workflow.info().workflow_id)
        try:
            return await self.patch_cluster(request)
        finally:
            if workflow.in_workflow():
                await workflow.sleep(timedelta(milliseconds=200))


@workflow.defn
class NotedClusterFleet(SystemPatchWorkflow):
    host_workflow = QuickHost
    cluster_workflow = NotedCluster


# Hooks that wait


@workflow.defn
class PatientHost(HostPatchWorkflow):
    """Its hooks await; the first swallows a cancel."""

    steps = QUICK_STEPS

    async def before_host(self, request: HostRequest) -> None:
        try:
            await workflow.sleep(timedelta(minutes=1) if "slow" in request.task.host else 0.01)
        except asyncio.CancelledError:
            workflow.logger.info("swallowed")

    async def after_host(self, result: HostResult) -> None:
        await workflow.sleep(timedelta(milliseconds=10))


@workflow.defn
class PatientCluster(ClusterPatchWorkflow):
    """Its hooks await, and swallow a cancel."""

    async def before_cluster(self, request: ClusterRequest) -> None:
        try:
            await workflow.sleep(60 if "slow-cluster" in request.cluster else 0.01)
        except asyncio.CancelledError:
            workflow.logger.info("swallowed")

    async def after_cluster(self, report: ClusterReport) -> None:
        await workflow.sleep(timedelta(milliseconds=10))


@workflow.defn
class PatientFleet(SystemPatchWorkflow):
    """Its hooks await, and swallow a cancel."""

    host_workflow = PatientHost
    cluster_workflow = PatientCluster

    async def before_rollout(self, request: PatchRequest) -> None:
        try:
            await workflow.sleep(60 if request.params.get("slow") else 0.01)
        except asyncio.CancelledError:
            workflow.logger.info("swallowed")

    async def after_rollout(self, report: RolloutReport) -> None:
        await workflow.sleep(timedelta(milliseconds=10))


@workflow.defn
class EndlessHost(HostPatchWorkflow):
    steps = QUICK_STEPS

    async def before_host(self, request: HostRequest) -> None:
        await workflow.wait_condition(lambda: "endless-host" not in request.task.host)


@workflow.defn
class EndlessCluster(ClusterPatchWorkflow):
    async def before_cluster(self, request: ClusterRequest) -> None:
        await workflow.wait_condition(lambda: "endless-cluster" not in request.cluster)


@workflow.defn
class EndlessFleet(SystemPatchWorkflow):
    """Its hooks never end where a name says so."""

    host_workflow = EndlessHost
    cluster_workflow = EndlessCluster

    async def before_rollout(self, request: PatchRequest) -> None:
        await workflow.wait_condition(lambda: not request.params.get("endless"))


@workflow.defn
class CollectingFleet(SystemPatchWorkflow):
    """Collects the garbage of its process, in its own workflow task."""

    host_workflow = QuickHost

    async def before_rollout(self, request: PatchRequest) -> None:
        gc.collect()


# Hooks that raise what their host, cluster or rollout is named after


@workflow.defn
class RaisingHost(HostPatchWorkflow):
    steps = Steps(
        attrs.evolve(step, retry_policy=RetryPolicy(maximum_attempts=1)) for step in QUICK_STEPS
    )

    async def before_host(self, request: HostRequest) -> None:
        raising.at("before_host", request.task.host)

    async def after_host(self, result: HostResult) -> None:
        raising.at("after_host", result.host)


@workflow.defn
class RaisingCluster(ClusterPatchWorkflow):
    def order_hosts(self, hosts: Sequence[Host]) -> Sequence[Host]:
        for host in hosts:
            raising.at("order_hosts", host.name)
        return hosts

    async def before_cluster(self, request: ClusterRequest) -> None:
        raising.at("before_cluster", request.cluster)

    async def after_cluster(self, report: ClusterReport) -> None:
        raising.at("after_cluster", report.cluster)


@workflow.defn
class RaisingFleet(SystemPatchWorkflow):
    host_workflow = RaisingHost
    cluster_workflow = RaisingCluster

    async def before_rollout(self, request: PatchRequest) -> None:
        raising.at("before_rollout", request.update_command)

    async def after_rollout(self, report: RolloutReport) -> None:
        raising.at("after_rollout", report.rollout)


@workflow.defn
class BrokenInitFleet(SystemPatchWorkflow):
    @workflow.init
    def __init__(self, request: PatchRequest) -> None:
        super().__init__(request)
        raise KeyError("a bug in the constructor")


@workflow.defn
class CausedFleet(SystemPatchWorkflow):
    """Its hook fails with a cause; what is caused by an activity has the activity's words."""

    async def before_rollout(self, request: PatchRequest) -> None:
        if request.update_command:
            await workflow.execute_activity(
                request.update_command,
                start_to_close_timeout=timedelta(seconds=5),
                retry_policy=RetryPolicy(maximum_attempts=1),
            )
        raise ValueError("outer") from KeyError("inner")
