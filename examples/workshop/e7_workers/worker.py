"""A worker in a process of its own, with its metrics on a port."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from temporalio.client import Client
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

from ..machines import Fleet
from . import by_hand, with_library
from .limits import CONFIGURATIONS

LIFETIME = 120
"""Seconds after which it ends by itself, should nobody have ended it."""

FORMS = {"by-hand": by_hand.make_worker, "with-library": with_library.make_worker}


async def main(
    address: str, form: str, configuration: str, port: str, queue: str, folder: str
) -> None:
    # The endpoint belongs to the runtime, and the client brings its runtime along.
    metrics = PrometheusConfig(
        bind_address=f"127.0.0.1:{port}",
        # Without these three a name does not say its unit, and durations are in milliseconds.
        unit_suffix=True,
        durations_as_seconds=True,
        counters_total_suffix=True,
    )
    runtime = Runtime(telemetry=TelemetryConfig(metrics=metrics))
    client = await Client.connect(address, runtime=runtime)
    limits = CONFIGURATIONS[configuration].limits
    async with FORMS[form](client, queue, Fleet(Path(folder)), limits):
        print("ready", flush=True)
        await asyncio.sleep(LIFETIME)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
    os._exit(0)
