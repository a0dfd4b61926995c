"""The API as one ASGI app, made from its services."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.responses import HTMLResponse

from aimass_cloud.api import blobs, deployments, device, devices, docs, health, models, problems
from aimass_cloud.api.auth import FailureLimit
from aimass_cloud.api.border import Border
from aimass_cloud.api.metrics import ApiMetrics
from aimass_cloud.api.services import Services
from aimass_cloud.api.uploads import Receivers

API_VERSION = "1"
DESCRIPTION = """Errors are problem documents (RFC 9457) with a stable code, a hint, and whether to try again.
Listings come in pages: pass 'next' as 'cursor'. POSTs that make something take an Idempotency-Key."""


def create_api(services: Services) -> FastAPI:
    """The app. Its threads for uploads end with its lifespan."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        app.state.receivers.close()

    app = FastAPI(
        title="AI Mass cloud",
        version=API_VERSION,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.services = services
    app.state.receivers = Receivers()
    app.state.metrics = ApiMetrics(services.gauges)
    app.state.failure_limit = FailureLimit(time.monotonic)
    for resource in (models, deployments, devices, blobs, device, health):
        app.include_router(resource.router)

    @app.get("/docs", include_in_schema=False)
    async def show_docs() -> HTMLResponse:
        return HTMLResponse(docs.page(app.openapi()))

    problems.install(app)
    app.add_middleware(Border, metrics=app.state.metrics)
    return app
