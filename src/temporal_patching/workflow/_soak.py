"""The soak between two waves, and the look at the fleet's health in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import FailureError, is_cancelled_exception

from ..exceptions import InvalidRequest
from ..models import FleetHealth, FleetQuery
from ..models._orders import ClusterRequest
from ..policy import _cluster as machine
from ._failures import root_text
from ._raw import read


def group_of(wave: int) -> str:
    """What people call the group of this number."""
    return "the pilots" if wave == 0 else f"wave {wave}"


class Soak:
    """What is left of the soak that a cluster is in. Its clock stands still while the rollout is paused.

    Args:
        request: What the cluster was given.
        state: Where the cluster is now.
        looked: Called when the fleet's health was asked for.
        ask: Asks for a person, and waits until one is there or has been.
    """

    def __init__(
        self,
        request: ClusterRequest,
        *,
        state: Callable[[], machine.ClusterState],
        looked: Callable[[], None],
        ask: Callable[[str], Awaitable[None]],
    ) -> None:
        self._request = request
        self._state = state
        self._looked = looked
        self._ask = ask
        self.left: timedelta | None = None
        """None: it is in no soak."""
        self.check_due = False
        """The fleet's health is to be asked for before the soak goes on."""

    async def after(self, wave: int) -> machine.SoakEnded | machine.StopRequested | None:
        """Waits, and looks at the fleet. None: another run is to take over, and goes on from where it is."""
        soak = self._request.request.policy.soak
        assert soak is not None  # the plan soaks
        if self.left is None:
            self.left = soak.duration
        while self.left > timedelta(0) or self.check_due:
            await workflow.wait_condition(
                lambda: self._state().paused is None or self._state().draining
            )
            if self._state().draining:
                return None
            if self.check_due:
                stop = await self._look(wave)
                if stop is not None:
                    return stop
                continue
            began, left, every = workflow.now(), self.left, soak.check_every
            try:
                await workflow.wait_condition(
                    lambda: self._state().paused is not None or self._state().draining,
                    timeout=left if every is None else min(left, every),
                    timeout_summary=f"soak of {group_of(wave)}",
                )
            except asyncio.TimeoutError:
                self.check_due = every is not None
            self.left = left - (workflow.now() - began)
        self.left = None
        return machine.SoakEnded()

    async def _look(self, wave: int) -> machine.StopRequested | None:
        """Asks once; a person helps where there is no answer, then it is asked again."""
        health = await check_fleet(self._request, wave)
        self._looked()
        said = f"fleet health after {group_of(wave)}: {health.message}"
        if health.verdict == "healthy":
            self.check_due = False
        elif health.verdict == "failed":
            cancel = self._request.request.policy.in_flight == "cancel"
            return machine.StopRequested(reason=said, cancel=cancel)
        else:
            await self._ask(said)
        return None


async def check_fleet(request: ClusterRequest, wave: int) -> FleetHealth:
    """Asks whether the fleet is well. No answer is no good one."""
    try:
        answer = await workflow.execute_activity(
            "check_fleet_health",
            FleetQuery(
                cluster=request.cluster,
                rollout=request.rollout,
                wave=wave,
                params=request.request.params,
                secrets=request.request.secrets,
            ),
            result_type=RawValue,
            start_to_close_timeout=timedelta(minutes=5),
            heartbeat_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=30), maximum_attempts=3),
            summary=f"fleet health of {request.cluster} after {group_of(wave)}",
        )
        return read(answer, FleetHealth)
    except (FailureError, InvalidRequest) as error:
        if is_cancelled_exception(error):
            raise
        return FleetHealth(verdict="inconclusive", message=f"no answer: {root_text(error)}")
