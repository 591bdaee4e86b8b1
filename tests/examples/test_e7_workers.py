"""Exercise 7: what the machines and the SDK's own metrics say of each limit."""

from __future__ import annotations

from statistics import mode

import pytest

from examples.workshop.stage import Stage

pytest.importorskip("matplotlib", reason="the group 'workshop' is not installed")
pytest.importorskip("prometheus_client", reason="the group 'workshop' is not installed")

from examples.workshop.e7_workers import run
from examples.workshop.e7_workers.limits import HOSTS, RATE, SLOTS, TUNER_SLOTS


async def test_each_limit_does_what_the_page_says(stage: Stage) -> None:
    """Slots bound a process, the queue's rate bounds all processes, `max_parallel` bounds the hosts."""
    seen = await run.show(stage)
    library = seen.with_library
    defaults, slots = library["defaults"], library["slots"]
    for each in (*seen.by_hand.values(), *library.values()):
        assert each.updated == HOSTS

    # Fewer slots: fewer in flight, and more time in the queue.
    assert defaults.most_in_flight >= 2 * SLOTS
    assert slots.most_in_flight == SLOTS
    assert slots.schedule_to_start > 2 * defaults.schedule_to_start
    # Used and available ones are two metrics, which need not change in the same moment.
    assert mode(reading.slots for each in slots.readings for reading in each) == SLOTS

    # Slots are a process's: twice as many with a second worker. They bound no hosts.
    one, two = seen.by_hand["slots"], seen.by_hand["slots, 2 workers"]
    assert one.most_in_flight == SLOTS < two.most_in_flight <= 2 * SLOTS
    assert one.out_of_service >= 2 * SLOTS

    # Workflow slots are there, and hold no activity down.
    workflow_slots = library["workflow slots"]
    sizes = [reading.workflow_slots for each in workflow_slots.readings for reading in each]
    assert mode(sizes) == SLOTS
    assert workflow_slots.most_in_flight >= 2 * SLOTS

    # A worker's rate is its own, and holds only where no activity starts eagerly.
    eager, rated = library["rate, eager"], library["rate, 2 workers"]
    assert eager.eager > 0
    assert eager.rate > 1.2 * RATE
    assert rated.eager == 0
    assert rated.worker_rate < 1.5 * RATE

    # The task queue's rate is that of both workers together.
    queue = library["queue rate, 2 workers"]
    assert queue.eager == 0
    assert len(queue.readings[-1]) == 2
    assert all(reading.started for reading in queue.readings[-1])
    assert queue.rate < 1.5 * RATE
    assert rated.rate > queue.rate  # up to twice as much; less on a busy machine

    # A tuner says as it goes how many slots there are, up to its maximum.
    tuner = library["tuner"]
    assert all(reading.slots is None for each in tuner.readings for reading in each)
    fewest, most = TUNER_SLOTS
    assert fewest <= tuner.most_in_flight <= most < defaults.most_in_flight

    # Hosts in flight are not activities in flight: slots hold down only these.
    assert defaults.hosts_in_flight == HOSTS
    assert slots.hosts_in_flight >= 2 * SLOTS
    # What the policy says holds for the hosts, over both workers, and nothing queues up.
    parallel = library["max_parallel, 2 workers"]
    assert parallel.hosts_in_flight == parallel.out_of_service == parallel.most_in_flight == 2
    assert parallel.schedule_to_start < slots.schedule_to_start / 2

    picture = stage.picture("workshop-7.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 100_000
    assert all(row.holds for row in run.rows(seen))
