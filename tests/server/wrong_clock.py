"""A worker process whose clock is wrong: `python -m tests.server.wrong_clock SECONDS ADDRESS TASK_QUEUE FLEET`."""

from __future__ import annotations

import datetime as module
import sys
import time
from typing import Any


def turn_the_clock(wrong: float) -> None:
    """Let whatever is imported from now on be wrong about the time by so many seconds."""
    right, right_ns, real = time.time, time.time_ns, module.datetime

    class SameInstances(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, real)

    class Wrong(real, metaclass=SameInstances):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: module.tzinfo | None = None) -> Any:
            return real.now(tz) + module.timedelta(seconds=wrong)

        @classmethod
        def utcnow(cls) -> Any:
            return cls.now(module.timezone.utc).replace(tzinfo=None)

    time.time = lambda: right() + wrong
    time.time_ns = lambda: right_ns() + int(wrong * 1e9)
    module.datetime = Wrong  # type: ignore[misc]


if __name__ == "__main__":
    turn_the_clock(float(sys.argv.pop(1)))

    import asyncio
    import os

    from tests.server.fleet_worker import main

    asyncio.run(main(*sys.argv[1:]))
    os._exit(0)
