"""Says for people what was answered: where a rollout is, what a verb has done, why, who, and the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.padding import Padding
from rich.text import Text

from ..models import (
    AuditReport,
    Because,
    ClusterProgress,
    Explanation,
    RolloutProgress,
    RolloutReport,
    Steered,
)
from ..policy import Outcome
from ._screen import (
    BAD,
    GOOD,
    HEAD,
    QUIET,
    WARN,
    Cell,
    Lines,
    after,
    counts,
    moment,
    names,
    plain,
    table,
)
from ._show_changes import needs
from ._show_gates import gates
from ._show_hosts import done, hosts

SOME_HOSTS = 20
"""Hosts that the status lists one by one."""

# Rollout


def status(progress: RolloutProgress, options: Mapping[str, str] | None = None) -> Lines:
    """Where a rollout is.

    Args:
        progress: Where it is.
        options: Those of ``Screen``.
    """
    yield Text(plain(progress.rollout), style=HEAD)
    facts = [("phase", _phase(progress))]
    if progress.waits_for:
        facts.append(("waits for", Text(plain(progress.waits_for))))
    facts.append(("hosts", Text(f"{progress.hosts}{after(': ', _hosts_counted(progress))}")))
    if progress.reason:
        facts.append(("reason", Text(plain(progress.reason), style=BAD)))
    if progress.health != "checked":
        facts.append(("health", Text(progress.health, style=WARN)))
    if progress.notices_failed:
        facts.append(("notices", Text(f"{progress.notices_failed} not delivered", style=WARN)))
    facts += [("answer", Text(command, style=WARN)) for _, command in needs(progress, options)]
    yield table(facts)
    yield from _clusters(progress.clusters)
    yield from gates(progress.gates)
    failures = [each for cluster in progress.clusters for each in cluster.failures]
    yield from hosts("failed", failures, most=SOME_HOSTS)
    parked = [each for cluster in progress.clusters for each in cluster.parked]
    yield from hosts("parked", parked, most=SOME_HOSTS)
    held = [cluster for cluster in progress.clusters if cluster.left_out_of_service]
    if held:
        yield Text("out of service", style=HEAD)
        yield table(
            (plain(cluster.cluster), f"{cluster.left_out_of_service} held", _held_names(cluster))
            for cluster in held
        )


def _phase(progress: RolloutProgress) -> Text:
    if progress.outcome is not None:
        said = f"{progress.phase}, {progress.outcome.value}"
        return Text(said, style=GOOD if progress.outcome is Outcome.PATCHED else BAD)
    flying = _flying(progress)
    style = WARN if progress.phase in ("pausing", "paused", "stopping", "gate") else ""
    return Text(f"{plain(progress.phase)}, {flying} in flight", style=style)


def _hosts_counted(progress: RolloutProgress) -> str:
    """All of them: who adds up shall not miss a host."""
    parked = sum(len(each.parked) for each in progress.clusters)
    return _also(counts(progress.counts), _flying(progress), parked)


def _flying(progress: RolloutProgress) -> int:
    return sum(len(cluster.in_flight) for cluster in progress.clusters)


def _also(counted: str, flying: int, parked: int) -> str:
    more = [
        f"{number} {what}" for number, what in ((flying, "in flight"), (parked, "parked")) if number
    ]
    return ", ".join([*([counted] if counted else []), *more])


def _held_names(cluster: ClusterProgress) -> str:
    known = [each.host for each in cluster.failures if each.left_out is not None]
    return names(known)


def _clusters(clusters: Sequence[ClusterProgress]) -> Lines:
    if not clusters:
        return
    yield Text("clusters", style=HEAD)
    yield table(
        (
            plain(cluster.cluster),
            Text(plain(cluster.phase), style=BAD if cluster.stopped else ""),
            f"{done(cluster)}/{cluster.hosts} done",
            f"{len(cluster.in_flight)} in flight",
            _also(counts(cluster.counts), 0, len(cluster.parked)) or "-",
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
            yield table([(plain(cluster.cluster), *each) for each in facts])


# What a verb answers, why, who, and the end


def steered(answer: Steered) -> Lines:
    """What a verb has done."""
    yield Text(plain(answer.message) or "done")
    facts = [("phase", plain(answer.phase))] if answer.phase else []
    # While it runs nobody waits for them, and its clusters tell the rollout only now and then which they are.
    if answer.waits_for and answer.phase not in ("listing", "gate", "running"):
        facts.append(("in flight", names(answer.waits_for)))
    if facts:
        yield table(facts)


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
        yield table(facts, indent=4)


def audit(told: AuditReport) -> Lines:
    """Who decided what, in order."""
    if not told.records:
        yield Text("nothing was decided yet", style=QUIET)
    if told.omitted:
        yield Text(f"{told.omitted} older ones are left out", style=QUIET)
    for record in told.records:
        what = Text(f"{plain(record.what)}{after(': ', plain(record.reason))}")
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
    yield table(facts)
    if told.clusters:
        yield Text("clusters", style=HEAD)
        yield table(
            (
                plain(each.cluster),
                Text(each.outcome.value, style=GOOD if each.outcome is Outcome.PATCHED else BAD),
                f"{each.waves} {'wave' if each.waves == 1 else 'waves'}",
                counts(each.counts),
            )
            for each in told.clusters
        )
    yield from gates(told.gates)
    yield from hosts("not patched", told.hosts)
    if told.hosts_omitted:
        yield Text(f"  and {told.hosts_omitted} more")
    if told.left_out_of_service:
        yield Text("out of service", style=HEAD)
        # Whole: a host that is not named here is one that nobody looks for.
        named = ", ".join(map(plain, told.left_out_of_service))
        yield Padding(Text(named, style=BAD), (0, 0, 0, 2), expand=False)
