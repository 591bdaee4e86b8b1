"""Local activities: what the server says of their cost, and the machines of a dead worker."""

from __future__ import annotations

from examples.workshop.local_activities import run
from examples.workshop.stage import Stage


async def test_what_they_bring_and_what_they_lose(stage: Stage) -> None:
    """Fewer events; but a dead worker is noticed late, and what was done is done again."""
    seen = await run.show(stage)
    assert seen.hand_local.events < seen.hand.events
    assert seen.library_local.events < seen.library.events / 2
    assert seen.death.pending == ["stop_services"]
    assert seen.death.again == []
    assert seen.death_local.pending == []
    assert {"check_preconditions", "set_maintenance_mode"} <= set(seen.death_local.again)
    assert seen.death_local.seconds > seen.death.seconds
    assert seen.death.updated
    assert seen.death_local.updated
    assert all(row.holds for row in run.rows(seen))
