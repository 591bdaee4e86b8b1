"""What an operator holds: a running rollout, or the gates of any workflow."""

from ._approvals import Approvals
from ._rollout import Rollout

__all__ = ["Approvals", "Rollout"]
