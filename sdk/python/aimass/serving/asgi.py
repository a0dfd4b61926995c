"""The few things every HTTP door needs of ASGI: a bounded body in, JSON or bytes out, errors as one kind of object.

Plain ASGI instead of a framework: a framework's handler costs more than a small model (DESIGN section 5).
Every refusal has the same body, `{"error": text, "parameters": {"code", "retryable", "hint"}}`, on every path.
HTTP status codes appear in this module and nowhere else in the SDK.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any

from aimass.errors import AimassError, CancelledError, DeadlineError, FrameError, FrameTooLargeError
from aimass.wire.messages import ErrorReply
from aimass.wire.oip import encode_error

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

JSON_TYPE = b"application/json"  # exactly so: the kserve client reads no message when a charset follows
BINARY_TYPE = b"application/octet-stream"

_log = logging.getLogger(__name__)

# The longest matching prefix of an error's code wins; 500 when none does.
_STATUS = {
    "input": 400,
    "wire": 400,
    "wire.too_large": 413,
    "package": 400,
    "model.not_found": 404,
    "overload": 503,
    "deadline": 504,
    "cancelled": 499,
    "transport": 503,
    "transport.remote": 502,
    "identity.auth": 401,
    "identity.forbidden": 403,
    "store.not_found": 404,
    "store.conflict": 409,
    "store.no_space": 507,
}
NOT_FOUND = 404
BAD_METHOD = 405
UNSUPPORTED = 501


class Refusal(Exception):  # noqa: N818 - it carries an error and is none of the tree
    """A request that is refused with a status or headers that do not follow from its error's code.

    Args:
        error: what the body says.
        status: the HTTP status.
        extra: headers of the answer.
    """

    def __init__(self, error: AimassError, status: int, extra: Iterable[Header] = ()) -> None:
        super().__init__(error.message)
        self.error = error
        self.status = status
        self.extra = tuple(extra)


def status_of(code: str) -> int:
    """The HTTP status for an error's stable code."""
    while code:
        if code in _STATUS:
            return _STATUS[code]
        code = code.rpartition(".")[0]
    return 500


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of that lower-case name, as sent."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def headers(scope: Scope, name: bytes) -> list[bytes]:
    """Every header of that lower-case name."""
    return [bytes(value) for key, value in scope["headers"] if key == name]


async def read_body(scope: Scope, receive: Receive, *, max_bytes: int, timeout_s: float) -> bytes:
    """The whole request body.

    Args:
        scope: the request.
        receive: where its body comes from.
        max_bytes: refused above this, before anything is kept when the sender declares its length.
        timeout_s: how long the sender may take for all of it; a slow sender holds memory, so it is bounded.

    Raises:
        FrameTooLargeError: declared or real length above the limit.
        DeadlineError: the sender was too slow.
        CancelledError: the sender went away.
    """
    check_declared(header(scope, b"content-length"), max_bytes)
    return await read_undeclared(receive, max_bytes=max_bytes, timeout_s=timeout_s)


async def read_undeclared(receive: Receive, *, max_bytes: int, timeout_s: float) -> bytes:
    """As `read_body`, where the declared length was looked at already."""
    message = await _next(receive, timeout_s)
    first: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        _check_size(len(first), max_bytes)
        return first
    try:
        async with asyncio.timeout(timeout_s):
            return await _read_rest(first, receive, max_bytes)
    except TimeoutError as exc:
        raise DeadlineError(f"the request body did not arrive within {timeout_s:g} s", hint="send it faster") from exc


async def _next(receive: Receive, timeout_s: float) -> Message:
    try:
        async with asyncio.timeout(timeout_s):
            message = await receive()
    except TimeoutError as exc:
        raise DeadlineError(f"the request body did not begin within {timeout_s:g} s", hint="send it faster") from exc
    if message["type"] == "http.disconnect":
        raise CancelledError("the client went away before its request was complete")
    return message


async def _read_rest(first: bytes, receive: Receive, max_bytes: int) -> bytes:
    chunks, size, more = [first], len(first), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CancelledError("the client went away before its request was complete")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        _check_size(size, max_bytes)
        more = message.get("more_body", False)
    return b"".join(chunks)


def check_declared(declared: bytes | None, max_bytes: int) -> None:
    """Whether a body of this Content-Length may come at all.

    Raises:
        FrameTooLargeError: it is too long.
        FrameError: that is no number.
    """
    if declared is not None:
        if not declared.isdigit():
            raise FrameError("Content-Length is not a number")
        _check_size(int(declared), max_bytes)


def _check_size(size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise FrameTooLargeError(
            f"the request body has {size_bytes} bytes, {limit_bytes} are allowed",
            size_bytes=size_bytes,
            limit_bytes=limit_bytes,
        )


async def send_bytes(
    send: Send,
    status: int,
    parts: Sequence[Any],
    *,
    content_type: bytes = JSON_TYPE,
    extra: Iterable[Header] = (),
) -> None:
    """One complete answer. Many small parts are joined: one write costs less than several."""
    body = parts[0] if len(parts) == 1 and isinstance(parts[0], bytes) else b"".join(parts)
    start = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *extra]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, value: Any, status: int = 200) -> None:
    """One JSON answer."""
    await send_bytes(send, status, [json.dumps(value, separators=(",", ":")).encode()])


async def send_error(
    send: Send, error: AimassError, *, status: int | None = None, extra: Iterable[Header] = ()
) -> None:
    """An error as the one error object, with the status that belongs to its code."""
    if status is None:
        status = status_of(error.code)
    more = list(extra)
    if error.code == "overload":
        more.append((b"retry-after", b"1"))
    await send_bytes(send, status, [encode_error(ErrorReply.from_error(error))], extra=more)


def answering_errors(app: App) -> App:
    """Wraps a door so that whatever it raises becomes an answer (or a closed connection once one has begun)."""

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await app(scope, receive, watch)
        except CancelledError as exc:
            # Nobody is there to read an answer; the server needs none for a closed connection.
            _log.debug("request taken back: %s", exc)
            if not begun:
                await send_error(send, exc)
        except AimassError as exc:
            if begun:
                raise
            await send_error(send, exc)
        except Refusal as exc:
            await send_error(send, exc.error, status=exc.status, extra=exc.extra)
        except Exception:
            # A fault of ours must cost one request, never the door; it is logged whole and answered as `internal`.
            _log.exception("request %s %s failed", scope.get("method"), scope.get("path"))
            if begun:
                raise
            await send_error(send, AimassError("internal error", hint="the log of this process has the details"))

    return door
