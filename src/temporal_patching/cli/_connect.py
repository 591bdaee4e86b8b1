"""Finds the server, as the ``temporal`` command does, and the user's data converter."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import sys
from datetime import timedelta

import attrs
import click
from temporalio.client import Client
from temporalio.converter import DataConverter
from temporalio.envconfig import ClientConfig
from temporalio.service import RPCError

from ._exits import NOT_ANSWERED, REFUSED, Stopped

PATIENCE = 10.0
"""Seconds that a server has to answer."""

_MESSAGE = re.compile(r'message: "([^"]+)"')
_FORBIDDEN = ("Unauthenticated", "PermissionDenied")


@attrs.frozen(kw_only=True)
class Connection:
    """Where the server is, as far as the command line says; the rest is the environment's."""

    address: str | None
    namespace: str | None
    profile: str | None
    converter: str | None

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
        connecting = Client.connect(**config, data_converter=converter)
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
            messages = _MESSAGE.findall(
                why
            )  # the rest of it is how the SDK's own layers are called
            raise Stopped(
                code, f"no server answered at {address}: {messages[-1] if messages else why}"
            ) from None


async def must_read(client: Client, id: str) -> None:
    """Refuses a converter that cannot read the rollout's payloads, before anything is sent.

    An answer would be lost, and what a worker cannot read may keep its workflow from going on.

    Raises:
        click.UsageError: It cannot.
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
        await client.data_converter.decode(request)
    except Exception as error:
        raise click.UsageError(
            f"the payloads of {id!r} cannot be read: name your data converter with --converter "
            f"({type(error).__name__}: {error})"
        ) from None


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
