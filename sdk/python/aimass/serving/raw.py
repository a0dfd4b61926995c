"""The raw binary request: no header, the body is the model's only input.

Source: Triton, binary tensor data extension, "Raw Binary Request".
"""

from __future__ import annotations

import math

from aimass.errors import InputError
from aimass.runtime.models import ModelInfo
from aimass.wire.messages import InferRequest
from aimass.wire.tensor import Datatype, Tensor, TensorSpec, bytes_array, tensor_from_bytes

_HINT = "send a header with the input's shape"


def raw_request(info: ModelInfo, body: bytes, version: str) -> InferRequest:
    """The request that a bare body stands for.

    Of the input's shape one variable dimension follows from the body's size. Where two vary the first is the batch,
    and is 1. BYTES are one text, without a length before it.

    Args:
        info: the model.
        body: the input's bytes.
        version: as asked for; empty for the default.

    Raises:
        InputError: the model has several inputs, or its input's shape does not follow from the body.
    """
    if len(info.inputs) != 1:
        message = f"a raw request needs a model with one input; model '{info.name}' has {len(info.inputs)}"
        raise InputError(message, hint=_HINT)
    spec = info.inputs[0]
    if spec.datatype is Datatype.BYTES:
        tensor = _text(spec, body)
    else:
        tensor = tensor_from_bytes(spec.name, spec.datatype, _shape(spec, len(body)), body)
    return InferRequest(info.name, (tensor,), version)


def _text(spec: TensorSpec, body: bytes) -> Tensor:
    if any(size > 1 for size in spec.shape):
        raise InputError(f"a raw request is one text; input '{spec.name}' has shape {_shown(spec)}", hint=_HINT)
    return Tensor(spec.name, spec.datatype, bytes_array([body], (1,) * len(spec.shape)))


def _shape(spec: TensorSpec, size_bytes: int) -> tuple[int, ...]:
    shape = list(spec.shape)
    varying = [axis for axis, size in enumerate(shape) if size < 0]
    if len(varying) == 2 and varying[0] == 0:
        shape[varying.pop(0)] = 1
    if len(varying) > 1:
        message = f"the shape {_shown(spec)} of input '{spec.name}' does not follow from the size of a raw request"
        raise InputError(message, hint=_HINT)
    if varying:
        item_bytes = math.prod(size for size in shape if size >= 0) * spec.datatype.item_bytes
        count, rest = divmod(size_bytes, item_bytes) if item_bytes else (0, size_bytes)
        if rest:
            message = f"raw request of {size_bytes} bytes: input '{spec.name}' {spec.datatype} {_shown(spec)}"
            raise InputError(f"{message} takes a multiple of {item_bytes}")
        shape[varying[0]] = count
    return tuple(shape)


def _shown(spec: TensorSpec) -> str:
    return "[" + ",".join(map(str, spec.shape)) + "]"


def with_expected_shape(error: InputError, info: ModelInfo) -> InputError:
    """The error with the shape that was expected as clients of this protocol write it.

    People forget the batch dimension; -1 where it is missing shows them.
    """
    named = error.details.get("input")
    spec = next((one for one in info.inputs if one.name == named), None)
    if spec is None or "got" not in error.details:
        return error
    batch = "; the first dimension is the batch" if spec.shape and spec.shape[0] < 0 else ""
    message = f"{error.message} (expected shape {_shown(spec)}{batch})"
    return InputError(message, hint=error.hint, **error.details)
