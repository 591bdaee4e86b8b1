"""What a team's code looks like to type checkers: checked by mypy and pyright, never run."""

from collections.abc import Awaitable, Mapping, Sequence
from datetime import timedelta

import attrs
from temporalio import workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Replayer, Worker
from typing_extensions import assert_type

from temporal_patching.activity import PatchActivities
from temporal_patching.client import Approvals, Rollout
from temporal_patching.exceptions import RolloutFailed
from temporal_patching.models import (
    ClusterReport,
    CompletedSteps,
    GateReport,
    Host,
    HostList,
    HostProgress,
    HostQuery,
    HostReport,
    HostState,
    HostTask,
    Notice,
    ParkedHost,
    PatchRequest,
    RolloutProgress,
    RolloutReport,
    Steered,
    StepResult,
)
from temporal_patching.policy import (
    ApprovalPolicy,
    FailureBudget,
    Outcome,
    RolloutPolicy,
    Step,
    Steps,
)
from temporal_patching.testing import (
    FailAt,
    Fault,
    Hang,
    ServedFleet,
    SimulatedFleet,
    SimulatedHost,
    some_faults,
)
from temporal_patching.worker import PatchingPlugin
from temporal_patching.workflow import (
    ApprovalMixin,
    ClusterPatchWorkflow,
    HostPatchWorkflow,
    SystemPatchWorkflow,
)


@attrs.frozen
class Params:
    channel: str


class DebianHosts(PatchActivities):
    async def list_hosts(self, query: HostQuery) -> HostList:
        return HostList(hosts=["web-1", Host(name="web-2", labels={"zone": "a"})])

    async def perform_update(self, task: HostTask) -> StepResult:
        assert_type(task.params_as(Params), Params)
        return StepResult(changed=True, message=task.params_as(Params).channel)

    def check_service_health(self, task: HostTask) -> StepResult:  # plain methods are right, too
        return StepResult(ok=bool(task.services))

    async def rebuild_initramfs(self, task: HostTask) -> StepResult:
        return StepResult(output=task.host)

    def notify(self, notice: Notice) -> None:
        print(notice.text)


class WrongHosts(PatchActivities):
    async def perform_update(self, task: HostTask) -> bool:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return True

    def check_preconditions(self, task: str) -> StepResult:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return StepResult(message=task)


@workflow.defn
class PatchWebHost(HostPatchWorkflow):
    steps = HostPatchWorkflow.steps.after(
        "perform_update", Step("rebuild_initramfs", start_to_close_timeout=timedelta(minutes=5))
    )


@workflow.defn
class PatchWebCluster(ClusterPatchWorkflow):
    def order_hosts(self, hosts: Sequence[Host]) -> Sequence[Host]:
        return sorted(hosts, key=lambda host: host.name)

    async def after_cluster(self, report: ClusterReport) -> None:
        assert_type(report.counts, Mapping[HostState, int])


@workflow.defn
class PatchWebFleet(SystemPatchWorkflow):
    host_workflow = PatchWebHost
    cluster_workflow = PatchWebCluster
    params_type = Params

    @workflow.init
    def __init__(self, request: PatchRequest) -> None:
        super().__init__(request)
        self._notes: list[str] = []

    async def before_rollout(self, request: PatchRequest) -> None:
        assert_type(request.policy, RolloutPolicy)

    @workflow.update
    async def note(self, text: str) -> int:
        self._notes.append(text)
        return len(self._notes)

    @workflow.signal
    def forget(self, count: int) -> None:
        del self._notes[-count:]

    @workflow.query
    def notes(self) -> list[str]:
        return self._notes


@workflow.defn
class OwnRun(SystemPatchWorkflow):
    @workflow.run
    async def run(self, request: PatchRequest) -> RolloutReport:
        report = await self.rollout(request)
        assert_type(report, RolloutReport)
        return report


@workflow.defn
class Release(ApprovalMixin):
    @workflow.run
    async def run(self, version: str) -> str:
        policy = ApprovalPolicy(approvers=["alice@example.com"], timeout=timedelta(hours=4))
        assert_type(await self.approval("release", policy), GateReport)
        return version


async def start(client: Client, request: PatchRequest) -> None:
    rollout = await Rollout.start(client, PatchWebFleet, request, id="a", task_queue="q")
    assert_type(rollout, Rollout[PatchWebFleet])
    assert_type(rollout.handle, WorkflowHandle[PatchWebFleet, RolloutReport])
    assert_type(await rollout.result(), RolloutReport)
    assert_type(await rollout.handle.result(), RolloutReport)

    # The subclass's own handlers, and the inherited ones.
    assert_type(await rollout.handle.execute_update(PatchWebFleet.note, "text"), int)
    assert_type(await rollout.handle.query(PatchWebFleet.notes), list[str])
    await rollout.handle.signal(PatchWebFleet.forget, 1)
    assert_type(await rollout.handle.query(PatchWebFleet.progress), RolloutProgress)
    assert_type(await rollout.handle.query(PatchWebFleet.completed_steps), CompletedSteps)
    await rollout.handle.signal(PatchWebFleet.forget, "1")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await rollout.handle.execute_update(PatchWebFleet.note, 1)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]

    assert_type(Rollout.get(client, "a"), Rollout[SystemPatchWorkflow])
    assert_type(Rollout.get(client, "a", PatchWebFleet), Rollout[PatchWebFleet])
    base = await Rollout.start(client, SystemPatchWorkflow, request, id="b", task_queue="q")
    assert_type(base, Rollout[SystemPatchWorkflow])
    own = await Rollout.start(client, OwnRun, request, id="c", task_queue="q")
    assert_type(own, Rollout[OwnRun])
    named = await Rollout.start(client, "PatchWebFleet", request, id="h", task_queue="q")
    assert_type(named, Rollout[SystemPatchWorkflow])

    # Temporal's own way works, too.
    assert_type(
        await client.execute_workflow(PatchWebFleet.run, request, id="d", task_queue="q"),
        RolloutReport,
    )

    await Rollout.start(client, Release, request, id="e", task_queue="q")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    await Rollout.start(client, PatchWebFleet, {}, id="f", task_queue="q")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await Rollout.start(client, PatchWebFleet, request, "g", "q")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def operate(rollout: Rollout[PatchWebFleet], client: Client) -> None:
    assert_type(await rollout.approve(by="alice@example.com"), GateReport)
    assert_type(await rollout.reject(by="alice@example.com", reason="no"), GateReport)
    assert_type(await rollout.progress(), RolloutProgress)
    assert_type(await rollout.retry("web-1", by="alice@example.com", from_step="reboot"), Steered)
    assert_type(await rollout.accept("web-1", by="alice@example.com"), Steered)
    assert_type(await rollout.restore("web-1", by="alice@example.com", reason="later"), Steered)
    await rollout.retry("web-1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await rollout.accept("web-1", by="a", from_step="reboot")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert_type((await rollout.progress()).clusters[0].parked, tuple[ParkedHost, ...])
    assert_type(await rollout.host_progress("web-1"), HostProgress)
    async for progress in rollout.watch():
        assert_type(progress, RolloutProgress)
    try:
        report = await rollout.result()
    except RolloutFailed as failed:
        report = failed.report
    assert_type(report.outcome, Outcome)
    assert_type(report.counts[HostState.PATCHED], int)
    assert_type(report.hosts, tuple[HostReport, ...])
    assert_type(report.left_out_of_service, tuple[str, ...])
    await Approvals(client, "release-7").approve(by="alice@example.com", gate="release")
    await rollout.approve("alice@example.com")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def ask() -> PatchRequest:
    request = PatchRequest(
        clusters=["eu-1", "us-1"],
        requester="carol@example.com",
        services=["nginx"],
        params={"channel": "stable"},
        policy=RolloutPolicy(
            pilot_hosts=1,
            waves=["10%", 5],
            max_parallel="10%",
            failure_budget=FailureBudget(max_failures="5%"),
        ),
        approvals={
            "start": ApprovalPolicy(approvers=["alice@example.com"], timeout=timedelta(hours=4))
        },
    )
    assert_type(request.clusters, tuple[str, ...])
    RolloutPolicy(on_host_failure="park")
    RolloutPolicy(on_host_failure="wait")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RolloutPolicy(in_flight="kill")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RolloutPolicy(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ApprovalPolicy(approvers=["alice@example.com"])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    return request


def work(client: Client) -> Worker:
    plugin = PatchingPlugin(DebianHosts(), workflows=[PatchWebFleet, PatchWebHost])
    Replayer(workflows=[], plugins=[plugin])
    PatchingPlugin(DebianHosts)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return Worker(client, task_queue="patching", plugins=[plugin])


def procedure(steps: Steps) -> None:
    assert_type(steps[0], Step)
    assert_type(steps.before("reboot", Step("warn")).without("reboot"), Steps)
    Step("warn", "plain")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Step("warn", kind="odd")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Reboots(Fault):
    def strikes(self, host: SimulatedHost) -> SimulatedHost:
        return host


def simulate() -> PatchActivities:
    fleet = SimulatedFleet({"eu-1": 3}, faults={"eu-1-2": FailAt("perform_update", times=1)})
    assert_type(fleet.host("eu-1-1"), SimulatedHost)
    assert_type(SimulatedFleet.at("simulated://key@127.0.0.1:1"), ServedFleet)
    assert_type(fleet.around(DebianHosts()), PatchActivities)
    chance = some_faults(4711, {"eu-1": 3}, weights={FailAt: 1, Hang: 0.5})
    assert_type(chance, dict[str, tuple[Fault, ...]])
    SimulatedFleet({"eu-1": 3}, faults=chance)
    SimulatedFleet({"eu-1": 3}, faults={"eu-1-1": Reboots("reboot", times=2)})
    return fleet.implementing("perform_update")


def called(hosts: DebianHosts, base: PatchActivities, task: HostTask) -> None:
    assert_type(hosts.check_service_health(task), StepResult)
    assert_type(base.check_service_health(task), StepResult | Awaitable[StepResult])
