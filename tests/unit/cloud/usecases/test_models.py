"""Models: uploads, what is signed about them, and that failed ones leave nothing."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from aimass.errors import (
    ConflictError,
    FrameTooLargeError,
    InputError,
    ModelInvalidError,
    ModelNotFoundError,
    SignatureError,
)
from aimass.package.keys import SigningKey
from aimass.package.manifest import Manifest
from aimass.package.trust import accept_manifest
from aimass_cloud.store.records import VersionRecord
from aimass_cloud.usecases.package import UploadForm
from tests.fakes.cloud import CloudInMemory
from tests.fakes.cloud_models import affine_bytes, external


def push(cloud: CloudInMemory, *files: tuple[str, bytes], **form: Any) -> VersionRecord:
    with cloud.models.begin() as upload:
        for name, content in files:
            upload.receive(name, [content[:100], content[100:]])
        return upload.publish(UploadForm(**form), created_by="ann")


def manifest_of(cloud: CloudInMemory, record: VersionRecord) -> Manifest:
    return accept_manifest(
        b"".join(cloud.blobs.open(record.manifest_sha256)),
        publishers=[cloud.publisher.public],
        sha256=record.manifest_sha256,
        name=record.model,
        version=record.version,
    )


def blob_count(cloud: CloudInMemory) -> int:
    return len(list(cloud.blobs.list()))


def archive(*files: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_an_upload_becomes_a_signed_version(cloud: CloudInMemory) -> None:
    record = push(cloud, ("digits.onnx", affine_bytes()), name="digits", labels=("a", "b"), metrics={"accuracy": 0.9})
    manifest = manifest_of(cloud, record)
    assert (record.version, record.created_by) == (1, "ann")
    assert (manifest.labels, manifest.metrics) == (("a", "b"), {"accuracy": 0.9})
    assert set(manifest.files) == {"model.onnx", "golden.bin"}
    assert manifest.golden is not None
    assert b"".join(cloud.blobs.open(manifest.files["model.onnx"].sha256)) == affine_bytes()


def test_the_manifest_is_refused_by_who_pins_another_publisher(cloud: CloudInMemory) -> None:
    record = push(cloud, ("digits.onnx", affine_bytes()))
    envelope = b"".join(cloud.blobs.open(record.manifest_sha256))
    with pytest.raises(SignatureError):
        accept_manifest(envelope, publishers=[SigningKey.generate().public], sha256=None, name="digits", version=1)


def test_versions_count_up(cloud: CloudInMemory) -> None:
    assert [cloud.push(seed=seed) for seed in (1, 2, 3)] == [1, 2, 3]
    assert cloud.models.get("digits").newest == 3


def test_a_failed_upload_leaves_no_hole_in_the_numbers(cloud: CloudInMemory) -> None:
    cloud.push()
    with pytest.raises(ModelInvalidError):
        push(cloud, ("digits.onnx", b"nonsense"), name="digits")
    assert cloud.push() == 2


def test_a_failed_upload_leaves_no_blob(cloud: CloudInMemory) -> None:
    with pytest.raises(ModelInvalidError):
        push(cloud, ("digits.onnx", b"nonsense"))
    with pytest.raises(InputError):
        push(cloud, ("digits.onnx", affine_bytes()), ("unused.bin", b"x"))
    assert blob_count(cloud) == 0
    assert list((cloud.folder / "work").iterdir()) == []


def test_a_failed_upload_does_not_take_the_blobs_of_a_good_one(cloud: CloudInMemory) -> None:
    record = push(cloud, ("digits.onnx", affine_bytes()))
    with pytest.raises(InputError):
        push(cloud, ("digits.onnx", affine_bytes()), ("unused.bin", b"x"))
    assert all(cloud.blobs.exists(digest) for digest in record.files)


def test_a_failing_upload_does_not_take_the_blobs_of_one_that_is_under_way(cloud: CloudInMemory) -> None:
    with cloud.models.begin() as good:
        good.receive("digits.onnx", [affine_bytes()])
        with pytest.raises(InputError):
            push(cloud, ("digits.onnx", affine_bytes()), ("unused.bin", b"x"))
        assert good.publish(UploadForm()).version == 1
    assert blob_count(cloud) == 3


def test_uploads_are_counted_by_their_outcome(cloud: CloudInMemory) -> None:
    cloud.push()
    for files in ((("m.onnx", b"nonsense"),), (("m.onnx", affine_bytes()), ("unused.bin", b"x"))):
        with pytest.raises((ModelInvalidError, InputError)):
            push(cloud, *files)
    assert (cloud.models.published, cloud.models.refused) == (1, 2)


def test_what_a_crash_left_is_swept_away(cloud: CloudInMemory) -> None:
    cloud.push()
    kept = blob_count(cloud)
    cloud.blobs.put([b"left behind"])
    assert cloud.holds.sweep() == 1
    assert blob_count(cloud) == kept


def test_an_upload_above_the_limit_stops_in_the_middle(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    cloud = CloudInMemory(folder, max_model_bytes=1000)
    taken = 0

    def endless() -> Iterable[bytes]:
        nonlocal taken
        while True:
            taken += 100
            yield bytes(100)

    with pytest.raises(FrameTooLargeError), cloud.models.begin() as upload:
        upload.receive("m.onnx", endless())
    assert taken <= 1200
    assert blob_count(cloud) == 0
    cloud.close()


@pytest.mark.parametrize(
    ("file_name", "name"),
    [("digits.onnx", "digits"), ("My Net (v2).onnx", "My-Net-v2"), ("a/b\\c.onnx", "c"), ("x.tar.gz.onnx", "x")],
)
def test_a_name_is_made_from_the_file(cloud: CloudInMemory, file_name: str, name: str) -> None:
    assert push(cloud, (file_name, affine_bytes())).model == name


@pytest.mark.parametrize(("file_name", "name"), [("...onnx", ""), ("m.onnx", "a/b"), ("m.onnx", "-x"), ("", "")])
def test_names_that_cannot_name_a_model_are_refused(cloud: CloudInMemory, file_name: str, name: str) -> None:
    with pytest.raises(InputError):
        push(cloud, (file_name, affine_bytes()), name=name)


def test_external_weights_belong_to_the_package(cloud: CloudInMemory, tmp_path: Path) -> None:
    path = external(tmp_path)
    files = (("model.onnx", path.read_bytes()), ("weights.bin", (tmp_path / "weights.bin").read_bytes()))
    manifest = manifest_of(cloud, push(cloud, *files, name="m"))
    assert manifest.variants[0].files == ("weights.bin",)
    assert "weights.bin" in manifest.files


@pytest.mark.parametrize("name", ["model.onnx", "golden.bin", "manifest.json", "../x", "a/b", ".hidden", ""])
def test_further_files_with_other_peoples_names_are_refused(cloud: CloudInMemory, name: str) -> None:
    with pytest.raises(InputError):
        push(cloud, ("m.onnx", affine_bytes()), (name, b"x"))


def test_batching_is_on_where_it_changes_no_answer(cloud: CloudInMemory) -> None:
    assert manifest_of(cloud, push(cloud, ("m.onnx", affine_bytes()))).batching.max_batch == 16
    assert manifest_of(cloud, push(cloud, ("m.onnx", affine_bytes()), max_batch=1)).batching.max_batch == 1


def test_a_batch_that_the_model_cannot_do_is_refused(cloud: CloudInMemory) -> None:
    with pytest.raises(ModelInvalidError) as caught:
        push(cloud, ("m.onnx", affine_bytes(batch=1)), max_batch=8)
    assert caught.value.reason == "batching"


def test_notes_say_what_was_left_out(cloud: CloudInMemory) -> None:
    with cloud.models.begin() as upload:
        upload.receive("m.onnx", [affine_bytes(batch=1)])
        upload.publish(UploadForm())
        assert "no batching" in upload.notes[0]


def test_an_archive_is_taken_apart(cloud: CloudInMemory, tmp_path: Path) -> None:
    path = external(tmp_path)
    form = json.dumps({"name": "from-archive", "labels": ["x"]}).encode()
    data = archive(
        ("net/weights.bin", (tmp_path / "weights.bin").read_bytes()),
        ("net/model.onnx", path.read_bytes()),
        ("net/manifest.json", form),
    )
    record = push(cloud, ("model.tar.gz", data))
    assert (record.model, record.labels) == ("model", ("x",))
    assert set(manifest_of(cloud, record).files) == {"model.onnx", "weights.bin", "golden.bin"}
    assert blob_count(cloud) == 4


@pytest.mark.parametrize(
    "data",
    [
        b"no archive",
        archive(("a.onnx", b"x"), ("b.onnx", b"y")),
        archive(("readme", b"x")),
        archive(("../../x.onnx", b"x"), ("x.onnx", b"y")),
        archive(("m.onnx", bytes(5000)))[:60],
    ],
    ids=["garbage", "two models", "no model", "same name", "cut off"],
)
def test_bad_archives_are_refused_and_leave_nothing(cloud: CloudInMemory, data: bytes) -> None:
    with pytest.raises((ModelInvalidError, InputError)):
        push(cloud, ("m.tar.gz", data))
    assert blob_count(cloud) == 0


def test_links_in_an_archive_are_refused(cloud: CloudInMemory) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("m.onnx")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(ModelInvalidError):
        push(cloud, ("m.tar.gz", buffer.getvalue()))


def test_an_archive_bomb_stops_at_the_limit(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    cloud = CloudInMemory(folder, max_model_bytes=100_000)
    with pytest.raises(ModelInvalidError) as caught:
        push(cloud, ("m.tar.gz", archive(("m.onnx", bytes(5_000_000)))))
    assert caught.value.reason == "too_large"
    cloud.close()


@pytest.mark.parametrize("alias", ["1", "A", "a b", "", "x/y"])
def test_aliases_are_plain_words(cloud: CloudInMemory, alias: str) -> None:
    cloud.push()
    with pytest.raises(InputError):
        cloud.models.set_alias("digits", alias, 1)


def test_an_alias_that_a_deployment_follows_cannot_be_removed(cloud: CloudInMemory) -> None:
    cloud.push()
    cloud.models.set_alias("digits", "champion", 1)
    view = cloud.deployments.deploy("digits", alias="champion")
    with pytest.raises(ConflictError):
        cloud.models.remove_alias("digits", "champion")
    cloud.deployments.end(view.record.id)
    cloud.models.remove_alias("digits", "champion")
    assert cloud.models.get("digits").aliases == {}


def test_an_alias_for_a_version_that_is_not_there_is_refused(cloud: CloudInMemory) -> None:
    cloud.push()
    with pytest.raises(ModelNotFoundError):
        cloud.models.set_alias("digits", "champion", 7)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{",
        b'{"nmae": "x"}',
        b'{"labels": "a"}',
        b'{"labels": [1]}',
        b'{"metrics": {"a": "b"}}',
        b'{"batching": 4}',
        b'{"batching": {"max_batch": true}}',
        b'{"name": 4}',
        b"[" * 100_000,
        b'{"name": "' + b"x" * 300_000 + b'"}',
    ],
)
def test_forms_that_make_no_sense_are_refused(raw: bytes) -> None:
    with pytest.raises(InputError):
        UploadForm.from_json(raw)


@pytest.mark.parametrize("metrics", [{"a": float("nan")}, {"a": float("inf")}])
def test_values_that_no_manifest_can_hold_are_refused(cloud: CloudInMemory, metrics: dict[str, float]) -> None:
    with pytest.raises(InputError):
        push(cloud, ("m.onnx", affine_bytes()), metrics=metrics)
    assert blob_count(cloud) == 0
