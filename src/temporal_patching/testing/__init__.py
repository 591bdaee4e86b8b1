"""A simulated fleet, and rehearsals of your rollouts on it: no machine is touched, every effect is written down."""

from ._environment import start_environment
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
from ._people import Approve, Deed, Reject, Steer, Verb
from ._rehearsal import Counted, Rehearsal
from ._rehearse import RehearsalFailed, Rehearser, rehearse
from ._watch import Crash

__all__ = [
    "Already",
    "Approve",
    "Counted",
    "Crash",
    "Deed",
    "DoneButLost",
    "Effect",
    "FailAt",
    "Fault",
    "Hang",
    "LiesAboutBoot",
    "NeedsReboot",
    "NotNeeded",
    "RefuseAt",
    "Rehearsal",
    "RehearsalFailed",
    "Rehearser",
    "Reject",
    "SimulatedFleet",
    "SimulatedHost",
    "Slow",
    "Steer",
    "Unchanged",
    "Unreachable",
    "Verb",
    "rehearse",
    "start_environment",
]
