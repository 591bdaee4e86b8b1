"""What the server and the clusters know of a rollout's hosts, one by one."""

from __future__ import annotations

from typing import Any

from temporalio.client import Client, WorkflowExecutionDescription, WorkflowHandle

from ..exceptions import InvalidRequest, Refused, RolloutNotFound
from ..models import ClusterReport, HostResult, HostsPage, HostsQuery
from ..policy._tally import IN_FLIGHT
from ..workflow import gather
from ..workflow._clusters import cluster_workflow_id
from ..workflow._in_flight import host_workflow_id
from ._asking import RUNNING, answered, query

_FLYING = IN_FLIGHT.decode()

_STILL_ENDS = "still works, though the rollout has ended: what is left undone is not known yet. Ask again later"


def cluster_of(client: Client, rollout: str, cluster: str) -> WorkflowHandle[Any, ClusterReport]:
    """The workflow of one cluster of a rollout."""
    id = cluster_workflow_id(rollout, cluster)
    return client.get_workflow_handle(id, result_type=ClusterReport)


def worked_on(client: Client, host: str) -> WorkflowHandle[Any, HostResult]:
    """The workflow of one host: the last rollout's that worked on it."""
    return client.get_workflow_handle(host_workflow_id(host), result_type=HostResult)


async def hosts_of(client: Client, rollout: str, cluster: str) -> list[tuple[str, str]]:
    """Each host of a cluster's frozen list with its code, read page by page."""
    handle, hosts = cluster_of(client, rollout, cluster), list[tuple[str, str]]()
    page: int | None = 0
    while page is not None:
        found = await query(handle, "hosts", HostsPage, HostsQuery(page=page))
        if not found.listed:
            raise InvalidRequest(
                [f"the hosts of cluster {cluster!r} were never listed: start a new rollout for it"]
            )
        hosts += zip(found.hosts, found.codes, strict=True)
        page = found.next_page
    return hosts


async def hosts_at_rest(client: Client, rollout: str, cluster: str) -> list[tuple[str, str]]:
    """As ``hosts_of``, of a cluster of which nothing moves any more."""
    handle = cluster_of(client, rollout, cluster)
    try:
        running = (await answered(handle.describe(), handle.id)).status is RUNNING
    except RolloutNotFound:
        raise RolloutNotFound(
            f"cluster {cluster!r} of {rollout!r} is not there any more: its retention is over, which begins "
            "when the cluster ends; or the rollout ended before it listed hosts"
        ) from None
    if running:
        raise Refused(f"cluster {cluster!r} of {rollout!r} {_STILL_ENDS}")
    hosts = await hosts_of(client, rollout, cluster)
    # A cluster that was killed leaves hosts behind that still give back what they took.
    flying = [name for name, code in hosts if code == _FLYING]
    works = await gather(*[_works_on(client, rollout, name) for name in flying], limit=20)
    moving = [name for name, still in zip(flying, works, strict=True) if still]
    if moving:
        more = f" and {len(moving) - 5} more" if len(moving) > 5 else ""
        raise Refused(
            f"{', '.join(moving[:5])}{more} of cluster {cluster!r} of {rollout!r} {_STILL_ENDS}"
        )
    return hosts


async def _works_on(client: Client, rollout: str, host: str) -> bool:
    """Whether a host's workflow is this rollout's, and has not ended."""
    handle = worked_on(client, host)
    try:
        described = await answered(handle.describe(), handle.id)
    except RolloutNotFound:
        return False
    return described.status is RUNNING and _rollout_of(described) == rollout


async def own_host(
    client: Client, rollout: str, host: str
) -> tuple[WorkflowHandle[Any, Any], dict[str, tuple[int, str | None]]]:
    """The host's workflow if it is this rollout's, and what the server knows of its steps' attempts."""
    handle = worked_on(client, host)
    try:
        description = await answered(handle.describe(), handle.id)
    except RolloutNotFound:
        raise RolloutNotFound(f"host {host!r} has not started, or its retention is over") from None
    described = description.raw_description
    info = described.workflow_execution_info
    last = _rollout_of(description)
    if last != rollout:
        raise RolloutNotFound(
            f"host {host!r} has not started: the last that worked on it was "
            f"{last or 'something else'!r}"
        )
    attempts = {
        each.activity_type.name: (
            each.attempt,
            each.last_failure.message if each.HasField("last_failure") else None,
        )
        for each in described.pending_activities
    }
    return client.get_workflow_handle(handle.id, run_id=info.execution.run_id), attempts


def _rollout_of(host: WorkflowExecutionDescription) -> str:
    """Whose host it is. The server is asked, and not the workflow: it may have no worker any more."""
    info = host.raw_description.workflow_execution_info
    # Its parent is a cluster, whose id begins with its rollout's.
    return info.parent_execution.workflow_id.rpartition("/")[0]
