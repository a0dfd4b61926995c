"""Backups as one file, for those who keep them so; what a backup is, :mod:`aimass_cloud.store.backup` knows."""

from __future__ import annotations

import os
import tarfile
import tempfile
from pathlib import Path

from aimass.device.files import full_disk_is_no_space
from aimass.errors import ConfigError, ConflictError
from aimass_cloud.store.backup import BackupInfo, backup, restore

FILE_ENDINGS = (".tar.gz", ".tgz")
INSIDE = "backup"


def write_backup(state_dir: Path, target: Path) -> BackupInfo:
    """Write a backup to a new folder, or to a file when the name ends in ``.tar.gz``.

    Raises:
        ConflictError: ``target`` exists.
        ConfigError: there is no cloud in ``state_dir``.
        NoSpaceError: the disk is full; nothing is left.
    """
    if not target.name.endswith(FILE_ENDINGS):
        return backup(state_dir, target)
    if target.exists():
        raise ConflictError(f"{target} exists already", hint="choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder,
        full_disk_is_no_space("the backup"),
    ):
        info = backup(state_dir, Path(folder) / INSIDE)
        part = Path(folder) / "part"
        descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive:
            archive.add(Path(folder) / INSIDE, arcname=INSIDE)
        part.rename(target)
    return info


def read_backup(source: Path, state_dir: Path) -> BackupInfo:
    """Put a backup, a folder or a file, into ``state_dir``.

    Raises:
        ConfigError: it is no backup.
        ConflictError: the cloud is running.
        DigestMismatchError: it is damaged.
    """
    if source.is_dir():
        return restore(source, state_dir)
    state_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=state_dir.parent) as folder:
        try:
            with tarfile.open(source, "r:gz") as archive:
                archive.extractall(folder, filter="data")
        except (tarfile.TarError, EOFError, OSError) as exc:
            hint = "name the folder or file that 'backup' wrote"
            raise ConfigError(f"{source} is not a backup: {exc}", hint=hint) from exc
        return restore(Path(folder) / INSIDE, state_dir)
