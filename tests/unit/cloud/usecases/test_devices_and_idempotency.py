"""Removing devices, looking at them, and doing requests once."""

from __future__ import annotations

import pytest

from aimass.errors import ConflictError, InputError, LinkDownError, NotFoundError
from aimass_cloud.broker.dynsec import Role
from aimass_cloud.store.records import EventBatch, EventRecord, ReportedRecord, StoredAnswer
from tests.fakes.cloud import CloudInMemory


def test_removing_revokes_then_tells_the_broker_then_forgets(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    cloud.devices.remove("gw-1")
    with cloud.store.read() as tx:
        assert tx.certificates.usable("gw-1", now_ms=cloud.clock.ms) == []
        assert tx.devices.find("gw-1") is None
    assert cloud.crls_published == 1
    assert "gw-1" not in cloud.accounts.known
    assert (cloud.watch.forgotten, cloud.outlet.cleared) == (["gw-1"], ["gw-1"])


def test_removing_a_device_removes_its_apps_and_nobody_else(cloud: CloudInMemory) -> None:
    for identity in ("gw-1", "gw-1:app", "gw-11", "gw-2"):
        cloud.enrol(identity)
    assert cloud.devices.remove("gw-1") == ["gw-1", "gw-1:app"]
    assert set(cloud.accounts.known) == {"gw-11", "gw-2"}


def test_removing_without_the_broker_revokes_and_can_be_repeated(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    cloud.accounts.is_down = True
    with pytest.raises(LinkDownError):
        cloud.devices.remove("gw-1")
    assert cloud.crls_published == 1
    cloud.accounts.is_down = False
    assert cloud.devices.remove("gw-1") == ["gw-1"]


def test_the_control_connection_cannot_be_removed(cloud: CloudInMemory) -> None:
    with cloud.store.write() as tx:
        tx.devices.put("svc:control", role=Role.CONTROL, pool="", now_ms=cloud.clock.ms)
    with pytest.raises(NotFoundError):
        cloud.devices.remove("svc:control")
    with pytest.raises(NotFoundError):
        cloud.devices.remove("gw-9")


def test_devices_are_listed_without_services_in_pages(cloud: CloudInMemory) -> None:
    for identity in ("gw-1", "gw-2", "gw-3"):
        cloud.enrol(identity)
    cloud.enrol("svc:worker-0", role=Role.DISPATCHER, pool="default")
    first = cloud.devices.page(limit=2)
    assert ([view.record.id for view in first.items], first.next) == (["gw-1", "gw-2"], "gw-2")
    rest = cloud.devices.page(after="gw-2", limit=2)
    assert ([view.record.id for view in rest.items], rest.next) == (["gw-3"], None)


def test_a_device_is_in_sync_when_it_reported_the_current_document(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    assert cloud.devices.get("gw-1").in_sync is None
    desired = cloud.devices.get("gw-1").desired
    assert desired is not None
    for version, expected in ((desired.version, True), (desired.version + 1, False)):
        report = ReportedRecord(
            device="gw-1", epoch=desired.epoch, version=version, boot="b", at_ms=1, received_at_ms=1, document="{}"
        )
        with cloud.store.write() as tx:
            tx.twins.put_reported(report)
        assert cloud.devices.get("gw-1").in_sync is expected


def test_events_of_a_removed_device_can_still_be_read(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    record = EventRecord(seq=1, id="e1", at_ms=1, kind="k", data={})
    batch = EventBatch(device="gw-1", stream="s", stream_id="i", records=(record,), received_at_ms=1)
    with cloud.store.write() as tx:
        tx.events.ingest([batch])
    cloud.devices.remove("gw-1")
    assert [event.id for event in cloud.devices.events("gw-1").items] == ["e1"]
    with pytest.raises(NotFoundError):
        cloud.devices.events("gw-9")


def answer(body: bytes = b"{}") -> StoredAnswer:
    return StoredAnswer(status=201, body=body, content_type="application/json")


def test_the_same_key_and_request_do_the_work_once(cloud: CloudInMemory) -> None:
    done: list[int] = []

    def work() -> StoredAnswer:
        done.append(1)
        return answer(b"first")

    assert cloud.idempotency.once("ann", "k", "r", work) == (answer(b"first"), False)
    assert cloud.idempotency.once("ann", "k", "r", work) == (answer(b"first"), True)
    assert done == [1]


def test_keys_of_different_callers_do_not_meet(cloud: CloudInMemory) -> None:
    cloud.idempotency.once("ann", "k", "r", answer)
    assert cloud.idempotency.once("bob", "k", "other", answer)[1] is False


def test_a_key_used_for_another_request_is_refused(cloud: CloudInMemory) -> None:
    cloud.idempotency.once("ann", "k", "r", answer)
    with pytest.raises(ConflictError):
        cloud.idempotency.once("ann", "k", "other", answer)


def test_a_failed_request_may_be_sent_again(cloud: CloudInMemory) -> None:
    def fails() -> StoredAnswer:
        raise InputError("no")

    with pytest.raises(InputError):
        cloud.idempotency.once("ann", "k", "r", fails)
    assert cloud.idempotency.once("ann", "k", "r", answer)[1] is False


def test_without_a_key_it_is_done_each_time(cloud: CloudInMemory) -> None:
    assert [cloud.idempotency.once("ann", "", "r", answer)[1] for _ in range(2)] == [False, False]


def test_answers_are_forgotten_after_a_day(cloud: CloudInMemory) -> None:
    cloud.idempotency.once("ann", "k", "r", answer)
    cloud.clock.forward(86_401)
    assert cloud.idempotency.prune() == 1
    assert cloud.idempotency.once("ann", "k", "r", answer)[1] is False


def test_a_key_that_is_too_long_is_refused(cloud: CloudInMemory) -> None:
    with pytest.raises(InputError):
        cloud.idempotency.once("ann", "k" * 201, "r", answer)
