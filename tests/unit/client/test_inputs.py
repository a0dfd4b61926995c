"""What callers hand in, as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aimass.client.inputs import to_tensors
from aimass.errors import InputError
from aimass.runtime.models import ModelInfo
from aimass.wire.tensor import Datatype, TensorSpec
from tests.fakes.models import info


def never() -> ModelInfo:
    raise AssertionError("looked up without need")


def test_named_arrays_need_no_look_up() -> None:
    (tensor,) = to_tensors({"x": np.ones((1, 2), np.float32)}, never)
    assert (tensor.name, tensor.datatype) == ("x", Datatype.FP32)


def test_a_bare_array_takes_the_name_of_the_only_input() -> None:
    (tensor,) = to_tensors(np.ones((1, 2), np.float32), info)
    assert tensor.name == "x"


def test_numbers_and_lists_take_the_models_datatype() -> None:
    for value in ([[1, 2]], [[1.5, 2.5]]):
        assert to_tensors(value, info)[0].datatype is Datatype.FP32
        assert to_tensors({"x": value}, info)[0].datatype is Datatype.FP32


def test_arrays_are_never_converted_in_silence() -> None:
    assert to_tensors(np.ones((1, 2)), info)[0].datatype is Datatype.FP64


@pytest.mark.parametrize("datatype", [Datatype.BF16, Datatype.UINT16])
def test_sixteen_bits_are_what_the_model_says(datatype: Datatype) -> None:
    model = info(inputs=(TensorSpec("x", datatype, (-1,)),))
    assert to_tensors({"x": np.ones(3, np.uint16)}, lambda: model)[0].datatype is datatype


def test_texts_become_bytes() -> None:
    model = info(inputs=(TensorSpec("x", Datatype.BYTES, (-1,)),))
    assert to_tensors(["a", "ä"], lambda: model)[0].data.tolist() == [b"a", "ä".encode()]


@pytest.mark.parametrize(
    "inputs",
    [
        pytest.param({"z": [1]}, id="unknown name"),
        pytest.param({"x": [[1], [1, 2]]}, id="ragged"),
        pytest.param({"x": ["text"]}, id="text for numbers"),
        pytest.param({"x": np.array([1 + 2j])}, id="complex"),
    ],
)
def test_what_makes_no_tensor_is_an_input_error(inputs: Any) -> None:
    with pytest.raises(InputError):
        to_tensors(inputs, info)


def test_a_bare_array_for_several_inputs_names_them() -> None:
    model = info(inputs=(TensorSpec("a", Datatype.FP32, (1,)), TensorSpec("b", Datatype.FP32, (1,))))
    with pytest.raises(InputError) as caught:
        to_tensors(np.ones(1, np.float32), lambda: model)
    assert "a, b" in caught.value.hint
