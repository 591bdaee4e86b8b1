"""Maintenance windows: when hosts may start, until when, and why, whatever the clocks do."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
from bisect import bisect_left
from datetime import datetime, time, timedelta, timezone
from functools import cache
from time import process_time
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import attrs
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from temporal_patching.exceptions import InvalidRequest
from temporal_patching.models._wire import from_json, to_json
from temporal_patching.policy import _window
from temporal_patching.policy._window import (
    HORIZON,
    MAX_CALENDARS,
    MAX_DATED,
    MAX_WEEKLY,
    WEEKDAYS,
    Calendar,
    DatedPeriod,
    MaintenanceWindows,
    WeeklyPeriod,
    starts_allowed,
)

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def utc(written: str) -> datetime:
    """A moment, from ``2026-03-29T01:00``."""
    return datetime.fromisoformat(written).replace(tzinfo=timezone.utc)


def weekly(days: str, start: str, duration: timedelta) -> WeeklyPeriod:
    """A weekly period; the days are separated by spaces."""
    return WeeklyPeriod(days=days.split(), start=start, duration=duration)  # type: ignore[arg-type]


def windows(*calendars: Calendar, **fields: Any) -> MaintenanceWindows:
    """A policy of these calendars."""
    return MaintenanceWindows(calendars=calendars, **fields)


def changes(policy: MaintenanceWindows, since: str, count: int) -> list[str]:
    """The next changes after a moment, ``+`` where it opens and ``-`` where it closes."""
    now, found = utc(since), list[str]()
    for _ in range(count):
        opening = starts_allowed(policy, now)
        if opening.until is None:
            found.append("never")
            break
        now = opening.until
        found.append(f"{'-' if opening.open else '+'}{now:%Y-%m-%dT%H:%M:%S}".removesuffix(":00"))
    return found


NIGHT = weekly("sat", "22:00", 6 * HOUR)
CHRISTMAS = DatedPeriod(start="2026-12-24T18:00", duration=3 * DAY)
NIGHTS = Calendar(time_zone="Europe/Berlin", weekly=[NIGHT])


# The clocks, by hand


@pytest.mark.parametrize(
    ("zone", "period", "since", "expected"),
    [
        pytest.param(
            "UTC",
            weekly("sat", "22:00", 6 * HOUR),
            "2026-11-23T00:00",
            ["+2026-11-28T22:00", "-2026-11-29T04:00", "+2026-12-05T22:00"],
            id="over midnight",
        ),
        pytest.param(
            "Europe/Berlin",
            weekly("sun", "22:00", 6 * HOUR),
            "2026-11-23T12:00",
            ["+2026-11-29T21:00", "-2026-11-30T03:00"],
            id="over the end of the week",
        ),
        pytest.param(
            "Asia/Kolkata",
            weekly("wed", "22:00", HOUR),
            "2026-11-23T00:00",
            ["+2026-11-25T16:30", "-2026-11-25T17:30"],
            id="half an hour beside the full one",
        ),
        pytest.param(
            "Pacific/Auckland",
            weekly("mon", "00:30", HOUR),
            "2026-06-19T00:00",
            ["+2026-06-21T12:30", "-2026-06-21T13:30"],
            id="a day ahead of UTC",
        ),
        pytest.param(
            "Europe/Berlin",
            weekly("sat", "22:00", 6 * HOUR),
            "2026-03-28T00:00",
            ["+2026-03-28T21:00", "-2026-03-29T03:00"],
            id="six hours in the night of spring end at 5, not at 4",
        ),
        pytest.param(
            "Europe/Berlin",
            weekly("sun", "02:30", 6 * HOUR),
            "2026-03-28T00:00",
            ["+2026-03-29T01:00", "-2026-03-29T07:00", "+2026-04-05T00:30"],
            id="a start that the clocks skip is when they have been put forward",
        ),
        pytest.param(
            "Europe/Berlin",
            weekly("sat", "22:00", 6 * HOUR),
            "2026-10-24T00:00",
            ["+2026-10-24T20:00", "-2026-10-25T02:00"],
            id="six hours in the night of autumn end at 3, not at 4",
        ),
        pytest.param(
            "Europe/Berlin",
            weekly("sun", "02:30", 10 * MINUTE),
            "2026-10-24T00:00",
            ["+2026-10-25T00:30", "-2026-10-25T00:40", "+2026-11-01T01:30"],
            id="a start that the clocks show twice is the first one only",
        ),
        pytest.param(
            "America/New_York",
            weekly("sun", "02:15", HOUR),
            "2026-03-07T00:00",
            ["+2026-03-08T07:00", "-2026-03-08T08:00"],
            id="New York in spring",
        ),
        pytest.param(
            "America/New_York",
            weekly("sun", "01:30", 3 * HOUR),
            "2026-10-31T00:00",
            ["+2026-11-01T05:30", "-2026-11-01T08:30"],
            id="New York in autumn",
        ),
        pytest.param(
            "Australia/Lord_Howe",
            weekly("sun", "02:15", HOUR),
            "2026-10-02T00:00",
            ["+2026-10-03T15:30", "-2026-10-03T16:30"],
            id="half an hour is skipped",
        ),
        pytest.param(
            "Australia/Lord_Howe",
            weekly("sun", "01:45", HOUR),
            "2026-04-03T00:00",
            ["+2026-04-04T14:45", "-2026-04-04T15:45"],
            id="half an hour comes twice",
        ),
        pytest.param(
            "America/Sao_Paulo",
            weekly("sun", "00:00", HOUR),
            "2018-11-02T00:00",
            ["+2018-11-04T03:00", "-2018-11-04T04:00"],
            id="midnight is skipped",
        ),
        pytest.param(
            "America/Sao_Paulo",
            weekly("sat", "23:30", HOUR),
            "2019-02-15T00:00",
            ["+2019-02-17T01:30", "-2019-02-17T02:30", "+2019-02-24T02:30"],
            id="the hour before midnight comes twice",
        ),
        pytest.param(
            "Pacific/Apia",
            weekly("fri", "22:00", HOUR),
            "2011-12-28T00:00",
            ["+2011-12-30T10:00", "-2011-12-30T11:00", "+2012-01-06T08:00"],
            id="a whole day is skipped",
        ),
        pytest.param(
            "Europe/Berlin",
            weekly("sat sun", "00:00", DAY),
            "2026-03-27T12:00",
            ["+2026-03-27T23:00", "-2026-03-29T23:00"],
            id="two days that touch are one window; the one of 23 hours is overrun",
        ),
        pytest.param(
            "Europe/Berlin",
            weekly("sat sun mon", "00:00", DAY),
            "2026-10-23T12:00",
            ["+2026-10-23T22:00", "-2026-10-25T22:00", "+2026-10-25T23:00", "-2026-10-26T23:00"],
            id="a day of 25 hours has one that a window of 24 leaves out",
        ),
        pytest.param(
            "UTC",
            weekly("mon tue wed thu fri sat sun", "06:00", DAY),
            "2026-11-23T00:00",
            ["never"],
            id="always",
        ),
        pytest.param(
            "UTC",
            weekly("mon", "06:00", 7 * DAY),
            "2026-11-29T00:00",
            ["never"],
            id="always, by one that is as long as the week",
        ),
        pytest.param(
            "UTC",
            weekly("mon", "06:00", 5 * DAY),
            "2026-11-28T00:00",
            ["-2026-11-28T06:00", "+2026-11-30T06:00"],
            id="open since days ago",
        ),
    ],
)
def test_weekly_windows_by_hand(
    zone: str, period: WeeklyPeriod, since: str, expected: list[str]
) -> None:
    """A weekly window opens by the clocks of its zone, once each time, and stays open for its real duration."""
    policy = windows(Calendar(time_zone=zone, weekly=[period]))
    assert changes(policy, since, len(expected)) == expected


@pytest.mark.parametrize(
    ("zone", "start", "opens"),
    [
        ("Europe/Berlin", "2026-12-24T18:00", "2026-12-24T17:00"),
        ("Europe/Berlin", "2026-03-29T02:00", "2026-03-29T01:00"),
        ("Europe/Berlin", "2026-03-29T02:59", "2026-03-29T01:00"),
        ("Europe/Berlin", "2026-03-29T03:00", "2026-03-29T01:00"),
        ("Europe/Berlin", "2026-10-25T02:00", "2026-10-25T00:00"),
        ("Europe/Berlin", "2026-10-25T02:59", "2026-10-25T00:59"),
        ("Europe/Berlin", "2026-10-25T03:00", "2026-10-25T02:00"),
        ("Europe/Dublin", "2026-03-29T01:30", "2026-03-29T01:00"),
        ("Antarctica/Troll", "2026-03-29T01:30", "2026-03-29T01:00"),
        ("Europe/Berlin", "2090-07-01T00:00", "2090-06-30T22:00"),
    ],
)
def test_dated_windows_by_hand(zone: str, start: str, opens: str) -> None:
    """A dated window opens once, at its local time, the first one there is, and never again."""
    period = DatedPeriod(start=start, duration=6 * HOUR)
    policy = windows(Calendar(time_zone=zone, dated=[period]))
    closes = utc(opens) + 6 * HOUR
    expected = [f"+{opens}", f"-{closes:%Y-%m-%dT%H:%M}", "never"]
    assert changes(policy, f"{utc(opens) - 3 * DAY:%Y-%m-%dT%H:%M}", 3) == expected


def test_windows_of_both_kinds_that_touch_are_one() -> None:
    """A dated window that begins where a weekly one ends is no place to close, nor to keep free of work."""
    calendar = Calendar(
        time_zone="Europe/Berlin",
        weekly=[weekly("sat", "20:00", 4 * HOUR)],
        dated=[DatedPeriod(start="2026-11-29T00:00", duration=2 * HOUR)],
    )
    expected = ["+2026-11-28T19:00", "-2026-11-29T00:00", "+2026-12-05T19:00", "-2026-12-05T22:00"]
    assert changes(windows(calendar, cutoff=HOUR), "2026-11-23T00:00", 4) == expected


def test_a_freeze_wins_over_windows() -> None:
    """Nothing opens in a freeze; a window goes on where the freeze ends inside of it."""
    calendar = Calendar(
        time_zone="Europe/Berlin",
        weekly=[weekly("fri", "22:00", 8 * HOUR)],
        freezes=[
            DatedPeriod(start="2026-11-27T00:00", duration=DAY),
            DatedPeriod(start="2026-12-04T23:00", duration=HOUR),
        ],
    )
    expected = ["+2026-11-27T23:00", "-2026-11-28T05:00", "+2026-12-04T21:00", "-2026-12-04T22:00"]
    assert changes(windows(calendar), "2026-11-23T00:00", 5) == [*expected, "+2026-12-04T23:00"]


def test_a_calendar_of_freezes_is_open_otherwise() -> None:
    """Without windows a calendar is open before, between and for ever after its freezes."""
    calendar = Calendar(
        time_zone="UTC",
        freezes=[
            DatedPeriod(start="2026-12-19T00:00", duration=10 * DAY),
            DatedPeriod(start="2026-12-26T00:00", duration=10 * DAY),
        ],
    )
    expected = ["-2026-12-19T00:00", "+2027-01-05T00:00", "never"]
    assert changes(windows(calendar), "2026-11-23T00:00", 3) == expected
    # What must be finished before a window closes must be finished before a freeze, too.
    assert changes(windows(calendar, cutoff=DAY), "2026-11-23T00:00", 1) == ["-2026-12-18T00:00"]


def test_all_calendars_must_be_open() -> None:
    """Two calendars with clocks of their own are open where both are."""
    berlin = Calendar(time_zone="Europe/Berlin", weekly=[weekly("sat", "22:00", 6 * HOUR)])
    york = Calendar(time_zone="America/New_York", weekly=[weekly("sat", "18:00", 6 * HOUR)])
    late = Calendar(time_zone="Europe/Berlin", weekly=[weekly("sun", "04:00", HOUR)])
    expected = ["+2026-11-28T23:00", "-2026-11-29T03:00", "+2026-12-05T23:00"]
    assert changes(windows(berlin, york), "2026-11-23T00:00", 3) == expected
    # In October the clocks of Berlin change a week before those of New York.
    assert changes(windows(berlin, york), "2026-10-31T00:00", 2) == [
        "+2026-10-31T22:00",
        "-2026-11-01T03:00",
    ]
    # One opens when the other closes: they share a moment only in spring, in the night of 23 hours.
    assert changes(windows(berlin, late), "2026-11-23T00:00", 3) == [
        "+2027-03-28T02:00",
        "-2027-03-28T03:00",
        "+2028-03-26T02:00",
    ]


@pytest.mark.parametrize(
    ("cutoff", "host_duration", "last"),
    [
        (0 * HOUR, 0 * HOUR, "2026-11-29T03:00"),
        (HOUR, 0 * HOUR, "2026-11-29T02:00"),
        (0 * HOUR, 90 * MINUTE, "2026-11-29T01:30"),
        (HOUR, 90 * MINUTE, "2026-11-29T00:30"),
        (HOUR, timedelta(hours=4, minutes=59), "2026-11-28T21:01"),
        (timedelta(seconds=1), timedelta(0), "2026-11-29T02:59:59"),
    ],
)
def test_a_host_starts_only_if_it_is_done_before_the_cutoff(
    cutoff: timedelta, host_duration: timedelta, last: str
) -> None:
    """The last start is the host's duration and the cutoff before the close; at that moment it is too late."""
    calendar = Calendar(time_zone="Europe/Berlin", weekly=[weekly("sat", "22:00", 6 * HOUR)])
    policy = windows(calendar, cutoff=cutoff, host_duration=host_duration)
    expected = ["+2026-11-28T21:00", f"-{last}"]
    assert changes(policy, "2026-11-28T00:00", 2) == expected


def test_a_host_that_fits_nowhere_never_starts() -> None:
    """If no window is longer than what a host needs, there is no opening, and the reason says that."""
    calendar = Calendar(time_zone="UTC", weekly=[weekly("sat", "22:00", 6 * HOUR)])
    policy = windows(calendar, cutoff=HOUR, host_duration=5 * HOUR)
    outside = starts_allowed(policy, utc("2026-11-23T00:00"))
    assert (outside.open, outside.until) == (False, None)
    assert outside.reason == (
        "closed, and no opening in the next 400 days: calendar 1 is outside its windows; nothing is open "
        "for longer than host_duration and cutoff, 6:00:00"
    )
    inside = starts_allowed(policy, utc("2026-11-28T22:00"))
    assert (inside.open, inside.until) == (False, None)


def test_the_horizon() -> None:
    """A change in 400 days is seen; one behind that is none, and its reason says how far it was looked."""
    now = utc("2026-01-01T00:00")
    for later, seen in ((HORIZON, True), (HORIZON + MINUTE, False)):
        start = f"{now + later:%Y-%m-%dT%H:%M}"
        period = DatedPeriod(start=start, duration=HOUR)
        opens = starts_allowed(windows(Calendar(time_zone="UTC", dated=[period])), now)
        closes = starts_allowed(windows(Calendar(time_zone="UTC", freezes=[period])), now)
        assert (opens.open, closes.open) == (False, True)
        assert opens.until == closes.until == (now + later if seen else None)
        assert ("400 days" in opens.reason, "400 days" in closes.reason) == (not seen, not seen)


# Reasons


def test_reasons_by_hand() -> None:
    """People read until when, on the clocks of the calendar that makes it so, and which one that is."""
    nights = weekly("sat", "22:00", 6 * HOUR)
    freeze = DatedPeriod(start="2026-12-05T00:00", duration=7 * DAY)
    policy = windows(
        Calendar(time_zone="Europe/Berlin", weekly=[nights], name="shop"),
        Calendar(time_zone="America/New_York", freezes=[freeze]),
        cutoff=30 * MINUTE,
        host_duration=HOUR,
    )

    def reason(now: str) -> str:
        return starts_allowed(policy, utc(now)).reason

    assert reason("2026-11-27T00:00") == (
        "closed until Sat 2026-11-28 22:00 Europe/Berlin: shop is outside its windows"
    )
    assert reason("2026-11-28T22:00") == (
        "open until Sun 2026-11-29 02:30 Europe/Berlin: shop closes Sun 2026-11-29 04:00 Europe/Berlin, "
        "a host needs 1:30:00 before that"
    )
    assert reason("2026-11-29T02:00") == (
        "closed until Sat 2026-12-12 22:00 Europe/Berlin: shop closes Sun 2026-11-29 04:00 Europe/Berlin, "
        "a host needs 1:30:00 before that"
    )
    assert reason("2026-12-06T00:00") == (
        "closed until Sat 2026-12-12 16:00 America/New_York: calendar 2 is frozen"
    )
    assert reason("2026-12-07T00:00") == (
        "closed until Sat 2026-12-12 22:00 Europe/Berlin: shop is outside its windows and calendar 2 is "
        "frozen"
    )


def test_reasons_without_a_reserve_or_a_change() -> None:
    """What closes with the window says so; a time that the clocks show twice has its offset."""
    calendar = Calendar(time_zone="Europe/Berlin", weekly=[weekly("sat", "22:00", 5 * HOUR)])
    assert starts_allowed(windows(calendar), utc("2026-10-24T22:00")).reason == (
        "open until Sun 2026-10-25 02:00+01:00 Europe/Berlin: calendar 1 closes then"
    )
    past = Calendar(time_zone="UTC", freezes=[DatedPeriod(start="2026-01-01T00:00", duration=DAY)])
    assert starts_allowed(windows(past), utc("2026-10-24T22:00")).reason == (
        "open: it does not close in the next 400 days"
    )


# Any policy, against a clock that is read minute by minute

ZONES = [
    "UTC", "Europe/Berlin", "Europe/Dublin", "America/New_York", "America/St_Johns", "Asia/Kolkata",
    "Asia/Kathmandu", "Asia/Gaza", "Africa/Casablanca", "Australia/Lord_Howe", "Pacific/Chatham",
    "Pacific/Apia", "America/Sao_Paulo", "Antarctica/Troll", "America/Asuncion", "Africa/Cairo",
]  # fmt: skip
BEFORE, AFTER = 5 * DAY, 3 * DAY


@cache
def clock_changes(zone: str, year: int) -> list[datetime]:
    """The hours of a year in which the zone's clocks change."""

    def offset(moment: datetime) -> timedelta | None:
        return moment.astimezone(ZoneInfo(zone)).utcoffset()

    days = [utc(f"{year}-01-01T00:00") + day * DAY for day in range(366)]
    changing = [day for day in days if offset(day) != offset(day + DAY)]
    hours = [day + hour * HOUR for day in changing for hour in range(24)]
    return [hour + HOUR for hour in hours if offset(hour) != offset(hour + HOUR)]


minutes = st.integers(1, 3 * 24 * 60) | st.sampled_from([60, 6 * 60, 24 * 60, 48 * 60])
durations = minutes.map(lambda each: each * MINUTE)
times = (st.integers(0, 24 * 60 - 1) | st.integers(0, 7).map(lambda each: each * 30)).map(
    lambda each: f"{each // 60:02}:{each % 60:02}"
)
weekly_periods = st.builds(
    WeeklyPeriod,
    days=st.sets(st.sampled_from(WEEKDAYS), min_size=1),
    start=times,
    duration=durations,
)
dated_starts = st.tuples(st.integers(-3, 3), times) | st.integers(-60, 60)
"""Some day near a given moment and a time, or so many minutes after what the clock shows before it."""
dated_periods = st.lists(st.tuples(dated_starts, durations), max_size=2)
reserves = st.just(timedelta(0)) | st.integers(0, 300).map(lambda each: each * MINUTE)
all_zones = st.sampled_from(sorted(available_timezones() - {"Factory", "localtime"}))


@st.composite
def calendars(draw: st.DrawFn, zone: str, around: datetime) -> Calendar:
    """Calendars that have something to say in the days around a moment."""

    def dated() -> list[DatedPeriod]:
        shown = (around - MINUTE).astimezone(ZoneInfo(zone)) + MINUTE
        found: list[DatedPeriod] = []
        for when, duration in draw(dated_periods):
            if isinstance(when, int):
                start = f"{shown.replace(tzinfo=None) + when * MINUTE:%Y-%m-%dT%H:%M}"
            else:
                start = f"{around + when[0] * DAY:%Y-%m-%d}T{when[1]}"
            found.append(DatedPeriod(start=start, duration=duration))
        return found

    weekly, windows, freezes = draw(st.lists(weekly_periods, max_size=3)), dated(), dated()
    if not (weekly or windows or freezes):
        windows = [DatedPeriod(start=f"{around:%Y-%m-%dT%H:%M}", duration=HOUR)]
    return Calendar(time_zone=zone, weekly=weekly, dated=windows, freezes=freezes)


@st.composite
def moments_and_policies(draw: st.DrawFn) -> tuple[datetime, MaintenanceWindows]:
    """A moment, often the hour in which clocks change, and a policy for the days around it."""
    zone, year = draw(st.sampled_from(ZONES)), draw(st.sampled_from([2006, 2018, 2026, 2040]))
    changing = clock_changes(zone, year)
    around = utc(f"{year}-01-01T00:00") + draw(st.integers(0, 365 * 24)) * HOUR
    at_change = draw(st.booleans())
    if changing and at_change:
        around = draw(st.sampled_from(changing))
    others = st.one_of(st.just(zone), st.sampled_from(ZONES), all_zones)
    policy = MaintenanceWindows(
        calendars=[
            draw(calendars(each, around)) for each in [zone, *draw(st.lists(others, max_size=2))]
        ],
        cutoff=draw(reserves),
        host_duration=draw(reserves),
    )
    event("the clocks change" if around in changing else "any hour")
    return around, policy


def starts_by_the_minute(policy: MaintenanceWindows, around: datetime) -> list[bool]:
    """For each minute of the days before and after a moment: whether a host may start."""
    reserve = (policy.cutoff + policy.host_duration) // MINUTE
    first = around - BEFORE
    minutes = [first + each * MINUTE for each in range((BEFORE + AFTER) // MINUTE + reserve + 1)]
    open_in_all = [True] * len(minutes)
    for calendar in policy.calendars:
        zone = ZoneInfo(calendar.time_zone)
        shown = [each.astimezone(zone).replace(tzinfo=None, fold=0) for each in minutes]
        latest = list(shown)  # what the clock has shown at most: unlike itself, it never goes back
        for each in range(1, len(latest)):
            latest[each] = max(latest[each], latest[each - 1])

        def covered(starts: list[tuple[datetime, timedelta]], latest: list[datetime]) -> list[bool]:
            marked = [False] * len(latest)
            for start, duration in starts:
                if start > latest[0]:
                    begin = bisect_left(latest, start)  # the first minute that shows it, or more
                    for each in range(begin, min(begin + duration // MINUTE, len(latest))):
                        marked[each] = True
            return marked

        frozen = covered(
            [(datetime.fromisoformat(one.start), one.duration) for one in calendar.freezes], latest
        )
        starts = [(datetime.fromisoformat(one.start), one.duration) for one in calendar.dated]
        for one in calendar.weekly:
            day = shown[0].date() - DAY
            while day <= latest[-1].date():
                if WEEKDAYS[day.weekday()] in one.days:
                    starts.append(
                        (datetime.combine(day, time.fromisoformat(one.start)), one.duration)
                    )
                day += DAY
        always = not (calendar.weekly or calendar.dated)
        inside = [True] * len(minutes) if always else covered(starts, latest)
        for each in range(len(minutes)):
            open_in_all[each] = open_in_all[each] and inside[each] and not frozen[each]
    # A host that starts needs this minute and all of its reserve.
    closed, found = len(minutes), [False] * len(minutes)
    for each in reversed(range(len(minutes))):
        closed = closed if open_in_all[each] else each
        found[each] = closed > each + reserve
    return found[: (BEFORE + AFTER) // MINUTE]


@pytest.mark.parametrize("zone", ZONES)
def test_a_start_is_the_first_moment_at_which_the_clock_shows_it_or_more(zone: str) -> None:
    """Around every change of a zone's clocks, each local time is where a clock read by the minute has it."""
    for year in (2006, 2011, 2018, 2026, 2040):
        for change in clock_changes(zone, year):
            moments = [change + each * MINUTE for each in range(-30 * 60, 30 * 60)]
            shown = [
                each.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0) for each in moments
            ]
            for minutes in range(-120, 150, 15):
                local = shown[29 * 60] + HOUR + minutes * MINUTE
                first = next(
                    each for each, seen in zip(moments, shown, strict=True) if seen >= local
                )
                period = DatedPeriod(start=f"{local:%Y-%m-%dT%H:%M}", duration=HOUR)
                policy = windows(Calendar(time_zone=zone, dated=[period]))
                assert starts_allowed(policy, first - 3 * HOUR).until == first
                assert starts_allowed(policy, first).until == first + HOUR


@pytest.mark.volume
@given(moments_and_policies(), st.data())
def test_any_policy_is_what_the_clocks_say_minute_by_minute(
    made: tuple[datetime, MaintenanceWindows], data: st.DataObject
) -> None:
    """Every minute is open or closed as the clocks say, and ``until`` is the first that is otherwise."""
    around, policy = made
    expected = starts_by_the_minute(policy, around)
    # The days before are for what began in them: a period lasts up to three days, a zone adds one.
    first = around - BEFORE
    minute, opened = (BEFORE - DAY) // MINUTE, 0
    while minute < len(expected):
        now = first + minute * MINUTE
        opening = starts_allowed(policy, now)
        until = opening.until
        assert until is None or until.utcoffset() == timedelta(0)
        change = len(expected) if until is None else min((until - first) // MINUTE, len(expected))
        assert change > minute
        assert expected[minute:change] == [opening.open] * (change - minute)
        if until is not None:
            assert until == first + (until - first) // MINUTE * MINUTE
            # Seen from anywhere before, by any clock, the answer is the same.
            inside = now + (until - now) * data.draw(st.floats(0, 0.999))
            elsewhere = inside.astimezone(ZoneInfo(policy.calendars[-1].time_zone))
            again = starts_allowed(policy, elsewhere)
            assert (again.open, again.until) == (opening.open, until)
            last = starts_allowed(policy, until - timedelta.resolution)
            assert (last.open, last.until) == (opening.open, until)
            if change < len(expected):
                assert expected[change] is not opening.open
        opened += opening.open
        minute = change
    event(f"opened {min(opened, 3)} times")


@given(moments_and_policies())
def test_one_more_freeze_opens_nothing(made: tuple[datetime, MaintenanceWindows]) -> None:
    """A freeze, a longer cutoff or one more calendar only ever closes; one more window only ever opens."""
    around, policy = made
    calendar = policy.calendars[0]
    one = DatedPeriod(start=f"{around:%Y-%m-%dT%H:%M}", duration=6 * HOUR)
    less = [
        attrs.evolve(
            policy,
            calendars=[
                attrs.evolve(calendar, freezes=[*calendar.freezes, one]),
                *policy.calendars[1:],
            ],
        ),
        attrs.evolve(policy, cutoff=policy.cutoff + HOUR),
        attrs.evolve(policy, calendars=[*policy.calendars, attrs.evolve(calendar, freezes=[one])]),
    ]
    windows = [*calendar.dated, one]
    more = attrs.evolve(
        policy, calendars=[attrs.evolve(calendar, dated=windows), *policy.calendars[1:]]
    )
    for hour in (-24, -7, 0, 5):
        now = around + hour * HOUR
        is_open = starts_allowed(policy, now).open
        for each in less:
            assert is_open or not starts_allowed(each, now).open
        if calendar.weekly or calendar.dated:
            assert starts_allowed(more, now).open or not is_open


# What people write


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: weekly("", "22:00", HOUR), "'days' must have at least 1 (got [])"),
        (lambda: weekly("sat sat", "22:00", HOUR), "'days' must not name 'sat' twice"),
        (lambda: weekly("Sat", "22:00", HOUR), "(got 'Sat'), did you mean 'sat'?"),
        (
            lambda: weekly("sat", "24:00", HOUR),
            "'start' must be a local time from '00:00' to '23:59', like '22:00' (got '24:00')",
        ),
        (lambda: weekly("sat", "9:00", HOUR), "(got '9:00')"),
        (lambda: weekly("sat", "22:00\n", HOUR), "(got '22:00\\n')"),
        (lambda: weekly("sat", "22:00", timedelta(0)), "'duration' must be > 0 seconds"),
        (lambda: weekly("sat", "22:00", 8 * DAY), "'duration' must be <= 7 days"),
        (
            lambda: DatedPeriod(start="2026-12-24", duration=HOUR),
            "'start' must be a local time like '2026-12-24T18:00', without seconds or offset "
            "(got '2026-12-24')",
        ),
        (
            lambda: DatedPeriod(start="2026-12-24T18:00+01:00", duration=HOUR),
            "without seconds or offset (got '2026-12-24T18:00+01:00')",
        ),
        (lambda: DatedPeriod(start="2026-02-29T18:00", duration=HOUR), "day is out of range"),
        (
            lambda: DatedPeriod(start="0026-12-24T18:00", duration=HOUR),
            "'start' must be in the years 2000 to 2999 (got '0026-12-24T18:00')",
        ),
        (
            lambda: DatedPeriod(start=datetime(2026, 12, 24), duration=HOUR),  # type: ignore[arg-type]
            "(got datetime.datetime(2026, 12, 24, 0, 0))",
        ),
        (lambda: DatedPeriod(start="2026-12-24T18:00", duration=-HOUR), "'duration' must be > 0"),
        (
            lambda: Calendar(time_zone="UTC"),
            "'weekly', 'dated' or 'freezes' must have an entry: a calendar without any says nothing",
        ),
        (
            lambda: Calendar(time_zone="Europe/Berlim", weekly=[NIGHT]),
            "'time_zone' must be an IANA time zone like 'Europe/Berlin' (got 'Europe/Berlim'), "
            "did you mean 'Europe/Berlin'?",
        ),
        (lambda: Calendar(time_zone="Europe", weekly=[NIGHT]), "(got 'Europe')"),
        (lambda: Calendar(time_zone="", weekly=[NIGHT]), "(got '')"),
        (lambda: Calendar(time_zone="../passwd", weekly=[NIGHT]), "(got '../passwd')"),
        (lambda: Calendar(time_zone="a\0b", weekly=[NIGHT]), "(got 'a\\x00b')"),
        (lambda: Calendar(time_zone="x" * 300, weekly=[NIGHT]), "must be an IANA time zone"),
        (lambda: Calendar(time_zone="\udcff", weekly=[NIGHT]), "must be an IANA time zone"),
        (lambda: Calendar(time_zone="localtime", weekly=[NIGHT]), "(got 'localtime')"),
        (lambda: Calendar(time_zone="right/UTC", weekly=[NIGHT]), "(got 'right/UTC')"),
        (lambda: Calendar(time_zone=1, weekly=[NIGHT]), "(got 1)"),  # type: ignore[arg-type]
        (
            lambda: Calendar(time_zone="UTC", weekly=[NIGHT] * (MAX_WEEKLY + 1)),
            "'weekly' must have at most 10 entries (got 11)",
        ),
        (
            lambda: Calendar(time_zone="UTC", dated=[CHRISTMAS] * (MAX_DATED + 1)),
            "'dated' must have at most 200 entries (got 201)",
        ),
        (
            lambda: Calendar(time_zone="UTC", freezes=[CHRISTMAS] * (MAX_DATED + 1)),
            "'freezes' must have at most 200 entries (got 201)",
        ),
        (
            lambda: Calendar(time_zone="UTC", freezes=[NIGHT]),  # type: ignore[list-item]
            "'freezes[0]' must be a DatedPeriod",
        ),
        (lambda: windows(), "'calendars' must have at least 1 (got [])"),
        (
            lambda: windows(*[NIGHTS] * (MAX_CALENDARS + 1)),
            "'calendars' must have at most 5 entries (got 6)",
        ),
        (lambda: windows(NIGHTS, cutoff=-HOUR), "'cutoff' must be >= 0 seconds"),
        (lambda: windows(NIGHTS, cutoff=30), "'cutoff' must be a timedelta (got 30)"),
        (lambda: windows(NIGHTS, host_duration=8 * DAY), "'host_duration' must be <= 7 days"),
        (
            lambda: windows(NIGHTS, on_window_close="pause"),
            "'on_window_close' must be in ('stop', 'wait') (got 'pause')",
        ),
    ],
)
def test_what_is_refused(wrong: Any, said: str) -> None:
    """What makes no sense is refused when it is written, with the field, the value and what is allowed."""
    with pytest.raises(InvalidRequest) as refused:
        wrong()
    assert said in str(refused.value)


def test_a_moment_without_a_zone_is_refused() -> None:
    """Nobody knows which moment a naive time is."""
    with pytest.raises(ValueError, match="'now' must have a time zone"):
        starts_allowed(windows(NIGHTS), datetime(2026, 11, 28, 22, 0))


def test_a_policy_as_json() -> None:
    """A policy is JSON that can be read and written by hand, and comes back as it was."""
    policy = windows(
        Calendar(time_zone="Europe/Berlin", name="shop", weekly=[NIGHT], freezes=[CHRISTMAS]),
        cutoff=30 * MINUTE,
        on_window_close="wait",
    )
    written = to_json(policy)
    assert written == {
        "calendars": [
            {
                "time_zone": "Europe/Berlin",
                "name": "shop",
                "weekly": [{"days": ["sat"], "start": "22:00", "duration": "6h"}],
                "dated": [],
                "freezes": [{"start": "2026-12-24T18:00", "duration": "3d"}],
            }
        ],
        "cutoff": "30m",
        "host_duration": "0s",
        "on_window_close": "wait",
        "approval_valid_for": None,
    }
    assert from_json(json.loads(json.dumps(written)), MaintenanceWindows) == policy
    written["calendars"][0]["time_zone"] = "Europe/Berlim"
    written["calendars"][0]["weekly"][0] = {"days": ["sun"], "start": "2:00", "duration": "6h"}
    with pytest.raises(InvalidRequest) as refused:
        from_json(written, MaintenanceWindows)
    assert "(got 'Europe/Berlim'), did you mean 'Europe/Berlin'? @ $.calendars[0].time_zone" in str(
        refused.value
    )
    assert "(got '2:00') @ $.calendars[0].weekly[0].start" in str(refused.value)


@given(moments_and_policies())
def test_any_policy_travels(made: tuple[datetime, MaintenanceWindows]) -> None:
    """Every policy, and what it means at a moment, comes back from JSON as it was."""
    around, policy = made
    assert from_json(json.loads(json.dumps(to_json(policy))), MaintenanceWindows) == policy
    opening = starts_allowed(policy, around)
    assert from_json(json.loads(json.dumps(to_json(opening))), type(opening)) == opening


def test_a_machine_without_time_zones() -> None:
    """UTC is known everywhere; another zone is refused with what to install."""
    code = """if True:
        import sys; sys.modules["tzdata"] = None
        from datetime import timedelta
        from temporal_patching.policy._window import Calendar, DatedPeriod
        freezes = [DatedPeriod(start="2026-12-24T18:00", duration=timedelta(days=3))]
        print(Calendar(time_zone="UTC", freezes=freezes).time_zone)
        try:
            Calendar(time_zone="Europe/Berlin", freezes=freezes)
        except Exception as error:
            print(error)
    """
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONTZPATH": ""},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    first, second = run.stdout.splitlines()
    assert first == "UTC"
    assert "this machine has no time zones at all: pip install tzdata" in second


def test_the_most_that_a_policy_may_hold_is_worked_out_in_time() -> None:
    """The largest policy that never opens takes a fraction of the seconds that a workflow task has."""
    busy = [weekly(" ".join(WEEKDAYS), f"{each:02}:00", HOUR) for each in range(MAX_WEEKLY)]
    calendar = Calendar(
        time_zone="Europe/Berlin",
        weekly=busy,
        dated=[CHRISTMAS] * MAX_DATED,
        freezes=[CHRISTMAS] * (MAX_DATED - 1)
        + [DatedPeriod(start="2026-11-01T00:00", duration=500 * DAY)],
    )
    policy = windows(*[calendar] * MAX_CALENDARS)
    began = process_time()
    assert starts_allowed(policy, utc("2026-11-23T00:00")).until is None
    assert process_time() - began < 1.5


def test_examples() -> None:
    """The examples of the docstrings run."""
    assert doctest.testmod(_window) == (0, 8)
