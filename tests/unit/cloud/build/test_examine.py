"""What an examination finds in good models. Runs in this process: the models are ours."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aimass.errors import ModelInvalidError
from aimass.wire.frame import unpack_reply, unpack_request
from aimass.wire.messages import InferResponse
from aimass.wire.tensor import Datatype, TensorSpec
from aimass_cloud.build.examine import examine_here
from aimass_cloud.build.findings import BuildLimits, Findings, Job
from tests.fakes.cloud_models import affine, external, model, value


def job(folder: Path, files: tuple[str, ...] = (), **limits: Any) -> Job:
    return Job(str(folder), "model.onnx", files, "m", "golden.bin", BuildLimits(**limits))


def examine(folder: Path, proto: Any, **limits: Any) -> Findings:
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    return examine_here(job(folder, **limits))


def golden_pairs(path: Path) -> list[tuple[Any, InferResponse]]:
    data, frames = path.read_bytes(), []
    while data:
        (size,) = struct.unpack("<I", data[:4])
        frames.append(data[4 : 4 + size])
        data = data[4 + size :]
    pairs = []
    for request, reply in zip(frames[::2], frames[1::2], strict=True):
        answer = unpack_reply(reply)
        assert isinstance(answer, InferResponse)
        pairs.append((unpack_request(request), answer))
    return pairs


def test_finds_inputs_and_outputs_with_varying_dimensions(tmp_path: Path) -> None:
    found = examine(tmp_path, affine())
    assert found.inputs == (TensorSpec("x", Datatype.FP32, (-1, 4)),)
    assert found.outputs == (TensorSpec("y", Datatype.FP32, (-1, 3)),)
    assert (found.opset, found.precision) == (17, "fp32")


def test_golden_vectors_are_request_and_answer_of_the_model(tmp_path: Path) -> None:
    found = examine(tmp_path, affine())
    assert found.tolerance is not None
    pairs = golden_pairs(tmp_path / "golden.bin")
    assert len(pairs) == 3
    weights = {item.name: onnx.numpy_helper.to_array(item) for item in affine().graph.initializer}
    for request, answer in pairs:
        x = request.inputs[0].data
        assert (request.model, x.shape) == ("m", (1, 4))
        np.testing.assert_allclose(answer.outputs[0].data, x @ weights["w"] + weights["b"], rtol=1e-5)


def test_golden_vectors_are_the_same_every_time(tmp_path: Path) -> None:
    examine(tmp_path, affine())
    first = (tmp_path / "golden.bin").read_bytes()
    examine(tmp_path, affine())
    assert (tmp_path / "golden.bin").read_bytes() == first


def test_batching_is_allowed_when_two_rows_answer_as_two_singles(tmp_path: Path) -> None:
    assert examine(tmp_path, affine()).batching_refused == ""


def test_batching_is_refused_for_a_fixed_first_dimension(tmp_path: Path) -> None:
    assert "fixed" in examine(tmp_path, affine(batch=1)).batching_refused


def test_batching_is_refused_when_rows_look_at_one_another(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    found = examine(tmp_path, model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])]))
    assert "differs" in found.batching_refused


def test_golden_vectors_are_skipped_for_random_operators(tmp_path: Path) -> None:
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])]
    found = examine(tmp_path, model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])]))
    assert found.tolerance is None
    assert "differently each time" in found.golden_skipped
    assert not (tmp_path / "golden.bin").exists()


def test_golden_vectors_are_skipped_when_the_model_takes_no_random_inputs(tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    inputs = [value("x", [2, 3]), value("shape", [2], TensorProto.INT64)]
    found = examine(tmp_path, model(nodes, inputs, [value("y", ["a", "b"])]))
    assert found.tolerance is None
    assert "does not run" in found.golden_skipped


def test_golden_vectors_are_skipped_when_one_is_too_large(tmp_path: Path) -> None:
    found = examine(tmp_path, affine(batch=1, width=4000), golden_file_bytes=1000)
    assert found.tolerance is None
    assert "MiB" in found.golden_skipped


def test_a_gigantic_fixed_shape_is_not_allocated(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    found = examine(tmp_path, model(nodes, [value("x", [1 << 20, 1 << 20])], [value("y", [])]))
    assert "larger than" in found.golden_skipped


def test_strings_bools_integers_and_half_floats_are_understood(tmp_path: Path) -> None:
    kinds = {
        "s": (TensorProto.STRING, Datatype.BYTES),
        "b": (TensorProto.BOOL, Datatype.BOOL),
        "i": (TensorProto.INT64, Datatype.INT64),
        "u": (TensorProto.UINT8, Datatype.UINT8),
        "h": (TensorProto.FLOAT16, Datatype.FP16),
        "d": (TensorProto.DOUBLE, Datatype.FP64),
    }
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in kinds]
    inputs = [value(name, ["n", 2], kind) for name, (kind, _) in kinds.items()]
    outputs = [value(f"{name}_out", ["n", 2], kind) for name, (kind, _) in kinds.items()]
    found = examine(tmp_path, model(nodes, inputs, outputs))
    assert {spec.name: spec.datatype for spec in found.inputs} == {name: ours for name, (_, ours) in kinds.items()}
    assert found.tolerance is not None
    assert found.batching_refused == ""


def test_varying_image_sizes_are_searched(tmp_path: Path) -> None:
    weights = {"w": np.ones((1, 1, 20, 20), np.float32)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    proto = model(nodes, [value("x", ["n", 1, "h", "v"])], [value("y", ["n", 1, "a", "b"])], weights=weights)
    found = examine(tmp_path, proto)
    assert found.inputs[0].shape == (-1, 1, -1, -1)
    assert found.tolerance is not None


def test_weights_may_lie_in_a_second_uploaded_file(tmp_path: Path) -> None:
    external(tmp_path)
    found = examine_here(job(tmp_path, ("weights.bin",)))
    assert found.external_files == ("weights.bin",)
    assert found.tolerance is not None


def test_quantized_graphs_are_called_int8_and_get_a_wider_tolerance(tmp_path: Path) -> None:
    weights = {"scale": np.array(0.1, np.float32), "zero": np.array(0, np.uint8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    found = examine(tmp_path, model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], weights=weights))
    assert found.precision == "int8"
    assert found.tolerance is not None
    assert found.tolerance.rtol == pytest.approx(5e-2)


def test_initializers_listed_as_inputs_are_not_asked_of_callers(tmp_path: Path) -> None:
    proto = affine()
    proto.graph.input.append(value("w", [4, 3]))
    assert [spec.name for spec in examine(tmp_path, proto).inputs] == ["x"]


def test_local_functions_are_no_custom_operators(tmp_path: Path) -> None:
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    nodes = [helper.make_node("Twice", ["x"], ["y"], domain="mine")]
    proto = model(
        nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], opsets={"": 17, "mine": 1}, functions=[function]
    )
    assert examine(tmp_path, proto).tolerance is not None


def test_findings_survive_the_pipe(tmp_path: Path) -> None:
    found = examine(tmp_path, affine())
    assert Findings.from_dict(found.to_dict()) == found


def test_an_output_that_is_a_sequence_is_refused_with_the_way_out(tmp_path: Path) -> None:
    nodes = [helper.make_node("SequenceConstruct", ["x"], ["y"])]
    output = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    with pytest.raises(ModelInvalidError) as caught:
        examine(tmp_path, model(nodes, [value("x", ["n", 4])], [output]))
    assert caught.value.reason == "signature"
    assert "zipmap" in caught.value.hint
