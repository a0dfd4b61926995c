"""Writing files that survive a power cut and a full disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from aimass.device.files import make_folder, remove_tree, write_atomic
from aimass.errors import NoSpaceError
from tests.fakes.disk import FlashDisk


def test_a_cut_at_any_moment_leaves_the_old_or_the_new_content(tmp_path: Path) -> None:
    root = tmp_path / "flash"
    root.mkdir()
    (root / "a.json").write_bytes(b"old")
    disk = FlashDisk(root)
    write_atomic(root / "a.json", b"the new content", disk=disk)
    seen = set()
    for after in range(len(disk.ops) + 1):
        for _, state in disk.states_after_cut(after, tmp_path / "cut"):
            content = (state / "a.json").read_bytes()
            assert content in (b"old", b"the new content")
            seen.add(content)
    assert seen == {b"old", b"the new content"}


def test_what_was_written_is_durable_when_the_call_returns(tmp_path: Path) -> None:
    root = tmp_path / "flash"
    root.mkdir()
    disk = FlashDisk(root)
    make_folder(root / "x" / "y", disk=disk)
    write_atomic(root / "x" / "y" / "f", b"1", disk=disk)
    for _, state in disk.states_after_cut(len(disk.ops), tmp_path / "cut"):
        assert (state / "x" / "y" / "f").read_bytes() == b"1"


def test_the_fake_sees_a_missing_sync(tmp_path: Path) -> None:
    """The measure itself: a writer without fsync loses the file in at least one state."""
    root = tmp_path / "flash"
    root.mkdir()
    disk = FlashDisk(root)
    file = disk.create(root / "t")
    file.write(b"1")
    file.close()
    disk.rename(root / "t", root / "f")
    disk.sync_dir(root)
    contents = {(s / "f").read_bytes() for _, s in disk.states_after_cut(len(disk.ops), tmp_path / "cut")}
    assert b"" in contents


@pytest.mark.parametrize("room", [0, 1])
def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path, room: int) -> None:
    root = tmp_path / "flash"
    root.mkdir()
    (root / "a.json").write_bytes(b"old")
    with pytest.raises(NoSpaceError):
        write_atomic(root / "a.json", b"new", disk=FlashDisk(root, full_after=room))
    assert {p.name: p.read_bytes() for p in root.iterdir()} == {"a.json": b"old"}


def test_private_files_are_not_readable_by_others(tmp_path: Path) -> None:
    write_atomic(tmp_path / "key", b"secret")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_removing_a_tree_does_not_follow_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_bytes(b"1")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    remove_tree(inside)
    assert not inside.exists()
    assert (outside / "keep").exists()
