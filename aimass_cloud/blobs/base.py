"""The blob store as the use cases see it.

A blob is named by the SHA-256 of its bytes, so storing it twice changes nothing and it never changes afterwards. It
is there whole or not at all: a name is only visible when all bytes are durable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored blob: SHA-256 in lower-case hex, and size."""

    sha256: str
    size_bytes: int


class BlobStore(Protocol):
    """Content-addressed blobs. NotFoundError means "no such blob", also for a name that is no digest."""

    def put(self, chunks: Iterable[bytes], *, max_bytes: int | None = None, sha256: str | None = None) -> Blob:
        """Stores what the chunks yield; durable when it returns, nothing left when it raises.

        Args:
            chunks: the bytes in pieces of any size.
            max_bytes: refuse more than that.
            sha256: refuse other content than that.

        Raises:
            FrameTooLargeError: more than ``max_bytes``.
            DigestMismatchError: not the content expected.
            NoSpaceError: the disk is full.
        """

    def put_file(self, path: Path, *, max_bytes: int | None = None, sha256: str | None = None) -> Blob:
        """As ``put``, from a file."""

    def open(self, sha256: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Its bytes from ``offset`` in chunks, ``length`` of them or up to the end.

        A download that has begun goes on when the blob is deleted meanwhile. Raises NotFoundError at once, not at the
        first chunk.
        """

    def size(self, sha256: str) -> int:
        """Its size in bytes; NotFoundError when there is none."""

    def exists(self, sha256: str) -> bool:
        """Whether it is stored."""

    def delete(self, sha256: str) -> bool:
        """Removes it; False when there was none."""

    def list(self) -> Iterator[Blob]:
        """All blobs, in no order."""

    def as_file(self, sha256: str) -> AbstractContextManager[Path]:
        """A path to its bytes while the block runs, for a child process. For reading only."""
