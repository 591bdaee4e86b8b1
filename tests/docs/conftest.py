"""A server for each page, as its reader has one that is fresh."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from temporalio.testing import WorkflowEnvironment

from tests.servers import ServerProcess


@pytest_asyncio.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    """The address of a development server that nobody else uses."""
    # Workers are killed on some pages, so that it cannot be the suite's, whose tasks must not fail.
    process = ServerProcess("temporal", tmp_path / "server")
    try:
        environment = await WorkflowEnvironment.start_local(
            dev_server_existing_path=process.path, dev_server_log_level="error"
        )
        async with environment:
            yield environment.client.service_client.config.target_host
    finally:
        process.kill()
