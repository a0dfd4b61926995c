"""The package store: whole or not at all, whatever happens to power, disk and files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aimass.device.download import FetchLimits
from aimass.device.install import Installer
from aimass.device.store import ActiveModel, PackageStore
from aimass.errors import (
    AimassError,
    DigestMismatchError,
    DownloadError,
    NoSpaceError,
    NotFoundError,
    PackageError,
    SignatureError,
)
from aimass.package.desired import DesiredModel
from aimass.package.keys import SigningKey
from aimass.package.manifest import Platform, Variant
from tests.fakes.device_cloud import FakeCloud
from tests.fakes.disk import FlashDisk

HERE = Platform("linux", "x86_64", ("onnxruntime",))
TWO_FILES = {"model.onnx": b"graph" * 500, "weights.bin": b"weights" * 900}


@pytest.fixture
def cloud() -> FakeCloud:
    return FakeCloud()


def open_store(cloud: FakeCloud, root: Path, **how: object) -> PackageStore:
    return PackageStore(root, publishers=[cloud.publisher.public], **how)  # type: ignore[arg-type]


def install(cloud: FakeCloud, store: PackageStore, model: DesiredModel) -> None:
    limits = FetchLimits(reserve_bytes=0, first_pause_s=0)
    Installer(store, cloud, limits=limits, stopped=lambda wait_s: False).download(model)


def test_an_installed_package_opens_after_a_restart(cloud: FakeCloud, tmp_path: Path) -> None:
    model = cloud.publish(files=TWO_FILES)
    install(cloud, open_store(cloud, tmp_path), model)
    package = open_store(cloud, tmp_path).open("digits", 1, sha256=model.manifest_sha256)
    assert (package.folder / "weights.bin").read_bytes() == TWO_FILES["weights.bin"]
    assert package.sha256 == model.manifest_sha256
    assert open_store(cloud, tmp_path).installed() == [("digits", 1)]


def test_refuses_a_manifest_that_no_publisher_signed(cloud: FakeCloud, tmp_path: Path) -> None:
    store = open_store(cloud, tmp_path)
    with pytest.raises(SignatureError):
        install(cloud, store, cloud.publish(key=SigningKey.generate()))
    assert files_in(tmp_path) == []


def test_refuses_a_manifest_other_than_the_one_named(cloud: FakeCloud, tmp_path: Path) -> None:
    wanted, other = cloud.publish(version=1), cloud.publish(version=2)
    with pytest.raises(DigestMismatchError):
        open_store(cloud, tmp_path).stage(wanted, cloud.envelope(other))
    assert files_in(tmp_path) == []


def test_a_package_changed_on_disk_is_not_given_out(cloud: FakeCloud, tmp_path: Path) -> None:
    store = open_store(cloud, tmp_path)
    install(cloud, store, cloud.publish(files=TWO_FILES))
    (tmp_path / "digits" / "1" / "weights.bin").write_bytes(b"weightX" * 900)
    with pytest.raises(DigestMismatchError):
        store.open("digits", 1)
    (tmp_path / "digits" / "1" / "weights.bin").unlink()
    with pytest.raises(DigestMismatchError):
        store.open("digits", 1)


def test_a_package_of_a_publisher_we_do_not_know_any_more_is_not_given_out(cloud: FakeCloud, tmp_path: Path) -> None:
    install(cloud, open_store(cloud, tmp_path), cloud.publish())
    with pytest.raises(SignatureError):
        open_store(FakeCloud(), tmp_path).open("digits", 1)


def test_what_is_not_here_is_named_so(cloud: FakeCloud, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        open_store(cloud, tmp_path).open("digits", 1)


def test_only_files_of_variants_that_fit_this_machine_are_fetched(cloud: FakeCloud, tmp_path: Path) -> None:
    variants = (
        Variant("here", "onnx", "fp32", "model.onnx", platform=Platform("linux", "amd64")),
        Variant("there", "onnx", "int8", "arm.onnx", ("shared.bin",), platform=Platform("linux", "aarch64")),
        Variant("gone", "openvino", "fp32", "ov.xml", ("shared.bin",), platform=Platform(engines=("openvino",))),
    )
    files = {name: name.encode() for name in ("model.onnx", "arm.onnx", "shared.bin", "ov.xml", "labels.txt")}
    store = open_store(cloud, tmp_path, here=HERE)
    install(cloud, store, cloud.publish(files=files, variants=variants))
    names = {path.name for path in (tmp_path / "digits" / "1").iterdir()}
    assert names == {"manifest.json", "model.onnx", "labels.txt"}
    assert store.open("digits", 1).manifest.version == 1


def test_a_package_without_a_variant_for_this_machine_says_so(cloud: FakeCloud, tmp_path: Path) -> None:
    variants = (Variant("there", "onnx", "fp32", "model.onnx", platform=Platform("plan9")),)
    with pytest.raises(PackageError, match="fits this machine"):
        install(cloud, open_store(cloud, tmp_path, here=HERE), cloud.publish(variants=variants))
    assert files_in(tmp_path) == []


def test_a_begun_download_is_kept_over_a_restart_and_goes_on(cloud: FakeCloud, tmp_path: Path) -> None:
    model = cloud.publish(files=TWO_FILES)
    cloud.cuts.extend([None, None, 3000, *[0] * 9])  # the manifest and the first file pass
    with pytest.raises(DownloadError):
        install(cloud, open_store(cloud, tmp_path), model)
    cloud.cuts.clear()
    cloud.calls.clear()
    install(cloud, open_store(cloud, tmp_path), model)
    assert len(cloud.downloads()) == 2  # the manifest and the rest of the second file
    assert cloud.downloads()[1].endswith("@3000")


def test_parts_of_another_build_are_not_mixed_in(cloud: FakeCloud, tmp_path: Path) -> None:
    store = open_store(cloud, tmp_path)
    first = store.stage(model := cloud.publish(files=TWO_FILES), cloud.envelope(model))
    (first.folder / "weights.bin").write_bytes(b"half")
    second = store.stage(model := cloud.publish(files={"model.onnx": b"new"}), cloud.envelope(model))
    assert [name for name, _ in second.missing()] == ["model.onnx"]
    assert not (second.folder / "weights.bin").exists()


def test_downloads_nobody_wants_any_more_are_dropped(cloud: FakeCloud, tmp_path: Path) -> None:
    store = open_store(cloud, tmp_path)
    for name in ("a", "b"):
        store.stage(model := cloud.publish(name), cloud.envelope(model))
    store.prune_staging({("b", 1)})
    assert [path.parts[0] for path in files_in(tmp_path)] == ["b"]


def test_the_version_before_stays_for_going_back_and_older_ones_go(cloud: FakeCloud, tmp_path: Path) -> None:
    store = open_store(cloud, tmp_path)
    for version in (1, 2, 3):
        install(cloud, store, cloud.publish(version=version))
        store.set_active([ActiveModel("digits", version)])
        store.prune(keep=())
    assert store.installed() == [("digits", 2), ("digits", 3)]
    again = open_store(cloud, tmp_path)
    assert again.active() == (ActiveModel("digits", 3),)
    assert again.previous("digits") == 2
    again.set_active([ActiveModel("digits", 2)])
    assert again.previous("digits") == 3


def test_a_model_that_is_not_active_any_more_leaves_nothing(cloud: FakeCloud, tmp_path: Path) -> None:
    store = open_store(cloud, tmp_path)
    install(cloud, store, cloud.publish())
    store.set_active([ActiveModel("digits", 1)])
    store.set_active([])
    assert store.prune(keep=()) == [("digits", 1)]
    assert [str(path) for path in files_in(tmp_path)] == ["active.json"]


def test_a_damaged_list_of_active_models_starts_nothing_and_breaks_nothing(cloud: FakeCloud, tmp_path: Path) -> None:
    for damage in (b"", b"{", b"[]", b'{"active": 1, "previous": {}}', b'{"active": [{}], "previous": {}}'):
        (tmp_path / "active.json").write_bytes(damage)
        store = open_store(cloud, tmp_path)
        assert store.active() == ()
        store.set_active([ActiveModel("digits", 1)])
        assert json.loads((tmp_path / "active.json").read_bytes())["active"][0]["name"] == "digits"


# --- power cuts


def outcomes(
    cloud: FakeCloud, tmp_path: Path, prepare: Callable[[PackageStore], None], act: Callable[[PackageStore], None]
) -> list[tuple[list[tuple[str, int]], tuple[ActiveModel, ...], list[str]]]:
    """For each cut during ``act``: what a restart finds installed, active, and any package that does not open."""
    root = tmp_path / "models"
    prepare(open_store(cloud, root))
    disk = FlashDisk(root)
    act(open_store(cloud, root, disk=disk))
    found = []
    for after in range(len(disk.ops) + 1):
        for kind, state in disk.states_after_cut(after, tmp_path / "cut", seed=after):
            store = open_store(cloud, state)
            broken = []
            for name, version in store.installed():
                try:
                    store.open(name, version)
                except AimassError as exc:
                    broken.append(f"{kind} after {after}: {exc}")
            found.append((store.installed(), store.active(), broken))
    return found


def test_a_power_cut_during_an_install_leaves_the_old_or_the_new_version_never_neither(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    one, two = cloud.publish(version=1, files=TWO_FILES), cloud.publish(version=2, files=TWO_FILES | {"c": b"c"})
    cloud.chunk_bytes = 1500

    def prepare(store: PackageStore) -> None:
        install(cloud, store, one)
        store.set_active([ActiveModel("digits", 1)])

    def act(store: PackageStore) -> None:
        install(cloud, store, two)
        store.set_active([ActiveModel("digits", 2)])
        store.prune(keep=())

    found = outcomes(cloud, tmp_path, prepare, act)
    assert [broken for _, _, broken in found if broken] == []
    for installed, active, _ in found:
        assert ("digits", 1) in installed  # the one to go back to
        assert active in ((ActiveModel("digits", 1),), (ActiveModel("digits", 2),))
        assert (active[0].name, active[0].version) in installed
    assert {active[0].version for _, active, _ in found} == {1, 2}
    assert len(found) > 100


def test_a_power_cut_while_a_version_is_replaced_by_another_build_leaves_one_of_the_two(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    old, new = cloud.publish(files=TWO_FILES), cloud.publish(files={"model.onnx": b"another build" * 400})
    found = outcomes(
        cloud, tmp_path, lambda store: install(cloud, store, old), lambda store: install(cloud, store, new)
    )
    assert {tuple(installed) for installed, _, _ in found} == {(("digits", 1),)}
    assert [broken for _, _, broken in found if broken] == []


def test_a_power_cut_while_a_package_is_removed_leaves_it_whole_or_gone(cloud: FakeCloud, tmp_path: Path) -> None:
    model = cloud.publish(files=TWO_FILES)
    found = outcomes(
        cloud, tmp_path, lambda store: install(cloud, store, model), lambda store: store.remove("digits", 1)
    )
    assert {tuple(installed) for installed, _, _ in found} == {(("digits", 1),), ()}
    assert [broken for _, _, broken in found if broken] == []


def test_an_install_that_was_cut_off_succeeds_when_it_is_tried_again(cloud: FakeCloud, tmp_path: Path) -> None:
    model = cloud.publish(files=TWO_FILES)
    root = tmp_path / "models"
    root.mkdir()
    disk = FlashDisk(root)
    install(cloud, open_store(cloud, root, disk=disk), model)
    for after in range(len(disk.ops) + 1):
        for _, state in disk.states_after_cut(after, tmp_path / "cut"):
            store = open_store(cloud, state)
            install(cloud, store, model)
            assert store.open("digits", 1, sha256=model.manifest_sha256)


# --- full disks


def test_a_full_disk_at_any_write_keeps_the_old_version_and_leaves_nothing_half_written(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    one, two = cloud.publish(version=1, files=TWO_FILES), cloud.publish(version=2, files=TWO_FILES | {"c": b"c"})
    template = tmp_path / "template"
    store = open_store(cloud, template)
    install(cloud, store, one)
    store.set_active([ActiveModel("digits", 1)])
    before = files_in(template)
    for room in range(1000):
        root = tmp_path / "models"
        shutil.copytree(template, root)
        store = open_store(cloud, root, disk=FlashDisk(root, full_after=room))
        try:
            install(cloud, store, two)
            store.set_active([ActiveModel("digits", 2)])
        except NoSpaceError:
            assert open_store(cloud, root).open("digits", 1)
            assert open_store(cloud, root).active() == (ActiveModel("digits", 1),)
            if ("digits", 2) not in store.installed():
                assert files_in(root) == before
            shutil.rmtree(root)
        else:
            break
    assert 10 < room < 999
    assert open_store(cloud, root).active() == (ActiveModel("digits", 2),)


def files_in(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
