"""What the three workflows tell each other. Not for users: it may change with every release."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import final

import attrs

from ..policy._cluster import PauseAfter
from ..policy._host import Procedure
from ..policy._repair import PendingRepair, Repair
from ..policy._rollout_policy import RebootWhen, RolloutPolicy
from ..policy._rules import as_tuple
from ..policy._steps import Step
from ..policy._window import MaintenanceWindows
from ._carried import Carried
from ._report import ClusterProgress
from ._request import PatchRequest
from ._task import HostTask
from ._wire import WireType


@final
@attrs.frozen(kw_only=True)
class ProcedureQuery(WireType):
    """Which procedure does this workflow class have? Asked once, so that the answer is recorded."""

    _refuses_unknown = False

    workflow_type: str
    params: Mapping[str, object] = attrs.field(factory=dict[str, object])


@final
@attrs.frozen(kw_only=True)
class ResolvedProcedure(WireType):
    """The steps that will run, and who runs them. A release in the middle of a rollout does not change it."""

    _refuses_unknown = False

    steps: tuple[Step, ...]
    host_workflow: str
    cluster_workflow: str
    notifies: bool = False
    checks_fleet: bool = False


@final
@attrs.frozen(kw_only=True)
class ClusterRequest(WireType):
    """The input of a cluster's workflow."""

    _refuses_unknown = False

    rollout: str
    cluster: str
    request: PatchRequest
    procedure: ResolvedProcedure
    planned_hosts: tuple[str, ...] | None = None
    """Its own list, where the request has one; the lists of the others are not handed on."""
    carried: Carried | None = None
    """What the run before this one knew, in one that continues it."""
    orders: ClusterOrders | None = None
    """The newest orders that it had got, carried out or not."""
    cancelled: str | None = None
    """Why it was cancelled, if that came when it had given up carrying anything out."""

    def continued(
        self, carried: Carried, orders: ClusterOrders | None, cancelled: str | None
    ) -> ClusterRequest:
        """The input of the next run. What only the list was made of is left behind."""
        return attrs.evolve(
            self,
            request=attrs.evolve(self.request, only_hosts=(), exclude_hosts=()),
            planned_hosts=None,
            carried=carried,
            orders=orders,
            cancelled=cancelled,
        )


@final
@attrs.frozen(kw_only=True)
class HostRequest(WireType):
    """The input of a host's workflow: its task, and the steps to go through."""

    _refuses_unknown = False
    _written_short = True

    task: HostTask
    steps: tuple[Step, ...]
    reboot: RebootWhen = "if_needed"
    parks: bool = False
    """Whether a step that fails leaves the host as it is, for a person to decide."""
    resume: Procedure | None = None
    """Where a parked host goes on: retried, accepted or restored. Then its own ``steps``, ``reboot`` and
    ``parks`` hold."""


@final
@attrs.frozen(kw_only=True)
class ClusterOrders(WireType):
    """All that the rollout wants of a cluster. A newer one replaces an older one, whatever arrives first."""

    _refuses_unknown = False

    sequence: int
    slots: int | None = 0
    risk: int | None = None
    stop: str | None = None
    finishes: bool = False
    paused: PauseAfter | None = None
    kill: str | None = None
    opened: tuple[int, ...] = ()
    window_open: bool = True
    policy: RolloutPolicy | None = None
    """Another one than the request's, since somebody has changed it. None: the request's own."""
    skip: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    skip_waves: tuple[int, ...] = ()
    repairs: tuple[PendingRepair, ...] = ()
    """What people ask for parked hosts. One whose number it has had is no news."""
    heard: int = 0
    """``asked_at`` of the last pause that it has asked for, and that the rollout has heard of."""

    @property
    def steered(self) -> bool:
        """Whether it has more than a grant or a stop in it."""
        plain = ClusterOrders(
            sequence=self.sequence,
            slots=self.slots,
            risk=self.risk,
            stop=self.stop,
            finishes=self.finishes,
            window_open=self.window_open,
            heard=self.heard,
        )
        return self != plain


@final
@attrs.frozen(kw_only=True)
class ClusterUpdate(WireType):
    """All that a cluster has to tell the rollout. Cumulative and numbered."""

    _refuses_unknown = False

    sequence: int
    progress: ClusterProgress
    planned: bool = False
    problem: str | None = None
    host_names: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    named: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    max_parallel: int = 0
    digest: str = ""
    acted: int = 0
    failed: int = 0
    unreachable: int = 0
    obeyed: int = 0
    """The orders that it has carried out."""
    quiet: bool = False
    at_gate: int | None = None
    wave: int | None = None
    """The group that it is at, 0 for the pilots; and how many hosts of it were acted on, and failed."""
    wave_acted: int = 0
    wave_failed: int = 0
    parked: Mapping[str, str] = attrs.field(factory=dict[str, str])
    """Its hosts that wait for a person, in canonical form, and the step that failed of each."""
    repaired: int = 0
    """The number of the last repair that it has taken up."""
    repairs_waiting: int = 0
    """How many of those have not begun."""
    waiting: Mapping[str, Repair] = attrs.field(factory=dict[str, Repair])
    """Of which hosts those are, in canonical form, and what is to be done with each."""
    too_late: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    """Hosts that it was to skip, but had started."""
    asks_pause: str | None = None
    asked_at: int = 0
    """The newest orders that it had when it asked: of two times that it asks, the later has the higher."""
    needs: int | None = None
    """How many slots it can use at most from now on: hosts in flight, and hosts that may still start."""
    in_flight: int = 0
    """How many of its hosts are in flight."""
    came_later: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    came_later_omitted: int = 0
    gone: int = 0


@final
@attrs.frozen(kw_only=True)
class HostOrders(WireType):
    """All that a cluster wants of a host in flight. A newer one replaces an older one."""

    _refuses_unknown = False

    sequence: int
    halt: bool = False
    kill: str | None = None


@final
@attrs.frozen(kw_only=True)
class HostUpdate(WireType):
    """What a host tells its cluster: whether it stands still. A newer one replaces an older one."""

    _refuses_unknown = False

    host: str
    number: int
    halted: bool = False
    answers: int = 0
    """The newest orders that it has carried out: what it said about older ones may not hold any more."""


@final
@attrs.frozen(kw_only=True)
class BusyHost(WireType):
    """A host that another rollout is working on, and how long to wait for it."""

    _refuses_unknown = False

    workflow_id: str
    timeout: timedelta


@final
@attrs.frozen(kw_only=True)
class BusyHolder(WireType):
    """Whose rollout works on a busy host. Empty: it cannot be told."""

    _refuses_unknown = False

    rollout: str = ""


@final
@attrs.frozen(kw_only=True)
class WindowQuery(WireType):
    """May hosts start at this moment? Asked by an activity, since time zone rules differ between workers."""

    _refuses_unknown = False

    windows: MaintenanceWindows
    at: datetime


@final
@attrs.frozen(kw_only=True)
class WindowAnswer(WireType):
    """Whether hosts may start, until when that holds, and why."""

    _refuses_unknown = False

    open: bool
    until: datetime | None = None
    reason: str = ""
