"""How soon a cluster tells the rollout what is new. Each message is events in the rollout's history.

A rollout cannot continue as new while its clusters run, so it hears at once what it has to decide about,
and the rest the more rarely the more it has heard.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

News = Literal["rest", "counts", "decision"]
"""What is new: something to be shown, failures that count in a total budget, something to decide about."""

NEWS: tuple[News, ...] = ("rest", "counts", "decision")
"""From what can wait to what cannot."""

FREE = 400
"""Messages, over all clusters, that are sent at once."""

LONGEST_FOR_COUNTS = timedelta(seconds=10)
LONGEST = timedelta(hours=1)
"""For a rollout of one cluster. With more, each has to leave room for the others."""


def patience(news: News, *, told: int, clusters: int) -> timedelta:
    """How long after its last message a cluster sends the next.

    Twice as long after each further hundred messages, so a week of news is a thousand of them.

    Args:
        news: What is new.
        told: How many messages this cluster has sent.
        clusters: How many clusters the rollout has: they share what one history holds.
    """
    more = told * clusters - FREE
    if news == "decision" or more < 0:
        return timedelta(0)
    longest = LONGEST_FOR_COUNTS if news == "counts" else LONGEST * clusters
    return min(timedelta(seconds=2 ** min(more // 100, 30)), longest)
