"""The outbox's file: one SQLite database, opened by one process, and what to do when it is damaged.

WAL with ``synchronous=FULL``: a committed transaction survives a power cut on a disk that honours flushes. The file is
locked for as long as it is open, so a second process with the same home is refused instead of mixing sequences.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aimass.device.files import LOCAL_DISK, remove_file
from aimass.errors import AimassError, ConflictError, NoSpaceError, StoreError

log = logging.getLogger(__name__)

_FORMAT = 1
_BUSY_S = 1.0  # a process that was just killed gives its lock back within this time
_WAL_KEPT_BYTES = 4 * 1024 * 1024
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE streams (
    name TEXT PRIMARY KEY, next_seq INTEGER NOT NULL, acked_seq INTEGER NOT NULL, acked_high INTEGER NOT NULL,
    sent_seq INTEGER NOT NULL, epoch INTEGER, appended INTEGER NOT NULL, sent INTEGER NOT NULL, acked INTEGER NOT NULL,
    dropped INTEGER NOT NULL, rejected INTEGER NOT NULL, rewound INTEGER NOT NULL, evicted INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE records (
    stream TEXT NOT NULL, seq INTEGER NOT NULL, first_seq INTEGER NOT NULL, id TEXT NOT NULL, at_ms INTEGER NOT NULL,
    kind TEXT NOT NULL, data TEXT NOT NULL, size INTEGER NOT NULL, PRIMARY KEY (stream, seq)
) WITHOUT ROWID;
CREATE INDEX records_by_id ON records (stream, id);
"""


@dataclass(slots=True)
class StreamState:
    """One row of ``streams``; the names are the columns.

    Attributes:
        next_seq: the sequence number of the next record.
        acked_seq: the cloud has all up to here; goes back when the cloud comes back from a backup.
        acked_high: the highest it ever was.
        sent_seq: all up to here was handed to the link at least once.
        epoch: of the cloud's store that acknowledged last.
        evicted: records that a restored cloud asked for again and that were not kept any more.
    """

    name: str
    next_seq: int = 1
    acked_seq: int = 0
    acked_high: int = 0
    sent_seq: int = 0
    epoch: int | None = None
    appended: int = 0
    sent: int = 0
    acked: int = 0
    dropped: int = 0
    rejected: int = 0
    rewound: int = 0
    evicted: int = 0


_COLUMNS = tuple(StreamState.__dataclass_fields__)
_SAVE = f"INSERT OR REPLACE INTO streams ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608


@dataclass(frozen=True, slots=True)
class Damage:
    """What is known of a file that had to be given up.

    Attributes:
        stream_id: of the file, if it could still be read.
        unacknowledged: records of each stream that the cloud had not confirmed, as far as could be read.
    """

    stream_id: str = ""
    unacknowledged: dict[str, int] = field(default_factory=dict)


class OutboxFile:
    """The open database. Every access happens under ``lock``.

    Args:
        path: the database; its folder exists.
        max_bytes: the file never grows above this.

    Raises:
        ConflictError: another process has it open.
        StoreError: it cannot be opened, or a newer version of the program made it.
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.lock = threading.RLock()
        self.damage: Damage | None = None
        self._path = path
        self._max_bytes = max_bytes
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as exc:
            if not _is_damage(exc):
                raise _named(exc, path) from exc
            log.exception("%s is damaged; it is moved aside and a new one begun", path)
            self.damage = _move_aside(path)
            with _errors_named(path):
                self._db = self._open()
        self.stream_id = self.meta("stream_id") or ""

    def meta(self, key: str) -> str | None:
        """A value of the file as a whole."""
        row = self.run("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Set a value of the file as a whole."""
        self.run("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def states(self) -> list[StreamState]:
        """All streams as they are on disk."""
        rows = self.run(f"SELECT {', '.join(_COLUMNS)} FROM streams ORDER BY name")  # noqa: S608
        return [StreamState(*row) for row in rows]

    def save(self, state: StreamState) -> None:
        """Write one stream's row."""
        self.run(_SAVE, tuple(getattr(state, column) for column in _COLUMNS))

    def run(self, sql: str, parameters: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """Run one statement.

        Raises:
            NoSpaceError: the disk or the file's bound is full.
            StoreError: the disk fails.
        """
        try:
            return self._db.execute(sql, parameters)
        except sqlite3.Error as exc:
            raise _named(exc, self._path) from exc

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and on the medium when it ends.

        Raises:
            NoSpaceError: the disk or the file's bound is full; nothing of it is there.
            StoreError: the disk fails; nothing of it is there.
        """
        with self.lock, _errors_named(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk ends the transaction by itself
                    self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file and give the lock back."""
        with self.lock:
            self._db.close()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        LOCAL_DISK.sync_dir(self._path.parent)
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")  # before WAL: then no shared-memory file is needed
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}")
        page_bytes = int(db.execute("PRAGMA page_size").fetchone()[0])
        db.execute(f"PRAGMA max_page_count = {max(self._max_bytes // page_bytes, 16)}")
        checked = db.execute("PRAGMA quick_check(1)").fetchone()
        if checked is None or checked[0] != "ok":
            raise _DamageFound(f"quick_check: {checked}")
        made_by = int(db.execute("PRAGMA user_version").fetchone()[0])
        if made_by > _FORMAT:
            raise StoreError(f"{self._path} was made by a newer version of the program", hint="update the program")
        db.execute("BEGIN IMMEDIATE")  # takes the lock, even when there is nothing to write
        if made_by == 0:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute("INSERT INTO meta VALUES ('stream_id', ?)", (uuid.uuid4().hex,))
            db.execute(f"PRAGMA user_version = {_FORMAT}")
        db.execute("COMMIT")


class _DamageFound(sqlite3.DatabaseError):
    """SQLite's own check found something."""


def _is_damage(exc: sqlite3.Error) -> bool:
    return isinstance(exc, _DamageFound) or _code(exc) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _code(exc: sqlite3.Error) -> int:
    """SQLite's primary result code, or -1 for errors of the Python module itself."""
    return getattr(exc, "sqlite_errorcode", -1) & 0xFF if hasattr(exc, "sqlite_errorcode") else -1


def _named(exc: sqlite3.Error, path: Path) -> AimassError:
    code = _code(exc)
    if code == sqlite3.SQLITE_FULL:
        return NoSpaceError(f"no space left in {path.name}")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return ConflictError(f"{path} is in use by another process", hint="one process at a time owns this folder")
    return StoreError(f"{path}: {exc}", hint="check the disk and the folder's permissions")


@contextlib.contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        raise _named(exc, path) from exc


def _move_aside(path: Path) -> Damage:
    """Keep one damaged file for whoever wants to look; an older one makes room."""
    aside = path.with_name(path.name + ".damaged")
    for suffix in ("", "-wal", "-shm"):
        source, target = path.with_name(path.name + suffix), aside.with_name(aside.name + suffix)
        remove_file(target)
        if source.exists():
            LOCAL_DISK.rename(source, target)
    LOCAL_DISK.sync_dir(path.parent)
    return _salvage(aside)


def _salvage(path: Path) -> Damage:
    """Read what can still be read of a damaged file, to say how much was lost."""
    damage = Damage()
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as db:
        row = db.execute("SELECT value FROM meta WHERE key = 'stream_id'").fetchone()
        damage = Damage(str(row[0]) if row else "")
        for name, next_seq, acked_seq in db.execute("SELECT name, next_seq, acked_seq FROM streams"):
            damage.unacknowledged[str(name)] = int(next_seq) - 1 - int(acked_seq)
    return damage
