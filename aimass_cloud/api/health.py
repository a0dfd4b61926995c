"""``/health`` and ``/metrics``: for load balancers, Prometheus and ``aimass demo``. No credential needed."""

from __future__ import annotations

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from aimass_cloud.api.metrics import ApiMetrics
from aimass_cloud.api.problems import problem
from aimass_cloud.api.services import Given

router = APIRouter(tags=["health"])


@router.get("/health/live", summary="Whether the process answers")
async def live() -> dict[str, str]:
    """Always, while it does."""
    return {"status": "live"}


@router.get("/health/ready", response_model=None, summary="Whether everything works: database, broker, connection")
def ready(services: Given) -> dict[str, str] | Response:
    """503 with the reason, when something does not."""
    reason = services.is_ready()
    if reason:
        return problem(503, "http.not_ready", reason, hint="it is starting, or see the cloud's log", retryable=True)
    return {"status": "ready"}


@router.get("/metrics", summary="Numbers for Prometheus", response_class=Response)
def metrics(request: Request) -> Response:
    """In the text format."""
    known: ApiMetrics = request.app.state.metrics
    return Response(generate_latest(known.registry), media_type=CONTENT_TYPE_LATEST)
