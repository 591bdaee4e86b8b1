"""`ApprovalMixin`: a report that two of three managers must sign; without them it stays a draft."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

from temporal_patching.client import Approvals
from temporal_patching.exceptions import Refused
from temporal_patching.policy import ApprovalPolicy
from temporal_patching.workflow import ApprovalMixin

MANAGERS = ["alice@example.com", "bob@example.com", "carol@example.com"]


@activity.defn
def sign_draft(file: str, signatures: list[str]) -> None:
    draft = Path(file)
    if draft.exists():  # else an earlier attempt has done it
        text = "".join([draft.read_text(encoding="utf-8"), *signatures])
        draft.with_suffix(".signed").write_text(text, encoding="utf-8")
        draft.unlink()


@workflow.defn
class SignedReport(ApprovalMixin):
    @workflow.init
    def __init__(self, file: str, author: str, seconds: int) -> None:
        self.author = author
        self.policy = ApprovalPolicy(
            approvers=MANAGERS, quorum=2, timeout=timedelta(seconds=seconds), on_timeout="complete"
        )

    def approval_policies(self) -> dict[str, ApprovalPolicy]:
        return {"sign": self.policy}  # known from the start, so an early vote is judged at once

    def approval_requester(self) -> str:
        return self.author  # who may not sign

    @workflow.run
    async def run(self, file: str, author: str, seconds: int) -> bool:
        decision = await self.approval("sign")
        if decision.approved:
            signatures = [f"signed: {vote.by}, {vote.at:%Y-%m-%d}\n" for vote in decision.votes]
            await workflow.execute_activity(
                sign_draft, args=[file, signatures], start_to_close_timeout=timedelta(minutes=1)
            )
        return decision.approved


async def get_signed(client: Client, queue: str, file: Path, seconds: int, by: list[str]) -> None:
    id = f"{queue}-{file.stem}"
    arguments = [str(file), "carol@example.com", seconds]
    handle = await client.start_workflow(SignedReport.run, args=arguments, id=id, task_queue=queue)
    print(f"workflow {id}")
    for manager in by:
        try:
            gate = await Approvals(client, id).approve(by=manager, gate="sign")
            print(f"  {manager} signs: {len(gate.votes)} of {gate.quorum}")
        except Refused as refused:
            print(f"  {refused}")
    print("  signed" if await handle.result() else "  not signed in time: it stays a draft")


async def run(folder: Path) -> None:
    client = await Client.connect(os.environ.get("TEMPORAL_ADDRESS", "localhost:7233"))
    queue = f"report-{uuid.uuid4().hex[:6]}"
    async with Worker(
        client,
        task_queue=queue,
        workflows=[SignedReport],
        activities=[sign_draft],
        activity_executor=ThreadPoolExecutor(),
    ):
        alice, bob, carol = MANAGERS
        await get_signed(client, queue, folder / "march.draft", 3600, [alice, carol, bob])
        await get_signed(client, queue, folder / "april.draft", 2, [alice])


def main(folder: Path) -> None:
    for month in ("march", "april"):
        (folder / f"{month}.draft").write_text("All is well.\n", encoding="utf-8")
    asyncio.run(run(folder))
    print(f"{folder} has {sorted(os.listdir(folder))}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
