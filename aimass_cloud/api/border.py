"""What stands before every request, as plain ASGI: counts, and a bound on bodies that are read whole."""

from __future__ import annotations

import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aimass.errors import FrameTooLargeError
from aimass_cloud.api.metrics import ApiMetrics

MAX_BODY_BYTES = 256 * 1024
STREAMED = frozenset({"/v1/models", "/upload"})
"""These read their body as a stream and bound it themselves."""


class Border:
    """The outermost layer of the app."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        bounded = receive if scope["path"] in STREAMED else _bounded(receive)
        try:
            await self._app(scope, bounded, watched)
        finally:
            self._metrics.count(scope["method"], _route(scope), status, time.perf_counter() - began)


def _bounded(receive: Receive) -> Receive:
    left = MAX_BODY_BYTES

    async def receive_some() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            limit = f"{MAX_BODY_BYTES >> 10} KiB"
            raise FrameTooLargeError(f"the body of this request may have {limit}", limit_bytes=MAX_BODY_BYTES)
        return message

    return receive_some


def _route(scope: Scope) -> str:
    """The route's pattern, so that ids and digests do not make a number for each."""
    route: Any = scope.get("route")
    return str(getattr(route, "path", "none"))
