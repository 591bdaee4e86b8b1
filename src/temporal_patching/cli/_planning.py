"""Commands before and after a rollout: what a request would do, and what is left to do."""

from __future__ import annotations

import uuid

import click
from temporalio.client import WorkflowFailureError

from ..client import Rollout
from ..exceptions import InvalidRequest, NotAnswered, RolloutExists, RolloutNotFound
from ..models import PatchRequest
from . import _files, _show_plan
from ._command import Handle, command, made, where
from ._connect import Connection
from ._exits import DONE, REFUSED, Stopped
from ._screen import Screen

_OUT = click.Option(
    ["--out"],
    callback=_files.out_of,
    metavar="FILE",
    help="Write the request there, for a start; an older file is replaced.",
)


async def plan(
    connection: Connection,
    screen: Screen,
    *,
    request: PatchRequest,
    type_: str,
    task_queue: str,
    id_: str | None,
    hosts: bool,
    out: str | None,
) -> int:
    """What a request would do: a dry run, which touches nothing and tells nobody.

    REQUEST is a file with the request as JSON, or - for stdin. --out writes the request that carries out exactly
    this plan: these hosts, steps and limits, or it is refused.
    """
    client = await connection.client()
    id_ = id_ or f"plan-{uuid.uuid4().hex[:8]}"
    try:
        found = await Rollout.plan(client, type_, request, id=id_, task_queue=task_queue)
    except InvalidRequest as error:
        raise Stopped(REFUSED, f"refused: {'; '.join(error.problems)}") from None
    except RolloutExists:
        said = f"refused: the id {id_!r} was used before: name another with --id"
        raise Stopped(REFUSED, said) from None
    except WorkflowFailureError as error:
        said = f"the dry run {id_!r} ended without a plan: {error.cause}"
        raise Stopped(REFUSED, said) from None
    except (RolloutNotFound, NotAnswered) as error:
        raise where(error, client) from None
    if out is not None:
        _files.write(out, found.planned)
    start = _start(type_, task_queue, out, screen)
    screen.show(found, lambda shown: _show_plan.plan(shown, start, hosts=hosts))
    return DONE


def _start(type: str, task_queue: str, out: str | None, screen: Screen) -> _show_plan.Start:
    return _show_plan.Start(
        type=type,
        task_queue=task_queue,
        file=out,
        address=screen.options.get("--address"),
        namespace=screen.options.get("--namespace"),
        profile=screen.options.get("--profile"),
    )


plan_command = made(
    plan,
    plan,
    [
        click.Argument(["request"], callback=_files.request_of),
        click.Option(["--task-queue", "-t"], required=True, help="Where your workers listen."),
        click.Option(
            ["--type", "type_"],
            default="SystemPatchWorkflow",
            show_default=True,
            metavar="NAME",
            help="The workflow type: the name of your SystemPatchWorkflow subclass.",
        ),
        click.Option(["--id", "id_"], help="The workflow id of the dry run. Default: a new one."),
        click.Option(["--hosts"], is_flag=True, help="List the hosts, wave by wave."),
        _OUT,
    ],
    interrupted="the dry run touches nothing",
)


@command(
    click.Option(["--requester"], help="Who asks now. Default: who asked then."),
    _OUT,
)
async def rest(rollout: Handle, screen: Screen, *, requester: str | None, out: str | None) -> int:
    """The request for what a rollout left undone, as JSON.

    That is its failed, unreachable, cancelled and never started hosts. Change what failed before you start it.
    """
    try:
        request = await Rollout.rest_of(rollout.client, rollout.id, requester=requester)
    except InvalidRequest as error:
        raise Stopped(REFUSED, f"refused: {'; '.join(error.problems)}") from None
    if out is None:
        screen.show_json(request)
        return DONE
    _files.write(out, request)
    old = await rollout.handle.describe()
    start = _start(old.workflow_type, old.task_queue, out, screen)
    screen.show(request, lambda shown: _show_plan.rest(shown, start))
    return DONE
