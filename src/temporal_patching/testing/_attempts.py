"""One attempt of a step on a simulated host: faults, refusals, the effect, and the lines of the log."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from random import Random

import attrs
from temporalio import activity
from temporalio.exceptions import ApplicationError

from ..models import HostTask, StepResult
from ._faults import Already, Fault
from ._hosts import EFFECTS, ONCE, SimulatedHost, next_version, nothing, refusal
from ._log import Effect, What


@attrs.frozen
class ServerTime:
    """When the server scheduled an attempt, and when it gave it to a worker, by its own clock."""

    scheduled: datetime
    started: datetime


def server_time() -> ServerTime | None:
    """That of this attempt. None outside of an activity."""
    if not activity.in_activity():
        return None
    info = activity.info()
    return ServerTime(info.current_attempt_scheduled_time, info.started_time)


@attrs.define(kw_only=True, eq=False)
class Attempt:
    """One that has begun."""

    step: str
    task: HostTask
    faults: Sequence[Fault]
    began: float
    when: ServerTime | None
    answer: StepResult | None = None
    """What is answered in the step's place."""

    @property
    def fence(self) -> str:
        """By which the host knows it."""
        return f"{self.task.idempotency_key or self.step}#{self.task.attempt}"

    @property
    def deliveries(self) -> int:
        """How often the step is carried out."""
        odd = [fault.deliveries for fault in self.faults if fault.deliveries != 1]
        return odd[0] if odd else 1


class Attempts:
    """The hosts, what is wrong with them, and what was done to them."""

    def __init__(
        self,
        hosts: Iterable[SimulatedHost],
        faults: Mapping[str, Sequence[Fault]],
        *,
        seed: int,
        latency: float,
    ) -> None:
        self.hosts = {host.name: host for host in hosts}
        self.log: list[Effect] = []
        self.held: dict[tuple[str, str | None], asyncio.Event] = {}
        self.news = asyncio.Event()
        self.faults = faults
        self._seed = seed
        self._chance: dict[str, Random] = {}
        self._latency = latency
        self._spoilt: Counter[tuple[str, int]] = Counter()
        self._applied: dict[str, StepResult] = {}
        self._wanted: dict[str, int] = {}
        self._began = time.monotonic()
        for name, some in faults.items():
            for fault in some:
                if isinstance(fault, Already):
                    self.hosts[name] = EFFECTS[fault.step](self.hosts[name])

    def adopt(self, cluster: str, names: Iterable[str]) -> None:
        """Takes in hosts that somebody else has named."""
        for name in names:
            self.hosts.setdefault(name, SimulatedHost(name=name, cluster=cluster))

    async def begin(self, step: str, task: HostTask, when: ServerTime | None) -> Attempt:
        """An attempt begins, and everything before its effect happens.

        Raises:
            BaseException: The attempt is over, without an effect.
        """
        faults = self.spoiling(step, task.host)
        attempt = Attempt(step=step, task=task, faults=faults, began=time.monotonic(), when=when)
        if task.host in self.hosts:
            host = self.hosts[task.host]
            self.hosts[task.host] = attrs.evolve(host, fence=attempt.fence)
        self._write("began", attempt)
        try:
            attempt.answer = await self._before(attempt)
        except asyncio.CancelledError:
            self.broke(attempt, "cancelled")
            raise
        except BaseException:
            self.broke(attempt, "failed")
            raise
        return attempt

    def broke(self, attempt: Attempt, what: What) -> None:
        """An attempt ends without an effect."""
        self._write(what, attempt)
        self._lift(attempt)

    def carry_out(self, attempt: Attempt) -> StepResult:
        """The effect, in the log before anybody is answered."""
        answer = attempt.answer
        try:
            if answer is None:
                self._check_fence(attempt)
                answer = self._effect(attempt)
        except BaseException:
            self.broke(attempt, "failed")
            raise
        self._write("done" if answer.ok else "failed", attempt)
        return answer

    def carried_out(self, attempt: Attempt, answer: StepResult) -> None:
        """Somebody else's activity says that it has had its effect: so it is taken to have."""
        step, host = attempt.step, self.hosts.get(attempt.task.host)
        does = answer.ok and (answer.changed or step != "perform_update")
        if step == "reboot":
            does = does and answer.boot_id != answer.previous_boot_id
        if host is not None and does and attempt.answer is None and attempt.deliveries:
            self.hosts[host.name] = self._altered(attempt, EFFECTS.get(step, nothing)(host))
        self._write("done" if answer.ok else "failed", attempt)

    async def reply(self, attempt: Attempt, answer: StepResult) -> StepResult:
        """The answer goes its way."""
        try:
            for fault in attempt.faults:
                answer = await fault.reply(fault.after(answer))
        finally:
            self._lift(attempt)
        return answer

    # Parts of it

    def _stream(self, name: str) -> Random:
        if name not in self._chance:
            self._chance[name] = Random(f"{self._seed}/{name}")
        return self._chance[name]

    async def _before(self, attempt: Attempt) -> StepResult | None:
        step, name = attempt.step, attempt.task.host
        if self._latency:
            await asyncio.sleep(self._stream(name).uniform(0, self._latency))
        await self.pass_gates(step, name)
        for fault in attempt.faults:
            self._change(attempt, fault)
            answer = await fault.before(name)
            if answer is not None:
                return answer
        host = self.hosts.get(name)
        return None if host is None else refusal(step, host, self._wanted.get(name, 0))

    async def pass_gates(self, step: str, host: str) -> None:
        """Waits while the step is held."""
        for gate in (self.held.get((step, host)), self.held.get((step, None))):
            if gate is not None:
                await gate.wait()

    def _change(self, attempt: Attempt, fault: Fault) -> None:
        host = self.hosts.get(attempt.task.host)
        struck = host if host is None else fault.strikes(host)
        if struck is not None and struck != host:
            self.hosts[struck.name] = struck
            self._write("struck", attempt)

    def _check_fence(self, attempt: Attempt) -> None:
        host = self.hosts.get(attempt.task.host)
        if host is not None and host.fence != attempt.fence:
            raise ApplicationError(
                f"{host.name}: simulated: fenced off, {host.fence} works on it now", type="Fenced"
            )

    def _effect(self, attempt: Attempt) -> StepResult:
        step, task = attempt.step, attempt.task
        host = self.hosts.get(task.host)
        if host is None or step == "check_service_health":
            return StepResult()
        if task.idempotency_key in self._applied:  # as a real host: the lost attempt has done it
            return attrs.evolve(self._applied[task.idempotency_key], changed=False)
        if step == "perform_update":
            self._wanted[host.name] = next_version(host)
        after = host
        for _ in range(min(attempt.deliveries, 1) if step in ONCE else attempt.deliveries):
            after = EFFECTS.get(step, nothing)(after)
        if attempt.deliveries:
            after = self._altered(attempt, after)
        self.hosts[host.name] = after
        answer = StepResult(
            changed=after != host, boot_id=after.boot_id, previous_boot_id=host.boot_id
        )
        if step in ONCE and attempt.deliveries and task.idempotency_key:
            self._applied[task.idempotency_key] = answer
        return answer

    def _altered(self, attempt: Attempt, host: SimulatedHost) -> SimulatedHost:
        for fault in attempt.faults:
            host = fault.alters(host)
        return host

    def spoiling(self, step: str, name: str) -> list[Fault]:
        """The faults of this attempt, each counted."""
        found: list[Fault] = []
        for index, fault in enumerate(self.faults.get(name, ())):
            wanted = "check_preconditions" if isinstance(fault, Already) else fault.step
            if wanted == step and (fault.times is None or self._spoilt[name, index] < fault.times):
                self._spoilt[name, index] += 1
                found.append(fault)
        return found

    def _lift(self, attempt: Attempt) -> None:
        name = attempt.task.host
        for index, fault in enumerate(self.faults.get(name, ())):
            over = fault.times is not None and self._spoilt[name, index] >= fault.times
            if over and fault in attempt.faults and name in self.hosts:
                self.hosts[name] = fault.lifts(self.hosts[name])

    def _write(self, what: What, attempt: Attempt) -> None:
        task, now = attempt.task, time.monotonic()
        when: datetime | None = None
        if attempt.when is not None:
            later = attempt.when.started + timedelta(seconds=now - attempt.began)
            when = attempt.when.scheduled if what == "began" else later
        self.log.append(
            Effect(
                number=len(self.log),
                at=now - self._began,
                what=what,
                rollout="" if what == "struck" else task.rollout,
                cluster=task.cluster,
                host=task.host,
                step=attempt.step,
                attempt=task.attempt,
                key=task.idempotency_key,
                when=when,
                faults=tuple(type(fault).__name__ for fault in attempt.faults),
                then=self.hosts.get(task.host),
            )
        )
        self.tell()

    def tell(self) -> None:
        """There is something new to look at."""
        self.news.set()
        self.news = asyncio.Event()
