"""Simulated hosts: what is really so, and a log of what was really done, written before anybody is answered."""

from __future__ import annotations

import attrs

from temporal_patching.policy import Step
from temporal_patching.policy._host import HostEvent, StepBroke, StepEnded

from .scenario import HostTraits

OLD, NEW, TORN = "old", "new", "torn"
MAX_ATTEMPTS = 5

FINE = ("ok", "unhealthy_after", "needs_reboot")
"""Ends of an attempt that has its effect and whose answer arrives."""


@attrs.frozen
class Effect:
    """One line of the truth log."""

    moment: int
    host: str
    step: str
    number: int
    attempt: int


@attrs.define(kw_only=True)
class SimulatedHost:
    """One host, as it really is."""

    traits: HostTraits
    was: str
    """Its version before anybody came."""
    version: str
    in_service: bool = True
    services: bool = True
    alerts: bool = True
    boots: int = 0
    healthy: bool = True
    reachable: bool = True
    needs_reboot: bool = False
    saved: int = 0
    """Checkpoints that it has ever saved."""
    checkpoints: dict[str, str] = attrs.field(factory=dict)
    """The last one of each step."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.traits.name

    @property
    def boot_id(self) -> str:
        """Another one after each reboot."""
        return f"boot-{self.boots}"

    @property
    def serves(self) -> bool:
        """Whether it serves anybody."""
        return self.in_service and self.services and self.alerts

    def act(self, step: Step) -> bool:
        """The step has its effect. Answers whether that changed the host's version."""
        name, before = step.name, self.version
        if name == "set_maintenance_mode":
            self.in_service = False
        elif name == "clear_maintenance_mode":
            self.in_service = True
        elif name == "stop_services":
            self.services = False
        elif name == "start_services":
            self.services = True
        elif name == "silence_alerts":
            self.alerts = False
        elif name == "restore_alerts":
            self.alerts = True
        elif step.kind == "update":
            self.version = NEW
        elif step.kind == "reboot":
            self.boots, self.needs_reboot = self.boots + 1, False
        return self.version != before

    def looks_fine(self) -> bool:
        """What a health check finds."""
        return self.healthy and self.services


def make(traits: HostTraits) -> SimulatedHost:
    """A host to which nobody has come yet."""
    was = NEW if traits.up_to_date else OLD
    return SimulatedHost(traits=traits, was=was, version=was, in_service=traits.in_service)


def has_effect(step: Step, how: str, host: SimulatedHost) -> bool:
    """Whether an attempt that ends like this has done what it was to do."""
    if step.kind == "health" or (step.kind == "gate" and how == "refuses"):
        return False
    return how in FINE or how in ("reply_lost", "fails_done", "interrupted_done")


def attempt(host: SimulatedHost, step: Step, how: str, number: int) -> HostEvent | None:
    """One attempt of a step ends. The effect, if any, is there before the answer.

    Returns:
        What the host's workflow hears; None: nothing, there will be another attempt.
    """
    host.reachable = how != "unreachable"
    changed = has_effect(step, how, host) and host.act(step)
    if step.kind == "update" and how == "interrupted":
        host.version = TORN
    if how == "unhealthy_after":
        host.healthy = False
    if how == "needs_reboot":
        host.needs_reboot = True
    if how in ("request_lost", "reply_lost"):
        return None
    checkpoint = None
    if how == "saves_and_fails":
        host.saved += 1
        checkpoint = host.checkpoints[step.name] = f"{step.name}@{host.saved}"
    if how in ("fails", "fails_done", "unreachable", "saves_and_fails"):
        far = how == "unreachable"
        return StepBroke(step=step.name, message=how, unreachable=far, checkpoint=checkpoint)
    if how.startswith("interrupted"):
        cancelled = how != "interrupted_fails"
        return StepBroke(step=step.name, message=how, cancelled=cancelled)
    return _answer(host, step, how, number, changed)


def _answer(host: SimulatedHost, step: Step, how: str, number: int, changed: bool) -> StepEnded:
    if how == "refuses":
        return StepEnded(step=step.name, ok=False, message="refuses", attempt=number)
    if step.kind == "health" and not host.looks_fine():
        return StepEnded(step=step.name, ok=False, message="not healthy", attempt=number)
    if step.kind == "reboot":
        if how == "lies_about_boot":
            return StepEnded(step=step.name, boot_id=host.boot_id, previous_boot_id=host.boot_id)
        before = f"boot-{host.boots - 1}"
        return StepEnded(step=step.name, boot_id=host.boot_id, previous_boot_id=before)
    if step.name == "check_preconditions":
        already = [] if host.in_service else ["set_maintenance_mode"]
        already += [] if host.services else ["stop_services"]
        return StepEnded(
            step=step.name,
            needed=host.traits.needed,
            boot_id=host.boot_id,
            already=tuple(already),
            attempt=number,
        )
    needs = True if host.needs_reboot and step.kind == "update" else None
    return StepEnded(step=step.name, changed=changed, reboot_required=needs, attempt=number)


def ends(step: Step, *, interrupted: bool, last: bool) -> tuple[str, ...]:
    """How an attempt of this step may end, beside ``ok``."""
    some = ["fails", "fails_done", "unreachable", "saves_and_fails"]
    some += [] if last else ["request_lost", "reply_lost"]
    if step.kind in ("gate", "health"):
        some.append("refuses")
    if step.kind in ("update", "reboot"):
        some.append("unhealthy_after")
    if step.kind == "update":
        some.append("needs_reboot")
    if step.kind == "reboot":
        some.append("lies_about_boot")
    if interrupted:
        some += ["interrupted", "interrupted_done", "interrupted_fails"]
    return tuple(some)
