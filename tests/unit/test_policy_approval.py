"""What votes amount to: who counts, once, in any spelling, and a reject wins."""

from __future__ import annotations

import itertools
import random
from datetime import datetime, timedelta, timezone

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temporal_patching.exceptions import InvalidRequest
from temporal_patching.policy import ApprovalPolicy
from temporal_patching.policy._approval import (
    Ballot,
    CastVote,
    cancelled,
    cast,
    expired,
    is_repeat,
    opened,
    why_refused,
)
from temporal_patching.policy._rules import canonical

NOON = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
PEOPLE = ["alice@example.com", "bob@example.com", "Carol Example", "mallory@example.com"]


def ballot(quorum: int = 1, *, is_open: bool = True, requester: str = "dave@example.com") -> Ballot:
    """A gate for Alice, Bob and Carol."""
    policy = ApprovalPolicy(approvers=PEOPLE[:3], quorum=quorum, timeout=HOUR)
    made = Ballot(gate="start", policy=policy, requester=requester)
    return opened(made, NOON) if is_open else made


def yes(by: str) -> CastVote:
    """An approval."""
    return CastVote(by=by, approve=True)


def no(by: str) -> CastVote:
    """A reject."""
    return CastVote(by=by, approve=False)


def misspelt(rng: random.Random, name: str) -> str:
    """The same person in another spelling."""
    changed = "".join(rng.choice([letter.upper(), letter.lower()]) for letter in name)
    return (
        rng.choice(["", " ", "\t"])
        + changed.replace(" ", rng.choice([" ", "  ", "\u00a0"]))
        + rng.choice(["", "  "])
    )


@given(
    st.lists(st.tuples(st.sampled_from(PEOPLE), st.booleans()), max_size=12),
    st.integers(1, 3),
    st.integers(0, 12),
    st.sampled_from([*PEOPLE, ""]),
    st.randoms(use_true_random=False),
)
def test_any_votes_in_any_order(
    votes: list[tuple[str, bool]], quorum: int, early: int, requester: str, rng: random.Random
) -> None:
    """Against a plain count: one vote a person, never the requester's, a reject wins, then it is closed."""
    state = ballot(quorum, is_open=False, requester=requester)
    said: dict[str, bool] = {}
    outcome: str | None = None
    is_open = False
    for index, (person, approve) in enumerate([*votes, ("", False)]):
        if index == min(early, len(votes)):
            state, is_open = opened(state, NOON), True
            if outcome is None and sum(said.values()) >= quorum:
                outcome = "approved"
        if not person:
            break
        vote = CastVote(by=misspelt(rng, person), approve=approve)
        who = canonical(person)
        repeat = said.get(who) == approve
        counts = repeat or (
            outcome is None
            and person in PEOPLE[:3]
            and who != canonical(requester)
            and (who not in said or (said[who] and not approve))
        )
        assert (why_refused(state, vote) is None) == counts
        assert is_repeat(state, vote) == repeat
        refused, before = state.refused, state
        state = cast(state, vote)
        assert state.refused == refused + (not counts)
        if repeat:
            assert state == before
        elif counts:
            said[who] = approve
            if not approve:
                outcome = "rejected"
            elif is_open and sum(said.values()) >= quorum:
                outcome = "approved"
        assert state.outcome == outcome
        assert {canonical(each.by): each.approve for each in state.votes} == said
        assert state.approvals == sum(said.values())


@pytest.mark.parametrize(
    "order",
    list(itertools.permutations([yes(PEOPLE[0]), yes(PEOPLE[1]), no(PEOPLE[2])])),
    ids=lambda order: "-".join("yes" if vote.approve else "no" for vote in order),
)
def test_a_reject_before_the_opening_wins_in_any_order(order: tuple[CastVote, ...]) -> None:
    """Votes that came before the gate opened are counted together, and one reject ends it."""
    state = ballot(is_open=False)
    for vote in order:
        state = cast(state, vote)
    assert opened(state, NOON).outcome == "rejected"


def test_a_gate_that_is_not_open_is_not_passed() -> None:
    """Approvals may come early and count when the gate opens."""
    state = cast(ballot(is_open=False), yes("alice@example.com"))
    assert (state.outcome, state.deadline) == (None, None)
    state = opened(state, NOON)
    assert (state.outcome, state.deadline) == ("approved", NOON + HOUR)


@pytest.mark.parametrize(
    "spelling", ["ALICE@example.com", " alice@example.com ", "Alice@Example.COM\n"]
)
def test_a_person_counts_once_in_any_spelling(spelling: str) -> None:
    """Case and spaces do not make a second person."""
    state = cast(ballot(quorum=2), yes("alice@example.com"))
    assert cast(state, yes(spelling)) == state
    assert state.outcome is None


@pytest.mark.parametrize(
    ("state", "vote", "why"),
    [
        (
            ballot(),
            yes("mallory@example.com"),
            "'mallory@example.com' is not an approver of gate 'start'",
        ),
        (
            ballot(requester="Alice@example.com "),
            yes("alice@example.com"),
            "'alice@example.com' made the request and may not vote on it",
        ),
        (
            ballot(requester="Alice@example.com "),
            no("alice@example.com"),
            "'alice@example.com' made the request and may not vote on it",
        ),
        (
            cast(ballot(), yes("alice@example.com")),
            yes("bob@example.com"),
            "gate 'start' is closed: it was approved",
        ),
        (
            cast(ballot(), yes("alice@example.com")),
            no("alice@example.com"),
            "gate 'start' is closed: it was approved",
        ),
        (
            cast(ballot(), no("alice@example.com")),
            yes("alice@example.com"),
            "gate 'start' is closed: it was rejected",
        ),
        (expired(ballot()), yes("alice@example.com"), "gate 'start' is closed: it was expired"),
        (cancelled(ballot()), yes("alice@example.com"), "gate 'start' is closed: it was cancelled"),
    ],
)
def test_every_refusal_has_a_reason(state: Ballot, vote: CastVote, why: str) -> None:
    """Strangers, the requester and votes at a closed gate are refused, in words."""
    assert why_refused(state, vote) == why
    assert cast(state, vote).votes == state.votes


def test_a_mind_may_be_changed_to_a_reject() -> None:
    """Approve, then reject, while the gate is open: the reject counts and ends it."""
    state = cast(cast(ballot(quorum=2), yes("alice@example.com")), no("alice@example.com"))
    assert (state.outcome, state.approvals) == ("rejected", 0)


PLANS = ["", "one", "two"]


@given(
    st.lists(st.tuples(st.sampled_from(PEOPLE[:3]), st.booleans(), st.sampled_from(PLANS))),
    st.sampled_from([None, *PLANS]),
    st.booleans(),
)
def test_an_approval_counts_for_no_other_plan(
    votes: list[tuple[str, bool, str]], shown: str | None, bound: bool
) -> None:
    """Whatever is answered as counted is about the plan that its voter has named, also the second time."""
    policy = ApprovalPolicy(approvers=PEOPLE[:3], quorum=3, timeout=HOUR, bound_to_plan=bound)
    state = Ballot(gate="start", policy=policy, digest=shown)
    for by, approve, plan in votes:
        vote = CastVote(by=by, approve=approve, digest=plan)
        if why_refused(state, vote) is None:
            state = cast(state, vote)
            (counted,) = (each for each in state.votes if each.by == by)
            assert counted.approve == approve
            assert counted.digest == plan or shown in {counted.digest or shown, plan or shown}
            assert not plan or not shown or plan == shown
            assert plan or not approve or not bound
            assert why_refused(state, vote) is None, "the same again is answered as the first time"
            assert cast(state, vote) == state


def test_the_same_vote_is_about_the_same_plan() -> None:
    """One that names another plan is no repeat: it is refused, early and late; a reject may follow."""
    early = cast(
        ballot(quorum=2, is_open=False), attrs.evolve(yes("alice@example.com"), digest="one")
    )
    for plan, said in (
        ("one", None),
        ("two", "has approved plan 'one' already"),
        ("", "'one' already"),
    ):
        why = why_refused(early, attrs.evolve(yes("alice@example.com"), digest=plan))
        assert (why is None) if said is None else (said in (why or ""))
    assert why_refused(early, no("alice@example.com")) is None
    late = cast(attrs.evolve(ballot(quorum=2), digest="one"), yes("alice@example.com"))
    assert is_repeat(late, attrs.evolve(yes("alice@example.com"), digest="one"))
    other = why_refused(late, attrs.evolve(yes("alice@example.com"), digest="two"))
    assert other == "'alice@example.com' has voted for another plan: gate 'start' shows 'one'"
    plain = attrs.evolve(ballot(), digest="")
    about_none = why_refused(plain, attrs.evolve(yes("alice@example.com"), digest="two"))
    assert about_none == "gate 'start' is about no plan: vote without 'digest' (got 'two')"


def test_a_vote_that_names_no_plan_is_no_repeat_where_one_must_be_named() -> None:
    """Who has approved the plan that is shown, and approves again without naming it, is told what is missing."""
    policy = ApprovalPolicy(approvers=PEOPLE[:2], quorum=2, timeout=HOUR, bound_to_plan=True)
    shown = opened(Ballot(gate="start", policy=policy, requester="", digest="one"), NOON)
    voted = cast(shown, attrs.evolve(yes("alice@example.com"), digest="one"))
    assert voted.approvals == 1
    why = why_refused(voted, yes("alice@example.com"))
    assert why == "a vote at gate 'start' must name the 'digest' of the plan that it approves"
    rejected = cast(shown, no("alice@example.com"))
    assert why_refused(rejected, no("alice@example.com")) is None, "a reject is about every plan"


@pytest.mark.parametrize("end", [expired, cancelled])
def test_what_is_decided_stays_decided(end: object) -> None:
    """A gate that was approved neither expires nor is cancelled afterwards."""
    state = cast(ballot(), yes("alice@example.com"))
    assert end(state) == state  # type: ignore[operator]


def test_a_policy_that_cannot_be_met_is_refused() -> None:
    """A quorum of more than there are approvers, one named twice, no time, endless reminders."""
    with pytest.raises(
        InvalidRequest, match="'quorum' must be <= 1, the number of approvers \\(got 2\\)"
    ):
        ApprovalPolicy(approvers=["alice"], quorum=2, timeout=HOUR)
    with pytest.raises(InvalidRequest, match="'approvers' must not name ' ALICE' twice"):
        ApprovalPolicy(approvers=["alice", " ALICE"], quorum=2, timeout=HOUR)
    with pytest.raises(InvalidRequest) as refused:
        ApprovalPolicy(approvers=[], quorum=0, timeout=timedelta(0), on_timeout="explode")  # type: ignore[arg-type]
    assert [problem.split()[0] for problem in refused.value.problems] == [
        "'approvers'",
        "'timeout'",
        "'quorum'",
        "'on_timeout'",
    ]
    with pytest.raises(InvalidRequest, match="'remind_every' must be >= 1/1000 of 'timeout'"):
        ApprovalPolicy(approvers=["alice"], timeout=HOUR, remind_every=timedelta(seconds=1))
    ApprovalPolicy(approvers=["alice"], timeout=1000 * HOUR, remind_every=HOUR)
    with pytest.raises(InvalidRequest, match="'approvers' must be a list \\(got 'alice'\\)"):
        ApprovalPolicy(approvers="alice", timeout=HOUR)


def test_one_letter_in_two_spellings_is_one_person() -> None:
    """Unicode has two ways to write an accented letter: the requester may vote in neither."""
    composed, decomposed = "ren\u00e9@example.com", "Rene\u0301@example.com"
    assert canonical(composed) == canonical(decomposed)
