"""Runs a rollout against a simulated fleet, weeks of it in seconds, and replays what came of it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import datetime, timedelta
from typing import Any, TypeVar, final

import attrs
from temporalio.client import Client, WorkflowFailureError
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Plugin, Replayer, UnsandboxedWorkflowRunner, Worker

from ..activity import PatchActivities
from ..activity._activities import implemented
from ..client import Rollout
from ..exceptions import InvalidRequest, NotAnswered
from ..models import AuditReport, FleetHealth, FleetQuery, PatchRequest, RolloutReport
from ..worker import PatchingPlugin
from ..workflow import SystemPatchWorkflow
from ._environment import Alarms, Clock, check_environment, start_environment
from ._fleet import SimulatedFleet
from ._given import strange_faults, wrong_bound, wrong_crashes, wrong_people, wrong_workflow
from ._histories import all_histories, another_way, failed_task, told
from ._invariants import check_invariants
from ._lost import LostTasks
from ._people import Deed, Script
from ._rehearsal import Rehearsal
from ._watch import EDGES, Attempt, Edge, Watch

AnswerT = TypeVar("AnswerT")

EVERY_STEP = "every step"
_OF_CLUSTERS = ("list_hosts", "check_fleet_health")
_NO_STEPS = frozenset({*_OF_CLUSTERS, "notify"})

_LONGEST = timedelta(days=90)
_PATIENCE = timedelta(seconds=60)
_SILENCE = 2.0
"""Seconds without a move after which it is looked whether a task has failed."""
_TIDYING = 20.0
"""Seconds that workers may take to end."""


@final
class RehearsalFailed(AssertionError):
    """A rehearsal did not come to a report: a workflow task failed, it took too long, or it does not replay."""


async def rehearse(
    workflow: type[SystemPatchWorkflow],
    request: PatchRequest,
    fleet: SimulatedFleet,
    *,
    activities: PatchActivities | type[PatchActivities] | None = None,
    people: Sequence[Deed] = (),
    crash_at: str | Sequence[str] = (),
    begin: datetime | None = None,
    within: timedelta = _LONGEST,
    patience: timedelta = _PATIENCE,
    invariants: bool = True,
    workflows: Sequence[type] = (),
    plugins: Sequence[Plugin] = (),
    environment: WorkflowEnvironment | None = None,
) -> Rehearsal:
    """Runs your rollout against a simulated fleet on a time-skipping server, to its end.

    Your workflow classes run as they are, in the sandbox, with their hooks; the server is Temporal's own
    test server. Soaks, windows, approvals and retries take no time: the clock jumps to what comes next.
    At the end every history is replayed, and ``check_invariants`` judges. It never hangs: a
    workflow task that fails ends it at once.

    What is simulated: the hosts, the people, and the death of the worker. At a crash the worker is torn down
    with everything that it holds, and another one begins with nothing. Activities that run are cut off, and the
    server hears of the lost attempts at once, as on a redeploy; after a power cut it would wait for the
    heartbeat's timeout. The process of your test does not die, so what your code keeps in globals stays. While
    crashes are asked for no workflow is cached, so each of its tasks is a replay from the beginning: that finds
    more, and takes several times as long.

    What the time-skipping server cannot do: its clock is everybody's (one rehearsal at a time in an environment);
    time is not skipped while an activity runs, so ``Slow`` takes as long as it says; it ignores parent close
    policies, accepts any search attribute, and cannot list workflows. Try terminations and limits on a development
    server.

    Args:
        workflow: Your ``SystemPatchWorkflow`` subclass. Its host and cluster classes come along.
        request: What is asked for.
        fleet: The hosts, and what is wrong with them.
        activities: None (default): every step is simulated. Your ``PatchActivities`` class: only the steps are
            simulated that it implements, as in production the others are not scheduled. An instance: it is
            called, so it must be one that touches nothing but the fleet.
        people: Who approves, rejects and steers, and when. Nobody by default: a gate expires.
        crash_at: At which steps the worker dies, twice each: once before the step has its effect, once after
            it and before the answer is told. ``"every step"``: at each step that is come to.
        begin: The moment at which it begins, with a time zone, for windows. The server's clock only goes forward:
            not before now. Default: now.
        within: How much workflow time it may take. Default 90 days.
        patience: How much real time it may take, the server's start not counted. Default 60 seconds.
        invariants: Whether ``check_invariants`` compares the report with what was really done. Default True.
        workflows: More workflow classes that yours start.
        plugins: More plugins of your workers.
        environment: A time-skipping one, from ``start_environment``, to share among rehearsals that go well: see
            ``Rehearser``. Default: its own.

    Returns:
        What was reported, decided and really done, whatever the rollout's outcome.

    Raises:
        RehearsalFailed: A workflow task failed, a history does not replay, the rollout ended without a report,
            a crash that was named was not come to, or it took too long. The message says which, and where.
        InvariantsBroken: The report and the hosts do not agree, or more was done than was allowed.
        InvalidRequest: The request or an argument is refused; nothing was touched.
        Refused: What somebody of ``people`` does is not legal then.

    Example::

        rehearsal = await rehearse(
            PatchWebFleet,
            request,
            SimulatedFleet({"eu-1": 20}, faults={"eu-1-7": FailAt("perform_update")}),
            people=[Approve(by="alice@example.com", after=timedelta(hours=3))],
            crash_at="every step",
        )
        rehearsal.assert_in_service()
    """
    problems = list(wrong_workflow(workflow))
    if problems:
        raise InvalidRequest(problems)
    known = None if isinstance(activities, PatchActivities) else [h.name for h in fleet.hosts]
    problems += wrong_crashes(crash_at, workflow, EVERY_STEP)
    problems += wrong_people(people, workflow, known)
    problems += strange_faults(fleet._attempts.faults, workflow)
    problems += [*wrong_bound("within", within), *wrong_bound("patience", patience)]
    if begin is not None and begin.tzinfo is None:
        problems.append(f"'begin' must have a time zone (got {begin!r})")
    if problems:
        raise InvalidRequest(problems)
    async with AsyncExitStack() as stack:
        if environment is None:
            environment = await stack.enter_async_context(await start_environment())
        check_environment(environment)
        if begin is not None:
            now = await environment.get_current_time()
            if begin < now:
                raise InvalidRequest(
                    [f"'begin' must not be before the server's clock, {now} (got {begin})"]
                )
            await environment.sleep(begin - now)
        stack.enter_context(environment.auto_time_skipping_disabled())
        run = _Run(
            workflow=workflow,
            request=request,
            fleet=fleet,
            plugin=PatchingPlugin(
                _activities(activities, fleet, workflow), workflows=[workflow, *workflows]
            ),
            plugins=plugins,
            environment=environment,
            people=people,
            crashes=_crashes(crash_at, workflow),
            within=within,
            patience=patience,
            invariants=invariants,
        )
        rehearsal = await run.run()
    missed = [
        each for each in _named(crash_at) if each not in {crash.step for crash in rehearsal.crashes}
    ]
    if missed:
        raise RehearsalFailed(
            f"'crash_at' names {', '.join(missed)}, which the rollout did not come to: no crash there"
        )
    return rehearsal


@final
class Rehearser:
    """``rehearse`` in an environment that several rehearsals share, one after another.

    After one that failed each has a server of its own: workflows that had to be ended leave the clock locked.

    Args:
        environment: A time-skipping one, from ``start_environment``.
    """

    def __init__(self, environment: WorkflowEnvironment) -> None:
        check_environment(environment)
        self._environment: WorkflowEnvironment | None = environment

    async def __call__(
        self,
        workflow: type[SystemPatchWorkflow],
        request: PatchRequest,
        fleet: SimulatedFleet,
        *,
        activities: PatchActivities | type[PatchActivities] | None = None,
        people: Sequence[Deed] = (),
        crash_at: str | Sequence[str] = (),
        begin: datetime | None = None,
        within: timedelta = _LONGEST,
        patience: timedelta = _PATIENCE,
        invariants: bool = True,
        workflows: Sequence[type] = (),
        plugins: Sequence[Plugin] = (),
    ) -> Rehearsal:
        """Runs one rehearsal, see ``rehearse``. With ``begin`` it has a server, and so a clock, of its own."""
        try:
            return await rehearse(
                workflow,
                request,
                fleet,
                activities=activities,
                people=people,
                crash_at=crash_at,
                begin=begin,
                within=within,
                patience=patience,
                invariants=invariants,
                workflows=workflows,
                plugins=plugins,
                environment=self._environment if begin is None else None,
            )
        except InvalidRequest:
            raise  # refused: nothing ran
        except BaseException:
            self._environment = None
            raise


def _named(crash_at: str | Sequence[str]) -> list[str]:
    """The steps that are named one by one."""
    names = [crash_at] if isinstance(crash_at, str) else list(crash_at)
    return [each for each in names if each != EVERY_STEP]


def _crashes(
    crash_at: str | Sequence[str], workflow: type[SystemPatchWorkflow]
) -> dict[str, list[Edge]]:
    steps = [*_OF_CLUSTERS, *workflow.host_workflow.steps.names]
    every = EVERY_STEP in ([crash_at] if isinstance(crash_at, str) else crash_at)
    wanted = [*(steps if every else ()), *_named(crash_at)]
    return {step: list(EDGES) for step in wanted}


def _activities(
    given: PatchActivities | type[PatchActivities] | None,
    fleet: SimulatedFleet,
    workflow: type[SystemPatchWorkflow],
) -> PatchActivities:
    if isinstance(given, PatchActivities):
        return given
    all_of_them = _NO_STEPS.union(workflow.host_workflow.steps.names)
    there = all_of_them if given is None else implemented(given)
    kind = type(fleet.implementing(*sorted(there - _NO_STEPS), notify="notify" in there))

    def starts(_: PatchActivities, client: Client, task_queue: str) -> None:
        """The fleet says at each worker's start that it is none. Here everybody knows, and many start."""

    methods: dict[str, Any] = {"_worker_starts": starts}
    if "check_fleet_health" in there:

        async def check_fleet_health(_: PatchActivities, query: FleetQuery) -> FleetHealth:
            return await fleet.check_fleet_health(query)

        methods["check_fleet_health"] = check_fleet_health
    rehearsed: type[PatchActivities] = type("RehearsedHosts", (kind,), methods)
    return rehearsed()


@attrs.define(kw_only=True)
class _Run:
    """One rehearsal while it runs."""

    workflow: type[SystemPatchWorkflow]
    request: PatchRequest
    fleet: SimulatedFleet
    plugin: PatchingPlugin
    plugins: Sequence[Plugin]
    environment: WorkflowEnvironment
    people: Sequence[Deed]
    crashes: dict[str, list[Edge]]
    within: timedelta
    patience: timedelta
    invariants: bool
    id: str = attrs.field(factory=lambda: f"rehearsal-{uuid.uuid4().hex[:8]}")

    client: Client = attrs.field(init=False)
    clock: Clock = attrs.field(init=False)
    watch: Watch = attrs.field(init=False)
    alarms: Alarms = attrs.field(init=False)
    script: Script = attrs.field(init=False)
    lost: LostTasks = attrs.field(factory=LostTasks)
    news: asyncio.Queue[Callable[[], Awaitable[None]]] = attrs.field(factory=asyncio.Queue)

    def __attrs_post_init__(self) -> None:
        self.client = self.environment.client
        self.clock = Clock(self.environment)
        self.watch = Watch(self.clock, self.client.data_converter.payload_converter, self.crashes)
        runner = self.watch.runner(UnsandboxedWorkflowRunner())
        self.alarms = Alarms(self.client, f"{self.id}/people", runner)
        self.script = Script(self.people, self.request, self.clock, self.alarms)
        self.script.ready = self.news.put_nowait
        self.watch.root = self.id
        self.watch.follows = self.script.has_gates
        self.watch.moved = lambda report: self.news.put_nowait(lambda: self.script.look(report))
        self.watch.alarm = self.alarms.gone_off
        self.watch.beside = self._beside

    async def run(self) -> Rehearsal:
        """Runs it, in bounded time."""
        running = asyncio.create_task(self._run())
        try:
            await asyncio.wait([running], timeout=self.patience.total_seconds())
            if running.done():
                return running.result()
            raise RehearsalFailed(
                f"{self.id} has not ended after {self.patience} of real time ('patience'): "
                f"{await self._where()}"
            )
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def _run(self) -> Rehearsal:
        workers = asyncio.create_task(self._work())
        try:
            async with self.alarms.worker():
                try:
                    return await self._beside_workers(self._rehearse(), workers)
                except BaseException:
                    await self.clock.stop()
                    await self._end_all()
                    raise
                finally:
                    await self.clock.stop()
                    with suppress(RPCError):
                        await self.alarms.clear()
        finally:
            workers.cancel()
            await asyncio.wait([workers], timeout=_TIDYING)

    # Workers, one after another

    def _worker(self) -> Worker:
        return Worker(
            self.client,
            task_queue=self.id,
            plugins=[self.plugin, *self.plugins, self.watch.plugin()],
            workflows=[],
            # A task that waits for a dead worker's cache would wait in real time.
            max_cached_workflows=0 if self.crashes else 1000,
            graceful_shutdown_timeout=timedelta(0),
        )

    async def _work(self) -> None:
        while True:
            worker = self._worker()
            running = asyncio.create_task(worker.run())
            dying = asyncio.create_task(self.watch.dies.wait())
            try:
                await asyncio.wait([running, dying], return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    await running
                    return
                # While nobody works, no deadline may pass.
                await self.clock.hold()
                await worker.shutdown()
                await running
            except asyncio.CancelledError:
                await worker.shutdown()
                await asyncio.wait([running])
                raise
            finally:
                dying.cancel()
            self.watch.dies.clear()
            asyncio.get_running_loop().create_task(self.clock.release())

    async def _beside_workers(
        self, going: Awaitable[AnswerT], workers: asyncio.Task[None]
    ) -> AnswerT:
        """Goes on until it is done, or a workflow task fails, or the workers end."""
        task = asyncio.ensure_future(going)
        waiting: list[asyncio.Future[Any]] = [task, workers, self.watch.trouble]
        moves = -1
        try:
            while not any(each.done() for each in waiting):
                if moves == self.watch.moves and (failed := await self._failed_task()):
                    raise RehearsalFailed(failed)
                moves = self.watch.moves
                await asyncio.wait(waiting, timeout=_SILENCE, return_when=asyncio.FIRST_COMPLETED)
            if self.watch.trouble.done():
                raise RehearsalFailed(told(self.watch.trouble.result()))
            if task.done():
                return task.result()
            workers.result()
            raise RehearsalFailed("the worker has ended by itself")
        finally:
            task.cancel()
            await asyncio.wait([task])

    # The rollout

    async def _rehearse(self) -> Rehearsal:
        began = await self.clock.now()
        rollout: Rollout[Any] = await Rollout.start(
            self.client, self.workflow, self.request, id=self.id, task_queue=self.id
        )
        await self.script.begin(rollout, began)
        await self.alarms.set(self.within, lambda: self.news.put_nowait(self._too_long))
        ending = asyncio.create_task(rollout.report())
        await self.clock.release()
        try:
            await self._go_on_until(ending)
            report = await ending
        except WorkflowFailureError as error:
            cause = error.cause
            raise RehearsalFailed(f"{self.id} ended without a report: {_chain(cause)}") from error
        finally:
            ending.cancel()
        await self.clock.hold()
        return await self._judge(rollout, report, began)

    async def _go_on_until(self, ending: asyncio.Task[RolloutReport]) -> None:
        while True:
            waiting = asyncio.create_task(self.news.get())
            try:
                await asyncio.wait([ending, waiting], return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    return
            finally:
                waiting.cancel()
            try:
                await self._do(waiting.result(), ending)
            finally:
                await self.clock.release()  # whoever told us held it

    async def _do(
        self, deed: Callable[[], Awaitable[None]], ending: asyncio.Task[RolloutReport]
    ) -> None:
        """Again while the worker is away: what people ask for is not lost."""
        while not ending.done():
            try:
                await deed()
            except NotAnswered:
                continue
            return

    async def _beside(self, attempt: Attempt) -> None:
        for deed in self.script.at_step(attempt):
            await deed()

    async def _too_long(self) -> None:
        moves = self.watch.moves
        await asyncio.sleep(_SILENCE)  # the clock is held meanwhile
        where = await self._where()
        if self.watch.moves != moves:
            where += (
                ". It was still going on: if its time was long enough, the server's clock has jumped ahead while "
                "nothing seemed to be left to do, as it may on a busy machine. Then rehearse it again"
            )
        raise RehearsalFailed(
            f"{self.id} has not ended after {self.within} of workflow time ('within'): {where}"
        )

    async def _judge(
        self, rollout: Rollout[Any], report: RolloutReport, began: datetime
    ) -> Rehearsal:
        audit: AuditReport = await rollout.audit()
        described = await rollout.handle.describe()
        assert described.close_time is not None  # it has ended
        histories = [each async for each in all_histories(self.client, self.id)]
        for history in histories:
            if failed := failed_task(history):
                raise RehearsalFailed(failed)
        wrong = await another_way(
            histories,
            Replayer(
                workflows=[],
                plugins=[self.plugin, *[each for each in self.plugins if _replays(each)]],
                data_converter=self.client.data_converter,
                runtime=self.client.service_client.config.runtime,
            ),
        )
        if wrong is not None:
            raise RehearsalFailed(wrong)
        plain = self.client.data_converter.payload_codec is None
        if self.invariants:
            check_invariants(self.fleet, report, histories if plain else None)
        return Rehearsal(
            id=self.id,
            report=report,
            audit=audit,
            histories=tuple(histories),
            began=began,
            took=described.close_time - described.start_time,
            crashes=tuple(self.watch.crashes),
            undone=self.script.left,
            fleet=self.fleet,
        )

    # When it goes wrong

    async def _where(self) -> str:
        """Where it stands, as far as anybody knows."""
        running = [
            f"{each.step!r} runs on {each.host or 'its worker'} (time is not skipped while an activity runs)"
            for each in list(self.watch.running.values())[:5]
        ]
        if running:
            return "; ".join(running)
        trouble = await self._failed_task()
        if trouble is not None:
            return trouble
        undone = "".join(f"; {each} has not happened" for each in self.script.left)
        last = self.fleet.log[-1] if self.fleet.log else None
        if last is None:
            return f"no step has begun{undone}"
        return f"the last that was done is {last.step} on {last.host} ({last.what}){undone}"

    async def _failed_task(self) -> str | None:
        with suppress(RPCError, asyncio.TimeoutError):
            async for history in all_histories(self.client, self.id):
                if found := failed_task(history) or self.lost.look(history):
                    return found
        return None

    async def _end_all(self) -> None:
        """Leaves nothing running on a server that others use. It knows no parent close policies."""
        with suppress(RPCError, asyncio.TimeoutError):
            async for history in all_histories(self.client, self.id):
                handle = self.client.get_workflow_handle(history.workflow_id, run_id=history.run_id)
                with suppress(RPCError):
                    await handle.terminate(reason="the rehearsal is over")


def _replays(plugin: Plugin) -> bool:
    return hasattr(plugin, "configure_replayer")


def _chain(error: BaseException | None) -> str:
    said: list[str] = []
    while error is not None:
        said.append(f"{type(error).__name__}: {error}")
        error = error.__cause__
    return "; caused by ".join(said)
