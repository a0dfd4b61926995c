"""Pages: ``?limit=&cursor=`` in, ``{"items": [...], "next": cursor or null}`` out.

A cursor means nothing to callers.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query

from aimass.errors import InputError

MAX_LIMIT = 1000

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Items in one page")]
Cursor = Annotated[str, Query(max_length=400, description="'next' of the page before; empty for the first page")]


def key_of(cursor: str) -> str:
    """The key to go on after; empty for the first page.

    Raises:
        InputError: not a cursor of ours.
    """
    try:
        return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except ValueError as exc:
        raise InputError("the cursor cannot be read", hint="pass 'next' of the page before as it came") from exc


def number_of(cursor: str) -> int:
    """The number to go on after; 0 for the first page.

    Raises:
        InputError: not a cursor of ours.
    """
    key = key_of(cursor)
    if key and not (key.isascii() and key.isdigit() and len(key) < 19):
        raise InputError("the cursor cannot be read", hint="pass 'next' of the page before as it came")
    return int(key or 0)


def cursor_of(key: str | None) -> str | None:
    """The cursor for a key; None at the end."""
    return None if key is None else base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def iso(at_ms: int | None) -> str | None:
    """A time as the API shows it: ISO 8601, UTC, milliseconds."""
    return None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
