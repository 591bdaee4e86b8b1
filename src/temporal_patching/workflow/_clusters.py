"""A rollout's clusters: started as children, awaited, cancelled, and told what the rollout wants of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import attrs
from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ChildWorkflowError, FailureError

from ..models import ClusterReport, PatchRequest
from ..models._orders import ClusterOrders, ClusterRequest, ResolvedProcedure
from ..policy import RolloutPolicy
from ..policy import _rollout as machine
from ..policy import _rollout_state as data
from ._failures import chain
from ._raw import read


def cluster_workflow_id(rollout: str, cluster: str) -> str:
    """The id of a cluster's workflow: ``patch-2026-11/eu-1``."""
    return f"{rollout}/{cluster}"


class Clusters:
    """The clusters that have not ended, and the newest orders of all.

    Args:
        rollout: The rollout's id.
        request: What is asked for.
        start: Runs something beside the rollout's loop.
        heard: Called when the server has answered and nothing follows from it.
    """

    def __init__(
        self,
        rollout: str,
        request: PatchRequest,
        *,
        start: Callable[[Coroutine[Any, Any, None]], object],
        heard: Callable[[], None],
    ) -> None:
        self._rollout = rollout
        self._request = request
        self._start = start
        self._heard = heard
        self._children: dict[str, asyncio.Task[Any] | None] = {}
        self._orders: dict[str, ClusterOrders] = {}
        self._unsent: set[str] = set()
        self._aborting: str | None = None

    def add(self, cluster: str) -> None:
        """It is there, though nothing runs for it yet."""
        self._children[cluster] = None

    def remove(self, cluster: str) -> None:
        """It has ended."""
        self._children.pop(cluster, None)

    def __contains__(self, cluster: object) -> bool:
        return cluster in self._children

    @property
    def wanted(self) -> Mapping[str, int]:
        """The number of each cluster's newest orders."""
        return {cluster: orders.sequence for cluster, orders in self._orders.items()}

    async def report_of(
        self, cluster: str, procedure: ResolvedProcedure
    ) -> ClusterReport | FailureError:
        """Starts it, and answers how it ended. A failure: it has ended without a report."""
        try:
            child = await workflow.start_child_workflow(
                procedure.cluster_workflow,
                ClusterRequest(
                    rollout=self._rollout,
                    cluster=cluster,
                    request=attrs.evolve(self._request, planned_hosts={}),
                    procedure=procedure,
                    planned_hosts=self._request.planned_hosts.get(cluster),
                ),
                id=cluster_workflow_id(self._rollout, cluster),
                result_type=RawValue,
                parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL,
                cancellation_type=workflow.ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
                static_summary=f"cluster {cluster} of {self._rollout}",
            )
            self._children[cluster] = child
            if (
                self._aborting is not None
            ):  # the SDK swallows a cancel while a child is being started
                self._start(self._cancel(cluster, self._aborting))
            if cluster in self._orders:
                self._send(cluster)
            self._heard()
            return read(await child, ClusterReport)
        except ChildWorkflowError as error:
            for link in chain(error):
                details = getattr(link, "details", ())
                if getattr(link, "type", None) == "ClusterFailed" and details:
                    return read(details[0], ClusterReport)
            return error
        except FailureError as error:
            return error

    def cancel(self, cluster: str, reason: str) -> None:
        """Cancels it, and every other one that is being started."""
        self._aborting = reason
        if self._children.get(cluster) is not None:
            self._start(self._cancel(cluster, reason))

    async def _cancel(self, cluster: str, reason: str) -> None:
        # Not by the child's handle: that names its first run, and a cluster continues as new.
        child = workflow.get_external_workflow_handle(cluster_workflow_id(self._rollout, cluster))
        try:
            await child.cancel(reason=reason[:300])
        except FailureError as error:  # it has ended: its result is on the way
            workflow.logger.info("Cluster %s was not cancelled: %s", cluster, error)

    def order(self, cluster: str, state: data.RolloutState, *, heard: int) -> None:
        """Replaces what the rollout wants of a cluster, and sends it. ``heard``: its last wish for a pause."""
        last = self._orders.get(cluster)
        self._orders[cluster] = orders_of(
            state,
            cluster,
            sequence=1 if last is None else last.sequence + 1,
            asked=self._request.policy,
            heard=heard,
        )
        if self._children.get(cluster) is not None:
            self._send(cluster)

    def _send(self, cluster: str) -> None:
        if cluster not in self._unsent:
            self._unsent.add(cluster)
            self._start(self._deliver(cluster))

    async def _deliver(self, cluster: str) -> None:
        """Sends the newest orders, one message at a time."""
        sent = 0
        while (orders := self._orders[cluster]).sequence > sent:
            sent = orders.sequence
            child = workflow.get_external_workflow_handle(
                cluster_workflow_id(self._rollout, cluster)
            )
            try:
                await child.signal("orders", orders)
            except FailureError as error:  # it has ended: its result is on the way
                workflow.logger.info("Cluster %s was not told: %s", cluster, error)
                break
        self._unsent.discard(cluster)
        self._heard()


def orders_of(
    state: data.RolloutState, cluster: str, *, sequence: int, asked: RolloutPolicy, heard: int
) -> ClusterOrders:
    """All that the rollout wants of a cluster now. ``asked``: the policy that the cluster knows already."""
    view = next(each for each in state.clusters if each.name == cluster)
    return ClusterOrders(
        sequence=sequence,
        slots=view.slots,
        risk=view.risk,
        stop=view.stop,
        finishes=view.finishes,
        paused=machine.pause_of(state, view),
        kill=state.reason if state.aborting == "kill" else None,
        opened=tuple(sorted(view.opened)),
        window_open=machine.hosts_may_start(state),
        policy=None if state.policy == asked else state.policy,
        skip=tuple(sorted(view.skip)),
        skip_waves=tuple(sorted(view.skip_waves)),
        repairs=view.repairs,
        heard=heard,
    )
