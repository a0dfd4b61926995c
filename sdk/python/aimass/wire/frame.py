"""One MQTT payload: an 8-byte preamble, the JSON header, the tensors.

    offset  bytes
    0       b"AIM"
    3       version, now 1
    4       length of the JSON header, little-endian u32
    8       JSON header, ended with spaces so that the tensors begin at a multiple of 8
    8 + n   tensors, one after the other

The magic is three bytes and a version because the first thing a person sees in a broker's log are four characters.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from aimass.errors import FrameError, FrameTooLargeError, UnsupportedWireVersionError
from aimass.wire.messages import ErrorReply, InferRequest, InferResponse
from aimass.wire.oip import (
    DEFAULT_LIMITS,
    Codecs,
    Limits,
    Part,
    decode_request,
    decode_response,
    encode_error,
    encode_request,
    encode_response,
)
from aimass.wire.tensor import Buffer

MAGIC = b"AIM"
VERSION = 1
PREAMBLE_BYTES = 8
_PREAMBLE = struct.Struct("<3sBI")


def pack(header: bytes, parts: Sequence[Part] = ()) -> bytes:
    """One frame.

    Cost: one copy of everything, by a single join.
    """
    # WIRE-1.1, WIRE-1.2
    padding = -(PREAMBLE_BYTES + len(header)) % 8
    preamble = _PREAMBLE.pack(MAGIC, VERSION, len(header) + padding)
    return b"".join((preamble, header, b" " * padding, *parts))


def unpack(buffer: Buffer, limits: Limits = DEFAULT_LIMITS) -> tuple[memoryview, memoryview]:
    """Header and body of a frame, as views.

    Raises:
        FrameError: cut off, or no frame of ours.
        FrameTooLargeError: a size is above the limits.
        UnsupportedWireVersionError: another version than 1.
    """
    view = memoryview(buffer)
    size = len(view)
    if size > limits.max_message_bytes:  # WIRE-5.1
        limit = limits.max_message_bytes
        raise FrameTooLargeError(f"message of {size} bytes, at most {limit}", size_bytes=size, limit_bytes=limit)
    if size < PREAMBLE_BYTES:
        raise FrameError(f"cut off within the preamble: {size} bytes")
    magic, version, header_bytes = _PREAMBLE.unpack_from(view)
    if magic != MAGIC:
        raise FrameError("does not begin with AIM")
    if version != VERSION:  # WIRE-1.3
        raise UnsupportedWireVersionError(f"frame version {version}, we speak {VERSION}", version=version)
    if header_bytes > limits.max_header_bytes:  # WIRE-5.1
        limit = limits.max_header_bytes
        message = f"JSON header of {header_bytes} bytes, at most {limit}"
        raise FrameTooLargeError(message, size_bytes=header_bytes, limit_bytes=limit)
    end = PREAMBLE_BYTES + header_bytes
    if end > size:  # WIRE-1.4
        raise FrameError(f"cut off within the JSON header: {size} bytes of at least {end}")
    return view[PREAMBLE_BYTES:end], view[end:]


def pack_request(request: InferRequest, codecs: Codecs | None = None) -> bytes:
    """A request as one frame; ``codecs`` says how to code inputs, by name."""
    return pack(*encode_request(request, codecs))


def unpack_request(buffer: Buffer, limits: Limits = DEFAULT_LIMITS) -> InferRequest:
    """The request in a frame.

    Raises:
        WireError: the bytes are not a request; nothing else is ever raised.
    """
    header, body = unpack(buffer, limits)
    return decode_request(header, body, limits=limits)


def pack_response(response: InferResponse, codecs: Codecs | None = None) -> bytes:
    """A response as one frame, all tensors binary; ``codecs`` says how to code outputs, by name."""
    return pack(*encode_response(response, codecs=codecs))


def pack_error(reply: ErrorReply) -> bytes:
    """An error reply as one frame."""
    return pack(encode_error(reply))


def unpack_reply(buffer: Buffer, limits: Limits = DEFAULT_LIMITS) -> InferResponse | ErrorReply:
    """The response or error reply in a frame.

    Raises:
        WireError: the bytes are neither; nothing else is ever raised.
    """
    header, body = unpack(buffer, limits)
    return decode_response(header, body, limits)
