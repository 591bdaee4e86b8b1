"""What crosses the wire: requests, tasks, results, reports and progress.

All of them are frozen, validate themselves when made and convert themselves, under any data converter.
"""

from ..policy._explain import Because
from ..policy._states import HostState, Outcome
from ._plan import ClusterOutline, HostsPage, HostsQuery, RolloutPlan
from ._report import (
    ApprovalReport,
    ClusterProgress,
    ClusterReport,
    ClusterSummary,
    CompletedSteps,
    GateReport,
    HostProgress,
    HostReport,
    HostResult,
    ParkedHost,
    RefusedVote,
    RolloutProgress,
    RolloutReport,
    VoteReport,
)
from ._request import PatchRequest, Vote
from ._steering import (
    Abort,
    Accept,
    AuditRecord,
    AuditReport,
    Explanation,
    Pause,
    Restore,
    Resume,
    Retry,
    SetLimits,
    Skip,
    Steered,
)
from ._task import (
    FleetHealth,
    FleetQuery,
    Host,
    HostList,
    HostQuery,
    HostTask,
    Notice,
    StepResult,
)
from ._wire import WireType

__all__ = [
    "Abort",
    "Accept",
    "ApprovalReport",
    "AuditRecord",
    "AuditReport",
    "Because",
    "ClusterOutline",
    "ClusterProgress",
    "ClusterReport",
    "ClusterSummary",
    "CompletedSteps",
    "Explanation",
    "FleetHealth",
    "FleetQuery",
    "GateReport",
    "Host",
    "HostList",
    "HostProgress",
    "HostQuery",
    "HostReport",
    "HostResult",
    "HostState",
    "HostTask",
    "HostsPage",
    "HostsQuery",
    "Notice",
    "Outcome",
    "ParkedHost",
    "PatchRequest",
    "Pause",
    "RefusedVote",
    "Restore",
    "Resume",
    "Retry",
    "RolloutPlan",
    "RolloutProgress",
    "RolloutReport",
    "SetLimits",
    "Skip",
    "Steered",
    "StepResult",
    "Vote",
    "VoteReport",
    "WireType",
]
