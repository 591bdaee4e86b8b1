"""What must hold in every rollout, judged from what was really done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from temporalio.client import WorkflowHistory

from ..models import RolloutReport
from ._log import FleetTruth


@final
class InvariantsBroken(AssertionError):
    """What must hold in every rollout does not.

    Attributes:
        broken: Each thing that does not hold: the invariant, then host and moment.
    """

    def __init__(self, broken: Iterable[str]) -> None:
        self.broken: tuple[str, ...] = tuple(broken)
        super().__init__("\n".join(self.broken))


def check_invariants(
    fleet: FleetTruth,
    report: RolloutReport,
    history: WorkflowHistory | Iterable[WorkflowHistory] | None = None,
) -> None:
    """Compares what a rollout says with what was really done to its hosts.

    Args:
        fleet: The simulated fleet, after the rollout.
        report: How the rollout ended.
        history: Histories of the rollout, and of its clusters and hosts, as many as there are.

    Raises:
        InvariantsBroken: Something does not hold; it names all of it.
    """
    broken = [
        f"S8: {name} is out of service, and the report does not name it"
        for name in fleet.out_of_service
        if name not in report.left_out_of_service
    ]
    if broken:
        raise InvariantsBroken(broken)
