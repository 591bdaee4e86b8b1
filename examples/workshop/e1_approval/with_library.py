"""The same with the library: who must agree, how many, and how long they have, is part of the request."""

from __future__ import annotations

from datetime import timedelta

from temporalio.client import WithStartWorkflowOperation
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from temporal_patching.client import Rollout
from temporal_patching.models import GateReport, Notice, PatchRequest, Vote
from temporal_patching.policy import ApprovalPolicy, NoticeKind
from temporal_patching.workflow import SystemPatchWorkflow

from ..hosts import WorkshopHosts
from ..stage import Stage

__all__ = [
    "ALICE",
    "BOB",
    "CAROL",
    "MALLORY",
    "both_of_them",
    "for_two_seconds",
    "notice",
    "one_of_them",
    "queue",
    "start",
    "start_with_signal",
    "start_with_update",
]

ALICE, BOB = "alice@example.com", "bob@example.com"
CAROL = "carol@example.com"
"""The requester."""
MALLORY = "mallory@example.com"
"""A stranger."""

Started = Rollout[SystemPatchWorkflow]

both_of_them = ApprovalPolicy(approvers=[ALICE, BOB], quorum=2, timeout=timedelta(minutes=1))
one_of_them = ApprovalPolicy(approvers=[ALICE, BOB], timeout=timedelta(minutes=1))
for_two_seconds = ApprovalPolicy(approvers=[ALICE, BOB], quorum=2, timeout=timedelta(seconds=2))


def queue(stage: Stage) -> str:
    """The task queue of this exercise."""
    return stage.id("e1-library")


async def start(stage: Stage, cluster: str, approval: ApprovalPolicy) -> Started:
    """A rollout that waits for approval before it touches a host."""
    return await Rollout.start(
        stage.client,
        SystemPatchWorkflow,
        _request(cluster, approval),
        id=stage.id(f"e1-{cluster}"),
        task_queue=queue(stage),
    )


async def start_with_signal(
    stage: Stage, cluster: str, approval: ApprovalPolicy, vote: Vote
) -> Started:
    """Sends the vote together with the start. No worker needs to be there."""
    handle = await stage.client.start_workflow(
        SystemPatchWorkflow.run,
        _request(cluster, approval),
        id=stage.id(f"e1-{cluster}"),
        task_queue=queue(stage),
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        start_signal="approve",
        start_signal_args=[vote],
    )
    return Rollout.get(stage.client, handle.id)


async def start_with_update(
    stage: Stage, cluster: str, approval: ApprovalPolicy, vote: Vote
) -> tuple[Started, GateReport]:
    """The same by update: it is answered, so a worker must be there."""
    starting = WithStartWorkflowOperation(
        SystemPatchWorkflow.run,
        _request(cluster, approval),
        id=stage.id(f"e1-{cluster}"),
        task_queue=queue(stage),
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
    )
    answer = await stage.client.execute_update_with_start_workflow(
        SystemPatchWorkflow.approve, vote, start_workflow_operation=starting
    )
    handle = await starting.workflow_handle()
    return Rollout.get(stage.client, handle.id), answer


async def notice(stage: Stage, hosts: WorkshopHosts, rollout: Started, kind: NoticeKind) -> Notice:
    """Waits until ``notify`` was told."""

    def told() -> list[Notice]:
        return [each for each in hosts.notices if (each.rollout, each.kind) == (rollout.id, kind)]

    await stage.until(lambda: bool(told()))
    return told()[0]


def _request(cluster: str, approval: ApprovalPolicy) -> PatchRequest:
    return PatchRequest(clusters=[cluster], requester=CAROL, approvals={"start": approval})
