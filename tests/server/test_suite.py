"""The suite's own promises: what its fixtures give, and that its checks can fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.histories import Silence

ROOT = Path(__file__).parents[2]


@workflow.defn
class Sleeper:
    @workflow.run
    async def run(self, seconds: int) -> int:
        await workflow.sleep(seconds)
        return seconds


@pytest.mark.smoke
async def test_time_skipping(env: WorkflowEnvironment, workflow_id: str, task_queue: str) -> None:
    """The time-skipping server skips a day."""
    async with Worker(
        env.client,
        task_queue=task_queue,
        workflows=[Sleeper],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        day = int(timedelta(days=1).total_seconds())
        slept = await env.client.execute_workflow(
            Sleeper.run, day, id=workflow_id, task_queue=task_queue
        )
    assert slept == day


@pytest.mark.smoke
async def test_any_client(any_client: Client, workflow_id: str, task_queue: str) -> None:
    """Each client variant reaches the development server."""
    async with Worker(
        any_client,
        task_queue=task_queue,
        workflows=[Sleeper],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        assert (
            await any_client.execute_workflow(Sleeper.run, 0, id=workflow_id, task_queue=task_queue)
            == 0
        )


# Runs of the suite inside the suite: a test module is put beside a copy of our conftest.

PREAMBLE = """
import asyncio, pytest
from temporalio import workflow
from temporalio.worker import Worker, UnsandboxedWorkflowRunner
from temporalio.client import WorkflowFailureError

@workflow.defn
class Broken:
    @workflow.run
    async def run(self) -> None:
        raise KeyError("fails the task, not the workflow")

@workflow.defn
class Parent:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_child_workflow(Broken.run)

@workflow.defn
class Again:
    @workflow.run
    async def run(self, left: int) -> None:
        if left:
            workflow.continue_as_new(left - 1)
        await workflow.execute_child_workflow(Broken.run)

@workflow.defn
class WithUpdate:
    @workflow.run
    async def run(self) -> None:
        raise KeyError("fails the task")
    @workflow.update
    def poke(self) -> None:
        pass

def worker(client, queue):
    return Worker(client, task_queue=queue, workflows=[Broken, Parent, Again, WithUpdate],
                  workflow_runner=UnsandboxedWorkflowRunner())

async def until_failed_task(client, id):
    while True:
        async for event in client.get_workflow_handle(id).fetch_history_events():
            if event.HasField("workflow_task_failed_event_attributes"):
                return
        await asyncio.sleep(0.02)

async def until_child_failed(client, parent):
    while True:
        async for event in client.get_workflow_handle(parent).fetch_history_events():
            if event.HasField("child_workflow_execution_started_event_attributes"):
                child = event.child_workflow_execution_started_event_attributes
                return await until_failed_task(client, child.workflow_execution.workflow_id)
        await asyncio.sleep(0.02)
"""

Suite = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Run pytest on one module, with our own configuration and conftest, in another process."""

    def run(
        body: str, *, path: str = "tests/test_it.py", environ: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            _suite_command(tmp_path, body, path),
            cwd=tmp_path,
            # Not what the run around this one was asked for.
            env={**os.environ, "REQUIRE_FLEET": "", **(environ or {})},
            capture_output=True,
            text=True,
            timeout=50,
        )

    return run


def _suite_command(folder: Path, body: str, path: str) -> list[str]:
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text(), encoding="utf-8")
    (folder / "tests").mkdir(exist_ok=True)
    for shared in ("__init__.py", "conftest.py", "histories.py", "servers.py"):
        (folder / "tests" / shared).write_text((ROOT / "tests" / shared).read_text())
    module = folder / path
    module.parent.mkdir(exist_ok=True)
    module.write_text(PREAMBLE + textwrap.dedent(body), encoding="utf-8")
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--basetemp", "temp"]


@pytest.mark.smoke
def test_green_run(suite: Suite) -> None:
    """A green run that used both servers prints its closing line last and exits with 0."""
    run = suite("""
        async def test_servers(dev, env, pydantic_client, encrypted_client):
            assert dev.client.namespace == "default"
    """)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout.splitlines()[-1]


def test_red_run(suite: Suite) -> None:
    """A red run that used both servers prints its closing line last and exits with 1."""
    run = suite("""
        async def test_servers(dev, env):
            assert dev.client.namespace == "another"
    """)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "1 failed" in run.stdout.splitlines()[-1]


def test_warnings_are_errors(suite: Suite) -> None:
    """A coroutine that is never awaited fails the run."""
    run = suite("""
        def test_forgotten():
            asyncio.sleep(0)
    """)
    assert run.returncode == 1, run.stdout + run.stderr


@pytest.mark.parametrize("server", ["dev", "env"])
def test_failed_task_is_seen(suite: Suite, server: str) -> None:
    """A workflow task that fails, also in a child or after continue-as-new, fails its test."""
    run = suite(f"""
        async def test_root({server}, unique):
            client = {server}.client
            async with worker(client, unique):
                await client.start_workflow(Broken.run, id=unique, task_queue=unique)
                await until_failed_task(client, unique)

        async def test_child({server}, unique):
            client = {server}.client
            async with worker(client, unique):
                await client.start_workflow(Parent.run, id=unique, task_queue=unique)
                await until_child_failed(client, unique)

        async def test_continued({server}, unique):
            client = {server}.client
            async with worker(client, unique):
                await client.start_workflow(Again.run, 2, id=unique, task_queue=unique)
                await until_child_failed(client, unique)

        async def test_innocent({server}):
            assert True
    """)
    assert run.returncode == 1, run.stdout + run.stderr
    for name in ("test_root", "test_child", "test_continued"):
        assert f"tests/test_it.py::{name}: workflow " in run.stdout, run.stdout
    assert "WORKFLOW_TASK_FAILED" in run.stdout
    assert "ERROR tests/test_it.py::test_root" in run.stdout
    assert "4 passed, 4 errors" in run.stdout.splitlines()[-1]  # the fourth: still so at the end


def test_failed_task_that_was_provoked(suite: Suite) -> None:
    """A test that says why its workflow task fails may let it fail."""
    run = suite("""
        @pytest.mark.provokes_task_failure("shows that the check knows the marker")
        async def test_root(client, unique):
            async with worker(client, unique):
                await client.start_workflow(Broken.run, id=unique, task_queue=unique)
                await until_failed_task(client, unique)
    """)
    assert run.returncode == 0, run.stdout + run.stderr


def test_failed_task_of_another_process(suite: Suite) -> None:
    """A workflow that a client of somebody else's started is found when the run ends."""
    run = suite("""
        from temporalio.client import Client

        async def test_root(dev, unique):
            other = await Client.connect(dev.client.service_client.config.target_host)
            async with worker(other, unique):
                await other.start_workflow(Broken.run, id=unique, task_queue=unique)
                await until_failed_task(other, unique)
    """)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "tests/test_it.py::test_root: workflow " in run.stdout, run.stdout


@pytest.mark.parametrize(
    ("told", "lost", "left", "silent"),
    [
        ("CHILD_WORKFLOW_EXECUTION_COMPLETED", False, None, True),
        ("CHILD_WORKFLOW_EXECUTION_COMPLETED", True, None, True),
        ("CHILD_WORKFLOW_EXECUTION_COMPLETED", False, "WORKFLOW_PROPERTIES_MODIFIED", False),
        ("WORKFLOW_EXECUTION_SIGNALED", False, None, False),
    ],
)
def test_a_silent_task_of_a_rollout_is_seen(
    told: str, lost: bool, left: str | None, silent: bool
) -> None:
    """Of a rollout's task that has heard something; a task that was lost on the way changes nothing."""
    resolving = HistoryEvent(event_type=EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED)
    resolving.activity_task_scheduled_event_attributes.activity_type.name = "resolve_procedure"
    again = ["WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED", "WORKFLOW_TASK_TIMED_OUT"]
    task = ["WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED", "WORKFLOW_TASK_COMPLETED"]
    kinds = [told, *(again if lost else []), *task, *([left] if left else []), task[0]]
    events = [
        HistoryEvent(event_type=EventType.Value(f"EVENT_TYPE_{kind}"), event_id=place)
        for place, kind in enumerate(kinds)
    ]
    for some, expected in (([resolving, *events], silent), (events, False)):
        silence = Silence()
        seen = [event for event in some if silence.after(event)]
        assert bool(seen) is expected
        assert not seen or seen == [events[-1]]


def test_marker_needs_a_reason(suite: Suite) -> None:
    """The marker without a reason is refused."""
    run = suite("""
        @pytest.mark.provokes_task_failure
        def test_it():
            pass
    """)
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "say why" in run.stdout + run.stderr


@pytest.mark.parametrize(
    "body",
    [
        'def test_it():\n    pytest.skip("no root")',
        '@pytest.mark.skipif(True, reason="no root")\ndef test_it():\n    pass',
        'pytest.skip("no root", allow_module_level=True)',
    ],
    ids=["call", "marker", "module"],
)
def test_skipped_fleet_test(suite: Suite, body: str) -> None:
    """A skipped fleet test is fine by default and a failure where the fleet is required."""
    path = "tests/fleet/test_it.py"
    assert suite(body, path=path).returncode in (0, pytest.ExitCode.NO_TESTS_COLLECTED)
    required = suite(body, path=path, environ={"REQUIRE_FLEET": "1"})
    assert required.returncode in (1, pytest.ExitCode.INTERRUPTED), required.stdout
    assert "no root" in required.stdout


def test_fleet_test_is_missing(suite: Suite) -> None:
    """A run that requires the fleet and holds no fleet test fails."""
    run = suite("def test_it():\n    pass", environ={"REQUIRE_FLEET": "1"})
    assert run.returncode == 1, run.stdout
    assert "no fleet test" in run.stdout + run.stderr


@pytest.mark.timeout(150)
def test_interrupted_run(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a test leaves no server behind."""
    body = """
        async def test_waits(dev, env):
            print("waiting", flush=True)
            await asyncio.sleep(50)
    """
    with subprocess.Popen(
        [*_suite_command(tmp_path, body, "tests/test_it.py"), "-s"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if "waiting" in line:
                    break
            pids = sorted((tmp_path / "temp").rglob("*.pid"))
            servers = [int(path.read_text()) for path in pids]
            assert len(servers) == 2
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=90)
        finally:
            process.kill()
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    for pid in servers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
