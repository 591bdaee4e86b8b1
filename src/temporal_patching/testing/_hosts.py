"""One simulated host: a small state machine, and what each step does to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import final

import attrs


@final
@attrs.frozen(kw_only=True)
class SimulatedHost:
    """One host, as it is now.

    Attributes:
        name: Its name.
        cluster: Its cluster.
        version: What is installed: 1 at first, one more after each rollout's update.
        in_service: Whether it is not in maintenance mode.
        services_running: Whether its services run.
        boot_id: Another one after each reboot.
    """

    name: str
    cluster: str
    version: int = 1
    in_service: bool = True
    services_running: bool = True
    boot_id: str = "boot-1"

    @property
    def serves(self) -> bool:
        """Whether it is in service and its services run."""
        return self.in_service and self.services_running


def _update(host: SimulatedHost) -> SimulatedHost:
    return attrs.evolve(host, version=host.version + 1)


def _reboot(host: SimulatedHost) -> SimulatedHost:
    return attrs.evolve(host, boot_id=f"boot-{int(host.boot_id.removeprefix('boot-')) + 1}")


def nothing(host: SimulatedHost) -> SimulatedHost:
    return host


EFFECTS: Mapping[str, Callable[[SimulatedHost], SimulatedHost]] = {
    "set_maintenance_mode": lambda host: attrs.evolve(host, in_service=False),
    "stop_services": lambda host: attrs.evolve(host, services_running=False),
    "perform_update": _update,
    "start_services": lambda host: attrs.evolve(host, services_running=True),
    "reboot": _reboot,
    "clear_maintenance_mode": lambda host: attrs.evolve(host, in_service=True),
}

ONCE = frozenset({"perform_update", "reboot"})
"""Not idempotent by nature: done once for each idempotency key."""
