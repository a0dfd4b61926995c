"""Blobs in a local folder: ``ab/abcdef...`` beside ``tmp/`` for what is still arriving.

Bytes go to a temporary file, are synced, get their name by a rename, and the folder is synced: after a power cut a
blob is whole or absent. What a cut leaves in ``tmp`` is removed by :meth:`LocalBlobStore.sweep`.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from aimass.device.files import LOCAL_DISK, Disk, DiskFile, full_disk_is_no_space, make_folder, remove_file
from aimass.errors import DigestMismatchError, FrameTooLargeError, NotFoundError
from aimass_cloud.blobs.base import Blob

CHUNK_BYTES = 256 * 1024
_DIGEST = re.compile(r"[0-9a-f]{64}")


class LocalBlobStore:
    """Fulfils :class:`~aimass_cloud.blobs.base.BlobStore` with files. Safe to use from many threads and processes.

    Args:
        folder: where the blobs are; made when absent.
        disk: the seam that tests put a full or a broken disk into.
    """

    def __init__(self, folder: Path, *, disk: Disk = LOCAL_DISK) -> None:
        self.folder = folder
        self._temporary = folder / "tmp"
        self._disk = disk
        make_folder(self._temporary, disk=disk)

    def put(self, chunks: Iterable[bytes], *, max_bytes: int | None = None, sha256: str | None = None) -> Blob:
        """Stores what the chunks yield; see the protocol."""
        temporary = self._temporary / uuid.uuid4().hex
        try:
            with full_disk_is_no_space("a blob"):
                blob = self._receive(temporary, chunks, max_bytes)
                if sha256 is not None and blob.sha256 != sha256:
                    raise DigestMismatchError(f"expected {sha256}, got {blob.sha256}", expected=sha256)
                self._keep(temporary, blob)
        finally:
            remove_file(temporary, disk=self._disk)
        return blob

    def put_file(self, path: Path, *, max_bytes: int | None = None, sha256: str | None = None) -> Blob:
        """Stores a file's bytes; see the protocol."""
        return self.put(_Chunks(path.open("rb"), None), max_bytes=max_bytes, sha256=sha256)

    def open(self, sha256: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Its bytes in chunks; see the protocol."""
        try:
            file = self._path(sha256).open("rb")
        except FileNotFoundError as exc:
            raise _absent(sha256) from exc
        file.seek(offset)
        return _Chunks(file, length)

    def size(self, sha256: str) -> int:
        """Its size in bytes."""
        try:
            return self._path(sha256).stat().st_size
        except FileNotFoundError as exc:
            raise _absent(sha256) from exc

    def exists(self, sha256: str) -> bool:
        """Whether it is stored."""
        return _DIGEST.fullmatch(sha256) is not None and self._path(sha256).is_file()

    def delete(self, sha256: str) -> bool:
        """Removes it; False when there was none."""
        if not self.exists(sha256):
            return False
        path = self._path(sha256)
        remove_file(path, disk=self._disk)
        self._disk.sync_dir(path.parent)
        return True

    def list(self) -> Iterator[Blob]:
        """All blobs, in no order."""
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            if _DIGEST.fullmatch(path.name):
                yield Blob(path.name, path.stat().st_size)

    @contextmanager
    def as_file(self, sha256: str) -> Iterator[Path]:
        """The blob's own file."""
        self.size(sha256)
        yield self._path(sha256)

    def sweep(self) -> int:
        """Removes what a crash left half-received; returns how many files. Only while nothing is being received."""
        left = [*self._temporary.iterdir()]
        for path in left:
            remove_file(path, disk=self._disk)
        return len(left)

    def _receive(self, temporary: Path, chunks: Iterable[bytes], max_bytes: int | None) -> Blob:
        digest, size = hashlib.sha256(), 0
        file: DiskFile = self._disk.create(temporary, mode=0o600)
        try:
            for chunk in chunks:
                size += len(chunk)
                if max_bytes is not None and size > max_bytes:
                    raise FrameTooLargeError(
                        f"more than {max_bytes} bytes",
                        size_bytes=size,
                        limit_bytes=max_bytes,
                        hint="send a smaller file, or raise the limit in cloud.toml",
                    )
                digest.update(chunk)
                file.write(chunk)
            file.sync()
        finally:
            file.close()
        return Blob(digest.hexdigest(), size)

    def _keep(self, temporary: Path, blob: Blob) -> None:
        path = self._path(blob.sha256)
        make_folder(path.parent, disk=self._disk)
        # Also when it is there already: the bytes are equal, and the rename repairs a file damaged on the medium.
        self._disk.rename(temporary, path)
        self._disk.sync_dir(path.parent)

    def _path(self, sha256: str) -> Path:
        # The digest is part of a path: anything else (.., a slash) must never reach the file system.
        if not _DIGEST.fullmatch(sha256):
            raise _absent(sha256)
        return self.folder / sha256[:2] / sha256


class _Chunks:
    """A file's bytes from where it stands; closes the file at the end, or when nobody holds it any more."""

    def __init__(self, file: BinaryIO, length: int | None) -> None:
        self._file = file
        self._left = os.fstat(file.fileno()).st_size if length is None else length

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = b"" if self._file.closed else self._file.read(min(CHUNK_BYTES, self._left))
        if not chunk:
            self._file.close()
            raise StopIteration
        self._left -= len(chunk)
        return chunk

    def __del__(self) -> None:
        self._file.close()


def _absent(sha256: str) -> NotFoundError:
    return NotFoundError(f"no blob {sha256[:64]!r}")
