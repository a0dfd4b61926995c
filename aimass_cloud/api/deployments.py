"""``/v1/deployments``: which version shall run where."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from aimass_cloud.api import schemas
from aimass_cloud.api.auth import Caller
from aimass_cloud.api.paging import Cursor, Limit, cursor_of, number_of
from aimass_cloud.api.repeat import IdempotencyKey, body_parts, once
from aimass_cloud.api.services import Given

router = APIRouter(prefix="/v1/deployments", tags=["deployments"])


@router.post("", status_code=201, response_model=schemas.Deployment, summary="Deploy a version to a device or to all")
def deploy(
    services: Given, caller: Caller, body: schemas.DeploymentRequest, idempotency_key: IdempotencyKey = ""
) -> Response:
    """A newer deployment of the same model to the same target takes the older one's place."""

    def make() -> schemas.Deployment:
        view = services.deployments.deploy(
            body.model, version=body.version, alias=body.alias, device=body.target.device, created_by=caller.name
        )
        return schemas.Deployment.of(view)

    return once(services, caller, idempotency_key, body_parts("/v1/deployments", body), 201, make)


@router.get("", summary="The deployments that hold")
def list_deployments(services: Given, caller: Caller, limit: Limit = 100, cursor: Cursor = "") -> schemas.Deployments:
    """In the order they were made."""
    page = services.deployments.page(after=number_of(cursor), limit=limit)
    return schemas.Deployments(items=[schemas.Deployment.of(item) for item in page.items], next=cursor_of(page.next))


@router.delete("/{deployment}", status_code=204, summary="Take a deployment back")
def end_deployment(services: Given, caller: Caller, deployment: Annotated[int, Path(ge=1, lt=2**63)]) -> None:
    """Devices then remove the model, unless another deployment wants it."""
    services.deployments.end(deployment)
