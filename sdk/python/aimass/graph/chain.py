"""Segments run one after the other, and the proof that this gives what the whole model gives.

Nothing here knows an engine: a runner is whatever takes arrays by name and gives arrays by name, such as a loaded
session, and each side of a cut may have its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from aimass.errors import InputError
from aimass.wire.tensor import Array, TensorSpec

Arrays = dict[str, Array]


class Runner(Protocol):
    """A loaded model; every engine's session is one."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it takes."""

    def run(self, feeds: Mapping[str, Array]) -> Arrays:
        """What it gives for these."""


@dataclass(frozen=True, slots=True)
class ChainCheck:
    """How a chain of segments compares with the whole model.

    Attributes:
        vectors: how many inputs were compared.
        is_exact: whether all outputs were equal to the bit (NaN equals NaN).
        is_close: whether all outputs were within the tolerances.
        max_difference: the largest absolute difference of any number.
        agreement: share of vectors whose largest value stood at the same place in every output of floats, 0 to 1.
        worst_output: where the largest difference was; empty when there was none.
    """

    vectors: int
    is_exact: bool
    is_close: bool
    max_difference: float
    agreement: float
    worst_output: str


def run_chain(
    parts: Sequence[Runner], feeds: Mapping[str, Array], *, through: Callable[[str, Array], Array] | None = None
) -> Arrays:
    """All outputs of all segments.

    Args:
        parts: the segments, loaded, in order.
        feeds: the whole model's inputs.
        through: what happens to a cut tensor between two segments, by name: a codec there and back. Nothing when
            left out.

    Raises:
        AimassError: what a segment raises.
    """
    made: Arrays = {}
    for number, part in enumerate(parts):
        taken = feeds if number == 0 else made
        values = {spec.name: taken[spec.name] for spec in part.inputs}
        if number and through is not None:
            values = {name: through(name, value) for name, value in values.items()}
        made.update(part.run(values))
    return made


def check_chain(
    whole: Runner,
    parts: Sequence[Runner],
    vectors: Iterable[Mapping[str, Array]],
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
    through: Callable[[str, Array], Array] | None = None,
) -> ChainCheck:
    """Whether segments may be offered in place of the whole: the gate a cut has to pass, for each pair of engines.

    Args:
        whole: the model in one piece, on the engine that counts as right.
        parts: the segments, in order.
        vectors: inputs, at least one.
        rtol: relative tolerance.
        atol: absolute tolerance.
        through: as for ``run_chain``.

    Raises:
        InputError: there are no vectors.
        AimassError: what a segment raises.
    """
    count = agreed = 0
    is_exact = is_close = True
    worst, worst_output = 0.0, ""
    for feeds in vectors:
        right, got = whole.run(feeds), run_chain(parts, feeds, through=through)
        count += 1
        same_place = True
        for name, value in right.items():
            other = got[name]
            is_exact = is_exact and _equal(value, other)
            is_close = is_close and _close(value, other, rtol, atol)
            same_place = same_place and _same_place(value, other)
            difference = _difference(value, other)
            if difference > worst:
                worst, worst_output = difference, name
        agreed += same_place
    if not count:
        raise InputError("no vectors to compare with", hint="give at least one set of inputs")
    return ChainCheck(count, is_exact, is_close, worst, agreed / count, worst_output)


def _is_float(value: Array) -> bool:
    return value.dtype.kind == "f"


def _equal(value: Array, other: Array) -> bool:
    if value.shape != other.shape or value.dtype != other.dtype:
        return False
    return np.array_equal(value, other, equal_nan=_is_float(value))


def _close(value: Array, other: Array, rtol: float, atol: float) -> bool:
    if value.shape != other.shape or value.dtype != other.dtype:
        return False
    if not _is_float(value):
        return bool(np.array_equal(value, other))
    return bool(np.allclose(other.astype(np.float64), value.astype(np.float64), rtol=rtol, atol=atol, equal_nan=True))


def _difference(value: Array, other: Array) -> float:
    if value.shape != other.shape or value.dtype != other.dtype:
        return float("inf")
    if value.dtype.kind not in "iuf" or not value.size:
        return 0.0 if _equal(value, other) else 1.0
    with np.errstate(invalid="ignore"):
        difference = np.abs(value.astype(np.float64) - other.astype(np.float64))
    difference[np.isnan(difference)] = 0.0 if _equal(np.isnan(value), np.isnan(other)) else np.inf
    return float(difference.max())


def _same_place(value: Array, other: Array) -> bool:
    if not _is_float(value) or value.shape != other.shape or not value.size or not value.ndim:
        return value.shape == other.shape
    return bool((value.argmax(axis=-1) == other.argmax(axis=-1)).all())
