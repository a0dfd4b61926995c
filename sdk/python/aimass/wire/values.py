"""One tensor <-> the ``data`` list of the JSON form: numbers, true and false, strings.

Whole numbers stay exact beyond 2^53; nothing is rounded, truncated or taken for something else in silence.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np

from aimass.errors import TensorError
from aimass.wire.tensor import Array, Datatype, Tensor, bytes_array, element_count

_NO_JSON = frozenset({Datatype.FP16, Datatype.BF16})
_BINARY_HINT = "send this tensor in binary form (parameters.binary_data_size)"


def tensor_from_values(name: str, datatype: Datatype, shape: tuple[int, ...], data: Any) -> Tensor:
    """A tensor of the JSON ``data``, which may be flat or nested.

    Raises:
        TensorError: number, type or range of the values does not fit datatype and shape; FP16 and BF16 always.
    """
    if datatype in _NO_JSON:  # WIRE-4.1
        raise TensorError(f"tensor {name!r}: {datatype} has no JSON form", hint=_BINARY_HINT)
    count = element_count(name, datatype, shape)
    values = _flat(name, data)
    if len(values) != count:  # WIRE-4.2
        raise TensorError(f"tensor {name!r}: shape {list(shape)} has {count} elements, data has {len(values)}")
    kinds = set(map(type, values))
    if datatype is Datatype.BYTES:
        array = _texts(name, values, kinds)
    elif datatype is Datatype.BOOL:
        array = _bools(name, values, kinds)
    elif datatype.dtype.kind == "f":
        array = _floats(name, values, kinds, datatype)
    else:
        array = _ints(name, values, kinds, datatype)
    return Tensor(name, datatype, array.reshape(shape))


def tensor_to_values(tensor: Tensor) -> list[Any]:
    """The flat JSON ``data`` of a tensor. FP32 is printed as the double it widens to, so it reads back equal.

    Raises:
        TensorError: FP16, BF16, or BYTES that are not UTF-8: these need the binary form.
    """
    if tensor.datatype in _NO_JSON:  # WIRE-4.1
        raise TensorError(f"tensor {tensor.name!r}: {tensor.datatype} has no JSON form", hint=_BINARY_HINT)
    values: list[Any] = tensor.data.reshape(-1).tolist()
    if tensor.datatype is not Datatype.BYTES:
        return values
    try:
        return [item.decode("utf-8") for item in values]
    except (UnicodeDecodeError, AttributeError) as exc:  # WIRE-4.5
        raise TensorError(f"tensor {tensor.name!r}: an element is not UTF-8 text", hint=_BINARY_HINT) from exc


def _flat(name: str, data: Any) -> list[Any]:
    # One level at a time and never by recursion: the header's nesting is bounded, the interpreter's stack is not ours.
    if type(data) is not list:
        raise TensorError(f"tensor {name!r}: data must be a list")
    while data and type(data[0]) is list:
        if set(map(type, data)) != {list}:
            raise TensorError(f"tensor {name!r}: data mixes lists and values")
        data = list(chain.from_iterable(data))
    return data  # type: ignore[no-any-return]


def _texts(name: str, values: list[Any], kinds: set[type]) -> Array:
    # WIRE-4.5
    if not kinds <= {str}:
        raise TensorError(f"tensor {name!r}: BYTES takes strings", hint=_BINARY_HINT)
    try:
        return bytes_array([text.encode("utf-8") for text in values], (len(values),))
    except UnicodeEncodeError as exc:
        raise TensorError(f"tensor {name!r}: a string has half of a surrogate pair in it") from exc


def _bools(name: str, values: list[Any], kinds: set[type]) -> Array:
    # WIRE-4.3
    if not kinds <= {bool}:
        raise TensorError(f"tensor {name!r}: BOOL takes true and false")
    return np.array(values, np.bool_)


def _ints(name: str, values: list[Any], kinds: set[type], datatype: Datatype) -> Array:
    # WIRE-4.3: 1.0 and true are not whole numbers; WIRE-4.4: Python's own integers, so exact beyond 2^53
    if not kinds <= {int}:
        raise TensorError(f"tensor {name!r}: {datatype} takes whole numbers")
    info = np.iinfo(datatype.dtype)
    if values and (min(values) < info.min or max(values) > info.max):
        raise TensorError(f"tensor {name!r}: a value is outside {datatype}")
    return np.array(values, datatype.dtype)


def _floats(name: str, values: list[Any], kinds: set[type], datatype: Datatype) -> Array:
    # WIRE-4.3, WIRE-4.6: NaN and Infinity are values; a finite number that would become one is refused
    if not kinds <= {int, float}:
        raise TensorError(f"tensor {name!r}: {datatype} takes numbers")
    try:
        wide = np.array(values, np.float64)
    except OverflowError as exc:
        raise TensorError(f"tensor {name!r}: a value is outside {datatype}") from exc
    if datatype is Datatype.FP64:
        return wide
    with np.errstate(over="ignore", under="ignore"):
        narrow = wide.astype(datatype.dtype)
    if (np.isinf(narrow) & np.isfinite(wide)).any():
        raise TensorError(f"tensor {name!r}: a value is outside {datatype}")
    return narrow
