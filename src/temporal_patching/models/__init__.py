"""What crosses the wire: requests, tasks, results, reports and progress.

All of them are frozen, validate themselves when made and convert themselves, under any data converter.
"""

from ..policy._states import HostState, Outcome
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
    RefusedVote,
    RolloutProgress,
    RolloutReport,
    VoteReport,
)
from ._request import PatchRequest, Vote
from ._task import Host, HostList, HostQuery, HostTask, Notice, StepResult
from ._wire import WireType

__all__ = [
    "ApprovalReport",
    "ClusterProgress",
    "ClusterReport",
    "ClusterSummary",
    "CompletedSteps",
    "GateReport",
    "Host",
    "HostList",
    "HostProgress",
    "HostQuery",
    "HostReport",
    "HostResult",
    "HostState",
    "HostTask",
    "Notice",
    "Outcome",
    "PatchRequest",
    "RefusedVote",
    "RolloutProgress",
    "RolloutReport",
    "StepResult",
    "Vote",
    "VoteReport",
    "WireType",
]
