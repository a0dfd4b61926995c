"""Bytes on their way into a store that sends them in parts: counted, hashed and bounded as they go by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from aimass.errors import DigestMismatchError, FrameTooLargeError
from aimass_cloud.blobs.base import Blob


class Content:
    """What is being stored: hands on the chunks in parts, counts and hashes them."""

    def __init__(self, chunks: Iterable[bytes], max_bytes: int | None, expected: str | None) -> None:
        self._chunks = chunks
        self._max_bytes = max_bytes
        self._expected = expected
        self._digest = hashlib.sha256()
        self._size = 0

    def parts(self, part_bytes: int) -> Iterator[bytes]:
        """The content in parts of just this size, the last one shorter."""
        part = bytearray()
        for chunk in self._chunks:
            self._count(chunk)
            rest = memoryview(chunk)
            while rest:
                taken = min(len(rest), part_bytes - len(part))
                part += rest[:taken]
                rest = rest[taken:]
                if len(part) == part_bytes:
                    yield bytes(part)
                    part.clear()
        if part:
            yield bytes(part)

    def checked(self) -> Blob:
        """What it was, now that all of it went by."""
        sha256 = self._digest.hexdigest()
        if self._expected is not None and sha256 != self._expected:
            raise DigestMismatchError(f"expected {self._expected}, got {sha256}", expected=self._expected)
        return Blob(sha256, self._size)

    def _count(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._max_bytes is not None and self._size > self._max_bytes:
            raise FrameTooLargeError(
                f"more than {self._max_bytes} bytes",
                size_bytes=self._size,
                limit_bytes=self._max_bytes,
                hint="send a smaller file, or raise the limit in cloud.toml",
            )
        self._digest.update(chunk)
