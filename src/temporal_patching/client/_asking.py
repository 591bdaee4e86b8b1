"""How an operator asks: each question ends, and what went wrong is said in an operator's words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

from temporalio.client import (
    Client,
    RPCError,
    RPCStatusCode,
    RPCTimeoutOrCancelledError,
    WorkflowExecutionStatus,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.exceptions import ApplicationError, TemporalError
from typing_extensions import TypeVar

from ..exceptions import NotAnswered, Refused, RolloutNotFound
from ..models._wire import WireType

AnswerT = TypeVar("AnswerT")
WireT = TypeVar("WireT", bound=WireType)

_NONDETERMINISM = "TMPRL1100"

RUNNING = WorkflowExecutionStatus.RUNNING

PATIENCE = timedelta(seconds=10)
"""How long an operator waits for a worker to answer."""

GLANCE = timedelta(seconds=2)
"""How long a look at what can be read may take, before that."""


class Reading:
    """Whether a client can read a workflow's payloads; looked at once, before anything is sent.

    What is written with another key is lost on the worker, which then fails each workflow task that it comes with:
    one vote would hold up a rollout whose workers are fine.
    """

    def __init__(self, client: Client, id: str) -> None:
        self._client = client
        self._id = id
        self._can = False

    async def must(self) -> None:
        """Reads what the workflow was started with.

        Raises:
            NotAnswered: It cannot.
        """
        if self._can:
            return
        events = self._client.get_workflow_handle(self._id).fetch_history_events(
            page_size=1, rpc_timeout=GLANCE
        )
        try:
            first = await anext(events)
        except (RPCError, StopAsyncIteration):
            return  # what is wrong is told by what is asked next
        given = first.workflow_execution_started_event_attributes.input.payloads
        try:
            await self._client.data_converter.decode(given)
        except Exception as error:
            raise cannot_read(self._id, error) from None
        self._can = True


async def query(
    handle: WorkflowHandle[Any, Any],
    name: str,
    wanted: type[WireT],
    argument: WireType | None = None,
) -> WireT:
    tries = 2
    while True:
        tries -= 1
        arguments = [] if argument is None else [argument]
        asking = handle.query(name, args=arguments, result_type=wanted, rpc_timeout=PATIENCE)
        try:
            return await answered(asking, handle.id)
        except (WorkflowQueryFailedError, WorkflowQueryRejectedError) as error:
            # A worker that is throwing the workflow out of its cache may take a part of the history
            # for the whole. It has the whole the next time.
            if not tries or _NONDETERMINISM not in str(error):
                raise NotAnswered(f"{handle.id!r} could not answer {name!r}: {error}") from None
        except (NotAnswered, RolloutNotFound, TemporalError):
            raise
        except Exception as error:  # a codec's own, whatever that is
            raise cannot_read(handle.id, error) from None


async def allowed(asking: Awaitable[AnswerT], id: str) -> AnswerT:
    """The answer of an update; what its validator said is the reason why it was refused."""
    try:
        return await answered(asking, id)
    except WorkflowUpdateFailedError as error:
        cause = error.cause
        said = cause.message if isinstance(cause, ApplicationError) else str(cause)
        raise Refused(said) from None


async def answered(asking: Awaitable[AnswerT], id: str) -> AnswerT:
    try:
        return await asyncio.wait_for(asking, PATIENCE.total_seconds())
    except (
        asyncio.TimeoutError,
        RPCTimeoutOrCancelledError,
        WorkflowUpdateRPCTimeoutOrCancelledError,
    ):
        raise no_worker(id) from None
    except RPCError as error:
        raise what_it_means(error, id) from None


def what_it_means(error: RPCError, id: str) -> Exception:
    """What an RPC error means to an operator."""
    if error.status is RPCStatusCode.NOT_FOUND:
        if error.message.startswith("Namespace "):  # else it is "workflow not found"
            why = error.message.rstrip(".")
            return RolloutNotFound(f"{why}: nobody can look for workflow {id!r} there")
        if "already completed" in error.message:
            return RolloutNotFound(f"{id!r} has ended: it takes no more messages")
        return RolloutNotFound(f"there is no workflow {id!r}, or its retention is over")
    if error.status in (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED):
        return no_worker(id)
    if error.status is RPCStatusCode.UNAVAILABLE:
        return NotAnswered(f"the server did not answer for {id!r}: {error.message}")
    if "no poller seen" in error.message:  # of a workflow that has ended it says so at once
        return NotAnswered(
            f"no worker answers for {id!r}: is one running on its task queue, with its class among the workflows?"
        )
    if "Workflow Task in failed state" in error.message:
        return NotAnswered(
            f"{id!r} cannot answer, its workflow task fails: is its class among the workflows of the "
            "PatchingPlugin, and has the worker this client's data converter, with the same key? Its log says why."
        )
    return error


def no_worker(id: str) -> NotAnswered:
    return NotAnswered(
        f"no worker answered for {id!r} within {PATIENCE.seconds} seconds: is one "
        "running on its task queue, with its class among the workflows, and with this client's data converter?"
    )


def cannot_read(id: str, error: Exception) -> NotAnswered:
    said = f"{type(error).__name__}: {error}".removesuffix(": ")
    return NotAnswered(
        f"the payloads of {id!r} cannot be read ({said}): has this client the data converter of the "
        "workers, with the same key?"
    )
