"""Payloads that are encrypted, and workers or operators that have another key, or none."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.converter import DataConverter
from temporalio.worker import Worker

from temporal_patching.client import Approvals, Rollout, _asking
from temporal_patching.exceptions import InvalidRequest, NotAnswered
from temporal_patching.models import Outcome
from temporal_patching.policy import ApprovalPolicy
from temporal_patching.testing import SimulatedFleet
from temporal_patching.worker import PatchingPlugin
from tests.conftest import CONVERTERS, EncryptionCodec, with_converter
from tests.rollouts import ALICE, ask, ending, eventually, history_of, site
from tests.workflows import QuickFleet

GATE = {"start": ApprovalPolicy(approvers=[ALICE], timeout=timedelta(hours=1))}
ANOTHER_KEY = replace(
    CONVERTERS["encrypted"](), payload_codec=EncryptionCodec(key=bytes(reversed(range(32))))
)
NO_KEY = DataConverter.default


@pytest.mark.provokes_task_failure("its worker has another key")
async def test_a_worker_with_another_key(
    client: Client, encrypted_client: Client, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks is told of the key, nothing is touched; with a worker that has the key it goes on."""
    fleet = SimulatedFleet({unique: 1})
    another = with_converter(client, ANOTHER_KEY)
    async with site(another, fleet, replays=False) as here:
        here.client = encrypted_client
        rollout = await here.start(ask(unique, approvals=GATE))

        async def failed() -> bool:
            types = [event.event_type for event in (await history_of(client, rollout.id)).events]
            return EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED in types

        await eventually(failed)
        with monkeypatch.context() as impatient:
            impatient.setattr(_asking, "PATIENCE", timedelta(seconds=2))
            with pytest.raises(NotAnswered, match="this client's data converter"):
                await rollout.progress()
    assert not fleet.log
    async with here.again():

        async def approved() -> (
            bool
        ):  # the server waits a little before it tries a failed task again
            try:
                return bool(await rollout.approve(by=ALICE))
            except NotAnswered:
                return False

        await eventually(approved)
        assert (await ending(rollout)).outcome is Outcome.PATCHED


@pytest.mark.provokes_task_failure("one of its workers has another key")
async def test_one_worker_of_two_has_another_key(
    client: Client, encrypted_client: Client, unique: str
) -> None:
    """Its tasks and steps fail, and the next attempt is the other worker's: the rollout ends well."""
    fleet = SimulatedFleet({unique: 1})
    async with site(encrypted_client, fleet) as here:
        another = Worker(  # a connection takes one worker of a task queue
            await Client.connect(
                client.service_client.config.target_host, data_converter=ANOTHER_KEY
            ),
            task_queue=here.task_queue,
            plugins=[PatchingPlugin(SimulatedFleet({unique: 1}), workflows=[QuickFleet])],
        )
        async with another:
            report = await here.report(ask(unique))
    assert report.outcome is Outcome.PATCHED


async def test_a_worker_without_a_key_refuses(
    client: Client, encrypted_client: Client, unique: str
) -> None:
    """The request cannot be read: the rollout fails and says so."""
    fleet = SimulatedFleet({unique: 1})
    async with site(client, fleet, replays=False) as here:
        here.client = encrypted_client
        rollout = await here.start(ask(unique))
        with pytest.raises(InvalidRequest, match=r"payload cannot be read .*binary/encrypted"):
            await rollout.result()
    assert not fleet.log


@pytest.mark.parametrize("converter", [ANOTHER_KEY, NO_KEY], ids=["another", "none"])
async def test_an_operator_with_another_key_harms_nothing(
    client: Client, encrypted_client: Client, unique: str, converter: DataConverter
) -> None:
    """Nothing that the workers could not read is sent; who asks is told; the rollout goes on."""
    async with site(encrypted_client, SimulatedFleet({unique: 1})) as here:
        rollout = await here.start(ask(unique, approvals=GATE))
        other = with_converter(client, converter)
        blind = Rollout.get(other, rollout.id)
        asked = [
            blind.progress(),
            blind.explain(),
            blind.audit(),
            blind.approve(by=ALICE),
            Approvals(other, rollout.id).reject(by=ALICE),
            blind.pause(by=ALICE),
            anext(blind.watch()),
        ]
        for asking in asked:
            with pytest.raises(NotAnswered, match=r"cannot be read \(\w+.*with the same key"):
                await asking

        async def opened() -> bool:
            return bool((await rollout.approvals.report()).pending)

        await eventually(opened)
        (gate,) = (await rollout.approvals.report()).gates
        assert gate.votes == ()
        await rollout.approve(by=ALICE)
        assert (await ending(rollout)).outcome is Outcome.PATCHED
