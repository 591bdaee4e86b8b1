"""The soak, long enough to see that it works: `make soak MINUTES=60` is the real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.soak import Deaths, plans, soak, told


@pytest.mark.timeout(400)
async def test_a_short_soak(tmp_path: Path) -> None:
    """Less than half a minute of rollouts whose workers and server die, at a few moments: nothing is lost."""
    # How soon hosts go on is judged where nothing else runs on the machine.
    deaths = Deaths(worker_every=5, server_every=11, recovered_in=120)
    tally = await soak(tmp_path, minutes=0.35, seed=1, deaths=deaths)
    said = told(tally, minutes=0.35, seed=1)
    print(said)
    assert not tally.problems, said
    assert tally.worker_died
    assert tally.server_died


def test_a_plan_is_its_seed_and_its_number() -> None:
    """So a soak may be repeated, as far as the moments of its deaths allow."""
    assert plans(7, 3) == plans(7, 3)
    assert plans(7, 3) != plans(8, 3)
    verbs = {plans(0, number).verb for number in range(40)}
    assert verbs == {"", "pause", "abort"}
