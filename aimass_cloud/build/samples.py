"""Calibration and evaluation data from outside: arrays that fit a model's inputs, or one ``InputError`` that says why.

A file is an ``.npz`` with one array for each input, by its name; ``labels`` beside them where the right answers are
known. The first axis counts samples:

* an array with as many dimensions as its input takes rows from the input's first one: ``(100, 3, 224, 224)`` is 100
  samples for ``[-1, 3, 224, 224]`` as well as for ``[1, 3, 224, 224]``, and 25 for ``[4, 3, 224, 224]``;
* an array with one dimension more holds whole inputs: ``(100, 7)`` is 100 samples for ``[7]``.

Sizes are checked before memory is taken for them: a few bytes of a compressed file can claim to be a terabyte.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from aimass.engine.base import Arrays
from aimass.errors import InputError
from aimass.wire.tensor import Array, Datatype, TensorSpec

LABELS = "labels"
MAX_ARRAYS = 257
SHAPE_HINT = "the first axis counts samples; the others must be those of the model's input"
FILE_HINT = "write it with numpy.savez_compressed(path, <input name>=array, ..., labels=array)"


@dataclass(frozen=True, slots=True)
class SampleLimits:
    """How much data is taken: all arrays together, unpacked, and samples."""

    max_bytes: int = 1 << 30
    max_samples: int = 20_000


@dataclass(frozen=True, slots=True)
class Samples:
    """Arrays that fit the inputs.

    Attributes:
        arrays: by input name; the first axis is cut into samples.
        rows: how many rows of each array are one sample; 0 where an array's item is the whole input.
        count: samples.
    """

    arrays: Mapping[str, Array]
    rows: Mapping[str, int]
    count: int

    def feeds(self, number: int) -> Arrays:
        """What a session is fed for one sample. Views, no copies."""
        feeds = {}
        for name, array in self.arrays.items():
            rows = self.rows[name]
            # The dots keep a single number an array.
            feeds[name] = array[number * rows : (number + 1) * rows] if rows else array[number, ...]
        return feeds

    def __iter__(self) -> Iterator[Arrays]:
        return (self.feeds(number) for number in range(self.count))

    def spread(self, count: int) -> Samples:
        """At most so many of them, evenly spread: files are often sorted by class."""
        if count >= self.count:
            return self
        chosen = np.linspace(0, self.count - 1, count).astype(np.int64)
        arrays = {}
        for name, array in self.arrays.items():
            rows = self.rows[name] or 1
            arrays[name] = array[(chosen[:, None] * rows + np.arange(rows)).reshape(-1)]
        return Samples(arrays, self.rows, count)


def read_arrays(path: Path, limits: SampleLimits | None = None) -> dict[str, Array]:
    """The arrays in an ``.npz`` file from outside.

    Raises:
        InputError: no such file, pickled objects in it, or more data than allowed.
    """
    try:
        _check_claims(path, limits or SampleLimits())
        with np.load(path, allow_pickle=False) as file:
            return {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as exc:
        raise InputError(f"{path.name} is no file of arrays: {str(exc)[:200]}", hint=FILE_HINT) from exc


def check_samples(
    arrays: Mapping[str, Array], inputs: Sequence[TensorSpec], what: str, limits: SampleLimits | None = None
) -> Samples:
    """The arrays, when they fit.

    Args:
        arrays: by input name.
        inputs: the model's.
        what: ``calibration data`` or ``evaluation data``, for messages.
        limits: how much is taken.

    Raises:
        InputError: an array is missing, unknown, of another type or shape, not finite, or there are too many.
    """
    limits = limits or SampleLimits()
    wanted = {spec.name for spec in inputs}
    if set(arrays) != wanted:
        missing, unknown = sorted(wanted - set(arrays)), sorted(set(arrays) - wanted)
        words = [f"'{name}' is missing" for name in missing] + [f"'{name}' is not an input" for name in unknown]
        raise InputError(
            f"{what}: {', '.join(words)[:500]}", hint=f"the model's inputs are: {', '.join(sorted(wanted))}"
        )
    if sum(array.nbytes for array in arrays.values()) > limits.max_bytes:
        raise _too_much(what, limits)
    rows, counts = {}, {}
    for spec in inputs:
        rows[spec.name], counts[spec.name] = _check_array(arrays[spec.name], spec, what)
    if len(set(counts.values())) != 1:
        told = ", ".join(f"'{name}' has {count}" for name, count in counts.items())
        raise InputError(f"{what}: the inputs have different numbers of samples: {told}"[:500])
    count = next(iter(counts.values()))
    if not 1 <= count <= limits.max_samples:
        raise InputError(f"{what}: {count} samples; 1 to {limits.max_samples} are taken", hint="send fewer of them")
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return Samples(contiguous, rows, count)


def _check_array(array: Array, spec: TensorSpec, what: str) -> tuple[int, int]:
    """Rows of one sample (0: an item is the whole input), and number of samples."""
    place = f"{what}: '{spec.name}'"
    if spec.datatype is Datatype.BYTES:
        raise InputError(f"{place} is text, which cannot be measured with arrays", hint="leave the data out")
    if array.dtype != spec.datatype.dtype:
        wanted = spec.datatype.dtype.name
        raise InputError(
            f"{place} has type {array.dtype.name}; the model takes {wanted}", hint=f"array.astype('{wanted}')"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        where = int(np.argmin(np.isfinite(array.reshape(len(array), -1)).all(axis=1)))
        raise InputError(f"{place} holds NaN or infinity, first in row {where}", hint="leave such samples out")
    if array.ndim == len(spec.shape) + 1:
        _check_shape(array.shape[1:], spec.shape, place)
        return 0, len(array)
    if not spec.shape or array.ndim != len(spec.shape):
        raise InputError(f"{place} has shape {array.shape}; the model takes {_told(spec.shape)}", hint=SHAPE_HINT)
    _check_shape(array.shape[1:], spec.shape[1:], place)
    rows = 1 if spec.shape[0] < 0 else spec.shape[0]
    if rows == 0 or len(array) % rows:
        raise InputError(f"{place} has {len(array)} rows, which are no multiple of {rows}", hint=SHAPE_HINT)
    return rows, len(array) // rows


def _check_shape(found: Sequence[int], wanted: Sequence[int], place: str) -> None:
    fits = all(have == want if want >= 0 else have > 0 for have, want in zip(found, wanted, strict=True))
    if not fits:
        raise InputError(f"{place}: a sample has shape {tuple(found)}; wanted {_told(wanted)}", hint=SHAPE_HINT)


def _told(shape: Sequence[int]) -> str:
    return "(" + ", ".join("any" if size < 0 else str(size) for size in shape) + ")"


def _check_claims(path: Path, limits: SampleLimits) -> None:
    """Refuse the file for what its arrays would take, before any of them is unpacked."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if not 1 <= len(names) <= MAX_ARRAYS or len(set(names)) != len(names):
            raise InputError(f"{path.name} must hold 1 to {MAX_ARRAYS} arrays with different names", hint=FILE_HINT)
        left = limits.max_bytes
        for name in names:
            with archive.open(name) as member:
                left -= _claimed_bytes(member, name)
            if left < 0:
                raise _too_much(path.name, limits)


def _claimed_bytes(member: IO[bytes], name: str) -> int:
    """What an array will take, read from its header only."""
    version = np.lib.format.read_magic(member)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(member)
    if dtype.hasobject:
        raise InputError(f"'{name}' holds Python objects, which are not unpacked here", hint=FILE_HINT)
    if any(size < 0 for size in shape):
        raise InputError(f"'{name}' has the impossible shape {shape}", hint=FILE_HINT)
    return math.prod(shape) * dtype.itemsize


def _too_much(what: str, limits: SampleLimits) -> InputError:
    hint = "a few hundred samples are enough to calibrate, a few thousand to evaluate"
    return InputError(f"{what}: more than {limits.max_bytes >> 20} MiB", hint=hint, limit_bytes=limits.max_bytes)
