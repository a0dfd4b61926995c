"""From a package's folder to a version that may answer: choose a variant, load it, warm it, test it.

Everything here happens on the loading thread. Nothing it does is seen by requests before it has all succeeded.

The folder was installed by the package store, which has verified signature and digests; here is only asked whether this
engine on this machine computes what the publisher says it must.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from aimass.engine.base import Arrays, Engine, EngineOptions, Feeds, Session
from aimass.errors import (
    EngineMissingError,
    EngineRunError,
    GoldenMismatchError,
    ModelError,
    ModelLoadError,
    PackageError,
)
from aimass.package.golden import unpack_golden
from aimass.package.manifest import Golden, Manifest, Platform, Variant
from aimass.placement.estimate import LatencyEstimate
from aimass.runtime.loaded import LoadedModel
from aimass.wire.messages import InferResponse
from aimass.wire.tensor import Array, Datatype, TensorSpec

log = logging.getLogger(__name__)

_WARM_RUNS = 3  # the first pays for lazy set-up; the others say how long a run takes


class Loader:
    """Loads packages with the engines of this process.

    Args:
        engines: what is installed here.
        order: names of engines, best first; others come after them.
        options: how sessions are made.
    """

    def __init__(self, engines: Sequence[Engine], order: Sequence[str], options: EngineOptions) -> None:
        rank = {name: place for place, name in enumerate(order)}
        self._engines = sorted(engines, key=lambda engine: rank.get(engine.name, len(rank)))
        self._options = options

    def load(self, folder: Path, manifest: Manifest, prefer_engine: str | None = None) -> LoadedModel:
        """The best variant that loads and passes its self-test; nothing is left loaded when none does.

        Raises:
            EngineMissingError: no engine here for any of the variants.
            ModelLoadError, GoldenMismatchError, EngineMissingError: the first candidate's error, when all failed.
            PackageError: the golden file cannot be read.
        """
        first_error: ModelError | None = None
        for engine, variant in self._candidates(manifest, prefer_engine):
            try:
                return self._try(engine, variant, folder, manifest)
            except ModelError as exc:
                log.warning(
                    "%s %s: variant %s on %s: %s", manifest.name, manifest.version, variant.name, engine.name, exc
                )
                first_error = first_error or exc
        if first_error is not None:
            raise first_error
        wanted = sorted({f"{variant.name} ({variant.format})" for variant in manifest.variants})
        raise EngineMissingError(
            f"no engine here runs any variant of {manifest.name} version {manifest.version}: {', '.join(wanted)}",
            hint=f"engines here: {', '.join(engine.name for engine in self._engines) or 'none'}",
        )

    def _candidates(self, manifest: Manifest, prefer: str | None) -> Iterator[tuple[Engine, Variant]]:
        if prefer is not None and prefer not in [engine.name for engine in self._engines]:
            known = ", ".join(engine.name for engine in self._engines) or "none"
            raise EngineMissingError(
                f"there is no engine '{prefer}' here", hint=f"engines here: {known}", engine=prefer
            )
        for engine in sorted(self._engines, key=lambda engine: engine.name != prefer):
            here = Platform(platform.system().lower(), platform.machine(), (engine.name,))
            for variant in manifest.variants:
                if variant.format in engine.formats and variant.platform.matches(here):
                    yield engine, variant

    def _try(self, engine: Engine, variant: Variant, folder: Path, manifest: Manifest) -> LoadedModel:
        session = engine.load(folder / variant.file, format=variant.format, options=self._options)
        try:
            _check_border(session, manifest)
            latency = _warm(session, manifest, folder)
        except BaseException:
            session.close()
            raise
        return LoadedModel(manifest, session, variant.name, latency)


def _check_border(session: Session, manifest: Manifest) -> None:
    """The file takes and gives what the manifest says; requests are checked against the manifest only."""
    for what, said, found in (
        ("input", manifest.inputs, {spec.name: spec for spec in session.inputs}),
        ("output", manifest.outputs, {spec.name: spec for spec in session.outputs}),
    ):
        if what == "input" and len(said) != len(found):
            raise ModelLoadError(f"the model has inputs {', '.join(found)}; its manifest says otherwise")
        for spec in said:
            if spec.name not in found:
                raise ModelLoadError(f"the model has no {what} '{spec.name}', which its manifest names")
            if not _fits(spec, found[spec.name]):
                raise ModelLoadError(f"{what} '{spec.name}': the manifest says {spec}, the model {found[spec.name]}")


def _fits(said: TensorSpec, found: TensorSpec) -> bool:
    if said.datatype is not found.datatype or len(said.shape) != len(found.shape):
        return False
    return all(a == b or -1 in (a, b) for a, b in zip(said.shape, found.shape, strict=True))


def _warm(session: Session, manifest: Manifest, folder: Path) -> LatencyEstimate:
    """Run it on golden vectors, which it must answer right; else on zeros; else, with sizes unknown, not at all."""
    if manifest.golden is not None:
        return _self_test(session, manifest.golden, folder)
    feeds = _zeros(manifest.inputs)
    if feeds is None:
        return LatencyEstimate()
    try:
        return _timed(session, feeds)
    except EngineRunError as exc:
        raise ModelLoadError(f"it loads but does not run: {exc.message}") from exc


def _self_test(session: Session, golden: Golden, folder: Path) -> LatencyEstimate:
    try:
        pairs = unpack_golden((folder / golden.file).read_bytes())
    except OSError as exc:
        raise PackageError(f"the golden file {golden.file} cannot be read: {exc}") from exc
    for number, (asked, expected) in enumerate(pairs):
        feeds = {tensor.name: tensor.data for tensor in asked.inputs}
        try:
            answers = session.run(feeds, asked.outputs or None)
        except EngineRunError as exc:
            raise GoldenMismatchError(f"golden vector {number} does not run: {exc.message}", vector=number) from exc
        _compare(number, answers, expected, golden)
    return _timed(session, {tensor.name: tensor.data for tensor in pairs[0][0].inputs})


def _timed(session: Session, feeds: Feeds) -> LatencyEstimate:
    latency = LatencyEstimate()
    for run in range(_WARM_RUNS):
        begun = time.perf_counter()
        session.run(feeds)
        if run:
            latency.add(time.perf_counter() - begun)
    return latency


def _compare(number: int, answers: Arrays, expected: InferResponse, golden: Golden) -> None:
    for tensor in expected.outputs:
        found = answers.get(tensor.name)
        if found is None or found.shape != tensor.data.shape:
            got = "nothing" if found is None else f"shape {found.shape}"
            message = (
                f"golden vector {number}: '{tensor.name}' shall have shape {tensor.data.shape}, the engine gave {got}"
            )
            raise GoldenMismatchError(message, vector=number, output=tensor.name)
        if not _is_close(tensor.datatype, found, tensor.data, golden):
            message = (
                f"golden vector {number}: '{tensor.name}' differs by more than rtol {golden.rtol}, atol {golden.atol}"
            )
            raise GoldenMismatchError(message, vector=number, output=tensor.name)


def _is_close(datatype: Datatype, found: Array, expected: Array, golden: Golden) -> bool:
    if datatype is Datatype.BYTES:
        return bool(np.array_equal(found, expected))
    if datatype is Datatype.BF16:  # bit patterns: the upper half of a float32
        found, expected = (_widened(array) for array in (found, expected))
    # In float64 (bool cannot be subtracted, unsigned differences wrap): integers above 2^53 compare to their neighbour.
    return bool(
        np.allclose(
            found.astype(np.float64), expected.astype(np.float64), rtol=golden.rtol, atol=golden.atol, equal_nan=True
        )
    )


def _widened(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _zeros(inputs: Sequence[TensorSpec]) -> Arrays | None:
    """Inputs of zeros with a batch of one; None when another dimension is free, whose size only the publisher knows."""
    feeds: Arrays = {}
    for spec in inputs:
        if any(size < 0 for size in spec.shape[1:]):
            return None
        shape = tuple(1 if size < 0 else size for size in spec.shape)
        empty = np.zeros(shape, spec.datatype.dtype)
        feeds[spec.name] = np.full(shape, b"", object) if spec.datatype is Datatype.BYTES else empty
    return feeds
