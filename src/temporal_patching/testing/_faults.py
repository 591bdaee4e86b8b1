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


@attrs.frozen
class Fault:
    """Something wrong with one host at one step. Subclass it for a fault of your own.

    Args:
        step: The step it is about.
        times: How many attempts it spoils, the first ones. Default: all.
    """

    step: str
    times: int | None = attrs.field(default=None, kw_only=True)

    async def before(self, host: str) -> StepResult | None:
        """Called before the step has its effect. It may wait, raise, or answer in the step's place."""
        return None

    def after(self, result: StepResult) -> StepResult:
        """Called when the effect is in the log. It may change the answer, or raise."""
        return result


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
    """The step never ends by itself: only a cancel or its timeout ends it."""

    @override
    async def before(self, host: str) -> StepResult | None:
        await asyncio.Event().wait()
        return None


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
    """The update takes effect only after a reboot."""

    step: str = "perform_update"

    @override
    def after(self, result: StepResult) -> StepResult:
        return attrs.evolve(result, reboot_required=True)


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
class LiesAboutBoot(Fault):
    """The host says that it rebooted, but its boot id is still the old one."""

    step: str = "reboot"

    @override
    def after(self, result: StepResult) -> StepResult:
        return attrs.evolve(result, boot_id=result.previous_boot_id)
