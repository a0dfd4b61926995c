"""Files that survive a power cut at any moment.

Everything that this package keeps goes through one small seam, :class:`Disk`, so that a test can record each write,
fsync and rename, and replay every prefix with the unsynced part dropped. The rules:

* a file is written under another name in the same folder, synced, renamed, and the folder is synced;
* a new folder is synced in its parent before anything in it is relied on;
* a full disk raises :class:`~aimass.errors.NoSpaceError` and leaves nothing half-written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from aimass.errors import NoSpaceError, StoreError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class DiskFile(Protocol):
    """A file open for writing."""

    def write(self, data: bytes | memoryview, /) -> None:
        """Write all of it, or raise OSError."""

    def sync(self) -> None:
        """Return when what was written is on the medium."""

    def close(self) -> None:
        """Close; says nothing about durability. Closing twice is allowed."""


class Disk(Protocol):
    """The operations that change a folder. Each raises OSError as the operating system would."""

    def create(self, path: Path, *, mode: int = 0o600) -> DiskFile:
        """Open for writing from zero; an existing file loses its content."""

    def append(self, path: Path, *, mode: int = 0o600) -> DiskFile:
        """Open for writing at the end; made when absent."""

    def rename(self, source: Path, target: Path) -> None:
        """Replace the target in one step. A target that is a folder must be empty or absent."""

    def unlink(self, path: Path) -> None:
        """Remove a file."""

    def mkdir(self, path: Path) -> None:
        """Make one folder whose parent exists."""

    def rmdir(self, path: Path) -> None:
        """Remove an empty folder."""

    def sync_dir(self, path: Path) -> None:
        """Return when the folder's entries (made, renamed, removed) are on the medium."""

    def free_bytes(self, path: Path) -> int:
        """Space left for us on the file system of this folder."""


class _LocalFile:
    def __init__(self, path: Path, flags: int, mode: int) -> None:
        self._fd = os.open(path, flags | os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, mode)

    def write(self, data: bytes | memoryview, /) -> None:
        view = memoryview(data).cast("B")
        while view:
            view = view[os.write(self._fd, view) :]

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class LocalDisk:
    """The real file system."""

    def create(self, path: Path, *, mode: int = 0o600) -> DiskFile:
        """Open for writing from zero."""
        return _LocalFile(path, os.O_TRUNC, mode)

    def append(self, path: Path, *, mode: int = 0o600) -> DiskFile:
        """Open for writing at the end."""
        return _LocalFile(path, os.O_APPEND, mode)

    def rename(self, source: Path, target: Path) -> None:
        """Replace the target in one step."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def mkdir(self, path: Path) -> None:
        """Make one folder."""
        path.mkdir(mode=0o700)

    def rmdir(self, path: Path) -> None:
        """Remove an empty folder."""
        path.rmdir()

    def sync_dir(self, path: Path) -> None:
        """Sync the folder's entries."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def free_bytes(self, path: Path) -> int:
        """Space left on the file system of this folder."""
        return shutil.disk_usage(path).free


LOCAL_DISK: Disk = LocalDisk()


@contextlib.contextmanager
def full_disk_is_no_space(what: str) -> Iterator[None]:
    """Turn "disk full", "quota reached" and "file too large" into the one named error.

    Args:
        what: what was being written, for the person reading the message.

    Raises:
        NoSpaceError: the medium has no room.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise NoSpaceError(f"no space left to write {what}") from exc
        raise


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Give whatever the operating system says about a failed write its name; only around code that does nothing else.

    Raises:
        NoSpaceError: the medium has no room.
        StoreError: anything else, such as a worn medium that became read-only.
    """
    try:
        with full_disk_is_no_space(what):
            yield
    except OSError as exc:
        hint = "check the disk and the folder's permissions"
        raise StoreError(f"cannot write {what}: {exc.strerror or exc}", hint=hint) from exc


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600, disk: Disk = LOCAL_DISK) -> None:
    """Replace a file so that after a power cut it holds the old or the new content, nothing between.

    Args:
        path: the file; its folder exists.
        data: the whole new content.
        mode: permissions of the new file.
        disk: where to write.

    Raises:
        NoSpaceError: the disk is full; the old file stands and the temporary one is gone.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with disk_errors(path.name):
        try:
            file = disk.create(temporary, mode=mode)
            try:
                file.write(data)
                file.sync()
            finally:
                file.close()
            disk.rename(temporary, path)
        except OSError:
            remove_file(temporary, disk=disk)
            raise
        disk.sync_dir(path.parent)


def make_folder(path: Path, *, disk: Disk = LOCAL_DISK) -> None:
    """Make a folder and its missing parents, each durable before the next is made."""
    if path.is_dir():
        return
    make_folder(path.parent, disk=disk)
    with disk_errors(f"folder {path.name}"):
        with contextlib.suppress(FileExistsError):  # another thread was quicker
            disk.mkdir(path)
        disk.sync_dir(path.parent)


def remove_file(path: Path, *, disk: Disk = LOCAL_DISK) -> None:
    """Remove a file; absent is fine. Not durable by itself: a cut may bring it back."""
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(path)


def remove_tree(path: Path, *, disk: Disk = LOCAL_DISK) -> None:
    """Remove a folder with all in it, not following links; absent is fine. May be cut off half-way."""
    try:
        info = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(info.st_mode):
        disk.unlink(path)
        return
    for child in path.iterdir():
        remove_tree(child, disk=disk)
    disk.rmdir(path)
