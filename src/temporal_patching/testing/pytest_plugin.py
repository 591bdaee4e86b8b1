"""Fixtures for rehearsals in your own tests. Nothing is active unless a test asks for a fixture.

In your ``conftest.py``::

    pytest_plugins = ["temporal_patching.testing.pytest_plugin"]

A test that uses ``rehearse`` may be a coroutine, under ``pytest-asyncio`` or ``anyio``, or a plain function that
calls ``asyncio.run(rehearse(...))``: the server is bound to no event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

try:
    import pytest
except ImportError as _error:
    raise ImportError(
        "temporal_patching.testing.pytest_plugin needs pytest: pip install 'temporal-patching[testing]'"
    ) from _error

from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from ._environment import start_environment
from ._rehearse import Rehearser

__all__ = ["rehearsal_client", "rehearsal_environment", "rehearse"]

T = TypeVar("T")


def _apart(work: Coroutine[Any, Any, T]) -> T:
    """Runs it in a thread of its own: the tests' event loop, if there is one, is not ours."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()


@pytest.fixture(scope="session")
def rehearsal_environment() -> Iterator[WorkflowEnvironment]:
    """A time-skipping server for the whole run, started when the first test asks for it.

    Override it in your ``conftest.py`` where your clients have a data converter of their own.
    """
    environment = _apart(start_environment())
    yield environment
    _apart(environment.shutdown())


@pytest.fixture
def rehearsal_client(rehearsal_environment: WorkflowEnvironment) -> Client:
    """A client of that server, for workflows that are no rollouts."""
    return rehearsal_environment.client


@pytest.fixture(scope="session")
def rehearse(rehearsal_environment: WorkflowEnvironment) -> Rehearser:
    """``temporal_patching.testing.rehearse`` on that server, one rehearsal after another."""
    return Rehearser(rehearsal_environment)
