"""The simulated fleet does what it says: effects, faults, gates, and what it counts."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError

from temporal_patching.exceptions import HostUnreachable, InvalidRequest, OutcomeUnknown
from temporal_patching.models import HostQuery, HostTask, Notice, StepResult
from temporal_patching.policy import DEFAULT_STEPS
from temporal_patching.testing import (
    Already,
    DoneButLost,
    FailAt,
    Fault,
    Hang,
    LiesAboutBoot,
    NeedsReboot,
    NotNeeded,
    RefuseAt,
    SimulatedFleet,
    Slow,
    Unchanged,
    Unreachable,
)


async def act(
    fleet: Any, step: str, host: str = "eu-1", *, rollout: str = "r", cluster: str = "eu"
) -> StepResult:
    """Runs one step as its activity would be."""
    key = f"{rollout}/{host}/{step}/1"
    task = HostTask(rollout=rollout, cluster=cluster, host=host, step=step, idempotency_key=key)
    answer = await getattr(fleet, step)(task)
    assert isinstance(answer, StepResult)
    return answer


def one(*faults: Fault) -> SimulatedFleet:
    """A fleet of one host with these faults."""
    return SimulatedFleet({"eu": 1}, faults={"eu-1": faults})


async def test_every_default_step() -> None:
    """A whole procedure leaves a host patched, rebooted and in service; the log has every step."""
    fleet = one()
    states = []
    for step in DEFAULT_STEPS.names:
        assert (await act(fleet, step)).ok
        states.append((fleet.host("eu-1").in_service, fleet.host("eu-1").services_running))
    assert states[2:4] == [(False, True), (False, False)]
    assert states[7] == (False, True)
    host = fleet.host("eu-1")
    assert (host.version, host.boot_id, host.serves) == (2, "boot-2", True)
    assert fleet.steps_of("eu-1") == fleet.steps_of("eu-1", "began") == DEFAULT_STEPS.names
    assert [each.number for each in fleet.log] == list(range(24))


async def test_list_in_pages() -> None:
    """The list comes in pages of the size that was asked for; an unknown cluster is an error."""
    fleet = SimulatedFleet({"eu": 5, "us": ["web-1"]}, page_size=2)
    pages, page = [], None
    while True:
        answer = await fleet.list_hosts(HostQuery(cluster="eu", page=page))
        pages.append([host.name for host in answer.hosts])
        page = answer.next_page
        if page is None:
            break
    assert pages == [["eu-1", "eu-2"], ["eu-3", "eu-4"], ["eu-5"]]
    assert [h.name for h in (await fleet.list_hosts(HostQuery(cluster="us"))).hosts] == ["web-1"]
    with pytest.raises(ApplicationError, match="did you mean 'eu'"):
        await fleet.list_hosts(HostQuery(cluster="eux"))


async def test_faults_that_raise() -> None:
    """They raise what they say, as often as they say, before the step has an effect."""
    fleet = one(
        FailAt("stop_services", times=2, message="no"),
        Unreachable("perform_update", times=1),
        FailAt("reboot", error=lambda: KeyError("own"), retryable=False),
    )
    for _ in range(2):
        with pytest.raises(ApplicationError, match="no"):
            await act(fleet, "stop_services")
    assert fleet.host("eu-1").serves
    await act(fleet, "stop_services")
    assert fleet.out_of_service == ("eu-1",)
    with pytest.raises(HostUnreachable):
        await act(fleet, "perform_update")
    with pytest.raises(KeyError):
        await act(fleet, "reboot")
    assert [e.what for e in fleet.log if e.step == "stop_services"] == [
        *("began", "failed") * 2,
        *("began", "done"),
    ]


async def test_faults_that_answer() -> None:
    """They answer what they say; a refusal has no effect."""
    fleet = one(
        RefuseAt("set_maintenance_mode", message="not now"),
        NotNeeded(),
        NeedsReboot(),
        LiesAboutBoot(),
    )
    assert await act(fleet, "set_maintenance_mode") == StepResult(ok=False, message="not now")
    assert fleet.host("eu-1").in_service
    assert not (await act(fleet, "check_preconditions")).needed
    assert (await act(fleet, "perform_update")).reboot_required is True
    answer = await act(fleet, "reboot")
    assert answer.boot_id == answer.previous_boot_id == "boot-1"
    unchanged = one(Unchanged())
    assert not (await act(unchanged, "perform_update")).changed
    assert unchanged.host("eu-1").version == 1


async def test_already() -> None:
    """A host that was in maintenance before is so from the start, and its preconditions say so."""
    fleet = one(Already("set_maintenance_mode"))
    assert not fleet.host("eu-1").in_service
    assert (await act(fleet, "check_preconditions")).already == ("set_maintenance_mode",)


async def test_done_but_lost() -> None:
    """The effect is there although the answer is lost; the next attempt finds it done, once."""
    fleet = one(DoneButLost("perform_update"))
    with pytest.raises(OutcomeUnknown):
        await act(fleet, "perform_update")
    assert fleet.host("eu-1").version == 2
    assert fleet.steps_of("eu-1") == ("perform_update",)
    assert not (await act(fleet, "perform_update")).changed
    assert fleet.host("eu-1").version == 2
    assert (await act(fleet, "perform_update", rollout="next")).changed
    assert fleet.host("eu-1").version == 3


async def test_unhealthy_without_services() -> None:
    """The health check says whether the services run."""
    fleet = one()
    assert (await act(fleet, "check_service_health")).ok
    await act(fleet, "stop_services")
    assert not (await act(fleet, "check_service_health")).ok


async def test_effect_is_logged_before_the_answer() -> None:
    """Whoever gets the answer finds the effect in the log already."""
    fleet = one()
    await act(fleet, "perform_update")
    assert fleet.log[-1].what == "done"
    assert fleet.log[-1].key == "r/eu-1/perform_update/1"


@pytest.mark.parametrize(
    "fault", [Hang("perform_update"), Slow("perform_update", duration=timedelta(hours=1))]
)
async def test_cancelled(fault: Fault) -> None:
    """A step that hangs or is slow ends with a cancel, has no effect, and says so in the log."""
    fleet = one(fault)
    running = asyncio.create_task(act(fleet, "perform_update"))
    await fleet.reached("perform_update")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert fleet.host("eu-1").version == 1
    assert fleet.log[-1].what == "cancelled"


async def test_hold_and_release() -> None:
    """A held step begins but does not go on before it is released."""
    fleet = SimulatedFleet({"eu": 2})
    fleet.hold("perform_update", "eu-1")
    held = asyncio.create_task(act(fleet, "perform_update", "eu-1"))
    await fleet.reached("perform_update", "eu-1")
    await act(fleet, "perform_update", "eu-2")
    assert (fleet.host("eu-1").version, fleet.host("eu-2").version) == (1, 2)
    fleet.release("perform_update", "eu-1")
    await held
    assert fleet.host("eu-1").version == 2


async def test_reached_gives_up() -> None:
    """Waiting for what does not happen ends, and shows the end of the log."""
    fleet = one()
    await act(fleet, "stop_services")
    with pytest.raises(asyncio.TimeoutError, match="eu-1 stop_services #1 done"):
        await fleet.reached("perform_update", timeout=timedelta(milliseconds=20))


async def test_adding_a_host_shifts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each host's latencies come from its own stream, the seed and its name."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)

    async def latencies(hosts: int, seed: int) -> list[float]:
        slept.clear()
        fleet = SimulatedFleet({"eu": hosts}, seed=seed, latency=timedelta(seconds=1))
        for n in range(hosts):
            for step in ("stop_services", "perform_update"):
                await act(fleet, step, f"eu-{n + 1}")
        return list(slept)

    two, three, other = await latencies(2, 7), await latencies(3, 7), await latencies(2, 8)
    assert three[:4] == two != other
    assert len(set(three)) == 6
    assert all(0 <= each <= 1 for each in three)


async def test_most_in_flight() -> None:
    """It counts hosts between their first and last step, over all and per cluster."""
    fleet = SimulatedFleet({"eu": 2, "us": 1})
    await act(fleet, "stop_services", "eu-1")
    await act(fleet, "stop_services", "us-1", cluster="us")
    await act(fleet, "start_services", "eu-1")
    await act(fleet, "stop_services", "eu-2")
    await act(fleet, "start_services", "us-1", cluster="us")
    assert fleet.most_in_flight() == 2
    assert fleet.most_in_flight("eu") == fleet.most_in_flight("us") == 1
    assert fleet.started == ("eu-1", "us-1", "eu-2")


async def test_overlaps() -> None:
    """Two rollouts on one host are seen if they overlap, not if one follows the other."""
    fleet = one()
    for rollout in ("a", "a", "b", "b"):
        await act(fleet, "stop_services", rollout=rollout)
    assert fleet.overlaps() == ()
    await act(fleet, "start_services", rollout="a")
    assert fleet.overlaps() == ("eu-1",)


async def test_notices() -> None:
    """Notices that were delivered are kept; a dead notifier delivers none."""
    notice = Notice(kind="finished", text="done", rollout="r")
    fleet = one()
    await fleet.notify(notice)
    assert fleet.notices == (notice,)
    dead = SimulatedFleet({"eu": 1}, faults={"notify": FailAt("notify")})
    with pytest.raises(ApplicationError):
        await dead.notify(notice)
    assert dead.notices == ()


async def test_implementing() -> None:
    """A part of the steps, and steps of one's own, work on the same hosts and the same log."""
    fleet = one()
    some: Any = fleet.implementing("perform_update", "rebuild_initramfs")
    await act(some, "perform_update")
    await act(some, "rebuild_initramfs")
    assert fleet.steps_of("eu-1") == ("perform_update", "rebuild_initramfs")
    assert fleet.host("eu-1").version == 2
    with pytest.raises(NotImplementedError):
        await act(some, "reboot")


def test_fault_for_nobody() -> None:
    """A fault for a host that is not there is refused, with "did you mean"."""
    with pytest.raises(
        InvalidRequest, match="'eu-11', which is no host of the fleet, did you mean"
    ):
        SimulatedFleet({"eu": 2}, faults={"eu-11": Unchanged()})
    assert repr(SimulatedFleet({"eu": 2}, seed=3)) == "SimulatedFleet({'eu': 2}, seed=3)"


TWO: dict[str, Any] = {"clusters": {"eu": 2}}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"clusters": {"eu": -3}},
            "'clusters' must have a number >= 0 or a list of names .*-3 for 'eu'",
        ),
        ({"clusters": {"eu": "web-1"}}, "'clusters' must have .*got 'web-1'"),
        ({"faults": {"eu-1": FailAt("reboot", times=0)}}, "'times' of FailAt must be >= 1"),
        (
            {"faults": {"eu-1": Slow("reboot", duration=timedelta(-1))}},
            "'duration' of Slow must not",
        ),
        (
            {"faults": {"eu-1": Already("stop_servces")}},
            "'step' of Already .*did you mean 'stop_services'",
        ),
        ({"faults": {"eu-1": FailAt}}, "must be faults, like FailAt"),
        ({"faults": {"eu-1": ["reboot"]}}, "must be faults, like FailAt.*got 'reboot'"),
        (
            {"faults": {"eu": FailAt("reboot")}},
            "'eu', which is a cluster, must be about check_fleet",
        ),
        (
            {"faults": {"eu-1": FailAt("list_hosts")}},
            "no step of a host: put it under its cluster's",
        ),
        ({"faults": {"notify": FailAt("reboot")}}, "'notify' must be about 'notify'"),
        ({"down": ["eu-9"]}, "'down' names 'eu-9'"),
        ({"labels": {"eu-9": {"rack": "a"}}}, "'labels' names 'eu-9'"),
        ({"page_size": 0}, "'page_size' must be >= 1"),
        ({"latency": timedelta(-1)}, "'latency' must not be negative"),
        ({"health": ()}, "'health' must have an answer"),
    ],
)
def test_what_could_never_come_about(given: dict[str, Any], said: str) -> None:
    """A fault that can never strike is refused, and a number without sense: its test would be green for ever."""
    with pytest.raises(InvalidRequest, match=said):
        SimulatedFleet(**(TWO | given))
