"""What people may ask for a host that failed and is parked, and what of it is on its way."""

from __future__ import annotations

from typing import Literal

import attrs

Repair = Literal["retry", "accept", "restore", "skip"]
"""What a person may answer for a parked host.

``retry`` does the failed step again, or goes back to an earlier one; ``accept`` takes it as done and goes
on behind it; ``restore`` gives the host back, as far as that is safe; ``skip`` leaves it as it is.
"""

MAX_PARKED = 200
"""Hosts of a cluster that are parked at once: each is a state that is kept. The next one is restored at once."""

BEING: dict[Repair, str] = {
    "retry": "retried",
    "accept": "accepted",
    "restore": "restored",
    "skip": "skipped",
}
"""What is done with a host for which this was asked."""


@attrs.frozen(kw_only=True)
class PendingRepair:
    """What a person asked for a parked host. ``number``: it rises with each that a cluster gets."""

    number: int
    host: str
    how: Repair
    step: str | None = None
