"""Exercise 4: what the machines say of it."""

from __future__ import annotations

import pytest

from examples.workshop.stage import Stage

pytest.importorskip("matplotlib", reason="the group 'workshop' is not installed")

from examples.workshop.e4_concurrency import run

PNG = b"\x89PNG\r\n\x1a\n"


async def test_parallel_within_limits(stage: Stage) -> None:
    """In parallel is faster, and reaches the limits without exceeding them; gather knows none."""
    seen = await run.show(stage)
    for each in (seen.loops, seen.all_at_once, seen.limited, seen.one_by_one, seen.in_parallel):
        assert each.updated == len(each.spans) == 10

    assert seen.loops.most == seen.one_by_one.most == 1
    assert seen.all_at_once.most == 10
    assert seen.all_at_once.most_in == {"eu-1": 5, "us-1": 5}

    # A semaphore holds, and knows neither clusters nor pilots.
    assert seen.limited.most == seen.limited.first == 5
    assert seen.limited.most_in["eu-1"] == 5

    assert seen.in_parallel.first <= 2
    assert seen.in_parallel.most == 5
    assert max(seen.in_parallel.most_in.values()) == 3
    assert seen.in_parallel.seconds < seen.one_by_one.seconds

    drawn = seen.picture.read_bytes()
    assert drawn.startswith(PNG)
    assert len(drawn) < 60_000
    assert int.from_bytes(drawn[16:20], "big") <= 1000  # its width

    assert all(row.holds for row in run.rows(seen))
