"""The parts alone, as their reader runs them: what is in the files, and what the server says."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from examples.parts.signed_report import MANAGERS
from examples.workshop.stage import Stage

ROOT = Path(__file__).parents[2]
ROWS = 20_000


@asynccontextmanager
async def part(stage: Stage, name: str, folder: Path) -> AsyncGenerator[asyncio.subprocess.Process]:
    """An example in a process of its own, which is over at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"examples.parts.{name}", str(folder)),
        cwd=ROOT,
        env={**os.environ, "TEMPORAL_ADDRESS": stage.address},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def run_to_its_end(stage: Stage, name: str, folder: Path) -> str:
    """Runs an example and returns what it printed."""
    async with part(stage, name, folder) as process:
        output, _ = await asyncio.wait_for(process.communicate(), 50)
    assert process.returncode == 0
    return output.decode()


def workflows(stage: Stage, output: str) -> list[WorkflowHandle[Any, Any]]:
    """Those whose ids the example prints."""
    words = output.split()
    ids = [words[index + 1].rstrip(":") for index, word in enumerate(words) if word == "workflow"]
    return [stage.client.get_workflow_handle(id) for id in ids]


async def test_release_to_regions(stage: Stage, tmp_path: Path) -> None:
    """A region that fails cancels what runs beside it, which clears away; the rest never starts."""
    output = await run_to_its_end(stage, "release_to_regions", tmp_path)
    assert {region.name: os.listdir(region) for region in tmp_path.iterdir()} == {
        region: ["1.4"] for region in ("ap", "eu", "us")
    }
    assert len(list(tmp_path.glob("*/1.4/*.html"))) == 30
    good, bad = workflows(stage, output)
    assert (await good.describe()).status is WorkflowExecutionStatus.COMPLETED
    assert (await bad.describe()).status is WorkflowExecutionStatus.FAILED
    events = [event.event_type async for event in bad.fetch_history_events()]
    assert events.count(EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED) == 2
    assert events.count(EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED) == 1
    assert events.count(EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED) == 1


def count(folder: Path, what: str) -> int:
    """What the table says."""
    with closing(sqlite3.connect(folder / "orders.db", timeout=10)) as database:
        return int(database.execute(f"SELECT {what} FROM orders").fetchone()[0] or 0)


async def test_table_import_after_a_bad_row(stage: Stage, tmp_path: Path) -> None:
    """Each row is in the table once, and the second attempt has begun just before the bad one."""
    await run_to_its_end(stage, "table_import", tmp_path)
    assert count(tmp_path, "count(*)") == 12_000
    assert count(tmp_path, "max(writes)") == 1
    handle = stage.client.get_workflow_handle(f"import {tmp_path / 'orders.csv'}", result_type=int)
    assert await handle.result() == 7_700


@pytest.mark.timeout(120)  # the killed worker is waited for twice: its heartbeat, its sticky queue
async def test_table_import_after_a_killed_worker(stage: Stage, tmp_path: Path) -> None:
    """The next worker begins at the last checkpoint that the server has, and no row is doubled."""
    rows = "".join(f"{number},100\n" for number in range(ROWS))
    (tmp_path / "orders.csv").write_text(f"number,cents\n{rows}")
    handle = stage.client.get_workflow_handle(f"import {tmp_path / 'orders.csv'}", result_type=int)
    async with part(stage, "table_import", tmp_path) as worker:
        saved = await asyncio.wait_for(checkpoint_of(handle, at_least=3_000), 30)
        worker.kill()
    assert count(tmp_path, "count(*)") < ROWS
    await run_to_its_end(stage, "table_import", tmp_path)
    began = await handle.result()
    assert saved <= began < ROWS
    assert count(tmp_path, "count(*)") == ROWS
    # Only what the checkpoint did not know of came again, and it came once more.
    assert count(tmp_path, "max(writes)") <= 2
    assert count(tmp_path, f"sum(writes > 1 AND number < {began})") == 0


async def checkpoint_of(handle: WorkflowHandle[Any, int], *, at_least: int) -> int:
    """Waits until the server knows of so many rows."""
    while True:
        try:
            pending = (await handle.describe()).raw_description.pending_activities
        except RPCError as error:  # not started yet
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            pending = []
        for each in pending:
            for details in each.heartbeat_details.payloads:
                saved = int(json.loads(details.data)["checkpoint"])
                if saved >= at_least:
                    return saved
        await asyncio.sleep(0.1)


async def test_signed_report(stage: Stage, tmp_path: Path) -> None:
    """Two signatures file the first report, its author's is refused; one is not enough for the second."""
    output = await run_to_its_end(stage, "signed_report", tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["april.draft", "march.signed"]
    signed = (tmp_path / "march.signed").read_text()
    assert [name for name in MANAGERS if name in signed] == ["alice@example.com", "bob@example.com"]
    march, april = workflows(stage, output)
    assert (await march.result(), await april.result()) == (True, False)
    # A vote that is refused leaves nothing in the history.
    assert await votes_in(march) == 2
    assert await votes_in(april) == 1


async def votes_in(handle: WorkflowHandle[Any, Any]) -> int:
    """How many updates a history has."""
    events = [event.event_type async for event in handle.fetch_history_events()]
    return events.count(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED)
