"""The gates of any workflow."""

from __future__ import annotations

from typing import Any, final

from temporalio.client import Client, WorkflowHandle

from ..models import ApprovalReport, GateReport, Vote
from ._asking import Reading, allowed, query


@final
class Approvals:
    """The gates of any workflow with an ``ApprovalMixin``.

    Until votes are signed, ``by`` is a claim: whoever can write to the namespace can vote as anyone.

    Args:
        client: A connected client. It needs no plugin.
        workflow_id: The workflow's id.

    Example::

        await Approvals(client, "release-7").approve(by="alice@example.com", gate="release")
    """

    def __init__(self, client: Client, workflow_id: str) -> None:
        self._handle: WorkflowHandle[Any, Any] = client.get_workflow_handle(workflow_id)
        self._reading = Reading(client, workflow_id)

    async def approve(
        self, *, by: str, gate: str = "start", reason: str = "", digest: str = ""
    ) -> GateReport:
        """Approves a gate. The same approval again is answered as the first time.

        Args:
            by: Who approves.
            gate: Which gate. Default ``"start"``.
            reason: Why, for the record.
            digest: The fingerprint of the plan that is approved. If the gate shows another, the vote is refused.

        Returns:
            The gate, as it was when the vote was counted.

        Raises:
            Refused: The vote may not count; the message says why. It leaves no event in history.
            NotAnswered: No worker answered within 10 seconds; the vote may still be counted later. Or the client
                has another data converter than the workers, or another key; nothing was sent then.
            RolloutNotFound: There is no such workflow.
        """
        return await self._vote("approve", Vote(by=by, gate=gate, reason=reason, digest=digest))

    async def reject(self, *, by: str, gate: str = "start", reason: str = "") -> GateReport:
        """Rejects a gate: the approval ends at once, whatever the quorum. Else as ``approve``."""
        return await self._vote("reject", Vote(by=by, gate=gate, reason=reason))

    async def report(self) -> ApprovalReport:
        """Every gate: what is pending, and who said what.

        Raises:
            NotAnswered: No worker answered within 10 seconds.
            RolloutNotFound: There is no such workflow.
        """
        return await query(self._handle, "approvals", ApprovalReport)

    async def _vote(self, verb: str, vote: Vote) -> GateReport:
        await self._reading.must()
        voting = self._handle.execute_update(verb, vote, result_type=GateReport)
        return await allowed(voting, self._handle.id)
