"""How soon a cluster tells the rollout what is new: at once what matters, and never too much."""

from __future__ import annotations

from datetime import timedelta

import pytest

from temporal_patching.policy._news import FREE, LONGEST_FOR_COUNTS, News, patience

WEEK = timedelta(days=7)


def told_in(time: timedelta, news: News, clusters: int) -> int:
    """Messages of all clusters in that time, if there always is something new."""
    told, now = 0, timedelta(0)
    while now < time:
        told += 1
        # Each message takes a moment: a signal, and a task of the rollout.
        now += patience(news, told=told, clusters=clusters) + timedelta(milliseconds=20)
    return told * clusters


@pytest.mark.parametrize("clusters", [1, 5, 20, 100])
def test_a_week_of_news_fits_into_one_history(clusters: int) -> None:
    """Four events each in the rollout's history, at most: 10,240 in a week of news without a pause."""
    assert FREE <= told_in(WEEK, "rest", clusters) < 2_560


@pytest.mark.parametrize("clusters", [1, 20])
def test_failures_that_count_are_told_within_seconds(clusters: int) -> None:
    """A total budget is to stop the others, too."""
    for told in range(5_000):
        assert patience("counts", told=told, clusters=clusters) <= LONGEST_FOR_COUNTS


def test_what_is_to_be_decided_is_told_at_once() -> None:
    """However much has been told: somebody waits for it."""
    assert patience("decision", told=100_000, clusters=100) == timedelta(0)
    assert patience("rest", told=1, clusters=1) == timedelta(0)


def test_the_first_messages_wait_for_nothing() -> None:
    """The one after them waits a second, and each hundred more doubles that."""
    for clusters in (1, 4):
        free = FREE // clusters
        assert patience("rest", told=free - 1, clusters=clusters) == timedelta(0)
        assert patience("rest", told=free, clusters=clusters) == timedelta(seconds=1)
        assert patience("rest", told=2 * free, clusters=clusters) == timedelta(seconds=16)
