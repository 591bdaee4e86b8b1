"""Hosts that exist only in this process, with faults by name and a log that no workflow can edit."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import timedelta
from random import Random
from typing import Any, Literal, final

import attrs
from temporalio.exceptions import ApplicationError
from typing_extensions import override

from ..activity import PatchActivities
from ..exceptions import HostUnreachable, InvalidRequest, OutcomeUnknown
from ..models import (
    FleetHealth,
    FleetQuery,
    Host,
    HostList,
    HostQuery,
    HostTask,
    Notice,
    StepResult,
)
from ..policy._rules import did_you_mean

PATIENCE = timedelta(seconds=30)
"""How long a test waits for something that should happen at once."""

NOTIFIER = "notify"


@final
@attrs.frozen(kw_only=True)
class SimulatedHost:
    """One host, as it is now.

    Attributes:
        name: Its name.
        cluster: Its cluster.
        version: What is installed: 1 at first, one more after each rollout's update.
        in_service: Whether it is not in maintenance mode.
        services_running: Whether its services run.
        boot_id: Another one after each reboot.
    """

    name: str
    cluster: str
    version: int = 1
    in_service: bool = True
    services_running: bool = True
    boot_id: str = "boot-1"

    @property
    def serves(self) -> bool:
        """Whether it is in service and its services run."""
        return self.in_service and self.services_running


@final
@attrs.frozen(kw_only=True)
class Effect:
    """One line of the fleet's log, written before the answer is sent.

    Attributes:
        number: Its place in the log, from 0.
        at: Seconds since the fleet was made.
        what: ``began``: an attempt has begun. Then one of ``done`` (its effect is there), ``failed`` (it
            was refused or raised, without an effect) or ``cancelled`` (it was told to stop, likewise).
        rollout: Who did it: the rollout's workflow id.
        cluster: Where.
        host: On which host; the cluster's name for ``list_hosts``.
        step: Which step.
        attempt: Which attempt of it.
        key: The step's idempotency key.
    """

    number: int
    at: float
    what: Literal["began", "done", "failed", "cancelled"]
    rollout: str
    cluster: str
    host: str
    step: str
    attempt: int = 1
    key: str = ""


# Faults


@attrs.frozen
class Fault:
    """Something wrong with one host at one step. Subclass it for a fault of your own.

    Args:
        step: The step it is about.
        times: How many attempts it spoils, the first ones. Default: all.
    """

    step: str
    times: int | None = attrs.field(default=None, kw_only=True)

    async def before(self, host: str) -> StepResult | None:
        """Called before the step has its effect. It may wait, raise, or answer in the step's place."""
        return None

    def after(self, result: StepResult) -> StepResult:
        """Called when the effect is in the log. It may change the answer, or raise."""
        return result


@final
@attrs.frozen
class FailAt(Fault):
    """The step raises before it has an effect.

    It is retried, and the SDK logs each attempt with a traceback; ``RefuseAt`` fails it quietly.

    Args:
        step: Which step; ``"list_hosts"`` for a cluster, ``"notify"`` for the notifier.
        times: How many attempts fail. Default: all.
        message: The error's text.
        retryable: Whether the retry policy may try again. Default True.
        error: Makes another error than the default, an ``ApplicationError`` with that message.
    """

    message: str = attrs.field(default="simulated failure", kw_only=True)
    retryable: bool = attrs.field(default=True, kw_only=True)
    error: Callable[[], BaseException] | None = attrs.field(default=None, kw_only=True)

    @override
    async def before(self, host: str) -> StepResult | None:
        if self.error is not None:
            raise self.error()
        raise ApplicationError(self.message, non_retryable=not self.retryable)


@final
@attrs.frozen
class RefuseAt(Fault):
    """The step answers ``ok=False``: trying again would not help. Args: as ``FailAt``.

    Attributes:
        message: What the answer says.
    """

    message: str = attrs.field(default="simulated refusal", kw_only=True)

    @override
    async def before(self, host: str) -> StepResult | None:
        return StepResult(ok=False, message=self.message)


@final
@attrs.frozen
class Unreachable(Fault):
    """The step raises ``HostUnreachable``."""

    @override
    async def before(self, host: str) -> StepResult | None:
        raise HostUnreachable(f"{host}: simulated: connection refused")


@final
@attrs.frozen
class Slow(Fault):
    """The step takes that long before it has its effect. A cancel ends it at the next heartbeat.

    Attributes:
        duration: How long it takes.
    """

    duration: timedelta = attrs.field(default=timedelta(seconds=1), kw_only=True)

    @override
    async def before(self, host: str) -> StepResult | None:
        await asyncio.sleep(self.duration.total_seconds())
        return None


@final
@attrs.frozen
class Hang(Fault):
    """The step never ends by itself: only a cancel or its timeout ends it."""

    @override
    async def before(self, host: str) -> StepResult | None:
        await asyncio.Event().wait()
        return None


@final
@attrs.frozen
class NotNeeded(Fault):
    """The host needs nothing: ``check_preconditions`` answers ``needed=False``."""

    step: str = "check_preconditions"

    @override
    def after(self, result: StepResult) -> StepResult:
        return attrs.evolve(result, needed=False)


@final
@attrs.frozen
class Unchanged(Fault):
    """The update finds nothing to do."""

    step: str = "perform_update"

    @override
    async def before(self, host: str) -> StepResult | None:
        return StepResult(changed=False)


@final
@attrs.frozen
class Already(Fault):
    """This taking step's effect is there before we come, and ``check_preconditions`` says so."""

    @override
    def after(self, result: StepResult) -> StepResult:
        return attrs.evolve(result, already=(*result.already, self.step))


@final
@attrs.frozen
class NeedsReboot(Fault):
    """The update takes effect only after a reboot."""

    step: str = "perform_update"

    @override
    def after(self, result: StepResult) -> StepResult:
        return attrs.evolve(result, reboot_required=True)


@final
@attrs.frozen
class DoneButLost(Fault):
    """The step has its effect, then its answer is lost. Default: the first attempt's only."""

    times: int | None = attrs.field(default=1, kw_only=True)

    @override
    def after(self, result: StepResult) -> StepResult:
        raise OutcomeUnknown(f"simulated: the connection dropped after {self.step}")


@final
@attrs.frozen
class LiesAboutBoot(Fault):
    """The host says that it rebooted, but its boot id is still the old one."""

    step: str = "reboot"

    @override
    def after(self, result: StepResult) -> StepResult:
        return attrs.evolve(result, boot_id=result.previous_boot_id)


# What a step does to its host


def _update(host: SimulatedHost) -> SimulatedHost:
    return attrs.evolve(host, version=host.version + 1)


def _reboot(host: SimulatedHost) -> SimulatedHost:
    return attrs.evolve(host, boot_id=f"boot-{int(host.boot_id.removeprefix('boot-')) + 1}")


def _nothing(host: SimulatedHost) -> SimulatedHost:
    return host


_EFFECTS: Mapping[str, Callable[[SimulatedHost], SimulatedHost]] = {
    "set_maintenance_mode": lambda host: attrs.evolve(host, in_service=False),
    "stop_services": lambda host: attrs.evolve(host, services_running=False),
    "perform_update": _update,
    "start_services": lambda host: attrs.evolve(host, services_running=True),
    "reboot": _reboot,
    "clear_maintenance_mode": lambda host: attrs.evolve(host, in_service=True),
}

_ONCE = frozenset({"perform_update", "reboot"})
"""Not idempotent by nature: done once for each idempotency key."""


@final
class SimulatedFleet(PatchActivities):
    """Clusters of hosts in this process. Give it to a ``PatchingPlugin`` as your activities.

    It has every step of the default procedure and ``notify``; ``implementing`` makes one that has others.
    Use it from one event loop, the one that its worker and the test run in.

    Args:
        clusters: For each cluster the number of its hosts (named ``eu-1-1``, ``eu-1-2``, …), or their names.
        seed: Each host has its own random stream made of this and its name: adding a host does not change
            what the others do.
        latency: The longest that a step takes; each time a random part of it. Default: no time.
        faults: What is wrong, by host (by cluster for ``list_hosts``, and by ``"notify"`` for the notifier):
            one fault, or several.
        page_size: Hosts in a page of ``list_hosts``. Default: all.
        labels: Labels of hosts, by name.
        down: Names of the hosts that are listed as down already.
        health: What ``check_fleet_health`` answers, in order; the last answer repeats. Default: healthy.

    Raises:
        InvalidRequest: A fault is for a host that the fleet does not have.

    Example:
        >>> fleet = SimulatedFleet({"eu-1": 3}, faults={"eu-1-2": FailAt("perform_update")})
        >>> [host.name for host in fleet.hosts]
        ['eu-1-1', 'eu-1-2', 'eu-1-3']
    """

    def __init__(
        self,
        clusters: Mapping[str, int | Sequence[str]],
        *,
        seed: int = 0,
        latency: timedelta = timedelta(0),
        faults: Mapping[str, Fault | Sequence[Fault]] | None = None,
        page_size: int | None = None,
        labels: Mapping[str, Mapping[str, str]] | None = None,
        down: Iterable[str] = (),
        health: Sequence[FleetHealth] = (FleetHealth(verdict="healthy"),),
    ) -> None:
        self.seed = seed
        self._names = {
            cluster: [f"{cluster}-{n}" for n in range(1, hosts + 1)]
            if isinstance(hosts, int)
            else list(hosts)
            for cluster, hosts in clusters.items()
        }
        self._hosts = {
            name: SimulatedHost(name=name, cluster=cluster)
            for cluster, names in self._names.items()
            for name in names
        }
        self._faults = {
            name: (some,) if isinstance(some, Fault) else tuple(some)
            for name, some in (faults or {}).items()
        }
        known = [*self._hosts, *self._names, NOTIFIER]
        unknown = [name for name in self._faults if name not in known]
        if unknown:
            raise InvalidRequest(
                f"'faults' names {name!r}, which is no host of the fleet{did_you_mean(name, known)}"
                for name in unknown
            )
        for name, some in self._faults.items():
            for fault in some:
                if isinstance(fault, Already):
                    self._hosts[name] = _EFFECTS[fault.step](self._hosts[name])
        self._latency = latency.total_seconds()
        self._page_size = page_size
        self._labels = {name: dict(some) for name, some in (labels or {}).items()}
        self._down = frozenset(down)
        self._health = tuple(health)
        self._chance = {name: Random(f"{seed}/{name}") for name in known}
        self._spoilt: Counter[tuple[str, int]] = Counter()
        self._applied: dict[str, StepResult] = {}
        self._held: dict[tuple[str, str | None], asyncio.Event] = {}
        self._news = asyncio.Event()
        self._began = time.monotonic()
        self._log: list[Effect] = []
        self._notices: list[Notice] = []

    def __repr__(self) -> str:
        sizes = {cluster: len(names) for cluster, names in self._names.items()}
        return f"SimulatedFleet({sizes}, seed={self.seed})"

    def implementing(self, *steps: str, notify: bool = False) -> PatchActivities:
        """Activities on these hosts that have only these steps, your own among them.

        For a subclass with steps of its own: ``fleet.implementing(*PatchWebHost.steps.names)``.

        Args:
            steps: Names of the methods, ``list_hosts`` aside, which is always there.
            notify: Whether ``notify`` is there.
        """

        def method(step: str) -> Callable[..., Coroutine[Any, Any, StepResult]]:
            async def run(_: PatchActivities, task: HostTask) -> StepResult:
                return await self._run(step, task)

            return run

        async def list_hosts(_: PatchActivities, query: HostQuery) -> HostList:
            return await self.list_hosts(query)

        async def tell(_: PatchActivities, notice: Notice) -> None:
            await self.notify(notice)

        methods: dict[str, Any] = {step: method(step) for step in steps}
        methods["list_hosts"] = list_hosts
        if notify:
            methods[NOTIFIER] = tell
        kind: type[PatchActivities] = type("SimulatedSteps", (PatchActivities,), methods)
        return kind()

    # What is there, and what has happened

    @property
    def hosts(self) -> tuple[SimulatedHost, ...]:
        """Every host, as it is now."""
        return tuple(self._hosts.values())

    def host(self, name: str) -> SimulatedHost:
        """One host, as it is now."""
        return self._hosts[name]

    @property
    def log(self) -> tuple[Effect, ...]:
        """Everything that was done, in order."""
        return tuple(self._log)

    @property
    def notices(self) -> tuple[Notice, ...]:
        """Every notice that was delivered, in order."""
        return tuple(self._notices)

    @property
    def out_of_service(self) -> tuple[str, ...]:
        """Names of the hosts that do not serve now."""
        return tuple(host.name for host in self.hosts if not host.serves)

    def steps_of(
        self, host: str, what: Literal["began", "done", "failed", "cancelled"] = "done"
    ) -> tuple[str, ...]:
        """The steps that one host's log has, in order. Default: those that had their effect."""
        return tuple(each.step for each in self._log if each.host == host and each.what == what)

    @property
    def started(self) -> tuple[str, ...]:
        """Names of the hosts that any step has begun on, in the order of their first step."""
        return tuple(dict.fromkeys(each.host for each in self._steps()))

    def most_in_flight(self, cluster: str | None = None) -> int:
        """How many hosts were in flight at once at most, between first and last step of each.

        Args:
            cluster: Count only this cluster's. Default: all.
        """
        some = [each for each in self._steps() if cluster in (None, each.cluster)]
        moves = [
            move for first, last in _spans(some).values() for move in ((first, 1), (last + 1, -1))
        ]
        now = most = 0
        for _, change in sorted(moves):
            now += change
            most = max(most, now)
        return most

    def overlaps(self) -> tuple[str, ...]:
        """Names of hosts that two rollouts worked on at the same time. Must be empty."""
        spans = _spans(self._steps())
        return tuple(
            host
            for (rollout, host), (first, last) in spans.items()
            if any(
                there == host and other < rollout and first <= end and begin <= last
                for (other, there), (begin, end) in spans.items()
            )
        )

    def _steps(self) -> Iterable[Effect]:
        of_clusters = ("list_hosts", "check_fleet_health")
        return [each for each in self._log if each.step not in of_clusters]

    # Steering by condition, not by sleeping

    def hold(self, step: str, host: str | None = None) -> None:
        """Lets each attempt of the step begin, but not go on, until ``release``.

        Args:
            step: Which step; ``"list_hosts"`` and ``"notify"`` can be held, too.
            host: On which host; on every one by default.
        """
        self._held.setdefault((step, host), asyncio.Event())

    def release(self, step: str, host: str | None = None) -> None:
        """Ends what ``hold`` of the same arguments began."""
        self._held.pop((step, host)).set()

    async def reached(
        self, step: str, host: str | None = None, *, times: int = 1, timeout: timedelta = PATIENCE
    ) -> None:
        """Waits until the step has begun, on any host by default.

        Args:
            step: Which step.
            host: On which host.
            times: How many attempts must have begun, over all hosts and rollouts.
            timeout: How long it waits.

        Raises:
            asyncio.TimeoutError: It did not begin in time.
        """
        await self.until(
            lambda: (
                sum(
                    each.step == step and each.what == "began" and host in (None, each.host)
                    for each in self._log
                )
                >= times
            ),
            timeout=timeout,
        )

    async def until(self, holds: Callable[[], bool], *, timeout: timedelta = PATIENCE) -> None:
        """Waits until something holds; it is asked whenever the log or the notices have grown.

        Raises:
            asyncio.TimeoutError: It did not hold in time. The message has the last lines of the log.
        """
        try:
            await asyncio.wait_for(self._until(holds), timeout.total_seconds())
        except asyncio.TimeoutError:
            lines = "\n".join(f"  {e.host} {e.step} #{e.attempt} {e.what}" for e in self._log[-20:])
            raise asyncio.TimeoutError(
                f"{self!r}: it did not happen in {timeout}. The log ends:\n{lines}"
            ) from None

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._news.wait()

    # The activities

    @override
    async def list_hosts(self, query: HostQuery) -> HostList:
        names = self._names.get(query.cluster)
        if names is None:
            raise ApplicationError(
                f"no cluster {query.cluster!r}{did_you_mean(query.cluster, self._names)}",
                non_retryable=True,
            )
        task = HostTask(
            rollout=query.rollout, cluster=query.cluster, host=query.cluster, step="list_hosts"
        )
        await self._run("list_hosts", task)
        first = int(query.page or 0)
        end = len(names) if self._page_size is None else first + self._page_size
        hosts = tuple(
            Host(name=name, labels=self._labels.get(name, {}), down=name in self._down)
            for name in names[first:end]
        )
        return HostList(hosts=hosts, next_page=str(end) if end < len(names) else None)

    @override
    async def check_preconditions(self, task: HostTask) -> StepResult:
        return await self._run("check_preconditions", task)

    @override
    async def run_pre_downtime_scripts(self, task: HostTask) -> StepResult:
        return await self._run("run_pre_downtime_scripts", task)

    @override
    async def set_maintenance_mode(self, task: HostTask) -> StepResult:
        return await self._run("set_maintenance_mode", task)

    @override
    async def stop_services(self, task: HostTask) -> StepResult:
        return await self._run("stop_services", task)

    @override
    async def wait_for_workload_drain(self, task: HostTask) -> StepResult:
        return await self._run("wait_for_workload_drain", task)

    @override
    async def run_pre_update_scripts(self, task: HostTask) -> StepResult:
        return await self._run("run_pre_update_scripts", task)

    @override
    async def perform_update(self, task: HostTask) -> StepResult:
        return await self._run("perform_update", task)

    @override
    async def start_services(self, task: HostTask) -> StepResult:
        return await self._run("start_services", task)

    @override
    async def run_post_update_scripts(self, task: HostTask) -> StepResult:
        return await self._run("run_post_update_scripts", task)

    @override
    async def reboot(self, task: HostTask) -> StepResult:
        return await self._run("reboot", task)

    @override
    async def check_service_health(self, task: HostTask) -> StepResult:
        return await self._run("check_service_health", task)

    @override
    async def clear_maintenance_mode(self, task: HostTask) -> StepResult:
        return await self._run("clear_maintenance_mode", task)

    @override
    async def check_fleet_health(self, query: FleetQuery) -> FleetHealth:
        step = "check_fleet_health"
        asked = sum(each.step == step and each.what == "began" for each in self._log)
        task = HostTask(rollout=query.rollout, cluster=query.cluster, host=query.cluster, step=step)
        await self._run(step, task)
        return self._health[min(asked, len(self._health) - 1)]

    @override
    async def notify(self, notice: Notice) -> None:
        for fault in self._spoiling(NOTIFIER, NOTIFIER):
            await fault.before(NOTIFIER)
        await self._pass_gates(NOTIFIER, NOTIFIER)
        self._notices.append(notice)
        self._tell()

    # One attempt

    async def _run(self, step: str, task: HostTask) -> StepResult:
        self._write("began", step, task)
        faults = self._spoiling(step, task.host)
        try:
            answer = await self._before(step, task.host, faults)
        except asyncio.CancelledError:
            self._write("cancelled", step, task)
            raise
        except BaseException:
            self._write("failed", step, task)
            raise
        if answer is None:
            answer = self._have_effect(step, task)
        self._write("done" if answer.ok else "failed", step, task)
        for fault in faults:
            answer = fault.after(answer)
        return answer

    async def _before(self, step: str, host: str, faults: Sequence[Fault]) -> StepResult | None:
        if self._latency:
            await asyncio.sleep(self._chance[host].uniform(0, self._latency))
        await self._pass_gates(step, host)
        for fault in faults:
            answer = await fault.before(host)
            if answer is not None:
                return answer
        return None

    async def _pass_gates(self, step: str, host: str) -> None:
        for gate in (self._held.get((step, host)), self._held.get((step, None))):
            if gate is not None:
                await gate.wait()

    def _have_effect(self, step: str, task: HostTask) -> StepResult:
        host = self._hosts.get(task.host)
        if host is None:
            return StepResult()
        if step == "check_service_health":
            ok = host.services_running
            return StepResult(ok=ok, message="" if ok else "its services do not run")
        if task.idempotency_key in self._applied:  # as a real host: the lost attempt has done it
            return attrs.evolve(self._applied[task.idempotency_key], changed=False)
        after = self._hosts[task.host] = _EFFECTS.get(step, _nothing)(host)
        answer = StepResult(
            changed=after != host, boot_id=after.boot_id, previous_boot_id=host.boot_id
        )
        if step in _ONCE:
            self._applied[task.idempotency_key] = answer
        return answer

    def _spoiling(self, step: str, name: str) -> list[Fault]:
        """The faults of this attempt, each counted."""
        found: list[Fault] = []
        for index, fault in enumerate(self._faults.get(name, ())):
            wanted = "check_preconditions" if isinstance(fault, Already) else fault.step
            if wanted == step and (fault.times is None or self._spoilt[name, index] < fault.times):
                self._spoilt[name, index] += 1
                found.append(fault)
        return found

    def _write(
        self, what: Literal["began", "done", "failed", "cancelled"], step: str, task: HostTask
    ) -> None:
        self._log.append(
            Effect(
                number=len(self._log),
                at=time.monotonic() - self._began,
                what=what,
                rollout=task.rollout,
                cluster=task.cluster,
                host=task.host,
                step=step,
                attempt=task.attempt,
                key=task.idempotency_key,
            )
        )
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _spans(effects: Iterable[Effect]) -> dict[tuple[str, str], tuple[int, int]]:
    """First and last number in the log of each rollout's work on each host."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for each in effects:
        key = (each.rollout, each.host)
        first, _ = found.get(key, (each.number, 0))
        found[key] = (first, each.number)
    return found
