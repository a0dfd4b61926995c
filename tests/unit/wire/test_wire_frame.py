"""The frame of MQTT payloads."""

from __future__ import annotations

import numpy as np
import pytest

from aimass.errors import FrameError, FrameTooLargeError, InputError, UnsupportedWireVersionError, WireError
from aimass.wire import frame
from aimass.wire.messages import ErrorReply, InferRequest, InferResponse
from aimass.wire.oip import Limits
from aimass.wire.tensor import Datatype, Tensor, bytes_array
from tests.unit.wire.canonical import canonical

REQUEST = InferRequest(
    "m",
    (
        Tensor("x", Datatype.FP32, np.arange(3, dtype=np.float32)),
        Tensor("w", Datatype.BYTES, bytes_array([b"a\0b"], (1,))),
        Tensor("h", Datatype.FP64, np.ones(2)),
    ),
    id="q",
)


@pytest.mark.parametrize("header_bytes", range(2, 12))
def test_tensors_begin_at_a_multiple_of_8(header_bytes: int) -> None:
    # WIRE-1.2
    packed = frame.pack(b'{"a"' + b" " * header_bytes, [b"body"])
    header, body = frame.unpack(packed)
    assert (8 + len(header)) % 8 == 0
    assert bytes(body) == b"body"
    assert packed[:4] == b"AIM\x01"


def test_a_request_comes_back() -> None:
    assert canonical(frame.unpack_request(frame.pack_request(REQUEST))) == canonical(REQUEST)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_read_without_copying_the_first_tensor(kind: type) -> None:
    raw = kind(frame.pack_request(REQUEST))
    got = frame.unpack_request(raw)
    assert np.shares_memory(got.inputs[0].data, np.frombuffer(raw, np.uint8))
    assert got.inputs[2].data.flags.aligned


def test_replies_come_back() -> None:
    response = InferResponse("m", "1", REQUEST.inputs, parameters={"served_by": "cloud"})
    assert canonical(frame.unpack_reply(frame.pack_response(response))) == canonical(response)
    error = ErrorReply.from_error(InputError("wrong shape"))
    assert frame.unpack_reply(frame.pack_error(error)) == error


def test_every_prefix_is_refused_as_cut_off() -> None:
    # WIRE-1.4
    whole = frame.pack_request(REQUEST)
    for size in range(len(whole)):
        with pytest.raises(FrameError):
            frame.unpack_request(whole[:size])


def test_a_byte_too_many_is_refused() -> None:
    # WIRE-2.4
    with pytest.raises(FrameError, match="left after"):
        frame.unpack_request(frame.pack_request(REQUEST) + b"\0")


def test_another_version_is_named_so() -> None:
    # WIRE-1.3
    whole = bytearray(frame.pack_request(REQUEST))
    whole[3] = 9
    with pytest.raises(UnsupportedWireVersionError) as caught:
        frame.unpack_request(whole)
    assert caught.value.version == 9


@pytest.mark.parametrize("raw", [b"", b"AIM", b"{}      ", b"MIA\x01\x00\x00\x00\x00", b"AIM\x01\x00\x00\x00\x00"])
def test_refuses_what_is_no_frame(raw: bytes) -> None:
    # WIRE-1.1
    with pytest.raises(FrameError):
        frame.unpack_request(raw)


@pytest.mark.parametrize("limits", [Limits(max_message_bytes=64), Limits(max_header_bytes=64)])
def test_sizes_above_the_limits_are_refused_before_reading(limits: Limits) -> None:
    # WIRE-5.1
    with pytest.raises(FrameTooLargeError) as caught:
        frame.unpack_request(frame.pack_request(REQUEST), limits)
    assert caught.value.limit_bytes == 64
    assert caught.value.size_bytes > 64


def test_an_error_reply_is_no_request() -> None:
    with pytest.raises(WireError):
        frame.unpack_request(frame.pack_error(ErrorReply("boom", "internal", retryable=False)))
