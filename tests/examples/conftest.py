"""The stage of the examples: a server of their own, as their reader has one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from examples.workshop.stage import Stage, open_stage

TIMEOUT = 240
"""Seconds for each test here, of which none takes a minute on an idle machine. This one may be busy."""


@pytest_asyncio.fixture(scope="session")
async def opened(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """One server for all exercises, as `make workshop` has it."""
    async with open_stage(own_server=True, pictures=tmp_path_factory.mktemp("pictures")) as stage:
        yield stage


@pytest.fixture
def stage(opened: Stage) -> Stage:
    """A stage on it for one exercise."""
    return opened.anew()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test of this folder its time."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(TIMEOUT))
