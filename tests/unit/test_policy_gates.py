"""Which gates a rollout can have, and before which waves they stand."""

from __future__ import annotations

from typing import Any

import pytest

from temporal_patching.policy._gates import FORMS, gated_waves, wave_gate, why_no_gate

GOOD = (
    "start",
    "promote",
    "wave-2",
    "wave-9999",
    "ring-1",
    "ring-2",
    "promote/eu-1",
    "wave-2/us-1",
)

NO_PILOTS = "there are no pilots to promote after: 'pilot_hosts' is 0"
FIRST_WAVE = 'the gate before the first wave is "promote", or without pilots "start"'
NO_RINGS = 'the policy has no rings: the gate before all clusters is "start"'


def why(gate: str, **fields: Any) -> str | None:
    """Why a rollout over two clusters in two rings has no such gate."""
    clusters = ("eu-1", "us-1")
    return why_no_gate(gate, **{"clusters": clusters, "rings": 2, "has_pilots": True, **fields})


@pytest.mark.parametrize("gate", GOOD)
def test_the_gates_that_there_are(gate: str) -> None:
    """Of all clusters or of one."""
    assert why(gate) is None


@pytest.mark.parametrize(
    "gate",
    [
        "",
        "strat",
        "Start",
        "start ",
        "wave-0",
        "wave-02",
        "wave-10000",
        "wave-",
        "wave",
        "ring-0",
        "promote/",
        "start/eu-1",  # whole by itself
        "ring-1/eu-1",
        "ring-1/nobody",
    ],
)
def test_what_is_no_gate(gate: str) -> None:
    """All forms are named."""
    assert why(gate) == f"gates are {FORMS}"


@pytest.mark.parametrize(
    ("gate", "fields", "said"),
    [
        ("promote/eu-2", {}, "the request has no cluster 'eu-2'"),
        ("wave-2/eu-2", {}, "the request has no cluster 'eu-2'"),
        ("promote", {"has_pilots": False}, NO_PILOTS),
        ("promote/eu-1", {"has_pilots": False}, NO_PILOTS),
        ("wave-1", {}, FIRST_WAVE),
        ("wave-1/eu-1", {}, FIRST_WAVE),
        ("ring-1", {"rings": 0}, NO_RINGS),
        ("ring-2", {"rings": 0}, "the policy has 0 rings"),
        ("ring-3", {}, "the policy has 2 rings"),
        ("ring-10", {"rings": 9}, "the policy has 9 rings"),
    ],
)
def test_a_gate_that_nobody_would_come_to(gate: str, fields: dict[str, Any], said: str) -> None:
    """It would never ask, and so guard nothing."""
    assert why(gate, **fields) == said
    assert why("wave-2", **fields) is None
    assert why("start", **fields) is None


def test_the_waves_that_gates_guard() -> None:
    """The wave after the pilots is the first; a gate of another cluster is none of this one."""
    gates = ("start", "ring-1", "promote", "wave-3", "wave-5/eu-1", "wave-7/us-1")
    assert gated_waves(gates, "eu-1") == {1, 3, 5}
    assert gated_waves(gates, "us-1") == {1, 3, 7}
    assert gated_waves(("promote/us-1", "start"), "eu-1") == frozenset()
    assert [wave_gate(wave) for wave in (1, 2, 12)] == ["promote", "wave-2", "wave-12"]
    for wave in (1, 2, 12):
        assert gated_waves((wave_gate(wave),), "eu-1") == {wave}
