"""One cluster, as a workflow: its hooks and its handlers; ``_cluster_run`` does the work."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, final

import attrs
from temporalio import workflow
from temporalio.exceptions import (
    FailureError,
)

from ..exceptions import ClusterFailed, InvalidRequest
from ..models import (
    ClusterProgress,
    ClusterReport,
    CompletedSteps,
    Host,
    HostsPage,
    HostsQuery,
)
from ..models._carried import Carried
from ..models._orders import ClusterOrders, ClusterRequest, HostUpdate
from ..policy import Outcome
from ._cluster_run import ClusterRun
from ._failures import call, failing, root_text
from ._raw import read_one
from ._template import TemplateWorkflow


# No code of the user's runs in the class itself, so there is nothing to sandbox; subclasses have their own.
@workflow.defn(sandboxed=False)
class ClusterPatchWorkflow(TemplateWorkflow[ClusterRequest, ClusterReport]):
    """Takes a cluster through its hosts: pilots, waves, and never more at once than allowed.

    It lists its hosts, freezes the list, tells the rollout, and starts nothing before the rollout's go. Each
    host is a child workflow of its own; they are cancelled, not terminated, when this one ends.

    When its history is long enough it starts no host until those in flight have ended, and continues as new:
    the next run goes on from there. What holds for a cluster holds over all of its runs.

    It ends as COMPLETED with a ``ClusterReport`` if every host is patched or needed nothing, otherwise as
    FAILED with type ``ClusterFailed`` and the report in its details; never as CANCELED.

    Override:

    * ``order_hosts(hosts)``: the order in which they are patched. A plain function; it must answer the
      same hosts, and the same for the same input (it runs again when the workflow is replayed).
    * ``before_cluster(request)``: called before the hosts are listed, in the first run; may await. If it raises,
      the cluster's plan is refused.
    * ``after_cluster(report)``: called when every host has ended, in the last run; may await. It cannot change
      the report; if it raises, the report's reason says so.
    * ``run``, decorated with ``@workflow.run``: call ``await self.patch_cluster(request)``. It begins anew in each
      run; the call raises ``ContinueAsNewError`` through it in all but the last, which must not be caught.

    Never override handlers (``progress``, ``completed_steps``, ``orders``, ``host_update``,
    ``hosts``).
    """

    _request_type = ClusterRequest
    _result_type = ClusterReport

    if TYPE_CHECKING:

        async def run(self, request: ClusterRequest) -> ClusterReport:
            """Patches the cluster."""
            raise NotImplementedError

    __run: ClusterRun | None = None
    __orders: ClusterOrders | None = None
    """Orders that came before it has begun."""
    __carried: Carried | None = None
    """What the next run is to know, once this one has given up."""

    @workflow.init
    def __init__(self, request: ClusterRequest) -> None:
        super().__init__(request)
        accepted = self._accepted_request
        if accepted is not None and accepted.carried is not None:
            self.__run = ClusterRun(accepted)  # before the first handler: it knows what came before

    # Hooks

    def order_hosts(self, hosts: Sequence[Host]) -> Sequence[Host]:
        """The order in which hosts are patched. Default: as listed."""
        return hosts

    async def before_cluster(self, request: ClusterRequest) -> None:
        """Called before the hosts are listed. If it raises, the plan is refused. Default: nothing."""

    async def after_cluster(self, report: ClusterReport) -> None:
        """Called when every host has ended. It cannot change the report. Default: nothing."""

    # The loop

    @final
    async def patch_cluster(self, request: ClusterRequest) -> ClusterReport:
        """The whole cluster: what ``run`` does.

        Args:
            request: The rollout's request and the procedure that it resolved.

        Returns:
            The report, if every host is patched or needed nothing.

        Raises:
            ClusterFailed: Otherwise. The details have the ``ClusterReport``.
            ContinueAsNewError: Another run goes on from here. Let it pass.
        """
        known = self.__run
        run = known if known is not None and known.request is request else ClusterRun(request)
        self.__run = run
        orders = known.orders if known is not None else self.__orders
        if orders is not None and run is not known:
            run.obey(orders)
        if request.carried is None:
            try:
                if not request.request.dry_run:
                    await call(self.before_cluster, request)
                await failing(run.freeze(self.order_hosts))
            except (FailureError, asyncio.CancelledError) as error:
                run.refuse(error)
        self.__carried = await run.go()
        if self.__carried is not None:
            self.__continue(run, self.__carried)
        report = run.report()
        try:
            if not request.request.dry_run:
                await call(self.after_cluster, report)
        except (FailureError, asyncio.CancelledError) as error:
            said = f"after_cluster: {root_text(error)}"
            report = attrs.evolve(
                report, reason=f"{report.reason}; {said}" if report.reason else said
            )
        if report.outcome not in (Outcome.PATCHED, Outcome.PLANNED):
            raise ClusterFailed(f"{report.outcome.value}: {report.reason}", report)
        return report

    def __continue(self, run: ClusterRun, carried: Carried) -> NoReturn:
        # What the workflow got, not what its own ``run`` made of it: that one does so again.
        request = self._accepted_request or run.request
        workflow.continue_as_new(run.continued(request, carried))

    def _continuation(self, error: BaseException) -> BaseException:
        """An own ``run`` may have waited since: orders that came then go along."""
        if self.__run is None or self.__carried is None:
            return error
        try:
            self.__continue(self.__run, self.__carried)
        except workflow.ContinueAsNewError as newest:
            return newest

    # Handlers

    @final
    @workflow.signal(
        name="orders", description="From the rollout: all that it wants of this cluster."
    )
    def orders(self, *sent: object) -> None:
        """What the rollout wants. Not for people: talk to the rollout."""
        try:
            orders = read_one(sent, ClusterOrders)
        except InvalidRequest as error:
            workflow.logger.warning("Orders that cannot be read were ignored: %s", error)
            return
        last = self.__run.orders if self.__run is not None else self.__orders
        if last is not None and orders.sequence <= last.sequence:
            return  # concurrent signals overtake each other
        if self.__run is None:
            self.__orders = orders
        else:
            self.__run.obey(orders)

    @final
    @workflow.signal(name="host_update", description="From a host: whether it stands still.")
    def host_update(self, *sent: object) -> None:
        """What a host tells. Not for people."""
        try:
            update = read_one(sent, HostUpdate)
        except InvalidRequest as error:
            workflow.logger.warning("An update that cannot be read was ignored: %s", error)
            return
        if self.__run is not None:
            self.__run.told(update)

    @final
    @workflow.query(name="progress", description="Where this cluster is.")
    def progress(self) -> ClusterProgress:
        """Where the cluster is: counts, wave, what it waits for, failures."""
        if self.__run is not None:
            return self.__run.progress()
        request = self._accepted_request
        return ClusterProgress(cluster=request.cluster if request is not None else "")

    @final
    @workflow.query(name="completed_steps", description="What is done, in order.")
    def completed_steps(self) -> CompletedSteps:
        """What is done, in order: the list, the pilots, each wave, each host that ended."""
        return self.__run.completed() if self.__run is not None else CompletedSteps()

    @final
    @workflow.query(name="hosts", description="Its hosts, by page. Takes a HostsQuery.")
    def hosts(self, query: HostsQuery) -> HostsPage:
        """The frozen list, page by page, with one letter for what became of each. Takes one ``HostsQuery``."""
        return self.__run.hosts(query.page) if self.__run is not None else HostsPage(listed=False)

    async def _execute(self, request: ClusterRequest) -> ClusterReport:
        return await self.patch_cluster(request)
