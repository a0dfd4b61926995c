"""Does a session answer a package's golden vectors as it must?

A package's golden file holds requests with the answers that every build must give (``aimass.package.golden``). Engines
round differently, so an answer may lie within the tolerance that the publisher stated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aimass.engine.base import Arrays, Session
from aimass.errors import EngineRunError, GoldenMismatchError, PackageError
from aimass.package.golden import unpack_golden
from aimass.package.manifest import Golden
from aimass.wire.messages import InferRequest, InferResponse
from aimass.wire.tensor import Array, Datatype

Pairs = Sequence[tuple[InferRequest, InferResponse]]


def read_golden(path: Path) -> Pairs:
    """The vectors in a golden file; at least one.

    Raises:
        PackageError: it cannot be read.
    """
    try:
        return unpack_golden(path.read_bytes())
    except OSError as exc:
        raise PackageError(f"the golden file {path.name} cannot be read: {exc}") from exc


def feeds_of(request: InferRequest) -> Arrays:
    """A vector's inputs as a session takes them."""
    return {tensor.name: tensor.data for tensor in request.inputs}


def check_golden(session: Session, pairs: Pairs, golden: Golden) -> None:
    """Run all vectors and compare.

    Raises:
        GoldenMismatchError: names the vector, the output, and by how much it differs at most.
    """
    for number, (asked, expected) in enumerate(pairs):
        try:
            answers = session.run(feeds_of(asked), asked.outputs or None)
        except EngineRunError as exc:
            raise GoldenMismatchError(f"golden vector {number} does not run: {exc.message}", vector=number) from exc
        for tensor in expected.outputs:
            _compare(number, tensor.name, tensor.datatype, answers.get(tensor.name), tensor.data, golden)


def _compare(number: int, name: str, datatype: Datatype, found: Array | None, expected: Array, golden: Golden) -> None:
    where = f"golden vector {number}: '{name}'"
    if found is None or found.shape != expected.shape:
        got = "nothing" if found is None else f"shape {found.shape}"
        message = f"{where} shall have shape {expected.shape}, the engine gave {got}"
        raise GoldenMismatchError(message, vector=number, output=name)
    if datatype is Datatype.BYTES:
        if not np.array_equal(found, expected):
            raise GoldenMismatchError(f"{where} differs", vector=number, output=name)
        return
    got64, want64 = _as_float64(datatype, found), _as_float64(datatype, expected)
    if not np.allclose(got64, want64, rtol=golden.rtol, atol=golden.atol, equal_nan=True):
        off = float(np.nanmax(np.abs(got64 - want64)))
        message = f"{where} differs by up to {off:.3g}; allowed are rtol {golden.rtol:g}, atol {golden.atol:g}"
        raise GoldenMismatchError(message, vector=number, output=name, difference=off)


def _as_float64(datatype: Datatype, array: Array) -> Array:
    """Comparable: bool cannot be subtracted, unsigned differences wrap; integers above 2^53 equal their neighbours."""
    if datatype is Datatype.BF16:  # bit patterns: the upper half of a float32
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)
