"""The thin loop around a machine of ``policy``: wait for an event, decide, carry out the commands."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from temporalio import workflow

from ._failures import cancel_reason

StateT = TypeVar("StateT")
EventT = TypeVar("EventT")
CommandT = TypeVar("CommandT")


class MachineLoop(ABC, Generic[StateT, EventT, CommandT]):
    """Feeds a machine with events, one at a time, in the order in which they came.

    Commands that take time run as tasks, which push events when they are done. The workflow's cancel
    is an event like any other.
    """

    def __init__(
        self,
        state: StateT,
        decide: Callable[[StateT, EventT], tuple[StateT, tuple[CommandT, ...]]],
    ) -> None:
        self._state = state
        self._decide = decide
        self._events: deque[EventT] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken: BaseException | None = None

    @abstractmethod
    def _ended(self) -> bool:
        """Whether the machine has come to its end."""

    @abstractmethod
    def _cancelled(self, reason: str) -> EventT:
        """The event that stands for a cancel of the workflow."""

    @abstractmethod
    def _note(self, before: StateT) -> None:
        """Called after each decision, before its commands: tells others what has changed."""

    @abstractmethod
    def _carry_out(self, command: CommandT) -> None:
        """Starts what the machine wants. Must not wait."""

    def _leaves(self) -> bool:
        """Whether another run may take over now."""
        return False

    async def _run(self) -> None:
        """Until the machine has ended, or another run may take over.

        Nothing is awaited after that was found: what happens next, the next run is told.
        """
        self._work_off()
        while not self._ended() and not self._leaves():
            await self._wait()
            self._work_off()
            self._woke()

    def _work_off(self) -> None:
        """Decides all that has happened, at once. A handler calls it whose answer depends on it."""
        while self._events:
            before = self._state
            self._state, commands = self._decide(before, self._events.popleft())
            self._note(before)
            for command in commands:
                self._carry_out(command)
        self._settled()

    def _settled(self) -> None:
        """Called when nothing is left to decide for now."""

    def _woke(self) -> None:
        """Called when something has happened that no handler has taken up, and it is decided."""

    async def _wait(self) -> None:
        try:
            await workflow.wait_condition(
                lambda: bool(self._events or self._broken) or self._ended() or self._leaves()
            )
        except asyncio.CancelledError:
            if workflow.cancellation_reason() is None:
                raise  # the worker throws this instance out of its cache
            self._obey_cancel()
        if self._broken is not None:
            raise self._broken

    def _obey_cancel(self) -> None:
        """Asks for a cancel instead of catching it: a hook of the user's may have swallowed it."""
        reason = cancel_reason()
        if reason is not None:
            self._events.append(self._cancelled(reason))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs something beside the loop. If it breaks, the loop breaks, instead of waiting for ever."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._landed)
        return task

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._broken = task.exception()
