"""What one run of a cluster knows and does: its frozen list, its hosts in flight, what it tells."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import attrs
from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import (
    ChildWorkflowError,
    FailureError,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)

from ..exceptions import InvalidRequest
from ..models import (
    ClusterProgress,
    ClusterReport,
    CompletedSteps,
    FleetHealth,
    FleetQuery,
    Host,
    HostList,
    HostQuery,
    HostReport,
    HostResult,
    HostsPage,
    HostTask,
    Notice,
)
from ..models._carried import MAX_LIST, Carried, CarriedState, FrozenHosts, first_of, last_of, size
from ..models._orders import (
    BusyHolder,
    BusyHost,
    ClusterOrders,
    ClusterRequest,
    ClusterUpdate,
    HostOrders,
    HostRequest,
    HostUpdate,
)
from ..models._plan import PAGE
from ..models._report import MAX_LISTED, rank
from ..policy import HostState, Outcome
from ..policy import _cluster as machine
from ..policy import _host as procedure
from ..policy._gates import gated_waves
from ..policy._news import NEWS, News, patience
from ..policy._order import domain_of, ordered, why_no_domains
from ..policy._plan import list_fingerprint, shown_fingerprint
from ..policy._rollout_policy import ClusterPlan, cluster_plan
from ..policy._rules import canonical
from ..policy._states import FAILURES, SUCCESSES
from ..policy._tally import CODES, Group, flies
from ._failures import cancel_reason, chain, root_text, wait_undisturbed
from ._length import is_full, is_long
from ._loop import MachineLoop
from ._notices import Notices
from ._parked import ParkedHosts
from ._raw import read

MAX_HOSTS = 50_000
"""Hosts of one cluster: what each run of its workflow has to know of them grows with them."""

MAX_INPUT = 1_500_000
"""Characters of a list and of the request: beside them there is room for what happens to the hosts."""

MAX_CARRIED = 1_900_000
"""Bytes that can be carried over: the server takes a payload of 2 MB."""

MAX_PAGES = 1_000

MAX_TOLD = 10
"""Failures that a message to the rollout names; the cluster's own progress and report name more."""

_NOTHING = CarriedState(codes="", group=Group(wave=0, limit=0))

_SERVERS_WORDS = re.compile(r"Cancel requested by workflow with run id \S+( with reason: )?")
"""What the server puts before the reason that the rollout has given."""
_LATE = "another rollout worked on it until no host might start any more"

LOST = "state unknown: its workflow ended without a report"


def host_workflow_id(host: str) -> str:
    """The id of a host's workflow. It is the host's lock: made of the host alone, whoever patches it."""
    return f"patch-host/{canonical(host)}"


class ClusterRun(MachineLoop[machine.ClusterState, machine.ClusterEvent, machine.ClusterCommand]):
    """What one run of a cluster knows and does."""

    def __init__(self, request: ClusterRequest) -> None:
        policy = request.request.policy
        super().__init__(machine.cluster_state(cluster_plan(policy, 0)), machine.decide)
        self.request = self._request = request
        self._cluster = request.cluster
        self._policy = policy
        self._gates = gated_waves(request.request.approvals, request.cluster)
        self._hosts = FrozenHosts()
        self._index: dict[str, int] = {}
        self._named: tuple[str, ...] = ()
        self._came_later: tuple[str, ...] = ()
        """Hosts that are not in the plan that was given, and are left out."""
        self._came_later_count = 0
        self._digest = ""
        self._problem: str | None = None
        self._frozen = False
        self._reports: dict[int, HostReport] = {}
        """Those that the report lists: no more, since they are carried over."""
        self._flying: dict[int, asyncio.Task[Any] | None] = {}
        """What each host in flight waits for: its child, or the end of another rollout's."""
        self._busy: dict[int, str] = {}
        """Hosts that another rollout works on, and whose."""
        self._parked = ParkedHosts(request.cluster, request.procedure.steps)
        self._told_parked: frozenset[int] = frozenset()
        """Parked hosts that the rollout knows of. Who sees another one could not ask for anything."""
        self._cancelling: str | None = None
        self.orders: ClusterOrders | None = request.orders
        """The newest that it has got."""
        self._signals = 0
        self._started = 0
        """Hosts that this run has started."""
        self._obeyed = 0
        self._going = False
        self._too_late: dict[str, None] = {}
        """Hosts that were to be skipped, but had started."""
        self._host_orders = HostOrders(sequence=0)
        self._host_updates: dict[int, int] = {}
        """The number of the last update of each host in flight."""
        self._soaking: asyncio.Task[None] | None = None
        self._soak_left: timedelta | None = None
        """What is left of the soak that it is in."""
        self._check_due = False
        """The fleet's health is to be asked for before the soak goes on."""
        self._asks_pause: str | None = None
        """Why it needs a person."""
        self._asked_at = 0
        self._completed: deque[str] = deque(maxlen=1_000)
        self._completed_count = 0
        self._sequence = 0
        self._untold: News | None = None
        self._told_at: datetime | None = None
        self._telling = False
        """A message to the rollout is under way."""
        self._stays = False
        """What it knows is too large to be carried over: it goes on in this run as long as that can be."""
        self._told: machine.Told | None = None
        """What it has told the rollout last of what it uses."""
        carried = request.carried
        self._notices = Notices(
            notifies=request.procedure.notifies and not request.request.dry_run,
            kinds=self._policy.notices,
            waiting=carried.notices if carried is not None else (),
            failed=carried.notices_failed if carried is not None else 0,
        )
        if carried is not None:
            self._take_over(carried)

    # From one run to the next

    def _take_over(self, carried: Carried) -> None:
        """Knows all that the run before this one knew."""
        self._freeze(carried.hosts, carried.digest)
        self._policy = carried.policy or self._request.request.policy
        self._state = carried.state.restored(self._plan())
        self._soak_left, self._check_due = carried.soak_left, carried.check_due
        self._reports = {self._index[canonical(each.host)]: each for each in carried.reports}
        self._completed.extend(carried.completed)
        self._completed_count = carried.completed_count
        self._came_later, self._came_later_count = carried.came_later, carried.came_later_count
        names = dict(enumerate(self._hosts.names))
        self._parked.take_over(carried.parked, names)
        if not carried.untold:
            self._told_parked = frozenset(machine.unanswered(self._state))
        self._too_late = dict.fromkeys(carried.too_late)
        self._obeyed, self._sequence = carried.obeyed, carried.told
        self._untold = "rest" if carried.untold else None

    def _carried(self) -> Carried:
        """All that the next run has to know. What only people see is cut where it is long."""
        asked = self._request.request.policy
        notices = tuple(first_of(self._notices.waiting))
        return Carried(
            hosts=self._hosts,
            state=CarriedState.of(self._state),
            digest=self._digest,
            policy=None if self._policy == asked else self._policy,
            soak_left=self._soak_left,
            check_due=self._check_due,
            reports=tuple(first_of(sorted(self._reports.values(), key=rank))),
            completed=last_of(tuple(self._completed)),
            completed_count=self._completed_count,
            came_later=self._came_later[:MAX_LISTED],
            came_later_count=self._came_later_count,
            parked=self._parked.carried(),
            too_late=tuple(self._too_late),
            obeyed=self._obeyed,
            told=self._sequence,
            untold=self._untold is not None,
            notices=notices,
            notices_failed=self._notices.failed + len(self._notices.waiting) - len(notices),
        )

    def continued(self, request: ClusterRequest, carried: Carried) -> ClusterRequest:
        """The input of the next run, with what has come in since ``carried`` was made."""
        return request.continued(carried, self.orders, cancel_reason())

    def _leaves(self) -> bool:
        # Whatever is under way would be lost: what a signal tells, what an activity answers.
        return (
            machine.drained(self._state)
            and not self._events
            and not self._tasks
            and not self._telling
            and (self._sequence > 0 or workflow.info().parent is None)  # it has got the list
            and self._notices.idle
            and workflow.all_handlers_finished()
            and workflow.cancellation_reason() is None
        )

    def _stay(self) -> None:
        """Goes on in this run after all."""
        self._stays = True
        workflow.logger.warning("%s cannot continue as new: it is too large", self._cluster)
        self._events.append(machine.DrainEnded())
        self._soak_on()

    def _soak_on(self) -> None:
        if self._state.at_barrier == "soak":
            self._soaking = self._start(self._soak(self._state.group.wave))

    def _watch_length(self) -> None:
        """Another run takes over in time; where that cannot be, it stops before the server ends it."""
        state = self._state
        if state.ended or state.stopped is not None:
            return
        if is_full():
            reason = "its history is full: start another rollout for the rest, or split it"
            self._events.append(machine.StopRequested(reason=reason, cancel=False))
        elif (
            self._frozen
            and not (state.draining or self._stays)
            and is_long(in_flight=state.in_flight, started=self._started, signals=self._signals)
        ):
            self._events.append(machine.DrainRequested())

    # The plan

    async def freeze(self, order: Any) -> None:
        """Lists the hosts, checks them, and freezes the list."""
        hosts = await self._list()
        seen: set[str] = set()
        problems: list[str] = []
        for host in hosts:
            if canonical(host.name) in seen:
                problems.append(f"host {host.name!r} is listed twice")
            seen.add(canonical(host.name))
        # Of all that are listed: those that are left to do may be the ones that nobody has labelled.
        unknown = why_no_domains(self._policy.order, (host.labels for host in hosts))
        if unknown is not None:
            problems.append(unknown)
        request = self._request.request
        only = {canonical(name) for name in request.only_hosts}
        left_out = {canonical(name) for name in request.exclude_hosts}
        self._named = tuple(sorted(seen & (only | left_out)))
        gone = frozenset[int]()
        if self._request.planned_hosts is not None:
            in_order, gone = self._as_planned(hosts, self._request.planned_hosts)
        else:
            wanted = [
                host
                for host in hosts
                if canonical(host.name) not in left_out
                and (not only or canonical(host.name) in only)
            ]
            in_order = tuple(order(self._in_order(wanted)))
            if sorted(map(id, in_order)) != sorted(map(id, wanted)):
                problems.append("order_hosts() must return the hosts it was given, each once")
        if len(in_order) > MAX_HOSTS:
            problems.append(f"has more than {MAX_HOSTS:,} hosts: split it")
        if problems:
            raise InvalidRequest(problems[:20])
        frozen = FrozenHosts.of(in_order)
        self._check_size(frozen)
        self._freeze(frozen, list_fingerprint(frozen.names))
        self._state = machine.cluster_state(self._plan(), gone)
        self._done(f"{len(in_order)} hosts listed")

    def _freeze(self, hosts: FrozenHosts, digest: str) -> None:
        self._hosts, self._digest, self._frozen = hosts, digest, True
        self._index = {canonical(name): index for index, name in enumerate(hosts.names)}

    def _check_size(self, hosts: FrozenHosts) -> None:
        """A list that no run could hand to the next, or tell the rollout, is refused now."""
        listed = size(hosts)
        asked = self._request.continued(Carried(hosts=FrozenHosts(), state=_NOTHING), None, None)
        if listed > MAX_LIST:
            raise InvalidRequest(
                [
                    f"its hosts' names and labels have {listed:,} characters, at most {MAX_LIST:,} can be "
                    "carried from run to run: split it, or give its hosts fewer labels"
                ]
            )
        most = max(size(asked), size(self._named))
        if listed + most > MAX_INPUT:
            raise InvalidRequest(
                [
                    f"its hosts' names and labels and the request have {listed + most:,} characters, at most "
                    f"{MAX_INPUT:,} can be carried from run to run: split it, or ask for less at once"
                ]
            )

    def _as_planned(
        self, hosts: Sequence[Host], planned: Sequence[str]
    ) -> tuple[tuple[Host, ...], frozenset[int]]:
        """The hosts of the plan in its order, whatever is listed now, and which of them are gone."""
        there = {canonical(host.name): host for host in hosts}
        meant = {canonical(name) for name in planned}
        self._came_later = tuple(host.name for host in hosts if canonical(host.name) not in meant)
        self._came_later_count = len(self._came_later)
        gone = (index for index, name in enumerate(planned) if canonical(name) not in there)
        known = (there.get(canonical(name)) or Host(name=name) for name in planned)
        return tuple(known), frozenset(gone)

    def _in_order(self, hosts: Sequence[Host]) -> tuple[Host, ...]:
        order = self._policy.order
        told = [(host.name, domain_of(order, host.labels), host.down) for host in hosts]
        return tuple(hosts[at] for at in ordered(order, told, rollout_id=self._request.rollout))

    def _plan(self) -> ClusterPlan:
        """The request's plan, under the limits that hold now."""
        asked, hosts = self._request.request.policy, self._hosts
        domains = tuple(domain_of(asked.order, hosts.labels(n)) for n in range(len(hosts)))
        plan = cluster_plan(asked, len(hosts), gates=self._gates, domains=domains)
        return machine.limited(plan, cluster_plan(self._policy, len(hosts)))

    async def _list(self) -> list[Host]:
        hosts: list[Host] = []
        pages: set[str | None] = set()
        page: str | None = None
        while page not in pages:
            pages.add(page)
            query = HostQuery(
                cluster=self._cluster,
                page=page,
                rollout=self._request.rollout,
                params=self._request.request.params,
                secrets=self._request.request.secrets,
            )
            answer = await workflow.execute_activity(
                "list_hosts",
                query,
                result_type=RawValue,
                start_to_close_timeout=timedelta(minutes=10),
                heartbeat_timeout=timedelta(seconds=30),
                retry_policy=RetryPolicy(maximum_interval=timedelta(minutes=1), maximum_attempts=5),
            )
            found = read(answer, HostList)
            hosts.extend(found.hosts)
            if len(hosts) > MAX_HOSTS:
                raise InvalidRequest([f"has more than {MAX_HOSTS:,} hosts: split it"])
            page = found.next_page
            if page is None:
                return hosts
            if len(pages) >= MAX_PAGES:
                raise InvalidRequest([f"list_hosts answered more than {MAX_PAGES} pages"])
        raise InvalidRequest([f"list_hosts came back to page {page!r}: its pages do not end"])

    def refuse(self, error: BaseException) -> None:
        """The list could not be made: nothing is touched."""
        if isinstance(error, InvalidRequest):
            self._problem = "; ".join(error.problems)
        else:
            self._problem = f"its hosts could not be listed: {root_text(error)}"

    # The loop

    async def go(self) -> Carried | None:
        """Waits for what happens, decides, and carries it out, until the cluster has ended.

        Or until another run is to take over: with what it answers then, at once.
        """
        self._obey_cancel()
        self._going = True
        if self._request.carried is None:
            self._news("decision")
        if self.orders is not None:
            self.obey(self.orders)
        if self._state.draining:
            self._events.append(machine.DrainEnded())
            self._soak_on()
            self._notices.go_on()
        telling = asyncio.create_task(self._tell())
        await self._run()
        while not self._ended():
            carried = self._carried()
            if self._fits(carried):
                telling.cancel()
                return carried
            self._stay()
            await self._run()
        if self._soaking is not None:
            self._soaking.cancel()
        self._untold = None
        await wait_undisturbed(telling.done)
        await self._notices.drain()
        return None

    def _fits(self, carried: Carried) -> bool:
        payload = workflow.payload_converter().to_payload(self.continued(self._request, carried))
        return payload.ByteSize() <= MAX_CARRIED

    def _obey_cancel(self) -> None:
        super()._obey_cancel()
        if self._request.cancelled is not None and not self._going:
            self._events.append(self._cancelled(self._request.cancelled))

    def _ended(self) -> bool:
        return self._state.ended

    def _cancelled(self, reason: str) -> machine.ClusterEvent:
        reason = _SERVERS_WORDS.sub("", reason)
        return machine.StopRequested(reason=reason or "aborted", aborted=True)

    def _carry_out(self, command: machine.ClusterCommand) -> None:
        if isinstance(command, machine.StartHost):
            self._started += 1
            self._flying[command.host] = None
            self._start(self._patch(command.host))
        elif isinstance(command, machine.CancelHosts):
            self._cancelling = command.reason
            for flying in self._flying.values():
                if flying is not None:
                    flying.cancel(command.reason[:300])
        elif isinstance(command, machine.HaltHosts):
            self._order_hosts(halt=command.halt)
        elif isinstance(command, machine.BeginSoak):
            self._soaking = self._start(self._soak(command.wave))
        elif isinstance(command, machine.RepairHost):
            self._started += 1
            self._flying[command.host] = None
            self._start(self._patch(command.host, self._parked.go_on(command)))

    def obey(self, orders: ClusterOrders) -> None:
        """Takes up all that the rollout wants now. What it wanted before is no news to the machine."""
        self._signals += 1
        self.orders = orders
        if not self._going:
            return  # taken up when the list is frozen
        if orders.kill is not None and self._host_orders.kill is None:
            self._order_hosts(kill=orders.kill)
        if orders.stop is not None:
            cancel = self._policy.in_flight == "cancel" and not orders.finishes
            self._events.append(machine.StopRequested(reason=orders.stop, cancel=cancel))
        elif self._frozen:
            ordered: list[machine.ClusterEvent] = [
                machine.PauseChanged(orders.paused),
                machine.WindowChanged(orders.window_open),
            ]
            policy = orders.policy or self._request.request.policy
            if policy != self._policy:
                self._policy = policy
                ordered.append(machine.LimitsChanged(self._plan()))
            if orders.skip or orders.skip_waves:
                ordered.append(self._skipped(orders))
            ordered.append(machine.WavesOpened(frozenset(orders.opened)))
            ordered += [
                machine.RepairAsked(
                    number=each.number, host=self._index[each.host], how=each.how, step=each.step
                )
                for each in orders.repairs
            ]
            ordered.append(machine.SlotsGranted(orders.slots, orders.risk))
            self._events.append(machine.Ordered(tuple(ordered)))

    def _skipped(self, orders: ClusterOrders) -> machine.Skipped:
        hosts = [self._index[name] for name in orders.skip if name in self._index]
        for index in hosts:
            state = machine.host_state(self._state, index)
            if state not in (HostState.NOT_STARTED, HostState.SKIPPED):
                self._too_late[self._hosts.names[index]] = None
        for wave in orders.skip_waves:
            if wave not in self._state.skip_waves and machine.wave_begun(self._state, wave):
                self._too_late[f"wave {wave}"] = None
        return machine.Skipped(hosts=frozenset(hosts), waves=frozenset(orders.skip_waves))

    def _settled(self) -> None:
        # Everything but a grant is acknowledged: people wait for it.
        orders = self.orders
        if self._going and orders is not None and orders.sequence > self._obeyed:
            self._obeyed = orders.sequence
            if orders.steered:
                self._news("decision")

    # Hosts in flight, while somebody steers

    def _order_hosts(self, *, halt: bool = False, kill: str | None = None) -> None:
        """Replaces what is wanted of the hosts in flight, and tells them."""
        last = self._host_orders
        self._host_orders = HostOrders(
            sequence=last.sequence + 1, halt=halt, kill=kill if kill is not None else last.kill
        )
        for index in self._flying:
            self._order_host(index)

    def _order_host(self, index: int) -> None:
        child = self._flying.get(index)
        if isinstance(child, workflow.ChildWorkflowHandle):  # not one that waits for a busy host
            handle: workflow.ChildWorkflowHandle[Any, Any] = child
            self._start(self._deliver(handle, self._host_orders))

    async def _deliver(
        self, child: workflow.ChildWorkflowHandle[Any, Any], orders: HostOrders
    ) -> None:
        try:
            await child.signal("orders", orders)
        except FailureError as error:  # it has ended: its result is on the way
            workflow.logger.info("Host %s was not told: %s", child.id, error)

    def told(self, update: HostUpdate) -> None:
        """Takes up what a host in flight tells."""
        self._signals += 1
        index = self._index.get(canonical(update.host))
        if index is None or index not in self._flying:
            return
        if update.number <= self._host_updates.get(index, 0):
            return
        self._host_updates[index] = update.number
        self._work_off()  # orders that came before it: only an answer to the newest counts
        if not update.halted or update.answers >= self._host_orders.sequence:
            self._events.append(machine.HostHalted(host=index, halted=update.halted))

    async def _soak(self, wave: int) -> None:
        """Waits, and looks at the fleet. The clock stands still while the rollout is paused.

        If another run is to take over, it ends where it is: that one goes on from there.
        """
        soak = self._policy.soak
        assert soak is not None  # the plan soaks
        if self._soak_left is None:
            self._soak_left = soak.duration
        while self._soak_left > timedelta(0) or self._check_due:
            await workflow.wait_condition(
                lambda: self._state.paused is None or self._state.draining
            )
            if self._state.draining:
                return
            if self._check_due:
                if not await self._is_healthy(wave):
                    return
                continue
            began, left, every = workflow.now(), self._soak_left, soak.check_every
            try:
                await workflow.wait_condition(
                    lambda: self._state.paused is not None or self._state.draining,
                    timeout=left if every is None else min(left, every),
                    timeout_summary=f"soak of {self._group(wave)}",
                )
            except asyncio.TimeoutError:
                self._check_due = every is not None
            self._soak_left = left - (workflow.now() - began)
        self._soak_left = None
        self._done(f"{self._group(wave)} soaked")
        self._events.append(machine.SoakEnded())

    async def _is_healthy(self, wave: int) -> bool:
        """Asks once; a person helps where there is no answer, then it is asked again. False: it stops."""
        health = await self._check_fleet(wave)
        self._watch_length()
        if health.verdict == "healthy":
            self._check_due = False
        elif health.verdict == "failed":
            cancel = self._policy.in_flight == "cancel"
            reason = f"fleet health after {self._group(wave)}: {health.message}"
            self._events.append(machine.StopRequested(reason=reason, cancel=cancel))
            return False
        else:
            self._asks_pause = f"fleet health after {self._group(wave)}: {health.message}"
            self._asked_at = self.orders.sequence if self.orders is not None else 0
            self._news("decision")
            await workflow.wait_condition(
                lambda: self._state.paused is not None or self._is_heard()
            )
            self._asks_pause = None
        return True

    def _is_heard(self) -> bool:
        """Whether the rollout has heard that a person is needed: the pause may be over before it is seen here."""
        orders = self.orders
        return (
            orders is not None
            and orders.heard >= self._asked_at
            and self._obeyed >= orders.sequence
        )

    async def _check_fleet(self, wave: int) -> FleetHealth:
        try:
            answer = await workflow.execute_activity(
                "check_fleet_health",
                FleetQuery(
                    cluster=self._cluster,
                    rollout=self._request.rollout,
                    wave=wave,
                    params=self._request.request.params,
                    secrets=self._request.request.secrets,
                ),
                result_type=RawValue,
                start_to_close_timeout=timedelta(minutes=5),
                heartbeat_timeout=timedelta(seconds=30),
                retry_policy=RetryPolicy(
                    maximum_interval=timedelta(seconds=30), maximum_attempts=3
                ),
                summary=f"fleet health of {self._cluster} after {self._group(wave)}",
            )
            return read(answer, FleetHealth)
        except (FailureError, InvalidRequest) as error:
            if is_cancelled_exception(error):
                raise
            return FleetHealth(verdict="inconclusive", message=f"no answer: {root_text(error)}")

    def _group(self, wave: int) -> str:
        return "the pilots" if wave == 0 else f"wave {wave}"

    # One host

    async def _patch(self, index: int, resume: procedure.Procedure | None = None) -> None:
        host = self._hosts[index]
        result = await self._result_of(index, host, resume)
        self._flying.pop(index, None)
        self._host_updates.pop(index, None)
        if result is None:
            self._events.append(machine.HostPutBack(index))
            return
        if result.parked is not None:
            if result.parked is not self._parked.stands(index):
                self._parked.keep(index, host.name, result.parked)
        else:
            self._parked.forget(index)
            if result.state not in SUCCESSES or result.left_out is not None:
                self._keep(index, result)
        if result.state is HostState.PATCHED:
            self._notify("host_patched", f"{host.name} is patched", host.name)
        elif result.state in FAILURES or result.left_out is not None:
            out = f"; left out of service: {result.left_out}" if result.left_out else ""
            self._notify(
                "host_failed",
                f"{host.name} is {result.state.value}: {result.reason}{out}",
                host.name,
            )
        parked = result.parked is not None
        self._done(f"{host.name} {result.state.value}{' and parked' if parked else ''}")
        self._events.append(
            machine.HostEnded(
                host=index,
                state=result.state,
                left_out=result.left_out is not None,
                parked=parked,
                why=f"{host.name}: {result.reason}" if result.reason else host.name,
            )
        )

    def _keep(self, index: int, result: HostResult) -> None:
        report = HostReport(
            cluster=self._cluster,
            host=self._hosts.names[index],
            state=result.state,
            reason=result.reason,
            left_out=result.left_out,
        )
        self._report(index, report)

    def _report(self, index: int, report: HostReport) -> None:
        """Keeps what the report lists; beyond that the numbers say it."""
        self._reports[index] = report
        if len(self._reports) > MAX_LISTED:
            last = max(self._reports, key=lambda index: (rank(self._reports[index]), index))
            del self._reports[last]

    async def _result_of(
        self, index: int, host: Host, resume: procedure.Procedure | None
    ) -> HostResult | None:
        """What became of it. None: it has not begun, and may not any more."""
        again = "" if resume is None else " again"
        self._notify("host_started", f"{host.name} starts{again}", host.name)
        started = workflow.now()
        while True:
            try:
                return await self._child(index, host, resume)
            except WorkflowAlreadyStartedError:
                waited = workflow.now() - started
                left = self._policy.busy_host_timeout - waited
                busy = await self._after_busy(index, host, left, resume)
                if busy is not None:
                    return busy
                self._work_off()  # a stop or a pause may have come with the end of the wait
                if not self._may_begin(resume):
                    return None if resume is None else self._parked.still(index, host.name, _LATE)
            except Exception as error:
                return self._without_report(host, error)

    def _may_begin(self, resume: procedure.Procedure | None) -> bool:
        """Whether a host that had to wait may begin now. What is given back always may."""
        gives_back = resume is not None and resume.way != "forward"
        return gives_back or self._cancelling is not None or machine.may_begin(self._state)

    async def _after_busy(
        self, index: int, host: Host, left: timedelta, resume: procedure.Procedure | None
    ) -> HostResult | None:
        """Another rollout works on the host: what becomes of it, or None to try again, if it may."""
        holder = await self._holder(index, host, left)
        said = f"busy: {holder} works on it"
        if resume is None and self._cancelling is None and self._policy.on_busy_host == "skip":
            return self._without_child(host, HostState.SKIPPED, said)
        if self._cancelling is None and self._policy.on_busy_host == "wait" and left > timedelta(0):
            self._busy[index] = f"{host.name} is {said}"
            try:
                await self._await_release(index, host, left, resume)
                return None
            except FailureError as error:
                if is_cancelled_exception(error) and not self._may_begin(resume):
                    return None
                said = f"{said} ({root_text(error)})"
            finally:
                self._busy.pop(index, None)
        if resume is not None:
            return self._still_parked(index, host, said)
        if self._cancelling is not None:
            return self._without_child(host, HostState.CANCELLED, self._cancelling)
        return self._without_child(host, HostState.FAILED, said)

    async def _child(
        self, index: int, host: Host, resume: procedure.Procedure | None
    ) -> HostResult:
        request = self._request.request
        task = HostTask(
            rollout=self._request.rollout,
            cluster=self._cluster,
            host=host.name,
            labels=host.labels,
            update_command=request.update_command,
            services=request.services,
            pre_downtime_scripts=request.pre_downtime_scripts,
            pre_update_scripts=request.pre_update_scripts,
            post_update_scripts=request.post_update_scripts,
            secrets=request.secrets,
            params=request.params,
        )
        child = await workflow.start_child_workflow(
            self._request.procedure.host_workflow,
            HostRequest(
                task=task,
                steps=self._request.procedure.steps,
                reboot=self._policy.reboot,
                parks=self._policy.on_host_failure == "park",
                resume=resume,
            ),
            id=host_workflow_id(host.name),
            result_type=RawValue,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL,
            cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
            static_summary=f"{host.name} in {self._cluster}",
        )
        self._flying[index] = child
        if self._cancelling is not None:  # the SDK swallows a cancel while a child is being started
            child.cancel(self._cancelling[:300])
        if self._host_orders.halt or self._host_orders.kill is not None:
            self._order_host(index)
        try:
            return read(await child, HostResult)
        except ChildWorkflowError as error:
            if is_cancelled_exception(error):
                why = self._cancelling or "cancelled by somebody else"
                if resume is not None:
                    return self._still_parked(index, host, why)
                return self._without_child(host, HostState.CANCELLED, why)
            for link in chain(error):
                details = getattr(link, "details", ())
                if getattr(link, "type", None) == "HostFailed" and details:
                    return read(details[0], HostResult)
            raise

    async def _holder(self, index: int, host: Host, left: timedelta) -> str:
        """Who works on it, for people. Nothing depends on the answer."""
        asking = workflow.start_activity(
            "find_holder",
            BusyHost(workflow_id=host_workflow_id(host.name), timeout=left),
            result_type=RawValue,
            start_to_close_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(maximum_attempts=2),
            summary=f"who works on {host.name}",
        )
        self._flying[index] = asking
        try:
            holder = read(await asking, BusyHolder).rollout
        except (FailureError, InvalidRequest):
            holder = ""
        return f"rollout {holder!r}" if holder else "another rollout"

    async def _await_release(
        self, index: int, host: Host, left: timedelta, resume: procedure.Procedure | None
    ) -> None:
        waiting = workflow.start_activity(
            "wait_for_host",
            BusyHost(workflow_id=host_workflow_id(host.name), timeout=left),
            start_to_close_timeout=left + timedelta(minutes=1),
            schedule_to_close_timeout=left + timedelta(minutes=2),
            heartbeat_timeout=timedelta(seconds=30),
            summary=f"wait for {host.name}, which another rollout works on",
        )
        self._flying[index] = waiting

        def in_vain() -> bool:
            stopped = self._state.stopped is not None and self._cancelling is None
            return stopped and not self._may_begin(resume)

        await workflow.wait_condition(lambda: waiting.done() or in_vain())
        if not waiting.done():
            waiting.cancel()
        await waiting

    def _still_parked(self, index: int, host: Host, why: str) -> HostResult:
        if self._state.stopped is None:
            return self._parked.still(index, host.name, why)
        # A cluster that stops tries once to give it back: nobody is asked any more.
        return self._parked.not_given_back(index, host.name, why)

    def _without_child(self, host: Host, state: HostState, reason: str) -> HostResult:
        return HostResult(cluster=self._cluster, host=host.name, state=state, reason=reason)

    def _without_report(self, host: Host, error: Exception) -> HostResult:
        return HostResult(
            cluster=self._cluster,
            host=host.name,
            state=HostState.FAILED,
            reason=f"its workflow ended without a report: {root_text(error)}",
            left_out=LOST,
            touched=True,
        )

    # What others are told

    def _note(self, before: machine.ClusterState) -> None:
        """What is worth telling: not each success."""
        self._watch_length()
        now = self._state
        if now.parked is not before.parked:
            for index in sorted(before.parked.keys() - now.parked.keys()):
                if not flies(now, index):  # a person has left it as it is
                    self._report(index, self._parked.leave(index))
            self._news("counts")
        if now.group.wave != before.group.wave:
            ended = "pilots" if before.group.wave == 0 else f"wave {before.group.wave}"
            self._done(f"{ended} done")
            self._news("rest")
        if (
            before.in_flight == 0 < now.in_flight
        ):  # else it was told to start, for all that is known
            self._news("rest")
        if now.stopped is not None and before.stopped is None:
            self._done(f"stopped: {now.stopped}")
        if machine.drained(now) and not machine.drained(before):
            self._start(self._notices.hold())
        elif before.draining and not now.draining:
            self._notices.go_on()

        def changed(*names: str) -> bool:
            return any(getattr(now, name) != getattr(before, name) for name in names)

        if changed("stopped", "at_barrier", "paused") or machine.quiet(now) != machine.quiet(
            before
        ):
            self._news("decision")
        if changed("failed", "unreachable", "held"):
            total = self._policy.total_failure_budget
            self._news("rest" if total is None else "counts")
        if machine.gives_back(now, self._told) or machine.gives_way(before, now, self._told):
            self._news("counts")
        if machine.only_parked(now) and not machine.only_parked(before):
            self._news("counts")  # from now on it waits for people alone

    def _news(self, news: News) -> None:
        """There is something to tell the rollout, if not something more important already."""
        if self._untold is None or NEWS.index(news) > NEWS.index(self._untold):
            self._untold = news

    async def _tell(self) -> None:
        """Tells the rollout, one message at a time, always the newest."""
        parent = workflow.info().parent
        while True:
            await workflow.wait_condition(lambda: self._untold is not None or self._state.ended)
            await self._until_due()
            if self._untold is None or parent is None:
                return
            self._untold, self._telling = None, True
            self._sequence += 1
            rollout = workflow.get_external_workflow_handle(parent.workflow_id)
            update, parked = self._update(), frozenset(machine.unanswered(self._state))
            try:
                await rollout.signal("cluster_update", update)
            except FailureError as error:
                workflow.logger.info("The rollout was not told, it has ended: %s", error)
            self._told_parked = parked
            self._telling, self._told_at = False, workflow.now()
            if self._state.ended:
                return

    async def _until_due(self) -> None:
        """Waits until what is new may be told, or something more important is."""
        clusters = len(self._request.request.clusters)
        while (news := self._untold) is not None and self._told_at is not None:
            wait = patience(news, told=self._sequence, clusters=clusters)
            left = self._told_at + wait - workflow.now()
            if left <= timedelta(0) or self._state.ended:
                return
            try:
                await workflow.wait_condition(
                    lambda news=news: self._untold != news or self._state.ended,  # type: ignore[misc]
                    timeout=left,
                    timeout_summary="news for the rollout",
                )
            except asyncio.TimeoutError:
                return

    def _update(self) -> ClusterUpdate:
        first = self._sequence == 1
        progress = self.progress()
        state = self._state
        parked = machine.unanswered(state)
        self._told = machine.Told.of(state)
        return ClusterUpdate(
            sequence=self._sequence,
            # A signal for each failure with all the failures before it would fill both histories.
            progress=attrs.evolve(
                progress,
                failures=progress.failures[-MAX_TOLD:],
                parked=tuple(self._parked.shown(parked[-MAX_TOLD:])),
            ),
            planned=self._frozen,
            problem=self._problem,
            host_names=self._hosts.names if first else (),
            named=self._named if first else (),
            max_parallel=state.plan.max_parallel,
            digest=self._digest,
            acted=state.acted,
            failed=state.failed,
            unreachable=state.unreachable,
            obeyed=self._obeyed,
            quiet=machine.quiet(state),
            at_gate=state.group.wave + 1 if state.at_barrier == "gate" else None,
            wave=state.group.wave if self._frozen else None,
            wave_acted=state.group.acted,
            wave_failed=state.group.failed + state.group.unreachable,
            parked={canonical(self._hosts.names[each]): self._parked.step(each) for each in parked},
            repaired=state.repaired,
            repairs_waiting=len(state.repairs),
            waiting={canonical(self._hosts.names[each.host]): each.how for each in state.repairs},
            too_late=tuple(self._too_late),
            asks_pause=self._asks_pause,
            asked_at=self._asked_at,
            needs=machine.needs(state),
            in_flight=state.in_flight,
            came_later=self._came_later[:MAX_LISTED] if first else (),
            came_later_omitted=max(len(self._came_later) - MAX_LISTED, 0) if first else 0,
            gone=machine.counts(state).get(HostState.GONE, 0) if first else 0,
        )

    def _notify(self, kind: Any, text: str, host: str) -> None:
        self._notices.send(
            Notice(
                kind=kind,
                text=text,
                rollout=self._request.rollout,
                cluster=self._cluster,
                host=host,
                recipients=(self._request.request.requester,),
            )
        )

    def _done(self, what: str) -> None:
        self._completed.append(what)
        self._completed_count += 1

    def completed(self) -> CompletedSteps:
        """What is done, in order."""
        return CompletedSteps(
            steps=tuple(self._completed), omitted=self._completed_count - len(self._completed)
        )

    def progress(self) -> ClusterProgress:
        """Where the cluster is."""
        state = self._state
        failures = (each for each in self._reports.values() if each.state in FAILURES)
        return ClusterProgress(
            cluster=self._cluster,
            phase=self._phase(),
            hosts=len(self._hosts),
            counts=machine.counts(state),
            in_flight=tuple(self._hosts.names[index] for index in islice(self._flying, MAX_LISTED)),
            waits_for=self._waits_for(),
            failures=tuple(failures)[:MAX_LISTED],
            stopped=state.stopped,
            left_out_of_service=len(state.held),
            parked=tuple(
                self._parked.shown(
                    each for each in machine.unanswered(state) if each in self._told_parked
                )
            ),
        )

    def _phase(self) -> str:
        state = self._state
        if state.ended:
            return "ended"
        if state.stopped is not None:
            return "stopping"
        if not self._frozen:
            return "listing"
        if state.paused is not None:
            return "paused" if machine.quiet(state) else "pausing"
        if state.slots == 0:
            return "waiting"
        if state.at_barrier is not None:
            return "soaking" if state.at_barrier == "soak" else "gate"
        if machine.only_parked(state):
            return "parked"
        return "pilots" if state.group.wave == 0 else f"wave {state.group.wave}"

    def _waits_for(self) -> str:
        phase, flying = self._phase(), len(self._flying)
        if phase == "waiting":
            return "the rollout's go"
        if phase == "listing":
            return self._problem or "list_hosts"
        if phase == "paused":
            still = len(self._state.halted)
            return "resume" + (f"; {still} hosts stand still" if still else "")
        if phase in ("soaking", "gate"):
            return f"{phase} before {self._group(self._state.group.wave + 1)}"
        if phase == "parked":
            return self._parked_said()
        if not flying and not self._state.window_open:
            return "the next maintenance window"
        if not flying and machine.at_risk(self._state):
            return "its share of the total failure budget"
        flown = f"{flying} host{'' if flying == 1 else 's'} in flight" if flying else ""
        if self._state.draining:  # its history is long enough
            flown = f"{flown}; then it continues as new" if flown else "to continue as new"
        return "; ".join([flown, *list(self._busy.values())[:3]]) if self._busy else flown

    def _parked_said(self) -> str:
        parked = len(machine.unanswered(self._state))
        return f"{parked} parked host{'' if parked == 1 else 's'}: retry, accept, restore or skip"

    def report(self) -> ClusterReport:
        """How the cluster ended."""
        state = self._state
        reports = [self._reports[index] for index in sorted(self._reports)]
        some = sorted([*reports, *self._never_started()], key=rank)[:MAX_LISTED]
        ends = [machine.host_state(state, index) for index in state.held]
        unpatched = len(self._hosts) + sum(end in SUCCESSES for end in ends)
        unpatched -= sum(machine.counts(state).get(each, 0) for each in SUCCESSES)
        outcome = machine.outcome(state)
        if self._request.request.dry_run and outcome is Outcome.STOPPED and self._problem is None:
            outcome = Outcome.PLANNED
        reason = state.stopped or ""
        if not reason and outcome is Outcome.PARTIAL:
            reason = "not every host is patched"
        return ClusterReport(
            cluster=self._cluster,
            outcome=outcome,
            reason=reason,
            counts=machine.counts(state),
            hosts=tuple(some),
            hosts_omitted=unpatched - len(some),
            left_out_of_service=tuple(self._hosts.names[index] for index in sorted(state.held)),
            waves=state.group.wave,
            digest=shown_fingerprint(self._digest),
            came_later=self._came_later[:MAX_LISTED],
            came_later_omitted=max(self._came_later_count - MAX_LISTED, 0),
            notices_failed=self._notices.failed,
        )

    def _never_started(self) -> Iterator[HostReport]:
        """Hosts that ended without having started, as many as a report could list."""
        state = self._state
        why = {
            HostState.SKIPPED: "an operator skipped it",
            HostState.GONE: "it is in the plan, but list_hosts does not name it any more",
            HostState.NOT_STARTED: state.stopped or "",
        }
        for some in ((HostState.SKIPPED, HostState.GONE), (HostState.NOT_STARTED,)):
            codes = b"".join(CODES[each] for each in some)
            those = (
                index
                for index, code in enumerate(state.codes)
                if code in codes and index not in self._reports
            )
            for index in islice(those, MAX_LISTED):
                ended = machine.host_state(state, index)
                assert ended is not None  # nothing is in flight any more
                yield HostReport(
                    cluster=self._cluster,
                    host=self._hosts.names[index],
                    state=ended,
                    reason=why[ended],
                )

    def hosts(self, page: int) -> HostsPage:
        """A page of the frozen list, with what has become of each host so far."""
        first, end = page * PAGE, (page + 1) * PAGE
        return HostsPage(
            hosts=self._hosts.names[first:end],
            codes=self._state.codes[first:end].decode() if self._frozen else "",
            listed=self._frozen,
            next_page=page + 1 if end < len(self._hosts) else None,
        )
