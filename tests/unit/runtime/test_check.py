from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aimass.errors import InputError
from aimass.runtime.check import InputCheck
from aimass.wire.messages import InferRequest
from aimass.wire.tensor import Datatype, Tensor, TensorSpec

CHECK = InputCheck(
    "m",
    (TensorSpec("image", Datatype.FP32, (-1, 3, 8, -1)), TensorSpec("scale", Datatype.FP32, ())),
    (TensorSpec("scores", Datatype.FP32, (-1, 10)),),
)
IMAGE = np.zeros((2, 3, 8, 5), np.float32)
SCALE = np.array(1, np.float32)


def request(outputs: tuple[str, ...] = (), **arrays: Any) -> InferRequest:
    return InferRequest("m", tuple(Tensor.from_array(name, array) for name, array in arrays.items()), outputs=outputs)


def test_gives_the_arrays_by_name_without_copying() -> None:
    feeds = CHECK.feeds(request(scale=SCALE, image=IMAGE))
    assert feeds["image"] is IMAGE
    assert set(feeds) == {"image", "scale"}


@pytest.mark.parametrize(
    ("image", "wanted", "got"),
    [
        (IMAGE.astype(np.float64), "FP32 [any, 3, 8, any]", "FP64 [2, 3, 8, 5]"),
        (IMAGE[:, :2], "FP32 [any, 3, 8, any]", "FP32 [2, 2, 8, 5]"),
        (IMAGE[0], "FP32 [any, 3, 8, any]", "FP32 [3, 8, 5]"),
        (np.zeros((1, 3, 8, 5), np.uint8), "FP32 [any, 3, 8, any]", "UINT8 [1, 3, 8, 5]"),
    ],
    ids=["datatype", "size", "rank", "bytes"],
)
def test_an_input_that_does_not_fit_is_named_with_what_was_wanted_and_given(image: Any, wanted: str, got: str) -> None:
    with pytest.raises(InputError) as caught:
        CHECK.feeds(request(image=image, scale=SCALE))
    assert (caught.value.input, caught.value.wanted, caught.value.got) == ("image", wanted, got)
    for word in ("image", wanted, got):
        assert word in caught.value.message


def test_a_bfloat16_input_is_not_taken_for_uint16() -> None:
    check = InputCheck("m", (TensorSpec("x", Datatype.BF16, (-1,)),), ())
    with pytest.raises(InputError, match="BF16"):
        check.feeds(InferRequest("m", (Tensor("x", Datatype.UINT16, np.zeros(1, np.uint16)),)))


def test_an_unknown_input_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="picture") as caught:
        CHECK.feeds(request(picture=IMAGE, scale=SCALE))
    assert "image, scale" in caught.value.hint


def test_a_missing_input_is_named() -> None:
    with pytest.raises(InputError, match="scale missing") as caught:
        CHECK.feeds(request(image=IMAGE))
    assert caught.value.input == "scale"


def test_an_input_given_twice_is_refused() -> None:
    tensor = Tensor.from_array("image", IMAGE)
    with pytest.raises(InputError, match="twice"):
        CHECK.feeds(InferRequest("m", (tensor, tensor, Tensor.from_array("scale", SCALE))))


def test_an_unknown_output_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="nowhere") as caught:
        CHECK.feeds(request(("scores", "nowhere"), image=IMAGE, scale=SCALE))
    assert "scores" in caught.value.hint
