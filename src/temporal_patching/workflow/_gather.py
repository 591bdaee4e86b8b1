"""``gather``: several awaitables at once, and none left behind."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections import deque
from collections.abc import Awaitable, Coroutine, Iterator
from functools import partial
from typing import Any, Generic, TypeVar, final, overload

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    is_cancelled_exception,
)

from temporal_patching.exceptions import InvalidRequest

__all__ = ["gather"]

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")
T6 = TypeVar("T6")

# Each cancelled child carries the reason in its history, and all of them in one server request.
_LONGEST_REASON = 300


# Not Coroutine[Any, Any, ...]: an Any inside makes mypy infer Any for a gather inside a gather.
@overload
def gather(  # pyright: ignore[reportOverlappingOverload]  # as asyncio.gather's do
    awaitable1: Awaitable[T1], /, *, limit: int | None = None
) -> Coroutine[object, None, tuple[T1]]: ...
@overload
def gather(
    awaitable1: Awaitable[T1], awaitable2: Awaitable[T2], /, *, limit: int | None = None
) -> Coroutine[object, None, tuple[T1, T2]]: ...
@overload
def gather(
    awaitable1: Awaitable[T1],
    awaitable2: Awaitable[T2],
    awaitable3: Awaitable[T3],
    /,
    *,
    limit: int | None = None,
) -> Coroutine[object, None, tuple[T1, T2, T3]]: ...
@overload
def gather(
    awaitable1: Awaitable[T1],
    awaitable2: Awaitable[T2],
    awaitable3: Awaitable[T3],
    awaitable4: Awaitable[T4],
    /,
    *,
    limit: int | None = None,
) -> Coroutine[object, None, tuple[T1, T2, T3, T4]]: ...
@overload
def gather(
    awaitable1: Awaitable[T1],
    awaitable2: Awaitable[T2],
    awaitable3: Awaitable[T3],
    awaitable4: Awaitable[T4],
    awaitable5: Awaitable[T5],
    /,
    *,
    limit: int | None = None,
) -> Coroutine[object, None, tuple[T1, T2, T3, T4, T5]]: ...
@overload
def gather(
    awaitable1: Awaitable[T1],
    awaitable2: Awaitable[T2],
    awaitable3: Awaitable[T3],
    awaitable4: Awaitable[T4],
    awaitable5: Awaitable[T5],
    awaitable6: Awaitable[T6],
    /,
    *,
    limit: int | None = None,
) -> Coroutine[object, None, tuple[T1, T2, T3, T4, T5, T6]]: ...
@overload
def gather(
    *awaitables: Awaitable[T], limit: int | None = None
) -> Coroutine[object, None, list[T]]: ...


def gather(*awaitables: Awaitable[Any], limit: int | None = None) -> Coroutine[Any, Any, Any]:
    """Awaits all, at most ``limit`` at once; the first failure cancels the others and is raised.

    It never ends while anything it was given still runs. Nothing starts before it is awaited.

    Whatever ends it early (a failure, a cancel of the gather, one awaitable that was cancelled by
    somebody else) cancels what still runs, once, with a reason that says why; awaits the end of all
    of it; and closes what had not started. Then it raises, in this order of preference:

    1. the first real failure, unchanged. Failures that followed are listed in its ``__notes__`` and
       logged with their traceback, in a workflow by ``workflow.logger``;
    2. the ``CancelledError`` with which the gather itself was cancelled, even if each awaitable
       finished in spite of it;
    3. the cancellation of the one that was cancelled on its own.

    What Temporal calls a cancellation (``is_cancelled_exception``) is never a real failure. Of an
    ``ExceptionGroup`` the first real failure inside is taken, because a group that leaves a
    workflow's ``run`` makes it hang. A ``SystemExit`` or ``KeyboardInterrupt`` that a coroutine
    raises in a workflow, where it would end the worker, becomes an ``ApplicationError`` of that
    type.

    What is not guaranteed: an awaitable may swallow its cancel. It is then awaited to its own end,
    and its result is dropped. No awaitable is cancelled twice, so that a second cancel of the
    gather does not tear the clean-up that the first one began; and a cancel that meets a real
    failure is not raised on top of it: who goes on after the failure asks
    ``workflow.cancellation_reason()``.

    Inside a workflow it is deterministic: starts and cancels happen in a fixed order.

    Args:
        *awaitables: Coroutines, tasks, activity and child workflow handles, futures. The same one
            given twice is awaited once, and fills both places.
        limit: How many may run at once, at least 1; None (the default) for all. It cannot hold back
            what has started already: tasks, handles and futures run, count, and are only awaited.
            Pass coroutines (``workflow.execute_activity(...)``) to have them started one by one.

    Returns:
        The results, in the order given: a list, even where the type says tuple, as with
        ``asyncio.gather``.

    Raises:
        InvalidRequest: ``limit`` is no positive int. Nothing was started.
        TypeError: An argument is not awaitable. Nothing was started.

    Example:
        >>> async def double(number: int) -> int:
        ...     return 2 * number
        >>> asyncio.run(gather(*[double(n) for n in range(5)], limit=2))
        [0, 2, 4, 6, 8]
    """
    gathering = _Gathering(awaitables, limit)
    for place, awaitable in enumerate(awaitables):
        if not inspect.isawaitable(awaitable):
            raise TypeError(f"'awaitables[{place}]' must be awaitable (got {awaitable!r})")
    if limit is not None and limit < 1:
        raise InvalidRequest([f"'limit' must be >= 1, or None for no limit (got {limit!r})"])
    return gathering.run()


@final
class _Gathering(Generic[T]):
    """The state of one call. A place is a position among the arguments."""

    def __init__(self, awaitables: tuple[Awaitable[T], ...], limit: int | None) -> None:
        first: dict[int, int] = {}
        self._places = [first.setdefault(id(a), place) for place, a in enumerate(awaitables)]
        self._waiting: deque[tuple[int, Awaitable[T]]] = deque(
            (place, awaitables[place]) for place in first.values()
        )
        self._limit = limit
        self._running: dict[int, asyncio.Future[T]] = {}
        self._results: dict[int, T] = {}
        self._failures: list[tuple[str, BaseException]] = []
        self._cancels: list[tuple[str, BaseException]] = []
        self._progress: asyncio.Future[None] | None = None

    def __del__(self) -> None:
        # A gather that is closed or cancelled before its first step never runs a line of its own.
        self._drop_waiting()

    async def run(self) -> list[T]:
        cancel: asyncio.CancelledError | None = None
        reason: str | None = None
        self._adopt_started()
        while True:
            if reason is None:
                reason = self._reason_to_stop(cancel)
                if reason is None:
                    self._start_waiting()
                else:
                    self._drop_waiting()
                    for future in list(self._running.values()):
                        future.cancel(reason)
            if not self._running:
                break
            self._progress = asyncio.get_running_loop().create_future()
            try:
                await self._progress
            except asyncio.CancelledError as error:
                cancel = cancel or error
        if reason is None:
            return [self._results[place] for place in self._places]
        self._keep_later_failures()
        ended_by = [error for _, error in self._failures]
        ended_by += [] if cancel is None else [cancel]
        ended_by += [error for _, error in self._cancels]
        try:
            raise ended_by[0]
        finally:
            # Its traceback holds this frame: without this the two would be a cycle.
            self._failures, self._cancels, ended_by, cancel = [], [], [], None

    def _adopt_started(self) -> None:
        """Tasks and futures run already, whatever the limit."""
        for _ in range(len(self._waiting)):
            place, awaitable = self._waiting.popleft()
            if not asyncio.isfuture(awaitable):
                self._waiting.append((place, awaitable))
            elif awaitable.done():
                self._ended(place, awaitable, awaitable)
            else:
                self._watch(place, awaitable, awaitable)

    def _start_waiting(self) -> None:
        while self._waiting and (self._limit is None or len(self._running) < self._limit):
            place, awaitable = self._waiting.popleft()
            name = f"gather: {self._name(place, awaitable)}"
            self._watch(place, awaitable, asyncio.create_task(_contain(awaitable), name=name))

    def _drop_waiting(self) -> None:
        while self._waiting:
            _, awaitable = self._waiting.popleft()
            if asyncio.iscoroutine(awaitable):
                awaitable.close()

    def _watch(self, place: int, awaitable: Awaitable[T], future: asyncio.Future[T]) -> None:
        self._running[place] = future
        future.add_done_callback(partial(self._ended, place, awaitable))

    def _ended(self, place: int, awaitable: Awaitable[T], future: asyncio.Future[T]) -> None:
        self._running.pop(place, None)
        if asyncio.iscoroutine(awaitable):
            awaitable.close()  # of no effect, unless its task was cancelled before it started
        try:
            failure = future.exception()
        except asyncio.CancelledError as error:
            self._cancels.append((self._name(place, awaitable), error))
        else:
            if failure is None:
                self._results[place] = future.result()
            else:
                name = self._name(place, awaitable)
                for leaf in _leaves(failure):
                    ends = self._cancels if is_cancelled_exception(leaf) else self._failures
                    ends.append((name, leaf))
        if self._progress is not None and not self._progress.done():
            self._progress.set_result(None)

    def _name(self, place: int, awaitable: Awaitable[T]) -> str:
        # Not a task's name: asyncio numbers tasks per process, so that a replay would see another.
        what = getattr(awaitable, "__qualname__", "awaitable")
        return f"{what} ({place + 1} of {len(self._places)})"

    def _reason_to_stop(self, cancel: asyncio.CancelledError | None) -> str | None:
        if self._failures:
            name, failure = self._failures[0]
            return f"{name} failed: {_describe(failure)}"[:_LONGEST_REASON]
        if cancel is not None:
            given = cancel.args[0] if cancel.args else None
            if given is None and workflow.in_workflow():
                given = workflow.cancellation_reason()
            return str(given or "the gather was cancelled")[:_LONGEST_REASON]
        if self._cancels:
            return f"{self._cancels[0][0]} was cancelled"[:_LONGEST_REASON]
        return None

    def _keep_later_failures(self) -> None:
        """Log them, and list them in the notes of the failure that is raised."""
        logger = workflow.logger if workflow.in_workflow() else logging.getLogger(__name__)
        for name, failure in self._failures[1:]:
            _, first = self._failures[0]
            if failure is not first:  # it is, where one shared future failed several awaitables
                note = f"{name} failed, too: {_describe(failure)}"
                # What BaseException.add_note() does, which Python 3.10 does not have.
                first.__dict__.setdefault("__notes__", []).append(note)
                logger.warning("gather: %s", note, exc_info=failure)


class _Exit(Exception):
    """Holds, as its cause, what asyncio would throw through the event loop."""


async def _contain(awaitable: Awaitable[T]) -> T:
    try:
        return await awaitable
    except (KeyboardInterrupt, SystemExit) as error:
        # Let out of a task these end the event loop, and with it the worker and each sibling.
        raise _Exit from error


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """What to raise for an error: never a group, nor in a workflow what would end the worker."""
    if isinstance(error, _Exit) and error.__cause__ is not None:
        error = error.__cause__
    if sys.version_info >= (3, 11) and isinstance(error, BaseExceptionGroup):  # noqa: F821
        for inner in error.exceptions:
            yield from _leaves(inner)
    elif isinstance(error, (KeyboardInterrupt, SystemExit)) and workflow.in_workflow():
        failure = ApplicationError(str(error), type=type(error).__name__)
        failure.__cause__ = error
        yield failure
    else:
        yield error


def _describe(error: BaseException) -> str:
    """One line that an operator understands, innermost cause included."""
    try:
        if isinstance(error, ActivityError) and error.cause is not None:
            return f"activity {error.activity_type!r}: {_describe(error.cause)}"
        if isinstance(error, ChildWorkflowError) and error.cause is not None:
            return f"child workflow {error.workflow_id!r}: {_describe(error.cause)}"
        if isinstance(error, ApplicationError) and error.type:
            return str(error)  # "type: message"
        return f"{type(error).__name__}: {error}"
    except Exception:
        # A broken __str__ must not keep the others from being cancelled.
        return type(error).__name__
