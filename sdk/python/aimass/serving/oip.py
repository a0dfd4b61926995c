"""The Open Inference Protocol (v2) over HTTP, with its binary-tensor extension, as a plain ASGI door.

It translates: paths and bytes into the runtime's requests, answers and errors back into bytes. Which engine runs,
whether the cloud is asked, how long anything waits: the runtime decides that. What real clients depend on:

* Framing follows the header `Inference-Header-Content-Length`, never the Content-Type (tritonclient sends none).
* Health answers carry a JSON object (the kserve client parses it) beside the status (tritonclient reads only that).
* `model_version` is a string, `id` comes back only when it was sent, `NaN` stays `NaN`.

The runtime is asked through its queue and answers with a future, so no thread waits for a slow client, and health
is answered while models compute.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote_to_bytes

from aimass.errors import (
    AimassError,
    CancelledError,
    FrameError,
    InputError,
    ModelNotFoundError,
    NotFoundError,
    OverloadError,
)
from aimass.placement.policy import Mode, Policy
from aimass.runtime.answer import Answer
from aimass.runtime.models import ModelInfo
from aimass.serving.asgi import (
    BAD_METHOD,
    BINARY_TYPE,
    UNSUPPORTED,
    Receive,
    Scope,
    Send,
    answering_errors,
    header,
    read_body,
    send_bytes,
    send_error,
    send_json,
)
from aimass.wire.messages import InferRequest
from aimass.wire.oip import Limits, encode_response, read_header, request_from_fields, wants_binary
from aimass.wire.tensor import TensorSpec

FRAMING = b"inference-header-content-length"
EXTENSIONS = ("binary_tensor_data",)

# A socket that closes while its request runs takes the request back. The watch for that costs a task, so it starts
# only for requests that are not answered within this time.
_WATCH_AFTER_S = 0.02
# JSON above this is parsed in a thread: 64 MiB of numbers would hold the loop, and with it every other client.
_INLINE_JSON_BYTES = 256 * 1024
_INLINE_JSON_ELEMENTS = 32 * 1024

T = TypeVar("T")


class Serves(Protocol):
    """What the door needs of a runtime."""

    def submit(
        self, request: InferRequest, *, deadline_s: float | None = None, policy: Policy = ..., mode: Mode = ...
    ) -> concurrent.futures.Future[Answer]:
        """Starts a request through the bounded queue."""

    def models(self) -> Sequence[ModelInfo]:
        """Every model version that answers here."""

    def model(self, name: str, version: str = "") -> ModelInfo:
        """One of them; the default version when none is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorSettings:
    """What the door decides by itself.

    Attributes:
        name: the server's name in `GET /v2`.
        version: its version there.
        limits: bounds on header, message and tensors.
        body_timeout_s: how long a sender may take for one request body.
        max_json_bytes: a request without a binary part; parsing takes many times its size.
        max_pending_bytes: bodies of all requests in flight together; above it new ones are refused as overload.
        policy: for requests that name none.
    """

    name: str = "aimass"
    version: str = ""
    limits: Limits = field(default_factory=Limits)
    body_timeout_s: float = 30.0
    max_json_bytes: int = 16 * 1024 * 1024
    max_pending_bytes: int = 256 * 1024 * 1024
    policy: Policy = Policy.SAVING


class OipDoor:
    """`/v2` over a runtime.

    Args:
        runtime: what answers.
        settings: bounds and names.
        ready: whether the process behind is ready to answer at all.
    """

    def __init__(
        self, runtime: Serves, *, settings: DoorSettings | None = None, ready: Callable[[], bool] = lambda: True
    ) -> None:
        self._runtime = runtime
        self._settings = settings or DoorSettings()
        self._ready = ready
        self._pending_bytes = 0
        self._app = answering_errors(self._route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Plain ASGI."""
        await self._app(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        match path_segments(scope):
            case ["v2", "models", model, "infer"]:
                await self._infer(scope, receive, send, model, "")
            case ["v2", "models", model, "versions", version, "infer"]:
                await self._infer(scope, receive, send, model, version)
            case ["v2", *rest]:
                await self._describe(scope, send, rest)
            case _:
                raise no_such_path(scope)

    async def _describe(self, scope: Scope, send: Send, rest: list[str]) -> None:
        answer = self._description(scope, rest)
        if scope["method"] != "GET":
            await refuse_method(scope, send, "GET")
        elif isinstance(answer, AimassError):
            await send_error(send, answer)
        else:
            await send_json(send, answer)

    def _description(self, scope: Scope, rest: list[str]) -> dict[str, Any] | AimassError:
        match rest:
            case []:
                settings = self._settings
                return {"name": settings.name, "version": settings.version, "extensions": list(EXTENSIONS)}
            case ["health", "live"]:
                return {"live": True}
            case ["health", "ready"]:
                if not self._ready():
                    return OverloadError("not ready yet", hint="models are still loading, or it is shutting down")
                return {"ready": True, "live": True}
            case ["models", model]:
                return self._metadata(model, "")
            case ["models", model, "versions", version]:
                return self._metadata(model, version)
            case ["models", model, "ready"]:
                return self._model_ready(model, "")
            case ["models", model, "versions", version, "ready"]:
                return self._model_ready(model, version)
            case _:
                raise no_such_path(scope)

    def _metadata(self, name: str, version: str) -> dict[str, Any]:
        info = self._runtime.model(name, checked_version(version))
        versions = sorted(one.version for one in self._runtime.models() if one.name == name)
        return {
            "name": info.name,
            "versions": [version] if version else [str(one) for one in versions],
            "platform": info.engine,
            "inputs": [_spec(one) for one in info.inputs],
            "outputs": [_spec(one) for one in info.outputs],
        }

    def _model_ready(self, name: str, version: str) -> dict[str, Any]:
        info = self._runtime.model(name, checked_version(version))
        return {"name": info.name, "version": str(info.version), "ready": True}

    # -- infer ----------------------------------------------------------------------------------------------------

    async def _infer(self, scope: Scope, receive: Receive, send: Send, model: str, version: str) -> None:
        if scope["method"] != "POST":
            await refuse_method(scope, send, "POST")
            return
        if (header(scope, b"content-encoding") or b"identity") != b"identity":
            error = InputError("compressed request bodies are not understood here", hint="send the body as it is")
            await send_error(send, error, status=UNSUPPORTED, extra=[(b"accept-encoding", b"identity")])
            return
        reserved = self._reserve(scope)
        try:
            body = await read_body(
                scope,
                receive,
                max_bytes=self._settings.limits.max_message_bytes,
                timeout_s=self._settings.body_timeout_s,
            )
            await self._answer(scope, receive, send, body, model, checked_version(version))
        finally:
            self._pending_bytes -= reserved

    def _reserve(self, scope: Scope) -> int:
        """Counts the body against what all requests together may hold.

        A body of unknown length counts as the largest one allowed.
        """
        declared = header(scope, b"content-length")
        limit = self._settings.limits.max_message_bytes
        size = min(int(declared), limit) if declared is not None and declared.isdigit() else limit
        if self._pending_bytes and self._pending_bytes + size > self._settings.max_pending_bytes:
            raise OverloadError("too many large requests at once", limit_bytes=self._settings.max_pending_bytes)
        self._pending_bytes += size
        return size

    async def _answer(self, scope: Scope, receive: Receive, send: Send, body: bytes, model: str, version: str) -> None:
        head, tensors, limits = self._split(scope, body)
        fields, request = await _off_loop(
            len(head) > _INLINE_JSON_BYTES, lambda: _decode(head, tensors, model, version, limits)
        )
        future = self._runtime.submit(request, **call_arguments(request, self._settings.policy))
        answer = await until_answered(future, receive)
        response = answer.to_response(request.id)
        binary = {one.name: wants_binary(fields, one.name) for one in response.outputs}
        json_elements = sum(one.data.size for one in response.outputs if not binary[one.name])
        encoded, parts = await _off_loop(
            json_elements > _INLINE_JSON_ELEMENTS, lambda: encode_response(response, binary=binary.__getitem__)
        )
        if any(binary.values()):
            length = str(len(encoded)).encode()
            await send_bytes(send, 200, [encoded, *parts], content_type=BINARY_TYPE, extra=[(FRAMING, length)])
        else:
            await send_bytes(send, 200, [encoded])

    def _split(self, scope: Scope, body: bytes) -> tuple[memoryview, memoryview, Limits]:
        """The JSON part, the tensors part, and what may be in them; by the framing header alone."""
        view, limits = memoryview(body), self._settings.limits
        framing = header(scope, FRAMING)
        if framing is None:
            longest = max(limits.max_header_bytes, self._settings.max_json_bytes)
            return view, view[:0], replace(limits, max_header_bytes=longest)
        length = int(framing) if framing.isdigit() and len(framing) < 20 else -1
        if not 0 < length <= len(body):
            shown = framing[:40].decode("latin-1")
            raise FrameError(
                f"Inference-Header-Content-Length is {shown}, the body has {len(body)} bytes",
                hint="it is the length of the JSON part alone",
            )
        return view[:length], view[length:], limits


def path_segments(scope: Scope) -> list[str]:
    """The path's segments, percent-decoded one by one: an encoded slash stays inside its segment.

    Raises:
        FrameError: a segment is not UTF-8.
    """
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    try:
        parts = [unquote_to_bytes(one).decode() for one in raw.partition(b"?")[0].split(b"/")[1:]]
    except UnicodeDecodeError as exc:
        raise FrameError("the path is not UTF-8") from exc
    if parts and not parts[-1]:
        parts.pop()
    return parts


def no_such_path(scope: Scope) -> NotFoundError:
    """The answer to a path that nobody serves."""
    return NotFoundError(f"no such path: {scope['path']}", hint="the paths begin with /v2; see GET /v2")


async def refuse_method(scope: Scope, send: Send, allowed: str) -> None:
    """The answer to a path asked with another verb."""
    error = InputError(f"{scope['method']} is not possible here", hint=f"use {allowed}")
    await send_error(send, error, status=BAD_METHOD, extra=[(b"allow", allowed.encode())])


def checked_version(version: str) -> str:
    """A version as it may stand in a path: decimal digits, or empty for the default.

    Raises:
        ModelNotFoundError: anything else; no version of that name can exist.
    """
    if version and not (version.isascii() and version.isdigit()):
        raise ModelNotFoundError(f"versions are whole numbers, not {version[:40]!r}")
    return version


def call_arguments(request: InferRequest, policy: Policy) -> dict[str, Any]:
    """Deadline, policy and mode out of a request's reserved parameters.

    Raises:
        InputError: one of them makes no sense.
    """
    given = request.parameters
    timeout_us = given.get("timeout", 0)
    if isinstance(timeout_us, bool) or not isinstance(timeout_us, int) or timeout_us < 0:
        raise InputError(
            "parameter timeout is the remaining time in whole microseconds", hint="leave it out or give > 0"
        )
    try:
        return {
            "deadline_s": timeout_us / 1e6 if timeout_us else None,
            "policy": Policy(str(given.get("policy", policy))),
            "mode": Mode(str(given.get("mode", Mode.AUTO))),
        }
    except ValueError as exc:
        allowed = f"policy: {', '.join(Policy)}; mode: {', '.join(Mode)}"
        raise InputError(f"parameter policy or mode is unknown: {exc}", hint=allowed) from exc


async def until_answered(future: concurrent.futures.Future[Answer], receive: Receive) -> Answer:
    """Waits for the runtime's answer; a client that goes away takes its request back.

    Raises:
        CancelledError: the client went away.
        AimassError: whatever the runtime refused it for.
    """
    loop = asyncio.get_running_loop()
    watch: list[asyncio.Task[None]] = []
    timer = loop.call_later(_WATCH_AFTER_S, lambda: watch.append(loop.create_task(_until_gone(future, receive))))
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError as exc:
        if watch and watch[0].done():
            raise CancelledError("the client went away") from exc
        raise
    finally:
        timer.cancel()
        for task in watch:
            task.cancel()


async def _until_gone(future: concurrent.futures.Future[Answer], receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    future.cancel()


def _decode(
    head: memoryview, tensors: memoryview, model: str, version: str, limits: Limits
) -> tuple[dict[str, Any], InferRequest]:
    fields = read_header(head, limits)
    return fields, request_from_fields(fields, tensors, model=model, version=version, limits=limits)


async def _off_loop(is_long: bool, work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work) if is_long else work()


def _spec(one: TensorSpec) -> dict[str, Any]:
    return {"name": one.name, "datatype": one.datatype.value, "shape": list(one.shape)}
