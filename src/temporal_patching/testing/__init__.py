"""A simulated fleet for your own tests: no machine is touched, and every effect is written down."""

from ._faults import (
    Already,
    DoneButLost,
    FailAt,
    Fault,
    Hang,
    LiesAboutBoot,
    NeedsReboot,
    NotNeeded,
    RefuseAt,
    Slow,
    Unchanged,
    Unreachable,
)
from ._fleet import (
    SimulatedFleet,
)
from ._hosts import (
    SimulatedHost,
)
from ._invariants import (
    InvariantsBroken,
    check_invariants,
)
from ._log import (
    Effect,
    FleetTruth,
)

__all__ = [
    "Already",
    "DoneButLost",
    "Effect",
    "FailAt",
    "Fault",
    "FleetTruth",
    "Hang",
    "InvariantsBroken",
    "LiesAboutBoot",
    "NeedsReboot",
    "NotNeeded",
    "RefuseAt",
    "SimulatedFleet",
    "SimulatedHost",
    "Slow",
    "Unchanged",
    "Unreachable",
    "check_invariants",
]
