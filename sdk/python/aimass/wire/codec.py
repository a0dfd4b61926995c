"""Coded tensors: fewer bytes for the same tensor, by a name in ``parameters.codec``.

    zstd            the tensor's own bytes, compressed; lossless, for all datatypes but BYTES
    fp16            FP32 as IEEE half floats
    affine8         FP32 as bytes; one step for the tensor, or with ``axis`` one for each channel
    affine4         FP32 as half bytes, one step for each channel
    ...+zstd        the same, compressed

A coded tensor keeps name, datatype and shape of what it stands for; whoever reads the message sees the decoded array
only. Without a codec the bytes are the tensor's own (``aimass.wire.tensor``): that stays the default.

What a receiver allocates follows from datatype, shape and codec, and is compared with what it may allocate and with
what arrived, in that order, before it is allocated. Rules: ``sdk/spec/WIRE.md`` section 6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aimass.errors import FrameTooLargeError, TensorError
from aimass.wire import affine
from aimass.wire.tensor import Array, Buffer, Datatype, Tensor, element_count, tensor_from_bytes, tensor_to_bytes
from aimass.wire.zstd import compress, decompress

_COMPRESSED = "+zstd"
_LEVELS = {"affine8": 255, "affine4": 15}
_ROW_BYTES = 5  # one step as u32, one zero point as byte
_ONE_BITS = 0x3F800000  # 1.0, the step of a tensor without elements

#: Every codec of this version. WIRE-6.1
NAMES = ("zstd", "fp16", "fp16+zstd", "affine8", "affine8+zstd", "affine4", "affine4+zstd")


@dataclass(frozen=True, slots=True)
class Codec:
    """How to code a tensor.

    Attributes:
        name: one of ``NAMES``.
        axis: the dimension whose slices have steps of their own, negative from the end; for affine codecs only, and
            affine4 has to have one.

    Raises:
        TensorError: no such codec, or an axis where none can be.
    """

    name: str
    axis: int | None = None

    def __post_init__(self) -> None:
        if self.name not in NAMES:  # WIRE-3.6
            hint = f"send the tensor uncompressed, or as one of {', '.join(NAMES)}"
            raise TensorError(f"codec {self.name[:40]!r} is unknown here", hint=hint)
        if self.axis is None and self.base == "affine4":  # WIRE-6.5
            raise TensorError("codec affine4 needs an axis: 4 bits for a whole tensor are not accurate enough")
        if self.axis is not None and self.base not in _LEVELS:
            raise TensorError(f"codec {self.name!r} has no axis")

    @property
    def base(self) -> str:
        """The name without the compression: ``affine8``; empty for zstd alone."""
        return "" if self.name == "zstd" else self.name.removesuffix(_COMPRESSED)

    @property
    def is_compressed(self) -> bool:
        """Whether the coded bytes are one zstd frame."""
        return self.name.endswith("zstd")

    @property
    def is_lossless(self) -> bool:
        """Whether the tensor comes back bit for bit."""
        return self.base == ""

    def fits(self, datatype: Datatype) -> bool:
        """Whether tensors of this datatype can be coded so."""
        return datatype is Datatype.FP32 if self.base else datatype is not Datatype.BYTES


def encode_tensor(tensor: Tensor, codec: Codec) -> tuple[dict[str, Any], bytes | memoryview]:
    """The parameters that name the codec, and the coded bytes.

    Raises:
        TensorError: the codec does not fit the tensor's datatype, shape or values.
    """
    _check_fit(tensor.name, tensor.datatype, codec)
    axis = _checked_axis(tensor.name, codec.axis, tensor.data.ndim)
    parameters: dict[str, Any] = {"codec": codec.name}
    if axis is not None:
        parameters["axis"] = axis
    if tensor.data.size == 0:  # WIRE-6.7
        return parameters | (
            {"scale_bits": _ONE_BITS, "zero": 0} if codec.base in _LEVELS and axis is None else {}
        ), b""
    coded: bytes | memoryview
    if codec.base in _LEVELS:
        own, coded = _encode_affine(tensor, codec.base, axis)
        parameters |= own
    elif codec.base == "fp16":
        coded = _encode_fp16(tensor)
    else:
        coded = tensor_to_bytes(tensor)
    return parameters, compress(coded) if codec.is_compressed else coded


def decode_tensor(
    name: str,
    datatype: Datatype,
    shape: Sequence[int],
    parameters: Mapping[str, Any],
    buffer: Buffer,
    *,
    max_bytes: int,
) -> Tensor:
    """The tensor that coded bytes stand for.

    Args:
        name: the tensor's.
        datatype: what it decodes to.
        shape: what it decodes to.
        parameters: ``codec`` and what belongs to it.
        buffer: the coded bytes.
        max_bytes: the largest tensor to decode to.

    Raises:
        FrameTooLargeError: datatype and shape ask for more than max_bytes.
        TensorError: the codec is unknown or does not fit, or the bytes are not what it makes.
    """
    codec = _codec_of(name, parameters)
    _check_fit(name, datatype, codec)
    count = element_count(name, datatype, shape)
    size_bytes = count * datatype.item_bytes
    if size_bytes > max_bytes:  # WIRE-6.8: before anything of this size is made
        message = f"tensor {name!r} decodes to {size_bytes} bytes, at most {max_bytes} are left"
        raise FrameTooLargeError(message, size_bytes=size_bytes, limit_bytes=max_bytes)
    axis = _checked_axis(name, codec.axis, len(shape))
    rows = 1 if axis is None else shape[axis]
    coded_bytes = 0 if count == 0 else _coded_bytes(codec, count, size_bytes, 0 if axis is None else rows)
    if codec.is_compressed and count:
        buffer = decompress(name, buffer, coded_bytes)
    if len(buffer) != coded_bytes:
        raise TensorError(
            f"tensor {name!r}: {codec.name} of {list(shape)} takes {coded_bytes} bytes, not {len(buffer)}"
        )
    if count == 0:  # WIRE-6.7
        return Tensor(name, datatype, np.zeros(shape, datatype.dtype))
    if codec.base in _LEVELS:
        array = _decode_affine(name, codec.base, shape, axis, parameters, buffer)
    elif codec.base == "fp16":
        array = np.frombuffer(buffer, "<f2").astype("<f4")  # WIRE-6.9
    else:
        return tensor_from_bytes(name, datatype, shape, buffer)
    return Tensor(name, datatype, array.reshape(shape))


def _coded_bytes(codec: Codec, count: int, size_bytes: int, table_rows: int) -> int:
    """How many bytes there are before compression. Side effects: none, and nothing is allocated."""
    codes = {"": size_bytes, "fp16": 2 * count, "affine8": count, "affine4": (count + 1) // 2}[codec.base]
    return codes + _ROW_BYTES * table_rows


def _encode_fp16(tensor: Tensor) -> bytes | memoryview:
    # WIRE-6.9: numpy rounds to nearest even, as IEEE 754 asks
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        half = tensor.data.astype("<f2")
    if (np.isinf(half) & np.isfinite(tensor.data)).any():
        raise TensorError(f"tensor {tensor.name!r}: a value is outside FP16", hint="send it as it is")
    return tensor_to_bytes(Tensor(tensor.name, Datatype.FP16, half))


def _encode_affine(tensor: Tensor, base: str, axis: int | None) -> tuple[dict[str, Any], bytes | memoryview]:
    steps, codes = affine.quantize(tensor.name, _rows(tensor.data, axis), _LEVELS[base])
    flat = codes.reshape(-1)
    if base == "affine4":
        flat = affine.pack_nibbles(flat)
    if axis is None:  # WIRE-6.3
        return {"scale_bits": int(steps.scale_bits[0]), "zero": int(steps.zero[0])}, flat.data
    return {}, b"".join((steps.scale_bits.tobytes(), steps.zero.tobytes(), flat.data))  # WIRE-6.5


def _decode_affine(
    name: str, base: str, shape: Sequence[int], axis: int | None, parameters: Mapping[str, Any], buffer: Buffer
) -> Array:
    raw = np.frombuffer(buffer, np.uint8)
    levels, count = _LEVELS[base], math.prod(shape)
    if axis is None:  # WIRE-6.3
        bits, zero = (_whole(name, parameters, key, limit) for key, limit in (("scale_bits", 2**32 - 1), ("zero", 255)))
        steps = affine.checked_steps(name, np.array([bits], np.uint32), np.array([zero], np.uint8), levels)
        outer, rows, codes = 1, 1, raw
    else:  # WIRE-6.5
        outer, rows = math.prod(shape[:axis]), shape[axis]
        table, codes = raw[: _ROW_BYTES * rows], raw[_ROW_BYTES * rows :]
        bits_by_row = np.frombuffer(table[: 4 * rows].tobytes(), "<u4")
        steps = affine.checked_steps(name, bits_by_row, table[4 * rows :], levels)
    if base == "affine4":
        codes = affine.unpack_nibbles(name, codes, count)
    return affine.dequantize(codes.reshape(outer, rows, -1), steps)


def _codec_of(name: str, parameters: Mapping[str, Any]) -> Codec:
    named, axis = parameters.get("codec"), parameters.get("axis")
    if type(named) is not str:
        raise TensorError(f"tensor {name!r}: 'codec' is not a text")
    if axis is not None and (type(axis) is not int or axis < 0):
        raise TensorError(f"tensor {name!r}: 'axis' is not a whole number from 0")
    try:
        return Codec(named, axis)
    except TensorError as exc:
        raise TensorError(f"tensor {name!r}: {exc.message}", hint=exc.hint) from exc


def _check_fit(name: str, datatype: Datatype, codec: Codec) -> None:
    if not codec.fits(datatype):  # WIRE-6.1
        raise TensorError(f"tensor {name!r}: codec {codec.name} does not fit {datatype}", hint="send it as it is")


def _checked_axis(name: str, axis: int | None, dims: int) -> int | None:
    if axis is None or 0 <= axis < dims:
        return axis
    if -dims <= axis < 0:
        return axis + dims
    raise TensorError(f"tensor {name!r} has no axis {axis}: it has {dims} dimensions")


def _rows(data: Array, axis: int | None) -> Array:
    """The array as (outer, rows, inner)."""
    if axis is None:
        return data.reshape(1, 1, -1)
    return data.reshape(math.prod(data.shape[:axis]), data.shape[axis], -1)


def _whole(name: str, parameters: Mapping[str, Any], key: str, limit: int) -> int:
    value = parameters.get(key)
    if type(value) is not int or not 0 <= value <= limit:
        raise TensorError(f"tensor {name!r}: {key!r} must be a whole number from 0 to {limit}")
    return value
