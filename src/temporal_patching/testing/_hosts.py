"""One simulated host: a small state machine, and what each step does to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, final

import attrs
from temporalio.exceptions import ApplicationError

from ..models import StepResult

KERNEL = "linux-image"
PACKAGES = (KERNEL, "nginx", "openssl")

KNOWN_KEY = "key-1"
"""The host key that everybody has in their list of known hosts."""

NEEDED = 500
"""Megabytes that an update needs."""


@final
@attrs.frozen(kw_only=True)
class SimulatedHost:
    """One host, as it is at one moment.

    Attributes:
        name: Its name.
        cluster: Its cluster.
        packages: What is installed, by package: 1 at first, one more after each rollout's update.
        dpkg: ``"half-configured"`` after an update that broke off in the middle. The next update mends it.
        running_kernel: The kernel that runs.
        installed_kernel: The kernel that will run after a reboot.
        boot_id: Another one after each reboot.
        in_service: Whether it is not in maintenance mode.
        services_running: Whether its services run.
        lock_holder: Who holds dpkg's lock, or None. No update gets past it.
        disk_free: Megabytes. An update needs 500.
        host_key: What it shows to who connects. Nothing is done on a host whose key has changed.
        fence: The attempt that may act on it, as ``key#attempt``: the last one that began. An older one, of a
            worker that was thought dead, say, is refused.
    """

    name: str
    cluster: str
    packages: Mapping[str, int] = attrs.field(factory=lambda: dict.fromkeys(PACKAGES, 1))
    dpkg: Literal["configured", "half-configured"] = "configured"
    running_kernel: int = 1
    installed_kernel: int = 1
    boot_id: str = "boot-1"
    in_service: bool = True
    services_running: bool = True
    lock_holder: str | None = None
    disk_free: int = 10_000
    host_key: str = KNOWN_KEY
    fence: str | None = None

    @property
    def version(self) -> int:
        """The version that all of its packages have at least."""
        return min(self.packages.values())

    @property
    def serves(self) -> bool:
        """Whether it is in service and its services run."""
        return self.in_service and self.services_running

    @property
    def needs_reboot(self) -> bool:
        """Whether another kernel is installed than the one that runs."""
        return self.running_kernel != self.installed_kernel

    @property
    def whole(self) -> bool:
        """Whether no update broke off in the middle."""
        return self.dpkg == "configured" and len(set(self.packages.values())) == 1


# What a step does


def next_version(host: SimulatedHost) -> int:
    """What an update installs: something newer, or the rest of what had begun."""
    return max(host.packages.values()) if not host.whole else host.version + 1


def _update(host: SimulatedHost) -> SimulatedHost:
    packages = dict.fromkeys(host.packages, next_version(host))
    return attrs.evolve(host, packages=packages, dpkg="configured")


def torn(host: SimulatedHost) -> SimulatedHost:
    """An update broke off in the middle: some packages are new, nothing is configured."""
    if not host.whole:
        return host
    packages = {**host.packages, min(host.packages): next_version(host)}
    return attrs.evolve(host, packages=packages, dpkg="half-configured")


def rebooted(host: SimulatedHost) -> SimulatedHost:
    """It comes back with the installed kernel, and its services start."""
    return attrs.evolve(
        host,
        boot_id=f"boot-{int(host.boot_id.removeprefix('boot-')) + 1}",
        running_kernel=host.installed_kernel,
        services_running=True,
    )


def nothing(host: SimulatedHost) -> SimulatedHost:
    """What a step does that changes nothing that is simulated."""
    return host


EFFECTS: Mapping[str, Callable[[SimulatedHost], SimulatedHost]] = {
    "set_maintenance_mode": lambda host: attrs.evolve(host, in_service=False),
    "stop_services": lambda host: attrs.evolve(host, services_running=False),
    "perform_update": _update,
    "start_services": lambda host: attrs.evolve(host, services_running=True),
    "reboot": rebooted,
    "clear_maintenance_mode": lambda host: attrs.evolve(host, in_service=True),
}

ONCE = frozenset({"perform_update", "reboot"})
"""Not idempotent by nature: done once for each idempotency key."""


# What a host does not let happen


def refusal(step: str, host: SimulatedHost, wanted: int) -> StepResult | None:
    """What the host answers instead of carrying the step out, if it refuses.

    Args:
        step: The step.
        host: The host.
        wanted: The version that the last update was to bring.

    Raises:
        ApplicationError: It refuses, and another attempt may help; or its key is not the known one.
    """
    if host.host_key != KNOWN_KEY:
        raise ApplicationError(
            f"{host.name}: simulated: its host key has changed, nothing was sent",
            type="HostKeyChanged",
            non_retryable=True,
        )
    if step == "perform_update" and host.lock_holder is not None:
        raise ApplicationError(
            f"{host.name}: simulated: dpkg's lock is held by {host.lock_holder}", type="LockHeld"
        )
    if step in ("check_preconditions", "perform_update") and host.disk_free < NEEDED:
        return StepResult(
            ok=False, message=f"{host.disk_free} MB free, an update needs {NEEDED} MB"
        )
    if step == "check_service_health":
        return _unhealthy(host, wanted)
    return None


def _unhealthy(host: SimulatedHost, wanted: int) -> StepResult | None:
    """What a careful health check finds: it looks at the host, not at what was said of it."""
    if not host.services_running:
        return StepResult(ok=False, message="its services do not run")
    if not host.whole:
        return StepResult(ok=False, message="dpkg is half-configured")
    if host.version < wanted:
        return StepResult(ok=False, message=f"version {host.version} runs, not {wanted}")
    return None
