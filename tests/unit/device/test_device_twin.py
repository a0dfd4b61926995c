"""The twin: documents accepted or refused, models brought to run one by one, nothing unloaded too early."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aimass.device.download import FetchLimits
from aimass.device.store import ActiveModel, PackageStore
from aimass.device.twin import Twin, TwinSettings
from aimass.errors import (
    ConnectError,
    ForbiddenError,
    GoldenMismatchError,
    LinkDownError,
    ModelLoadError,
    OverloadError,
)
from aimass.package.keys import SigningKey
from aimass.transport.memory import MemoryBroker, MemoryTransport
from aimass.wire import topics
from tests.fakes.device_cloud import FakeCloud, FakeHost
from tests.fakes.disk import FlashDisk
from tests.fakes.still_transport import StillTransport
from tests.fakes.waiting import until

DESIRED = topics.desired("gw-1")


class Device:
    """A twin with everything around it, moved by the test."""

    def __init__(self, home: Path, cloud: FakeCloud, *, disk: FlashDisk | None = None) -> None:
        self.cloud, self.host = cloud, FakeHost()
        self.transport = StillTransport()
        self.now_s = 0.0
        how: dict[str, Any] = {} if disk is None else {"disk": disk}
        self.store = PackageStore(home / "models", publishers=[cloud.publisher.public], **how)
        self.twin = Twin(
            self.transport,
            self.store,
            cloud,
            self.host,
            cn="gw-1",
            control_keys=[cloud.control.public],
            boot="b00t",
            home=home,
            engines={"fake": "1.0"},
            settings=TwinSettings(fetch=FetchLimits(reserve_bytes=0, attempts=1)),
            clock=lambda: self.now_s,
            rng=random.Random(1),
            **how,
        )
        self.twin.listen()

    def receives(self, payload: bytes) -> float:
        self.transport.deliver(DESIRED, payload, retained=True)
        return self.twin.step()

    def states(self) -> dict[tuple[str, int], str]:
        return {(model["name"], model["version"]): model["state"] for model in self.twin.reported()["models"]}

    def error(self, name: str, version: int) -> dict[str, Any]:
        models = self.twin.reported()["models"]
        return next(model["error"] for model in models if (model["name"], model["version"]) == (name, version))


@pytest.fixture
def cloud() -> FakeCloud:
    return FakeCloud()


@pytest.fixture
def device(tmp_path: Path, cloud: FakeCloud) -> Device:
    return Device(tmp_path, cloud)


def test_a_deployed_model_is_fetched_installed_and_run(device: Device, cloud: FakeCloud) -> None:
    device.receives(cloud.desired(cloud.publish()))
    assert device.host.loaded == {("digits", 1): b"digits:1" * 700}
    report = device.twin.reported()
    assert (report["epoch"], report["version"], report["boot"]) == (1000, 1, "b00t")
    assert report["models"] == [
        {"name": "digits", "version": 1, "state": "running", "engine": "fake", "variant": "any", "error": None}
    ]
    assert report["engines"] == {"fake": "1.0"}


def test_a_new_version_is_loaded_before_the_old_one_goes(device: Device, cloud: FakeCloud) -> None:
    device.receives(cloud.desired(cloud.publish(version=1)))
    device.receives(cloud.desired(cloud.publish(version=2), version=2))
    assert device.host.log == ["load digits 1", "load digits 2", "unload digits 1"]
    assert device.states() == {("digits", 2): "running"}
    assert device.store.previous("digits") == 1


def test_going_back_needs_no_network(device: Device, cloud: FakeCloud) -> None:
    one, two = cloud.publish(version=1), cloud.publish(version=2)
    device.receives(cloud.desired(one, version=1))
    device.receives(cloud.desired(two, version=2))
    cloud.errors.extend(ConnectError("down") for _ in range(99))
    device.receives(cloud.desired(one, version=3))
    assert device.states() == {("digits", 1): "running"}


@pytest.mark.parametrize("error", [GoldenMismatchError("differs"), ModelLoadError("no such operator")])
def test_a_version_that_does_not_run_leaves_the_old_one_running(
    device: Device, cloud: FakeCloud, error: ModelLoadError
) -> None:
    device.receives(cloud.desired(cloud.publish(version=1)))
    device.host.refuses["digits", 2] = error
    wait_s = device.receives(cloud.desired(cloud.publish(version=2), version=2))
    assert device.states() == {("digits", 1): "running", ("digits", 2): "failed"}
    assert device.error("digits", 2)["code"] == error.code
    assert device.store.active() == (ActiveModel("digits", 1),)
    assert wait_s > 60  # the same bytes fail again: only a new document brings another attempt
    del device.host.refuses["digits", 2]
    device.receives(cloud.desired(cloud.publish(version=2), version=3))
    assert device.states() == {("digits", 2): "running"}


def test_one_models_failure_is_not_the_others(device: Device, cloud: FakeCloud) -> None:
    unsigned = cloud.publish("a", key=SigningKey.generate())
    lost = cloud.publish("b")
    del cloud.blobs[lost.manifest_path]
    device.host.refuses["c", 1] = ModelLoadError("broken")
    device.receives(cloud.desired(unsigned, lost, cloud.publish("c"), cloud.publish("d")))
    assert device.states() == {("a", 1): "failed", ("b", 1): "failed", ("c", 1): "failed", ("d", 1): "running"}
    assert device.error("a", 1)["code"] == "trust.signature"
    assert device.error("b", 1)["code"] == "store.not_found"
    assert list(device.store.root.glob("a/*")) == []


def test_installed_models_run_before_others_are_fetched(device: Device, cloud: FakeCloud) -> None:
    first, second = cloud.publish("a"), cloud.publish("b")
    device.receives(cloud.desired(second))
    device.receives(cloud.desired(version=2))
    device.host.log.clear()
    cloud.calls.clear()
    device.store.stage(second, cloud.envelope(second))
    device.receives(cloud.desired(first, second, version=3))
    assert device.states() == {("a", 1): "running", ("b", 1): "running"}


def test_a_broken_download_is_tried_again_at_growing_pauses(device: Device, cloud: FakeCloud) -> None:
    cloud.errors.extend(ConnectError("down") for _ in range(5))
    waits = [device.receives(cloud.desired(cloud.publish()))]
    while cloud.errors:
        device.now_s += waits[-1]
        waits.append(device.twin.step())
    assert waits[0] < 1.1
    assert waits[-1] > 4
    assert device.states() == {("digits", 1): "failed"}
    device.now_s += waits[-1]
    device.twin.step()
    assert device.states() == {("digits", 1): "running"}


def test_a_link_that_comes_back_is_a_reason_to_try_now(device: Device, cloud: FakeCloud) -> None:
    cloud.errors.append(ConnectError("down"))
    device.receives(cloud.desired(cloud.publish()))
    device.transport.link(True)
    device.twin.step()
    assert device.states() == {("digits", 1): "running"}


def test_what_the_cloud_refuses_is_tried_again_for_it_may_be_put_right_there(device: Device, cloud: FakeCloud) -> None:
    cloud.errors.append(ForbiddenError("not yet"))
    wait_s = device.receives(cloud.desired(cloud.publish()))
    device.now_s += wait_s
    device.twin.step()
    assert device.states() == {("digits", 1): "running"}


def test_a_model_that_is_not_wanted_any_more_is_unloaded_and_removed(device: Device, cloud: FakeCloud) -> None:
    device.receives(cloud.desired(cloud.publish()))
    device.receives(cloud.desired(version=2))
    assert device.host.loaded == {}
    assert device.states() == {}
    assert device.store.installed() == []


def test_several_versions_of_one_model_run_side_by_side(device: Device, cloud: FakeCloud) -> None:
    one, two = cloud.publish(version=1), cloud.publish(version=2)
    device.receives(cloud.desired(one, replace(two, default=False)))
    assert device.host.defaults == {"digits": 1}
    device.receives(cloud.desired(replace(one, default=False), two, version=2))
    assert set(device.host.loaded) == {("digits", 1), ("digits", 2)}
    assert device.host.defaults == {"digits": 2}
    assert set(device.store.active()) == {ActiveModel("digits", 1, False), ActiveModel("digits", 2)}
    device.receives(cloud.desired(cloud.publish(version=3), replace(one, default=False), version=3))
    assert set(device.host.loaded) == {("digits", 1), ("digits", 3)}


def test_a_new_default_does_not_close_the_former_one_that_is_still_wanted(device: Device, cloud: FakeCloud) -> None:
    one = cloud.publish(version=1)
    device.receives(cloud.desired(one))
    device.receives(cloud.desired(replace(one, default=False), cloud.publish(version=2), version=2))
    assert device.host.log == ["load digits 1", "load digits 2", "default digits 2"]


def test_models_that_others_loaded_are_left_alone(device: Device, cloud: FakeCloud, tmp_path: Path) -> None:
    device.host.loaded["own", 1] = b"by the application"
    device.receives(cloud.desired())
    assert ("own", 1) in device.host.loaded


def test_another_build_of_the_same_version_takes_the_place_of_the_first(device: Device, cloud: FakeCloud) -> None:
    device.receives(cloud.desired(cloud.publish(files={"model.onnx": b"old"})))
    cloud.errors.extend([None, ConnectError("down")])
    wait_s = device.receives(cloud.desired(cloud.publish(files={"model.onnx": b"new"}), epoch=2000))
    assert device.states() == {("digits", 1): "running"}
    assert device.error("digits", 1)["code"] == "transport.connect"
    assert device.host.loaded["digits", 1] == b"old"
    device.now_s += wait_s
    device.twin.step()
    assert device.host.loaded["digits", 1] == b"new"
    assert device.error("digits", 1) is None


# --- documents


def test_an_older_document_is_refused_counted_and_shown(device: Device, cloud: FakeCloud) -> None:
    old, new = cloud.desired(cloud.publish(version=1)), cloud.desired(cloud.publish(version=2), version=2)
    device.receives(new)
    device.receives(old)
    report = device.twin.reported()
    assert (report["version"], device.states()) == (2, {("digits", 2): "running"})
    assert report["refused"] == {"trust.rollback": 1}
    assert report["last_refused"]["code"] == "trust.rollback"


def test_the_same_document_again_is_nothing_to_speak_of(device: Device, cloud: FakeCloud) -> None:
    document = cloud.desired(cloud.publish())
    device.receives(document)
    device.receives(document)
    assert device.twin.reported()["last_refused"] is None
    assert device.host.log == ["load digits 1"]


def test_a_replay_is_refused_after_a_restart_too(device: Device, cloud: FakeCloud, tmp_path: Path) -> None:
    old = cloud.desired(cloud.publish(version=1))
    device.receives(cloud.desired(cloud.publish(version=2), version=2))
    again = Device(tmp_path, cloud)
    again.receives(old)
    assert again.twin.reported()["last_refused"]["code"] == "trust.rollback"
    assert again.states() == {("digits", 2): "running"}


def test_a_cloud_restored_from_a_backup_is_followed_by_its_newer_epoch(device: Device, cloud: FakeCloud) -> None:
    device.receives(cloud.desired(cloud.publish(version=2), version=9))
    device.receives(cloud.desired(cloud.publish(version=1), version=1, epoch=2000))
    assert device.states() == {("digits", 1): "running"}


def test_documents_of_strangers_or_for_others_are_refused(device: Device, cloud: FakeCloud) -> None:
    model = cloud.publish()
    for document, code in (
        (cloud.desired(model, key=SigningKey.generate()), "trust.signature"),
        (cloud.desired(model, device="gw-2"), "trust.signature"),
        (b"{", "trust.signature"),
        (cloud.envelope(model), "trust.signature"),
    ):
        device.receives(document)
        assert device.twin.reported()["last_refused"]["code"] == code
    assert device.twin.reported()["refused"] == {"trust.signature": 4}
    assert device.host.log == []


def test_a_cleared_document_changes_nothing(device: Device, cloud: FakeCloud) -> None:
    device.receives(cloud.desired(cloud.publish()))
    device.receives(b"")
    assert device.states() == {("digits", 1): "running"}
    assert device.twin.reported()["last_refused"] is None


def test_a_newer_document_takes_over_in_the_middle_of_a_download(device: Device, cloud: FakeCloud) -> None:
    slow, newer = cloud.publish(version=1), cloud.desired(cloud.publish(version=2), version=2)
    came: list[bytes] = []

    def newer_comes() -> None:
        if len(cloud.downloads()) == 2 and not came:
            came.append(newer)
            device.transport.deliver(DESIRED, newer)

    cloud.during_download = newer_comes
    assert device.receives(cloud.desired(slow)) == 0
    assert device.host.log == []
    device.twin.step()
    assert device.host.log == ["load digits 2"]
    assert [path.name for path in device.store.root.glob("digits/*")] == ["2"]  # no part of version 1 stays


def test_a_document_that_cannot_be_kept_is_not_acted_on_until_it_can(tmp_path: Path, cloud: FakeCloud) -> None:
    disk = FlashDisk(tmp_path)
    device = Device(tmp_path, cloud, disk=disk)
    disk.full_after = 0
    wait_s = device.receives(cloud.desired(cloud.publish()))
    assert wait_s <= 5
    assert device.twin.reported()["version"] == 0
    assert device.twin.reported()["last_refused"]["code"] == "store.no_space"
    disk.full_after = None
    device.twin.step()
    assert device.states() == {("digits", 1): "running"}


# --- restarts and full disks


def test_starts_to_what_ran_last_without_network(device: Device, cloud: FakeCloud, tmp_path: Path) -> None:
    device.receives(cloud.desired(cloud.publish("a"), cloud.publish("b")))
    cloud.errors.extend(ConnectError("down") for _ in range(99))
    again = Device(tmp_path, cloud)
    assert again.twin.load_last_good() == [ActiveModel("a", 1), ActiveModel("b", 1)]
    assert again.twin.step() > 60
    assert again.host.log == ["load a 1", "load b 1"]
    assert again.twin.reported()["version"] == 1


def test_goes_back_to_the_version_before_when_the_last_one_is_damaged(
    device: Device, cloud: FakeCloud, tmp_path: Path
) -> None:
    device.receives(cloud.desired(cloud.publish(version=1)))
    device.receives(cloud.desired(cloud.publish(version=2), version=2))
    (device.store.folder("digits", 2) / "model.onnx").write_bytes(b"rot")
    again = Device(tmp_path, cloud)
    assert again.twin.load_last_good() == [ActiveModel("digits", 1)]
    assert again.states() == {("digits", 1): "running", ("digits", 2): "failed"}
    again.twin.step()  # with network it is fetched again
    assert again.states() == {("digits", 2): "running"}
    assert again.host.log == ["load digits 1", "load digits 2", "unload digits 1"]


def test_a_home_enrolled_elsewhere_starts_without_the_old_document(
    device: Device, cloud: FakeCloud, tmp_path: Path
) -> None:
    device.receives(cloud.desired(cloud.publish(), version=9))
    other = FakeCloud()
    again = Device(tmp_path, other)
    assert again.twin.load_last_good() == []
    again.receives(other.desired(other.publish("new"), version=1, epoch=5))
    assert again.states() == {("new", 1): "running"}


def test_a_disk_that_fills_during_an_install_keeps_what_runs_and_goes_on_later(
    tmp_path: Path, cloud: FakeCloud
) -> None:
    disk = FlashDisk(tmp_path)
    device = Device(tmp_path, cloud, disk=disk)
    device.receives(cloud.desired(cloud.publish(version=1)))
    disk.full_after = 4
    wait_s = device.receives(cloud.desired(cloud.publish(version=2), version=2))
    assert device.states() == {("digits", 1): "running", ("digits", 2): "failed"}
    assert device.error("digits", 2)["code"] == "store.no_space"
    assert sorted(path.name for path in device.store.root.glob("digits/*")) == ["1"]
    disk.full_after = None
    device.now_s += wait_s
    device.twin.step()
    assert device.states() == {("digits", 2): "running"}


def test_a_model_larger_than_the_disk_is_not_begun(tmp_path: Path, cloud: FakeCloud) -> None:
    disk = FlashDisk(tmp_path, free=3000)
    device = Device(tmp_path, cloud, disk=disk)
    device.receives(cloud.desired(cloud.publish(files={"model.onnx": b"x" * 3001})))
    assert device.error("digits", 1)["code"] == "store.no_space"
    assert len(cloud.downloads()) == 1  # the manifest


def test_a_power_cut_during_an_update_starts_to_the_old_or_the_new_model(tmp_path: Path, cloud: FakeCloud) -> None:
    home = tmp_path / "home"
    home.mkdir()
    Device(home, cloud).receives(cloud.desired(cloud.publish(version=1)))
    disk = FlashDisk(home)
    device = Device(home, cloud, disk=disk)
    device.twin.load_last_good()
    cloud.chunk_bytes = 3000
    device.receives(cloud.desired(cloud.publish(version=2), version=2))
    seen = set()
    for after in range(len(disk.ops) + 1):
        for _, state in disk.states_after_cut(after, tmp_path / "cut", seed=after):
            after_cut = Device(state, cloud)
            models = after_cut.twin.load_last_good()
            assert len(models) == 1
            seen.add(models[0].version)
    assert seen == {1, 2}


# --- in threads, over a broker


@pytest.fixture
def live(tmp_path: Path, cloud: FakeCloud) -> Iterator[tuple[MemoryBroker, Twin, FakeHost]]:
    broker, host = MemoryBroker(), FakeHost()
    transport = MemoryTransport(broker, "gw-1")
    store = PackageStore(tmp_path / "models", publishers=[cloud.publisher.public])
    twin = Twin(
        transport, store, cloud, host, cn="gw-1", control_keys=[cloud.control.public], boot="b00t", home=tmp_path
    )
    twin.start()
    transport.start()
    yield broker, twin, host
    twin.close()
    transport.close()


def reported(broker: MemoryBroker) -> dict[str, Any]:
    return dict(json.loads(broker.retained(topics.reported("gw-1")) or b"{}"))


def test_follows_the_retained_document_and_reports_on_each_link_up(
    live: tuple[MemoryBroker, Twin, FakeHost], cloud: FakeCloud
) -> None:
    broker, _, host = live
    control = MemoryTransport(broker, "svc:control")
    control.start()
    until(lambda: control.connected)
    control.publish(DESIRED, cloud.desired(cloud.publish()), qos=1, retain=True).wait(5)
    until(lambda: [m["state"] for m in reported(broker).get("models", [])] == ["running"], "the report")
    broker.kill()
    broker.revive()
    until(lambda: reported(broker).get("version") == 1, "the report after the broker lost all")
    assert host.log == ["load digits 1"]
    control.close()


def test_a_report_that_the_link_cannot_take_now_is_sent_a_moment_later(tmp_path: Path, cloud: FakeCloud) -> None:
    device = Device(tmp_path, cloud)
    device.transport.errors = [OverloadError("busy")]
    device.twin.start()
    until(lambda: device.transport.take(topics.reported("gw-1")), "the report")
    device.twin.close()


def test_closing_without_a_link_does_not_wait(tmp_path: Path, cloud: FakeCloud) -> None:
    device = Device(tmp_path, cloud)
    device.transport.connected = False
    with pytest.raises(LinkDownError):
        device.transport.publish("x", b"")
    device.twin.start()
    device.twin.close()
    assert device.transport.sent == []
