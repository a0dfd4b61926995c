"""Coded tensors: what comes back, how exactly, and what is refused before memory is spent on it."""

from __future__ import annotations

import json
import math
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aimass.errors import FrameTooLargeError, TensorError, WireError
from aimass.wire import affine, frame
from aimass.wire.codec import NAMES, Codec, decode_tensor, encode_tensor
from aimass.wire.messages import InferRequest, InferResponse
from aimass.wire.oip import Limits, encode_response
from aimass.wire.tensor import Datatype, Tensor
from tests.unit.wire.canonical import canonical, canonical_tensor
from tests.unit.wire.test_wire_properties import tensors

SPEC = Path(__file__).parents[3] / "sdk" / "spec"
INDEX = json.loads((SPEC / "vectors" / "index.json").read_bytes())

finite = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**120), max_value=2.0**120)
near = st.floats(width=32, allow_nan=False, min_value=-300, max_value=300) | st.sampled_from(
    [0.0, -0.0, 0.5, -0.5, 1.5]
)
shapes = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)
floats = shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=finite | near))


def there_and_back(tensor: Tensor, codec: Codec) -> Tensor:
    parameters, raw = encode_tensor(tensor, codec)
    return decode_tensor(tensor.name, tensor.datatype, tensor.shape, parameters, raw, max_bytes=1 << 22)


def fp32(values: Any) -> Tensor:
    return Tensor("x", Datatype.FP32, np.asarray(values, np.float32))


def roundf(value: np.float32) -> int:
    # half away from zero; in float64 the half can be added exactly
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), float(value)))


# -- exactness ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", INDEX["affine"], ids=lambda case: f"{case['values'][:16]}-{case['levels']}")
def test_floats_get_the_codes_of_the_vectors_to_the_bit(case: dict[str, Any]) -> None:
    # WIRE-6.4
    values = np.frombuffer(bytes.fromhex(case["values"]), "<f4").reshape(1, 1, -1)
    steps, codes = affine.quantize("x", values, case["levels"])
    assert (int(steps.scale_bits[0]), int(steps.zero[0])) == (case["scale_bits"], case["zero"])
    assert codes.reshape(-1).tolist() == case["codes"]


@given(st.integers(0, 2**32 - 1))
def test_rounding_is_that_of_c_for_every_float(bits: int) -> None:
    # WIRE-6.4: the constant below one half instead of one half
    value = np.array([bits], np.uint32).view(np.float32)[0]
    if not np.isfinite(value) or abs(value) > 2**20:
        return
    assert int(np.trunc(value + np.copysign(np.float32(0.5 - 2.0**-25), value))) == roundf(value)


@given(hnp.arrays(np.float32, st.integers(1, 40), elements=finite | near), st.sampled_from([255, 15]))
def test_codes_follow_the_rule_one_operation_at_a_time(values: np.ndarray, levels: int) -> None:
    # WIRE-6.4, in numpy scalars and Python's own whole numbers
    steps, codes = affine.quantize("x", values.reshape(1, 1, -1), levels)
    low, high, top = min(np.float32(0), values.min()), max(np.float32(0), values.max()), np.float32(levels)
    scale = np.float32(1) if low == high == 0 else max(high / top - low / top, np.float32(2.0**-126))
    zero = min(roundf(-low / scale), levels)
    assert (steps.scale[0], steps.zero[0]) == (scale, zero)
    assert codes.reshape(-1).tolist() == [min(max(roundf(value / scale) + zero, 0), levels) for value in values]


@given(floats, st.data())
def test_affine_is_off_by_half_a_step_at_most_and_zero_is_exact(values: np.ndarray, data: st.DataObject) -> None:
    axis = data.draw(st.none() | st.integers(-values.ndim, values.ndim - 1))
    name = data.draw(
        st.sampled_from([name for name in NAMES if "affine" in name and (axis is not None or "8" in name)])
    )
    back = there_and_back(fp32(values), Codec(name, axis)).data
    assert back.shape == values.shape
    assert (back[values == 0] == 0).all()
    assert not np.signbit(back[values == 0]).any()
    if values.size:
        kept = () if axis is None else (axis % values.ndim,)
        across = tuple(dim for dim in range(values.ndim) if dim not in kept)
        wide = values.astype(np.float64)
        spans = wide.max(across, keepdims=True, initial=0) - wide.min(across, keepdims=True, initial=0)
        step = np.maximum(spans / (255 if "8" in name else 15), 2.0**-126)
        assert (np.abs(back - wide) <= step * 0.5001 + 1e-6 * np.abs(wide)).all()


@given(floats, st.sampled_from(["affine8", "affine4"]))
def test_coding_twice_changes_nothing_more(values: np.ndarray, name: str) -> None:
    once = there_and_back(fp32(np.abs(values)), Codec(name, 0))
    twice = there_and_back(once, Codec(name, 0))
    assert np.allclose(twice.data, once.data, rtol=1e-6, atol=0)


@given(tensors(tuple(d for d in Datatype if d is not Datatype.BYTES)))
def test_zstd_comes_back_bit_for_bit_for_every_datatype(tensor: Tensor) -> None:
    # WIRE-6.1, WIRE-6.2, WIRE-6.7
    assert canonical_tensor(there_and_back(tensor, Codec("zstd"))) == canonical_tensor(tensor)


@given(hnp.arrays(np.float32, shapes, elements=st.floats(width=16)), st.sampled_from(["fp16", "fp16+zstd"]))
def test_half_floats_come_back_exactly(values: np.ndarray, name: str) -> None:
    # WIRE-6.9
    assert np.array_equal(there_and_back(fp32(values), Codec(name)).data, values, equal_nan=True)


def test_half_floats_round_to_nearest_even() -> None:
    # WIRE-6.9
    got = there_and_back(fp32([2049, 2051, 1 / 3]), Codec("fp16")).data
    assert got.tolist() == [2048, 2052, 0.333251953125]


def test_large_tensors_are_cut_into_blocks_without_a_seam() -> None:
    dice = np.random.default_rng(1)
    for shape, axis in (
        ((2, 3, 50_000), 1),
        ((70_000, 3), -1),
        ((3, 70_000), 0),
        ((40, 40, 40), 1),
        ((100_001,), None),
    ):
        values = dice.standard_normal(shape).astype(np.float32)
        back = there_and_back(fp32(values), Codec("affine8", axis)).data
        assert np.abs(back - values).max() < 0.03


def test_codes_are_worth_less_than_a_sixth_of_sparse_floats() -> None:
    values = np.maximum(np.random.default_rng(0).standard_normal((1, 16, 40, 40)), 0)
    assert len(encode_tensor(fp32(values), Codec("affine8+zstd"))[1]) * 6 < values.size * 4
    assert len(encode_tensor(fp32(values), Codec("affine4+zstd", 1))[1]) * 12 < values.size * 4


# -- messages ----------------------------------------------------------------------------------------------------------


def test_a_message_carries_coded_tensors_beside_plain_ones() -> None:
    # WIRE-6.3, WIRE-6.5, WIRE-6.6: the step is a whole number in the header, or a table before the codes
    x, mask = fp32([[0, 1, 2], [0, -4, 11]]), Tensor("mask", Datatype.BOOL, np.array([True, False]))
    y = Tensor("y", Datatype.FP32, x.data)
    packed = frame.pack_request(InferRequest("m", (x, mask, y)), {"x": Codec("affine8"), "y": Codec("affine4", -2)})
    header = json.loads(bytes(frame.unpack(packed)[0]))
    step = struct.unpack("<I", struct.pack("<f", np.float32(11) / np.float32(255) + np.float32(4) / np.float32(255)))[0]
    own = [entry["parameters"] for entry in header["inputs"]]
    assert own[0] == {"binary_data_size": 6, "codec": "affine8", "scale_bits": step, "zero": 68}
    assert own[1] == {"binary_data_size": 2}
    assert own[2] == {"binary_data_size": 13, "codec": "affine4", "axis": 0}
    got = frame.unpack_request(packed)
    assert [tensor.datatype for tensor in got.inputs] == ["FP32", "BOOL", "FP32"]
    assert np.allclose(got.inputs[0].data, x.data, atol=0.03)
    assert np.allclose(got.inputs[2].data, x.data, atol=0.51)


def test_without_a_codec_the_bytes_are_those_of_always() -> None:
    request = InferRequest("m", (fp32([1, 2]),))
    assert frame.pack_request(request, {"other": Codec("zstd")}) == frame.pack_request(request)


@given(tensors(tuple(d for d in Datatype if d is not Datatype.BYTES)))
def test_a_response_comes_back_through_zstd(tensor: Tensor) -> None:
    response = InferResponse("m", "1", (tensor,))
    packed = frame.pack_response(response, {tensor.name: Codec("zstd")})
    assert canonical(frame.unpack_reply(packed)) == canonical(response)


def test_json_outputs_are_not_coded() -> None:
    _, parts = encode_response(InferResponse("m", "1", (fp32([1]),)), binary=False, codecs={"x": Codec("zstd")})
    assert parts == []


def test_the_table_of_the_spec_lists_the_codecs_of_the_code() -> None:
    table = SPEC.joinpath("WIRE.md").read_text("utf-8").split("| Codec |")[1].split("\n\n")[0]
    listed = {name for row in table.splitlines()[2:] for name in row.split("|")[1].replace("`", "").split()}
    assert {name.strip(",") for name in listed} - {"by", "channel"} == set(NAMES)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2.0**127.5])
def test_values_without_a_code_are_refused_by_the_sender(value: float) -> None:
    # WIRE-6.3
    with pytest.raises(TensorError, match="'x'"):
        encode_tensor(fp32([1, value]), Codec("affine8"))


def test_a_value_that_half_floats_cannot_hold_is_refused_by_the_sender() -> None:
    # WIRE-6.9
    with pytest.raises(TensorError, match="outside FP16"):
        encode_tensor(fp32([65520]), Codec("fp16"))


@pytest.mark.parametrize(("name", "axis"), [("lzma", None), ("", None), ("zstd", 0), ("fp16", 1), ("affine4", None)])
def test_there_is_no_such_codec(name: str, axis: int | None) -> None:
    with pytest.raises(TensorError):
        Codec(name, axis)


@pytest.mark.parametrize("codec", [Codec("fp16"), Codec("affine8"), Codec("affine4+zstd", 0)])
def test_only_fp32_becomes_fewer_bits(codec: Codec) -> None:
    # WIRE-6.1
    with pytest.raises(TensorError, match="does not fit INT8"):
        encode_tensor(Tensor("x", Datatype.INT8, np.zeros(3, np.int8)), codec)


def test_a_single_value_has_no_channels() -> None:
    with pytest.raises(TensorError, match="no axis 0"):
        encode_tensor(fp32(1.0), Codec("affine8", 0))


def test_the_coded_tensors_of_a_message_share_one_bound() -> None:
    # WIRE-6.8
    zeros = np.zeros(20_000, np.float32)
    many = tuple(Tensor(name, Datatype.FP32, zeros) for name in "abc")
    packed = frame.pack_request(InferRequest("m", many), {name: Codec("affine8+zstd") for name in "abc"})
    assert len(packed) < 1000
    assert len(frame.unpack_request(packed, Limits(max_message_bytes=240_000)).inputs) == 3
    with pytest.raises(FrameTooLargeError, match="'c'"):
        frame.unpack_request(packed, Limits(max_message_bytes=239_999))


@pytest.mark.parametrize("shape", [[1 << 40], [65 << 20]])
def test_a_bomb_is_refused_before_it_is_unpacked(shape: list[int]) -> None:
    # WIRE-6.8, WIRE-6.2: honest and dishonest about its size
    bomb = zstandard.ZstdCompressor().compress(bytes(65 << 20))
    header = {"name": "x", "shape": shape, "datatype": "UINT8"}
    entry = header | {"parameters": {"binary_data_size": len(bomb), "codec": "zstd"}}
    packed = frame.pack(json.dumps({"model_name": "m", "inputs": [entry]}).encode(), [bomb])
    small = frame.pack(json.dumps({"model_name": "m", "inputs": [entry | {"shape": [8]}]}).encode(), [bomb])
    tracemalloc.start()
    try:
        with pytest.raises(FrameTooLargeError):
            frame.unpack_request(packed)
        with pytest.raises(TensorError, match="states"):
            frame.unpack_request(small)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(
    st.sampled_from(NAMES),
    st.none() | st.integers(0, 2),
    st.lists(st.integers(0, 3), max_size=3),
    st.binary(max_size=40),
    st.fixed_dictionaries({}, optional={"scale_bits": st.integers(0, 2**32), "zero": st.integers(-1, 300)}),
    st.booleans(),
)
def test_any_coded_bytes_are_a_finite_tensor_or_raise_the_one_error(
    name: str, axis: int | None, shape: list[int], raw: bytes, own: dict[str, int], is_packed: bool
) -> None:
    # WIRE-6.3: whatever steps and codes say
    parameters = own | {"codec": name} | ({} if axis is None else {"axis": axis})
    buffer = zstandard.ZstdCompressor().compress(raw) if is_packed else raw
    try:
        got = decode_tensor("x", Datatype.FP32, shape, parameters, buffer, max_bytes=1 << 16)
    except WireError:
        return
    assert got.shape == tuple(shape)
    assert "affine" not in name or np.isfinite(got.data).all()
