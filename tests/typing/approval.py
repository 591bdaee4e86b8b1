"""What type checkers infer for ``ApprovalMixin`` and ``Approvals``: checked by mypy and pyright, never run."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.client import Client, WorkflowHandle
from typing_extensions import assert_type

from temporal_patching.client import Approvals
from temporal_patching.models import ApprovalReport, GateReport, Vote
from temporal_patching.policy import ApprovalPolicy
from temporal_patching.workflow import ApprovalEvent, ApprovalMixin

POLICY = ApprovalPolicy(approvers=["alice@example.com"], timeout=timedelta(hours=4))


class Pausable:
    def __init__(self) -> None:
        super().__init__()
        self.paused = False


@workflow.defn
class Release(ApprovalMixin, Pausable):
    @workflow.run
    async def run(self, version: str) -> bool:
        report = await self.approval("release", POLICY)
        assert_type(report, GateReport)
        assert_type(report.approved, bool)
        return report.approved

    def approval_policies(self) -> Mapping[str, ApprovalPolicy]:
        return {"release": POLICY}

    def approval_requester(self) -> str:
        return "carol@example.com"

    def on_approval(self, event: ApprovalEvent, gate: GateReport) -> None:
        assert_type(gate.gate, str)

    @workflow.update
    async def hurry(self, by: str) -> int:
        return len(by)


async def good(client: Client, handle: WorkflowHandle[Release, bool]) -> None:
    vote = Vote(by="alice@example.com", gate="release")
    assert_type(await handle.execute_update(Release.approve, vote), GateReport)
    assert_type(await handle.execute_update(Release.reject, vote), GateReport)
    assert_type(await handle.execute_update(Release.hurry, "alice"), int)
    assert_type(await handle.query(Release.approvals), ApprovalReport)
    await handle.signal(Release.approve_by_signal, vote)
    await handle.signal(Release.reject_by_signal, vote)
    started = await client.start_workflow(Release.run, "1.0", id="release-1", task_queue="release")
    assert_type(started, WorkflowHandle[Release, bool])
    assert_type(await started.execute_update(Release.approve, vote), GateReport)

    # The mixin's own names do for a handle on anything that has it.
    anything: WorkflowHandle[Any, Any] = client.get_workflow_handle("release-1")
    assert_type(await anything.execute_update(ApprovalMixin.approve, vote), GateReport)

    gates = Approvals(client, "release-1")
    assert_type(
        await gates.approve(by="alice@example.com", gate="release", reason="ok"), GateReport
    )
    assert_type(await gates.reject(by="alice@example.com"), GateReport)
    assert_type((await gates.report()).pending, tuple[GateReport, ...])


async def bad(client: Client, handle: WorkflowHandle[Release, bool]) -> None:
    await handle.execute_update(Release.approve, "alice")  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await handle.execute_update(Release.approve)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    Vote("alice@example.com")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Vote(gate="release")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ApprovalPolicy(approvers=["alice"])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ApprovalPolicy(approvers=["alice"], timeout=4)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ApprovalPolicy(approvers=["alice"], timeout=timedelta(1), on_timeout="go")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await Approvals(client, "release-1").approve("alice")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    POLICY.quorum = 0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


class Overrides(ApprovalMixin):
    def approve(self, vote: Vote) -> GateReport:  # type: ignore[misc, override]  # pyright: ignore[reportIncompatibleMethodOverride]
        raise NotImplementedError
