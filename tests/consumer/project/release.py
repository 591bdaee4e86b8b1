"""The parts alone, in a workflow that has nothing to do with patching."""

from datetime import timedelta

from temporalio import activity, workflow

from temporal_patching.policy import ApprovalPolicy
from temporal_patching.workflow import ApprovalMixin, gather

REGIONS = ["eu", "us", "ap"]


@activity.defn
async def deploy_to(region: str, version: str) -> str:
    return f"{version} in {region}"


async def deploy(region: str, version: str) -> str:
    return await workflow.execute_activity(
        deploy_to, args=[region, version], start_to_close_timeout=timedelta(minutes=1)
    )


@workflow.defn
class Release(ApprovalMixin):
    @workflow.run
    async def run(self, version: str) -> list[str]:
        await self.approval(
            "release", ApprovalPolicy(approvers=["alice@example.com"], timeout=timedelta(hours=4))
        )
        return await gather(*[deploy(region, version) for region in REGIONS], limit=3)
