"""The gates that a rollout can have, by name."""

from __future__ import annotations

import re
from collections.abc import Iterable

START = "start"
"""Before anything is touched."""
PROMOTE = "promote"
"""After the pilots, before the first wave."""

_FORM = re.compile(r"(?:(start)|(promote)|wave-([1-9][0-9]{0,3})|ring-([1-9][0-9]{0,3}))(?:/(.+))?")

FORMS = (
    '"start", "promote", "wave-2" (before the second wave), "ring-2" (before the second ring); '
    '"promote/CLUSTER" and "wave-2/CLUSTER" for one cluster'
)


def why_no_gate(gate: str, *, clusters: Iterable[str], rings: int, has_pilots: bool) -> str | None:
    """Why a rollout has no gate of this name, or None if it has.

    ``ring-1`` asks after ``start``: where the first rings are done, the gate of a later one guards the first that
    is left.
    """
    match = _FORM.fullmatch(gate)
    if match is None:
        return f"gates are {FORMS}"
    start, promote, wave, ring, cluster = match.groups()
    if cluster is not None and (start or ring):
        return f"gates are {FORMS}"
    if cluster is not None and cluster not in clusters:
        return f"the request has no cluster {cluster!r}"
    if promote and not has_pilots:
        return "there are no pilots to promote after: 'pilot_hosts' is 0"
    if wave == "1":
        return 'the gate before the first wave is "promote", or without pilots "start"'
    if ring == "1" and not rings:
        return 'the policy has no rings: the gate before all clusters is "start"'
    if ring and int(ring) > rings:
        return f"the policy has {rings} rings"
    return None


def wave_gate(wave: int) -> str:
    """The gate before a wave, as it is called for all clusters."""
    return PROMOTE if wave == 1 else f"wave-{wave}"


def gated_waves(gates: Iterable[str], cluster: str) -> frozenset[int]:
    """The waves of a cluster before which people are asked."""
    found: set[int] = set()
    for gate in gates:
        name, _, only = gate.partition("/")
        if only in ("", cluster):
            if name == PROMOTE:
                found.add(1)
            elif name.startswith("wave-"):
                found.add(int(name.removeprefix("wave-")))
    return frozenset(found)
