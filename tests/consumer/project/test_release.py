"""Rehearses the team's rollout before it is let loose: no folder is touched, no day goes by."""

import asyncio
from datetime import timedelta

from hosts import DebianHosts
from temporal_patching.models import HostState, Outcome, PatchRequest
from temporal_patching.policy import ApprovalPolicy, FailureBudget, RolloutPolicy, Soak
from temporal_patching.testing import Approve, Deed, Rehearser, Reject, SimulatedFleet, Unreachable
from workflows import PatchWebFleet

ALICE, BOB = "alice@example.com", "bob@example.com"
GATE = ApprovalPolicy(approvers=[ALICE, BOB], quorum=1, timeout=timedelta(hours=4))
REQUEST = PatchRequest(
    clusters=["eu-1", "us-1"],
    requester="carol@example.com",
    update_command="apt-get -y upgrade",
    services=["nginx"],
    policy=RolloutPolicy(
        waves=["50%", "100%"],
        max_parallel=2,
        failure_budget=FailureBudget(max_failures=1),
        soak=Soak(duration=timedelta(days=10)),
    ),
    approvals={"start": GATE, "promote": GATE},
)
PEOPLE = [
    Approve(by=ALICE, after=timedelta(hours=2)),
    Approve(by=BOB, gate="promote", after=timedelta(hours=1)),
]
PATIENCE = timedelta(minutes=3)


def test_three_weeks(rehearse: Rehearser) -> None:
    fleet = SimulatedFleet({"eu-1": 4, "us-1": 2}, faults={"us-1-2": Unreachable("perform_update")})
    rehearsal = asyncio.run(
        rehearse(
            PatchWebFleet,
            REQUEST,
            fleet,
            activities=DebianHosts,
            people=PEOPLE,
            patience=PATIENCE,
        )
    )
    assert timedelta(days=20) < rehearsal.took < timedelta(days=21)
    assert rehearsal.report.counts[HostState.PATCHED] == 5
    rehearsal.assert_patched("eu-1-1", "us-1-1")
    rehearsal.assert_order(
        "set_maintenance_mode", "perform_update", "rebuild_initramfs", host="eu-1-4"
    )
    rehearsal.assert_at_most(2, "in flight", cluster="eu-1")


def test_the_worker_dies_while_it_updates(rehearse: Rehearser) -> None:
    fleet = SimulatedFleet({"eu-1": 1, "us-1": 1})
    rehearsal = asyncio.run(
        rehearse(
            PatchWebFleet,
            REQUEST,
            fleet,
            activities=DebianHosts,
            people=PEOPLE,
            crash_at=["perform_update", "rebuild_initramfs"],
            patience=PATIENCE,
        )
    )
    assert [crash.edge for crash in rehearsal.crashes] == ["before", "after"] * 2
    rehearsal.assert_patched()
    rehearsal.assert_in_service()


def test_bob_is_not_convinced(rehearse: Rehearser) -> None:
    fleet = SimulatedFleet({"eu-1": 2, "us-1": 1})
    people: list[Deed] = [PEOPLE[0], Reject(by=BOB, gate="promote")]
    rehearsal = asyncio.run(
        rehearse(PatchWebFleet, REQUEST, fleet, people=people, patience=PATIENCE)
    )
    assert rehearsal.report.outcome == Outcome.REJECTED
    rehearsal.assert_untouched("eu-1-2")
    rehearsal.assert_in_service()
