"""A simulated fleet, and rehearsals of your rollouts on it: no machine is touched, every effect is kept."""

from ._activities import SimulatedSteps
from ._chaos import some_faults
from ._coverage import Coverage, NotSeen
from ._environment import start_environment
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
from ._fleet import SimulatedFleet
from ._hosts import SimulatedHost
from ._invariants import InvariantsBroken, check_invariants
from ._log import Effect, FleetTruth
from ._people import Approve, Deed, Reject, Steer
from ._rehearsal import Counted, Rehearsal
from ._rehearse import RehearsalFailed, Rehearser, rehearse
from ._served import ServedFleet
from ._watch import Crash

__all__ = [
    "Already",
    "Approve",
    "Counted",
    "Coverage",
    "Crash",
    "Deed",
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
    "Rehearsal",
    "RehearsalFailed",
    "Rehearser",
    "Reject",
    "RequestLost",
    "ServedFleet",
    "SimulatedFleet",
    "SimulatedHost",
    "SimulatedSteps",
    "Slow",
    "Steer",
    "Unchanged",
    "Unreachable",
    "check_invariants",
    "rehearse",
    "some_faults",
    "start_environment",
]
