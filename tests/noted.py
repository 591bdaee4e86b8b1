"""What workflows of the tests have done, told past their sandbox: each call once, not again by a replay."""

from __future__ import annotations

from temporalio import workflow

CALLS: list[tuple[str, str]] = []


def call(what: str, name: str) -> None:
    """Writes a call down."""
    if not workflow.unsafe.is_replaying():
        CALLS.append((what, name))


def calls(name: str) -> list[str]:
    """What was called for this name, in order."""
    return [what for what, whose in CALLS if whose == name]
