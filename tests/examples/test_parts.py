"""The parts alone, as their reader runs them: what is in the files, and what the server says."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from examples.parts.signed_report import MANAGERS
from examples.workshop.stage import Stage

from .programs import program, run

ROOT = Path(__file__).parents[2]
ROWS = 20_000


async def run_part(stage: Stage, name: str, folder: Path) -> list[str]:
    """Runs an example to its end, and returns the lines that it printed."""
    return await run(stage, ROOT, "-m", f"examples.parts.{name}", str(folder))


def workflows(stage: Stage, lines: list[str]) -> list[WorkflowHandle[Any, Any]]:
    """Those whose ids the example prints."""
    words = " ".join(lines).split()
    ids = [words[index + 1].rstrip(":") for index, word in enumerate(words) if word == "workflow"]
    return [stage.client.get_workflow_handle(id) for id in ids]


async def test_release_to_regions(stage: Stage, tmp_path: Path) -> None:
    """A region that fails cancels what runs beside it, which clears away; the rest never starts."""
    lines = await run_part(stage, "release_to_regions", tmp_path)
    assert {region.name: os.listdir(region) for region in tmp_path.iterdir()} == {
        region: ["1.4"] for region in ("ap", "eu", "us")
    }
    assert len(list(tmp_path.glob("*/1.4/*.html"))) == 30
    good, bad = workflows(stage, lines)
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
    await run_part(stage, "table_import", tmp_path)
    assert count(tmp_path, "count(*)") == 12_000
    assert count(tmp_path, "max(writes)") == 1
    handle = stage.client.get_workflow_handle(f"import {tmp_path / 'orders.csv'}", result_type=int)
    assert await handle.result() == 7_700


async def test_table_import_after_a_killed_worker(stage: Stage, tmp_path: Path) -> None:
    """The next worker begins at the last checkpoint that the server has, and no row is doubled."""
    rows = "".join(f"{number},100\n" for number in range(ROWS))
    (tmp_path / "orders.csv").write_text(f"number,cents\n{rows}")
    handle = stage.client.get_workflow_handle(f"import {tmp_path / 'orders.csv'}", result_type=int)
    async with program(stage, ROOT, "-m", "examples.parts.table_import", str(tmp_path)) as worker:
        saved = await checkpoint_of(stage, handle, at_least=3_000)
        worker.kill()
    assert count(tmp_path, "count(*)") < ROWS
    await run_part(stage, "table_import", tmp_path)
    began = await handle.result()
    assert saved <= began < ROWS
    assert count(tmp_path, "count(*)") == ROWS
    # Only what the checkpoint did not know of came again, and it came once more.
    assert count(tmp_path, "max(writes)") <= 2
    assert count(tmp_path, f"sum(writes > 1 AND number < {began})") == 0


async def checkpoint_of(stage: Stage, handle: WorkflowHandle[Any, int], *, at_least: int) -> int:
    """Waits until the server knows of so many rows."""
    saved = 0

    async def is_saved() -> bool:
        nonlocal saved
        try:
            pending = (await handle.describe()).raw_description.pending_activities
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            return False  # not started yet
        for each in pending:
            for details in each.heartbeat_details.payloads:
                saved = int(json.loads(details.data)["checkpoint"])
        return saved >= at_least

    await stage.until(is_saved)
    return saved


async def test_signed_report(stage: Stage, tmp_path: Path) -> None:
    """Two signatures file the first report, its author's is refused; one is not enough for the second."""
    lines = await run_part(stage, "signed_report", tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["april.draft", "march.signed"]
    signed = (tmp_path / "march.signed").read_text()
    assert [name for name in MANAGERS if name in signed] == ["alice@example.com", "bob@example.com"]
    march, april = workflows(stage, lines)
    assert (await march.result(), await april.result()) == (True, False)
    # A vote that is refused leaves nothing in the history.
    assert await votes_in(march) == 2
    assert await votes_in(april) == 1


async def votes_in(handle: WorkflowHandle[Any, Any]) -> int:
    """How many updates a history has."""
    events = [event.event_type async for event in handle.fetch_history_events()]
    return events.count(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED)
