"""Floats as 8-bit or 4-bit codes with a step and a zero point, the same bits in every language.

A *row* is what shares one step: the whole tensor, or one channel of it. Every line below is one correctly rounded
float32 operation (IEEE 754, to nearest even), so C, Java and numpy agree to the bit; ``levels`` is 255 or 15.

    lo, hi  = min(0, smallest), max(0, largest)
    scale   = max(hi / levels - lo / levels, 2^-126)      1 where lo = hi = 0; at most 2^119, or the tensor is refused
    zero    = min(round(-lo / scale), levels)
    code    = clamp(round(x / scale) + zero, 0, levels)
    x again = (code - zero) * scale

``round`` is half away from zero, C's ``roundf``. Zero is exact: its code is ``zero``, which gives 0 back. The lower
bound of the step keeps subnormal numbers out, which some cores flush to zero; the upper one keeps results finite.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aimass.errors import TensorError
from aimass.wire.tensor import Array

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]

MIN_SCALE = np.float32(2.0**-126)
MAX_SCALE = np.float32(2.0**119)
# trunc(t + the number below one half, with t's sign) is roundf(t) for every float32; with 0.5 itself, the largest
# number below one half would be carried up to 1.
_NEARLY_HALF = np.float32(0.5 - 2.0**-25)
_BLOCK = 1 << 15  # elements worked on at once: the three arrays of a block stay in a core's own cache


@dataclass(frozen=True, slots=True)
class Steps:
    """One step and zero point for each row.

    Shapes: both (rows,); scale float32, zero uint8.
    """

    scale: Floats
    zero: Codes

    @property
    def scale_bits(self) -> npt.NDArray[np.uint32]:
        """The bit patterns of the steps, as they travel."""
        return self.scale.view("<u4")


def quantize(name: str, values: Floats, levels: int) -> tuple[Steps, Codes]:
    """Codes for floats.

    Args:
        name: the tensor's, for the error.
        values: (outer, rows, inner): the middle axis has the steps.
        levels: 255 or 15, the largest code.

    Shapes: values (outer, rows, inner) float32, none of them 0 -> steps of (rows,), codes (outer, rows, inner) uint8
    Units: worst error is half a step of the row (a rounding of float32 on top).

    Raises:
        TensorError: a value is NaN, infinite or too large for 4 or 8 bits to come back finite.
    """
    steps = _steps(name, values, np.float32(levels))
    codes = np.empty(values.shape, np.uint8)
    zero = steps.zero.astype(np.float32)
    top = np.float32(levels)
    by_row = np.broadcast_to(steps.scale[None, :, None], values.shape)
    zero_by_row = np.broadcast_to(zero[None, :, None], values.shape)
    is_signed = bool(steps.zero.any())
    for block in _blocks(values.shape):
        scaled = np.divide(values[block], by_row[block])  # WIRE-6.4
        if is_signed:
            scaled += np.copysign(_NEARLY_HALF, scaled)
            np.trunc(scaled, out=scaled)
            scaled += zero_by_row[block]
            np.maximum(scaled, np.float32(0), out=scaled)
        else:
            scaled += _NEARLY_HALF  # no value is half a step below zero, and the cast to codes truncates
        np.minimum(scaled, top, out=scaled)
        codes[block] = scaled
    return steps, codes


def dequantize(codes: Codes, steps: Steps) -> Floats:
    """Floats for codes.

    Shapes: codes (outer, rows, inner) uint8, steps of (rows,) -> (outer, rows, inner) float32
    """
    values = np.empty(codes.shape, np.float32)
    by_row = np.broadcast_to(steps.scale[None, :, None], codes.shape)
    zero_by_row = np.broadcast_to(steps.zero.astype(np.float32)[None, :, None], codes.shape)
    for block in _blocks(codes.shape):
        np.subtract(codes[block], zero_by_row[block], out=values[block])  # WIRE-6.4
        values[block] *= by_row[block]
    return values


def checked_steps(name: str, scale_bits: Array, zero: Array, levels: int) -> Steps:
    """Steps that came over the wire.

    Raises:
        TensorError: a step is not a normal float32 from 2^-126 to 2^119, or a zero point is no code.
    """
    # WIRE-6.3: so bounded, no code gives NaN or infinity
    scale = scale_bits.astype(np.uint32, copy=False).view(np.float32)
    if not ((scale >= MIN_SCALE) & (scale <= MAX_SCALE)).all() or zero.max(initial=0) > levels:
        raise TensorError(f"tensor {name!r}: a step or zero point of its codec is out of range")
    return Steps(scale, zero.astype(np.uint8, copy=False))


def pack_nibbles(codes: Codes) -> Codes:
    """Two 4-bit codes in each byte, the earlier in the low half; (n,) -> ((n + 1) // 2,)."""
    # WIRE-6.6
    packed = codes[0::2].copy()
    packed[: codes.size // 2] |= codes[1::2] << 4
    return packed


def unpack_nibbles(name: str, packed: Codes, count: int) -> Codes:
    """The codes of ``pack_nibbles``.

    Raises:
        TensorError: the half byte left over is not 0.
    """
    codes = np.empty(packed.size * 2, np.uint8)
    np.bitwise_and(packed, 15, out=codes[0::2])
    np.right_shift(packed, 4, out=codes[1::2])
    if codes[count:].any():  # WIRE-6.6
        raise TensorError(f"tensor {name!r}: the last half byte is not 0")
    return codes[:count]


def _steps(name: str, values: Floats, levels: np.float32) -> Steps:
    # WIRE-6.4; NaN wins every comparison of numpy's minimum, so the two ends tell of it
    low = np.minimum.reduce(values, axis=(0, 2), initial=np.float32(0))
    high = np.maximum.reduce(values, axis=(0, 2), initial=np.float32(0))
    if not (np.isfinite(low) & np.isfinite(high)).all():
        raise TensorError(f"tensor {name!r}: NaN and infinity have no 4- or 8-bit code", hint="send it as it is")
    with np.errstate(under="ignore"):
        scale = np.maximum(high / levels - low / levels, MIN_SCALE)
    scale[(low == 0) & (high == 0)] = 1
    if (scale > MAX_SCALE).any():  # WIRE-6.3
        raise TensorError(
            f"tensor {name!r}: its values are too far apart for 4- or 8-bit codes", hint="send it as it is"
        )
    zero = np.minimum(np.trunc(-low / scale + _NEARLY_HALF), levels)
    return Steps(scale, zero.astype(np.uint8))


def _blocks(shape: tuple[int, ...]) -> list[tuple[slice, slice, slice]]:
    """Slices over (outer, rows, inner) that hold about ``_BLOCK`` elements each."""
    outer, rows, inner = shape
    inner_by = min(inner, _BLOCK)
    rows_by = max(1, min(rows, _BLOCK // inner_by)) if inner <= _BLOCK else 1
    outer_by = max(1, _BLOCK // (inner_by * rows_by)) if rows_by == rows and inner <= _BLOCK else 1
    return [
        (slice(a, a + outer_by), slice(b, b + rows_by), slice(c, c + inner_by))
        for a in range(0, outer, outer_by)
        for b in range(0, rows, rows_by)
        for c in range(0, inner, inner_by)
    ]
