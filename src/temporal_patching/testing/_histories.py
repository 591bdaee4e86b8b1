"""What the histories of a rehearsal say: which tasks have failed, and what does not replay."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.client import Client, WorkflowHistory
from temporalio.worker import Replayer

from ._watch import Trouble


async def all_histories(client: Client, rollout: str) -> AsyncIterator[WorkflowHistory]:
    """Of every run of the rollout, its clusters and its hosts."""
    left: list[tuple[str, str | None]] = [(rollout, None)]
    seen: set[tuple[str, str | None]] = set()
    while left:
        id, run_id = left.pop(0)
        if (id, run_id) in seen:
            continue
        seen.add((id, run_id))
        history = await client.get_workflow_handle(id, run_id=run_id).fetch_history()
        yield history
        left += _followed_by(history, id)


def _followed_by(history: WorkflowHistory, id: str) -> list[tuple[str, str | None]]:
    """Children, and the run that continues it."""
    found: list[tuple[str, str | None]] = []
    for event in history.events:
        if event.event_type == EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED:
            child = event.child_workflow_execution_started_event_attributes.workflow_execution
            found.append((child.workflow_id, child.run_id))
    last = history.events[-1].workflow_execution_continued_as_new_event_attributes
    if last.new_execution_run_id:
        found.append((id, last.new_execution_run_id))
    return found


def failed_task(history: WorkflowHistory) -> str | None:
    """What is wrong, if a task has failed, also if it went well then."""
    for event in history.events:
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED:
            failed = event.workflow_task_failed_event_attributes
            # A message that came while the workflow was closing: the server asks once more.
            if failed.cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND:
                continue
            return told(_trouble(history, failed.failure.message))
    return None


async def another_way(histories: Sequence[WorkflowHistory], replayer: Replayer) -> str | None:
    """What is wrong, if the code goes another way when it is given what has happened."""

    async def each() -> AsyncIterator[WorkflowHistory]:
        for history in histories:
            yield history

    results = await replayer.replay_workflows(each(), raise_on_replay_failure=False)
    for history in histories:
        failed = results.replay_failures.get(history.run_id)
        if failed is not None:
            return told(_trouble(history, str(failed), nondeterminism=True))
    return None


def _trouble(history: WorkflowHistory, message: str, *, nondeterminism: bool = False) -> Trouble:
    begun = history.events[0].workflow_execution_started_event_attributes
    return Trouble(
        workflow_type=begun.workflow_type.name,
        workflow_id=history.workflow_id,
        message=message,
        nondeterminism=nondeterminism,
    )


def told(trouble: Trouble) -> str:
    """What it means, for whoever has written the workflow."""
    who = f"{trouble.workflow_type} {trouble.workflow_id!r}"
    if trouble.nondeterminism or "TMPRL1100" in trouble.message:
        return (
            f"{who} is not deterministic: replayed from its history, as after a restart of the worker, its code "
            "does something else than it did, and in production it hangs there. What a workflow does must follow "
            "from its arguments, its history and workflow.now(), workflow.random(), workflow.uuid4(), not from a "
            f"clock, chance, the environment or a global. The SDK says: {trouble.message}"
        )
    return (
        f"a workflow task of {who} failed, and would be retried for ever: to an operator the rollout hangs. "
        f"The error: {trouble.message}"
    )
