"""Reading signed JSON field by field, with one error that names the field.

Signed documents are canonical JSON: keys sorted, no spaces, ASCII, numbers as Python's ``repr`` prints them. Two
documents that mean the same are then the same bytes, and a key given twice cannot mean two things.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from aimass.errors import PackageError, WireError
from aimass.wire.header import read_json

MAX_DOCUMENT_BYTES = 2 << 20
MAX_INT = 2**53 - 1  # every JSON reader keeps these exact
_MAX_TEXT_CHARS = 1024
_MAX_NESTING = 16
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def write_canonical(fields: Mapping[str, Any]) -> bytes:
    """The one JSON form of these values.

    Raises:
        PackageError: a number is not finite, or a value has no JSON form.
    """
    # MAN-2.1
    try:
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise PackageError(f"cannot be written as JSON: {exc}") from exc
    if len(text) > MAX_DOCUMENT_BYTES:
        raise PackageError(f"a document of {len(text)} bytes, at most {MAX_DOCUMENT_BYTES}")
    return text.encode("ascii")


def read_canonical(raw: bytes) -> dict[str, Any]:
    """The values of a canonical JSON document; keys nobody here knows are in it too.

    Raises:
        PackageError: too large, not JSON, or not in its canonical form.
    """
    # MAN-2.1, MAN-2.2
    try:
        fields = read_json(raw, max_bytes=MAX_DOCUMENT_BYTES, max_nesting=_MAX_NESTING)
    except WireError as exc:
        raise PackageError(f"not a document of ours: {exc}") from exc
    if write_canonical(fields) != raw:
        hint = "sort the keys, leave out spaces, write numbers in their shortest form"
        raise PackageError("the JSON is not in its canonical form", hint=hint)
    return fields


def text(fields: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """A text of bounded length without control characters."""
    return checked_text(fields.get(key, default), key)


def checked_text(value: Any, what: str) -> str:
    """The value, when it is a text of bounded length without control characters."""
    if type(value) is not str or len(value) > _MAX_TEXT_CHARS or _CONTROL.search(value):
        raise PackageError(f"{what!r} must be a text of at most {_MAX_TEXT_CHARS} characters, none of them control")
    return value


def whole(fields: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A whole number, not a truth value."""
    value = fields.get(key, default)
    if type(value) is not int:
        raise PackageError(f"{key!r} must be a whole number")
    return value


def number(fields: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A finite number."""
    return checked_number(fields.get(key, default), key)


def checked_number(value: Any, what: str) -> float:
    """The value as a float, when it is a finite number and not a truth value."""
    if type(value) is int and abs(value) <= MAX_INT:
        return float(value)
    if type(value) is float and math.isfinite(value):
        return value
    raise PackageError(f"{what!r} must be a finite number")


def flag(fields: Mapping[str, Any], key: str, default: bool) -> bool:
    """True or false."""
    value = fields.get(key, default)
    if type(value) is not bool:
        raise PackageError(f"{key!r} must be true or false")
    return value


def texts(fields: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A list of texts; empty when absent."""
    value = fields.get(key, [])
    if type(value) is not list:
        raise PackageError(f"{key!r} must be a list")
    return tuple(checked_text(item, key) for item in value)


def table(fields: Mapping[str, Any], key: str) -> dict[str, Any]:
    """An object; empty when absent."""
    value = fields.get(key, {})
    if type(value) is not dict:
        raise PackageError(f"{key!r} must be an object")
    return value


def tables(fields: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """A list of objects; empty when absent."""
    value = fields.get(key, [])
    if type(value) is not list or not all(type(item) is dict for item in value):
        raise PackageError(f"{key!r} must be a list of objects")
    return value


def check_int(value: Any, what: str, *, low: int, high: int = MAX_INT) -> None:
    """Refuse anything but a whole number within the bounds."""
    if type(value) is not int or not low <= value <= high:
        raise PackageError(f"{what} must be a whole number from {low} to {high}")


def check_sha256(value: Any, what: str) -> None:
    """Refuse anything but 64 lower-case hex digits."""
    if not isinstance(value, str) or _SHA256.fullmatch(value) is None:
        raise PackageError(f"{what} must be a SHA-256 in 64 lower-case hex digits")
