"""Real Debian hosts for these tests; without root or Debian they skip, with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.debian_fleet.fleet import DebianFleet

CLUSTERS = {"eu-1": 3, "us-1": 3}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the first test of this folder the time that debootstrap takes."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600))


def _fleet() -> Iterator[DebianFleet]:
    if reason := DebianFleet.why_not():
        pytest.skip(reason)
    with DebianFleet(CLUSTERS) as fleet:
        yield fleet


fleet = pytest.fixture(_fleet)
"""Six hosts in two clusters, fresh for the test, at version 1.0-1 of both packages."""

shared_fleet = pytest.fixture(_fleet, scope="module")
"""The same for all tests of a module, which leave its hosts as they found them."""
