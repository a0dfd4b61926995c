"""gzip and deflate, both ways, and never more work or memory than allowed.

What comes in may be a bomb: 64 KiB of gzip can stand for 64 MiB of zeros. So it is inflated step by step, each step is
counted before the next, and long steps run on a thread. What goes out is compressed only when the client asks, the
answer is long, and a sample of it shows that it gets shorter: random-looking floats do not.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable

from aimass.errors import FrameError, FrameTooLargeError, InputError
from aimass.serving.asgi import UNSUPPORTED, Refusal

CODINGS = ("gzip", "deflate")
_ACCEPTED = b"gzip, deflate"
_WINDOW = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}  # deflate is the zlib format (RFC 9110, 8.4.1.2)

_FIRST_STEP_BYTES = 64 * 1024
_STEP_BYTES = 4 * 1024 * 1024
_LEVEL = 1
_SAMPLE_BYTES = 4096
_WORTH_IT = 0.9
_INLINE_BYTES = 64 * 1024


def coding_of(value: bytes | None) -> str:
    """The coding that a Content-Encoding names; empty for none.

    Raises:
        Refusal: one that is not understood; the answer names those that are.
    """
    if value is None:
        return ""
    name = value.strip().lower().decode("latin-1").removeprefix("x-")
    if name in ("", "identity"):
        return ""
    if name not in CODINGS:
        error = InputError(f"content encoding {name[:40]!r} is not understood here", hint=f"use {', '.join(CODINGS)}")
        raise Refusal(error, UNSUPPORTED, [(b"accept-encoding", _ACCEPTED)])
    return name


async def inflate(body: bytes, coding: str, *, max_bytes: int, grow: Callable[[int], None]) -> bytes:
    """The body as it was before it was compressed.

    Args:
        body: the compressed body.
        coding: "gzip" or "deflate".
        max_bytes: refused as soon as there is more than this.
        grow: told of every piece before it is kept; may refuse.

    Raises:
        FrameTooLargeError: it stands for more than `max_bytes`.
        FrameError: it is not of that coding, cut off, or more follows it.
    """
    engine = zlib.decompressobj(_WINDOW[coding])
    pieces: list[bytes] = []
    size, rest, step = 0, body, _FIRST_STEP_BYTES
    while not engine.eof:
        step = min(step, max_bytes - size + 1)
        piece = await _step(engine, rest, step, coding, is_long=step > _FIRST_STEP_BYTES)
        rest = engine.unconsumed_tail
        if not piece and not rest and not engine.eof:
            raise FrameError(f"the {coding} body is cut off")
        size += len(piece)
        if size > max_bytes:
            message = f"the request body has more than {max_bytes} bytes when inflated"
            raise FrameTooLargeError(message, limit_bytes=max_bytes)
        grow(len(piece))
        pieces.append(piece)
        step = _STEP_BYTES
    if engine.unused_data:  # a second member would be legal gzip, but no client sends one
        raise FrameError(f"something follows the {coding} body")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _step(engine: zlib._Decompress, data: bytes, step: int, coding: str, *, is_long: bool) -> bytes:
    try:
        if is_long:
            return await asyncio.to_thread(engine.decompress, data, step)
        return engine.decompress(data, step)
    except zlib.error as exc:
        raise FrameError(f"the body is not {coding}: {exc}") from exc


def accepted_coding(value: bytes | None) -> str:
    """The first coding of ours that an Accept-Encoding allows; empty for none."""
    if value is None:
        return ""
    wanted: dict[str, bool] = {}
    for one in value.decode("latin-1").lower().split(","):
        name, _, quality = one.partition(";")
        wanted[name.strip().removeprefix("x-")] = quality.strip().replace(" ", "") not in ("q=0", "q=0.0", "q=0.00")
    allowed = (one for one in CODINGS if wanted.get(one, wanted.get("*", False)))
    return next(allowed, "")


async def deflate(body: bytes, coding: str) -> bytes | None:
    """The body compressed; None when a sample of its middle does not get shorter.

    Cost: about 5 ms for a MiB, on a thread when it is long.
    """
    middle = len(body) // 2
    sample = body[middle : middle + _SAMPLE_BYTES]
    if len(zlib.compress(sample, _LEVEL)) > len(sample) * _WORTH_IT:
        return None
    if len(body) <= _INLINE_BYTES:
        return _deflate(body, coding)
    return await asyncio.to_thread(_deflate, body, coding)


def _deflate(body: bytes, coding: str) -> bytes:
    return zlib.compress(body, _LEVEL, wbits=_WINDOW[coding])
