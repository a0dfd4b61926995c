"""Tiny ONNX models that do one thing each, ways to break their files, and whole signed packages around them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aimass.package.envelope import MANIFEST_TYPE, seal
from aimass.package.golden import pack_golden
from aimass.package.keys import SigningKey
from aimass.package.manifest import Batching, FileEntry, Golden, Manifest, Variant
from aimass.wire.messages import InferRequest, InferResponse
from aimass.wire.tensor import Array, Datatype, Tensor, TensorSpec

FLOAT = TensorProto.FLOAT

_DATATYPES = {
    TensorProto.FLOAT: Datatype.FP32,
    TensorProto.DOUBLE: Datatype.FP64,
    TensorProto.FLOAT16: Datatype.FP16,
    TensorProto.BFLOAT16: Datatype.BF16,
    TensorProto.INT8: Datatype.INT8,
    TensorProto.INT32: Datatype.INT32,
    TensorProto.INT64: Datatype.INT64,
    TensorProto.UINT8: Datatype.UINT8,
    TensorProto.BOOL: Datatype.BOOL,
    TensorProto.STRING: Datatype.BYTES,
}


def value(name: str, shape: Sequence[int | str], kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, list(shape))


def model(
    nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], weights: Mapping[str, Array] | None = None
) -> bytes:
    """A checked model of these nodes, as the bytes of its file."""
    initializers = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def mlp(seed: int = 1, hidden: int = 16) -> bytes:
    """x FP32 [n, 4] -> y FP32 [n, 3]; another seed is another function."""
    random = np.random.default_rng(seed)
    weights = {
        "w1": random.normal(size=(4, hidden)).astype(np.float32),
        "b1": random.normal(size=hidden).astype(np.float32),
        "w2": random.normal(size=(hidden, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Add", ["h", "b1"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    return model(nodes, [value("x", ["n", 4])], [value("y", ["n", 3])], weights)


def add(amount: float = 1.0) -> bytes:
    """x FP32 [n, 2] -> y = x + amount: what answered shows in the answer."""
    weights = {"amount": np.array([amount], np.float32)}
    node = helper.make_node("Add", ["x", "amount"], ["y"])
    return model([node], [value("x", ["n", 2])], [value("y", ["n", 2])], weights)


def two_in_two_out() -> bytes:
    """a, b FP32 [n, 2] -> sum = a + b, difference = a - b."""
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    ports = [value(name, ["n", 2]) for name in ("a", "b", "sum", "difference")]
    return model(nodes, ports[:2], ports[2:])


def fixed() -> bytes:
    """x FP32 [1, 2] -> y = -x; the batch is not free."""
    return model([helper.make_node("Neg", ["x"], ["y"])], [value("x", [1, 2])], [value("y", [1, 2])])


def doubled(kind: int) -> bytes:
    """x [n] -> y [m] = x twice, of any element type."""
    node = helper.make_node("Concat", ["x", "x"], ["y"], axis=0)
    return model([node], [value("x", ["n"], kind)], [value("y", ["m"], kind)])


def strings() -> bytes:
    """x BYTES [n] -> y = x."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return model([node], [value("x", ["n"], TensorProto.STRING)], [value("y", ["n"], TensorProto.STRING)])


def scalar() -> bytes:
    """x FP32 [] -> y = -x."""
    return model([helper.make_node("Neg", ["x"], ["y"])], [value("x", [])], [value("y", [])])


def looping() -> bytes:
    """times INT64 [], x FP32 [n, 64] -> y = x through `times` products: as slow as asked, 1,000 take about 5 ms."""
    wide = ["n", 64]
    body = helper.make_graph(
        [helper.make_node("MatMul", ["v", "m"], ["v2"]), helper.make_node("Identity", ["go"], ["go2"])],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("v", wide)],
        [value("go2", [], TensorProto.BOOL), value("v2", wide)],
    )
    node = helper.make_node("Loop", ["times", "go0", "x"], ["y"], body=body)
    weights = {"m": np.eye(64, dtype=np.float32), "go0": np.array(True)}
    return model([node], [value("times", [], TensorProto.INT64), value("x", wide)], [value("y", wide)], weights)


def chain(length: int = 300, width: int = 192) -> bytes:
    """x FP32 [n, width] -> y, through many operators one after the other: long, and stoppable between two of them."""
    orthogonal = np.linalg.qr(np.random.default_rng(7).normal(size=(width, width)))[0].astype(np.float32)
    names = ["x", *(f"v{step}" for step in range(1, length)), "y"]
    nodes = [helper.make_node("MatMul", [names[step], "m"], [names[step + 1]]) for step in range(length)]
    return model(nodes, [value("x", ["n", width])], [value("y", ["n", width])], {"m": orthogonal})


def broken_graph() -> bytes:
    """Parses, but a node uses a tensor that nobody makes."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "nowhere"], ["y"])], "graph", [value("x", ["n", 2])], [value("y", ["n", 2])]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def unknown_operator() -> bytes:
    """Parses, but no engine knows its operator."""
    graph = helper.make_graph(
        [helper.make_node("Conjure", ["x"], ["y"], domain="nobody.example")],
        "graph",
        [value("x", ["n", 2])],
        [value("y", ["n", 2])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nobody.example", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


#: File contents that are not a usable model.
BROKEN: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "garbage": lambda: bytes(range(256)) * 16,
    "text": lambda: b"node { input: x }\n" * 20,
    "cut off": lambda: mlp()[:-60],
    "half": lambda: mlp()[: len(mlp()) // 2],
    "broken graph": broken_graph,
    "unknown operator": unknown_operator,
}


def specs_of(data: bytes) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs that the file declares."""
    graph = onnx.load_from_string(data).graph
    return tuple(map(_spec, graph.input)), tuple(map(_spec, graph.output))


def _spec(port: Any) -> TensorSpec:
    kind = port.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
    return TensorSpec(port.name, _DATATYPES[kind.elem_type], shape)


@dataclass(frozen=True)
class Package:
    """An installed package: a folder with `manifest.json` (signed) and the files it names."""

    folder: Path
    manifest: Manifest
    key: SigningKey


def package(
    folder: Path,
    data: bytes,
    *,
    name: str = "model",
    version: int = 1,
    golden: Sequence[tuple[Mapping[str, Array], Mapping[str, Array]]] = (),
    tolerance: float = 1e-4,
    batching: Batching | None = None,
    key: SigningKey | None = None,
    **more: Any,
) -> Package:
    """Write a complete package of this model.

    Args:
        folder: where; made when missing.
        data: the ONNX file.
        name: the model's name.
        version: its version.
        golden: pairs of inputs and the outputs they must give.
        tolerance: relative and absolute tolerance of the golden vectors.
        batching: whether requests may be put together.
        key: signs the manifest; a new one when left out.
        more: further fields of the manifest (`labels`, `metrics`, `variants`, ...).
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {"model.onnx": data}
    inputs, outputs = more.pop("specs", None) or specs_of(data)
    if golden:
        files["golden.bin"] = pack_golden(
            (InferRequest(name, _tensors(asked, inputs)), InferResponse(name, str(version), _tensors(told, outputs)))
            for asked, told in golden
        )
    for file, content in files.items():
        (folder / file).write_bytes(content)
    manifest = Manifest(
        name=name,
        version=version,
        created_at="2026-01-01T00:00:00+00:00",
        inputs=inputs,
        outputs=outputs,
        files={file: FileEntry(hashlib.sha256(content).hexdigest(), len(content)) for file, content in files.items()},
        variants=more.pop("variants", (Variant("onnx-fp32", "onnx", "fp32", "model.onnx"),)),
        golden=Golden("golden.bin", tolerance, tolerance) if golden else None,
        batching=batching or Batching(),
        **more,
    )
    key = key or SigningKey.generate()
    (folder / "manifest.json").write_bytes(seal(MANIFEST_TYPE, manifest.to_json(), [key]))
    return Package(folder, manifest, key)


def _tensors(arrays: Mapping[str, Array], specs: Sequence[TensorSpec]) -> tuple[Tensor, ...]:
    datatypes = {spec.name: spec.datatype for spec in specs}
    return tuple(Tensor.from_array(name, array, datatypes[name]) for name, array in arrays.items())


def ask(x: Any = ((1.0, 2.0),), *, model: str = "model", **options: Any) -> InferRequest:
    """A request to a model that takes x FP32."""
    return InferRequest(model, (Tensor.from_array("x", np.asarray(x, np.float32)),), **options)
