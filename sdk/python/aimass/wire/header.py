"""JSON from outside -> plain values that later code may trust, and plain values -> JSON.

The standard library's parser is used because it keeps whole numbers exact and reads ``NaN``; what it does not bound -
size, nesting, encodings, halves of surrogate pairs - is bounded here, before and after it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from aimass.errors import FrameError, FrameTooLargeError
from aimass.wire.tensor import Buffer

MAX_NAME_CHARS = 1024
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1

# A string literal; without its closing quote it runs to the end. Possessive, so that no text makes it go back.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_CURLY_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def read_json(raw: Buffer, *, max_bytes: int, max_nesting: int) -> dict[str, Any]:
    """The JSON object in these bytes.

    Args:
        raw: UTF-8 without byte order mark.
        max_bytes: longer is refused unread.
        max_nesting: lists and objects within one another.

    Raises:
        FrameTooLargeError: more than max_bytes.
        FrameError: not UTF-8, not JSON, not an object, nested too deeply, or text that UTF-8 cannot carry.
    """
    if len(raw) > max_bytes:  # WIRE-5.1
        raise FrameTooLargeError(
            f"JSON of {len(raw)} bytes, at most {max_bytes}", size_bytes=len(raw), limit_bytes=max_bytes
        )
    try:
        text = str(raw, "utf-8")  # WIRE-2.1: said outright, or json.loads would guess UTF-16 and let a mark pass
    except UnicodeDecodeError as exc:
        raise FrameError("the JSON is not UTF-8") from exc
    if text.count("[") + text.count("{") > max_nesting and _is_too_deep(bytes(raw), max_nesting):
        raise FrameError(f"the JSON is nested deeper than {max_nesting}, or its brackets do not match")
    try:
        value = json.loads(text)  # WIRE-2.2: of a key given twice the last counts
    except (ValueError, RecursionError) as exc:
        raise FrameError(f"not JSON: {str(exc)[:200]}") from exc
    if type(value) is not dict:
        raise FrameError("the JSON is not an object")
    if "\\u" in text and _SURROGATE.search(text):
        _check_encodable(value)
    return value


def write_json(value: Mapping[str, Any]) -> bytes:
    """Compact ASCII JSON, with ``NaN`` and ``Infinity`` as bare tokens where they occur.

    Raises:
        FrameError: a value in it has no JSON form.
    """
    try:
        return _ENCODE(value).encode("ascii")
    except (TypeError, ValueError) as exc:
        raise FrameError(f"cannot be sent as JSON: {exc}") from exc


def text_of(fields: Mapping[str, Any], key: str, *, what: str = "the message") -> str:
    """A short text; empty when the key is absent or null.

    Raises:
        FrameError: it is something else, too long, or holds control characters.
    """
    # WIRE-2.3: null is absent, because servers of the wider world write it so
    value = fields.get(key)
    if value is None:
        return ""
    if type(value) is not str or len(value) > MAX_NAME_CHARS or _CONTROL.search(value):
        raise FrameError(
            f"{key!r} of {what} must be a text of at most {MAX_NAME_CHARS} characters, none of them control"
        )
    return value


def list_of(fields: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """A list of objects; empty when the key is absent or null.

    Raises:
        FrameError: it is something else.
    """
    value = fields.get(key)
    if value is None:
        return []
    if type(value) is not list or not set(map(type, value)) <= {dict}:
        raise FrameError(f"{key!r} must be a list of objects")
    return value


def parameters_of(fields: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """The ``parameters`` of a message or tensor; empty when absent or null.

    Raises:
        FrameError: not an object, or a value is not a text, a number or a truth value.
    """
    value = fields.get("parameters")
    if value is None:
        return {}
    if type(value) is not dict:
        raise FrameError("'parameters' must be an object")
    check_parameters(value)
    return value


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Hold parameters to what every language can read: text, true and false, 64-bit and finite numbers.

    Raises:
        FrameError: names the parameter that is something else.
    """
    # WIRE-2.5
    for key, value in parameters.items():
        kind = type(value)
        if kind is str or kind is bool:
            continue
        if kind is int and _INT_MIN <= value <= _INT_MAX:
            continue
        if kind is float and math.isfinite(value):
            continue
        raise FrameError(f"parameter {str(key)[:100]!r} is not a text, a truth value or a finite 64-bit number")


def _is_too_deep(raw: bytes, max_nesting: int) -> bool:
    # Only brackets outside strings are left, all of one sort; then each pass takes away the innermost pairs. WIRE-5.2
    brackets = _STRING.sub(b"", raw).translate(_CURLY_TO_SQUARE, _NOT_BRACKETS)
    for _ in range(max_nesting):
        left = brackets.replace(b"[]", b"")
        if len(left) == len(brackets):
            break
        brackets = left
    return bool(brackets)


def _check_encodable(value: dict[str, Any]) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as exc:
        raise FrameError("a text in the JSON has half of a surrogate pair in it") from exc
