"""Paths and verbs: what is asked, and the answers to what nobody serves."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from aimass.errors import FrameError, InputError, ModelNotFoundError, NotFoundError
from aimass.serving.asgi import BAD_METHOD, Scope, Send, send_error


def path_segments(scope: Scope) -> list[str]:
    """The path's segments, percent-decoded one by one: an encoded slash stays inside its segment.

    Raises:
        FrameError: a segment is not UTF-8.
    """
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    path = raw.partition(b"?")[0]
    try:
        if b"%" in path:
            parts = [unquote_to_bytes(one).decode() for one in path.split(b"/")[1:]]
        else:
            parts = path.decode().split("/")[1:]
    except UnicodeDecodeError as exc:
        raise FrameError("the path is not UTF-8") from exc
    if parts and not parts[-1]:
        parts.pop()
    return parts


def no_such_path(scope: Scope) -> NotFoundError:
    """The answer to a path that nobody serves."""
    return NotFoundError(f"no such path: {scope['path'][:200]}", hint="the paths begin with /v2; see GET /v2")


async def refuse_method(scope: Scope, send: Send, allowed: str) -> None:
    """The answer to a path asked with another verb."""
    error = InputError(f"{scope['method']} is not possible here", hint=f"use {allowed}")
    await send_error(send, error, status=BAD_METHOD, extra=[(b"allow", allowed.encode())])


def checked_version(version: str) -> str:
    """A version as it may stand in a path: decimal digits, or empty for the default.

    Raises:
        ModelNotFoundError: anything else; no version of that name can exist.
    """
    if version and not (version.isascii() and version.isdigit()):
        raise ModelNotFoundError(f"versions are whole numbers, not {version[:40]!r}")
    return version
