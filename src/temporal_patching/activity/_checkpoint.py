"""What an activity has done so far, kept by Temporal, so that its next attempt goes on from there.

A checkpoint travels as the activity's heartbeat details. ``save`` only notes the newest value;
sending is left to a driver, a timer on the event loop or a thread: a million saves cost a few
heartbeats.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import copy
import json
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Generic, Literal, Protocol, TypeVar, cast, final, overload

from temporalio import activity
from typing_extensions import Self

from ..exceptions import CheckpointMismatch, InvalidRequest
from ..models._kept import CHECKPOINT, is_checkpoint
from ..models._wire import from_json, to_json

__all__ = ["Checkpoint", "Interruption", "OnMismatch"]

T = TypeVar("T")
S = TypeVar("S")

Interruption = Literal["cancelled", "paused", "reset", "worker_shutdown", "timed_out", "gone"]
"""Why an activity was interrupted; see :attr:`Checkpoint.interruption`."""

OnMismatch = Literal["fail", "default"]
"""What a :class:`Checkpoint` does with heartbeat details of another shape."""

_OPENED = "_temporal_patching_checkpoint"
_RETRIED = "_temporal_patching_retried_with"
_LEAVES: frozenset[type] = frozenset((int, str, float, bool, type(None)))
_LONGEST_GAP = 0.05
"""Seconds between two of our heartbeats, at most. Temporal's own throttle drops most of them."""
_LAST_ATTEMPT = "the last attempt's heartbeat details do"


@final
class Checkpoint(Generic[T]):
    """Typed progress of one activity, which its next attempt resumes from.

    Open it once in an activity: with ``async with`` in an ``async def`` one, with ``with`` in a
    plain one that runs in a thread. ``value`` is what the last attempt saved, or the default.
    ``save`` replaces it and heartbeats.

    What is guaranteed: the next attempt gets a value that was saved; and the newest one, if this
    attempt ended by an exception, a pause, a reset or the orderly shutdown of its worker. What is
    not: the newest one after a crash. Temporal throttles heartbeats, so a killed worker or a
    timeout leaves a value that is up to 0.8 x ``heartbeat_timeout`` + 50 ms old (never more than 60
    s; 30 s without a ``heartbeat_timeout``; both are options of the worker). What was done since is
    done again: **at least once**. So make each unit safe to repeat, save after it and not before,
    and where a repetition would hurt look at the host first: a checkpoint is a hint, the host is
    the truth.

    Give the activity a ``heartbeat_timeout``. Without one a dead worker is only noticed at its
    ``start_to_close_timeout``, and a cancel may arrive 30 s late.

    A step of ``PatchActivities`` that fails for good and parks its host keeps its newest value, too: if the
    host is retried, the step's first attempt resumes from it. Up to 64 KB of JSON; what is larger is
    dropped, and the step begins anew.

    An attempt has one heartbeat slot, so it opens one checkpoint, once, and does not call
    ``activity.heartbeat`` itself: the last details win. In a local activity nothing is kept.

    Example:
        >>> from temporalio.testing import ActivityEnvironment
        >>> def upgrade(packages: list[str]) -> int:
        ...     with Checkpoint(int, default=0) as checkpoint:
        ...         for index, package in enumerate(packages):
        ...             if index >= checkpoint.value:
        ...                 checkpoint.save(index + 1)
        ...     return checkpoint.value
        >>> ActivityEnvironment().run(upgrade, ["curl", "openssl"])
        2

    Attributes:
        resumed: Whether ``value`` came from an earlier attempt, or from before its host was parked.
    """

    resumed: bool

    @overload
    def __init__(
        self,
        kind: type[T],
        *,
        default: T,
        on_mismatch: OnMismatch = "fail",
        heartbeat_every: timedelta | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: Checkpoint[S | None],
        kind: type[S],
        *,
        on_mismatch: OnMismatch = "fail",
        heartbeat_every: timedelta | None = None,
    ) -> None: ...

    def __init__(
        self,
        kind: Any,
        *,
        default: Any = None,
        on_mismatch: OnMismatch = "fail",
        heartbeat_every: timedelta | None = None,
    ) -> None:
        """Describes the checkpoint; nothing happens until it is opened.

        Args:
            kind: The type of the value: a wire type, an attrs class, a dataclass, or what JSON
                knows (``int``, ``str``, ``list[str]``, ``dict[str, int]``, …). It is stored as
                plain JSON, so any data converter and codec will do.
            default: The value of a first attempt. Without one ``value`` is None then.
            on_mismatch: What to do when the last attempt left details that are no ``kind``, for
                example after an update of your code: ``"fail"`` raises ``CheckpointMismatch``,
                which is not retried, ``"default"`` logs a warning and starts anew.
            heartbeat_every: Heartbeat by itself in this interval, with the newest value, while one
                long command runs. Less than the activity's ``heartbeat_timeout``; a third of it is
                good. By default only ``save`` heartbeats, so that an activity that hangs is
                noticed.

        Raises:
            InvalidRequest: An option is not valid.
        """
        problems: list[str] = []
        if on_mismatch not in ("fail", "default"):
            problems.append(f"'on_mismatch' must be in ('fail', 'default') (got {on_mismatch!r})")
        if heartbeat_every is not None and heartbeat_every <= timedelta(0):
            problems.append(f"'heartbeat_every' must be > 0 (got {heartbeat_every})")
        if problems:
            raise InvalidRequest(problems, what="Checkpoint")
        self._kind = kind
        self._default = default
        self._on_mismatch = on_mismatch
        self._every = heartbeat_every
        self._driver: _Driver | None = None
        self._state: _State | None = None
        self._info: activity.Info | None = None
        self._finalizer: weakref.finalize[..., Self] | None = None
        self._checked: type | None = None
        self._value: Any = default
        self.resumed = False

    @property
    def value(self) -> T:
        """The newest value: last saved here, else left by an earlier attempt, else the default.

        Raises:
            RuntimeError: The checkpoint was not opened.
        """
        if self._state is None:
            raise RuntimeError("Checkpoint is not open: use it in a 'with' or 'async with' block")
        return cast("T", self._value)

    @property
    def interruption(self) -> Interruption | None:
        """Why the activity is being interrupted, or None if it is not.

        For use in ``except CancelledError``: that is ``asyncio.CancelledError`` in ``async def``
        activities, ``temporalio.exceptions.CancelledError`` in plain ones. Let it go on in all
        cases.

        * ``"cancelled"``: somebody asked for it. The only one after which no attempt follows: clean
          up.
        * ``"paused"``, ``"reset"``: an operator did that to the activity; another attempt follows.
        * ``"worker_shutdown"``: this worker stops; another attempt follows, if any is left.
        * ``"timed_out"``: this attempt's time is over; another one may run already.
        * ``"gone"``: the server does not know this attempt any more: it timed out, or its workflow
          has ended.

        Raises:
            RuntimeError: Not in an activity.
        """
        details = activity.cancellation_details()
        if details is None:
            return None
        if details.cancel_requested:
            return "cancelled"
        if details.paused:
            return "paused"
        if details.reset:
            return "reset"
        if details.worker_shutdown:
            return "worker_shutdown"
        if details.timed_out:
            return "timed_out"
        return "gone" if details.not_found else None

    def save(self, value: T) -> None:
        """Notes that this much is done, and heartbeats. Cheap: call it after every unit of work.

        Returns at once, from any thread. Within 50 ms the value is handed to Temporal; of several
        the newest is. It is kept as it is now: one that could change (a list, a class that is not
        frozen) is copied, which costs in proportion to its size; numbers, texts and frozen classes
        are not.

        Args:
            value: What the next attempt shall start from.

        Raises:
            InvalidRequest: It is no ``kind``, so that it could not be read back.
            RuntimeError: The checkpoint is not open.
        """
        state, driver = self._state, self._driver
        if state is None or driver is None:
            raise RuntimeError("Checkpoint is not open: save() inside its 'with' block")
        if state.failure is not None:
            failure, state.failure = state.failure, None
            raise failure
        if type(value) is not self._checked:
            self._check(value)
        self._value = value
        # What has a hash by its content cannot change; anything else might before it is sent.
        try:
            hash(value)
            changes = type(value).__hash__ is object.__hash__
        except TypeError:
            changes = True
        state.value = _copied(value) if changes else value
        if not state.unsent:
            state.unsent = True
            driver.wake()

    def __enter__(self) -> Self:
        # The SDK raises CancelledError anywhere in this thread, in here, too. The shield makes it
        # wait. Without it one that strikes while a thread starts hits that thread instead, up to
        # Python 3.11, and Thread.start() waits for ever.
        try:
            with activity.shield_thread_cancel_exception():
                if _in_async_activity():
                    raise RuntimeError(
                        "'with Checkpoint' is for activities that run in a thread: use 'async with'"
                        " in an 'async def' one; its save() may be called from any thread"
                    )
                self._open(_ThreadDriver)
        except BaseException as error:
            self._close(error)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A cancel may strike before the shield stands, hence the second time.
        try:
            with activity.shield_thread_cancel_exception():
                self._close(error)
        finally:
            self._close(error)

    async def __aenter__(self) -> Self:
        self._open(_LoopDriver)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close(error)

    def _open(self, driver: Callable[[_State, float, float | None], _Driver]) -> None:
        info = activity.info()
        opened = getattr(info, _OPENED, None)
        if opened is not None:
            raise RuntimeError(
                f"this attempt of {info.activity_type!r} has opened a Checkpoint already, which is"
                f" {opened}. An attempt has one heartbeat slot, so a second one would resume from"
                " what the first has saved: keep all progress in one value. (In a test: give each"
                " run an ActivityEnvironment of its own)"
            )
        timeout = info.heartbeat_timeout
        if timeout is not None and self._every is not None and self._every >= timeout:
            raise InvalidRequest(
                [
                    f"'heartbeat_every' must be < the activity's heartbeat_timeout of {timeout}"
                    f" (got {self._every})"
                ],
                what="Checkpoint",
            )
        left = tuple(info.heartbeat_details)
        retried_with: object | None = getattr(info, _RETRIED, None)
        parked = not left and retried_with is not None
        if parked:
            left = ({CHECKPOINT: retried_with},)
        self._value, self.resumed = self._read(left, parked=parked)
        self._mark(info, "still open")
        self._info = info
        # Until something is saved, heartbeats repeat what was left: an empty one would erase it.
        self._state = _State(left)
        gap = _LONGEST_GAP if timeout is None else min(_LONGEST_GAP, timeout.total_seconds() / 20)
        every = None if self._every is None else self._every.total_seconds()
        self._driver = driver(self._state, gap, every)
        # Should a thread's cancel strike between the block and __exit__, the driver ends with us.
        self._finalizer = weakref.finalize(self, self._driver.stop)

    def _close(self, error: BaseException | None) -> None:
        driver, state = self._driver, self._state
        if driver is None or state is None:
            return
        driver.stop()
        driver.join()
        if state.unsent:
            state.send()
        self._driver = None
        if self._finalizer is not None:  # a cancel that strikes in a finalizer would be lost
            self._finalizer.detach()
        if self._info is not None:
            self._mark(self._info, "closed")
        if state.failure is not None:
            if error is None:
                raise state.failure
            activity.logger.warning("The last checkpoint was not sent", exc_info=state.failure)

    def _read(self, details: tuple[Any, ...], *, parked: bool) -> tuple[Any, bool]:
        if not details:
            return self._default, False
        try:
            if not is_checkpoint(details):
                raise InvalidRequest([f"no details of a Checkpoint (got {list(details)!r})"])
            return from_json(details[0][CHECKPOINT], self._kind), True
        except InvalidRequest as mismatch:
            whose = "what was saved before the host was parked does" if parked else _LAST_ATTEMPT
            remedy = (
                "Retry from the step by its name" if parked else "Reset the activity's heartbeat"
            )
            said = (
                f"{whose} not fit Checkpoint({_name(self._kind)}): {'; '.join(mismatch.problems)}"
            )
            if self._on_mismatch == "fail":
                raise CheckpointMismatch(
                    f"{said}. {remedy}, or choose on_mismatch='default'"
                ) from None
            activity.logger.warning("%s. Starting from the default", said)
            return self._default, False

    def _check(self, value: object) -> None:
        """Refuses what could not be read back; now, not after the crash."""
        if not activity.in_activity():  # a thread of the user's own
            problems = self._problems(value)
        else:  # a thread's cancel that strikes in there would be taken for a conversion error
            with activity.shield_thread_cancel_exception():
                problems = self._problems(value)
        if problems:
            raise InvalidRequest(problems, what=f"Checkpoint({_name(self._kind)}).save")
        self._checked = type(value)

    def _problems(self, value: object) -> Sequence[str]:
        try:
            from_json(json.loads(json.dumps(to_json(value))), self._kind)
        except InvalidRequest as wrong:
            return wrong.problems
        except Exception as wrong:
            return [f"'value' must be made of what JSON knows (got {value!r}): {wrong}"]
        return []

    @staticmethod
    def _mark(info: activity.Info, state: str) -> None:
        # The one place that all tasks of an attempt share, and that ends with it, is its own
        # object.
        with suppress(AttributeError):
            object.__setattr__(info, _OPENED, state)


class _State:
    """What the activity and the driver share: the newest value, and whether it was sent."""

    def __init__(self, left: tuple[Any, ...]) -> None:
        self._left = left
        self.value: Any = None
        self.saved = False
        self.unsent = False
        self.failure: Exception | None = None

    def send(self) -> None:
        """Heartbeats with the newest value. Must run in the activity's context; never raises."""
        if self.unsent:
            self.saved = True
        self.unsent = False  # before reading the value: who saves after this wakes the driver again
        value = self.value
        try:
            if not self.saved:
                activity.heartbeat(*self._left)
            else:
                activity.heartbeat(
                    {CHECKPOINT: value if type(value) in _LEAVES else to_json(value)}
                )
        except (concurrent.futures.TimeoutError, TimeoutError):
            # A busy worker is no reason to fail the work; the next heartbeat may pass.
            self.unsent = self.saved
            activity.logger.warning("A heartbeat was not accepted in time", exc_info=True)
        except Exception as error:
            self.failure = error


class _Driver(Protocol):
    """Decides when to send: at once, then at most every ``gap``, and each ``every`` by itself."""

    def wake(self) -> None:
        """There is something unsent."""
        ...

    def stop(self) -> None:
        """Begin nothing more. May be called twice, from any thread, and does not wait."""
        ...

    def join(self) -> None:
        """Returns when nothing is being sent any more."""
        ...


class _LoopDriver:
    """For ``async def`` activities: timers on the event loop, no task."""

    def __init__(self, state: _State, gap: float, every: float | None) -> None:
        self._state = state
        self._gap = gap
        self._every = every
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._context = contextvars.copy_context()
        self._timer: asyncio.TimerHandle | None = None
        self._resting = False
        self._stopped = False
        if every is not None:
            self._after(every, self._beat)

    def wake(self) -> None:
        if threading.get_ident() == self._thread:
            self._woken()
        else:
            self._loop.call_soon_threadsafe(self._woken, context=self._context)

    def stop(self) -> None:
        self._stopped = True

    def join(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _after(self, seconds: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, then, context=self._context)

    def _woken(self) -> None:
        if not self._resting:
            self._beat()

    def _beat(self) -> None:
        if self._stopped:
            return
        self._state.send()
        self._resting = True
        self._after(self._gap, self._rested)

    def _rested(self) -> None:
        self._resting = False
        if self._state.unsent:
            self._beat()
        elif self._every is not None:
            self._after(max(self._every - self._gap, 0.0), self._beat)


class _ThreadDriver:
    """For activities that run in a thread: another thread, which shares the activity's context."""

    def __init__(self, state: _State, gap: float, every: float | None) -> None:
        self._state = state
        self._gap = gap
        self._every = every
        # Not events: a cancel that strikes in one of their methods, which are written in Python,
        # may leave its lock taken for ever.
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stops: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopped = False
        # activity.heartbeat finds its activity by a context variable, so any thread will do with
        # it.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name="checkpoint", daemon=True
        )
        self._thread.start()

    def wake(self) -> None:
        self._wakes.put(None)

    def stop(self) -> None:
        self._stopped = True
        self._stops.put(None)
        self._wakes.put(None)

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        while True:
            with suppress(queue.Empty):
                if self._state.unsent:  # the last try failed
                    self._wakes.get_nowait()  # a timeout of 0 may wait for ever on Python 3.10
                else:
                    self._wakes.get(timeout=self._every)
            if self._stopped:
                return
            self._state.send()
            with suppress(queue.Empty):
                self._stops.get(timeout=self._gap)
                return


def _copied(value: object) -> object:
    """A deep copy; ten times as fast as ``copy.deepcopy`` for what JSON knows."""
    if type(value) is list:
        entries = cast("list[object]", value)
        return [each if type(each) in _LEAVES else _copied(each) for each in entries]
    if type(value) is dict:
        fields = cast("dict[object, object]", value)
        return {
            name: each if type(each) in _LEAVES else _copied(each) for name, each in fields.items()
        }
    return copy.deepcopy(value)


def resume_from(value: object) -> None:
    """The checkpoint of this activity resumes from this, unless an earlier attempt has left something."""
    with suppress(AttributeError):
        object.__setattr__(activity.info(), _RETRIED, value)


def _in_async_activity() -> bool:
    with suppress(RuntimeError):
        activity.client()  # only async activities have one; also seen from asyncio.to_thread in one
        return True
    # An ActivityEnvironment has none by default. But only async activities can await a cancel.
    waiting = activity.wait_for_cancelled()
    try:
        asyncio.get_running_loop()
        waiting.send(None)
    except StopIteration:
        return True
    except RuntimeError:
        return False
    finally:
        waiting.close()
    return True


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
