"""Hosts that exist only in this process, with faults by name and a log that no workflow can edit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Literal, final

from typing_extensions import override

from ..exceptions import InvalidRequest
from ..models import (
    FleetHealth,
    FleetQuery,
    HostList,
    HostQuery,
    HostTask,
    Notice,
    StepResult,
)
from ._activities import Opened, SimulatedSteps
from ._attempts import Attempts, server_time
from ._calls import Calls
from ._chaos import names_of
from ._faults import Fault
from ._given import wrong_faults, wrong_names, wrong_sizes
from ._hosts import SimulatedHost
from ._log import Effect, FleetTruth
from ._served import ServedFleet, served

PATIENCE = timedelta(seconds=30)
"""How long a test waits for something that should happen at once."""


@final
class SimulatedFleet(SimulatedSteps, FleetTruth):
    """Clusters of hosts in this process. Give it to a ``PatchingPlugin`` as your activities.

    It has every step of the default procedure and ``notify``; ``implementing`` makes one that has others,
    ``around`` has your own activities do the work, ``served`` lets workers of other processes work on it.
    Use it from one event loop, the one that its worker and the test run in.

    Its steps are what careful activities are: an update and a reboot happen once for each idempotency key, an
    attempt that another one has followed is refused (``SimulatedHost.fence``), and the health check looks at
    what is installed, not at what was said. Each effect is in the log before anybody is answered.

    A worker says in its log that no machine is touched, and a worker for a Temporal server that is not on this
    machine refuses it. Behind a tunnel any server looks as if it were here: that is not noticed.

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
        targets: Addresses (``"temporal.ci:7233"``) of servers for tests that are not on this machine. A worker
            for any other server elsewhere refuses the fleet, so that nobody takes it for machines.

    Raises:
        InvalidRequest: A name is that of no host, a fault can never strike, or a number makes no sense.

    Example:
        >>> from temporal_patching.testing import FailAt
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
        targets: Collection[str] = (),
    ) -> None:
        self.seed = seed
        problems = list(wrong_sizes(clusters))
        if problems:
            raise InvalidRequest(problems)
        self._names = {cluster: names_of(cluster, hosts) for cluster, hosts in clusters.items()}
        chosen = {
            name: tuple(some) if isinstance(some, Sequence) else (some,)
            for name, some in (faults or {}).items()
        }
        hosts = {name for names in self._names.values() for name in names}
        down = frozenset(down)
        problems += wrong_faults(chosen, self._names)
        problems += wrong_names("labels", labels or (), hosts)
        problems += wrong_names("down", sorted(down), hosts)
        if page_size is not None and page_size < 1:
            problems.append(f"'page_size' must be >= 1, or None for all (got {page_size!r})")
        if latency < timedelta(0):
            problems.append(f"'latency' must not be negative (got {latency})")
        if not health:
            problems.append("'health' must have an answer")
        if problems:
            raise InvalidRequest(problems)
        self._attempts = Attempts(
            [
                SimulatedHost(name=name, cluster=cluster)
                for cluster, names in self._names.items()
                for name in names
            ],
            chosen,
            seed=seed,
            latency=latency.total_seconds(),
        )
        self._calls = Calls(
            self._attempts,
            self._names,
            page_size=page_size,
            labels=labels or {},
            down=down,
            health=tuple(health),
        )
        self._targets = tuple(targets)

    def __repr__(self) -> str:
        sizes = {cluster: len(names) for cluster, names in self._names.items()}
        return f"SimulatedFleet({sizes}, seed={self.seed})"

    # What is there, and what has happened

    @property
    @override
    def hosts(self) -> tuple[SimulatedHost, ...]:
        """Every host, as it is now."""
        return tuple(self._attempts.hosts.values())

    @property
    @override
    def log(self) -> tuple[Effect, ...]:
        """Everything that was done, in order."""
        return tuple(self._attempts.log)

    @property
    @override
    def notices(self) -> tuple[Notice, ...]:
        """Every notice that was delivered, in order."""
        return tuple(self._calls.notices)

    # Steering by condition, not by sleeping

    def hold(self, step: str, host: str | None = None) -> None:
        """Lets each attempt of the step begin, but not go on, until ``release``.

        Args:
            step: Which step; ``"list_hosts"`` and ``"notify"`` can be held, too.
            host: On which host; on every one by default.
        """
        self._attempts.held.setdefault((step, host), asyncio.Event())

    def release(self, step: str, host: str | None = None) -> None:
        """Ends what ``hold`` of the same arguments began."""
        self._attempts.held.pop((step, host)).set()

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
                    for each in self._attempts.log
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
                f"  {e.host} {e.step} #{e.attempt} {e.what}" for e in self._attempts.log[-20:]
            )
            raise asyncio.TimeoutError(
                f"{self!r}: it did not happen in {timeout}. The log ends:\n{lines}"
            ) from None

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._attempts.news.wait()

    # In another process

    @asynccontextmanager
    async def served(self) -> AsyncGenerator[str, None]:
        """Lets workers of other processes work on this fleet, until the block ends.

        They are given the address, and make activities of it by ``SimulatedFleet.at``. Kill such a worker and
        the hosts are as they are: what it had asked for goes on, as on a machine, only nobody hears of it.
        It listens on loopback only, and answers who has the key, which is part of the address.

        Example::

            async with fleet.served() as address:
                worker = await asyncio.create_subprocess_exec(sys.executable, "my_worker.py", address)
        """
        async with served(self._calls) as address:
            yield address

    @staticmethod
    def at(address: str, *, targets: Collection[str] = ()) -> ServedFleet:
        """The fleet that another process serves, as activities of this one.

        Args:
            address: What ``served`` gave.
            targets: As for a ``SimulatedFleet``.
        """
        return ServedFleet(address, targets=targets)

    # The activities

    @override
    async def list_hosts(self, query: HostQuery) -> HostList:
        return await self._calls.list_hosts(query, server_time())

    @override
    async def check_fleet_health(self, query: FleetQuery) -> FleetHealth:
        return await self._calls.check_fleet_health(query, server_time())

    @override
    async def notify(self, notice: Notice) -> None:
        await self._calls.notify(notice)

    @override
    async def _run(self, step: str, task: HostTask) -> StepResult:
        return await self._calls.run(step, task, server_time())

    @override
    async def _open(self, step: str, task: HostTask) -> Opened:
        return await self._calls.open(step, task, server_time())

    @override
    async def _close(
        self, number: int, what: Literal["done", "failed", "cancelled"], answer: StepResult
    ) -> StepResult:
        return await self._calls.close(number, what, answer)

    @override
    async def _listed(self, cluster: str, names: list[str]) -> None:
        self._attempts.adopt(cluster, names)
