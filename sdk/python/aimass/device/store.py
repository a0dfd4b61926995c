"""The packages on this device: installed whole or not at all, and checked again before each use.

Layout beneath the root (``<home>/models``)::

    <name>/<version>/manifest.json   the signed envelope, as it came
    <name>/<version>/<file>          the files of the variants that fit this machine
    <name>/.<version>.part/          a download under way; kept over a restart, so that it resumes
    <name>/.<version>.old/           a package being replaced by another build of the same version
    <name>/.<version>.gone/          a package being removed
    active.json                      what shall run, and the version before it

A package appears under its name by one rename of a folder whose every file was synced and matched its signed digest.
It disappears by one rename, too. So after a power cut a version is there whole, or not there; and one that was being
replaced is there in its old or its new build. Renames stay within one folder: no file system has to make two folders
durable at once.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aimass.device.active import ActiveList, ActiveModel
from aimass.device.files import (
    LOCAL_DISK,
    Disk,
    disk_errors,
    make_folder,
    remove_file,
    remove_tree,
    write_atomic,
)
from aimass.errors import AimassError, DigestMismatchError, NotFoundError, PackageError
from aimass.package.desired import DesiredModel
from aimass.package.keys import PublicKey
from aimass.package.manifest import FileEntry, Manifest, Platform, is_model_name
from aimass.package.trust import accept_manifest, check_file

__all__ = ["ActiveModel", "InstalledPackage", "Key", "PackageStore", "StagedPackage", "digest_of", "needed_files"]

MANIFEST_FILE = "manifest.json"
_HASH_CHUNK_BYTES = 1 << 20
_VERSION = re.compile(r"[1-9][0-9]{0,18}")

Key = tuple[str, int]
"""Name and version of a package."""


@dataclass(frozen=True, slots=True)
class InstalledPackage:
    """A package on this device whose signature and digests were checked.

    Attributes:
        folder: where it lies.
        manifest: what was signed about it.
        sha256: digest of the envelope; tells two builds of one version apart.
    """

    folder: Path
    manifest: Manifest
    sha256: str


@dataclass(frozen=True, slots=True)
class StagedPackage:
    """A package on its way in: the manifest is accepted, files may still be missing.

    Attributes:
        folder: where the files go.
        manifest: what was signed about it.
        sha256: digest of the envelope.
        files: the files that this machine needs.
    """

    folder: Path
    manifest: Manifest
    sha256: str
    files: tuple[str, ...]

    def missing(self) -> list[tuple[str, FileEntry]]:
        """The files that are not here in full length yet, with what was signed about them."""
        wanted = ((name, self.manifest.files[name]) for name in self.files)
        return [(name, entry) for name, entry in wanted if _size(self.folder / name) != entry.size_bytes]


class PackageStore:
    """The packages beneath one folder. One process owns it; safe to use from several threads.

    Args:
        root: the folder.
        publishers: the pinned keys of those who may publish.
        here: this machine; only files of variants that fit it are kept. None keeps all.
        disk: where to write.
    """

    def __init__(
        self, root: Path, *, publishers: Sequence[PublicKey], here: Platform | None = None, disk: Disk = LOCAL_DISK
    ) -> None:
        self.root = root
        self._publishers = tuple(publishers)
        self._here = here
        self.disk = disk
        self._active = ActiveList(root / "active.json", disk)
        self._lock = threading.RLock()
        make_folder(root, disk=disk)
        with disk_errors("the package store"):
            self._recover()

    def stage(self, model: DesiredModel, envelope: bytes) -> StagedPackage:
        """Begin, or go on with, an installation.

        Args:
            model: what the signed desired document says.
            envelope: the signed manifest, as fetched.

        Returns:
            The staged package; put the missing files into its folder, then :meth:`commit`.

        Raises:
            TrustError: the envelope is not the one named, or not signed by a publisher.
            PackageError: the manifest makes no sense, or no variant fits this machine.
            NoSpaceError: the disk is full.
        """
        manifest = accept_manifest(
            envelope,
            publishers=self._publishers,
            sha256=model.manifest_sha256,
            name=model.name,
            version=model.version,
        )
        files = needed_files(manifest, self._here)
        folder = self._aside((model.name, model.version), "part")
        with self._lock:
            if _read(folder / MANIFEST_FILE) != envelope:  # parts of another build of this version are of no use
                remove_tree(folder, disk=self.disk)
                make_folder(folder, disk=self.disk)
                write_atomic(folder / MANIFEST_FILE, envelope, disk=self.disk)
        return StagedPackage(folder, manifest, model.manifest_sha256, files)

    def commit(self, staged: StagedPackage) -> InstalledPackage:
        """Check every file against its signed digest and make the package appear under its name, in one step.

        Raises:
            DigestMismatchError: a file is not what was signed; it is removed, the others stay for the next attempt.
            NoSpaceError: the disk is full; the staged files stay.
        """
        manifest = staged.manifest
        key = (manifest.name, manifest.version)
        with disk_errors(f"package {manifest.name} {manifest.version}"):
            for name in staged.files:
                try:
                    _check(staged.folder / name, manifest.files[name])
                except AimassError:
                    remove_file(staged.folder / name, disk=self.disk)
                    raise
                self._sync_file(staged.folder / name)
            with self._lock:
                self._drop_strangers(staged)
                self.disk.sync_dir(staged.folder)
                self._appear(staged.folder, key)
        return InstalledPackage(self.folder(*key), manifest, staged.sha256)

    def folder(self, name: str, version: int) -> Path:
        """Where a package lies, or would lie."""
        return self.root / name / str(version)

    def has(self, name: str, version: int) -> bool:
        """Whether the package is here; says nothing about its content."""
        return (self.folder(name, version) / MANIFEST_FILE).exists()

    def installed(self) -> list[Key]:
        """Every package that is here, by name, then version."""
        found = []
        for folder in self.root.iterdir():
            if not is_model_name(folder.name) or not folder.is_dir():
                continue
            versions = [int(child.name) for child in folder.iterdir() if _VERSION.fullmatch(child.name)]
            found += [(folder.name, version) for version in versions if self.has(folder.name, version)]
        return sorted(found)

    def open(self, name: str, version: int, *, sha256: str | None = None) -> InstalledPackage:
        """Check signature and digests of a package and give it out to be loaded.

        Args:
            name: the model.
            version: its version.
            sha256: digest of the envelope that the desired document names; None when starting without it.

        Raises:
            NotFoundError: it is not here.
            TrustError: it is not what was signed (changed or damaged on the disk, or another build is wanted).
            PackageError: no variant fits this machine.
        """
        folder = self.folder(name, version)
        envelope = _read(folder / MANIFEST_FILE)
        if envelope is None:
            raise NotFoundError(f"package {name} {version} is not installed")
        manifest = accept_manifest(envelope, publishers=self._publishers, sha256=sha256, name=name, version=version)
        for file in needed_files(manifest, self._here):
            _check(folder / file, manifest.files[file])
        return InstalledPackage(folder, manifest, hashlib.sha256(envelope).hexdigest())

    def remove(self, name: str, version: int) -> None:
        """Remove a package in one step; absent is fine."""
        with self._lock:
            folder = self.folder(name, version)
            if not folder.exists():
                return
            gone = self._aside((name, version), "gone")
            remove_tree(gone, disk=self.disk)
            self.disk.rename(folder, gone)
            self.disk.sync_dir(folder.parent)
            remove_tree(gone, disk=self.disk)
            self._drop_empty(folder.parent)

    def active(self) -> tuple[ActiveModel, ...]:
        """What shall run, as it was last set; empty when nothing or nothing readable is there."""
        return self._active.read()[0]

    def previous(self, name: str) -> int | None:
        """The version that ran before the present ones, kept on disk to go back to without network."""
        version = self._active.read()[1].get(name)
        return version if version is not None and self.has(name, version) else None

    def set_active(self, models: Iterable[ActiveModel]) -> None:
        """Remember what runs now. The default version that it replaces becomes the previous one of its model.

        Raises:
            NoSpaceError: the disk is full; the old list stands.
        """
        with self._lock:
            self._active.replace(models)

    def prune(self, keep: Collection[Key]) -> list[Key]:
        """Remove packages that nobody needs: not in ``keep``, not active, not the previous version of an active model.

        Returns:
            What was removed.
        """
        with self._lock:
            active, previous = self._active.read()
            needed = {*keep, *((model.name, model.version) for model in active), *previous.items()}
            gone = [key for key in self.installed() if key not in needed]
            for name, version in gone:
                self.remove(name, version)
        return gone

    def prune_staging(self, keep: Collection[Key]) -> None:
        """Drop downloads that were begun for versions nobody wants any more. This is what bounds partial files."""
        with self._lock:
            for key in self._kept_aside("part"):
                if key not in keep:
                    self.discard_staged(*key)

    def discard_staged(self, name: str, version: int) -> None:
        """Give back the room that a begun download takes; absent is fine."""
        with self._lock:
            folder = self._aside((name, version), "part")
            remove_tree(folder, disk=self.disk)
            if folder.parent.is_dir():
                self._drop_empty(folder.parent)

    def _aside(self, key: Key, kind: str) -> Path:
        return self.root / key[0] / f".{key[1]}.{kind}"

    def _appear(self, staged: Path, key: Key) -> None:
        """The one step that makes a package be here; another build of the version stands until it is done."""
        target, old = self.folder(*key), self._aside(key, "old")
        if target.exists():
            remove_tree(old, disk=self.disk)
            self.disk.rename(target, old)
        try:
            self.disk.rename(staged, target)
        except OSError:
            if old.exists():
                self.disk.rename(old, target)
            raise
        self.disk.sync_dir(target.parent)
        remove_tree(old, disk=self.disk)

    def _sync_file(self, path: Path) -> None:
        # What the digest was computed over may still be only in memory: the writer may have died before its sync.
        file = self.disk.append(path)
        try:
            file.sync()
        finally:
            file.close()

    def _drop_strangers(self, staged: StagedPackage) -> None:
        for path in sorted(staged.folder.iterdir()):
            if path.name != MANIFEST_FILE and path.name not in staged.files:
                remove_tree(path, disk=self.disk)

    def _drop_empty(self, folder: Path) -> None:
        if not any(folder.iterdir()):
            self.disk.rmdir(folder)

    def _kept_aside(self, kind: str) -> list[Key]:
        found = []
        for path in self.root.glob(f"*/.*.{kind}"):
            version = path.name[1 : -len(kind) - 1]
            if is_model_name(path.parent.name) and _VERSION.fullmatch(version):
                found.append((path.parent.name, int(version)))
        return sorted(found)

    def _recover(self) -> None:
        """Finish what a cut left: a replacement half-way goes back to the old build, removals end."""
        for key in self._kept_aside("old"):
            target, old = self.folder(*key), self._aside(key, "old")
            if target.exists():
                remove_tree(old, disk=self.disk)
            else:
                self.disk.rename(old, target)
                self.disk.sync_dir(target.parent)
        for key in self._kept_aside("gone"):
            gone = self._aside(key, "gone")
            remove_tree(gone, disk=self.disk)
            self._drop_empty(gone.parent)


def needed_files(manifest: Manifest, here: Platform | None) -> tuple[str, ...]:
    """The files this machine needs: of variants that fit it, the golden vectors, and those that belong to no variant.

    Raises:
        PackageError: no variant fits.
    """
    if here is None:
        return tuple(sorted(manifest.files))
    fits = [variant for variant in manifest.variants if variant.platform.matches(here)]
    if not fits:
        raise PackageError(
            f"no variant of {manifest.name} {manifest.version} fits this machine ({here.os} {here.arch}, "
            f"engines {', '.join(here.engines) or 'none'})",
            hint="publish a variant for this platform, or install an engine that one of them needs",
        )
    wanted = {name for variant in fits for name in (variant.file, *variant.files)}
    of_others = {name for variant in manifest.variants for name in (variant.file, *variant.files)} - wanted
    if manifest.golden is not None:
        of_others.discard(manifest.golden.file)
    return tuple(sorted(set(manifest.files) - of_others))


def digest_of(path: Path) -> str:
    """SHA-256 of a file's content, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _check(path: Path, entry: FileEntry) -> None:
    size_bytes = _size(path)
    if size_bytes is None:
        raise DigestMismatchError(f"{path.name} is missing from its package")
    check_file(entry, digest_of(path) if size_bytes == entry.size_bytes else "", size_bytes)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
