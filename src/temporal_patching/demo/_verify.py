"""Whether a report is true: compares it with what the hosts' directories hold. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..models import HostReport, HostState, Outcome, RolloutReport
from ._machines import Seen

BEFORE_UPDATE = (
    "check_preconditions",
    "set_maintenance_mode",
    "stop_services",
    "wait_for_workload_drain",
)


def mismatches(
    report: RolloutReport, before: Mapping[str, Seen], after: Mapping[str, Seen], wanted: str
) -> list[str]:
    """Every way in which a report and the hosts disagree; empty if they agree.

    Args:
        report: What the rollout says.
        before: What each host held before the rollout.
        after: What each host holds now.
        wanted: The version that was rolled out.
    """
    reported = {each.host: each for each in report.hosts}
    unknown = [
        f"the report names {name!r}, which is no host" for name in reported if name not in after
    ]
    found = [
        f"{name} should {should} ({_state(reported.get(name)).value}), but is {_said(after[name])}"
        for name in after
        for should in _wrong(reported.get(name), before[name], after[name], wanted)
    ]
    return [*unknown, *found, *_wrong_counts(report, reported, after)]


def _wrong(told: HostReport | None, before: Seen, after: Seen, wanted: str) -> Iterator[str]:
    """What this host should be and is not."""
    state = _state(told)
    if state is HostState.PATCHED:
        if after != Seen(version=wanted, serves=wanted, maintenance=False):
            yield f"serve {wanted} and be in service"
    elif state in (HostState.FAILED, HostState.UNREACHABLE):
        assert told is not None  # what is not reported is patched
        yield from _wrong_failure(told, before, after, wanted)
    elif told is not None and told.left_out is not None:
        if after.version != before.version or not after.maintenance:
            yield f"still hold {before.version} and be in maintenance"
    elif after != before:
        yield f"be as it was before ({_said(before)})"


def _wrong_failure(told: HostReport, before: Seen, after: Seen, wanted: str) -> Iterator[str]:
    step = told.reason.partition(":")[0]
    if step in BEFORE_UPDATE and after.version != before.version:
        yield f"still hold {before.version}: it failed at {step}"
    if step not in (*BEFORE_UPDATE, "perform_update") and after.version != wanted:
        yield f"hold {wanted}: it failed at {step}"
    if after.maintenance != (told.left_out is not None):
        yield "be in maintenance exactly if it is reported as left out of service"
    if told.left_out is None and after.serves != after.version:
        yield "serve what is installed, as it is in service"


def _wrong_counts(
    report: RolloutReport, reported: Mapping[str, HostReport], hosts: Mapping[str, Seen]
) -> Iterator[str]:
    states = [_state(reported.get(name)) for name in hosts]
    for state in HostState:
        if report.counts[state] != states.count(state):
            yield (
                f"the report counts {report.counts[state]} {state.value}, "
                f"but its hosts make {states.count(state)}"
            )
    if report.hosts_omitted:
        yield f"the report leaves {report.hosts_omitted} hosts out"
    out = {name for name, told in reported.items() if told.left_out is not None}
    if out != set(report.left_out_of_service):
        yield f"left_out_of_service is {report.left_out_of_service}, but its hosts say {sorted(out)}"
    patched = report.outcome is Outcome.PATCHED
    if patched != (states.count(HostState.PATCHED) == len(states)):
        yield f"the outcome is {report.outcome.value}, but not with these hosts"


def _state(told: HostReport | None) -> HostState:
    return HostState.PATCHED if told is None else told.state


def _said(seen: Seen) -> str:
    serves = f"serves {seen.serves}" if seen.serves else "serves nothing"
    where = "in maintenance" if seen.maintenance else "in service"
    return f"{where}, holds {seen.version or 'nothing'}, {serves}"
