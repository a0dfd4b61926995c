"""Models for tests of building variants, and the data that belongs to them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from aimass.cli import digits
from aimass.wire.tensor import Array, Datatype, TensorSpec
from aimass_cloud.build.samples import Samples, check_samples
from tests.fakes.cloud_models import model, value

PIXELS = (TensorSpec("pixels", Datatype.FP32, (-1, 64)),)
PROBABILITIES = (TensorSpec("probabilities", Datatype.FP32, (-1, 10)),)
IMAGE = (TensorSpec("x", Datatype.FP32, (-1, 3, 16, 16)),)


@cache
def digits_data() -> digits.Digits:
    return digits.load()


@cache
def digits_model() -> bytes:
    """The small classifier, 0.97 right."""
    return digits.train(digits.SMALL, digits_data()).onnx


def digits_calibration(count: int = 200) -> Samples:
    return check_samples({"pixels": digits_data().train_images[:count]}, PIXELS, "calibration data")


def convolutions(*, opset: int = 17, channel_spread: float = 1.0) -> Any:
    """x [n, 3, 16, 16] -> y [n, 5]: two convolutions with batch normalisation, pooling, a matrix product.

    With a large ``channel_spread`` the output channels of a weight differ by that factor: one scale for all of them
    loses the small ones.
    """
    random = np.random.default_rng(3)

    def normal(*shape: int) -> Array:
        return random.normal(size=shape).astype(np.float32)

    spread = np.geomspace(1, channel_spread, 8).astype(np.float32)
    weights = {
        "w1": normal(8, 3, 3, 3) * spread[:, None, None, None] / 5,
        "scale": np.ones(8, np.float32) / spread,
        "shift": normal(8) / 10,
        "mean": normal(8) / 10,
        "variance": np.abs(normal(8)) + 1,
        "w2": normal(8, 8, 3, 3) / 8,
        "w3": normal(8, 5) / 3,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "scale", "shift", "mean", "variance"], ["b1"]),
        helper.make_node("Relu", ["b1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["y"]),
    ]
    image = value("x", ["n", 3, 16, 16])
    return model(nodes, [image], [value("y", ["n", 5])], weights=weights, opsets={"": opset})


def images(count: int = 40, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(count, 3, 16, 16)).astype(np.float32)


def branching() -> Any:
    """x [n, 4] -> y: x @ w where its sum is positive, else x @ v; both weights are captured by the sub-graphs."""
    random = np.random.default_rng(5)
    weights = {name: random.normal(size=(4, 4)).astype(np.float32) for name in ("w", "v")}
    branches = {
        key: helper.make_graph([helper.make_node("MatMul", ["x", name], [out])], key, [], [value(out, ["n", 4])])
        for key, name, out in (("then_branch", "w", "t"), ("else_branch", "v", "e"))
    }
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["is_positive"]),
        helper.make_node("If", ["is_positive"], ["y"], **branches),
    ]
    weights["zero"] = np.array(0, np.float32)
    return model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], weights=weights)


def indices_only() -> Any:
    """x INT64 [n] -> y: nothing in it that could be quantized."""
    nodes = [helper.make_node("Abs", ["x"], ["y"])]
    return model(nodes, [value("x", ["n"], TensorProto.INT64)], [value("y", ["n"], TensorProto.INT64)])


def write(folder: Path, proto: Any, name: str = "source.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return path


def answers(path: Path, feeds: dict[str, Array], engine: str = "onnxruntime") -> dict[str, Array]:
    """What a file answers in an engine."""
    from aimass.engine import EngineOptions, open_engine

    session = open_engine(engine).load(path, format="onnx", options=EngineOptions())
    try:
        return session.run(feeds)
    finally:
        session.close()
