"""What must hold of every case, judged by the hosts' own files, the report and the histories alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHistory
from temporalio.worker import Replayer

from temporal_patching.models import HostState, RolloutReport
from tests.chaos.truth import LAST, Line, Truth
from tests.chaos.worker import UNITS
from tests.chaos.workflows import ATTEMPTS
from tests.histories import SILENT, Silence, task_problem

KILLED = ("WORKFLOW_TASK_TIMED_OUT",)
"""What a history may say where a worker or the server was killed, stopped or cut off."""

NOT_REPLAYED = Path("build/not-replayed")
"""Where histories are kept that do not replay: nobody can record them a second time."""

ENDED = ("done", "failed", "cancelled", "fenced")


def wrong(truth: Truth, hosts: Sequence[str], report: RolloutReport, rollout: str) -> list[str]:
    """What the report of one rollout has not right, host by host."""
    found: list[str] = []
    reported = {host.host: host.state for host in report.hosts}
    if sum(report.counts.values()) != len(hosts):
        found.append(f"{len(hosts)} hosts were asked for, {dict(report.counts)} are reported")
    if report.hosts_omitted == 0 and len(reported) + report.counts[HostState.PATCHED] != len(hosts):
        found.append(f"of {len(hosts)} hosts {len(reported)} are listed: {report.summary}")
    for host in hosts:
        state = reported.get(host, HostState.PATCHED)
        lines = [line for line in truth.lines(host) if line.rollout == rollout]
        found += [f"{host}: {each}" for each in _wrong_of(lines, state)]
        out = not truth.now(host).serves
        if out != (host in report.left_out_of_service):
            found.append(f"{host}: it is {'out of' if out else 'in'} service, and not reported so")
    return found


def _wrong_of(lines: Sequence[Line], state: HostState) -> list[str]:
    found: list[str] = []
    updates = sum(line.what == "done" and line.step == "perform_update" for line in lines)
    reboots = sum(line.what == "done" and line.step == "reboot" for line in lines)
    if state is HostState.PATCHED and updates != 1:
        found.append(f"is reported as patched, and was updated {updates} times")
    if state in (HostState.NOT_STARTED, HostState.SKIPPED) and lines:
        found.append(f"is reported as {state.value}, and steps were taken on it")
    if updates > 1 or reboots > 1:
        found.append(f"was updated {updates} times and rebooted {reboots} times")
    if updates:
        units = Counter(line.unit for line in lines if line.what == "unit")
        if set(units) != set(range(UNITS)):
            found.append(f"its update left units out: {dict(units)}")
    begun = Counter(line.key for line in lines if line.what == "began")
    for key, attempts in begun.items():
        if attempts > ATTEMPTS:
            found.append(f"{key} was begun {attempts} times")
    # One holder at a time: once a newer attempt has begun, no older one has an effect.
    newest = (0, 0, 0)
    for line in lines:
        if line.what in ("began", "unit", "done"):
            if line.token < newest:
                found.append(f"attempt {line.attempt} of {line.step} acted after a newer one")
            newest = max(newest, line.token)
    return found


async def histories(client: Client) -> Mapping[str, WorkflowHistory]:
    """Every history of a server, by workflow id and run id."""
    return {
        f"{each.id} {each.run_id}": await client.get_workflow_handle(
            each.id, run_id=each.run_id
        ).fetch_history()
        async for each in client.list_workflows()
    }


async def wrong_in_histories(
    client: Client,
    replayer: Replayer,
    *,
    ids: Collection[str] | None = None,
    may: Collection[str] = KILLED,
) -> list[str]:
    """What is wrong with histories: tasks that failed, runs that hang, replays that go another way.

    Args:
        client: Of the server that has them.
        replayer: Of the code that has written them.
        ids: Of which workflows; the latest run of each. Default: all runs of all.
        may: How a problem may begin that is none.
    """
    found: list[str] = []
    if ids is None:
        listed = [(each.id, each.run_id) async for each in client.list_workflows()]
    else:
        listed = [(id, "") for id in ids]
    for id, run_id in listed:
        handle = client.get_workflow_handle(id, run_id=run_id or None)
        if (await handle.describe()).status is WorkflowExecutionStatus.RUNNING:
            found.append(f"{id} still runs")
            continue
        history = await handle.fetch_history()
        silence = Silence()
        for event in history.events:
            if silence.after(event):
                found.append(f"{id}, event {event.event_id}: {SILENT}")
            problem = task_problem(event)
            if problem is not None and not problem.startswith(tuple(may)):
                found.append(f"{id}, event {event.event_id}: {problem}")
        answer = await replayer.replay_workflow(history, raise_on_replay_failure=False)
        if answer.replay_failure is not None:
            NOT_REPLAYED.mkdir(parents=True, exist_ok=True)
            kept = NOT_REPLAYED / f"{id.replace('/', '_')}.json"
            kept.write_text(history.to_json())
            found.append(f"{id} does not replay (kept as {kept}): {answer.replay_failure}")
    return found


def finished(lines: Sequence[Line]) -> bool:
    """Whether a host's procedure was through before it was given to anybody else."""
    return bool(lines) and lines[-1].step == LAST and lines[-1].what in ("done", "failed")


def recoveries(truth: Truth, rollout: str, at: float, *, hosts: Iterable[str]) -> dict[str, float]:
    """How long after a death each host that was in flight went on: with its next step, or to its end.

    Strict: the next attempt of the step that was torn apart is not enough, it has to end, its end has to be told
    to a workflow whose worker may be the dead one, and what that decides has to have begun.
    """
    found: dict[str, float] = {}
    for host in hosts:
        lines = [line for line in truth.lines(host) if line.rollout == rollout]
        before = [line for line in lines if line.at <= at]
        later = [line for line in lines if line.at > at]
        if not before or finished(before):
            continue
        for line in later:
            if line.key != before[-1].key or (line.step == LAST and line.what == "done"):
                found[host] = line.at - at
                break
    return found
