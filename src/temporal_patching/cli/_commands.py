"""The commands: each asks a ``Rollout`` for one thing and shows the answer."""

from __future__ import annotations

import asyncio
import inspect
import sys
import traceback
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import click
from temporalio.client import Client, WorkflowFailureError
from temporalio.service import RPCError

from ..client import Rollout
from ..exceptions import InvalidRequest, NotAnswered, RolloutExists, RolloutNotFound
from ..models import PatchRequest, RolloutProgress, RolloutReport, Steered
from ..policy import Amount, Outcome, PauseAfter
from ..policy._amount import amount
from . import _files, _show, _show_plan
from ._connect import Connection, must_read
from ._exits import (
    DONE,
    INTERRUPTED,
    INVALID,
    MEANINGS,
    NOT_ANSWERED,
    NOT_FOUND,
    NOT_PATCHED,
    REFUSED,
    UNREAD,
    Stopped,
    ended,
    told,
)
from ._show import Screen, plain

Handle = Rollout[Any]
Asked = Callable[..., Coroutine[Any, Any, int]]
Check = Callable[[str, Mapping[str, Any]], None]

_EPILOG = "\b\nExit codes:\n" + "\n".join(f"{code:>5}  {said}" for code, said in MEANINGS.items())

_VERB = (
    click.Option(
        ["--by"],
        required=True,
        envvar="TEMPORAL_PATCHING_BY",
        show_envvar=True,
        help="Who you are: your e-mail address, say. A claim; nothing checks it.",
    ),
    click.Option(["--reason"], default="", help="Why, for the record."),
)

_SHARED = (
    click.Option(["--json", "as_json"], is_flag=True, help="JSON on stdout, for programs."),
    click.Option(["--address"], help="The server. Default: as the temporal command finds it."),
    click.Option(["--namespace"], help="The namespace, likewise."),
    click.Option(["--profile"], help="The profile of its configuration file, likewise."),
    click.Option(
        ["--converter"],
        envvar="TEMPORAL_PATCHING_CONVERTER",
        show_envvar=True,
        metavar="PACKAGE.MODULE:NAME",
        help="Your data converter, if your payloads are encrypted, say.",
    ),
    click.Option(["--debug"], is_flag=True, help="Show the traceback of what is unexpected."),
)


@click.group(
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="COMMAND ROLLOUT [OPTIONS]",
)
def commands() -> None:
    """Plan, watch and steer rollouts. ROLLOUT is a rollout's workflow id; plan takes a request's file.

    The server is found as the temporal command finds it: TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_API_KEY,
    TEMPORAL_TLS_..., TEMPORAL_PROFILE and its configuration file.

    A rollout to try it on: python -m temporal_patching demo (it prints the --address of its server)
    """


def run(arguments: Sequence[str], *, program: str) -> int:
    """Runs one command and answers with its exit code.

    Args:
        arguments: The command line, without the program.
        program: How it was called, for the usage.
    """
    if not arguments:
        with click.Context(commands, info_name=program) as context:
            click.echo(commands.get_help(context), err=True)
        return INVALID
    try:
        status = commands.main(list(arguments), prog_name=program, standalone_mode=False)
    except click.Abort:
        _complain("interrupted; nothing was sent")
        return INTERRUPTED
    except click.ClickException as error:
        if sys.stderr is not None:
            with suppress(OSError):  # nobody reads complaints: the exit code says it
                error.show()
        return INVALID
    except BrokenPipeError:
        return UNREAD
    except Exception as error:
        code, line = told(error)
        _complain(line)
        return code
    return status if isinstance(status, int) else DONE


def _command(
    *options: click.Option, steers: bool = False, check: Check | None = None
) -> Callable[[Asked], click.Command]:
    """Makes a command of what asks a rollout.

    Args:
        options: Its own.
        steers: Whether it changes something, and so needs to know who asks.
        check: Looks at the rollout's id and the options before anything is sent.
    """

    def made(asked: Asked) -> click.Command:
        def looked(own: Mapping[str, Any]) -> None:
            if not own["rollout"]:  # a variable of a script that is not set
                raise click.UsageError("ROLLOUT must not be empty")
            if check is not None:
                check(own["rollout"], {name: own[name] for name in own if name != "rollout"})

        async def work(connection: Connection, screen: Screen, *, rollout: str, **own: Any) -> int:
            return await _asked(asked, rollout, connection, screen, own, steers=steers)

        return _added(
            asked,
            work,
            [click.Argument(["rollout"]), *options, *(_VERB if steers else ())],
            check=looked,
            interrupted="whether it was done is not known" if steers else "the rollout goes on",
        )

    return made


def _added(
    asked: Asked,
    work: Asked,
    params: Sequence[click.Parameter],
    *,
    interrupted: str,
    check: Callable[[Mapping[str, Any]], None] | None = None,
) -> click.Command:
    """Adds a command: its name and help are those of ``asked``, ``work`` does it.

    Args:
        asked: What the command is written as.
        work: Gets the connection, the screen and the parameters, and answers with the exit code.
        params: Its own; those that every command has are added.
        interrupted: What a Ctrl-C leaves behind.
        check: Looks at its own parameters before anything is sent.
    """

    def called(
        *,
        as_json: bool,
        address: str | None,
        namespace: str | None,
        profile: str | None,
        converter: str | None,
        debug: bool,
        **own: Any,
    ) -> int:
        if check is not None:
            check(own)
        connection = Connection(
            address=address, namespace=namespace, profile=profile, converter=converter
        )
        screen = Screen(as_json=as_json, options=connection.options)
        try:
            return asyncio.run(work(connection, screen, **own))
        except KeyboardInterrupt:
            _complain(f"interrupted; {interrupted}")
            return INTERRUPTED
        except click.ClickException:
            raise
        except BrokenPipeError:
            return UNREAD
        except Exception as error:
            code, line = told(error)
            if debug:
                traceback.print_exception(type(error), error, error.__traceback__)
            _complain(line)
            return code

    command = click.Command(
        asked.__name__.rstrip("_"),
        callback=called,
        params=[*params, *_SHARED],
        help=inspect.getdoc(asked),
    )
    commands.add_command(command)
    return command


async def _asked(
    asked: Asked,
    id: str,
    connection: Connection,
    screen: Screen,
    own: Mapping[str, Any],
    *,
    steers: bool,
) -> int:
    client = await connection.client()
    await must_read(client, id)
    try:
        return await asked(Rollout.get(client, id), screen, **own)
    except RolloutNotFound as error:
        raise _where(error, client) from None
    except NotAnswered as error:
        where = _where(error, client)
        if steers:  # the server has it
            raise NotAnswered(f"{where}. It may still be done: 'audit' will know") from None
        raise where from None


def _where(error: RolloutNotFound | NotAnswered, client: Client) -> Exception:
    """The same, and where it was looked for: it may be the wrong place."""
    address = client.service_client.config.target_host
    return type(error)(f"{error} (namespace {client.namespace!r} at {address})")


def _complain(line: str) -> None:
    if sys.stderr is None:
        return  # print() would take stdout, which is for answers
    with suppress(OSError):  # nobody reads complaints: the exit code says it
        print(plain(line), file=sys.stderr, flush=True)


# Looking


@_command()
async def status(rollout: Handle, screen: Screen) -> int:
    """Where the rollout is: phase, clusters, gates, failures, what is out of service."""
    now = await rollout.progress()
    if now.outcome is None:
        await _not_over(rollout)
    screen.show(now, lambda told: _show.status(told, screen.options))
    return DONE


@_command(
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

    def changed(now: RolloutProgress) -> _show.Lines:
        return _show.changes(last, now, screen.options)

    async for progress in rollout.watch(every=timedelta(seconds=every)):
        screen.show(progress, changed, one_line=True)
        last = progress
    # Its history knows how it ended, also where no worker is there to say so.
    end = await _end(rollout)
    if not screen.as_json:
        screen.say(_show.report(end))
    return _code(end)


@_command()
async def explain(rollout: Handle, screen: Screen) -> int:
    """Why it waits, why it stopped, and what would stop it next, with the evidence."""
    told = await rollout.explain()
    if (await rollout.progress()).outcome is None:
        await _not_over(rollout)
    screen.show(told, _show.explanation)
    return DONE


@_command()
async def audit(rollout: Handle, screen: Screen) -> int:
    """Who decided what, when and why, in order."""
    screen.show(await rollout.audit(), _show.audit)
    return DONE


@_command()
async def report(rollout: Handle, screen: Screen) -> int:
    """How the rollout ended. Waits for its end. Needs no worker."""
    if await _runs(rollout):
        _complain(f"{rollout.id!r} has not ended: waiting for its end")
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


# Before and after

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
        raise _where(error, client) from None
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


_added(
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


@_command(
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


# Votes

_GATE = click.Option(
    ["--gate"], default="start", show_default=True, help='Which gate: "promote", "wave-2/eu-1", …'
)


@_command(
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
    screen.show(await rollout.approve(by=by, reason=reason, gate=gate, digest=digest), _show.voted)
    return DONE


@_command(_GATE, steers=True)
async def reject(rollout: Handle, screen: Screen, *, by: str, reason: str, gate: str) -> int:
    """Rejects a gate: the rollout ends there, whatever the quorum."""
    screen.show(await rollout.reject(by=by, reason=reason, gate=gate), _show.voted)
    return DONE


# Steering

_CLUSTER = click.Option(["--cluster"], help="Only this cluster. Default: the whole rollout.")


@_command(
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


@_command(_CLUSTER, steers=True)
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


@_command(
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


@_command(
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


@_command(
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


@_command(
    _PARKED,
    click.Option(["--from-step"], help="Begin at this earlier step. Default: the one that failed."),
    steers=True,
)
async def retry(
    rollout: Handle, screen: Screen, *, by: str, reason: str, host: str, from_step: str | None
) -> int:
    """Goes on with a parked host: does the step that failed again, or goes back to an earlier one."""
    return _steered(screen, await rollout.retry(host, by=by, reason=reason, from_step=from_step))


@_command(_PARKED, steers=True)
async def accept(rollout: Handle, screen: Screen, *, by: str, reason: str, host: str) -> int:
    """Takes the step of a parked host as done, and goes on behind it."""
    return _steered(screen, await rollout.accept(host, by=by, reason=reason))


@_command(_PARKED, steers=True)
async def restore(rollout: Handle, screen: Screen, *, by: str, reason: str, host: str) -> int:
    """Gives a parked host back, as far as that is safe. It has failed."""
    return _steered(screen, await rollout.restore(host, by=by, reason=reason))


def _steered(screen: Screen, answer: Steered) -> int:
    screen.show(answer, _show.steered)
    return DONE
