"""Messages as the plain values of the vectors' index, so that two of them can be compared."""

from __future__ import annotations

import struct
from typing import Any

from aimass.wire.messages import ErrorReply, InferRequest, InferResponse, Parameters
from aimass.wire.tensor import Tensor, tensor_to_bytes


def canonical(message: InferRequest | InferResponse | ErrorReply) -> dict[str, Any]:
    """The message in the form that ``sdk/spec/vectors/make.py`` describes."""
    match message:
        case ErrorReply():
            return {
                "message": message.message,
                "code": message.code,
                "retryable": message.retryable,
                "hint": message.hint,
            }
        case InferRequest():
            tensors: dict[str, Any] = {
                "inputs": [canonical_tensor(tensor) for tensor in message.inputs],
                "outputs": list(message.outputs),
            }
        case InferResponse():
            tensors = {"outputs": [canonical_tensor(tensor) for tensor in message.outputs]}
    shared = {"model": message.model, "version": message.version, "id": message.id}
    return shared | {"parameters": _parameters(message.parameters)} | tensors


def canonical_tensor(tensor: Tensor) -> dict[str, Any]:
    """Name, datatype, shape and the wire bytes as hex."""
    raw = bytes(tensor_to_bytes(tensor))
    return {"name": tensor.name, "datatype": str(tensor.datatype), "shape": list(tensor.shape), "bytes": raw.hex()}


def _parameters(parameters: Parameters) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        return {"float_bits": struct.pack(">d", value).hex()} if type(value) is float else value

    return {key: plain(value) for key, value in parameters.items()}
