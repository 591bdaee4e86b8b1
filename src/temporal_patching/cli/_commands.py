"""The commands: each asks a ``Rollout`` for one thing and shows the answer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

import click

from . import _look, _planning, _steer
from ._command import complain
from ._exits import DONE, INTERRUPTED, INVALID, MEANINGS, UNREAD, told

_EPILOG = "\b\nExit codes:\n" + "\n".join(f"{code:>5}  {said}" for code, said in MEANINGS.items())


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


for _each in (
    _look.status,
    _look.watch,
    _look.explain,
    _look.audit,
    _look.report,
    _planning.plan_command,
    _planning.rest,
    _steer.approve,
    _steer.reject,
    _steer.pause,
    _steer.resume,
    _steer.abort,
    _steer.set_,
    _steer.skip,
    _steer.retry,
    _steer.accept,
    _steer.restore,
):
    commands.add_command(_each)


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
        complain("interrupted; nothing was sent")
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
        complain(line)
        return code
    return status if isinstance(status, int) else DONE
