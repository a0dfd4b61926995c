"""The management verbs, on the Unix socket only: status, models, records for the cloud. Everything else is inference.

GET  /v1/agent/status             how the agent stands
GET  /v1/agent/models             every model version that answers
GET  /v1/agent/models/{name}      its default version, or ?version=N
POST /v1/agent/outbox/{stream}    {"kind", "data", "id"} is kept for the cloud; answers {"seq"} once it is safe on
                                  disk. "id" may be left out; with it a repeated call is kept once
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import parse_qs

from aimass.client.describe import model_to_dict
from aimass.errors import InputError
from aimass.serving.asgi import App, Receive, Scope, Send, answering_errors, read_body, send_json
from aimass.serving.oip import Serves, checked_version, no_such_path, path_segments, refuse_method

MAX_RECORD_BYTES = 1024 * 1024
_BODY_TIMEOUT_S = 10.0
# Records that arrive together are written together (one fsync for all), so many may wait at once.
_RECORD_THREADS = 16


class Keeps(Protocol):
    """What the door needs of an outbox."""

    def append(self, stream: str, kind: str, data: Mapping[str, Any], *, id: str = "") -> int:  # noqa: A002
        """Keeps a record, once for each id; it is durable when this returns."""


class ManagementDoor:
    """`/v1/agent` for programs on this machine, with the inference protocols behind it.

    Args:
        runtime: which models there are.
        outbox: where records go.
        status: how the agent stands; may take a moment, so it runs on a thread.
        inference: the door for every other path.
    """

    def __init__(self, runtime: Serves, outbox: Keeps, status: Callable[[], dict[str, Any]], inference: App) -> None:
        self._runtime, self._outbox, self._status, self._inference = runtime, outbox, status, inference
        self._threads = concurrent.futures.ThreadPoolExecutor(_RECORD_THREADS, thread_name_prefix="record")
        self._management = answering_errors(self._route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Plain ASGI."""
        is_management = scope["path"].startswith("/v1/agent/")
        await (self._management if is_management else self._inference)(scope, receive, send)

    def close(self) -> None:
        """Ends the threads; records in progress are kept first."""
        self._threads.shutdown(wait=True)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        segments = path_segments(scope)[2:]
        allowed = "POST" if segments[:1] == ["outbox"] else "GET"
        match segments:
            case ["status" | "models"] | ["models" | "outbox", _]:
                if scope["method"] != allowed:
                    await refuse_method(scope, send, allowed)
                    return
        match segments:
            case ["status"]:
                await send_json(send, await asyncio.to_thread(self._status))
            case ["models"]:
                await send_json(send, {"models": [model_to_dict(one) for one in self._runtime.models()]})
            case ["models", name]:
                info = self._runtime.model(name, _asked_version(scope))
                await send_json(send, model_to_dict(info))
            case ["outbox", stream]:
                await send_json(send, {"seq": await self._record(scope, receive, stream)})
            case _:
                raise no_such_path(scope)

    async def _record(self, scope: Scope, receive: Receive, stream: str) -> int:
        body = await read_body(scope, receive, max_bytes=MAX_RECORD_BYTES, timeout_s=_BODY_TIMEOUT_S)
        kind, data, record_id = _parse_record(body)
        append = functools.partial(self._outbox.append, stream, kind, data, id=record_id)
        return await asyncio.get_running_loop().run_in_executor(self._threads, append)


def _asked_version(scope: Scope) -> str:
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    return checked_version(query.get("version", [""])[0])


def _parse_record(body: bytes) -> tuple[str, dict[str, Any], str]:
    try:
        parsed = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise InputError(f"the record is not JSON: {exc}", hint='send {"kind": text, "data": {...}}') from exc
    fields = parsed if isinstance(parsed, dict) else {}
    kind, data, record_id = fields.get("kind", "event"), fields.get("data"), fields.get("id", "")
    if not isinstance(kind, str) or not isinstance(data, dict) or not isinstance(record_id, str):
        message = "a record has an object 'data', and may have a text 'kind' and a text 'id'"
        raise InputError(message, hint='send {"kind": text, "data": {...}}')
    return kind, data, record_id


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")
