"""Small models of every shape that matters for cuts, written by hand; weights are random, and the same each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

OPSET = 17


class Builder:
    """Collects nodes and weights; every method gives the name of what it adds."""

    def __init__(self, dtype: Any = np.float32, seed: int = 7) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.dtype = np.dtype(dtype)
        self._dice = np.random.default_rng(seed)

    def op(self, kind: str, *reads: str, out: str = "", outputs: int = 1, **attributes: Any) -> str:
        name = out or f"{kind.lower()}_{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(reads), names, name=f"n{len(self.nodes)}", **attributes))
        return names[0]

    def weight(self, *shape: int, scale: float = 0.3) -> str:
        return self.const(self._dice.standard_normal(shape) * scale)

    def const(self, values: Any, dtype: Any = None) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype or self.dtype), name))
        return name

    def conv(self, x: str, inside: int, outside: int, *, stride: int = 1, out: str = "") -> str:
        reads = (x, self.weight(outside, inside, 3, 3), self.weight(outside))
        return self.op("Conv", *reads, out=out, pads=[1, 1, 1, 1], strides=[stride, stride])

    def model(
        self,
        inputs: dict[str, Sequence[Any]],
        outputs: Sequence[str],
        *,
        types: dict[str, int] | None = None,
        **more: Any,
    ) -> ModelProto:
        float_type = helper.np_dtype_to_tensor_dtype(self.dtype)
        types = types or {}
        given = [helper.make_tensor_value_info(n, types.get(n, float_type), s) for n, s in inputs.items()]
        made = [helper.make_tensor_value_info(name, types.get(name, float_type), None) for name in outputs]
        graph = helper.make_graph(self.nodes, "test", given, made, self.weights)
        domains = sorted({node.domain for node in self.nodes if node.domain})
        opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9, **more)
        model.metadata_props.add(key="author", value="tests")
        inferred = onnx.shape_inference.infer_shapes(model)  # only to give the outputs their shapes
        del graph.output[:]
        model.graph.ClearField("output")
        model.graph.output.extend(inferred.graph.output)
        return model


def chain_cnn(dtype: Any = np.float32, batch: Any = 1) -> ModelProto:
    """Conv-Relu blocks, ever smaller: the textbook case."""
    b = Builder(dtype)
    x = b.op("Relu", b.conv("x", 3, 8, stride=2), out="block1")
    x = b.op("MaxPool", x, out="pool1", kernel_shape=[2, 2], strides=[2, 2])
    x = b.op("Relu", b.conv(x, 8, 4), out="block2")
    x = b.op("Relu", b.conv(x, 4, 16, stride=2), out="block3")
    x = b.op("GlobalAveragePool", x, out="pooled")
    x = b.op("Flatten", x, out="flat")
    x = b.op("Gemm", x, b.weight(16, 10), b.weight(10), out="logits")
    b.op("Softmax", x, out="y", axis=-1)
    return b.model({"x": [batch, 3, 32, 32]}, ["y"])


def residual() -> ModelProto:
    """Two blocks with batch norm and a skip connection each."""
    b = Builder()
    x = b.op("Relu", b.conv("x", 3, 8, stride=2), out="stem")
    for number in (1, 2):
        skip = x
        for half in (1, 2):
            norm = [b.const(np.ones(8)), b.weight(8), b.weight(8), b.const(np.ones(8))]
            x = b.op("BatchNormalization", b.conv(x, 8, 8), *norm, out=f"norm{number}{half}")
            x = b.op("Relu", x, out=f"relu{number}{half}") if half == 1 else x
        x = b.op("Relu", b.op("Add", x, skip, out=f"sum{number}"), out=f"block{number}")
    b.op("GlobalAveragePool", x, out="y")
    return b.model({"x": [1, 3, 16, 16]}, ["y"])


def branches() -> ModelProto:
    """A squeeze with two expansions, concatenated: the cut is at the squeeze."""
    b = Builder()
    x = b.op("Relu", b.conv("x", 3, 12), out="stem")
    squeeze = b.op("Relu", b.conv(x, 12, 2), out="squeeze")
    left = b.op("Relu", b.conv(squeeze, 2, 6), out="left")
    right = b.op("Relu", b.conv(squeeze, 2, 6), out="right")
    joined = b.op("Concat", left, right, out="joined", axis=1)
    b.op("ReduceMean", joined, out="y", axes=[2, 3], keepdims=0)
    return b.model({"x": [1, 3, 12, 12]}, ["y"])


def with_if() -> ModelProto:
    """An If in the middle whose branches read an outer weight, an outer activation and, one deeper, the stem."""
    b = Builder()
    stem = b.op("Relu", b.conv("x", 3, 2), out="stem")
    scale, shift = b.weight(1), b.weight(1)
    flag = b.op("Greater", b.op("ReduceMean", stem, keepdims=0), b.const(0.1), out="flag")
    inner = helper.make_graph(
        [helper.make_node("Add", [stem, shift], ["inner_then"])],
        "inner_then",
        [],
        [helper.make_tensor_value_info("inner_then", TensorProto.FLOAT, None)],
    )
    inner_else = helper.make_graph(
        [helper.make_node("Sub", [stem, shift], ["inner_else"])],
        "inner_else",
        [],
        [helper.make_tensor_value_info("inner_else", TensorProto.FLOAT, None)],
    )
    nested = helper.make_node("If", [flag], ["then_out"], then_branch=inner, else_branch=inner_else)
    then = helper.make_graph([nested], "then", [], [helper.make_tensor_value_info("then_out", TensorProto.FLOAT, None)])
    other = helper.make_graph(
        [helper.make_node("Mul", [stem, scale], ["else_out"])],
        "else",
        [],
        [helper.make_tensor_value_info("else_out", TensorProto.FLOAT, None)],
    )
    x = b.op("If", flag, out="chosen", then_branch=then, else_branch=other)
    x = b.op("Relu", b.conv(x, 2, 1), out="after")
    b.op("ReduceMean", x, out="y", axes=[1, 2, 3], keepdims=0)
    model = b.model({"x": [1, 3, 8, 8]}, ["y"])
    model.graph.value_info.append(helper.make_tensor_value_info("chosen", TensorProto.FLOAT, [1, 2, 8, 8]))
    return model


def all_in_one_if() -> ModelProto:
    """The whole network inside one If, as voice detectors are exported."""
    b = Builder()
    inner = Builder(seed=9)
    x = "x"
    for number in range(4):
        x = inner.op("Relu", inner.op("Mul", x, inner.weight(1)), out=f"i{number}")
    then = helper.make_graph(
        inner.nodes, "then", [], [helper.make_tensor_value_info(x, TensorProto.FLOAT, None)], inner.weights
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["same"])],
        "else",
        [],
        [helper.make_tensor_value_info("same", TensorProto.FLOAT, None)],
    )
    flag = b.op("Greater", b.op("ReduceMean", "x", keepdims=0), b.const(0.0), out="flag")
    b.op("If", flag, out="y", then_branch=then, else_branch=other)
    return b.model({"x": [1, 4]}, ["y"])


def with_loop() -> ModelProto:
    """A Loop whose body reads an outer weight; cuts before and after it."""
    b = Builder()
    stem = b.op("Relu", b.conv("x", 3, 2), out="stem")
    small = b.op("AveragePool", stem, out="small", kernel_shape=[2, 2], strides=[2, 2])
    factor = b.weight(1)
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["state_in", factor], ["scaled"]),
            helper.make_node("Tanh", ["scaled"], ["state_out"]),
            helper.make_node("Identity", ["go_in"], ["go_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_in", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_out", TensorProto.FLOAT, None),
        ],
    )
    turns, go = b.const(3, np.int64), b.const(True, np.bool_)
    x = b.op("Loop", turns, go, small, out="looped", body=body)
    b.op("ReduceMean", b.op("Relu", x, out="after"), out="y", axes=[1, 2, 3], keepdims=0)
    model = b.model({"x": [1, 3, 8, 8]}, ["y"])
    model.graph.value_info.append(helper.make_tensor_value_info("looped", TensorProto.FLOAT, [1, 2, 4, 4]))
    return model


def several_inputs_and_outputs() -> ModelProto:
    """Two inputs that meet early; one output taken early, two late."""
    b = Builder()
    x = b.op("Relu", b.conv("x", 3, 4), out="fx")
    z = b.op("Relu", b.conv("z", 1, 4), out="fz")
    both = b.op("Add", x, z, out="both")
    b.op("ReduceMean", both, out="early", axes=[1, 2, 3], keepdims=0)
    narrow = b.op("Relu", b.conv(both, 4, 1, stride=2), out="narrow")
    pooled = b.op("GlobalAveragePool", narrow, out="pooled")
    b.op("Sigmoid", pooled, out="y1")
    b.op("Tanh", b.op("Neg", pooled, out="flipped"), out="y2")
    return b.model({"x": [1, 3, 8, 8], "z": [1, 1, 8, 8]}, ["early", "y1", "y2"])


def late_input() -> ModelProto:
    """A condition that is read again at the end, so no cut spares sending it."""
    b = Builder()
    x = b.op("Relu", b.conv("x", 3, 4), out="a")
    x = b.op("Relu", b.conv(x, 4, 4), out="b")
    x = b.op("Relu", b.conv(x, 4, 3), out="c")
    b.op("Add", x, "x", out="y")
    return b.model({"x": [1, 3, 8, 8]}, ["y"])


def shape_chain() -> ModelProto:
    """A reshape whose target is computed from the input's own size: a second tensor past every cut."""
    b = Builder()
    x = b.op("Relu", b.conv("x", 3, 2, stride=2), out="stem")
    batch = b.op("Gather", b.op("Shape", "x"), b.const([0], np.int64), out="batch", axis=0)
    target = b.op("Concat", batch, b.const([-1], np.int64), out="target", axis=0)
    x = b.op("Relu", b.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), out="pooled")
    x = b.op("Reshape", x, target, out="rows")
    b.op("ReduceMean", x, out="y", axes=[1], keepdims=0)
    return b.model({"x": ["N", 3, 8, 8]}, ["y"])


def transformer(*, with_residual: bool = True) -> ModelProto:
    """One block of attention, layer norm and GELU, all in elementary operators."""
    b = Builder()
    width, heads = 8, 2
    tokens = b.op("Reshape", b.op("Relu", b.conv("x", 3, width)), b.const([1, width, 16], np.int64))
    x = b.op("Transpose", tokens, out="tokens", perm=[0, 2, 1])

    def linear(read: str, inside: int, outside: int, out: str) -> str:
        return b.op("Add", b.op("MatMul", read, b.weight(inside, outside)), b.weight(outside), out=out)

    def norm(read: str, out: str) -> str:
        centred = b.op("Sub", read, b.op("ReduceMean", read, axes=[-1]), out=f"{out}_centred")
        variance = b.op("ReduceMean", b.op("Pow", centred, b.const(2)), axes=[-1])
        unit = b.op("Div", centred, b.op("Sqrt", b.op("Add", variance, b.const(1e-5))), out=f"{out}_unit")
        return b.op("Add", b.op("Mul", unit, b.weight(width), out=f"{out}_scaled"), b.weight(width), out=out)

    def split(read: str, perm: list[int]) -> str:
        shaped = b.op("Reshape", read, b.const([1, 16, heads, width // heads], np.int64))
        return b.op("Transpose", shaped, perm=perm)

    qkv = linear(norm(x, "norm1"), width, 3 * width, "qkv")
    b.op("Split", qkv, b.const([width] * 3, np.int64), out="part", outputs=3, axis=-1)
    scores = b.op("MatMul", split("part_0", [0, 2, 1, 3]), split("part_1", [0, 2, 3, 1]), out="scores")
    weights = b.op("Softmax", b.op("Mul", scores, b.const(0.5), out="scaled"), out="weights", axis=-1)
    mixed = b.op("MatMul", weights, split("part_2", [0, 2, 1, 3]), out="mixed")
    back = b.op("Reshape", b.op("Transpose", mixed, perm=[0, 2, 1, 3]), b.const([1, 16, width], np.int64), out="back")
    attended = linear(back, width, width, "attended")
    x = b.op("Add", attended, x, out="stream1") if with_residual else attended
    up = linear(norm(x, "norm2"), width, 2 * width, "up")
    curve = b.op("Add", b.op("Erf", b.op("Div", up, b.const(2**0.5)), out="erf"), b.const(1), out="one_plus")
    gelu = b.op("Mul", b.op("Mul", up, curve, out="gelu_twice"), b.const(0.5), out="gelu")
    down = linear(gelu, 2 * width, width, "down")
    x = b.op("Add", down, x, out="stream2") if with_residual else down
    b.op("ReduceMean", x, out="y", axes=[1], keepdims=0)
    return b.model({"x": [1, 3, 4, 4]}, ["y"])


def with_function() -> ModelProto:
    """A local function that calls another, used in the tail; an optimiser would have inlined both."""
    b = Builder()
    x = b.op("Relu", b.conv("x", 3, 1, stride=2), out="stem")
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("own", 1)]
    inner = helper.make_function("own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], opsets)
    calls = [helper.make_node("Twice", ["a"], ["t"], domain="own"), helper.make_node("Tanh", ["t"], ["b"])]
    outer = helper.make_function("own", "TwiceTanh", ["a"], ["b"], calls, opsets)
    unused = helper.make_function("own", "Never", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], opsets)
    b.op("TwiceTanh", x, out="y", domain="own")
    return b.model({"x": [1, 3, 4, 4]}, ["y"], functions=[inner, outer, unused])


def qdq_cnn() -> ModelProto:
    """A chain in the quantise-dequantise form: 8-bit weights and activations around every operator."""
    b = Builder()

    def quantised(read: str, scale: float, zero: int, out: str) -> str:
        own = (b.const(scale), b.const(zero, np.uint8))
        return b.op("DequantizeLinear", b.op("QuantizeLinear", read, *own, out=f"{out}_q"), *own, out=f"{out}_dq")

    def conv(read: str, inside: int, outside: int, out: str) -> str:
        own = (b.const(0.01), b.const(0, np.int8))
        values = np.random.default_rng(len(b.nodes)).integers(-60, 60, (outside, inside, 3, 3))
        weight = b.op("DequantizeLinear", b.const(values, np.int8), *own)
        bias = b.const(np.linspace(-0.5, 0.5, outside))
        x = b.op("Relu", b.op("Conv", read, weight, bias, pads=[1, 1, 1, 1], strides=[2, 2], out=f"{out}_conv"))
        return quantised(x, 0.05, 0, out)

    x = quantised("x", 0.02, 128, "in")
    x = conv(x, 3, 8, "one")
    x = conv(x, 8, 6, "two")
    x = conv(x, 6, 16, "three")
    x = b.op("GlobalAveragePool", x, out="pooled")
    x = b.op("Flatten", x, out="flat")
    b.op("Gemm", x, b.weight(16, 10), b.weight(10), out="y")
    return b.model({"x": [1, 3, 32, 32]}, ["y"])
