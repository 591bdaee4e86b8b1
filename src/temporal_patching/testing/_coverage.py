"""Whether a batch of rollouts has met what it was made to meet: a test that meets nothing proves nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal, final

from temporalio.client import WorkflowHistory

from ..models import RolloutReport
from ..policy import HostState, Outcome
from ._evidence import read
from ._faults import Fault
from ._log import FleetTruth

Sight = Literal["budget exceeded", "paused in mid-step", "attempt repeated", "reply lost"]
"""What may happen in a rollout, beside faults and final states."""


@final
class NotSeen(AssertionError):
    """A batch has not met what it was to meet.

    Attributes:
        missing: What it has not met often enough, and how often it has.
    """

    def __init__(self, missing: Iterable[str], rollouts: int) -> None:
        self.missing: tuple[str, ...] = tuple(missing)
        super().__init__(f"in {rollouts} rollouts not seen: {'; '.join(self.missing)}")


@final
class Coverage:
    """What a batch of rollouts has met. Feed it each one, and let it fail at the end.

    Example:
        >>> from temporal_patching.testing import FailAt, SimulatedFleet
        >>> coverage = Coverage()
        >>> fleet = SimulatedFleet({"eu-1": 1}, faults={"eu-1-1": FailAt("reboot")})
        >>> coverage.add(fleet, RolloutReport(rollout="r", outcome=Outcome.REJECTED))
        >>> coverage.require(Outcome.REJECTED)
        >>> coverage.seen["FailAt"]  # require(FailAt) raises NotSeen
        0
    """

    def __init__(self) -> None:
        self.rollouts: int = 0
        """How many it was fed."""
        self.seen: Counter[str] = Counter()
        """How often what was seen: ``"FailAt"``, ``"HostState.PATCHED"``, ``"Outcome.STOPPED"``, a sight."""

    def add(
        self,
        fleet: FleetTruth,
        report: RolloutReport,
        history: WorkflowHistory | Iterable[WorkflowHistory] | None = None,
    ) -> None:
        """One rollout more.

        Args:
            fleet: Its fleet, afterwards.
            report: How it ended.
            history: Its histories, in any order. Pauses are known by the rollout's, and whether they came in the
                middle of a step by those of its hosts.
        """
        self.rollouts += 1
        lines = [line for line in fleet.log if line.rollout == report.rollout]
        began = [line for line in lines if line.what == "began"]
        self.seen.update(name for line in began for name in line.faults)
        for state, number in report.counts.items():
            self.seen[_name(state)] += number
        self.seen[_name(report.outcome)] += 1
        failures = report.counts[HostState.FAILED] + report.counts[HostState.UNREACHABLE]
        self.seen["budget exceeded"] += report.outcome is Outcome.STOPPED and failures > 0
        self.seen["attempt repeated"] += sum(line.attempt > 1 for line in began)
        self.seen["reply lost"] += sum(
            line.what == "done" and "DoneButLost" in line.faults for line in lines
        )
        evidence = read(history)
        if evidence is not None:
            self.seen["paused in mid-step"] += sum(
                any(
                    begin <= verb.when and (end is None or verb.when <= end)
                    for begin, end in evidence.steps
                )
                for verb in evidence.verbs
                if verb.name == "pause"
            )

    def require(self, *wanted: type[Fault] | HostState | Outcome | Sight, least: int = 1) -> None:
        """Fails unless all of this was seen.

        Args:
            wanted: Faults (their classes), final states, outcomes, sights.
            least: How often each. Default 1.

        Raises:
            NotSeen: Something was not. It names all of it.
        """
        missing = [
            f"{name} ({self.seen[name]} of {least})"
            for name in map(_name, wanted)
            if self.seen[name] < least
        ]
        if missing:
            raise NotSeen(missing, self.rollouts)


def _name(wanted: type[Fault] | HostState | Outcome | Sight) -> str:
    if isinstance(wanted, (HostState, Outcome)):
        return f"{type(wanted).__name__}.{wanted.name}"  # some names are in both
    return wanted if isinstance(wanted, str) else str(wanted.__name__)
