"""Clusters, through real rollouts: the plan, pilots and waves, how many at once, and when to stop."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import attrs
import pytest
from temporalio.client import Client

from temporal_patching.activity import PatchActivities
from temporal_patching.models import HostList, HostQuery, HostState, HostTask, StepResult
from temporal_patching.policy import (
    FailureBudget,
    InFlight,
    OnBusyHost,
    Outcome,
    RolloutPolicy,
    StopScope,
)
from temporal_patching.testing import (
    Fault,
    Hang,
    RefuseAt,
    SimulatedFleet,
    Slow,
    Unchanged,
    Unreachable,
)
from tests.rollouts import ALICE, ALL_AT_ONCE, ask, ending, eventually, reported, site, status
from tests.workflows import BackwardsFleet, ForgetfulFleet, ImpatientFleet, QuickFleet

SOON = timedelta(milliseconds=20)


@pytest.fixture
def eu() -> str:
    """A cluster's name that no other test has."""
    return f"eu-{uuid.uuid4().hex[:6]}"


@pytest.fixture
def us() -> str:
    """Another one."""
    return f"us-{uuid.uuid4().hex[:6]}"


def in_groups(fleet: SimulatedFleet, cluster: str, *sizes: int) -> None:
    """The cluster's hosts went in groups of these sizes, each group after the end of the one before."""
    hosts = [host.name for host in fleet.hosts if host.cluster == cluster]
    assert sum(sizes) == len(hosts)
    ended = -1
    for size in sizes:
        group, hosts = hosts[:size], hosts[size:]
        numbers = [each.number for each in fleet.log if each.host in group]
        assert min(numbers) > ended, (sizes, group)
        ended = max(numbers)


# The plan


async def test_list_in_pages(client: Client, eu: str) -> None:
    """All pages of the list are read; `only_hosts` and `exclude_hosts` choose from it, whatever the case."""
    fleet = SimulatedFleet({eu: 7}, page_size=3)
    async with site(client, fleet) as here:
        report = await here.report(ask(eu, only_hosts=[f"{eu}-2".upper(), f"{eu}-7"]))
        assert report.counts[HostState.PATCHED] == 2
        await here.report(ask(eu, exclude_hosts=[f"{eu}-{n}" for n in range(1, 7)]))
    assert {*fleet.started} == {f"{eu}-2", f"{eu}-7"}
    assert fleet.host(f"{eu}-7").version == 3


class EndlessPages(PatchActivities):
    async def list_hosts(self, query: HostQuery) -> HostList:
        return HostList(hosts=[f"{query.cluster}-{query.page or 0}"], next_page="again")

    async def perform_update(self, task: HostTask) -> StepResult:
        raise AssertionError("nothing may be touched")


PLANS: dict[str, tuple[dict[str, int | list[str]], dict[str, Any], str]] = {
    "twice": ({"eu": ["{0}-web", "{0}-WEB"]}, {}, "host '{0}-WEB' is listed twice"),
    "across": (
        {"eu": ["{0}-web"], "us": ["{0}-Web"]},
        {},
        "-{0}' and in cluster '",
    ),
    "empty": ({"eu": 2, "us": 0}, {}, "cluster 'us-{0}' has no hosts"),
    "max_hosts": ({"eu": 3}, {"max_hosts": 2}, "'max_hosts' is 2, but the clusters have 3 hosts"),
    "expect_more": (
        {"eu": 8},
        {"expect_hosts": 10},
        "'expect_hosts' is 10, but the clusters have 8",
    ),
    "expect_less": ({"eu": 12}, {"expect_hosts": 10}, "more than 10% off"),
    "only": (
        {"eu": 2},
        {"only_hosts": ["eu-{0}-11"]},
        "'only_hosts' names 'eu-{0}-11', which no cluster has",
    ),
    "exclude": (
        {"eu": 2},
        {"exclude_hosts": ["eu-{0}-11"]},
        "'exclude_hosts' names 'eu-{0}-11', which no cluster has, did you mean 'eu-{0}-1'?",
    ),
}


async def test_refused_plans(client: Client) -> None:
    """A plan that is not what was meant is refused before anything is touched, and says why."""
    tags = {name: uuid.uuid4().hex[:6] for name in PLANS}
    clusters = {
        f"{cluster}-{tags[name]}": hosts
        if isinstance(hosts, int)
        else [host.format(tags[name]) for host in hosts]
        for name, (some, _, _) in PLANS.items()
        for cluster, hosts in some.items()
    }
    fleet = SimulatedFleet(clusters)
    async with site(client, fleet) as here:

        async def refused(name: str) -> None:
            some, fields, expected = PLANS[name]
            tag = tags[name]
            told = {
                key: [each.format(tag) for each in value] if isinstance(value, list) else value
                for key, value in fields.items()
            }
            report = await here.report(ask(*(f"{each}-{tag}" for each in some), **told))
            assert report.outcome is Outcome.STOPPED, name
            assert report.reason.startswith("the plan is refused: ")
            assert expected.format(tag) in report.reason, report.reason
            assert report.counts[HostState.PATCHED] == 0

        await asyncio.gather(*map(refused, PLANS))
    assert fleet.started == ()


async def test_expected_within_ten_percent(client: Client, eu: str) -> None:
    """Up to 10 % off what was expected is no error, nor is an empty cluster that is allowed."""
    fleet = SimulatedFleet({eu: 9, f"{eu}-none": 0})
    async with site(client, fleet.implementing("perform_update")) as here:
        report = await here.report(ask(eu, f"{eu}-none", expect_hosts=10, allow_empty=True))
    assert report.outcome is Outcome.PATCHED
    assert report.counts[HostState.PATCHED] == 9


async def test_endless_pages(client: Client, eu: str) -> None:
    """Pages that do not end refuse the plan."""
    async with site(client, EndlessPages()) as here:
        report = await here.report(ask(eu))
    assert report.outcome is Outcome.STOPPED
    assert "pages do not end" in report.reason


async def test_unknown_cluster(client: Client, eu: str) -> None:
    """A cluster that cannot be listed refuses the plan with the activity's own words."""
    async with site(client, SimulatedFleet({f"{eu}-1": 1})) as here:
        report = await here.report(ask(eu))
    assert report.outcome is Outcome.STOPPED
    assert f"no cluster '{eu}'" in report.reason


async def test_own_order(client: Client, eu: str) -> None:
    """`order_hosts` decides the order; one that loses hosts refuses the plan."""
    fleet = SimulatedFleet({eu: 3})
    policy = RolloutPolicy(pilot_hosts=0)
    async with site(client, fleet, [BackwardsFleet, ForgetfulFleet]) as here:
        report = await here.report(ask(eu, policy=policy), ForgetfulFleet)
        assert report.outcome is Outcome.STOPPED
        assert "order_hosts() must return the hosts it was given" in report.reason
        assert fleet.started == ()
        await here.report(ask(eu, policy=policy), BackwardsFleet)
    assert fleet.started == (f"{eu}-3", f"{eu}-2", f"{eu}-1")


# Pilots, waves, how many at once


@pytest.mark.parametrize(
    ("hosts", "policy", "sizes", "at_once"),
    [
        (7, RolloutPolicy(waves=["10%", "100%"], max_parallel=3), (1, 1, 5), 3),
        (8, RolloutPolicy(pilot_hosts=2, waves=[1, "25%"], max_parallel=2), (2, 1, 2, 2, 1), 2),
        (3, RolloutPolicy(), (1, 2), 1),
        (6, RolloutPolicy(pilot_hosts="50%", max_parallel="100%"), (3, 3), 3),
        (5, RolloutPolicy(pilot_hosts=0, waves=[2, "100%"], max_parallel=3), (2, 3), 3),
    ],
)
async def test_pilots_and_waves(
    client: Client, eu: str, hosts: int, policy: RolloutPolicy, sizes: tuple[int, ...], at_once: int
) -> None:
    """Hosts go in the groups that the policy says, and never more at once than allowed."""
    fleet = SimulatedFleet({eu: hosts}, latency=SOON)
    async with site(client, fleet) as here:
        report = await here.report(ask(eu, policy=policy))
    assert report.outcome is Outcome.PATCHED
    in_groups(fleet, eu, *sizes)
    assert fleet.most_in_flight(eu) == at_once
    assert report.clusters[0].waves == len(sizes) - (policy.pilot_hosts != 0)


async def test_unchanged_pilots_are_replaced(client: Client, eu: str) -> None:
    """Only a host that its update changed counts as a pilot: others are replaced by the next."""
    fleet = SimulatedFleet({eu: 6}, faults={f"{eu}-{n}": Unchanged() for n in (1, 2)})
    policy = RolloutPolicy(max_parallel="100%")
    async with site(client, fleet) as here:
        report = await here.report(ask(eu, policy=policy))
    assert report.outcome is Outcome.PATCHED
    assert report.counts[HostState.UNCHANGED] == 2
    in_groups(fleet, eu, 1, 1, 1, 3)


async def test_failed_pilot(client: Client, eu: str) -> None:
    """A failed pilot stops although the cluster's budget is large: nothing else was started."""
    fleet = SimulatedFleet({eu: 5}, faults={f"{eu}-1": RefuseAt("perform_update")})
    policy = RolloutPolicy(max_parallel="100%", failure_budget=FailureBudget(max_failures="100%"))
    async with site(client, fleet) as here:
        report = await here.report(ask(eu, policy=policy))
    assert report.outcome is Outcome.STOPPED
    assert "pilots: 1 host failed, 0 allowed" in report.reason
    assert report.counts[HostState.NOT_STARTED] == 4
    assert fleet.started == (f"{eu}-1",)


@pytest.mark.parametrize("step", ["stop_services", "perform_update"])
async def test_a_pilot_that_hangs(client: Client, eu: str, step: str) -> None:
    """It ends by its step's timeout, and counts as failed: until then, and then, nothing else starts."""
    fleet = SimulatedFleet({eu: 5}, faults={f"{eu}-1": Hang(step)})
    policy = RolloutPolicy(max_parallel="100%", failure_budget=FailureBudget(max_failures="100%"))
    async with site(client, fleet, [ImpatientFleet]) as here:
        report = await here.report(ask(eu, policy=policy), ImpatientFleet)
    assert report.outcome is Outcome.STOPPED
    assert "pilots: 1 host failed, 0 allowed" in report.reason
    assert reported(report, f"{eu}-1").reason.startswith(f"{step}: timed out (start_to_close)")
    assert report.counts[HostState.NOT_STARTED] == 4
    assert fleet.started == (f"{eu}-1",)
    assert report.left_out_of_service == fleet.out_of_service


# Budgets


@pytest.mark.parametrize(
    ("budget", "faults", "started"),
    [
        (FailureBudget(max_failures=2), {1: "F", 2: "F", 4: "F"}, 4),
        (FailureBudget(max_failures="25%"), {1: "F", 2: "F", 4: "F"}, 4),
        (FailureBudget(max_failures="24%"), {1: "F", 2: "F", 4: "F"}, 2),
        (FailureBudget(max_failures=1), {1: "F", 3: "X"}, 3),
        (FailureBudget(max_failures=0, max_unreachable=2), {1: "X", 2: "X", 5: "X"}, 5),
        (FailureBudget(max_failures="10%", min_sample=4), {1: "F", 2: "F"}, 4),
        (FailureBudget(max_failures=8), {1: "F"}, 8),
    ],
    ids=[
        "number",
        "percent",
        "rounds-down",
        "unreachable-counts",
        "own-limit",
        "sample",
        "tolerated",
    ],
)
async def test_failure_budget(
    client: Client, eu: str, budget: FailureBudget, faults: dict[int, str], started: int
) -> None:
    """It stops when failures exceed the allowed number, and not before."""
    kinds: dict[str, Fault] = {
        "F": RefuseAt("perform_update"),
        "X": Unreachable("perform_update", times=9),
    }
    fleet = SimulatedFleet({eu: 8}, faults={f"{eu}-{n}": kinds[kind] for n, kind in faults.items()})
    policy = RolloutPolicy(pilot_hosts=0, failure_budget=budget)
    async with site(client, fleet) as here:
        report = await here.report(ask(eu, policy=policy))
    assert len(fleet.started) == started, report.summary
    assert report.outcome is (Outcome.PARTIAL if started == 8 else Outcome.STOPPED)
    assert report.counts[HostState.NOT_STARTED] == 8 - started


async def test_wave_that_failed_as_a_whole(client: Client, eu: str) -> None:
    """A wave of two or more hosts that all failed stops, however large the budget is."""
    fleet = SimulatedFleet(
        {eu: 6}, faults={f"{eu}-{n}": RefuseAt("perform_update") for n in (1, 2)}
    )
    policy = RolloutPolicy(
        pilot_hosts=0,
        waves=[2],
        max_parallel=2,
        failure_budget=FailureBudget(max_failures="100%"),
    )
    async with site(client, fleet) as here:
        report = await here.report(ask(eu, policy=policy))
    assert report.outcome is Outcome.STOPPED
    assert "every host of wave 1 that was acted on failed" in report.reason
    assert {*fleet.started} == {f"{eu}-1", f"{eu}-2"}


async def test_held_hosts_use_up_the_room(client: Client, eu: str) -> None:
    """Held hosts count as out of service: if none may start the cluster stops and says so."""
    fleet = SimulatedFleet(
        {eu: 4}, faults={f"{eu}-{n}": RefuseAt("check_service_health") for n in (1, 2)}
    )
    policy = RolloutPolicy(
        pilot_hosts=0,
        max_out_of_service=2,
        failure_budget=FailureBudget(max_failures="100%", stop_on_failed_wave=False),
    )
    async with site(client, fleet) as here:
        report = await here.report(ask(eu, policy=policy))
    assert report.outcome is Outcome.STOPPED
    assert "nothing may start: 2 held out of service, max_out_of_service is 2" in report.reason
    assert report.left_out_of_service == fleet.out_of_service == (f"{eu}-1", f"{eu}-2")


@pytest.mark.parametrize("in_flight", ["cancel", "finish"])
async def test_in_flight(client: Client, eu: str, in_flight: InFlight) -> None:
    """When a cluster stops its hosts in flight are restored, or finish, as the policy says."""
    fleet = SimulatedFleet({eu: 3}, faults={f"{eu}-1": RefuseAt("perform_update")})
    fleet.hold("perform_update", f"{eu}-1")
    for n in (2, 3):
        fleet.hold("wait_for_workload_drain", f"{eu}-{n}")
    policy = attrs.evolve(ALL_AT_ONCE, in_flight=in_flight)
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=policy))
        await fleet.reached("wait_for_workload_drain", f"{eu}-2")
        await fleet.reached("wait_for_workload_drain", f"{eu}-3")
        await fleet.reached("perform_update", f"{eu}-1")
        fleet.release("perform_update", f"{eu}-1")
        if in_flight == "finish":
            await eventually(lambda: ended(client, f"patch-host/{eu}-1"))
            for n in (2, 3):
                fleet.release("wait_for_workload_drain", f"{eu}-{n}")
        report = await ending(rollout)
    assert report.outcome is Outcome.STOPPED
    state = HostState.CANCELLED if in_flight == "cancel" else HostState.PATCHED
    assert report.counts[state] == 2
    assert fleet.out_of_service == ()


@pytest.mark.parametrize("scope", ["rollout", "cluster"])
async def test_stop_scope(client: Client, eu: str, us: str, scope: StopScope) -> None:
    """A cluster that stops takes the others along, unless the policy says otherwise."""
    fleet = SimulatedFleet({eu: 1, us: 2}, faults={f"{eu}-1": RefuseAt("perform_update")})
    fleet.hold("wait_for_workload_drain", f"{us}-1")
    policy = RolloutPolicy(stop_scope=scope)
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, us, policy=policy))
        await fleet.reached("wait_for_workload_drain", f"{us}-1")
        if scope == "cluster":
            await eventually(lambda: ended(client, f"{rollout.id}/{eu}"))
            fleet.release("wait_for_workload_drain", f"{us}-1")
        report = await ending(rollout)
    assert report.outcome is Outcome.STOPPED
    assert report.reason.startswith(f"cluster '{eu}': pilots: 1 host failed, 0 allowed ({eu}-1: ")
    assert fleet.out_of_service == ()
    if scope == "cluster":
        assert report.counts[HostState.PATCHED] == 2
    else:
        assert reported(report, f"{us}-1").state is HostState.CANCELLED
        assert reported(report, f"{us}-2").state is HostState.NOT_STARTED


async def ended(client: Client, id: str) -> bool:
    """Whether a workflow has ended."""
    return await status(client, id) not in ("", "RUNNING")


async def test_total_failure_budget(client: Client, eu: str, us: str) -> None:
    """Failures over all clusters stop the rollout, although each cluster tolerates its own."""
    fleet = SimulatedFleet(
        {eu: 3, us: 3},
        faults={f"{eu}-1": RefuseAt("perform_update"), f"{us}-1": RefuseAt("perform_update")},
    )
    fleet.hold("check_preconditions", f"{eu}-2")
    fleet.hold("check_preconditions", f"{us}-2")
    tolerant = FailureBudget(max_failures=2)
    policy = RolloutPolicy(
        pilot_hosts=0,
        max_out_of_service=3,
        failure_budget=tolerant,
        total_failure_budget=FailureBudget(max_failures=1),
    )
    async with site(client, fleet) as here:
        report = await here.report(ask(eu, us, policy=policy))
    assert report.outcome is Outcome.STOPPED
    assert report.reason == "over all clusters: 2 hosts failed, 1 allowed"
    assert report.counts[HostState.PATCHED] == 0
    assert report.counts[HostState.FAILED] == 2


async def test_limits_over_all_clusters(client: Client, eu: str, us: str) -> None:
    """`max_parallel_total` and `max_parallel_clusters` bound what is in flight over all clusters."""
    fleet = SimulatedFleet({eu: 4, us: 4}, latency=SOON)
    async with site(client, fleet) as here:
        policy = attrs.evolve(ALL_AT_ONCE, max_parallel_total=3)
        report = await here.report(ask(eu, us, policy=policy))
        assert report.outcome is Outcome.PATCHED
    assert fleet.most_in_flight() == 3
    again = SimulatedFleet({eu: 4, us: 4}, latency=SOON)
    async with site(client, again) as here:
        policy = attrs.evolve(ALL_AT_ONCE, max_parallel_clusters=1)
        report = await here.report(ask(eu, us, policy=policy))
        assert report.outcome is Outcome.PATCHED
    last = max(each.number for each in again.log if each.host.startswith(f"{eu}-"))
    first = min(each.number for each in again.log if each.host.startswith(f"{us}-"))
    assert last < first
    assert again.most_in_flight() == 4


async def test_slots_that_idle_at_the_end_of_a_cluster(client: Client, eu: str, us: str) -> None:
    """While its last host is in flight, what a cluster has and cannot use goes to the others."""
    fleet = SimulatedFleet({eu: 2, us: 4})
    hosts = [f"{eu}-1", f"{eu}-2", f"{us}-1", f"{us}-2", f"{us}-3"]
    for host in hosts:
        fleet.hold("perform_update", host)
    policy = attrs.evolve(ALL_AT_ONCE, max_parallel_total=4)
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, us, policy=policy))
        for host in hosts[:4]:
            await fleet.reached("perform_update", host)
        assert sorted(fleet.started) == hosts[:4]
        fleet.release("perform_update", f"{eu}-2")
        await fleet.reached("perform_update", f"{us}-3")
        assert (await rollout.cluster_progress(eu)).in_flight == (f"{eu}-1",)
        for host in set(hosts) - {f"{eu}-2"}:
            fleet.release("perform_update", host)
        assert (await ending(rollout)).outcome is Outcome.PATCHED
    assert fleet.most_in_flight() == 4


# One rollout at a time on a host


@pytest.mark.parametrize("on_busy", ["fail", "skip", "wait"])
async def test_busy_host(client: Client, eu: str, on_busy: OnBusyHost) -> None:
    """A host that another rollout works on fails, is skipped or is waited for; never two at once."""
    fleet = SimulatedFleet({eu: 2})
    fleet.hold("stop_services", f"{eu}-1")
    policy = attrs.evolve(ALL_AT_ONCE, on_busy_host=on_busy)
    async with site(client, fleet) as here:
        first = await here.start(ask(eu, only_hosts=[f"{eu}-1"]))
        await fleet.reached("stop_services", f"{eu}-1")
        second = await here.start(ask(eu, policy=policy))
        if on_busy == "wait":
            await fleet.until(lambda: fleet.host(f"{eu}-2").version == 2)
            fleet.release("stop_services", f"{eu}-1")
        report = await ending(second)
        if on_busy != "wait":
            fleet.release("stop_services", f"{eu}-1")
        assert (await ending(first)).outcome is Outcome.PATCHED
    assert fleet.overlaps() == ()
    if on_busy == "wait":
        assert report.outcome is Outcome.PATCHED
        assert fleet.host(f"{eu}-1").version == 3
    else:
        expected = HostState.FAILED if on_busy == "fail" else HostState.SKIPPED
        assert reported(report, f"{eu}-1").state is expected
        assert reported(report, f"{eu}-1").reason == f"busy: rollout {first.id!r} works on it"
        assert report.outcome is (Outcome.STOPPED if on_busy == "fail" else Outcome.PARTIAL)
        assert fleet.host(f"{eu}-1").version == 2


@pytest.mark.parametrize("how", ["cancel", "timeout"])
async def test_waiting_for_a_busy_host_ends(client: Client, eu: str, how: str) -> None:
    """Waiting for a busy host ends with a cancel, and with its own timeout; the holder is untouched."""
    fleet = SimulatedFleet({eu: 1})
    fleet.hold("stop_services")
    patience = timedelta(seconds=1 if how == "timeout" else 600)
    policy = attrs.evolve(ALL_AT_ONCE, on_busy_host="wait", busy_host_timeout=patience)
    async with site(client, fleet) as here:
        first = await here.start(ask(eu))
        await fleet.reached("stop_services")
        second = await here.start(ask(eu, policy=policy))

        async def waits() -> bool:
            if not await status(client, f"{second.id}/{eu}"):
                return False
            found = await client.get_workflow_handle(f"{second.id}/{eu}").describe()
            return any(
                each.activity_type.name == "wait_for_host"
                for each in found.raw_description.pending_activities
            )

        if how == "cancel":
            await eventually(waits)
            said = (await second.cluster_progress(eu)).waits_for
            assert said == f"1 host in flight; {eu}-1 is busy: rollout {first.id!r} works on it"
            await second.cancel()
        report = await asyncio.wait_for(ending(second), timeout=40)
        fleet.release("stop_services")
        assert (await ending(first)).outcome is Outcome.PATCHED
    host = reported(report, f"{eu}-1")
    if how == "cancel":
        assert (report.outcome, host.state) == (Outcome.ABORTED, HostState.CANCELLED)
    else:
        assert host.state is HostState.FAILED
        assert "still busy after" in host.reason
    assert fleet.host(f"{eu}-1").version == 2


@pytest.mark.parametrize("how", ["stopped", "paused"])
async def test_a_host_that_was_waited_for_begins_only_if_hosts_may_start(
    client: Client, eu: str, how: str
) -> None:
    """When another rollout lets go of it, this one may have stopped, or be paused, meanwhile."""
    busy, bad = f"{eu}-1", f"{eu}-2"
    faults = {bad: RefuseAt("perform_update")} if how == "stopped" else {}
    fleet = SimulatedFleet({eu: 2}, faults=faults)
    fleet.hold("stop_services", busy)
    policy = attrs.evolve(ALL_AT_ONCE, on_busy_host="wait", in_flight="finish")
    async with site(client, fleet) as here:
        first = await here.start(ask(eu, only_hosts=[busy]))
        await fleet.reached("stop_services", busy)
        if how == "stopped":
            fleet.hold("perform_update", bad)
        second = await here.start(ask(eu, policy=policy))

        async def waits() -> bool:
            return "is busy" in (await second.progress()).clusters[0].waits_for

        await eventually(waits)
        if how == "stopped":
            await fleet.reached("perform_update", bad)
            fleet.release("perform_update", bad)
            await ending(second)  # it waits no more for a host that it would not begin
        else:
            await second.pause(by=ALICE)
        fleet.release("stop_services", busy)
        assert (await ending(first)).outcome is Outcome.PATCHED
        if how == "paused":

            async def rests() -> bool:
                return (await second.progress()).phase == "paused"

            await eventually(rests)
            assert fleet.host(busy).version == 2
            await second.resume(by=ALICE)
        report = await ending(second)
    if how == "stopped":
        assert reported(report, busy).state is HostState.NOT_STARTED
        assert fleet.host(busy).version == 2, "only the first rollout has patched it"
    else:
        assert report.outcome is Outcome.PATCHED
        assert fleet.host(busy).version == 3


# Killed from outside


@pytest.mark.parametrize("level", ["cluster", "rollout"])
async def test_terminated(client: Client, eu: str, level: str) -> None:
    """When a cluster or the rollout is terminated its hosts are cancelled and given back."""
    fleet = SimulatedFleet({eu: 2})
    fleet.hold("wait_for_workload_drain", f"{eu}-1")
    fleet.hold("perform_update", f"{eu}-2")
    async with site(client, fleet, replays=False) as here:
        rollout = await here.start(ask(eu))
        await fleet.reached("wait_for_workload_drain", f"{eu}-1")
        await fleet.reached("perform_update", f"{eu}-2")
        target = rollout.id if level == "rollout" else f"{rollout.id}/{eu}"
        await client.get_workflow_handle(target).terminate("by hand")
        await fleet.until(lambda: fleet.host(f"{eu}-1").serves)
        fleet.release("perform_update", f"{eu}-2")
        await eventually(lambda: ended(client, f"patch-host/{eu}-1"))
        await eventually(lambda: ended(client, f"patch-host/{eu}-2"))
        assert await status(client, f"patch-host/{eu}-1") == "CANCELED"
        assert await status(client, f"patch-host/{eu}-2") == "COMPLETED"
        if level == "rollout":
            await eventually(lambda: ended(client, f"{rollout.id}/{eu}"))
            assert await status(client, f"{rollout.id}/{eu}") == "FAILED"
        else:
            report = await ending(rollout)
            assert report.outcome is Outcome.STOPPED
            assert "ended without a report" in report.reason
            # What nobody knows is not reported as well.
            assert set(report.left_out_of_service) == {f"{eu}-1", f"{eu}-2"}
            assert report.counts[HostState.FAILED] == 2
    assert fleet.out_of_service == ()
    assert fleet.host(f"{eu}-2").version == 2


async def test_cluster_cancelled_by_somebody_else(client: Client, eu: str) -> None:
    """A cluster that somebody cancels by its id gives its hosts back and ends as FAILED, never CANCELED."""
    fleet = SimulatedFleet({eu: 1})
    fleet.hold("stop_services")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu))
        await fleet.reached("stop_services")
        await client.get_workflow_handle(f"{rollout.id}/{eu}").cancel()
        report = await ending(rollout)
        assert await status(client, f"{rollout.id}/{eu}") == "FAILED"
    assert report.outcome is Outcome.STOPPED
    assert report.clusters[0].outcome is Outcome.ABORTED
    assert fleet.out_of_service == ()


async def test_slow_hosts_hold_nobody_up(client: Client, eu: str) -> None:
    """Inside a wave hosts slide: a slow one does not keep the others from being started."""
    fleet = SimulatedFleet(
        {eu: 5}, faults={f"{eu}-1": Slow("perform_update", duration=timedelta(seconds=3))}
    )
    policy = RolloutPolicy(pilot_hosts=0, max_parallel=2)
    async with site(client, fleet) as here:
        await here.report(ask(eu, policy=policy))
    done = [
        each.host
        for each in fleet.log
        if each.step == "clear_maintenance_mode" and each.what == "done"
    ]
    assert done[-1] == f"{eu}-1"


def test_quick_fleet_is_used() -> None:
    """The tests above use the library's own cluster workflow."""
    assert QuickFleet.cluster_workflow.__module__.startswith("temporal_patching.")
