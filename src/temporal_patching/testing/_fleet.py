"""Hosts that exist only in this process, with faults by name and a log that no workflow can edit."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from random import Random
from typing import final

import attrs
from temporalio.exceptions import ApplicationError
from typing_extensions import override

from ..exceptions import InvalidRequest
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
from ._activities import NOTIFIER, SimulatedSteps
from ._faults import Already, Fault
from ._hosts import EFFECTS, ONCE, SimulatedHost, nothing
from ._log import Effect, FleetTruth, TruthLog, What

PATIENCE = timedelta(seconds=30)
"""How long a test waits for something that should happen at once."""


@final
class SimulatedFleet(SimulatedSteps, FleetTruth):
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
                    self._hosts[name] = EFFECTS[fault.step](self._hosts[name])
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
        self._log = TruthLog()
        self._notices: list[Notice] = []

    def __repr__(self) -> str:
        sizes = {cluster: len(names) for cluster, names in self._names.items()}
        return f"SimulatedFleet({sizes}, seed={self.seed})"

    # What is there, and what has happened

    @property
    @override
    def hosts(self) -> tuple[SimulatedHost, ...]:
        """Every host, as it is now."""
        return tuple(self._hosts.values())

    def host(self, name: str) -> SimulatedHost:
        """One host, as it is now."""
        return self._hosts[name]

    @property
    @override
    def log(self) -> tuple[Effect, ...]:
        """Everything that was done, in order."""
        return tuple(self._log.lines)

    @property
    @override
    def notices(self) -> tuple[Notice, ...]:
        """Every notice that was delivered, in order."""
        return tuple(self._notices)

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
                    for each in self._log.lines
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
            lines = "\n".join(
                f"  {e.host} {e.step} #{e.attempt} {e.what}" for e in self._log.lines[-20:]
            )
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
    async def check_fleet_health(self, query: FleetQuery) -> FleetHealth:
        step = "check_fleet_health"
        asked = sum(each.step == step and each.what == "began" for each in self._log.lines)
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
        after = self._hosts[task.host] = EFFECTS.get(step, nothing)(host)
        answer = StepResult(
            changed=after != host, boot_id=after.boot_id, previous_boot_id=host.boot_id
        )
        if step in ONCE:
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

    def _write(self, what: What, step: str, task: HostTask) -> None:
        self._log.write(what, step, task)
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
