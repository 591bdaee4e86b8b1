"""Real Debian hosts for these tests; without root or Debian they skip, with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.debian_fleet.fleet import DebianFleet
from temporal_patching.contrib.ssh import Ssh

CLUSTERS = {"eu-1": 3, "us-1": 3}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the first test of this folder the time that debootstrap takes."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture
def fleet() -> Iterator[DebianFleet]:
    """Six hosts in two clusters, fresh for each test, at version 1.0-1 of both packages."""
    if reason := DebianFleet.why_not():
        pytest.skip(reason)
    with DebianFleet(CLUSTERS) as fleet:
        yield fleet


@pytest.fixture
def ssh(fleet: DebianFleet) -> Ssh:
    """Log in to the fleet's hosts."""
    return fleet.ssh()
