"""A cluster's hosts in flight: children that are started, told, awaited, cancelled; and waits for busy hosts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import (
    ChildWorkflowError,
    FailureError,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)

from ..exceptions import InvalidRequest
from ..models import Host, HostResult, HostTask
from ..models._orders import (
    BusyHolder,
    BusyHost,
    ClusterRequest,
    HostOrders,
    HostRequest,
    HostUpdate,
)
from ..policy import HostState
from ..policy import _cluster as machine
from ..policy import _host as procedure
from ..policy._rules import canonical
from ._failures import chain, root_text
from ._parked import ParkedHosts
from ._raw import read

LOST = "state unknown: its workflow ended without a report"

_LATE = "another rollout worked on it until no host might start any more"


def host_workflow_id(host: str) -> str:
    """The id of a host's workflow. It is the host's lock: made of the host alone, whoever patches it."""
    return f"patch-host/{canonical(host)}"


class HostsInFlight:
    """The hosts that a cluster works on now, by their places in its list.

    Args:
        request: What the cluster was given. Its policy is the one that was asked for: what is read of it here
            is no limit, so nobody changes it.
        parked: Where its parked hosts stand. It is told of those that could not go on.
        state: Where the cluster is now.
        start: Runs something beside the cluster's loop.
        catch_up: Decides all that has happened until now.
    """

    def __init__(
        self,
        request: ClusterRequest,
        parked: ParkedHosts,
        *,
        state: Callable[[], machine.ClusterState],
        start: Callable[[Coroutine[Any, Any, None]], object],
        catch_up: Callable[[], None],
    ) -> None:
        self._request = request
        self._cluster = request.cluster
        self._policy = request.request.policy
        self._parked = parked
        self._state = state
        self._start = start
        self._catch_up = catch_up
        self._flying: dict[int, asyncio.Task[Any] | None] = {}
        """What each host in flight waits for: its child, or the end of another rollout's."""
        self._busy: dict[int, str] = {}
        """Hosts that another rollout works on, and whose."""
        self._cancelling: str | None = None
        self._orders = HostOrders(sequence=0)
        self._updates: dict[int, int] = {}
        """The number of the last update of each host in flight."""

    def __len__(self) -> int:
        return len(self._flying)

    def __iter__(self) -> Iterator[int]:
        return iter(self._flying)

    @property
    def busy(self) -> tuple[str, ...]:
        """What is said of the hosts that another rollout works on."""
        return tuple(self._busy.values())

    # All of them, while somebody steers

    def cancel(self, reason: str) -> None:
        """Cancels them all, and whatever comes to be in flight from now on."""
        self._cancelling = reason
        for flying in self._flying.values():
            if flying is not None:
                flying.cancel(reason[:300])

    def kill(self, reason: str) -> None:
        """Tells them to end at once, whatever they do."""
        if self._orders.kill is None:
            self._order(kill=reason)

    def halt(self, halt: bool) -> None:
        """Tells them to stand still at the next safe point, or to go on."""
        self._order(halt=halt)

    def _order(self, *, halt: bool = False, kill: str | None = None) -> None:
        """Replaces what is wanted of the hosts in flight, and tells them."""
        last = self._orders
        self._orders = HostOrders(
            sequence=last.sequence + 1, halt=halt, kill=kill if kill is not None else last.kill
        )
        for index in self._flying:
            self._tell(index)

    def _tell(self, index: int) -> None:
        child = self._flying.get(index)
        if isinstance(child, workflow.ChildWorkflowHandle):  # not one that waits for a busy host
            handle: workflow.ChildWorkflowHandle[Any, Any] = child
            self._start(_deliver(handle, self._orders))

    def is_news(self, index: int, update: HostUpdate) -> bool:
        """Whether a host in flight tells something that it has not told before."""
        if index not in self._flying or update.number <= self._updates.get(index, 0):
            return False
        self._updates[index] = update.number
        return True

    def answers_the_newest(self, update: HostUpdate) -> bool:
        """Whether a host that stands still has got the newest orders. Otherwise it is about to go on."""
        return update.answers >= self._orders.sequence

    # One host

    def add(self, index: int) -> None:
        """It is in flight, though nothing runs for it yet."""
        self._flying[index] = None

    def remove(self, index: int) -> None:
        """It has ended."""
        self._flying.pop(index, None)
        self._updates.pop(index, None)

    async def result_of(
        self, index: int, host: Host, resume: procedure.Procedure | None
    ) -> HostResult | None:
        """Works on it, and answers what became of it. None: it has not begun, and may not any more.

        ``resume``: it was parked, and goes on from there.
        """
        started = workflow.now()
        while True:
            try:
                return await self._child(index, host, resume)
            except WorkflowAlreadyStartedError:
                left = self._policy.busy_host_timeout - (workflow.now() - started)
                busy = await self._after_busy(index, host, left, resume)
                if busy is not None:
                    return busy
                self._catch_up()  # a stop or a pause may have come with the end of the wait
                if not self._may_begin(resume):
                    return None if resume is None else self._parked.still(index, host.name, _LATE)
            except Exception as error:
                return self._without_report(host, error)

    def _may_begin(self, resume: procedure.Procedure | None) -> bool:
        """Whether a host that had to wait may begin now. What is given back always may."""
        gives_back = resume is not None and resume.way != "forward"
        return gives_back or self._cancelling is not None or machine.may_begin(self._state())

    async def _child(
        self, index: int, host: Host, resume: procedure.Procedure | None
    ) -> HostResult:
        child = await workflow.start_child_workflow(
            self._request.procedure.host_workflow,
            HostRequest(
                task=self._task(host),
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
        if self._orders.halt or self._orders.kill is not None:
            self._tell(index)
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

    def _task(self, host: Host) -> HostTask:
        request = self._request.request
        return HostTask(
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

    # A host that another rollout works on

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
            stopped = self._state().stopped is not None and self._cancelling is None
            return stopped and not self._may_begin(resume)

        await workflow.wait_condition(lambda: waiting.done() or in_vain())
        if not waiting.done():
            waiting.cancel()
        await waiting

    # What became of a host whose workflow does not say so

    def _still_parked(self, index: int, host: Host, why: str) -> HostResult:
        if self._state().stopped is None:
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


async def _deliver(child: workflow.ChildWorkflowHandle[Any, Any], orders: HostOrders) -> None:
    try:
        await child.signal("orders", orders)
    except FailureError as error:  # it has ended: its result is on the way
        workflow.logger.info("Host %s was not told: %s", child.id, error)
