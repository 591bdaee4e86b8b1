"""Says for people what has become of hosts."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from ..models import ClusterProgress, HostReport, HostState, ParkedHost
from ._screen import BAD, HEAD, WARN, Lines, plain, table

_WORST = (HostState.FAILED, HostState.UNREACHABLE)


def hosts(title: str, some: Sequence[HostReport | ParkedHost], *, most: int | None = None) -> Lines:
    """Hosts with their state and why, at most so many."""
    if not some:
        return
    yield Text(title, style=HEAD)
    shown = some[:most]
    yield table(
        (
            plain(each.host),
            Text(each.state.value, style=BAD if each.state in _WORST else WARN),
            why(each),
        )
        for each in shown
    )
    if len(some) > len(shown):
        yield Text(f"  and {len(some) - len(shown)} more: --json has them")


def why(host: HostReport | ParkedHost) -> Text:
    """What happened to a host, and why it is out of service."""
    text = Text(plain(host.reason))
    if host.left_out is not None:
        text.append(f"{'; ' if host.reason else ''}out of service: {plain(host.left_out)}", BAD)
    return text


def done(cluster: ClusterProgress) -> int:
    """How many of its hosts have ended."""
    return sum(cluster.counts.values()) - cluster.counts.get(HostState.NOT_STARTED, 0)
