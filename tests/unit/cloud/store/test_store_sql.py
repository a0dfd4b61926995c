"""The SQL store itself: schema, durability settings, other processes, and foreign errors."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine

from aimass.errors import ConfigError, NoSpaceError, OverloadError, StoreError
from aimass_cloud.store.sql import SqlStore, named, sqlite_engine
from aimass_cloud.store.tables import Table

NOW = 1_800_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "aimass.db"


@pytest.fixture
def store(path: Path):
    store = SqlStore.open(path, clock=lambda: NOW)
    yield store
    store.close()


def differences(engine: Engine) -> list:
    with engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection), Table.metadata))


def test_the_migrations_make_exactly_the_tables_of_the_code(store: SqlStore, path: Path) -> None:
    engine = sqlite_engine(path)
    assert differences(engine) == []
    engine.dispose()


def test_a_commit_is_on_the_disk_when_it_returns(path: Path, store: SqlStore) -> None:
    engine = sqlite_engine(path)
    with engine.connect() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    engine.dispose()
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}  # 2 is FULL


def test_opening_again_keeps_everything_and_the_epoch(path: Path, store: SqlStore) -> None:
    with store.write() as tx:
        tx.devices.put("gw-1", role="device", pool="", now_ms=1)
    again = SqlStore.open(path, clock=lambda: NOW + 1000)
    assert again.epoch == NOW * 1000
    with again.read() as tx:
        assert tx.devices.get("gw-1").role == "device"
    again.close()


def test_two_that_make_the_same_database_at_once_agree_on_its_epoch(path: Path) -> None:
    stores: list[SqlStore] = []
    barrier = threading.Barrier(3)

    def work(number: int) -> None:
        barrier.wait(30)
        stores.append(SqlStore.open(path, clock=lambda: NOW + number))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len({store.epoch for store in stores}) == 1
    assert len(stores) == 3
    for store in stores:
        store.close()


def test_a_database_of_a_newer_program_is_refused(path: Path, store: SqlStore) -> None:
    store.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match="9999"):
        SqlStore.open(path)


def test_a_file_that_is_no_database_is_named(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"hello" * 1000)
    with pytest.raises(StoreError, match="not a database"):
        SqlStore.open(path)


def test_a_writer_waits_for_another_process_that_writes(path: Path, store: SqlStore) -> None:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    done = threading.Event()

    def write() -> None:
        with store.write() as tx:
            tx.meta.put("a", "b")
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert not done.wait(0.2)
    other.execute("COMMIT")
    assert done.wait(20)
    thread.join(20)
    other.close()


def test_readers_do_not_wait_for_a_writer(store: SqlStore) -> None:
    with store.write() as writing:
        writing.devices.put("gw-1", role="device", pool="", now_ms=1)
        with store.read() as reading:
            assert reading.devices.find("gw-1") is None


def test_a_full_disk_is_named_and_the_store_goes_on(path: Path, store: SqlStore) -> None:
    engine = store._engine
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    def limit(to: int) -> None:
        # The pool hands out the connection returned last: this is the one that the next transaction uses.
        with engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count={to}")

    limit(pages)
    with pytest.raises(NoSpaceError), store.write() as tx:
        tx.meta.put("big", "x" * 1_000_000)
    limit(1_000_000)
    with store.write() as tx:
        assert tx.meta.get("big") is None
        tx.meta.put("small", "x")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, NoSpaceError),
        (sqlite3.SQLITE_BUSY, OverloadError),
        (sqlite3.SQLITE_BUSY | 2 << 8, OverloadError),
        (sqlite3.SQLITE_CORRUPT, StoreError),
    ],
)
def test_errors_of_the_driver_become_ours(code: int, kind: type[Exception]) -> None:
    error = sqlite3.OperationalError("as told")
    error.sqlite_errorcode = code
    assert type(named(error)) is kind
