"""Smaller and faster builds of a normalised model: fp16, int8 with calibration, int8 without.

The only module that imports ``onnxruntime.quantization`` (and its half-precision converter).

Static int8 ("QDQ": a QuantizeLinear and a DequantizeLinear around each operator) needs to know the range of every
tensor. ONNX Runtime's calibrators find it on calibration data, in one of three ways: the least and largest value seen;
the range that loses least information (entropy); a range that leaves the outermost values out (percentile). Which is
best differs by model, so all are built and the evaluation chooses.

Calibrators keep what they are fed until they are asked for ranges, all tensors of all samples at once. They are fed one
sample at a time here; and since their histograms grow without bound when a later sample reaches further than the first
one, they are shown each tensor's least and largest value before.

What is built here is only a proposal: ``evaluate.py`` decides what is kept.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from aimass.engine.base import Arrays
from aimass.errors import ModelInvalidError
from aimass_cloud.build.normalise import CHANNEL_OPSET, Written, save_model
from aimass_cloud.build.samples import Samples
from aimass_cloud.build.walk import all_nodes, all_tensors, opset_of

log = logging.getLogger(__name__)

PERCENTILE, PERCENTILE_BINS = 99.99, 2048
ENTROPY_BINS, QUANTIZED_BINS = 512, 128
"""The time for entropy grows with the square of its bins: 80 ms for each tensor with 512, 400 ms with 2048."""

MAX_CALIBRATION_SAMPLES = 500
"""More change ranges no more; ONNX Runtime's and NNCF's own examples take 100 to 300."""

DYNAMIC_OPERATORS = ("MatMul", "Gemm", "Gather", "LSTM", "Attention")
"""Not Conv: its dynamic form is slower than fp32, and has no kernel for signed weights."""

HEAVY_OPERATORS = ("Conv", "ConvTranspose", "MatMul", "Gemm")


class Method(StrEnum):
    """How a build comes about."""

    FP16 = "fp16"
    MINMAX = "minmax"
    ENTROPY = "entropy"
    PERCENTILE = "percentile"
    DYNAMIC = "dynamic"

    @property
    def is_calibrated(self) -> bool:
        """Whether it needs calibration data."""
        return self in {Method.MINMAX, Method.ENTROPY, Method.PERCENTILE}


@dataclass(frozen=True, slots=True)
class Recipe:
    """One build.

    Attributes:
        name: of the variant.
        method: how.
        per_channel: a scale for each output channel of a weight instead of one for all.
        only: operators that are quantized; all that can be when empty.
        reduce_range: 7-bit weights, for x86 processors without VNNI, whose int8 products saturate.
    """

    name: str
    method: Method
    per_channel: bool = True
    only: tuple[str, ...] = ()
    reduce_range: bool = False

    @property
    def precision(self) -> str:
        """As in a manifest."""
        return "fp16" if self.method is Method.FP16 else "int8"

    @property
    def family(self) -> str:
        """Equal for recipes whose builds run equally fast, so that one of them is enough; empty where there is none."""
        return "int8-static" if self.method.is_calibrated and not self.only else ""


FP16 = Recipe("fp16", Method.FP16)
STATIC = (
    Recipe("int8-minmax", Method.MINMAX),
    Recipe("int8-entropy", Method.ENTROPY),
    Recipe("int8-percentile", Method.PERCENTILE),
)
HEAVY = Recipe("int8-heavy", Method.MINMAX, only=HEAVY_OPERATORS)
"""Where all of `STATIC` lose too much: it saves nearly as much time and rounds in fewer places."""
DYNAMIC = Recipe("int8-dynamic", Method.DYNAMIC)


def recipes_for(has_calibration: bool) -> tuple[Recipe, ...]:
    """What is tried for a model."""
    return (FP16, *STATIC) if has_calibration else (FP16, DYNAMIC)


def prepare(source: Path, target: Path) -> Written:
    """What every int8 build begins with: shapes inferred, constants and batch normalisation folded into the weights.

    Raises:
        ModelInvalidError: reason ``quantize``.
    """
    from onnxruntime.quantization import quant_pre_process

    has_sympy = importlib.util.find_spec("sympy") is not None
    with _named_errors("prepared"), tempfile.TemporaryDirectory(dir=target.parent) as folder:
        plain = Path(folder) / "prepared.onnx"
        try:
            quant_pre_process(str(source), str(plain), skip_symbolic_shape=not has_sympy, auto_merge=True)
        except Exception as exc:
            if not has_sympy:
                raise
            log.info("%s: symbolic shape inference gave up (%s); the plain one has to do", source.name, exc)
            quant_pre_process(str(source), str(plain), skip_symbolic_shape=True)
        return Written(target, save_model(onnx.load_model(str(plain)), target))


def build(recipe: Recipe, source: Path, target: Path, calibration: Samples | None = None) -> Written:
    """Write one build.

    Args:
        recipe: which.
        source: normalised; for int8 also prepared.
        target: where to.
        calibration: for the methods that need it.

    Raises:
        ModelInvalidError: reason ``quantize``: the converter cannot do it; ``nothing_to_quantize``: no operator of this
            model has such a form.
        ValueError: a calibrated method without calibration data.
    """
    with _named_errors(recipe.name):
        if recipe.method is Method.FP16:
            written = _to_fp16(source, target)
        elif recipe.method is Method.DYNAMIC:
            written = _to_dynamic(recipe, source, target)
        elif calibration is None:
            raise ValueError(f"{recipe.name} needs calibration data")
        else:
            written = _to_static(recipe, source, target, calibration)
    _check_changed(recipe, written)
    return written


def _to_fp16(source: Path, target: Path) -> Written:
    """Weights and computation in half precision; inputs and outputs stay as they are, so callers see no difference."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load_model(str(source))
    halved = convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True)
    return Written(target, save_model(halved, target))


def _to_dynamic(recipe: Recipe, source: Path, target: Path) -> Written:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        plain = Path(folder) / "dynamic.onnx"
        quantize_dynamic(
            str(source),
            str(plain),
            op_types_to_quantize=list(recipe.only or DYNAMIC_OPERATORS),
            per_channel=recipe.per_channel,
            reduce_range=recipe.reduce_range,
            weight_type=QuantType.QInt8,
        )
        return Written(target, save_model(onnx.load_model(str(plain)), target))


def _to_static(recipe: Recipe, source: Path, target: Path, calibration: Samples) -> Written:
    from onnxruntime.quantization import QDQQuantizer, QuantType

    model = onnx.load_model(str(source))
    operators = list(recipe.only) or _quantizable_operators()
    per_channel = recipe.per_channel and opset_of(model) >= CHANNEL_OPSET
    samples = calibration.spread(MAX_CALIBRATION_SAMPLES)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        ranges = _calibrate(recipe.method, source, operators, samples, Path(folder))
    quantizer = QDQQuantizer(
        model,
        per_channel,
        recipe.reduce_range,
        QuantType.QInt8,
        QuantType.QUInt8,  # both engines have their fastest kernels for unsigned activations with signed weights
        ranges,
        [],
        [],
        operators,
        {"WeightSymmetric": True, "ActivationSymmetric": False},
    )
    quantizer.quantize_model()
    notes = [f"calibrated on {samples.count} of {calibration.count} samples"]
    if recipe.per_channel and not per_channel:
        notes.append(f"opset {opset_of(model)} has no scales for each channel")
    return Written(target, save_model(quantizer.model.model, target), tuple(notes))


def _calibrate(method: Method, source: Path, operators: list[str], samples: Samples, folder: Path) -> Any:
    """The range of every tensor, as ONNX Runtime's quantizer wants it."""
    from onnxruntime.quantization import CalibrationMethod

    least_and_largest = _calibrator(CalibrationMethod.MinMax, source, operators, folder / "minmax.onnx", {})
    for feeds in samples:
        least_and_largest.collect_data(_OneSample(feeds))
    ranges = least_and_largest.compute_data()
    if method is Method.MINMAX:
        return ranges
    options: dict[str, float]
    if method is Method.ENTROPY:
        kind = CalibrationMethod.Entropy
        options = {"num_bins": ENTROPY_BINS, "num_quantized_bins": QUANTIZED_BINS, "symmetric": False}
    else:
        # Of absolute values, its default, it would count only those above the least one of the first sample.
        kind = CalibrationMethod.Percentile
        options = {"num_bins": PERCENTILE_BINS, "percentile": PERCENTILE, "symmetric": False}
    histograms = _calibrator(kind, source, operators, folder / "histograms.onnx", options)
    histograms.collect_data(_OneSample(samples.feeds(0)))  # makes the collector
    histograms.collector.histogram_dict.clear()
    limits = {name: ranges[name].range_value for name in histograms.tensors_to_calibrate}
    histograms.collector.collect({name: np.ravel(np.stack(limit)) for name, limit in limits.items()})
    for feeds in samples:
        histograms.collect_data(_OneSample(feeds))
    return histograms.compute_data()


def _calibrator(kind: Any, source: Path, operators: list[str], augmented: Path, options: dict[str, Any]) -> Any:
    from onnxruntime.quantization import create_calibrator

    return create_calibrator(source, operators, str(augmented), calibrate_method=kind, extra_options=options)


class _OneSample:
    """A calibration data reader with a single sample."""

    def __init__(self, feeds: Arrays) -> None:
        self._feeds: Arrays | None = feeds

    def get_next(self) -> Arrays | None:
        """The sample, then nothing."""
        feeds, self._feeds = self._feeds, None
        return feeds


def _quantizable_operators() -> list[str]:
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QDQRegistry, *QLinearOpsRegistry})


def _check_changed(recipe: Recipe, written: Written) -> None:
    model = onnx.load_model(str(written.path), load_external_data=False)
    if recipe.method is Method.FP16:
        is_changed = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in all_tensors(model))
    else:
        is_changed = any("Quantize" in node.op_type or "Integer" in node.op_type for node in all_nodes(model))
    if not is_changed:
        message = f"{recipe.name}: the model has no operator that this would change"
        raise ModelInvalidError(message, hint="its other builds are not affected", reason="nothing_to_quantize")


@contextlib.contextmanager
def _named_errors(what: str) -> Iterator[None]:
    """Converters raise anything, AssertionError included; and they print, where only answers may be printed."""
    try:
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    except MemoryError:
        raise
    except Exception as exc:
        text = " ".join(str(exc).split())[:300] or type(exc).__name__
        hint = "its other builds are not affected; fp32 always works"
        raise ModelInvalidError(f"{what} cannot be built: {text}", hint=hint, reason="quantize") from exc
