"""The activities that touch the user's machines: one class, one method a step."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import get_type_hints

from temporalio.client import Client

from ..models import (
    FleetHealth,
    FleetQuery,
    HostList,
    HostQuery,
    HostTask,
    Notice,
    StepResult,
)
from ..policy._rules import did_you_mean
from ..policy._steps import KINDS


class PatchActivities:
    """Subclass it and implement the steps that your machines need.

    Each method may be ``async def``, or a plain ``def``, which then runs in a thread. A step's activity is
    the method of its name, also for the steps you add. Hand an instance to ``PatchingPlugin``; the methods need
    no ``@activity.defn``.

    ``list_hosts`` must be there, and ``perform_update`` while it is in the steps. Every other step of the
    default procedure is scheduled only if you implement it; a step that takes something away needs its
    closer (``set_maintenance_mode``: ``clear_maintenance_mode``; ``stop_services``:
    ``start_services``).

    A step happens **at least once**. ``task.attempt`` above 1 means that an earlier attempt may have done
    the work: look at the host first. Closers must be safe to call when there is nothing to close.

    A step answers with a ``StepResult``. It raises where another attempt may help: ``HostUnreachable`` if
    the host cannot be reached, ``OutcomeUnknown`` if the connection dropped in the middle, anything else
    for a plain failure. ``StepResult(ok=False, message=…)`` fails it without another attempt.

    The plugin heartbeats while a step runs, so that a dead worker is noticed within the step's
    ``heartbeat_timeout`` and a cancel arrives. Use a ``Checkpoint`` to resume a long one.

    Example:
        >>> class Hosts(PatchActivities):
        ...     async def list_hosts(self, query: HostQuery) -> HostList:
        ...         return HostList(hosts=["web-1", "web-2"])
        ...     async def perform_update(self, task: HostTask) -> StepResult:
        ...         return StepResult(changed=True)
    """

    def list_hosts(self, query: HostQuery) -> HostList | Awaitable[HostList]:
        """Which hosts a cluster has, in pages. Must be implemented.

        Args:
            query: The cluster, and which page.

        Returns:
            One page. At most 10 minutes a page.
        """
        raise NotImplementedError

    def check_preconditions(self, task: HostTask) -> StepResult | Awaitable[StepResult]:
        """Whether this host may be patched now: ``ok=False`` refuses, ``needed=False`` means UNCHANGED."""
        raise NotImplementedError

    def run_pre_downtime_scripts(self, task: HostTask) -> StepResult | Awaitable[StepResult]:
        """Runs ``task.pre_downtime_scripts`` before anything is taken away."""
        raise NotImplementedError

    def set_maintenance_mode(self, task: HostTask) -> StepResult | Awaitable[StepResult]:
        """Takes the host out of service. Closed by ``clear_maintenance_mode``."""
        raise NotImplementedError

    def stop_services(self, task: HostTask) -> StepResult | Awaitable[StepResult]:
        """Stops ``task.services``. Closed by ``start_services``."""
        raise NotImplementedError

    def wait_for_workload_drain(self, task: HostTask) -> StepResult | Awaitable[StepResult]:
        """Waits until nothing works on the host any more."""
        raise NotImplementedError

    def run_pre_update_scripts(self, task: HostTask) -> StepResult | Awaitable[StepResult]:
        """Runs ``task.pre_update_scripts``."""
        raise NotImplementedError

    def perform_update(self, task: HostTask) -> StepResult | Awaitable[StepResult]:
        """The update. From here on the host is touched. ``changed`` decides PATCHED or UNCHANGED."""
        raise NotImplementedError

    def start_services(self, task: HostTask) -> StepResult | Awaitable[StepResult]:
        """Starts ``task.services``, also if they run already."""
        raise NotImplementedError

    def run_post_update_scripts(self, task: HostTask) -> StepResult | Awaitable[StepResult]:
        """Runs ``task.post_update_scripts``."""
        raise NotImplementedError

    def reboot(self, task: HostTask) -> StepResult | Awaitable[StepResult]:
        """Reboots and waits for the host. Proven by ``previous_boot_id`` and a new ``boot_id``."""
        raise NotImplementedError

    def check_service_health(self, task: HostTask) -> StepResult | Awaitable[StepResult]:
        """Whether the host serves again; poll until a deadline of yours, then ``ok=False`` or raise."""
        raise NotImplementedError

    def clear_maintenance_mode(self, task: HostTask) -> StepResult | Awaitable[StepResult]:
        """Returns the host to service."""
        raise NotImplementedError

    def check_fleet_health(self, query: FleetQuery) -> FleetHealth | Awaitable[FleetHealth]:
        """How the cluster does after a wave, while it soaks. Called as ``Soak.check_every`` says.

        What it raises, after its retries, is inconclusive: no data is never healthy.
        """
        raise NotImplementedError

    def notify(self, notice: Notice) -> Awaitable[None] | None:
        """One door for every notification. It never holds up the rollout; five attempts in two minutes."""
        raise NotImplementedError

    def _worker_starts(self, client: Client, task_queue: str) -> None:
        """Called when a worker is made with it. A simulated fleet refuses servers that are not for tests."""


def implemented(activities: type[PatchActivities]) -> frozenset[str]:
    """Names of the public methods that a subclass brings."""
    return frozenset(
        name
        for name, member in inspect.getmembers(activities, callable)
        if not name.startswith("_") and member is not getattr(PatchActivities, name, None)
    )


def takes_task(activities: type[PatchActivities], name: str) -> bool:
    """Whether a method is meant to be a step: by its name, or by what it takes."""
    if name in KINDS:
        return True
    method = inspect.getattr_static(activities, name)
    if inspect.isfunction(method):  # other callables need not have a signature, nor a self
        parameters = list(inspect.signature(method).parameters.values())[1:]
        if len(parameters) == 1 and parameters[0].annotation is inspect.Parameter.empty:
            # Without annotations a step is known by its argument's name, or by a name almost a step's.
            return parameters[0].name == "task" or bool(did_you_mean(name, KINDS))
    try:
        hints = get_type_hints(getattr(activities, name))
    except Exception:  # a method of theirs whose annotations cannot be resolved is none of ours
        return False
    return HostTask in [hint for argument, hint in hints.items() if argument != "return"]
