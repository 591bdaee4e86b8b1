"""What one run of a cluster knows and does: its frozen list, its hosts in flight, what it tells."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import Any

from temporalio import workflow

from ..exceptions import InvalidRequest
from ..models import ClusterProgress, ClusterReport, CompletedSteps, HostsPage, Notice
from ..models._carried import Carried, CarriedState, first_of, last_of
from ..models._orders import ClusterOrders, ClusterRequest, ClusterUpdate, HostUpdate
from ..models._report import MAX_LISTED
from ..policy import HostState
from ..policy import _cluster as machine
from ..policy import _host as procedure
from ..policy._gates import gated_waves
from ..policy._rollout_policy import ClusterPlan, cluster_plan
from ..policy._rules import canonical
from ..policy._states import FAILURES, SUCCESSES
from ..policy._tally import flies
from ._cluster_news import ClusterNews, cluster_update
from ._cluster_report import KeptReports, cluster_report
from ._cluster_shown import cluster_progress, hosts_page
from ._failures import cancel_reason, root_text, wait_undisturbed
from ._in_flight import HostsInFlight
from ._length import is_full, is_long
from ._listing import Listing, frozen, list_hosts, listed, plan_of, taken_over
from ._loop import MachineLoop
from ._notices import Notices
from ._parked import ParkedHosts
from ._soak import Soak, group_of

MAX_CARRIED = 1_900_000
"""Bytes that can be carried over: the server takes a payload of 2 MB."""

_SERVERS_WORDS = re.compile(r"Cancel requested by workflow with run id \S+( with reason: )?")
"""What the server puts before the reason that the rollout has given."""


class ClusterRun(MachineLoop[machine.ClusterState, machine.ClusterEvent, machine.ClusterCommand]):
    """What one run of a cluster knows and does."""

    def __init__(self, request: ClusterRequest) -> None:
        policy = request.request.policy
        super().__init__(machine.cluster_state(cluster_plan(policy, 0)), machine.decide)
        self.request = self._request = request
        self._cluster = request.cluster
        self._policy = policy
        self._gates = gated_waves(request.request.approvals, request.cluster)
        self._listing = Listing()
        self._problem: str | None = None
        self._reports = KeptReports(request.cluster)
        self._parked = ParkedHosts(request.cluster, request.procedure.steps)
        self._in_flight = HostsInFlight(
            request,
            self._parked,
            state=lambda: self._state,
            start=self._start,
            catch_up=self._work_off,
        )
        self._news = ClusterNews(request, state=lambda: self._state)
        self.orders: ClusterOrders | None = request.orders
        """The newest that it has got."""
        self._signals = 0
        self._started = 0
        """Hosts that this run has started."""
        self._obeyed = 0
        self._going = False
        self._too_late: dict[str, None] = {}
        """Hosts that were to be skipped, but had started."""
        self._soak = Soak(
            request, state=lambda: self._state, looked=self._watch_length, ask=self._ask
        )
        self._soaking: asyncio.Task[None] | None = None
        self._asks_pause: str | None = None
        """Why it needs a person."""
        self._asked_at = 0
        self._completed: deque[str] = deque(maxlen=1_000)
        self._completed_count = 0
        self._stays = False
        """What it knows is too large to be carried over: it goes on in this run as long as that can be."""
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
        self._listing = taken_over(carried)
        self._policy = carried.policy or self._request.request.policy
        self._state = carried.state.restored(self._plan())
        self._soak.left, self._soak.check_due = carried.soak_left, carried.check_due
        self._reports.take_over(
            (self._listing.index[canonical(each.host)], each) for each in carried.reports
        )
        self._completed.extend(carried.completed)
        self._completed_count = carried.completed_count
        names = dict(enumerate(self._listing.hosts.names))
        self._parked.take_over(carried.parked, names)
        if not carried.untold:
            self._news.known_parked = frozenset(machine.unanswered(self._state))
        self._too_late = dict.fromkeys(carried.too_late)
        self._obeyed, self._news.sequence = carried.obeyed, carried.told
        self._news.untold = "rest" if carried.untold else None

    def _carried(self) -> Carried:
        """All that the next run has to know. What only people see is cut where it is long."""
        asked = self._request.request.policy
        notices = tuple(first_of(self._notices.waiting))
        return Carried(
            hosts=self._listing.hosts,
            state=CarriedState.of(self._state),
            digest=self._listing.digest,
            policy=None if self._policy == asked else self._policy,
            soak_left=self._soak.left,
            check_due=self._soak.check_due,
            reports=tuple(first_of(self._reports.ranked())),
            completed=last_of(tuple(self._completed)),
            completed_count=self._completed_count,
            came_later=self._listing.came_later[:MAX_LISTED],
            came_later_count=self._listing.came_later_count,
            parked=self._parked.carried(),
            too_late=tuple(self._too_late),
            obeyed=self._obeyed,
            told=self._news.sequence,
            untold=self._news.untold is not None,
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
            and not self._news.telling
            and (self._news.sequence > 0 or workflow.info().parent is None)  # it has got the list
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

    def _watch_length(self) -> None:
        """Another run takes over in time; where that cannot be, it stops before the server ends it."""
        state = self._state
        if state.ended or state.stopped is not None:
            return
        if is_full():
            reason = "its history is full: start another rollout for the rest, or split it"
            self._events.append(machine.StopRequested(reason=reason, cancel=False))
        elif (
            self._listing.frozen
            and not (state.draining or self._stays)
            and is_long(in_flight=state.in_flight, started=self._started, signals=self._signals)
        ):
            self._events.append(machine.DrainRequested())

    # The plan

    async def freeze(self, order: Any) -> None:
        """Lists the hosts, checks them, and freezes the list."""
        hosts = await list_hosts(self._request)
        self._listing = listed(self._request, hosts)
        self._listing = frozen(self._listing, self._request, hosts, order)
        self._state = machine.cluster_state(self._plan(), self._listing.gone)
        self._done(f"{len(self._listing.hosts)} hosts listed")

    def _plan(self) -> ClusterPlan:
        """The request's plan, under the limits that hold now."""
        asked = self._request.request.policy
        return plan_of(self._listing.hosts, asked=asked, now=self._policy, gates=self._gates)

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
            self._news.add("decision")
        if self.orders is not None:
            self.obey(self.orders)
        if self._state.draining:
            self._events.append(machine.DrainEnded())
            self._soak_on()
            self._notices.go_on()
        telling = asyncio.create_task(self._news.tell(self._update))
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
        self._news.untold = None
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
            self._in_flight.add(command.host)
            self._start(self._patch(command.host))
        elif isinstance(command, machine.CancelHosts):
            self._in_flight.cancel(command.reason)
        elif isinstance(command, machine.HaltHosts):
            self._in_flight.halt(command.halt)
        elif isinstance(command, machine.BeginSoak):
            self._soaking = self._start(self._soak_after(command.wave))
        elif isinstance(command, machine.RepairHost):
            self._started += 1
            self._in_flight.add(command.host)
            self._start(self._patch(command.host, self._parked.go_on(command)))

    def obey(self, orders: ClusterOrders) -> None:
        """Takes up all that the rollout wants now. What it wanted before is no news to the machine."""
        self._signals += 1
        self.orders = orders
        if not self._going:
            return  # taken up when the list is frozen
        if orders.kill is not None:
            self._in_flight.kill(orders.kill)
        if orders.stop is not None:
            cancel = self._policy.in_flight == "cancel" and not orders.finishes
            self._events.append(machine.StopRequested(reason=orders.stop, cancel=cancel))
        elif self._listing.frozen:
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
                    number=each.number,
                    host=self._listing.index[each.host],
                    how=each.how,
                    step=each.step,
                )
                for each in orders.repairs
            ]
            ordered.append(machine.SlotsGranted(orders.slots, orders.risk))
            self._events.append(machine.Ordered(tuple(ordered)))

    def _skipped(self, orders: ClusterOrders) -> machine.Skipped:
        hosts = [self._listing.index[name] for name in orders.skip if name in self._listing.index]
        for index in hosts:
            state = machine.host_state(self._state, index)
            if state not in (HostState.NOT_STARTED, HostState.SKIPPED):
                self._too_late[self._listing.hosts.names[index]] = None
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
                self._news.add("decision")

    def told(self, update: HostUpdate) -> None:
        """Takes up what a host in flight tells."""
        self._signals += 1
        index = self._listing.index.get(canonical(update.host))
        if index is None or not self._in_flight.is_news(index, update):
            return
        self._work_off()  # orders that came before it: only an answer to the newest counts
        if not update.halted or self._in_flight.answers_the_newest(update):
            self._events.append(machine.HostHalted(host=index, halted=update.halted))

    # Between waves

    def _soak_on(self) -> None:
        if self._state.at_barrier == "soak":
            self._soaking = self._start(self._soak_after(self._state.group.wave))

    async def _soak_after(self, wave: int) -> None:
        event = await self._soak.after(wave)
        if isinstance(event, machine.SoakEnded):
            self._done(f"{group_of(wave)} soaked")
        if event is not None:
            self._events.append(event)

    async def _ask(self, why: str) -> None:
        """Asks for a pause, and waits for it; or until the rollout has heard: it may be over before it is seen."""
        self._asks_pause = why
        self._asked_at = self.orders.sequence if self.orders is not None else 0
        self._news.add("decision")
        await workflow.wait_condition(lambda: self._state.paused is not None or self._is_heard())
        self._asks_pause = None

    def _is_heard(self) -> bool:
        orders = self.orders
        return (
            orders is not None
            and orders.heard >= self._asked_at
            and self._obeyed >= orders.sequence
        )

    # One host

    async def _patch(self, index: int, resume: procedure.Procedure | None = None) -> None:
        host = self._listing.hosts[index]
        again = "" if resume is None else " again"
        self._notify("host_started", f"{host.name} starts{again}", host.name)
        result = await self._in_flight.result_of(index, host, resume)
        self._in_flight.remove(index)
        if result is None:
            self._events.append(machine.HostPutBack(index))
            return
        if result.parked is not None:
            if result.parked is not self._parked.stands(index):
                self._parked.keep(index, host.name, result.parked)
        else:
            self._parked.forget(index)
            if result.state not in SUCCESSES or result.left_out is not None:
                self._reports.keep_result(index, host.name, result)
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

    # What others are told

    def _note(self, before: machine.ClusterState) -> None:
        self._watch_length()
        now = self._state
        for index in sorted(before.parked.keys() - now.parked.keys()):
            if not flies(now, index):  # a person has left it as it is
                self._reports.keep(index, self._parked.leave(index))
        if now.group.wave != before.group.wave:
            ended = "pilots" if before.group.wave == 0 else f"wave {before.group.wave}"
            self._done(f"{ended} done")
        if now.stopped is not None and before.stopped is None:
            self._done(f"stopped: {now.stopped}")
        if machine.drained(now) and not machine.drained(before):
            self._start(self._notices.hold())
        elif before.draining and not now.draining:
            self._notices.go_on()
        self._news.note(before, in_total=self._policy.total_failure_budget is not None)

    def _update(self) -> ClusterUpdate:
        return cluster_update(
            self._news.sequence,
            self._state,
            self.progress(),
            self._listing,
            self._parked,
            problem=self._problem,
            obeyed=self._obeyed,
            too_late=self._too_late,
            asks_pause=self._asks_pause,
            asked_at=self._asked_at,
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
        return cluster_progress(
            self._state,
            self._listing,
            self._in_flight,
            self._reports,
            self._parked,
            self._news.known_parked,
            problem=self._problem,
        )

    def report(self) -> ClusterReport:
        """How the cluster ended."""
        return cluster_report(
            self._state,
            self._listing,
            self._reports,
            dry_run=self._request.request.dry_run,
            refused=self._problem is not None,
            notices_failed=self._notices.failed,
        )

    def hosts(self, page: int) -> HostsPage:
        """A page of the frozen list, with what has become of each host so far."""
        return hosts_page(self._state, self._listing, page)
