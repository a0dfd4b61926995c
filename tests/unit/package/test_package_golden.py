"""Golden vectors."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from aimass.errors import PackageError
from aimass.package.golden import MAX_GOLDEN_PAIRS, pack_golden, unpack_golden
from aimass.wire.frame import pack_error, pack_request, pack_response
from aimass.wire.messages import ErrorReply, InferRequest, InferResponse
from aimass.wire.tensor import Tensor
from tests.unit.wire.canonical import canonical

X = Tensor.from_array("x", np.arange(4, dtype=np.float32))
PAIRS = tuple((InferRequest("m", (X,), id=str(i)), InferResponse("m", "1", (X,), id=str(i))) for i in range(3))


def framed(*frames: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(frame)) + frame for frame in frames)


def test_golden_vectors_come_back() -> None:
    again = unpack_golden(pack_golden(PAIRS))
    assert [(canonical(a), canonical(b)) for a, b in again] == [(canonical(a), canonical(b)) for a, b in PAIRS]


def test_the_file_is_frames_with_their_lengths() -> None:
    # MAN-7.1
    asked, answered = PAIRS[0]
    assert pack_golden(PAIRS[:1]) == framed(pack_request(asked), pack_response(answered))


def test_every_prefix_is_refused() -> None:
    whole = pack_golden(PAIRS[:2])
    one = len(pack_golden(PAIRS[:1]))
    for size in range(len(whole)):
        if size != one:  # a whole pair is a whole file
            with pytest.raises(PackageError):
                unpack_golden(whole[:size])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xff\xff\xff",
        framed(pack_request(PAIRS[0][0])),
        framed(pack_response(PAIRS[0][1]), pack_request(PAIRS[0][0])),
        framed(pack_request(PAIRS[0][0]), pack_error(ErrorReply("boom", "internal", retryable=False))),
        framed(b"garbage", b"garbage"),
        framed(*[b""] * (2 * MAX_GOLDEN_PAIRS + 2)),
    ],
)
def test_refuses_what_is_not_pairs_of_request_and_response(data: bytes) -> None:
    # MAN-7.2
    with pytest.raises(PackageError):
        unpack_golden(data)
