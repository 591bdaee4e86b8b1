"""Says for people what was answered: compact, in 80 columns, with or without colour."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import TypeVar, final

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..models import (
    AuditReport,
    Because,
    ClusterProgress,
    Explanation,
    GateReport,
    HostReport,
    HostState,
    ParkedHost,
    RolloutProgress,
    RolloutReport,
    Steered,
    VoteReport,
    WireType,
)
from ..models._wire import to_json
from ..policy import Outcome

WireT = TypeVar("WireT", bound=WireType)

GOOD, BAD, WARN, QUIET, HEAD = "green", "bold red", "yellow", "dim", "bold"

SOME_NAMES = 10
"""Names that a line lists."""

SOME_HOSTS = 20
"""Hosts that the status lists one by one."""

Cell = str | Text
Lines = Iterator[RenderableType]


@final
class Screen:
    """Writes answers to stdout, as JSON or for people.

    Args:
        as_json: JSON, in the wire types' own form.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._console = Console(highlight=False, emoji=False, markup=False)
        for stream in (sys.stdout, sys.stderr):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:  # a name or a dash that the terminal does not know
                reconfigure(errors="backslashreplace")

    def show(self, value: WireT, said: Callable[[WireT], Lines], *, one_line: bool = False) -> None:
        """Writes one answer.

        Args:
            value: The answer.
            said: How it is said for people.
            one_line: JSON in one line.
        """
        if self.as_json:
            self.show_json(value, one_line=one_line)
        else:
            self.say(said(value))

    def show_json(self, value: WireType, *, one_line: bool = False) -> None:
        """Writes one answer that is for programs, whoever asks."""
        # ASCII: whatever encoding the reader's side has, it is the same JSON.
        self._write(json.dumps(to_json(value), indent=None if one_line else 2) + "\n")

    def say(self, lines: Iterable[RenderableType]) -> None:
        """Writes lines for people."""
        # Not printed by rich, which ends the process by itself when nobody reads.
        with self._console.capture() as captured:
            for line in lines:
                self._console.print(line)
        self._write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def plain(text: str) -> str:
    """One line that can do nothing to a terminal: what a host said may hold anything."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in " ".join(text.split())
    )


# Rollout


def status(progress: RolloutProgress) -> Lines:
    """Where a rollout is."""
    yield Text(plain(progress.rollout), style=HEAD)
    facts = [("phase", _phase(progress))]
    if progress.waits_for:
        facts.append(("waits for", Text(plain(progress.waits_for))))
    facts.append(("hosts", Text(f"{progress.hosts}{_after(': ', counts(progress.counts))}")))
    if progress.reason:
        facts.append(("reason", Text(plain(progress.reason), style=BAD)))
    if progress.health != "checked":
        facts.append(("health", Text(progress.health, style=WARN)))
    if progress.notices_failed:
        facts.append(("notices", Text(f"{progress.notices_failed} not delivered", style=WARN)))
    facts += [("answer", Text(command, style=WARN)) for _, command in needs(progress)]
    yield _table(facts)
    yield from _clusters(progress.clusters)
    yield from gates(progress.gates)
    failures = [each for cluster in progress.clusters for each in cluster.failures]
    yield from _hosts("failed", failures, most=SOME_HOSTS)
    parked = [each for cluster in progress.clusters for each in cluster.parked]
    yield from _hosts("parked", parked, most=SOME_HOSTS)
    held = [cluster for cluster in progress.clusters if cluster.left_out_of_service]
    if held:
        yield Text("out of service", style=HEAD)
        yield _table(
            (plain(cluster.cluster), f"{cluster.left_out_of_service} held", _held_names(cluster))
            for cluster in held
        )


def _phase(progress: RolloutProgress) -> Text:
    if progress.outcome is not None:
        said = f"{progress.phase}, {progress.outcome.value}"
        return Text(said, style=GOOD if progress.outcome is Outcome.PATCHED else BAD)
    flying = sum(len(cluster.in_flight) for cluster in progress.clusters)
    style = WARN if progress.phase in ("pausing", "paused", "stopping", "gate") else ""
    return Text(f"{plain(progress.phase)}, {flying} in flight", style=style)


def _held_names(cluster: ClusterProgress) -> str:
    known = [each.host for each in cluster.failures if each.left_out is not None]
    return names(known)


def _clusters(clusters: Sequence[ClusterProgress]) -> Lines:
    if not clusters:
        return
    yield Text("clusters", style=HEAD)
    yield _table(
        (
            plain(cluster.cluster),
            Text(plain(cluster.phase), style=BAD if cluster.stopped else ""),
            f"{_done(cluster)}/{cluster.hosts} done",
            f"{len(cluster.in_flight)} in flight",
            counts(cluster.counts),
        )
        for cluster in clusters
    )
    for cluster in clusters:
        told = [
            ("in flight", Text(names(cluster.in_flight))) if cluster.in_flight else None,
            ("waits for", Text(plain(cluster.waits_for))) if cluster.waits_for else None,
            ("stopped", Text(plain(cluster.stopped), style=BAD)) if cluster.stopped else None,
        ]
        facts = [each for each in told if each is not None]
        if facts:
            yield _table([(plain(cluster.cluster), *each) for each in facts])


def _done(cluster: ClusterProgress) -> int:
    return sum(cluster.counts.values()) - cluster.counts.get(HostState.NOT_STARTED, 0)


def _hosts(
    title: str, hosts: Sequence[HostReport | ParkedHost], *, most: int | None = None
) -> Lines:
    if not hosts:
        return
    yield Text(title, style=HEAD)
    shown = hosts[:most]
    yield _table(
        (
            plain(each.host),
            Text(each.state.value, style=BAD if each.state in _WORST else WARN),
            _why(each),
        )
        for each in shown
    )
    if len(hosts) > len(shown):
        yield Text(f"  and {len(hosts) - len(shown)} more: --json has them")


_WORST = (HostState.FAILED, HostState.UNREACHABLE)


def _why(host: HostReport | ParkedHost) -> Text:
    text = Text(plain(host.reason))
    if host.left_out is not None:
        text.append(f"{'; ' if host.reason else ''}out of service: {plain(host.left_out)}", BAD)
    return text


# While it runs


def changes(last: RolloutProgress | None, now: RolloutProgress) -> Lines:
    """What has changed between two progresses, a line each."""
    at = datetime.now().astimezone().strftime("%H:%M:%S")
    if last is None or last.summary != now.summary:
        style = "" if now.outcome is None else GOOD if now.outcome is Outcome.PATCHED else BAD
        yield _table([(Text(at, style=QUIET), Text(plain(now.summary), style=style))], indent=0)
    before = {} if last is None else {each.cluster: each for each in last.clusters}
    for cluster in now.clusters:
        was = before.get(cluster.cluster)
        if was is None or _doing(was) != _doing(cluster):
            yield _table([(plain(cluster.cluster), _doing(cluster))], indent=10)
        failed = set() if was is None else {each.host for each in was.failures}
        for host in cluster.failures:
            if host.host not in failed:
                yield _table([(plain(host.host), Text(host.state.value, BAD), _why(host))], 10)
        stood = set() if was is None else {(each.host, each.tries) for each in was.parked}
        for each in cluster.parked:
            if (each.host, each.tries) not in stood:
                yield _table([(plain(each.host), Text("parked", WARN), _why(each))], 10)
    had = {} if last is None else {each.gate: each for each in last.gates}
    for gate in now.gates:
        old = had.get(gate.gate)
        if old is None or (old.votes, old.outcome, old.waiting) != (
            gate.votes,
            gate.outcome,
            gate.waiting,
        ):
            yield _table([(f"gate {plain(gate.gate)}", gate_said(gate))], indent=10)
    known = [] if last is None else needs(last)
    for why, command in needs(now):
        if (why, command) not in known:
            yield _table([(Text("PEOPLE", style=WARN), Text(f"{plain(why)}: {command}"))], 10)


def needs(progress: RolloutProgress) -> list[tuple[str, str]]:
    """Why people are needed before it goes on, and their command; empty while it goes on by itself."""
    if progress.outcome is not None or progress.phase == "stopping":
        return []
    found = [
        (
            f"gate {gate.gate!r} waits for {_more_votes(gate)}",
            _command("approve", progress, "--gate", "" if gate.gate == "start" else gate.gate),
        )
        for gate in progress.gates
        if gate.waiting
    ]
    parked = [each.host for cluster in progress.clusters for each in cluster.parked]
    if parked:
        hosts = f"{names(parked)} {'is' if len(parked) == 1 else 'are'} parked"
        answer = _command("retry", progress, "--host", parked[0])
        found.append((f"{hosts} (or accept, restore, skip)", answer))
    if progress.phase in ("paused", "pausing"):
        found.append((f"it is {progress.phase}", _command("resume", progress)))
        return found
    return found + [
        (
            f"cluster {cluster.cluster!r} is {cluster.phase}",
            _command("resume", progress, "--cluster", cluster.cluster),
        )
        for cluster in progress.clusters
        if cluster.phase in ("paused", "pausing")
    ]


def _command(verb: str, progress: RolloutProgress, option: str = "", value: str = "") -> str:
    words = [verb, progress.rollout, *((option, value) if value else ())]
    return f"temporal-patching {shlex.join(map(plain, words))} --by YOU"


def _more_votes(gate: GateReport) -> str:
    more = gate.quorum - sum(vote.approve for vote in gate.votes)
    return f"{more} more {'vote' if more == 1 else 'votes'}"


def _doing(cluster: ClusterProgress) -> str:
    flying = _after(": ", names(cluster.in_flight))
    stopped = _after("; ", plain(cluster.stopped or ""))
    return f"{plain(cluster.phase)} {_done(cluster)}/{cluster.hosts}{flying}{stopped}"


# Gates


def gates(some: Sequence[GateReport]) -> Lines:
    """Every gate with its votes."""
    if some:
        yield Text("gates", style=HEAD)
    for gate in some:
        yield from _gate(gate)


def voted(gate: GateReport) -> Lines:
    """A gate, after a vote was counted."""
    yield Text(f"gate {plain(gate.gate)}: {gate_said(gate).plain}")
    yield from _gate_facts(gate)


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
    yield _table([(plain(gate.gate), gate_said(gate))])
    yield from _gate_facts(gate)


def _gate_facts(gate: GateReport) -> Lines:
    facts: list[tuple[str, Cell]] = [(_verb(vote), _vote(vote)) for vote in gate.votes]
    if gate.outcome is None:
        facts.append(("may vote", names(gate.approvers)))
        if gate.deadline is not None:
            facts.append(("expires", moment(gate.deadline)))
    if gate.refused:
        facts.append(("refused", f"{gate.refused} votes"))
    if facts:
        yield _table(facts, indent=4)


def _verb(vote: VoteReport) -> str:
    return "approved" if vote.approve else "rejected"


def _vote(vote: VoteReport) -> str:
    at = "" if vote.at is None else f", {moment(vote.at)}"
    return f"{plain(vote.by)}{at}{_after(': ', plain(vote.reason))}"


# What a verb answers, why, who, and the end


def steered(answer: Steered) -> Lines:
    """What a verb has done."""
    yield Text(plain(answer.message) or "done")
    facts = [("phase", plain(answer.phase))] if answer.phase else []
    if answer.waits_for:
        facts.append(("in flight", names(answer.waits_for)))
    if facts:
        yield _table(facts)


def explanation(told: Explanation) -> Lines:
    """Why it waits, why it stopped, what would stop it next."""
    yield Text(f"{plain(told.rollout)}  {plain(told.phase)}", style=HEAD)
    for title, reasons in (
        ("it waits", told.waits),
        ("it stopped", told.stopped),
        ("next", told.next),
    ):
        if reasons:
            yield Text(title, style=HEAD)
        for reason in reasons:
            yield from _because(reason)


def _because(reason: Because) -> Lines:
    yield Padding(Text(plain(reason.why)), (0, 0, 0, 2), expand=False)
    if reason.evidence:
        facts = ((plain(name), plain(value)) for name, value in reason.evidence.items())
        yield _table(facts, indent=4)


def audit(told: AuditReport) -> Lines:
    """Who decided what, in order."""
    if told.omitted:
        yield Text(f"{told.omitted} older ones are left out", style=QUIET)
    for record in told.records:
        what = Text(f"{plain(record.what)}{_after(': ', plain(record.reason))}")
        if record.before != record.after:
            what.append(f" ({plain(record.before)} → {plain(record.after)})", QUIET)
        head = Text(f"{moment(record.at)}  {plain(record.by)}", style=QUIET)
        yield head
        yield Padding(what, (0, 0, 0, 2), expand=False)


def report(told: RolloutReport) -> Lines:
    """How a rollout ended."""
    yield Text(plain(told.rollout), style=HEAD)
    good = told.outcome is Outcome.PATCHED
    facts: list[tuple[str, Cell]] = [("outcome", Text(told.outcome.value, GOOD if good else BAD))]
    if told.reason:
        facts.append(("reason", plain(told.reason)))
    facts.append(("hosts", counts(told.counts) or "none"))
    if told.health != "checked":
        facts.append(("health", Text(told.health, style=WARN)))
    if told.notices_failed:
        facts.append(("notices", Text(f"{told.notices_failed} not delivered", style=WARN)))
    yield _table(facts)
    if told.clusters:
        yield Text("clusters", style=HEAD)
        yield _table(
            (
                plain(each.cluster),
                Text(each.outcome.value, style=GOOD if each.outcome is Outcome.PATCHED else BAD),
                f"{each.waves} waves",
                counts(each.counts),
            )
            for each in told.clusters
        )
    yield from gates(told.gates)
    yield from _hosts("not patched", told.hosts)
    if told.hosts_omitted:
        yield Text(f"  and {told.hosts_omitted} more")
    if told.left_out_of_service:
        yield Text("out of service", style=HEAD)
        # Whole: a host that is not named here is one that nobody looks for.
        named = ", ".join(map(plain, told.left_out_of_service))
        yield Padding(Text(named, style=BAD), (0, 0, 0, 2), expand=False)


# Parts


def counts(some: Mapping[HostState, int]) -> str:
    """``3 patched, 1 failed``."""
    return ", ".join(
        f"{number} {state.value.lower().replace('_', ' ')}"
        for state, number in some.items()
        if number
    )


def names(some: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(map(plain, some[:SOME_NAMES]))
    more = len(some) - SOME_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def moment(at: datetime) -> str:
    """A time in UTC, to the second."""
    return at.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")


def table(rows: Iterable[Sequence[Cell]], indent: int = 2) -> RenderableType:
    """Rows in columns."""
    return _table(rows, indent)


def _after(mark: str, text: str) -> str:
    return f"{mark}{text}" if text else ""


def _table(rows: Iterable[Sequence[Cell]], indent: int = 2) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for row in rows:
        while len(grid.columns) < len(row):
            grid.add_column(overflow="fold")
        grid.add_row(*(Text(each) if isinstance(each, str) else each for each in row))
    return Padding(grid, (0, 0, 0, indent), expand=False)
