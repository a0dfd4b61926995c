"""What every store does. A further store (PostgreSQL) is one more entry in ``STORES``."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aimass.errors import AimassError, AuthError, ConflictError, FrameError, ModelNotFoundError, NotFoundError
from aimass_cloud.store.base import Store
from aimass_cloud.store.records import (
    CertificateRecord,
    EventBatch,
    EventRecord,
    ReportedRecord,
    StateWord,
    StoredAnswer,
    VersionRecord,
)
from aimass_cloud.store.sql import SqlStore

STORES: dict[str, Callable[[Path], Store]] = {
    "sqlite": lambda folder: SqlStore.open(folder / "aimass.db", clock=lambda: MADE_MS / 1000)
}
MADE_MS = 1_800_000_000_000
NOW = MADE_MS + 60_000
DAY = 86_400_000


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = STORES[request.param](tmp_path)
    yield store
    store.close()


def add_device(store: Store, *ids: str) -> None:
    with store.write() as tx:
        for device in ids:
            tx.devices.put(device, role="device", pool="", now_ms=NOW)


def add_version(store: Store, model: str = "digits", files: tuple[str, ...] = ()) -> int:
    with store.write() as tx:
        version = tx.models.next_version(model, now_ms=NOW)
        tx.models.add_version(version_record(model, version, files))
    return version


def version_record(model: str, version: int, files: tuple[str, ...] = ()) -> VersionRecord:
    return VersionRecord(
        model=model,
        version=version,
        created_at_ms=NOW,
        created_by="key",
        manifest_sha256=f"manifest-{model}-{version}",
        manifest_json="{}",
        files=files,
        size_bytes=10,
        labels=("zero", "one"),
        metrics={"accuracy": 0.97},
    )


def certificate(serial: str, identity: str = "gw-1", **changes: object) -> CertificateRecord:
    values: dict = {"kind": "device", "key_sha256": "k", "pem": "PEM", "issued_at_ms": NOW, "not_after_ms": NOW + DAY}
    return CertificateRecord(serial=serial, identity=identity, **{**values, **changes})


# --- transactions


def test_a_block_that_raises_changes_nothing(store: Store) -> None:
    def fail_half_way() -> None:
        with store.write() as tx:
            tx.devices.put("gw-1", role="device", pool="", now_ms=NOW)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    with store.read() as tx:
        assert tx.devices.find("gw-1") is None


def test_a_reader_sees_one_moment_while_a_writer_goes_on(store: Store) -> None:
    add_device(store, "gw-1")
    with store.read() as tx:
        before = len(tx.devices.list())
        add_device(store, "gw-2")
        assert len(tx.devices.list()) == before == 1
    with store.read() as tx:
        assert len(tx.devices.list()) == 2


def test_many_threads_write_and_nothing_is_lost(store: Store) -> None:
    failures: list[AimassError] = []

    def work(number: int) -> None:
        try:
            for round_ in range(5):
                add_device(store, f"gw-{number}-{round_}")
                with store.write() as tx:
                    tx.models.next_version("shared", now_ms=NOW)
        except AimassError as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    with store.write() as tx:
        assert len(tx.devices.list()) == 40
        assert tx.models.next_version("shared", now_ms=NOW) == 41


def test_the_epoch_is_the_time_the_store_was_made(store: Store) -> None:
    with store.read() as tx:
        assert tx.meta.epoch() == MADE_MS


def test_keeps_single_values(store: Store) -> None:
    with store.write() as tx:
        assert tx.meta.get("colour") is None
        tx.meta.put("colour", "red")
        tx.meta.put("colour", "blue")
        assert tx.meta.get("colour") == "blue"


# --- devices


def test_lists_devices_in_pages_in_order_of_id(store: Store) -> None:
    add_device(store, "c", "a", "b")
    with store.write() as tx:
        tx.devices.put("svc:w", role="dispatcher", pool="default", now_ms=NOW)
    with store.read() as tx:
        assert [d.id for d in tx.devices.list(limit=2)] == ["a", "b"]
        assert [d.id for d in tx.devices.list(after="b", limit=2)] == ["c", "svc:w"]
        assert [(d.id, d.pool) for d in tx.devices.list(role="dispatcher")] == [("svc:w", "default")]


def test_enrolling_again_keeps_when_the_device_was_made(store: Store) -> None:
    with store.write() as tx:
        first = tx.devices.put("gw-1", role="device", pool="", now_ms=NOW, enrolled=False)
        again = tx.devices.put("gw-1", role="dispatcher", pool="p", now_ms=NOW + 5)
    assert first.enrolled_at_ms is None
    assert (again.created_at_ms, again.enrolled_at_ms, again.role, again.pool) == (NOW, NOW + 5, "dispatcher", "p")


def test_what_is_not_there_is_not_found(store: Store) -> None:
    with store.write() as tx:
        assert tx.devices.find("gw-1") is None
        for ask in (tx.devices.get, tx.devices.remove, tx.certificates.get):
            with pytest.raises(NotFoundError):
                ask("gw-1")


def test_the_family_of_a_device_is_itself_and_its_apps(store: Store) -> None:
    add_device(store, "gw-1", "gw-1:app", "gw-1:cam", "gw-10", "gw-1.a", "gw-2:app")
    with store.read() as tx:
        assert [d.id for d in tx.devices.family("gw-1")] == ["gw-1", "gw-1:app", "gw-1:cam"]
        assert tx.devices.family("gw-3") == []


def test_a_word_of_the_device_is_evidence_and_a_word_of_the_broker_is_not(store: Store) -> None:
    add_device(store, "gw-1")
    word = {"boot": "b1", "agent_version": "0.1", "heartbeat_s": 20.0}
    with store.write() as tx:
        tx.devices.record_state("gw-1", StateWord(state="online", received_at_ms=NOW + 1, **word))
        tx.devices.record_state("gw-1", StateWord(state="lost", received_at_ms=NOW + 9, **word))
        tx.devices.record_state("gw-2", StateWord(state="online", received_at_ms=NOW, **word))
        device = tx.devices.get("gw-1")
    assert (device.state, device.state_at_ms, device.evidence_at_ms) == ("lost", NOW + 9, NOW + 1)
    assert (device.boot, device.agent_version, device.heartbeat_s) == ("b1", "0.1", 20.0)


def test_evidence_moves_forward_only(store: Store) -> None:
    add_device(store, "gw-1", "gw-2")
    with store.write() as tx:
        tx.devices.record_evidence({})
        tx.devices.record_evidence({"gw-1": NOW + 5, "gw-2": NOW, "unknown": NOW})
        tx.devices.record_evidence({"gw-1": NOW + 3, "gw-2": NOW + 7})
        assert [d.evidence_at_ms for d in tx.devices.list()] == [NOW + 5, NOW + 7]


def test_a_removed_device_takes_what_was_only_its_own(store: Store) -> None:
    add_device(store, "gw-1", "gw-2")
    add_version(store)
    with store.write() as tx:
        for device in ("gw-1", "gw-2"):
            tx.twins.put_reported(reported(device))
            tx.deployments.add(model="digits", version=1, alias=None, device=device, now_ms=NOW, created_by="k")
            tx.tokens.create(device, identity=device, role="device", pool="", now_ms=NOW, expires_at_ms=NOW + DAY)
        tx.certificates.add(certificate("01"))
        tx.events.ingest([batch(1)])
        tx.devices.remove("gw-1")
        assert tx.twins.reported("gw-1") is None
        assert tx.tokens.find("gw-1") is None
        assert [d.device for d in tx.deployments.list()] == ["gw-2"]
        assert tx.twins.reported("gw-2") is not None
        assert tx.tokens.find("gw-2") is not None
        assert [c.serial for c in tx.certificates.of("gw-1")] == ["01"]
        assert tx.events.count("gw-1") == 1


# --- certificates


def test_a_certificate_is_kept_once(store: Store) -> None:
    with store.write() as tx:
        tx.certificates.add(certificate("ab"))
        assert tx.certificates.get("ab") == certificate("ab")
        with pytest.raises(ConflictError):
            tx.certificates.add(certificate("ab", "gw-2"))


def test_lists_certificates_of_an_identity_newest_first(store: Store) -> None:
    with store.write() as tx:
        for number, serial in enumerate(("a", "b", "c")):
            tx.certificates.add(certificate(serial, issued_at_ms=NOW + number))
        tx.certificates.add(certificate("d", "gw-1:app"))
        assert [c.serial for c in tx.certificates.of("gw-1")] == ["c", "b", "a"]


def test_an_expired_certificate_is_usable_within_its_grace_and_a_revoked_one_never(store: Store) -> None:
    with store.write() as tx:
        tx.certificates.add(certificate("old", not_after_ms=NOW - DAY))
        tx.certificates.add(certificate("new", issued_at_ms=NOW + 1))
        assert [c.serial for c in tx.certificates.usable("gw-1", now_ms=NOW)] == ["new"]
        assert [c.serial for c in tx.certificates.usable("gw-1", now_ms=NOW, grace_ms=2 * DAY)] == ["new", "old"]
        tx.certificates.revoke("gw-1", now_ms=NOW, reason="removed")
        assert tx.certificates.usable("gw-1", now_ms=NOW, grace_ms=2 * DAY) == []


def test_revokes_all_but_one_and_says_which(store: Store) -> None:
    with store.write() as tx:
        for serial in ("a", "b", "c"):
            tx.certificates.add(certificate(serial))
        assert sorted(tx.certificates.revoke("gw-1", now_ms=NOW, reason="renewed", keep_serial="b")) == ["a", "c"]
        assert tx.certificates.revoke("gw-1", now_ms=NOW + 1, reason="removed") == ["b"]
        assert {c.serial: c.revoked_at_ms for c in tx.certificates.revoked(now_ms=NOW)} == {
            "a": NOW,
            "b": NOW + 1,
            "c": NOW,
        }


def test_the_revocation_list_forgets_what_has_expired(store: Store) -> None:
    with store.write() as tx:
        tx.certificates.add(certificate("a"))
        tx.certificates.revoke("gw-1", now_ms=NOW, reason="removed")
        assert len(tx.certificates.revoked(now_ms=NOW + 2 * DAY)) == 1
        assert tx.certificates.revoked(now_ms=NOW + 2 * DAY + 1) == []
        assert tx.certificates.prune(expired_before_ms=NOW + DAY) == 0
        assert tx.certificates.prune(expired_before_ms=NOW + DAY + 1) == 1


# --- enrol-tokens


def token(store: Store, secret: str = "s3cret", expires_at_ms: int = NOW + DAY) -> None:
    with store.write() as tx:
        tx.tokens.create(secret, identity="gw-1", role="device", pool="", now_ms=NOW, expires_at_ms=expires_at_ms)


def test_a_token_is_used_once_and_remembers_the_answer(store: Store) -> None:
    token(store)
    use = {"key_sha256": "k", "serial": "01", "chain_pem": "CHAIN"}
    with store.write() as tx:
        tx.tokens.use("s3cret", now_ms=NOW, **use)
    with store.write() as tx:
        with pytest.raises(ConflictError):
            tx.tokens.use("s3cret", now_ms=NOW, **use)
        found = tx.tokens.find("s3cret")
        assert found is not None
        assert (found.identity, found.key_sha256, found.chain_pem, found.used_at_ms) == ("gw-1", "k", "CHAIN", NOW)


def test_two_that_use_one_token_at_once_do_not_both_win(store: Store) -> None:
    token(store)
    barrier, outcomes = threading.Barrier(4), []

    def work(number: int) -> None:
        barrier.wait(30)
        try:
            with store.write() as tx:
                tx.tokens.use("s3cret", key_sha256=str(number), serial="", chain_pem="", now_ms=NOW)
            outcomes.append("won")
        except ConflictError:
            outcomes.append("lost")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(outcomes) == ["lost", "lost", "lost", "won"]


def test_an_unknown_secret_finds_no_token(store: Store) -> None:
    token(store)
    with store.write() as tx:
        assert tx.tokens.find("S3cret") is None
        with pytest.raises(NotFoundError):
            tx.tokens.use("other", key_sha256="", serial="", chain_pem="", now_ms=NOW)


def test_forgets_tokens_that_expired(store: Store) -> None:
    token(store)
    with store.write() as tx:
        assert tx.tokens.prune(expired_before_ms=NOW + DAY) == 0
        assert tx.tokens.prune(expired_before_ms=NOW + DAY + 1) == 1


# --- models


def test_version_numbers_grow_and_are_never_given_twice(store: Store) -> None:
    with store.write() as tx:
        assert tx.models.next_version("digits", now_ms=NOW) == 1  # its upload fails
    assert add_version(store) == 2
    with store.read() as tx:
        assert [v.version for v in tx.models.versions("digits")] == [2]
        assert tx.models.get("digits").newest == 2


def test_a_model_whose_first_upload_failed_is_not_there(store: Store) -> None:
    with store.write() as tx:
        tx.models.next_version("digits", now_ms=NOW)
        assert tx.models.list() == []
        with pytest.raises(ModelNotFoundError):
            tx.models.get("digits")


def test_gives_back_a_version_as_it_was_published(store: Store) -> None:
    add_version(store, files=("f1", "f2"))
    with store.read() as tx:
        assert tx.models.version("digits", 1) == version_record("digits", 1, ("f1", "f2"))


def test_publishes_only_numbers_that_were_given_out_and_each_once(store: Store) -> None:
    add_version(store)
    with store.write() as tx:
        for record in (version_record("digits", 1), version_record("digits", 2), version_record("other", 1)):
            with pytest.raises(ConflictError):
                tx.models.add_version(record)


def test_lists_models_and_versions_in_pages(store: Store) -> None:
    for model in ("b", "a", "c", "a"):
        add_version(store, model)
    with store.read() as tx:
        assert [(m.name, m.newest) for m in tx.models.list(limit=2)] == [("a", 2), ("b", 1)]
        assert [m.name for m in tx.models.list(after="b")] == ["c"]
        assert [v.version for v in tx.models.versions("a", after=1)] == [2]
        assert [v.version for v in tx.models.versions("a", limit=1)] == [1]


def test_an_alias_moves_and_goes(store: Store) -> None:
    add_version(store), add_version(store)
    with store.write() as tx:
        tx.models.set_alias("digits", "champion", 1, now_ms=NOW)
        tx.models.set_alias("digits", "champion", 2, now_ms=NOW)
        tx.models.set_alias("digits", "challenger", 1, now_ms=NOW)
        assert tx.models.resolve("digits", "champion") == 2
        assert tx.models.get("digits").aliases == {"challenger": 1, "champion": 2}
        tx.models.remove_alias("digits", "champion")
        for ask in (tx.models.resolve, tx.models.remove_alias):
            with pytest.raises(ModelNotFoundError):
                ask("digits", "champion")


def test_an_alias_points_at_a_published_version_only(store: Store) -> None:
    add_version(store)
    with store.write() as tx:
        for model, version in (("digits", 2), ("other", 1)):
            with pytest.raises(ModelNotFoundError):
                tx.models.set_alias(model, "champion", version, now_ms=NOW)


def test_a_pool_holds_what_is_newest_aliased_or_deployed(store: Store) -> None:
    for _ in range(4):
        add_version(store)
    add_version(store, "other")
    with store.write() as tx:
        tx.models.set_alias("digits", "champion", 1, now_ms=NOW)
        tx.deployments.add(model="digits", version=2, alias=None, device="gw-1", now_ms=NOW, created_by="k")
        ended = tx.deployments.add(model="digits", version=3, alias=None, device=None, now_ms=NOW, created_by="k")
        tx.deployments.add(model="other", version=None, alias="champion", device=None, now_ms=NOW, created_by="k")
        tx.deployments.end(ended.id, now_ms=NOW)
        assert [(v.model, v.version) for v in tx.models.in_use()] == [
            ("digits", 1),
            ("digits", 2),
            ("digits", 4),
            ("other", 1),
        ]


def test_knows_which_blobs_are_needed(store: Store) -> None:
    add_version(store, files=("f1",)), add_version(store, files=("f1", "f2"))
    with store.read() as tx:
        assert tx.models.blobs() == {"f1", "f2", "manifest-digits-1", "manifest-digits-2"}


# --- deployments


def test_a_newer_wish_ends_the_older_of_the_same_model_and_target(store: Store) -> None:
    add_version(store), add_version(store), add_version(store, "other")
    wishes = [("digits", None), ("digits", "gw-1"), ("other", "gw-1"), ("digits", "gw-1"), ("digits", None)]
    with store.write() as tx:
        ids = [
            tx.deployments.add(model=model, version=1, alias=None, device=device, now_ms=NOW, created_by="k").id
            for model, device in wishes
        ]
        assert [d.id for d in tx.deployments.list()] == ids[2:]
        assert [d.id for d in tx.deployments.list(active=False)] == ids
        assert tx.deployments.get(ids[0]).ended_at_ms == NOW


def test_a_device_gets_what_names_it_and_what_names_all(store: Store) -> None:
    add_version(store), add_version(store, "other")
    with store.write() as tx:
        for model, device in (("digits", "gw-1"), ("digits", "gw-2"), ("other", None)):
            tx.deployments.add(model=model, version=None, alias="champion", device=device, now_ms=NOW, created_by="k")
        assert [(d.model, d.device) for d in tx.deployments.for_device("gw-1")] == [("digits", "gw-1"), ("other", None)]
        assert [d.model for d in tx.deployments.for_device("gw-3")] == ["other"]


def test_ends_a_deployment_once(store: Store) -> None:
    add_version(store)
    with store.write() as tx:
        wish = tx.deployments.add(model="digits", version=1, alias=None, device=None, now_ms=NOW, created_by="k")
        tx.deployments.end(wish.id, now_ms=NOW + 1)
        tx.deployments.end(wish.id, now_ms=NOW + 2)
        assert tx.deployments.get(wish.id).ended_at_ms == NOW + 1
        for ask in (tx.deployments.get, lambda number: tx.deployments.end(number, now_ms=NOW)):
            with pytest.raises(NotFoundError):
                ask(wish.id + 1)


def test_a_deployment_of_a_version_that_is_not_there_is_refused(store: Store) -> None:
    with pytest.raises(AimassError), store.write() as tx:
        tx.deployments.add(model="digits", version=7, alias=None, device=None, now_ms=NOW, created_by="k")


# --- twins


def reported(device: str, version: int = 1) -> ReportedRecord:
    return ReportedRecord(
        device=device, epoch=MADE_MS, version=version, boot="b", at_ms=NOW, received_at_ms=NOW + 1, document="{}"
    )


def seal(epoch: int, version: int) -> bytes:
    return f"{epoch}/{version}".encode()


def test_a_desired_document_gets_the_next_version_when_its_content_changes(store: Store) -> None:
    with store.write() as tx:
        first, new = tx.twins.put_desired("gw-1", "A", seal, now_ms=NOW)
        assert (first.epoch, first.version, first.envelope, new) == (MADE_MS, 1, seal(MADE_MS, 1), True)
        assert tx.twins.put_desired("gw-1", "A", seal, now_ms=NOW + 1) == (first, False)
        second, new = tx.twins.put_desired("gw-1", "B", seal, now_ms=NOW + 2)
        assert (second.version, second.envelope, new) == (2, seal(MADE_MS, 2), True)
        tx.twins.put_desired("gw-2", "A", seal, now_ms=NOW)
        assert [(d.device, d.version) for d in tx.twins.list_desired()] == [("gw-1", 2), ("gw-2", 1)]


def test_a_new_epoch_makes_a_new_document_of_the_same_content_and_counts_from_one(store: Store) -> None:
    with store.write() as tx:
        for content in ("A", "B"):
            tx.twins.put_desired("gw-1", content, seal, now_ms=NOW)
        tx.meta.put("epoch", str(MADE_MS + 1))
        again, new = tx.twins.put_desired("gw-1", "B", seal, now_ms=NOW)
        assert (again.epoch, again.version, new) == (MADE_MS + 1, 1, True)


def test_versions_go_on_when_a_removed_device_comes_back(store: Store) -> None:
    add_device(store, "gw-1")
    with store.write() as tx:
        tx.twins.put_desired("gw-1", "A", seal, now_ms=NOW)
        tx.devices.remove("gw-1")
        assert tx.twins.desired("gw-1") is None
        assert tx.twins.list_desired() == []
    add_device(store, "gw-1")
    with store.write() as tx:
        assert tx.twins.put_desired("gw-1", "A", seal, now_ms=NOW)[0].version == 2


def test_a_document_that_cannot_be_sealed_takes_no_version(store: Store) -> None:
    def broken(_epoch: int, _version: int) -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), store.write() as tx:
        tx.twins.put_desired("gw-1", "A", broken, now_ms=NOW)
    with store.write() as tx:
        assert tx.twins.put_desired("gw-1", "A", seal, now_ms=NOW)[0].version == 1


def test_keeps_what_a_known_device_said_last(store: Store) -> None:
    add_device(store, "gw-1")
    with store.write() as tx:
        assert tx.twins.reported("gw-1") is None
        tx.twins.put_reported(reported("gw-1"))
        tx.twins.put_reported(reported("gw-1", version=2))
        tx.twins.put_reported(reported("unknown"))
        assert tx.twins.reported("gw-1") == reported("gw-1", version=2)
        assert [r.device for r in tx.twins.list_reported()] == ["gw-1"]


# --- events


def event(seq: int) -> EventRecord:
    return EventRecord(seq=seq, id=f"e{seq}", at_ms=NOW + seq, kind="answer", data={"seq": seq, "text": "ü"})


def gap(first: int, last: int) -> EventRecord:
    data = {"from": first, "to": last, "count": last - first + 1, "reason": "size"}
    return EventRecord(seq=last, id=f"g{last}", at_ms=NOW, kind="gap", data=data)


def batch(*records: int | EventRecord, device: str = "gw-1", stream: str = "main", stream_id: str = "s1") -> EventBatch:
    made = tuple(event(r) if isinstance(r, int) else r for r in records)
    return EventBatch(device=device, stream=stream, stream_id=stream_id, records=made, received_at_ms=NOW)


def ingest(store: Store, *records: int | EventRecord, **where: str) -> tuple[int, int]:
    with store.write() as tx:
        head = tx.events.ingest([batch(*records, **where)])[0]
    return head.seq, head.stored


def seqs(store: Store) -> list[int]:
    with store.read() as tx:
        return [e.seq for e in tx.events.list("gw-1", limit=1000)]


def test_stores_what_continues_the_stream_and_answers_the_head(store: Store) -> None:
    assert ingest(store) == (0, 0)
    assert ingest(store, 1, 2, 3) == (3, 3)
    assert ingest(store, 4) == (4, 1)
    assert ingest(store) == (4, 0)
    with store.read() as tx:
        first = tx.events.list("gw-1")[0]
        assert (first.id, first.kind, first.data, first.at_ms, first.received_at_ms) == (
            "e1",
            "answer",
            {"seq": 1, "text": "ü"},
            NOW + 1,
            NOW,
        )
        assert [(h.stream, h.stream_id, h.seq) for h in tx.events.heads("gw-1")] == [("main", "s1", 4)]


def test_a_record_sent_again_is_stored_once(store: Store) -> None:
    ingest(store, 1, 2)
    assert ingest(store, 1, 2, 3) == (3, 1)
    assert ingest(store, 3, 3, 4, 4) == (4, 1)
    assert seqs(store) == [1, 2, 3, 4]


def test_records_beyond_a_hole_are_refused_until_the_hole_is_filled(store: Store) -> None:
    assert ingest(store, 2, 3) == (0, 0)
    assert ingest(store, 1, 3, 4) == (1, 1)
    assert ingest(store, 2, 3, 4) == (4, 3)
    assert seqs(store) == [1, 2, 3, 4]


def test_the_order_within_a_batch_does_not_matter(store: Store) -> None:
    assert ingest(store, 3, 1, 2) == (3, 3)


def test_a_gap_record_moves_the_head_over_what_is_lost(store: Store) -> None:
    ingest(store, 1, 2)
    assert ingest(store, gap(3, 10), 11) == (11, 2)
    assert seqs(store) == [1, 2, 10, 11]
    with store.read() as tx:
        assert tx.events.count() == tx.events.count("gw-1") == 3
        assert tx.events.count("gw-2") == 0


def test_a_gap_may_begin_below_the_head_and_never_beyond_a_hole(store: Store) -> None:
    ingest(store, 1, 2, 3)
    assert ingest(store, gap(5, 9)) == (3, 0)
    assert ingest(store, gap(2, 3)) == (3, 0)
    assert ingest(store, gap(2, 9)) == (9, 1)


def test_streams_and_outbox_files_are_counted_apart(store: Store) -> None:
    ingest(store, 1, 2)
    assert ingest(store, 1, stream="alarms") == (1, 1)
    assert ingest(store, 1, stream_id="s2") == (1, 1)
    assert ingest(store, 1, device="gw-2") == (1, 1)


def test_takes_batches_of_many_devices_in_one_transaction(store: Store) -> None:
    with store.write() as tx:
        heads = tx.events.ingest([batch(1, 2), batch(1, device="gw-2"), batch(3), batch(5)])
    assert [(h.device, h.seq) for h in heads] == [("gw-1", 2), ("gw-2", 1), ("gw-1", 3), ("gw-1", 3)]


def test_reads_events_in_pages_also_after_old_ones_are_forgotten(store: Store) -> None:
    ingest(store, 1, 2, 3)
    ingest(store, 1, stream="alarms")
    with store.write() as tx:
        page = tx.events.list("gw-1", limit=2)
        assert [e.seq for e in page] == [1, 2]
        rest = tx.events.list("gw-1", after=page[-1].position)
        assert [(e.stream, e.seq) for e in rest] == [("main", 3), ("alarms", 1)]
        assert [e.seq for e in tx.events.list("gw-1", stream="main", after=page[-1].position)] == [3]
        assert tx.events.prune(received_before_ms=NOW) == 0
        assert tx.events.prune(received_before_ms=NOW + 1) == 4
        last = rest[-1].position
    assert ingest(store, 3, 4) == (4, 1)  # heads stay
    with store.read() as tx:
        assert [e.seq for e in tx.events.list("gw-1", after=last)] == [4]


@pytest.mark.parametrize("seq", [0, -1, 2**53 + 1, 2**70, True, 1.5, "1"])
def test_a_sequence_number_out_of_range_is_no_record(seq: object) -> None:
    with pytest.raises(FrameError):
        EventRecord(seq=seq, id="x", at_ms=1, kind="answer", data={})


@pytest.mark.parametrize(
    "data",
    [{}, {"from": 1}, {"from": 5, "to": 9}, {"from": 11, "to": 10}, {"from": 0, "to": 10}, {"from": "1", "to": 10}],
)
def test_a_gap_whose_bounds_make_no_sense_is_no_record(data: dict) -> None:
    with pytest.raises(FrameError):
        EventRecord(seq=10, id="x", at_ms=1, kind="gap", data=data)


# --- api-keys


def test_an_api_key_is_known_by_itself_only(store: Store) -> None:
    with store.write() as tx:
        record, key = tx.api_keys.create("laptop", now_ms=NOW)
        _other, second = tx.api_keys.create("robot", now_ms=NOW + 1)
    assert len(key) > 50
    with store.read() as tx:
        assert tx.api_keys.verify(key) == record
        mixed = "_".join([*key.split("_", 2)[:2], second.split("_", 2)[2]])
        for wrong in ("", "x", key[:-1], key + "x", key.upper(), mixed, "aimass_0_" + "a" * 43, "__"):
            with pytest.raises(AuthError):
                tx.api_keys.verify(wrong)
        assert [k.name for k in tx.api_keys.list()] == ["laptop", "robot"]


def test_the_key_itself_is_nowhere_in_the_store(store: Store, tmp_path: Path) -> None:
    with store.write() as tx:
        _record, key = tx.api_keys.create("laptop", now_ms=NOW)
        tx.tokens.create("very-s3cret", identity="a", role="device", pool="", now_ms=NOW, expires_at_ms=NOW)
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert key.encode() not in kept
    assert key.split("_", 2)[2].encode() not in kept
    assert b"very-s3cret" not in kept


def test_a_revoked_api_key_is_refused(store: Store) -> None:
    with store.write() as tx:
        record, key = tx.api_keys.create("laptop", now_ms=NOW)
        tx.api_keys.revoke(record.id, now_ms=NOW)
        with pytest.raises(AuthError, match="revoked"):
            tx.api_keys.verify(key)
        with pytest.raises(NotFoundError):
            tx.api_keys.revoke("nobody", now_ms=NOW)


# --- idempotency


ANSWER = StoredAnswer(status=201, body=b"{}", content_type="application/json")


def begin(store: Store, *, scope: str = "k1", key: str = "a", sha: str = "r", now_ms: int = NOW) -> StoredAnswer | None:
    with store.write() as tx:
        return tx.idempotency.begin(scope, key, request_sha256=sha, now_ms=now_ms)


def test_the_same_request_gets_the_first_answer_again(store: Store) -> None:
    assert begin(store) is None
    with store.write() as tx:
        tx.idempotency.finish("k1", "a", ANSWER)
    assert begin(store) == ANSWER
    assert begin(store, scope="k2") is None
    assert begin(store, key="b") is None


def test_a_key_used_for_another_request_is_refused(store: Store) -> None:
    begin(store)
    with store.write() as tx:
        tx.idempotency.finish("k1", "a", ANSWER)
    with pytest.raises(ConflictError) as caught:
        begin(store, sha="other")
    assert caught.value.retryable is False


def test_a_request_still_running_is_refused_for_now(store: Store) -> None:
    begin(store)
    with pytest.raises(ConflictError) as caught:
        begin(store)
    assert caught.value.retryable is True


def test_a_request_that_failed_or_died_frees_its_key(store: Store) -> None:
    begin(store)
    with store.write() as tx:
        tx.idempotency.abandon("k1", "a")
    assert begin(store) is None
    assert begin(store, now_ms=NOW + 11 * 60_000, sha="other") is None


def test_forgets_old_answers(store: Store) -> None:
    begin(store)
    with store.write() as tx:
        assert tx.idempotency.prune(begun_before_ms=NOW) == 0
        assert tx.idempotency.prune(begun_before_ms=NOW + 1) == 1
        with pytest.raises(NotFoundError):
            tx.idempotency.finish("k1", "a", ANSWER)
