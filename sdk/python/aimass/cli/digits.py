"""Two real classifiers on real input: scikit-learn's 1,797 handwritten digits, as standard ONNX files.

The demo and the end-to-end tests need models that are honest (trained here, on images people wrote) and small. Training
both takes about two seconds. Each is exported by hand to Gemm, Relu and Softmax, so that every engine loads it; the
scaling of the pixels (0..16) is folded into the first layer, so a client sends the image as it is.

Needs the ``demo`` extra (scikit-learn, onnx).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aimass.errors import ConfigError

OPSET = 17
IR_VERSION = 8  # the lowest that opset 17 allows: the oldest runtimes still read it
MAX_PIXEL = 16.0
LABELS = tuple(str(digit) for digit in range(10))
HELD_OUT_SHARE = 0.25

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """The data, split once and for all (stratified, fixed seed).

    Shapes: train_images (1347, 64) float32, train_labels (1347,), test_images (450, 64) float32, test_labels (450,).
    Units: pixels 0..16.
    """

    train_images: FloatArray
    train_labels: npt.NDArray[np.int64]
    test_images: FloatArray
    test_labels: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """A trained model, ready to be uploaded.

    Input ``pixels`` FP32 [-1, 64] (0..16), output ``probabilities`` FP32 [-1, 10].
    """

    name: str
    onnx: bytes
    accuracy: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """What makes one classifier; alpha is the L2 penalty. Found by trying: both reach 0.97 on the held-out quarter."""

    name: str
    hidden: tuple[int, ...]
    alpha: float = 0.1


SMALL = Recipe("digits-small", (32,))
LARGE = Recipe("digits-large", (256, 128))


def load() -> Digits:
    """The data from scikit-learn's own files (no network).

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as exc:
        raise ConfigError("scikit-learn is not installed", hint="pip install 'aimass[demo]'") from exc
    data = load_digits()
    images, labels = data.data.astype(np.float32), data.target.astype(np.int64)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=HELD_OUT_SHARE, random_state=0, stratify=labels
    )
    return Digits(train_images=train_x, train_labels=train_y, test_images=test_x, test_labels=test_y)


def train(recipe: Recipe, digits: Digits) -> Classifier:
    """Train on the training part, measure on the held-out part, export.

    Cost: half a second (small) to two seconds (large) on one core.
    """
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier(recipe.hidden, alpha=recipe.alpha, learning_rate_init=2e-3, max_iter=600, random_state=0)
    model.fit(digits.train_images / MAX_PIXEL, digits.train_labels)
    accuracy = float(model.score(digits.test_images / MAX_PIXEL, digits.test_labels))
    weights = [np.asarray(w, dtype=np.float32) for w in model.coefs_]
    weights[0] = weights[0] / np.float32(MAX_PIXEL)
    biases = [np.asarray(b, dtype=np.float32) for b in model.intercepts_]
    return Classifier(name=recipe.name, onnx=export(recipe.name, weights, biases), accuracy=accuracy)


def export(name: str, weights: Sequence[FloatArray], biases: Sequence[FloatArray]) -> bytes:
    """A multilayer perceptron as an ONNX file: Gemm, Relu between layers, Softmax at the end.

    Shapes: weights[i] (features_in, features_out) float32, biases[i] (features_out,) float32.

    Raises:
        ConfigError: the onnx package is not installed.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as exc:
        raise ConfigError("onnx is not installed", hint="pip install 'aimass[demo]'") from exc
    nodes: list[Any] = []
    initializers: list[Any] = []
    current, last = "pixels", len(weights) - 1
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        initializers += [numpy_helper.from_array(weight, f"w{layer}"), numpy_helper.from_array(bias, f"b{layer}")]
        nodes.append(helper.make_node("Gemm", [current, f"w{layer}", f"b{layer}"], [f"sum{layer}"]))
        current = f"out{layer}" if layer < last else "probabilities"
        activation = helper.make_node("Relu", [f"sum{layer}"], [current])
        if layer == last:
            activation = helper.make_node("Softmax", [f"sum{layer}"], [current], axis=-1)
        nodes.append(activation)
    shape_in, shape_out = ["batch", weights[0].shape[0]], ["batch", weights[-1].shape[1]]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape_out)],
        initializers,
    )
    model = helper.make_model(
        graph, producer_name="aimass", ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())
