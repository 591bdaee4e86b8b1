"""The one readable JSON form of a duration: ``"4h"``, ``"1h30m"``, ``"0.5s"``, ``"2d"``."""

from __future__ import annotations

import re
from datetime import timedelta

_FORM = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)(?:\.([0-9]{1,6}))?s)?")


def format_duration(duration: timedelta) -> str:
    """``timedelta(minutes=90)`` becomes ``"1h30m"``. Exact to the microsecond; never negative."""
    if duration < timedelta(0):
        raise ValueError(f"a duration must not be negative (got {duration!r})")
    hours, seconds = divmod(duration.seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    fraction = f".{duration.microseconds:06d}".rstrip("0") if duration.microseconds else ""
    parts = [(duration.days, "d"), (hours, "h"), (minutes, "m")]
    written = "".join(f"{number}{unit}" for number, unit in parts if number)
    if seconds or fraction or not written:
        written += f"{seconds}{fraction}s"
    return written


def parse_duration(written: str) -> timedelta:
    """``"1h30m"`` becomes ``timedelta(minutes=90)``.

    Raises:
        ValueError: It does not have the form.
    """
    match = _FORM.fullmatch(written)
    if not match or not written:
        raise ValueError(f'must be a duration like "90s", "15m" or "1h30m" (got {written!r})')
    days, hours, minutes, seconds, fraction = match.groups()
    try:
        return timedelta(
            days=int(days or 0),
            hours=int(hours or 0),
            minutes=int(minutes or 0),
            seconds=int(seconds or 0),
            microseconds=int((fraction or "").ljust(6, "0")),
        )
    except OverflowError:
        raise ValueError(f"must be a shorter duration (got {written!r})") from None
