"""What escapes a workflow fails the workflow: the SDK would retry its task for ever for most exceptions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar, cast

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    ChildWorkflowError,
    FailureError,
    TimeoutError,
    is_cancelled_exception,
)

T = TypeVar("T")


def as_failure(error: BaseException) -> BaseException:
    """The exception that says the same and fails the workflow.

    A failure of Temporal's own is kept. A group is replaced by its first real failure, anything else by
    an ``ApplicationError`` whose type is the class's name. The SDK's own control flow passes unchanged.
    """
    if isinstance(error, asyncio.CancelledError) or _is_control_flow(error):
        return error
    inner = getattr(error, "exceptions", None)
    if isinstance(inner, tuple) and inner and not isinstance(error, FailureError):
        some = cast("tuple[BaseException, ...]", inner)
        real = [each for each in some if not is_cancelled_exception(each)]
        return as_failure((real or list(some))[0])
    if isinstance(error, FailureError) and _can_be_told(error):
        return error
    told = ApplicationError(_text(error), type=type(error).__name__, non_retryable=True)
    told.__cause__ = error.__cause__
    return told


async def failing(awaitable: Awaitable[T]) -> T:
    """Awaits something of the user's; whatever it raises is a failure afterwards."""
    try:
        return await awaitable
    except BaseException as error:
        raise as_failure(error) from None


async def wait_undisturbed(condition: Callable[[], bool]) -> None:
    """Waits for what is bound to happen, a cancel of the workflow or not."""
    while not condition():
        try:
            await workflow.wait_condition(condition)
        except asyncio.CancelledError:
            if workflow.cancellation_reason() is None:
                raise  # nobody cancelled it: the worker throws this instance out of its cache


def _is_control_flow(error: BaseException) -> bool:
    # Continue-as-new and eviction are BaseExceptions of the SDK; a coroutine that is thrown away after
    # its workflow is gone gets a GeneratorExit, and one that a user raises comes while it still is there.
    if isinstance(error, GeneratorExit):
        return not workflow.in_workflow()
    return not isinstance(error, Exception) and type(error).__module__.startswith("temporalio.")


def _can_be_told(error: FailureError) -> bool:
    if not isinstance(error, ApplicationError):
        return True
    try:
        workflow.payload_converter().to_payloads(error.details)
    except Exception:
        return False  # a detail that no converter takes would fail the task instead
    return True


def _text(error: BaseException) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:
        return type(error).__name__


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def root_text(error: BaseException) -> str:
    """What really went wrong, in one line: not "Activity task failed"."""
    links = [
        each for each in chain(error) if not isinstance(each, (ActivityError, ChildWorkflowError))
    ]
    link = links[0] if links else error
    if isinstance(link, TimeoutError):
        kind = link.type.name.lower() if link.type is not None else "unknown"
        last = f", last: {root_text(link.__cause__)}" if link.__cause__ is not None else ""
        return f"timed out ({kind}){last}"
    if isinstance(link, ApplicationError):
        known = link.type in (
            None,
            "ApplicationError",
            "HostUnreachable",
            "OutcomeUnknown",
            "InvalidRequest",
        )
        return link.message if known else f"{link.type}: {link.message}"
    if isinstance(link, CancelledError):
        return "cancelled"
    return _text(link)
