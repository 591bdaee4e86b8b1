"""What a rehearsal answers, from a log made by hand: each question names host and moment when the answer is no."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHistory

from temporal_patching.exceptions import InvalidRequest
from temporal_patching.models import (
    AuditReport,
    HostReport,
    HostState,
    Outcome,
    RolloutReport,
)
from temporal_patching.testing import Effect, Rehearsal, SimulatedFleet, SimulatedHost, Steer
from temporal_patching.testing._lost import LostTasks

BEGAN = datetime(2026, 11, 2, 9, 0, tzinfo=timezone.utc)
OUT, IN = ("set_maintenance_mode", False), ("clear_maintenance_mode", True)
UPDATE = ("perform_update", None)


def rehearsal(*lines: tuple[timedelta, str, tuple[str, bool | None]], **report: Any) -> Rehearsal:
    """A rehearsal of a fleet of three hosts whose log has these lines: when, host, step and whether it serves."""
    hosts = {
        name: SimulatedHost(name=name, cluster="eu-1") for name in ("eu-1-1", "eu-1-2", "eu-1-3")
    }
    log: list[Effect] = []
    for since, host, (step, serves) in lines:
        for what in ("began", "done"):
            if what == "done" and serves is not None:
                hosts[host] = SimulatedHost(name=host, cluster="eu-1", in_service=serves)
            log.append(
                Effect(
                    number=len(log),
                    at=0.0,
                    what=what,  # type: ignore[arg-type]
                    rollout="r",
                    cluster="eu-1",
                    host=host,
                    step=step,
                    when=BEGAN + since,
                    then=hosts[host],
                )
            )
    fleet: Any = SimpleNamespace(
        hosts=tuple(hosts.values()),
        log=tuple(log),
        out_of_service=tuple(name for name, host in hosts.items() if not host.serves),
    )
    return Rehearsal(
        id="r",
        report=RolloutReport(rollout="r", **{"outcome": Outcome.PATCHED, **report}),
        audit=AuditReport(),
        histories=(),
        began=BEGAN,
        took=timedelta(days=21),
        fleet=fleet,
    )


H, D = timedelta(hours=1), timedelta(days=1)
ONE_AFTER_ANOTHER = (
    (H, "eu-1-1", OUT),
    (H, "eu-1-1", UPDATE),
    (2 * H, "eu-1-1", IN),
    (D, "eu-1-2", OUT),
    (D, "eu-1-2", UPDATE),
    (D + H, "eu-1-2", IN),
)


def test_all_is_well() -> None:
    """Nothing is raised where every answer is yes."""
    seen = rehearsal(*ONE_AFTER_ANOTHER)
    seen.assert_patched()
    seen.assert_patched("eu-1-1", "eu-1-2")
    seen.assert_in_service()
    seen.assert_untouched("eu-1-3")
    seen.assert_order("set_maintenance_mode", "perform_update", "clear_maintenance_mode")
    seen.assert_at_most(1, "out of service")
    seen.assert_at_most(1, "in flight")
    seen.assert_at_most(1, "in flight", cluster="eu-1")
    assert str(seen).endswith(", in 21 days, 0:00:00")


def test_too_many_at_once() -> None:
    """The worst moment, and since when each host counted."""
    seen = rehearsal((H, "eu-1-1", OUT), (2 * D, "eu-1-2", OUT), (2 * D + H, "eu-1-1", IN))
    for what in ("out of service", "in flight"):
        with pytest.raises(AssertionError) as failed:
            seen.assert_at_most(1, what)  # type: ignore[arg-type]
        assert str(failed.value).splitlines() == [
            f"at most 1 {what}, but at day 3, 00:00:00 (2026-11-04 09:00:00 UTC) it was 2:",
            "  eu-1-1: since 01:00:00 (2026-11-02 10:00:00 UTC), by set_maintenance_mode",
            "  eu-1-2: since day 3, 00:00:00 (2026-11-04 09:00:00 UTC), by set_maintenance_mode",
        ]


def test_left_out_of_service() -> None:
    """Which step took it out, when, and whether the report says so."""
    seen = rehearsal((H, "eu-1-1", OUT), (H, "eu-1-2", OUT), left_out_of_service=("eu-1-2",))
    with pytest.raises(AssertionError) as failed:
        seen.assert_in_service()
    first, second = str(failed.value).splitlines()[1:]
    assert first == (
        "  eu-1-1: set_maintenance_mode took it out at 01:00:00 (2026-11-02 10:00:00 UTC), "
        "and nothing gave it back (the report does not say so)"
    )
    assert second.endswith("(the report names it)")
    seen.assert_in_service("eu-1-3")


def test_not_patched() -> None:
    """The state and reason of the report, and the last step; a host that was not touched is named, too."""
    failed_host = HostReport(
        cluster="eu-1", host="eu-1-1", state=HostState.FAILED, reason="no space left"
    )
    seen = rehearsal((H, "eu-1-1", UPDATE), hosts=(failed_host,), outcome=Outcome.STOPPED)
    with pytest.raises(AssertionError) as failed:
        seen.assert_patched()
    assert str(failed.value).splitlines() == [
        "not patched (STOPPED):",
        "  eu-1-1 (eu-1): FAILED, no space left; perform_update began at "
        "01:00:00 (2026-11-02 10:00:00 UTC)",
    ]
    with pytest.raises(AssertionError, match="eu-1-3: it was never touched"):
        seen.assert_patched("eu-1-3")


def test_touched() -> None:
    """The first step, and when it began."""
    with pytest.raises(AssertionError, match=r"eu-1-2: set_maintenance_mode began at day 2, 00:00"):
        rehearsal(*ONE_AFTER_ANOTHER).assert_untouched("eu-1-2", "eu-1-3")


def test_out_of_order() -> None:
    """Both steps with their moments, and what was not done at all."""
    seen = rehearsal((H, "eu-1-1", UPDATE), (2 * H, "eu-1-1", OUT))
    with pytest.raises(
        AssertionError,
        match=r"eu-1-1: perform_update at 01:00:00 .* came before set_maint.* at 02:",
    ):
        seen.assert_order("set_maintenance_mode", "perform_update")
    with pytest.raises(
        AssertionError, match=r"eu-1-1: drain was not done; the last .* is set_main"
    ):
        seen.assert_order("perform_update", "drain")
    with pytest.raises(AssertionError, match="eu-1-3: perform_update, drain was not done"):
        seen.assert_order("perform_update", "drain", host="eu-1-3")


def test_questions_that_make_no_sense() -> None:
    """A host that is not there, one step alone, and something that is not counted."""
    seen = rehearsal(*ONE_AFTER_ANOTHER)
    with pytest.raises(InvalidRequest, match=r"'eu-1-22' is no host of the fleet.*did you mean"):
        seen.assert_untouched("eu-1-22")
    with pytest.raises(InvalidRequest, match="two or more"):
        seen.assert_order("perform_update")
    with pytest.raises(InvalidRequest, match=r"'eu' is no cluster of the fleet"):
        seen.assert_at_most(1, "in flight", cluster="eu")
    with pytest.raises(InvalidRequest, match="'what' must be"):
        seen.assert_at_most(1, "failed")  # type: ignore[arg-type]


def test_what_people_do_needs_a_moment() -> None:
    """A host without a step, and a moment without a time zone, are refused."""
    with pytest.raises(InvalidRequest, match="'host' needs a step"):
        Steer(lambda rollout: rollout.abort(by="b"), at=H, host="eu-1-1")
    with pytest.raises(InvalidRequest, match="'at' must have a time zone"):
        Steer(lambda rollout: rollout.abort(by="b"), at=BEGAN.replace(tzinfo=None))


def test_a_fleet_is_not_changed_by_asking() -> None:
    """The questions need nothing but what a fleet shows of itself."""
    fleet = SimulatedFleet({"eu-1": 1})
    seen = Rehearsal(
        id="r",
        report=RolloutReport(rollout="r", outcome=Outcome.PATCHED),
        audit=AuditReport(),
        histories=(),
        began=BEGAN,
        took=D,
        fleet=fleet,
    )
    seen.assert_in_service()
    seen.assert_untouched()
    assert fleet.log == ()


def test_a_task_that_the_server_has_lost() -> None:
    """One that has begun and does not end is told after longer than a task may take; one that goes on is not."""
    now = [0.0]
    lost = LostTasks(lambda: now[0])
    began = HistoryEvent(event_id=1)
    began.workflow_execution_started_event_attributes.original_execution_run_id = "run"

    def history(*ids: int) -> WorkflowHistory:
        kind = EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED
        return WorkflowHistory(
            "h", [began, *(HistoryEvent(event_id=n, event_type=kind) for n in ids)]
        )

    assert lost.look(history(3)) is None
    now[0] = 10.0
    assert lost.look(history(3, 6)) is None
    now[0] = 16.0
    assert lost.look(history(3, 6)) is None
    assert lost.look(WorkflowHistory("h", [began])) is None
    now[0] = 26.0
    said = lost.look(history(3, 6))
    assert said is not None
    assert "has lost a workflow task of 'h'" in said
