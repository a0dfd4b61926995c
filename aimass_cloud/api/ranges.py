"""Byte ranges (RFC 9110, section 14). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes from ``offset`` on, ``length`` of them."""

    offset: int
    length: int

    def content_range(self, size: int) -> str:
        """As the Content-Range header has it."""
        return f"bytes {self.offset}-{self.offset + self.length - 1}/{size}"


class Unsatisfiable(Exception):  # noqa: N818  an answer of the parser, not a failure of ours
    """The range lies outside of the file."""


def span_of(header: str, size: int) -> Span | None:
    """What a Range header asks of a file; None when all of it is to be sent.

    Several ranges at once, other units and nonsense are answered with the whole file, as the RFC allows.

    Raises:
        Unsatisfiable: a single range that begins behind the end.
    """
    match = _RANGE.fullmatch(header.strip().lower().replace(" ", ""))
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        length = min(int(match[2]), size)
        if length == 0:
            raise Unsatisfiable
        return Span(size - length, length)
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < first:
        return None
    if first >= size:
        raise Unsatisfiable
    return Span(first, last - first + 1)
