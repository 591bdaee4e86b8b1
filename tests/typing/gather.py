"""What type checkers infer for ``gather``: checked by mypy and pyright, never run."""

import asyncio
from collections.abc import Awaitable, Coroutine
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from typing_extensions import assert_type

from temporal_patching.workflow import gather


async def number() -> int:
    return 1


async def text() -> str:
    return ""


@activity.defn
async def deploy(region: str) -> bool:
    return bool(region)


async def good(regions: list[str], mixed: list[Awaitable[int]]) -> None:
    assert_type(await gather(number()), tuple[int])
    assert_type(await gather(number(), text()), tuple[int, str])
    assert_type(await gather(number(), text(), number(), limit=2), tuple[int, str, int])
    assert_type(await gather(text(), text(), text(), number()), tuple[str, str, str, int])
    assert_type(
        await gather(number(), text(), number(), text(), number()),
        tuple[int, str, int, str, int],
    )
    assert_type(
        await gather(number(), text(), number(), text(), number(), text()),
        tuple[int, str, int, str, int, str],
    )
    seven = [number() for _ in range(7)]
    assert_type(await gather(*seven), list[int])
    assert_type(await gather(*seven, limit=None), list[int])
    assert_type(await gather(*mixed, limit=3), list[int])
    assert_type(
        await gather(number(), number(), number(), number(), number(), number(), number(), limit=1),
        list[int],
    )

    first, second = await gather(number(), text())
    assert_type(first, int)
    assert_type(second, str)

    # Whatever can be awaited: tasks, futures, handles, gathers.
    task = asyncio.create_task(text())
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    assert_type(await gather(task, future), tuple[str, bytes])
    assert_type(await gather(gather(number(), text()), task), tuple[tuple[int, str], str])
    assert_type(await gather(*[gather(number(), text()) for _ in regions]), list[tuple[int, str]])

    # As Temporal users write it.
    deployed = await gather(
        *[
            workflow.execute_activity(deploy, region, start_to_close_timeout=timedelta(minutes=5))
            for region in regions
        ],
        limit=3,
    )
    assert_type(deployed, list[bool])
    handle = workflow.start_activity(deploy, "eu", start_to_close_timeout=timedelta(minutes=5))
    assert_type(await gather(handle, number()), tuple[bool, int])

    # It can be kept, and made a task.
    kept: Coroutine[Any, Any, list[int]] = gather(*seven)
    assert_type(await asyncio.create_task(kept), list[int])
    assert_type(await asyncio.wait_for(gather(*seven), timeout=5), list[int])


async def bad() -> None:
    gather(5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    gather(number(), 2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    gather(number(), limit="2")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    gather(number(), return_exceptions=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    wrong: tuple[str] = await gather(number())  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    del wrong
