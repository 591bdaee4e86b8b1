"""What activities get and give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, TypeVar, cast, final, get_args

import attrs

from ..policy._rollout_policy import NOTICE_KINDS, NoticeKind
from ..policy._rules import (
    as_tuple,
    each,
    flag,
    instance_of,
    must,
    node_name,
    one_of,
    optional,
    string,
    text,
    values,
)
from ._wire import WireType, from_json

FleetVerdict = Literal["healthy", "failed", "inconclusive"]
"""What a look at the fleet can say."""

ParamsT = TypeVar("ParamsT")

OUTPUT_LIMIT = 4096
"""Characters of a step's output that go into history: the last ones, where the error usually is."""


def as_tail(output: str) -> str:
    """The end of a long text."""
    return output[-OUTPUT_LIMIT:] if isinstance(output, str) else output


@final
@attrs.frozen(kw_only=True)
class Host(WireType):
    """A machine of a cluster.

    Args:
        name: Its name, unique over all clusters (case does not matter).
        labels: What you know of it (zone, model, …), handed to its steps.
        down: Whether it is down already, so that nobody misses it. Default False.
    """

    name: str = attrs.field(metadata=must(node_name))
    labels: Mapping[str, str] = attrs.field(factory=dict[str, str], metadata=must(values(string)))
    down: bool = attrs.field(default=False, metadata=must(flag))


def as_hosts(entries: Iterable[str | Host]) -> tuple[Host, ...]:
    """Freezes a list of hosts or of their names."""
    if isinstance(entries, str) or not isinstance(entries, Iterable):
        return cast("tuple[Host, ...]", entries)
    return tuple(Host(name=each) if isinstance(each, str) else each for each in entries)


@final
@attrs.frozen(kw_only=True)
class HostQuery(WireType):
    """Which hosts a cluster has: the argument of ``list_hosts``.

    Attributes:
        cluster: The cluster's name.
        page: None for the first page, then what the last answer's ``next_page`` said.
        rollout: The rollout's workflow id.
        params: The request's own parameters.
        secrets: The request's references to secrets.
    """

    _refuses_unknown = False

    cluster: str
    page: str | None = None
    rollout: str = ""
    params: Mapping[str, object] = attrs.field(factory=dict[str, object])
    secrets: Mapping[str, str] = attrs.field(factory=dict[str, str])


@final
@attrs.frozen(kw_only=True)
class HostList(WireType):
    """One page of a cluster's hosts, in the order in which they are patched.

    Args:
        hosts: Names, or ``Host(name=…, labels=…)``.
        next_page: Any text that lets ``list_hosts`` go on; None (default) on the last page.
    """

    _refuses_unknown = False
    _written_short = True

    hosts: tuple[Host, ...] = attrs.field(
        converter=as_hosts, metadata=must(each(instance_of(Host)))
    )
    next_page: str | None = attrs.field(default=None, metadata=must(optional(text)))


@final
@attrs.frozen(kw_only=True)
class FleetQuery(WireType):
    """How does a cluster do after a wave: the argument of ``check_fleet_health``.

    Attributes:
        cluster: The cluster's name.
        rollout: The rollout's workflow id.
        wave: The wave that has ended; 0 for the pilots.
        params: The request's own parameters.
        secrets: The request's references to secrets.
    """

    _refuses_unknown = False

    cluster: str
    rollout: str = ""
    wave: int = 0
    params: Mapping[str, object] = attrs.field(factory=dict[str, object])
    secrets: Mapping[str, str] = attrs.field(factory=dict[str, str])


@final
@attrs.frozen(kw_only=True)
class FleetHealth(WireType):
    """What ``check_fleet_health`` answers.

    Args:
        verdict: ``"healthy"``: go on. ``"failed"``: the cluster stops. ``"inconclusive"``: the rollout pauses
            for a person. No data is inconclusive, never healthy.
        message: One line for people. Required unless healthy.
    """

    _refuses_unknown = False

    verdict: FleetVerdict = attrs.field(metadata=must(one_of(*get_args(FleetVerdict))))
    message: str = attrs.field(default="", converter=as_tail, metadata=must(string))

    def _relations(self) -> Iterator[str]:
        if self.verdict != "healthy" and not self.message:
            yield f"'message' must say why, with verdict {self.verdict!r}"


@final
@attrs.frozen(kw_only=True)
class HostTask(WireType):
    """One step on one host: the argument of every step's activity.

    Attributes:
        rollout: The rollout's workflow id.
        cluster: The cluster's name.
        host: The host's name, as ``list_hosts`` spelt it.
        labels: The host's labels.
        step: The step's name.
        attempt: 1 for the first attempt. A later one must look at the host first: the lost attempt may
            have done the work.
        idempotency_key: ``rollout/host/step/try``, the same over all attempts (``try`` rises only when an
            operator has the host retried): hand it on to systems that can tell a repeat.
        update_command, services, pre_downtime_scripts, pre_update_scripts, post_update_scripts: From the
            request.
        secrets: References to secrets, from the request. Fetch the values where they are used.
        params: The request's own parameters. ``params_as`` reads them with a type.
        parks: Whether the host is parked if this step fails for good. What a ``Checkpoint`` has saved is kept
            then.
        checkpoint: What the step had saved when it failed and its host was parked, if it is retried now. A
            ``Checkpoint`` resumes from it by itself. None: there is nothing to resume from.
    """

    _refuses_unknown = False
    _written_short = True

    rollout: str
    cluster: str
    host: str
    labels: Mapping[str, str] = attrs.field(factory=dict[str, str])
    step: str = ""
    attempt: int = 1
    idempotency_key: str = ""
    update_command: str = ""
    services: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    pre_downtime_scripts: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    pre_update_scripts: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    post_update_scripts: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    secrets: Mapping[str, str] = attrs.field(factory=dict[str, str])
    params: Mapping[str, object] = attrs.field(factory=dict[str, object])
    parks: bool = False
    checkpoint: object | None = None

    def params_as(self, wanted: type[ParamsT]) -> ParamsT:
        """The request's parameters as an attrs class, a dataclass or a wire type.

        Name the same type as ``params_type`` of the workflow class, and a request that does not fit is
        refused before anything is touched.

        Args:
            wanted: The type to read them as.

        Raises:
            InvalidRequest: They do not fit; it names every wrong field.
        """
        return from_json(dict(self.params), wanted)


@final
@attrs.frozen(kw_only=True)
class StepResult(WireType):
    """What a step's activity answers.

    Args:
        ok: False: the step failed, and trying again would not help (a false precondition, say). Raise an
            exception instead where another attempt may help.
        needed: ``check_preconditions`` only. False: this host needs nothing, it ends as UNCHANGED.
        changed: The step changed something. ``perform_update`` decides PATCHED or UNCHANGED by it.
        reboot_required: True: the update takes effect only after a reboot. None (default): nothing new.
        boot_id: The host's boot id. The ``reboot`` step is proven by a new one.
        previous_boot_id: ``reboot`` only: the boot id before, where no earlier step told it.
        already: ``check_preconditions`` only: taking steps whose effect was there before we came, like
            ``["set_maintenance_mode"]``. They are neither taken nor given back.
        message: One line for people. Required with ``ok=False``.
        output: What the command printed; its last 4,096 characters are kept. No secrets: it goes into
            the history.
        attempt: Set by the library.
        checkpoint: Set by the library: what a ``Checkpoint`` had saved, of a failed step that parks its host.
    """

    _refuses_unknown = False
    _written_short = True

    ok: bool = attrs.field(default=True, metadata=must(flag))
    needed: bool = attrs.field(default=True, metadata=must(flag))
    changed: bool = attrs.field(default=False, metadata=must(flag))
    reboot_required: bool | None = attrs.field(default=None, metadata=must(optional(flag)))
    boot_id: str | None = attrs.field(default=None, metadata=must(optional(text)))
    previous_boot_id: str | None = attrs.field(default=None, metadata=must(optional(text)))
    already: tuple[str, ...] = attrs.field(
        default=(), converter=as_tuple, metadata=must(each(text))
    )
    message: str = attrs.field(default="", converter=as_tail, metadata=must(string))
    output: str = attrs.field(default="", converter=as_tail, metadata=must(string))
    attempt: int = 1
    checkpoint: object | None = None


@final
@attrs.frozen(kw_only=True)
class Notice(WireType):
    """Something that people may want to know: the argument of ``notify``.

    Attributes:
        kind: What happened, like ``"approval_requested"`` or ``"host_failed"``.
        text: One line for people.
        rollout: The rollout's workflow id.
        cluster: The cluster it is about, or None.
        host: The host it is about, or None.
        recipients: Whom it concerns: the approvers of the gate, or the requester.
    """

    _refuses_unknown = False

    kind: NoticeKind = attrs.field(metadata=must(one_of(*NOTICE_KINDS)))
    text: str
    rollout: str
    cluster: str | None = None
    host: str | None = None
    recipients: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
