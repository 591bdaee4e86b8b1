"""`Checkpoint`: a CSV file goes into a table; after a bad row, or a dead worker, it goes on where it was."""

from __future__ import annotations

import asyncio
import csv
import os
import sqlite3
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from itertools import islice
from pathlib import Path

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.worker import Worker

from temporal_patching.activity import Checkpoint

TABLE = (
    "CREATE TABLE IF NOT EXISTS orders (number INTEGER PRIMARY KEY, cents INTEGER, writes INTEGER)"
)
# A checkpoint may be a little behind, so a row may come twice. Its number says that it is the same.
INSERT = (
    "INSERT INTO orders VALUES (?, ?, 1) ON CONFLICT (number) DO UPDATE SET writes = writes + 1"
)


@activity.defn
def import_table(file: str) -> int:
    """Imports the rows, a hundred in each transaction. Returns at which row this attempt began."""
    with (
        closing(sqlite3.connect(Path(file).with_suffix(".db"))) as database,
        open(file, newline="", encoding="utf-8") as source,
        Checkpoint(int, default=0) as checkpoint,  # how many rows are imported
    ):
        began = checkpoint.value
        database.execute(TABLE)
        rows = islice(csv.DictReader(source), began, None)
        while some := list(islice(rows, 100)):
            with database:  # all of them or none
                for row in some:
                    database.execute(INSERT, (int(row["number"]), int(row["cents"])))
            checkpoint.save(checkpoint.value + len(some))
            time.sleep(0.03)  # a database that is further away
    return began


@workflow.defn
class TableImport:
    @workflow.run
    async def run(self, file: str) -> int:
        return await workflow.execute_activity(
            import_table,
            file,
            start_to_close_timeout=timedelta(hours=1),
            heartbeat_timeout=timedelta(seconds=2),  # after that a dead worker is noticed
        )


def mend(file: Path) -> None:
    file.write_text(file.read_text(encoding="utf-8").replace("n/a", "0"), encoding="utf-8")


async def import_file(file: Path, *, bad: bool) -> None:
    client = await Client.connect(os.environ.get("TEMPORAL_ADDRESS", "localhost:7233"))
    name = f"import {file}"
    async with Worker(
        client,
        task_queue=name,
        workflows=[TableImport],
        activities=[import_table],
        activity_executor=ThreadPoolExecutor(),
    ):
        # Kill this program and start it again: the import is still the same one, and goes on.
        same = WorkflowIDConflictPolicy.USE_EXISTING
        handle = await client.start_workflow(
            TableImport.run, str(file), id=name, task_queue=name, id_conflict_policy=same
        )
        while bad:  # until the server says that an attempt has failed
            for pending in (await handle.describe()).raw_description.pending_activities:
                if pending.HasField("last_failure"):
                    print("mending the bad row:", pending.last_failure.message, flush=True)
                    mend(file)
                    bad = False
            await asyncio.sleep(0.2)
        print("the last attempt began at row", await handle.result())


def main(folder: Path) -> None:
    file = folder.resolve() / "orders.csv"
    if not file.exists():
        rows = [f"{number},{'n/a' if number == 7_777 else 100}\n" for number in range(12_000)]
        file.write_text("".join(["number,cents\n", *rows]), encoding="utf-8")
    asyncio.run(import_file(file, bad="n/a" in file.read_text(encoding="utf-8")))
    with closing(sqlite3.connect(file.with_suffix(".db"))) as database:
        counts = database.execute("SELECT count(*), sum(writes > 1) FROM orders").fetchone()
    print("{} rows, {} of them written twice".format(*counts))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
