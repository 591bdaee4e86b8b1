"""What one run of a cluster knows and does: its frozen list, its hosts in flight, what it tells."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import timedelta
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
from ..models._report import MAX_LISTED, listed
from ..policy import HostState, Outcome
from ..policy import _cluster as machine
from ..policy._gates import gated_waves
from ..policy._order import domain_of, ordered
from ..policy._rollout_policy import ClusterPlan, cluster_plan
from ..policy._rules import canonical
from ..policy._states import FAILURES, SUCCESSES
from ._failures import chain, root_text, wait_undisturbed
from ._loop import MachineLoop
from ._notices import Notices
from ._raw import read

MAX_HOSTS = 4_500
"""Hosts of one cluster: one after the other they cost nine events each, and one history holds no more."""

MAX_EVENTS = 46_000
MAX_BYTES = 40 * 1024**2
"""Where a history is full: the server ends a workflow at 51,200 events or 50 MB, and no clean-up runs."""

MAX_PAGES = 1_000

MAX_TOLD = 10
"""Failures that a message to the rollout names; the cluster's own progress and report name more."""

LOST = "state unknown: its workflow ended without a report"


def host_workflow_id(host: str) -> str:
    """The id of a host's workflow. It is the host's lock: made of the host alone, whoever patches it."""
    return f"patch-host/{canonical(host)}"


class ClusterRun(MachineLoop[machine.ClusterState, machine.ClusterEvent, machine.ClusterCommand]):
    """What one run of a cluster knows and does."""

    def __init__(self, request: ClusterRequest) -> None:
        policy = request.request.policy
        super().__init__(machine.cluster_state(cluster_plan(policy, 0)), machine.decide)
        self._request = request
        self._cluster = request.cluster
        self._policy = policy
        self._gates = gated_waves(request.request.approvals, request.cluster)
        self._hosts: tuple[Host, ...] = ()
        self._index: dict[str, int] = {}
        self._named: tuple[str, ...] = ()
        self._came_later: tuple[str, ...] = ()
        """Hosts that are not in the plan that was given, and are left out."""
        self._digest = ""
        self._problem: str | None = None
        self._frozen = False
        self._reports: dict[int, HostReport] = {}
        self._flying: dict[int, asyncio.Task[Any] | None] = {}
        """What each host in flight waits for: its child, or the end of another rollout's."""
        self._busy: dict[int, str] = {}
        """Hosts that another rollout works on, and whose."""
        self._cancelling: str | None = None
        self._orders: ClusterOrders | None = None
        self._obeyed = 0
        self._going = False
        self._too_late: dict[str, None] = {}
        """Hosts that were to be skipped, but had started."""
        self._host_orders = HostOrders(sequence=0)
        self._host_updates: dict[int, int] = {}
        """The number of the last update of each host in flight."""
        self._soaking: asyncio.Task[None] | None = None
        self._asks_pause: str | None = None
        self._completed: deque[str] = deque(maxlen=1_000)
        self._completed_count = 0
        self._sequence = 0
        self._untold = False
        self._notices = Notices(
            notifies=request.procedure.notifies and not request.request.dry_run,
            kinds=self._policy.notices,
        )

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
        if problems:
            raise InvalidRequest(problems[:20])
        self._hosts, self._frozen = in_order, True
        self._index = {canonical(host.name): index for index, host in enumerate(in_order)}
        self._digest = digest(host.name for host in in_order)
        self._state = machine.cluster_state(self._plan(), gone)
        self._done(f"{len(in_order)} hosts listed")

    def _as_planned(
        self, hosts: Sequence[Host], planned: Sequence[str]
    ) -> tuple[tuple[Host, ...], frozenset[int]]:
        """The hosts of the plan in its order, whatever is listed now, and which of them are gone."""
        there = {canonical(host.name): host for host in hosts}
        meant = {canonical(name) for name in planned}
        self._came_later = tuple(host.name for host in hosts if canonical(host.name) not in meant)
        gone = (index for index, name in enumerate(planned) if canonical(name) not in there)
        known = (there.get(canonical(name)) or Host(name=name) for name in planned)
        return tuple(known), frozenset(gone)

    def _in_order(self, hosts: Sequence[Host]) -> tuple[Host, ...]:
        order = self._policy.order
        told = [(host.name, domain_of(order, host.labels), host.down) for host in hosts]
        return tuple(hosts[at] for at in ordered(order, told, rollout_id=self._request.rollout))

    def _plan(self) -> ClusterPlan:
        order = self._policy.order
        domains = tuple(domain_of(order, host.labels) for host in self._hosts)
        return cluster_plan(self._policy, len(self._hosts), gates=self._gates, domains=domains)

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
                raise InvalidRequest([f"has more than {MAX_HOSTS} hosts: split it"])
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

    async def go(self) -> None:
        """Waits for what happens, decides, and carries it out, until the cluster has ended."""
        self._obey_cancel()
        self._going, self._untold = True, True
        if self._orders is not None:
            self.obey(self._orders)
        telling = asyncio.create_task(self._tell())
        await self._run()
        if self._soaking is not None:
            self._soaking.cancel()
        self._untold = False
        await wait_undisturbed(telling.done)
        await self._notices.drain()

    def _ended(self) -> bool:
        return self._state.ended

    def _cancelled(self, reason: str) -> machine.ClusterEvent:
        return machine.StopRequested(reason=reason or "aborted", aborted=True)

    def _carry_out(self, command: machine.ClusterCommand) -> None:
        if isinstance(command, machine.StartHost):
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

    def obey(self, orders: ClusterOrders) -> None:
        """Takes up all that the rollout wants now. What it wanted before is no news to the machine."""
        self._orders = orders
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
            ordered.append(machine.SlotsGranted(orders.slots, orders.risk))
            self._events.append(machine.Ordered(tuple(ordered)))

    def _skipped(self, orders: ClusterOrders) -> machine.Skipped:
        hosts = [self._index[name] for name in orders.skip if name in self._index]
        for index in hosts:
            state = machine.host_state(self._state, index)
            if state not in (HostState.NOT_STARTED, HostState.SKIPPED):
                self._too_late[self._hosts[index].name] = None
        for wave in orders.skip_waves:
            if wave not in self._state.skip_waves and machine.wave_begun(self._state, wave):
                self._too_late[f"wave {wave}"] = None
        return machine.Skipped(hosts=frozenset(hosts), waves=frozenset(orders.skip_waves))

    def _settled(self) -> None:
        # Everything but a grant is acknowledged: people wait for it.
        orders = self._orders
        if self._going and orders is not None and orders.sequence > self._obeyed:
            self._obeyed = orders.sequence
            self._untold = self._untold or orders.steered

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
        """Waits, and looks at the fleet. The clock stands still while the rollout is paused."""
        soak = self._policy.soak
        assert soak is not None  # the plan soaks
        left = soak.duration
        while left > timedelta(0):
            await workflow.wait_condition(lambda: self._state.paused is None)
            began = workflow.now()
            try:
                await workflow.wait_condition(
                    lambda: self._state.paused is not None,
                    timeout=left if soak.check_every is None else min(left, soak.check_every),
                    timeout_summary=f"soak of {self._group(wave)}",
                )
            except asyncio.TimeoutError:
                left -= workflow.now() - began
                if soak.check_every is not None and not await self._is_healthy(wave):
                    return
            else:
                left -= workflow.now() - began
        self._done(f"{self._group(wave)} soaked")
        self._events.append(machine.SoakEnded())

    async def _is_healthy(self, wave: int) -> bool:
        """Asks until there is an answer; a person helps where there is none. False: the cluster stops."""
        while True:
            health = await self._check_fleet(wave)
            if health.verdict == "healthy":
                return True
            if health.verdict == "failed":
                cancel = self._policy.in_flight == "cancel"
                reason = f"fleet health after {self._group(wave)}: {health.message}"
                self._events.append(machine.StopRequested(reason=reason, cancel=cancel))
                return False
            self._asks_pause = f"fleet health after {self._group(wave)}: {health.message}"
            self._untold = True
            await workflow.wait_condition(lambda: self._state.paused is not None)
            self._asks_pause = None
            await workflow.wait_condition(lambda: self._state.paused is None)

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

    async def _patch(self, index: int) -> None:
        host = self._hosts[index]
        result = await self._result_of(index, host)
        self._flying.pop(index, None)
        self._host_updates.pop(index, None)
        if result.state not in SUCCESSES or result.left_out is not None:
            self._reports[index] = HostReport(
                cluster=self._cluster,
                host=host.name,
                state=result.state,
                reason=result.reason,
                left_out=result.left_out,
            )
        if result.state is HostState.PATCHED:
            self._notify("host_patched", f"{host.name} is patched", host.name)
        elif result.state in FAILURES or result.left_out is not None:
            out = f"; left out of service: {result.left_out}" if result.left_out else ""
            self._notify(
                "host_failed",
                f"{host.name} is {result.state.value}: {result.reason}{out}",
                host.name,
            )
        self._done(f"{host.name} {result.state.value}")
        self._events.append(
            machine.HostEnded(
                host=index,
                state=result.state,
                left_out=result.left_out is not None,
                why=f"{host.name}: {result.reason}" if result.reason else host.name,
            )
        )

    async def _result_of(self, index: int, host: Host) -> HostResult:
        self._notify("host_started", f"{host.name} starts", host.name)
        started = workflow.now()
        while True:
            try:
                return await self._child(index, host)
            except WorkflowAlreadyStartedError:
                waited = workflow.now() - started
                busy = await self._after_busy(index, host, self._policy.busy_host_timeout - waited)
                if busy is not None:
                    return busy
            except Exception as error:
                return self._without_report(host, error)

    async def _after_busy(self, index: int, host: Host, left: timedelta) -> HostResult | None:
        """Another rollout works on the host: what becomes of it, or None to try again."""
        holder = await self._holder(index, host, left)
        said = f"busy: {holder} works on it"
        if self._cancelling is None and self._policy.on_busy_host == "skip":
            return self._without_child(host, HostState.SKIPPED, said)
        if self._cancelling is None and self._policy.on_busy_host == "wait" and left > timedelta(0):
            self._busy[index] = f"{host.name} is {said}"
            try:
                await self._await_release(index, host, left)
                return None
            except FailureError as error:
                said = f"{said} ({root_text(error)})"
            finally:
                self._busy.pop(index, None)
        if self._cancelling is not None:
            return self._without_child(host, HostState.CANCELLED, self._cancelling)
        return self._without_child(host, HostState.FAILED, said)

    async def _child(self, index: int, host: Host) -> HostResult:
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
            HostRequest(task=task, steps=self._request.procedure.steps, reboot=self._policy.reboot),
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
                return self._without_child(
                    host, HostState.CANCELLED, self._cancelling or "cancelled by somebody else"
                )
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

    async def _await_release(self, index: int, host: Host, left: timedelta) -> None:
        waiting = workflow.start_activity(
            "wait_for_host",
            BusyHost(workflow_id=host_workflow_id(host.name), timeout=left),
            start_to_close_timeout=left + timedelta(minutes=1),
            schedule_to_close_timeout=left + timedelta(minutes=2),
            heartbeat_timeout=timedelta(seconds=30),
            summary=f"wait for {host.name}, which another rollout works on",
        )
        self._flying[index] = waiting
        await waiting

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

    def _stop_when_full(self) -> None:
        info = workflow.info()
        full = (
            info.get_current_history_length() >= MAX_EVENTS
            or info.get_current_history_size() >= MAX_BYTES
        )
        if full and self._state.stopped is None:
            self._events.append(
                machine.StopRequested(
                    reason="its history is full: start another rollout for the rest, or split it",
                    cancel=False,
                )
            )

    def _note(self, before: machine.ClusterState) -> None:
        """What is worth telling: not each success."""
        self._stop_when_full()
        now = self._state
        if now.group.wave != before.group.wave:
            ended = "pilots" if before.group.wave == 0 else f"wave {before.group.wave}"
            self._done(f"{ended} done")
        if now.stopped is not None and before.stopped is None:
            self._done(f"stopped: {now.stopped}")
        told = ("failed", "unreachable", "stopped", "held", "at_barrier", "paused")
        if (
            now.group.wave != before.group.wave
            or machine.quiet(now) != machine.quiet(before)
            or any(getattr(now, name) != getattr(before, name) for name in told)
        ):
            self._untold = True

    async def _tell(self) -> None:
        """Tells the rollout, one message at a time, always the newest."""
        parent = workflow.info().parent
        while True:
            await workflow.wait_condition(lambda: self._untold or self._state.ended)
            if not self._untold or parent is None:
                return
            self._untold = False
            self._sequence += 1
            rollout = workflow.get_external_workflow_handle(parent.workflow_id)
            try:
                await rollout.signal("cluster_update", self._update())
            except FailureError as error:
                workflow.logger.info("The rollout was not told, it has ended: %s", error)
            if self._state.ended:
                return

    def _update(self) -> ClusterUpdate:
        first = self._sequence == 1
        progress = self.progress()
        state = self._state
        return ClusterUpdate(
            sequence=self._sequence,
            # A signal for each failure with all the failures before it would fill both histories.
            progress=attrs.evolve(progress, failures=progress.failures[-MAX_TOLD:]),
            planned=self._frozen,
            problem=self._problem,
            host_names=tuple(host.name for host in self._hosts) if first else (),
            named=self._named if first else (),
            max_parallel=state.plan.max_parallel,
            digest=self._digest,
            acted=state.acted,
            failed=state.failed,
            unreachable=state.unreachable,
            obeyed=self._obeyed,
            quiet=machine.quiet(state),
            at_gate=state.group.wave + 1 if state.at_barrier == "gate" else None,
            too_late=tuple(self._too_late),
            asks_pause=self._asks_pause,
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
            in_flight=tuple(self._hosts[index].name for index in list(self._flying)[:MAX_LISTED]),
            waits_for=self._waits_for(),
            failures=tuple(failures)[:MAX_LISTED],
            stopped=state.stopped,
            left_out_of_service=len(state.held),
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
        if not flying and not self._state.window_open:
            return "the next maintenance window"
        if not flying and machine.at_risk(self._state):
            return "its share of the total failure budget"
        flown = f"{flying} host{'' if flying == 1 else 's'} in flight" if flying else ""
        return "; ".join([flown, *list(self._busy.values())[:3]]) if self._busy else flown

    def report(self) -> ClusterReport:
        """How the cluster ended."""
        state = self._state
        hosts = [self._reports[index] for index in sorted(self._reports)]
        why = {
            HostState.NOT_STARTED: state.stopped or "",
            HostState.SKIPPED: "an operator skipped it",
            HostState.GONE: "it is in the plan, but list_hosts does not name it any more",
        }
        for index, host in enumerate(self._hosts):
            ended = machine.host_state(state, index)
            if ended is not None and ended in why and index not in self._reports:
                hosts.append(
                    HostReport(
                        cluster=self._cluster, host=host.name, state=ended, reason=why[ended]
                    )
                )
        some, omitted = listed(hosts)
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
            hosts=some,
            hosts_omitted=omitted,
            left_out_of_service=tuple(
                each.host for each in self._reports.values() if each.left_out is not None
            ),
            waves=state.group.wave,
            digest=self._digest,
            came_later=len(self._came_later),
            notices_failed=self._notices.failed,
        )

    def hosts(self, page: int) -> HostsPage:
        """A page of the frozen list, with what has become of each host so far."""
        first, end = page * PAGE, (page + 1) * PAGE
        return HostsPage(
            hosts=tuple(host.name for host in self._hosts[first:end]),
            codes=self._state.codes[first:end].decode() if self._frozen else "",
            listed=self._frozen,
            next_page=page + 1 if end < len(self._hosts) else None,
        )


def digest(names: Iterable[str]) -> str:
    """The fingerprint of a frozen list: the order counts."""
    return hashlib.sha256("\n".join(map(canonical, names)).encode()).hexdigest()
