"""Exercise 6: what one host's failure does to those beside it."""

from __future__ import annotations

import asyncio

import pytest

from examples.workshop.e6_cancellation import run
from examples.workshop.stage import Stage
from temporal_patching.models import HostState, Outcome


@pytest.mark.provokes_task_failure("an ExceptionGroup leaves a workflow: its task fails for ever")
async def test_siblings_of_a_failed_host(stage: Stage) -> None:
    """By hand hosts stay down, run on or hang; the library gives each back, and says why it failed."""
    seen = await run.show(stage)

    for what in ("updating", "draining"):
        assert seen.terminated[what].ended == "TERMINATED"
        assert not seen.terminated[what].services_running
        assert seen.terminated[what].late
    assert seen.terminated["broken"].services_running

    assert "perform_update" in seen.abandoned["draining"].late
    assert seen.abandoned["draining"].updated

    if hasattr(asyncio, "TaskGroup"):
        assert seen.grouped is not None
        assert seen.grouped.status == "RUNNING"
        assert seen.grouped.failed_tasks >= 2
        assert "TaskGroup" in seen.grouped.message
        assert seen.grouped.hosts["updating"].ended == "CANCELED"
        assert seen.grouped.hosts["updating"].units_under_services > 0
    else:
        assert seen.grouped is None

    hosts, report = seen.patched.hosts, seen.patched.report
    assert {what: host.ended for what, host in hosts.items()} == {
        "broken": "FAILED",
        "updating": "PATCHED",
        "draining": "CANCELLED",
    }
    assert all(host.services_running and host.in_service for host in hosts.values())
    assert not any(host.late or host.units_under_services for host in hosts.values())
    assert hosts["updating"].updated
    assert "perform_update" not in hosts["draining"].done
    assert report.outcome is Outcome.STOPPED
    assert report.left_out_of_service == ()
    assert {host.host: host.state for host in report.hosts} == {
        stage.id("e6-broken"): HostState.FAILED,
        stage.id("e6-draining"): HostState.CANCELLED,
    }
    assert all(stage.id("e6-broken") in host.reason for host in report.hosts)
    assert all(row.holds for row in run.rows(seen))
