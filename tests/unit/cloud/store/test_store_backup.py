"""Backup of a running cloud and restore: what is in it, what happens to time, and what a crash or a mistake leaves."""

import json
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path

import pytest

from aimass.errors import ConfigError, ConflictError, DigestMismatchError, NotFoundError, OverloadError, StoreError
from aimass_cloud.blobs.local import LocalBlobStore
from aimass_cloud.store.backup import backup, restore
from aimass_cloud.store.lock import state_lock
from aimass_cloud.store.records import CertificateRecord, VersionRecord
from aimass_cloud.store.sql import SqlStore

MADE = 1_800_000_000.0
MADE_MS = round(MADE * 1000)
DAY_S = 86_400


def seal(_epoch: int, _version: int) -> bytes:
    return b"x"


class Cloud:
    """A state folder with a little of everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = SqlStore.open(folder / "aimass.db", clock=lambda: MADE)
        self.blobs = LocalBlobStore(folder / "blobs")
        for name, text in {"pki/root.pem": "root", "keys/control.pem": "secret", "cloud.toml": "hosts = []"}.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        (folder / "keys/control.pem").chmod(0o600)
        self.blob = self.blobs.put([b"weights"]).sha256
        self.add_model(self.blob)
        self.add_device("gw-1")

    def add_device(self, device: str) -> None:
        with self.store.write() as tx:
            tx.devices.put(device, role="device", pool="", now_ms=MADE_MS)

    def add_model(self, blob: str) -> None:
        manifest = self.blobs.put([b"manifest"]).sha256
        with self.store.write() as tx:
            tx.models.add_version(
                VersionRecord(
                    model="digits",
                    version=tx.models.next_version("digits", now_ms=MADE_MS),
                    created_at_ms=MADE_MS,
                    created_by="k",
                    manifest_sha256=manifest,
                    manifest_json="{}",
                    files=(blob,),
                    size_bytes=7,
                )
            )

    def devices(self) -> list[str]:
        with self.store.read() as tx:
            return [d.id for d in tx.devices.list()]

    def reopen(self) -> None:
        self.store.close()
        self.store = SqlStore.open(self.folder / "aimass.db")


@pytest.fixture
def cloud(tmp_path: Path):
    cloud = Cloud(tmp_path / "cloud")
    yield cloud
    cloud.store.close()


def certificate(serial: str, identity: str = "gw-1") -> CertificateRecord:
    return CertificateRecord(
        serial=serial,
        identity=identity,
        kind="device",
        key_sha256="k",
        pem="p",
        issued_at_ms=MADE_MS,
        not_after_ms=MADE_MS + 30 * DAY_S * 1000,
    )


def test_a_backup_of_a_running_cloud_restores_into_an_empty_folder(cloud: Cloud, tmp_path: Path) -> None:
    made = backup(cloud.folder, tmp_path / "backup", clock=lambda: MADE + 10)
    assert (made.made_at_ms, made.epoch, made.blobs) == (MADE_MS + 10_000, MADE_MS, 2)
    cloud.add_device("gw-2")
    restore(tmp_path / "backup", tmp_path / "other")
    other = SqlStore.open(tmp_path / "other" / "aimass.db")
    with other.read() as tx:
        assert [d.id for d in tx.devices.list()] == ["gw-1"]
        assert tx.models.get("digits").newest == 1
    other.close()
    assert b"".join(LocalBlobStore(tmp_path / "other" / "blobs").open(cloud.blob)) == b"weights"
    for name in ("pki/root.pem", "keys/control.pem", "cloud.toml"):
        assert (tmp_path / "other" / name).read_text() == (cloud.folder / name).read_text()
    assert stat.S_IMODE((tmp_path / "other" / "keys/control.pem").stat().st_mode) == 0o600


def test_a_backup_is_readable_by_its_owner_only(cloud: Cloud, tmp_path: Path) -> None:
    backup(cloud.folder, tmp_path / "backup")
    assert stat.S_IMODE((tmp_path / "backup").stat().st_mode) == 0o700


def test_a_backup_taken_while_others_write_is_whole(cloud: Cloud, tmp_path: Path) -> None:
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            cloud.add_device(f"busy-{number}")
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            backup(cloud.folder, tmp_path / f"backup-{number}")
    finally:
        done.set()
        writer.join(30)
    with closing(sqlite3.connect(tmp_path / "backup-2" / "aimass.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize(
    ("now", "expected"),
    [(MADE + DAY_S, MADE_MS + DAY_S * 1000), (MADE - DAY_S, MADE_MS + 1), (MADE, MADE_MS + 1)],
    ids=["clock runs", "clock went back", "same moment"],
)
def test_a_restored_store_has_a_later_epoch(cloud: Cloud, tmp_path: Path, now: float, expected: int) -> None:
    backup(cloud.folder, tmp_path / "backup")
    restored = restore(tmp_path / "backup", tmp_path / "other", clock=lambda: now)
    assert restored.epoch == expected
    other = SqlStore.open(tmp_path / "other" / "aimass.db")
    assert other.epoch == expected
    other.close()


def test_each_restore_over_the_same_folder_has_a_later_epoch_than_the_last(cloud: Cloud, tmp_path: Path) -> None:
    backup(cloud.folder, tmp_path / "backup")
    cloud.store.close()
    epochs = [restore(tmp_path / "backup", cloud.folder, clock=lambda: MADE + DAY_S).epoch for _ in range(3)]
    assert epochs == [MADE_MS + DAY_S * 1000 + n for n in range(3)]


def test_a_restore_goes_back_and_keeps_the_replaced_database_beside(cloud: Cloud, tmp_path: Path) -> None:
    backup(cloud.folder, tmp_path / "backup")
    cloud.add_device("gw-2")
    cloud.store.close()
    restore(tmp_path / "backup", cloud.folder)
    cloud.reopen()
    assert cloud.devices() == ["gw-1"]
    with closing(sqlite3.connect(cloud.folder / "aimass.db.before-restore")) as connection:
        assert connection.execute("SELECT count(*) FROM devices").fetchone() == (2,)


def test_desired_documents_are_made_again_after_a_restore(cloud: Cloud, tmp_path: Path) -> None:
    for content in ("A", "B"):
        with cloud.store.write() as tx:
            tx.twins.put_desired("gw-1", content, seal, now_ms=MADE_MS)
    backup(cloud.folder, tmp_path / "backup")
    cloud.store.close()
    epoch = restore(tmp_path / "backup", cloud.folder).epoch
    cloud.reopen()
    with cloud.store.write() as tx:
        record, new = tx.twins.put_desired("gw-1", "B", seal, now_ms=MADE_MS)
    assert (record.epoch, record.version, new) == (epoch, 1, True)


def test_who_was_revoked_after_the_backup_stays_revoked_and_who_was_renewed_stays_known(
    cloud: Cloud, tmp_path: Path
) -> None:
    with cloud.store.write() as tx:
        tx.certificates.add(certificate("01"))
        tx.certificates.add(certificate("02", "gw-2"))
    backup(cloud.folder, tmp_path / "backup")
    with cloud.store.write() as tx:
        tx.certificates.revoke("gw-1", now_ms=MADE_MS, reason="stolen")
        tx.certificates.add(certificate("03", "gw-2"))
    cloud.store.close()
    restore(tmp_path / "backup", cloud.folder)
    cloud.reopen()
    with cloud.store.read() as tx:
        assert [(c.serial, c.reason) for c in tx.certificates.revoked(now_ms=MADE_MS)] == [("01", "stolen")]
        assert sorted(c.serial for c in tx.certificates.usable("gw-2", now_ms=MADE_MS)) == ["02", "03"]


def test_restores_over_a_database_that_is_damaged(cloud: Cloud, tmp_path: Path) -> None:
    backup(cloud.folder, tmp_path / "backup")
    cloud.store.close()
    (cloud.folder / "aimass.db").write_bytes(b"\xff" * 8192)
    (cloud.folder / "aimass.db-wal").write_bytes(b"\xff" * 8192)
    restore(tmp_path / "backup", cloud.folder)
    cloud.reopen()
    assert cloud.devices() == ["gw-1"]


def test_a_running_cloud_is_not_restored(cloud: Cloud, tmp_path: Path) -> None:
    backup(cloud.folder, tmp_path / "backup")
    with state_lock(cloud.folder), pytest.raises(ConflictError, match="running"):
        restore(tmp_path / "backup", cloud.folder)
    with pytest.raises(OverloadError), cloud.store.write():  # a command is using the database
        restore(tmp_path / "backup", cloud.folder)
    assert cloud.devices() == ["gw-1"]


def test_two_clouds_never_run_on_one_folder_and_the_lock_ends_with_its_block(tmp_path: Path) -> None:
    with state_lock(tmp_path), pytest.raises(ConflictError), state_lock(tmp_path):
        pass
    with state_lock(tmp_path):
        pass


def test_never_writes_over_an_earlier_backup(cloud: Cloud, tmp_path: Path) -> None:
    backup(cloud.folder, tmp_path / "backup")
    with pytest.raises(ConflictError):
        backup(cloud.folder, tmp_path / "backup")


def test_a_backup_that_fails_leaves_nothing(cloud: Cloud, tmp_path: Path) -> None:
    cloud.blobs.delete(cloud.blob)
    with pytest.raises(NotFoundError):
        backup(cloud.folder, tmp_path / "out" / "backup")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_without_a_cloud_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no cloud"):
        backup(tmp_path, tmp_path / "backup")


@pytest.mark.parametrize("note", [None, b"", b"{}", b"[]", b'{"colour": 1}'])
def test_what_is_not_a_backup_is_refused(tmp_path: Path, note: bytes | None) -> None:
    if note is not None:
        (tmp_path / "backup.json").write_bytes(note)
    with pytest.raises(ConfigError, match="not a backup"):
        restore(tmp_path, tmp_path / "cloud")
    assert not (tmp_path / "cloud").exists()


def test_a_backup_of_a_later_format_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    backup(cloud.folder, tmp_path / "backup")
    note = tmp_path / "backup" / "backup.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "format": 99}))
    with pytest.raises(ConfigError, match="format 99"):
        restore(tmp_path / "backup", tmp_path / "other")


def test_a_damaged_backup_is_refused_and_the_cloud_stays_as_it_was(cloud: Cloud, tmp_path: Path) -> None:
    backup(cloud.folder, tmp_path / "backup")
    cloud.store.close()
    blob = tmp_path / "backup" / "blobs" / cloud.blob[:2] / cloud.blob
    kept = blob.read_bytes()
    blob.write_bytes(b"rotten")
    with pytest.raises(DigestMismatchError):
        restore(tmp_path / "backup", cloud.folder)
    blob.write_bytes(kept)
    (tmp_path / "backup" / "aimass.db").write_bytes(b"\xff" * 8192)
    with pytest.raises(StoreError):
        restore(tmp_path / "backup", cloud.folder)
    cloud.reopen()
    assert (cloud.devices(), cloud.store.epoch) == (["gw-1"], MADE_MS)
