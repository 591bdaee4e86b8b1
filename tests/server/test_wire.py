"""Wire types on a real server: any converter, requests by hand, and rubbish that ends the workflow."""

from __future__ import annotations

import asyncio
import gc
import json
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from temporal_patching.client import Rollout
from temporal_patching.models import HostState, PatchRequest, RolloutReport
from temporal_patching.policy import Outcome, RolloutPolicy
from temporal_patching.testing import SimulatedFleet
from temporal_patching.worker import PatchingPlugin
from temporal_patching.workflow import SystemPatchWorkflow
from tests.rollouts import ask, site
from tests.servers import find_binary
from tests.workflows import OwnRunFleet, QuickFleet, TypedFleet

CANARY = "canary-4711"


@workflow.defn
class EchoRequest:
    """Takes and gives a request, in a workflow that has nothing to do with patching."""

    @workflow.run
    async def run(self, request: PatchRequest) -> PatchRequest:
        return request


@pytest.fixture
def tag() -> str:
    """What makes names unique."""
    return uuid.uuid4().hex[:6]


@pytest.mark.smoke
async def test_a_rollout_under_any_converter(any_client: Client, tag: str) -> None:
    """Default, pydantic and encrypted: a client without a plugin starts it and reads its report."""
    async with site(any_client, SimulatedFleet({tag: 2})) as here:
        # The worker has the plugin; this client knows nothing of the library.
        assert not any_client.config()["plugins"]
        request = ask(tag, params={"channel": CANARY}, services=["nginx"])
        rollout = await Rollout.start(
            any_client, QuickFleet, request, id=f"rollout-{tag}", task_queue=here.task_queue
        )
        report = await rollout.result()
        progress = await rollout.progress()
        history = await rollout.handle.fetch_history()
    assert report.outcome is Outcome.PATCHED
    assert report.counts[HostState.PATCHED] == 2
    assert progress.outcome is Outcome.PATCHED
    codec = any_client.data_converter.payload_codec
    told = b"".join(event.SerializeToString() for event in history.events)
    assert (CANARY.encode() in told) == (codec is None)


async def test_a_wire_type_in_a_workflow_of_ones_own(any_client: Client, tag: str) -> None:
    """Neither the workflow nor the client knows of the plugin or of another converter."""
    request = ask(tag, policy=RolloutPolicy(max_parallel="12.5%"), params={"x": [1, None, "é"]})
    async with Worker(
        any_client, task_queue=tag, workflows=[EchoRequest], plugins=[PatchingPlugin()]
    ):
        echoed = await any_client.execute_workflow(
            EchoRequest.run, request, id=f"echo-{tag}", task_queue=tag
        )
    assert echoed == request


async def temporal(client: Client, *arguments: str) -> tuple[int, str]:
    """Runs the ``temporal`` command, as an operator does."""
    process = await asyncio.create_subprocess_exec(
        find_binary("temporal"),
        *arguments,
        "--address",
        client.service_client.config.target_host,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), timeout=30)
    return process.returncode or 0, output.decode()


async def test_a_rollout_by_hand(client: Client, tag: str) -> None:
    """Written as JSON, started, approved and asked with the temporal command alone."""
    written = {
        "clusters": [tag],
        "requester": "carol@example.com",
        "policy": {"pilot_hosts": "10%", "waves": [1, "100%"], "busy_host_timeout": "1h30m"},
        "approvals": {"start": {"approvers": ["alice@example.com"], "timeout": "4h"}},
    }
    id = f"by-hand-{tag}"
    async with site(client, SimulatedFleet({tag: 3})) as here:
        here.ids.append(id)
        code, output = await temporal(
            client,
            *("workflow", "start", "--type", "QuickFleet", "--task-queue", here.task_queue),
            *("--workflow-id", id, "--input", json.dumps(written)),
        )
        assert code == 0, output
        vote = {"by": "Alice@example.com", "reason": "CHG-4711"}
        update = ("workflow", "update", "execute", "--name", "approve", "--workflow-id", id)
        code, output = await temporal(
            client, *update, "--input", json.dumps({**vote, "by": "mallory"})
        )
        assert code != 0
        assert "is not an approver of gate 'start'" in output
        code, output = await temporal(client, *update, "--input", json.dumps(vote))
        assert code == 0, output
        report = await asyncio.wait_for(Rollout.get(client, id).result(), timeout=40)
        code, output = await temporal(
            client,
            "workflow",
            "query",
            "--type",
            "progress",
            "--workflow-id",
            id,
            "--output",
            "json",
        )
    assert report.counts[HostState.PATCHED] == 3
    assert report.gates[0].votes[0].reason == "CHG-4711"
    assert code == 0, output
    assert "PATCHED" in output


# Rubbish


def payload(data: bytes, encoding: str = "json/plain") -> RawValue:
    """A payload as no client of ours would make it."""
    return RawValue(Payload(metadata={"encoding": encoding.encode()}, data=data))


DEEP = b"[" * 5_000 + b"]" * 5_000

ONE = "takes exactly one PatchRequest (got {} arguments)"
OBJECT = "must be an object with the fields of PatchRequest (got {})"
UNREADABLE = "must be a PatchRequest, but the payload cannot be read"
RUBBISH: dict[str, tuple[list[Any], str]] = {
    "none": ([], ONE.format(0)),
    "two": ([{}, {}], ONE.format(2)),
    "three": ([None, 1, "x"], ONE.format(3)),
    "text": (["eu-1"], OBJECT.format("'eu-1'")),
    "number": ([5], OBJECT.format("5")),
    "null": ([None], OBJECT.format("None")),
    "binary null": ([payload(b"", "binary/null")], OBJECT.format("None")),
    "JSON null": ([payload(b"null")], OBJECT.format("None")),
    "list": ([[{"clusters": ["eu-1"]}]], OBJECT.format("[{'clusters': ['eu-1']}]")),
    "empty": ([{}], "required field missing @ $.clusters"),
    "junk": (
        [{"clusters": [{"name": ["eu-1"]}], "requester": {"who": None}, "policy": [[]]}],
        "'clusters[0]' must be a text (got {'name': ['eu-1']}) @ $.clusters[0]",
    ),
    "nested": (
        [{"clusters": ["a"], "requester": "c", "policy": {"waves": ["1%", {"x": 1}]}}],
        "@ $.policy.waves[1]",
    ),
    "surrogates": ([payload(b'{"\\ud800": 1}')], "extra fields found (\\ud800) @ $"),
    "large": ([{"clusters": [1] * 200_000, "requester": "c"}], "@ $.clusters[0]"),
    "bytes": ([b"\x00\xff"], "PatchRequest"),
    "no JSON": ([payload(b"{nope")], UNREADABLE),
    "empty data": ([payload(b"")], UNREADABLE),
    "not UTF-8": ([payload(b'{"clusters": ["\xff\xfe"]}')], UNREADABLE),
    "unknown encoding": ([payload(b"{}", "made/up")], UNREADABLE),
    "no encoding": ([RawValue(Payload(data=b"{}"))], UNREADABLE),
    "too deep": ([payload(DEEP)], "PatchRequest"),
}


async def not_refused(
    client: Client,
    tag: str,
    fleet: type[SystemPatchWorkflow],
    names: Sequence[str],
) -> dict[str, str]:
    """Starts the fleet with this rubbish; answers how those ended that were not refused for it."""
    untouched = SimulatedFleet({tag: 1})
    async with site(client, untouched, [fleet]) as here:

        async def ended(name: str) -> str:
            id = f"rubbish-{tag}-{name.replace(' ', '-')}"
            handle: Any = await client.start_workflow(
                fleet.__name__, args=RUBBISH[name][0], id=id, task_queue=here.task_queue
            )
            try:
                await asyncio.wait_for(handle.result(), timeout=20)
            except WorkflowFailureError as failed:
                cause = failed.cause
                assert isinstance(cause, ApplicationError)
                here.ids.append(id)
                return f"{cause.type}: {cause.message}"
            except asyncio.TimeoutError:
                await handle.terminate("it hangs")
                return "it hangs"
            return "it succeeded"

        found = dict(zip(names, await asyncio.gather(*map(ended, names)), strict=True))
    assert not untouched.log
    return {
        name: said
        for name, said in found.items()
        if not said.startswith("InvalidRequest: ") or RUBBISH[name][1] not in said
    }


@pytest.mark.parametrize("fleet", [QuickFleet, OwnRunFleet, SystemPatchWorkflow])
async def test_rubbish_ends_the_workflow(
    client: Client, tag: str, fleet: type[SystemPatchWorkflow]
) -> None:
    """Whatever is sent as input, the *workflow* fails and says why; also with a ``run`` of one's own."""
    assert await not_refused(client, tag, fleet, [*RUBBISH]) == {}


async def test_every_wrong_field_of_a_start_is_named(client: Client, tag: str) -> None:
    """The failed workflow names all of them, with their paths."""
    async with site(client, SimulatedFleet({tag: 1})) as here:
        here.ids.append(f"wrong-{tag}")
        handle: Any = await client.start_workflow(
            "QuickFleet",
            {"clusters": ["a b"], "requester": 5, "policy": {"nope": 1, "max_parallel": 0}},
            id=f"wrong-{tag}",
            task_queue=here.task_queue,
        )
        with pytest.raises(WorkflowFailureError) as failed:
            await asyncio.wait_for(handle.result(), timeout=20)
    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.message == (
        "PatchRequest: 'clusters[0]' must be a name of letters, digits and . _ : - that starts with "
        "a letter or digit (got 'a b') @ $.clusters; 'requester' must be a text (got 5) @ "
        "$.requester; extra fields found (nope) @ $.policy; 'max_parallel' must be >= 1 (got 0) @ "
        "$.policy.max_parallel"
    )


async def test_typed_parameters_are_checked_before_anything_is_touched(
    client: Client, tag: str
) -> None:
    """The class that the workflow names says what is wrong with the request's params."""
    fleet = SimulatedFleet({tag: 1})
    async with site(client, fleet, [TypedFleet]) as here:
        rollout = await here.start(ask(tag, params={"chanel": "beta"}), TypedFleet)
        with pytest.raises(ValueError, match=r"required field missing @ \$\.channel"):
            await rollout.result()
    assert not fleet.log


@pytest.mark.provokes_task_failure(
    "without a cache the SDK may drop a task that comes while the workflow is evicted"
)
async def test_no_class_of_the_sandbox_is_kept(client: Client, tag: str) -> None:
    """Each workflow makes the user's classes anew; when it has left the cache they go."""
    fleet = SimulatedFleet({tag: 1})

    def alive() -> int:
        gc.collect()
        classes = (each for each in gc.get_objects() if type(each) is type)
        return sum(each.__name__ == "Params" for each in classes)

    async with site(client, fleet, [TypedFleet], max_cached_workflows=0, replays=False) as here:

        async def some(count: int) -> None:
            for _ in range(count):
                report: RolloutReport = await here.report(
                    ask(tag, params={"channel": "beta"}), TypedFleet
                )
                assert report.outcome is Outcome.PATCHED

        await some(1)
        before = alive()
        await some(3)
        after = alive()
    # A rollout is three workflows, each made anew for every task of it: dozens of copies were made.
    assert after <= before + 3, f"{before} classes before, {after} after three rollouts"
