"""Flash with power loss: records every change of a folder and rebuilds what a cut at any moment may have left.

The operations are done for real under a root folder, and kept as a list. :func:`states_after_cut` replays a prefix of
that list on a small model of a file system, where a file has written and synced bytes and a folder has present and
synced entries, and gives the folders that a cut right after that prefix may leave:

* ``synced``: only what was synced is there;
* ``names first``: every name is there, but unsynced content is gone (the empty file after an unsynced rename);
* ``torn``: every name is there, unsynced content is half there;
* ``written``: all reached the medium by luck;
* ``mixed``: for each folder and file one of them, drawn by a seed.
"""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aimass.device.files import Disk, DiskFile, LocalDisk

KINDS = ("synced", "names first", "torn", "written", "mixed")


@dataclass(frozen=True)
class Op:
    """One recorded change; ``path`` and ``other`` are relative to the root."""

    kind: str
    path: str
    other: str = ""
    data: bytes = b""


@dataclass
class _FileNode:
    written: bytes = b""
    synced: bytes = b""


@dataclass
class _FolderNode:
    present: dict[str, _FileNode | _FolderNode] = field(default_factory=dict)
    synced: dict[str, _FileNode | _FolderNode] = field(default_factory=dict)


class _RecordedFile:
    def __init__(self, disk: FlashDisk, inner: DiskFile, path: str) -> None:
        self._disk, self._inner, self._path = disk, inner, path

    def write(self, data: bytes | memoryview, /) -> None:
        self._disk.spend(self._path)
        self._inner.write(data)
        self._disk.ops.append(Op("write", self._path, data=bytes(data)))

    def sync(self) -> None:
        self._inner.sync()
        self._disk.ops.append(Op("sync", self._path))

    def close(self) -> None:
        self._inner.close()


class FlashDisk:
    """A disk that remembers what was done to it, and can run full.

    Args:
        root: the folder under which everything happens; what is in it now counts as synced.
        full_after: the number of creating or writing operations that succeed before the disk is full.
        free: what :meth:`free_bytes` answers.
    """

    def __init__(self, root: Path, *, full_after: int | None = None, free: int = 1 << 40) -> None:
        self.root = root
        self.ops: list[Op] = []
        self.full_after = full_after
        self.free = free
        self._inner: Disk = LocalDisk()
        self._start = _snapshot(root)

    def spend(self, path: str) -> None:
        """Count one operation that needs room."""
        if self.full_after is not None:
            if self.full_after <= 0:
                raise OSError(errno.ENOSPC, "No space left on device", path)
            self.full_after -= 1

    def create(self, path: Path, *, mode: int = 0o600) -> DiskFile:
        name = self._name(path)
        self.spend(name)
        inner = self._inner.create(path, mode=mode)
        self.ops.append(Op("create", name))
        return _RecordedFile(self, inner, name)

    def append(self, path: Path, *, mode: int = 0o600) -> DiskFile:
        name = self._name(path)
        if not path.exists():
            self.spend(name)
        inner = self._inner.append(path, mode=mode)
        self.ops.append(Op("append", name))
        return _RecordedFile(self, inner, name)

    def rename(self, source: Path, target: Path) -> None:
        self._inner.rename(source, target)
        self.ops.append(Op("rename", self._name(source), self._name(target)))

    def unlink(self, path: Path) -> None:
        self._inner.unlink(path)
        self.ops.append(Op("unlink", self._name(path)))

    def mkdir(self, path: Path) -> None:
        self.spend(self._name(path))
        self._inner.mkdir(path)
        self.ops.append(Op("mkdir", self._name(path)))

    def rmdir(self, path: Path) -> None:
        self._inner.rmdir(path)
        self.ops.append(Op("rmdir", self._name(path)))

    def sync_dir(self, path: Path) -> None:
        self._inner.sync_dir(path)
        self.ops.append(Op("sync_dir", self._name(path)))

    def free_bytes(self, path: Path) -> int:
        return self.free

    def states_after_cut(self, after: int, into: Path, *, seed: int = 0) -> Iterator[tuple[str, Path]]:
        """The folders that a cut after the first ``after`` operations may leave, one for each kind.

        Args:
            after: how many of the recorded operations happened.
            into: a scratch folder; each state is built beneath it and removed when the next one is asked for.
            seed: for the mixed kind.
        """
        tree = _replay(self._start, self.ops[:after])
        for kind in KINDS:
            target = into / f"{after}-{kind.replace(' ', '-')}"
            _build(tree, target, kind, random.Random(seed * 7919 + after))
            yield kind, target
            shutil.rmtree(target)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _snapshot(folder: Path) -> _FolderNode:
    node = _FolderNode()
    for child in folder.iterdir():
        data = child.read_bytes() if child.is_file() else b""
        node.present[child.name] = _snapshot(child) if child.is_dir() else _FileNode(data, data)
    node.synced = dict(node.present)
    return node


def _copy(node: _FileNode | _FolderNode) -> _FileNode | _FolderNode:
    if isinstance(node, _FileNode):
        return _FileNode(node.written, node.synced)
    copied = {name: _copy(child) for name, child in node.present.items()}
    return _FolderNode(copied, dict(copied))


def _parent(tree: _FolderNode, path: str) -> tuple[_FolderNode, str]:
    *folders, name = path.split("/")
    node = tree
    for folder in folders:
        child = node.present[folder]
        assert isinstance(child, _FolderNode)
        node = child
    return node, name


def _file(tree: _FolderNode, path: str) -> _FileNode:
    parent, name = _parent(tree, path)
    node = parent.present[name]
    assert isinstance(node, _FileNode)
    return node


def _replay(start: _FolderNode, ops: list[Op]) -> _FolderNode:
    tree = _copy(start)
    assert isinstance(tree, _FolderNode)
    for op in ops:
        _apply(tree, op)
    return tree


def _apply(tree: _FolderNode, op: Op) -> None:
    if op.kind == "write":
        _file(tree, op.path).written += op.data
        return
    if op.kind == "sync":
        node = _file(tree, op.path)
        node.synced = node.written
        return
    if op.kind == "sync_dir":
        if op.path == ".":
            tree.synced = dict(tree.present)
            return
        parent, name = _parent(tree, op.path)
        folder = parent.present[name]
        assert isinstance(folder, _FolderNode)
        folder.synced = dict(folder.present)
        return
    parent, name = _parent(tree, op.path)
    if op.kind == "create":
        old = parent.present.get(name)
        if isinstance(old, _FileNode):
            old.written = b""  # truncated in place: the synced bytes may still come back
        else:
            parent.present[name] = _FileNode()
    elif op.kind == "append":
        parent.present.setdefault(name, _FileNode())
    elif op.kind == "mkdir":
        parent.present[name] = _FolderNode()
    elif op.kind in ("unlink", "rmdir"):
        del parent.present[name]
    elif op.kind == "rename":
        node = parent.present.pop(name)
        target, new = _parent(tree, op.other)
        target.present[new] = node
    else:
        raise AssertionError(op.kind)


def _build(node: _FolderNode, target: Path, kind: str, rng: random.Random) -> None:
    target.mkdir(parents=True)
    chosen = rng.choice(KINDS[:-1]) if kind == "mixed" else kind
    entries = node.synced if chosen == "synced" else node.present
    for name, child in entries.items():
        if isinstance(child, _FolderNode):
            _build(child, target / name, kind, rng)
        else:
            (target / name).write_bytes(_content(child, rng.choice(KINDS[:-1]) if kind == "mixed" else kind))


def _content(node: _FileNode, kind: str) -> bytes:
    if kind == "written":
        return node.written
    if kind == "torn":
        if node.written.startswith(node.synced):
            return node.written[: (len(node.synced) + len(node.written)) // 2]
        return node.written[: len(node.written) // 2]
    return node.synced
