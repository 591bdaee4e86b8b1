"""What an operator asks of a running rollout, what is answered, and the record that is kept of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, final

import attrs

from ..policy._amount import Amount, amount
from ..policy._cluster import PauseAfter
from ..policy._explain import Because
from ..policy._rollout_policy import FailureBudget, RolloutPolicy
from ..policy._rules import (
    as_tuple,
    at_least,
    at_most,
    flag,
    identifier,
    instance_of,
    must,
    node_name,
    one_of,
    optional,
    string,
    text,
)
from ._report import as_reason
from ._wire import WireType


@attrs.frozen(kw_only=True)
class Order(WireType):
    """What every verb carries: who asks, and why.

    Args:
        by: Who asks, at most 320 characters. A claim, as a vote's is.
        reason: Why, for the record; at most 2,000 characters.
        operation: The same one again is answered as the first time, and done once. ``Rollout`` makes one
            for each call. Default: each is a new one.
    """

    by: str = attrs.field(metadata=must(text, at_most(320)))
    reason: str = attrs.field(default="", metadata=must(string, at_most(2_000)))
    operation: str = attrs.field(default="", metadata=must(string, at_most(200)))


@final
@attrs.frozen(kw_only=True)
class Pause(Order):
    """Nothing new starts. Argument of the ``pause`` handler.

    Args:
        by, reason, operation: As for every verb.
        after: ``"host"`` (default) lets the hosts in flight finish; ``"step"`` stops those whose update has
            not begun after the step that they are at: what was taken away stays away until the resume.
        cluster: Only this cluster. Default: the whole rollout.
    """

    after: PauseAfter = attrs.field(default="host", metadata=must(one_of("host", "step")))
    cluster: str | None = attrs.field(default=None, metadata=must(optional(node_name)))


@final
@attrs.frozen(kw_only=True)
class Resume(Order):
    """It goes on. Argument of the ``resume`` handler.

    Args:
        by, reason, operation: As for every verb.
        cluster: Only this cluster. Default: the whole rollout, and every cluster that was paused alone.
    """

    cluster: str | None = attrs.field(default=None, metadata=must(optional(node_name)))


@final
@attrs.frozen(kw_only=True)
class Abort(Order):
    """The rollout ends: nothing new starts. Argument of the ``abort`` handler.

    Args:
        by, reason, operation: As for every verb.
        now: Updates that run are cancelled, too; their hosts are held out of service and named. Default:
            they run to their end.
    """

    now: bool = attrs.field(default=False, metadata=must(flag))


@final
@attrs.frozen(kw_only=True)
class SetLimits(Order):
    """Other limits, from now on; what is None stays. Argument of the ``set_limits`` handler.

    A lower width takes effect as hosts in flight end. A budget below what has failed already is refused.

    Args:
        by, reason, operation: As for every verb.
        max_parallel, max_parallel_total, max_parallel_clusters, max_out_of_service, failure_budget,
            total_failure_budget: As in ``RolloutPolicy``. A budget replaces the present one whole.
        max_failures, total_max_failures: Only this number of the present budget; the rest of it stays.
    """

    max_parallel: Amount | None = attrs.field(
        default=None, metadata=must(optional(amount(least=1)))
    )
    max_parallel_total: Amount | None = attrs.field(
        default=None, metadata=must(optional(amount(least=1)))
    )
    max_parallel_clusters: int | None = attrs.field(
        default=None, metadata=must(optional(at_least(1)))
    )
    max_out_of_service: Amount | None = attrs.field(
        default=None, metadata=must(optional(amount(least=1)))
    )
    failure_budget: FailureBudget | None = attrs.field(
        default=None, metadata=must(optional(instance_of(FailureBudget)))
    )
    total_failure_budget: FailureBudget | None = attrs.field(
        default=None, metadata=must(optional(instance_of(FailureBudget)))
    )
    max_failures: Amount | None = attrs.field(default=None, metadata=must(optional(amount())))
    total_max_failures: Amount | None = attrs.field(default=None, metadata=must(optional(amount())))

    def applied_to(self, policy: RolloutPolicy) -> RolloutPolicy:
        """The policy with these limits.

        Raises:
            InvalidRequest: They do not go together with what stays.
        """
        changes = self._changes()
        for number, budget in _BUDGETS.items():
            to = changes.pop(number, None)
            if to is not None:
                now = getattr(policy, budget) or FailureBudget()
                changes[budget] = attrs.evolve(now, max_failures=to)
        return attrs.evolve(policy, **changes)

    def _changes(self) -> dict[str, Any]:
        own = attrs.fields_dict(Order)
        named = {name: getattr(self, name) for name in attrs.fields_dict(SetLimits)}
        return {name: to for name, to in named.items() if name not in own and to is not None}

    def _relations(self) -> Iterator[str]:
        if not self._changes():
            yield "at least one limit must be given"
        for number, budget in _BUDGETS.items():
            if getattr(self, number) is not None and getattr(self, budget) is not None:
                yield f"either {number!r} or {budget!r} may be given, not both"


_BUDGETS = {"max_failures": "failure_budget", "total_max_failures": "total_failure_budget"}
"""Numbers that can be given alone, and the budgets that they are of."""


@final
@attrs.frozen(kw_only=True)
class Skip(Order):
    """A host, or a whole wave, is not to be started. Argument of the ``skip`` handler.

    Args:
        by, reason, operation: As for every verb.
        host: This host. Either it or ``wave``. One that is parked stays as it is, and has failed.
        wave: The wave of this number, of ``cluster`` or of every cluster.
        cluster: Whose wave. Default: every cluster's.
    """

    host: str | None = attrs.field(default=None, metadata=must(optional(node_name)))
    wave: int | None = attrs.field(default=None, metadata=must(optional(at_least(1))))
    cluster: str | None = attrs.field(default=None, metadata=must(optional(node_name)))

    def _relations(self) -> Iterator[str]:
        if (self.host is None) == (self.wave is None):
            yield "either 'host' or 'wave' must be given, and not both"


@attrs.frozen(kw_only=True)
class RepairOrder(Order):
    """What every verb carries that is about a parked host.

    Args:
        by, reason, operation: As for every verb.
        host: The host.
    """

    host: str = attrs.field(metadata=must(node_name))


@final
@attrs.frozen(kw_only=True)
class Retry(RepairOrder):
    """A parked host is gone on with. Argument of the ``retry`` handler.

    Args:
        by, reason, operation: As for every verb.
        host: The host.
        from_step: Where to begin: at the step that failed or at one before it. Default: at the step that
            failed, with the checkpoint that it had.
    """

    from_step: str | None = attrs.field(default=None, metadata=must(optional(identifier)))


@final
@attrs.frozen(kw_only=True)
class Accept(RepairOrder):
    """The step that failed counts as done, and the host is gone on with. Argument of the ``accept`` handler.

    Args:
        by, reason, operation: As for every verb.
        host: The host.
    """


@final
@attrs.frozen(kw_only=True)
class Restore(RepairOrder):
    """A parked host is given back, as far as that is safe. Argument of the ``restore`` handler.

    Args:
        by, reason, operation: As for every verb.
        host: The host.
    """


@final
@attrs.frozen(kw_only=True)
class Steered(WireType):
    """What a verb answers.

    Attributes:
        phase: The rollout's phase now: ``pausing``, ``paused``, ``running``, ``stopping``, …
        message: What was done, in one line.
        waits_for: Hosts that are still in flight, at most 200.
    """

    _refuses_unknown = False

    phase: str
    message: str = ""
    waits_for: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)


@final
@attrs.frozen(kw_only=True)
class AuditRecord(WireType):
    """One decision, or one verb that was accepted.

    Attributes:
        at: When, by workflow time.
        by: Who; ``"policy"`` for what the rules decided.
        what: What was done.
        reason: Why.
        before: The phase before it, or what held.
        after: The phase after it, or what holds.
    """

    _refuses_unknown = False

    at: datetime
    by: str
    what: str
    reason: str = attrs.field(default="", converter=as_reason)
    before: str = ""
    after: str = ""


@final
@attrs.frozen(kw_only=True)
class AuditReport(WireType):
    """The answer of the ``audit`` query: decisions and accepted verbs in order, the last 500.

    Attributes:
        records: In order.
        omitted: How many older ones are left out.
    """

    _refuses_unknown = False

    records: tuple[AuditRecord, ...] = ()
    omitted: int = 0


@final
@attrs.frozen(kw_only=True)
class Explanation(WireType):
    """The answer of the ``explain`` query.

    Attributes:
        rollout: Its workflow id.
        phase: Its phase now.
        waits: What must happen before it goes on.
        stopped: Why nothing new starts any more.
        next: What would stop it next.
    """

    _refuses_unknown = False

    rollout: str
    phase: str
    waits: tuple[Because, ...] = ()
    stopped: tuple[Because, ...] = ()
    next: tuple[Because, ...] = ()
