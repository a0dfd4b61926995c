"""The normal form of a model computes the same and has what later steps need."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from aimass.errors import ModelInvalidError
from aimass_cloud.build.normalise import normalise
from aimass_cloud.build.walk import opset_of
from tests.fakes.build_models import answers, branching, convolutions, digits_model, images, write
from tests.fakes.cloud_models import affine, external, model, value


def same(source: Path, target: Path, feeds: dict[str, np.ndarray]) -> None:
    before, after = answers(source, feeds), answers(target, feeds)
    assert list(before) == list(after)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=1e-5, atol=1e-6)


def test_shapes_are_written_down(tmp_path: Path) -> None:
    source = write(tmp_path, convolutions())
    written = normalise(source, tmp_path / "fp32.onnx")
    found = {item.name for item in onnx.load(written.path).graph.value_info}
    assert {"c1", "b1", "r1", "c2", "p", "f"} <= found
    assert written.notes == ()
    assert written.size_bytes == written.path.stat().st_size
    same(source, written.path, {"x": images(3)})


def test_weights_are_not_inputs_any_more(tmp_path: Path) -> None:
    proto = affine()
    proto.graph.input.append(value("w", [4, 3]))
    proto.ir_version = 3
    source = write(tmp_path, proto)
    written = normalise(source, tmp_path / "fp32.onnx")
    after = onnx.load(written.path)
    assert [item.name for item in after.graph.input] == ["x"]
    assert after.ir_version >= 4
    assert "1 weights" in written.notes[0]
    same(source, written.path, {"x": np.ones((2, 4), np.float32)})


def test_local_functions_are_inlined_also_within_each_other(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    twice = helper.make_function("mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], opsets)
    inner = [
        helper.make_node("Twice", ["a"], ["t"], domain="mine"),
        helper.make_node("Twice", ["t"], ["b"], domain="mine"),
    ]
    four = helper.make_function("mine", "FourTimes", ["a"], ["b"], inner, opsets)
    nodes = [helper.make_node("FourTimes", ["x"], ["y"], domain="mine")]
    proto = model(
        nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], opsets={"": 17, "mine": 1}, functions=[twice, four]
    )
    source = write(tmp_path, proto)
    written = normalise(source, tmp_path / "fp32.onnx")
    after = onnx.load(written.path)
    assert not after.functions
    assert {node.op_type for node in after.graph.node} == {"Add"}
    same(source, written.path, {"x": np.ones((2, 4), np.float32)})


def test_old_operators_are_raised_to_the_opset_with_scales_for_each_channel(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    proto = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], opsets={"": 9})
    source = write(tmp_path, proto)
    written = normalise(source, tmp_path / "fp32.onnx")
    assert opset_of(onnx.load(written.path)) == 13
    assert "opset 9 to 13" in written.notes[0]
    same(source, written.path, {"x": np.arange(8, dtype=np.float32).reshape(2, 4)})


def test_what_cannot_be_raised_stays_and_is_told(tmp_path: Path) -> None:
    nodes = [helper.make_node("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 2.0, 2.0], mode="nearest")]
    proto = model(nodes, [value("x", [1, 1, 2, 2])], [value("y", [1, 1, 4, 4])], opsets={"": 7})
    source = write(tmp_path, proto)
    written = normalise(source, tmp_path / "fp32.onnx")
    same(source, written.path, {"x": np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)})
    assert len(written.notes) == 1


def test_sub_graphs_that_look_outside_keep_working(tmp_path: Path) -> None:
    source = write(tmp_path, branching())
    written = normalise(source, tmp_path / "fp32.onnx")
    for x in (np.ones((1, 4), np.float32), -np.ones((1, 4), np.float32)):
        same(source, written.path, {"x": x})


def test_weights_in_a_second_file_come_into_the_one(tmp_path: Path) -> None:
    source = external(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    written = normalise(source, out / "fp32.onnx")
    assert [path.name for path in out.iterdir()] == ["fp32.onnx"]
    same(source, written.path, {"x": np.ones((2, 4), np.float32)})


def test_large_models_keep_their_weights_in_a_second_file(tmp_path: Path) -> None:
    source = write(tmp_path, digits_model())
    for _ in range(2):  # written again, the second file does not grow
        written = normalise(source, tmp_path / "fp32.onnx", max_message_bytes=4000)
    assert written.files == ("fp32.data",)
    assert written.path.stat().st_size < 4000
    assert written.size_bytes < 2 * source.stat().st_size
    same(source, written.path, {"pixels": np.ones((2, 64), np.float32)})


def test_normal_form_of_the_normal_form_changes_nothing(tmp_path: Path) -> None:
    first = normalise(write(tmp_path, convolutions()), tmp_path / "first.onnx")
    second = normalise(first.path, tmp_path / "second.onnx")
    assert second.notes == ()
    assert onnx.load(second.path) == onnx.load(first.path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalidError) as caught:
        normalise(write(tmp_path, b"no model"), tmp_path / "fp32.onnx")
    assert caught.value.reason == "broken"
