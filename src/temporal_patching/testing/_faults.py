"""What can be wrong with a simulated host, by name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import final

import attrs
from temporalio.exceptions import ApplicationError
from typing_extensions import override

from ..exceptions import HostUnreachable, OutcomeUnknown
from ..models import StepResult
from ._hosts import SimulatedHost, rebooted, torn


@attrs.frozen
class Fault:
    """Something wrong with one host at one step. Subclass it for a fault of your own.

    Args:
        step: The step it is about.
        times: How many attempts it spoils, the first ones. Default: all.
    """

    step: str
    times: int | None = attrs.field(default=None, kw_only=True)

    def strikes(self, host: SimulatedHost) -> SimulatedHost:
        """Called when an attempt has begun, before anything else. The host as it is then."""
        return host

    async def before(self, host: str) -> StepResult | None:
        """Called before the step has its effect. It may wait, raise, or answer in the step's place."""
        return None

    @property
    def deliveries(self) -> int:
        """How often the step is carried out: once; 0: never, although it is answered; 2: doubled."""
        return 1

    def alters(self, host: SimulatedHost) -> SimulatedHost:
        """Called when the step has been carried out: the host as it is then. Default: nothing more."""
        return host

    def after(self, result: StepResult) -> StepResult:
        """Called when the effect is in the log. It may change the answer, or raise."""
        return result

    async def reply(self, result: StepResult) -> StepResult:
        """Called with what ``after`` gave. It may wait, too."""
        return result

    def lifts(self, host: SimulatedHost) -> SimulatedHost:
        """Called after the last attempt of ``times``: the host as it is without the fault."""
        return host


# The step fails, or takes long


@final
@attrs.frozen
class FailAt(Fault):
    """The step raises before it has an effect.

    It is retried, and the SDK logs each attempt with a traceback; ``RefuseAt`` fails it quietly.

    Args:
        step: Which step; ``"list_hosts"`` for a cluster, ``"notify"`` for the notifier.
        times: How many attempts fail. Default: all.
        message: The error's text.
        retryable: Whether the retry policy may try again. Default True.
        error: Makes another error than the default, an ``ApplicationError`` with that message.
    """

    message: str = attrs.field(default="simulated failure", kw_only=True)
    retryable: bool = attrs.field(default=True, kw_only=True)
    error: Callable[[], BaseException] | None = attrs.field(default=None, kw_only=True)

    @override
    async def before(self, host: str) -> StepResult | None:
        if self.error is not None:
            raise self.error()
        raise ApplicationError(self.message, non_retryable=not self.retryable)


@final
@attrs.frozen
class RefuseAt(Fault):
    """The step answers ``ok=False``: trying again would not help. Args: as ``FailAt``.

    Attributes:
        message: What the answer says.
    """

    message: str = attrs.field(default="simulated refusal", kw_only=True)

    @override
    async def before(self, host: str) -> StepResult | None:
        return StepResult(ok=False, message=self.message)


@final
@attrs.frozen
class Unreachable(Fault):
    """The step raises ``HostUnreachable``."""

    @override
    async def before(self, host: str) -> StepResult | None:
        raise HostUnreachable(f"{host}: simulated: connection refused")


@final
@attrs.frozen
class Slow(Fault):
    """The step takes that long before it has its effect. A cancel ends it at the next heartbeat.

    Attributes:
        duration: How long it takes.
    """

    duration: timedelta = attrs.field(default=timedelta(seconds=1), kw_only=True)

    @override
    async def before(self, host: str) -> StepResult | None:
        await asyncio.sleep(self.duration.total_seconds())
        return None


@final
@attrs.frozen
class Hang(Fault):
    """The step never has its effect, nor ends by itself: only a cancel or its timeout ends it."""

    @override
    async def before(self, host: str) -> StepResult | None:
        await asyncio.Event().wait()
        return None


@final
@attrs.frozen
class NeverReturns(Fault):
    """The step has its effect, then never answers: a reboot that drops the connection, say.

    ``Hang`` never has an effect; here the host is changed, and nobody is told.
    """

    @override
    async def reply(self, result: StepResult) -> StepResult:
        await asyncio.Event().wait()
        return result


# The edges between a worker and its host


@final
@attrs.frozen
class RequestLost(Fault):
    """Nothing arrives, and nobody can tell that from a lost answer. Default: the first attempt's only."""

    times: int | None = attrs.field(default=1, kw_only=True)

    @override
    async def before(self, host: str) -> StepResult | None:
        raise OutcomeUnknown(f"simulated: the connection dropped during {self.step}")


@final
@attrs.frozen
class DoneButLost(Fault):
    """The step has its effect, then its answer is lost. Default: the first attempt's only."""

    times: int | None = attrs.field(default=1, kw_only=True)

    @override
    def after(self, result: StepResult) -> StepResult:
        raise OutcomeUnknown(f"simulated: the connection dropped after {self.step}")


@final
@attrs.frozen
class Delayed(Fault):
    """The step has its effect at once, and its answer takes that long. ``Slow`` delays the effect.

    Attributes:
        duration: How long the answer takes.
    """

    duration: timedelta = attrs.field(default=timedelta(seconds=1), kw_only=True)

    @override
    async def reply(self, result: StepResult) -> StepResult:
        await asyncio.sleep(self.duration.total_seconds())
        return result


@final
@attrs.frozen
class Doubled(Fault):
    """The request arrives twice: the step is carried out twice with the same idempotency key."""

    @property
    @override
    def deliveries(self) -> int:
        return 2


# The host says what is not so


@final
@attrs.frozen
class LiesAboutSuccess(Fault):
    """The step is never carried out, and says that it has changed something."""

    step: str = "perform_update"

    @property
    @override
    def deliveries(self) -> int:
        return 0

    @override
    def after(self, result: StepResult) -> StepResult:
        return attrs.evolve(result, ok=True, changed=True)


@final
@attrs.frozen
class LiesAboutBoot(Fault):
    """The host says that it rebooted, but its boot id is still the old one."""

    step: str = "reboot"

    @property
    @override
    def deliveries(self) -> int:
        return 0

    @override
    def after(self, result: StepResult) -> StepResult:
        return attrs.evolve(result, boot_id=result.previous_boot_id)


# The host is not as expected


@final
@attrs.frozen
class NotNeeded(Fault):
    """The host needs nothing: ``check_preconditions`` answers ``needed=False``."""

    step: str = "check_preconditions"

    @override
    def after(self, result: StepResult) -> StepResult:
        return attrs.evolve(result, needed=False)


@final
@attrs.frozen
class Unchanged(Fault):
    """The update finds nothing to do."""

    step: str = "perform_update"

    @override
    async def before(self, host: str) -> StepResult | None:
        return StepResult(changed=False)


@final
@attrs.frozen
class Already(Fault):
    """This taking step's effect is there before we come, and ``check_preconditions`` says so."""

    @override
    def after(self, result: StepResult) -> StepResult:
        return attrs.evolve(result, already=(*result.already, self.step))


@final
@attrs.frozen
class NeedsReboot(Fault):
    """The update brings a kernel: it takes effect only after a reboot."""

    step: str = "perform_update"

    @override
    def alters(self, host: SimulatedHost) -> SimulatedHost:
        return attrs.evolve(host, installed_kernel=host.running_kernel + 1)

    @override
    def after(self, result: StepResult) -> StepResult:
        return attrs.evolve(result, reboot_required=True)


@final
@attrs.frozen
class RebootsByItself(Fault):
    """The host reboots while the step runs, and the connection drops. Default: in the first attempt only.

    An update is torn apart by it: some packages are new, dpkg is half-configured.
    """

    times: int | None = attrs.field(default=1, kw_only=True)

    @override
    def strikes(self, host: SimulatedHost) -> SimulatedHost:
        return rebooted(torn(host) if self.step == "perform_update" else host)

    @override
    async def before(self, host: str) -> StepResult | None:
        raise OutcomeUnknown(f"{host}: simulated: the connection dropped, the host reboots")


@final
@attrs.frozen
class HalfConfigured(Fault):
    """The update breaks off in the middle. Default: the first attempt's only; the next one mends it."""

    step: str = "perform_update"
    times: int | None = attrs.field(default=1, kw_only=True)

    @override
    def strikes(self, host: SimulatedHost) -> SimulatedHost:
        return torn(host)

    @override
    async def before(self, host: str) -> StepResult | None:
        raise ApplicationError(f"{host}: simulated: dpkg was interrupted", type="HalfConfigured")


@final
@attrs.frozen
class LockHeld(Fault):
    """Somebody else holds dpkg's lock, so that no update gets past it; let go of after ``times`` attempts.

    Attributes:
        by: Who holds it.
    """

    step: str = "perform_update"
    by: str = attrs.field(default="unattended-upgrades", kw_only=True)

    @override
    def strikes(self, host: SimulatedHost) -> SimulatedHost:
        return attrs.evolve(host, lock_holder=self.by)

    @override
    def lifts(self, host: SimulatedHost) -> SimulatedHost:
        return attrs.evolve(host, lock_holder=None)


@final
@attrs.frozen
class DiskFull(Fault):
    """The disk is full when the step begins: preconditions and update refuse. Room again after ``times``."""

    step: str = "check_preconditions"

    @override
    def strikes(self, host: SimulatedHost) -> SimulatedHost:
        return attrs.evolve(host, disk_free=0)

    @override
    def lifts(self, host: SimulatedHost) -> SimulatedHost:
        return attrs.evolve(host, disk_free=10_000)


@final
@attrs.frozen
class HostKeyChanged(Fault):
    """From this step on the host shows another key: nothing is done on it any more, closers included."""

    step: str = "check_preconditions"

    @override
    def strikes(self, host: SimulatedHost) -> SimulatedHost:
        return attrs.evolve(host, host_key="key-2")
