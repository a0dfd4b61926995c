"""Backup of a running cloud, and restore of a stopped one.

A backup is a folder: the database as it was at one moment, the blobs it needs, keys, authority and settings. It holds
every secret of the cloud but the api-keys and enrol-tokens (of which only digests exist): keep it as you keep the keys.
Not in it: the broker's folder (made again at each start) and the homes of pool workers (they enrol again).

A restored store gets a *new epoch*, later than every earlier one: desired documents count from one again, and devices
that hear an acknowledgement below what they have sent rewind and send again what the backup does not have.
What the replaced database knows about certificates is kept: who was revoked after the backup stays revoked, and who was
renewed after it stays known.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from aimass.device.files import LOCAL_DISK, full_disk_is_no_space, make_folder, write_atomic
from aimass.errors import ConfigError, ConflictError, OverloadError, StoreError
from aimass_cloud.blobs.local import LocalBlobStore
from aimass_cloud.store.lock import state_lock
from aimass_cloud.store.sql import SqlStore, named

DATABASE = "aimass.db"
NOTE = "backup.json"
FORMAT = 1
COPIED = ("pki", "keys", "cloud.toml")


@dataclass(frozen=True, slots=True)
class BackupInfo:
    """What a backup holds. ``epoch`` is the store's; after a restore, the new one."""

    made_at_ms: int
    epoch: int
    blobs: int
    blob_bytes: int
    format: int = FORMAT


def backup(state_dir: Path, target: Path, *, clock: Callable[[], float] = time.time) -> BackupInfo:
    """Writes a backup of the cloud in ``state_dir``, which may be running, to the new folder ``target``.

    Raises:
        ConflictError: ``target`` exists.
        ConfigError: there is no cloud in ``state_dir``.
        NoSpaceError: the disk is full; nothing is left.
    """
    if target.exists():
        raise ConflictError(f"{target} exists already")
    if not (state_dir / DATABASE).is_file():
        raise ConfigError(f"there is no cloud in {state_dir}", hint="name its folder with --dir")
    make_folder(target.parent)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.mkdir(mode=0o700)
        info = _fill(state_dir, part, round(clock() * 1000))
        part.rename(target)
        LOCAL_DISK.sync_dir(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return info


def restore(source: Path, state_dir: Path, *, clock: Callable[[], float] = time.time) -> BackupInfo:
    """Puts the backup in ``source`` into ``state_dir``, where no cloud may be running.

    A database that is there is kept beside the new one, as ``aimass.db.before-restore``.

    Raises:
        ConfigError: ``source`` is not a backup, or one of a newer program.
        ConflictError: the cloud is running.
        DigestMismatchError: a blob in the backup is damaged.
    """
    info = read_note(source)
    with state_lock(state_dir):
        _copy_blobs(source, state_dir)
        for name in COPIED:
            _copy(source / name, state_dir / name)
        database, incoming = state_dir / DATABASE, state_dir / f"{DATABASE}.restoring"
        with full_disk_is_no_space("the database"):
            _forget(incoming)
            _copy_database(source / DATABASE, incoming)
            old_epoch = _settle(database)
            epoch = max(round(clock() * 1000), info.epoch + 1, old_epoch + 1)
            _enter_epoch(incoming, epoch, merge=database if old_epoch else None)
            if database.exists():
                shutil.copyfile(database, state_dir / f"{DATABASE}.before-restore")
            incoming.replace(database)
            LOCAL_DISK.sync_dir(state_dir)
    return BackupInfo(made_at_ms=info.made_at_ms, epoch=epoch, blobs=info.blobs, blob_bytes=info.blob_bytes)


def read_note(source: Path) -> BackupInfo:
    """What a backup says about itself; ConfigError when it is none."""
    try:
        info = BackupInfo(**json.loads((source / NOTE).read_bytes()))
    except (OSError, ValueError, TypeError) as exc:
        raise ConfigError(f"{source} is not a backup: {exc}", hint="name the folder that 'backup' wrote") from exc
    if info.format != FORMAT:
        raise ConfigError(f"{source} was written by another version of this program (format {info.format})")
    return info


def _fill(state_dir: Path, part: Path, now_ms: int) -> BackupInfo:
    with full_disk_is_no_space("the backup"):
        # The database first: blobs are never changed, so all that it names are there when they are copied.
        _copy_database(state_dir / DATABASE, part / DATABASE)
        with closing(SqlStore.open(part / DATABASE)) as store, store.read() as tx:
            epoch, needed = tx.meta.epoch(), tx.models.blobs()
        source, target = LocalBlobStore(state_dir / "blobs"), LocalBlobStore(part / "blobs")
        copied = [target.put(source.open(digest), sha256=digest) for digest in sorted(needed)]
        for name in COPIED:
            _copy(state_dir / name, part / name)
        info = BackupInfo(now_ms, epoch, len(copied), sum(blob.size_bytes for blob in copied))
        write_atomic(part / NOTE, json.dumps(asdict(info)).encode(), mode=0o600)
    return info


def _copy_blobs(source: Path, state_dir: Path) -> None:
    stored, target = LocalBlobStore(source / "blobs"), LocalBlobStore(state_dir / "blobs")
    for blob in stored.list():
        target.put(stored.open(blob.sha256), sha256=blob.sha256)


def _copy(source: Path, target: Path) -> None:
    """A file or a folder with all in it; absent is fine."""
    if source.is_dir():
        make_folder(target)
        for child in source.iterdir():
            _copy(child, target / child.name)
    elif source.is_file():
        write_atomic(target, source.read_bytes(), mode=source.stat().st_mode & 0o777)


def _copy_database(source: Path, target: Path) -> None:
    """The database as it is at this moment, whoever writes to it meanwhile, durable on return."""
    with _ours(), closing(_connect(source)) as reading, closing(sqlite3.connect(target)) as writing:
        reading.backup(writing)
        if (said := writing.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
            raise StoreError(f"{source} is damaged: {said}")
        # One file, without a log beside it: it will be renamed.
        writing.execute("PRAGMA journal_mode=DELETE")
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _settle(database: Path) -> int:
    """Empties the write-ahead log into the database that is to be replaced, and answers its epoch; 0 when unreadable.

    A log left beside the new file would be played back into it.
    """
    epoch = 0
    if database.exists():
        try:
            with closing(_connect(database)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                connection.execute("PRAGMA journal_mode=DELETE")
                epoch = int(connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0])
        except (sqlite3.Error, TypeError, ValueError) as exc:
            if isinstance(refusal := named(exc), OverloadError):
                raise refusal from exc  # in use: its log is still needed
            epoch = 0  # damaged: the usual reason for a restore
    for suffix in ("-wal", "-shm", "-journal"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    return epoch


def _enter_epoch(database: Path, epoch: int, *, merge: Path | None) -> None:
    with _ours(), closing(_connect(database)) as connection:
        if merge is not None:
            connection.execute("ATTACH ? AS old", (str(merge),))
        with connection:
            connection.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (str(epoch),))
            if merge is not None and _same_schema(connection):
                connection.execute("INSERT OR IGNORE INTO certificates SELECT * FROM old.certificates")
                connection.execute(
                    "UPDATE certificates AS new SET revoked_at_ms = old.revoked_at_ms, reason = old.reason "
                    "FROM old.certificates AS old WHERE old.serial = new.serial "
                    "AND new.revoked_at_ms IS NULL AND old.revoked_at_ms IS NOT NULL"
                )


def _same_schema(connection: sqlite3.Connection) -> bool:
    query = "SELECT (SELECT version_num FROM alembic_version) = (SELECT version_num FROM old.alembic_version)"
    return bool(connection.execute(query).fetchone()[0])


def _forget(database: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    """An existing database; the driver would make a missing one."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=20)


@contextmanager
def _ours() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        raise named(exc) from exc
