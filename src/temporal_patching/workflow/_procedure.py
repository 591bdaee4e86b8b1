"""Which steps run, and by which workflow classes: asked once, so that the answer is in history."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

from ..exceptions import InvalidRequest
from ..models import PatchRequest
from ..models._orders import ProcedureQuery, ResolvedProcedure
from ._failures import chain
from ._raw import read


async def resolved(request: PatchRequest) -> ResolvedProcedure:
    """The procedure of this rollout.

    Raises:
        InvalidRequest: It cannot run.
    """
    info = workflow.info()
    try:
        answer = await workflow.execute_activity(
            "resolve_procedure",
            ProcedureQuery(workflow_type=info.workflow_type, params=request.params),
            result_type=RawValue,
            start_to_close_timeout=timedelta(minutes=1),
            retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=30)),
            summary="which steps run, recorded",
        )
    except ActivityError as error:
        for link in chain(error):
            if isinstance(link, ApplicationError) and link.type == "InvalidRequest":
                raise InvalidRequest([link.message]) from None
        raise
    procedure = read(answer, ResolvedProcedure)
    soak = request.policy.soak
    if soak is not None and soak.check_every is not None and not procedure.checks_fleet:
        raise InvalidRequest(
            ["'policy.soak.check_every' needs 'check_fleet_health' in your PatchActivities class"]
        )
    return procedure
