"""A worker in a process of its own, with its metrics on a port."""

from __future__ import annotations

from pathlib import Path

from temporalio.client import Client
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

from ..machines import Fleet
from ..worker import work_until_killed
from . import by_hand, with_library
from .limits import CONFIGURATIONS

__all__ = ["work"]

FORMS = {"by-hand": by_hand.make_worker, "with-library": with_library.make_worker}


async def work(
    address: str, form: str, configuration: str, port: str, queue: str, folder: str
) -> None:
    """What a worker process does: see ``stage.worker_process``."""
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
    await work_until_killed(FORMS[form](client, queue, Fleet(Path(folder)), limits))
