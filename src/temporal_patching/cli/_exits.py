"""What each exit code means, and which one an error has."""

from __future__ import annotations

from temporalio.client import WorkflowFailureError
from temporalio.service import RPCError, RPCStatusCode

from ..exceptions import (
    InvalidRequest,
    NotAnswered,
    Refused,
    RolloutExists,
    RolloutFailed,
    RolloutNotFound,
)

DONE = 0
NOT_PATCHED = 1
INVALID = 2
REFUSED = 3
NOT_FOUND = 4
NOT_ANSWERED = 5
UNEXPECTED = 70
INTERRUPTED = 130
UNREAD = 141

MEANINGS = {
    DONE: "done; watch, report: every host is patched",
    NOT_PATCHED: "watch, report: it ended, and did not patch what was asked",
    INVALID: "usage, an invalid value, or your no; nothing was sent",
    REFUSED: "refused, by the rollout or the server; the reason is on stderr",
    NOT_FOUND: "no such rollout, or it has ended, or no such namespace",
    NOT_ANSWERED: "nobody answered: no worker within 10 seconds, or no server",
    UNEXPECTED: "anything unexpected, in one line; --debug shows the traceback",
    INTERRUPTED: "Ctrl-C; the rollout goes on",
    UNREAD: "nobody reads the output any more",
}

_OF_STATUS = {
    RPCStatusCode.PERMISSION_DENIED: REFUSED,
    RPCStatusCode.UNAUTHENTICATED: REFUSED,
    RPCStatusCode.INVALID_ARGUMENT: INVALID,
    RPCStatusCode.NOT_FOUND: NOT_FOUND,
    RPCStatusCode.UNAVAILABLE: NOT_ANSWERED,
    RPCStatusCode.DEADLINE_EXCEEDED: NOT_ANSWERED,
    RPCStatusCode.CANCELLED: NOT_ANSWERED,
    RPCStatusCode.RESOURCE_EXHAUSTED: NOT_ANSWERED,
}


class Stopped(Exception):
    """A command ends here: one line, and its exit code."""

    def __init__(self, code: int, line: str) -> None:
        super().__init__(line)
        self.code = code


def told(error: Exception) -> tuple[int, str]:
    """The exit code of an error, and its line."""
    if isinstance(error, Stopped):
        return error.code, str(error)
    if isinstance(error, InvalidRequest):
        return INVALID, "; ".join(error.problems)
    if isinstance(error, (Refused, RolloutExists)):
        return REFUSED, f"refused: {error}"
    if isinstance(error, RolloutFailed):  # a dry run
        return REFUSED, f"refused: {error.report.reason}"
    if isinstance(error, RolloutNotFound):
        return NOT_FOUND, str(error)
    if isinstance(error, NotAnswered):
        return NOT_ANSWERED, str(error)
    if isinstance(error, RPCError) and error.status in _OF_STATUS:
        return _OF_STATUS[error.status], f"the server: {error.message}"
    return UNEXPECTED, f"unexpected: {type(error).__name__}: {error} (--debug shows where)"


def ended(error: InvalidRequest | WorkflowFailureError) -> Stopped:
    """What a rollout that has ended without a report is told as."""
    if isinstance(error, InvalidRequest):
        said = f"the request was refused, nothing was touched: {'; '.join(error.problems)}"
    else:
        said = f"it ended without a report: {error.cause}"
    return Stopped(NOT_PATCHED, said)
