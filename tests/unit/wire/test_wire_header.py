"""The JSON part."""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass.errors import FrameError, FrameTooLargeError
from aimass.wire import header

LIMITS = {"max_bytes": 1 << 20, "max_nesting": 100}


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_reads_an_object_of_any_buffer(kind: Any) -> None:
    assert header.read_json(kind(b' {"a": [1, NaN]} '), **LIMITS)["a"][0] == 1


def test_of_a_key_given_twice_the_last_counts() -> None:
    # WIRE-2.2
    assert header.read_json(b'{"a":1,"a":2}', **LIMITS) == {"a": 2}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"1",
        b"[]",
        b"null",
        b"{",
        b"{}x",
        b'{"a":}',
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b'{"\\udc00":1}',
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-32-le"),
        b'{"a":' + b"1" * 5000 + b"}",
        b'{"a":"\n"}',
    ],
)
def test_refuses_what_is_not_one_json_object_in_utf_8(raw: bytes) -> None:
    # WIRE-2.1
    with pytest.raises(FrameError):
        header.read_json(raw, **LIMITS)


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert header.read_json(b'{"a":"\\ud83d\\ude00"}', **LIMITS) == {"a": "\U0001f600"}


def test_refuses_a_long_header_unread() -> None:
    # WIRE-5.1
    with pytest.raises(FrameTooLargeError) as caught:
        header.read_json(b"x" * 11, max_bytes=10, max_nesting=1)
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (11, 10)


def test_takes_nesting_up_to_the_cap_and_not_beyond() -> None:
    # WIRE-5.2
    header.read_json(nested(100), **LIMITS)
    with pytest.raises(FrameError, match="nested deeper than 100"):
        header.read_json(nested(101), **LIMITS)


def test_the_one_error_is_raised_too_when_the_caller_left_little_stack() -> None:
    def at_depth(frames: int) -> None:
        if frames:
            at_depth(frames - 1)
        else:
            header.read_json(nested(100), **LIMITS)

    with contextlib.suppress(FrameError):  # Python 3.12 and later count this recursion apart, and read it
        at_depth(sys.getrecursionlimit() - len(inspect.stack()) - 40)


def test_a_header_deeper_than_any_stack_is_refused() -> None:
    with pytest.raises(FrameError):
        header.read_json(nested(200_000), **LIMITS)


def test_brackets_in_texts_do_not_count() -> None:
    value = {"a": "[" * 500 + '"\\"' + "{" * 500, "b\\": ["]" * 200]}
    assert header.read_json(json.dumps(value).encode(), **LIMITS) == value


def test_many_brackets_side_by_side_are_not_deep() -> None:
    value = {"a": [[[]] for _ in range(1000)]}
    assert header.read_json(json.dumps(value).encode(), **LIMITS) == value


@given(
    st.recursive(
        st.integers() | st.text(alphabet='[]{}"\\a'), lambda c: st.lists(c) | st.dictionaries(st.text('[{"\\'), c)
    )
)
def test_the_depth_found_is_the_real_depth(value: Any) -> None:
    def depth(part: Any) -> int:
        if isinstance(part, dict):
            return 1 + max(map(depth, part.values()), default=0)
        return 1 + max(map(depth, part), default=0) if isinstance(part, list) else 0

    raw = json.dumps({"v": value}).encode()
    real = depth({"v": value})
    header.read_json(raw, max_bytes=1 << 20, max_nesting=real)
    with pytest.raises(FrameError, match="nested deeper"):
        header.read_json(raw, max_bytes=1 << 20, max_nesting=real - 1)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":"' + b'\\"' * 500_000,
        b'{"a":"' + b"\\" * 1_000_000,
        b'{"a":' + b"[]," * 300_000,
        b"[" * 1_000_000,
        b'"' * 1_000_000 + b"[" * 200,
        b"[" * 500_000 + b"]" * 500_000,
        (b"[" * 101 + b"]" * 101) * 4000,
    ],
    ids=lambda raw: str(raw[:12]),
)
def test_no_text_of_a_megabyte_takes_long_to_refuse(raw: bytes) -> None:
    start_s = time.process_time()
    with pytest.raises(FrameError):
        header.read_json(raw, max_bytes=2 << 20, max_nesting=100)
    assert time.process_time() - start_s < 2


@pytest.mark.parametrize("value", [None, "", "q-1", "é", "x" * 1024])
def test_takes_texts(value: str | None) -> None:
    # WIRE-2.3
    assert header.text_of({"id": value}, "id") == (value or "")


@pytest.mark.parametrize("value", [7, True, [], {}, "x" * 1025, "a\nb", "\x00", "\x7f"])
def test_refuses_what_is_no_text(value: Any) -> None:
    # WIRE-2.3
    with pytest.raises(FrameError, match="'id'"):
        header.text_of({"id": value}, "id")


@pytest.mark.parametrize("value", ["t", True, -(2**63), 2**64 - 1, 0.5])
def test_takes_parameters(value: Any) -> None:
    assert header.parameters_of({"parameters": {"a": value}}) == {"a": value}
    assert header.parameters_of({"parameters": None}) == header.parameters_of({}) == {}


@pytest.mark.parametrize("value", [None, [], {}, float("nan"), float("inf"), 2**64, -(2**63) - 1])
def test_refuses_other_parameters_by_name(value: Any) -> None:
    # WIRE-2.5
    with pytest.raises(FrameError, match="'a'"):
        header.parameters_of({"parameters": {"a": value}})


def test_refuses_to_write_what_json_does_not_have() -> None:
    with pytest.raises(FrameError):
        header.write_json({"a": object()})
    loop: dict[str, Any] = {}
    loop["a"] = loop
    with pytest.raises(FrameError):
        header.write_json(loop)


def test_writes_ascii() -> None:
    # WIRE-2.1
    assert header.write_json({"é": "\U0001f600"}) == b'{"\\u00e9":"\\ud83d\\ude00"}'
