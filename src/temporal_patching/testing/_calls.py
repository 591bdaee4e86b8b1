"""What can be asked of a fleet, in this process and over a socket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Literal

from temporalio.exceptions import ApplicationError

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
from ..models._wire import from_json, to_json
from ..policy._rules import did_you_mean
from ._activities import NOTIFIER, Opened
from ._attempts import Attempt, Attempts, ServerTime


class Calls:
    """The activities, with the moment at which each was scheduled."""

    def __init__(
        self,
        attempts: Attempts,
        names: Mapping[str, Sequence[str]],
        *,
        page_size: int | None,
        labels: Mapping[str, Mapping[str, str]],
        down: frozenset[str],
        health: Sequence[FleetHealth],
    ) -> None:
        self.notices: list[Notice] = []
        self._attempts = attempts
        self._names = names
        self._page_size = page_size
        self._labels = {name: dict(some) for name, some in labels.items()}
        self._down = down
        self._health = health
        self._numbers = count()
        self._opened: dict[int, Attempt] = {}

    async def answer(self, call: str, given: Mapping[str, Any]) -> Any:
        """A call from another process."""
        when = None if given["when"] is None else from_json(given["when"], ServerTime)
        if call == "list_hosts":
            return to_json(await self.list_hosts(from_json(given["query"], HostQuery), when))
        if call == "check_fleet_health":
            query = from_json(given["query"], FleetQuery)
            return to_json(await self.check_fleet_health(query, when))
        if call == "notify":
            return await self.notify(from_json(given["notice"], Notice))
        if call == "run":
            return to_json(await self.run(given["step"], from_json(given["task"], HostTask), when))
        if call == "open":
            return to_json(await self.open(given["step"], from_json(given["task"], HostTask), when))
        if call == "close":
            answer = from_json(given["answer"], StepResult)
            return to_json(await self.close(given["number"], given["what"], answer))
        if call == "listed":
            return self._attempts.adopt(given["cluster"], given["names"])
        if call == "truth":
            return {
                "hosts": [to_json(each) for each in self._attempts.hosts.values()],
                "log": [to_json(each) for each in self._attempts.log],
                "notices": [to_json(each) for each in self.notices],
            }
        raise ApplicationError(f"no call {call!r}", non_retryable=True)

    async def list_hosts(self, query: HostQuery, when: ServerTime | None) -> HostList:
        """A page of a cluster's hosts."""
        names = self._names.get(query.cluster)
        if names is None:
            raise ApplicationError(
                f"no cluster {query.cluster!r}{did_you_mean(query.cluster, self._names)}",
                non_retryable=True,
            )
        step = "list_hosts"
        await self.run(step, of_cluster(step, query.rollout, query.cluster), when)
        first = int(query.page or 0)
        end = len(names) if self._page_size is None else first + self._page_size
        hosts = tuple(
            Host(name=name, labels=self._labels.get(name, {}), down=name in self._down)
            for name in names[first:end]
        )
        return HostList(hosts=hosts, next_page=str(end) if end < len(names) else None)

    async def check_fleet_health(self, query: FleetQuery, when: ServerTime | None) -> FleetHealth:
        """The next of the answers."""
        step = "check_fleet_health"
        asked = sum(each.step == step and each.what == "began" for each in self._attempts.log)
        await self.run(step, of_cluster(step, query.rollout, query.cluster), when)
        return self._health[min(asked, len(self._health) - 1)]

    async def notify(self, notice: Notice) -> None:
        """It is delivered, unless the notifier is dead."""
        for fault in self._attempts.spoiling(NOTIFIER, NOTIFIER):
            await fault.before(NOTIFIER)
        await self._attempts.pass_gates(NOTIFIER, NOTIFIER)
        self.notices.append(notice)
        self._attempts.tell()

    async def run(self, step: str, task: HostTask, when: ServerTime | None) -> StepResult:
        """One attempt of a step."""
        attempt = await self._attempts.begin(step, task, when)
        return await self._attempts.reply(attempt, self._attempts.carry_out(attempt))

    async def open(self, step: str, task: HostTask, when: ServerTime | None) -> Opened:
        """An attempt begins whose effect is somebody else's."""
        attempt = await self._attempts.begin(step, task, when)
        number = next(self._numbers)
        self._opened[number] = attempt
        return Opened(number=number, deliveries=attempt.deliveries, answer=attempt.answer)

    async def close(
        self, number: int, what: Literal["done", "failed", "cancelled"], answer: StepResult
    ) -> StepResult:
        """It has ended."""
        attempt = self._opened.pop(number)
        if what != "done":
            self._attempts.broke(attempt, what)
            return answer
        self._attempts.carried_out(attempt, answer)
        return await self._attempts.reply(attempt, answer)


def of_cluster(step: str, rollout: str, cluster: str) -> HostTask:
    """What the log has of an activity that is about a cluster."""
    return HostTask(rollout=rollout, cluster=cluster, host=cluster, step=step)
