"""One host's procedure as a state machine: which step is next, what is open, what became of the host.

``decide(state, event) -> (state, commands)``. Pure: it knows no clock and does no I/O. The state is a
plain value: it can be kept, handed up and resumed.

Three ways through the steps:

* *forward*: in order. A cancel before the update, or a failure, leaves it.
* *close*: the host was not touched. What is open is closed, in reverse, and the host is as it was.
* *recover*: the update began and a step failed. Services are started, health is checked, and only a
  healthy host returns to service; otherwise it is held.

A procedure that *parks* stops where a step failed on the way forward, and leaves the host exactly as it
is: nothing is closed. A person decides: ``retried``, ``accepted`` or ``restored`` give the procedure that
goes on, again with ``Started``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import attrs

from ..exceptions import InvalidRequest
from ._evolve import evolve
from ._rollout_policy import RebootWhen
from ._rules import did_you_mean
from ._states import HostState
from ._steps import CLOSERS, Step

Way = Literal["forward", "close", "recover", "parked", "ended"]


@attrs.frozen(kw_only=True)
class Failure:
    """The first step that failed, and why."""

    step: str
    message: str
    unreachable: bool = False
    checkpoint: object | None = None
    """What its activity had saved last, as a JSON value; None: nothing that is known."""


@attrs.frozen(kw_only=True, slots=False)
class Procedure:
    """Where a host is in its procedure."""

    steps: tuple[Step, ...]
    reboot: RebootWhen = "if_needed"
    way: Way = "forward"
    position: int = 0
    running: str | None = None
    completed: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    """Taking steps that were scheduled and are not closed yet, in order."""
    already: tuple[str, ...] = ()
    """Taking steps that were in effect before we came: never taken, never given back."""
    closed_in_vain: Mapping[str, str] = attrs.field(factory=dict[str, str])
    """What could not be closed, and why."""
    touched: bool = False
    changed: bool = False
    not_needed: bool = False
    healthy: bool | None = None
    """What every health check says of the host as it is now; None: not known."""
    checked: tuple[str, ...] = ()
    """The health checks that it has passed since anything last acted on it."""
    reboot_required: bool = False
    boot_id: str | None = None
    failure: Failure | None = None
    cancelled: str | None = None
    killed: str | None = None
    """Why the update was torn apart. The host is held as it is: nobody knows what state that is."""
    halt: bool = False
    """Whether it is to stand still at the next safe point: between two steps, before the update begins."""
    parks: bool = False
    """Whether a step that fails on the way forward leaves the host as it is, for a person to decide."""
    tries: int = 1
    """One more each time that a person has it retried."""
    retrying: Failure | None = None
    """The failure that it is being retried after, until the step of that failure has run again."""


# Events


@attrs.frozen
class Started:
    """The host's turn has come."""


@attrs.frozen(kw_only=True)
class StepEnded:
    """A step's activity returned."""

    step: str
    ok: bool = True
    needed: bool = True
    changed: bool = False
    reboot_required: bool | None = None
    boot_id: str | None = None
    previous_boot_id: str | None = None
    already: tuple[str, ...] = ()
    message: str = ""
    attempt: int = 1
    checkpoint: object | None = None


@attrs.frozen(kw_only=True)
class StepBroke:
    """A step's activity failed for good, or was cancelled."""

    step: str
    message: str
    unreachable: bool = False
    cancelled: bool = False
    checkpoint: object | None = None


@attrs.frozen
class CancelRequested:
    """Somebody wants this host to stop."""

    reason: str


@attrs.frozen(kw_only=True)
class Refused:
    """Something said no before the first step: a hook of the user's."""

    step: str
    message: str


@attrs.frozen
class HaltRequested:
    """Somebody wants this host to stand still, or (``halt=False``) to go on."""

    halt: bool


@attrs.frozen
class KillRequested:
    """Somebody wants this host to stop, even in the middle of its update."""

    reason: str


HostEvent: TypeAlias = (
    Started | StepEnded | StepBroke | CancelRequested | Refused | HaltRequested | KillRequested
)


# Commands


@attrs.frozen
class RunStep:
    """Schedule this step. ``bounded``: it gives something back, so it has a time limit.

    ``number`` tells the runs of one step apart: only a person's retry makes it higher. ``checkpoint``: what
    the step had saved when it failed, for the very step that is retried.
    """

    step: Step
    bounded: bool = False
    number: int = 1
    checkpoint: object | None = None


@attrs.frozen
class InterruptStep:
    """Cancel the step that runs, and wait for its end."""

    step: str
    reason: str


@attrs.frozen
class EndHost:
    """Nothing is left to do, or nothing until a person decides: ``verdict`` says what became of the host."""


HostCommand: TypeAlias = RunStep | InterruptStep | EndHost
Decision: TypeAlias = "tuple[Procedure, tuple[HostCommand, ...]]"


def decide(state: Procedure, event: HostEvent) -> Decision:
    """What follows from an event. One that the state does not wait for changes nothing."""
    if over(state):
        return state, ()
    return _DECIDE[type(event)](state, event)


def over(state: Procedure) -> bool:
    """Whether nothing follows by itself any more: it has ended, or it is parked."""
    return state.way in ("parked", "ended")


def _begin(state: Procedure, event: Started) -> Decision:
    return (state, ()) if state.running is not None else _next(state)


def _cancel_requested(state: Procedure, event: CancelRequested) -> Decision:
    if state.touched and state.way == "forward":
        # An update that has begun runs to its end. Whoever cancels it will not come back for it, though.
        return evolve(state, parks=False), ()
    if state.touched or state.cancelled is not None or state.way != "forward":
        return state, ()  # closers run to their end, too
    state = evolve(state, cancelled=event.reason or "cancelled")
    if state.running is None:
        return _next(state)
    step = _step(state, state.running)
    if step.shielded or step.kind == "closes":
        return state, ()  # interrupted, a closer would leave open what it gives back
    return state, (InterruptStep(state.running, event.reason),)


def _halt_requested(state: Procedure, event: HaltRequested) -> Decision:
    stood = halted(state)
    state = evolve(state, halt=event.halt)
    return _next(state) if stood and not event.halt else (state, ())


def halted(state: Procedure) -> bool:
    """Whether the host stands still now."""
    return state.halt and state.running is None and _may_halt(state)


def _may_halt(state: Procedure) -> bool:
    # Not once the update has begun: what was taken away would stay away for as long as people sleep.
    return state.way == "forward" and not state.touched


def _kill_requested(state: Procedure, event: KillRequested) -> Decision:
    if not state.touched:
        return _cancel_requested(state, CancelRequested(event.reason))
    state = evolve(state, parks=False)
    step = _step(state, state.running) if state.running is not None else None
    if state.killed is not None or step is None or step.kind != "update":
        return state, ()  # what comes after the update gives back: it runs to its end
    state = evolve(state, killed=event.reason or "killed")
    return state, (InterruptStep(step.name, event.reason),)


def _step_ended(state: Procedure, event: StepEnded) -> Decision:
    if event.step != state.running:
        return state, ()
    step = _step(state, event.step)
    problem = _verdict_problem(state, step, event)
    if problem is not None:
        broke = StepBroke(step=step.name, message=problem, checkpoint=event.checkpoint)
        return _step_broke(state, broke)
    return _next(_done(state, step, event))


def _done(state: Procedure, step: Step, event: StepEnded) -> Procedure:
    """What follows from a step that was done."""
    checked = (*state.checked, step.name) if step.kind == "health" else state.checked
    return evolve(
        state,
        running=None,
        retrying=_still_retrying(state, step),
        completed=(*state.completed, step.name),
        open=_still_open(state, step),
        already=(*state.already, *_found_already(state, step, event)),
        # After a first attempt "nothing changed" proves nothing: the lost one may have done it.
        changed=state.changed or (step.kind == "update" and (event.changed or event.attempt > 1)),
        not_needed=state.not_needed or (step.kind == "gate" and not event.needed),
        checked=checked,
        healthy=(
            True if step.kind == "health" and not _unchecked(state, checked) else state.healthy
        ),
        reboot_required=(
            state.reboot_required and step.kind != "reboot"
            if event.reboot_required is None
            else event.reboot_required
        ),
        boot_id=event.boot_id or state.boot_id,
        killed=None if step.kind == "update" else state.killed,  # it was done before it was torn
    )


def _step_broke(state: Procedure, event: StepBroke) -> Decision:
    if event.step != state.running:
        return state, ()
    step = _step(state, event.step)
    # One that failed before it saved anything has lost nothing of what it was retried with.
    kept = event.checkpoint
    if kept is None and state.retrying is not None and state.retrying.step == step.name:
        kept = state.retrying.checkpoint
    state = evolve(state, running=None, retrying=_still_retrying(state, step))
    if step.kind == "health":
        state = evolve(state, healthy=False)
    if step.kind == "closes":
        why = f"{step.name} failed: {event.message}"
        in_vain = {taken: why for taken in state.open if _closer_of(state, taken) == step.name}
        state = evolve(state, closed_in_vain={**state.closed_in_vain, **in_vain})
    if state.cancelled is not None and not state.touched and not state.not_needed:
        # Cancelled is not failed, even if the step that we interrupted calls it a failure.
        if not event.cancelled and state.way == "forward":
            said = f"{state.cancelled}; {step.name}: {event.message}"
            state = evolve(state, cancelled=said)
        return _next(state)
    # A host that needs nothing, but that we could not give back, is no success either.
    if state.failure is None and (state.way == "forward" or state.not_needed):
        failure = Failure(
            step=step.name,
            message=event.message,
            unreachable=event.unreachable,
            checkpoint=kept if state.parks else None,
        )
        state = evolve(state, failure=failure)
    if state.parks and state.way == "forward":
        return evolve(state, way="parked"), (EndHost(),)
    return _next(state)


def _refused(state: Procedure, event: Refused) -> Decision:
    if state.running is not None:
        return state, ()
    return _next(evolve(state, failure=Failure(step=event.step, message=event.message)))


_DECIDE: Mapping[type, Callable[[Procedure, Any], Decision]] = {
    Started: _begin,
    Refused: _refused,
    StepEnded: _step_ended,
    StepBroke: _step_broke,
    CancelRequested: _cancel_requested,
    HaltRequested: _halt_requested,
    KillRequested: _kill_requested,
}


# Which step is next


def _next(state: Procedure) -> Decision:
    if state.way == "forward":
        if state.failure is not None:
            state = evolve(state, way="recover" if state.touched else "close")
        elif not state.touched and (state.cancelled is not None or state.not_needed):
            state = evolve(state, way="close")
    if state.killed is not None and state.failure is not None:
        return evolve(state, way="ended"), (EndHost(),)
    if state.halt and _may_halt(state):
        return state, ()
    step = _WAYS[state.way](state)
    if step is None:
        return evolve(state, way="ended"), (EndHost(),)
    forward = state.way == "forward"
    # One that acts on the host: what was found healthy before says nothing about it any more.
    acts = step.kind != "health" and not step.returns_to_service
    state = evolve(
        state,
        running=step.name,
        position=_behind(state, step) if forward else state.position,
        healthy=None if acts and state.healthy else state.healthy,
        checked=() if acts else state.checked,
        # Open from the moment it is scheduled: an attempt that timed out may have acted.
        open=_with_open(state, step) if step.kind == "takes" else state.open,
        touched=state.touched or step.kind == "update",
    )
    retried = state.retrying is not None and state.retrying.step == step.name
    checkpoint = state.retrying.checkpoint if retried and state.retrying is not None else None
    return state, (RunStep(step, bounded=not forward, number=state.tries, checkpoint=checkpoint),)


def _forward(state: Procedure) -> Step | None:
    for step in state.steps[state.position :]:
        if step.kind == "takes" and step.name in state.already:
            continue
        if step.kind == "closes" and not _has_to_close(state, step):
            continue
        if step.kind == "reboot" and not _has_to_reboot(state):
            continue
        return step
    return None


def _close(state: Procedure) -> Step | None:
    return _open_closer(state, returning=True)


def _recover(state: Procedure) -> Step | None:
    closer = _open_closer(state, returning=False)
    if closer is not None:
        return closer
    if state.healthy is None and not _services_are_down(state):
        health = _unchecked(state, state.checked)
        if health:
            return health[0]
    return _open_closer(state, returning=True) if state.healthy else None


_WAYS: Mapping[str, Callable[[Procedure], Step | None]] = {
    "forward": _forward,
    "close": _close,
    "recover": _recover,
}


def _open_closer(state: Procedure, *, returning: bool) -> Step | None:
    for taken in reversed(state.open):
        closer = _step(state, _closer_of(state, taken))
        if taken not in state.closed_in_vain and (returning or not closer.returns_to_service):
            return closer
    return None


def _with_open(state: Procedure, taking: Step) -> tuple[str, ...]:
    # In the order of the steps, also where a retry takes again what is open, or was closed meanwhile:
    # in reverse of it they are closed.
    taken = {*state.open, taking.name}
    return tuple(step.name for step in state.steps if step.name in taken)


def _still_retrying(state: Procedure, ended: Step) -> Failure | None:
    again = state.retrying
    return None if again is not None and again.step == ended.name else again


def _still_open(state: Procedure, ended: Step) -> tuple[str, ...]:
    return tuple(taken for taken in state.open if _closer_of(state, taken) != ended.name)


def _unchecked(state: Procedure, checked: tuple[str, ...]) -> tuple[Step, ...]:
    """The health checks that are still to be made before the host counts as healthy."""
    health = (step for step in state.steps if step.kind == "health")
    return tuple(step for step in health if step.name not in checked)


def _services_are_down(state: Procedure) -> bool:
    closers = (_step(state, _closer_of(state, taken)) for taken in state.closed_in_vain)
    return any(not closer.returns_to_service for closer in closers)


def _has_to_close(state: Procedure, closer: Step) -> bool:
    taken = [step.name for step in state.steps if step.closed_by == closer.name]
    if not taken:  # nothing here takes it away: whoever did so before us gives it back
        return not any(CLOSERS.get(name) == closer.name for name in state.already)
    return any(name in state.open for name in taken)


def _has_to_reboot(state: Procedure) -> bool:
    return state.reboot == "always" or (state.reboot == "if_needed" and state.reboot_required)


def _closer_of(state: Procedure, taken: str) -> str:
    closer = _step(state, taken).closed_by
    assert closer is not None, taken  # a step of kind "takes" always names its closer
    return closer


def _step(state: Procedure, name: str) -> Step:
    for step in state.steps:  # several times an event: a generator would cost as much again
        if step.name == name:
            return step
    raise LookupError(name)


def _behind(state: Procedure, step: Step) -> int:
    position = state.position
    while state.steps[position] is not step:
        position += 1
    return position + 1


def _found_already(state: Procedure, step: Step, event: StepEnded) -> tuple[str, ...]:
    # Only a gate looks at the host as it was, and what we have taken ourselves was not there before.
    if step.kind != "gate":
        return ()
    known = {*state.open, *state.already}  # a retry may ask the same gate again
    return tuple(dict.fromkeys(name for name in event.already if name not in known))


def _verdict_problem(state: Procedure, step: Step, event: StepEnded) -> str | None:
    if not event.ok:
        return event.message or f"{step.name} answered ok=False"
    if event.already and step.kind == "gate":
        takes = {*CLOSERS, *(each.name for each in state.steps if each.kind == "takes")}
        for name in event.already:
            if name not in takes:  # else a host in maintenance would be returned to service by us
                return (
                    f"'already' must name steps that take something away (got {name!r})"
                    f"{did_you_mean(name, takes)}"
                )
    if step.kind == "reboot":
        before = event.previous_boot_id or state.boot_id
        if not event.boot_id or not before:
            return (
                "the reboot is not proven: return StepResult(previous_boot_id=…, boot_id=…) "
                "with the host's boot id before and after"
            )
        if event.boot_id == before:
            return f"the reboot is not proven: the boot id is still {before!r}"
    return None


# What a person decides about a parked host


def retried(state: Procedure, step: str | None = None) -> Procedure:
    """The procedure that tries again; it begins with ``Started``.

    Args:
        state: A parked procedure.
        step: Where to begin: the step that failed or one before it, without a checkpoint. None: with the step
            that failed, and with its checkpoint.

    Raises:
        InvalidRequest: It is not parked, or ``step`` is none of those.
    """
    failure = _failure_of(state, "retried")
    known = [each.name for each in state.steps]
    may_begin = known[: known.index(failure.step) + 1]
    if step is not None and step not in may_begin:
        if step in known:
            raise InvalidRequest(
                [f"'step' must not come after {failure.step!r}, which failed (got {step!r})"]
            )
        raise InvalidRequest(
            [
                f"'step' must be in {tuple(may_begin)!r} (got {step!r}){did_you_mean(step, may_begin)}"
            ]
        )
    position = known.index(failure.step if step is None else step)
    before = known[:position]
    return evolve(
        _released(state),
        tries=state.tries + 1,
        position=position,
        completed=tuple(name for name in state.completed if name in before),
        # As after a first attempt: the update that failed may have done it.
        changed=state.changed or _step(state, failure.step).kind == "update",
        retrying=failure if step is None else None,
    )


def accepted(state: Procedure) -> Procedure:
    """The procedure that takes the failed step for done and goes on behind it, with ``Started``.

    What would follow from the step follows: what it closes is closed, the host counts as healthy, as
    updated and changed, or as rebooted.

    Args:
        state: A parked procedure.

    Raises:
        InvalidRequest: It is not parked.
    """
    step = _step(state, _failure_of(state, "accepted").step)
    state = _done(_released(state), step, StepEnded(step=step.name, changed=True))
    # Somebody says that it was rebooted; which boot id it has since, nobody does.
    return evolve(state, boot_id=None) if step.kind == "reboot" else state


def restored(state: Procedure) -> Procedure:
    """The procedure that gives the host back, as if it had not been parked; it begins with ``Started``.

    Args:
        state: A parked procedure.

    Raises:
        InvalidRequest: It is not parked.
    """
    failure = attrs.evolve(
        _failure_of(state, "restored"), checkpoint=None
    )  # nobody resumes from it
    way: Way = "recover" if state.touched else "close"
    return evolve(state, way=way, halt=False, failure=failure)


def _failure_of(state: Procedure, verb: str) -> Failure:
    if state.way != "parked" or state.failure is None:
        raise InvalidRequest([f"only a parked procedure can be {verb} (this one is {state.way!r})"])
    return state.failure


def _released(state: Procedure) -> Procedure:
    """On its way forward again. What was found before says nothing: people may have acted on the host."""
    return evolve(
        state,
        way="forward",
        halt=False,
        failure=None,
        healthy=None,
        checked=(),
        closed_in_vain={},  # only the step that failed can have closed in vain, on the way forward
    )


# What became of the host


def verdict(state: Procedure) -> HostState:
    """The host's final state."""
    if state.failure is not None:
        return HostState.UNREACHABLE if state.failure.unreachable else HostState.FAILED
    if state.not_needed and not state.touched:
        return HostState.UNCHANGED
    if not state.touched:
        return HostState.CANCELLED
    if state.reboot_required:
        return HostState.REBOOT_PENDING
    return HostState.PATCHED if state.changed else HostState.UNCHANGED


def why_left_out(state: Procedure) -> str | None:
    """Why the host is out of service after we are done with it, or None if it is not."""
    if state.killed is not None and state.failure is not None:
        return f"held: {state.killed}"
    if not state.open:
        return None
    if state.way == "parked":
        return f"{', '.join(state.open)}: parked, waits for retry, accept, restore or skip"
    reasons: list[str] = []
    for taken in state.open:
        why = state.closed_in_vain.get(taken)
        if why is None:
            why = _why_held(state)
        reasons.append(f"{taken}: {why}")
    return "; ".join(reasons)


def _why_held(state: Procedure) -> str:
    if state.healthy is False:
        return "held: not healthy"
    if any(step.kind == "health" for step in state.steps):
        return "held: its health was not checked after the failure"
    return "held: no health check says that it may return"


def reason(state: Procedure) -> str:
    """One line for the report: what happened to this host."""
    if state.failure is not None:
        return f"{state.failure.step}: {state.failure.message}"
    return state.cancelled if state.cancelled is not None and not state.touched else ""
