"""A release in the middle of a rollout. `make workshop EXERCISE=versioning`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import attrs
from temporalio.api.workflowservice.v1 import SetWorkerDeploymentCurrentVersionRequest
from temporalio.client import Client, WorkflowHandle
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker, WorkerDeploymentConfig

from temporal_patching.client import Rollout
from temporal_patching.models import PatchRequest
from temporal_patching.workflow import SystemPatchWorkflow

from ..hosts import HandHosts
from ..machines import Fleet
from ..stage import PATIENCE, Row, Stage
from . import by_hand, with_library

__all__ = ["Release", "Seen", "Versioned", "rows", "show"]

HOSTS = 8
"""To make a version the current one takes a second or two: hosts must be left by then."""


@attrs.frozen
class Release:
    """One rollout in whose middle a release was made, and one after it: what the hosts say.

    Attributes:
        hosts: How many hosts the first rollout had.
        begun: On how many of them it had begun when the release was made.
        updated: How many it updated in the end.
        checked: How many of them had their health checked: the step that is new.
        hosts_after: How many hosts the rollout after the release had.
        checked_after: How many of them had their health checked.
    """

    hosts: int
    begun: int
    updated: int
    checked: int
    hosts_after: int
    checked_after: int


@attrs.frozen
class Versioned:
    """The same on versioned workers.

    Attributes:
        release: What the hosts say.
        version: On which version the first rollout ended, as the server says.
        versions: On which versions its workflows did: its own, the cluster's, the hosts'.
        version_after: On which version the next rollout ended.
    """

    release: Release
    version: str
    versions: Sequence[str]
    version_after: str


@attrs.frozen
class Seen:
    """What happened.

    Attributes:
        stuck: Why the workflow by hand could not go on with the next release; the server's word.
        updated_when_stuck: How many hosts were updated then.
        by_hand: The same workflow with the guarded release.
        library: The rollout with the library.
        pinned: On versioned workers, ``PINNED``.
        auto_upgrade: On versioned workers, ``AUTO_UPGRADE``.
    """

    stuck: str
    updated_when_stuck: int
    by_hand: Release
    library: Release
    pinned: Versioned
    auto_upgrade: Versioned


async def show(stage: Stage) -> Seen:
    stage.say("By hand: the worker is replaced in the middle. The next release has a step more.")
    stuck, updated_when_stuck, hand = await _by_hand(stage)
    stage.say("With the library: the same.")
    library = await _with_library(stage)
    stage.say("With the library on versioned workers, both releases side by side:")
    pinned, auto_upgrade = await asyncio.gather(
        _versioned(stage, VersioningBehavior.PINNED),
        _versioned(stage, VersioningBehavior.AUTO_UPGRADE),
    )
    return Seen(stuck, updated_when_stuck, hand, library, pinned, auto_upgrade)


async def _by_hand(stage: Stage) -> tuple[str, int, Release]:
    fleet = _fleet(stage, "hand")
    queue = stage.id("versioning-by-hand")

    def worker(release: type) -> Worker:
        return Worker(
            stage.client,
            task_queue=queue,
            workflows=[release],
            activities=HandHosts(fleet).all(),
            graceful_shutdown_timeout=timedelta(seconds=10),
        )

    async def start(cluster: str) -> WorkflowHandle[by_hand.FirstRelease, None]:
        return await stage.client.start_workflow(
            by_hand.FirstRelease.run,
            fleet.hosts(cluster),
            id=f"{queue}-{cluster}",
            task_queue=queue,
            # A task that a worker held when it was stopped goes to the next one after this time.
            task_timeout=timedelta(seconds=2),
        )

    async with worker(by_hand.FirstRelease):
        handle = await start("before")
        await _second_host_updates(stage, fleet)
        begun = _begun(fleet)
    async with worker(by_hand.NextRelease):
        stuck = await stage.failed_task(handle)
        updated = _updated(fleet)
    stage.say(f"  stuck with {updated} hosts updated: {stuck}")
    async with worker(by_hand.GuardedRelease):
        await asyncio.wait_for(handle.result(), PATIENCE)
        await asyncio.wait_for((await start("after")).result(), PATIENCE)
    return stuck, updated, _tell(stage, "with workflow.patched()", _release(fleet, begun))


async def _with_library(stage: Stage) -> Release:
    fleet = _fleet(stage, "library")
    queue = stage.id("versioning-library")
    client = stage.client
    async with with_library.worker(client, fleet, with_library.FirstRelease, task_queue=queue):
        rollout = await _start(client, "before", queue)
        await _second_host_updates(stage, fleet)
        begun = _begun(fleet)
    async with with_library.worker(client, fleet, with_library.NextRelease, task_queue=queue):
        await rollout.result()
        await (await _start(client, "after", queue)).result()
    return _tell(stage, "the worker replaced", _release(fleet, begun))


async def _start(client: Client, cluster: str, queue: str) -> Rollout[SystemPatchWorkflow]:
    request = PatchRequest(clusters=[cluster], requester="carol@example.com")
    # Both releases have the same name, and only that is sent: the worker knows what it means.
    return await Rollout.start(
        client, with_library.NextRelease, request, id=f"{queue}-{cluster}", task_queue=queue
    )


async def _versioned(stage: Stage, behavior: VersioningBehavior) -> Versioned:
    """Both workers run; which of them the server asks is a matter of versions."""
    client, word = stage.client, behavior.name.lower().replace("_", "-")
    fleet, queue = _fleet(stage, word, hosts=HOSTS), stage.id(f"versioning-{word}")

    def worker(release: type[SystemPatchWorkflow], build_id: str) -> Worker:
        deployment = WorkerDeploymentConfig(
            version=WorkerDeploymentVersion(deployment_name=queue, build_id=build_id),
            use_worker_versioning=True,
            # Each workflow class of a versioned worker must have one, the library's own included.
            default_versioning_behavior=behavior,
        )
        return with_library.worker(client, fleet, release, task_queue=queue, deployment=deployment)

    first = worker(with_library.FirstRelease, "first")
    async with first, worker(with_library.NextRelease, "next"):
        await _set_current(stage, queue, "first")
        rollout = await _start(client, "before", queue)
        await _second_host_updates(stage, fleet)
        await _set_current(stage, queue, "next")
        begun = _begun(fleet)
        await rollout.result()
        following = await _start(client, "after", queue)
        await following.result()
    version, version_after = await _version(rollout.handle), await _version(following.handle)
    versions = await _versions(stage, rollout.id, hosts=HOSTS)
    release = _tell(stage, behavior.name, _release(fleet, begun))
    stage.say(
        f"    it ended on {version!r} (its workflows: {versions}), the next {version_after!r}"
    )
    return Versioned(release, version, versions, version_after)


async def _set_current(stage: Stage, deployment: str, build_id: str) -> None:
    """New workflows go to this version from now on, and those that may move do."""
    request = SetWorkerDeploymentCurrentVersionRequest(
        namespace=stage.client.namespace, deployment_name=deployment, build_id=build_id
    )

    async def is_set() -> bool:
        try:
            await stage.client.workflow_service.set_worker_deployment_current_version(request)
        except RPCError as error:
            # The server has not heard of the version yet: its worker has just begun to poll.
            if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.FAILED_PRECONDITION):
                return False
            raise
        return True

    await stage.until(is_set)


async def _version(handle: WorkflowHandle[Any, Any]) -> str:
    """The version on which a workflow ended."""
    info = (await handle.describe()).raw_description.workflow_execution_info
    return info.versioning_info.deployment_version.build_id


async def _versions(stage: Stage, rollout: str, *, hosts: int) -> list[str]:
    """The versions on which a rollout and all below it ended."""
    # Itself, its cluster, the hosts.
    listed = await stage.listed(f"RootWorkflowId = '{rollout}'", 2 + hosts)
    handles = [stage.client.get_workflow_handle(each.id) for each in listed]
    return sorted({await _version(handle) for handle in handles})


# The hosts


def _fleet(stage: Stage, name: str, *, hosts: int = 4) -> Fleet:
    before = [stage.id(f"v-{name}-{number}") for number in range(1, hosts + 1)]
    after = [stage.id(f"v-{name}-later-{number}") for number in (1, 2)]
    return stage.fleet(f"v-{name}", {"before": before, "after": after}, unit_seconds=0.2)


async def _second_host_updates(stage: Stage, fleet: Fleet) -> None:
    second = fleet.machine(fleet.hosts("before")[1])
    await stage.until(lambda: "unit 0" in second.done())


def _begun(fleet: Fleet) -> int:
    return sum(bool(fleet.machine(host).log()) for host in fleet.hosts("before"))


def _updated(fleet: Fleet) -> int:
    return sum(fleet.machine(host).updated for host in fleet.hosts("before"))


def _checked(fleet: Fleet, cluster: str) -> int:
    machines = [fleet.machine(host) for host in fleet.hosts(cluster)]
    return sum("check_service_health" in machine.done() for machine in machines)


def _release(fleet: Fleet, begun: int) -> Release:
    return Release(
        hosts=len(fleet.hosts("before")),
        begun=begun,
        updated=_updated(fleet),
        checked=_checked(fleet, "before"),
        hosts_after=len(fleet.hosts("after")),
        checked_after=_checked(fleet, "after"),
    )


def _tell(stage: Stage, form: str, release: Release) -> Release:
    stage.say(
        f"  {form}: {release.begun} of {release.hosts} hosts had begun, {release.updated} are updated, "
        f"{release.checked} had the new step; in the next rollout {release.checked_after} of "
        f"{release.hosts_after} had it"
    )
    return release


# The table


def rows(seen: Seen) -> list[Row]:
    return [
        Row(
            "by hand, the next release",
            "NON_DETERMINISTIC_ERROR, hosts are left",
            f"{seen.stuck}, {seen.updated_when_stuck} of {seen.by_hand.hosts} updated",
            seen.stuck == "NON_DETERMINISTIC_ERROR"
            and seen.updated_when_stuck < seen.by_hand.hosts,
        ),
        _row("by hand, workflow.patched()", seen.by_hand),
        _row("with the library", seen.library),
        _versioned_row("with the library, PINNED", seen.pinned, "first"),
        _versioned_row("with the library, AUTO_UPGRADE", seen.auto_upgrade, "next"),
    ]


def _row(form: str, release: Release) -> Row:
    return Row(form, "the old rollout without the new step", _said(release), _right(release))


def _versioned_row(form: str, versioned: Versioned, ends_on: str) -> Row:
    return Row(
        form,
        f"the same; it ends on {ends_on!r}, the new one on 'next'",
        f"{_said(versioned.release)}; {versioned.version!r}, {versioned.version_after!r}",
        _right(versioned.release)
        and versioned.version == ends_on
        and versioned.version_after == "next",
    )


def _right(release: Release) -> bool:
    in_the_middle = 0 < release.begun < release.hosts == release.updated
    return in_the_middle and release.checked == 0 and release.checked_after == release.hosts_after


def _said(release: Release) -> str:
    old = f"{release.checked} of {release.hosts}"
    return f"old {old} with it, new {release.checked_after} of {release.hosts_after}"
