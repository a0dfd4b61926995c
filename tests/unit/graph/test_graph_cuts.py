"""Which cuts a model has, and why it has none."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import ModelProto, TensorProto, helper

from aimass.errors import InputError, ModelInvalidError
from aimass.graph import NoCutKind, find_cuts, fix_shapes
from aimass.graph.fusion import fused_tensors
from aimass.graph.separator import sweep
from aimass.graph.view import outer_reads, view_of
from aimass.wire.tensor import Datatype
from tests.unit.graph import graph_models as models
from tests.unit.graph.random_graphs import random_models, separators_by_trying


def names(model: ModelProto, **more: object) -> list[str]:
    return [cut.name for cut in find_cuts(model, **more).cuts]  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random_models())
def test_one_walk_finds_the_separators_that_trying_every_tensor_finds(model: ModelProto) -> None:
    found = sweep(view_of(model)).separators
    assert set(found) == separators_by_trying(model)
    assert len(set(found)) == len(found)


def test_a_chain_is_cut_where_tensors_get_smaller_and_behind_activations() -> None:
    report = find_cuts(models.chain_cnn())
    assert [cut.name for cut in report.cuts] == ["block1", "pool1", "block2", "pooled", "logits"]
    assert report.no_cut is None
    assert report.input_bytes == 3 * 32 * 32
    sizes = [cut.coded_bytes for cut in report.cuts]
    assert sizes == sorted(set(sizes), reverse=True)
    shares = [cut.head_share for cut in report.cuts]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] < 1
    block2 = next(cut for cut in report.separators if cut.name == "block2")
    assert (block2.datatype, block2.shape, block2.native_bytes) == (Datatype.FP32, (1, 4, 8, 8), 1024)


def test_cuts_never_lie_between_a_convolution_and_its_activation() -> None:
    report = find_cuts(models.chain_cnn())
    fused = {cut.name for cut in report.separators if cut.is_fused}
    assert len(fused) == 3
    assert all(name.startswith("conv") for name in fused)
    assert not fused & {cut.name for cut in report.cuts}


def test_at_most_as_many_cuts_as_asked_for_and_the_smallest_stays() -> None:
    every = find_cuts(models.chain_cnn(), input_bytes=1 << 30)
    few = find_cuts(models.chain_cnn(), input_bytes=1 << 30, max_cuts=3)
    assert len(every.cuts) <= 6
    assert len(few.cuts) == 3
    assert few.cuts[-1] == every.cuts[-1]
    assert set(few.cuts) < set(every.cuts)


def test_residual_blocks_are_cut_only_between_blocks() -> None:
    report = find_cuts(models.residual(), input_bytes=1 << 20)
    free = [cut.name for cut in report.separators if not cut.is_fused]
    assert free == ["stem", "block1", "block2"]
    assert {"sum1", "sum2"} <= {cut.name for cut in report.separators if cut.is_fused}
    assert [cut.name for cut in report.cuts] == ["stem"]  # the later ones are not smaller


def test_a_squeeze_is_the_cut_of_a_branched_block() -> None:
    report = find_cuts(models.branches())
    assert [cut.name for cut in report.separators if not cut.is_fused] == ["stem", "squeeze", "joined"]
    assert [cut.name for cut in report.cuts] == ["squeeze"]


def test_an_operator_reads_what_its_bodies_capture_at_any_depth() -> None:
    [chosen] = [node for node in models.with_if().graph.node if node.op_type == "If"]
    assert set(outer_reads(chosen)) == {"flag", "stem", *chosen_weights()}


def chosen_weights() -> set[str]:
    model = models.with_if()
    captured = {name for node in model.graph.node if node.op_type == "If" for name in outer_reads(node)}
    return captured & {tensor.name for tensor in model.graph.initializer}


def test_an_if_is_one_operator_and_cuts_lie_around_it() -> None:
    report = find_cuts(models.with_if())
    assert [cut.name for cut in report.separators if not cut.is_fused] == ["stem", "chosen", "after"]
    assert "flag" not in {cut.name for cut in report.separators}  # the branches read the stem as well
    assert [cut.name for cut in report.cuts] == ["stem", "after"]


def test_a_loop_is_one_operator_and_cuts_lie_around_it() -> None:
    found = [cut.name for cut in find_cuts(models.with_loop()).separators if not cut.is_fused]
    assert found == ["stem", "small", "looped", "after"]


def test_a_model_inside_one_if_says_so() -> None:
    no_cut = find_cuts(models.all_in_one_if()).no_cut
    assert no_cut is not None
    assert no_cut.kind is NoCutKind.CONTROL_FLOW
    assert "inside one If" in no_cut.reason


def test_inputs_meet_before_the_first_cut_and_an_early_output_stays_in_the_head() -> None:
    report = find_cuts(models.several_inputs_and_outputs())
    assert [cut.name for cut in report.separators if not cut.is_fused] == ["both", "narrow", "pooled", "flipped"]
    assert report.input_bytes == 4 * 8 * 8


def test_an_input_that_is_read_late_is_named() -> None:
    no_cut = find_cuts(models.late_input()).no_cut
    assert no_cut is not None
    assert no_cut.kind is NoCutKind.LATE_INPUT
    assert "'x'" in no_cut.reason


def test_sizes_that_travel_beside_the_activation_vanish_when_shapes_are_fixed() -> None:
    model = models.shape_chain()
    assert names(model) == ["rows"]  # behind the reshape
    fixed = fix_shapes(model, {"x": [2, 3, 8, 8]})
    assert len(names(fixed)) == 2
    assert names(fixed)[0] == "stem"
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert not [node for node in fixed.graph.node if node.op_type == "Shape"]


def test_a_dynamic_batch_counts_as_one() -> None:
    assert names(models.chain_cnn(batch="N")) == names(models.chain_cnn())


def test_other_dynamic_sizes_need_a_sample() -> None:
    model = models.chain_cnn()
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_param, dims[3].dim_param = "H", "W"
    del model.graph.value_info[:]
    no_cut = find_cuts(model).no_cut
    assert no_cut is not None
    assert no_cut.kind is NoCutKind.DYNAMIC_SHAPE
    assert "x" in no_cut.reason
    assert names(model, sample_shapes={"x": [1, 3, 32, 32]}) == names(models.chain_cnn())
    with pytest.raises(InputError, match="no input 'z'"):
        find_cuts(model, sample_shapes={"z": [1]})
    with pytest.raises(InputError, match="does not take"):
        find_cuts(model, sample_shapes={"x": [1, 4, 32, 32]})
    with pytest.raises(InputError, match="4 dimensions"):
        find_cuts(model, sample_shapes={"x": [1]})


def test_quantised_models_are_cut_on_the_bytes() -> None:
    report = find_cuts(models.qdq_cnn())
    free = [cut for cut in report.separators if not cut.is_fused]
    assert [cut.name for cut in free] == ["in_q", "one_q", "two_q", "three_q", "pooled", "flat"]
    assert {cut.datatype for cut in free[:4]} == {Datatype.UINT8}
    assert [cut.name for cut in report.cuts] == ["in_q", "one_q", "two_q", "three_q", "pooled"]


def test_a_transformer_is_cut_on_the_residual_stream_only() -> None:
    report = find_cuts(models.transformer(), input_bytes=1 << 20)
    free = [cut.name for cut in report.separators if not cut.is_fused]
    assert "tokens" in free
    assert free[-2:] == ["stream1", "stream2"]


def test_norm_attention_and_gelu_are_whole_without_residuals_too() -> None:
    fused = fused_tensors(view_of(models.transformer(with_residual=False)))
    free = [cut.name for cut in find_cuts(models.transformer(with_residual=False)).separators if not cut.is_fused]
    inside = {"norm1_centred", "norm1_unit", "norm1_scaled", "qkv", "scores", "scaled", "mixed", "back", "up"}
    assert inside | {"erf", "one_plus", "gelu_twice"} <= fused
    assert set(free) >= {"tokens", "norm1", "attended", "norm2", "gelu", "down"}
    assert not set(free) & fused


@pytest.mark.parametrize("kind", ["Sigmoid", "HardSigmoid"])
def test_a_gated_activation_belongs_to_its_convolution(kind: str) -> None:
    b = models.Builder()
    conv = b.conv("x", 3, 2)
    gated = b.op("Mul", conv, b.op(kind, conv), out="gated")
    b.op("GlobalMaxPool", gated, out="y")
    report = find_cuts(b.model({"x": [1, 3, 8, 8]}, ["y"]))
    assert [(cut.name, cut.is_fused) for cut in report.separators] == [(conv, True), ("gated", False)]


def test_a_hard_swish_written_out_belongs_to_its_convolution() -> None:
    b = models.Builder()
    conv = b.conv("x", 3, 2)
    clipped = b.op("Clip", b.op("Add", conv, b.const(3)), b.const(0), b.const(6))
    twice = b.op("Mul", conv, clipped, out="six_times")
    b.op("GlobalMaxPool", b.op("Div", twice, b.const(6), out="swish"), out="y")
    report = find_cuts(b.model({"x": [1, 3, 8, 8]}, ["y"]))
    assert [(cut.name, cut.is_fused) for cut in report.separators] == [
        (conv, True),
        ("six_times", True),
        ("swish", False),
    ]


def test_random_operators_are_refused() -> None:
    b = models.Builder()
    noise = b.op("RandomNormalLike", "x")
    b.op("Relu", b.op("Tanh", b.op("Add", "x", noise), out="small"), out="y")
    no_cut = find_cuts(b.model({"x": [1, 4]}, ["y"])).no_cut
    assert no_cut is not None
    assert no_cut.kind is NoCutKind.RANDOM
    assert "RandomNormalLike" in no_cut.reason


def test_a_model_that_only_grows_says_that_the_input_is_smallest() -> None:
    b = models.Builder()
    x = b.op("Relu", b.conv("x", 3, 8), out="a")
    b.op("Relu", b.conv(x, 8, 8), out="y")
    report = find_cuts(b.model({"x": [1, 3, 8, 8]}, ["y"]))
    assert report.no_cut is not None
    assert report.no_cut.kind is NoCutKind.NOT_SMALLER
    assert "192 bytes" in report.no_cut.reason


def test_other_reasons_have_their_own_words() -> None:
    b = models.Builder()
    b.op("Relu", "x", out="y")
    single = find_cuts(b.model({"x": [1, 4]}, ["y"])).no_cut
    assert single is not None
    assert single.kind is NoCutKind.SINGLE_OPERATOR

    b = models.Builder()
    b.op("Relu", b.conv("x", 3, 1), out="y")
    fused = find_cuts(b.model({"x": [1, 3, 4, 4]}, ["y"])).no_cut
    assert fused is not None
    assert fused.kind is NoCutKind.FUSED

    b = models.Builder()
    left, right = b.op("Relu", "x", out="l"), b.op("Tanh", "x", out="r")
    b.op("Add", b.op("Neg", left), b.op("Neg", right), out="y")
    wide = find_cuts(b.model({"x": [1, 4]}, ["y"])).no_cut
    assert wide is not None
    assert wide.kind is NoCutKind.NO_SEPARATOR
    assert "at least 2 tensors" in wide.reason


def test_a_type_that_cannot_be_told_is_no_cut() -> None:
    b = models.Builder()
    b.op("Relu", b.op("Strange", "x", out="odd", domain="somewhere"), out="y")
    model = b.model({"x": [1, 4]}, ["y"])
    no_cut = find_cuts(model).no_cut
    assert no_cut is not None
    assert no_cut.kind is NoCutKind.UNTYPED
    model.graph.value_info.append(helper.make_tensor_value_info("odd", TensorProto.FLOAT, [1, 2]))
    assert [cut.name for cut in find_cuts(model).cuts] == ["odd"]


def test_weights_that_are_listed_as_inputs_are_no_inputs() -> None:
    model = models.chain_cnn()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    assert names(model) == names(models.chain_cnn())


@pytest.mark.parametrize(
    "raw", [b"", b"\x00", b"no model", onnx.ModelProto(ir_version=9).SerializeToString() + b"\xff"]
)
def test_what_is_no_model_raises_our_error(raw: bytes) -> None:
    with pytest.raises(ModelInvalidError):
        find_cuts(raw)


def test_a_graph_out_of_order_or_with_a_name_made_twice_is_refused() -> None:
    model = models.chain_cnn()
    model.graph.node.append(model.graph.node[0])
    with pytest.raises(ModelInvalidError, match="name that exists"):
        find_cuts(model)
    model = models.chain_cnn()
    del model.graph.node[1]
    with pytest.raises(ModelInvalidError, match="nobody made"):
        find_cuts(model)


def test_the_model_is_not_changed() -> None:
    model = models.chain_cnn(batch="N")
    before = model.SerializeToString(deterministic=True)
    find_cuts(model, sample_shapes={"x": [1, 3, 32, 32]})
    fix_shapes(model, {"x": [1, 3, 32, 32]})
    assert model.SerializeToString(deterministic=True) == before
