"""Rollout after rollout on real servers, while workers and the server are killed by a seed."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import quantiles
from typing import Any

from temporalio.worker import Replayer

from temporal_patching.exceptions import PatchingError
from temporal_patching.models import HostState, RolloutReport
from temporal_patching.policy import ApprovalPolicy, FailureBudget, Outcome, RolloutPolicy
from tests.chaos import judge
from tests.chaos.ground import ALICE, Ground, ask, ground
from tests.chaos.worker import plugin
from tests.chaos.workflows import CHAOS_STEPS, HEARTBEAT_TIMEOUT

RECOVERED_IN = HEARTBEAT_TIMEOUT.total_seconds() + 12
ENDS_IN = 240.0
"""Seconds until a rollout that has not ended is taken for one that hangs."""

START = {"start": ApprovalPolicy(approvers=[ALICE], timeout=timedelta(hours=1))}


@dataclass(frozen=True)
class Deaths:
    """How often who dies, and how soon hosts must go on after a worker did. In seconds."""

    worker_every: float = 20.0
    server_every: float = 120.0
    recovered_in: float = RECOVERED_IN


@dataclass
class Tally:
    """What has happened so far."""

    rollouts: Counter[str] = field(default_factory=Counter)
    hosts: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    again: int = 0
    """Attempts after the first of a step."""
    left_out: int = 0
    """Hosts that were reported as left out of service, and are."""
    worker_died: list[float] = field(default_factory=list)
    server_died: list[tuple[float, float]] = field(default_factory=list)
    """When, and when it was back."""
    after_worker: list[float] = field(default_factory=list)
    """How long each host took that was in flight when a worker died."""
    after_server: list[float] = field(default_factory=list)
    """The same for the server, from when it was back."""
    verbs: Counter[str] = field(default_factory=Counter)
    histories: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """One rollout, made of the seed."""

    id: str
    hosts: dict[str, list[str]]
    refuse: dict[str, str]
    policy: RolloutPolicy
    gated: bool
    verb: str
    after: float


def plans(seed: int, number: int) -> Plan:
    """The rollout of that number."""
    chance = random.Random(f"{seed}/{number}")
    id = f"soak-{number}"
    hosts = {
        f"{id}-{name}": [f"{id}-{name}-{n}" for n in range(chance.randint(4, 8))]
        for name in ("eu", "us")
    }
    names = [host for some in hosts.values() for host in some]
    refuse = {host: chance.choice(CHAOS_STEPS.names) for host in names if chance.random() < 0.1}
    policy = RolloutPolicy(
        pilot_hosts=chance.randint(0, 1),
        pilot_budget=FailureBudget(max_failures=1, stop_on_failed_wave=False),
        max_parallel=chance.randint(2, 5),
        max_out_of_service="100%",
        failure_budget=FailureBudget(
            max_failures=chance.choice((1, 100)), stop_on_failed_wave=False
        ),
        in_flight=chance.choice(["cancel", "finish"]),
        stop_scope=chance.choice(["cluster", "rollout"]),
        reboot=chance.choice(["never", "always"]),
    )
    return Plan(
        id=id,
        hosts=hosts,
        refuse=refuse,
        policy=policy,
        gated=chance.random() < 0.3,
        verb=chance.choice(["", "", "pause", "pause", "abort"]),
        after=chance.uniform(1, 8),
    )


async def soak(folder: Path, *, minutes: float, seed: int, deaths: Deaths) -> Tally:
    """Runs that long, then lets the last rollout end without any more deaths."""
    tally = Tally()
    async with ground(folder, {}, pace=0.15) as here:
        for _ in range(2):
            await here.worker()
        ends = time.monotonic() + minutes * 60
        killing = [
            asyncio.create_task(_kill_workers(here, tally, deaths, seed, ends)),
            asyncio.create_task(_kill_servers(here, tally, deaths, seed, ends)),
        ]
        number = 0
        try:
            while time.monotonic() < ends:
                plan = plans(seed, number)
                number += 1
                try:
                    await asyncio.wait_for(_one(here, tally, deaths, plan), ENDS_IN)
                except asyncio.TimeoutError:
                    tally.problems.append(f"{plan.id}: has not ended after {ENDS_IN:.0f} s")
                    break
                for each in killing:
                    if each.done():
                        each.result()
        finally:
            for each in killing:
                each.cancel()
                with suppress(asyncio.CancelledError):
                    await each
    _look_back(tally, long=minutes >= 2)
    return tally


async def _one(here: Ground, tally: Tally, deaths: Deaths, plan: Plan) -> None:
    """One rollout from its start to its end, and what must hold of it."""
    here.order(hosts=plan.hosts, refuse=plan.refuse)
    hosts = [host for some in plan.hosts.values() for host in some]
    began = time.time()
    approvals = START if plan.gated else {}
    await here.start(plan.id, ask(*plan.hosts, policy=plan.policy, approvals=approvals))
    steering = asyncio.create_task(_steer(here, tally, plan))
    report = await here.report(plan.id)
    ended = time.time()
    steering.cancel()
    with suppress(asyncio.CancelledError):
        await steering
    tally.rollouts[report.outcome.value] += 1
    tally.hosts.update({state.value: n for state, n in report.counts.items() if n})
    tally.left_out += len(report.left_out_of_service)
    unlisted = _never_listed(plan, report)
    listed = [host for host in hosts if host not in unlisted]
    tally.problems += [
        f"{plan.id}: {each}" for each in judge.wrong(here.truth, listed, report, plan.id)
    ]
    tally.problems += [
        f"{plan.id}: {host} was touched, though its cluster had no list"
        for host in sorted(unlisted)
        if here.truth.lines(host)
    ]
    for host in hosts:
        begun = [line for line in here.truth.lines(host) if line.what == "began"]
        tally.steps += len(begun)
        tally.again += sum(line.attempt > 1 for line in begun)
    await _histories(here, tally, plan, report)
    for at in tally.worker_died:
        if began < at < ended and not _server_was_down(tally, at):
            took = judge.recoveries(here.truth, plan.id, at, hosts=hosts)
            tally.after_worker += took.values()
            tally.problems += [
                f"{plan.id}: {host} went on {seconds:.1f} s after the death of a worker"
                for host, seconds in took.items()
                if seconds > deaths.recovered_in
            ]
    for died, back in tally.server_died:
        if began < died < ended:
            took = judge.recoveries(here.truth, plan.id, died, hosts=hosts)
            tally.after_server += [max(0.0, seconds - (back - died)) for seconds in took.values()]


def _never_listed(plan: Plan, report: RolloutReport) -> set[str]:
    """Hosts of clusters that an abort has met before they had made their lists: nobody can report them."""
    return {
        host
        for cluster in report.clusters
        if cluster.outcome is Outcome.ABORTED and not cluster.digest
        for host in plan.hosts[cluster.cluster]
    }


def _server_was_down(tally: Tally, at: float) -> bool:
    """Whether the server was away when a worker died, or soon before or after."""
    return any(died - RECOVERED_IN < at < back + RECOVERED_IN for died, back in tally.server_died)


async def _histories(here: Ground, tally: Tally, plan: Plan, report: RolloutReport) -> None:
    """No task has failed, nothing runs any more, and what a worker would replay goes the same way."""
    replayer = Replayer(workflows=[], plugins=[plugin(here.folder)])
    touched = [host for some in plan.hosts.values() for host in some if here.truth.lines(host)]
    ids = [plan.id, *(f"{plan.id}/{cluster}" for cluster in plan.hosts)]
    ids += [f"patch-host/{host}" for host in touched]

    async def once() -> list[str]:
        return await judge.wrong_in_histories(here.client, replayer, ids=ids)

    tally.problems += await here.insisting(once)
    tally.histories += len(ids)


async def _steer(here: Ground, tally: Tally, plan: Plan) -> None:
    """What people do meanwhile; they ask again if nobody answers."""

    async def insist(verb: str, **arguments: Any) -> None:
        async def once() -> None:
            await getattr(here.rollout(plan.id), verb)(by=ALICE, **arguments)

        # It may have ended by itself, or have said so already to a call whose answer was lost.
        with suppress(PatchingError):
            await here.insisting(once)
            tally.verbs[verb] += 1

    if plan.gated:
        await insist("approve")
    if plan.verb:
        await asyncio.sleep(plan.after)
        await insist(plan.verb)
    if plan.verb == "pause":
        await asyncio.sleep(2)
        await insist("resume")


async def _kill_workers(here: Ground, tally: Tally, deaths: Deaths, seed: int, ends: float) -> None:
    chance = random.Random(f"{seed}/workers")
    while True:
        await asyncio.sleep(deaths.worker_every * chance.uniform(0.8, 1.2))
        if time.monotonic() > ends:
            return
        victim = here.workers.pop(chance.randrange(len(here.workers)))
        tally.worker_died.append(await victim.kill())
        while True:  # its start may fall into the death of the server
            try:
                await here.worker()
                break
            except AssertionError:
                here.workers.pop()


async def _kill_servers(here: Ground, tally: Tally, deaths: Deaths, seed: int, ends: float) -> None:
    chance = random.Random(f"{seed}/servers")
    while True:
        await asyncio.sleep(deaths.server_every * chance.uniform(0.8, 1.2))
        if time.monotonic() > ends:
            return
        died = time.time()
        here.server.kill()
        await asyncio.sleep(chance.uniform(0, 3))
        await here.restart_server()
        tally.server_died.append((died, time.time()))


def _look_back(tally: Tally, *, long: bool) -> None:
    """A soak in which nothing happened shows nothing. A short one may miss some."""
    if long and not tally.after_worker:
        tally.problems.append("no worker died while a host was in flight")
    if long and not tally.again:
        tally.problems.append("no step was ever tried again")
    if not tally.hosts[HostState.PATCHED.value]:
        tally.problems.append("no host was ever patched")


def _spread(seconds: Sequence[float]) -> str:
    if len(seconds) < 2:
        return ", ".join(f"{each:.1f} s" for each in seconds) or "none"
    cuts = quantiles(seconds, n=100, method="inclusive")
    shown = {"median": cuts[49], "90 %": cuts[89], "99 %": cuts[98], "longest": max(seconds)}
    return ", ".join(f"{name} {value:.1f} s" for name, value in shown.items())


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{what} {n:,}" for what, n in sorted(counts.items())) or "none"


def told(tally: Tally, *, minutes: float, seed: int) -> str:
    """What a soak has to tell."""
    return "\n".join(
        [
            f"{minutes:g} minutes, seed {seed}",
            f"rollouts: {sum(tally.rollouts.values()):,} ({_counts(tally.rollouts)})",
            f"hosts: {sum(tally.hosts.values()):,} ({_counts(tally.hosts)})",
            f"steps begun: {tally.steps:,}, of these again: {tally.again:,}",
            f"verbs and votes: {_counts(tally.verbs)}",
            f"killed: workers {len(tally.worker_died)}, server {len(tally.server_died)}",
            f"a host in flight went on after the death of a worker ({len(tally.after_worker)} times): "
            f"{_spread(tally.after_worker)}; allowed {RECOVERED_IN:g} s",
            f"after the server was back ({len(tally.after_server)} times): "
            f"{_spread(tally.after_server)}",
            f"out of service at the end: {tally.left_out}, each of them reported",
            f"histories read and replayed: {tally.histories:,}",
            f"the machine's load at the end: {os.getloadavg()[1]:.1f}, on {os.cpu_count()} cores",
            *(f"WRONG: {each}" for each in tally.problems),
            "nothing is wrong" if not tally.problems else f"{len(tally.problems)} things are wrong",
        ]
    )
