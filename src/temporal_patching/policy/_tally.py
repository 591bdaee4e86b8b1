"""The account of a cluster's hosts: one byte says what has become of each, counts say what budgets look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, TypeVar

import attrs

from ._evolve import evolve
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
"""One byte a host. ``r`` stands for one in flight, ``w`` for one that failed and waits for a person."""

IN_FLIGHT = b"r"
PARKED = b"w"


@attrs.frozen(kw_only=True, slots=False)
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


@attrs.frozen(kw_only=True, slots=False)
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
    parked: Mapping[int, int] = attrs.field(factory=dict[int, int])
    """Hosts that failed and wait for a person, and of which wave each was. They count as failed."""
    out_of_reach: frozenset[int] = frozenset()
    """Those of them that count as unreachable instead."""
    repairing: Mapping[int, int] = attrs.field(factory=dict[int, int])
    """Hosts in flight again, since a person asked for it, and of which wave each was."""


TallyT = TypeVar("TallyT", bound=Tally)


def flies(tally: Tally, host: int) -> bool:
    """Whether this host is in flight. Any number may be asked for."""
    return tally.codes[host : host + 1] == IN_FLIGHT


def started(tally: TallyT, host: int) -> TallyT:
    """A host that waited is in flight now."""
    return evolve(
        tally,
        codes=with_code(tally.codes, host, IN_FLIGHT),
        in_flight=tally.in_flight + 1,
        group=evolve(tally.group, started=tally.group.started + 1),
    )


def put_back(tally: TallyT, host: int) -> TallyT:
    """A host in flight of which nothing has begun waits again."""
    return evolve(
        tally,
        codes=with_code(tally.codes, host, CODES[HostState.NOT_STARTED]),
        in_flight=tally.in_flight - 1,
        group=evolve(tally.group, started=tally.group.started - 1),
    )


def ended(
    tally: TallyT, host: int, state: HostState, *, left_out: bool, parked: bool = False
) -> TallyT:
    """A host in flight has ended, or has failed and is parked."""
    wave = tally.repairing.get(host, tally.group.wave)
    repairing = {each: of for each, of in tally.repairing.items() if each != host}
    held = tally.held
    if left_out != (host in held):
        held = held | {host} if left_out else held - {host}
    tally = evolve(
        tally,
        codes=with_code(tally.codes, host, PARKED if parked else CODES[state]),
        in_flight=tally.in_flight - 1,
        held=held,
        repairing=repairing,
    )
    if parked:
        far = {host} if state is HostState.UNREACHABLE else set[int]()
        tally = evolve(
            tally, parked={**tally.parked, host: wave}, out_of_reach=tally.out_of_reach | far
        )
    return _counted(tally, wave, state, 1)


def repaired(tally: TallyT, host: int) -> TallyT:
    """A parked host is in flight again: what becomes of it now counts, not what became of it before."""
    wave, state = tally.parked[host], counts_as(tally, host)
    tally = evolve(
        _without_parked(tally, host),
        codes=with_code(tally.codes, host, IN_FLIGHT),
        in_flight=tally.in_flight + 1,
        repairing={**tally.repairing, host: wave},
    )
    return _counted(tally, wave, state, -1)


def given_up(tally: TallyT, host: int) -> TallyT:
    """A parked host stays what it is: failed, and out of service if it was."""
    code = CODES[counts_as(tally, host)]
    return evolve(_without_parked(tally, host), codes=with_code(tally.codes, host, code))


def counts_as(tally: Tally, host: int) -> HostState:
    """What a parked host counts as."""
    return HostState.UNREACHABLE if host in tally.out_of_reach else HostState.FAILED


def _without_parked(tally: TallyT, host: int) -> TallyT:
    parked = {each: wave for each, wave in tally.parked.items() if each != host}
    return evolve(tally, parked=parked, out_of_reach=tally.out_of_reach - {host})


def _counted(tally: TallyT, wave: int, state: HostState, more: Literal[1, -1]) -> TallyT:
    """The counts with one host more or less in this state; the group's only if it is of the group."""
    acted = more * (state in ACTED_ON)
    failed = more * (state is HostState.FAILED)
    unreachable = more * (state is HostState.UNREACHABLE)
    group = tally.group
    if wave == group.wave:
        group = evolve(
            group,
            counting=group.counting + acted,
            acted=group.acted + acted,
            failed=group.failed + failed,
            unreachable=group.unreachable + unreachable,
        )
    return evolve(
        tally,
        acted=tally.acted + acted,
        failed=tally.failed + failed,
        unreachable=tally.unreachable + unreachable,
        group=group,
    )


def out_of_service(tally: Tally) -> Iterator[int]:
    """The hosts that serve nobody now: held, or in flight, or both."""
    yield from tally.held
    host = tally.codes.find(IN_FLIGHT)
    while host >= 0:
        if host not in tally.held:  # one that is repaired may be
            yield host
        host = tally.codes.find(IN_FLIGHT, host + 1)


def many_out_of_service(tally: Tally) -> int:
    """How many hosts serve nobody now."""
    return tally.in_flight + len(tally.held) - sum(host in tally.held for host in tally.repairing)


def with_code(codes: bytes, host: int, code: bytes) -> bytes:
    """The codes, with another one for this host."""
    return codes[:host] + code + codes[host + 1 :]
