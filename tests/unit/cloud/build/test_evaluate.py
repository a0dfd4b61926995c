"""Judging builds on the user's data: what is measured, what is kept, and what cannot be judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from aimass.errors import DeadlineError, FrameError, InputError, ModelInvalidError
from aimass.wire.tensor import Array, Datatype, TensorSpec
from aimass_cloud.build.evaluate import Bounds, Build, Effort, Evaluation, choose, evaluate
from aimass_cloud.build.evaluation_set import EvaluationSet, check_evaluation
from aimass_cloud.build.normalise import normalise
from aimass_cloud.build.quantize import DYNAMIC, FP16, STATIC, Method, build, prepare
from tests.fakes.build_models import (
    PIXELS,
    PROBABILITIES,
    digits_calibration,
    digits_data,
    digits_model,
    write,
)
from tests.fakes.cloud_models import model, value
from tests.fakes.onnx_models import looping

X = (TensorSpec("x", Datatype.FP32, (-1, 3)),)
Y = (TensorSpec("y", Datatype.FP32, (-1, 3)),)


def scaled(folder: Path, name: str, factors: tuple[float, float, float], *, bias: float = 0.0) -> Build:
    """x [n, 3] -> y = x * factors + bias."""
    weights = {"f": np.array(factors, np.float32), "b": np.array(bias, np.float32)}
    nodes = [helper.make_node("Mul", ["x", "f"], ["m"]), helper.make_node("Add", ["m", "b"], ["y"])]
    proto = model(nodes, [value("x", ["n", 3])], [value("y", ["n", 3])], weights=weights)
    path = write(folder, proto, f"{name}.onnx")
    return Build(name, "fp32", path, path.stat().st_size)


def labelled(labels: Any = (0, 1, 2, 0)) -> EvaluationSet:
    x = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    return check_evaluation({"x": x, "labels": np.asarray(labels)}, X, Y)


def unlabelled() -> EvaluationSet:
    return check_evaluation({"x": np.array([[1, 2, 3], [4, 5, 10]], np.float32)}, X, Y)


def test_top1_is_the_share_of_right_answers_and_the_loss_is_in_points(tmp_path: Path) -> None:
    good, bad = scaled(tmp_path, "good", (1, 1, 1)), scaled(tmp_path, "bad", (1, 1, -1))
    first, second = evaluate([good, bad], labelled(), Bounds())
    assert (first.value, first.loss, first.is_kept) == (1.0, 0.0, True)
    assert (second.value, second.loss, second.is_kept) == (0.75, 25.0, False)
    assert second.reason == "it loses 25; 1 is allowed"
    assert first.latency_us > 0
    assert first.size_bytes == good.path.stat().st_size


def test_a_build_that_is_better_than_its_reference_has_a_negative_loss(tmp_path: Path) -> None:
    worse, better = scaled(tmp_path, "worse", (1, 1, -1)), scaled(tmp_path, "better", (1, 1, 1))
    assert evaluate([worse, better], labelled(), Bounds())[1].loss == -25.0


def test_without_labels_the_largest_error_is_measured_as_a_share_of_the_largest_answer(tmp_path: Path) -> None:
    builds = [
        scaled(tmp_path, "fp32", (1, 1, 1)),
        scaled(tmp_path, "near", (1, 1, 1.03)),
        scaled(tmp_path, "far", (1, 2, 1)),
    ]
    reference, near, far = evaluate(builds, unlabelled(), Bounds())
    assert reference.loss == 0.0
    assert near.loss == pytest.approx(0.03, rel=1e-3)
    assert far.loss == pytest.approx(0.5, rel=1e-3)
    assert (near.is_kept, far.is_kept) == (True, False)


def test_the_bound_is_the_users(tmp_path: Path) -> None:
    builds = [scaled(tmp_path, "good", (1, 1, 1)), scaled(tmp_path, "bad", (1, 1, -1))]
    assert evaluate(builds, labelled(), Bounds(points=25))[1].is_kept
    assert not evaluate(builds, labelled(), Bounds(points=24))[1].is_kept


@pytest.mark.parametrize("has_labels", [True, False])
def test_a_build_that_answers_nan_is_not_kept(tmp_path: Path, has_labels: bool) -> None:
    data = labelled((0, 0, 0, 0)) if has_labels else unlabelled()  # argmax of NaN would be 0
    builds = [scaled(tmp_path, "fp32", (1, 1, 1)), scaled(tmp_path, "nan", (1, 1, 1), bias=float("nan"))]
    lost = evaluate(builds, data, Bounds())[1]
    assert not lost.is_kept
    assert lost.value == (0.0 if has_labels else float("inf"))


def test_a_build_that_does_not_load_is_not_kept_and_says_why(tmp_path: Path) -> None:
    broken = Build("broken", "int8", write(tmp_path, b"no model", "broken.onnx"), 8)
    found = evaluate([scaled(tmp_path, "fp32", (1, 1, 1)), broken], labelled(), Bounds())[1]
    assert not found.is_kept
    assert "does not run" in found.reason


def test_a_reference_that_does_not_run_is_an_error(tmp_path: Path) -> None:
    broken = Build("fp32", "fp32", write(tmp_path, b"no model", "broken.onnx"), 8)
    for data in (labelled(), unlabelled()):
        with pytest.raises(ModelInvalidError) as caught:
            evaluate([broken], data, Bounds())
        assert caught.value.reason == "engine"


def test_an_evaluation_that_never_ends_is_stopped_in_the_middle_of_a_run(tmp_path: Path) -> None:
    specs = (TensorSpec("times", Datatype.INT64, ()), TensorSpec("x", Datatype.FP32, (-1, 64)))
    arrays: dict[str, Array] = {"times": np.array([10**9]), "x": np.ones((1, 64), np.float32)}
    data = check_evaluation(arrays, specs, (TensorSpec("y", Datatype.FP32, (-1, 64)),))
    endless = Build("fp32", "fp32", write(tmp_path, looping()), 1)
    with pytest.raises(DeadlineError, match=r"0\.5 s"):
        evaluate([endless], data, Bounds(), Effort(limit_s=0.5))


def classes_model(folder: Path, name: str = "classes") -> Build:
    """x [n, 3] -> y INT64 [n]: the class itself, as scikit-learn's classifiers give it."""
    nodes = [helper.make_node("ArgMax", ["x"], ["y"], axis=1, keepdims=0)]
    proto = model(nodes, [value("x", ["n", 3])], [value("y", ["n"], TensorProto.INT64)])
    path = write(folder, proto, f"{name}.onnx")
    return Build(name, "fp32", path, path.stat().st_size)


def test_a_model_that_answers_classes_is_compared_with_the_labels(tmp_path: Path) -> None:
    x = np.eye(3, dtype=np.float32)
    output = (TensorSpec("y", Datatype.INT64, (-1,)),)
    data = check_evaluation({"x": x, "labels": np.array([0, 1, 0])}, X, output)
    assert evaluate([classes_model(tmp_path)], data, Bounds())[0].value == pytest.approx(2 / 3)


def test_samples_of_several_rows_have_a_label_for_each_row(tmp_path: Path) -> None:
    fixed = (TensorSpec("x", Datatype.FP32, (2, 3)),)
    x = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    data = check_evaluation({"x": x, "labels": np.array([0, 1, 2, 1])}, fixed, Y)
    assert data.samples.count == 2
    assert evaluate([scaled(tmp_path, "fp32", (1, 1, 1))], data, Bounds())[0].value == 0.75


def test_labels_for_an_output_that_is_no_row_of_classes_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Unsqueeze", ["x", "axis"], ["u"]), helper.make_node("Concat", ["u", "u"], ["y"], axis=1)]
    proto = model(nodes, [value("x", ["n", 3])], [value("y", ["n", 2, 3])], weights={"axis": np.array([1], np.int64)})
    path = write(tmp_path, proto)
    data = check_evaluation(
        {"x": np.eye(3, dtype=np.float32), "labels": np.array([0, 1, 2])},
        X,
        (TensorSpec("y", Datatype.FP32, (-1, 2, 3)),),
    )
    with pytest.raises(InputError, match="labels"):
        evaluate([Build("fp32", "fp32", path, 1)], data, Bounds())


def one(name: str, loss: float, family: str = "") -> Evaluation:
    return Evaluation(name=name, precision="int8", size_bytes=1, value=1, loss=loss, latency_us=1, family=family)


def kept(*evaluations: Evaluation) -> list[str]:
    return [item.name for item in choose([one("fp32", 0), *evaluations], 1.0) if item.is_kept]


def test_of_a_family_only_the_best_is_kept() -> None:
    assert kept(one("a", 0.5, "static"), one("b", 0.2, "static"), one("c", 0.9)) == ["fp32", "b", "c"]
    assert kept(one("a", 0.2, "static"), one("b", 0.2, "static")) == ["fp32", "a"]
    assert kept(one("a", 3.0, "static"), one("b", 2.0, "static")) == ["fp32"]


def test_a_loss_of_exactly_the_bound_is_allowed_and_none_that_is_no_number() -> None:
    assert kept(one("just", 1.0), one("nan", float("nan")), one("inf", float("inf"))) == ["fp32", "just"]


def test_an_evaluation_from_elsewhere_that_is_broken_is_refused() -> None:
    with pytest.raises(FrameError):
        Evaluation.from_dict({"name": "x"})


def test_the_digits_keep_their_accuracy_in_int8(tmp_path: Path) -> None:
    """The whole way of one version: normal form, builds, judgement."""
    data = digits_data()
    fp32 = normalise(write(tmp_path, digits_model()), tmp_path / "fp32.onnx")
    prepared = prepare(fp32.path, tmp_path / "prepared.onnx")
    builds = [Build("fp32", "fp32", fp32.path, fp32.size_bytes)]
    for recipe in (FP16, *STATIC, DYNAMIC):
        source = fp32.path if recipe.method is Method.FP16 else prepared.path
        written = build(recipe, source, tmp_path / f"{recipe.name}.onnx", digits_calibration())
        builds.append(Build(recipe.name, recipe.precision, written.path, written.size_bytes, family=recipe.family))
    evaluation = {"pixels": data.test_images, "labels": data.test_labels}
    found = evaluate(builds, check_evaluation(evaluation, PIXELS, PROBABILITIES), Bounds())
    assert found[0].value > 0.95
    assert all(item.loss <= 1.0 for item in found)
    by_precision = [item.precision for item in found if item.is_kept]
    assert by_precision == ["fp32", "fp16", "int8", "int8"]
