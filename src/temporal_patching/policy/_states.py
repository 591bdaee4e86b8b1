"""The closed sets of states and outcomes."""

from __future__ import annotations

from enum import Enum
from typing import final


@final
class HostState(str, Enum):
    """What became of one host. Every host of the frozen list ends in exactly one of these."""

    PATCHED = "PATCHED"
    """Its update changed it, and every step after that was done."""
    UNCHANGED = "UNCHANGED"
    """Nothing needed to be changed. A success."""
    FAILED = "FAILED"
    """A step failed. ``reason`` says which and why."""
    UNREACHABLE = "UNREACHABLE"
    """It could not be reached."""
    REBOOT_PENDING = "REBOOT_PENDING"
    """Updated, but the update takes effect only after a reboot that was not made."""
    SKIPPED = "SKIPPED"
    """Left out on purpose (busy with another rollout, say)."""
    CANCELLED = "CANCELLED"
    """Stopped before its update began, and given back as it was found."""
    NOT_STARTED = "NOT_STARTED"
    """The rollout ended before its turn."""
    GONE = "GONE"
    """It was in the plan, but is not there any more."""

    __str__ = str.__str__  # else a Python prints one thing and formats another, and each its own


FAILURES = frozenset({HostState.FAILED, HostState.UNREACHABLE})
"""What counts in a failure budget."""

SUCCESSES = frozenset({HostState.PATCHED, HostState.UNCHANGED})
"""What a rollout was asked for."""

ACTED_ON = frozenset({HostState.PATCHED, HostState.REBOOT_PENDING, *FAILURES})
"""What says something about the update itself."""


@final
class Outcome(str, Enum):
    """How a rollout or a cluster ended."""

    PATCHED = "PATCHED"
    """Every host is patched or needed nothing."""
    PARTIAL = "PARTIAL"
    """It went through the whole list, but not every host is patched."""
    STOPPED = "STOPPED"
    """It stopped by itself; ``reason`` says why."""
    REJECTED = "REJECTED"
    """An approver rejected it at a gate. Nothing was touched if that gate was the first."""
    EXPIRED = "EXPIRED"
    """Nobody decided at a gate in time. Nothing was touched if that gate was the first."""
    ABORTED = "ABORTED"
    """Somebody cancelled it."""
    PLANNED = "PLANNED"
    """A dry run: the plan is complete, and nothing was touched."""

    __str__ = str.__str__
