"""Says for people what has changed while a rollout runs, and what it needs of them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import datetime

from rich.text import Text

from ..models import ClusterProgress, GateReport, RolloutProgress
from ..policy import Outcome
from ._screen import BAD, GOOD, QUIET, WARN, Lines, after, names, plain, table
from ._show_gates import gate_said
from ._show_hosts import done, why


def changes(
    last: RolloutProgress | None, now: RolloutProgress, options: Mapping[str, str] | None = None
) -> Lines:
    """What has changed between two progresses, a line each.

    Args:
        last: The one before; None for the first.
        now: The one after it.
        options: Those of ``Screen``.
    """
    at = datetime.now().astimezone().strftime("%H:%M:%S")
    if last is None or last.summary != now.summary:
        style = "" if now.outcome is None else GOOD if now.outcome is Outcome.PATCHED else BAD
        yield table([(Text(at, style=QUIET), Text(plain(now.summary), style=style))], indent=0)
    before = {} if last is None else {each.cluster: each for each in last.clusters}
    for cluster in now.clusters:
        was = before.get(cluster.cluster)
        if was is None or _doing(was) != _doing(cluster):
            yield table([(plain(cluster.cluster), _doing(cluster))], indent=10)
        failed = set() if was is None else {each.host for each in was.failures}
        for host in cluster.failures:
            if host.host not in failed:
                yield table([(plain(host.host), Text(host.state.value, BAD), why(host))], 10)
        stood = set() if was is None else {(each.host, each.tries) for each in was.parked}
        for each in cluster.parked:
            if (each.host, each.tries) not in stood:
                yield table([(plain(each.host), Text("parked", WARN), why(each))], 10)
    had = {} if last is None else {each.gate: each for each in last.gates}
    for gate in now.gates:
        old = had.get(gate.gate)
        if old is None or (old.votes, old.outcome, old.waiting) != (
            gate.votes,
            gate.outcome,
            gate.waiting,
        ):
            yield table([(f"gate {plain(gate.gate)}", gate_said(gate))], indent=10)
    known = [] if last is None else needs(last, options)
    for need, command in needs(now, options):
        if (need, command) not in known:
            yield table([(Text("PEOPLE", style=WARN), Text(f"{plain(need)}: {command}"))], 10)


def needs(
    progress: RolloutProgress, options: Mapping[str, str] | None = None
) -> list[tuple[str, str]]:
    """Why people are needed before it goes on, and their command; empty while it goes on by itself.

    Args:
        progress: Where it is.
        options: Those of ``Screen``.
    """

    def command(verb: str, option: str = "", value: str = "") -> str:
        own = {option: value} if value else {}
        words = [word for pair in {**own, **(options or {})}.items() for word in pair]
        said = shlex.join(map(plain, [verb, progress.rollout, *words]))
        return f"temporal-patching {said} --by YOU"

    if progress.outcome is not None or progress.phase == "stopping":
        return []
    found = [
        (
            f"gate {gate.gate!r} waits for {_more_votes(gate)}",
            command("approve", "--gate", "" if gate.gate == "start" else gate.gate),
        )
        for gate in progress.gates
        if gate.waiting
    ]
    parked = [each.host for cluster in progress.clusters for each in cluster.parked]
    if parked:
        hosts = f"{names(parked)} {'is' if len(parked) == 1 else 'are'} parked"
        answer = command("retry", "--host", parked[0])
        found.append((f"{hosts} (or accept, restore, skip)", answer))
    if progress.phase in ("paused", "pausing"):
        found.append((f"it is {progress.phase}", command("resume")))
        return found
    return found + [
        (
            f"cluster {cluster.cluster!r} is {cluster.phase}",
            command("resume", "--cluster", cluster.cluster),
        )
        for cluster in progress.clusters
        if cluster.phase in ("paused", "pausing")
    ]


def _more_votes(gate: GateReport) -> str:
    more = gate.quorum - sum(vote.approve for vote in gate.votes)
    return f"{more} more {'vote' if more == 1 else 'votes'}"


def _doing(cluster: ClusterProgress) -> str:
    flying = after(": ", names(cluster.in_flight))
    stopped = after("; ", plain(cluster.stopped or ""))
    return f"{plain(cluster.phase)} {done(cluster)}/{cluster.hosts}{flying}{stopped}"
