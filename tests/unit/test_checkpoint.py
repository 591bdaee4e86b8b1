"""A checkpoint in an ActivityEnvironment: values, cost, errors; nothing outlives its block."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio import activity
from temporalio.activity import ActivityCancellationDetails
from temporalio.exceptions import CancelledError
from temporalio.testing import ActivityEnvironment

from temporal_patching.activity import Checkpoint
from temporal_patching.activity._checkpoint import resume_from
from temporal_patching.exceptions import CheckpointMismatch, InvalidRequest
from temporal_patching.models import Host


@attrs.frozen
class Frozen:
    done: int
    left: tuple[str, ...] = ()


@attrs.define
class Changing:
    done: list[str] = attrs.field(factory=list)


@attrs.define(eq=False)
class ChangingByIdentity:
    done: int = 0


@dataclasses.dataclass
class Data:
    done: int
    note: str | None = None


class Heard:
    """An environment that notes heartbeats."""

    def __init__(
        self, details: Sequence[Any] = (), *, heartbeat_timeout: timedelta | None = None
    ) -> None:
        self.environment = ActivityEnvironment()
        self.environment.info = dataclasses.replace(
            self.environment.info, heartbeat_details=details, heartbeat_timeout=heartbeat_timeout
        )
        self.environment.on_heartbeat = lambda *given: self.beats.append(given)
        self.beats: list[tuple[Any, ...]] = []

    def run(self, work: Callable[[], Any]) -> Any:
        return self.environment.run(work)

    @property
    def last(self) -> Any:
        (details,) = self.beats[-1]
        return details["checkpoint"]


def beating_threads() -> list[threading.Thread]:
    """The threads that heartbeat for a checkpoint."""
    return [thread for thread in threading.enumerate() if thread.name == "checkpoint"]


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Waits until the condition holds, and fails the test if it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        await asyncio.sleep(0.005)


# Values


def test_first_attempt_starts_from_the_default() -> None:
    """Without heartbeat details the value is the default; nothing is resumed, nothing is sent."""
    heard = Heard()

    def work() -> tuple[int, bool]:
        with Checkpoint(int, default=3) as checkpoint:
            return checkpoint.value, checkpoint.resumed

    assert heard.run(work) == (3, False)
    assert heard.beats == []


def test_without_default_the_value_is_none() -> None:
    """Without a default the value of a first attempt is None."""

    def work() -> str | None:
        with Checkpoint(str) as checkpoint:
            return checkpoint.value

    assert Heard().run(work) is None


VALUES = [
    (int, 5),
    (float, 5),
    (bool, True),
    (str, "curl"),
    (list[str], ["curl", "vim"]),
    (tuple[str, ...], ("curl", "vim")),
    (dict[str, list[int]], {"curl": [1, 2]}),
    (Frozen, Frozen(done=3, left=("curl",))),
    (Changing, Changing(done=["curl"])),
    (ChangingByIdentity, None),
    (Data, Data(done=3, note="x")),
    (list[Data], [Data(done=3)]),
    (Host, Host(name="web-1", labels={"zone": "a"})),
]


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=lambda each: str(each)[:20])
def test_next_attempt_gets_the_value(kind: Any, value: Any) -> None:
    """What one attempt saves, the next gets: equal, of the same type, and marked as resumed."""
    if kind is ChangingByIdentity:
        value = ChangingByIdentity(done=2)
    first = Heard()

    def plain(found: Any) -> Any:
        return attrs.asdict(found) if kind is ChangingByIdentity else found

    def save() -> None:
        with Checkpoint(kind) as checkpoint:
            checkpoint.save(value)
            assert checkpoint.value is value

    def load() -> tuple[Any, bool]:
        with Checkpoint(kind) as checkpoint:
            return checkpoint.value, checkpoint.resumed

    first.run(save)
    found, resumed = Heard(first.beats[-1]).run(load)
    assert resumed
    assert type(found) is (float if kind is float else type(value))
    assert plain(found) == plain(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.volume
@given(st.lists(st.dictionaries(st.text(), JSON, min_size=1), min_size=1, max_size=5))
def test_any_json_comes_back(values: list[dict[str, Any]]) -> None:
    """For any JSON values saved one after another, the next attempt gets the last one."""
    first = Heard()

    def save() -> None:
        with Checkpoint(dict[str, Any]) as checkpoint:
            for value in values:
                checkpoint.save(value)

    def load() -> Any:
        with Checkpoint(dict[str, Any]) as checkpoint:
            return checkpoint.value

    first.run(save)
    assert Heard(first.beats[-1]).run(load) == values[-1]


@pytest.mark.parametrize(
    "value", [["curl"], Changing(done=["curl"])], ids=["list", "mutable class"]
)
def test_value_is_kept_as_it_was_saved(value: Any) -> None:
    """What is changed after save() and before the heartbeat does not get into the checkpoint."""
    heard = Heard()

    def work() -> None:
        with Checkpoint(type(value) if isinstance(value, Changing) else list[str]) as checkpoint:
            done = value if isinstance(value, list) else value.done
            for package in ("curl", "vim", "git"):
                checkpoint.save(value)
                done.append(package)  # this one has begun and is not done

    heard.run(work)
    kept = heard.last if isinstance(value, list) else heard.last["done"]
    assert kept == ["curl", "curl", "vim"]


def test_object_compared_by_identity_is_kept_as_it_was() -> None:
    """A mutable class whose hash is its identity is copied, too."""
    heard = Heard()

    def work() -> None:
        with Checkpoint(ChangingByIdentity) as checkpoint:
            progress = ChangingByIdentity()
            for _ in range(3):
                checkpoint.save(progress)
                progress.done += 1

    heard.run(work)
    assert heard.last == {"done": 2}


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (int, "five", "(got 'five')"),
        (int, "5", "(got '5')"),
        (int, True, "(got True)"),
        (int, None, "(got None)"),
        (Data, {"done": "x"}, "Data"),
        (set[str], {"curl"}, "must be made of what JSON knows"),
        (object, object(), "must be made of what JSON knows"),
    ],
    ids=lambda each: str(each)[:20],
)
def test_what_cannot_be_read_back_is_refused(kind: Any, value: Any, said: str) -> None:
    """A value that the next attempt could not read is refused by save(), not after a crash."""
    heard = Heard()

    def work() -> None:
        with Checkpoint(kind) as checkpoint:
            checkpoint.save(value)

    with pytest.raises(InvalidRequest, match="save: ") as refused:
        heard.run(work)
    assert said in str(refused.value)
    assert refused.value.non_retryable
    assert heard.beats == []


def test_a_wrong_value_after_a_right_one_is_refused() -> None:
    """The check is not over with the first value."""
    heard = Heard()

    def work() -> None:
        with Checkpoint(int, default=0) as checkpoint:
            checkpoint.save(1)
            checkpoint.save("two")  # type: ignore[arg-type]

    with pytest.raises(InvalidRequest, match="got 'two'"):
        heard.run(work)
    assert heard.last == 1


# Details of another shape

SHAPES = [
    [5],
    [{"step": 3}],
    [{"checkpoint": "five"}],
    [{"checkpoint": 5, "more": 1}],
    [{"checkpoint": 5}, 6],
    [None],
]


@pytest.mark.parametrize("details", SHAPES, ids=str)
def test_mismatch_fails(details: list[Any]) -> None:
    """Details of another shape are refused with what was found and what to do, and not retried."""

    def work() -> None:
        with Checkpoint(int, default=0):
            raise AssertionError("must not be reached")

    with pytest.raises(CheckpointMismatch) as mismatch:
        Heard(details).run(work)
    assert mismatch.value.non_retryable
    assert "do not fit Checkpoint(int)" in str(mismatch.value)
    assert "on_mismatch='default'" in str(mismatch.value)
    assert not beating_threads()


@pytest.mark.parametrize("details", SHAPES, ids=str)
def test_mismatch_starts_anew(details: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    """With on_mismatch="default" the value is the default, and a warning says what was found."""

    def work() -> tuple[int, bool]:
        with Checkpoint(int, default=7, on_mismatch="default") as checkpoint:
            return checkpoint.value, checkpoint.resumed

    with caplog.at_level(logging.WARNING):
        assert Heard(details).run(work) == (7, False)
    assert "do not fit Checkpoint(int)" in caplog.text


# A host that was parked, and is retried


@pytest.mark.parametrize(
    ("details", "retried_with", "expected"),
    [
        ([], 3, (3, True)),
        ([], None, (0, False)),
        ([{"checkpoint": 5}], 3, (5, True)),
        ([{"checkpoint": 5}], None, (5, True)),
    ],
)
def test_a_retried_step_resumes(
    details: list[Any], retried_with: object, expected: tuple[int, bool]
) -> None:
    """From what its last attempt left, else from what it had saved before its host was parked."""

    def work() -> tuple[int, bool]:
        resume_from(retried_with)
        with Checkpoint(int, default=0) as checkpoint:
            return checkpoint.value, checkpoint.resumed

    assert Heard(details).run(work) == expected


def test_a_retried_step_resumes_with_its_type() -> None:
    """As from heartbeat details."""

    def work() -> Frozen | None:
        resume_from({"done": 3, "left": ["curl"]})
        with Checkpoint(Frozen) as checkpoint:
            return checkpoint.value

    assert Heard().run(work) == Frozen(done=3, left=("curl",))


async def test_a_retried_step_repeats_what_it_resumed_from() -> None:
    """Until it saves: its heartbeats do not forget what is done."""
    heard = Heard()

    async def work() -> None:
        resume_from(3)
        every = timedelta(seconds=0.01)
        async with Checkpoint(int, default=0, heartbeat_every=every) as checkpoint:
            await until(lambda: len(heard.beats) >= 2)
            assert heard.last == 3
            checkpoint.save(4)

    await heard.run(work)
    assert heard.last == 4


def test_a_retried_step_of_another_shape() -> None:
    """It says what it is that does not fit, and that a retry by the step's name begins anew."""

    def work(**options: Any) -> tuple[int, bool]:
        resume_from("three")
        with Checkpoint(int, default=7, **options) as checkpoint:
            return checkpoint.value, checkpoint.resumed

    with pytest.raises(CheckpointMismatch) as mismatch:
        Heard().run(work)
    said = str(mismatch.value)
    assert "what was saved before the host was parked does not fit Checkpoint(int)" in said
    assert "Retry from the step by its name, or choose on_mismatch='default'" in said
    assert Heard().run(lambda: work(on_mismatch="default")) == (7, False)


# Heartbeats


def test_a_million_saves_are_a_few_heartbeats() -> None:
    """A million saves send no more than one heartbeat in 50 ms, and the last value in the end."""
    heard = Heard()

    def work() -> float:
        started = time.monotonic()
        with Checkpoint(int, default=0) as checkpoint:
            for done in range(1_000_000):
                checkpoint.save(done)
        return time.monotonic() - started

    took = heard.run(work)
    assert heard.last == 999_999
    assert len(heard.beats) <= took / 0.05 + 2


async def test_a_million_saves_in_the_loop_are_two_heartbeats() -> None:
    """An async activity that never awaits sends its first and its last value."""
    heard = Heard()

    async def work() -> None:
        async with Checkpoint(int, default=0) as checkpoint:
            for done in range(1_000_000):
                checkpoint.save(done)

    await heard.run(work)
    assert heard.beats == [({"checkpoint": 0},), ({"checkpoint": 999_999},)]


async def test_a_throttled_value_is_sent_without_another_save() -> None:
    """Of a burst in an async activity the newest value follows by itself, soon, and only once."""
    heard = Heard()

    async def work() -> float:
        async with Checkpoint(int, default=0) as checkpoint:
            for done in range(100):
                checkpoint.save(done)
            saved = time.monotonic()
            await until(lambda: heard.beats[-1:] == [({"checkpoint": 99},)])
            late = time.monotonic() - saved
            await asyncio.sleep(0.2)
        return late

    assert await heard.run(work) < 0.05 + 0.3
    assert len(heard.beats) == 2


def test_a_throttled_value_is_sent_while_a_thread_works() -> None:
    """Of a burst in a thread the newest value follows while the activity does something else."""
    heard = Heard()

    def work() -> float:
        with Checkpoint(int, default=0) as checkpoint:
            for done in range(100):
                checkpoint.save(done)
            saved = time.monotonic()
            while heard.beats[-1:] != [({"checkpoint": 99},)]:
                assert time.monotonic() < saved + 5
                time.sleep(0.005)
            return time.monotonic() - saved

    assert heard.run(work) < 0.05 + 0.3


async def test_a_short_heartbeat_timeout_shortens_the_gap() -> None:
    """With a heartbeat timeout of 0.2 s values follow each other within a twentieth of it."""
    heard = Heard(heartbeat_timeout=timedelta(seconds=0.2))

    async def work() -> None:
        async with Checkpoint(int, default=0) as checkpoint:
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                checkpoint.save(1)
                await asyncio.sleep(0.001)

    await heard.run(work)
    assert len(heard.beats) > 15  # 50 ms would give 11


async def test_automatic_heartbeats_in_the_loop() -> None:
    """One long await heartbeats by itself with the newest value, and stops with the block."""
    heard = Heard()

    async def work() -> None:
        every = timedelta(seconds=0.06)
        async with Checkpoint(int, default=0, heartbeat_every=every) as checkpoint:
            await until(lambda: len(heard.beats) >= 2)
            assert set(heard.beats) == {()}  # nothing is saved yet, so there is nothing to say
            checkpoint.save(4)
            heard.beats.clear()
            await until(lambda: len(heard.beats) >= 3)
            assert all(beat == ({"checkpoint": 4},) for beat in heard.beats[1:])
        heard.beats.clear()
        await asyncio.sleep(0.2)

    await heard.run(work)
    assert heard.beats == []


async def test_automatic_heartbeats_in_a_thread() -> None:
    """One long blocking call heartbeats by itself with the newest value, and stops in the end."""
    heard = Heard()

    def work() -> None:
        every = timedelta(seconds=0.06)
        with Checkpoint(int, default=0, heartbeat_every=every) as checkpoint:
            checkpoint.save(4)
            time.sleep(0.4)
            assert len(heard.beats) >= 3
            assert set(map(str, heard.beats)) == {"({'checkpoint': 4},)"}
        heard.beats.clear()
        time.sleep(0.2)

    await asyncio.to_thread(heard.run, work)
    assert heard.beats == []
    assert not beating_threads()


def test_automatic_heartbeats_repeat_what_was_left() -> None:
    """Until something is saved they repeat the last attempt's details, which would be lost else."""
    heard = Heard([{"checkpoint": 5}])

    def work() -> None:
        with Checkpoint(int, default=0, heartbeat_every=timedelta(seconds=0.02)):
            time.sleep(0.3)

    heard.run(work)
    assert heard.beats
    assert {str(beat) for beat in heard.beats} == {"({'checkpoint': 5},)"}


@pytest.mark.parametrize(
    ("every", "timeout", "said"),
    [
        (0, None, "'heartbeat_every' must be > 0 (got 0:00:00)"),
        (-1, None, "'heartbeat_every' must be > 0 (got -1 day, 23:59:59)"),
        (5, 5, "must be < the activity's heartbeat_timeout of 0:00:05 (got 0:00:05)"),
    ],
)
def test_interval_that_cannot_work(every: float, timeout: float | None, said: str) -> None:
    """An interval that is not positive or not under the heartbeat timeout is refused."""

    def work() -> None:
        with Checkpoint(int, default=0, heartbeat_every=timedelta(seconds=every)):
            raise AssertionError("must not be reached")

    allowed = None if timeout is None else timedelta(seconds=timeout)
    with pytest.raises(InvalidRequest) as refused:
        Heard(heartbeat_timeout=allowed).run(work)
    assert said in str(refused.value)


def test_all_wrong_options_at_once() -> None:
    """Two wrong options are named in one error."""
    wrong: Any = "ignore"
    with pytest.raises(InvalidRequest) as refused:
        Checkpoint(int, default=0, on_mismatch=wrong, heartbeat_every=timedelta(0))
    assert len(refused.value.problems) == 2


# Exits


@pytest.mark.parametrize("error", [ValueError("broken"), CancelledError("cancelled")])
def test_newest_value_is_sent_on_the_way_out(error: Exception) -> None:
    """Whatever ends the block, the newest value is sent before, and the error goes on unchanged."""
    heard = Heard()

    def work() -> None:
        with Checkpoint(int, default=0) as checkpoint:
            for done in range(50):
                checkpoint.save(done)
            raise error

    with pytest.raises(type(error)) as raised:
        heard.run(work)
    assert raised.value is error
    assert heard.last == 49
    assert not beating_threads()


async def test_newest_value_is_sent_on_cancel() -> None:
    """A cancelled async activity sends its newest value on the way out."""
    heard = Heard()

    async def work() -> None:
        async with Checkpoint(int, default=0) as checkpoint:
            for done in range(50):
                checkpoint.save(done)
            heard.environment.cancel()
            await asyncio.sleep(30)

    with pytest.raises(asyncio.CancelledError):
        await heard.run(work)
    assert heard.last == 49


def cancelled_after(seconds: float) -> type[BaseException] | None:
    """Cancels an activity that opens and closes checkpoints all the time; says how it ended."""
    heard, started = Heard(), threading.Event()
    ended_by: list[type[BaseException]] = []

    def work() -> None:
        started.set()
        for done in range(1000):
            heard.environment.info = dataclasses.replace(heard.environment.info)
            with Checkpoint(int, default=0) as checkpoint:
                checkpoint.save(done)

    def run() -> None:
        try:
            heard.run(work)
        except BaseException as error:
            ended_by.append(type(error))  # not the error: its traceback would hold the checkpoint

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(5)
    time.sleep(seconds)
    heard.environment.cancel()
    thread.join(10)
    assert not thread.is_alive()
    return ended_by[0] if ended_by else None


def test_a_cancel_at_any_moment_leaves_no_thread() -> None:
    """A thread's cancel may strike anywhere, in our exit, too: no heartbeat thread survives it."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    gc.disable()  # a cancel that strikes in somebody's gc callback is lost
    try:
        for _ in range(200):
            assert cancelled_after(chance.uniform(0, 0.004)) is CancelledError
    finally:
        gc.enable()
    gc.collect()
    end = time.monotonic() + 5
    while beating_threads():
        assert time.monotonic() < end, beating_threads()
        time.sleep(0.01)


def test_a_checkpoint_that_is_dropped_stops() -> None:
    """A checkpoint that is entered by hand and forgotten does not beat for ever."""
    heard = Heard()

    def work() -> None:
        Checkpoint(int, default=0, heartbeat_every=timedelta(seconds=0.01)).__enter__()

    heard.run(work)
    gc.collect()
    end = time.monotonic() + 5
    while beating_threads():
        assert time.monotonic() < end
        time.sleep(0.01)


# Interruptions


@pytest.mark.parametrize(
    ("details", "said"),
    [
        (ActivityCancellationDetails(cancel_requested=True), "cancelled"),
        (ActivityCancellationDetails(paused=True), "paused"),
        (ActivityCancellationDetails(reset=True), "reset"),
        (ActivityCancellationDetails(worker_shutdown=True), "worker_shutdown"),
        (ActivityCancellationDetails(timed_out=True), "timed_out"),
        (ActivityCancellationDetails(not_found=True), "gone"),
        (ActivityCancellationDetails(cancel_requested=True, paused=True), "cancelled"),
        (ActivityCancellationDetails(), None),
    ],
)
@pytest.mark.parametrize("asynchronous", [True, False], ids=["async", "thread"])
async def test_interruption(
    details: ActivityCancellationDetails, said: str | None, asynchronous: bool
) -> None:
    """Each reason for a CancelledError has its word; there is none before."""
    heard = Heard()
    found: list[str | None] = []

    async def in_loop() -> None:
        async with Checkpoint(int, default=0) as checkpoint:
            found.append(checkpoint.interruption)
            heard.environment.cancel(details)
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                found.append(checkpoint.interruption)
                raise

    def in_thread() -> None:
        with Checkpoint(int, default=0) as checkpoint:
            found.append(checkpoint.interruption)
            try:
                heard.environment.cancel(details)
                for _ in range(1000):
                    time.sleep(0.005)
            except CancelledError:
                found.append(checkpoint.interruption)
                raise

    if asynchronous:
        with pytest.raises(asyncio.CancelledError):
            await heard.run(in_loop)
    else:
        with pytest.raises(CancelledError):
            await asyncio.to_thread(heard.run, in_thread)
    assert found == [None, said]


# Misuse


def test_outside_of_an_activity() -> None:
    """Outside of an activity it cannot be opened."""
    with pytest.raises(RuntimeError, match="Not in activity context"), Checkpoint(int, default=0):
        pass


def test_not_open() -> None:
    """Before and after its block neither value nor save() work, and both say why."""

    def work() -> Checkpoint[int]:
        checkpoint = Checkpoint(int, default=0)
        with pytest.raises(RuntimeError, match="not open"):
            print(checkpoint.value)
        with pytest.raises(RuntimeError, match="not open"):
            checkpoint.save(1)
        with checkpoint:
            checkpoint.save(2)
        with pytest.raises(RuntimeError, match="not open"):
            checkpoint.save(3)
        return checkpoint

    assert Heard().run(work).value == 2  # what was reached may still be read


def test_nested() -> None:
    """A second checkpoint inside the first one's block is refused."""

    def work() -> None:
        with Checkpoint(int, default=0), Checkpoint(str, default=""):
            raise AssertionError("must not be reached")

    with pytest.raises(RuntimeError, match="still open"):
        Heard().run(work)


async def test_in_sibling_tasks() -> None:
    """Two tasks of one activity cannot have a checkpoint each."""

    async def part() -> None:
        async with Checkpoint(int, default=0):
            await asyncio.sleep(0.05)

    async def work() -> list[Any]:
        return list(await asyncio.gather(part(), part(), return_exceptions=True))

    first, second = await Heard().run(work)
    assert first is None
    assert isinstance(second, RuntimeError)
    assert "still open" in str(second)


def test_one_after_another() -> None:
    """A second checkpoint after the first is refused: by the first's value it would skip work."""

    def work() -> None:
        with Checkpoint(int, default=0) as checkpoint:
            checkpoint.save(7)
        with Checkpoint(int, default=0):
            raise AssertionError("must not be reached")

    with pytest.raises(RuntimeError, match="closed"):
        Heard().run(work)


async def test_activities_beside_each_other() -> None:
    """Other activities of the same process have checkpoints of their own."""
    heard = [Heard() for _ in range(5)]

    async def work() -> None:
        async with Checkpoint(int, default=0) as checkpoint:
            await asyncio.sleep(0.02)
            checkpoint.save(1)

    await asyncio.gather(*[each.run(work) for each in heard])
    assert all(each.last == 1 for each in heard)


async def test_plain_with_in_an_async_activity() -> None:
    """A plain `with` in an async activity is refused with the remedy."""

    async def work() -> None:
        with Checkpoint(int, default=0):
            raise AssertionError("must not be reached")

    with pytest.raises(RuntimeError, match="use 'async with'"):
        await Heard().run(work)


async def test_plain_activity_run_from_an_async_test() -> None:
    """A plain activity may be run by an async test, on the loop's own thread."""
    heard = Heard()

    def work() -> None:
        with Checkpoint(int, default=0) as checkpoint:
            checkpoint.save(1)

    heard.run(work)
    assert heard.last == 1


# Heartbeats that fail


def failing(error: Exception) -> Heard:
    """An environment whose heartbeats fail."""
    heard = Heard()

    def beat(*details: Any) -> None:
        heard.beats.append(details)
        raise error

    heard.environment.on_heartbeat = beat
    return heard


def test_failed_heartbeat_is_raised_by_the_next_save() -> None:
    """A heartbeat that fails behind the activity's back fails its next save()."""
    heard = failing(LookupError("no such thing"))

    def work() -> None:
        with Checkpoint(int, default=0) as checkpoint:
            for done in range(1000):
                checkpoint.save(done)
                time.sleep(0.01)

    with pytest.raises(LookupError, match="no such thing"):
        heard.run(work)


def test_failed_heartbeat_is_raised_at_the_end() -> None:
    """A heartbeat that fails with no save() after it fails the block."""
    heard = failing(LookupError("no such thing"))

    def work() -> None:
        with Checkpoint(int, default=0) as checkpoint:
            checkpoint.save(1)

    with pytest.raises(LookupError, match="no such thing"):
        heard.run(work)


def test_failed_heartbeat_does_not_hide_the_error(caplog: pytest.LogCaptureFixture) -> None:
    """An error of the block itself goes before one of its heartbeats, which is logged."""
    heard = failing(LookupError("no such thing"))

    def work() -> None:
        with Checkpoint(int, default=0) as checkpoint:
            checkpoint.save(1)
            raise ValueError("the work failed")

    with pytest.raises(ValueError, match="the work failed"), caplog.at_level(logging.WARNING):
        heard.run(work)
    assert "no such thing" in caplog.text


@pytest.mark.parametrize("asynchronous", [True, False], ids=["async", "thread"])
async def test_a_busy_worker_does_not_fail_the_work(
    asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A heartbeat that the worker does not accept in time is tried again, and fails nothing."""
    heard = Heard()
    tries: list[Any] = []

    def beat(*details: Any) -> None:
        tries.append(details)
        if len(tries) == 1:
            raise TimeoutError
        heard.beats.append(details)

    heard.environment.on_heartbeat = beat

    async def in_loop() -> None:
        async with Checkpoint(int, default=0) as checkpoint:
            checkpoint.save(1)
            await until(lambda: bool(heard.beats))

    def in_thread() -> None:
        with Checkpoint(int, default=0) as checkpoint:
            checkpoint.save(1)
            end = time.monotonic() + 5
            while not heard.beats:
                assert time.monotonic() < end
                time.sleep(0.005)

    with caplog.at_level(logging.WARNING):
        if asynchronous:
            await heard.run(in_loop)
        else:
            await asyncio.to_thread(heard.run, in_thread)
    assert heard.last == 1
    assert "not accepted in time" in caplog.text


async def test_heartbeats_carry_the_activity_context() -> None:
    """Heartbeats sent by the timer see the activity that they are for, as interceptors need it."""
    heard = Heard()
    seen: list[str] = []
    heard.environment.on_heartbeat = lambda *_: seen.append(activity.info().activity_id)

    async def work() -> None:
        async with Checkpoint(int, default=0, heartbeat_every=timedelta(seconds=0.02)):
            await until(lambda: len(seen) > 2)

    await heard.run(work)
    assert set(seen) == {"test"}
