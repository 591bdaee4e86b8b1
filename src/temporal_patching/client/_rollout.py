"""What an operator holds: a running rollout."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from typing import Any, Generic, cast, final, overload

import attrs
from temporalio.client import (
    Client,
    RPCError,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
)
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from typing_extensions import TypeVar

from ..exceptions import (
    InvalidRequest,
    NotAnswered,
    Refused,
    RolloutExists,
    RolloutFailed,
    RolloutNotFound,
)
from ..models import (
    Abort,
    Accept,
    AuditReport,
    Because,
    ClusterProgress,
    ClusterReport,
    CompletedSteps,
    Explanation,
    GateReport,
    HostProgress,
    HostResult,
    HostState,
    PatchRequest,
    Pause,
    Restore,
    Resume,
    Retry,
    RolloutPlan,
    RolloutProgress,
    RolloutReport,
    SetLimits,
    Skip,
    Steered,
)
from ..models._plan import for_hosts
from ..models._steering import Order
from ..models._wire import from_json, to_json
from ..policy import Amount, FailureBudget, PauseAfter
from ..policy._verbs import Verb
from ..workflow import SystemPatchWorkflow, gather
from ._approvals import Approvals
from ._asking import RUNNING, allowed, answered, query, what_it_means
from ._dry_run import end_unwanted, while_answered
from ._hosts import cluster_of, hosts_at_rest, hosts_of, own_host, worked_on

WorkflowT = TypeVar("WorkflowT", bound=SystemPatchWorkflow)
StartedT = TypeVar("StartedT", bound=SystemPatchWorkflow, default=SystemPatchWorkflow)

_LOGGER = logging.getLogger("temporal_patching.client")

_LARGEST = 1_500_000
"""Characters of a request: Temporal takes 2 MB."""

_DONE = frozenset("PUBSG")
"""Codes of hosts that a new rollout for the rest leaves alone."""


@final
class Rollout(Generic[WorkflowT]):
    """A handle on a rollout: start it, or find it by its id, then watch and steer it.

    Attributes:
        id: The rollout's workflow id.
        client: The client that it speaks through.
        handle: Temporal's own handle on it, for your own handlers.
        approvals: Its gates.
    """

    def __init__(self, client: Client, handle: WorkflowHandle[WorkflowT, RolloutReport]) -> None:
        self._client = client
        self.handle: WorkflowHandle[WorkflowT, RolloutReport] = handle
        self.approvals: Approvals = Approvals(client, handle.id)
        self._reading = self.approvals._reading  # one look for votes and verbs

    @property
    def id(self) -> str:
        """The rollout's workflow id."""
        return self.handle.id

    @property
    def client(self) -> Client:
        """The client that it speaks through."""
        return self._client

    @classmethod
    async def start(
        cls,
        client: Client,
        workflow: type[StartedT] | str,
        request: PatchRequest,
        *,
        id: str,
        task_queue: str,
    ) -> Rollout[StartedT]:
        """Starts a rollout. ``approve`` may follow at once: a vote counts before its gate opens.

        Args:
            client: A connected client. It needs no plugin.
            workflow: Your ``SystemPatchWorkflow`` subclass, or that class itself. The name of its workflow type
                will do where the class cannot be imported.
            request: What is asked for.
            id: The rollout's id. It is used once: starting it again, also after its end, is refused.
            task_queue: Where your workers listen.

        Raises:
            RolloutExists: The id was used before.
            InvalidRequest: The request is too large to be sent.
        """
        size = len(json.dumps(to_json(request)))
        if size > _LARGEST:
            raise InvalidRequest(
                [
                    f"must be at most {_LARGEST:,} characters as JSON (got {size:,}): split it by cluster"
                ],
                what="PatchRequest",
            )
        run = workflow if isinstance(workflow, str) else cast("Any", workflow).run
        try:
            handle: WorkflowHandle[Any, Any] = await client.start_workflow(
                run,
                request,
                result_type=RolloutReport,
                id=id,
                task_queue=task_queue,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                static_summary=f"patch {', '.join(request.clusters)} for {request.requester}"[:200],
            )
        except WorkflowAlreadyStartedError:
            raise RolloutExists(
                f"{id!r} was used before: a rollout's id is used once. Rollout.get() finds the one "
                "that used it"
            ) from None
        return Rollout[StartedT](client, handle)

    @classmethod
    async def plan(
        cls,
        client: Client,
        workflow: type[StartedT] | str,
        request: PatchRequest,
        *,
        id: str,
        task_queue: str,
    ) -> RolloutPlan:
        """What a request would do, by a dry run: hosts are listed, nothing is touched, nobody is told.

        ``plan.planned`` is the request that carries it out: exactly these hosts, or it is refused.

        Args:
            client: A connected client.
            workflow: Your ``SystemPatchWorkflow`` subclass, or that class itself, or the name of its type.
            request: What is to be asked for.
            id: The id of the dry run, which is a workflow of its own. Used once.
            task_queue: Where your workers listen.

        Raises:
            RolloutFailed: The plan is refused; the report's reason says why.
            RolloutExists, InvalidRequest: As ``start`` and ``result``.
            NotAnswered: No worker answered for 10 seconds. A ``list_hosts`` that takes long on a worker that
                answers is waited for. The dry run is ended then, as it is if you cancel this call.
        """
        dry = attrs.evolve(request, dry_run=True)
        rollout = await cls.start(client, workflow, dry, id=id, task_queue=task_queue)
        try:
            await while_answered(rollout.handle, rollout.result())
        except NotAnswered as error:
            await end_unwanted(rollout.handle)
            raise NotAnswered(
                f"{error} The dry run {id!r} was ended: plan again by another id."
            ) from None
        except asyncio.CancelledError:
            await end_unwanted(rollout.handle)
            raise
        return await rollout.planned()

    async def planned(self) -> RolloutPlan:
        """What this rollout does, with the hosts of each cluster in their order; also after its end.

        Raises:
            NotAnswered: No worker answered within 10 seconds, or its hosts are not all listed yet.
            InvalidRequest: It has ended, and a cluster was never listed.
            RolloutNotFound: There is no such rollout, or its retention is over.
        """
        plan = await query(self.handle, "plan", RolloutPlan)
        if not plan.digest and not await self._has_ended():
            raise NotAnswered(f"{self.id!r} has not listed all of its hosts yet")
        lists = await gather(
            *[hosts_of(self._client, self.id, each.cluster) for each in plan.clusters], limit=5
        )
        hosts = {
            each.cluster: [name for name, _ in found]
            for each, found in zip(plan.clusters, lists, strict=True)
        }
        return attrs.evolve(plan, hosts=hosts)

    @staticmethod
    async def rest_of(client: Client, id: str, *, requester: str | None = None) -> PatchRequest:
        """A request for what a rollout left undone: failed, unreachable, cancelled and never started hosts.

        And those of which nobody knows, since their cluster was killed. Nothing else: not what is
        patched, unchanged, waits for a reboot, was skipped or is gone. It is read from the clusters
        themselves, one letter a host, so no host is missing because a report was bounded.

        The new request has the old one's policy, steps' arguments and gates, for the clusters, rings and
        gates that are left, and names the hosts in ``planned_hosts``. Rings are counted anew: the gate of a
        ring that has become the first one is ``"ring-1"``. Change what failed before you start it.

        Args:
            client: A connected client.
            id: The rollout that has ended.
            requester: Who asks now. Default: who asked then.

        Raises:
            Refused: It has not ended, or it was terminated and its clusters or hosts still end.
            InvalidRequest: Nothing is left, or a cluster was never listed.
            NotAnswered: No worker answered within 10 seconds: its class must still be there.
            RolloutNotFound: There is no such rollout, or its retention or that of a cluster is over.
        """
        rollout = Rollout.get(client, id)
        if not await rollout._has_ended():
            raise Refused(f"{id!r} has not ended: what it leaves undone is not known yet")
        old = (await query(rollout.handle, "plan", RolloutPlan)).request
        lists = await gather(*[hosts_at_rest(client, id, name) for name in old.clusters], limit=5)
        rest = {
            cluster: [name for name, code in found if code not in _DONE]
            for cluster, found in zip(old.clusters, lists, strict=True)
        }
        return for_hosts(old, rest, requester=requester or old.requester)

    @overload
    @classmethod
    def get(cls, client: Client, id: str) -> Rollout[SystemPatchWorkflow]: ...
    @overload
    @classmethod
    def get(cls, client: Client, id: str, workflow: type[StartedT]) -> Rollout[StartedT]: ...
    @classmethod
    def get(
        cls, client: Client, id: str, workflow: type[Any] = SystemPatchWorkflow
    ) -> Rollout[Any]:
        """A handle on a rollout that was started elsewhere. Asks nothing yet.

        Args:
            client: A connected client.
            id: The rollout's id.
            workflow: Its class, for the types of your own handlers. Default: any.
        """
        handle: WorkflowHandle[Any, Any] = client.get_workflow_handle(id, result_type=RolloutReport)
        return Rollout[Any](client, handle)

    async def approve(
        self, *, by: str, gate: str = "start", reason: str = "", digest: str = ""
    ) -> GateReport:
        """Approves a gate. See ``Approvals.approve``."""
        return await self.approvals.approve(by=by, gate=gate, reason=reason, digest=digest)

    async def reject(self, *, by: str, gate: str = "start", reason: str = "") -> GateReport:
        """Rejects a gate. See ``Approvals.reject``."""
        return await self.approvals.reject(by=by, gate=gate, reason=reason)

    async def pause(
        self,
        *,
        by: str,
        reason: str = "",
        after: PauseAfter = "host",
        cluster: str | None = None,
    ) -> Steered:
        """Nothing new starts. The phase is ``pausing`` until what is in flight has come to rest.

        Args:
            by: Who asks.
            reason: Why, for the record.
            after: ``"host"`` (default) lets the hosts in flight finish. ``"step"`` stops those whose update
                has not begun after the step that they are at: what was taken away stays away.
            cluster: Only this cluster. Default: the whole rollout.

        Raises:
            Refused: It is not legal now; the reason says why.
            NotAnswered: No worker answered within 10 seconds; it may still be done by one that comes back. Or the
                client has another data converter than the workers, or another key; nothing was sent then.
            RolloutNotFound: There is no such rollout, or it has ended.
        """
        order = Pause(by=by, reason=reason, operation=_operation(), after=after, cluster=cluster)
        return await self._steer("pause", order)

    async def resume(self, *, by: str, reason: str = "", cluster: str | None = None) -> Steered:
        """It goes on.

        Args:
            by: Who asks.
            reason: Why, for the record.
            cluster: Only this cluster. Default: the whole rollout, and every cluster paused alone.

        Raises:
            Refused, NotAnswered, RolloutNotFound: As ``pause``.
        """
        order = Resume(by=by, reason=reason, operation=_operation(), cluster=cluster)
        return await self._steer("resume", order)

    async def abort(self, *, by: str, reason: str = "", now: bool = False) -> Steered:
        """Ends the rollout: nothing new starts, hosts whose update has not begun are restored.

        If no worker answers, or the rollout takes no more updates, it sends a workflow cancel, which the
        server keeps until a worker is back (an abort without ``now``).

        Args:
            by: Who asks.
            reason: Why, for the record.
            now: Updates that run are cancelled, too; their hosts are held out of service and named.
                Default: they run to their end.

        Raises:
            Refused: It has ended.
            RolloutNotFound: There is no such rollout, or it has ended.
        """
        order = Abort(by=by, reason=reason, operation=_operation(), now=now)
        try:
            return await self._steer("abort", order)
        except RolloutNotFound:
            raise
        except (NotAnswered, RPCError) as error:
            why = f": {reason}" if reason else ""
            await self.cancel(reason=f"by {by}{why}")
            return Steered(phase="", message=f"a cancel was sent instead: {error}")

    async def set_limits(
        self,
        *,
        by: str,
        reason: str = "",
        max_parallel: Amount | None = None,
        max_parallel_total: Amount | None = None,
        max_parallel_clusters: int | None = None,
        max_out_of_service: Amount | None = None,
        failure_budget: FailureBudget | None = None,
        total_failure_budget: FailureBudget | None = None,
        max_failures: Amount | None = None,
        total_max_failures: Amount | None = None,
    ) -> Steered:
        """Other limits, from now on; what is None stays. A lower width takes effect as hosts end.

        Args:
            by: Who asks.
            reason: Why, for the record.
            max_parallel: Hosts of a cluster at once, as in ``RolloutPolicy``.
            max_parallel_total: Hosts of all clusters at once.
            max_parallel_clusters: Clusters at once.
            max_out_of_service: Hosts of a cluster in flight or held.
            failure_budget: For each cluster, in place of the present one. One below what has failed already
                is refused.
            total_failure_budget: Over all clusters, likewise.
            max_failures: Only this number of the failure budget; the rest of it stays.
            total_max_failures: Only this number of the total failure budget.

        Raises:
            InvalidRequest: A limit is not valid, or none is given.
            Refused, NotAnswered, RolloutNotFound: As ``pause``.
        """
        order = SetLimits(
            by=by,
            reason=reason,
            operation=_operation(),
            max_parallel=max_parallel,
            max_parallel_total=max_parallel_total,
            max_parallel_clusters=max_parallel_clusters,
            max_out_of_service=max_out_of_service,
            failure_budget=failure_budget,
            total_failure_budget=total_failure_budget,
            max_failures=max_failures,
            total_max_failures=total_max_failures,
        )
        return await self._steer("set_limits", order)

    async def skip(
        self,
        *,
        by: str,
        reason: str = "",
        host: str | None = None,
        wave: int | None = None,
        cluster: str | None = None,
    ) -> Steered:
        """Does not start a host, or a whole wave. One that has started goes on; the answer says so.

        A parked host stays as it is: it has failed, and is named if it is out of service.

        Args:
            by: Who asks.
            reason: Why, for the record.
            host: This host. Either it or ``wave``.
            wave: The wave of this number.
            cluster: Whose wave. Default: every cluster's.

        Raises:
            InvalidRequest: Neither or both of ``host`` and ``wave`` are given.
            Refused, NotAnswered, RolloutNotFound: As ``pause``.
        """
        order = Skip(
            by=by, reason=reason, operation=_operation(), host=host, wave=wave, cluster=cluster
        )
        return await self._steer("skip", order)

    async def retry(
        self, host: str, *, by: str, reason: str = "", from_step: str | None = None
    ) -> Steered:
        """Goes on with a parked host (``RolloutPolicy.on_host_failure="park"``).

        It starts when a host may start: not while the rollout is paused or the windows are closed, and
        within ``max_parallel``. Answers when it is accepted; ``progress`` shows what becomes of it.

        Args:
            host: The host.
            by: Who asks.
            reason: Why, for the record.
            from_step: Where to begin: at the step that failed or at one before it. Default: at the step
                that failed, with the checkpoint that it had.

        Raises:
            Refused: The host is not parked, or the step is none of it; the reason says what to do.
            NotAnswered, RolloutNotFound: As ``pause``.
        """
        order = Retry(by=by, reason=reason, operation=_operation(), host=host, from_step=from_step)
        return await self._steer("retry", order)

    async def accept(self, host: str, *, by: str, reason: str = "") -> Steered:
        """Takes the step that failed of a parked host as done, and goes on behind it.

        For what a person has done by hand, or has looked at and finds good. Starts as ``retry``.

        Args:
            host: The host.
            by: Who asks.
            reason: Why, for the record.

        Raises:
            Refused, NotAnswered, RolloutNotFound: As ``retry``.
        """
        order = Accept(by=by, reason=reason, operation=_operation(), host=host)
        return await self._steer("accept", order)

    async def restore(self, host: str, *, by: str, reason: str = "") -> Steered:
        """Gives a parked host back, as if it had not been parked. It stays failed.

        A host that was not touched is as it was. One whose update had begun returns to service only if it
        is healthy; otherwise it is held, and named. Starts at once, also while the rollout is paused.

        Args:
            host: The host.
            by: Who asks.
            reason: Why, for the record.

        Raises:
            Refused, NotAnswered, RolloutNotFound: As ``retry``.
        """
        order = Restore(by=by, reason=reason, operation=_operation(), host=host)
        return await self._steer("restore", order)

    async def explain(self) -> Explanation:
        """Why it waits, why it stopped, and what would stop it next, each with its evidence.

        Raises:
            NotAnswered: No worker answered within 10 seconds.
            RolloutNotFound: There is no such rollout.
        """
        ended = await self._without_report()
        explanation = await query(self.handle, "explain", Explanation)
        if not ended or explanation.phase == "ended":
            return explanation
        stopped = (*explanation.stopped, Because(why=ended))
        return attrs.evolve(explanation, phase="ended", waits=(), stopped=stopped, next=())

    async def audit(self) -> AuditReport:
        """Who decided what, in order. Raises as ``progress``."""
        return await query(self.handle, "audit", AuditReport)

    async def _steer(self, verb: Verb, order: Order) -> Steered:
        await self._reading.must()
        asking: Awaitable[Steered] = self.handle.execute_update(
            verb, order, id=order.operation, result_type=Steered
        )
        return await allowed(asking, self.id)

    async def progress(self) -> RolloutProgress:
        """Where the rollout is, with the newest of each cluster that still works.

        One whose workflow has ended without a report (somebody terminated it, or its request was refused) is
        ``ended``, without an ``outcome``.

        Raises:
            NotAnswered: No worker answered within 10 seconds.
            RolloutNotFound: There is no such rollout.
        """
        ended = await self._without_report()
        progress = await query(self.handle, "progress", RolloutProgress)
        if ended and progress.outcome is None:
            progress = attrs.evolve(progress, phase="ended", waits_for="", reason=ended)
        clusters = await gather(*[self._newest(each) for each in progress.clusters], limit=20)
        counts = {
            state: sum(cluster.counts.get(state, 0) for cluster in clusters) for state in HostState
        }
        return attrs.evolve(progress, clusters=tuple(clusters), counts=counts)

    async def _newest(self, known: ClusterProgress) -> ClusterProgress:
        if known.phase in ("listing", "ended"):
            return known
        try:
            return await self.cluster_progress(known.cluster)
        except (NotAnswered, RolloutNotFound):
            return known

    async def cluster_progress(self, cluster: str) -> ClusterProgress:
        """Where one cluster is. Raises as ``progress``."""
        return await query(self.cluster_handle(cluster), "progress", ClusterProgress)

    async def host_progress(self, host: str) -> HostProgress:
        """Where one host is: the step that runs and its attempt, what is done, what is open.

        Raises:
            NotAnswered: No worker answered within 10 seconds.
            RolloutNotFound: This rollout has not started the host yet, or another one has worked on it since.
        """
        handle, attempts = await own_host(self._client, self.id, host)
        progress = await query(handle, "progress", HostProgress)
        attempt, failure = attempts.get(progress.step or "", (None, None))
        return attrs.evolve(progress, attempt=attempt, last_failure=failure)

    async def completed_steps(
        self, *, cluster: str | None = None, host: str | None = None
    ) -> CompletedSteps:
        """What is done, in order: of the rollout, or of one cluster, or of one host.

        Args:
            cluster: This cluster.
            host: This host. Either it or ``cluster``.

        Raises:
            InvalidRequest: Both are given.
            NotAnswered: No worker answered within 10 seconds.
            RolloutNotFound: There is no such rollout or cluster, or it has not started the host.
        """
        if host is not None and cluster is not None:
            raise InvalidRequest([f"either 'cluster' or 'host' (got {cluster!r} and {host!r})"])
        if host is not None:
            handle, _ = await own_host(self._client, self.id, host)
            return await query(handle, "completed_steps", CompletedSteps)
        handle = self.handle if cluster is None else self.cluster_handle(cluster)
        return await query(handle, "completed_steps", CompletedSteps)

    def cluster_handle(self, cluster: str) -> WorkflowHandle[Any, ClusterReport]:
        """Temporal's own handle on the workflow of one cluster. Asks nothing yet."""
        return cluster_of(self._client, self.id, cluster)

    def host_handle(self, host: str) -> WorkflowHandle[Any, HostResult]:
        """Temporal's own handle on the workflow of one host: the last rollout's that worked on it."""
        return worked_on(self._client, host)

    async def watch(
        self, *, every: timedelta = timedelta(seconds=1)
    ) -> AsyncIterator[RolloutProgress]:
        """The progress, each time it has changed, until the rollout has ended.

        It never raises the rollout's failure. While no worker or no server answers it waits, and says so once
        in the log (``temporal_patching.client``, a warning); the last progress has the ``outcome``, if a
        worker was there to answer.

        Args:
            every: How often it asks. Default 1 second.

        Raises:
            NotAnswered: The client has another data converter than the workers, or another key.
            RolloutNotFound: There is no such rollout.
        """
        last: RolloutProgress | None = None
        answers = True
        await self._reading.must()  # to wait would not help
        while True:
            ended, progress = False, last
            try:
                ended = await self._has_ended()
                progress, answers = await self.progress(), True
            except NotAnswered as error:
                if answers and not ended:
                    _LOGGER.warning("%s Waiting.", error)
                answers = False
            if progress is not None and progress != last:
                last = progress
                yield progress
            if ended:
                return
            await asyncio.sleep(every.total_seconds())

    async def _has_ended(self) -> bool:
        return await self._status() is not RUNNING

    async def _status(self) -> WorkflowExecutionStatus | None:
        return (await answered(self.handle.describe(), self.id)).status

    async def _without_report(self) -> str:
        """What is wrong, if it has ended and has no report; empty otherwise, or if that is not known yet.

        A worker answers for a workflow that was ended from outside, too, as if it still ran.
        """
        status = await self._status()
        if status is None or status in (RUNNING, WorkflowExecutionStatus.COMPLETED):
            return ""
        return f"its workflow has ended ({status.name.lower()}) without a report"

    async def result(self) -> RolloutReport:
        """Waits for the end.

        Returns:
            The report, if every host is patched or needed nothing (or an approval expired under
            ``on_timeout="complete"``).

        Raises:
            RolloutFailed: Otherwise. It has the report.
            InvalidRequest: The request was refused; nothing was touched.
            RolloutNotFound: There is no such rollout.
            temporalio.client.WorkflowFailureError: It ended without a report (somebody terminated it).
        """
        try:
            return await self.handle.result()
        except WorkflowFailureError as error:
            cause = error.cause
            if isinstance(cause, ApplicationError):
                if cause.type == "InvalidRequest":
                    raise InvalidRequest([cause.message]) from None
                if (cause.type or "").startswith("Rollout") and cause.details:
                    report = from_json(cause.details[0], RolloutReport)
                    raise RolloutFailed(cause.message, report, type=cause.type or "") from None
            raise
        except RPCError as error:
            raise what_it_means(error, self.id) from None

    async def report(self) -> RolloutReport:
        """Waits for the end, and answers with the report, whatever the outcome.

        Raises:
            InvalidRequest, RolloutNotFound, temporalio.client.WorkflowFailureError: As ``result``: there is
                no report then.
        """
        try:
            return await self.result()
        except RolloutFailed as failed:
            return failed.report

    async def cancel(self, *, reason: str = "") -> None:
        """Aborts the rollout: nothing new starts; the server keeps the request if no worker is there.

        Hosts whose update has not begun are restored, the others run to their end. The rollout ends as
        ``RolloutAborted``. One that has ended stays as it ended.

        Args:
            reason: Why, for the record.

        Raises:
            RolloutNotFound: There is no such rollout.
        """
        try:
            await self.handle.cancel(reason=reason)
        except RPCError as error:
            raise what_it_means(error, self.id) from None


def _operation() -> str:
    return uuid.uuid4().hex
