"""TensorFlow Serving's JSON <-> tensors: rows (`instances`) and columns (`inputs`).

Nested lists carry the shape; texts are texts, or `{"b64": ...}` for bytes; half floats, which the Open Inference
Protocol keeps out of JSON, are plain numbers here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aimass.errors import InputError, TensorError
from aimass.runtime.models import ModelInfo
from aimass.wire.messages import InferResponse
from aimass.wire.tensor import Array, Datatype, Tensor, TensorSpec
from aimass.wire.values import tensor_from_values

_HALVES = (Datatype.FP16, Datatype.BF16)


def tensors_from_rows(info: ModelInfo, rows: Any) -> tuple[Tensor, ...]:
    """The inputs of a request in row form: one entry for each row of the batch.

    Raises:
        InputError, WireError: the rows do not have the model's inputs, or not all the same size and type.
    """
    if type(rows) is not list or not rows:
        raise InputError("'instances' is a list with at least one row")
    names = [spec.name for spec in info.inputs]
    if len(names) == 1 and not all(_is_named(row, names[0]) for row in rows):
        return (_tensor(info.inputs[0], rows),)
    for row in rows:
        if type(row) is not dict or set(row) != set(names):
            raise InputError(f"a row of model '{info.name}' is an object with the inputs {', '.join(names)}")
    return tuple(_tensor(spec, [row[spec.name] for row in rows]) for spec in info.inputs)


def tensors_from_columns(info: ModelInfo, columns: Any) -> tuple[Tensor, ...]:
    """The inputs of a request in column form: one whole tensor for each input.

    Raises:
        InputError, WireError: the columns are not the model's inputs, or do not fit them.
    """
    names = [spec.name for spec in info.inputs]
    if len(names) == 1 and not _is_named(columns, names[0]):
        return (_tensor(info.inputs[0], columns),)
    if type(columns) is not dict or set(columns) != set(names):
        raise InputError(f"'inputs' of model '{info.name}' is an object with the inputs {', '.join(names)}")
    return tuple(_tensor(spec, columns[spec.name]) for spec in info.inputs)


def rows_of(response: InferResponse, count: int) -> list[Any]:
    """The outputs in row form: bare values of a single output, else an object for each row.

    Raises:
        InputError: an output has another number of rows than there were instances.
    """
    for one in response.outputs:
        if not one.shape or one.shape[0] != count:
            message = f"output '{one.name}' has shape {list(one.shape)}, which is not one row for each of {count}"
            raise InputError(message, hint='ask in column form: "inputs" in place of "instances"')
    columns = columns_of(response)
    if len(response.outputs) == 1:
        return list(columns)
    names = [one.name for one in response.outputs]
    return [dict(zip(names, row, strict=True)) for row in zip(*(columns[name] for name in names), strict=True)]


def columns_of(response: InferResponse) -> Any:
    """The outputs in column form: a bare tensor of a single output, else an object."""
    if len(response.outputs) == 1:
        return _values(response.outputs[0])
    return {one.name: _values(one) for one in response.outputs}


def _is_named(value: Any, name: str) -> bool:
    return type(value) is dict and set(value) == {name}


def _tensor(spec: TensorSpec, values: Any) -> Tensor:
    shape, flat = _flat(spec.name, values)
    if spec.datatype is Datatype.BYTES:
        flat = [_text(spec.name, one) for one in flat]
        array = np.empty(len(flat), dtype=object)
        array[:] = flat
        return Tensor(spec.name, spec.datatype, array.reshape(shape))
    if spec.datatype in _HALVES:
        return Tensor(spec.name, spec.datatype, _halves(spec, shape, flat))
    return tensor_from_values(spec.name, spec.datatype, shape, flat)


def _flat(name: str, values: Any) -> tuple[tuple[int, ...], list[Any]]:
    """Shape and elements of nested lists; level by level, so that no nesting is too deep for the interpreter."""
    if type(values) is not list:
        return (), [values]
    shape = [len(values)]
    while values and type(values[0]) is list:
        if any(type(one) is not list or len(one) != len(values[0]) for one in values):
            raise TensorError(f"tensor {name!r}: rows differ in size", hint="pad them, or send them one by one")
        shape.append(len(values[0]))
        values = [one for row in values for one in row]
    if any(type(one) is list for one in values):
        raise TensorError(f"tensor {name!r}: lists and values are mixed")
    return tuple(shape), values


def _text(name: str, value: Any) -> bytes:
    try:
        if type(value) is str:
            return value.encode()
        if _is_named(value, "b64") and type(value["b64"]) is str:
            return base64.b64decode(value["b64"], validate=True)
    except (UnicodeEncodeError, binascii.Error) as exc:
        raise TensorError(f"tensor {name!r}: a text is broken: {exc}") from exc
    raise TensorError(f"tensor {name!r} takes texts", hint='for bytes: {"b64": "..."}')


def _halves(spec: TensorSpec, shape: tuple[int, ...], flat: Sequence[Any]) -> Array:
    wide = tensor_from_values(spec.name, Datatype.FP32, shape, list(flat)).data
    if spec.datatype is Datatype.BF16:
        return _bfloat16(wide)
    with np.errstate(over="ignore", under="ignore"):
        narrow = wide.astype(np.float16)
    if (np.isinf(narrow) & np.isfinite(wide)).any():
        raise TensorError(f"tensor {spec.name!r}: a value is outside {spec.datatype}")
    return narrow


def _bfloat16(wide: Array) -> Array:
    """Round to nearest, ties to even; NaN stays NaN."""
    bits = wide.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(wide), 0x7FC0, rounded).astype(np.uint16)


def _values(tensor: Tensor) -> Any:
    """Nested lists, or a bare value for a tensor without dimensions."""
    if tensor.datatype is Datatype.BF16:
        return (tensor.data.astype(np.uint32) << 16).view(np.float32).tolist()
    if tensor.datatype is not Datatype.BYTES:
        return tensor.data.tolist()
    items: list[bytes] = tensor.data.reshape(-1).tolist()
    out = np.empty(len(items), dtype=object)
    out[:] = _texts(items, is_binary=tensor.name.endswith("_bytes"))
    return out.reshape(tensor.shape).tolist()


def _texts(items: Sequence[bytes], *, is_binary: bool) -> list[str | Mapping[str, str]]:
    # TensorFlow Serving's rule: a name that ends in _bytes means b64. Elsewhere what is no text becomes b64, too.
    if not is_binary:
        try:
            return [one.decode() for one in items]
        except UnicodeDecodeError:
            pass
    return [{"b64": base64.b64encode(one).decode()} for one in items]
