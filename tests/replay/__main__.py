"""``python -m tests.replay``: records the histories of each case anew, as those that are not released yet.

``--release 0.1.0`` records them as that release's. Those of a release are never recorded anew, and never deleted.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import tempfile
from pathlib import Path

from temporalio.client import Client, WorkflowHistory

from tests.chaos.ground import Server
from tests.replay.cases import CASES, Case, played
from tests.replay.kept import HISTORIES, UNRELEASED, as_text, packed, run_lengths
from tests.rollouts import children_of, continuation_of, history_of, site


async def recorded(client: Client, name: str, case: Case) -> dict[str, WorkflowHistory]:
    """Plays a case; answers the histories of all its runs."""
    fleet = case.fleet()
    with run_lengths(case.lengths):
        hosts = fleet.implementing(*case.steps, notify=True)
        async with site(client, hosts, [case.workflow], identity="worker") as here:
            rollout = await here.start(case.request, case.workflow, id=name)
            report = await played(case, rollout, fleet)
    assert report.outcome is case.outcome, report
    found: dict[str, WorkflowHistory] = {}
    left: list[tuple[str, str | None]] = [(name, None)]
    runs: dict[str, int] = {}
    while left:
        id, run_id = left.pop()
        history = await history_of(client, id, run_id)
        runs[id] = runs.get(id, 0) + 1
        found[f"{id} {runs[id]}"] = history
        left += [*children_of(history), *continuation_of(history, id)]
    return found


async def record(release: str) -> None:
    """Records every case."""
    # Steps that fail on purpose are logged with their traces.
    logging.getLogger("temporalio.activity").setLevel(logging.CRITICAL)
    folder = HISTORIES / release
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.json.gz"):
        old.unlink()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made:
        server = Server(Path(made))
        try:
            client = await server.start()
            for name, case in CASES.items():
                histories = await recorded(client, name, case)
                file = folder / f"{name}.json.gz"
                file.write_bytes(packed(as_text(histories)))
                print(f"{file.name}: {len(histories)} runs, {file.stat().st_size // 1000} kB")
        finally:
            server.kill()


def main() -> None:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.replay", description=__doc__)
    parser.add_argument("--release", default=UNRELEASED)
    release = parser.parse_args().release
    if release != UNRELEASED and (HISTORIES / release).exists():
        sys.exit(f"{release} is recorded: what is released is not recorded anew")
    asyncio.run(record(release))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # A process that used the SDK may crash in the interpreter's shutdown.
    os._exit(0)
