"""Gates that wait for people, in any workflow."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast, final

import attrs
from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from typing_extensions import Self

from ..exceptions import ApprovalExpired, ApprovalRejected, InvalidRequest
from ..models import ApprovalReport, GateReport, RefusedVote, Vote, VoteReport
from ..policy import _approval as rules
from ..policy._approval import ApprovalPolicy, Ballot, CastVote
from ..policy._rules import bounded, canonical, did_you_mean, problems
from ._raw import read

ApprovalEvent = Literal["requested", "reminder", "expired"]
"""What ``on_approval`` is told of: a gate asks for votes, reminds of them, or has expired."""

MAX_HELD = 100
"""Votes kept for gates that are not known yet."""

MAX_REFUSED = 50
"""Refused signals that the query shows."""


HandlerT = TypeVar("HandlerT", bound=Callable[..., None])


@attrs.define
class _Gates:
    """The one private attribute of the mixin."""

    ballots: dict[str, Ballot] = attrs.field(factory=dict[str, Ballot])
    held: dict[str, list[CastVote]] = attrs.field(factory=dict[str, list[CastVote]])
    refused: list[RefusedVote] = attrs.field(factory=list[RefusedVote])
    answers: dict[tuple[str, str, bool], GateReport] = attrs.field(
        factory=dict[tuple[str, str, bool], GateReport]
    )


def _undecoded(signal: HandlerT) -> HandlerT:
    """Makes the SDK hand the payload over as it is: one that it cannot decode it drops without a trace."""
    vote = inspect.Parameter("vote", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=RawValue)
    told = cast("Any", signal)
    told.__signature__ = inspect.Signature(
        [*list(inspect.signature(signal).parameters.values())[:1], vote]
    )
    # No default for it anywhere: Python 3.10 reads "= None" as Optional, which the SDK then decodes.
    told.__annotations__ = {"vote": RawValue, "return": None}
    return signal


class ApprovalMixin:
    """Gives any workflow gates that people open: ``await self.approval("release", policy)``.

    Votes come by the updates ``approve`` and ``reject`` (validated: a vote that may not count is refused
    with a reason, and leaves no event in history) or by the signals of the same names (fire and forget:
    one that may not count is recorded in the ``approvals`` query). The argument of all four is one
    ``Vote``. ``temporal_patching.client.Approvals`` sends them.

    A vote counts only from one of the policy's approvers, in canonical form (case and spaces do not
    matter), once a person, never from the requester. The same vote again, about the same plan, is answered
    as the first time. Who has approved may still reject; who has rejected stays with it, and one reject
    ends the approval. A vote that arrives in the same workflow task as the deadline counts.

    Votes may come before the gate opens, also together with the start of the workflow. Name your gates
    in ``approval_policies`` to have those judged at once; votes for gates that nobody can know yet are
    kept (at most 100) and judged when their gate opens.

    Until votes are signed, ``by`` is a claim: whoever can write to the namespace can vote as anyone.

    Combines with any other base class in any order; needs no ``__init__``.

    Override, all optional, all plain functions that decide nothing and start no commands but in
    ``on_approval``:

    * ``approval_policies()``: the gates that this workflow will have. Called for votes before a gate opens.
    * ``approval_requester()``: who made the request. Called for every vote.
    * ``on_approval(event, gate)``: called when a gate asks, reminds or expires. It must not block; start a
      task where it takes time.

    Example::

        @workflow.defn
        class Release(ApprovalMixin):
            @workflow.run
            async def run(self, version: str) -> None:
                await self.approval(
                    "release",
                    ApprovalPolicy(approvers=["alice@example.com"], timeout=timedelta(hours=4)),
                )

    Without ``approval_policies`` an early vote, also a stranger's, is accepted as kept, and judged later.
    """

    __gates: _Gates

    def __new__(cls, *arguments: Any, **options: Any) -> Self:
        # Not __init__: a handler may run before anything that a subclass could forget to call.
        make = super().__new__
        self = make(cls) if make is object.__new__ else make(cls, *arguments, **options)
        self.__gates = _Gates()
        return self

    # Hooks

    def approval_policies(self) -> Mapping[str, ApprovalPolicy]:
        """The gates that this workflow will have, by name. Default: not known before they open."""
        return {}

    def approval_requester(self) -> str:
        """Who made the request, and may not vote on it. Default: nobody."""
        return ""

    def on_approval(self, event: ApprovalEvent, gate: GateReport) -> None:
        """Called when a gate asks for votes, reminds of them or expires. Default: does nothing."""

    # What a workflow calls

    @final
    async def approval(
        self,
        gate: str,
        policy: ApprovalPolicy | None = None,
        *,
        again: bool = False,
        digest: str = "",
    ) -> GateReport:
        """Opens the gate and waits until it is decided.

        Args:
            gate: Its name, at most 200 characters; each gate opens once, unless ``again``.
            policy: Who may vote, how many must agree, how long they have. Default: what
                ``approval_policies()`` says of this gate.
            again: Open a gate that was decided before once more: votes of before do not count any more.
                Default False: that is an error.
            digest: A fingerprint of what people are asked for, at most 200 characters. A vote that names another
                one is refused. A policy that is ``bound_to_plan`` needs it.

        Returns:
            The decision. ``approved`` is false only if it expired under ``on_timeout="complete"``: end
            the workflow then.

        Raises:
            ApprovalRejected: An approver rejected. Its details have the ``GateReport``.
            ApprovalExpired: It expired under ``on_timeout="fail"``.
            InvalidRequest: No vote can name the gate, or it was opened before, or it has no policy, or so many
                cannot agree without the requester, or the policy is ``bound_to_plan`` and there is no digest.
            asyncio.CancelledError: The caller was cancelled. The gate is closed then: later votes are refused.
        """
        policy = policy or self.approval_policies().get(gate)
        if policy is None:
            raise InvalidRequest(
                [f"gate {gate!r} needs a policy: approval_policies() has none for it"]
            )
        if again:
            self.__forget(gate)
        self.__open(gate, policy, digest)
        try:
            if self.__gates.ballots[gate].outcome is None:
                self.on_approval("requested", self.__report(gate))
                await self.__decided(gate)
        except asyncio.CancelledError:
            self.__gates.ballots[gate] = rules.cancelled(self.__gates.ballots[gate])
            raise
        report = self.__report(gate)
        if report.outcome == "rejected":
            no = next(vote for vote in report.votes if not vote.approve)
            because = f": {no.reason}" if no.reason else ""
            raise ApprovalRejected(f"gate {gate!r} was rejected by {no.by}{because}", report)
        if report.outcome == "expired":
            self.on_approval("expired", report)
            if policy.on_timeout == "fail":
                got = sum(vote.approve for vote in report.votes)
                raise ApprovalExpired(
                    f"gate {gate!r} expired: {got} of {policy.quorum} approvals within {policy.timeout}",
                    report,
                )
        return report

    def __forget(self, gate: str) -> None:
        ballot = self.__gates.ballots.get(gate)
        if ballot is not None and ballot.outcome is not None:
            del self.__gates.ballots[gate]
            answers = self.__gates.answers
            for key in [key for key in answers if key[0] == gate]:
                del answers[key]

    def __open(self, gate: str, policy: ApprovalPolicy, digest: str) -> None:
        # A name that no vote can have would wait for its timeout, whoever agrees.
        fields = attrs.fields(Vote)
        wrong = [
            *problems("gate", gate, fields.gate.metadata),
            *problems("digest", digest, fields.digest.metadata),
        ]
        if policy.bound_to_plan and not digest:
            wrong.append(
                f"gate {gate!r} is bound to a plan, so no vote can count without one: hand "
                "approval(digest=...) the fingerprint of what is approved, or leave 'bound_to_plan' out"
            )
        if wrong:
            raise InvalidRequest(bounded(wrong))
        known, requester = self.__gates.ballots.get(gate), self.approval_requester()
        if known is not None and known.opened_at is not None:
            raise InvalidRequest([f"gate {gate!r} was opened before: each gate opens once"])
        others = {canonical(name) for name in policy.approvers} - {canonical(requester)}
        if len(others) < policy.quorum:
            raise InvalidRequest(
                [
                    f"'quorum' must be <= {len(others)}, the approvers of gate {gate!r} without the "
                    f"requester (got {policy.quorum})"
                ]
            )
        early = [
            *(known.votes if known is not None else ()),
            *self.__gates.held.pop(gate, ()),
        ]
        ballot = Ballot(
            gate=gate,
            policy=policy,
            requester=requester,
            refused=known.refused if known is not None else 0,
            digest=digest,
        )
        # Judged by the policy that holds, also those that were counted by the one declared before.
        for vote in early:
            why = rules.why_refused(ballot, vote)
            if why is not None:
                self.__record_refused(why, vote.by, gate)
                # Else the next vote of this person would be taken for the same one again.
                self.__gates.answers.pop((gate, canonical(vote.by), vote.approve), None)
            ballot = rules.cast(ballot, vote)
        self.__gates.ballots[gate] = rules.opened(ballot, workflow.now())

    async def __decided(self, gate: str) -> None:
        def ballot() -> Ballot:
            return self.__gates.ballots[gate]

        while ballot().outcome is None:
            deadline = ballot().deadline
            left = deadline - workflow.now() if deadline is not None else timedelta(0)
            if left <= timedelta(0):
                self.__gates.ballots[gate] = rules.expired(ballot())
                return
            remind = ballot().policy.remind_every
            try:
                await workflow.wait_condition(
                    lambda: ballot().outcome is not None,
                    timeout=left if remind is None else min(left, remind),
                    timeout_summary=f"approval of gate {gate!r}",
                )
            except asyncio.TimeoutError:
                if remind is not None and remind < left and ballot().outcome is None:
                    self.on_approval("reminder", self.__report(gate))

    # Handlers. Final: an override would lose the validator without a word.

    @final
    @workflow.update(name="approve", description="Approve a gate. Takes a Vote.")
    def approve(self, vote: Vote) -> GateReport:
        """Counts an approval. Takes one ``Vote``; answers with the gate as it is then."""
        return self.__count(vote, approve=True)

    @final
    @approve.validator
    def _may_approve(self, vote: Vote) -> None:
        self.__refuse(vote, approve=True)

    @final
    @workflow.update(name="reject", description="Reject a gate. Takes a Vote.")
    def reject(self, vote: Vote) -> GateReport:
        """Counts a rejection, which ends the approval. Takes one ``Vote``."""
        return self.__count(vote, approve=False)

    @final
    @reject.validator
    def _may_reject(self, vote: Vote) -> None:
        self.__refuse(vote, approve=False)

    @final
    @workflow.signal(name="approve", description="Approve a gate, fire and forget. Takes a Vote.")
    @_undecoded
    def approve_by_signal(self, *sent: object) -> None:
        """Counts an approval, or records why not. Takes one ``Vote``."""
        self.__count_signal(sent, approve=True)

    @final
    @workflow.signal(name="reject", description="Reject a gate, fire and forget. Takes a Vote.")
    @_undecoded
    def reject_by_signal(self, *sent: object) -> None:
        """Counts a rejection, or records why not. Takes one ``Vote``."""
        self.__count_signal(sent, approve=False)

    @final
    @workflow.query(name="approvals", description="What is pending and who said what.")
    def approvals(self) -> ApprovalReport:
        """Every gate that is known, and the last votes by signal that were refused."""
        return ApprovalReport(
            gates=tuple(self.__report(gate) for gate in self.__gates.ballots),
            refused=tuple(self.__gates.refused),
            held=sum(len(votes) for votes in self.__gates.held.values()),
        )

    # Counting

    def __ballot(self, gate: str) -> Ballot | None:
        """The gate's ballot; one that is not open yet if its policy is declared."""
        ballot = self.__gates.ballots.get(gate)
        policy = None if ballot is not None else self.approval_policies().get(gate)
        if policy is None:
            return ballot
        return Ballot(gate=gate, policy=policy, requester=self.approval_requester())

    def __why_refused(self, vote: Vote, cast: CastVote) -> str | None:
        ballot = self.__ballot(vote.gate)
        if ballot is not None:
            return rules.why_refused(ballot, cast)
        who, held = canonical(vote.by), self.__gates.held.get(vote.gate, ())
        said = [earlier for earlier in held if canonical(earlier.by) == who]
        if said:
            last = said[-1]
            if (last.approve, last.digest) == (cast.approve, cast.digest):
                return None  # answered as the first time, whatever has become known or full since
            why = rules.why_said_before(last, cast)
            if why is not None:
                return why
        known = {**self.approval_policies(), **self.__gates.ballots}
        if known:
            names = ", ".join(sorted(known))
            return (
                f"there is no gate {vote.gate!r}{did_you_mean(vote.gate, known)} (gates: {names})"
            )
        if sum(len(votes) for votes in self.__gates.held.values()) >= MAX_HELD:
            return f"no gate is open yet, and {MAX_HELD} votes are waiting for one"
        return None

    def __refuse(self, vote: Vote, *, approve: bool) -> None:
        why = self.__why_refused(vote, CastVote(by=vote.by, approve=approve, digest=vote.digest))
        if why is not None:
            raise ApplicationError(why, type="VoteRefused", non_retryable=True)

    def __count(self, vote: Vote, *, approve: bool) -> GateReport:
        cast = CastVote(
            by=vote.by,
            approve=approve,
            reason=vote.reason,
            at=workflow.now(),
            digest=vote.digest,
        )
        key = (vote.gate, canonical(vote.by), approve)
        first = self.__gates.answers.get(key)
        if first is not None:
            return first
        ballot = self.__ballot(vote.gate)
        if ballot is None:
            self.__gates.held.setdefault(vote.gate, []).append(cast)
            answer = GateReport(gate=vote.gate, votes=(_voted(cast),))
        else:
            self.__gates.ballots[vote.gate] = rules.cast(ballot, cast)
            answer = self.__report(vote.gate)
        self.__gates.answers[key] = answer
        return answer

    def __count_signal(self, sent: tuple[object, ...], *, approve: bool) -> None:
        if len(sent) != 1:
            self.__record_refused(f"a vote takes one argument (got {len(sent)})")
            return
        try:
            vote = read(sent[0], Vote)
        except InvalidRequest as error:
            self.__record_refused("; ".join(error.problems))
            return
        try:
            why = self.__why_refused(
                vote, CastVote(by=vote.by, approve=approve, digest=vote.digest)
            )
        except Exception as error:  # a hook's: it would fail the task, again and again
            why = f"the gates of this workflow are not known ({type(error).__name__}: {error})"
        if why is not None:
            self.__record_refused(why, vote.by, vote.gate)
        else:
            self.__count(vote, approve=approve)

    def __record_refused(self, why: str, by: str = "", gate: str = "") -> None:
        ballot = self.__gates.ballots.get(gate)
        if ballot is not None:
            self.__gates.ballots[gate] = attrs.evolve(ballot, refused=ballot.refused + 1)
        self.__gates.refused.append(RefusedVote(reason=why, by=by[:200], gate=gate[:200]))
        del self.__gates.refused[:-MAX_REFUSED]

    def __report(self, gate: str) -> GateReport:
        ballot = self.__gates.ballots[gate]
        return GateReport(
            gate=gate,
            outcome=ballot.outcome,
            waiting=ballot.outcome is None and ballot.opened_at is not None,
            approvers=ballot.policy.approvers,
            quorum=ballot.policy.quorum,
            votes=tuple(_voted(vote) for vote in ballot.votes),
            opened_at=ballot.opened_at,
            deadline=ballot.deadline,
            refused=ballot.refused,
            digest=ballot.digest or "",
        )


def _voted(vote: CastVote) -> VoteReport:
    return VoteReport(by=vote.by, approve=vote.approve, reason=vote.reason, at=vote.at)
