"""The local blob store on a full disk, on a broken one, and after a crash."""

import errno
import hashlib
from pathlib import Path

import pytest

from aimass.device.files import Disk, DiskFile, LocalDisk
from aimass.errors import NoSpaceError
from aimass_cloud.blobs.local import LocalBlobStore

DATA = b"weights" * 1000


class RecordingDisk(LocalDisk):
    """Writes for real, notes each step, and fails with an errno at the step it is told."""

    def __init__(self, fail_at: str = "", code: int = errno.ENOSPC) -> None:
        self.steps: list[str] = []
        self.fail_at = fail_at
        self.code = code

    def step(self, name: str) -> None:
        self.steps.append(name)
        if name == self.fail_at:
            raise OSError(self.code, "as told")

    def create(self, path: Path, *, mode: int = 0o600) -> DiskFile:
        self.step("create")
        return RecordingFile(self, super().create(path, mode=mode))

    def rename(self, source: Path, target: Path) -> None:
        self.step("rename")
        super().rename(source, target)

    def sync_dir(self, path: Path) -> None:
        self.step("sync_dir")
        super().sync_dir(path)


class RecordingFile:
    def __init__(self, disk: RecordingDisk, file: DiskFile) -> None:
        self.disk, self.file = disk, file

    def write(self, data: bytes | memoryview, /) -> None:
        self.file.write(data)
        self.disk.step("write")

    def sync(self) -> None:
        self.disk.step("sync")
        self.file.sync()

    def close(self) -> None:
        self.file.close()


def store_on(disk: Disk, folder: Path) -> LocalBlobStore:
    LocalBlobStore(folder)  # the folders exist before the disk fails
    return LocalBlobStore(folder, disk=disk)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_bytes_are_synced_before_they_get_their_name_and_the_name_after(tmp_path: Path) -> None:
    disk = RecordingDisk()
    store_on(disk, tmp_path).put([DATA, DATA])
    assert disk.steps[:4] == ["create", "write", "write", "sync"]
    assert disk.steps[-2:] == ["rename", "sync_dir"]


@pytest.mark.parametrize("step", ["create", "write", "sync", "rename"])
def test_a_full_disk_is_named_and_nothing_is_left(tmp_path: Path, step: str) -> None:
    with pytest.raises(NoSpaceError):
        store_on(RecordingDisk(step), tmp_path).put([DATA])
    assert files_in(tmp_path) == []


def test_a_broken_disk_is_not_called_a_full_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="as told"):
        store_on(RecordingDisk("write", errno.EIO), tmp_path).put([DATA])
    assert files_in(tmp_path) == []


def test_what_a_crash_left_is_never_listed_and_is_swept(tmp_path: Path) -> None:
    blobs = LocalBlobStore(tmp_path)
    (tmp_path / "tmp" / "half").write_bytes(b"half of it")
    assert not list(blobs.list())
    assert blobs.sweep() == 1
    assert files_in(tmp_path) == []


def test_storing_again_repairs_a_blob_that_was_damaged_on_the_medium(tmp_path: Path) -> None:
    blobs = LocalBlobStore(tmp_path)
    digest = blobs.put([DATA]).sha256
    (tmp_path / digest[:2] / digest).write_bytes(b"rotten")
    assert blobs.put([DATA]).sha256 == digest == hashlib.sha256(b"".join(blobs.open(digest))).hexdigest()
