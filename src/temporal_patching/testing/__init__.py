"""A simulated fleet for your own tests: no machine is touched, and every effect is written down."""

from ._fleet import (
    Already,
    DoneButLost,
    Effect,
    FailAt,
    Fault,
    Hang,
    LiesAboutBoot,
    NeedsReboot,
    NotNeeded,
    RefuseAt,
    SimulatedFleet,
    SimulatedHost,
    Slow,
    Unchanged,
    Unreachable,
)

__all__ = [
    "Already",
    "DoneButLost",
    "Effect",
    "FailAt",
    "Fault",
    "Hang",
    "LiesAboutBoot",
    "NeedsReboot",
    "NotNeeded",
    "RefuseAt",
    "SimulatedFleet",
    "SimulatedHost",
    "Slow",
    "Unchanged",
    "Unreachable",
]
