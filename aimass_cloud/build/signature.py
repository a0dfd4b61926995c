"""What a model takes and gives: its inputs and outputs as TensorSpecs, and the precision of its weights."""

from __future__ import annotations

import math

import onnx

from aimass.errors import ModelInvalidError
from aimass.graph.datatypes import DATATYPES
from aimass.wire.tensor import TensorSpec
from aimass_cloud.build.walk import all_nodes, all_tensors

FLOAT_PRECISIONS = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
    onnx.TensorProto.DOUBLE: "fp64",
}

QUANTIZED_OPERATORS = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinear", "MatMulInteger", "ConvInteger", "QGemm")


def unusable(message: str, hint: str | None = None) -> ModelInvalidError:
    """A model whose inputs or outputs cannot be served."""
    return ModelInvalidError(message, hint=hint, reason="signature")


def input_specs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """What a caller must send: graph inputs without those that have a value in the file."""
    given = {item.name for item in model.graph.initializer} | {
        item.values.name for item in model.graph.sparse_initializer
    }
    specs = tuple(spec_of(item, "input") for item in model.graph.input if item.name not in given)
    if not specs:
        raise unusable("the model has no inputs", "a constant needs no model")
    return specs


def output_specs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """What the model gives."""
    specs = tuple(spec_of(item, "output") for item in model.graph.output)
    if not specs:
        raise unusable("the model has no outputs")
    return specs


def spec_of(item: onnx.ValueInfoProto, what: str) -> TensorSpec:
    """A graph input or output as a TensorSpec, dimensions that vary as -1. The checker has seen that it has a shape."""
    kind = item.type.WhichOneof("value")
    if kind != "tensor_type":
        hint = "split sequences and maps into tensors (for scikit-learn: zipmap=False)"
        raise unusable(f"{what} {item.name!r} is a {(kind or 'untyped value').removesuffix('_type')}", hint)
    tensor = item.type.tensor_type
    datatype = DATATYPES.get(tensor.elem_type)
    if datatype is None:
        name = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise unusable(f"{what} {item.name!r} has datatype {name}, which cannot be sent")
    shape = tuple(dim.dim_value if dim.WhichOneof("value") == "dim_value" else -1 for dim in tensor.shape.dim)
    if any(dim < -1 for dim in shape):
        raise unusable(f"{what} {item.name!r} has the impossible shape {shape}")
    return TensorSpec(item.name, datatype, shape)


def precision_of(model: onnx.ModelProto) -> str:
    """What the weights are held in: ``int8`` where the graph is quantized, else the float most of them have."""
    if any(node.op_type.startswith(QUANTIZED_OPERATORS) for node in all_nodes(model)):
        return "int8"
    counts = dict.fromkeys(FLOAT_PRECISIONS, 0)
    for tensor in all_tensors(model):
        if tensor.data_type in counts:
            counts[tensor.data_type] += math.prod(tensor.dims)
    return FLOAT_PRECISIONS[max(counts, key=lambda kind: counts[kind])]
