"""How long a cluster's history is, and when another run has to take over.

When it drains is a part of what a replay repeats: once released, these numbers change under a patch only.
"""

from __future__ import annotations

from temporalio import workflow

LONG_ENOUGH = 9_500
"""Events of a run with what its hosts in flight will still cost: from 10,240 on the server warns."""

OF_ONE_IN_FLIGHT = 10
"""Events that a host in flight will still cost: its start, its end, two notices, and the tasks for them."""

TOO_SHORT = 2_000
"""Events below which a run that has started no host goes on, whatever the server suggests."""

MAX_SIGNALS = 5_000
"""Signals of a run: the server takes 10,000."""

MAX_EVENTS = 46_000
MAX_BYTES = 40 * 1024**2
"""Where a history is full: the server ends a workflow at 51,200 events or 50 MB, and no clean-up runs."""


def is_long(*, in_flight: int, started: int, signals: int) -> bool:
    """Whether another run is to take over.

    Args:
        in_flight: Hosts in flight.
        started: Hosts that this run has started.
        signals: Signals that it has got.
    """
    info = workflow.info()
    events = info.get_current_history_length()
    if not started and events < TOO_SHORT:
        return False  # what it was given may be large: it would continue for ever
    return (
        info.is_continue_as_new_suggested()
        or events + OF_ONE_IN_FLIGHT * in_flight >= LONG_ENOUGH
        or signals >= MAX_SIGNALS
    )


def is_full() -> bool:
    """Whether it must come to its end before the server ends it."""
    info = workflow.info()
    return (
        info.get_current_history_length() >= MAX_EVENTS
        or info.get_current_history_size() >= MAX_BYTES
    )
