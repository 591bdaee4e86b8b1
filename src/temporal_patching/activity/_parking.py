"""What a step has saved survives its failure, where that parks its host.

An activity that fails for good takes its heartbeat details with it: the failure is all that the workflow
sees. So what was saved last goes along as one more detail of it, and comes back in the task of the
step that is retried. (Of an activity that timed out the server itself tells the last details.)
"""

from __future__ import annotations

import asyncio
from concurrent.futures import BrokenExecutor
from typing import Any

import attrs
from temporalio import activity
from temporalio.exceptions import ApplicationError, CancelledError, FailureError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ActivityOutboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
)

from ..models import HostTask, StepResult
from ..models._kept import KEPT, KEPT_LIMIT, fits, is_checkpoint, saved
from ._checkpoint import resume_from


class ParkingInterceptor(Interceptor):
    """Sends the checkpoint along with the failure of a step whose host parks then."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """See base class."""
        return _Inbound(next)


class _Outbound(ActivityOutboundInterceptor):
    """Notes what is saved, on its way out."""

    def __init__(self, next: ActivityOutboundInterceptor) -> None:
        super().__init__(next)
        self.saved = saved(activity.info().heartbeat_details)

    def heartbeat(self, *details: Any) -> None:
        if is_checkpoint(details):
            self.saved = saved(details)
        self.next.heartbeat(*details)


class _Inbound(ActivityInboundInterceptor):
    _outbound: _Outbound

    def init(self, outbound: ActivityOutboundInterceptor) -> None:
        self._outbound = _Outbound(outbound)
        super().init(self._outbound)

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        task = input.args[0] if len(input.args) == 1 else None
        if not isinstance(task, HostTask) or not task.parks:
            return await super().execute_activity(input)
        if task.checkpoint is not None:
            resume_from(task.checkpoint)
        try:
            answer = await super().execute_activity(input)
        except Exception as error:
            told: BaseException = self._with_checkpoint(error)
        except asyncio.CancelledError as error:
            told = self._with_checkpoint(error)
        else:
            return self._answer(answer)
        # Not while the error is handled: it would become the cause of what is raised.
        raise told

    def _kept(self) -> object | None:
        value = self._outbound.saved
        if value is not None and not fits(value):
            activity.logger.warning(
                "The checkpoint is not kept if the host is parked: more than %d bytes", KEPT_LIMIT
            )
            return None
        return value

    def _answer(self, answer: Any) -> Any:
        if isinstance(answer, StepResult) and not answer.ok:
            return attrs.evolve(answer, checkpoint=self._kept())
        return answer

    def _with_checkpoint(self, error: BaseException) -> BaseException:
        value = self._kept()
        return error if value is None else _with_detail(error, {KEPT: value})


def _with_detail(error: BaseException, detail: object) -> BaseException:
    """The same failure with one detail more; what cannot have one, unchanged."""
    if isinstance(error, ApplicationError):
        return _in_place_of(
            error,
            ApplicationError(
                error.message,
                *error.details,
                detail,
                type=error.type,
                non_retryable=error.non_retryable,
                next_retry_delay=error.next_retry_delay,
                category=error.category,
            ),
        )
    if isinstance(error, (asyncio.CancelledError, CancelledError)) and not _is_shutdown():
        return error
    if isinstance(
        error, CancelledError
    ):  # in a thread; the SDK would say the same, without details
        said = "Worker is shutting down and this activity did not complete in time"
        return _in_place_of(error, ApplicationError(said, detail, type="WorkerShutdown"))
    # The SDK ends the worker for a broken executor; a failure of another kind has no details.
    if isinstance(error, (FailureError, BrokenExecutor)):
        return error
    # As the SDK's failure converter does it, also with the cancel of a worker that stops.
    told = ApplicationError(str(error), detail, type=type(error).__name__)
    told.__cause__ = error.__cause__
    return told.with_traceback(error.__traceback__)


def _is_shutdown() -> bool:
    why = activity.cancellation_details()
    if why is None or why.cancel_requested or why.paused or why.reset:
        return False
    return why.worker_shutdown


def _in_place_of(error: BaseException, told: BaseException) -> BaseException:
    told.__cause__, told.__context__ = error.__cause__, error.__context__
    told.__suppress_context__ = error.__suppress_context__
    return told.with_traceback(error.__traceback__)
