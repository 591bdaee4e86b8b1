"""What a cluster's workflow carries over into its next run: all that it knows, whatever its size bounded.

Its history must not grow with its hosts, so it continues as new when the history is long enough. Whatever
the next run has to know stands here; what does not is forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Literal, TypeVar, final

import attrs

from ..policy._cluster import ClusterState, PauseAfter, RepairHost
from ..policy._host import Procedure
from ..policy._rollout_policy import ClusterPlan, RolloutPolicy
from ..policy._rules import as_tuple
from ..policy._tally import Group
from ._report import HostReport
from ._task import Host, Notice
from ._wire import WireType, to_json

T = TypeVar("T")

MAX_LIST = 1_200_000
"""Characters that a frozen list may have as JSON, names and labels: a payload may have 2 MB, all in all."""

MAX_SAID = 100_000
"""Characters of what is only carried to be shown again: completed steps; as many of reports, of notices."""

_HELD, _IN_SERVICE = "x", "."


@final
@attrs.frozen(kw_only=True)
class FrozenHosts:
    """A cluster's frozen list. Many hosts have the same labels: each set of labels stands here once."""

    names: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    label_sets: tuple[Mapping[str, str], ...] = ()
    labelled: tuple[int, ...] = ()
    """Which set each host has. Empty: none has any labels."""

    @staticmethod
    def of(hosts: Iterable[Host]) -> FrozenHosts:
        """The list of these hosts."""
        names, sets, labelled = list[str](), dict[tuple[tuple[str, str], ...], int](), list[int]()
        for host in hosts:
            names.append(host.name)
            labelled.append(sets.setdefault(tuple(sorted(host.labels.items())), len(sets)))
        some = tuple(dict(each) for each in sets)
        if not any(some):
            return FrozenHosts(names=tuple(names))
        return FrozenHosts(names=tuple(names), label_sets=some, labelled=tuple(labelled))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Host:
        return Host(name=self.names[index], labels=self.labels(index))

    def labels(self, index: int) -> Mapping[str, str]:
        """The labels of one host."""
        return self.label_sets[self.labelled[index]] if self.labelled else {}


@final
@attrs.frozen(kw_only=True)
class CarriedState:
    """The machine's state of a cluster that has drained: nothing is in flight. One byte a host."""

    codes: str
    group: Group
    held: str = ""
    """``x`` for each host that has ended and is out of service. Empty: none is."""
    acted: int = 0
    failed: int = 0
    unreachable: int = 0
    slots: int | None = 0
    risk: int | None = None
    at_barrier: Literal["soak", "gate"] | None = None
    soaked: bool = False
    opened: tuple[int, ...] = ()
    skip_waves: tuple[int, ...] = ()
    window_open: bool = True
    paused: PauseAfter | None = None
    parked: tuple[int, ...] = ()
    """Hosts that wait for a person; ``parked_waves``: of which wave each was."""
    parked_waves: tuple[int, ...] = ()
    out_of_reach: tuple[int, ...] = ()
    repairs: tuple[RepairHost, ...] = ()
    """What people asked for them, and has not begun."""
    repaired: int = 0

    @staticmethod
    def of(state: ClusterState) -> CarriedState:
        """What is carried of a state."""
        held = (_HELD if host in state.held else _IN_SERVICE for host in range(len(state.codes)))
        return CarriedState(
            codes=state.codes.decode(),
            group=state.group,
            held="".join(held) if state.held else "",
            acted=state.acted,
            failed=state.failed,
            unreachable=state.unreachable,
            slots=state.slots,
            risk=state.risk,
            at_barrier=state.at_barrier,
            soaked=state.soaked,
            opened=tuple(sorted(state.opened)),
            skip_waves=tuple(sorted(state.skip_waves)),
            window_open=state.window_open,
            paused=state.paused,
            parked=tuple(state.parked),
            parked_waves=tuple(state.parked.values()),
            out_of_reach=tuple(sorted(state.out_of_reach)),
            repairs=state.repairs,
            repaired=state.repaired,
        )

    def restored(self, plan: ClusterPlan) -> ClusterState:
        """The state as it was. It still drains, until it is told that another run has taken over."""
        return ClusterState(
            plan=plan,
            codes=self.codes.encode(),
            group=self.group,
            held=frozenset(host for host, code in enumerate(self.held) if code == _HELD),
            acted=self.acted,
            failed=self.failed,
            unreachable=self.unreachable,
            slots=self.slots,
            risk=self.risk,
            at_barrier=self.at_barrier,
            soaked=self.soaked,
            opened=frozenset(self.opened),
            skip_waves=frozenset(self.skip_waves),
            window_open=self.window_open,
            paused=self.paused,
            parked=dict(zip(self.parked, self.parked_waves, strict=True)),
            out_of_reach=frozenset(self.out_of_reach),
            repairs=self.repairs,
            repaired=self.repaired,
            draining=True,
        )


@final
@attrs.frozen(kw_only=True)
class CarriedHost:
    """A parked host, by its place in the list, and where it stands. All have the same steps: without them."""

    index: int
    stands: Procedure
    note: str = ""
    """Why it could not go on when it was last asked to."""


@final
@attrs.frozen(kw_only=True)
class Carried(WireType):
    """All that a cluster's next run has to know."""

    _refuses_unknown = False

    hosts: FrozenHosts
    state: CarriedState
    digest: str = ""
    policy: RolloutPolicy | None = None
    """The policy that holds, where it is not the request's any more."""
    soak_left: timedelta | None = None
    """What is left of the soak that it is in."""
    check_due: bool = False
    """The fleet's health is to be asked for before the soak goes on."""
    reports: tuple[HostReport, ...] = ()
    """What the report will list."""
    completed: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    completed_count: int = 0
    came_later: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    """Those that the report names."""
    came_later_count: int = 0
    parked: tuple[CarriedHost, ...] = ()
    too_late: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    obeyed: int = 0
    told: int = 0
    """How many messages the rollout has got."""
    untold: bool = False
    """Something has happened that the rollout was not told yet."""
    notices: tuple[Notice, ...] = ()
    """Those that wait for their turn."""
    notices_failed: int = 0


def size(value: object) -> int:
    """Characters that it has as JSON."""
    plain = value if isinstance(value, str) else to_json(value)
    return len(json.dumps(plain, separators=(",", ":")))


def last_of(entries: Sequence[T], characters: int = MAX_SAID) -> tuple[T, ...]:
    """As many of the last entries as have so many characters together."""
    return tuple(reversed(tuple(first_of(entries[::-1], characters))))


def first_of(entries: Iterable[T], characters: int = MAX_SAID) -> Iterator[T]:
    """As many of the first entries as have so many characters together."""
    left = characters
    for entry in entries:
        left -= size(entry) + 1
        if left < 0:
            return
        yield entry
