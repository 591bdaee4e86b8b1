"""A simulated fleet for your own tests: no machine is touched, and every effect is written down."""

from ._activities import (
    SimulatedSteps,
)
from ._chaos import (
    some_faults,
)
from ._coverage import (
    Coverage,
    NotSeen,
)
from ._faults import (
    Already,
    Delayed,
    DiskFull,
    DoneButLost,
    Doubled,
    FailAt,
    Fault,
    HalfConfigured,
    Hang,
    HostKeyChanged,
    LiesAboutBoot,
    LiesAboutSuccess,
    LockHeld,
    NeedsReboot,
    NeverReturns,
    NotNeeded,
    RebootsByItself,
    RefuseAt,
    RequestLost,
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
from ._served import (
    ServedFleet,
)

__all__ = [
    "Already",
    "Coverage",
    "Delayed",
    "DiskFull",
    "DoneButLost",
    "Doubled",
    "Effect",
    "FailAt",
    "Fault",
    "FleetTruth",
    "HalfConfigured",
    "Hang",
    "HostKeyChanged",
    "InvariantsBroken",
    "LiesAboutBoot",
    "LiesAboutSuccess",
    "LockHeld",
    "NeedsReboot",
    "NeverReturns",
    "NotNeeded",
    "NotSeen",
    "RebootsByItself",
    "RefuseAt",
    "RequestLost",
    "ServedFleet",
    "SimulatedFleet",
    "SimulatedHost",
    "SimulatedSteps",
    "Slow",
    "Unchanged",
    "Unreachable",
    "check_invariants",
    "some_faults",
]
