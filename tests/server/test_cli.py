"""The command line as an operator types it, against a rollout on a real server."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from temporal_patching.client import Rollout
from temporal_patching.models import (
    AuditReport,
    Explanation,
    FleetHealth,
    GateReport,
    HostState,
    Outcome,
    PatchRequest,
    RolloutPlan,
    RolloutProgress,
    RolloutReport,
    Steered,
)
from temporal_patching.models._wire import from_json, to_json
from temporal_patching.policy import (
    ApprovalPolicy,
    Calendar,
    DatedPeriod,
    FailureBudget,
    MaintenanceWindows,
    RolloutPolicy,
    Soak,
)
from temporal_patching.testing import FailAt, RefuseAt, SimulatedFleet
from tests.rollouts import ALICE, BOB, CAROL, ask, ending, eventually, site
from tests.workflows import QuickFleet

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "temporal_patching"]
GATE = ApprovalPolicy(approvers=[ALICE, BOB], timeout=timedelta(hours=4))
ONE_BY_ONE = RolloutPolicy(pilot_hosts=0)
ESCAPE = "\x1b"
ANSWER_WITHIN = 40.0

T = TypeVar("T")


@pytest.fixture
def eu() -> str:
    """A cluster's name that no other test has."""
    return f"eu-{uuid.uuid4().hex[:6]}"


@dataclass
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    def read(self, wanted: type[T]) -> T:
        """Its JSON, as a wire type."""
        assert self.out, self.err
        return from_json(json.loads(self.out), wanted)

    def refused(self, code: int, said: str) -> None:
        """It ended with this code, printed nothing, and said this in one line on stderr."""
        assert (self.code, self.out) == (code, ""), self
        assert self.err.count("\n") == 1, self.err
        assert said in self.err


class Terminal:
    """A shell whose `TEMPORAL_ADDRESS` is the test server's."""

    def __init__(self, address: str) -> None:
        unset = ("COLUMNS", "FORCE_COLOR", "TEMPORAL_PATCHING_BY")
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in unset},
            "TEMPORAL_ADDRESS": address,
        }

    async def start(self, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
        """A command that goes on."""
        pipe = asyncio.subprocess.PIPE
        told = {
            "stdin": asyncio.subprocess.DEVNULL,
            "stdout": pipe,
            "stderr": pipe,
            "env": self.environment,
            "limit": 10_000_000,
        }
        return await asyncio.create_subprocess_exec(*COMMAND, *arguments, **{**told, **options})

    async def __call__(
        self, *arguments: str, env: Mapping[str, str] | None = None, **options: Any
    ) -> Ran:
        """Runs a command to its end."""
        process = await self.start(*arguments, env={**self.environment, **(env or {})}, **options)
        return await over(process)


async def over(process: asyncio.subprocess.Process) -> Ran:
    """Waits for the end of a command."""
    try:
        out, err = await asyncio.wait_for(process.communicate(), ANSWER_WITHIN)
    except asyncio.TimeoutError:
        process.kill()
        raise
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), (err or b"").decode())


@pytest.fixture
def cli(dev: WorkflowEnvironment) -> Terminal:
    """Runs commands."""
    return Terminal(dev.client.service_client.config.target_host)


async def in_phase(rollout: Rollout[Any], phase: str) -> None:
    """Waits until the rollout is in that phase."""

    async def there() -> bool:
        return (await rollout.progress()).phase == phase

    await eventually(there)


def fits(ran: Ran, *parts: str) -> None:
    """It is done, in 80 columns without colour, and says all of this."""
    assert ran.code == 0, ran
    assert ESCAPE not in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80, ran.out
    flat = " ".join(ran.out.split())
    for part in parts:
        assert part in flat, ran.out


@pytest.mark.smoke
async def test_at_a_gate(client: Client, cli: Terminal, eu: str) -> None:
    """At the gate it is seen who must vote; a vote that may not count is refused, one that may is shown."""
    fleet = SimulatedFleet({eu: 2})
    two = ApprovalPolicy(approvers=[ALICE, BOB], quorum=2, timeout=timedelta(hours=4))
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, approvals={"start": two}))
        await in_phase(rollout, "gate")
        fits(await cli("status", rollout.id), "phase gate", "start open, 0 of 2 votes", ALICE)
        fits(await cli("explain", rollout.id), "gate 'start' waits for 2 more votes", "expires")
        told = (await cli("explain", rollout.id, "--json")).read(Explanation)
        assert told.waits == (await rollout.explain()).waits
        no = await cli("approve", rollout.id, "--by", CAROL)
        no.refused(3, "may not vote")
        no = await cli("approve", rollout.id, "--by", ALICE, "--gate", "strat")
        no.refused(3, "strat")
        yes = await cli(
            "approve", rollout.id, "--reason", "CHG-1", env={"TEMPORAL_PATCHING_BY": BOB}
        )
        fits(yes, "gate start: open, 1 of 2 votes", f"approved {BOB}", ": CHG-1")
        gate = (await cli("approve", rollout.id, "--by", ALICE, "--json")).read(GateReport)
        assert gate.approved
        assert [vote.by for vote in gate.votes] == [BOB, ALICE]
        assert (await ending(rollout)).outcome is Outcome.PATCHED


async def test_approve_the_plan_that_was_read(client: Client, cli: Terminal, eu: str) -> None:
    """A gate that is bound to its plan shows it, and takes no vote about none or another."""
    bound = attrs.evolve(GATE, bound_to_plan=True)
    async with site(client, SimulatedFleet({eu: 1})) as here:
        rollout = await here.start(ask(eu, approvals={"start": bound}))
        await in_phase(rollout, "gate")
        digest = (await rollout.progress()).digest
        fits(await cli("status", rollout.id), f"plan {digest}")
        approve = ("approve", rollout.id, "--by", ALICE)
        (await cli(*approve)).refused(3, "must name the 'digest' of the plan")
        (await cli(*approve, "--digest", "another")).refused(3, "another plan")
        fits(await cli(*approve, "--digest", digest), "gate start: approved, 1 of 1 votes")
        assert (await ending(rollout)).outcome is Outcome.PATCHED


async def test_reject_ends_it(client: Client, cli: Terminal, eu: str) -> None:
    """A reject is done (0), and the report says that nothing was patched (1); the id takes no more verbs (4)."""
    fleet = SimulatedFleet({eu: 1})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, approvals={"start": GATE}))
        await in_phase(rollout, "gate")
        no = await cli("reject", rollout.id, "--by", BOB, "--reason", "not in December")
        fits(no, "gate start: rejected", f"rejected {BOB}", "not in December")
        end = await cli("report", rollout.id)
        assert end.code == 1
        assert "REJECTED" in end.out
        late = await cli("approve", rollout.id, "--by", ALICE)
        late.refused(4, "has ended")
    assert fleet.started == ()


async def test_while_it_runs(client: Client, cli: Terminal, eu: str) -> None:
    """Hosts in flight, a failure with its reason, and what is out of service; limits and skips are obeyed."""
    fleet = SimulatedFleet(
        {eu: 6}, faults={f"{eu}-1": FailAt("perform_update", retryable=False, message="disk full")}
    )
    fleet.hold("check_service_health", f"{eu}-1")
    fleet.hold("perform_update", f"{eu}-2")
    policy = RolloutPolicy(
        pilot_hosts=0,
        max_out_of_service=6,
        failure_budget=FailureBudget(max_failures=2, min_sample=3),
    )
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=policy))
        await fleet.reached("check_service_health", f"{eu}-1")
        fleet.release("check_service_health", f"{eu}-1")
        await fleet.reached("perform_update", f"{eu}-2")
        flying = f"in flight {eu}-2"
        failed = f"{eu}-1 FAILED perform_update: disk full"
        fits(await cli("status", rollout.id), "phase running", "wave 1 1/6 done", flying, failed)
        now = (await cli("status", rollout.id, "--json")).read(RolloutProgress)
        assert now == await rollout.progress()
        verb = ("--by", ALICE)
        no = await cli("set", rollout.id, *verb, "--max-failures", "0")
        no.refused(3, "below what has failed")
        no = await cli("set", rollout.id, *verb, "--max-parallel", "0")
        no.refused(2, "'max_parallel' must be >= 1 (got 0)")
        done = await cli("set", rollout.id, *verb, "--max-failures", "50%")
        fits(done, "set failure_budget.max_failures 2 → 50%", "phase running")
        fits(await cli("explain", rollout.id), "3 (50% of 6)", "a percentage counts after 3 hosts")
        fits(await cli("skip", rollout.id, *verb, "--host", f"{eu}-6"), f"{eu}-6 is skipped")
        no = await cli("skip", rollout.id, *verb, "--host", "nobody")
        no.refused(3, "no host 'nobody'")
        fleet.hold("perform_update")
        wide = await cli("set", rollout.id, *verb, "--max-parallel", "50%", "--json")
        assert wide.read(Steered).phase == "running"
        await fleet.reached("perform_update", times=4)
        fleet.release("perform_update")
        fleet.release("perform_update", f"{eu}-2")
        report = await ending(rollout)
        assert report.counts[HostState.PATCHED] == 4
        assert fleet.most_in_flight() == 3
        shown = await cli("report", rollout.id)
        assert shown.code == 1
        assert f"{eu}-6" in shown.out
        assert (await cli("report", rollout.id, "--json")).read(RolloutReport) == report
        told = (await cli("audit", rollout.id, "--json")).read(AuditReport)
        assert told == await rollout.audit()
        fits(await cli("audit", rollout.id), ALICE, f"skip {eu}-6 of cluster '{eu}'")


async def test_a_wave_is_skipped(client: Client, cli: Terminal, eu: str) -> None:
    """--wave leaves out the wave of that number, of the cluster that is named."""
    fleet = SimulatedFleet({eu: 4})
    policy = RolloutPolicy(pilot_hosts=1, waves=["50%", "100%"], max_parallel="100%")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=policy, approvals={"promote": GATE}))
        await in_phase(rollout, "running")
        done = await cli("skip", rollout.id, "--wave", "2", "--cluster", eu, "--by", ALICE)
        fits(done, "wave 2 is skipped")
        fits(
            await cli("approve", rollout.id, "--gate", "promote", "--by", BOB), "promote: approved"
        )
        report = await ending(rollout)
    assert report.counts[HostState.SKIPPED] == 4 - len(fleet.started) > 0


async def test_parked_hosts(client: Client, cli: Terminal, eu: str) -> None:
    """Who looks sees which hosts wait, why, and the command that answers; each answer is carried out."""
    bad = {f"{eu}-{n}": RefuseAt("perform_update", times=1) for n in (1, 2, 3)}
    policy = RolloutPolicy(
        pilot_hosts=0,
        max_out_of_service=4,
        failure_budget=FailureBudget(max_failures=4, stop_on_failed_wave=False),
        on_host_failure="park",
    )
    async with site(client, SimulatedFleet({eu: 4}, faults=bad)) as here:
        rollout = await here.start(ask(eu, policy=policy))

        async def waits() -> bool:
            return (await rollout.progress()).clusters[0].phase == "parked"

        await eventually(waits)
        fits(
            await cli("status", rollout.id),
            "3 parked hosts: retry, accept, restore or skip",
            f"{eu}-1 FAILED perform_update: simulated refusal",
            f"temporal-patching retry {rollout.id} --host {eu}-1 --by YOU",
            "4: 1 patched, 3 parked",
        )
        fits(await cli("explain", rollout.id), "3 parked hosts wait for a person")
        no = await cli("retry", rollout.id, "--host", f"{eu}-4", "--by", ALICE)
        no.refused(3, "not parked")
        step = ("--from-step", "stop_service")
        no = await cli("retry", rollout.id, "--host", f"{eu}-1", *step, "--by", ALICE)
        no.refused(3, "did you mean 'stop_services'")
        for verb, host in (("retry", 1), ("accept", 2), ("restore", 3)):
            done = await cli(verb, rollout.id, "--host", f"{eu}-{host}", "--by", ALICE)
            fits(done, f"{verb} parked host '{eu}-{host}'")
        report = await ending(rollout)
        assert report.counts[HostState.PATCHED] == 3
        assert report.counts[HostState.FAILED] == 1
        fits(await cli("audit", rollout.id), f"accept parked host '{eu}-2'")


async def test_pause_and_resume(client: Client, cli: Terminal, eu: str) -> None:
    """It waits for the host in flight and says which, then stands still, then goes on to the end."""
    fleet = SimulatedFleet({eu: 3})
    fleet.hold("perform_update", f"{eu}-1")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=ONE_BY_ONE))
        await fleet.reached("perform_update", f"{eu}-1")
        done = await cli("pause", rollout.id, "--by", ALICE, "--reason", "graphs", "--json")
        assert done.read(Steered).phase == "pausing"
        again = await cli("pause", rollout.id, "--by", BOB)
        again.refused(3, "paused already")
        fits(await cli("status", rollout.id), "phase pausing, 1 in flight")
        fleet.release("perform_update", f"{eu}-1")
        await in_phase(rollout, "paused")
        fits(await cli("status", rollout.id), "phase paused, 0 in flight", "1/3 done")
        fits(await cli("explain", rollout.id), f"it is paused: {ALICE}", "still moving nothing")
        fits(await cli("resume", rollout.id, "--by", BOB), "resume the rollout", "phase running")
        again = await cli("resume", rollout.id, "--by", BOB)
        assert again.code in (3, 4), again
        assert (await ending(rollout)).outcome is Outcome.PATCHED


async def test_one_cluster_is_paused_after_its_step(client: Client, cli: Terminal, eu: str) -> None:
    """--cluster and --after reach the rollout."""
    fleet = SimulatedFleet({eu: 2})
    fleet.hold("stop_services")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=ONE_BY_ONE))
        await fleet.reached("stop_services")
        no = await cli("pause", rollout.id, "--by", ALICE, "--cluster", "nowhere")
        no.refused(3, "'cluster' must be one of")
        named = ("--by", ALICE, "--cluster", eu)
        fits(await cli("pause", rollout.id, *named, "--after", "step"), eu, "after each step")
        fleet.release("stop_services")

        async def halted() -> bool:
            return (await rollout.host_progress(f"{eu}-1")).halted

        await eventually(halted)
        fits(await cli("resume", rollout.id, *named), "phase running")
        assert (await ending(rollout)).outcome is Outcome.PATCHED


async def test_watch_to_the_end(client: Client, cli: Terminal, eu: str) -> None:
    """Lines while it changes, JSON objects for programs, and the outcome as the exit code."""
    fleet = SimulatedFleet({eu: 2}, faults={f"{eu}-2": FailAt("perform_update", retryable=False)})
    fleet.hold("perform_update", f"{eu}-1")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=ONE_BY_ONE))
        people = await cli.start("watch", rollout.id, "--every", "0.1")
        programs = await cli.start("watch", rollout.id, "--every", "0.1", "--json")
        assert people.stdout is not None
        first = await asyncio.wait_for(people.stdout.readline(), ANSWER_WITHIN)
        assert b"running" in first or b"listing" in first
        await fleet.reached("perform_update", f"{eu}-1")
        fleet.release("perform_update", f"{eu}-1")
        shown, objects = await over(people), await over(programs)
        assert (shown.code, objects.code) == (1, 1), (shown, objects)
        assert f"{eu}-2  FAILED" in shown.out
        assert "outcome  STOPPED" in shown.out
        seen = [from_json(json.loads(line), RolloutProgress) for line in objects.out.splitlines()]
        assert seen[-1].outcome is Outcome.STOPPED
        assert shown.err == objects.err == ""


async def test_watch_is_0_when_all_is_patched(client: Client, cli: Terminal, eu: str) -> None:
    """So a script may say `watch && next`, also where it had ended before, and no worker is there."""
    async with site(client, SimulatedFleet({eu: 1})) as here:
        rollout = await here.start(ask(eu))
        fits(await cli("watch", rollout.id), "outcome PATCHED")
    assert (await cli("report", rollout.id, "--json")).read(RolloutReport).outcome == "PATCHED"
    assert (await cli("report", rollout.id)).code == 0
    # Of a workflow that has ended the server says at once that nobody is there, or waits.
    fits(await cli("watch", rollout.id), "outcome PATCHED")
    for command in ("status", "rest"):
        (await cli(command, rollout.id)).refused(5, "no worker answer")


async def test_ctrl_c_ends_only_the_watching(client: Client, cli: Terminal, eu: str) -> None:
    """130, one line, and the rollout goes on."""
    fleet = SimulatedFleet({eu: 1})
    fleet.hold("perform_update")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu))
        watching = await cli.start("watch", rollout.id)
        assert watching.stdout is not None
        await asyncio.wait_for(watching.stdout.readline(), ANSWER_WITHIN)
        watching.send_signal(signal.SIGINT)
        ran = await over(watching)
        assert (ran.code, ran.err) == (130, "interrupted; the rollout goes on\n")
        fleet.release("perform_update")
        assert (await ending(rollout)).outcome is Outcome.PATCHED


async def test_a_reader_that_goes_away(client: Client, cli: Terminal, eu: str) -> None:
    """`watch --json | head -1` ends silently with 141 when there is more to write."""
    fleet = SimulatedFleet({eu: 2})
    fleet.hold("perform_update")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=ONE_BY_ONE))
        await fleet.reached("perform_update")
        reader, writer = os.pipe()
        watching = await cli.start("watch", rollout.id, "--json", "--every", "0.1", stdout=writer)
        os.close(writer)
        await asyncio.to_thread(os.read, reader, 1)
        os.close(reader)
        fleet.release("perform_update")
        assert await asyncio.wait_for(watching.wait(), ANSWER_WITHIN) == 141
        assert watching.stderr is not None
        assert await watching.stderr.read() == b""
        assert (await ending(rollout)).outcome is Outcome.PATCHED


async def on_a_terminal(cli: Terminal, answer: bytes, *arguments: str) -> Ran:
    """Runs a command whose stdin is a terminal, at which somebody answers."""
    ours, its = pty.openpty()
    try:
        process = await cli.start(*arguments, stdin=its)
        os.write(ours, answer)
        return await over(process)
    finally:
        os.close(ours)
        os.close(its)


async def test_abort_asks_first(client: Client, cli: Terminal, eu: str) -> None:
    """No terminal and no --yes is refused, a no sends nothing, a yes ends it."""
    fleet = SimulatedFleet({eu: 1})
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, approvals={"start": GATE}))
        await in_phase(rollout, "gate")
        verb = ("abort", rollout.id, "--by", ALICE, "--reason", "wrong release")
        nobody = await cli(*verb)
        assert (nobody.code, nobody.out) == (2, "")
        assert "--yes" in nobody.err
        no = await on_a_terminal(cli, b"n\n", *verb)
        assert (no.code, no.out) == (2, "")
        assert "nothing was sent" in no.err
        assert (await rollout.progress()).phase == "gate"
        yes = await on_a_terminal(cli, b"y\n", *verb)
        assert yes.code == 0, yes
        assert f"Abort '{rollout.id}'?" in yes.err
        report = await ending(rollout)
        assert report.outcome is Outcome.ABORTED
        assert f"aborted by {ALICE}: wrong release" in report.reason


async def test_abort_now_names_the_host_that_is_held(
    client: Client, cli: Terminal, eu: str
) -> None:
    """--now cancels the update that runs; the report names its host as out of service."""
    fleet = SimulatedFleet({eu: 1})
    fleet.hold("perform_update")
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu))
        await fleet.reached("perform_update")
        done = await cli("abort", rollout.id, "--by", ALICE, "--now", "--yes", "--json")
        assert done.read(Steered).phase == "stopping"
        shown = await cli("report", rollout.id)
        assert shown.code == 1
        assert f"out of service\n  {eu}-1" in shown.out


# Before and after


async def test_plan_then_start_just_that(
    client: Client, cli: Terminal, eu: str, tmp_path: Path
) -> None:
    """A plan of a file is shown, touches nothing, and its --out starts exactly that, by the type's name."""
    fleet = SimulatedFleet({eu: 6})
    policy = RolloutPolicy(pilot_hosts=1, waves=[2, "100%"], max_parallel=2)
    request = ask(eu, policy=policy, approvals={"wave-2": GATE})
    file, out = tmp_path / "request.json", tmp_path / "planned.json"
    file.write_text(json.dumps(to_json(request)), encoding="utf-8")
    async with site(client, fleet) as here:
        where = ("--task-queue", here.task_queue, "--type", "QuickFleet")
        id = f"plan-{eu}"
        ran = await cli("plan", str(file), *where, "--id", id, "--hosts", "--out", str(out))
        fits(ran, id, "hosts 6 in 1 cluster", f"{eu} 6 hosts 2 at once 1 pilot, waves of 2, 3")
        fits(ran, "gates wave-2", f"pilots {eu}-1", f"wave 1 {eu}-2, {eu}-3", f"{eu}-6")
        assert "--type QuickFleet" in ran.out
        assert f"--task-queue {here.task_queue}" in ran.out
        assert "--id-reuse-policy RejectDuplicate" in ran.out
        assert fleet.started == ()
        again = await cli("plan", str(file), *where, "--id", id)
        again.refused(3, "was used before: name another with --id")
        told = (await cli("plan", str(file), *where, "--json")).read(RolloutPlan)
        assert told.hosts == {eu: tuple(f"{eu}-{n}" for n in range(1, 7))}
        planned = from_json(json.loads(out.read_text(encoding="utf-8")), PatchRequest)
        assert planned == told.planned
        rollout = await Rollout.start(
            client,
            "QuickFleet",
            attrs.evolve(planned, approvals={}),
            id=f"run-{eu}",
            task_queue=here.task_queue,
        )
        assert (await rollout.result()).outcome is Outcome.PATCHED


async def test_a_plan_that_is_refused(
    client: Client, cli: Terminal, eu: str, tmp_path: Path
) -> None:
    """By the worker, by the plan, or as a file: why is said in a line, and no file is written."""
    file, out = tmp_path / "request.json", tmp_path / "planned.json"

    def asks(**fields: Any) -> str:
        file.write_text(json.dumps(to_json(ask(eu, **fields))), encoding="utf-8")
        return str(file)

    soak = Soak(duration=timedelta(minutes=1), check_every=timedelta(seconds=30))
    hosts = SimulatedFleet({eu: 3}).implementing("perform_update")
    async with site(client, hosts) as here:
        where = ("-t", here.task_queue, "--type", "QuickFleet", "--out", str(out))
        ran = await cli("plan", asks(max_hosts=2), *where)
        ran.refused(3, "refused: the plan is refused: 'max_hosts' is 2")
        ran = await cli("plan", asks(policy=RolloutPolicy(soak=soak)), *where)
        ran.refused(3, "'policy.soak.check_every' needs 'check_fleet_health'")
    ran = await cli("plan", asks(), *where, "--namespace", "nope")
    ran.refused(4, "Namespace nope is not found")
    assert not out.exists()


async def test_the_rest_of_a_rollout(
    client: Client, cli: Terminal, eu: str, tmp_path: Path
) -> None:
    """JSON on stdout, or a file with how to start it; refused while it runs, and where nothing is left."""
    fleet = SimulatedFleet({eu: 4}, faults={f"{eu}-2": FailAt("perform_update", retryable=False)})
    out = tmp_path / "rest.json"
    async with site(client, fleet) as here:
        rollout = await here.start(ask(eu, policy=ONE_BY_ONE, approvals={"start": GATE}))
        await in_phase(rollout, "gate")
        (await cli("rest", rollout.id)).refused(3, "refused: ")
        await rollout.approve(by=ALICE)
        await ending(rollout)
        request = (await cli("rest", rollout.id)).read(PatchRequest)
        assert request.planned_hosts == {eu: (f"{eu}-2", f"{eu}-3", f"{eu}-4")}
        ran = await cli("rest", rollout.id, "--requester", "dora@example.com", "--out", str(out))
        fits(ran, "3 hosts in 1 cluster", f"{eu}-2, {eu}-3, {eu}-4", "--type QuickFleet")
        written = from_json(json.loads(out.read_text(encoding="utf-8")), PatchRequest)
        assert written == attrs.evolve(request, requester="dora@example.com")
        good = await here.start(ask(eu, only_hosts=[f"{eu}-1"]))
        await ending(good)
        (await cli("rest", good.id)).refused(3, "nothing is left to do")


async def test_watch_says_when_people_are_needed(client: Client, cli: Terminal, eu: str) -> None:
    """At a gate, when it is paused, and when a look at the fleet is inconclusive: with the command to give."""
    unknown = FleetHealth(verdict="inconclusive", message="no data")
    fleet = SimulatedFleet({eu: 2}, health=[unknown, FleetHealth(verdict="healthy")])
    soak = Soak(duration=timedelta(seconds=0.5), check_every=timedelta(seconds=0.5))
    async with site(client, fleet) as here:
        request = ask(eu, policy=RolloutPolicy(soak=soak), approvals={"start": GATE})
        rollout = await here.start(request)
        await in_phase(rollout, "gate")
        watching = await cli.start("watch", rollout.id, "--every", "0.1")
        assert watching.stdout is not None
        seen = b""
        while b"--by YOU" not in seen:
            seen += await asyncio.wait_for(watching.stdout.readline(), ANSWER_WITHIN)
        await rollout.approve(by=ALICE)
        await in_phase(rollout, "paused")
        paused = await cli("status", rollout.id)
        fits(paused, "waits for resume; paused by policy", "no data")
        fits(paused, f"answer temporal-patching resume {rollout.id} --by YOU")
        while b"it is paused" not in seen:
            seen += await asyncio.wait_for(watching.stdout.readline(), ANSWER_WITHIN)
        await rollout.resume(by=ALICE)
        assert (await ending(rollout)).outcome is Outcome.PATCHED
        shown = await over(watching)
        flat = " ".join(seen.decode().split())
        assert "PEOPLE gate 'start' waits for 1 more vote: temporal-patching approve" in flat
        assert f"PEOPLE it is paused: temporal-patching resume {rollout.id}" in " ".join(
            (seen.decode() + shown.out).split()
        )


async def test_unknown_id(cli: Terminal, unique: str) -> None:
    """Every command says that there is no such rollout, and where it looked."""
    verb = ("--by", ALICE)
    for arguments in (
        ("status",),
        ("watch", "--json"),
        ("explain",),
        ("audit", "--json"),
        ("report",),
        ("rest",),
        ("approve", *verb),
        ("reject", *verb),
        ("pause", *verb),
        ("resume", *verb),
        ("abort", "--yes", *verb),
        ("set", "--max-parallel", "1", *verb),
        ("skip", "--host", "h", *verb),
        ("retry", "--host", "h", *verb),
        ("accept", "--host", "h", *verb),
        ("restore", "--host", "h", *verb),
    ):
        ran = await cli(arguments[0], unique, *arguments[1:])
        ran.refused(4, f"no workflow {unique!r}")
        assert "namespace 'default'" in ran.err


async def test_unknown_namespace(cli: Terminal, unique: str) -> None:
    """It is the namespace that is not there, and not the rollout: it is said so, by every command."""
    for command, *options in (
        ("status",),
        ("watch",),
        ("report", "--json"),
        ("abort", "--yes", "--by", ALICE),
        ("approve", "--by", ALICE),
    ):
        ran = await cli(command, f"Namespace-{unique}", "--namespace", "nope", *options)
        ran.refused(4, "Namespace nope is not found")
        assert "no workflow" not in ran.err
    there = await cli("status", f"Namespace-{unique}")
    there.refused(4, f"no workflow 'Namespace-{unique}'")


async def test_no_worker(client: Client, cli: Terminal, task_queue: str, eu: str) -> None:
    """Nothing hangs: 5 within a while; an abort is kept by the server, which --now cannot be."""
    rollout = await Rollout.start(
        client, QuickFleet, ask(eu, approvals={"start": GATE}), id=task_queue, task_queue=task_queue
    )
    verb = ("--by", ALICE)
    ran = await asyncio.gather(
        cli("status", rollout.id),
        cli("explain", rollout.id, "--json"),
        cli("pause", rollout.id, *verb),
        cli("approve", rollout.id, *verb),
    )
    for each in ran:
        each.refused(5, "no worker answered")
    kept, less = await asyncio.gather(
        cli("abort", rollout.id, *verb, "--yes"),
        cli("abort", rollout.id, *verb, "--yes", "--now"),
    )
    fits(kept, "a cancel was sent instead")
    assert less.code == 5
    assert "updates that run are not cancelled" in less.err
    await rollout.handle.terminate("nobody ever works on it")
    ended = await cli("report", rollout.id)
    ended.refused(1, "ended without a report")


async def test_a_request_that_was_refused(client: Client, cli: Terminal, eu: str) -> None:
    """It has ended without a report; why is said, and it is no error of the command's."""
    async with site(client, SimulatedFleet({eu: 1})) as here:
        rollout = await here.start(ask(eu, only_hosts=["nobody"]))
        ran = await cli("report", rollout.id)
    assert ran.code == 1
    assert "nobody" in ran.out + ran.err


async def test_a_cluster_or_a_host_is_no_rollout(client: Client, cli: Terminal, eu: str) -> None:
    """They answer queries of the same names: an operator is told what they are, not something wrong."""
    async with site(client, SimulatedFleet({eu: 1})) as here:
        rollout = await here.start(ask(eu))
        await ending(rollout)
        for command in ("status", "report", "watch", "rest"):
            no = await cli(command, rollout.cluster_handle(eu).id)
            no.refused(4, f"is no rollout, it is cluster '{eu}' of rollout '{rollout.id}'")
            no = await cli(command, rollout.host_handle(f"{eu}-1").id)
            no.refused(4, f"is no rollout, it is host '{eu}-1' of rollout '{rollout.id}'")


async def test_what_has_ended_before_its_end(client: Client, cli: Terminal, eu: str) -> None:
    """A worker still answers for a request that was refused, or terminated: nobody is told that it lists hosts."""
    async with site(client, SimulatedFleet({eu: 1})) as here:
        rollout = await here.start(ask(eu, approvals={"start": GATE}))
        await in_phase(rollout, "gate")
        await rollout.handle.terminate("a mistake")
        for command in ("status", "explain"):
            no = await cli(command, rollout.id)
            no.refused(4, "has ended: it ended without a report: terminated")
        progress, explanation = await rollout.progress(), await rollout.explain()
        why = "its workflow has ended (terminated) without a report"
        assert (progress.phase, progress.waits_for, progress.outcome) == ("ended", "", None)
        assert (progress.reason, progress.summary) == (why, "ended: 1 not started")
        assert (explanation.phase, explanation.waits, explanation.next) == ("ended", (), ())
        assert [each.why for each in explanation.stopped] == [why]


async def test_what_was_called_off_waits_for_nothing(
    client: Client, cli: Terminal, eu: str
) -> None:
    """It waited for its window; aborted it waits no more, and says by whom, without Temporal's own words."""
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    opens = DatedPeriod(start=f"{tomorrow:%Y-%m-%dT22:00}", duration=timedelta(hours=4))
    windows = MaintenanceWindows(
        calendars=[Calendar(time_zone="UTC", dated=[opens])], on_window_close="wait"
    )
    async with site(client, SimulatedFleet({eu: 1})) as here:
        rollout = await here.start(ask(eu, policy=RolloutPolicy(windows=windows)))
        await in_phase(rollout, "running")
        fits(await cli("status", rollout.id), "waits for the next maintenance window: closed until")
        done = await cli("abort", rollout.id, "--yes", "--by", ALICE, "--reason", "not today")
        fits(done, "phase stopping")
        await ending(rollout)
        shown = await cli("status", rollout.id)
        fits(shown, "ended, ABORTED", f"stopped aborted by {ALICE}: not today")
        assert "waits for" not in shown.out
        assert "run id" not in shown.out


async def test_the_server_goes_away(client: Client, cli: Terminal, eu: str) -> None:
    """Who watches hears it in one line on stderr, and nothing of the SDK's own log; it goes on when it is back."""
    host, port = client.service_client.config.target_host.split(":")
    through: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        through.append(writer)
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, inner[1]), pump(inner[0], writer))

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    there = server.sockets[0].getsockname()[1]
    address = f"127.0.0.1:{there}"
    async with site(client, SimulatedFleet({eu: 1})) as here:
        rollout = await here.start(ask(eu, approvals={"start": GATE}))
        await in_phase(rollout, "gate")
        watching = await cli.start("watch", rollout.id, "--json", "--address", address)
        assert watching.stdout is not None
        first = await asyncio.wait_for(watching.stdout.readline(), ANSWER_WITHIN)
        assert from_json(json.loads(first), RolloutProgress).phase == "gate"
        server.close()
        for writer in through:
            writer.close()
        assert watching.stderr is not None
        said = (await asyncio.wait_for(watching.stderr.readline(), 40)).decode()
        assert "the server did not answer" in said, said
        assert said.endswith("Waiting.\n"), said
        refused = await cli("status", rollout.id, "--address", address)
        refused.refused(5, "server")
        server = await asyncio.start_server(forward, "127.0.0.1", there)
        assert (await cli("approve", rollout.id, "--by", ALICE)).code == 0
        await ending(rollout)
        ran = await over(watching)
        server.close()
    assert (ran.code, ran.err) == (0, ""), ran
    assert [json.loads(line) for line in ran.out.splitlines()]


async def test_encrypted_payloads(
    encrypted_client: Client, cli: Terminal, eu: str, tmp_path: Path
) -> None:
    """With the user's converter, in the current folder, all is read; with none or another key nothing is sent."""
    (tmp_path / "secret_codec.py").write_text(
        "from dataclasses import replace\n\n"
        "from tests.conftest import CONVERTERS, EncryptionCodec\n\n"
        "CONVERTER = CONVERTERS['encrypted']()\n"
        "ANOTHER = replace(CONVERTER, payload_codec=EncryptionCodec(bytes(32)))\n",
        encoding="utf-8",
    )
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    known = {"PYTHONPATH": path, "TEMPORAL_PATCHING_CONVERTER": "secret_codec:CONVERTER"}
    async with site(encrypted_client, SimulatedFleet({eu: 1}), replays=False) as here:
        rollout = await here.start(ask(eu, approvals={"start": GATE}))
        await in_phase(rollout, "gate")
        another = {**known, "TEMPORAL_PATCHING_CONVERTER": "secret_codec:ANOTHER"}
        for arguments, env in (
            (("status",), None),
            (("approve", "--by", ALICE), None),
            (("approve", "--by", ALICE), another),
        ):
            blind = await cli(arguments[0], rollout.id, *arguments[1:], env=env, cwd=tmp_path)
            assert (blind.code, blind.out) == (2, ""), blind
            assert "name your data converter with --converter" in blind.err
        seen = await cli("status", rollout.id, env=known, cwd=tmp_path)
        fits(seen, "start open, 0 of 1 votes")
        no = await cli("approve", rollout.id, "--by", CAROL, env=known, cwd=tmp_path)
        no.refused(3, "may not vote")
        yes = await cli("approve", rollout.id, "--by", ALICE, env=known, cwd=tmp_path)
        fits(yes, "gate start: approved")
        assert (await ending(rollout)).outcome is Outcome.PATCHED
