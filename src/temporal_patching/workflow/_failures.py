"""What escapes a workflow fails the workflow: the SDK would retry its task for ever for most exceptions."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar, cast, final

from temporalio import workflow
from temporalio.api.failure.v1 import Failure
from temporalio.converter import DefaultFailureConverter
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    ChildWorkflowError,
    FailureError,
    TimeoutError,
    is_cancelled_exception,
)
from typing_extensions import Self

T = TypeVar("T")

_BY_A_WORKFLOW = re.compile(r"^Cancel requested by workflow with run id \S+ with reason: ")
"""How the server introduces the reason of a workflow that cancels another one. Nobody asks for a run id."""

FAILURE_LIMIT = 1_000_000
"""Bytes of a failure. A larger one would fail the workflow's task, for ever."""

TEXT_LIMIT = 10_000
"""Characters that are left of the text of a failure that is too large."""


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
    told = error
    if not isinstance(error, FailureError):
        told = ApplicationError(text_of(error), type=type(error).__name__, non_retryable=True)
        told.__cause__ = error.__cause__
    if _can_be_told(told):
        return told
    kind = getattr(error, "type", None) or type(error).__name__
    return ApplicationError(text_of(error)[:TEXT_LIMIT], type=str(kind), non_retryable=True)


@final
class Failing:
    """A block of a coroutine, whatever escapes from which is a failure afterwards.

    With its cause: that says what really went wrong. A coroutine that is thrown away ends as it is asked to.
    """

    def __enter__(self) -> Self:
        self._home = asyncio.get_running_loop()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None or self.is_thrown_away(error):
            return
        told = as_failure(error)
        if told is not error:
            raise told from told.__cause__

    def is_thrown_away(self, error: BaseException) -> bool:
        """Whether the garbage collector closes this coroutine, and not a user has raised that.

        A worker that ends drops the workflows of its cache. Their coroutines are closed at any time after that,
        maybe in the middle of another workflow's task: nothing may be awaited or asked for there.
        """
        return isinstance(error, GeneratorExit) and _running_loop() is not self._home


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def failing(awaitable: Awaitable[T]) -> T:
    """Awaits something of the user's; whatever it raises is a failure afterwards."""
    with Failing():
        return await awaitable


async def call(hook: Callable[[T], Awaitable[None]], argument: T) -> None:
    """Calls a hook of the user's; whatever it raises, awaited or not, is a failure afterwards."""
    with Failing():
        await hook(argument)


def cancel_reason() -> str | None:
    """Why this workflow was cancelled; None if it was not."""
    given = workflow.cancellation_reason()
    return None if given is None else _BY_A_WORKFLOW.sub("", given)


async def wait_undisturbed(condition: Callable[[], bool]) -> None:
    """Waits for what is bound to happen, a cancel of the workflow or not."""
    while not condition():
        try:
            await workflow.wait_condition(condition)
        except asyncio.CancelledError:
            if workflow.cancellation_reason() is None:
                raise  # nobody cancelled it: the worker throws this instance out of its cache


def _is_control_flow(error: BaseException) -> bool:
    # Continue-as-new and eviction are BaseExceptions of the SDK.
    return not isinstance(error, Exception) and type(error).__module__.startswith("temporalio.")


def _can_be_told(error: BaseException) -> bool:
    """Whether it, its details and its causes become a failure that the server takes."""
    failure = Failure()
    try:  # details that no converter takes, a cause that is its own cause, a text that raises
        DefaultFailureConverter().to_failure(error, workflow.payload_converter(), failure)
    except Exception:
        return False
    return failure.ByteSize() <= FAILURE_LIMIT


def text_of(error: BaseException) -> str:
    """What it says, or its class's name; never raises."""
    try:
        # Half of a surrogate pair is no text: it would fail the workflow's task for ever.
        return str(error).encode("utf-8", "replace").decode() or type(error).__name__
    except Exception:
        return type(error).__name__


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes."""
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:  # "raise error from error" is its own cause
        yield link
        seen.add(id(link))
        link = link.__cause__


def root_text(error: BaseException) -> str:
    """What really went wrong, in one line: not "Activity task failed"."""
    links = [
        each for each in chain(error) if not isinstance(each, (ActivityError, ChildWorkflowError))
    ]
    link = links[0] if links else error
    if isinstance(link, TimeoutError):
        kind = link.type.name.lower() if link.type is not None else "unknown"
        text = f"timed out ({kind})"
        last = root_text(link.__cause__) if link.__cause__ is not None else text
        return text if last == text else f"{text}, last: {last}"
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
    return text_of(link)
