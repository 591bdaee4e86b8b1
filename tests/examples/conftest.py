"""The stage of the examples: a server of their own, as their reader has one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from examples.workshop.stage import Stage, open_stage


@pytest_asyncio.fixture(scope="session")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """One stage for all exercises, as `make workshop` has it."""
    async with open_stage(own_server=True, pictures=tmp_path_factory.mktemp("pictures")) as stage:
        yield stage
