"""Versioning: a rollout in whose middle a release is made."""

from __future__ import annotations

from examples.workshop.stage import Stage
from examples.workshop.versioning import run


async def test_a_rollout_keeps_its_procedure(stage: Stage) -> None:
    """Hosts begun after the release have no new step; those of the next rollout have it."""
    seen = await run.show(stage)
    assert seen.stuck == "NON_DETERMINISTIC_ERROR"
    assert seen.updated_when_stuck < seen.by_hand.hosts
    for release in (
        seen.by_hand,
        seen.library,
        seen.pinned.release,
        seen.auto_upgrade.release,
    ):
        assert 0 < release.begun < release.hosts
        assert release.updated == release.hosts
        assert release.checked == 0
        assert release.checked_after == release.hosts_after > 0
    assert seen.pinned.version == "first"
    assert seen.pinned.versions == ["first"]
    assert seen.auto_upgrade.version == "next"
    assert seen.pinned.version_after == seen.auto_upgrade.version_after == "next"
    assert all(row.holds for row in run.rows(seen))
