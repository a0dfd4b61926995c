"""Trying a model out: does it run, what does it answer on known inputs, and may requests be put together?

Golden vectors are pairs of request and answer made here once, with ONNX Runtime on the CPU. Every engine that loads
the package later must give the same answers within the tolerance, or it is not used. They are made from seeded random
inputs, so they show that two engines compute the same function; they say nothing about accuracy.

The file: for each vector the request's frame, then the answer's, each after its length as little-endian u32.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aimass.engine import open_engine
from aimass.engine.base import Arrays, EngineOptions, Session
from aimass.errors import AimassError, EngineRunError, ModelInvalidError, ModelLoadError
from aimass.wire.frame import pack_request, pack_response
from aimass.wire.messages import InferRequest, InferResponse
from aimass.wire.tensor import Array, Datatype, Tensor, TensorSpec
from aimass_cloud.build.findings import Job, Tolerance

FREE_SIZES = ((1, 8), (1, 32), (1, 224), (1, 1), (8, 1), (8, 8))
"""(first dimension, every other) tried for dimensions that vary: short sequences, small images, time-major."""

TOLERANCES = {"fp32": 1e-3, "fp64": 1e-3, "fp16": 2e-2, "bf16": 5e-2, "int8": 5e-2}
"""Relative to the largest answer. Engines differ by 1e-5 in fp32; a quantized graph may round a step differently."""

BATCH_TOLERANCE = 1e-3
OUT_OF_MEMORY = ("bad_alloc", "bfc_arena", "llocate memory", "out of memory")
"""How ONNX Runtime says that it got no more memory; such a model would be killed, or kill, on a device."""
SEED = 20_240_501


class Trial:
    """One loaded model and the sizes at which it runs.

    Args:
        session: the model, loaded by the reference engine.
        inputs: what it takes.
        max_bytes: the most that one input may hold; a hostile shape must not fill the memory.
    """

    def __init__(self, session: Session, inputs: Sequence[TensorSpec], max_bytes: int) -> None:
        self._session = session
        self._inputs = inputs
        self._max_bytes = max_bytes
        self.first, self.other, self.refusal = 1, 8, ""

    def find_sizes(self) -> bool:
        """Search sizes at which the model runs; False with ``refusal`` set when there are none.

        Raises:
            ModelInvalidError: it needs more memory than an examination has, however small its inputs are.
        """
        failures = []
        for first, other in FREE_SIZES:
            if self._bytes_at(first, other) > self._max_bytes:
                self.refusal = self.refusal or f"its inputs are larger than {self._max_bytes >> 20} MiB"
                continue
            try:
                answers = self._session.run(self._feeds(0, first, other))
            except EngineRunError as exc:
                self.refusal = self.refusal or f"it does not run on random inputs: {exc.message[:200]}"
                failures.append(exc.message)
                continue
            self.first, self.other, self.refusal = first, other, ""
            return self._is_steady(answers)
        if failures and all(any(word in message for word in OUT_OF_MEMORY) for message in failures):
            raise ModelInvalidError("running the model needs too much memory", reason="memory")
        return False

    def feeds(self, number: int) -> Arrays:
        """Seeded inputs: the same number gives the same values on every machine."""
        return self._feeds(number, self.first, self.other)

    def run(self, feeds: Arrays) -> Arrays:
        """The reference answer."""
        return self._session.run(feeds)

    def frames(self, model: str, feeds: Arrays, answers: Arrays) -> tuple[bytes, bytes]:
        """One golden vector as request and answer on the wire."""
        inputs = tuple(Tensor.from_array(spec.name, feeds[spec.name], spec.datatype) for spec in self._inputs)
        outputs = tuple(
            Tensor.from_array(spec.name, answers[spec.name], spec.datatype) for spec in self._session.outputs
        )
        request = InferRequest(model=model, inputs=inputs)
        return pack_request(request), pack_response(InferResponse(model=model, version="", outputs=outputs))

    def _is_steady(self, answers: Arrays) -> bool:
        again = self._session.run(self.feeds(0))
        if not all(_equal(answers[name], again[name], BATCH_TOLERANCE) for name in answers):
            self.refusal = "it answers differently each time (random operators)"
        elif not all(_is_finite(array) for array in answers.values()):
            self.refusal = "its answers on random inputs are not finite"
        return not self.refusal

    def _bytes_at(self, first: int, other: int) -> int:
        return sum(8 * math.prod(_sized(spec.shape, first, other)) for spec in self._inputs)

    def _feeds(self, number: int, first: int, other: int) -> Arrays:
        random = np.random.default_rng(SEED + number)
        return {spec.name: _random_array(spec, _sized(spec.shape, first, other), random) for spec in self._inputs}


def load(job: Job) -> Session:
    """The model in the reference engine.

    Raises:
        ModelInvalidError: it refuses a file that the checker let pass.
    """
    engine = open_engine("onnxruntime")
    try:
        return engine.load(Path(job.folder) / job.main_file, format="onnx", options=EngineOptions(intra_threads=1))
    except ModelLoadError as exc:
        hint = "export it again with an older opset or other operators"
        raise ModelInvalidError(f"the engine cannot load it: {exc.message[:300]}", hint=hint, reason="engine") from exc


def write_vectors(trial: Trial, job: Job, precision: str) -> Tolerance | None:
    """Write the golden file; None with ``trial.refusal`` set when even one vector is above the limit."""
    path, largest, written = Path(job.folder) / job.golden_file, 0.0, 0
    with path.open("wb") as file:
        for number in range(job.limits.golden_vectors):
            feeds = trial.feeds(number)
            answers = trial.run(feeds)
            frames = trial.frames(job.model, feeds, answers)
            vector = b"".join(struct.pack("<I", len(frame)) + frame for frame in frames)
            if file.tell() + len(vector) > job.limits.golden_file_bytes:
                break
            file.write(vector)
            written += 1
            largest = max([largest, *(_largest(array) for array in answers.values())])
    if not written:
        path.unlink()
        trial.refusal = f"one vector alone is above {job.limits.golden_file_bytes >> 20} MiB"
        return None
    share = TOLERANCES.get(precision, TOLERANCES["fp32"])
    return Tolerance(rtol=share, atol=share * max(largest, 1e-3))


def refuse_batching(trial: Trial, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """Why requests for this model must not be put together; "" if a batch of two answers as two singles do."""
    fixed = [spec.name for spec in (*inputs, *outputs) if not spec.shape or spec.shape[0] != -1]
    if fixed:
        return f"the first dimension of {fixed[0]!r} is fixed"
    if trial.refusal:
        return f"it could not be tried: {trial.refusal}"
    if trial.first != 1:
        return "it does not run on a single row"
    first, second = trial.feeds(0), trial.feeds(1)
    try:
        both = trial.run({name: np.concatenate([first[name], second[name]]) for name in first})
    except AimassError as exc:
        return f"it does not run on a batch of two: {exc.message[:200]}"
    for row, single in enumerate((trial.run(first), trial.run(second))):
        for name, array in single.items():
            if both[name].shape[0] != 2 or not _equal(both[name][row : row + 1], array, BATCH_TOLERANCE):
                return f"{name!r} of a batch differs from the answers of its rows"
    return ""


def _sized(shape: Sequence[int], first: int, other: int) -> tuple[int, ...]:
    return tuple(dim if dim >= 0 else (first if axis == 0 else other) for axis, dim in enumerate(shape))


def _random_array(spec: TensorSpec, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """Values that most models take: floats in [0, 1), bytes over their range, other integers 0 or 1 (valid indices)."""
    match spec.datatype:
        case Datatype.BYTES:
            return random.choice(np.array([b"a", b"word", b"7"], dtype=object), shape)
        case Datatype.FP32 | Datatype.FP64 | Datatype.FP16:
            return random.random(shape).astype(spec.datatype.dtype)
        case Datatype.BF16:
            return (random.random(shape).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        case Datatype.UINT8:
            return random.integers(0, 256, shape).astype(np.uint8)
        case _:
            return random.integers(0, 2, shape).astype(spec.datatype.dtype)


def _is_number(array: Array) -> bool:
    return array.dtype.kind in "fiub"


def _is_finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _largest(array: Array) -> float:
    return float(np.abs(array.astype(np.float64)).max(initial=0.0)) if _is_number(array) else 0.0


def _equal(left: Array, right: Array, share: float) -> bool:
    if left.shape != right.shape:
        return False
    if not _is_number(left):
        return bool((left == right).all())
    return bool(np.allclose(left, right, rtol=share, atol=share * max(_largest(right), 1e-3), equal_nan=True))
