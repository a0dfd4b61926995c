"""Small ONNX models for tests of the cloud: good ones, and ways to make them bad."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
Dims = Sequence[int | str | None] | None


def value(name: str, dims: Dims, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, dims)


def model(
    nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], *, weights: Any = None, **more: Any
) -> Any:
    """A model of these nodes; ``weights`` maps names to arrays."""
    initializers = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    opsets = [helper.make_opsetid(domain, version) for domain, version in more.pop("opsets", {"": 17}).items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), initializers)
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)


def affine(batch: int | str = "n", width: int = 4, classes: int = 3, seed: int = 1) -> Any:
    """x [batch, width] -> y [batch, classes]."""
    random = np.random.default_rng(seed)
    weights = {"w": random.random((width, classes), np.float32), "b": random.random(classes, np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    return model(nodes, [value("x", [batch, width])], [value("y", [batch, classes])], weights=weights)


def affine_bytes(**options: Any) -> bytes:
    return bytes(affine(**options).SerializeToString())


def external(folder: Path, name: str = "model.onnx", location: str = "weights.bin") -> Path:
    """The affine model with its weights in a second file."""
    path = folder / name
    onnx.save_model(affine(), str(path), save_as_external_data=True, location=location, size_threshold=0)
    return path
