"""Exercise 2: what rollout, cluster and host answer while they run, and afterwards."""

from __future__ import annotations

from examples.workshop.e2_query import run
from examples.workshop.stage import Stage


async def test_lists_that_grow_and_an_answer_after_the_end(stage: Stage) -> None:
    """Each list begins with the one before; after the end another worker answers the same."""
    seen = await run.show(stage)

    for asked in (seen.by_hand, seen.rollout, seen.cluster, seen.host):
        assert run.grow(asked.polled)
        assert list(asked.polled[-1]) == list(asked.afterwards)
    assert list(seen.by_hand.afterwards) == seen.by_hand_done
    assert list(seen.host.afterwards) == seen.done
    assert len(seen.done) == 7
    assert any(run.HOST in step for step in seen.cluster.afterwards)
    assert any(run.CLUSTER in step for step in seen.rollout.afterwards)

    # A query needs a worker, also for what has ended.
    assert seen.by_hand_alone
    assert seen.alone
    assert seen.alone_seconds > 9

    assert all(row.holds for row in run.rows(seen))


def test_lists_that_do_not_grow() -> None:
    """What the test above relies on can say no."""
    assert run.grow([[], ["a"], ["a", "b", "c"]])
    assert not run.grow([["a"]])
    assert not run.grow([["a"], ["b", "a"]])
    assert not run.grow([["a", "b"], ["a"]])
