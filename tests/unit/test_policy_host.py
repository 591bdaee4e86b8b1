"""One host's procedure: whatever fails or is cancelled, what was taken away is given back or named."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_patching.policy import DEFAULT_STEPS, HostState, Step, Steps
from temporal_patching.policy._host import (
    CancelRequested,
    EndHost,
    HaltRequested,
    HostEvent,
    InterruptStep,
    KillRequested,
    Procedure,
    Refused,
    RunStep,
    Started,
    StepBroke,
    StepEnded,
    decide,
    halted,
    reason,
    verdict,
    why_left_out,
)
from temporal_patching.policy._rollout_policy import RebootWhen
from temporal_patching.policy._steps import CLOSERS

SEEDS = 4_000
BOTH_TAKES = ("set_maintenance_mode", "stop_services")

RICH_STEPS = (
    DEFAULT_STEPS.after("clear_maintenance_mode", Step("restore_alerts", kind="closes"))
    .before(
        "set_maintenance_mode", Step("silence_alerts", kind="takes", closed_by="restore_alerts")
    )
    .after("check_service_health", Step("check_from_outside", kind="health"), Step("warm_caches"))
    .before("stop_services", Step("check_disks", kind="health", shielded=True))
)
EARLY_CLOSER = Steps(
    [
        Step("lock_inventory", kind="takes", closed_by="unlock_inventory"),
        Step("check_preconditions"),
        Step("unlock_inventory", kind="closes"),
        *DEFAULT_STEPS[1:],
    ]
)
PROCEDURES = {
    "early closer": EARLY_CLOSER,
    "default": DEFAULT_STEPS,
    "rich": RICH_STEPS,
    "no health check": DEFAULT_STEPS.without("check_service_health"),
    "only the update": Steps([Step("perform_update")]),
    "nothing taken": DEFAULT_STEPS.without(
        "set_maintenance_mode", "clear_maintenance_mode", "stop_services", "start_services"
    ),
}


def ended(step: str, **told: object) -> StepEnded:
    """A step that succeeded; a reboot proves itself."""
    if step == "reboot":
        told = {"previous_boot_id": "old", "boot_id": "new", **told}
    return StepEnded(step=step, **told)  # type: ignore[arg-type]


@attrs.define
class HostRun:
    """A procedure that is driven step by step, and what was seen of it from outside."""

    state: Procedure
    ran: list[str] = attrs.field(factory=list[str])
    bounded: list[bool] = attrs.field(factory=list[bool])
    interrupted: list[str] = attrs.field(factory=list[str])
    closed: list[str] = attrs.field(factory=list[str])
    over: bool = False
    first_failure: str | None = None
    healthy: set[str] = attrs.field(factory=set[str])
    """The health checks that passed since anything acted on the host."""
    ill: bool = False
    took: list[str] = attrs.field(factory=list[str])
    """What is taken and not given back, in order."""
    in_vain: set[str] = attrs.field(factory=set[str])
    """Closers that failed."""

    def tell(self, event: HostEvent) -> None:
        """One event, and what follows from it; whatever happens the rules below hold."""
        before = self.state
        self.state, commands = decide(before, event)
        for command in commands:
            assert not self.over, "nothing follows the end"
            if isinstance(command, RunStep):
                assert before.running is None or self.state.running == command.step.name
                self.check_closer(command)
                self.ran.append(command.step.name)
                self.bounded.append(command.bounded)
            elif isinstance(command, InterruptStep):
                assert command.step == before.running
                assert isinstance(event, CancelRequested)
                self.interrupted.append(command.step)
            else:
                assert isinstance(command, EndHost)
                self.over = True
        # The same again is no news.
        if isinstance(event, (StepEnded, StepBroke)) and self.state.running != event.step:
            assert decide(self.state, event) == (self.state, ())
        if isinstance(event, CancelRequested):
            assert decide(self.state, event) == (self.state, ())

    def touched(self) -> bool:
        """Whether the update has begun."""
        return any(step.kind == "update" for step in self.state.steps if step.name in self.ran)

    def check_closer(self, command: RunStep) -> None:
        """Closers run in reverse, and a host whose update began returns only if it is healthy."""
        step = command.step
        if step.kind == "closes" and command.bounded:
            closers = {each.name: each.closed_by for each in self.state.steps}
            # After an update began, what returns it to service comes last.
            later = self.returning() if self.touched() and not step.returns_to_service else set()
            waiting = [
                name
                for name in self.took
                if closers[name] not in self.in_vain and name not in later
            ]
            assert closers[waiting[-1]] == step.name, "in reverse"
            if step.returns_to_service and self.touched():
                checks = {each.name for each in self.state.steps if each.kind == "health"}
                assert checks, "without a health check it is held"
                assert self.healthy == checks, "it returns only if it is healthy as it is now"
                assert not self.ill
        if step.kind == "takes":  # in the order of the steps, also if it is taken again
            took = {*self.took, step.name}
            self.took = [each.name for each in self.state.steps if each.name in took]
        if step.kind != "health" and not step.returns_to_service:
            self.healthy = set()

    def returning(self) -> set[str]:
        """Taking steps whose closer returns the host to service."""
        closers = {each.name for each in self.state.steps if each.returns_to_service}
        return {each.name for each in self.state.steps if each.closed_by in closers}

    def step_ends(self, event: HostEvent) -> None:
        """The step that runs ends."""
        running = self.state.running
        assert running is not None
        step = next(each for each in self.state.steps if each.name == running)
        # How it ends is known from the event alone, but for an answer that proves nothing.
        proof = step.kind != "reboot" or (isinstance(event, StepEnded) and bool(event.boot_id))
        if isinstance(event, StepEnded) and event.ok and proof:
            if step.kind == "health":
                self.healthy.add(running)
            self.took = [
                name
                for name in self.took
                if not any(e.name == name and e.closed_by == running for e in self.state.steps)
            ]
        else:
            self.ill = self.ill or step.kind == "health"
            if step.kind == "closes":
                self.in_vain.add(running)
            forgiven = self.state.cancelled is not None and not self.touched()
            forgiven = forgiven or (self.bounded[-1] and not self.state.not_needed)
            if self.first_failure is None and (self.state.not_needed or not forgiven):
                self.first_failure = running
        self.tell(event)
        if isinstance(event, StepEnded) and running in self.state.completed[-1:]:
            self.closed += [
                step.name
                for step in self.state.steps
                if step.closed_by == running and step.name in self.ran
            ]


def start(steps: Steps = DEFAULT_STEPS, reboot: RebootWhen = "if_needed") -> HostRun:
    """A host whose turn has come."""
    run = HostRun(Procedure(steps=tuple(steps), reboot=reboot))
    run.tell(Started())
    return run


def go_on(run: HostRun, until: str | None = None, **answers: HostEvent) -> HostRun:
    """Lets each step succeed, or end as told by its name, up to the step ``until``."""
    while not run.over and run.state.running != until:
        step = run.state.running
        assert step is not None
        answer = answers.get(step)
        run.step_ends(ended(step, changed=step == "perform_update") if answer is None else answer)
    return run


def check(run: HostRun) -> None:
    """What holds for every host at its end."""
    state = run.state
    steps = {step.name: step for step in state.steps}
    assert run.over
    assert state.way == "ended"
    assert state.running is None
    touched = any(steps[name].kind == "update" for name in run.ran)
    taken = [name for name in run.ran if steps[name].kind == "takes"]
    left = [name for name in taken if name not in run.closed]
    why = why_left_out(state)
    # Closed, or named with the reason.
    assert (why is None) == (not left)
    for name in left:
        assert f"{name}: " in (why or "")
    # Once, except for health checks, which are repeated after what they are about.
    for name in run.ran:
        if steps[name].kind != "health":
            limit = 1 if steps[name].kind != "closes" else 2
            assert run.ran.count(name) <= limit, name
    # An update that has begun is not torn apart, and nothing begins after a cancel.
    for name in run.interrupted:
        assert not touched
        assert not steps[name].shielded
        assert steps[name].kind in ("gate", "takes", "plain", "health", "reboot")
    outcome = verdict(state)
    if outcome is HostState.CANCELLED:
        assert not touched
        assert state.cancelled is not None
        assert reason(state)
    if not touched and state.cancelled is not None:
        # A check that found that nothing is needed, cancelled or not, has found it; but a host that could
        # not be given back is no success.
        kept = state.not_needed and state.failure is not None
        found = HostState.UNCHANGED if state.not_needed else HostState.CANCELLED
        assert outcome in ((HostState.FAILED, HostState.UNREACHABLE) if kept else (found,))
    failed = None if state.failure is None else state.failure.step
    if failed != "before_host":
        assert failed == run.first_failure, "the first failure is the one that is told"
    # Out of service is no success.
    assert why is None or outcome in (
        HostState.FAILED,
        HostState.UNREACHABLE,
        HostState.CANCELLED,
    )
    for name in state.already:
        mine = steps.get(name)
        closer = CLOSERS[name] if mine is None else mine.closed_by
        shared = [each.name for each in state.steps if each.closed_by == closer]
        if not set(shared) & set(run.ran):
            assert closer not in run.ran, "what was so before stays so"
    if outcome in (HostState.FAILED, HostState.UNREACHABLE):
        assert state.failure is not None
        assert reason(state).startswith(f"{state.failure.step}: ")
    if outcome in (HostState.PATCHED, HostState.REBOOT_PENDING):
        assert touched
        assert state.failure is None
    assert outcome is not HostState.NOT_STARTED


def any_procedure(rng: random.Random) -> Procedure:
    """One of the procedures, without some of its steps."""
    procedure = rng.choice([*PROCEDURES.values()])
    keep = {step.name for step in procedure if step.kind == "update" or rng.random() < 0.9}
    keep -= {step.name for step in procedure if step.closed_by and step.closed_by not in keep}
    steps = tuple(
        attrs.evolve(step, shielded=step.shielded or rng.random() < 0.1)
        for step in procedure
        if step.name in keep
    )
    return Procedure(steps=steps, reboot=rng.choice(["never", "if_needed", "always"]))


def simulate(seed: int) -> HostRun:
    """A host to which anything happens: failures, cancels at any moment, odd answers."""
    rng = random.Random(seed)
    run = HostRun(any_procedure(rng))
    trouble = rng.choice([0.0, 0.05, 0.2, 0.5])
    cancel = rng.choice([0.0, 0.0, 0.1, 0.3])
    first: list[HostEvent] = [Started()]
    if rng.random() < 0.05:
        first = [Refused(step="before_host", message="no")]
    elif rng.random() < cancel:
        first = [CancelRequested("early")]
    for event in first:
        run.tell(event)
    for _ in range(200):
        if run.over:
            break
        step = run.state.running
        assert step is not None
        if rng.random() < cancel:
            run.tell(CancelRequested("sibling failed"))
            continue
        interrupted = step in run.interrupted
        if interrupted and rng.random() < 0.7:
            run.step_ends(StepBroke(step=step, message="cancelled", cancelled=True))
        elif rng.random() < trouble:
            broken: list[Callable[[], HostEvent]] = [
                lambda step=step: StepBroke(step=step, message="boom"),  # type: ignore[misc]
                lambda step=step: StepBroke(step=step, message="gone", unreachable=True),  # type: ignore[misc]
                lambda step=step: StepEnded(step=step, ok=False),  # type: ignore[misc]
            ]
            run.step_ends(rng.choice(broken)())
        else:
            gate = step in ("check_preconditions", "wait_for_workload_drain")
            run.step_ends(
                ended(
                    step,
                    needed=not gate or rng.random() > 0.1,
                    changed=rng.random() < 0.7,
                    reboot_required=rng.choice([None, None, True, False]),
                    attempt=rng.choice([1, 1, 1, 2]),
                    already=("set_maintenance_mode",) if gate and rng.random() < 0.2 else (),
                )
            )
    return run


@pytest.mark.parametrize("block", range(8))
def test_every_host_ends_and_leaves_nothing_open_in_silence(block: int) -> None:
    """Thousands of hosts with any trouble: each ends, and each taking step is closed or named."""
    for seed in range(block * SEEDS // 8, (block + 1) * SEEDS // 8):
        try:
            check(simulate(seed))
        except BaseException as error:
            raise AssertionError(f"simulate({seed}): {error}") from error


@given(st.integers(min_value=SEEDS))
def test_every_host_ends_property(seed: int) -> None:
    """The same, as a property."""
    check(simulate(seed))


def test_the_simulation_reaches_every_state() -> None:
    """The simulated hosts end in every state that a procedure can give, healthy and held ones."""
    runs = [simulate(seed) for seed in range(1_000)]
    assert {verdict(run.state) for run in runs} == {
        HostState.PATCHED,
        HostState.UNCHANGED,
        HostState.FAILED,
        HostState.UNREACHABLE,
        HostState.REBOOT_PENDING,
        HostState.CANCELLED,
    }
    assert {why_left_out(run.state) is None for run in runs} == {True, False}


# By example


def test_the_whole_procedure() -> None:
    """Without trouble every step runs once, in order, the reboot aside, and the host is PATCHED."""
    run = go_on(start())
    assert run.ran == [step.name for step in DEFAULT_STEPS if step.name != "reboot"]
    assert not any(run.bounded)
    assert verdict(run.state) is HostState.PATCHED
    assert why_left_out(run.state) is None


@pytest.mark.parametrize("step", [step.name for step in DEFAULT_STEPS][:6])
def test_a_step_that_fails_before_the_update_leaves_the_host_as_it_was(step: str) -> None:
    """What was taken is given back in reverse, and the host is FAILED, for that step."""
    run = go_on(start(), None, **{step: StepBroke(step=step, message="boom")})
    assert "perform_update" not in run.ran
    assert verdict(run.state) is HostState.FAILED
    assert reason(run.state) == f"{step}: boom"
    assert why_left_out(run.state) is None
    after = run.ran[run.ran.index(step) + 1 :]
    # The failed step itself may have acted: it is open from the moment it is scheduled.
    expected = ["clear_maintenance_mode"] if "set_maintenance_mode" in run.ran else []
    expected = ["start_services", *expected] if "stop_services" in run.ran else expected
    assert after == expected
    assert all(run.bounded[len(run.ran) - len(after) :])


def test_a_false_precondition_is_a_failed_host() -> None:
    """check_preconditions that answers ok=False ends the host as FAILED, untouched."""
    answer = StepEnded(step="check_preconditions", ok=False, message="disk full")
    run = go_on(start(), check_preconditions=answer)
    assert run.ran == ["check_preconditions"]
    assert (verdict(run.state), reason(run.state)) == (
        HostState.FAILED,
        "check_preconditions: disk full",
    )


def test_a_host_that_needs_nothing_is_unchanged() -> None:
    """needed=False ends the host at once as UNCHANGED, a success."""
    run = go_on(start(), check_preconditions=StepEnded(step="check_preconditions", needed=False))
    assert run.ran == ["check_preconditions"]
    assert verdict(run.state) is HostState.UNCHANGED
    assert reason(run.state) == ""


@pytest.mark.parametrize("step", ["set_maintenance_mode", "perform_update", "start_services"])
def test_only_a_gate_may_say_that_nothing_is_needed(step: str) -> None:
    """The same answer of another step ends no procedure."""
    run = go_on(start(), None, **{step: ended(step, changed=True, needed=False)})
    assert run.state.completed[-1] == "clear_maintenance_mode"
    assert "perform_update" in run.ran
    assert not run.state.not_needed


@pytest.mark.parametrize(
    ("changed", "attempt", "expected"),
    [
        (True, 1, HostState.PATCHED),
        (False, 1, HostState.UNCHANGED),
        (False, 2, HostState.PATCHED),
        (True, 2, HostState.PATCHED),
    ],
)
def test_unchanged_is_only_said_of_a_first_attempt(
    changed: bool, attempt: int, expected: HostState
) -> None:
    """A later attempt that changed nothing proves nothing: the lost one may have done it."""
    answer = ended("perform_update", changed=changed, attempt=attempt)
    assert verdict(go_on(start(), perform_update=answer).state) is expected


def test_only_the_update_decides_about_unchanged() -> None:
    """Scripts that changed something do not make a host PATCHED."""
    scripts = ended("run_post_update_scripts", changed=True)
    run = go_on(start(), perform_update=ended("perform_update"), run_post_update_scripts=scripts)
    assert verdict(run.state) is HostState.UNCHANGED


def test_a_failed_update_that_leaves_a_healthy_host_returns_it() -> None:
    """Services are started, health is checked, then the host returns; it is FAILED all the same."""
    run = go_on(start(), perform_update=StepBroke(step="perform_update", message="dpkg"))
    after = run.ran[run.ran.index("perform_update") + 1 :]
    assert after == ["start_services", "check_service_health", "clear_maintenance_mode"]
    assert verdict(run.state) is HostState.FAILED
    assert why_left_out(run.state) is None


def test_a_failed_update_that_leaves_an_ill_host_holds_it() -> None:
    """An unhealthy host stays out of service, and says why; the first failure is its reason."""
    run = go_on(
        start(),
        perform_update=StepBroke(step="perform_update", message="dpkg"),
        check_service_health=StepBroke(step="check_service_health", message="503"),
    )
    assert "clear_maintenance_mode" not in run.ran
    assert reason(run.state) == "perform_update: dpkg"
    assert why_left_out(run.state) == "set_maintenance_mode: held: not healthy"


def test_services_that_do_not_start_hold_the_host() -> None:
    """Without services there is nothing to check: the host is held, both reasons are named."""
    run = go_on(start(), start_services=StepBroke(step="start_services", message="no unit"))
    assert run.ran[-1] == "start_services"
    assert why_left_out(run.state) == (
        "set_maintenance_mode: held: its health was not checked after the failure; "
        "stop_services: start_services failed: no unit"
    )


def test_without_a_health_check_a_host_that_failed_is_held() -> None:
    """Nothing says that it may return."""
    run = go_on(
        start(PROCEDURES["no health check"]),
        perform_update=StepBroke(step="perform_update", message="dpkg"),
    )
    assert run.ran[-1] == "start_services"
    assert why_left_out(run.state) == (
        "set_maintenance_mode: held: no health check says that it may return"
    )


def test_health_found_before_the_update_says_nothing_after_it() -> None:
    """A health check that passed before the update does not return a host whose update failed."""
    steps = DEFAULT_STEPS.before("set_maintenance_mode", Step("check_before", kind="health"))
    run = go_on(
        start(steps),
        perform_update=StepBroke(step="perform_update", message="dpkg"),
        check_service_health=StepBroke(step="check_service_health", message="503"),
    )
    assert "clear_maintenance_mode" not in run.ran
    assert why_left_out(run.state) is not None


def test_a_step_that_fails_after_the_health_check_has_it_repeated() -> None:
    """What acted on the host after its health check makes the check worthless."""
    steps = DEFAULT_STEPS.after("check_service_health", Step("warm_caches"))
    run = go_on(start(steps), until="warm_caches")
    run.step_ends(StepBroke(step="warm_caches", message="oom"))
    assert run.state.running == "check_service_health"
    go_on(run, check_service_health=StepBroke(step="check_service_health", message="503"))
    assert why_left_out(run.state) == "set_maintenance_mode: held: not healthy"


def test_a_host_returns_only_if_every_health_check_says_so() -> None:
    """After a failed update the second health check is asked, too."""
    steps = DEFAULT_STEPS.after("check_service_health", Step("check_from_outside", kind="health"))
    run = go_on(
        start(steps),
        perform_update=StepBroke(step="perform_update", message="dpkg"),
        check_from_outside=StepBroke(step="check_from_outside", message="no route"),
    )
    assert run.ran[-2:] == ["check_service_health", "check_from_outside"]
    assert why_left_out(run.state) == "set_maintenance_mode: held: not healthy"


def test_a_closer_that_fails_is_named_and_the_next_one_runs() -> None:
    """Restoring goes on after a closer that failed."""
    run = go_on(
        start(),
        wait_for_workload_drain=StepBroke(step="wait_for_workload_drain", message="busy"),
        start_services=StepBroke(step="start_services", message="no unit"),
    )
    assert run.ran[-2:] == ["start_services", "clear_maintenance_mode"]
    assert why_left_out(run.state) == "stop_services: start_services failed: no unit"
    assert reason(run.state) == "wait_for_workload_drain: busy"


# Cancel


@pytest.mark.parametrize("step", [step.name for step in DEFAULT_STEPS][:6])
@pytest.mark.parametrize("how", ["cancelled", "finished", "failed", "unreachable", "not ok"])
def test_a_cancel_before_the_update_restores_the_host(step: str, how: str) -> None:
    """However the interrupted step ends, the host is CANCELLED, and everything taken is given back."""
    run = go_on(start(), until=step)
    run.tell(CancelRequested("web-2 failed"))
    assert run.interrupted == [step]
    endings: dict[str, HostEvent] = {
        "cancelled": StepBroke(step=step, message="cancelled", cancelled=True),
        "finished": ended(step),
        "failed": StepBroke(step=step, message="exit status -15"),
        "unreachable": StepBroke(step=step, message="reset", unreachable=True),
        "not ok": StepEnded(step=step, ok=False, message="killed"),
    }
    run.step_ends(endings[how])
    go_on(run)
    assert "perform_update" not in run.ran
    assert verdict(run.state) is HostState.CANCELLED
    assert why_left_out(run.state) is None
    assert sorted(run.closed) == sorted(name for name in run.ran if name in BOTH_TAKES)
    assert reason(run.state).startswith("web-2 failed")
    if how == "cancelled":
        assert reason(run.state) == "web-2 failed"
    if how == "failed":
        assert reason(run.state) == f"web-2 failed; {step}: exit status -15"


@pytest.mark.parametrize("step", [step.name for step in DEFAULT_STEPS if step.name != "reboot"][6:])
def test_a_cancel_after_the_update_began_changes_nothing(step: str) -> None:
    """An update that has begun runs to the end of the procedure, and the host is PATCHED."""
    run = go_on(start(), until=step)
    run.tell(CancelRequested("web-2 failed"))
    assert run.interrupted == []
    go_on(run)
    assert verdict(run.state) is HostState.PATCHED
    assert reason(run.state) == ""


def test_a_cancel_waits_for_a_shielded_step() -> None:
    """A shielded step is not interrupted; the host is restored after it."""
    steps = DEFAULT_STEPS.replace("stop_services", attrs.evolve(DEFAULT_STEPS[3], shielded=True))
    run = go_on(start(steps), until="stop_services")
    run.tell(CancelRequested("enough"))
    assert run.interrupted == []
    go_on(run)
    assert run.ran[-2:] == ["start_services", "clear_maintenance_mode"]
    assert verdict(run.state) is HostState.CANCELLED


def test_a_cancel_before_the_first_step_touches_nothing() -> None:
    """Then nothing runs at all."""
    run = HostRun(Procedure(steps=tuple(DEFAULT_STEPS)))
    run.tell(CancelRequested(""))
    assert (run.over, run.ran, verdict(run.state)) == (True, [], HostState.CANCELLED)
    assert reason(run.state) == "cancelled"


def test_a_cancel_does_not_mask_the_failure_before_it() -> None:
    """A host that failed and is cancelled while it restores itself is FAILED, for its own reason."""
    run = go_on(start(), until="wait_for_workload_drain")
    run.step_ends(StepBroke(step="wait_for_workload_drain", message="busy"))
    run.tell(CancelRequested("web-2 failed"))
    go_on(run)
    assert run.interrupted == []
    assert (verdict(run.state), reason(run.state)) == (
        HostState.FAILED,
        "wait_for_workload_drain: busy",
    )


def test_a_host_that_cannot_be_restored_says_so() -> None:
    """A cancelled host whose closer fails is CANCELLED and out of service."""
    run = go_on(start(), until="stop_services")
    run.tell(CancelRequested("enough"))
    run.step_ends(StepBroke(step="stop_services", message="cancelled", cancelled=True))
    go_on(run, start_services=StepBroke(step="start_services", message="no unit"))
    assert verdict(run.state) is HostState.CANCELLED
    assert why_left_out(run.state) == "stop_services: start_services failed: no unit"


# Reboot


@pytest.mark.parametrize(
    ("policy", "required", "runs", "expected"),
    [
        ("never", True, False, HostState.REBOOT_PENDING),
        ("never", False, False, HostState.PATCHED),
        ("if_needed", True, True, HostState.PATCHED),
        ("if_needed", False, False, HostState.PATCHED),
        ("always", False, True, HostState.PATCHED),
        ("always", True, True, HostState.PATCHED),
    ],
)
def test_the_reboot_policy(
    policy: RebootWhen, required: bool, runs: bool, expected: HostState
) -> None:
    """never, if_needed, always; what is needed and not done is REBOOT_PENDING."""
    update = ended("perform_update", changed=True, reboot_required=required)
    run = go_on(start(reboot=policy), perform_update=update)
    assert ("reboot" in run.ran) is runs
    assert verdict(run.state) is expected


def test_a_reboot_that_is_needed_and_not_implemented_is_pending() -> None:
    """A procedure without a reboot step cannot make one."""
    update = ended("perform_update", changed=True, reboot_required=True)
    run = go_on(start(DEFAULT_STEPS.without("reboot"), "always"), perform_update=update)
    assert verdict(run.state) is HostState.REBOOT_PENDING


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"boot_id": None, "previous_boot_id": None}, "not proven: return StepResult("),
        ({"boot_id": "new", "previous_boot_id": None}, "not proven: return StepResult("),
        ({"boot_id": "old", "previous_boot_id": "old"}, "not proven: the boot id is still 'old'"),
    ],
)
def test_a_reboot_without_proof_is_a_failure(answer: dict[str, object], expected: str) -> None:
    """A host whose boot id is unknown or the old one has not been rebooted."""
    run = go_on(start(reboot="always"), reboot=ended("reboot", **answer))
    assert verdict(run.state) is HostState.FAILED
    assert expected in reason(run.state)


def test_an_earlier_step_may_tell_the_boot_id() -> None:
    """The boot id before the reboot may come from any step before it."""
    run = go_on(
        start(reboot="always"),
        check_preconditions=ended("check_preconditions", boot_id="old"),
        reboot=ended("reboot", previous_boot_id=None),
    )
    assert "reboot" in run.state.completed
    same = go_on(
        start(reboot="always"),
        check_preconditions=ended("check_preconditions", boot_id="new"),
        reboot=ended("reboot", previous_boot_id=None),
    )
    assert verdict(same.state) is HostState.FAILED


# Already


def test_what_was_so_before_stays_so() -> None:
    """A host found in maintenance is neither put into maintenance nor taken out of it."""
    found = ended("check_preconditions", already=("set_maintenance_mode",))
    run = go_on(start(), check_preconditions=found)
    assert not {"set_maintenance_mode", "clear_maintenance_mode"} & set(run.ran)
    assert {"stop_services", "start_services"} <= set(run.ran)
    assert run.state.already == ("set_maintenance_mode",)
    assert verdict(run.state) is HostState.PATCHED


def test_a_misspelt_already_is_a_failure() -> None:
    """Ignored, it would return a host to service that was out of it before we came."""
    found = ended("check_preconditions", already=("maintenance_mode",))
    run = go_on(start(), check_preconditions=found)
    assert verdict(run.state) is HostState.FAILED
    assert reason(run.state) == (
        "check_preconditions: 'already' must name steps that take something away "
        "(got 'maintenance_mode'), did you mean 'set_maintenance_mode'?"
    )


def test_only_what_takes_something_away_may_have_been_so_before() -> None:
    """An update that a gate calls done already would be none. Of other steps nobody asks for it."""
    found = ended("check_preconditions", already=("perform_update",))
    run = go_on(start(), check_preconditions=found)
    assert "'already' must name steps that take something away (got 'perform_update')" in reason(
        run.state
    )
    run = go_on(start(), perform_update=ended("perform_update", already=("anything",)))
    assert run.state.failure is None


def test_already_is_not_believed_of_what_we_took() -> None:
    """A later gate that finds our own maintenance does not make it somebody else's."""
    found = ended("run_pre_update_scripts", already=("set_maintenance_mode",))
    run = go_on(start(), run_pre_update_scripts=found)
    assert run.state.already == ()
    assert "clear_maintenance_mode" in run.ran


def test_a_hook_that_refuses_fails_the_host_untouched() -> None:
    """Refused before its first step, the host is FAILED; told later it is ignored."""
    run = HostRun(Procedure(steps=tuple(DEFAULT_STEPS)))
    run.tell(Refused(step="before_host", message="not today"))
    assert (run.over, run.ran) == (True, [])
    assert (verdict(run.state), reason(run.state)) == (HostState.FAILED, "before_host: not today")
    late = start()
    assert decide(late.state, Refused(step="before_host", message="late")) == (late.state, ())


# What could not be given back, and what was never ours


@pytest.mark.parametrize("cancel", [False, True])
def test_a_host_that_needs_nothing_and_cannot_be_given_back_is_failed(cancel: bool) -> None:
    """UNCHANGED is a success: a host that our own steps left out of service is none."""
    run = go_on(start(), until="wait_for_workload_drain")
    if cancel:
        run.tell(CancelRequested("web-2 failed"))
    run.step_ends(StepEnded(step="wait_for_workload_drain", needed=False))
    go_on(run, start_services=StepBroke(step="start_services", message="no unit"))
    assert run.ran[-2:] == ["start_services", "clear_maintenance_mode"]
    assert why_left_out(run.state) == "stop_services: start_services failed: no unit"
    assert (verdict(run.state), reason(run.state)) == (
        HostState.FAILED,
        "start_services: no unit",
    )


def test_a_closer_before_the_update_is_not_interrupted() -> None:
    """A cancel waits for it: interrupted, what it gives back would stay away for ever."""
    run = go_on(start(EARLY_CLOSER), until="unlock_inventory")
    run.tell(CancelRequested("web-2 failed"))
    assert run.interrupted == []
    go_on(run)
    assert verdict(run.state) is HostState.CANCELLED
    assert why_left_out(run.state) is None
    assert run.ran == ["lock_inventory", "check_preconditions", "unlock_inventory"]


def test_what_was_so_before_stays_so_without_its_taking_step() -> None:
    """A procedure that only clears maintenance leaves a host in it that was in it before."""
    steps = DEFAULT_STEPS.without("set_maintenance_mode")
    found = ended("check_preconditions", already=("set_maintenance_mode",))
    run = go_on(start(steps), check_preconditions=found)
    assert "clear_maintenance_mode" not in run.ran
    assert verdict(run.state) is HostState.PATCHED
    assert "clear_maintenance_mode" in go_on(start(steps)).ran


def test_a_reboot_that_asks_for_another_is_pending() -> None:
    """What the reboot step itself says counts: silence means that nothing is left to do."""
    for said, expected in (
        (True, HostState.REBOOT_PENDING),
        (False, HostState.PATCHED),
        (None, HostState.PATCHED),
    ):
        run = go_on(
            start(),
            perform_update=ended("perform_update", changed=True, reboot_required=True),
            reboot=ended("reboot", reboot_required=said),
        )
        assert "reboot" in run.state.completed
        assert verdict(run.state) is expected


def test_a_gate_after_the_update_cannot_call_it_off() -> None:
    """That nothing is needed comes too late then: the procedure goes on to its end."""
    run = go_on(
        start(DEFAULT_STEPS.after("perform_update", Step("verify", kind="gate"))),
        verify=StepEnded(step="verify", needed=False),
    )
    assert run.ran[-3:] == [
        "run_post_update_scripts",
        "check_service_health",
        "clear_maintenance_mode",
    ]
    assert verdict(run.state) is HostState.PATCHED


def test_a_host_that_was_found_ill_is_not_asked_until_it_says_otherwise() -> None:
    """A closer that runs after the failed health check does not make the host healthy."""
    ill = StepBroke(step="check_service_health", message="503")
    run = go_on(start(RICH_STEPS), until="check_service_health")
    run.step_ends(ill)
    go_on(run)
    assert run.ran[-2:] == ["check_service_health", "restore_alerts"]
    assert why_left_out(run.state) == "set_maintenance_mode: held: not healthy"


def test_the_first_of_two_closers_that_failed_is_the_reason() -> None:
    """Also where the host needed nothing: both are named as left out, the first is the failure."""
    run = go_on(
        start(),
        wait_for_workload_drain=StepEnded(step="wait_for_workload_drain", needed=False),
        start_services=StepBroke(step="start_services", message="no unit"),
        clear_maintenance_mode=StepBroke(step="clear_maintenance_mode", message="no answer"),
    )
    assert reason(run.state) == "start_services: no unit"
    assert why_left_out(run.state) == (
        "set_maintenance_mode: clear_maintenance_mode failed: no answer; "
        "stop_services: start_services failed: no unit"
    )


# Standing still, and being torn apart

BEFORE_UPDATE = [step.name for step in DEFAULT_STEPS][:6]


def go_steered(seed: int) -> tuple[Procedure, list[str], list[str]]:
    """A host that is halted, released, cancelled and killed at any moment: what ran, and what befell it."""
    rng = random.Random(seed)
    steps = rng.choice([*PROCEDURES.values()])
    state, ran, befell = Procedure(steps=tuple(steps)), list[str](), list[str]()
    kinds = {step.name: step.kind for step in steps}
    trouble = rng.choice([0.0, 0.1, 0.4])
    events: list[HostEvent] = [Started()]
    for _ in range(400):
        if state.way == "ended":
            break
        asked = rng.random()
        if events:
            event = events.pop()
        elif state.running is not None and kinds[state.running] == "update" and asked < 0.3:
            befell.append("kill")
            event = KillRequested("aborted now")
        elif state.running is None or asked < 0.1:
            befell.append(rng.choice(["halt", "go on", "go on", "cancel", "kill"]))
            steering: dict[str, HostEvent] = {
                "halt": HaltRequested(True),
                "go on": HaltRequested(False),
                "cancel": CancelRequested("sibling failed"),
                "kill": KillRequested("aborted now"),
            }
            event = steering[befell[-1]]
        elif rng.random() < trouble or (befell[-1:] in (["kill"], ["cancel"]) and asked < 0.6):
            event = StepBroke(step=state.running, message="boom", cancelled=rng.random() < 0.5)
        else:
            event = ended(state.running, changed=True)
        before = state
        state, commands = decide(before, event)
        for command in commands:
            if isinstance(command, RunStep):
                if before.halt and not isinstance(event, HaltRequested):
                    fresh = state.way == "forward" and not before.touched
                    assert not fresh, "nothing new while it is to stand still"
                ran.append(command.step.name)
            elif isinstance(command, InterruptStep):
                assert command.step == before.running
                if before.touched:
                    assert isinstance(event, KillRequested)
                    assert kinds[command.step] == "update", "only the update is torn apart"
        if halted(state):
            assert state.running is None, "between steps"
            assert "update" not in [kinds[name] for name in ran], "before the update begins"
            assert state.way == "forward"
            assert not commands
        elif state.way != "ended" and not isinstance(event, Refused):
            assert state.running is not None, "else it goes on"
        again = decide(state, event)
        if not isinstance(event, (StepEnded, StepBroke)) or state.running != event.step:
            assert again == (state, ()), "told twice"
    return state, ran, befell


def check_steered(state: Procedure, ran: list[str], befell: list[str]) -> None:
    """What holds for every host that was steered, at its end."""
    assert state.way == "ended"
    torn = state.killed is not None
    touched = any(step.kind == "update" for step in state.steps if step.name in ran)
    if torn:
        assert touched
        assert "kill" in befell
        assert verdict(state) is HostState.FAILED
        assert why_left_out(state) == "held: aborted now"
        assert {step.kind for step in state.steps if step.name == ran[-1]} == {"update"}
        return
    closers = {step.name: step.closed_by for step in state.steps if step.kind == "takes"}
    returns = {step.name for step in state.steps if step.returns_to_service}
    for taken in state.open:  # what could not be closed, or is held by an update that failed
        closer = closers[taken]
        assert closer in ran or (touched and closer in returns), f"{closer} had to run"
    if not touched:
        assert verdict(state) in (HostState.CANCELLED, HostState.FAILED)
        assert state.cancelled is not None or state.failure is not None


@pytest.mark.parametrize("block", range(4))
def test_steered_hosts(block: int) -> None:
    """It stands still only where that is safe, and its closers run unless its update was torn apart."""
    for seed in range(block * 1_000, (block + 1) * 1_000):
        try:
            check_steered(*go_steered(seed))
        except BaseException as error:
            raise AssertionError(f"go_steered({seed}): {error}") from error


@given(st.integers(min_value=SEEDS))
def test_steered_hosts_property(seed: int) -> None:
    """The same, as a property."""
    check_steered(*go_steered(seed))


def test_steered_hosts_see_everything() -> None:
    """Some are torn apart, some restored, some patched."""
    states = [go_steered(seed)[0] for seed in range(500)]
    assert sum(state.killed is not None for state in states) > 20
    assert {verdict(state) for state in states} >= {
        HostState.PATCHED,
        HostState.FAILED,
        HostState.CANCELLED,
    }


@pytest.mark.parametrize("step", BEFORE_UPDATE)
def test_a_halt_lets_the_step_end_and_a_release_goes_on(step: str) -> None:
    """Nothing is lost: the procedure is the same as without the halt."""
    run = go_on(start(), until=step)
    run.tell(HaltRequested(True))
    assert run.state.running == step
    run.step_ends(ended(step))
    assert halted(run.state)
    run.tell(HaltRequested(False))
    assert not halted(run.state)
    go_on(run)
    assert run.ran == [each.name for each in DEFAULT_STEPS if each.name != "reboot"]
    assert verdict(run.state) is HostState.PATCHED


@pytest.mark.parametrize("step", ["perform_update", "start_services", "check_service_health"])
def test_a_halt_after_the_update_began_changes_nothing(step: str) -> None:
    """What was taken away would stay away: the host goes to its end."""
    run = go_on(start(), until=step)
    run.tell(HaltRequested(True))
    go_on(run)
    assert verdict(run.state) is HostState.PATCHED


@pytest.mark.parametrize("event", [CancelRequested("enough"), KillRequested("enough")])
@pytest.mark.parametrize("step", BEFORE_UPDATE)
def test_a_host_that_stands_still_can_be_cancelled(step: str, event: HostEvent) -> None:
    """Cancelled or killed, it is given back as it was."""
    run = go_on(start(), until=step)
    run.tell(HaltRequested(True))
    run.step_ends(ended(step))
    run.tell(event)
    go_on(run)
    assert "perform_update" not in run.ran
    assert (verdict(run.state), why_left_out(run.state)) == (HostState.CANCELLED, None)
    assert reason(run.state) == "enough"


def killed_update() -> Procedure:
    """A host whose update is being torn apart."""
    run = go_on(start(), until="perform_update")
    state, commands = decide(run.state, KillRequested("aborted now"))
    assert commands == (InterruptStep("perform_update", "aborted now"),)
    assert decide(state, KillRequested("again")) == (state, ())
    return state


def test_an_update_that_is_torn_apart_ends_the_host() -> None:
    """FAILED, left out with the reason, and nothing else is done to it: nobody knows what state it is in."""
    broke = StepBroke(step="perform_update", message="cancelled", cancelled=True)
    state, commands = decide(killed_update(), broke)
    assert commands == (EndHost(),)
    assert (verdict(state), why_left_out(state)) == (HostState.FAILED, "held: aborted now")


def test_an_update_that_ended_before_it_was_torn_apart_goes_on() -> None:
    """A step that fails after it is recovered from, as ever: its services are started, its health checked."""
    done = HostRun(killed_update(), ran=["perform_update"], took=[*BOTH_TAKES], bounded=[False])
    done.step_ends(ended("perform_update", changed=True))
    go_on(done, run_post_update_scripts=StepBroke(step="run_post_update_scripts", message="no"))
    assert done.ran[-2:] == ["check_service_health", "clear_maintenance_mode"]
    assert (verdict(done.state), why_left_out(done.state)) == (HostState.FAILED, None)


@pytest.mark.parametrize("step", ["start_services", "check_service_health"])
def test_a_kill_after_the_update_changes_nothing(step: str) -> None:
    """What comes after the update gives back: it runs to its end."""
    run = go_on(start(), until=step)
    assert decide(run.state, KillRequested("aborted now")) == (run.state, ())
