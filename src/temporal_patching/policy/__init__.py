"""The rules: frozen data that users write, and the pure functions that apply them.

Nothing here knows a clock, a server or a workflow.
"""

from ._amount import Amount
from ._approval import ApprovalOutcome, ApprovalPolicy, OnTimeout
from ._cluster import PauseAfter
from ._order import HostOrder, OrderBy
from ._rollout_policy import (
    FailureBudget,
    InFlight,
    NoticeKind,
    OnBusyHost,
    OnHostFailure,
    RebootWhen,
    RolloutPolicy,
    Soak,
    StopScope,
)
from ._states import HostState, Outcome
from ._steps import DEFAULT_STEPS, Step, StepKind, Steps
from ._window import (
    Calendar,
    DatedPeriod,
    MaintenanceWindows,
    OnWindowClose,
    Weekday,
    WeeklyPeriod,
)

__all__ = [
    "DEFAULT_STEPS",
    "Amount",
    "ApprovalOutcome",
    "ApprovalPolicy",
    "Calendar",
    "DatedPeriod",
    "FailureBudget",
    "HostOrder",
    "HostState",
    "InFlight",
    "MaintenanceWindows",
    "NoticeKind",
    "OnBusyHost",
    "OnHostFailure",
    "OnTimeout",
    "OnWindowClose",
    "OrderBy",
    "Outcome",
    "PauseAfter",
    "RebootWhen",
    "RolloutPolicy",
    "Soak",
    "Step",
    "StepKind",
    "Steps",
    "StopScope",
    "Weekday",
    "WeeklyPeriod",
]
