"""Faults around activities that are not ours."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Literal, TypeVar

from temporalio.exceptions import CancelledError

from ..activity import PatchActivities
from ..activity._activities import implemented, takes_task
from ..models import FleetHealth, FleetQuery, HostList, HostQuery, HostTask, Notice, StepResult
from ._activities import NOTIFIER, SimulatedSteps, simulated

T = TypeVar("T")


def around(steps: SimulatedSteps, theirs: PatchActivities) -> PatchActivities:
    """Activities that do what ``theirs`` do, and suffer what the fleet's faults say."""
    kind = type(theirs)
    loop = _Loop()
    names = implemented(kind)
    methods: dict[str, Any] = {
        name: _step(steps, name, getattr(theirs, name), loop)
        for name in sorted(names - {"list_hosts", "check_fleet_health", NOTIFIER})
        if takes_task(kind, name)
    }

    async def list_hosts(_: PatchActivities, query: HostQuery) -> HostList:
        loop.here()
        task = _of_cluster("list_hosts", query.rollout, query.cluster)

        async def call() -> HostList:
            page: HostList = await _called(theirs.list_hosts, query)
            await steps._listed(query.cluster, [host.name for host in page.hosts])
            return page

        return await _attempt(steps, "list_hosts", task, call)

    async def check_fleet_health(_: PatchActivities, query: FleetQuery) -> FleetHealth:
        task = _of_cluster("check_fleet_health", query.rollout, query.cluster)
        return await _attempt(
            steps, "check_fleet_health", task, lambda: _called(theirs.check_fleet_health, query)
        )

    async def notify(_: PatchActivities, notice: Notice) -> None:
        await steps.notify(notice)
        await _called(theirs.notify, notice)

    methods["list_hosts"] = list_hosts
    if "check_fleet_health" in names:
        methods["check_fleet_health"] = check_fleet_health
    if NOTIFIER in names:
        methods[NOTIFIER] = notify
    return simulated(steps, methods)


def _of_cluster(step: str, rollout: str, cluster: str) -> HostTask:
    return HostTask(rollout=rollout, cluster=cluster, host=cluster, step=step)


async def _called(method: Callable[[Any], Any], argument: object) -> Any:
    """What one of their methods answers, in a thread if it is a plain one."""
    if inspect.iscoroutinefunction(method):
        return await method(argument)
    return await asyncio.to_thread(method, argument)


async def _attempt(
    steps: SimulatedSteps, step: str, task: HostTask, call: Callable[[], Awaitable[T]]
) -> T:
    """An attempt that is not about a host."""
    opened = await steps._open(step, task)
    try:
        found = await call()
    except BaseException as error:
        await steps._close(opened.number, _how(error), StepResult())
        raise
    await steps._close(opened.number, "done", StepResult())
    return found


def _step(
    steps: SimulatedSteps, step: str, theirs: Callable[[HostTask], Any], loop: _Loop
) -> Callable[..., Any]:
    if not inspect.iscoroutinefunction(theirs):

        def run_in_thread(_: PatchActivities, task: HostTask) -> StepResult:
            opened = loop.run(steps._open(step, task))
            answer = opened.answer or StepResult()
            try:
                for _time in range(0 if opened.answer is not None else opened.deliveries):
                    answer = theirs(task)
            except BaseException as error:
                loop.run(steps._close(opened.number, _how(error), StepResult()))
                raise
            return loop.run(_answered(steps, opened.number, answer))

        return run_in_thread

    async def run(_: PatchActivities, task: HostTask) -> StepResult:
        opened = await steps._open(step, task)
        answer = opened.answer or StepResult()
        try:
            for _time in range(0 if opened.answer is not None else opened.deliveries):
                answer = await theirs(task)
        except BaseException as error:
            await steps._close(opened.number, _how(error), StepResult())
            raise
        return await _answered(steps, opened.number, answer)

    return run


async def _answered(steps: SimulatedSteps, number: int, answer: Any) -> StepResult:
    if not isinstance(answer, StepResult):  # the plugin says what is wrong with it
        await steps._close(number, "failed", StepResult())
        return answer  # type: ignore[no-any-return]
    return await steps._close(number, "done", answer)


def _how(error: BaseException) -> Literal["failed", "cancelled"]:
    cancelled = isinstance(error, (asyncio.CancelledError, CancelledError))
    return "cancelled" if cancelled else "failed"


class _Loop:
    """The fleet's event loop, for methods that run in threads."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        with suppress(
            RuntimeError
        ):  # made before the loop runs: list_hosts comes first, and says it
            self.here()

    def here(self) -> None:
        """It is this one."""
        self._loop = asyncio.get_running_loop()

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        """From a thread: waits until the loop has done it."""
        if self._loop is None:
            doing.close()
            raise RuntimeError(
                "around() must be called in the event loop that the worker runs in, for plain methods"
            )
        done = asyncio.run_coroutine_threadsafe(doing, self._loop)
        try:
            return done.result()
        except BaseException:
            done.cancel()
            raise
