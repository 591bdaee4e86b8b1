"""Everything that can be raised, by name: what hooks and activities of the tests raise."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterator
from typing import Any

from temporalio.exceptions import ApplicationError

# Ways to construct an exception that wants arguments.
_ARGUMENTS: tuple[tuple[object, ...], ...] = (
    ("boom",),
    (),
    ("boom", [ValueError("inner")]),
    ("boom", "boom"),
    ("utf-8", b"boom", 0, 1, "boom"),
    ("utf-8", "boom", 0, 1, "boom"),
    ("boom", "boom", 0),
)


class Mute(Exception):
    """Its text raises."""

    def __str__(self) -> str:
        raise ValueError("no text")


def _its_own_cause() -> BaseException:
    error = ValueError("its own cause")
    error.__cause__ = error
    return error


def _its_causes_details() -> BaseException:
    error = ValueError("its cause has details that no converter takes")
    error.__cause__ = ApplicationError("cause", object())
    return error


def _group() -> BaseException:
    group: Any = getattr(builtins, "BaseExceptionGroup", None)  # from Python 3.11 on
    if group is None:
        return KeyboardInterrupt("boom")
    made: BaseException = group(
        "outer", [group("inner", [KeyError("first")]), KeyboardInterrupt("second")]
    )
    return made


ODD: dict[str, Callable[[], BaseException]] = {
    "mute": Mute,
    "surrogate": lambda: ValueError("bad \udcff"),
    "huge": lambda: ValueError("x" * 3_000_000),
    "huge-details": lambda: ApplicationError("huge", "x" * 3_000_000),
    "own-cause": _its_own_cause,
    "details": lambda: ApplicationError("details that no converter takes", object()),
    "details-of-cause": _its_causes_details,
    "group": _group,
}
"""Exceptions that are harder to tell than their class says."""

NOTABLE = (
    "builtins.KeyboardInterrupt",
    "builtins.SystemExit",
    "builtins.GeneratorExit",
    "builtins.StopIteration",
    "builtins.StopAsyncIteration",
    "builtins.KeyError",
    "builtins.RecursionError",
    "asyncio.exceptions.CancelledError",
    "asyncio.exceptions.TimeoutError" if sys.version_info < (3, 11) else "builtins.TimeoutError",
    "temporalio.exceptions.ApplicationError",
    "temporalio.exceptions.CancelledError",
    *ODD,
)
"""Those that are raised everywhere; the others where it is cheap."""


def _subclasses(cls: type[BaseException]) -> Iterator[type[BaseException]]:
    for each in type.__subclasses__(cls):
        yield each
        yield from _subclasses(each)


def _constructor(cls: type[BaseException]) -> Callable[[], BaseException] | None:
    if hasattr(cls, "close"):  # it holds a file as well: urllib's HTTPError
        return None
    for arguments in _ARGUMENTS:
        try:
            cls(*arguments)
        except BaseException:
            continue
        return lambda arguments=arguments: cls(*arguments)  # type: ignore[misc]
    return None


def _is_control_flow(cls: type[BaseException]) -> bool:
    # Private to the SDK: "this worker gives the workflow back", "this activity ends later".
    return cls.__module__.startswith("temporalio.") and not issubclass(cls, Exception)


def _raisable() -> dict[str, Callable[[], BaseException]]:
    found = {
        f"{cls.__module__}.{cls.__qualname__}": made
        for cls in _subclasses(BaseException)
        if not _is_control_flow(cls) and (made := _constructor(cls)) is not None
    }
    return {**found, **ODD}


RAISABLE = _raisable()
"""Every exception class that can be constructed, and the odd ones."""


def at(place: str, name: str) -> None:
    """Raises what the host or cluster is named after: ``after_host.17`` is the 17th, there only."""
    wanted, _, index = name.rpartition(".")
    if wanted.endswith(place):
        raise list(RAISABLE.values())[int(index)]()


def named_after(place: str, *errors: str) -> list[str]:
    """A name for each exception, by default for all, that makes ``at(place, ...)`` raise it."""
    index = {name: number for number, name in enumerate(RAISABLE)}
    return [f"{place}.{index[each]}" for each in errors or RAISABLE]
