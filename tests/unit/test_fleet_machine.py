"""One simulated host as a state machine, each fault, and the streams of chance."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import json
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from temporal_patching.activity import PatchActivities
from temporal_patching.exceptions import HostUnreachable, InvalidRequest, OutcomeUnknown
from temporal_patching.models import (
    FleetHealth,
    FleetQuery,
    HostList,
    HostQuery,
    HostTask,
    Notice,
    StepResult,
)
from temporal_patching.policy import DEFAULT_STEPS
from temporal_patching.testing import (
    Delayed,
    DiskFull,
    DoneButLost,
    Doubled,
    FailAt,
    Fault,
    HalfConfigured,
    Hang,
    HostKeyChanged,
    LiesAboutBoot,
    LiesAboutSuccess,
    LockHeld,
    NeedsReboot,
    NeverReturns,
    RebootsByItself,
    RefuseAt,
    RequestLost,
    SimulatedFleet,
    SimulatedHost,
    some_faults,
)
from temporal_patching.worker import PatchingPlugin


def task(step: str, host: str = "eu-1", *, attempt: int = 1, rollout: str = "r") -> HostTask:
    """One attempt, as its activity is told of it."""
    key = f"{rollout}/{host}/{step}/1"
    return HostTask(
        rollout=rollout, cluster="eu", host=host, step=step, attempt=attempt, idempotency_key=key
    )


async def act(activities: Any, step: str, *, attempt: int = 1) -> StepResult:
    """Runs one attempt on the fleet's only host."""
    answer = await getattr(activities, step)(task(step, attempt=attempt))
    assert isinstance(answer, StepResult)
    return answer


def one(*faults: Fault) -> SimulatedFleet:
    """A fleet of one host with these faults."""
    return SimulatedFleet({"eu": 1}, faults={"eu-1": faults})


def only(fleet: SimulatedFleet) -> SimulatedHost:
    """Its host."""
    return fleet.host("eu-1")


# The machine


async def test_a_kernel_runs_after_a_reboot_only() -> None:
    """An update with a kernel installs it; the host says that it needs a reboot until it has one."""
    fleet = one(NeedsReboot())
    assert (await act(fleet, "perform_update")).reboot_required
    assert (only(fleet).running_kernel, only(fleet).installed_kernel) == (1, 2)
    assert only(fleet).needs_reboot
    await act(fleet, "reboot")
    assert only(fleet).running_kernel == 2
    assert not only(fleet).needs_reboot


async def test_an_update_that_breaks_off_is_mended_by_the_next() -> None:
    """It leaves old and new packages; the same version is installed by the next attempt, not a later one."""
    fleet = one(HalfConfigured())
    with pytest.raises(ApplicationError, match="dpkg was interrupted"):
        await act(fleet, "perform_update")
    assert only(fleet).dpkg == "half-configured"
    assert sorted(only(fleet).packages.values()) == [1, 1, 2]
    refused = await act(fleet, "check_service_health")
    assert (refused.ok, refused.message) == (False, "dpkg is half-configured")
    assert (await act(fleet, "perform_update", attempt=2)).changed
    assert only(fleet).whole
    assert only(fleet).version == 2
    assert [line.what for line in fleet.log if line.step == "perform_update"] == [
        *("began", "struck", "failed"),
        *("began", "done"),
    ]


async def test_the_log_has_each_host_as_it_was() -> None:
    """Each line keeps the host as it was after it, before anybody is answered."""
    fleet = one()
    for step in ("set_maintenance_mode", "perform_update", "clear_maintenance_mode"):
        await act(fleet, step)
    states = [line.then for line in fleet.log if line.what == "done"]
    assert [(each.in_service, each.version) for each in states if each is not None] == [
        (False, 1),
        (False, 2),
        (True, 2),
    ]


async def test_a_fence_keeps_an_older_attempt_out() -> None:
    """An attempt that was thought dead has no effect once another one has begun on the host."""
    fleet = one()
    fleet.hold("perform_update")
    zombie = asyncio.create_task(act(fleet, "perform_update"))
    await fleet.reached("perform_update")
    again = asyncio.create_task(act(fleet, "perform_update", attempt=2))
    await fleet.reached("perform_update", times=2)
    fleet.release("perform_update")
    with pytest.raises(
        ApplicationError, match=r"fenced off, r/eu-1/perform_update/1#2 works on it"
    ):
        await zombie
    assert (await again).changed
    assert only(fleet).version == 2
    assert only(fleet).fence == "r/eu-1/perform_update/1#2"


# Faults


async def test_lost_and_delayed() -> None:
    """A lost request has no effect, a lost answer has; nobody can tell. A delay is after the effect."""
    fleet = one(RequestLost("perform_update"))
    with pytest.raises(OutcomeUnknown):
        await act(fleet, "perform_update")
    assert only(fleet).version == 1
    fleet = one(DoneButLost("perform_update"))
    with pytest.raises(OutcomeUnknown):
        await act(fleet, "perform_update")
    assert only(fleet).version == 2
    fleet = one(Delayed("perform_update", duration=timedelta(hours=1)))
    running = asyncio.create_task(act(fleet, "perform_update"))
    await fleet.until(lambda: only(fleet).version == 2)
    assert not running.done()
    running.cancel()


async def test_never_returns_and_hang() -> None:
    """Neither ends by itself; the one has its effect, the other has not."""
    for fault, version in ((NeverReturns("perform_update"), 2), (Hang("perform_update"), 1)):
        fleet = one(fault)
        running = asyncio.create_task(act(fleet, "perform_update"))
        await fleet.reached("perform_update")
        for _ in range(5):
            await asyncio.sleep(0)
        assert only(fleet).version == version
        assert not running.done()
        running.cancel()


async def test_doubled_is_done_once() -> None:
    """A request that arrives twice updates once: it has one idempotency key."""
    fleet = one(Doubled("perform_update"))
    assert (await act(fleet, "perform_update")).changed
    assert only(fleet).version == 2


async def test_lies_are_found_by_a_look_at_the_host() -> None:
    """A host that lies about its update has the old version, and the health check sees it."""
    fleet = one(LiesAboutSuccess())
    assert (await act(fleet, "perform_update")).changed
    assert only(fleet).version == 1
    assert (await act(fleet, "check_service_health")).message == "version 1 runs, not 2"
    fleet = one(NeedsReboot(), LiesAboutBoot(times=1))
    await act(fleet, "perform_update")
    lie = await act(fleet, "reboot")
    assert lie.boot_id == lie.previous_boot_id
    assert only(fleet).needs_reboot
    truth = await act(fleet, "reboot", attempt=2)
    assert truth.boot_id != truth.previous_boot_id


async def test_a_reboot_by_itself_tears_an_update_apart() -> None:
    """The host comes back with another boot id and half of the update; the next attempt ends it."""
    fleet = one(RebootsByItself("perform_update"))
    with pytest.raises(OutcomeUnknown):
        await act(fleet, "perform_update")
    assert (only(fleet).boot_id, only(fleet).dpkg) == ("boot-2", "half-configured")
    await act(fleet, "perform_update", attempt=2)
    assert only(fleet).whole


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (LockHeld(times=2), "held by unattended-upgrades"),
        (DiskFull("perform_update", times=2), "0 MB"),
    ],
)
async def test_held_and_full(fault: Fault, said: str) -> None:
    """Nothing gets past a lock or a full disk; when it is over the update goes on."""
    fleet = one(fault)
    for attempt in (1, 2):
        try:
            answer = await act(fleet, "perform_update", attempt=attempt)
        except ApplicationError as error:
            answer = StepResult(ok=False, message=error.message)
        assert said in answer.message
        assert only(fleet).version == 1
    assert (await act(fleet, "perform_update", attempt=3)).changed


async def test_a_changed_host_key() -> None:
    """Nothing is done any more on a host that shows another key, not even its closers."""
    fleet = one(HostKeyChanged("perform_update"))
    await act(fleet, "set_maintenance_mode")
    for step in ("perform_update", "clear_maintenance_mode"):
        with pytest.raises(ApplicationError, match="host key has changed") as refused:
            await act(fleet, step)
        assert refused.value.non_retryable
    assert fleet.out_of_service == ("eu-1",)


async def test_faults_of_ones_own() -> None:
    """A subclass may change the host, how often a step is carried out, and the answer."""

    class Downgrades(Fault):
        def alters(self, host: SimulatedHost) -> SimulatedHost:
            return SimulatedHost(name=host.name, cluster=host.cluster, boot_id="boot-9")

    fleet = one(Downgrades("perform_update"))
    await act(fleet, "perform_update")
    assert (only(fleet).version, only(fleet).boot_id) == (1, "boot-9")
    assert fleet.log[0].faults == ("Downgrades",)


# Streams


def test_faults_by_chance_are_each_hosts_own() -> None:
    """The same seed gives the same; adding a host or a cluster does not change what the others have."""
    few = some_faults(4711, {"eu": 30})
    more = some_faults(4711, {"us": 5, "eu": 40})
    assert few == some_faults(4711, {"eu": 30}) != some_faults(4712, {"eu": 30})
    assert {name: some for name, some in more.items() if name in few} == few
    assert not set(more) & {f"eu-{n}" for n in range(1, 31)} - set(few)
    SimulatedFleet({"us": 5, "eu": 40}, faults=more)


def test_seeds_switch_kinds_off() -> None:
    """Each seed has about half of the kinds; many seeds have all; what only a timeout ends is asked for."""
    kinds = [
        {type(fault) for some in found.values() for fault in some}
        for found in (some_faults(seed, {"eu": 200}, share=1) for seed in range(40))
    ]
    assert all(2 <= len(each) <= 16 for each in kinds)
    assert len(set.union(*kinds)) == 18
    assert not set.union(*kinds) & {Hang, NeverReturns}


def test_weights_and_share() -> None:
    """Weights say which kinds there are, the share how many hosts; what cannot be made is refused."""
    found = some_faults(1, {"eu": 50}, share=1, weights={**_off(), Hang: 1})
    assert {type(fault) for some in found.values() for fault in some} == {Hang}
    assert len(found) == 50
    assert some_faults(1, {"eu": 50}, share=0) == {}
    assert some_faults(1, {"eu": 50}, share=1, weights=_off()) == {}

    class Own(Fault):
        pass

    with pytest.raises(InvalidRequest, match=r"must name faults of FailAt, .*\(got Own\)"):
        some_faults(1, {"eu": 1}, weights={Own: 1})


def _off() -> dict[type[Fault], float]:
    return {
        type(fault): 0.0
        for seed in range(40)
        for some in some_faults(seed, {"eu": 200}, share=1).values()
        for fault in some
    }


# Around somebody's own activities


class Theirs(PatchActivities):
    """A user's own class, with plain and asynchronous methods."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def list_hosts(self, query: HostQuery) -> HostList:
        return HostList(hosts=["eu-1", "eu-2"])

    async def set_maintenance_mode(self, task: HostTask) -> StepResult:
        self.calls.append(f"{task.step}#{task.attempt}")
        return StepResult(changed=True)

    def perform_update(self, task: HostTask) -> StepResult:
        self.calls.append(f"{task.step}#{task.attempt}")
        return StepResult(changed=True, output="theirs")

    async def rebuild_index(self, task: HostTask) -> StepResult:
        raise HostUnreachable("eu-1: no route")

    def helper(self, text: str) -> str:
        return text

    async def check_fleet_health(self, query: FleetQuery) -> FleetHealth:
        return FleetHealth(verdict="failed", message="5xx")

    def notify(self, notice: Notice) -> None:
        self.calls.append(notice.text)


async def in_thread(activities: Any, step: str) -> StepResult:
    """Runs a plain method as a worker does."""
    answer = await asyncio.to_thread(getattr(activities, step), task(step))
    assert isinstance(answer, StepResult)
    return answer


async def test_around_calls_theirs_and_keeps_the_log() -> None:
    """Their methods do the work, in threads where they are plain; the fleet's log and hosts follow."""
    fleet, theirs = one(), Theirs()
    activities: Any = fleet.around(theirs)
    found = await activities.list_hosts(HostQuery(cluster="eu", rollout="r"))
    assert [host.name for host in found.hosts] == ["eu-1", "eu-2"]
    assert [host.name for host in fleet.hosts] == ["eu-1", "eu-2"]
    assert (await act(activities, "set_maintenance_mode")).changed
    assert (await in_thread(activities, "perform_update")).output == "theirs"
    with pytest.raises(HostUnreachable, match="no route"):
        await act(activities, "rebuild_index")
    assert (await activities.check_fleet_health(FleetQuery(cluster="eu"))).verdict == "failed"
    await activities.notify(Notice(kind="finished", text="done", rollout="r"))
    assert theirs.calls == ["set_maintenance_mode#1", "perform_update#1", "done"]
    assert fleet.notices[0].text == "done"
    assert fleet.steps_of("eu-1") == ("set_maintenance_mode", "perform_update")
    assert fleet.steps_of("eu-1", "failed") == ("rebuild_index",)
    assert (only(fleet).version, only(fleet).in_service) == (2, False)
    with pytest.raises(NotImplementedError):
        await activities.reboot(task("reboot"))
    assert not hasattr(activities, "helper")


@pytest.mark.parametrize(
    ("fault", "calls"),
    [
        (RefuseAt("perform_update"), 0),
        (LiesAboutSuccess(), 0),
        (Doubled("perform_update"), 2),
        (DoneButLost("perform_update"), 1),
        (FailAt("perform_update"), 0),
    ],
)
async def test_around_spoils_theirs(fault: Fault, calls: int) -> None:
    """Faults are before, after and instead of their method; a doubled request calls it twice."""
    fleet, theirs = one(fault), Theirs()
    activities = fleet.around(theirs)
    try:
        answer = await in_thread(activities, "perform_update")
    except ApplicationError:
        answer = StepResult(ok=False, message="raised")
    assert len(theirs.calls) == calls
    assert only(fleet).version == 1 + bool(calls)
    assert answer.ok == isinstance(fault, (Doubled, LiesAboutSuccess))


async def test_around_leaves_a_wrong_answer_to_the_plugin() -> None:
    """What is no StepResult is handed on, so that it is named; the log says that the attempt failed."""

    class Wrong(Theirs):
        async def set_maintenance_mode(self, task: HostTask) -> StepResult:
            return "fine"  # type: ignore[return-value]

    fleet = one()
    activities: Any = fleet.around(Wrong())
    assert await activities.set_maintenance_mode(task("set_maintenance_mode")) == "fine"
    assert fleet.steps_of("eu-1", "failed") == ("set_maintenance_mode",)


# Over a socket


async def test_served() -> None:
    """Every step, list and notice works from another place, with answers and errors as if it were here."""
    faults = [NeedsReboot(), FailAt("stop_services", times=1, retryable=False, message="no")]
    fleet = SimulatedFleet({"eu": 1}, faults={"eu-1": faults}, labels={"eu-1": {"zone": "a"}})
    async with fleet.served() as address:
        far = SimulatedFleet.at(address)
        listed = await far.list_hosts(HostQuery(cluster="eu", rollout="r"))
        assert listed.hosts[0].labels == {"zone": "a"}
        with pytest.raises(ApplicationError, match="no") as failed:
            await act(far, "stop_services")
        assert failed.value.non_retryable
        for step in DEFAULT_STEPS.names:
            assert (await act(far, step)).ok
        await far.notify(Notice(kind="finished", text="done", rollout="r"))
        assert (await far.check_fleet_health(FleetQuery(cluster="eu"))).verdict == "healthy"
        with pytest.raises(ApplicationError, match="no cluster 'us'"):
            await far.list_hosts(HostQuery(cluster="us"))
        truth = await far.truth()
    assert truth.hosts == fleet.hosts
    assert truth.log == fleet.log
    assert truth.notices == fleet.notices
    assert truth.steps_of("eu-1") == DEFAULT_STEPS.names


async def test_served_around_theirs() -> None:
    """Somebody's own activities in the worker's process, faults and log where the fleet is."""
    fleet, theirs = one(DoneButLost("perform_update")), Theirs()
    async with fleet.served() as address:
        activities: Any = SimulatedFleet.at(address).around(theirs)
        await activities.list_hosts(HostQuery(cluster="eu", rollout="r"))
        with pytest.raises(OutcomeUnknown):
            await in_thread(activities, "perform_update")
        some: Any = SimulatedFleet.at(address).implementing("reboot")
        assert (await act(some, "reboot")).ok
    assert only(fleet).version == 2
    assert len(fleet.hosts) == 2


async def test_a_cancel_travels_a_lost_caller_does_not() -> None:
    """A cancelled step is cancelled there; one whose caller is gone has its effect, and nobody hears of it."""
    fleet = one()
    fleet.hold("perform_update")
    fleet.hold("set_maintenance_mode")
    async with fleet.served() as address:
        far = SimulatedFleet.at(address)
        cancelled = asyncio.create_task(act(far, "perform_update"))
        await fleet.reached("perform_update")
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert fleet.log[-1].what == "cancelled"

        key, _, place = address.removeprefix("simulated://").partition("@")
        host, _, port = place.partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        asked = {"rollout": "r", "cluster": "eu", "host": "eu-1"}
        given = {"step": "set_maintenance_mode", "task": asked, "when": None}
        writer.write(json.dumps({"key": key, "call": "run", "given": given}).encode() + b"\n")
        await fleet.reached("set_maintenance_mode")
        writer.close()
        await writer.wait_closed()
        fleet.release("set_maintenance_mode")
        await fleet.until(lambda: not only(fleet).in_service)


async def test_served_to_who_has_the_key() -> None:
    """Without the key nothing is answered; an address that is none is refused."""
    fleet = one()
    async with fleet.served() as address:
        wrong = SimulatedFleet.at(f"simulated://guess@{address.rpartition('@')[2]}")
        with pytest.raises(ApplicationError, match="the key is another one"):
            await act(wrong, "perform_update")
    assert fleet.log == ()
    with pytest.raises(InvalidRequest, match=r"must be what SimulatedFleet.served\(\) gives"):
        SimulatedFleet.at("127.0.0.1:7233")


# Nobody takes it for machines


async def test_nobody_takes_it_for_machines() -> None:
    """A worker for a server elsewhere refuses a simulated fleet, in each of its forms, unless it was named."""
    far = await Client.connect("temporal.prod.example:7233", lazy=True)
    fleet = SimulatedFleet({"eu": 1})
    async with fleet.served() as address:
        served = SimulatedFleet.at(address)
        for each in (
            fleet,
            fleet.implementing("perform_update"),
            fleet.around(Theirs()),
            served,
            served.around(Theirs()),
        ):
            with pytest.raises(InvalidRequest, match=r"touches no machine, and 'temporal\.prod"):
                Worker(far, task_queue="q", plugins=[PatchingPlugin(each)])
    named = SimulatedFleet({"eu": 1}, targets=["temporal.prod.example:7233"])
    named._worker_starts(far, "q")


@pytest.mark.parametrize("target", ["localhost:7233", "127.0.0.1:1", "[::1]:7233"])
async def test_this_machine_is_allowed(target: str, caplog: pytest.LogCaptureFixture) -> None:
    """A server on this machine may be worked for, and the log says that no machine is touched."""
    near = await Client.connect(target.rpartition("//")[2], lazy=True)
    SimulatedFleet({"eu": 1})._worker_starts(near, "patching")
    assert "works on task queue 'patching'" in caplog.text
    assert "no machine is touched" in caplog.text


@pytest.mark.parametrize("module", ["_activities", "_chaos", "_coverage", "_fleet", "_invariants"])
def test_examples(module: str) -> None:
    """The examples in the docstrings run."""
    results = doctest.testmod(importlib.import_module(f"temporal_patching.testing.{module}"))
    assert results.attempted
    assert not results.failed
