"""What an operator does: asks for a rollout, approves it, watches it, reads the report."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

from temporalio.client import Client

from ..client import Rollout
from ..exceptions import Refused, RolloutFailed
from ..models import Outcome, PatchRequest, RolloutProgress, RolloutReport
from ..policy import ApprovalPolicy, FailureBudget, RolloutPolicy
from ..policy._rollout_policy import cluster_plan, wave_sizes
from ._machines import CLUSTERS, Machines
from ._show import Bars, Screen
from ._verify import mismatches
from ._wheels import PACKAGE
from ._workflows import PatchShopFleet

TASK_QUEUE = "patching"
REQUESTER = "carol@example.com"
APPROVER = "alice@example.com"

LOOK_EVERY = timedelta(seconds=0.3)
PATIENCE = 180.0
"""Seconds that a rollout may take once it is approved."""


def request(version: str) -> PatchRequest:
    """The same request for each release."""
    return PatchRequest(
        clusters=list(CLUSTERS),
        requester=REQUESTER,
        update_command=f"pip install {PACKAGE}=={version}",
        services=[PACKAGE],
        policy=RolloutPolicy(
            pilot_hosts=1,
            waves=["30%", "100%"],
            max_parallel=3,
            failure_budget=FailureBudget(max_failures=0),
        ),
        approvals={"start": ApprovalPolicy(approvers=[APPROVER], timeout=timedelta(hours=4))},
    )


class Story:
    """Rolls releases out and checks that the reports are true.

    Args:
        client: Connected to the demo's server.
        machines: The hosts.
        screen: Where to print.
        web: Address of the namespace in the web UI.
        ask: Whether the approval is asked for; else it is given.
    """

    def __init__(
        self, client: Client, machines: Machines, screen: Screen, *, web: str, ask: bool
    ) -> None:
        self._client = client
        self._machines = machines
        self._screen = screen
        self._web = web
        self._ask = ask

    async def roll_out(self, version: str) -> tuple[Outcome, bool]:
        """Rolls one release out.

        Returns:
            The outcome, and whether the hosts are what the report says.
        """
        before = await self._machines.look()
        rollout = await Rollout.start(
            self._client,
            PatchShopFleet,
            request(version),
            id=f"{PACKAGE}-{version}",
            task_queue=TASK_QUEUE,
        )
        self._screen.say(f"{rollout.id} in the web UI: {self._web}/workflows/{rollout.id}")
        await self._decide(rollout)
        try:
            report = await asyncio.wait_for(self._follow(rollout), PATIENCE)
        except asyncio.TimeoutError:
            raise RuntimeError(f"{rollout.id} has not ended within {PATIENCE} seconds") from None
        after = await self._machines.look()
        self._screen.report(report, before, after)
        found = mismatches(report, before, after, version)
        for each in found:
            self._screen.say(f"NOT AS REPORTED: {each}", "bold red")
        if not found:
            self._screen.say(f"all {len(after)} hosts are as the report says", "green")
        return report.outcome, not found

    async def _decide(self, rollout: Rollout[PatchShopFleet]) -> None:
        """Shows the plan and votes."""
        async for progress in rollout.watch(every=LOOK_EVERY):
            if progress.phase == "gate":
                self._show_plan(progress)
                break
        else:
            return  # it has ended without asking anybody
        try:
            await rollout.approve(by=REQUESTER)
        except Refused as error:
            self._screen.say(f"{REQUESTER} tries to approve: refused, {error}")
        if not self._ask:
            why = (
                "--yes" if sys.stdin is not None and sys.stdin.isatty() else "stdin is no terminal"
            )
            self._screen.say(f"approved as {APPROVER} by itself ({why})")
            await rollout.approve(by=APPROVER, reason=why)
        elif await self._screen.ask(f"approve as {APPROVER}?"):
            await rollout.approve(by=APPROVER, reason="answered yes in the demo")
        else:
            await rollout.reject(by=APPROVER, reason="answered no in the demo")

    def _show_plan(self, progress: RolloutProgress) -> None:
        asked = request("any").policy
        for cluster in progress.clusters:
            plan = cluster_plan(asked, cluster.hosts)
            waves = ", ".join(map(str, wave_sizes(plan)))
            self._screen.say(
                f"  {cluster.cluster}: {cluster.hosts} hosts: {plan.pilots} pilot, then waves of {waves}; "
                f"at most {plan.max_parallel} at once; {plan.budget.failures} may fail"
            )

    async def _follow(self, rollout: Rollout[PatchShopFleet]) -> RolloutReport:
        with Bars(self._screen) as bars:
            async for progress in rollout.watch(every=LOOK_EVERY):
                bars.update(progress)
        try:
            return await rollout.result()
        except RolloutFailed as failed:
            return failed.report
