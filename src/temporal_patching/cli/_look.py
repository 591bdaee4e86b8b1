"""Commands that look at a rollout, and change nothing."""

from __future__ import annotations

from datetime import timedelta

import click
from temporalio.client import WorkflowFailureError
from temporalio.service import RPCError

from ..exceptions import InvalidRequest
from ..models import RolloutProgress, RolloutReport
from ..policy import Outcome
from . import _files, _show, _show_changes
from ._command import Handle, command, complain
from ._exits import DONE, NOT_FOUND, NOT_PATCHED, Stopped, ended
from ._screen import Lines, Screen


@command()
async def status(rollout: Handle, screen: Screen) -> int:
    """Where the rollout is: phase, clusters, gates, failures, what is out of service."""
    now = await rollout.progress()
    if now.outcome is None:
        await _not_over(rollout)
    screen.show(now, lambda told: _show.status(told, screen.options))
    return DONE


@command(
    click.Option(
        ["--every"],
        type=click.FloatRange(min=0.1, max=3600),
        callback=_files.number_of,
        default=1.0,
        show_default=True,
        metavar="SECONDS",
        help="How often it asks.",
    )
)
async def watch(rollout: Handle, screen: Screen, *, every: float) -> int:
    """Lines for what changes, until the rollout has ended; then how it ended.

    With --json one object a line: the whole progress, each time it has changed. Ctrl-C ends the watching, not
    the rollout.
    """
    last: RolloutProgress | None = None

    def changed(now: RolloutProgress) -> Lines:
        return _show_changes.changes(last, now, screen.options)

    async for progress in rollout.watch(every=timedelta(seconds=every)):
        screen.show(progress, changed, one_line=True)
        last = progress
    # Its history knows how it ended, also where no worker is there to say so.
    end = await _end(rollout)
    if not screen.as_json:
        screen.say(_show.report(end))
    return _code(end)


@command()
async def explain(rollout: Handle, screen: Screen) -> int:
    """Why it waits, why it stopped, and what would stop it next, with the evidence."""
    told = await rollout.explain()
    if (await rollout.progress()).outcome is None:
        await _not_over(rollout)
    screen.show(told, _show.explanation)
    return DONE


@command()
async def audit(rollout: Handle, screen: Screen) -> int:
    """Who decided what, when and why, in order."""
    screen.show(await rollout.audit(), _show.audit)
    return DONE


@command()
async def report(rollout: Handle, screen: Screen) -> int:
    """How the rollout ended. Waits for its end. Needs no worker."""
    if await _runs(rollout):
        complain(f"{rollout.id!r} has not ended: waiting for its end")
    end = await _end(rollout)
    screen.show(end, _show.report)
    return _code(end)


async def _runs(rollout: Handle) -> bool:
    try:
        return (await rollout.handle.describe()).close_time is None
    except RPCError:
        return False  # what is wrong is told by what is asked next


async def _not_over(rollout: Handle) -> None:
    """Refuses to tell what is no more: a worker answers for a workflow that was ended before its end, too.

    Raises:
        Stopped: It was terminated, say, or its request was refused.
    """
    if await _runs(rollout):
        return
    try:
        await _end(rollout)
    except Stopped as over:
        raise Stopped(NOT_FOUND, f"{rollout.id!r} has ended: {over}") from None


async def _end(rollout: Handle) -> RolloutReport:
    try:
        return await rollout.report()
    except (InvalidRequest, WorkflowFailureError) as error:
        raise ended(error) from None


def _code(end: RolloutReport) -> int:
    return DONE if end.outcome is Outcome.PATCHED else NOT_PATCHED
