"""Exercise 7, both ways. `make workshop EXERCISE=7`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack

import attrs

from ..machines import Fleet, Machine
from ..stage import PATIENCE, Row, Stage, free_ports
from . import with_library, worker
from .by_hand import PatchAtOnce
from .limits import CONFIGURATIONS, HOSTS, RATE, SLOTS, TUNER_SLOTS
from .metrics import Reading, parse, scrape
from .plot import draw

__all__ = ["Run", "Seen", "rows", "show"]

STEP_SECONDS = 0.1
EVERY = 0.1
"""Seconds between two looks at the metrics."""

BY_HAND = ("slots", "slots, 2 workers")
WITH_LIBRARY = tuple(name for name in CONFIGURATIONS if name not in BY_HAND[1:])


@attrs.frozen
class Run:
    """One rollout under one configuration.

    Attributes:
        at: Seconds since its begin, when the metrics were read.
        readings: What they said then, worker by worker.
        duration: Seconds from begin to end.
        hosts: When each host was in flight, from its first activity to its last, in seconds since the begin,
            by the machines' logs.
        in_flight: The greatest number of activities at once, by the machines' logs.
        out_of_service: The greatest number of hosts at once whose services were stopped, by the logs.
        rate: Activities started in a second, on average, by the logs.
        updated: Hosts that are updated and serve.
    """

    at: Sequence[float]
    readings: Sequence[Sequence[Reading]]
    duration: float
    hosts: Sequence[tuple[float, float]]
    in_flight: int
    out_of_service: int
    rate: float
    updated: int

    @property
    def hosts_in_flight(self) -> int:
        """The greatest number of hosts in flight at once."""
        return _most(self.hosts)

    @property
    def slots_used(self) -> int:
        """The greatest number of activity slots in use at once, over all workers, by the metrics."""
        return max(sum(reading.slots_used for reading in each) for each in self.readings)

    @property
    def most_in_flight(self) -> int:
        """The greater of both: a log knows only what has ended, the metrics are read now and then."""
        return max(self.in_flight, self.slots_used)

    @property
    def worker_rate(self) -> float:
        """Activities started in a second by the busiest worker, by its metrics."""
        return max(reading.started for reading in self.readings[-1]) / self.duration

    @property
    def eager(self) -> int:
        """Activities that came past the task queue, by the metrics."""
        return sum(reading.eager for reading in self.readings[-1])

    @property
    def schedule_to_start(self) -> float:
        """Seconds that an activity waited in the task queue, on average, by the metrics."""
        last = self.readings[-1]
        return sum(reading.waited for reading in last) / sum(reading.started for reading in last)


@attrs.frozen
class Seen:
    """What happened, by the name of the configuration."""

    by_hand: Mapping[str, Run]
    with_library: Mapping[str, Run]


async def show(stage: Stage) -> Seen:
    stage.say(f"{HOSTS} hosts, all at once, and what holds them down.")
    stage.say(
        f"  {'':23}          activities in flight                     wait  hosts in  hosts out"
    )
    stage.say(
        f"  {'':23} seconds  machines   metrics  a second  eager  in queue  flight  of service"
    )

    async def begin_by_hand(name: str, queue: str) -> None:
        await stage.client.execute_workflow(PatchAtOnce.run, "eu-1", id=queue, task_queue=queue)

    async def begin_rollout(name: str, queue: str) -> None:
        await with_library.patch(stage.client, queue, CONFIGURATIONS[name].max_parallel)

    stage.say("By hand:")
    hand: dict[str, Run] = {}
    for name in BY_HAND:
        hand[name] = await _observe(stage, "by-hand", name, begin_by_hand)
        _tell(stage, name, hand[name])
    stage.say("With the library:")
    library: dict[str, Run] = {}
    for name in WITH_LIBRARY:
        library[name] = await _observe(stage, "with-library", name, begin_rollout)
        _tell(stage, name, library[name])

    picture = stage.picture("workshop-7.png")
    draw(picture, {name: (run.at, run.readings, run.hosts) for name, run in library.items()})
    stage.say(f"Drawn over time: {picture}")
    return Seen(hand, library)


def _tell(stage: Stage, name: str, run: Run) -> None:
    stage.say(
        f"  {name:23}{run.duration:8.1f}{run.in_flight:10}{run.slots_used:10}{run.rate:10.1f}"
        f"{run.eager:7}{run.schedule_to_start:8.2f} s{run.hosts_in_flight:8}{run.out_of_service:12}"
    )


async def _observe(
    stage: Stage, form: str, name: str, begin: Callable[[str, str], Awaitable[None]]
) -> Run:
    """Starts the workers, has the hosts patched, and reads the metrics all the while."""
    which = f"e7-{form}-{list(CONFIGURATIONS).index(name)}"
    queue = stage.id(which)
    fleet = stage.fleet(
        which, {"eu-1": stage.hosts("e7", HOSTS)}, step_seconds=STEP_SECONDS, units=2
    )
    ports = free_ports(CONFIGURATIONS[name].workers)
    async with AsyncExitStack() as stack:
        workers = [
            stage.worker_process(worker.__name__, form, name, str(port), queue, str(fleet.folder))
            for port in ports
        ]
        await asyncio.gather(*[stack.enter_async_context(each) for each in workers])
        began, zero = time.monotonic(), time.time()  # the logs have the time of day
        rollout = asyncio.ensure_future(asyncio.wait_for(begin(name, queue), PATIENCE))
        at: list[float] = []
        texts: list[list[str]] = []
        while not rollout.done():
            await asyncio.wait([rollout], timeout=EVERY)
            at.append(time.monotonic() - began)
            texts.append([await asyncio.to_thread(scrape, port) for port in ports])
        await rollout
    machines = fleet.machines()
    return Run(
        at,
        [[parse(text) for text in each] for each in texts],
        at[-1],
        [_in_flight(machine, zero) for machine in machines],
        _most([span for machine in machines for span in _activities(machine)]),
        _most([span for machine in machines for span in _outages(machine)]),
        _rate(fleet),
        sum(machine.updated and machine.services_running for machine in machines),
    )


# From the machines' logs


def _activities(machine: Machine) -> list[tuple[float, float]]:
    """When each activity began and ended here. The units belong to the update before them."""
    spans: list[tuple[float, float]] = []
    for entry in machine.log():
        if entry.what.startswith("unit"):
            spans[-1] = (spans[-1][0], entry.at)
        else:
            spans.append((entry.at - STEP_SECONDS, entry.at))
    return spans


def _in_flight(machine: Machine, zero: float) -> tuple[float, float]:
    """From when to when it was worked on, or waited for the next step."""
    spans = _activities(machine)
    return spans[0][0] - zero, spans[-1][1] - zero


def _outages(machine: Machine) -> Iterator[tuple[float, float]]:
    """From when to when its services were stopped."""
    times = [
        entry.at for entry in machine.log() if entry.what in ("stop_services", "start_services")
    ]
    yield from zip(times[::2], times[1::2], strict=True)


def _most(spans: Sequence[tuple[float, float]]) -> int:
    """How many spans there were at once, at most."""
    # A span that ends in the moment in which another begins is no second one: -1 comes before 1.
    changes = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def _rate(fleet: Fleet) -> float:
    begins = sorted(begin for machine in fleet.machines() for begin, _ in _activities(machine))
    return (len(begins) - 1) / (begins[-1] - begins[0])


# The closing table


def rows(seen: Seen) -> list[Row]:
    one, two = (seen.by_hand[name] for name in BY_HAND)
    library = seen.with_library
    defaults, slots, tuner = library["defaults"], library["slots"], library["tuner"]
    eager, each, queue = (
        library[name] for name in ("rate, eager", "rate, 2 workers", "queue rate, 2 workers")
    )
    parallel = library["max_parallel, 2 workers"]
    runs = [*seen.by_hand.values(), *library.values()]
    return [
        Row(
            "whatever the limit",
            f"{len(runs)} times {HOSTS} updated",
            f"{sum(run.updated for run in runs)} updated",
            all(run.updated == HOSTS for run in runs),
        ),
        Row(
            f"by hand, {SLOTS} slots",
            f"{SLOTS} activities; more hosts out of service",
            f"{one.most_in_flight} activities, {one.out_of_service} hosts",
            one.most_in_flight <= SLOTS < one.out_of_service,
        ),
        Row(
            f"by hand, {SLOTS} slots, 2 workers",
            f"{2 * SLOTS}: a slot is a process's",
            f"{two.most_in_flight} activities",
            SLOTS < two.most_in_flight <= 2 * SLOTS,
        ),
        Row(
            f"{SLOTS} slots, against the defaults",
            "fewer in flight, longer in the queue",
            f"{slots.most_in_flight} instead of {defaults.most_in_flight}, "
            f"{slots.schedule_to_start:.2f} s instead of {defaults.schedule_to_start:.2f} s",
            slots.most_in_flight <= SLOTS < defaults.most_in_flight
            and slots.schedule_to_start > 2 * defaults.schedule_to_start,
        ),
        Row(
            f"{SLOTS} workflow slots",
            "hold no activity down",
            f"{library['workflow slots'].most_in_flight} activities",
            library["workflow slots"].most_in_flight > SLOTS,
        ),
        Row(
            f"{RATE:.0f} a second, eager activities",
            "not held",
            f"{eager.rate:.0f} a second, {eager.eager} eager",
            eager.rate > RATE and eager.eager > 0,
        ),
        Row(
            f"{RATE:.0f} a second, none eager, 2 workers",
            f"about {RATE:.0f} each, more together",
            f"{each.worker_rate:.0f} the busier one, {each.rate:.0f} together",
            each.worker_rate < 1.5 * RATE and each.rate > queue.rate,
        ),
        Row(
            f"{RATE:.0f} a second for the queue, 2 workers",
            f"about {RATE:.0f} together",
            f"{queue.rate:.0f} together",
            queue.rate < 1.5 * RATE,
        ),
        Row(
            f"a tuner with {TUNER_SLOTS[0]} to {TUNER_SLOTS[1]} slots",
            f"{TUNER_SLOTS[0]} to {TUNER_SLOTS[1]}, the defaults more",
            f"{tuner.most_in_flight} activities instead of {defaults.most_in_flight}",
            TUNER_SLOTS[0] <= tuner.most_in_flight <= TUNER_SLOTS[1] < defaults.most_in_flight,
        ),
        Row(
            f"hosts in flight, {SLOTS} slots",
            f"many more than the {SLOTS} activities",
            f"{slots.hosts_in_flight} hosts, {slots.most_in_flight} activities",
            slots.hosts_in_flight >= 2 * SLOTS >= 2 * slots.most_in_flight,
        ),
        Row(
            "hosts in flight, max_parallel=2, 2 workers",
            "2, none waits in the queue",
            f"{parallel.hosts_in_flight} hosts, {parallel.schedule_to_start:.2f} s",
            parallel.hosts_in_flight == 2
            and parallel.schedule_to_start < slots.schedule_to_start / 2,
        ),
    ]
