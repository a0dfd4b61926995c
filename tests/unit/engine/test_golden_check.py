"""Comparing a session's answers with golden vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from aimass.engine.base import Arrays, Cancel, EngineOptions, Feeds
from aimass.engine.golden_check import check_golden, read_golden
from aimass.errors import EngineRunError, GoldenMismatchError, PackageError
from aimass.package.manifest import Golden
from aimass.wire.messages import InferRequest, InferResponse
from aimass.wire.tensor import Array, Datatype, Tensor, TensorSpec
from tests.fakes.engines import FakeEngine
from tests.fakes.onnx_models import add, package

EXACT = Golden("golden.bin", 0.0, 0.0)


class FixedSession:
    """Answers the same whatever it is asked."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    engine, provider = "fake", "CPU"

    def __init__(self, answers: Arrays) -> None:
        self.answers = answers

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None, cancel: Cancel | None = None) -> Arrays:
        return self.answers

    def close(self) -> None:
        pass


def check(answers: Arrays, expected: Array, golden: Golden = EXACT, datatype: Datatype | None = None) -> None:
    asked = InferRequest("m", (Tensor.from_array("x", np.zeros((1, 2), np.float32)),))
    told = InferResponse("m", "1", (Tensor.from_array("y", expected, datatype),))
    check_golden(FixedSession(answers), [(asked, told)], golden)


def test_equal_answers_pass() -> None:
    check({"y": np.array([1.5, np.nan])}, np.array([1.5, np.nan]))


def test_answers_within_the_tolerance_pass_and_others_say_by_how_much() -> None:
    check({"y": np.array([1.05])}, np.array([1.0]), Golden("g", 0.0, 0.1))
    with pytest.raises(GoldenMismatchError, match=r"differs by up to 0\.25") as caught:
        check({"y": np.array([1.0, 1.25])}, np.array([1.0, 1.0]), Golden("g", 0.0, 0.1))
    assert caught.value.difference == 0.25


@pytest.mark.parametrize("answer", [{}, {"y": np.zeros((2, 1), np.float32)}])
def test_another_shape_or_no_answer_is_a_mismatch(answer: Arrays) -> None:
    with pytest.raises(GoldenMismatchError, match="shall have shape"):
        check(answer, np.zeros((1, 2), np.float32))


def test_unsigned_and_bool_are_compared_as_numbers() -> None:
    check({"y": np.array([250], np.uint8)}, np.array([253], np.uint8), Golden("g", 0.0, 3.0))
    with pytest.raises(GoldenMismatchError):
        check({"y": np.array([0], np.uint8)}, np.array([255], np.uint8), Golden("g", 0.0, 3.0))
    with pytest.raises(GoldenMismatchError):
        check({"y": np.array([True])}, np.array([False]))


def test_brain_floats_are_compared_by_value_not_by_bits() -> None:
    one, next_to_one = np.array([0x3F80], np.uint16), np.array([0x3F81], np.uint16)
    check({"y": next_to_one}, one, Golden("g", 0.0, 0.01), Datatype.BF16)
    with pytest.raises(GoldenMismatchError):
        check({"y": next_to_one}, one, Golden("g", 0.0, 0.001), Datatype.BF16)


def test_texts_must_be_the_same() -> None:
    check({"y": np.array([b"a"], object)}, np.array([b"a"], object))
    with pytest.raises(GoldenMismatchError):
        check({"y": np.array([b"b"], object)}, np.array([b"a"], object))


def test_a_vector_that_does_not_run_is_a_mismatch(tmp_path: Path) -> None:
    def fails(_: object) -> Arrays:
        raise EngineRunError("no kernel")

    x = np.array([[1, 2]], np.float32)
    made = package(tmp_path / "m", add(), golden=[({"x": x}, {"y": x + 1})])
    loaded = FakeEngine(fails).load(made.folder / "model.onnx", format="onnx", options=EngineOptions())
    assert made.manifest.golden is not None
    with pytest.raises(GoldenMismatchError, match="no kernel"):
        check_golden(loaded, read_golden(made.folder / "golden.bin"), made.manifest.golden)


def test_a_golden_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"golden\.bin"):
        read_golden(tmp_path / "golden.bin")
