"""What a fleet and a rehearsal are given, looked at before anything runs.

A fault or a verb at a step that nobody has would never come about, and the test that asks for it would be green
for ever.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta

from ..policy import DEFAULT_STEPS
from ..policy._rules import did_you_mean
from ..workflow import SystemPatchWorkflow
from ._activities import NOTIFIER
from ._faults import Already, Fault
from ._hosts import EFFECTS
from ._log import OF_CLUSTERS
from ._people import Approve, Reject, Steer

_STEPS_OF_CLUSTERS = tuple(sorted(OF_CLUSTERS))

Faults = Mapping[str, Sequence[Fault]]

# Fleets


def wrong_sizes(clusters: Mapping[str, object]) -> Iterator[str]:
    """Clusters that are no number of hosts, and no list of names."""
    for cluster, hosts in clusters.items():
        number = isinstance(hosts, int) and not isinstance(hosts, bool) and hosts >= 0
        if not number and (isinstance(hosts, (str, int)) or not isinstance(hosts, Sequence)):
            yield (
                f"'clusters' must have a number >= 0 or a list of names for each cluster "
                f"(got {hosts!r} for {cluster!r})"
            )


def wrong_faults(
    faults: Mapping[str, Sequence[object]], clusters: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Faults for nobody, and those that could never strike."""
    hosts = [name for names in clusters.values() for name in names]
    known = [*hosts, *clusters, NOTIFIER]
    for name, some in faults.items():
        if name not in known:
            yield (
                f"'faults' names {name!r}, which is no host of the fleet{did_you_mean(name, known)}"
            )
            continue
        for fault in some:
            if not isinstance(fault, Fault):
                yield f"'faults' of {name!r} must be faults, like FailAt('reboot') (got {fault!r})"
                continue
            for problem in _wrong_fault(fault):
                yield f"'faults' of {name!r}: {problem}"
            if name in clusters and name not in hosts and fault.step not in OF_CLUSTERS:
                yield (
                    f"'faults' of {name!r}, which is a cluster, must be about "
                    f"{' or '.join(_STEPS_OF_CLUSTERS)} (got {fault.step!r}): name its hosts"
                )
            elif name == NOTIFIER and name not in hosts and fault.step != NOTIFIER:
                yield f"'faults' of {name!r} must be about {NOTIFIER!r} (got {fault.step!r})"
            elif name in hosts and name not in clusters and fault.step in (*OF_CLUSTERS, NOTIFIER):
                whose = f"{NOTIFIER!r}" if fault.step == NOTIFIER else "its cluster's name"
                yield f"'faults' of {name!r}: {fault.step!r} is no step of a host: put it under {whose}"


def _wrong_fault(fault: Fault) -> Iterator[str]:
    kind = type(fault).__name__
    if fault.times is not None and fault.times < 1:
        yield f"'times' of {kind} must be >= 1, or None for all attempts (got {fault.times!r})"
    duration = getattr(fault, "duration", None)
    if isinstance(duration, timedelta) and duration < timedelta(0):
        yield f"'duration' of {kind} must not be negative (got {duration})"
    if isinstance(fault, Already) and fault.step not in EFFECTS:
        yield (
            f"'step' of {kind} must be one that takes something away from a simulated host "
            f"(got {fault.step!r}{did_you_mean(fault.step, EFFECTS)})"
        )


def wrong_names(what: str, names: Collection[str], hosts: Collection[str]) -> Iterator[str]:
    """Names of hosts that the fleet does not have."""
    for name in names:
        if name not in hosts:
            yield f"'{what}' names {name!r}, which is no host of the fleet{did_you_mean(name, hosts)}"


# Rehearsals


def wrong_workflow(workflow: object) -> Iterator[str]:
    """What is no rollout."""
    if not (isinstance(workflow, type) and issubclass(workflow, SystemPatchWorkflow)):
        yield f"'workflow' must be a subclass of SystemPatchWorkflow (got {workflow!r})"


def wrong_crashes(
    crash_at: object, workflow: type[SystemPatchWorkflow], every_step: str
) -> Iterator[str]:
    """Crashes at what is no step."""
    known = [*_steps_of(workflow), every_step]
    if not isinstance(crash_at, (str, Sequence)):
        yield f"'crash_at' must be names of steps, or {every_step!r} (got {crash_at!r})"
        return
    some: Sequence[object] = [crash_at] if isinstance(crash_at, str) else crash_at
    for name in some:
        if name not in known:
            meant = did_you_mean(name, known) if isinstance(name, str) else ""
            yield f"'crash_at' names {name!r}, which is no step of {workflow.__name__}{meant}"


def wrong_people(
    people: object, workflow: type[SystemPatchWorkflow], hosts: Collection[str] | None
) -> Iterator[str]:
    """Deeds that nobody could come to do. ``hosts``: None where they are not known before."""
    if not isinstance(people, Sequence) or isinstance(people, str):
        yield f"'people' must be a list of what they do (got {people!r})"
        return
    deeds: Sequence[object] = people
    steps = _steps_of(workflow)
    for deed in deeds:
        if not isinstance(deed, (Approve, Reject, Steer)):
            yield f"'people' must be Approve, Reject or Steer (got {deed!r})"
        elif isinstance(deed, Steer) and isinstance(deed.at, str):
            if deed.at not in steps:
                yield (
                    f"'at' names {deed.at!r}, which is no step of {workflow.__name__}"
                    f"{did_you_mean(deed.at, steps)}"
                )
            if hosts is not None and deed.host is not None:
                yield from wrong_names("host", [deed.host], hosts)


def strange_faults(faults: Faults, workflow: type[SystemPatchWorkflow]) -> Iterator[str]:
    """Faults at steps that neither this procedure has nor the default one, from which chance draws."""
    known = list(dict.fromkeys([*_steps_of(workflow), *DEFAULT_STEPS.names]))
    for name, some in faults.items():
        for fault in some:
            if fault.step not in known:
                yield (
                    f"'faults' of {name!r}: {type(fault).__name__} is about {fault.step!r}, which is no step "
                    f"of {workflow.__name__}{did_you_mean(fault.step, known)}"
                )


def wrong_bound(name: str, value: object) -> Iterator[str]:
    """A bound in which nothing could be done."""
    if not isinstance(value, timedelta) or value <= timedelta(0):
        yield f"'{name}' must be a timedelta > 0 (got {value!r})"


def _steps_of(workflow: type[SystemPatchWorkflow]) -> list[str]:
    return [*_STEPS_OF_CLUSTERS, *workflow.host_workflow.steps.names, NOTIFIER]
