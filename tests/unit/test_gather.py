"""``gather`` under plain asyncio, beside ``asyncio.gather`` wherever the two can be compared.

Time is counted in turns of the event loop (``await ticks(n)``), so nothing here depends on a clock.
"""

import asyncio
import doctest
import gc
import inspect
import logging
import random
import sys
import warnings
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from typing import Any

import pytest
from hypothesis import example, given, note
from hypothesis import strategies as st
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, RetryState

from temporal_patching.exceptions import InvalidRequest
from temporal_patching.workflow import gather

Gather = Callable[..., Awaitable[Any]]

both = pytest.mark.parametrize(
    "either", [gather, asyncio.gather], ids=["temporal_patching", "asyncio"]
)


class Boom(Exception):
    """A real failure."""


class Later(Exception):
    """A failure that comes after the first one."""


class Brittle(Exception):
    """An exception that cannot even be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


async def ticks(count: int) -> None:
    """Let the event loop turn so often."""
    for _ in range(count):
        await asyncio.sleep(0)


async def give(value: Any, *, after: int = 0) -> Any:
    """Return a value after some turns."""
    await ticks(after)
    return value


async def fail(error: BaseException, *, after: int = 0) -> Any:
    """Raise an error after some turns."""
    await ticks(after)
    raise error


class Sibling:
    """Waits for ever, and records how that ended."""

    def __init__(self, *, clean_up: int = 0, then: BaseException | None = None) -> None:
        self.started = asyncio.Event()
        self.cancels: list[str] = []
        self.ended = self.cleaned = False
        self._clean_up = clean_up
        self._then = then

    async def run(self) -> str:
        self.started.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as error:
            self.cancels.append(str(error))
            await ticks(self._clean_up)
            self.cleaned = True
            raise self._then or error  # noqa: B904
        finally:
            self.ended = True
        return "never"


class Deaf:
    """Swallows each cancel and goes on for a number of turns."""

    def __init__(self, turns: int) -> None:
        self.turns = turns
        self.cancels = 0

    async def run(self) -> str:
        while self.turns:
            self.turns -= 1
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self.cancels += 1
        return "done all the same"


def cancelled_activity() -> ActivityError:
    """What an activity raises whose cancel has reached it."""
    error = ActivityError(
        "Activity task failed",
        scheduled_event_id=1,
        started_event_id=2,
        identity="",
        activity_type="update",
        activity_id="1",
        retry_state=RetryState.CANCEL_REQUESTED,
    )
    error.__cause__ = CancelledError("cancelled")
    return error


@pytest.fixture
def nothing_unawaited() -> Iterator[None]:
    """Fails the test when a coroutine was dropped without having been started or closed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


# The same as asyncio.gather.


@both
async def test_results_come_in_the_order_given(either: Gather) -> None:
    """The last to be given may be the first to finish: the order stays."""
    assert await either(give("a", after=5), give("b", after=1), give("c")) == ["a", "b", "c"]


@both
async def test_nothing_given_gives_nothing(either: Gather) -> None:
    """A gather of nothing is an empty list."""
    assert await either() == []


@both
async def test_takes_whatever_can_be_awaited(either: Gather) -> None:
    """Coroutines, tasks, futures (also finished ones) and objects with ``__await__`` mix."""

    class Own:
        def __await__(self) -> Generator[Any, None, str]:
            return give("own").__await__()

    future = asyncio.get_running_loop().create_future()
    future.set_result("future")
    task = asyncio.create_task(give("task"))
    assert await either(give("coroutine"), task, future, Own()) == [
        "coroutine",
        "task",
        "future",
        "own",
    ]


@both
async def test_the_same_awaitable_twice_is_awaited_once(either: Gather) -> None:
    """One coroutine or one task in two places fills both."""
    coroutine, task = give("c"), asyncio.create_task(give("t"))
    assert await either(coroutine, task, coroutine, task) == ["c", "t", "c", "t"]


@both
async def test_a_thousand_awaitables(either: Gather) -> None:
    """A thousand awaitables that finish in a shuffled order keep theirs."""
    delays = list(range(1000))
    random.Random(7).shuffle(delays)
    assert await either(*[give(n, after=n) for n in delays]) == delays


@both
async def test_the_first_failure_in_time_is_raised_unchanged(either: Gather) -> None:
    """The failure that happened first is raised, not the one of the first argument."""
    first = Boom("first")
    with pytest.raises(Boom) as raised:
        await either(fail(Boom("slow"), after=3), give(1), fail(first, after=1))
    assert raised.value is first
    await ticks(5)  # asyncio.gather has left the slow one behind


@both
async def test_cancelling_the_gather_cancels_what_it_awaits(either: Gather) -> None:
    """A cancel of the gather reaches each awaitable, and its message with it."""
    siblings = [Sibling(), Sibling()]

    async def gathered() -> Any:
        return await either(*[sibling.run() for sibling in siblings])

    task = asyncio.create_task(gathered())
    for sibling in siblings:
        await sibling.started.wait()
    task.cancel("stop it")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [sibling.cancels for sibling in siblings] == [["stop it"], ["stop it"]]


@both
async def test_a_cancelled_gather_raises_even_if_all_finished(either: Gather) -> None:
    """Awaitables that swallow the cancel do not swallow the gather's."""
    deaf = Deaf(5)

    async def gathered() -> Any:
        return await either(deaf.run(), give(1))

    task = asyncio.create_task(gathered())
    await ticks(3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (deaf.turns, deaf.cancels) == (0, 1)


@both
async def test_a_cancel_in_the_turn_of_the_last_result_is_not_lost(either: Gather) -> None:
    """A cancel that arrives together with the last result wins."""
    future = asyncio.get_running_loop().create_future()

    async def gathered() -> Any:
        return await either(future)

    task = asyncio.create_task(gathered())
    await ticks(2)
    future.set_result("done")
    future.add_done_callback(lambda _: task.cancel())
    with pytest.raises(asyncio.CancelledError):
        await task


@both
async def test_an_awaitable_that_is_cancelled_on_its_own_ends_the_gather(either: Gather) -> None:
    """Nobody failed and nobody cancelled the gather: the cancel of the one is what it raises."""
    one = asyncio.create_task(Sibling().run())
    await ticks(1)
    one.cancel("only this one")
    with pytest.raises(asyncio.CancelledError):
        await either(one, give(1))


@both
async def test_a_failing_clean_up_is_raised_though_the_gather_was_cancelled(either: Gather) -> None:
    """A real failure during the clean-up wins over the cancel, as with a plain ``await``."""
    error = Boom("cannot clean up")
    sibling = Sibling(then=error)

    async def gathered() -> Any:
        return await either(sibling.run())

    task = asyncio.create_task(gathered())
    await sibling.started.wait()
    task.cancel()
    with pytest.raises(Boom) as raised:
        await task
    assert raised.value is error


@both
async def test_what_is_not_awaitable_is_refused(either: Gather) -> None:
    """A plain value is a TypeError."""
    task = asyncio.create_task(give(1))
    with pytest.raises(TypeError):
        await either(task, 5)
    await task


# Not the same as asyncio.gather.


async def test_a_failure_leaves_siblings_running_in_asyncio_and_none_here() -> None:
    """After a failure asyncio.gather's siblings still run; here all have ended, cleaned up."""
    theirs, ours = Sibling(clean_up=3), Sibling(clean_up=3)
    left = asyncio.create_task(theirs.run())
    with pytest.raises(Boom):
        await asyncio.gather(fail(Boom("no space"), after=2), left)
    assert (theirs.ended, theirs.cancels) == (False, [])
    left.cancel()
    with pytest.raises(Boom):
        await gather(fail(Boom("no space"), after=2), asyncio.create_task(ours.run()))
    assert ours.ended
    assert ours.cancels == ["fail (1 of 2) failed: Boom: no space"]


async def test_nothing_starts_before_it_is_awaited_here() -> None:
    """asyncio.gather starts at the call, gather when it is awaited."""
    log: list[str] = []

    async def start(name: str) -> None:
        log.append(name)

    theirs = asyncio.gather(start("asyncio"))
    ours = gather(start("ours"))
    await ticks(2)
    assert log == ["asyncio"]
    await theirs
    await ours
    assert log == ["asyncio", "ours"]


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
async def test_limit_bounds_how_many_run(limit: int) -> None:
    """Never more than the limit run, and as many as it allows do."""
    running, most = 0, 0

    async def run(turns: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await ticks(turns)
        running -= 1
        return turns

    turns = [1 + n * 7 % 5 for n in range(30)]
    assert await gather(*[run(n) for n in turns], limit=limit) == turns
    assert most == min(limit, 30)
    running, most = 0, 0
    await asyncio.gather(*[run(n) for n in turns])
    assert most == 30


async def test_limit_one_is_one_after_the_other() -> None:
    """With limit=1 each starts when the one before has ended."""
    log: list[str] = []

    async def run(name: str) -> None:
        log.append(f"{name}+")
        await ticks(2)
        log.append(f"{name}-")

    await gather(run("a"), run("b"), run("c"), limit=1)
    assert log == ["a+", "a-", "b+", "b-", "c+", "c-"]


async def test_limit_counts_tasks_but_cannot_hold_them_back() -> None:
    """Tasks run from the start, whatever the limit; coroutines wait until they have ended."""
    log: list[str] = []

    async def run(name: str, turns: int) -> str:
        log.append(f"{name}+")
        await ticks(turns)
        log.append(f"{name}-")
        return name

    tasks = [asyncio.create_task(run(name, 3)) for name in ("t1", "t2")]
    assert await gather(run("c", 0), *tasks, limit=1) == ["c", "t1", "t2"]
    assert log == ["t1+", "t2+", "t1-", "t2-", "c+", "c-"]


async def test_cancelling_a_limited_gather_starts_nothing_more(nothing_unawaited: None) -> None:
    """A cancel closes what had not started, without a word, and ends what had."""
    first, second = Sibling(clean_up=2), Sibling()
    waiting = second.run()
    task = asyncio.create_task(gather(first.run(), waiting, limit=1))
    await first.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert first.ended
    assert not second.started.is_set()
    assert inspect.getcoroutinestate(waiting) == inspect.CORO_CLOSED


async def test_a_failure_starts_nothing_more(nothing_unawaited: None) -> None:
    """A failure under a limit closes what had not started."""
    other = Sibling()
    with pytest.raises(Boom):
        await gather(fail(Boom("first")), other.run(), gather(other.run(), give(2)), limit=1)
    assert not other.started.is_set()


async def test_a_future_that_has_failed_already_starts_nothing(nothing_unawaited: None) -> None:
    """What is known to have failed when the gather begins keeps the rest from beginning."""
    other = Sibling()
    failed = asyncio.get_running_loop().create_future()
    failed.set_exception(Boom("long ago"))
    with pytest.raises(Boom, match="long ago"):
        await gather(other.run(), failed)
    assert not other.started.is_set()


async def test_cancelled_before_they_started(nothing_unawaited: None) -> None:
    """Awaitables that are cancelled before their first line never run, and are no failure."""
    other = Sibling()

    def cancel_all() -> None:  # as the end of ``asyncio.run`` and a workflow's eviction do
        for task in asyncio.all_tasks() - {test}:
            task.cancel()

    test = asyncio.current_task()
    gathered = asyncio.create_task(gather(other.run(), gather(other.run())))
    # Runs after the gather's first step, which made the tasks, and before theirs.
    asyncio.get_running_loop().call_soon(cancel_all)
    with pytest.raises(asyncio.CancelledError):
        await gathered
    failed = asyncio.get_running_loop().create_future()
    failed.set_exception(Boom("long ago"))
    with pytest.raises(Boom):
        await gather(failed, asyncio.create_task(other.run()))
    assert not other.started.is_set()


async def test_a_gather_that_never_took_a_step_warns_of_nothing(nothing_unawaited: None) -> None:
    """A gather that is cancelled or closed before its first step closes its coroutines."""
    other = Sibling()
    task = asyncio.create_task(gather(other.run(), other.run()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gather(other.run()).close()
    assert not other.started.is_set()


async def test_failures_that_follow_are_not_lost(caplog: pytest.LogCaptureFixture) -> None:
    """They are logged with their traceback and listed in the notes of the first one."""
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(Boom) as raised,
    ):
        await gather(
            fail(Boom("first"), after=2),
            Sibling(then=Later("cannot restore")).run(),
            Sibling().run(),
        )
    text = "Sibling.run (2 of 3) failed, too: Later: cannot restore"
    assert vars(raised.value)["__notes__"] == [text]
    assert [record.getMessage() for record in caplog.records] == [f"gather: {text}"]
    assert "raise self._then" in caplog.text


async def test_two_failures_in_one_turn(caplog: pytest.LogCaptureFixture) -> None:
    """Of two that fail in the same turn the first is raised and the second noted."""
    with pytest.raises(Boom) as raised:
        await gather(fail(Boom("one")), fail(Later("two")))
    assert vars(raised.value)["__notes__"] == ["fail (2 of 2) failed, too: Later: two"]


async def test_one_failure_that_hits_several_is_noted_once() -> None:
    """A shared future that fails several awaitables is one failure, not several."""
    shared = asyncio.get_running_loop().create_future()

    async def wait() -> Any:
        return await shared

    asyncio.get_running_loop().call_soon(shared.set_exception, Boom("shared"))
    with pytest.raises(Boom) as raised:
        await gather(wait(), wait(), wait())
    assert "__notes__" not in vars(raised.value)


async def test_a_temporal_cancellation_is_no_failure() -> None:
    """An activity's cancellation that comes first does not mask the failure that follows."""
    error = Boom("real")
    with pytest.raises(Boom) as raised:
        await gather(fail(cancelled_activity()), Sibling(then=error).run())
    assert raised.value is error
    with pytest.raises(ActivityError):
        await gather(fail(cancelled_activity()), Sibling().run())


async def test_one_cancelled_on_its_own_cancels_the_rest() -> None:
    """asyncio.gather would leave the others running; here they end, and know why."""
    other = Sibling(clean_up=2)
    one = asyncio.create_task(Sibling().run())
    await ticks(1)
    asyncio.get_running_loop().call_soon(one.cancel)
    with pytest.raises(asyncio.CancelledError):
        await gather(one, other.run())
    assert other.ended
    assert other.cancels == ["awaitable (1 of 2) was cancelled"]


async def test_a_second_cancel_neither_orphans_nor_tears_the_clean_up() -> None:
    """Cancelled again and again, the gather still awaits the clean-up and raises the first one."""
    sibling = Sibling(clean_up=20)
    task = asyncio.create_task(gather(sibling.run()))
    await sibling.started.wait()
    for n in range(5):
        task.cancel(f"cancel {n}")
        await ticks(2)
    with pytest.raises(asyncio.CancelledError) as raised:
        await task
    assert sibling.cleaned
    assert sibling.cancels == ["cancel 0"]
    if sys.version_info >= (3, 11):  # 3.10 makes a new CancelledError for whoever awaits the task
        assert raised.value.args == ("cancel 0",)


async def test_a_cancel_while_a_failure_is_handled_does_not_mask_it() -> None:
    """The failure came first: it is raised, after the siblings have cleaned up undisturbed."""
    sibling = Sibling(clean_up=10)
    task = asyncio.create_task(gather(fail(Boom("first"), after=1), sibling.run()))
    await ticks(6)
    assert sibling.cancels
    task.cancel()
    with pytest.raises(Boom):
        await task
    assert sibling.cleaned
    assert len(sibling.cancels) == 1


async def test_a_deaf_sibling_is_awaited() -> None:
    """A sibling that swallows its cancel is cancelled once and awaited to its own end."""
    deaf = Deaf(20)
    with pytest.raises(Boom):
        await gather(deaf.run(), fail(Boom("first"), after=1))
    assert (deaf.turns, deaf.cancels) == (0, 1)


async def test_a_timeout_around_it_is_a_timeout() -> None:
    """``asyncio.wait_for`` around a gather of Temporal operations raises TimeoutError."""
    sibling = Sibling(then=cancelled_activity())
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(gather(sibling.run()), timeout=0.01)
    assert sibling.ended
    if sys.version_info >= (3, 11):
        sibling = Sibling(then=cancelled_activity())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await gather(sibling.run())
        assert sibling.ended


async def test_a_shielded_awaitable_outlives_the_gather() -> None:
    """``asyncio.shield`` exempts an awaitable, as it does everywhere: only the shield ends."""
    kept = asyncio.create_task(give("kept", after=20))
    with pytest.raises(Boom):
        await gather(asyncio.shield(kept), fail(Boom("first")))
    assert await kept == "kept"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no exception groups")
async def test_a_group_is_opened() -> None:
    """Of a group the first real failure inside is raised; the others in it are noted."""
    if sys.version_info >= (3, 11):
        inner = ExceptionGroup("inner", [Boom("real"), Later("also")])  # noqa: F821
        group = BaseExceptionGroup("outer", [asyncio.CancelledError(), inner])  # noqa: F821
        with pytest.raises(Boom) as raised:
            await gather(fail(group))
        assert vars(raised.value)["__notes__"] == ["fail (1 of 1) failed, too: Later: also"]
        only_cancels = BaseExceptionGroup("", [asyncio.CancelledError()])  # noqa: F821
        with pytest.raises(asyncio.CancelledError):
            await gather(fail(only_cancels))
        with pytest.raises(ExceptionGroup):  # noqa: F821
            await asyncio.gather(fail(inner))


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
def test_base_exceptions_end_the_siblings_first(kind: type[BaseException]) -> None:
    """Whatever a coroutine raises, its siblings have ended when it leaves the gather."""

    async def main() -> Sibling:
        sibling = Sibling(clean_up=3)
        with pytest.raises(kind):
            await gather(fail(kind("out"), after=1), sibling.run())
        return sibling

    loop = asyncio.new_event_loop()
    try:
        assert loop.run_until_complete(main()).ended
    finally:
        loop.close()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_asyncio_throws_them_through_the_event_loop(kind: type[BaseException]) -> None:
    """With asyncio.gather the same exceptions stop the loop under everybody's feet."""
    sibling: list[asyncio.Task[str]] = []

    async def main() -> None:
        sibling.append(asyncio.create_task(Sibling().run()))
        with pytest.raises(kind):
            await asyncio.gather(fail(kind("out"), after=1), *sibling)
        pytest.fail("never reached")

    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    try:
        with pytest.raises(kind):
            loop.run_until_complete(task)
        assert not task.done()
        assert not sibling[0].done()
    finally:
        for left in asyncio.all_tasks(loop):
            left.cancel()
        loop.run_until_complete(asyncio.gather(task, *sibling, return_exceptions=True))
        loop.close()


async def test_an_exception_without_text_does_not_stop_the_stop() -> None:
    """An exception whose ``__str__`` raises still cancels the siblings."""
    sibling = Sibling()
    with pytest.raises(Brittle):
        await gather(fail(Brittle(), after=1), sibling.run())
    assert sibling.cancels == ["fail (1 of 2) failed: Brittle"]


async def test_the_reason_is_bounded() -> None:
    """A failure with a huge message does not multiply into the reason of each sibling."""
    sibling = Sibling()
    with pytest.raises(ApplicationError):
        await gather(fail(ApplicationError("x" * 10_000, type="Huge"), after=1), sibling.run())
    (reason,) = sibling.cancels
    assert reason.startswith("fail (1 of 2) failed: Huge: xxx")
    assert len(reason) == 300


async def test_gathers_nest() -> None:
    """A failure inside an inner gather ends the outer one, and everything in both."""
    siblings = [Sibling(clean_up=n) for n in range(4)]
    with pytest.raises(Boom):
        await gather(
            gather(siblings[0].run(), siblings[1].run()),
            gather(siblings[2].run(), fail(Boom("inner"), after=4)),
            siblings[3].run(),
        )
    assert all(sibling.ended for sibling in siblings)
    assert [len(sibling.cancels) for sibling in siblings] == [1, 1, 1, 1]


@pytest.mark.parametrize("limit", [0, -3])
async def test_a_limit_that_lets_nothing_run_is_refused(
    limit: int, nothing_unawaited: None
) -> None:
    """A limit below one is refused with what is allowed, before anything is started."""
    other = Sibling()
    with pytest.raises(InvalidRequest, match=rf"'limit' must be >= 1, .* \(got {limit}\)") as error:
        gather(other.run(), limit=limit)
    assert isinstance(error.value, ValueError)
    del error


async def test_the_one_that_is_not_awaitable_is_named(nothing_unawaited: None) -> None:
    """The message says which argument it was."""
    with pytest.raises(TypeError, match=r"'awaitables\[1\]' must be awaitable \(got 5\)"):
        gather(give(1), 5)  # type: ignore[call-overload]


async def test_a_failure_is_not_kept_alive_by_a_cycle() -> None:
    """The failure goes when nobody holds it any more, without the garbage collector's help."""

    async def fail_by_itself() -> None:
        raise Boom("first")

    gone: list[weakref.ref[BaseException]] = []
    gc.collect()
    gc.disable()
    try:
        try:
            await gather(fail_by_itself(), Sibling().run())
        except Boom as error:
            gone.append(weakref.ref(error))
        await ticks(2)
        assert gone[0]() is None
    finally:
        gc.enable()


async def test_the_example_in_the_docstring_runs() -> None:
    """What the docstring shows is what happens."""
    example = doctest.DocTestParser().get_doctest(
        gather.__doc__ or "", {"asyncio": asyncio, "gather": gather}, "gather", None, 0
    )
    assert example.examples
    # In a thread of its own, since the example starts an event loop.
    results = await asyncio.to_thread(doctest.DocTestRunner().run, example)
    assert results.failed == 0


# Whatever happens.


class Actor:
    """One awaitable of a random plan."""

    def __init__(self, plan: "Plan", name: int, turns: int, fails: bool, at_cancel: str) -> None:
        self.plan, self.name, self.turns, self.fails = plan, name, turns, fails
        self.at_cancel = at_cancel
        self.cancels = 0
        self.started = self.ended = False

    async def run(self) -> int:
        self.started = True
        self.plan.running += 1
        self.plan.most = max(self.plan.most, self.plan.running)
        try:
            try:
                await ticks(self.turns)
            except asyncio.CancelledError:
                self.cancels += 1
                try:
                    await ticks(self.turns % 3)
                except asyncio.CancelledError:
                    self.cancels += 1
                    raise
                if self.at_cancel == "fail":
                    self._raise()
                if self.at_cancel == "heed":
                    raise
            if self.fails:
                self._raise()
            return self.name
        finally:
            self.plan.running -= 1
            self.ended = True

    def _raise(self) -> None:
        error = Boom(str(self.name))
        self.plan.failures.append(error)
        raise error


class Plan:
    def __init__(self, actors: list[tuple[int, bool, str, bool]]) -> None:
        self.running = self.most = 0
        self.failures: list[Boom] = []
        self.actors = [Actor(self, n, *actor[:3]) for n, actor in enumerate(actors)]
        self.as_task = [actor[3] for actor in actors]

    async def carry_out(self, limit: int | None, cancel_at: list[int]) -> BaseException | list[int]:
        coroutines: list[Coroutine[Any, Any, int]] = [actor.run() for actor in self.actors]
        awaitables: list[Awaitable[int]] = [
            asyncio.create_task(coroutine) if as_task else coroutine
            for coroutine, as_task in zip(coroutines, self.as_task, strict=True)
        ]
        task = asyncio.create_task(gather(*awaitables, limit=limit))
        await ticks(1)
        for turns in cancel_at:
            await ticks(turns)
            task.cancel()
        try:
            return await task
        except (Boom, asyncio.CancelledError) as error:
            return error
        finally:
            assert self.running == 0, "something still runs"
            assert asyncio.all_tasks() == {asyncio.current_task()}
            for coroutine in coroutines:
                assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


@given(
    actors=st.lists(
        st.tuples(
            st.integers(0, 8),
            st.sampled_from([False, False, False, True]),
            st.sampled_from(["heed", "heed", "swallow", "fail"]),
            st.booleans(),
        ),
        max_size=12,
    ),
    limit=st.none() | st.integers(1, 6),
    cancel_at=st.lists(st.integers(0, 12), max_size=3),
)
@example(actors=[], limit=None, cancel_at=[0])
@example(actors=[(0, False, "heed", False)], limit=1, cancel_at=[0, 0, 0])
def test_whatever_happens(
    actors: list[tuple[int, bool, str, bool]], limit: int | None, cancel_at: list[int]
) -> None:
    """Order kept, limit kept, nothing left, first failure raised, others noted, one cancel each."""
    plan = Plan(actors)
    loop = asyncio.new_event_loop()
    try:
        outcome = loop.run_until_complete(plan.carry_out(limit, cancel_at))
    finally:
        loop.close()
    note(f"{outcome!r}, at most {plan.most} at once")
    if limit is not None and not any(plan.as_task):
        assert plan.most <= limit
    assert all(actor.ended for actor in plan.actors if actor.started)
    assert all(actor.cancels <= 1 for actor in plan.actors)
    if plan.failures:
        assert outcome is plan.failures[0]
        notes = vars(outcome).get("__notes__", [])
        assert len(notes) == len(plan.failures) - 1
        for noted, failure in zip(notes, plan.failures[1:], strict=True):
            assert noted.endswith(f"failed, too: Boom: {failure}")
    elif not cancel_at:
        assert outcome == list(range(len(actors)))
    else:
        assert isinstance(outcome, asyncio.CancelledError) or outcome == list(range(len(actors)))
