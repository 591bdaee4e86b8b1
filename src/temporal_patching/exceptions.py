"""Every failure of this library.

::

    Exception
    ├── PatchingError                       root of what the library raises by itself
    │   ├── RolloutFailed                   client: the rollout did not patch what was asked; has the report
    │   ├── RolloutExists                   client: the id was used before
    │   ├── RolloutNotFound                 client: no rollout of that id
    │   ├── NotAnswered                     client: no worker answered in time
    │   └── Refused                         client: a vote or verb was refused, with the reason
    └── temporalio.exceptions.ApplicationError
        ├── InvalidRequest (ValueError)     "InvalidRequest"     not valid; names every problem
        ├── ApprovalRejected                "ApprovalRejected"   an approver said no
        ├── ApprovalExpired                 "ApprovalExpired"    nobody decided in time
        ├── HostUnreachable                 "HostUnreachable"    raised by activities: host not reached
        ├── OutcomeUnknown                  "OutcomeUnknown"     raised by activities: done or not?
        ├── CheckpointMismatch              "CheckpointMismatch" heartbeat details have another shape
        ├── (from handlers)                 "VoteRefused", "VerbRefused"  may not count, is not legal now;
        │                                   nothing in history
        ├── (from activities)               "InvalidResult", "UnknownWorkflow", "HostBusy",
        │                                   "NoticeTimeout"
        └── PatchFailure                    what a workflow of ours fails with; carries its report
            ├── HostFailed                  "HostFailed"
            ├── ClusterFailed               "ClusterFailed"
            └── (a rollout)                 "RolloutPartial", "RolloutStopped", "RolloutRejected",
                                            "RolloutExpired", "RolloutAborted"

The strings in quotes are the ``type`` of the Temporal failure: what a client in another language, the
web UI and ``RetryPolicy.non_retryable_error_types`` see. They are part of the compatibility promise.
Whatever subclasses ``ApplicationError`` fails the *workflow* when it escapes one, never only its task.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, final

from temporalio.exceptions import ApplicationError

if TYPE_CHECKING:
    from .models import RolloutReport

__all__ = [
    "ApprovalExpired",
    "ApprovalRejected",
    "CheckpointMismatch",
    "ClusterFailed",
    "HostFailed",
    "HostUnreachable",
    "InvalidRequest",
    "NotAnswered",
    "OutcomeUnknown",
    "PatchFailure",
    "PatchingError",
    "Refused",
    "RolloutExists",
    "RolloutFailed",
    "RolloutNotFound",
]


class PatchingError(Exception):
    """Root of what the client side of this library raises."""


@final
class RolloutFailed(PatchingError):
    """The rollout ended without having patched what was asked.

    Raised by ``Rollout.result()``. ``report`` says which hosts, and why.

    Attributes:
        report: The rollout's (bounded) report. ``report.outcome`` is never ``PATCHED`` here.
        type: The type string of the workflow's failure, like ``"RolloutStopped"``.
    """

    def __init__(self, message: str, report: RolloutReport, *, type: str = "") -> None:
        super().__init__(message)
        self.report: RolloutReport = report
        self.type: str = type


@final
class RolloutExists(PatchingError):
    """A rollout's id is used once, and this one was used before, whether or not that rollout has ended."""


@final
class RolloutNotFound(PatchingError):
    """No workflow has this id, its retention is over, or it has ended and takes no more messages.

    Or there is no such namespace to look in; the message says which.
    """


@final
class NotAnswered(PatchingError):
    """No worker answered in time, or this client cannot read what was answered.

    The rollout is unharmed: it goes on when a worker is back.
    """


@final
class Refused(PatchingError):
    """A vote or a verb was refused. Nothing was done; the reason says what would be accepted."""


@final
class InvalidRequest(ApplicationError, ValueError):
    """What was asked for is not valid. Raised before anything is touched.

    It is a ``ValueError`` for those who build requests in Python, and an ``ApplicationError``, so that
    it fails a workflow instead of hanging it.

    Attributes:
        problems: Every problem, each in the form ``'pilot_hosts' must be >= 0 (got -1)``.
    """

    def __init__(self, problems: Iterable[str], *, what: str = "") -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        text = "; ".join(self.problems)
        super().__init__(
            f"{what}: {text}" if what else text, type="InvalidRequest", non_retryable=True
        )


@final
class ApprovalRejected(ApplicationError):
    """An approver rejected. One reject ends the approval, whatever the quorum."""

    def __init__(self, message: str, *details: object) -> None:
        super().__init__(message, *details, type="ApprovalRejected", non_retryable=True)


@final
class ApprovalExpired(ApplicationError):
    """The quorum was not reached before the approval's ``timeout``."""

    def __init__(self, message: str, *details: object) -> None:
        super().__init__(message, *details, type="ApprovalExpired", non_retryable=True)


@final
class HostUnreachable(ApplicationError):
    """Raise it in an activity when the host could not be reached at all.

    The step is retried by its retry policy. If it stays unreachable the host ends as ``UNREACHABLE``
    instead of ``FAILED``, and counts in ``max_unreachable`` where the failure budget names one.

    Example:
        >>> raise HostUnreachable("web-1: connection refused")
        Traceback (most recent call last):
        ...
        temporal_patching.exceptions.HostUnreachable: HostUnreachable: web-1: connection refused
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, type="HostUnreachable")


@final
class OutcomeUnknown(ApplicationError):
    """Raise it in an activity when nobody can tell whether the command ran to its end.

    A connection that drops in the middle of a command is not a failed command. The step is retried, and
    its next attempt has to look at the host first: the work may be done already.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, type="OutcomeUnknown")


@final
class CheckpointMismatch(ApplicationError):
    """The last attempt's heartbeat details do not have the checkpoint's type."""

    def __init__(self, message: str) -> None:
        super().__init__(message, type="CheckpointMismatch", non_retryable=True)


class PatchFailure(ApplicationError):
    """What a workflow of this library fails with: one type string an outcome, its report in the details."""

    def __init__(self, message: str, report: object, *, type: str) -> None:
        super().__init__(message, report, type=type, non_retryable=True)


@final
class HostFailed(PatchFailure):
    """A host was not patched, or could not be given back. Details: its ``HostResult``."""

    def __init__(self, message: str, report: object) -> None:
        super().__init__(message, report, type="HostFailed")


@final
class ClusterFailed(PatchFailure):
    """Not every host of the cluster was patched. Details: its ``ClusterReport``."""

    def __init__(self, message: str, report: object) -> None:
        super().__init__(message, report, type="ClusterFailed")
