"""What touches the outside world: the activities that a team writes, and their checkpoints."""

from ._activities import PatchActivities
from ._checkpoint import Checkpoint, Interruption, OnMismatch

__all__ = ["Checkpoint", "Interruption", "OnMismatch", "PatchActivities"]
