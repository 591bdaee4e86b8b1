"""A worker in a process of its own: `python -m examples.workshop.worker MODULE ADDRESS ARGUMENT…`.

It imports the module by its name, and calls its `work`. Run by itself with `python -m`, the module would be
called `__main__`, and Temporal's sandbox, which imports workflows anew, could not follow its relative imports.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys

from temporalio.worker import Worker

__all__ = ["work_until_killed"]


async def work_until_killed(worker: Worker) -> None:
    """Says that it is ready, and works. It ends, too, when its standard input does."""
    async with worker:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        os._exit(0)  # at once: who started it has gone


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    asyncio.run(importlib.import_module(name).work(*arguments))
