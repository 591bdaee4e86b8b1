"""Says for people where gates stand, and who has voted."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from ..models import GateReport, VoteReport
from ._screen import BAD, GOOD, HEAD, QUIET, WARN, Cell, Lines, after, moment, names, plain, table


def gates(some: Sequence[GateReport]) -> Lines:
    """Every gate with its votes."""
    if some:
        yield Text("gates", style=HEAD)
    for gate in some:
        yield from _gate(gate)


def voted(gate: GateReport) -> Lines:
    """A gate, after a vote was counted."""
    yield Text(f"gate {plain(gate.gate)}: {gate_said(gate).plain}")
    yield from _facts(gate)


def gate_said(gate: GateReport) -> Text:
    """Where a gate stands, in one line."""
    yes = sum(vote.approve for vote in gate.votes)
    of = f"{yes} of {gate.quorum} votes"
    if gate.outcome is not None:
        return Text(f"{gate.outcome}, {of}", style=GOOD if gate.approved else BAD)
    if gate.waiting:
        return Text(f"open, {of}", style=WARN)
    return Text(f"not open yet, {of}", style=QUIET)


def _gate(gate: GateReport) -> Lines:
    yield table([(plain(gate.gate), gate_said(gate))])
    yield from _facts(gate)


def _facts(gate: GateReport) -> Lines:
    facts: list[tuple[str, Cell]] = [(_verb(vote), _vote(vote)) for vote in gate.votes]
    if gate.outcome is None:
        facts.append(("may vote", names(gate.approvers)))
        if gate.digest:
            facts.append(("plan", plain(gate.digest)))
        if gate.deadline is not None:
            facts.append(("expires", moment(gate.deadline)))
    if gate.refused:
        facts.append(("refused", f"{gate.refused} votes"))
    if facts:
        yield table(facts, indent=4)


def _verb(vote: VoteReport) -> str:
    return "approved" if vote.approve else "rejected"


def _vote(vote: VoteReport) -> str:
    at = "" if vote.at is None else f", {moment(vote.at)}"
    return f"{plain(vote.by)}{at}{after(': ', plain(vote.reason))}"
