"""One inference over HTTP: bytes into a request, the runtime's answer into bytes.

Framing follows the header `Inference-Header-Content-Length`, never the Content-Type, which tritonclient does not send:
with it the body is that much JSON and then tensors, without it the body is JSON, and at 0 it is the only input itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from aimass.errors import AimassError, FrameError, InputError, ModelNotFoundError
from aimass.runtime.answer import Answer
from aimass.runtime.models import ModelInfo
from aimass.serving.asgi import (
    BINARY_TYPE,
    JSON_TYPE,
    Header,
    Receive,
    Scope,
    Send,
    send_bytes,
)
from aimass.serving.base import DoorSettings, Serves
from aimass.serving.call import call_arguments, until_answered
from aimass.serving.compress import accepted_coding, deflate
from aimass.serving.intake import Intake
from aimass.serving.paths import checked_version, refuse_method
from aimass.serving.raw import raw_request, with_expected_shape
from aimass.serving.statistics import Statistics
from aimass.serving.wishes import ALL_BINARY, NO_WISHES, Wishes, classified
from aimass.wire.messages import InferRequest, InferResponse
from aimass.wire.oip import Part, encode_response, read_header, request_from_fields

FRAMING = b"inference-header-content-length"

# JSON above this is parsed in a thread: 64 MiB of numbers would hold the loop, and with it every other client.
INLINE_JSON_BYTES = 256 * 1024
INLINE_JSON_ELEMENTS = 32 * 1024

T = TypeVar("T")
Headers = Mapping[bytes, bytes]


class Inference:
    """What all doors of a process share to have a request answered.

    Args:
        runtime: what answers.
        settings: bounds and names.
        intake: bounds on bodies.
        statistics: what is counted.
    """

    def __init__(
        self,
        runtime: Serves,
        settings: DoorSettings,
        intake: Intake | None = None,
        statistics: Statistics | None = None,
    ) -> None:
        self.runtime = runtime
        self.settings = settings
        self.intake = intake or Intake(settings)
        self.statistics = statistics or Statistics()
        longest = max(settings.limits.max_header_bytes, settings.max_json_bytes)
        self._json_limits = replace(settings.limits, max_header_bytes=longest)

    async def serve(self, scope: Scope, receive: Receive, send: Send, model: str, version: str) -> None:
        """Answers one request to `.../infer`."""
        if scope["method"] != "POST":
            await refuse_method(scope, send, "POST")
            return
        headers = dict(scope["headers"])
        hold = self.intake.hold(headers)
        try:
            body = await self.intake.read(headers, receive, hold)
            framing = headers.get(FRAMING)
            length = len(body) if framing is None else _length(framing, len(body))
            if length > INLINE_JSON_BYTES:
                wishes, request = await asyncio.to_thread(self._decode, body, length, framing, model, version)
            else:
                wishes, request = self._decode(body, length, framing, model, version)
            answer = await self.ask(request, receive)
            response = answer.to_response(request.id)
            if wishes.classes:
                response = self._classified(response, wishes)
            await self._send(headers, send, response, wishes)
        finally:
            hold.release()

    async def ask(self, request: InferRequest, receive: Receive) -> Answer:
        """The runtime's answer, counted.

        Raises:
            AimassError: why there is none.
        """
        started = time.perf_counter()
        try:
            future = self.runtime.submit(request, **call_arguments(request, self.settings.policy))
            answer = await until_answered(future, receive)
        except AimassError as exc:
            told = self._refused(exc, request, time.perf_counter() - started)
            if told is exc:
                raise
            raise told from exc
        self.statistics.succeeded(answer)
        return answer

    def _refused(self, error: AimassError, request: InferRequest, duration_s: float) -> AimassError:
        """The error as this protocol's clients shall see it."""
        try:
            info = self.runtime.model(request.model, request.version)
        except ModelNotFoundError:  # nothing to count it under; the name came from outside
            return error
        self.statistics.failed(info, duration_s)
        return with_expected_shape(error, info) if isinstance(error, InputError) else error

    def _decode(
        self, body: bytes, length: int, framing: bytes | None, model: str, version: str
    ) -> tuple[Wishes, InferRequest]:
        """The request in a body whose first `length` bytes are JSON; 0 is a raw request."""
        version = checked_version(version)
        if framing is not None and not length:
            return ALL_BINARY, raw_request(self.runtime.model(model, version), body, version)
        view = memoryview(body)
        limits = self._json_limits if framing is None else self.settings.limits
        fields: Mapping[str, Any] = read_header(view[:length], limits)
        request = request_from_fields(fields, view[length:], model=model, version=version, limits=limits)
        if request.outputs or request.parameters:
            return Wishes.read(fields), request
        return NO_WISHES, request

    def _classified(self, response: InferResponse, wishes: Wishes) -> InferResponse:
        """The response with classes in the place of outputs of which only these are wanted."""
        labels = self._labels(response)
        outputs = tuple(
            classified(one, wishes.classes[one.name], labels) if one.name in wishes.classes else one
            for one in response.outputs
        )
        return replace(response, outputs=outputs)

    def _labels(self, response: InferResponse) -> tuple[str, ...]:
        try:
            info: ModelInfo = self.runtime.model(response.model, response.version)
        except ModelNotFoundError:  # the cloud answered for a model that is not here
            return ()
        return info.labels

    async def _send(self, headers: Headers, send: Send, response: InferResponse, wishes: Wishes) -> None:
        is_binary = {one.name: wishes.is_binary(one.name) for one in response.outputs}
        elements = sum([one.data.size for one in response.outputs if not is_binary[one.name]])
        if elements > INLINE_JSON_ELEMENTS:
            encoded, parts = await asyncio.to_thread(encode_response, response, binary=is_binary.__getitem__)
        else:
            encoded, parts = encode_response(response, binary=is_binary.__getitem__)
        if any(is_binary.values()):
            await self.send(headers, send, [encoded, *parts], BINARY_TYPE, [(FRAMING, b"%d" % len(encoded))])
        else:
            await self.send(headers, send, [encoded])

    async def send(
        self,
        headers: Headers,
        send: Send,
        parts: Sequence[Part],
        content_type: bytes = JSON_TYPE,
        extra: Sequence[Header] = (),
    ) -> None:
        """A complete answer, compressed where that is asked for and worth it."""
        if sum(map(len, parts)) >= self.settings.compress_from_bytes:
            coding = accepted_coding(headers.get(b"accept-encoding"))
            body = b"".join(parts)
            extra = [*extra, (b"vary", b"accept-encoding")]
            shorter = await deflate(body, coding) if coding else None
            if shorter is not None:
                extra.append((b"content-encoding", coding.encode()))
            parts = [body if shorter is None else shorter]
        await send_bytes(send, 200, parts, content_type=content_type, extra=extra)


def _length(framing: bytes, body_bytes: int) -> int:
    """The length of the JSON part.

    Raises:
        FrameError: no number, or more than there is.
    """
    length = int(framing) if framing.isdigit() and len(framing) < 20 else -1
    if not 0 <= length <= body_bytes:
        shown = framing[:40].decode("latin-1")
        raise FrameError(
            f"Inference-Header-Content-Length is {shown}, the body has {body_bytes} bytes",
            hint="it is the length of the JSON part alone",
        )
    return length


async def off_loop(is_long: bool, work: Callable[[], T]) -> T:
    """Long work on a thread, short work at once."""
    return await asyncio.to_thread(work) if is_long else work()
