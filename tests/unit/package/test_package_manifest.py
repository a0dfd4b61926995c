"""Manifests."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from aimass.errors import PackageError
from aimass.package.fields import MAX_DOCUMENT_BYTES
from aimass.package.manifest import (
    Batching,
    FileEntry,
    Golden,
    Manifest,
    Platform,
    Variant,
    is_model_name,
)
from aimass.wire.tensor import Datatype, TensorSpec
from tests.unit.package.samples import DIGEST, MANIFEST


def canonical(fields: Any) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def changed(**fields: Any) -> bytes:
    return canonical(json.loads(MANIFEST.to_json()) | fields)


def test_a_manifest_comes_back() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST


def test_a_manifest_is_written_in_canonical_form() -> None:
    # MAN-2.1
    raw = MANIFEST.to_json()
    assert raw == canonical(json.loads(raw))
    assert raw == Manifest.from_json(raw).to_json()


def test_the_smallest_manifest_comes_back() -> None:
    entry = {"m.onnx": FileEntry(DIGEST, 0)}
    spec = (TensorSpec("x", Datatype.BYTES, ()),)
    small = Manifest("m", 1, "2026-01-02T03:04:05Z", spec, spec, entry, (Variant("v", "onnx", "fp32", "m.onnx"),))
    assert Manifest.from_json(small.to_json()) == small


def test_unknown_keys_are_passed_over_and_not_kept() -> None:
    # MAN-2.2
    fields = json.loads(MANIFEST.to_json())
    fields["variants"][0]["later"] = {"a": [1]}
    fields["later"] = True
    assert Manifest.from_json(canonical(fields)) == MANIFEST


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        MANIFEST.to_json() + b" ",
        MANIFEST.to_json().replace(b'"version":3', b'"version": 3'),
        MANIFEST.to_json().replace(b'"version":3', b'"version":3,"version":3'),
        MANIFEST.to_json().replace(b'"version":3', b'"version":3.0'),
        MANIFEST.to_json().replace(b"0.97", b"9.7e-1"),
        MANIFEST.to_json().replace(b"0.97", b"NaN"),
        MANIFEST.to_json().replace(b"0.97", b"1e999"),
        json.dumps(json.loads(MANIFEST.to_json()), sort_keys=True).encode(),
        json.dumps(json.loads(MANIFEST.to_json()), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(),
        b'{"a":' + b"[" * 5000,
        b" " * (MAX_DOCUMENT_BYTES + 1),
    ],
    ids=lambda raw: str(len(raw)),
)
def test_refuses_what_is_not_canonical(raw: bytes) -> None:
    # MAN-2.1
    with pytest.raises(PackageError):
        Manifest.from_json(raw)


@pytest.mark.parametrize(
    "fields",
    [
        {"schema": 2},
        {"schema": True},
        {"schema": None},
        {"name": 7},
        {"name": ""},
        {"version": True},
        {"version": 0},
        {"version": 2**53},
        {"created_at": "yesterday"},
        {"created_at": "2026-01-02T03:04:05"},
        {"created_at": None},
        {"inputs": []},
        {"inputs": {}},
        {"inputs": [1]},
        {"inputs": [{"name": "x", "datatype": "FP8", "shape": []}]},
        {"inputs": [{"name": "x", "datatype": ["FP32"], "shape": []}]},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": "[]"}]},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-2]}]},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [True]}]},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1.0]}]},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1] * 17}]},
        {"inputs": [{"name": "", "datatype": "FP32", "shape": [-1]}]},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}] * 2},
        {"files": {}},
        {"files": []},
        {"files": {"model.onnx": 7}},
        {"variants": []},
        {"variants": [{"name": "a"}]},
        {"variants": [{"name": "a", "format": "onnx", "precision": "fp32", "file": "nowhere.onnx"}]},
        {"variants": [{"name": "a", "format": "ONNX", "precision": "fp32", "file": "model.onnx"}]},
        {"variants": [{"name": "a", "format": "onnx", "precision": "fp32", "file": "model.onnx"}] * 2},
        {"golden": []},
        {"golden": {"file": "golden.bin"}},
        {"golden": {"file": "nowhere.bin", "rtol": 0, "atol": 0}},
        {"golden": {"file": "golden.bin", "rtol": -1, "atol": 0}},
        {"golden": {"file": "golden.bin", "rtol": True, "atol": 0}},
        {"batching": {"max_batch": 0}},
        {"batching": {"max_batch": 2, "max_delay_ms": -1}},
        {"batching": {"max_batch": 2.0}},
        {"metrics": {"accuracy": "high"}},
        {"metrics": {"accuracy": True}},
        {"metrics": []},
        {"labels": "ab"},
        {"labels": [1]},
        {"labels": ["a\nb"]},
    ],
    ids=str,
)
def test_refuses_fields_that_do_not_say_what_they_must(fields: dict[str, Any]) -> None:
    # MAN-2.3, MAN-3.3
    with pytest.raises(PackageError):
        Manifest.from_json(changed(**fields))


@pytest.mark.parametrize("name", ["model.onnx", "a", "A_1", "w.bin.zst", "a+b", "1" * 128])
def test_takes_plain_file_names(name: str) -> None:
    entry = {name: FileEntry(DIGEST, 1)}
    variant = Variant("v", "onnx", "fp32", name)
    assert replace(MANIFEST, files=entry, variants=(variant,), golden=None).files == entry


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "a/b", "../a", "/a", "a\\b", "C:a", "a\0", "a\n", "é", "-a", "manifest.json", "1" * 129],
)
def test_refuses_names_that_could_reach_elsewhere(name: str) -> None:
    # MAN-3.2
    entry = {name: FileEntry(DIGEST, 1)}
    with pytest.raises(PackageError):
        replace(MANIFEST, files=entry, variants=(Variant("v", "onnx", "fp32", name),), golden=None)


@pytest.mark.parametrize("digest", ["", "ab", DIGEST.upper(), DIGEST + "0", "g" * 64, DIGEST + "\n"])
def test_a_digest_is_64_lower_case_hex_digits(digest: str) -> None:
    with pytest.raises(PackageError):
        FileEntry(digest, 1)


@pytest.mark.parametrize("size", [-1, 2**41, True, 1.0])
def test_a_size_is_a_whole_number_within_reason(size: Any) -> None:
    with pytest.raises(PackageError):
        FileEntry(DIGEST, size)


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "0", "x" * 100])
def test_takes_model_names(name: str) -> None:
    # MAN-3.1
    assert is_model_name(name)


@pytest.mark.parametrize("name", ["", ".a", "-a", "_a", "a/b", "a b", "a\n", "é", "x" * 101, ".."])
def test_refuses_model_names(name: str) -> None:
    assert not is_model_name(name)
    with pytest.raises(PackageError):
        replace(MANIFEST, name=name)


def test_batching_needs_a_variable_first_dimension_everywhere() -> None:
    # MAN-3.4
    fixed = (TensorSpec("image", Datatype.FP32, (1, 64)),)
    with pytest.raises(PackageError, match="first dimension"):
        replace(MANIFEST, inputs=fixed)
    with pytest.raises(PackageError, match="first dimension"):
        replace(MANIFEST, outputs=(TensorSpec("y", Datatype.FP32, ()),))
    assert replace(MANIFEST, inputs=fixed, batching=Batching()).batching.max_batch == 1


def test_metrics_may_be_whole_numbers() -> None:
    assert Manifest.from_json(changed(metrics={"n": 3})).metrics == {"n": 3.0}


def test_refuses_to_write_what_is_not_finite() -> None:
    with pytest.raises(PackageError):
        replace(MANIFEST, metrics={"a": float("inf")})
    with pytest.raises(PackageError):
        Golden("golden.bin", rtol=float("nan"), atol=0)


def test_refuses_to_write_what_nobody_would_read() -> None:
    with pytest.raises(PackageError, match="at most"):
        replace(MANIFEST, labels=("x" * 1000,) * 3000).to_json()


def test_formats_of_later_versions_are_passed_over_by_the_reader_not_refused() -> None:
    # MAN-4.1
    later = {"name": "mcu", "format": "c-source", "precision": "int8", "file": "model.bin"}
    fields = json.loads(MANIFEST.to_json())
    got = Manifest.from_json(changed(variants=[*fields["variants"], later]))
    assert got.variants[:2] == MANIFEST.variants
    assert got.variants[2].format == "c-source"


HERE = Platform("linux", "x86_64", ("onnxruntime", "openvino"))


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (Platform(), True),
        (Platform("linux"), True),
        (Platform("Linux", "AMD64"), True),
        (Platform("windows"), False),
        (Platform(arch="aarch64"), False),
        (Platform(engines=("openvino",)), True),
        (Platform(engines=("openvino", "tensorrt")), True),
        (Platform(engines=("tensorrt",)), False),
        (Platform("linux", "x86_64", ("onnxruntime",)), True),
    ],
)
def test_a_variant_fits_a_machine(wanted: Platform, fits: bool) -> None:
    # MAN-4.2
    assert wanted.matches(HERE) is fits


def test_two_names_of_one_architecture_are_one() -> None:
    assert Platform(arch="arm64").matches(Platform("linux", "aarch64"))
    assert Platform(arch="aarch64").matches(Platform("darwin", "arm64"))
