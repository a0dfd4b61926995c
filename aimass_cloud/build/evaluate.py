"""How good is a build, on the user's own data? Measured in the engine, compared with the fp32 model, and decided.

Two measures, by what was sent:

* with labels, **top-1**: the share of samples whose largest output value (or whose answer, where the model gives a
  class itself) is the label. The loss is in percentage points against fp32.
* without, **max-abs-error**: the largest difference from fp32's answers on any sample and output, as a share of the
  largest answer. It says less: a model may differ a lot where it does not matter.

A build is kept when its loss is within the stated bound. Of several static int8 builds, which run equally fast, only
the one that loses least is kept.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aimass.engine import open_engine
from aimass.engine.base import Arrays, Cancel, EngineOptions, Session
from aimass.errors import AimassError, CancelledError, DeadlineError, FrameError, InputError, ModelInvalidError
from aimass.wire.tensor import Array
from aimass_cloud.build.evaluation_set import EvaluationSet, Measure

WARM_RUNS, TIMED_RUNS = 3, 50
TIMED_S = 2.0
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a build may lose: percentage points of top-1, or share of the largest answer."""

    points: float = 1.0
    error_share: float = 0.05

    def of(self, measure: Measure) -> float:
        """The bound that counts for a measure."""
        return self.points if measure is Measure.TOP1 else self.error_share


@dataclass(frozen=True, slots=True)
class Build:
    """One build to be judged. ``family``: of those with the same one only the best is kept; empty: judged alone."""

    name: str
    precision: str
    path: Path
    size_bytes: int
    format: str = "onnx"
    family: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How one build did.

    Attributes:
        name: of the variant.
        precision: as in a manifest.
        family: see `Build`.
        size_bytes: of its files.
        value: top-1 as a share from 0 to 1, or the largest error.
        loss: against fp32, in the unit of `Bounds`; below 0 where it is better.
        latency_us: median of single samples on the machine that built it; devices measure for themselves.
        is_kept: whether it goes into the package.
        reason: why not.
    """

    name: str
    precision: str
    size_bytes: int
    value: float
    loss: float
    latency_us: float
    family: str = ""
    is_kept: bool = True
    reason: str = ""

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Evaluation:
        """An evaluation from plain values.

        Raises:
            FrameError: something else.
        """
        try:
            return cls(
                name=str(raw["name"]),
                precision=str(raw["precision"]),
                size_bytes=int(raw["size_bytes"]),
                value=float(raw["value"]),
                loss=float(raw["loss"]),
                latency_us=float(raw["latency_us"]),
                family=str(raw["family"]),
                is_kept=bool(raw["is_kept"]),
                reason=str(raw["reason"]),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise FrameError(f"an evaluation cannot be read: {exc!r}") from exc


@dataclass(frozen=True, slots=True)
class Effort:
    """What one evaluation may take: time for all builds together, and threads of one run."""

    limit_s: float = 600.0
    threads: int = 1
    engine: str = "onnxruntime"


def evaluate(
    builds: Sequence[Build], data: EvaluationSet, bounds: Bounds, effort: Effort | None = None
) -> list[Evaluation]:
    """Judge builds; the first one is the reference, and always kept.

    A build that does not load or run is not kept, for that reason.

    Raises:
        DeadlineError: it takes longer than allowed.
        InputError: the labels do not fit what the model answers.
        ModelInvalidError: reason ``engine``: the reference itself does not run.
    """
    effort = effort or Effort()
    with ExitStack() as open_until_end:
        cancel = open_until_end.enter_context(_time_limit(effort.limit_s))
        reference = None
        results: list[Evaluation] = []
        for build in builds:
            try:
                if reference is None and data.measure is Measure.MAX_ABS_ERROR:
                    reference = open_until_end.enter_context(_loaded(builds[0], effort))
                with _loaded(build, effort) as session:
                    value = _value(session, reference, data, cancel)
                    latency_us = _latency_us(session, data.samples.feeds(0), cancel)
            except CancelledError as exc:
                raise DeadlineError(
                    f"evaluating took more than {effort.limit_s:g} s", hint="send fewer samples"
                ) from exc
            except InputError:
                raise
            except AimassError as exc:
                if not results:
                    message = f"the model does not run on the evaluation data: {exc.message}"
                    raise ModelInvalidError(message, reason="engine") from exc
                results.append(_failed(build, exc))
                continue
            results.append(_result(build, data.measure, value, latency_us, results[0] if results else None))
    return choose(results, bounds.of(data.measure))


def choose(evaluations: Sequence[Evaluation], bound: float) -> list[Evaluation]:
    """Decide which are kept; the first always is.

    Args:
        evaluations: the reference first.
        bound: the loss allowed.
    """
    reference, *others = evaluations
    judged = [
        replace(one, is_kept=False, reason=f"it loses {one.loss:.3g}; {bound:g} is allowed")
        if one.is_kept and not one.loss <= bound + _ROUNDING  # NaN is no loss that could be allowed
        else one
        for one in others
    ]
    best: dict[str, Evaluation] = {}
    for one in judged:
        if one.is_kept and one.family and (one.family not in best or one.loss < best[one.family].loss):
            best[one.family] = one
    final = [
        replace(one, is_kept=False, reason=f"{best[one.family].name} is as fast and loses no more")
        if one.is_kept and one.family and one is not best[one.family]
        else one
        for one in judged
    ]
    return [replace(reference, is_kept=True, reason=""), *final]


def _value(session: Session, reference: Session | None, data: EvaluationSet, cancel: Cancel) -> float:
    if data.labels is not None:
        return _top1(session, data, data.labels, cancel)
    assert reference is not None
    return _max_abs_error(session, reference, data, cancel)


def _top1(session: Session, data: EvaluationSet, labels: Array, cancel: Cancel) -> float:
    right = 0
    per_sample = len(labels) // data.samples.count
    for number, feeds in enumerate(data.samples):
        answer = session.run(feeds, [data.output], cancel)[data.output]
        found = _classes(answer, per_sample, data.output)
        right += int((found == labels[number * per_sample : (number + 1) * per_sample]).sum())
    return right / len(labels)


def _classes(answer: Array, count: int, name: str) -> Array:
    """The classes that an answer names: the largest value of each row, or the answer itself where it is one.

    Raises:
        InputError: it is no row of classes for each label.
    """
    is_score = answer.dtype.kind == "f"
    if answer.ndim == 0 or (count == 1 and answer.ndim == 1):  # one answer without an axis for samples
        answer = answer.reshape(1, -1)
    wide = [size for size in answer.shape[1:] if size != 1]
    if len(answer) != count or len(wide) != is_score:
        told = f"output '{name}' has shape {answer.shape} for {count} labels"
        raise InputError(f"evaluation data: {told}", hint="name the output with one row of classes for each label")
    rows = answer.reshape(count, -1)
    if not is_score:
        return rows[:, 0]
    # argmax would take the first NaN for the largest value.
    return np.where(np.isnan(rows).any(axis=1), -1, np.argmax(rows, axis=1))


def _max_abs_error(session: Session, reference: Session, data: EvaluationSet, cancel: Cancel) -> float:
    """As a share of the largest answer: engines and builds are compared over models whose outputs differ in size."""
    error, largest = 0.0, 0.0
    for feeds in data.samples:
        wanted, found = reference.run(feeds, None, cancel), session.run(feeds, None, cancel)
        for name, array in wanted.items():
            if array.dtype.kind not in "fiub":
                continue
            if found[name].shape != array.shape:  # as many boxes as were found, for example
                return float("inf")
            want64, got64 = array.astype(np.float64), found[name].astype(np.float64)
            off = np.where(np.isnan(want64) & np.isnan(got64), 0.0, np.abs(got64 - want64))
            if np.isnan(off).any():
                return float("inf")
            error = max(error, float(off.max(initial=0.0)))
            largest = max(largest, float(np.nan_to_num(np.abs(want64)).max(initial=0.0)))
    return error / largest if largest else error


def _latency_us(session: Session, feeds: Arrays, cancel: Cancel) -> float:
    for _ in range(WARM_RUNS):
        session.run(feeds, None, cancel)
    times_us: list[float] = []
    until = time.perf_counter() + TIMED_S
    while len(times_us) < TIMED_RUNS and (not times_us or time.perf_counter() < until):
        begun = time.perf_counter()
        session.run(feeds, None, cancel)
        times_us.append((time.perf_counter() - begun) * 1e6)
    return statistics.median(times_us)


def _result(
    build: Build, measure: Measure, value: float, latency_us: float, reference: Evaluation | None
) -> Evaluation:
    worse = value if measure is Measure.MAX_ABS_ERROR or reference is None else (reference.value - value) * 100
    return Evaluation(
        name=build.name,
        precision=build.precision,
        size_bytes=build.size_bytes,
        value=value,
        loss=0.0 if reference is None else worse,
        latency_us=latency_us,
        family=build.family,
    )


def _failed(build: Build, error: AimassError) -> Evaluation:
    return Evaluation(
        name=build.name,
        precision=build.precision,
        size_bytes=build.size_bytes,
        value=0.0,
        loss=0.0,
        latency_us=0.0,
        family=build.family,
        is_kept=False,
        reason=f"it does not run: {error.message}",
    )


@contextmanager
def _loaded(build: Build, effort: Effort) -> Iterator[Session]:
    options = EngineOptions(intra_threads=effort.threads)
    with closing(open_engine(effort.engine).load(build.path, format=build.format, options=options)) as session:
        yield session


@contextmanager
def _time_limit(limit_s: float) -> Iterator[Cancel]:
    """A wish to stop that comes true when the time is over, also in the middle of a run."""
    cancel = Cancel()
    timer = threading.Timer(limit_s, cancel.set)
    timer.daemon = True
    timer.start()
    try:
        yield cancel
    finally:
        timer.cancel()
