"""Segments: what each carries, what is refused, and that a chain of them equals the whole on both engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from aimass.engine.base import Engine, EngineOptions, Session
from aimass.engine.onnx import OnnxEngine
from aimass.engine.openvino import OpenVinoEngine
from aimass.errors import InputError, ModelInvalidError
from aimass.graph import check_chain, extract_segments, find_cuts, fix_shapes, save_segments
from aimass.graph.separator import sweep
from aimass.graph.view import view_of
from aimass.wire.codec import Codec, decode_tensor, encode_tensor
from aimass.wire.tensor import Array, Tensor
from tests.unit.graph import graph_models as models
from tests.unit.graph.random_graphs import feeds_for, random_models

MODELS: dict[str, Callable[[], ModelProto]] = {
    "chain": models.chain_cnn,
    "chain_dynamic_batch": lambda: models.chain_cnn(batch="N"),
    "residual": models.residual,
    "branches": models.branches,
    "if": models.with_if,
    "loop": models.with_loop,
    "several": models.several_inputs_and_outputs,
    "shape_fixed": lambda: fix_shapes(models.shape_chain(), {"x": [2, 3, 8, 8]}),
    "transformer": models.transformer,
    "function": models.with_function,
    "qdq": models.qdq_cnn,
}


@pytest.fixture(scope="module")
def onnx_engine() -> Engine:
    return OnnxEngine()


@pytest.fixture(scope="module")
def openvino_engine() -> Engine:
    return OpenVinoEngine()


def loaded(engine: Engine, model: ModelProto, path: Path) -> Session:
    onnx.save(model, path)
    return engine.load(path, format="onnx", options=EngineOptions())


def parts_of(engine: Engine, model: ModelProto, cuts: list[str], folder: Path) -> list[Session]:
    saved = save_segments(extract_segments(model, cuts), folder)
    return [engine.load(files[0], format="onnx", options=EngineOptions()) for files in saved]


def free_cuts(model: ModelProto) -> list[str]:
    return [cut.name for cut in find_cuts(model).separators if not cut.is_fused]


@pytest.mark.parametrize("name", MODELS)
def test_the_chain_of_all_segments_equals_the_whole(name: str, tmp_path: Path, onnx_engine: Engine) -> None:
    model = MODELS[name]()
    cuts = free_cuts(model)
    assert cuts
    whole, parts = loaded(onnx_engine, model, tmp_path / "m.onnx"), parts_of(onnx_engine, model, cuts, tmp_path)
    assert len(parts) == len(cuts) + 1
    # engines choose other layouts for other graphs, so sums of floats may run in another order: a few last bits
    found = check_chain(whole, parts, (feeds_for(model, seed) for seed in range(5)), rtol=1e-5, atol=2e-6)
    assert (found.vectors, found.agreement) == (5, 1)
    assert found.is_close, found
    assert found.is_exact or name != "qdq"


@pytest.mark.parametrize("name", ["chain", "residual", "several", "if", "loop", "transformer"])
def test_the_chain_equals_the_whole_on_openvino(name: str, tmp_path: Path, openvino_engine: Engine) -> None:
    model = MODELS[name]()
    cuts = free_cuts(model)[:3]
    whole, parts = loaded(openvino_engine, model, tmp_path / "m.onnx"), parts_of(openvino_engine, model, cuts, tmp_path)
    found = check_chain(whole, parts, (feeds_for(model, seed) for seed in range(3)), rtol=1e-4, atol=1e-5)
    assert found.is_close, found


def test_half_float_models_chain_on_both_engines(tmp_path: Path, onnx_engine: Engine, openvino_engine: Engine) -> None:
    model = models.chain_cnn(np.float16)
    cuts = [cut.name for cut in find_cuts(model).cuts]
    assert len(cuts) >= 3
    for engine, tolerance in ((onnx_engine, 0.002), (openvino_engine, 0.01)):
        folder = tmp_path / engine.name
        folder.mkdir()
        whole, parts = loaded(engine, model, folder / "m.onnx"), parts_of(engine, model, cuts, folder)
        found = check_chain(whole, parts, [feeds_for(model, seed) for seed in range(3)], atol=tolerance)
        assert found.is_close, (engine.name, found)


def test_quantised_models_chain_on_openvino_and_across_engines(
    tmp_path: Path, onnx_engine: Engine, openvino_engine: Engine
) -> None:
    model = models.qdq_cnn()
    vectors = [feeds_for(model, seed) for seed in range(5)]
    cuts = [cut.name for cut in find_cuts(model).cuts if cut.name.endswith("_q")]
    head, *tail = parts_of(onnx_engine, model, cuts, tmp_path)
    other = parts_of(openvino_engine, model, cuts, tmp_path)
    whole = loaded(openvino_engine, model, tmp_path / "m.onnx")
    assert check_chain(whole, other, vectors, atol=0.3).is_close  # a few quantisation steps of the last layer
    mixed = check_chain(loaded(onnx_engine, model, tmp_path / "n.onnx"), [head, *other[1:]], vectors, atol=0.3)
    assert mixed.is_close
    assert {spec.datatype for part in tail for spec in part.inputs} == {"UINT8"}


@pytest.mark.parametrize("cut", ["in_q", "one_q", "two_q", "three_q"])
def test_each_cut_of_a_quantised_model_is_exact_alone(cut: str, tmp_path: Path, onnx_engine: Engine) -> None:
    model = models.qdq_cnn()
    whole, parts = loaded(onnx_engine, model, tmp_path / "m.onnx"), parts_of(onnx_engine, model, [cut], tmp_path)
    assert check_chain(whole, parts, (feeds_for(model, seed) for seed in range(20))).is_exact


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random_models(), st.data())
def test_any_separators_of_any_graph_give_parts_that_compute_the_same(model: ModelProto, data: st.DataObject) -> None:
    found = sweep(view_of(model)).separators
    cuts = data.draw(st.lists(st.sampled_from(found), unique=True)) if found else []
    feeds = feeds_for(model)
    made = dict(feeds)
    for part in extract_segments(model, cuts):
        reader = ReferenceEvaluator(part)
        given = {name: made[name] for name in reader.input_names}
        made.update(zip(reader.output_names, reader.run(None, given), strict=True))
    for name, value in zip(
        (out.name for out in model.graph.output), ReferenceEvaluator(model).run(None, feeds), strict=True
    ):
        assert np.array_equal(value, made[name])


def test_segments_share_no_weights_and_keep_names_and_metadata() -> None:
    model = models.chain_cnn()
    head, middle, tail = extract_segments(model, ["block2", "block1"])
    own = [{tensor.name for tensor in part.graph.initializer} for part in (head, middle, tail)]
    assert [len(names) for names in own] == [2, 2, 4]
    assert set().union(*own) == {tensor.name for tensor in model.graph.initializer}
    assert [value.name for value in middle.graph.input] == ["block1"]
    assert [value.name for value in middle.graph.output] == ["block2"]
    assert [dim.dim_value for dim in middle.graph.input[0].type.tensor_type.shape.dim] == [1, 8, 16, 16]
    for part in (head, middle, tail):
        assert [(entry.key, entry.value) for entry in part.metadata_props] == [("author", "tests")]
        assert part.opset_import == model.opset_import
        onnx.checker.check_model(part, full_check=True)


def test_no_cut_gives_the_whole_without_its_dead_weight() -> None:
    model = models.chain_cnn()
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(9), "unused"))
    [whole] = extract_segments(model, [])
    assert "unused" not in {tensor.name for tensor in whole.graph.initializer}
    assert len(whole.graph.node) == len(model.graph.node)


def test_names_that_bodies_capture_come_along() -> None:
    for model, cut, kind in ((models.with_if(), "stem", "If"), (models.with_loop(), "small", "Loop")):
        _, tail = extract_segments(model, [cut])
        [node] = [node for node in tail.graph.node if node.op_type == kind]
        assert [value.name for value in tail.graph.input] == [cut]
        captured = set(view_of(tail).steps[list(tail.graph.node).index(node)].reads)
        assert captured <= {
            cut,
            *(t.name for t in tail.graph.initializer),
            *(n for m in tail.graph.node for n in m.output),
        }


def test_only_functions_that_are_called_come_along() -> None:
    head, tail = extract_segments(models.with_function(), ["stem"])
    assert [function.name for function in head.functions] == []
    assert [function.name for function in tail.functions] == ["Twice", "TwiceTanh"]


def test_chains_of_constants_are_repeated_and_constant_outputs_come_last() -> None:
    b = models.Builder()
    double = b.op("Add", b.const([2.0]), b.const([1.0]), out="double")
    x = b.op("Mul", b.op("Relu", "x"), double, out="half_way")
    x = b.op("Tanh", x, out="small")
    b.op("Mul", x, double, out="y")
    model = b.model({"x": [1, 4]}, ["y", "double"])
    head, tail = extract_segments(model, ["small"])
    assert [[node.op_type for node in part.graph.node].count("Add") for part in (head, tail)] == [1, 1]
    assert [value.name for value in tail.graph.output] == ["y", "double"]
    assert [value.name for value in head.graph.output] == ["small"]


def test_an_output_of_the_whole_is_an_output_of_the_part_that_makes_it() -> None:
    parts = extract_segments(models.several_inputs_and_outputs(), ["narrow"])
    assert [[value.name for value in part.graph.output] for part in parts] == [["early", "narrow"], ["y1", "y2"]]
    assert [[value.name for value in part.graph.input] for part in parts] == [["x", "z"], ["narrow"]]


def test_a_cut_that_is_an_output_too_is_given_once() -> None:
    b = models.Builder()
    b.op("Tanh", b.op("Relu", b.op("Neg", "x"), out="feature"), out="y")
    head, tail = extract_segments(b.model({"x": [1, 4]}, ["feature", "y"]), ["feature"])
    assert [value.name for value in head.graph.output] == ["feature"]
    assert [value.name for value in tail.graph.output] == ["y"]


@pytest.mark.parametrize(
    ("model", "cut", "says"),
    [
        (models.late_input, "b", "also reads input 'x'"),
        (models.residual, "relu11", "also reads 'stem'"),
        (models.chain_cnn, "nothing", "no such tensor"),
        (models.chain_cnn, "x", "it is an input"),
        (models.chain_cnn, "y", "nothing comes after"),
        (models.chain_cnn, "w0", "no such tensor"),
    ],
)
def test_a_tail_that_needs_more_than_its_cut_is_refused(model: Callable[[], ModelProto], cut: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        extract_segments(model(), [cut])


def test_the_same_cut_twice_is_refused() -> None:
    with pytest.raises(InputError, match="twice"):
        extract_segments(models.chain_cnn(), ["block1", "block1"])


def test_old_models_that_list_weights_as_inputs_get_true_inputs_only(tmp_path: Path, onnx_engine: Engine) -> None:
    model = models.chain_cnn()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model.ir_version = 3
    model.opset_import[0].version = 8  # of that time; the operators used here have not changed since
    del model.graph.node[-1].attribute[:]
    parts = extract_segments(model, ["block1"])
    assert [[value.name for value in part.graph.input] for part in parts] == [["x"], ["block1"]]
    assert {part.ir_version for part in parts} == {4}
    whole = loaded(onnx_engine, model, tmp_path / "m.onnx")
    assert check_chain(whole, parts_of(onnx_engine, model, ["block1"], tmp_path), [feeds_for(model)]).is_exact


def test_weights_in_another_file_are_split_with_the_model(tmp_path: Path, onnx_engine: Engine) -> None:
    model = models.chain_cnn()
    whole = tmp_path / "whole"
    whole.mkdir()
    saved = ModelProto()
    saved.CopyFrom(model)
    onnx.save(saved, whole / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    bare = onnx.load(whole / "m.onnx", load_external_data=False)
    parts = extract_segments(bare, ["pool1"])
    assert {t.data_location for part in parts for t in part.graph.initializer} == {TensorProto.EXTERNAL}
    files = save_segments(parts, tmp_path, weights_from=whole)
    assert [[path.name for path in paths] for paths in files] == [["segment-0.onnx"], ["segment-1.onnx"]]
    sessions = [onnx_engine.load(paths[0], format="onnx", options=EngineOptions()) for paths in files]
    assert check_chain(loaded(onnx_engine, model, tmp_path / "m.onnx"), sessions, [feeds_for(model)]).is_exact
    with pytest.raises(ModelInvalidError, match="weights cannot be read"):
        save_segments(extract_segments(bare, ["pool1"]), tmp_path, weights_from=tmp_path)


def test_the_gate_measures_what_a_codec_costs(tmp_path: Path, onnx_engine: Engine) -> None:
    model = models.chain_cnn()
    whole, parts = loaded(onnx_engine, model, tmp_path / "m.onnx"), parts_of(onnx_engine, model, ["pool1"], tmp_path)

    def through(codec: Codec) -> Callable[[str, Array], Array]:
        def there_and_back(name: str, value: Array) -> Array:
            tensor = Tensor.from_array(name, value)
            parameters, raw = encode_tensor(tensor, codec)
            return decode_tensor(name, tensor.datatype, tensor.shape, parameters, raw, max_bytes=1 << 20).data

        return there_and_back

    vectors = [feeds_for(model, seed) for seed in range(10)]
    eight, four, none = (
        check_chain(whole, parts, vectors, atol=1e-2, through=through(codec))
        for codec in (Codec("affine8+zstd"), Codec("affine4", 1), Codec("zstd"))
    )
    assert none.is_exact
    assert eight.is_close
    assert not eight.is_exact
    assert 0 < eight.max_difference < four.max_difference
    with pytest.raises(InputError, match="no vectors"):
        check_chain(whole, parts, [])
