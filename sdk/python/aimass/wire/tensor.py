"""One tensor: its datatype, its shape, and its bytes.

Layout of all datatypes but BYTES: little-endian, row-major, no padding; BOOL is one byte, 0 or 1. A BYTES element is
its length as little-endian u32, then that many bytes, whatever they are. In memory BYTES is an object array of
``bytes`` and BF16, which numpy does not know, an array of ``uint16`` holding the bit patterns.

Source: Open Inference Protocol, "Tensor Data Types" and "Binary tensor data extension".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from aimass.errors import TensorError

Array = npt.NDArray[Any]
Buffer = bytes | bytearray | memoryview

MAX_DIMS = 16
_MAX_TENSOR_BYTES = 2**63 - 1
_LENGTH = struct.Struct("<I")


class Datatype(StrEnum):
    """The element types of the Open Inference Protocol."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    BF16 = "BF16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"

    @property
    def dtype(self) -> np.dtype[Any]:
        """How an array of this type is kept in memory."""
        return _DTYPES[self]

    @property
    def item_bytes(self) -> int:
        """Bytes of one element on the wire; 0 for BYTES, whose elements differ."""
        return 0 if self is Datatype.BYTES else _DTYPES[self].itemsize


# WIRE-3.1
_DTYPES: dict[Datatype, np.dtype[Any]] = {
    Datatype.BOOL: np.dtype(np.bool_),
    Datatype.UINT8: np.dtype("<u1"),
    Datatype.UINT16: np.dtype("<u2"),
    Datatype.UINT32: np.dtype("<u4"),
    Datatype.UINT64: np.dtype("<u8"),
    Datatype.INT8: np.dtype("<i1"),
    Datatype.INT16: np.dtype("<i2"),
    Datatype.INT32: np.dtype("<i4"),
    Datatype.INT64: np.dtype("<i8"),
    Datatype.FP16: np.dtype("<f2"),
    Datatype.BF16: np.dtype("<u2"),
    Datatype.FP32: np.dtype("<f4"),
    Datatype.FP64: np.dtype("<f8"),
    Datatype.BYTES: np.dtype(object),
}
_BY_DTYPE: dict[np.dtype[Any], Datatype] = {d: t for t, d in _DTYPES.items() if t is not Datatype.BF16}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a model asks for or gives: -1 in the shape stands for any size; the batch dimension is part of it."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A named array whose dtype is the one its datatype is kept in.

    Decoded tensors are read-only views into the received message: copy before changing them.

    Raises:
        TensorError: the array's dtype is not the one of the datatype. ``Tensor.from_array`` converts.
    """

    name: str
    datatype: Datatype
    data: Array

    def __post_init__(self) -> None:
        if self.data.dtype != _DTYPES[self.datatype]:
            raise TensorError(f"tensor {self.name!r} is {self.datatype}, its array is {self.data.dtype}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dimensions."""
        return self.data.shape

    @property
    def nbytes(self) -> int:
        """Bytes this tensor takes on the wire. Cost: one pass over the elements for BYTES."""
        if self.datatype is Datatype.BYTES:
            return sum(_LENGTH.size + len(item) for item in self.data.reshape(-1).tolist())
        return self.data.nbytes

    @classmethod
    def from_array(cls, name: str, array: Any, datatype: Datatype | None = None) -> Self:
        """A tensor of what the caller has: an array, nested lists or a single value.

        Args:
            name: the model's name for it.
            array: strings and bytes become BYTES (strings as UTF-8); memory that fits is not copied.
            datatype: what it shall be; found from the array's dtype when left out. Arrays are widened where nothing
                is lost, never narrowed; Python numbers are taken when each of them fits.

        Raises:
            TensorError: no datatype fits, or the values do not fit the datatype asked for.
        """
        values = _as_array(name, array)
        wanted = _infer(name, values) if datatype is None else datatype
        if wanted is Datatype.BYTES:
            return cls(name, wanted, _bytes_array(name, values))
        exact = isinstance(array, np.ndarray | np.generic)
        return cls(name, wanted, _contiguous(_convert(name, values, wanted, exact=exact)))


def element_count(name: str, datatype: Datatype, shape: Sequence[int]) -> int:
    """How many elements a shape has.

    Raises:
        TensorError: a dimension is negative, there are too many, or the tensor could never be addressed.
    """
    # WIRE-3.2, WIRE-3.3: zero dimensions do not hide an overflow of the others, because numpy cannot hold that either
    if len(shape) > MAX_DIMS:
        raise TensorError(f"tensor {name!r} has {len(shape)} dimensions, at most {MAX_DIMS}")
    elements = 1
    bound = datatype.item_bytes or 8
    for dim in shape:
        if dim < 0 or dim > _MAX_TENSOR_BYTES:
            raise TensorError(f"tensor {name!r} has a dimension outside 0 to 2^63 - 1")
        elements *= dim
        bound *= dim or 1
    if bound > _MAX_TENSOR_BYTES:
        raise TensorError(f"tensor {name!r}: the product of its dimensions overflows")
    return elements


def tensor_to_bytes(tensor: Tensor) -> bytes | memoryview:
    """The tensor's bytes on the wire; a view, not a copy, where memory has that layout already.

    Raises:
        TensorError: a BYTES element is neither bytes nor text, or too long.
    """
    if tensor.datatype is Datatype.BYTES:
        return _pack_bytes(tensor)
    if tensor.data.size == 0:
        return b""
    return _contiguous(tensor.data).reshape(-1).view(np.uint8).data


def tensor_from_bytes(name: str, datatype: Datatype, shape: Sequence[int], buffer: Buffer) -> Tensor:
    """A tensor over received bytes, without a copy where they are aligned.

    Raises:
        TensorError: the bytes are not exactly the tensor's, or BOOL holds something else than 0 and 1.
    """
    count = element_count(name, datatype, shape)
    if datatype is Datatype.BYTES:
        return Tensor(name, datatype, _unpack_bytes(name, count, buffer).reshape(shape))
    if len(buffer) != count * datatype.item_bytes:
        message = (
            f"tensor {name!r}: {datatype} {list(shape)} takes {count * datatype.item_bytes} bytes, not {len(buffer)}"
        )
        raise TensorError(message)
    if count == 0:
        return Tensor(name, datatype, np.zeros(shape, datatype.dtype))
    if datatype is Datatype.BOOL and np.frombuffer(buffer, np.uint8).max() > 1:  # WIRE-3.4
        raise TensorError(f"tensor {name!r}: a BOOL byte is neither 0 nor 1")
    array = np.frombuffer(buffer, datatype.dtype)
    if not array.flags.aligned:
        array = array.copy()  # engines read through typed pointers
    return Tensor(name, datatype, array.reshape(shape))


def bytes_array(items: Iterable[bytes], shape: Sequence[int]) -> Array:
    """An object array of these elements; ``np.array(items)`` would make fixed-width strings of them."""
    flat = list(items)
    out = np.empty(len(flat), dtype=object)
    out[:] = flat
    return out.reshape(shape)


def _pack_bytes(tensor: Tensor) -> bytes:
    # WIRE-3.5
    parts: list[bytes] = []
    for item in tensor.data.reshape(-1).tolist():
        if not isinstance(item, bytes) or len(item) >= 2**32:
            raise TensorError(f"tensor {tensor.name!r}: a BYTES element must be bytes, shorter than 4 GiB")
        parts += (_LENGTH.pack(len(item)), item)
    return b"".join(parts)


def _unpack_bytes(name: str, count: int, buffer: Buffer) -> Array:
    # WIRE-3.5, WIRE-5.3: each element takes at least its length, so the count is bounded by bytes that really arrived
    size = len(buffer)
    if count * _LENGTH.size > size:
        raise TensorError(f"tensor {name!r}: {count} BYTES elements cannot fit into {size} bytes")
    raw = bytes(buffer)
    items: list[bytes] = []
    offset = 0
    for _ in range(count):
        start = offset + _LENGTH.size
        if start > size:
            break
        offset = start + _LENGTH.unpack_from(raw, offset)[0]
        if offset > size:
            break
        items.append(raw[start:offset])
    if len(items) != count or offset != size:
        raise TensorError(f"tensor {name!r}: the lengths of its BYTES elements do not add up to {size} bytes")
    return bytes_array(items, (count,))


def _contiguous(array: Array) -> Array:
    return array if array.flags.c_contiguous else array.copy(order="C")  # ascontiguousarray makes 0-d arrays 1-d


def _as_array(name: str, array: Any) -> Array:
    try:
        values = np.asarray(array)
    except (ValueError, TypeError, OverflowError) as exc:
        raise TensorError(f"tensor {name!r} is not an array: {exc}") from exc
    if values.dtype.name == "bfloat16":  # ml_dtypes, without importing it
        return values
    if values.dtype.kind in "SU" and not isinstance(array, np.ndarray):
        return np.asarray(array, dtype=object)  # numpy's fixed-width strings lose trailing zero bytes
    return values


def _infer(name: str, values: Array) -> Datatype:
    if values.dtype.name == "bfloat16":
        return Datatype.BF16
    if values.dtype.kind in "SUO":
        return Datatype.BYTES
    try:
        return _BY_DTYPE[values.dtype.newbyteorder("<")]
    except KeyError as exc:
        raise TensorError(f"tensor {name!r}: no datatype for arrays of {values.dtype}") from exc


def _bytes_array(name: str, values: Array) -> Array:
    items: list[bytes] = []
    for item in values.reshape(-1).tolist():
        if isinstance(item, str):
            items.append(item.encode("utf-8", "strict") if item.isascii() else _utf8(name, item))
        elif isinstance(item, bytes | bytearray | memoryview):
            items.append(bytes(item))
        else:
            raise TensorError(f"tensor {name!r}: a BYTES element is {type(item).__name__}, not bytes or text")
    return bytes_array(items, values.shape)


def _utf8(name: str, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise TensorError(f"tensor {name!r}: a text has half of a surrogate pair in it") from exc


def _convert(name: str, values: Array, wanted: Datatype, *, exact: bool) -> Array:
    target = wanted.dtype
    if wanted is Datatype.BF16 and values.dtype.name == "bfloat16":
        return values.view(np.uint16)
    if values.dtype == target:
        return values
    if wanted is not Datatype.BF16 and (_is_lossless(values.dtype, target) if exact else _fits(values, target)):
        return values.astype(target)
    message = f"tensor {name!r}: {values.dtype} does not fit {wanted} without loss"
    raise TensorError(message, hint=f"convert it yourself: array.astype({target.name!r})")


def _is_lossless(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    if source.kind not in "iuf":
        return False
    if source.kind in "iu" and target.kind == "f" and source.itemsize == target.itemsize:
        return False  # numpy calls int64 -> float64 safe
    return np.can_cast(source, target, "safe")


def _fits(values: Array, target: np.dtype[Any]) -> bool:
    """Whether Python numbers, which have no width of their own, all fit the target."""
    if values.size == 0:
        return True
    if target.kind == "f" and values.dtype.kind in "iuf":
        with np.errstate(over="ignore", under="ignore"):
            return not (np.isinf(values.astype(target)) & np.isfinite(values)).any()
    if target.kind in "iu" and values.dtype.kind in "iu":
        info = np.iinfo(target)
        return int(values.min()) >= info.min and int(values.max()) <= info.max
    return False
