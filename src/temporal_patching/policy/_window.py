"""When hosts may start: maintenance windows and freezes, on the clocks of a time zone.

People write local times; all that is computed is UTC. A start is looked up in the zone's rules, and a
duration is then counted in real time from there: a window of six hours is six hours long, also in the
night in which the clocks change.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta, timezone, tzinfo
from itertools import chain
from typing import Literal, TypeAlias, cast, final, get_args
from zoneinfo import ZoneInfo, available_timezones

import attrs

from ._rules import (
    Checked,
    Rule,
    at_most,
    did_you_mean,
    distinct,
    each,
    frozen,
    instance_of,
    must,
    one_of,
    optional,
    positive,
    string,
)

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
"""A day of the week, on the clocks of the calendar's time zone."""

OnWindowClose = Literal["stop", "wait"]
"""What becomes of the hosts that have not started when the windows close."""

WEEKDAYS: tuple[Weekday, ...] = get_args(Weekday)

HORIZON = timedelta(days=400)
"""How far ahead the next change is looked for."""

WEEK = timedelta(days=7)

NEAR = timedelta(days=30)
"""How far ahead it is looked for first: mostly that is enough, and a tenth of the work."""

MAX_CALENDARS = 5
MAX_WEEKLY = 10
MAX_DATED = 200
"""Entries: the openings of the whole horizon must be worked out in a fraction of a workflow task."""

_TIME_OF_DAY = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]")
_LOCAL_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}")
_YEARS = range(2000, 3000)

_NO_ZONE = re.compile(r"localtime|posixrules|Factory|(?:posix|right)/.*|.*\0.*", re.DOTALL)
"""Files beside the zones: what they mean is another thing on every machine."""

_Span: TypeAlias = "tuple[datetime, datetime]"
"""From the first moment, included, to the second, not included; both UTC."""

_DAWN = datetime(1, 1, 2, tzinfo=timezone.utc)
_DUSK = datetime(9999, 12, 30, tzinfo=timezone.utc)


# What people write


def as_weekdays(entries: Iterable[Weekday]) -> tuple[Weekday, ...]:
    """Freezes a list of days."""
    return cast("tuple[Weekday, ...]", frozen(entries))


def as_weekly(entries: Iterable[WeeklyPeriod]) -> tuple[WeeklyPeriod, ...]:
    """Freezes a list of weekly periods."""
    return cast("tuple[WeeklyPeriod, ...]", frozen(entries))


def as_dated(entries: Iterable[DatedPeriod]) -> tuple[DatedPeriod, ...]:
    """Freezes a list of dated periods."""
    return cast("tuple[DatedPeriod, ...]", frozen(entries))


def as_calendars(entries: Iterable[Calendar]) -> tuple[Calendar, ...]:
    """Freezes a list of calendars."""
    return cast("tuple[Calendar, ...]", frozen(entries))


def _time_of_day(name: str, value: object) -> Iterator[str]:
    if not (isinstance(value, str) and _TIME_OF_DAY.fullmatch(value)):
        yield f"{name!r} must be a local time from '00:00' to '23:59', like '22:00' (got {value!r})"


def _local_time(name: str, value: object) -> Iterator[str]:
    form = "a local time like '2026-12-24T18:00', without seconds or offset"
    if not (isinstance(value, str) and _LOCAL_TIME.fullmatch(value)):
        yield f"{name!r} must be {form} (got {value!r})"
        return
    try:
        year = datetime.fromisoformat(value).year
    except ValueError as error:
        yield f"{name!r} must be {form} (got {value!r}: {error})"
        return
    if year not in _YEARS:
        yield f"{name!r} must be in the years {_YEARS[0]} to {_YEARS[-1]} (got {value!r})"


def _time_zone(name: str, value: object) -> Iterator[str]:
    form = "an IANA time zone like 'Europe/Berlin'"
    if not isinstance(value, str):
        yield f"{name!r} must be {form} (got {value!r})"
        return
    try:
        _zone(value)
    except (KeyError, ValueError, OSError):  # unknown, no name, no file
        known = [each for each in available_timezones() if not _NO_ZONE.fullmatch(each)]
        if known:
            yield f"{name!r} must be {form} (got {value!r}){did_you_mean(value, known)}"
        else:
            yield (
                f"{name!r} must be {form} (got {value!r}), but this machine has no time zones at all: "
                "pip install tzdata, here and where the workers run"
            )


def _up_to(longest: timedelta) -> Rule:
    def rule(name: str, value: object) -> Iterator[str]:
        if isinstance(value, timedelta) and value > longest:
            yield f"{name!r} must be <= {longest.days} days (got {value!r})"

    return rule


def _not_negative(name: str, value: object) -> Iterator[str]:
    if not isinstance(value, timedelta):
        yield f"{name!r} must be a timedelta (got {value!r})"
    elif value < timedelta(0):
        yield f"{name!r} must be >= 0 seconds (got {value!r})"


def _entries(most: int) -> Rule:
    def rule(name: str, value: object) -> Iterator[str]:
        if isinstance(value, tuple):
            found = len(cast("tuple[object, ...]", value))
            if found > most:
                yield f"{name!r} must have at most {most} entries (got {found})"

    return rule


@final
@attrs.frozen(kw_only=True)
class WeeklyPeriod(Checked):
    """A time that comes every week, on one day or on several.

    Args:
        days: The days on which it starts: ``"mon"`` to ``"sun"``. At least one.
        start: The local time of day at which it starts, ``"00:00"`` to ``"23:59"``. On a day on which the
            clocks skip that time, it starts when they have been put forward; on one on which they show
            it twice, it starts the first time, and once.
        duration: How long it lasts, in real time, up to 7 days: it may go on past midnight and into the
            next week, and it ends an hour earlier or later on the clock if they change meanwhile.

    Raises:
        InvalidRequest: A field is not valid; it names all that are not.

    Example:
        >>> WeeklyPeriod(days=["sat", "sun"], start="22:00", duration=timedelta(hours=6)).days
        ('sat', 'sun')
    """

    days: tuple[Weekday, ...] = attrs.field(
        converter=as_weekdays, metadata=must(each(one_of(*WEEKDAYS), least=1), distinct)
    )
    start: str = attrs.field(metadata=must(_time_of_day))
    duration: timedelta = attrs.field(metadata=must(positive, _up_to(WEEK)))


@final
@attrs.frozen(kw_only=True)
class DatedPeriod(Checked):
    """A time that comes once.

    Args:
        start: The local date and time at which it starts, like ``"2026-12-24T18:00"``: no seconds, and no
            offset, since the calendar has a time zone. What the clocks skip or show twice is as for
            ``WeeklyPeriod``.
        duration: How long it lasts, in real time: 7 days are 168 hours, also if the clocks change.

    Raises:
        InvalidRequest: A field is not valid; it names all that are not.

    Example:
        >>> DatedPeriod(start="2026-12-24T18:00", duration=timedelta(days=10)).start
        '2026-12-24T18:00'
    """

    start: str = attrs.field(metadata=must(_local_time))
    duration: timedelta = attrs.field(metadata=must(positive))


@final
@attrs.frozen(kw_only=True)
class Calendar(Checked):
    """Windows and freezes on the clocks of one time zone.

    It is open inside of its windows, and always if it has none; a freeze closes it, whatever its windows
    say. Windows that touch or overlap are one window.

    Args:
        time_zone: An IANA name like ``"Europe/Berlin"``, or ``"UTC"``. It is looked up on each machine that
            reads the policy: keep the time zones of clients and workers up to date. Slim containers and
            Windows have none at all: ``pip install tzdata``.
        name: What people call it: where it is the reason why nothing starts, it is named. Default: its
            place in the list, ``calendar 1``.
        weekly: Windows of every week.
        dated: Windows that come once.
        freezes: Times in which nothing may start.

    Raises:
        InvalidRequest: A field is not valid; it names all that are not. Also if it says nothing at all.

    Example:
        >>> nights = WeeklyPeriod(days=["sat", "sun"], start="22:00", duration=timedelta(hours=6))
        >>> holidays = DatedPeriod(start="2026-12-19T00:00", duration=timedelta(days=16))
        >>> Calendar(time_zone="Europe/Berlin", weekly=[nights], freezes=[holidays]).dated
        ()
    """

    time_zone: str = attrs.field(metadata=must(_time_zone))
    name: str = attrs.field(default="", metadata=must(string, at_most(100)))
    weekly: tuple[WeeklyPeriod, ...] = attrs.field(
        default=(),
        converter=as_weekly,
        metadata=must(each(instance_of(WeeklyPeriod)), _entries(MAX_WEEKLY)),
    )
    dated: tuple[DatedPeriod, ...] = attrs.field(
        default=(),
        converter=as_dated,
        metadata=must(each(instance_of(DatedPeriod)), _entries(MAX_DATED)),
    )
    freezes: tuple[DatedPeriod, ...] = attrs.field(
        default=(),
        converter=as_dated,
        metadata=must(each(instance_of(DatedPeriod)), _entries(MAX_DATED)),
    )

    def _relations(self) -> Iterator[str]:
        if not (self.weekly or self.dated or self.freezes):
            yield "'weekly', 'dated' or 'freezes' must have an entry: a calendar without any says nothing"


@final
@attrs.frozen(kw_only=True)
class MaintenanceWindows(Checked):
    """When hosts may start. What has started is never cut off by a window that closes.

    Hosts may start while all calendars are open, and only if they can be done in time: a host that starts
    has ``host_duration``, and then still ``cutoff``, before any calendar closes, be it that a window ends
    or that a freeze begins. So the last start is ``host_duration + cutoff`` before that moment.

    Args:
        calendars: At least one, at most 5. All must be open: yours, say, and the whole company's freezes.
        cutoff: The time before a close that is kept free of work. Default none, at most 7 days.
        host_duration: How long one host takes, as you declare it. Nothing measures it or holds a host to
            it. Default 0: a host may start at the last moment. At most 7 days.
        on_window_close: What becomes of the hosts that have not started when the windows close: the
            rollout stops and they are NOT_STARTED (``"stop"``, the default), or it waits for the next
            opening (``"wait"``).
        approval_valid_for: How long the approval of the gate "start" is good for. If it is older when the
            windows open, the gate asks again, and no host starts before that. Default: for ever.

    Raises:
        InvalidRequest: A field is not valid; it names all that are not.

    Example:
        >>> nights = WeeklyPeriod(days=["sat"], start="22:00", duration=timedelta(hours=6))
        >>> windows = MaintenanceWindows(
        ...     calendars=[Calendar(time_zone="Europe/Berlin", weekly=[nights])],
        ...     cutoff=timedelta(minutes=30),
        ...     host_duration=timedelta(minutes=20),
        ... )
        >>> starts_allowed(windows, datetime(2026, 11, 27, tzinfo=timezone.utc)).reason
        'closed until Sat 2026-11-28 22:00 Europe/Berlin: calendar 1 is outside its windows'
    """

    calendars: tuple[Calendar, ...] = attrs.field(
        converter=as_calendars,
        metadata=must(each(instance_of(Calendar), least=1), _entries(MAX_CALENDARS)),
    )
    cutoff: timedelta = attrs.field(
        default=timedelta(0), metadata=must(_not_negative, _up_to(WEEK))
    )
    host_duration: timedelta = attrs.field(
        default=timedelta(0), metadata=must(_not_negative, _up_to(WEEK))
    )
    on_window_close: OnWindowClose = attrs.field(
        default="stop", metadata=must(one_of("stop", "wait"))
    )
    approval_valid_for: timedelta | None = attrs.field(
        default=None, metadata=must(optional(positive))
    )


# What it means at a moment


@attrs.frozen(kw_only=True)
class Opening:
    """Whether a host may start now."""

    open: bool
    until: datetime | None
    """The moment, in UTC, at which ``open`` is no longer so. None: it stays so for the next 400 days."""
    reason: str
    """For people: until when on the calendar's clocks, and which calendar makes it so."""


def starts_allowed(policy: MaintenanceWindows, now: datetime) -> Opening:
    """Whether a host may start at ``now``, until when that holds, and why.

    The same on every machine that has the same time zone rules for the time in question.

    Raises:
        ValueError: ``now`` has no time zone.
    """
    if now.utcoffset() is None:
        raise ValueError(f"'now' must have a time zone (got {now!r})")
    now = now.astimezone(timezone.utc)
    near = _opening(policy, now, now + NEAR)
    return near if near.until is not None else _opening(policy, now, now + HORIZON)


def _opening(policy: MaintenanceWindows, now: datetime, end: datetime) -> Opening:
    """What holds at ``now``, and the next change if there is one before ``end``."""
    reserve = policy.cutoff + policy.host_duration
    closed = [_closed(calendar, now, end + reserve) for calendar in policy.calendars]
    spans = [span for span in _between(_united(chain(*closed))) if now < span[1]]
    starts = [(opens, closes - reserve) for opens, closes in spans if closes - opens > reserve]
    is_open = any(opens <= now < last for opens, last in starts)
    changes = (each for each in chain(*starts) if now < each <= end)
    until = min(changes, default=None)
    if is_open:
        closes = until + reserve if until else None
        reason = _why_open(policy, closed, until, closes)
    else:
        reason = _why_closed(policy, closed, spans, now, until)
    return Opening(open=is_open, until=until, reason=reason)


def _closed(calendar: Calendar, now: datetime, end: datetime) -> list[_Span]:
    """When a calendar is closed; right at least for what lies between ``now`` and ``end``."""
    zone = _zone(calendar.time_zone)
    windows = [
        _span(datetime.fromisoformat(one.start), one.duration, zone) for one in calendar.dated
    ]
    for weekly in calendar.weekly:
        hour, minute = map(int, weekly.start.split(":"))
        # Two days more on either side: the date here may be another one than in UTC.
        first, last = now - weekly.duration - timedelta(days=2), end + timedelta(days=2)
        for ordinal in range(first.toordinal(), last.toordinal() + 1):
            day = date.fromordinal(ordinal)
            if WEEKDAYS[day.weekday()] in weekly.days:
                local = datetime(day.year, day.month, day.day, hour, minute)
                windows.append(_span(local, weekly.duration, zone))
    return [*(_between(_united(windows)) if windows else ()), *_frozen(calendar, zone)]


def _frozen(calendar: Calendar, zone: tzinfo) -> list[_Span]:
    return [
        _span(datetime.fromisoformat(one.start), one.duration, zone) for one in calendar.freezes
    ]


def _span(local: datetime, duration: timedelta, zone: tzinfo) -> _Span:
    start = _moment(local, zone)
    return start, start + duration


def _moment(local: datetime, zone: tzinfo) -> datetime:
    """The first moment at which the zone's clocks show this time, or a later one if they skip it."""
    moment = local.replace(tzinfo=zone).astimezone(timezone.utc)
    if _shown(moment, zone) == local:
        return moment
    # Skipped. By the offset from before the change it is too late, by the one from after too early.
    early = local.replace(tzinfo=zone, fold=1).astimezone(timezone.utc)
    seconds = range((moment - early) // timedelta(seconds=1) + 1)
    passed = bisect_left(
        seconds, True, key=lambda each: _shown(early + timedelta(seconds=each), zone) >= local
    )
    return early + timedelta(seconds=passed)


def _shown(moment: datetime, zone: tzinfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return timezone.utc  # known everywhere, also where no time zones are installed
    if _NO_ZONE.fullmatch(name):
        raise ValueError(name)
    return ZoneInfo(name)


def _united(spans: Iterable[_Span]) -> list[_Span]:
    """The same time as spans that neither touch nor overlap, in order."""
    united: list[_Span] = []
    for start, end in sorted(spans):
        if united and start <= united[-1][1]:
            united[-1] = (united[-1][0], max(united[-1][1], end))
        else:
            united.append((start, end))
    return united


def _between(united: Iterable[_Span]) -> list[_Span]:
    """All other time."""
    edges = [_DAWN, *chain(*united), _DUSK]
    return [span for span in zip(edges[::2], edges[1::2], strict=True) if span[0] < span[1]]


# Why, for people


def _why_open(
    policy: MaintenanceWindows,
    closed: list[list[_Span]],
    until: datetime | None,
    closes: datetime | None,
) -> str:
    if until is None or closes is None:
        return f"open: it does not close in the next {HORIZON.days} days"
    closing = [each for each, spans in enumerate(closed) if _covers(spans, closes)]
    calendar = policy.calendars[closing[0]]
    why = f"{_called(policy, closing[0])} closes {_needs(policy, closes, calendar)}"
    return f"open until {_told(until, calendar)}: {why}"


def _why_closed(
    policy: MaintenanceWindows,
    closed: list[list[_Span]],
    spans: list[_Span],
    now: datetime,
    until: datetime | None,
) -> str:
    closing = [each for each, spans in enumerate(closed) if _covers(spans, now)]
    if closing:
        first = closing[0]
        why = " and ".join(
            f"{_called(policy, each)} is {_state(policy.calendars[each], now)}" for each in closing
        )
    else:  # all are open, but not for long enough
        closes = spans[0][1]
        first = next(each for each, spans in enumerate(closed) if _covers(spans, closes))
        why = f"{_called(policy, first)} closes {_needs(policy, closes, policy.calendars[first])}"
    if until is not None:
        return f"closed until {_told(until, policy.calendars[first])}: {why}"
    never = f"closed, and no opening in the next {HORIZON.days} days: {why}"
    if any(now < opens <= now + HORIZON for opens, _ in spans):
        reserve = policy.cutoff + policy.host_duration
        never += f"; nothing is open for longer than host_duration and cutoff, {reserve}"
    return never


def _covers(spans: Iterable[_Span], moment: datetime) -> bool:
    return any(start <= moment < end for start, end in spans)


def _called(policy: MaintenanceWindows, calendar: int) -> str:
    return policy.calendars[calendar].name or f"calendar {calendar + 1}"


def _state(calendar: Calendar, now: datetime) -> str:
    frozen_now = _covers(_frozen(calendar, _zone(calendar.time_zone)), now)
    return "frozen" if frozen_now else "outside its windows"


def _needs(policy: MaintenanceWindows, closes: datetime, calendar: Calendar) -> str:
    reserve = policy.cutoff + policy.host_duration
    if not reserve:
        return "then"
    return f"{_told(closes, calendar)}, a host needs {reserve} before that"


def _told(moment: datetime, calendar: Calendar) -> str:
    """``Sat 2026-11-28 22:00 Europe/Berlin``, with its offset where the clocks show that time twice."""
    local = moment.astimezone(_zone(calendar.time_zone))
    other = local.replace(fold=1 - local.fold)
    twice = local.utcoffset() != other.utcoffset()
    shown = local.isoformat(" ", "minutes") if twice else f"{local:%Y-%m-%d %H:%M}"
    # Not %a: it speaks the machine's language.
    return f"{WEEKDAYS[local.weekday()].capitalize()} {shown} {calendar.time_zone}"
