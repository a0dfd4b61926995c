from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest

from aimass.cli import digits


@pytest.fixture(scope="module")
def data() -> digits.Digits:
    return digits.load()


@pytest.fixture(scope="module", params=[digits.SMALL, digits.LARGE], ids=lambda recipe: recipe.name)
def classifier(request: pytest.FixtureRequest, data: digits.Digits) -> digits.Classifier:
    return digits.train(request.param, data)


def test_no_held_out_image_was_seen_in_training(data: digits.Digits) -> None:
    assert len(data.train_images) + len(data.test_images) == 1797
    assert set(data.test_labels) == set(range(10))
    seen = {image.tobytes() for image in data.train_images}
    assert not any(image.tobytes() in seen for image in data.test_images)


def test_reaches_95_percent_on_held_out_images_in_onnx_runtime(
    classifier: digits.Classifier, data: digits.Digits
) -> None:
    session = onnxruntime.InferenceSession(classifier.onnx, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"pixels": data.test_images})
    assert probabilities.shape == (450, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    accuracy = (probabilities.argmax(axis=1) == data.test_labels).mean()
    assert accuracy == pytest.approx(classifier.accuracy)
    assert accuracy >= 0.95


def test_openvino_gives_the_same_answers(classifier: digits.Classifier, data: digits.Digits, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(classifier.onnx)
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    ours = compiled({"pixels": data.test_images})["probabilities"]
    session = onnxruntime.InferenceSession(classifier.onnx, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(ours, session.run(None, {"pixels": data.test_images})[0], rtol=1e-3, atol=1e-5)


def test_uses_standard_operators_and_a_free_batch_only(classifier: digits.Classifier) -> None:
    model = onnx.load_from_string(classifier.onnx)
    assert {node.op_type for node in model.graph.node} == {"Gemm", "Relu", "Softmax"}
    assert {node.domain for node in model.graph.node} == {""}
    assert [(i.domain, i.version) for i in model.opset_import] == [("", 17)]
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param
    assert dims[1].dim_value == 64


def test_training_twice_gives_the_same_bytes(data: digits.Digits) -> None:
    assert digits.train(digits.SMALL, data).onnx == digits.train(digits.SMALL, data).onnx
