"""What mypy and pyright infer of a checkpoint. Never executed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import attrs
from typing_extensions import assert_type

from temporal_patching.activity import Checkpoint, Interruption
from temporal_patching.models import Host


@attrs.frozen
class Progress:
    done: int


@dataclass
class Data:
    done: int


async def in_the_loop() -> None:
    async with Checkpoint(int, default=0) as checkpoint:
        assert_type(checkpoint, Checkpoint[int])
        assert_type(checkpoint.value, int)
        assert_type(checkpoint.resumed, bool)
        assert_type(checkpoint.interruption, Interruption | None)
        checkpoint.save(checkpoint.value + 1)
        checkpoint.save("one")  # type: ignore[arg-type]
        checkpoint.save(None)  # type: ignore[arg-type]


def in_a_thread() -> None:
    with Checkpoint(int, default=0, heartbeat_every=timedelta(seconds=5)) as checkpoint:
        assert_type(checkpoint, Checkpoint[int])


def kinds() -> None:
    assert_type(Checkpoint(list[str], default=[]), Checkpoint[list[str]])
    assert_type(Checkpoint(dict[str, int], default={}), Checkpoint[dict[str, int]])
    assert_type(Checkpoint(tuple[str, ...], default=()), Checkpoint[tuple[str, ...]])
    assert_type(Checkpoint(float, default=0.0), Checkpoint[float])
    assert_type(Checkpoint(Progress, default=Progress(0)), Checkpoint[Progress])
    assert_type(Checkpoint(Data, default=Data(0)), Checkpoint[Data])
    assert_type(Checkpoint(Host, default=Host(name="web-1")).value, Host)


def without_default() -> None:
    with Checkpoint(Progress) as checkpoint:
        assert_type(checkpoint, Checkpoint[Progress | None])
        assert_type(checkpoint.value, Progress | None)
        checkpoint.save(Progress(1))
        checkpoint.save(1)  # type: ignore[arg-type]
    assert_type(Checkpoint(str).value, str | None)
    assert_type(Checkpoint(list[str]).value, list[str] | None)


def refused() -> None:
    Checkpoint(int, 0)  # type: ignore[call-overload]
    Checkpoint(int, default=0, on_mismatch="ignore")  # type: ignore[call-overload]
    Checkpoint(int, default=0, heartbeat_every=5)  # type: ignore[call-overload]


def narrowed(checkpoint: Checkpoint[int]) -> str:
    if checkpoint.interruption == "cancelled":
        return "clean up"
    reason = checkpoint.interruption
    if reason is not None:
        assert_type(reason, Literal["paused", "reset", "worker_shutdown", "timed_out", "gone"])
    return "go on"
