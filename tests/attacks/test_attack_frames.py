"""Frames made to hurt: each ends in its named error, soon, and without more memory than its size explains."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aimass.errors import FrameError, FrameTooLargeError, TensorError, WireError
from aimass.wire import frame
from aimass.wire.oip import Limits, decode_request

VECTORS = Path(__file__).parents[2] / "sdk" / "spec" / "vectors"
MIB = 1 << 20


def with_tensor(body: bytes = b"", **entry: Any) -> bytes:
    header = json.dumps({"model_name": "m", "inputs": [{"name": "x", "shape": [1], "datatype": "UINT8"} | entry]})
    return frame.pack(header.encode(), [body])


def with_text(header: bytes, body: bytes = b"") -> bytes:
    return frame.pack(header, [body])


def sized(size: int) -> dict[str, int]:
    return {"binary_data_size": size}


BOMBS: dict[str, tuple[Callable[[], bytes], type[WireError]]] = {
    "a header length of 4 GiB": (lambda: b"AIM\x01\xff\xff\xff\xff" + bytes(64), FrameTooLargeError),
    "a header of 2 MiB": (lambda: with_text(b'{"a":"' + b"x" * 2 * MIB + b'"}'), FrameTooLargeError),
    "a message above the limit": (lambda: with_tensor(bytes(65 * MIB)), FrameTooLargeError),
    "a tensor of an exabyte": (lambda: with_tensor(b"\1", shape=[2**60], parameters=sized(1)), TensorError),
    "an exabyte that is declared too": (lambda: with_tensor(b"\1", shape=[2**60], parameters=sized(2**60)), FrameError),
    "a product that wraps to one": (
        lambda: with_tensor(b"\1", shape=[2**32, 2**32, 1], parameters=sized(1)),
        TensorError,
    ),
    "a zero that hides a product": (lambda: with_tensor(shape=[0] + [2**62] * 9, parameters=sized(0)), TensorError),
    "a dimension of 4,000 digits": (lambda: with_tensor(shape=[10**4000], parameters=sized(0)), TensorError),
    "strings that were never sent": (
        lambda: with_tensor(bytes(8), shape=[10**6], datatype="BYTES", parameters=sized(8)),
        TensorError,
    ),
    "five million empty strings": (
        lambda: with_tensor(bytes(20 * MIB), shape=[5 * MIB], datatype="BYTES", parameters=sized(20 * MIB)),
        FrameTooLargeError,
    ),
    "a string of 4 GiB": (
        lambda: with_tensor(b"\xff" * 4, shape=[1], datatype="BYTES", parameters=sized(4)),
        TensorError,
    ),
    "half a million brackets": (lambda: with_text(b"[" * (MIB // 2) + b"]" * (MIB // 2 - 8)), FrameError),
    "a megabyte of escapes without an end": (lambda: with_text(b'{"a":"' + b'\\"' * (MIB // 2 - 8)), FrameError),
    "a megabyte of quotes": (lambda: with_text(b'"' * (MIB - 200) + b"[" * 101), FrameError),
    "a number of a million digits": (lambda: with_text(b'{"a":' + b"9" * (MIB - 16) + b"}"), FrameError),
    "an exponent of a million digits": (
        lambda: with_text(b'{"model_name":"m","inputs":[],"id":1e' + b"9" * (MIB - 64) + b"}"),
        FrameError,
    ),
    "sixty thousand tensors": (
        lambda: with_text(b'{"model_name":"m","inputs":[' + b"{}," * 60000 + b"{}]}"),
        FrameTooLargeError,
    ),
    "lists in place of numbers": (
        lambda: with_text(
            b'{"model_name":"m","inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":['
            + b"[]," * 300000
            + b"[]]}]}"
        ),
        TensorError,
    ),
    "a hundred thousand parameters": (
        lambda: with_text(
            b'{"model_name":"m","inputs":[],"parameters":{' + b",".join(b'"%d":[]' % i for i in range(60000)) + b"}}"
        ),
        FrameError,
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_in_its_error_soon_and_small(name: str) -> None:
    # WIRE-3.3, WIRE-5.1, WIRE-5.2, WIRE-5.3
    build, error = BOMBS[name]
    raw = build()
    start_s = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(error):
            frame.unpack_request(raw)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    header_bytes = min(len(raw), MIB)  # JSON values are larger than their text; tensors are views
    assert peak_bytes < 48 * header_bytes + MIB
    assert time.process_time() - start_s < 5


def test_the_largest_message_that_is_taken_costs_no_second_copy() -> None:
    size = 60 * MIB
    raw = with_tensor(bytes(size), shape=[size], parameters=sized(size))
    tracemalloc.start()
    try:
        assert frame.unpack_request(raw).inputs[0].shape == (size,)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < MIB


def test_the_most_strings_that_are_taken_cost_a_bounded_multiple() -> None:
    count = Limits().max_strings
    body = struct.pack("<I", 2) + b"ab"
    raw = with_tensor(body * count, shape=[count], datatype="BYTES", parameters=sized(6 * count))
    tracemalloc.start()
    try:
        assert frame.unpack_request(raw).inputs[0].shape == (count,)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 80 * count


def test_an_answer_is_not_taken_for_a_question() -> None:
    for path in sorted((VECTORS / "valid").glob("reply_*.bin")):
        with pytest.raises(WireError):
            frame.unpack_request(path.read_bytes())


@pytest.mark.parametrize("path", sorted((VECTORS / "valid").glob("request_*.bin")), ids=lambda path: path.stem)
def test_no_single_flipped_bit_does_more_than_raise_the_one_error(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    for at in range(len(raw)):
        for bit in (1, 4, 0x20, 0x80):
            raw[at] ^= bit
            try:
                frame.unpack_request(raw)
            except WireError:
                pass
            finally:
                raw[at] ^= bit


@pytest.mark.parametrize("claimed", [-1, 0, 1, 7])
def test_a_door_that_cuts_the_header_elsewhere_gets_the_one_error(claimed: int) -> None:
    header, body = frame.unpack((VECTORS / "valid" / "request_full.bin").read_bytes())
    whole = bytes(header) + bytes(body)
    cut = len(header) + claimed if claimed < 0 else claimed
    with pytest.raises(WireError):
        decode_request(whole[:cut], whole[cut:])
