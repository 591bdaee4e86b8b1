"""What runs inside a workflow: the three base classes, and the parts that are useful alone."""

from ._approval import ApprovalEvent, ApprovalMixin
from ._cluster import ClusterPatchWorkflow
from ._gather import gather
from ._host import HostPatchWorkflow
from ._system import SystemPatchWorkflow

__all__ = [
    "ApprovalEvent",
    "ApprovalMixin",
    "ClusterPatchWorkflow",
    "HostPatchWorkflow",
    "SystemPatchWorkflow",
    "gather",
]
