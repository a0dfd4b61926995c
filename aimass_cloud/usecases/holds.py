"""Blobs that belong to no version yet: held while an upload is under way, removed when it failed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from aimass_cloud.blobs.base import Blob, BlobStore
from aimass_cloud.store.base import Store


class BlobHolds:
    """Who holds which blob. One for all uploads of a process; its methods may be called from any thread.

    Two uploads may hold the same blob (the same file sent twice): the one that fails must not take it from the other.

    Args:
        store: knows which blobs the published versions need.
        blobs: where they are.
    """

    def __init__(self, store: Store, blobs: BlobStore) -> None:
        self._store = store
        self._blobs = blobs
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    def put(self, chunks: Iterable[bytes], max_bytes: int) -> Blob:
        """Store bytes as they come, and hold the blob.

        Raises:
            FrameTooLargeError: more than ``max_bytes``.
            NoSpaceError: the disk is full.
        """
        return self._hold(self._blobs.put(chunks, max_bytes=max_bytes))

    def put_file(self, path: Path) -> Blob:
        """As ``put``, from a file."""
        return self._hold(self._blobs.put_file(path))

    def release(self, digests: Sequence[str]) -> None:
        """Let go of blobs, each named as often as it was put; those that nobody holds and needs are removed."""
        with self._lock:
            self._held.subtract(digests)
            free = {digest for digest in digests if self._held[digest] <= 0}
            for digest in free:
                del self._held[digest]
            if not free:
                return
            with self._store.read() as tx:
                needed = tx.models.blobs()
            for digest in free - needed:
                self._blobs.delete(digest)

    def sweep(self) -> int:
        """Remove what a crash left; only while nothing is uploaded. Returns how many blobs."""
        with self._store.read() as tx:
            needed = tx.models.blobs()
        return sum(self._blobs.delete(blob.sha256) for blob in list(self._blobs.list()) if blob.sha256 not in needed)

    def _hold(self, blob: Blob) -> Blob:
        with self._lock:
            self._held[blob.sha256] += 1
        return blob
