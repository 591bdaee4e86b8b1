"""The account of a cluster's hosts: one byte says what has become of each, counts say what budgets look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

import attrs

from ._states import ACTED_ON, HostState

CODES: Mapping[HostState, bytes] = {
    HostState.NOT_STARTED: b".",
    HostState.PATCHED: b"P",
    HostState.UNCHANGED: b"U",
    HostState.FAILED: b"F",
    HostState.UNREACHABLE: b"X",
    HostState.REBOOT_PENDING: b"B",
    HostState.SKIPPED: b"S",
    HostState.CANCELLED: b"C",
    HostState.GONE: b"G",
}
"""One byte a host. ``r`` stands for one in flight."""

IN_FLIGHT = b"r"


@attrs.frozen(kw_only=True)
class Group:
    """The pilots or a wave: what has come of its hosts so far."""

    wave: int
    limit: int
    """How many hosts it may start. For pilots: how many must count."""
    started: int = 0
    counting: int = 0
    """Pilots that count: UNCHANGED ones are replaced by the next host."""
    acted: int = 0
    failed: int = 0
    unreachable: int = 0


@attrs.frozen(kw_only=True)
class Tally:
    """What each host is, and how many count for what."""

    codes: bytes
    group: Group
    in_flight: int = 0
    held: frozenset[int] = frozenset()
    """Hosts that have ended and are out of service."""
    acted: int = 0
    failed: int = 0
    unreachable: int = 0


TallyT = TypeVar("TallyT", bound=Tally)


def flies(tally: Tally, host: int) -> bool:
    """Whether this host is in flight. Any number may be asked for."""
    return tally.codes[host : host + 1] == IN_FLIGHT


def started(tally: TallyT, host: int) -> TallyT:
    """A host that waited is in flight now."""
    return attrs.evolve(
        tally,
        codes=with_code(tally.codes, host, IN_FLIGHT),
        in_flight=tally.in_flight + 1,
        group=attrs.evolve(tally.group, started=tally.group.started + 1),
    )


def ended(tally: TallyT, host: int, state: HostState, *, left_out: bool) -> TallyT:
    """A host in flight has ended."""
    group = tally.group
    acted, failed = state in ACTED_ON, state is HostState.FAILED
    unreachable = state is HostState.UNREACHABLE
    return attrs.evolve(
        tally,
        codes=with_code(tally.codes, host, CODES[state]),
        in_flight=tally.in_flight - 1,
        held=tally.held | {host} if left_out else tally.held,
        acted=tally.acted + acted,
        failed=tally.failed + failed,
        unreachable=tally.unreachable + unreachable,
        group=attrs.evolve(
            group,
            counting=group.counting + acted,
            acted=group.acted + acted,
            failed=group.failed + failed,
            unreachable=group.unreachable + unreachable,
        ),
    )


def out_of_service(tally: Tally) -> Iterator[int]:
    """The hosts that serve nobody now: held, or in flight."""
    yield from tally.held
    host = tally.codes.find(IN_FLIGHT)
    while host >= 0:
        yield host
        host = tally.codes.find(IN_FLIGHT, host + 1)


def with_code(codes: bytes, host: int, code: bytes) -> bytes:
    """The codes, with another one for this host."""
    return codes[:host] + code + codes[host + 1 :]
