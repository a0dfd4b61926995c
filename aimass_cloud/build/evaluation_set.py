"""What builds are judged on: samples, and the right answers where they are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from aimass.errors import InputError
from aimass.wire.tensor import Array, Datatype, TensorSpec
from aimass_cloud.build.samples import LABELS, SampleLimits, Samples, check_samples

WHAT = "evaluation data"
LABEL_HINT = "labels are whole numbers, one for each sample, counted from 0 in the order of the output"


class Measure(StrEnum):
    """What is measured."""

    TOP1 = "top1"
    MAX_ABS_ERROR = "max_abs_error"


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """What builds are judged on.

    Attributes:
        samples: inputs.
        labels: right answers; None where there are none.
        output: whose values are compared with the labels.
    """

    samples: Samples
    labels: Array | None
    output: str

    @property
    def measure(self) -> Measure:
        """Which of the two it allows."""
        return Measure.MAX_ABS_ERROR if self.labels is None else Measure.TOP1


def check_evaluation(
    arrays: Mapping[str, Array],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    output: str = "",
    limits: SampleLimits | None = None,
) -> EvaluationSet:
    """The evaluation set in these arrays.

    Args:
        arrays: by input name, and ``labels`` where they are known.
        inputs: the model's.
        outputs: the model's.
        output: what the labels are about; the first output when left out.
        limits: how much is taken.

    Raises:
        InputError: it does not fit the model, or holds NaN.
    """
    inside = dict(arrays)
    labels = None if LABELS in {spec.name for spec in inputs} else inside.pop(LABELS, None)
    samples = check_samples(inside, inputs, WHAT, limits)
    known = {spec.name: spec for spec in outputs}
    name = output or outputs[0].name
    if name not in known:
        raise InputError(f"{WHAT}: the model has no output '{name[:100]}'", hint=f"outputs are: {', '.join(known)}")
    return EvaluationSet(samples, None if labels is None else _check_labels(labels, samples, known[name]), name)


def _check_labels(labels: Array, samples: Samples, spec: TensorSpec) -> Array:
    rows = [rows or 1 for rows in samples.rows.values()]
    expected = samples.count * (rows[0] if len(set(rows)) == 1 else 1)
    if labels.dtype.kind not in "iu" or labels.shape != (expected,):
        told = f"{labels.dtype.name} of shape {labels.shape}; wanted whole numbers of shape ({expected},)"
        raise InputError(f"{WHAT}: the labels are {told}", hint=LABEL_HINT)
    is_score = spec.datatype in {Datatype.FP16, Datatype.FP32, Datatype.FP64}
    if not is_score and spec.datatype in {Datatype.BYTES, Datatype.BF16, Datatype.BOOL}:
        hint = "name another output, or leave the labels out"
        raise InputError(f"{WHAT}: output '{spec.name}' is {spec.datatype}, which has no largest value", hint=hint)
    classes = spec.shape[-1] if is_score and len(spec.shape) > 1 else -1
    if labels.min() < 0 or (classes > 0 and labels.max() >= classes):
        found = f"{labels.min()} to {labels.max()}"
        raise InputError(f"{WHAT}: labels from {found}; the output has {classes} classes", hint=LABEL_HINT)
    return labels.astype(np.int64)
