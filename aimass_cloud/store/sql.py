"""The store on SQL: engine, transactions, and where foreign errors become ours.

SQLite is the embedded default: write-ahead log (readers never wait for the writer), ``synchronous=FULL`` (a commit has
reached the disk when it returns), foreign keys on. Writers of this process take turns at a lock, those of other
processes (``aimass-cloud enrol-token`` beside a running cloud) wait at the database; a write transaction takes its lock
when it begins, because one that begins as a reader can fail for good when it wants to write.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from aimass.device.files import make_folder
from aimass.errors import NoSpaceError, OverloadError, StoreError
from aimass_cloud.store.access import SqlApiKeys, SqlIdempotency
from aimass_cloud.store.base import Transaction
from aimass_cloud.store.deployments import SqlDeployments
from aimass_cloud.store.devices import SqlDevices
from aimass_cloud.store.events import SqlEvents
from aimass_cloud.store.identities import SqlCertificates, SqlTokens
from aimass_cloud.store.meta import EPOCH, SqlMeta
from aimass_cloud.store.migrate import migrate
from aimass_cloud.store.models import SqlModels
from aimass_cloud.store.twins import SqlTwins

BUSY_TIMEOUT_S = 20.0
_WRITING = "aimass_writing"


@dataclass(frozen=True, slots=True)
class SqlTransaction:
    """One session, seen concept by concept."""

    devices: SqlDevices
    certificates: SqlCertificates
    tokens: SqlTokens
    models: SqlModels
    deployments: SqlDeployments
    twins: SqlTwins
    events: SqlEvents
    api_keys: SqlApiKeys
    idempotency: SqlIdempotency
    meta: SqlMeta

    @classmethod
    def over(cls, session: Session) -> SqlTransaction:
        """All concepts on one session."""
        return cls(
            devices=SqlDevices(session),
            certificates=SqlCertificates(session),
            tokens=SqlTokens(session),
            models=SqlModels(session),
            deployments=SqlDeployments(session),
            twins=SqlTwins(session),
            events=SqlEvents(session),
            api_keys=SqlApiKeys(session),
            idempotency=SqlIdempotency(session),
            meta=SqlMeta(session),
        )


class SqlStore:
    """Fulfils :class:`~aimass_cloud.store.base.Store`; made by :meth:`open`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = engine.execution_options(**{_WRITING: True})
        self._turn = threading.Lock()

    @classmethod
    def open(cls, path: Path, *, clock: Callable[[], float] = time.time) -> SqlStore:
        """Opens the database file, makes it when absent, and brings it to this program's schema.

        Args:
            path: the file; its folder is made when absent.
            clock: unix seconds; a new database gets its epoch from it.

        Raises:
            ConfigError: made by a newer program.
            StoreError: not a database, or damaged.
        """
        make_folder(path.parent)
        store = cls(sqlite_engine(path))
        try:
            store._prepare(round(clock() * 1000))
        except BaseException:
            store.close()
            raise
        return store

    @property
    def epoch(self) -> int:
        """Unix milliseconds of when this store was made or last restored."""
        with self.read() as tx:
            return tx.meta.epoch()

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """One consistent view, for reading only."""
        with _ours(), Session(self._engine) as session:
            yield SqlTransaction.over(session)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """One transaction; durable when the block has ended without an exception."""
        with _ours(), self._turn, Session(self._writing) as session, session.begin():
            yield SqlTransaction.over(session)

    def close(self) -> None:
        """Ends all connections."""
        self._engine.dispose()

    def _prepare(self, now_ms: int) -> None:
        with _ours(), self._writing.begin() as connection:
            migrate(connection)
        with self.write() as tx:
            if tx.meta.get(EPOCH) is None:
                tx.meta.put(EPOCH, str(now_ms))


def sqlite_engine(path: Path) -> Engine:
    """An engine on a SQLite file, with our settings on each connection."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _record: Any) -> None:
        # The driver must not begin transactions by itself: it does so late, and only before some statements.
        connection.isolation_level = None
        _use_write_ahead_log(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begun(connection: Any) -> None:
        writing = connection.get_execution_options().get(_WRITING, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """SQLite does not wait for others at this one statement, when two open a new file at the same moment: so we do."""
    give_up_at = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)


@contextmanager
def _ours() -> Iterator[None]:
    try:
        yield
    except DBAPIError as exc:
        raise named(exc.orig) from exc
    except SQLAlchemyError as exc:
        raise StoreError(f"the database refused: {exc}") from exc


def named(error: BaseException | None) -> StoreError | OverloadError:
    """The driver's error as ours."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return NoSpaceError("the disk is full: the database cannot grow")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return OverloadError("the database is busy")
    return StoreError(f"the database failed: {error}")
