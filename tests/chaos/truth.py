"""What was really done to each host: a file a host, which no workflow can edit and no killed process takes along.

Each host has a fence, too: whoever begins a step takes it over, and an older attempt that comes back to life is
refused. A line is written, and forced into the file, before the step's answer is sent.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from temporal_patching.models import HostTask
from temporal_patching.policy import DEFAULT_STEPS

What = Literal["began", "unit", "done", "failed", "cancelled", "fenced"]
"""``began``: an attempt has begun. ``unit``: a piece of its work. Then ``done`` (its effect is there), ``failed``,
``cancelled``, or ``fenced`` (it wanted to act, and a newer attempt had the host)."""

LAST = DEFAULT_STEPS.names[-1]


@dataclass(frozen=True)
class Line:
    """One line of a host's file."""

    at: float
    host: str
    what: What
    step: str
    rollout: str
    key: str
    attempt: int
    pid: int
    unit: int = -1

    @property
    def token(self) -> tuple[int, int, int]:
        """What rises with each attempt: the operator's try, the place in the procedure, the attempt."""
        return (
            int(self.key.rpartition("/")[2]),
            DEFAULT_STEPS.names.index(self.step),
            self.attempt,
        )


@dataclass(frozen=True)
class HostNow:
    """A host, as its file says."""

    version: int = 1
    in_service: bool = True
    services_running: bool = True
    boot: int = 1

    @property
    def serves(self) -> bool:
        """Whether it is in service and its services run."""
        return self.in_service and self.services_running


def after(host: HostNow, step: str) -> HostNow:
    """The host when a step has had its effect."""
    if step in ("set_maintenance_mode", "clear_maintenance_mode"):
        return replace(host, in_service=step == "clear_maintenance_mode")
    if step in ("stop_services", "start_services"):
        return replace(host, services_running=step == "start_services")
    if step == "perform_update":
        return replace(host, version=host.version + 1)
    if step == "reboot":
        return replace(host, boot=host.boot + 1)
    return host


class Fenced(Exception):
    """A newer attempt has the host."""


class Truth:
    """All hosts' files, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    # Read by whoever judges

    def lines(self, host: str) -> list[Line]:
        """What one host has seen."""
        file = self.folder / host
        if not file.exists():
            return []
        return [Line(**json.loads(row)) for row in file.read_text(encoding="utf-8").splitlines()]

    @property
    def hosts(self) -> list[str]:
        """Every host that anything has happened to."""
        return sorted(file.name for file in self.folder.iterdir() if not file.suffix)

    def now(self, host: str) -> HostNow:
        """What has become of one host."""
        state = HostNow()
        for line in self.lines(host):
            if line.what == "done":
                state = after(state, line.step)
        return state

    # Written by the steps

    def begin(self, task: HostTask) -> Line:
        """An attempt begins, and takes the fence over from any older one.

        Raises:
            Fenced: It is itself the older one.
        """
        line = self._line(task, "began")
        with self._fence(task.host) as fence:
            if fence and fence["rollout"] == task.rollout and tuple(fence["token"]) > line.token:
                self._write(replace(line, what="fenced"))
                raise Fenced(f"{task.host} is held by a newer attempt")
            fence.update(rollout=task.rollout, token=line.token, pid=line.pid)
            self._write(line)
        return line

    def act(self, began: Line, what: What, unit: int = -1) -> tuple[HostNow, HostNow]:
        """The attempt has an effect, if it still holds the fence.

        Returns:
            The host before and after. They are the same if an attempt of the same step had the effect already.

        Raises:
            Fenced: A newer attempt has the host.
        """
        line = replace(began, at=time.time(), what=what, unit=unit)
        with self._fence(began.host) as fence:
            if tuple(fence["token"]) != began.token or fence["rollout"] != began.rollout:
                self._write(replace(line, what="fenced"))
                raise Fenced(f"{began.host} is held by a newer attempt")
            before = HostNow()
            for each in self.lines(began.host):
                if each.what == "done" and each.key == began.key and what == "done":
                    return self.now(began.host), self.now(began.host)
                if each.what == "done":
                    before = after(before, each.step)
            self._write(line)
        return before, after(before, began.step) if what == "done" else before

    def say(self, began: Line, what: What) -> None:
        """The attempt ends without an effect, or was told to."""
        self._write(replace(began, at=time.time(), what=what))

    def _line(self, task: HostTask, what: What) -> Line:
        return Line(
            at=time.time(),
            host=task.host,
            what=what,
            step=task.step,
            rollout=task.rollout,
            key=task.idempotency_key,
            attempt=task.attempt,
            pid=os.getpid(),
        )

    def _write(self, line: Line) -> None:
        descriptor = os.open(self.folder / line.host, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, (json.dumps(asdict(line)) + "\n").encode())
        finally:
            os.close(descriptor)

    @contextmanager
    def _fence(self, host: str) -> Iterator[dict[str, Any]]:
        """The fence's holder, to be read and changed by nobody else meanwhile."""
        with open(self.folder / f"{host}.fence", "a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            held = json.loads(file.read() or "{}")
            yield held
            file.seek(0)
            file.truncate()
            json.dump(held, file)
