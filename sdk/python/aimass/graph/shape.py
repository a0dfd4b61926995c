"""Types and sizes of all tensors of a model, and models with their dynamic sizes fixed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import ModelProto, ValueInfoProto, helper

from aimass.errors import InputError, ModelInvalidError
from aimass.graph.datatypes import DATATYPES
from aimass.graph.view import GraphView, read_model, view_of
from aimass.wire.tensor import Datatype

Shapes = Mapping[str, Sequence[int]]

#: Constants up to this many elements take part in shape inference with their values, larger ones with their type.
_SMALL_ELEMENTS = 1024


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a tensor: a datatype of the wire, or none; sizes with -1 for unknown, or no shape at all."""

    datatype: Datatype | None
    shape: tuple[int, ...] | None

    @property
    def elements(self) -> int | None:
        """Number of elements; None where a size is unknown."""
        return None if self.shape is None or -1 in self.shape else math.prod(self.shape)


def known(value: ValueInfoProto) -> Known:
    """What a value's type says."""
    tensor = value.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        # some exporters write -1 where they mean a dynamic size
        shape = tuple(max(-1, dim.dim_value) if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return Known(DATATYPES.get(tensor.elem_type), shape)


def inferred(view: GraphView, shapes: Shapes | None = None) -> dict[str, ValueInfoProto]:
    """Types of all tensors by name, as far as they can be told without running the model.

    Args:
        view: the model.
        shapes: sizes to put in place of dynamic ones of the inputs, and of the same symbols elsewhere.

    Raises:
        InputError: a shape is given for what is no input, or contradicts it.
        ModelInvalidError: the model contradicts itself.
    """
    skeleton = _skeleton(view, shapes)
    try:
        graph = onnx.shape_inference.infer_shapes(skeleton, check_type=False, strict_mode=False, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as exc:
        raise ModelInvalidError(f"its shapes contradict one another: {str(exc).splitlines()[0]}") from exc
    return {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}


def fix_shapes(model: ModelProto, shapes: Shapes) -> ModelProto:
    """A model for one size of input: dynamic sizes become numbers, and ``Shape`` of them becomes a constant.

    Chains of Shape, Gather and Reshape carry the input's size past every cut as a second tensor; with sizes fixed they
    are constants, which both sides have.

    Args:
        model: stays as it is.
        shapes: sizes of inputs by name; the others keep theirs.

    Raises:
        InputError: a shape is given for what is no input, or contradicts it.
    """
    fixed = ModelProto()
    fixed.CopyFrom(read_model(model))
    view = view_of(fixed)
    sizes = {name: known(value) for name, value in inferred(view, shapes).items()}
    _resize(fixed, shapes)
    nodes = list(fixed.graph.node)
    del fixed.graph.node[:]
    for node in nodes:
        shape = sizes[node.input[0]].shape if node.op_type == "Shape" and node.input[0] in sizes else None
        if shape is not None:
            ends = {attribute.name: attribute.i for attribute in node.attribute}
            shape = shape[ends.get("start") : ends.get("end")]
        if shape is None or -1 in shape:
            fixed.graph.node.append(node)
        else:
            fixed.graph.initializer.append(
                helper.make_tensor(node.output[0], onnx.TensorProto.INT64, [len(shape)], shape)
            )
    return fixed


def _skeleton(view: GraphView, shapes: Shapes | None) -> ModelProto:
    """The model without its large constants, which inference would copy twice and which may be beyond 2 GiB."""
    graph, model = view.model.graph, view.model
    values = [value for value in graph.input if value.name in view.inputs]
    small = []
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= _SMALL_ELEMENTS and tensor.data_location != onnx.TensorProto.EXTERNAL:
            small.append(tensor)
        else:
            values.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    values += [
        helper.make_tensor_value_info(sparse.values.name, sparse.values.data_type, sparse.dims)
        for sparse in graph.sparse_initializer
    ]
    declared = list(graph.value_info)
    bare = helper.make_graph(graph.node, graph.name, values, graph.output, small, value_info=declared)
    skeleton = helper.make_model(
        bare,
        functions=list(model.functions),
        opset_imports=list(model.opset_import),
        ir_version=max(4, model.ir_version),
    )
    if shapes:
        _resize(skeleton, shapes)
    return skeleton


def _resize(model: ModelProto, shapes: Shapes) -> None:
    """Set sizes of inputs, and of all values that are declared with the same symbols; other symbols are dropped."""
    symbols: dict[str, int] = {}
    values = {value.name: value for value in model.graph.input}
    for name, shape in shapes.items():
        if name not in values:
            raise InputError(f"the model has no input {name!r}", hint=f"its inputs: {', '.join(values)}")
        tensor = values[name].type.tensor_type
        dims = tensor.shape.dim
        if tensor.HasField("shape") and len(dims) != len(shape):
            raise InputError(f"input {name!r} has {len(dims)} dimensions, not {len(shape)}")
        if any(
            dim.HasField("dim_value") and 0 <= dim.dim_value != size for dim, size in zip(dims, shape, strict=False)
        ):
            raise InputError(f"input {name!r} does not take the shape {list(shape)}")
        symbols |= {dim.dim_param: size for dim, size in zip(dims, shape, strict=False) if dim.dim_param}
        sized = helper.make_tensor_type_proto(tensor.elem_type, shape)
        values[name].type.CopyFrom(sized)
    for value in (*model.graph.value_info, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_value = symbols[dim.dim_param]
            elif not dim.HasField("dim_value") or dim.dim_value < 0:
                dim.Clear()


def default_shapes(view: GraphView) -> dict[str, list[int]]:
    """Inputs whose only unknown size is the first, as a batch of one."""
    found = {}
    for value in view.model.graph.input:
        shape = known(value).shape
        if value.name in view.inputs and shape and shape[0] == -1 and -1 not in shape[1:]:
            found[value.name] = [1, *shape[1:]]
    return found


def constant_sizes(view: GraphView) -> dict[str, Known]:
    """Types and shapes of the constants in the model."""
    return {
        tensor.name: Known(DATATYPES.get(tensor.data_type), tuple(tensor.dims))
        for tensor in view.model.graph.initializer
    }
