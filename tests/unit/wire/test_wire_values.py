"""Elements in JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from aimass.errors import TensorError
from aimass.wire.tensor import Datatype, Tensor, bytes_array
from aimass.wire.values import tensor_from_values, tensor_to_values

WHOLE = [d for d in Datatype if d.dtype.kind in "iu" and d is not Datatype.BF16]


@pytest.mark.parametrize("datatype", WHOLE)
def test_whole_numbers_are_exact_to_both_ends(datatype: Datatype) -> None:
    # WIRE-4.4
    info = np.iinfo(datatype.dtype)
    values = [int(info.min), int(info.max), min(int(info.max), 2**53 + 1)]
    tensor = tensor_from_values("x", datatype, (3,), json.loads(json.dumps(values)))
    assert tensor.data.tolist() == values
    assert tensor_to_values(tensor) == values
    for outside in (int(info.min) - 1, int(info.max) + 1):
        with pytest.raises(TensorError, match="outside"):
            tensor_from_values("x", datatype, (1,), [outside])


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]], [[[1], [2]], [[3], [4]]]])
def test_data_may_be_flat_or_nested(data: list[Any]) -> None:
    # WIRE-4.2
    assert tensor_from_values("x", Datatype.UINT8, (2, 2), data).data.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("data", [[], [[], []], [[[]]]])
def test_data_may_be_empty(data: list[Any]) -> None:
    assert tensor_from_values("x", Datatype.FP32, (2, 0), data).shape == (2, 0)


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        (Datatype.INT32, 1.0),
        (Datatype.INT32, True),
        (Datatype.INT32, "1"),
        (Datatype.INT32, None),
        (Datatype.BOOL, 1),
        (Datatype.BOOL, "true"),
        (Datatype.FP32, True),
        (Datatype.FP64, "1"),
        (Datatype.FP64, 10**400),
        (Datatype.FP32, 10**400),
        (Datatype.FP32, 1e39),
        (Datatype.FP32, -1e39),
        (Datatype.BYTES, 1),
        (Datatype.BYTES, "\ud800"),
        (Datatype.BYTES, {}),
        (Datatype.FP16, 1),
        (Datatype.BF16, 1),
    ],
)
def test_nothing_is_converted_in_silence(datatype: Datatype, value: Any) -> None:
    # WIRE-4.3, WIRE-4.6
    with pytest.raises(TensorError):
        tensor_from_values("x", datatype, (1,), [value])


@pytest.mark.parametrize("data", [1, "12", {"a": 1}, [1], [1, 2, 3], [[1], 2], [1, [2]], [[1], [2, 3]]])
def test_refuses_data_that_does_not_fill_the_shape(data: Any) -> None:
    # WIRE-4.2
    with pytest.raises(TensorError):
        tensor_from_values("x", Datatype.UINT8, (2,), data)


@pytest.mark.parametrize("datatype", [Datatype.FP16, Datatype.BF16])
def test_half_floats_are_not_written_as_json(datatype: Datatype) -> None:
    # WIRE-4.1
    with pytest.raises(TensorError) as caught:
        tensor_to_values(Tensor("x", datatype, np.zeros(1, datatype.dtype)))
    assert "binary" in caught.value.hint


def test_fp32_reads_back_equal() -> None:
    # WIRE-4.6
    array = np.frombuffer(np.random.default_rng(5).bytes(4000), np.float32)
    array = array[np.isfinite(array)]
    text = json.dumps(tensor_to_values(Tensor("x", Datatype.FP32, array)))
    assert tensor_from_values("x", Datatype.FP32, array.shape, json.loads(text)).data.tobytes() == array.tobytes()


@pytest.mark.parametrize("datatype", [Datatype.FP32, Datatype.FP64])
def test_nan_and_infinity_are_values(datatype: Datatype) -> None:
    tensor = tensor_from_values("x", datatype, (3,), json.loads("[NaN, Infinity, -Infinity]"))
    values = tensor_to_values(tensor)
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf]
    assert json.dumps(values) == "[NaN, Infinity, -Infinity]"


def test_whole_numbers_are_taken_for_floats() -> None:
    assert tensor_from_values("x", Datatype.FP32, (2,), [1, 2.5]).data.tolist() == [1.0, 2.5]


def test_texts_are_utf_8_both_ways() -> None:
    # WIRE-4.5
    tensor = tensor_from_values("x", Datatype.BYTES, (2,), ["", "é\0"])
    assert tensor.data.tolist() == [b"", "é\0".encode()]
    assert tensor_to_values(tensor) == ["", "é\0"]


def test_bytes_that_are_no_text_are_not_written_as_json() -> None:
    # WIRE-4.5
    with pytest.raises(TensorError, match="not UTF-8"):
        tensor_to_values(Tensor("x", Datatype.BYTES, bytes_array([b"\xff"], (1,))))
