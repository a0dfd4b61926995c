"""Golden vectors: inputs with the answers every build of a version must give.

The file is pairs of wire frames, a request and its response, each with its length as little-endian u32 before it. The
same bytes can be sent to a server as they are, and a microcontroller reads them with the decoder it has anyway.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from aimass.errors import PackageError, WireError
from aimass.wire.frame import pack_request, pack_response, unpack_reply, unpack_request
from aimass.wire.messages import InferRequest, InferResponse
from aimass.wire.oip import DEFAULT_LIMITS, Limits

MAX_GOLDEN_PAIRS = 1000
_LENGTH = struct.Struct("<I")


def pack_golden(pairs: Iterable[tuple[InferRequest, InferResponse]]) -> bytes:
    """The golden file of these pairs.

    Raises:
        WireError: a pair cannot be sent.
    """
    # MAN-7.1
    frames = (frame for asked, answered in pairs for frame in (pack_request(asked), pack_response(answered)))
    return b"".join(part for frame in frames for part in (_LENGTH.pack(len(frame)), frame))


def unpack_golden(data: bytes, limits: Limits = DEFAULT_LIMITS) -> tuple[tuple[InferRequest, InferResponse], ...]:
    """The pairs in a golden file.

    Raises:
        PackageError: cut off, no pairs at all, too many, or something else than requests and responses.
    """
    # MAN-7.2
    frames = list(_frames(memoryview(data)))
    if not frames or len(frames) % 2:
        raise PackageError("the golden file is not pairs of a request and a response")
    pairs = []
    for asked, answered in zip(frames[::2], frames[1::2], strict=True):
        try:
            request, response = unpack_request(asked, limits), unpack_reply(answered, limits)
        except WireError as exc:
            raise PackageError(f"a golden vector cannot be read: {exc}") from exc
        if not isinstance(response, InferResponse):
            raise PackageError("a golden vector expects an error")
        pairs.append((request, response))
    return tuple(pairs)


def _frames(data: memoryview) -> Iterator[memoryview]:
    offset = 0
    for _ in range(2 * MAX_GOLDEN_PAIRS):
        if offset == len(data):
            return
        start = offset + _LENGTH.size
        offset = start + _LENGTH.unpack_from(data, offset)[0] if start <= len(data) else len(data) + 1
        if offset > len(data):
            raise PackageError("the golden file is cut off")
        yield data[start:offset]
    if offset != len(data):
        raise PackageError(f"the golden file has more than {MAX_GOLDEN_PAIRS} pairs")
