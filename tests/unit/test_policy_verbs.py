"""What people may ask of a rollout, and when: the table, every verb in every phase, every pair of verbs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import attrs
import pytest

from temporal_patching.exceptions import InvalidRequest
from temporal_patching.models import SetLimits
from temporal_patching.policy import DEFAULT_STEPS, FailureBudget, Outcome, RolloutPolicy
from temporal_patching.policy._repair import Repair
from temporal_patching.policy._rollout import decide, shown_phase
from temporal_patching.policy._rollout_state import (
    AbortRequested,
    CancelCluster,
    ClusterEnded,
    ClusterPlanned,
    ClusterProgressed,
    EndRollout,
    GatePassed,
    GateShut,
    LimitsRequested,
    PauseRequested,
    PlanLimits,
    RepairRequested,
    ResumeRequested,
    RolloutEvent,
    RolloutState,
    SkipRequested,
    TellCluster,
    rollout_state,
)
from temporal_patching.policy._verbs import (
    LEGAL,
    MAX_ACCEPTED,
    MAX_EVENTS,
    PHASES,
    VERBS,
    Asked,
    Verb,
    said,
    verb_of,
    why_full,
    why_refused,
)

POLICY = RolloutPolicy(
    stop_scope="cluster", total_failure_budget=FailureBudget(max_failures=3), max_parallel_total=9
)

TABLE: dict[Verb, str] = {
    # listing gate running pausing paused stopping ended
    "pause": "x x x x x . .",
    "resume": ". . x x x . .",
    "abort": "x x x x x x .",
    "set_limits": "x x x x x . .",
    "skip": ". x x x x . .",
    "retry": ". . x x x . .",
    "accept": ". . x x x . .",
    "restore": ". . x x x . .",
}
"""The table of the documentation, by hand."""


def told(state: RolloutState, *events: RolloutEvent) -> RolloutState:
    """The state after these events."""
    for event in events:
        state, _ = decide(state, event)
    return state


def progressed(cluster: str, **news: Any) -> ClusterProgressed:
    """A cluster tells how far it is."""
    return ClusterProgressed(cluster=cluster, **{"acted": 0, "failed": 0, "unreachable": 0, **news})


def ended(cluster: str, outcome: Outcome = Outcome.PATCHED, reason: str = "") -> ClusterEnded:
    """A cluster's child has ended."""
    return ClusterEnded(cluster=cluster, outcome=outcome, reason=reason)


def hosts(cluster: str) -> ClusterPlanned:
    """A cluster has made its list."""
    names = tuple(f"{cluster}-{index}" for index in range(9))
    return ClusterPlanned(cluster=cluster, hosts=names, max_parallel=4)


def in_phase(phase: str) -> RolloutState:
    """A rollout over two clusters, in a phase that people see."""
    state = rollout_state(POLICY, PlanLimits(), ("eu-1", "us-1"), gates=("start",))
    planned = (hosts("eu-1"), hosts("us-1"))
    quiet = (progressed("eu-1", quiet=True), progressed("us-1", quiet=True))
    going = (*planned, GatePassed())
    paths: dict[str, tuple[RolloutEvent, ...]] = {
        "listing": (planned[0],),
        "gate": planned,
        "running": going,
        "pausing": (*going, PauseRequested(after="host")),
        "paused": (*going, PauseRequested(after="host"), *quiet),
        "stopping": (*going, progressed("eu-1", acted=4, failed=4)),
        "ended": (*going, ended("eu-1"), ended("us-1")),
    }
    state = told(state, *paths[phase])
    assert shown_phase(state) == phase
    return state


def more_states() -> dict[str, RolloutState]:
    """States beside those of the phases: one cluster paused, one ended, gates shut, aborts."""
    running, gate = in_phase("running"), in_phase("gate")
    no = GateShut(outcome=Outcome.REJECTED, reason="no")
    return {
        "eu-1 paused": told(running, PauseRequested(after="host", cluster="eu-1")),
        "eu-1 ended": told(running, ended("eu-1")),
        "eu-1 failed": told(running, progressed("eu-1", acted=2, failed=2)),
        "eu-1 parked": told(running, parked()),
        "eu-1 parked and paused": told(running, PauseRequested(after="host"), parked(quiet=True)),
        "eu-1 parked and retried": told(running, parked(), RETRY),
        "eu-1 parked, us-1 stopped": told(
            running, parked(), ended("us-1", Outcome.STOPPED, "1 host failed")
        ),
        "eu-1 parked and aborted": told(running, parked(), AbortRequested(reason="enough")),
        "eu-1 stopped": told(running, ended("eu-1", Outcome.STOPPED, "1 host failed")),
        "paused at the gate": told(gate, PauseRequested(after="step")),
        "rejected": told(gate, no),
        "aborted": told(running, AbortRequested(reason="enough")),
        "killed": told(running, AbortRequested(reason="enough", now=True)),
        "aborted while listing": told(in_phase("listing"), AbortRequested(reason="enough")),
    }


def all_states() -> dict[str, RolloutState]:
    """Every phase, and more."""
    return {**{phase: in_phase(phase) for phase in PHASES}, **more_states()}


def parked(**news: Any) -> ClusterProgressed:
    """A host of eu-1 has failed and waits for a person."""
    return progressed("eu-1", acted=1, failed=1, parked={"eu-1-3": "perform_update"}, **news)


RETRY = RepairRequested(cluster="eu-1", host="eu-1-3", how="retry")


def changed(**limits: Any) -> LimitsRequested:
    """The policy with other limits."""
    return LimitsRequested(policy=attrs.evolve(POLICY, **limits))


EVERY_VERB: dict[str, Asked] = {
    "pause": PauseRequested(after="host"),
    "pause after the step": PauseRequested(after="step"),
    "pause eu-1": PauseRequested(after="host", cluster="eu-1"),
    "pause nobody": PauseRequested(after="host", cluster="nobody"),
    "resume": ResumeRequested(),
    "resume eu-1": ResumeRequested(cluster="eu-1"),
    "resume nobody": ResumeRequested(cluster="nobody"),
    "abort": AbortRequested(reason="enough"),
    "abort now": AbortRequested(reason="enough", now=True),
    "wider": changed(max_parallel_total=12, max_parallel=5),
    "narrower": changed(max_parallel_total=1, max_parallel_clusters=1),
    "no failures": changed(failure_budget=FailureBudget(max_failures=1)),
    "skip a host": SkipRequested(cluster="eu-1", hosts=frozenset({"eu-1-3"})),
    "skip of nobody": SkipRequested(cluster="nobody", hosts=frozenset({"eu-1-3"})),
    "skip a wave": SkipRequested(wave=1),
    "skip a wave of eu-1": SkipRequested(cluster="eu-1", wave=1),
    "retry": RETRY,
    "retry from a step": attrs.evolve(RETRY, step="stop_services"),
    "accept": attrs.evolve(RETRY, how="accept"),
    "restore": attrs.evolve(RETRY, how="restore"),
    "skip what is parked": attrs.evolve(RETRY, how="skip"),
    "restore of nobody": attrs.evolve(RETRY, how="restore", cluster="nobody"),
}


def asks(state: RolloutState, asked: Asked) -> RolloutState:
    """What becomes of it: refused, or done."""
    why = why_refused(state, asked, steps=DEFAULT_STEPS.names)
    assert why is None or why.strip()
    assert said(asked, state.policy).strip()
    return state if why is not None else told(state, asked)


def an_abort_ends_it(state: RolloutState) -> None:
    """Whatever is pending: all that has not ended is cancelled or was, and then it is over."""
    if shown_phase(state) == "ended":
        return
    assert why_refused(state, AbortRequested(reason="the end")) is None
    before, (state, commands) = state, decide(state, AbortRequested(reason="the end"))
    left = [view.name for view in state.clusters if view.phase != "ended"]
    decided = before.outcome in (Outcome.REJECTED, Outcome.EXPIRED) and not before.begun
    if before.aborting is None and not decided:
        assert [each.cluster for each in commands if isinstance(each, CancelCluster)] == left
    assert decided or state.outcome is Outcome.ABORTED
    for name in left:
        assert state.phase == "stopping"
        state, commands = decide(state, ended(name, Outcome.ABORTED, "the end"))
    assert commands == (EndRollout(),)
    assert state.outcome is (before.outcome if decided else Outcome.ABORTED)


# The table


def test_the_table() -> None:
    """Which verb is legal in which phase, as it is written here by hand."""
    marks = {verb: dict(zip(PHASES, row.split(), strict=True)) for verb, row in TABLE.items()}
    by_hand = {
        verb: {phase for phase, mark in row.items() if mark == "x"} for verb, row in marks.items()
    }
    assert {verb: set(phases) for verb, phases in LEGAL.items()} == by_hand
    assert set(LEGAL) == set(VERBS) == {verb_of(asked) for asked in EVERY_VERB.values()}


def test_the_anchors_of_the_table() -> None:
    """Abort until the end, resume only what can be paused, nothing after the end."""
    assert LEGAL["abort"] == set(PHASES) - {"ended"}
    assert LEGAL["resume"] == {"running", "pausing", "paused"}
    assert not any("ended" in phases for phases in LEGAL.values())
    assert all(phases <= set(PHASES) for phases in LEGAL.values())


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("verb", VERBS)
def test_the_table_is_what_happens(verb: Verb, phase: str) -> None:
    """A verb whose own conditions hold is legal where the table says so; else the refusal says where it is."""
    state = in_phase(phase)
    fitting: dict[Verb, Asked] = {
        "pause": PauseRequested(after="step"),
        "resume": ResumeRequested(),
        "abort": AbortRequested(reason="enough"),
        "set_limits": changed(max_parallel_total=2),
        "skip": SkipRequested(wave=1),
        "retry": RETRY,
        "accept": attrs.evolve(RETRY, how="accept"),
        "restore": attrs.evolve(RETRY, how="restore"),
    }
    if phase in ("running", "pausing", "paused"):
        state = told(state, parked(quiet=phase == "paused"))
    if verb == "resume" and phase == "running":
        state = told(state, PauseRequested(after="host", cluster="eu-1"))
    why = why_refused(state, fitting[verb])
    if phase in LEGAL[verb]:
        assert why is None
    elif phase == "ended":
        assert why == f"cannot {verb}: the rollout has ended"
    else:
        where = ", ".join(each for each in PHASES if each in LEGAL[verb])
        assert why == f"cannot {verb} while {phase}: possible while {where}"


@pytest.mark.parametrize("name", EVERY_VERB)
def test_every_verb_in_every_state(name: str) -> None:
    """It is done or refused with a reason, never raises, and an abort still ends the rollout."""
    for state in all_states().values():
        an_abort_ends_it(asks(state, EVERY_VERB[name]))


@pytest.mark.parametrize("name", EVERY_VERB)
def test_every_pair_of_verbs_in_every_state(name: str) -> None:
    """In either order, as if both came in one workflow task: an abort still ends the rollout."""
    for state, second in product(all_states().values(), EVERY_VERB.values()):
        for pair in ((EVERY_VERB[name], second), (second, EVERY_VERB[name])):
            after = state
            for asked in pair:
                after = asks(after, asked)
            an_abort_ends_it(after)


@pytest.mark.parametrize("now", [False, True])
@pytest.mark.parametrize("name", EVERY_VERB)
def test_an_abort_beats_every_verb(name: str, now: bool) -> None:
    """Before it or after it: the rollout is ABORTED, and after it everything else is refused."""
    abort = AbortRequested(reason="enough", now=now)
    for phase in PHASES[:-1]:
        for pair in ((abort, EVERY_VERB[name]), (EVERY_VERB[name], abort)):
            state = in_phase(phase)
            for asked in pair:
                state = asks(state, asked)
            assert state.outcome is Outcome.ABORTED
            assert state.phase == "stopping"
        if not isinstance(EVERY_VERB[name], AbortRequested):
            aborted = told(in_phase(phase), abort)
            assert why_refused(aborted, EVERY_VERB[name]) is not None


@pytest.mark.parametrize("how", ["retry", "accept", "restore", "skip"])
def test_an_abort_beats_what_is_asked_for_a_parked_host(how: Repair) -> None:
    """In either order it is ABORTED, and who comes after it is refused: the host is restored."""
    state, asked = told(in_phase("running"), parked()), attrs.evolve(RETRY, how=how)
    abort = AbortRequested(reason="enough")
    for pair in ((asked, abort), (abort, asked)):
        after = state
        for each in pair:
            after = asks(after, each)
        assert after.outcome is Outcome.ABORTED
    assert why_refused(told(state, abort), asked) is not None


@pytest.mark.parametrize("name", EVERY_VERB)
def test_after_the_end_nothing_is_legal(name: str) -> None:
    """The refusal says how it ended; the machine does not move either."""
    state = in_phase("ended")
    verb = verb_of(EVERY_VERB[name])
    assert why_refused(state, EVERY_VERB[name]) == f"cannot {verb}: the rollout has ended"
    assert decide(state, EVERY_VERB[name]) == (state, ())
    aborted = told(
        in_phase("running"),
        AbortRequested(reason="enough"),
        ended("eu-1", Outcome.ABORTED),
        ended("us-1", Outcome.ABORTED),
    )
    why = why_refused(aborted, EVERY_VERB[name])
    assert why == f"cannot {verb}: the rollout has ended as ABORTED"


# Conditions


@pytest.mark.parametrize(
    "asks_of",
    [
        lambda name: PauseRequested(after="host", cluster=name),
        lambda name: ResumeRequested(cluster=name),
        lambda name: SkipRequested(cluster=name, wave=1),
        lambda name: SkipRequested(cluster=name, hosts=frozenset({"x"})),
        lambda name: RepairRequested(cluster=name, host="x", how="retry"),
    ],
)
def test_a_cluster_that_is_not_there(asks_of: Callable[[str], Asked]) -> None:
    """Unknown with a hint, or ended: in every phase in which the verb is legal."""
    for phase in ("running", "pausing", "paused"):
        assert why_refused(in_phase(phase), asks_of("eu-2")) == (
            "'cluster' must be one of eu-1, us-1 (got 'eu-2'), did you mean 'eu-1'?"
        )
        state = told(in_phase(phase), ended("eu-1"))
        assert why_refused(state, asks_of("eu-1")) == "cluster 'eu-1' has ended"


def test_a_pause_twice_is_refused_and_a_stricter_one_is_not() -> None:
    """host, then step: it is escalated. step, then host: it would be a hidden resume."""
    state = told(in_phase("running"), PauseRequested(after="host"))
    assert (
        why_refused(state, PauseRequested(after="host")) == "it is paused already, after each host"
    )
    assert why_refused(state, PauseRequested(after="step")) is None
    state = told(state, PauseRequested(after="step"))
    assert state.paused == "step"
    for after in ("host", "step"):
        why = why_refused(state, PauseRequested(after=after))
        assert why == "it is paused already, after each step"


def test_a_cluster_is_paused_under_the_pause_of_the_rollout() -> None:
    """The same is no news; a stricter pause of one cluster is."""
    state = told(in_phase("running"), PauseRequested(after="host"))
    one = PauseRequested(after="host", cluster="eu-1")
    assert why_refused(state, one) == "it is paused already, after each host"
    assert why_refused(state, attrs.evolve(one, after="step")) is None
    alone = told(in_phase("running"), one)
    assert why_refused(alone, one) == "it is paused already, after each host"
    assert why_refused(alone, PauseRequested(after="host")) is None


def test_a_resume_needs_a_pause() -> None:
    """Of the rollout, or of the cluster it names; one cluster cannot leave the pause of all."""
    running = in_phase("running")
    assert why_refused(running, ResumeRequested()) == "nothing is paused"
    why = why_refused(running, ResumeRequested(cluster="eu-1"))
    assert why == "cluster 'eu-1' is not paused"
    alone = told(running, PauseRequested(after="host", cluster="eu-1"))
    assert why_refused(alone, ResumeRequested()) is None
    assert why_refused(alone, ResumeRequested(cluster="eu-1")) is None
    whole = told(alone, PauseRequested(after="host"))
    why = why_refused(whole, ResumeRequested(cluster="eu-1"))
    assert why == "the whole rollout is paused: resume it without 'cluster'"


def test_a_budget_below_what_has_failed_is_refused() -> None:
    """It would be an abort by another name; as low as what has failed it is possible."""
    state = told(in_phase("running"), progressed("eu-1", acted=3, failed=1, unreachable=1))
    low = changed(failure_budget=FailureBudget(max_failures=1))
    assert why_refused(state, low) == (
        "'failure_budget' is below what has failed in cluster 'eu-1': 2 hosts failed, 1 allowed"
    )
    assert why_refused(state, changed(failure_budget=FailureBudget(max_failures=2))) is None
    total = changed(total_failure_budget=FailureBudget(max_failures=1))
    assert why_refused(state, total) == (
        "'total_failure_budget' is below what has failed: 2 hosts failed, 1 allowed"
    )
    assert why_refused(state, changed(total_failure_budget=FailureBudget(max_failures=2))) is None


def test_the_record_says_which_limits() -> None:
    """What it was and what it is, of what has changed; a budget by its numbers."""
    tolerant = FailureBudget(max_failures="5%", strict=True)
    asked = changed(max_parallel=5, failure_budget=tolerant, max_parallel_total=None)
    assert said(asked, POLICY) == (
        "set max_parallel 1 → 5, max_parallel_total 9 → none, failure_budget.max_failures 0 → 5%, "
        "failure_budget.strict False → True"
    )
    no_total = attrs.evolve(POLICY, total_failure_budget=None)
    assert said(changed(), no_total) == "set total_failure_budget none → 3 failures"
    assert said(changed(), POLICY) == "set the limits that hold already"


@pytest.mark.parametrize(
    ("asked", "record"),
    [
        (PauseRequested(after="host"), "pause the rollout after each host"),
        (PauseRequested(after="step", cluster="eu-1"), "pause cluster 'eu-1' after each step"),
        (ResumeRequested(), "resume the rollout"),
        (ResumeRequested(cluster="eu-1"), "resume cluster 'eu-1'"),
        (AbortRequested(reason="enough"), "abort"),
        (AbortRequested(reason="enough", now=True), "abort now"),
        (SkipRequested(wave=2), "skip wave 2"),
        (SkipRequested(cluster="eu-1", wave=2), "skip wave 2 of cluster 'eu-1'"),
        (
            SkipRequested(cluster="eu-1", hosts=frozenset({"web-2", "web-1"})),
            "skip web-1, web-2 of cluster 'eu-1'",
        ),
    ],
)
def test_the_record_says_what_was_asked(asked: Asked, record: str) -> None:
    """Of which cluster, or of all."""
    assert said(asked, POLICY) == record


def test_a_number_of_a_budget_leaves_the_rest_of_it() -> None:
    """Asked for alone it replaces nothing else; both the number and the whole budget are refused."""
    strict = FailureBudget(max_failures=1, strict=True, min_sample=4)
    policy = RolloutPolicy(failure_budget=strict)
    order = SetLimits(by="a", max_failures="9%", total_max_failures=7)
    after = order.applied_to(policy)
    assert after.failure_budget == attrs.evolve(strict, max_failures="9%")
    assert after.total_failure_budget == FailureBudget(max_failures=7)
    with pytest.raises(InvalidRequest, match="either 'max_failures' or 'failure_budget'"):
        SetLimits(by="a", max_failures=1, failure_budget=strict)


def test_a_budget_that_stays_is_not_judged() -> None:
    """A cluster that has stopped alone has exceeded it: the others may be slowed down all the same."""
    over = progressed("eu-1", acted=1, failed=1, stopped="1 host failed, 0 allowed")
    state = told(in_phase("running"), over)
    assert shown_phase(state) == "running"
    assert why_refused(state, changed(max_parallel_total=2)) is None
    other = changed(failure_budget=FailureBudget(max_failures=0, min_sample=1))
    assert why_refused(state, other) is not None


def test_a_skip_twice_is_refused() -> None:
    """Of a host in any spelling, and of a wave; a wave of one cluster is not the wave of all."""
    host = SkipRequested(cluster="eu-1", hosts=frozenset({"eu-1-3"}))
    state = told(in_phase("running"), host)
    assert why_refused(state, host) == "host 'eu-1-3' is skipped already"
    loud = SkipRequested(cluster="eu-1", hosts=frozenset({"EU-1-3"}))
    assert why_refused(state, loud) == "host 'EU-1-3' is skipped already"
    one = SkipRequested(cluster="eu-1", wave=1)
    state = told(state, one)
    assert why_refused(state, one) == "wave 1 is skipped already"
    assert why_refused(state, SkipRequested(wave=1)) is None
    assert why_refused(told(state, SkipRequested(wave=1)), one) == "wave 1 is skipped already"


def test_nothing_is_skipped_before_the_hosts_are_known() -> None:
    """Also while the rollout is paused while it lists."""
    state = told(in_phase("listing"), PauseRequested(after="host"))
    assert shown_phase(state) == "pausing"
    assert why_refused(state, SkipRequested(wave=1)) == "cannot skip before the hosts are known"


def test_an_abort_now_comes_on_top_of_an_abort() -> None:
    """A cancel is heard only once, so the kill is told; a third abort is no news."""
    state = told(in_phase("running"), AbortRequested(reason="enough"))
    state, commands = decide(state, AbortRequested(reason="at once", now=True))
    assert commands == (TellCluster("eu-1"), TellCluster("us-1"))
    assert state.aborting == "kill"
    for now in (False, True):
        assert decide(state, AbortRequested(reason="again", now=now)) == (state, ())


@pytest.mark.parametrize("how", ["retry", "accept", "restore", "skip"])
def test_only_a_parked_host_can_be_repaired(how: Repair) -> None:
    """The refusal says what it is, as far as is known, and what to do; spelling does not matter."""
    state = told(in_phase("running"), parked())
    asked = attrs.evolve(RETRY, how=how)
    assert why_refused(state, asked) is None
    assert why_refused(state, attrs.evolve(asked, host="EU-1-3")) is None
    done = {"retry": "retried", "accept": "accepted", "restore": "restored", "skip": "skipped"}[how]
    other = attrs.evolve(asked, host="eu-1-4")
    todo = (
        f"only parked hosts can be {done} (on_host_failure='park'); "
        "Rollout.rest_of() makes a request for the rest"
    )
    assert why_refused(state, other) == f"host 'eu-1-4' is not parked: {todo}"
    why = why_refused(state, other, known="in flight")
    assert why == f"host 'eu-1-4' is in flight, not parked: {todo}"


@pytest.mark.parametrize("first", ["retry", "accept", "restore", "skip"])
def test_one_answer_is_enough(first: Repair) -> None:
    """The second is refused until the cluster has taken up the first, and parked the host again."""
    state = told(in_phase("running"), parked(), attrs.evolve(RETRY, how=first))
    done = {"retry": "retried", "accept": "accepted", "restore": "restored", "skip": "skipped"}
    for _ in range(2):
        why = why_refused(state, attrs.evolve(RETRY, how="restore"))
        assert why == f"host 'eu-1-3' is being {done[first]} already"
        state = told(state, parked())  # sent before the cluster had heard of it
    assert why_refused(told(state, parked(repaired=1)), RETRY) is None


def test_a_host_that_is_being_repaired_is_not_skipped() -> None:
    """Also where it is not the only one that is named; one that is parked and not answered is."""
    state = told(in_phase("running"), parked())
    skip = SkipRequested(cluster="eu-1", hosts=frozenset({"eu-1-1", "EU-1-3", "eu-1-5"}))
    assert why_refused(state, skip) is None
    assert why_refused(told(state, RETRY), skip) == "host 'EU-1-3' is being retried already"


def test_a_retry_begins_at_the_failed_step_or_before_it() -> None:
    """An unknown step gets a hint, one behind the failed one says what to do instead."""
    state = told(in_phase("running"), parked())

    def why(step: str) -> str | None:
        asked = attrs.evolve(RETRY, step=step)
        return why_refused(state, asked, steps=DEFAULT_STEPS.names)

    assert why("perform_update") is None
    assert why("check_preconditions") is None
    unknown = why("perfrm_update")
    assert unknown is not None
    assert unknown.startswith("'from_step' must be one of check_preconditions, ")
    assert unknown.endswith("(got 'perfrm_update'), did you mean 'perform_update'?")
    assert why("reboot") == (
        "'from_step' must not be behind perform_update, which failed (got 'reboot'): "
        "accept takes it as done"
    )


def test_a_cluster_that_stops_is_asked_nothing_more() -> None:
    """Its parked hosts are being given back, whatever it has said last."""
    no = GateShut(gate="promote/eu-1", outcome=Outcome.REJECTED, reason="no")
    state = rollout_state(POLICY, PlanLimits(), ("eu-1", "us-1"), gates=("promote/eu-1",))
    state = told(state, hosts("eu-1"), hosts("us-1"), parked(at_gate=1), no)
    assert shown_phase(state) == "running"
    assert why_refused(state, RETRY) == "cluster 'eu-1' stops: its parked hosts are being restored"


def test_the_record_says_what_was_asked_for_a_parked_host() -> None:
    """Which host, of which cluster, and from where."""
    where = "parked host 'eu-1-3' of cluster 'eu-1'"
    for how in ("retry", "accept", "restore", "skip"):
        assert said(attrs.evolve(RETRY, how=how), POLICY) == f"{how} {where}"
    assert said(attrs.evolve(RETRY, step="reboot"), POLICY) == f"retry {where} from reboot"


def test_a_rollout_that_has_lived_long_takes_none_but_abort() -> None:
    """At the numbers themselves, each alone, and not one before; what there is too much of is named."""
    verb: Verb
    for verb in VERBS:
        assert why_full(verb, accepted=MAX_ACCEPTED - 1, events=MAX_EVENTS - 1) is None
        full = why_full(verb, accepted=MAX_ACCEPTED, events=0)
        long = why_full(verb, accepted=0, events=MAX_EVENTS)
        if verb == "abort":
            assert full is None
            assert long is None
        else:
            assert full is not None
            assert f"cannot {verb}: it has taken 1,000 verbs, and takes none but abort" in full
            assert long is not None
            assert f"cannot {verb}: its history is long, and takes none but abort" in long
