"""What every command has: the options for the server, the rollout, its exit code."""

from __future__ import annotations

import asyncio
import inspect
import sys
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

import click
from temporalio.client import Client

from ..client import Rollout
from ..exceptions import NotAnswered, RolloutNotFound
from ._connect import Connection, must_read
from ._exits import INTERRUPTED, UNREAD, told
from ._screen import Screen, plain

Handle = Rollout[Any]
Asked = Callable[..., Coroutine[Any, Any, int]]
Check = Callable[[str, Mapping[str, Any]], None]

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


def command(
    *options: click.Option, steers: bool = False, check: Check | None = None
) -> Callable[[Asked], click.Command]:
    """Makes a command of what asks a rollout.

    Args:
        options: Its own.
        steers: Whether it changes something, and so needs to know who asks.
        check: Looks at the rollout's id and the options before anything is sent.
    """

    def makes(asked: Asked) -> click.Command:
        def looked(own: Mapping[str, Any]) -> None:
            if not own["rollout"]:  # a variable of a script that is not set
                raise click.UsageError("ROLLOUT must not be empty")
            if check is not None:
                check(own["rollout"], {name: own[name] for name in own if name != "rollout"})

        async def work(connection: Connection, screen: Screen, *, rollout: str, **own: Any) -> int:
            return await _asked(asked, rollout, connection, screen, own, steers=steers)

        return made(
            asked,
            work,
            [click.Argument(["rollout"]), *options, *(_VERB if steers else ())],
            check=looked,
            interrupted="whether it was done is not known" if steers else "the rollout goes on",
        )

    return makes


def made(
    asked: Asked,
    work: Asked,
    params: Sequence[click.Parameter],
    *,
    interrupted: str,
    check: Callable[[Mapping[str, Any]], None] | None = None,
) -> click.Command:
    """Makes a command: its name and help are those of ``asked``, ``work`` does it.

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
            complain(f"interrupted; {interrupted}")
            return INTERRUPTED
        except click.ClickException:
            raise
        except BrokenPipeError:
            return UNREAD
        except Exception as error:
            code, line = told(error)
            if debug:
                traceback.print_exception(type(error), error, error.__traceback__)
            complain(line)
            return code

    return click.Command(
        asked.__name__.rstrip("_"),
        callback=called,
        params=[*params, *_SHARED],
        help=inspect.getdoc(asked),
    )


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
        raise where(error, client) from None
    except NotAnswered as error:
        said = where(error, client)
        if steers:  # the server has it
            raise NotAnswered(f"{said}. It may still be done: 'audit' will know") from None
        raise said from None


def where(error: RolloutNotFound | NotAnswered, client: Client) -> Exception:
    """The same, and where it was looked for: it may be the wrong place."""
    address = client.service_client.config.target_host
    return type(error)(f"{error} (namespace {client.namespace!r} at {address})")


def complain(line: str) -> None:
    """Says to people what went wrong."""
    if sys.stderr is None:
        return  # print() would take stdout, which is for answers
    with suppress(OSError):  # nobody reads complaints: the exit code says it
        print(plain(line), file=sys.stderr, flush=True)
