"""Finds the server, as the ``temporal`` command does, and the user's data converter."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import cast

import attrs
import click
from temporalio.client import Client
from temporalio.converter import DataConverter
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError

from ._exits import NOT_ANSWERED, NOT_FOUND, REFUSED, Stopped

PATIENCE = 10.0
"""Seconds that a server has to answer."""

_MESSAGE = re.compile(r'message: "([^"]+)"')
_LOOKUP = re.compile(r'"dns error", .*error: "([^"]+)"')
_FORBIDDEN = ("Unauthenticated", "PermissionDenied")


@attrs.frozen(kw_only=True)
class Connection:
    """Where the server is, as far as the command line says; the rest is the environment's."""

    address: str | None
    namespace: str | None
    profile: str | None
    converter: str | None

    @property
    def options(self) -> Mapping[str, str]:
        """What was said, for commands that are shown: they go to the same server."""
        return {
            f"--{field.name}": value
            for field in attrs.fields(Connection)
            if (value := getattr(self, field.name))
        }

    async def client(self) -> Client:
        """A connected client.

        Raises:
            click.UsageError: An option, a variable or the file is wrong.
            Stopped: No server, or it refuses.
        """
        converter = _converter(self.converter) if self.converter else DataConverter.default
        try:
            config = ClientConfig.load_client_connect_config(self.profile)
        except (RuntimeError, OSError, ValueError) as error:
            raise click.UsageError(f"the configuration of the connection: {error}") from None
        if self.address:
            config["target_host"] = self.address
        if self.namespace:
            config["namespace"] = self.namespace
        address = config.setdefault("target_host", "localhost:7233")
        # Its own log goes to stdout, in colour, where answers go; what is wrong is raised, too.
        quiet = Runtime(telemetry=TelemetryConfig(logging=None))
        connecting = Client.connect(**config, data_converter=converter, runtime=quiet)
        try:
            return await asyncio.wait_for(connecting, PATIENCE)
        except asyncio.TimeoutError:
            said = f"no server answered at {address} within {PATIENCE:.0f} seconds"
            raise Stopped(NOT_ANSWERED, said) from None
        except ValueError as error:
            raise click.UsageError(f"the address {address!r}: {error}") from None
        except RuntimeError as error:
            why = str(error).removeprefix("Failed client connect: ")
            code = REFUSED if any(each in why for each in _FORBIDDEN) else NOT_ANSWERED
            # The rest of it is how the SDK's own layers are called.
            messages = _MESSAGE.findall(why) or _LOOKUP.findall(why)
            raise Stopped(
                code, f"no server answered at {address}: {messages[-1] if messages else why}"
            ) from None


async def must_read(client: Client, id: str) -> None:
    """Refuses a converter that cannot read the payloads, and what is no rollout, before anything is sent.

    An answer would be lost, and what a worker cannot read may keep its workflow from going on. A cluster or a host
    answers queries of the same names with something else.

    Raises:
        click.UsageError: It cannot.
        Stopped: It is a cluster or a host.
    """
    events = client.get_workflow_handle(id).fetch_history_events(
        page_size=1, rpc_timeout=timedelta(seconds=PATIENCE)
    )
    try:
        first = await anext(events)
    except (RPCError, StopAsyncIteration):
        return  # what is wrong is told by the command itself
    request = first.workflow_execution_started_event_attributes.input.payloads
    try:
        given = await client.data_converter.decode(request)
    except Exception as error:
        raise click.UsageError(
            f"the payloads of {id!r} cannot be read: name your data converter with --converter "
            f"({type(error).__name__}: {error})"
        ) from None
    part = _part(given[0] if given else None)
    if part is not None:
        raise Stopped(NOT_FOUND, f"{id!r} is no rollout, it is {part}")


def _part(request: object) -> str | None:
    """What of a rollout the workflow with this input is, if it is a cluster or a host."""
    if not isinstance(request, Mapping):
        return None
    given = cast("Mapping[str, object]", request)
    task = given.get("task")
    if isinstance(task, Mapping):
        task = cast("Mapping[str, object]", task)
        return f"host {task.get('host')!r} of rollout {task.get('rollout')!r}"
    if "procedure" in given:
        return f"cluster {given.get('cluster')!r} of rollout {given.get('rollout')!r}"
    return None


def _converter(path: str) -> DataConverter:
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise click.UsageError(f"'--converter' must be like package.module:name (got {path!r})")
    # Last: a file that happens to lie here must not stand in for an installed module.
    sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise click.UsageError(f"'--converter' {path!r}: {type(error).__name__}: {error}") from None
    finally:
        sys.path.pop()
    if not isinstance(found, DataConverter):
        raise click.UsageError(
            f"'--converter' must name a temporalio.converter.DataConverter (got {found!r})"
        )
    return found
