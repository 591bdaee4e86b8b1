"""Sets everything up, tells the story, and takes everything down."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

from ..models import Outcome
from ..worker import PatchingPlugin
from ._hosts import ShopHosts
from ._machines import Machines
from ._server import CannotStart, Keeper
from ._show import Screen
from ._story import TASK_QUEUE, Story
from ._wheels import PACKAGE, RELEASES
from ._workflows import PatchShopFleet, PatchShopHost

OLD, BROKEN, MENDED = RELEASES

PATIENCE = 30.0
"""Seconds that the server may take for its namespace."""

BUSY = ("eu-4", "us-5", "us-6")
"""Hosts with a customer who does not leave during the first rollout."""


async def perform(binary: str, *, yes: bool, keep: bool) -> bool:
    """The whole demo.

    Args:
        binary: Path of the ``temporal`` command.
        yes: Approve without a question.
        keep: Leave the server up.

    Returns:
        Whether every host is what the reports say.

    Raises:
        CannotStart: The server, the folder or the hosts cannot be made.
    """
    screen = Screen()
    async with AsyncExitStack() as stack:
        keeper = await stack.enter_async_context(Keeper(binary))
        machines = Machines(keeper.folder)
        stack.callback(machines.kill)
        screen.say(f"the hosts are directories in {machines.folder}, each with {PACKAGE} {OLD}")
        await _set_up(machines)
        await keeper.server()
        screen.say(f"Temporal server at {keeper.address}, web UI at {keeper.web}/workflows")
        client = await _connect(keeper.address)
        await stack.enter_async_context(
            Worker(
                client,
                task_queue=TASK_QUEUE,
                plugins=[
                    PatchingPlugin(
                        ShopHosts(machines, screen.notice),
                        workflows=[PatchShopFleet, PatchShopHost],
                    )
                ],
            )
        )
        story = Story(client, machines, screen, web=keeper.web, ask=not yes)
        true = await _tell(story, machines, screen)
        if keep:
            pid = keeper.keep()
            screen.say(f"\nthe server stays up, web UI at {keeper.web}/workflows")
            screen.say(f"the hosts' directories stay in {machines.folder}")
            screen.say(f"to stop the server and remove them: kill {pid}")
        else:
            screen.say(
                "\nserver and hosts are removed now; 'make demo DEMO_ARGS=--keep' leaves them for a closer look"
            )
    return true


async def _set_up(machines: Machines) -> None:
    try:
        await machines.set_up(OLD)
    except (OSError, RuntimeError) as error:
        raise CannotStart(f"the hosts cannot be made: {error}") from error


async def _connect(address: str) -> Client:
    """Connects once the server has made its namespace."""
    client = await Client.connect(address)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            await client.workflow_service.describe_namespace(
                DescribeNamespaceRequest(namespace=client.namespace)
            )
            return client
        except RPCError as error:
            if time.monotonic() > deadline:
                raise CannotStart(f"the Temporal server has no namespace: {error}") from error
            await asyncio.sleep(0.1)


async def _tell(story: Story, machines: Machines, screen: Screen) -> bool:
    screen.act(
        f"Act 1: {BROKEN} is rolled out; it breaks one host, and the rollout stops by itself"
    )
    async with AsyncExitStack() as customers:
        for name in BUSY:
            await customers.enter_async_context(machines[name].busy_customer())
        outcome, true = await story.roll_out(BROKEN)
    if outcome is Outcome.REJECTED or not true:
        return true
    screen.act(f"Act 2: {MENDED} mends it; the same request again")
    _, true = await story.roll_out(MENDED)
    return true
