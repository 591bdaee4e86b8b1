"""Runs the programs of the examples, as their reader does: in a process of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from examples.workshop.stage import PATIENCE, Stage

CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, 128 + signal.SIGSEGV, 128 + signal.SIGABRT}
"""A short-lived process that used the SDK may crash while its interpreter shuts down, after all is done and
printed (temporalio/sdk-python#300). So whoever accepts this looks at what the program has done and printed.
The statuses from 128 on are a shell's word for it."""

ENDED_WELL = {0} | CRASHES
"""How a program may end that has done what it should."""

REFUSED = {1} | CRASHES
"""The same for a program that ends with an error of its own."""


@asynccontextmanager
async def program(
    stage: Stage, folder: Path, *command: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """`python COMMAND` in the folder, which is over at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *command),
        cwd=folder,
        env={**os.environ, "TEMPORAL_ADDRESS": stage.address},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def run(stage: Stage, folder: Path, *command: str, ends: set[int] = ENDED_WELL) -> list[str]:
    """Runs a program to its end, and returns the lines that it printed."""
    async with program(stage, folder, *command) as process:
        output, _ = await asyncio.wait_for(process.communicate(), 2 * PATIENCE)
        assert process.returncode in ends
    return output.decode().splitlines()
