"""What must not stop or leak a rollout: a dead notifier, a full history, a secret, a plugin given twice."""

from __future__ import annotations

import logging
import os
import threading
from datetime import timedelta

import pytest
from temporalio.client import Client
from temporalio.worker import Worker

from temporal_patching.activity import PatchActivities
from temporal_patching.client import Rollout
from temporal_patching.exceptions import InvalidRequest
from temporal_patching.models import (
    HostList,
    HostQuery,
    HostState,
    HostTask,
    Notice,
    Outcome,
    StepResult,
)
from temporal_patching.policy import RolloutPolicy
from temporal_patching.testing import SimulatedFleet
from temporal_patching.worker import PatchingPlugin
from temporal_patching.workflow import _length, _notices
from tests.rollouts import ask, children_of, ending, history_of, reported, site
from tests.workflows import QuickFleet

ONE_BY_ONE = RolloutPolicy(pilot_hosts=0)


class Deaf(PatchActivities):
    """Patches at once; its notifier never returns."""

    def __init__(self, hosts: int) -> None:
        self.names = [f"deaf-{number}-{id(self)}" for number in range(hosts)]
        self.released = threading.Event()

    async def list_hosts(self, query: HostQuery) -> HostList:
        return HostList(hosts=self.names)

    async def perform_update(self, task: HostTask) -> StepResult:
        return StepResult(changed=True)

    def notify(self, notice: Notice) -> None:
        self.released.wait(120)


@pytest.mark.timeout(120)
async def test_a_notifier_that_hangs_holds_up_no_host(
    client: Client, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer activity slots than notices the rollout ends all the same, and says what was lost."""
    monkeypatch.setattr(_notices, "PATIENCE", timedelta(seconds=1))
    hosts = Deaf(12)
    policy = RolloutPolicy(
        pilot_hosts=0, max_parallel="100%", notices=["host_started", "host_patched", "finished"]
    )
    try:
        async with site(client, hosts, max_concurrent_activities=5, replays=False) as here:
            report = await here.report(ask(unique, policy=policy))
    finally:
        hosts.released.set()
    assert report.counts[HostState.PATCHED] == 12
    assert report.notices_failed > 0


async def test_a_history_that_is_full_stops_the_cluster(
    client: Client, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the server would end it without any clean-up: every host is where the report says."""
    monkeypatch.setattr(_length, "MAX_EVENTS", 60)
    fleet = SimulatedFleet({unique: 20})
    async with site(client, fleet) as here:
        report = await here.report(ask(unique, policy=ONE_BY_ONE))
    assert report.outcome is Outcome.STOPPED
    assert "its history is full: start another rollout for the rest" in report.reason
    patched = report.counts[HostState.PATCHED]
    assert 0 < patched < 20
    assert report.counts[HostState.NOT_STARTED] == 20 - patched
    assert len(fleet.started) == patched


async def test_an_abort_says_so_once(client: Client, unique: str) -> None:
    """The reason of a cancel goes down to each host as it was given."""
    fleet = SimulatedFleet({unique: 2})
    fleet.hold("check_preconditions", f"{unique}-1")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(unique, policy=ONE_BY_ONE))
        await fleet.reached("check_preconditions", f"{unique}-1")
        await rollout.cancel(reason="stop it")
        fleet.release("check_preconditions", f"{unique}-1")
        report = await ending(rollout)
    assert report.reason == "aborted: stop it"
    assert reported(report, f"{unique}-1").reason == "aborted: stop it"


class Secretive(PatchActivities):
    """Fetches the secret where it is used; one host fails without repeating it."""

    def __init__(self, hosts: list[str]) -> None:
        self.hosts = hosts
        self.used: list[str] = []

    async def list_hosts(self, query: HostQuery) -> HostList:
        return HostList(hosts=self.hosts)

    async def perform_update(self, task: HostTask) -> StepResult:
        scheme, _, name = task.secrets["ssh_key"].partition(":")
        assert scheme == "env"
        self.used.append(os.environ[name])
        if task.host == self.hosts[-1]:
            return StepResult(ok=False, message=f"{task.secrets['ssh_key']} was not accepted")
        return StepResult(changed=True, output="done")


async def test_no_secret_is_in_a_history_or_log(
    client: Client, unique: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the reference travels: not in histories, not in logs, not in the report, errors included."""
    canary = "canary-7f3a9c"
    monkeypatch.setenv("PATCHING_CANARY", canary)
    hosts = Secretive([f"{unique}-1", f"{unique}-2"])
    with caplog.at_level(logging.DEBUG):
        async with site(client, hosts) as here:
            report = await here.report(
                ask(unique, policy=ONE_BY_ONE, secrets={"ssh_key": "env:PATCHING_CANARY"})
            )
    assert hosts.used == [canary, canary]
    assert report.counts[HostState.FAILED] == 1
    written, left = [], [(here.ids[0], "")]
    while left:
        id, run_id = left.pop()
        history = await history_of(client, id, run_id or None)
        written.append(history.to_json())
        left += children_of(history)
    assert len(written) == 4  # the rollout, its cluster, two hosts
    assert all("PATCHING_CANARY" in text or "ssh_key" not in text for text in written)
    for text in (*written, caplog.text, repr(report)):
        assert canary not in text


async def test_a_secret_is_refused_and_not_repeated(unique: str) -> None:
    """What looks like the secret itself is refused, in words that do not have it."""
    with pytest.raises(InvalidRequest) as refused:
        ask(unique, secrets={"ssh_key": "hunter2"})
    assert "must be a reference" in str(refused.value)
    assert "hunter2" not in str(refused.value)


async def test_the_plugin_may_be_the_clients(client: Client, unique: str) -> None:
    """Every worker of the client has it then; given to both it still registers each thing once."""
    fleet = SimulatedFleet({unique: 1})
    plugin = PatchingPlugin(fleet, workflows=[QuickFleet])
    config = client.config()
    theirs = Client(**{**config, "plugins": [plugin]})
    async with Worker(theirs, task_queue=unique):
        rollout = await Rollout.start(theirs, QuickFleet, ask(unique), id=unique, task_queue=unique)
        assert (await ending(rollout)).outcome is Outcome.PATCHED
    with pytest.warns(UserWarning, match="plugin"):
        both = Worker(theirs, task_queue=f"{unique}-2", plugins=[plugin])
    async with both:
        again = await Rollout.start(
            theirs, QuickFleet, ask(unique), id=f"{unique}-2", task_queue=f"{unique}-2"
        )
        assert (await ending(again)).outcome in (Outcome.PATCHED, Outcome.PARTIAL)


def test_an_instance_is_wanted() -> None:
    """The class instead of an instance is a mistake that is said."""
    with pytest.raises(
        InvalidRequest, match="must be an instance of your PatchActivities subclass"
    ):
        PatchingPlugin(Deaf)  # type: ignore[arg-type]
