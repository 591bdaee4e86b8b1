"""The procedure of one host, as data: steps, their order, and what each one closes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Literal, final, overload

import attrs
from temporalio.common import RetryPolicy

from ..exceptions import InvalidRequest
from ._rules import (
    LONGEST,
    Checked,
    did_you_mean,
    flag,
    identifier,
    must,
    one_of,
    optional,
    positive,
)

StepKind = Literal["gate", "takes", "update", "closes", "plain", "reboot", "health"]
"""What a step means to the procedure.

``gate``: must succeed before anything is touched; may answer "not needed". ``takes``: takes something
away that its closer gives back. ``update``: from here on the host is touched. ``closes``: gives back.
``plain``: just a step. ``reboot``: made by the reboot policy. ``health``: says whether the host may
return to service.
"""

KINDS: Mapping[str, StepKind] = MappingProxyType(
    {
        "check_preconditions": "gate",
        "run_pre_downtime_scripts": "gate",
        "set_maintenance_mode": "takes",
        "stop_services": "takes",
        "wait_for_workload_drain": "gate",
        "run_pre_update_scripts": "gate",
        "perform_update": "update",
        "start_services": "closes",
        "run_post_update_scripts": "plain",
        "reboot": "reboot",
        "check_service_health": "health",
        "clear_maintenance_mode": "closes",
    }
)
"""The default procedure, in order, and the kind of each step."""

CLOSERS: Mapping[str, str] = MappingProxyType(
    {"set_maintenance_mode": "clear_maintenance_mode", "stop_services": "start_services"}
)
RETURNS_TO_SERVICE = frozenset({"clear_maintenance_mode"})
CLOSER_TIME_LIMIT = timedelta(hours=1)


def _default_retry_policy() -> RetryPolicy:
    # A worker that is restarted uses up an attempt, so a single one would fail on every redeploy.
    return RetryPolicy(
        initial_interval=timedelta(seconds=1),
        maximum_interval=timedelta(minutes=1),
        maximum_attempts=5,
    )


def retries(name: str, value: object) -> Iterator[str]:
    """A retry policy that the SDK accepts: it looks at it only when the step is scheduled."""
    if not isinstance(value, RetryPolicy):
        yield f"{name!r} must be a RetryPolicy (got {value!r})"
        return
    if not 0 <= value.maximum_attempts < 2**31:
        yield f"'{name}.maximum_attempts' must be >= 0 and < 2**31 (got {value.maximum_attempts!r})"
    if not 1 <= value.backoff_coefficient < float("inf"):
        yield f"'{name}.backoff_coefficient' must be >= 1 (got {value.backoff_coefficient!r})"
    zero, first, longest = timedelta(0), value.initial_interval, value.maximum_interval
    for field, interval in (("initial_interval", first), ("maximum_interval", longest)):
        if interval is not None and not zero <= interval <= LONGEST:
            yield f"'{name}.{field}' must be from 0 to {LONGEST.days} days (got {interval!r})"
    if longest and longest < first:
        yield f"'{name}.maximum_interval' must be >= initial_interval, {first!r} (got {longest!r})"


@final
@attrs.frozen
class Step(Checked):
    """One durable action on a host: the method of its name in the activities class.

    Args:
        name: The method's name, like ``"rebuild_initramfs"``.
        kind: What it means to the procedure. Default: the kind that a step of this name has in the
            default procedure, ``"plain"`` for your own.
        closed_by: For ``"takes"``: the step that gives back what this one takes away.
        returns_to_service: For ``"closes"``: it runs after a failed update only if the host is healthy.
        shielded: A cancel waits until this step has ended. Closers and steps from the update on always are.
        local: Run it as a local activity: fewer events, no heartbeat. For steps of a second or less.
        start_to_close_timeout: How long one attempt may take. Default 10 minutes.
        schedule_to_close_timeout: How long all attempts may take together, waiting for a worker
            included. Default: no limit; a closer that runs after a failure has one hour.
        heartbeat_timeout: How soon the death of a worker is noticed. Default 30 seconds. The plugin
            beats by itself while the step runs. None turns both off.
        retry_policy: Default: 5 attempts, from 1 second to 1 minute apart. One without
            ``maximum_attempts`` would try for ever: it needs a ``schedule_to_close_timeout``.

    Example:
        >>> Step("rebuild_initramfs", start_to_close_timeout=timedelta(minutes=5)).kind
        'plain'
    """

    name: str = attrs.field(metadata=must(identifier))
    kind: StepKind = attrs.field(
        kw_only=True,
        default=attrs.Factory(lambda self: KINDS.get(self.name, "plain"), takes_self=True),
        metadata=must(one_of("gate", "takes", "update", "closes", "plain", "reboot", "health")),
    )
    closed_by: str | None = attrs.field(
        kw_only=True,
        default=attrs.Factory(lambda self: CLOSERS.get(self.name), takes_self=True),
        metadata=must(optional(identifier)),
    )
    returns_to_service: bool = attrs.field(
        kw_only=True,
        default=attrs.Factory(lambda self: self.name in RETURNS_TO_SERVICE, takes_self=True),
        metadata=must(flag),
    )
    shielded: bool = attrs.field(default=False, kw_only=True, metadata=must(flag))
    local: bool = attrs.field(default=False, kw_only=True, metadata=must(flag))
    start_to_close_timeout: timedelta = attrs.field(
        default=timedelta(minutes=10), kw_only=True, metadata=must(positive)
    )
    schedule_to_close_timeout: timedelta | None = attrs.field(
        default=None, kw_only=True, metadata=must(optional(positive))
    )
    heartbeat_timeout: timedelta | None = attrs.field(
        default=timedelta(seconds=30), kw_only=True, metadata=must(optional(positive))
    )
    retry_policy: RetryPolicy = attrs.field(
        factory=_default_retry_policy, kw_only=True, metadata=must(retries)
    )

    def _relations(self) -> Iterator[str]:
        if self.kind == "takes" and self.closed_by is None:
            yield f"'closed_by' must name the step that gives back what {self.name!r} takes away"
        if self.kind != "takes" and self.closed_by is not None:
            yield f"'closed_by' goes with kind='takes' (got kind={self.kind!r})"
        if self.returns_to_service and self.kind != "closes":
            yield f"'returns_to_service' goes with kind='closes' (got kind={self.kind!r})"
        if self.retry_policy.maximum_attempts == 0 and self.schedule_to_close_timeout is None:
            yield (
                f"'retry_policy' of {self.name!r} must have 'maximum_attempts', or the step a "
                "'schedule_to_close_timeout': it would be tried for ever"
            )
        if self.local and self.kind in ("update", "reboot"):
            yield f"'local' must be False for {self.name!r}: a local activity has no heartbeat"


@final
@attrs.frozen
class Steps(Sequence[Step]):
    """An immutable procedure. Each method returns a new one.

    Unknown names are refused at once, so a misspelt one fails when the class is defined.

    Example:
        >>> DEFAULT_STEPS.after("perform_update", Step("rebuild_initramfs")).names[7]
        'rebuild_initramfs'
    """

    _steps: tuple[Step, ...] = attrs.field(converter=tuple[Step, ...])

    def __attrs_post_init__(self) -> None:
        found: list[str] = []
        for step in self._steps:
            if self.names.count(step.name) > 1:
                found.append(f"step {step.name!r} must be there once")
        updates = [step.name for step in self._steps if step.kind == "update"]
        if len(updates) > 1:
            found.append(f"there must be one step of kind 'update' (got {updates!r})")
        if found:
            raise InvalidRequest(dict.fromkeys(found), what="Steps")

    def check(self) -> None:
        """Looks whether every step that takes something away has its closer after it.

        Called when a ``HostPatchWorkflow`` class is defined: between two calls of ``after`` a procedure
        may well be incomplete.

        Raises:
            InvalidRequest: A closer is missing, or comes too early.
        """
        found = [
            f"step {step.name!r} is closed by {step.closed_by!r}, which must come after it and be of "
            "kind 'closes'"
            for at, step in enumerate(self._steps)
            if step.closed_by is not None
            and not any(
                each.name == step.closed_by and each.kind == "closes"
                for each in self._steps[at + 1 :]
            )
        ]
        if found:
            raise InvalidRequest(found, what="Steps")

    @property
    def names(self) -> tuple[str, ...]:
        """The steps' names, in order."""
        return tuple(step.name for step in self._steps)

    def before(self, name: str, *steps: Step) -> Steps:
        """The same procedure with ``steps`` put before the step ``name``."""
        at = self._at(name)
        return Steps((*self._steps[:at], *steps, *self._steps[at:]))

    def after(self, name: str, *steps: Step) -> Steps:
        """The same procedure with ``steps`` put after the step ``name``."""
        at = self._at(name) + 1
        return Steps((*self._steps[:at], *steps, *self._steps[at:]))

    def without(self, *names: str) -> Steps:
        """The same procedure without these steps. A step and its closer go together."""
        for name in names:
            self._at(name)
        return Steps(step for step in self._steps if step.name not in names)

    @overload
    def replace(self, name: Step) -> Steps: ...
    @overload
    def replace(self, name: str, step: Step) -> Steps: ...
    def replace(self, name: str | Step, step: Step | None = None) -> Steps:
        """The same procedure with another step in the place of one.

        Args:
            name: Which one; or only the new step, in the place of the one of its name.
            step: The new one. Nothing of the old one is kept.

        Example:
            >>> DEFAULT_STEPS.replace(Step("reboot", start_to_close_timeout=timedelta(hours=1))).names[9]
            'reboot'
        """
        if isinstance(name, Step) and step is not None:
            raise InvalidRequest(
                [f"'name' must be the name of a step, given {step.name!r} (got a Step)"]
            )
        new = name if isinstance(name, Step) else step
        if new is None:
            raise InvalidRequest([f"'step' must be given: what comes in the place of {name!r}?"])
        at = self._at(name.name if isinstance(name, Step) else name)
        return Steps((*self._steps[:at], new, *self._steps[at + 1 :]))

    def _at(self, name: str) -> int:
        try:
            return self.names.index(name)
        except ValueError:
            raise InvalidRequest(
                [f"{name!r} is not a step of this procedure{did_you_mean(name, self.names)}"]
            ) from None

    def __len__(self) -> int:
        return len(self._steps)

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Step]: ...
    def __getitem__(self, index: int | slice) -> Step | Sequence[Step]:
        return self._steps[index]


DEFAULT_STEPS = Steps(Step(name) for name in KINDS)
"""The workshop's procedure. A step that the activities class does not implement is not scheduled."""


def resolve(
    steps: Iterable[Step], methods: Iterable[str], unnamed: Iterable[str] = ()
) -> tuple[Step, ...]:
    """The steps that will run: of the default ones those that are implemented, and all of one's own.

    Args:
        steps: The procedure.
        methods: Names of the methods that the activities class implements.
        unnamed: Of those, the ones that take a ``HostTask`` and that no procedure names.

    Raises:
        InvalidRequest: A step cannot run, or an implemented method would never be called.
    """
    wanted = {step.name: step for step in steps}
    there = set(methods)
    found: list[str] = []
    if not any(step.kind == "update" for step in wanted.values()):
        found.append("the steps must have one of kind 'update', 'perform_update' usually")
    for step in wanted.values():
        missing = step.name not in there
        if missing and (step.kind == "update" or step.name not in KINDS):
            found.append(
                f"step {step.name!r} has no method of its name in the activities class"
                f"{did_you_mean(step.name, there - set(wanted))}"
            )
        elif not missing and step.closed_by is not None and step.closed_by not in there:
            found.append(
                f"step {step.name!r} takes something away, but its closer {step.closed_by!r} "
                f"has no method in the activities class"
                f"{did_you_mean(step.closed_by, there - set(wanted))}"
            )
    for name in sorted(set(unnamed) - set(wanted)):
        found.append(
            f"method {name!r} takes a HostTask, but no step has its name"
            f"{did_you_mean(name, wanted)}"
        )
    if found:
        raise InvalidRequest(found, what="procedure")
    return tuple(step for step in wanted.values() if step.name in there)
