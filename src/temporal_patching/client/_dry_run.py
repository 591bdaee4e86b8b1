"""Waiting for a dry run: for as long as a worker answers, and not longer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, NoReturn

from temporalio.client import RPCError, WorkflowHandle
from typing_extensions import TypeVar

from ..exceptions import NotAnswered, RolloutNotFound
from ..models import RolloutProgress
from . import _asking
from ._asking import answered, query

_LOGGER = logging.getLogger("temporal_patching.client")

_ASKED_EVERY = 1.0
"""Seconds between two questions whether a worker is there."""

ReportT = TypeVar("ReportT")


async def while_answered(handle: WorkflowHandle[Any, Any], result: Awaitable[ReportT]) -> ReportT:
    """The result, for as long as a worker answers: one that lists many hosts does.

    Raises:
        NotAnswered: None has answered for too long.
    """
    ending = asyncio.ensure_future(result)
    silence = asyncio.ensure_future(_silence(handle))
    try:
        await asyncio.wait([ending, silence], return_when=asyncio.FIRST_COMPLETED)
        return ending.result() if ending.done() else silence.result()
    finally:
        ending.cancel()
        silence.cancel()
        await asyncio.gather(ending, silence, return_exceptions=True)


async def _silence(handle: WorkflowHandle[Any, Any]) -> NoReturn:
    """Asks again and again whether a worker is there, until none has answered for too long."""
    loop = asyncio.get_running_loop()
    heard_at = loop.time()
    while True:
        try:
            await query(handle, "progress", RolloutProgress)
            heard_at = loop.time()
        except NotAnswered:
            # At once where its workflow task has failed: the next attempt of it may go well.
            if loop.time() - heard_at > 0.9 * _asking.PATIENCE.total_seconds():
                raise
        await asyncio.sleep(_ASKED_EVERY)


async def end_unwanted(handle: WorkflowHandle[Any, Any]) -> None:
    """Ends a dry run that nobody waits for. It has touched nothing, and a cancel would need a worker."""
    ending = handle.terminate(reason="nobody waits for this plan any more")
    try:
        await answered(ending, handle.id)
    except (NotAnswered, RolloutNotFound, RPCError) as error:
        _LOGGER.info("The dry run %s was not ended: %s", handle.id, error)
