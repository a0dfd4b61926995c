"""What a caller wishes for each output: binary form, or the best classes in place of the numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from aimass.errors import FrameError, InputError
from aimass.wire.header import list_of, parameters_of
from aimass.wire.tensor import Array, Datatype, Tensor, bytes_array


@dataclass(frozen=True, slots=True)
class Wishes:
    """How the outputs shall be written.

    Attributes:
        binary: in binary form, unless an output says otherwise.
        by_name: outputs that do.
        classes: outputs of which only the best k classes are wanted.
    """

    binary: bool = False
    by_name: Mapping[str, bool] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Self:
        """The wishes in a request's header.

        Raises:
            FrameError: one of them is not of the kind it must be.
        """
        # WIRE-2.6: the output's own wish wins over the request's; without any, JSON
        default = _truth(parameters_of(fields).get("binary_data_output", False))
        by_name: dict[str, bool] = {}
        classes: dict[str, int] = {}
        for output in list_of(fields, "outputs"):
            name, parameters = str(output.get("name")), parameters_of(output)
            by_name[name] = _truth(parameters.get("binary_data", default))
            count = parameters.get("classification", 0)
            if type(count) is not int or count < 0:
                raise FrameError("'classification' is the number of classes wanted")
            if count:
                classes[name] = count
        return cls(default, by_name, classes)

    def is_binary(self, name: str) -> bool:
        """Whether this output goes in binary form."""
        return self.by_name.get(name, self.binary)


NO_WISHES = Wishes()
ALL_BINARY = Wishes(binary=True)


def classified(tensor: Tensor, count: int, labels: tuple[str, ...]) -> Tensor:
    """The best classes of each row, best first, as texts ``value:index`` or ``value:index:label``.

    Shapes: [batch, ...] -> BYTES [batch, k]; [classes] -> BYTES [k]; k is at most the number of classes.

    Args:
        tensor: scores; the higher the better, NaN is worst.
        count: how many classes.
        labels: names of the classes; used when there is one for each.

    Raises:
        InputError: the output has no scores: texts, truth values, a single number.
    """
    if tensor.datatype in (Datatype.BYTES, Datatype.BOOL) or not tensor.shape:
        raise InputError(f"output '{tensor.name}' is {tensor.datatype} {list(tensor.shape)}: it has no classes")
    batch = tensor.shape[:1] if len(tensor.shape) > 1 else ()
    classes = math.prod(tensor.shape[len(batch) :])
    rows = _numbers(tensor).reshape(math.prod(batch), classes)
    names = labels if len(labels) == classes else ()
    texts = (text for row in rows for text in _best(row, count, names))
    return Tensor(tensor.name, Datatype.BYTES, bytes_array(texts, (*batch, min(count, classes))))


def _best(row: Array, count: int, names: tuple[str, ...]) -> list[bytes]:
    downwards = ~row if row.dtype.kind in "iu" else -row  # -row would overflow for the least whole number
    texts = []
    for index in np.argsort(downwards, kind="stable")[:count].tolist():
        value = row[index].item()
        text = f"{value:.6f}:{index}" if isinstance(value, float) else f"{value}:{index}"
        texts.append((f"{text}:{names[index]}" if names else text).encode())
    return texts


def _numbers(tensor: Tensor) -> Array:
    if tensor.datatype is Datatype.BF16:
        return (tensor.data.astype(np.uint32) << 16).view(np.float32)
    return tensor.data


def _truth(value: Any) -> bool:
    if type(value) is not bool:
        raise FrameError("'binary_data' and 'binary_data_output' are true or false")
    return value
