"""Every recipe really builds, on two kinds of models, and both engines understand what it built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from aimass.errors import ModelInvalidError
from aimass.wire.tensor import Array, Datatype, TensorSpec
from aimass_cloud.build.normalise import Written, normalise
from aimass_cloud.build.quantize import (
    DYNAMIC,
    FP16,
    HEAVY,
    STATIC,
    Method,
    Recipe,
    build,
    prepare,
    recipes_for,
)
from aimass_cloud.build.samples import Samples, check_samples
from tests.fakes.build_models import (
    IMAGE,
    answers,
    branching,
    convolutions,
    digits_calibration,
    digits_data,
    digits_model,
    images,
    indices_only,
    write,
)

INPUT = TensorSpec("x", Datatype.FP32, (-1, 4))
EVERY = (FP16, *STATIC, HEAVY, DYNAMIC)


def image_calibration(array: Array | None = None) -> Samples:
    return check_samples({"x": images() if array is None else array}, IMAGE, "calibration data")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Written]:
    """Normalise, prepare and build."""

    def made(recipe: Recipe, proto: object, calibration: Samples | None = None) -> Written:
        plain = normalise(write(tmp_path, proto), tmp_path / "fp32.onnx")
        source = plain if recipe.method is Method.FP16 else prepare(plain.path, tmp_path / "prepared.onnx")
        return build(recipe, source.path, tmp_path / f"{recipe.name}.onnx", calibration)

    return made


def error_share(found: Array, wanted: Array) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_the_digits_stay_right_in_every_build_and_the_file_is_smaller(
    make: Callable[..., Written], tmp_path: Path, recipe: Recipe
) -> None:
    written = make(recipe, digits_model(), digits_calibration())
    data = digits_data()
    found = answers(written.path, {"pixels": data.test_images})["probabilities"]
    assert (found.argmax(axis=1) == data.test_labels).mean() > 0.96
    assert found.dtype == np.float32
    assert written.size_bytes < 0.7 * (tmp_path / "fp32.onnx").stat().st_size


@pytest.mark.parametrize("recipe", [FP16, *STATIC, HEAVY], ids=lambda recipe: recipe.name)
def test_convolutions_are_built_and_both_engines_answer_alike(make: Callable[..., Written], recipe: Recipe) -> None:
    written = make(recipe, convolutions(), image_calibration())
    x = images(4, seed=9)
    wanted = answers(written.path.parent / "source.onnx", {"x": x})["y"]
    onnxruntime, openvino = (answers(written.path, {"x": x}, engine)["y"] for engine in ("onnxruntime", "openvino"))
    assert error_share(onnxruntime, wanted) < 0.15
    assert error_share(openvino, onnxruntime) < 0.05


def test_batch_normalisation_is_folded_before_quantizing(make: Callable[..., Written]) -> None:
    written = make(STATIC[0], convolutions(), image_calibration())
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(written.path).graph.node}


def test_a_scale_for_each_channel_saves_channels_that_differ(make: Callable[..., Written]) -> None:
    x = images(8, seed=9)
    errors = []
    for recipe in (STATIC[0], Recipe("one-scale", Method.MINMAX, per_channel=False)):
        proto = convolutions(channel_spread=0.001)
        # without folding, the weights of the first convolution span three orders of magnitude
        written = make(recipe, proto, image_calibration())
        wanted = answers(written.path.parent / "source.onnx", {"x": x})["y"]
        errors.append(error_share(answers(written.path, {"x": x})["y"], wanted))
    assert errors[0] <= errors[1]


def test_only_the_named_operators_are_quantized(make: Callable[..., Written]) -> None:
    model = onnx.load(make(HEAVY, convolutions(), image_calibration()).path)
    quantized = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    users = {node.op_type for node in model.graph.node if quantized & set(node.input)}
    assert users <= {"Conv", "MatMul", "Gemm", "Relu"}
    assert "GlobalAveragePool" not in users


@pytest.mark.parametrize("recipe", STATIC, ids=lambda recipe: recipe.name)
def test_a_first_sample_that_is_nearly_zero_does_not_fill_the_memory(
    make: Callable[..., Written], recipe: Recipe
) -> None:
    array = images(20)
    array[0] *= 1e-7  # histograms that begin with its range would need 10^9 bins for the others
    written = make(recipe, convolutions(), image_calibration(array))
    x = images(4, seed=9)
    wanted = answers(written.path.parent / "source.onnx", {"x": x})["y"]
    assert error_share(answers(written.path, {"x": x})["y"], wanted) < 0.15


def test_outliers_widen_the_range_of_minmax_only(make: Callable[..., Written]) -> None:
    array = images(160)  # 120,000 pixels from -5 to 5
    array[3, 0, 0, 0] = 1000.0
    steps = {}
    for recipe in STATIC:
        model = onnx.load(make(recipe, convolutions(), image_calibration(array)).path)
        scales = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
        steps[recipe.method] = float(scales["x_scale"])
    assert steps[Method.MINMAX] == pytest.approx(1005 / 255, rel=0.01)
    assert steps[Method.PERCENTILE] < 0.05


def test_a_build_is_the_same_every_time(make: Callable[..., Written]) -> None:
    first = make(STATIC[1], digits_model(), digits_calibration(50)).path.read_bytes()
    assert make(STATIC[1], digits_model(), digits_calibration(50)).path.read_bytes() == first


def test_no_temporary_file_is_left(make: Callable[..., Written], tmp_path: Path) -> None:
    make(STATIC[2], digits_model(), digits_calibration(20))
    make(DYNAMIC, digits_model())
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"source.onnx", "fp32.onnx", "prepared.onnx", "int8-percentile.onnx", "int8-dynamic.onnx"}


def test_the_note_says_how_many_samples_were_used(make: Callable[..., Written]) -> None:
    many = check_samples({"x": np.zeros((600, 3, 16, 16), np.float32)}, IMAGE, "calibration data")
    assert "500 of 600" in make(STATIC[0], convolutions(), many).notes[0]


def test_sub_graphs_survive_half_precision(make: Callable[..., Written]) -> None:
    written = make(FP16, branching())
    for x in (np.ones((1, 4), np.float32), -np.ones((1, 4), np.float32)):
        wanted = answers(written.path.parent / "source.onnx", {"x": x})["y"]
        np.testing.assert_allclose(answers(written.path, {"x": x})["y"], wanted, rtol=0.01, atol=0.01)


def test_sub_graphs_are_left_alone_by_calibration(make: Callable[..., Written]) -> None:
    calibration = check_samples({"x": np.ones((4, 4), np.float32)}, (INPUT,), "calibration data")
    with pytest.raises(ModelInvalidError) as caught:
        make(HEAVY, branching(), calibration)
    assert caught.value.reason in {"nothing_to_quantize", "quantize"}


@pytest.mark.parametrize("recipe", [FP16, DYNAMIC], ids=lambda recipe: recipe.name)
def test_a_model_with_nothing_to_change_is_named(make: Callable[..., Written], recipe: Recipe) -> None:
    with pytest.raises(ModelInvalidError) as caught:
        make(recipe, indices_only())
    assert caught.value.reason == "nothing_to_quantize"


def test_convolutions_have_no_dynamic_build_but_their_matrix_product_does(make: Callable[..., Written]) -> None:
    operators = {node.op_type for node in onnx.load(make(DYNAMIC, convolutions()).path).graph.node}
    assert "MatMulInteger" in operators
    assert "ConvInteger" not in operators


def test_what_the_converter_cannot_do_is_named(tmp_path: Path) -> None:
    broken = write(tmp_path, b"no model")
    for recipe in (FP16, DYNAMIC):
        with pytest.raises(ModelInvalidError) as caught:
            build(recipe, broken, tmp_path / "out.onnx")
        assert caught.value.reason == "quantize"
        assert recipe.name in caught.value.message


def test_recipes_depend_on_calibration_data() -> None:
    assert [recipe.name for recipe in recipes_for(has_calibration=False)] == ["fp16", "int8-dynamic"]
    assert {recipe.method for recipe in recipes_for(has_calibration=True)} >= set(Method) - {Method.DYNAMIC}
    assert {recipe.family for recipe in STATIC} == {"int8-static"}
    assert HEAVY.family == DYNAMIC.family == FP16.family == ""
    assert (FP16.precision, DYNAMIC.precision) == ("fp16", "int8")


def test_a_calibrated_recipe_without_data_is_a_mistake_of_the_caller(make: Callable[..., Written]) -> None:
    with pytest.raises(ModelInvalidError, match="needs calibration data"):
        make(STATIC[0], digits_model())
