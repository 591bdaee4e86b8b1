"""One host that parks: its workflow ends and hands up where it stands, and another one goes on from there."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import attrs
import pytest
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.api.failure.v1 import Failure
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    UnsandboxedWorkflowRunner,
    Worker,
)

from temporal_patching.activity import Checkpoint, PatchActivities
from temporal_patching.exceptions import HostUnreachable
from temporal_patching.models import (
    HostList,
    HostQuery,
    HostResult,
    HostState,
    HostTask,
    StepResult,
)
from temporal_patching.models._kept import KEPT, KEPT_LIMIT
from temporal_patching.models._orders import HostRequest
from temporal_patching.models._wire import from_json
from temporal_patching.policy import Step, Steps
from temporal_patching.policy._host import Procedure, accepted, restored, retried
from temporal_patching.testing import FailAt, RefuseAt, SimulatedFleet, Unreachable
from temporal_patching.worker import PatchingPlugin
from tests.rollouts import history_of, site, status
from tests.workflows import QUICK_STEPS, PatientFleet, QuickHost, quick

STEPS = QUICK_STEPS.without("reboot")
WAITS = "parked, waits for retry, accept, restore or skip"


@pytest.fixture
def eu() -> str:
    """A cluster's name that no other test has."""
    return f"eu-{uuid.uuid4().hex[:6]}"


def request(
    host: str, steps: Sequence[Step] = STEPS, resume: Procedure | None = None, **fields: Any
) -> HostRequest:
    """What a cluster asks of a host that is to park."""
    task = HostTask(rollout="patch-2026-11", cluster="eu", host=host)
    return HostRequest(task=task, steps=tuple(steps), parks=True, resume=resume, **fields)


async def ending(
    client: Client, task_queue: str, asked: HostRequest, *, ids: list[str], kind: str = "QuickHost"
) -> HostResult:
    """How the workflow of one host ends, whether it fails or not."""
    id = f"patch-host/{asked.task.host}/{len(ids)}"
    ids.append(id)
    try:
        return await client.execute_workflow(
            kind, asked, id=id, task_queue=task_queue, result_type=HostResult
        )
    except WorkflowFailureError as failed:
        cause = failed.cause
        assert isinstance(cause, ApplicationError), cause
        assert cause.type == "HostFailed"
        return from_json(cause.details[0], HostResult)


def standing(result: HostResult) -> Procedure:
    """Where a parked host stands."""
    assert result.parked is not None, result
    return result.parked


# Parked, and what people decide


@pytest.mark.parametrize(
    "step", ["run_pre_downtime_scripts", "stop_services", "perform_update", "start_services"]
)
async def test_park_and_retry(client: Client, eu: str, step: str) -> None:
    """It stays as it is; another workflow tries the step again, and nothing before it."""
    host = f"{eu}-1"
    fleet = SimulatedFleet({eu: 1}, faults={host: RefuseAt(step, times=1)})
    async with site(client, fleet) as here:
        result = await ending(client, here.task_queue, request(host), ids=here.ids)
        assert await status(client, here.ids[-1]) == "FAILED"
        before = fleet.steps_of(host)
        assert before == STEPS.names[: STEPS.names.index(step)], "no closer has run"
        assert (result.state, result.step) == (HostState.FAILED, step)
        assert result.reason == f"{step}: simulated refusal"
        opened = ", ".join(standing(result).open)
        assert result.left_out == (f"{opened}: {WAITS}" if opened else None)
        again = request(host, resume=retried(standing(result)))
        result = await ending(client, here.task_queue, again, ids=here.ids)
        assert await status(client, here.ids[-1]) == "COMPLETED"
    assert (result.state, result.parked, result.step) == (HostState.PATCHED, None, "")
    assert result.completed == fleet.steps_of(host) == STEPS.names
    assert fleet.out_of_service == ()
    keys = [each.key for each in fleet.log if each.step == step and each.what == "began"]
    assert keys == [f"patch-2026-11/{host}/{step}/{number}" for number in (1, 2)]


async def test_retry_from_an_earlier_step(client: Client, eu: str) -> None:
    """The steps from there on run once more, as another try."""
    host = f"{eu}-1"
    fleet = SimulatedFleet({eu: 1}, faults={host: Unreachable("run_post_update_scripts", times=3)})
    async with site(client, fleet) as here:
        result = await ending(client, here.task_queue, request(host), ids=here.ids)
        assert result.state is HostState.UNREACHABLE
        again = request(host, resume=retried(standing(result), "stop_services"))
        result = await ending(client, here.task_queue, again, ids=here.ids)
    assert result.state is HostState.PATCHED
    first = STEPS.names.index("run_post_update_scripts")
    assert fleet.steps_of(host) == (*STEPS.names[:first], *STEPS.names[3:])
    assert fleet.out_of_service == ()


@pytest.mark.parametrize("step", ["stop_services", "perform_update", "check_service_health"])
async def test_park_and_accept(client: Client, eu: str, step: str) -> None:
    """A person says that the step is done: the host goes on behind it, and is PATCHED."""
    host = f"{eu}-1"
    fleet = SimulatedFleet({eu: 1}, faults={host: RefuseAt(step)})
    async with site(client, fleet) as here:
        result = await ending(client, here.task_queue, request(host), ids=here.ids)
        again = request(host, resume=accepted(standing(result)))
        result = await ending(client, here.task_queue, again, ids=here.ids)
    assert (result.state, result.left_out) == (HostState.PATCHED, None)
    assert fleet.steps_of(host) == tuple(name for name in STEPS.names if name != step)
    assert fleet.out_of_service == ()


@pytest.mark.parametrize("step", ["stop_services", "perform_update", "check_service_health"])
async def test_park_and_restore(client: Client, eu: str, step: str) -> None:
    """As without parking: given back as it was, or only if it is healthy, and FAILED for good."""
    parks, plain = f"{eu}-1", f"{eu}-2"
    fleet = SimulatedFleet({eu: 2}, faults={host: RefuseAt(step) for host in (parks, plain)})
    async with site(client, fleet) as here:
        result = await ending(client, here.task_queue, request(parks), ids=here.ids)
        again = request(parks, resume=restored(standing(result)))
        result = await ending(client, here.task_queue, again, ids=here.ids)
        without = attrs.evolve(request(plain), parks=False)
        expected = await ending(client, here.task_queue, without, ids=here.ids)
    assert attrs.evolve(expected, host=parks) == result
    assert result.parked is None
    assert fleet.steps_of(parks) == fleet.steps_of(plain)
    assert (parks in fleet.out_of_service) == (plain in fleet.out_of_service)


async def test_park_again_and_again(client: Client, eu: str) -> None:
    """A retry that fails parks the host once more; each try has its own idempotency key."""
    host = f"{eu}-1"
    fleet = SimulatedFleet({eu: 1}, faults={host: RefuseAt("perform_update")})
    resume: Procedure | None = None
    async with site(client, fleet) as here:
        for _ in range(3):
            asked = request(host, resume=resume)
            resume = retried(standing(await ending(client, here.task_queue, asked, ids=here.ids)))
    keys = [
        each.key for each in fleet.log if each.step == "perform_update" and each.what == "began"
    ]
    assert [key.rpartition("/")[2] for key in keys] == ["1", "2", "3"]


async def test_hooks_of_a_host_that_parks(client: Client, eu: str) -> None:
    """before_host is called once for a host, after_host each time that its workflow ends."""
    host = f"{eu}-1"
    fleet = SimulatedFleet({eu: 1}, faults={host: RefuseAt("stop_services", times=1)})
    async with site(client, fleet, [PatientFleet]) as here:
        result = await ending(
            client, here.task_queue, request(host), ids=here.ids, kind="PatientHost"
        )
        again = request(host, resume=retried(standing(result)))
        result = await ending(client, here.task_queue, again, ids=here.ids, kind="PatientHost")
        slept = [
            sum(
                event.event_type == EventType.EVENT_TYPE_TIMER_STARTED
                for event in (await history_of(client, id)).events
            )
            for id in here.ids
        ]
    assert result.state is HostState.PATCHED
    assert slept == [2, 1]


async def test_who_cancels_a_host_does_not_come_back_for_it(client: Client, eu: str) -> None:
    """After its update began a cancelled host goes to its end: if a step fails then, it is given back."""
    host = f"{eu}-1"
    fleet = SimulatedFleet({eu: 1}, faults={host: RefuseAt("run_post_update_scripts")})
    fleet.hold("start_services", host)
    async with site(client, fleet) as here:
        ids = here.ids
        running = asyncio.create_task(ending(client, here.task_queue, request(host), ids=ids))
        await fleet.reached("start_services", host)
        await client.get_workflow_handle(ids[0]).cancel(reason="the change is off")
        handle = client.get_workflow_handle(ids[0])
        while not any(
            event.HasField("workflow_execution_cancel_requested_event_attributes")
            for event in (await handle.fetch_history()).events
        ):
            await asyncio.sleep(0.05)
        fleet.release("start_services", host)
        result = await running
    assert (result.state, result.parked, result.left_out) == (HostState.FAILED, None, None)
    assert fleet.out_of_service == ()


async def test_without_parks_nothing_changes(client: Client, eu: str) -> None:
    """A host that does not park is given back, and its tasks and failures know nothing of it."""
    host = f"{eu}-1"
    fleet = SimulatedFleet({eu: 1}, faults={host: FailAt("perform_update")})
    async with site(client, fleet) as here:
        asked = attrs.evolve(request(host), parks=False)
        result = await ending(client, here.task_queue, asked, ids=here.ids)
        history = (await history_of(client, here.ids[0])).to_json()
    assert (result.parked, result.left_out) == (None, None)
    assert "parks" not in history
    assert KEPT not in history


# What the failed step had saved

WHOLE = (
    Step("set_maintenance_mode"),
    Step("perform_update"),
    Step("check_service_health"),
    Step("clear_maintenance_mode"),
)


def few_steps(**update: Any) -> Steps:
    """A short procedure, its update with these fields."""
    return Steps(
        attrs.evolve(quick(step), **update) if step.name == "perform_update" else quick(step)
        for step in WHOLE
    )


End = Callable[[HostTask], Any]
"""How an attempt of the update ends once it has saved."""


class Hosts(PatchActivities):
    """Hosts whose update has ten units, and ends in its own way after the third until it is mended."""

    def __init__(self, ends: End, *, first: object = 1) -> None:
        self.ends = ends
        self.first = first
        self.mended = False
        self.unreachable = False
        self.opened: list[tuple[Any, bool]] = []
        self.tasks: list[HostTask] = []

    def list_hosts(self, query: HostQuery) -> HostList:
        return HostList(hosts=["web-1"])

    async def set_maintenance_mode(self, task: HostTask) -> StepResult:
        return StepResult()

    async def perform_update(self, task: HostTask) -> StepResult:
        self.tasks.append(task)
        if self.unreachable:
            raise HostUnreachable("gone")
        async with Checkpoint(object, default=0) as checkpoint:
            self.opened.append((checkpoint.value, checkpoint.resumed))
            if not self.mended:
                checkpoint.save(self.first)
                answer = self.ends(task)
                return await answer if asyncio.iscoroutine(answer) else answer
        return StepResult(changed=True)

    async def check_service_health(self, task: HostTask) -> StepResult:
        return StepResult()

    async def clear_maintenance_mode(self, task: HostTask) -> StepResult:
        return StepResult()


def raising(error: BaseException) -> End:
    """It raises this."""

    def end(_: HostTask) -> StepResult:
        raise error.with_traceback(None)

    return end


async def parked_and_retried(
    client: Client, hosts: Hosts, host: str, steps: Steps, **options: Any
) -> tuple[Procedure, HostResult]:
    """Where the host stands after its first workflow, and how the second one ends, once it is mended."""
    async with site(client, hosts, **options) as here:
        asked = request(host, steps)
        result = await ending(client, here.task_queue, asked, ids=here.ids, kind="QuickHost")
        where = standing(result)
        hosts.mended = True
        again = request(host, steps, resume=retried(where))
        return where, await ending(client, here.task_queue, again, ids=here.ids, kind="QuickHost")


@pytest.mark.parametrize(
    "error",
    [
        ApplicationError("dpkg was interrupted"),
        ApplicationError("no", {"of": "theirs"}, type="Dpkg", non_retryable=True),
        HostUnreachable("gone"),
        ValueError("a bug"),
    ],
    ids=["application", "non-retryable", "unreachable", "plain"],
)
async def test_a_checkpoint_survives_parking(
    any_client: Client, eu: str, error: BaseException
) -> None:
    """The step that is retried in another workflow resumes from what the failed one saved last."""
    hosts = Hosts(raising(error), first={"done": 3, "of": ["curl", None]})
    where, result = await parked_and_retried(any_client, hosts, f"{eu}-1", few_steps())
    assert where.failure is not None
    assert where.failure.checkpoint == {"done": 3, "of": ["curl", None]}
    assert result.state is HostState.PATCHED
    assert hosts.opened[0] == (0, False)
    assert hosts.opened[-1] == ({"done": 3, "of": ["curl", None]}, True)
    attempts = 1 if getattr(error, "non_retryable", False) else 3
    assert [task.attempt for task in hosts.tasks] == [*range(1, attempts + 1), 1]
    assert where.failure.unreachable == isinstance(error, HostUnreachable)


async def test_a_checkpoint_survives_an_answer_that_is_not_ok(client: Client, eu: str) -> None:
    """Also where the step says itself that another attempt would not help."""
    hosts = Hosts(lambda _: StepResult(ok=False, message="held packages"), first=4)
    _, result = await parked_and_retried(client, hosts, f"{eu}-1", few_steps())
    assert result.state is HostState.PATCHED
    assert hosts.opened == [(0, False), (4, True)]


async def test_a_checkpoint_survives_a_step_that_timed_out(client: Client, eu: str) -> None:
    """Its last details come from the server: what was sent before the time was over."""

    async def hang(_: HostTask) -> StepResult:
        await asyncio.sleep(60)
        return StepResult()

    steps = few_steps(
        start_to_close_timeout=timedelta(seconds=1),
        retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_attempts=2),
    )
    hosts = Hosts(hang, first=5)
    where, result = await parked_and_retried(client, hosts, f"{eu}-1", steps)
    assert where.failure is not None
    assert where.failure.message.startswith("timed out (start_to_close)")
    assert result.state is HostState.PATCHED
    assert hosts.opened == [(0, False), (5, True), (5, True)]


async def test_a_checkpoint_survives_a_heartbeat_timeout(client: Client, eu: str) -> None:
    """An activity that beats only by what it saves, and hangs: the next workflow goes on from there."""
    opened: list[tuple[int, bool]] = []

    class OnlyAList(PatchActivities):
        def list_hosts(self, query: HostQuery) -> HostList:
            return HostList(hosts=["web-1"])

    @activity.defn
    async def perform_update(task: HostTask) -> StepResult:
        async with Checkpoint(int, default=0) as checkpoint:
            opened.append((checkpoint.value, checkpoint.resumed))
            if len(opened) == 1:
                checkpoint.save(6)
                await asyncio.sleep(60)
        return StepResult(changed=True)

    update = attrs.evolve(
        quick(Step("perform_update")),
        heartbeat_timeout=timedelta(seconds=1),
        retry_policy=RetryPolicy(maximum_attempts=1),
    )
    ids: list[str] = []
    async with Worker(
        client,
        task_queue=eu,
        workflows=[QuickHost],
        activities=[perform_update],
        plugins=[PatchingPlugin(OnlyAList())],
    ):
        asked = request(f"{eu}-1", [update])
        where = standing(await ending(client, eu, asked, ids=ids))
        assert where.failure is not None
        assert where.failure.message == "timed out (heartbeat)"
        again = request(f"{eu}-1", [update], resume=retried(where))
        result = await ending(client, eu, again, ids=ids)
    assert result.state is HostState.PATCHED
    assert opened == [(0, False), (6, True)]


@pytest.mark.parametrize("asynchronous", [True, False], ids=["async", "thread"])
async def test_a_checkpoint_survives_the_end_of_a_worker(
    client: Client, eu: str, asynchronous: bool
) -> None:
    """A worker that stops in the middle of the last attempt ends the step; what it saved is kept."""
    began = asyncio.Event()
    loop = asyncio.get_running_loop()
    opened: list[tuple[int, bool]] = []

    class Loop(PatchActivities):
        def list_hosts(self, query: HostQuery) -> HostList:
            return HostList(hosts=["web-1"])

        async def perform_update(self, task: HostTask) -> StepResult:
            async with Checkpoint(int, default=0) as checkpoint:
                opened.append((checkpoint.value, checkpoint.resumed))
                if len(opened) == 1:
                    checkpoint.save(7)
                    began.set()
                    await asyncio.sleep(60)
            return StepResult(changed=True)

    class Thread(PatchActivities):
        def list_hosts(self, query: HostQuery) -> HostList:
            return HostList(hosts=["web-1"])

        def perform_update(self, task: HostTask) -> StepResult:
            with Checkpoint(int, default=0) as checkpoint:
                opened.append((checkpoint.value, checkpoint.resumed))
                if len(opened) == 1:
                    checkpoint.save(7)
                    loop.call_soon_threadsafe(began.set)
                    for _ in range(3_000):
                        time.sleep(0.02)
            return StepResult(changed=True)

    update = attrs.evolve(
        quick(Step("perform_update")), retry_policy=RetryPolicy(maximum_attempts=1)
    )
    plugin = PatchingPlugin(Loop() if asynchronous else Thread(), workflows=[QuickHost])
    ids: list[str] = []
    async with Worker(client, task_queue=eu, plugins=[plugin]):
        first = asyncio.create_task(ending(client, eu, request(f"{eu}-1", [update]), ids=ids))
        await began.wait()
    async with Worker(client, task_queue=eu, plugins=[plugin]):
        where = standing(await first)
        assert where.failure is not None
        assert where.failure.checkpoint == 7
        again = request(f"{eu}-1", [update], resume=retried(where))
        result = await ending(client, eu, again, ids=ids)
    assert result.state is HostState.PATCHED
    assert opened == [(0, False), (7, True)]


async def test_a_retry_that_fails_at_once_keeps_the_checkpoint(client: Client, eu: str) -> None:
    """A step that never came to save anything has lost nothing."""
    hosts = Hosts(raising(ApplicationError("boom")), first=3)
    steps = few_steps(retry_policy=RetryPolicy(maximum_attempts=1))
    async with site(client, hosts) as here:
        asked = request(f"{eu}-1", steps)
        where = standing(await ending(client, here.task_queue, asked, ids=here.ids))
        hosts.unreachable = True
        again = request(f"{eu}-1", steps, resume=retried(where))
        where = standing(await ending(client, here.task_queue, again, ids=here.ids))
        assert where.failure is not None
        assert (where.failure.unreachable, where.failure.checkpoint) == (True, 3)
        hosts.unreachable, hosts.mended = False, True
        again = request(f"{eu}-1", steps, resume=retried(where))
        await ending(client, here.task_queue, again, ids=here.ids)
    assert hosts.opened == [(0, False), (3, True)]


@pytest.mark.parametrize(("size", "survives"), [(KEPT_LIMIT - 100, True), (KEPT_LIMIT, False)])
async def test_a_checkpoint_that_is_too_large_is_dropped(
    client: Client, eu: str, size: int, survives: bool
) -> None:
    """It is no error: the step begins anew."""
    hosts = Hosts(raising(ApplicationError("boom")), first="x" * size)
    where, result = await parked_and_retried(client, hosts, f"{eu}-1", few_steps())
    assert where.failure is not None
    assert (where.failure.checkpoint is not None) == survives
    assert where.failure.message == "boom"
    assert hosts.opened[-1] == (("x" * size, True) if survives else (0, False))
    assert result.state is HostState.PATCHED


async def test_a_retry_by_its_name_begins_anew(client: Client, eu: str) -> None:
    """For a checkpoint that a person does not trust."""
    hosts = Hosts(raising(ApplicationError("boom")), first=3)
    async with site(client, hosts) as here:
        asked = request(f"{eu}-1", few_steps())
        where = standing(await ending(client, here.task_queue, asked, ids=here.ids))
        hosts.mended = True
        again = request(f"{eu}-1", few_steps(), resume=retried(where, "perform_update"))
        await ending(client, here.task_queue, again, ids=here.ids)
    assert hosts.opened[-1] == (0, False)


# The failure stays what it was


class Seeing(Interceptor):
    """A user's own interceptor: it sees what the activity raised, and may raise something else."""

    def __init__(self, instead: Callable[[Exception], Exception] | None = None) -> None:
        self.seen: list[Exception] = []
        self.instead = instead

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        outer = self

        class Inbound(ActivityInboundInterceptor):
            async def execute_activity(self, input: ExecuteActivityInput) -> Any:
                try:
                    return await super().execute_activity(input)
                except Exception as error:
                    outer.seen.append(error)
                    if outer.instead is None:
                        raise
                    raise outer.instead(error) from error

        return Inbound(next)


class Dpkg(ApplicationError):
    """A user's own failure."""

    def __init__(self, package: str) -> None:
        super().__init__(f"{package} is broken", package, type="Dpkg")


async def test_a_users_interceptor_sees_what_was_raised(client: Client, eu: str) -> None:
    """The very object, of the user's own class, without anything of ours."""
    error = Dpkg("curl")
    theirs = Seeing()
    hosts = Hosts(raising(error), first=3)
    await parked_and_retried(client, hosts, f"{eu}-1", few_steps(), interceptors=[theirs])
    assert theirs.seen == [error] * 3
    assert error.details == ("curl",)
    assert hosts.opened[-1] == (3, True)


async def test_what_a_users_interceptor_raises_carries_the_checkpoint(
    client: Client, eu: str
) -> None:
    """Its own failure decides whether there is another attempt."""
    theirs = Seeing(lambda error: ApplicationError("final", type="Theirs", non_retryable=True))
    hosts = Hosts(raising(ValueError("boom")), first=3)
    where, _ = await parked_and_retried(
        client, hosts, f"{eu}-1", few_steps(), interceptors=[theirs]
    )
    assert where.failure is not None
    assert where.failure.message == "Theirs: final"
    assert len(theirs.seen) == 1
    assert hosts.opened[-1] == (3, True)


def cause_of(failure: Failure) -> Failure:
    """The failure without what must differ: where in the code it was raised, and our own detail."""
    told = Failure()
    told.CopyFrom(failure)
    link = told
    while True:
        link.stack_trace = ""
        if not link.HasField("cause"):
            break
        link = link.cause
    details = told.application_failure_info.details.payloads
    if details and KEPT.encode() in details[-1].data:
        del details[-1]
    if not details:
        told.application_failure_info.ClearField("details")
    return told


def caused() -> Exception:
    """A failure with everything that a failure can have."""
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ApplicationError(
                "outer",
                {"of": "theirs"},
                5,
                type="Theirs",
                non_retryable=True,
                next_retry_delay=timedelta(seconds=3),
            ) from inner
    except ApplicationError as error:
        return error


@pytest.mark.parametrize("error", [caused(), ValueError("plain"), Dpkg("curl")], ids=repr)
async def test_the_failure_in_history_is_the_same(
    client: Client, eu: str, error: Exception
) -> None:
    """Type, message, details, whether and when it is retried, and its cause are as without parking."""
    hosts = Hosts(raising(error), first=3)
    steps = few_steps(retry_policy=RetryPolicy(maximum_attempts=1))
    async with site(client, hosts) as here:
        for parks in (True, False):
            asked = attrs.evolve(request(f"{eu}-1", steps), parks=parks)
            await ending(client, here.task_queue, asked, ids=here.ids)
        failures = [
            event.activity_task_failed_event_attributes.failure
            for id in here.ids
            for event in (await history_of(client, id)).events
            if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED
        ]
    with_ours, plain = failures
    assert KEPT in str(with_ours)
    assert KEPT not in str(plain)
    assert cause_of(with_ours) == cause_of(plain)


async def test_without_the_plugin(client: Client, eu: str) -> None:
    """Nothing of a checkpoint is kept, and nothing else breaks: the step begins anew."""
    opened: list[tuple[int, bool]] = []

    @activity.defn
    async def perform_update(task: HostTask) -> StepResult:
        async with Checkpoint(int, default=0) as checkpoint:
            opened.append((checkpoint.value, checkpoint.resumed))
            if len(opened) == 1:
                checkpoint.save(3)
                raise ApplicationError("boom", non_retryable=True)
        return StepResult(changed=True)

    ids: list[str] = []
    steps = [quick(Step("perform_update"))]
    async with Worker(
        client,
        task_queue=eu,
        workflows=[QuickHost],
        activities=[perform_update],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        where = standing(await ending(client, eu, request(f"{eu}-1", steps), ids=ids))
        assert where.failure is not None
        assert where.failure.checkpoint is None
        again = request(f"{eu}-1", steps, resume=retried(where))
        result = await ending(client, eu, again, ids=ids)
    assert result.state is HostState.PATCHED
    assert opened == [(0, False), (0, False)]
