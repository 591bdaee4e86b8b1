"""The rules: frozen data that users write, and the pure functions that apply them.

Nothing here knows a clock, a server or a workflow. The machines of the three levels, in ``_host.py``,
``_cluster.py`` and ``_rollout.py``, are the library's own.
"""

from ._amount import Amount
from ._approval import ApprovalOutcome, ApprovalPolicy, OnTimeout
from ._cluster import PauseAfter
from ._rollout_policy import (
    FailureBudget,
    InFlight,
    NoticeKind,
    OnBusyHost,
    RebootWhen,
    RolloutPolicy,
    Soak,
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
    "PauseAfter",
    "RebootWhen",
    "RolloutPolicy",
    "Soak",
    "Step",
    "StepKind",
    "Steps",
    "StopScope",
]
