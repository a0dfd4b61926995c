"""What a caller hands in, as the tensors of a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aimass.client.base import Inputs
from aimass.errors import InputError, TensorError
from aimass.runtime.models import ModelInfo
from aimass.wire.tensor import Datatype, Tensor, TensorSpec


def to_tensors(inputs: Inputs, look_up: Callable[[], ModelInfo]) -> tuple[Tensor, ...]:
    """Tensors for a request.

    The model is looked up only where the caller left something open: the name of a single input, or the datatype of
    plain numbers. An array says its datatype itself and is never converted in silence.

    Args:
        inputs: arrays by name, or one bare value.
        look_up: gives the model's description.

    Raises:
        InputError: a bare value for a model with several inputs, an unknown name, or values that make no tensor.
    """
    if isinstance(inputs, Mapping):
        return tuple(_to_tensor(str(name), value, look_up) for name, value in inputs.items())
    return (_to_tensor(_only_input(look_up()).name, inputs, look_up),)


def _to_tensor(name: str, value: Any, look_up: Callable[[], ModelInfo]) -> Tensor:
    datatype = None if _says_its_datatype(value) else _input_named(name, look_up()).datatype
    if isinstance(value, np.ndarray) and datatype is not Datatype.BF16:
        datatype = None
    try:
        if datatype is Datatype.BYTES:  # numpy cannot hold bytes beside text, nor text that ends in zeros
            value = np.asarray(value, dtype=object)
        return Tensor.from_array(name, value, datatype)
    except TensorError as exc:
        raise InputError(exc.message, hint=exc.hint) from exc
    except ValueError as exc:
        raise InputError(f"input {name!r} is not an array: {exc}") from exc


def _says_its_datatype(value: Any) -> bool:
    # uint16 holds the bit patterns of BF16 too: only the model knows which of both is meant.
    return isinstance(value, np.ndarray) and value.dtype != np.uint16


def _only_input(info: ModelInfo) -> TensorSpec:
    if len(info.inputs) != 1:
        names = ", ".join(one.name for one in info.inputs)
        raise InputError(f"model {info.name} has {len(info.inputs)} inputs", hint=f"give a dict with {names}")
    return info.inputs[0]


def _input_named(name: str, info: ModelInfo) -> TensorSpec:
    for one in info.inputs:
        if one.name == name:
            return one
    names = ", ".join(one.name for one in info.inputs)
    raise InputError(f"model {info.name} has no input {name!r}", hint=f"its inputs: {names}")
