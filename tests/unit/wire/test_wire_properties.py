"""Properties of the codec over all messages hypothesis can think of."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aimass.errors import FrameError, WireError
from aimass.wire import frame
from aimass.wire.messages import ErrorReply, InferRequest, InferResponse
from aimass.wire.oip import decode_response, encode_response
from aimass.wire.tensor import Datatype, Tensor, bytes_array, tensor_from_bytes, tensor_to_bytes
from tests.unit.wire.canonical import canonical, canonical_tensor

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), max_size=20)
names = texts.filter(bool)
values = texts | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
parameters = st.dictionaries(texts, values, max_size=4)


@st.composite
def tensors(draw: st.DrawFn, among: tuple[Datatype, ...] = tuple(Datatype)) -> Tensor:
    datatype, shape, name = draw(st.sampled_from(among)), draw(shapes), draw(names)
    count = math.prod(shape)
    if datatype is Datatype.BYTES:
        items = draw(st.lists(st.binary(max_size=9), min_size=count, max_size=count))
        return Tensor(name, datatype, bytes_array(items, shape))
    if datatype is Datatype.BOOL:
        return Tensor(name, datatype, draw(hnp.arrays(np.bool_, shape)))
    size = count * datatype.item_bytes  # all bit patterns: subnormals, NaNs with payload, negative zero
    raw = draw(st.binary(min_size=size, max_size=size))
    return Tensor(name, datatype, np.frombuffer(raw, datatype.dtype).reshape(shape))


tensor_lists = st.lists(tensors(), max_size=4, unique_by=lambda tensor: tensor.name).map(tuple)
requests = st.builds(
    InferRequest,
    model=names,
    inputs=tensor_lists,
    version=texts,
    id=texts,
    outputs=st.lists(names, max_size=3, unique=True).map(tuple),
    parameters=parameters,
)
responses = st.builds(InferResponse, model=texts, version=texts, outputs=tensor_lists, id=texts, parameters=parameters)


@given(tensors())
def test_a_tensor_comes_back_bit_for_bit(tensor: Tensor) -> None:
    raw = tensor_to_bytes(tensor)
    assert len(raw) == tensor.nbytes
    again = tensor_from_bytes(tensor.name, tensor.datatype, tensor.shape, raw)
    assert canonical_tensor(again) == canonical_tensor(tensor)


@given(requests)
def test_a_request_comes_back(request: InferRequest) -> None:
    packed = frame.pack_request(request)
    assert canonical(frame.unpack_request(packed)) == canonical(request)
    assert frame.pack_request(frame.unpack_request(packed)) == packed


@given(responses)
def test_a_response_comes_back(response: InferResponse) -> None:
    assert canonical(frame.unpack_reply(frame.pack_response(response))) == canonical(response)


@given(st.builds(ErrorReply, message=texts, code=names, retryable=st.booleans(), hint=texts))
def test_an_error_comes_back(reply: ErrorReply) -> None:
    assert frame.unpack_reply(frame.pack_error(reply)) == reply


in_json = tuple(d for d in Datatype if d not in {Datatype.FP16, Datatype.BF16, Datatype.BYTES})


@given(st.lists(tensors(in_json), max_size=3, unique_by=lambda tensor: tensor.name))
def test_a_response_in_json_comes_back(outputs: list[Tensor]) -> None:
    response = InferResponse("m", "1", tuple(outputs))
    header, parts = encode_response(response, binary=False)
    assert parts == []
    got = decode_response(header)
    assert isinstance(got, InferResponse)
    for sent, came in zip(outputs, got.outputs, strict=True):
        assert came.shape == sent.shape
        assert np.array_equal(came.data, sent.data, equal_nan=sent.data.dtype.kind == "f")


@settings(max_examples=30)
@given(requests)
def test_every_prefix_of_a_request_is_refused_as_cut_off(request: InferRequest) -> None:
    packed = frame.pack_request(request)
    for size in range(0, len(packed), max(1, len(packed) // 200)):
        with pytest.raises(FrameError):
            frame.unpack_request(packed[:size])


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_with_the_one_error(raw: bytes) -> None:
    for read in (frame.unpack_request, frame.unpack_reply):
        with pytest.raises(WireError):
            read(raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(list(Datatype)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("x") | json_values,
        "shape": st.lists(st.integers(-1, 3), max_size=3) | json_values,
        "datatype": st.sampled_from([str(d) for d in Datatype]) | json_values,
        "data": st.lists(st.integers(0, 3) | st.booleans() | st.floats(), max_size=4) | json_values,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 9) | json_values})
        | json_values,
    },
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "model_name": st.just("m") | json_values,
            "inputs": st.lists(entries, max_size=2) | json_values,
            "outputs": st.lists(entries, max_size=2) | json_values,
            "error": json_values,
            "id": json_values,
            "parameters": json_values,
        },
    ),
    st.binary(max_size=12),
)
def test_any_json_is_a_message_or_raises_the_one_error(fields: dict[str, Any], body: bytes) -> None:
    raw = frame.pack(json.dumps(fields).encode(), [body])
    for read in (frame.unpack_request, frame.unpack_reply):
        try:
            message = read(raw)
        except WireError:
            continue
        canonical(message)
