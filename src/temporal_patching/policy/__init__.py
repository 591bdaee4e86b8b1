"""The rules: frozen data that users write, and the pure functions that apply them.

Nothing here knows a clock, a server or a workflow.
"""

from ._amount import Amount
from ._approval import ApprovalOutcome, ApprovalPolicy, OnTimeout
from ._rollout_policy import (
    FailureBudget,
    InFlight,
    NoticeKind,
    OnBusyHost,
    RebootWhen,
    RolloutPolicy,
    StopScope,
)
from ._states import HostState, Outcome
from ._steps import DEFAULT_STEPS, Step, StepKind, Steps

__all__ = [
    "DEFAULT_STEPS",
    "Amount",
    "ApprovalOutcome",
    "ApprovalPolicy",
    "FailureBudget",
    "HostState",
    "InFlight",
    "NoticeKind",
    "OnBusyHost",
    "OnTimeout",
    "Outcome",
    "RebootWhen",
    "RolloutPolicy",
    "Step",
    "StepKind",
    "Steps",
    "StopScope",
]
