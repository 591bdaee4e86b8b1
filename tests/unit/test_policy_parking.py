"""A host that parks where a step failed: nothing is closed, nothing is forgotten, a person decides."""

from __future__ import annotations

import random
from itertools import pairwise

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_patching.exceptions import InvalidRequest
from temporal_patching.policy import DEFAULT_STEPS, HostState, Step, Steps
from temporal_patching.policy._host import (
    CancelRequested,
    EndHost,
    HaltRequested,
    HostCommand,
    HostEvent,
    KillRequested,
    Procedure,
    Refused,
    RunStep,
    Started,
    StepBroke,
    StepEnded,
    accepted,
    decide,
    over,
    reason,
    restored,
    retried,
    verdict,
    why_left_out,
)
from temporal_patching.policy._states import FAILURES
from tests.unit.test_policy_host import (
    RICH_STEPS,
    SEEDS,
    HostRun,
    any_procedure,
    ended,
    go_on,
)

WAITS = "parked, waits for retry, accept, restore or skip"
MOST_PARKED = 6


def start(steps: Steps = DEFAULT_STEPS) -> HostRun:
    """A host that parks, whose turn has come."""
    run = HostRun(Procedure(steps=tuple(steps), parks=True))
    run.tell(Started())
    return run


def broke(step: str, **told: object) -> StepBroke:
    """A step that failed for good."""
    return StepBroke(step=step, message="boom", **told)  # type: ignore[arg-type]


def parked(step: str, steps: Steps = DEFAULT_STEPS, **told: object) -> HostRun:
    """A host that is parked at a step."""
    update = ended("perform_update", changed=True, reboot_required=step == "reboot")
    run = go_on(start(steps), until=step, perform_update=update)
    run.step_ends(broke(step, **told))
    assert run.state.way == "parked"
    return run


def going_on(run: HostRun, state: Procedure) -> HostRun:
    """The same host after a person's decision; what was seen of it before is kept."""
    run.state, run.over = state, False
    run.tell(Started())
    return run


# Any host, any trouble, any person


@attrs.define
class Watched:
    """A host that parks, and what a bystander knows of it without looking into its procedure."""

    run: HostRun
    retries: int = 0
    begins: int = 0
    """Where the way forward was taken up last."""
    saved: dict[str, object] = attrs.field(factory=dict[str, object])
    """What each step had saved when it failed, unless it has been done since."""
    resumes: str | None = None
    """The step that is to run first, with its checkpoint."""
    asked: list[str] = attrs.field(factory=list[str])
    torn: bool = False
    called_off: bool = False
    """Somebody has cancelled it, or killed it: nobody comes back for it."""

    def index(self, name: str) -> int:
        """The step's place."""
        return [step.name for step in self.run.state.steps].index(name)

    def tell(self, event: HostEvent) -> None:
        """One event, looked at from outside."""
        before = self.run.state
        _, commands = decide(before, event)
        for command in commands:
            if isinstance(command, RunStep):
                self.look_at(command)
        if isinstance(event, (StepEnded, StepBroke)):
            self.run.step_ends(event)
        else:
            self.run.tell(event)
        if isinstance(event, (CancelRequested, KillRequested)) and before.way == "forward":
            self.called_off = True
        if self.run.state.way == "parked":
            self.look_at_parked(before, event, commands)

    def look_at(self, command: RunStep) -> None:
        """What holds for each step that is scheduled."""
        name = command.step.name
        assert command.number == 1 + self.retries, "a try has its own number"
        if not command.bounded:
            assert self.index(name) >= self.begins, "what lies before is not done again"
        if self.resumes is None:
            assert command.checkpoint is None, "only the step that failed gets a checkpoint"
        else:
            assert name == self.resumes
            assert command.checkpoint == self.saved.get(name)
            self.resumes = None

    def look_at_parked(
        self, before: Procedure, event: HostEvent, commands: tuple[HostCommand, ...]
    ) -> None:
        """What holds for each host that is parked."""
        state = self.run.state
        assert isinstance(event, (StepEnded, StepBroke))
        assert before.way == "forward", "what gives back does not park"
        assert not self.called_off
        assert commands == (EndHost(),), "nothing is closed"
        assert over(state)
        assert state.open == before.open
        assert list(state.open) == self.run.took, "nothing is forgotten"
        assert state.failure is not None
        assert (state.running, state.failure.step) == (None, event.step)
        assert verdict(state) in FAILURES
        assert reason(state).startswith(f"{event.step}: ")
        assert event.step not in state.completed
        why = f"{', '.join(self.run.took)}: {WAITS}" if self.run.took else None
        assert why_left_out(state) == why
        told: list[HostEvent] = [
            Started(),
            event,
            CancelRequested("late"),
            KillRequested("late"),
            HaltRequested(True),
            Refused(step="before_host", message="late"),
        ]
        assert all(decide(state, late) == (state, ()) for late in told), "it waits for a person"
        if isinstance(event, StepBroke) and event.checkpoint is not None:
            self.saved[event.step] = event.checkpoint
        assert state.failure.checkpoint == self.saved.get(event.step)
        # Given back, it is as if it had never been parked.
        plain, commanded = decide(attrs.evolve(before, parks=False), event)
        again, follows = decide(restored(state), Started())
        assert unparked(again) == unparked(plain)
        assert follows == commanded

    def decides(self, how: str, rng: random.Random) -> None:
        """A person decides about the parked host."""
        run, state = self.run, self.run.state
        assert state.failure is not None
        failed = state.failure.step
        step = next(each for each in state.steps if each.name == failed)
        self.asked.append(how)
        run.over = False
        if how == "restore":
            run.state = restored(state)
            self.tell(Started())
            return
        run.healthy, run.ill, run.first_failure = set(), False, None
        run.in_vain -= {failed}
        if how == "accept":
            self.begins = self.index(failed) + 1
            self.saved.pop(failed, None)
            run.took = [
                each.name
                for each in state.steps
                if each.name in run.took and each.closed_by != failed
            ]
            if step.kind == "health":
                run.healthy = {failed}
            run.state = accepted(state)
            assert run.state.completed[-1] == failed
        else:
            self.retries += 1
            named = rng.choice(state.steps[: self.index(failed) + 1]).name
            self.begins = self.index(failed if how == "retry" else named)
            self.resumes = failed if how == "retry" else None
            if how != "retry":
                self.saved.clear()
            run.state = retried(state, None if how == "retry" else named)
            assert all(self.index(name) < self.begins for name in run.state.completed)
        assert run.state.open == tuple(run.took)
        assert run.state.touched == state.touched
        self.tell(Started())


def unparked(state: Procedure) -> Procedure:
    """Without what only a procedure that parks has."""
    failure = None if state.failure is None else attrs.evolve(state.failure, checkpoint=None)
    return attrs.evolve(state, parks=False, halt=False, failure=failure)


def simulate(seed: int) -> Watched:
    """A host to which anything happens, and people who decide anything about it."""
    rng = random.Random(seed)
    watched = Watched(HostRun(attrs.evolve(any_procedure(rng), parks=True)))
    run = watched.run
    trouble = rng.choice([0.05, 0.2, 0.5])
    steering = rng.choice([0.0, 0.0, 0.05, 0.2])
    watched.tell(Started())
    for saved in range(1_000):
        if run.state.way == "parked":
            last = len(watched.asked) >= MOST_PARKED
            verbs = ["restore"] if last else ["retry", "retry", "retry from", "accept", "restore"]
            watched.decides(rng.choice(verbs), rng)
        if run.over:
            if run.state.way == "ended":
                break
            continue
        step = run.state.running
        if step is None or rng.random() < steering:
            steer: list[HostEvent] = [HaltRequested(False)]
            if step is not None:
                steer = [HaltRequested(True), HaltRequested(False), CancelRequested("off")]
            watched.tell(rng.choice(steer))
        elif step in run.interrupted and rng.random() < 0.7:
            watched.tell(broke(step, cancelled=True))
        elif rng.random() < trouble:
            answers: list[HostEvent] = [
                broke(step, checkpoint=saved),
                broke(step),
                broke(step, unreachable=True),
                StepEnded(step=step, ok=False, message="no"),
            ]
            watched.tell(rng.choice(answers))
        else:
            watched.saved.pop(step, None)
            gate = step in ("check_preconditions", "wait_for_workload_drain")
            watched.tell(
                ended(
                    step,
                    needed=not gate or rng.random() > 0.05,
                    changed=rng.random() < 0.7,
                    reboot_required=rng.choice([None, True]),
                    already=("set_maintenance_mode",) if gate and rng.random() < 0.2 else (),
                )
            )
    return watched


def check(watched: Watched) -> None:
    """What holds for every host that was parked, at its end."""
    run, state = watched.run, watched.run.state
    assert state.way == "ended"
    why = why_left_out(state)
    assert (why is None) == (not run.took), "closed, or named"
    for name in run.took:
        assert f"{name}: " in (why or "")
    assert WAITS not in (why or ""), "nobody waits for it any more"
    assert len(set(state.already)) == len(state.already)
    outcome = verdict(state)
    if watched.asked[-1:] == ["restore"]:
        assert outcome in FAILURES
    if outcome in (HostState.PATCHED, HostState.REBOOT_PENDING, HostState.UNCHANGED):
        assert state.failure is None
        assert not run.took
    if outcome in FAILURES:
        called_off = watched.called_off or state.not_needed
        assert watched.asked[-1:] == ["restore"] or called_off, "else it would have parked"


@pytest.mark.parametrize("block", range(8))
def test_every_parked_host_waits_and_leaves_nothing_open_in_silence(block: int) -> None:
    """Thousands of hosts that park, retried, accepted and restored: each taking step is closed or named."""
    for seed in range(block * SEEDS // 8, (block + 1) * SEEDS // 8):
        try:
            check(simulate(seed))
        except BaseException as error:
            raise AssertionError(f"simulate({seed}): {error!r}") from error


@given(st.integers(min_value=SEEDS))
def test_every_parked_host_property(seed: int) -> None:
    """The same, as a property."""
    check(simulate(seed))


def test_the_simulation_reaches_everything() -> None:
    """Hosts park again after each decision, and end in every state."""
    runs = [simulate(seed) for seed in range(1_000)]
    assert {how for run in runs for how in run.asked} == {
        "retry",
        "retry from",
        "accept",
        "restore",
    }
    assert {(first, then) for run in runs for first, then in pairwise(run.asked)} >= {
        (first, then)
        for first in ("retry", "retry from", "accept")
        for then in ("retry", "retry from", "accept", "restore")
    }
    assert {verdict(run.run.state) for run in runs} >= {
        HostState.PATCHED,
        HostState.UNCHANGED,
        HostState.FAILED,
        HostState.UNREACHABLE,
        HostState.CANCELLED,
    }
    assert {why_left_out(run.run.state) is None for run in runs} == {True, False}


# By example

RAN = [step.name for step in DEFAULT_STEPS if step.name != "reboot"]


@pytest.mark.parametrize("step", DEFAULT_STEPS.names)
def test_a_failed_step_parks_the_host_as_it_is(step: str) -> None:
    """Whichever step fails: no closer runs, and what is open is named with what it waits for."""
    run = parked(step)
    assert run.ran[-1] == step
    assert not any(run.bounded)
    assert (verdict(run.state), reason(run.state)) == (HostState.FAILED, f"{step}: boom")
    expected = ", ".join(run.took)
    assert why_left_out(run.state) == (f"{expected}: {WAITS}" if expected else None)


@pytest.mark.parametrize("step", DEFAULT_STEPS.names)
def test_a_retry_goes_on_where_it_failed(step: str) -> None:
    """The step runs again with what it had saved, as another try; those before it do not."""
    run = parked(step, checkpoint={"done": 3})
    before = len(run.ran)
    state, commands = decide(retried(run.state), Started())
    (again,) = commands
    assert isinstance(again, RunStep)
    assert (again.step.name, again.number, again.checkpoint) == (step, 2, {"done": 3})
    assert state.failure is None
    go_on(going_on(run, retried(run.state)))
    expected = RAN if step != "reboot" else [*DEFAULT_STEPS.names]
    assert run.ran[before:] == expected[expected.index(step) :]
    assert verdict(run.state) is HostState.PATCHED
    assert why_left_out(run.state) is None


def test_a_retry_from_an_earlier_step_begins_there_without_a_checkpoint() -> None:
    """What was done from there on does not count as done any more, and is not open twice."""
    run = parked("perform_update", checkpoint=7)
    state = retried(run.state, "set_maintenance_mode")
    assert state.completed == ("check_preconditions", "run_pre_downtime_scripts")
    begins, commands = decide(state, Started())
    assert commands == (RunStep(DEFAULT_STEPS[2], number=2),)
    assert begins.open == ("set_maintenance_mode", "stop_services")
    go_on(going_on(run, state))
    assert verdict(run.state) is HostState.PATCHED
    assert run.state.completed == tuple(RAN)


@pytest.mark.parametrize("by_name", [None, "check_preconditions", "perform_update"])
def test_unchanged_is_not_said_of_an_update_that_was_retried(by_name: str | None) -> None:
    """The try that failed may have done it."""
    run = parked("perform_update")
    going_on(run, retried(run.state, by_name))
    go_on(run, perform_update=ended("perform_update", changed=False))
    assert verdict(run.state) is HostState.PATCHED


def test_unchanged_is_said_of_an_update_that_did_not_fail() -> None:
    """A retry of a later step does not make it a change; nor does one of an earlier step."""
    for step in ("stop_services", "start_services"):
        nothing = ended("perform_update", changed=False)
        run = go_on(start(), until=step, perform_update=nothing)
        run.step_ends(broke(step))
        go_on(going_on(run, retried(run.state)), perform_update=nothing)
        assert verdict(run.state) is HostState.UNCHANGED


def test_the_same_step_by_its_name_begins_anew() -> None:
    """Whoever names the failed step itself wants it without what it had saved."""
    run = parked("perform_update", checkpoint=7)
    _, commands = decide(retried(run.state, "perform_update"), Started())
    assert commands == (RunStep(DEFAULT_STEPS[6], number=2),)


def test_what_was_closed_and_is_taken_again_is_closed_in_the_right_order() -> None:
    """Services that are stopped again are started before the host returns to service."""
    run = parked("run_post_update_scripts")
    assert run.state.open == ("set_maintenance_mode",)
    going_on(run, retried(run.state, "set_maintenance_mode"))
    go_on(run, until="wait_for_workload_drain")
    run.step_ends(broke("wait_for_workload_drain"))
    assert run.state.open == ("set_maintenance_mode", "stop_services")
    before = len(run.ran)
    go_on(going_on(run, restored(run.state)))
    assert run.ran[before:] == ["start_services", "check_service_health", "clear_maintenance_mode"]


def test_a_retry_that_fails_before_it_saves_keeps_the_checkpoint() -> None:
    """The next one still goes on from what the first one had saved."""
    run = parked("perform_update", checkpoint=7)
    going_on(run, retried(run.state))
    run.step_ends(broke("perform_update", unreachable=True))
    assert run.state.failure is not None
    assert run.state.failure.checkpoint == 7
    _, commands = decide(retried(run.state), Started())
    assert commands == (RunStep(DEFAULT_STEPS[6], number=3, checkpoint=7),)


def test_a_checkpoint_is_for_its_own_step() -> None:
    """A step behind the one that was retried begins without."""
    run = parked("perform_update", checkpoint=7)
    state, _ = decide(retried(run.state), Started())
    _, commands = decide(state, ended("perform_update"))
    assert commands == (RunStep(DEFAULT_STEPS[7], number=2),)


def test_a_step_that_was_retried_and_runs_once_more_begins_anew() -> None:
    """Its checkpoint was for the attempt that went on from there, and that has ended."""
    steps = DEFAULT_STEPS.after("check_service_health", Step("tell_inventory"))
    run = parked("check_service_health", steps, checkpoint=7)
    going_on(run, retried(run.state))
    go_on(run, until="tell_inventory")
    run.step_ends(broke("tell_inventory"))
    _, (command,) = decide(restored(run.state), Started())
    assert isinstance(command, RunStep)
    assert (command.step.name, command.checkpoint) == ("check_service_health", None)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("perform_updat", "must be in ('check_preconditions', "),
        ("perform_updat", "did you mean 'perform_update'?"),
        ("reboot", "'step' must not come after 'start_services', which failed (got 'reboot')"),
    ],
)
def test_a_retry_from_nowhere_is_refused(step: str, said: str) -> None:
    """A step that is unknown, or that comes after the one that failed."""
    with pytest.raises(InvalidRequest) as refused:
        retried(parked("start_services").state, step)
    assert said in str(refused.value)


def test_only_a_parked_procedure_can_be_decided_about() -> None:
    """One that runs or has ended has nobody who waits for a decision."""
    torn, _ = decide(go_on(start(), until="perform_update").state, KillRequested("aborted now"))
    torn, _ = decide(torn, broke("perform_update", cancelled=True))
    assert torn.failure is not None
    for state in (start().state, go_on(start()).state, torn):
        for verb in (retried, accepted, restored):
            with pytest.raises(InvalidRequest, match="only a parked procedure can be"):
                verb(state)


@pytest.mark.parametrize("step", DEFAULT_STEPS.names)
def test_an_accepted_step_counts_as_done(step: str) -> None:
    """The procedure goes on behind it, and nothing that it closes stays open."""
    run = parked(step)
    before = len(run.ran)
    state = accepted(run.state)
    assert state.completed[-1] == step
    if step == "clear_maintenance_mode":
        assert decide(state, Started())[1] == (EndHost(),)
    go_on(going_on(run, state))
    assert step not in run.ran[before:]
    expected = RAN if step != "reboot" else [*DEFAULT_STEPS.names]
    assert run.ran[before:] == expected[expected.index(step) + 1 :]
    assert why_left_out(run.state) is None
    assert verdict(run.state) is HostState.PATCHED


def test_an_accepted_update_has_changed_the_host() -> None:
    """A person says that it is done: PATCHED, never UNCHANGED."""
    run = parked("perform_update")
    assert verdict(go_on(going_on(run, accepted(run.state))).state) is HostState.PATCHED


def test_an_accepted_closer_has_closed() -> None:
    """What a person gave back is not given back again."""
    run = parked("start_services")
    state = accepted(run.state)
    assert (state.open, state.closed_in_vain) == (("set_maintenance_mode",), {})


def test_an_accepted_reboot_is_none_that_is_pending() -> None:
    """And no boot id from before it proves a later one."""
    run = start()
    run.step_ends(ended("check_preconditions", boot_id="old"))
    go_on(run, until="reboot", perform_update=ended("perform_update", reboot_required=True))
    run.step_ends(broke("reboot"))
    assert (run.state.reboot_required, run.state.boot_id) == (True, "old")
    state = accepted(run.state)
    assert (state.reboot_required, state.boot_id) == (False, None)


def test_an_accepted_health_check_returns_the_host() -> None:
    """Healthy, says a person: also if a later step fails and the host is given back."""
    steps = DEFAULT_STEPS.after("check_service_health", Step("tell_inventory"))
    run = parked("check_service_health", steps)
    state = accepted(run.state)
    assert (state.healthy, state.checked) == (True, ("check_service_health",))


def test_what_was_healthy_before_people_came_is_checked_again() -> None:
    """They may have acted on the host: a check that passed before says nothing after."""
    steps = DEFAULT_STEPS.after("check_service_health", Step("check_from_outside", kind="health"))
    run = parked("check_from_outside", steps)
    assert run.state.checked == ("check_service_health",)
    assert retried(run.state).checked == ()
    assert accepted(run.state).checked == ("check_from_outside",)
    assert retried(run.state).healthy is None


@pytest.mark.parametrize(
    ("step", "closes"),
    [
        ("check_preconditions", []),
        ("wait_for_workload_drain", ["start_services", "clear_maintenance_mode"]),
        (
            "perform_update",
            ["start_services", "check_service_health", "clear_maintenance_mode"],
        ),
        ("start_services", []),
        ("check_service_health", []),
    ],
)
def test_a_restored_host_is_given_back_as_ever(step: str, closes: list[str]) -> None:
    """As without parking: before the update as it was, after it only if it is healthy."""
    run = parked(step)
    before = len(run.ran)
    go_on(going_on(run, restored(run.state)))
    assert run.ran[before:] == closes
    plain = HostRun(Procedure(steps=tuple(DEFAULT_STEPS)))
    plain.tell(Started())
    go_on(plain, None, **{step: broke(step)})
    assert run.ran == plain.ran
    assert verdict(run.state) == verdict(plain.state)
    assert why_left_out(run.state) == why_left_out(plain.state)


def test_what_is_restored_does_not_park_again() -> None:
    """A closer that fails then is named, as ever."""
    run = parked("perform_update")
    going_on(run, restored(run.state))
    go_on(run, start_services=broke("start_services"))
    assert run.state.way == "ended"
    assert why_left_out(run.state) is not None
    assert WAITS not in (why_left_out(run.state) or "")


@pytest.mark.parametrize("event", [CancelRequested("enough"), KillRequested("enough")])
def test_a_cancel_before_the_update_restores_a_host_that_parks(event: HostEvent) -> None:
    """However the step ends that it interrupts: the host is CANCELLED and given back."""
    run = go_on(start(), until="wait_for_workload_drain")
    state, _ = decide(run.state, event)
    state, commands = decide(state, broke("wait_for_workload_drain"))
    assert commands == (RunStep(DEFAULT_STEPS[7], bounded=True),)
    assert state.way == "close"


@pytest.mark.parametrize("event", [CancelRequested("enough"), KillRequested("enough")])
@pytest.mark.parametrize("step", ["start_services", "check_service_health"])
def test_who_cancels_a_host_does_not_come_back_for_it(event: HostEvent, step: str) -> None:
    """After the update began a cancel changes nothing, but a failure then does not park the host."""
    run = go_on(start(), until=step)
    state, commands = decide(run.state, event)
    assert commands == ()
    state, _ = decide(state, broke(step))
    assert state.way in ("recover", "ended")


def test_an_update_that_is_torn_apart_does_not_park() -> None:
    """It is held, as ever: nobody knows what state it is in."""
    run = go_on(start(), until="perform_update")
    state, _ = decide(run.state, KillRequested("aborted now"))
    state, commands = decide(state, broke("perform_update", cancelled=True))
    assert (state.way, commands) == ("ended", (EndHost(),))
    assert why_left_out(state) == "held: aborted now"


def test_a_hook_that_refuses_does_not_park() -> None:
    """There is no step that could be tried again."""
    run = HostRun(Procedure(steps=tuple(DEFAULT_STEPS), parks=True))
    run.tell(Refused(step="before_host", message="not today"))
    assert run.state.way == "ended"


def test_a_host_that_is_to_stand_still_parks_all_the_same() -> None:
    """And whoever has it retried has let it go on."""
    run = go_on(start(), until="stop_services")
    run.tell(HaltRequested(True))
    run.step_ends(broke("stop_services"))
    assert run.state.way == "parked"
    assert not retried(run.state).halt
    assert not restored(run.state).halt


def test_a_host_that_needs_nothing_does_not_park_while_it_is_given_back() -> None:
    """Parking is for the way forward."""
    run = go_on(start(), until="wait_for_workload_drain")
    run.step_ends(StepEnded(step="wait_for_workload_drain", needed=False))
    run.step_ends(broke("start_services"))
    assert run.state.way == "close"


def test_a_gate_that_is_asked_again_finds_the_same_once() -> None:
    """What was so before we came is listed once, and what we took is not among it."""
    found = ended("check_preconditions", already=("set_maintenance_mode",))
    run = go_on(start(RICH_STEPS), until="perform_update", check_preconditions=found)
    run.step_ends(broke("perform_update"))
    going_on(run, retried(run.state, "check_preconditions"))
    again = ended("check_preconditions", already=("set_maintenance_mode", "stop_services"))
    run.step_ends(again)
    assert run.state.already == ("set_maintenance_mode",)
