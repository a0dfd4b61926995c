"""One tensor and its bytes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from aimass.errors import TensorError
from aimass.wire.tensor import (
    Datatype,
    Tensor,
    bytes_array,
    element_count,
    tensor_from_bytes,
    tensor_to_bytes,
)

NUMERIC = [datatype for datatype in Datatype if datatype is not Datatype.BYTES]


def elements(datatype: Datatype, count: int = 6) -> np.ndarray[Any, Any]:
    raw = np.arange(count * datatype.item_bytes, dtype=np.uint8)
    return (raw % 2 if datatype is Datatype.BOOL else raw).view(datatype.dtype)


@pytest.mark.parametrize("datatype", NUMERIC)
@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 6, 1)])
def test_numeric_tensors_come_back_bit_for_bit(datatype: Datatype, shape: tuple[int, ...]) -> None:
    # WIRE-3.1
    sent = Tensor("x", datatype, elements(datatype).reshape(shape))
    raw = tensor_to_bytes(sent)
    got = tensor_from_bytes("x", datatype, shape, raw)
    assert got.shape == shape
    assert got.data.tobytes() == sent.data.tobytes() == bytes(raw)
    assert len(raw) == sent.nbytes


@pytest.mark.parametrize("datatype", list(Datatype))
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0, 2)])
def test_tensors_without_elements_are_legal(datatype: Datatype, shape: tuple[int, ...]) -> None:
    # WIRE-3.2
    sent = Tensor("x", datatype, np.zeros(shape, datatype.dtype))
    assert bytes(tensor_to_bytes(sent)) == b""
    assert tensor_from_bytes("x", datatype, shape, b"").shape == shape


@pytest.mark.parametrize("datatype", NUMERIC)
def test_a_single_value_has_the_empty_shape(datatype: Datatype) -> None:
    sent = Tensor("x", datatype, elements(datatype, 1).reshape(()))
    got = tensor_from_bytes("x", datatype, (), tensor_to_bytes(sent))
    assert got.shape == ()
    assert got.data.tobytes() == sent.data.tobytes()


def test_bytes_elements_may_hold_anything() -> None:
    # WIRE-3.5
    items = [b"", b"\x00", b"a\x00b\x00", b"\xff\xfe", "é".encode(), b"x" * 300]
    sent = Tensor("x", Datatype.BYTES, bytes_array(items, (2, 3)))
    raw = tensor_to_bytes(sent)
    assert len(raw) == sent.nbytes == sum(4 + len(item) for item in items)
    got = tensor_from_bytes("x", Datatype.BYTES, (2, 3), raw)
    assert got.data.reshape(-1).tolist() == items
    assert got.data.dtype == object


def test_aligned_bytes_are_not_copied_and_cannot_be_written() -> None:
    raw = bytes(16)
    array = tensor_from_bytes("x", Datatype.FP32, (4,), raw).data
    assert np.shares_memory(array, np.frombuffer(raw, np.uint8))
    assert not array.flags.writeable


def test_unaligned_bytes_are_copied_for_the_engines_sake() -> None:
    raw = bytearray(17)
    array = tensor_from_bytes("x", Datatype.FP32, (4,), memoryview(raw)[1:]).data
    assert array.flags.aligned
    assert not np.shares_memory(array, np.frombuffer(raw, np.uint8))


def test_sending_a_contiguous_array_copies_nothing() -> None:
    array = np.arange(4, dtype=np.float32)
    view = tensor_to_bytes(Tensor("x", Datatype.FP32, array))
    assert np.shares_memory(np.frombuffer(view, np.uint8), array)


def test_a_strided_array_is_sent_in_row_order() -> None:
    array = np.arange(6, dtype=np.int16).reshape(2, 3).T
    assert bytes(tensor_to_bytes(Tensor("x", Datatype.INT16, array))) == np.ascontiguousarray(array).tobytes()


@pytest.mark.parametrize("datatype", NUMERIC)
@pytest.mark.parametrize("change", [-1, 1])
def test_refuses_bytes_that_are_not_exactly_the_tensors(datatype: Datatype, change: int) -> None:
    # WIRE-3.3
    with pytest.raises(TensorError, match="takes"):
        tensor_from_bytes("x", datatype, (2,), bytes(2 * datatype.item_bytes + change))


def test_refuses_a_bool_that_is_neither_0_nor_1() -> None:
    # WIRE-3.4
    with pytest.raises(TensorError, match="neither 0 nor 1"):
        tensor_from_bytes("x", Datatype.BOOL, (2,), b"\x01\x02")


@pytest.mark.parametrize(
    "raw",
    [b"", b"\x01\x00\x00", b"\x02\x00\x00\x00a", b"\x01\x00\x00\x00ab", b"\xff\xff\xff\xffa", b"\x01\x00\x00\x00a\x00"],
)
def test_refuses_bytes_elements_whose_lengths_do_not_add_up(raw: bytes) -> None:
    # WIRE-3.5
    with pytest.raises(TensorError):
        tensor_from_bytes("x", Datatype.BYTES, (1,), raw)


def test_refuses_more_bytes_elements_than_could_have_arrived_before_making_room() -> None:
    # WIRE-5.3
    with pytest.raises(TensorError, match="cannot fit"):
        tensor_from_bytes("x", Datatype.BYTES, (2**40,), b"\x00" * 8)


@pytest.mark.parametrize("item", ["text", 1, None])
def test_refuses_to_send_bytes_elements_that_are_not_bytes(item: Any) -> None:
    with pytest.raises(TensorError, match="must be bytes"):
        tensor_to_bytes(Tensor("x", Datatype.BYTES, np.array([item], dtype=object)))


@pytest.mark.parametrize(
    ("shape", "count"), [((), 1), ((0,), 0), ((2, 3), 6), ((2**31, 2**28), 2**59), ((0, 2**59), 0)]
)
def test_counts_elements(shape: tuple[int, ...], count: int) -> None:
    assert element_count("x", Datatype.FP32, shape) == count


@pytest.mark.parametrize(
    "shape", [(-1,), (2**63,), (2**31, 2**30), (2**32, 2**32), (0, 2**62, 2), (1,) * 17, (10**4000,)]
)
def test_refuses_shapes_that_cannot_be(shape: tuple[int, ...]) -> None:
    # WIRE-3.2, WIRE-3.3
    with pytest.raises(TensorError):
        element_count("x", Datatype.FP32, shape)


def test_a_tensor_holds_its_datatypes_dtype_and_no_other() -> None:
    with pytest.raises(TensorError, match="its array is float64"):
        Tensor("x", Datatype.FP32, np.zeros(1))
    with pytest.raises(TensorError):
        Tensor("x", Datatype.INT32, np.zeros(1, ">i4"))


@pytest.mark.parametrize("datatype", [d for d in NUMERIC if d is not Datatype.BF16])
def test_finds_the_datatype_of_an_array(datatype: Datatype) -> None:
    array = np.zeros(3, datatype.dtype)
    tensor = Tensor.from_array("x", array)
    assert tensor.datatype is datatype
    assert tensor.data is array


def test_turns_big_endian_arrays_round() -> None:
    tensor = Tensor.from_array("x", np.array([1, 2], ">i4"))
    assert tensor.datatype is Datatype.INT32
    assert tensor.data.tolist() == [1, 2]


def test_bf16_keeps_the_bit_patterns() -> None:
    given = np.array([1.0, -2.0], dtype=ml_dtypes.bfloat16)
    for tensor in (Tensor.from_array("x", given), Tensor.from_array("x", given.view(np.uint16), Datatype.BF16)):
        assert tensor.datatype is Datatype.BF16
        assert tensor.data.tolist() == [0x3F80, 0xC000]


@pytest.mark.parametrize(
    ("given", "items"),
    [
        (["a\0", "é"], [b"a\0", "é".encode()]),
        ([b"a\0", b""], [b"a\0", b""]),
        (np.array(["ab", "é"]), [b"ab", "é".encode()]),
        (np.array([b"ab", "c", bytearray(b"d")], dtype=object), [b"ab", b"c", b"d"]),
        ("one\0", [b"one\0"]),
        (b"one\0", [b"one\0"]),
    ],
)
def test_texts_become_bytes(given: Any, items: list[bytes]) -> None:
    tensor = Tensor.from_array("x", given)
    assert tensor.datatype is Datatype.BYTES
    assert tensor.data.reshape(-1).tolist() == items


@pytest.mark.parametrize(
    ("given", "datatype"),
    [
        ([1, 2], Datatype.UINT8),
        ([1, 2], Datatype.FP32),
        ([0.1, 2], Datatype.FP16),
        (3, Datatype.INT8),
        ([2**63], Datatype.UINT64),
        ([], Datatype.INT8),
        (np.zeros(2, np.int16), Datatype.FP32),
        (np.zeros(2, np.float32), Datatype.FP64),
        (np.zeros(2, np.uint8), Datatype.INT16),
    ],
)
def test_numbers_are_widened_where_nothing_is_lost(given: Any, datatype: Datatype) -> None:
    assert Tensor.from_array("x", given, datatype).datatype is datatype


@pytest.mark.parametrize(
    ("given", "datatype"),
    [
        ([256], Datatype.UINT8),
        ([-1], Datatype.UINT64),
        ([1.5], Datatype.INT32),
        ([1e39], Datatype.FP32),
        ([True], Datatype.INT8),
        (["a"], Datatype.FP32),
        ([1], Datatype.BYTES),
        ([1], Datatype.BOOL),
        ([1.0], Datatype.BF16),
        (["\ud800"], Datatype.BYTES),
        (np.zeros(2), Datatype.FP32),
        (np.zeros(2, np.int64), Datatype.FP64),
        (np.zeros(2, np.int64), Datatype.INT32),
        (np.zeros(2, np.bool_), Datatype.UINT8),
    ],
)
def test_numbers_that_would_lose_something_are_refused(given: Any, datatype: Datatype) -> None:
    with pytest.raises(TensorError):
        Tensor.from_array("x", given, datatype)


@pytest.mark.parametrize("given", [[[1], [1, 2]], np.zeros(1, complex), np.zeros(1, "M8[s]"), [None], object()])
def test_refuses_what_is_no_tensor(given: Any) -> None:
    with pytest.raises(TensorError):
        Tensor.from_array("x", given)
