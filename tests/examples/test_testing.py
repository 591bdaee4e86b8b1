"""The testing suite: what pytest itself reports of a consumer's tests."""

from __future__ import annotations

from examples.workshop.stage import Stage
from examples.workshop.testing import run


async def test_hours_pass_at_once(stage: Stage) -> None:
    """A consumer's tests pass, and the four hours of an approval take no time."""
    seen = await run.show(stage)
    assert len(seen.by_hand) == 2
    assert len(seen.with_library) == 3
    for tests in (seen.by_hand, seen.with_library):
        assert all(test.passed for test in tests.values())
        expiry = tests["test_nobody_approves"]
        assert expiry.workflow_seconds is not None
        assert expiry.workflow_seconds >= 4 * 60 * 60
        assert expiry.seconds < 30
    retried = seen.with_library["test_the_own_step_fails_twice"]
    assert retried.workflow_seconds is not None
    assert retried.workflow_seconds >= 3
    assert all(row.holds for row in run.rows(seen))
