"""A failure that carries a checkpoint is still the failure that it was."""

from __future__ import annotations

import asyncio
import dataclasses
from concurrent.futures import BrokenExecutor
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.activity import _CompleteAsyncError
from temporalio.api.failure.v1 import Failure
from temporalio.converter import DataConverter
from temporalio.exceptions import (
    ApplicationError,
    ApplicationErrorCategory,
    CancelledError,
    ServerError,
)
from temporalio.testing import ActivityEnvironment
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    UnsandboxedWorkflowRunner,
)

from temporal_patching.activity import PatchActivities
from temporal_patching.activity._parking import ParkingInterceptor
from temporal_patching.exceptions import HostUnreachable
from temporal_patching.models import HostList, HostQuery, HostTask, StepResult
from temporal_patching.models._kept import CHECKPOINT, KEPT, KEPT_LIMIT, fits, kept, saved
from temporal_patching.worker import PatchingPlugin
from tests.strategies import json_values, texts

TASK = HostTask(rollout="r", cluster="c", host="h", parks=True)

some_saved = json_values.filter(lambda value: value is not None)

causes = st.none() | texts.map(ValueError) | texts.map(ApplicationError)

application_errors = st.builds(
    lambda message, details, **fields: ApplicationError(message, *details, **fields),
    texts,
    st.lists(json_values, max_size=2),
    type=st.none() | texts,
    non_retryable=st.booleans(),
    next_retry_delay=st.none() | st.timedeltas(timedelta(0), timedelta(days=1)),
    category=st.sampled_from(ApplicationErrorCategory),
)

errors = (
    application_errors
    | texts.map(HostUnreachable)
    | texts.map(ValueError)
    | texts.map(KeyError)
    | texts.map(asyncio.TimeoutError)
)


class Hosts(PatchActivities):
    def list_hosts(self, query: HostQuery) -> HostList:
        return HostList(hosts=["web-1"])


class Step(ActivityInboundInterceptor):
    """An activity that saves something, and raises or answers something."""

    def __init__(self, ends: BaseException | Any, saves: tuple[Any, ...] = ()) -> None:
        self.ends = ends
        self.saves = saves
        self.outbound: Any = None

    def init(self, outbound: Any) -> None:
        self.outbound = outbound

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        for value in self.saves:
            self.outbound.heartbeat(value)
        if isinstance(self.ends, BaseException):
            raise self.ends
        return self.ends


class Out:
    """What takes the heartbeats in the end."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def heartbeat(self, *details: Any) -> None:
        self.heard.append(details)


async def answer(
    step: Step, task: object = TASK, *, left: tuple[Any, ...] = (), heard: list[Any] | None = None
) -> Any:
    """What the interceptor answers, or raises, for this step."""
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, heartbeat_details=left)
    inbound = ParkingInterceptor().intercept_activity(step)
    out = Out()

    async def run() -> Any:
        inbound.init(out)  # type: ignore[arg-type]
        given = ExecuteActivityInput(fn=run, args=[task], executor=None, headers={})
        return await inbound.execute_activity(given)

    try:
        return await environment.run(run)
    finally:
        if heard is not None:
            heard.extend(out.heard)


async def raised(step: Step, task: object = TASK, *, left: tuple[Any, ...] = ()) -> BaseException:
    """What the interceptor raises for this step."""
    with pytest.raises(BaseException) as failed:  # noqa: PT011
        await answer(step, task, left=left)
    return failed.value


def as_failure(error: BaseException) -> Failure:
    """As it goes into history, without the places in the code."""
    failure = Failure()
    DataConverter.default.failure_converter.to_failure(
        error, DataConverter.default.payload_converter, failure
    )
    link = failure
    while True:
        link.stack_trace = ""
        if not link.HasField("cause"):
            return failure
        link = link.cause


@given(errors, causes, st.booleans(), some_saved)
async def test_a_failure_stays_what_it_was(
    error: Exception, cause: Exception | None, handled: bool, value: object
) -> None:
    """Message, type, details, retry behaviour, category and cause are the same; one detail more."""
    if handled:
        error.__context__ = cause  # raised while another was handled
    else:
        error.__cause__ = cause
    told = await raised(Step(error, ({CHECKPOINT: value},)))
    assert isinstance(told, ApplicationError)
    assert kept(told.details) == value
    with_ours, plain = as_failure(told), as_failure(error)
    payloads = with_ours.application_failure_info.details.payloads
    assert KEPT.encode() in payloads[-1].data
    del payloads[-1]
    if not payloads:
        with_ours.application_failure_info.ClearField("details")
    assert with_ours == plain


@pytest.mark.parametrize(
    "error",
    [
        ServerError("not ours"),
        BrokenExecutor("the worker has to end"),
        CancelledError("cancelled"),
        asyncio.CancelledError(),
        _CompleteAsyncError(),
    ],
    ids=repr,
)
async def test_what_has_no_details_passes_unchanged(error: BaseException) -> None:
    """The SDK must see it as it is."""
    found = await raised(Step(error, ({CHECKPOINT: 1},)))
    # A task of Python 3.10 that was cancelled raises another one each time that somebody awaits it.
    assert found is error or type(found) is type(error) is asyncio.CancelledError


@pytest.mark.parametrize(
    ("task", "saves", "left"),
    [
        (HostTask(rollout="r", cluster="c", host="h"), ({CHECKPOINT: 1},), ()),
        ("no task", ({CHECKPOINT: 1},), ()),
        (TASK, (), ()),
        (TASK, (5, "bare", {"of": "theirs"}, {CHECKPOINT: 1, "more": 2}), (5,)),
        (TASK, ({CHECKPOINT: 1}, {CHECKPOINT: None}), ()),
        (TASK, ({CHECKPOINT: "x" * KEPT_LIMIT},), ()),
        (TASK, ({CHECKPOINT: {1, 2}},), ()),
    ],
)
async def test_where_nothing_is_kept_the_failure_passes_unchanged(
    task: object, saves: tuple[Any, ...], left: tuple[Any, ...]
) -> None:
    """A step that does not park, one that saved nothing, and what is no checkpoint or too large."""
    error = ValueError("boom")
    assert await raised(Step(error, saves), task, left=left) is error


async def test_what_the_last_attempt_left_counts() -> None:
    """An attempt that saves nothing loses nothing; the newest value wins."""
    left = ({CHECKPOINT: 1},)
    for saves, expected in (((), 1), (({CHECKPOINT: 2}, {CHECKPOINT: 3}), 3)):
        told = await raised(Step(ValueError("boom"), saves), left=left)
        assert isinstance(told, ApplicationError)
        assert kept(told.details) == expected


async def test_an_answer_that_is_not_ok_carries_it() -> None:
    """One that is, and heartbeats, pass as they are."""
    heard: list[Any] = []
    saves = ({CHECKPOINT: 2},)
    refused = StepResult(ok=False, message="no")
    told = await answer(Step(refused, saves), heard=heard)
    assert (told.ok, told.message, told.checkpoint) == (False, "no", 2)
    assert heard == [({CHECKPOINT: 2},)]
    fine = StepResult(changed=True)
    assert await answer(Step(fine, saves)) is fine
    assert await answer(Step("not ours", saves)) == "not ours"


@given(json_values)
def test_what_is_saved_is_found_again(value: object) -> None:
    """In heartbeat details, and in those of a failure, however many are before it."""
    assert saved([{CHECKPOINT: value}]) == value
    assert kept([5, {KEPT: value}]) == value
    assert kept([{KEPT: value}]) == value
    assert saved([{CHECKPOINT: value}, 5]) is None
    assert kept([{KEPT: value}, 5]) is None
    assert saved([]) is kept([]) is None
    assert saved([value]) is None or isinstance(value, dict)
    assert fits(value)


def test_what_is_too_large_does_not_fit() -> None:
    """By its JSON; what is none does not, either."""
    assert fits("x" * (KEPT_LIMIT - 2))
    assert not fits("x" * (KEPT_LIMIT - 1))
    assert not fits({1, 2})
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert not fits(deep)


class Theirs(Interceptor):
    """An interceptor of the user's."""


def test_it_stands_before_the_interceptors_of_users() -> None:
    """Once, however often the plugin is given: theirs see each failure as it was raised."""
    theirs = Theirs()

    class Connected:
        def config(self, *, active_config: bool = False) -> dict[str, Any]:
            return {"interceptors": []}

    config: Any = {
        "client": Connected(),
        "interceptors": [theirs],
        "workflow_runner": UnsandboxedWorkflowRunner(),
    }
    alone = PatchingPlugin().configure_worker(config.copy())
    assert [*alone["interceptors"]] == [theirs], "there is nothing to do without activities of ours"
    plugin = PatchingPlugin(Hosts())
    for _ in range(2):
        config = plugin.configure_worker(config)
        assert isinstance(config["interceptors"][0], ParkingInterceptor)
        assert config["interceptors"][1] is theirs
    found = [each for each in config["interceptors"] if isinstance(each, ParkingInterceptor)]
    assert len(found) == 1
