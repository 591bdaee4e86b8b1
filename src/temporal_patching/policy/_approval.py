"""Who may let a rollout pass a gate, and what their votes amount to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Literal, final

import attrs

from ._rules import (
    Checked,
    as_tuple,
    at_least,
    canonical,
    distinct,
    each,
    flag,
    must,
    one_of,
    optional,
    positive,
    text,
)

OnTimeout = Literal["fail", "complete"]
"""What an approval that nobody decided in time does to its workflow."""

ApprovalOutcome = Literal["approved", "rejected", "expired", "cancelled"]
"""How a gate was decided; ``cancelled``: nobody waits at it any more."""

MAX_REMINDERS = 1_000
"""Reminders of one gate: each is a few events in a history that has to stay short."""


@final
@attrs.frozen(kw_only=True)
class ApprovalPolicy(Checked):
    """Who decides at a gate, how many must agree, and how long they have.

    A person counts once, in canonical form (case and spaces do not matter). The requester's own vote is
    refused. One reject ends the approval, whatever the quorum.

    Args:
        approvers: Who may vote, usually e-mail addresses. At least one.
        quorum: How many of them must approve. Default 1.
        timeout: How long the gate stays open, counted from its opening. No default: nobody else can
            know how long your people need.
        on_timeout: ``"fail"`` (default) fails the workflow with ``ApprovalExpired``; ``"complete"`` lets
            ``approval()`` return an expired decision, so that the workflow can end well.
        bound_to_plan: Each approval must name the digest of what it agrees to, as the gate shows it. Default
            False: a vote may name it, and counts for nothing else then. In a workflow of your own give
            ``approval()`` the digest: a gate that has none is refused.
        remind_every: Repeat the request that often while the gate is open, at most 1,000 times.
            Default: never.

    Raises:
        InvalidRequest: A field is not valid; it names all that are not.

    Example:
        >>> ApprovalPolicy(approvers=["alice@example.com"], timeout=timedelta(hours=4)).quorum
        1
    """

    approvers: tuple[str, ...] = attrs.field(
        converter=as_tuple, metadata=must(each(text, least=1), distinct)
    )
    timeout: timedelta = attrs.field(metadata=must(positive))
    quorum: int = attrs.field(default=1, metadata=must(at_least(1)))
    on_timeout: OnTimeout = attrs.field(default="fail", metadata=must(one_of("fail", "complete")))
    remind_every: timedelta | None = attrs.field(default=None, metadata=must(optional(positive)))
    bound_to_plan: bool = attrs.field(default=False, metadata=must(flag))

    def _relations(self) -> Iterator[str]:
        if self.quorum > len(self.approvers):
            yield (
                f"'quorum' must be <= {len(self.approvers)}, the number of approvers "
                f"(got {self.quorum})"
            )
        if self.remind_every is not None and self.timeout > MAX_REMINDERS * self.remind_every:
            yield (
                f"'remind_every' must be >= 1/{MAX_REMINDERS} of 'timeout', {self.timeout!r} "
                f"(got {self.remind_every!r})"
            )


@attrs.frozen(kw_only=True)
class CastVote:
    """One person's vote, as it was counted."""

    by: str
    approve: bool
    reason: str = ""
    at: datetime | None = None
    digest: str = ""
    """What it is about, if the voter has named it."""


@attrs.frozen(kw_only=True)
class Ballot:
    """A gate and the votes cast at it. ``outcome`` is None while it is open."""

    gate: str
    policy: ApprovalPolicy
    requester: str = ""
    opened_at: datetime | None = None
    votes: tuple[CastVote, ...] = ()
    outcome: ApprovalOutcome | None = None
    refused: int = 0
    digest: str | None = None
    """The fingerprint of what people are asked for. None: not known yet."""

    @property
    def deadline(self) -> datetime | None:
        """When it expires; None while it is not open yet."""
        return self.opened_at + self.policy.timeout if self.opened_at else None

    @property
    def approvals(self) -> int:
        """How many distinct people have approved."""
        return sum(vote.approve for vote in self.votes)


def previous_vote(ballot: Ballot, vote: CastVote) -> CastVote | None:
    """The same person's vote, if there is one."""
    for earlier in ballot.votes:
        if canonical(earlier.by) == canonical(vote.by):
            return earlier
    return None


def is_repeat(ballot: Ballot, vote: CastVote) -> bool:
    """Whether the same person has said the same of the same plan before: it is answered as the first time."""
    earlier = previous_vote(ballot, vote)
    if earlier is None or earlier.approve != vote.approve:
        return False
    if vote.approve and ballot.policy.bound_to_plan and not vote.digest:
        return False
    # Who names no plan means the one that the gate shows.
    shown = ballot.digest or ""
    return (vote.digest or shown) == (earlier.digest or shown)


def why_refused(ballot: Ballot, vote: CastVote) -> str | None:
    """The reason why this vote may not count, or None. Pure: it decides nothing."""
    if is_repeat(ballot, vote):
        return None
    who = canonical(vote.by)
    if ballot.outcome is not None:
        return f"gate {ballot.gate!r} is closed: it was {ballot.outcome}"
    if ballot.requester and who == canonical(ballot.requester):
        return f"{vote.by!r} made the request and may not vote on it"
    if who not in {canonical(name) for name in ballot.policy.approvers}:
        return f"{vote.by!r} is not an approver of gate {ballot.gate!r}"
    if vote.digest and ballot.digest is not None and vote.digest != ballot.digest:
        if not ballot.digest:
            return f"gate {ballot.gate!r} is about no plan: vote without 'digest' (got {vote.digest!r})"
        return (
            f"{vote.by!r} has voted for another plan: gate {ballot.gate!r} shows {ballot.digest!r}"
        )
    if vote.approve and ballot.policy.bound_to_plan and not vote.digest:
        return f"a vote at gate {ballot.gate!r} must name the 'digest' of the plan that it approves"
    earlier = previous_vote(ballot, vote)
    return why_said_before(earlier, vote) if earlier is not None else None


def why_said_before(earlier: CastVote, vote: CastVote) -> str | None:
    """Why a vote that is no repeat may not follow another of the same person, or None."""
    if not earlier.approve:
        return f"{vote.by!r} has rejected already: a reject is final"
    if not vote.approve:
        return None
    of = f"plan {earlier.digest!r}" if earlier.digest else "whatever plan the gate will show"
    return f"{vote.by!r} has approved {of} already: reject, if that is not meant any more"


def cast(ballot: Ballot, vote: CastVote) -> Ballot:
    """Counts a vote. One that is refused or a repeat changes no result."""
    if why_refused(ballot, vote) is not None:
        return attrs.evolve(ballot, refused=ballot.refused + 1)
    if is_repeat(ballot, vote):
        return ballot
    others = (each for each in ballot.votes if canonical(each.by) != canonical(vote.by))
    return _settled(attrs.evolve(ballot, votes=(*others, vote)))


def opened(ballot: Ballot, at: datetime) -> Ballot:
    """Opens the gate. What was approved before counts now; a reject has counted when it was cast."""
    return _settled(attrs.evolve(ballot, opened_at=at))


def expired(ballot: Ballot) -> Ballot:
    """Time is up. A gate that was decided stays decided."""
    return ballot if ballot.outcome else attrs.evolve(ballot, outcome="expired")


def cancelled(ballot: Ballot) -> Ballot:
    """Nobody waits for the decision any more. A gate that was decided stays decided."""
    return ballot if ballot.outcome else attrs.evolve(ballot, outcome="cancelled")


def _settled(ballot: Ballot) -> Ballot:
    if any(not vote.approve for vote in ballot.votes):
        return attrs.evolve(ballot, outcome="rejected")
    # Votes may come before the gate is open, but a gate that is not open cannot be passed.
    if ballot.opened_at is not None and ballot.approvals >= ballot.policy.quorum:
        return attrs.evolve(ballot, outcome="approved")
    return ballot
