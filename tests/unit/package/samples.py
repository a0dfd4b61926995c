"""A manifest and a desired document with something in every field."""

from __future__ import annotations

from aimass.package.desired import Desired, DesiredModel
from aimass.package.keys import SigningKey
from aimass.package.manifest import Batching, FileEntry, Golden, Manifest, Platform, Variant
from aimass.wire.tensor import Datatype, TensorSpec

PUBLISHER = SigningKey.generate()
STRANGER = SigningKey.generate()
DIGEST = "0123456789abcdef" * 4

MANIFEST = Manifest(
    name="digits",
    version=3,
    created_at="2026-01-02T03:04:05+00:00",
    inputs=(TensorSpec("image", Datatype.FP32, (-1, 64)),),
    outputs=(TensorSpec("label", Datatype.INT64, (-1,)), TensorSpec("p", Datatype.FP32, (-1, 10))),
    files={name: FileEntry(DIGEST, 12) for name in ("model.onnx", "model.xml", "model.bin", "golden.bin")},
    variants=(
        Variant("cpu", "onnx", "fp32", "model.onnx"),
        Variant("x86", "openvino", "int8", "model.xml", ("model.bin",), Platform("linux", "x86_64", ("openvino",))),
    ),
    golden=Golden("golden.bin", rtol=1e-3, atol=1e-5),
    batching=Batching(8, 2.0),
    metrics={"accuracy": 0.97, "loss": 0.1},
    labels=("zero", "eins", "\u0434\u0432\u0430"),
)
DESIRED = Desired(
    device="gw-1",
    epoch=1_767_323_045_000,
    version=7,
    models=(
        DesiredModel("digits", 3, f"/v1/blobs/{DIGEST}", DIGEST),
        DesiredModel("digits", 2, f"/v1/blobs/{DIGEST}", DIGEST, default=False),
    ),
    issued_at_ms=1_767_323_046_000,
)
