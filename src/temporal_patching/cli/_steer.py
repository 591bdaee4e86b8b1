"""Commands that steer a rollout: votes and verbs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from ..models import Steered
from ..policy import Amount, PauseAfter
from ..policy._amount import amount
from . import _show, _show_gates
from ._command import Handle, command
from ._exits import DONE, NOT_ANSWERED, Stopped
from ._screen import Screen, plain

# Votes

_GATE = click.Option(
    ["--gate"], default="start", show_default=True, help='Which gate: "promote", "wave-2/eu-1", …'
)


@command(
    _GATE,
    click.Option(
        ["--digest"],
        default="",
        help="The plan that is approved, as plan and status show it: refused if the gate asks for another.",
    ),
    steers=True,
)
async def approve(
    rollout: Handle, screen: Screen, *, by: str, reason: str, gate: str, digest: str
) -> int:
    """Approves a gate."""
    screen.show(
        await rollout.approve(by=by, reason=reason, gate=gate, digest=digest), _show_gates.voted
    )
    return DONE


@command(_GATE, steers=True)
async def reject(rollout: Handle, screen: Screen, *, by: str, reason: str, gate: str) -> int:
    """Rejects a gate: the rollout ends there, whatever the quorum."""
    screen.show(await rollout.reject(by=by, reason=reason, gate=gate), _show_gates.voted)
    return DONE


# Verbs

_CLUSTER = click.Option(["--cluster"], help="Only this cluster. Default: the whole rollout.")


@command(
    click.Option(
        ["--after"],
        type=click.Choice(["host", "step"]),
        default="host",
        show_default=True,
        help="Let the hosts in flight finish, or stop those before their update at the next step.",
    ),
    _CLUSTER,
    steers=True,
)
async def pause(
    rollout: Handle, screen: Screen, *, by: str, reason: str, after: PauseAfter, cluster: str | None
) -> int:
    """Nothing new starts, until a resume."""
    return _steered(screen, await rollout.pause(by=by, reason=reason, after=after, cluster=cluster))


@command(_CLUSTER, steers=True)
async def resume(
    rollout: Handle, screen: Screen, *, by: str, reason: str, cluster: str | None
) -> int:
    """It goes on; without --cluster also every cluster that was paused alone."""
    return _steered(screen, await rollout.resume(by=by, reason=reason, cluster=cluster))


def _sure(rollout: str, options: Mapping[str, Any]) -> None:
    """Asks, on a terminal, whether an abort is meant."""
    if options["yes"]:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError("an abort asks first, and stdin is no terminal: say --yes")
    what = (
        "Updates that run are CANCELLED, their hosts are held OUT OF SERVICE."
        if options["now"]
        else "Updates that run go to their end."
    )
    question = f"Nothing new starts, and it cannot be resumed. {what}\nAbort {plain(rollout)!r}?"
    if not click.confirm(question, err=True):
        raise click.UsageError("not aborted: nothing was sent")


@command(
    click.Option(
        ["--now"],
        is_flag=True,
        help="Cancel updates that run, too; their hosts are held out of service and named.",
    ),
    click.Option(["--yes", "-y"], is_flag=True, help="Do not ask. Needed where nobody can answer."),
    steers=True,
    check=_sure,
)
async def abort(
    rollout: Handle, screen: Screen, *, by: str, reason: str, now: bool, yes: bool
) -> int:
    """Ends the rollout: nothing new starts, hosts before their update are restored.

    If no worker answers it sends a workflow cancel, which the server keeps until one is back: an abort without
    --now.
    """
    answer = await rollout.abort(by=by, reason=reason, now=now)
    _steered(screen, answer)
    if now and not answer.phase:
        raise Stopped(
            NOT_ANSWERED, "updates that run are not cancelled: repeat it when a worker is back"
        )
    return DONE


def _amount(context: click.Context, option: click.Parameter, value: str | None) -> Amount | None:
    if value is None:
        return None
    given = int(value) if value.isdecimal() else value
    wrong = list(amount()(option.name or "", given))
    if wrong:
        raise click.BadParameter(wrong[0])
    return given


def _some_limit(rollout: str, options: Mapping[str, Any]) -> None:
    named = (value for name, value in options.items() if name not in ("by", "reason"))
    if all(value is None for value in named):
        raise click.UsageError("at least one limit must be given")


@command(
    click.Option(
        ["--max-parallel"], metavar="AMOUNT", callback=_amount, help="Hosts of a cluster at once."
    ),
    click.Option(
        ["--max-parallel-total"],
        metavar="AMOUNT",
        callback=_amount,
        help="Hosts of all clusters at once.",
    ),
    click.Option(["--max-parallel-clusters"], metavar="NUMBER", type=int, help="Clusters at once."),
    click.Option(
        ["--max-out-of-service"],
        metavar="AMOUNT",
        callback=_amount,
        help="Hosts of a cluster in flight or held.",
    ),
    click.Option(
        ["--max-failures"],
        metavar="AMOUNT",
        callback=_amount,
        help="Hosts of each cluster that may fail. The rest of its failure budget stays.",
    ),
    click.Option(
        ["--total-max-failures"],
        metavar="AMOUNT",
        callback=_amount,
        help="Hosts of all clusters that may fail, likewise.",
    ),
    steers=True,
    check=_some_limit,
)
async def set_(
    rollout: Handle,
    screen: Screen,
    *,
    by: str,
    reason: str,
    max_parallel: Amount | None,
    max_parallel_total: Amount | None,
    max_parallel_clusters: int | None,
    max_out_of_service: Amount | None,
    max_failures: Amount | None,
    total_max_failures: Amount | None,
) -> int:
    """Other limits, from now on. AMOUNT is a number of hosts, or a percentage like 5%.

    What is not named stays. A lower width takes effect as hosts end; a budget below what has failed already is
    refused.
    """
    answer = await rollout.set_limits(
        by=by,
        reason=reason,
        max_parallel=max_parallel,
        max_parallel_total=max_parallel_total,
        max_parallel_clusters=max_parallel_clusters,
        max_out_of_service=max_out_of_service,
        max_failures=max_failures,
        total_max_failures=total_max_failures,
    )
    return _steered(screen, answer)


def _host_or_wave(rollout: str, options: Mapping[str, Any]) -> None:
    if (options["host"] is None) == (options["wave"] is None):
        raise click.UsageError("either '--host' or '--wave' must be given, and not both")


@command(
    click.Option(["--host"], help="This host."),
    click.Option(["--wave"], type=int, help="The wave of this number."),
    click.Option(["--cluster"], help="Whose wave. Default: every cluster's."),
    steers=True,
    check=_host_or_wave,
)
async def skip(
    rollout: Handle,
    screen: Screen,
    *,
    by: str,
    reason: str,
    host: str | None,
    wave: int | None,
    cluster: str | None,
) -> int:
    """Does not start a host, or a whole wave. What has started goes on, and it says so.

    A parked host stays as it is, and has failed.
    """
    return _steered(
        screen, await rollout.skip(by=by, reason=reason, host=host, wave=wave, cluster=cluster)
    )


_PARKED = click.Option(["--host"], required=True, help="The parked host.")


@command(
    _PARKED,
    click.Option(["--from-step"], help="Begin at this earlier step. Default: the one that failed."),
    steers=True,
)
async def retry(
    rollout: Handle, screen: Screen, *, by: str, reason: str, host: str, from_step: str | None
) -> int:
    """Goes on with a parked host: does the step that failed again, or goes back to an earlier one."""
    return _steered(screen, await rollout.retry(host, by=by, reason=reason, from_step=from_step))


@command(_PARKED, steers=True)
async def accept(rollout: Handle, screen: Screen, *, by: str, reason: str, host: str) -> int:
    """Takes the step of a parked host as done, and goes on behind it."""
    return _steered(screen, await rollout.accept(host, by=by, reason=reason))


@command(_PARKED, steers=True)
async def restore(rollout: Handle, screen: Screen, *, by: str, reason: str, host: str) -> int:
    """Gives a parked host back, as far as that is safe. It has failed."""
    return _steered(screen, await rollout.restore(host, by=by, reason=reason))


def _steered(screen: Screen, answer: Steered) -> int:
    screen.show(answer, _show.steered)
    return DONE
