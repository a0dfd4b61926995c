"""Messages over HTTP: a header and what follows it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from aimass.errors import FrameError, FrameTooLargeError, OverloadError, RemoteError, TensorError, WireError
from aimass.wire.messages import ErrorReply, InferRequest, InferResponse
from aimass.wire.oip import (
    Limits,
    decode_request,
    decode_response,
    encode_error,
    encode_request,
    encode_response,
    read_header,
    request_from_fields,
    wants_binary,
)
from aimass.wire.tensor import Datatype, Tensor, bytes_array
from tests.unit.wire.canonical import canonical

X = Tensor("x", Datatype.FP32, np.array([[1, 2]], np.float32))
HALF = Tensor("h", Datatype.FP16, np.array([1], np.float16))


def header_of(**fields: Any) -> bytes:
    return json.dumps({"model_name": "m", "inputs": []} | fields).encode()


def one(**entry: Any) -> bytes:
    return header_of(inputs=[{"name": "x", "shape": [1], "datatype": "UINT8"} | entry])


def test_a_request_is_written_as_other_servers_expect_it() -> None:
    asked = InferRequest("m", (X,), version="3", id="q", outputs=("y",), parameters={"timeout": 5})
    header, parts = encode_request(asked)
    assert json.loads(header) == {
        "model_name": "m",
        "model_version": "3",
        "id": "q",
        "parameters": {"timeout": 5},
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}],
        "outputs": [{"name": "y"}],
    }
    assert b"".join(parts) == X.data.tobytes()


def test_keys_without_a_value_are_left_out() -> None:
    assert json.loads(encode_request(InferRequest("m", ()))[0]) == {"model_name": "m", "inputs": []}
    response = json.loads(encode_response(InferResponse("m", "1", ()))[0])
    assert response == {"model_name": "m", "model_version": "1", "outputs": []}


def test_the_path_wins_over_the_header() -> None:
    # WIRE-2.9
    got = decode_request(header_of(model_version="2"), model="p", version="7")
    assert (got.model, got.version) == ("p", "7")
    got = decode_request(header_of(model_version="2"))
    assert (got.model, got.version) == ("m", "2")
    assert decode_request(b'{"inputs":[]}', model="p").model == "p"


@pytest.mark.parametrize("raw", [b'{"inputs":[]}', b'{"model_name":"m"}', b'{"model_name":"m","inputs":null}'])
def test_refuses_a_request_without_model_or_inputs(raw: bytes) -> None:
    # WIRE-2.9
    with pytest.raises(FrameError):
        decode_request(raw)


def test_refuses_a_response_without_outputs_or_error() -> None:
    with pytest.raises(FrameError, match="neither"):
        decode_response(b'{"model_name":"m"}')


@pytest.mark.parametrize("binary", [True, False, lambda name: name == "x"])
def test_responses_mix_binary_and_json_as_asked(binary: Any) -> None:
    # WIRE-2.4
    other = Tensor("n", Datatype.INT64, np.array([2**53 + 1]))
    response = InferResponse("m", "1", (X, other, X.from_array("z", np.zeros(0, np.float32))), id="q")
    header, parts = encode_response(response, binary=binary)
    got = decode_response(header, b"".join(parts))
    assert isinstance(got, InferResponse)
    assert canonical(got) == canonical(response)


def test_json_outputs_are_flat() -> None:
    # WIRE-4.2
    entry = json.loads(encode_response(InferResponse("m", "1", (X,)), binary=False)[0])["outputs"][0]
    assert entry == {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}


def test_refuses_half_floats_in_json_outputs() -> None:
    with pytest.raises(TensorError):
        encode_response(InferResponse("m", "1", (HALF,)), binary=False)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, False),
        ({"parameters": {"binary_data_output": True}}, True),
        ({"outputs": [{"name": "y", "parameters": {"binary_data": True}}]}, True),
        ({"outputs": [{"name": "z", "parameters": {"binary_data": True}}]}, False),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "y", "parameters": {"binary_data": False}}],
            },
            False,
        ),
        ({"parameters": {"binary_data_output": True}, "outputs": [{"name": "y"}]}, True),
    ],
)
def test_an_outputs_own_wish_wins(fields: dict[str, Any], expected: bool) -> None:
    # WIRE-2.6
    assert wants_binary(read_header(header_of(**fields)), "y") is expected


def test_a_wish_is_true_or_false() -> None:
    with pytest.raises(FrameError):
        wants_binary({"parameters": {"binary_data_output": 1}}, "y")


def test_a_header_that_was_read_already_is_not_read_twice() -> None:
    header, parts = encode_request(InferRequest("m", (X,)))
    assert canonical(request_from_fields(read_header(header), b"".join(parts))) == canonical(InferRequest("m", (X,)))


def test_the_only_tensor_may_leave_its_size_out() -> None:
    # WIRE-2.8
    assert decode_request(one(), b"\x07").inputs[0].data.tolist() == [7]
    with pytest.raises(TensorError):
        decode_request(one(), b"\x07\x08")


def test_an_unknown_codec_is_not_taken_for_plain_bytes() -> None:
    # WIRE-3.6
    with pytest.raises(TensorError, match="codec 'lzma'"):
        decode_request(one(parameters={"binary_data_size": 1, "codec": "lzma"}), b"\x07")


def test_names_are_used_once() -> None:
    # WIRE-2.3
    with pytest.raises(TensorError, match="twice"):
        decode_request(*_encoded(InferRequest("m", (X, X))))


@pytest.mark.parametrize(
    "limits",
    [
        Limits(max_header_bytes=50),
        Limits(max_message_bytes=100),
        Limits(max_tensors=1),
        Limits(max_strings=1),
    ],
)
def test_limits_are_held(limits: Limits) -> None:
    # WIRE-5.1, WIRE-5.3
    words = Tensor("w", Datatype.BYTES, bytes_array([b"a", b"b"], (2,)))
    header, body = _encoded(InferRequest("m", (X, words)))
    decode_request(header, body)
    with pytest.raises(FrameTooLargeError):
        decode_request(header, body, limits=limits)


def test_the_limit_on_dimensions_is_held() -> None:
    with pytest.raises(TensorError, match="dimensions"):
        decode_request(*_encoded(InferRequest("m", (X,))), limits=Limits(max_dims=1))


def test_bytes_elements_are_counted_over_the_whole_message() -> None:
    words = tuple(Tensor(f"w{i}", Datatype.BYTES, bytes_array([b"a", b"b"], (2,))) for i in range(3))
    header, body = _encoded(InferRequest("m", words))
    decode_request(header, body, limits=Limits(max_strings=6))
    with pytest.raises(FrameTooLargeError):
        decode_request(header, body, limits=Limits(max_strings=5))


def test_more_outputs_asked_for_than_the_limit_are_refused() -> None:
    with pytest.raises(FrameTooLargeError):
        decode_request(header_of(outputs=[{"name": "a"}, {"name": "b"}]), limits=Limits(max_tensors=1))


@pytest.mark.parametrize("value", [np.int64(1), None, [1], float("nan"), 2**64])
def test_refuses_to_send_parameters_that_not_every_language_reads(value: Any) -> None:
    # WIRE-2.5
    with pytest.raises(FrameError, match="'a'"):
        encode_request(InferRequest("m", (), parameters={"a": value}))


def test_an_error_reply_keeps_code_hint_and_retry() -> None:
    # WIRE-2.7
    reply = ErrorReply.from_error(OverloadError("queue full"))
    assert decode_response(encode_error(reply)) == reply
    error = reply.to_error()
    assert isinstance(error, RemoteError)
    assert (error.remote_code, error.retryable, error.message) == ("overload", True, "queue full")
    assert error.hint == OverloadError.default_hint


def test_an_error_from_further_on_keeps_its_first_code() -> None:
    there = ErrorReply("no such model", "model.not_found", retryable=False).to_error()
    assert ErrorReply.from_error(there).code == "model.not_found"


def test_an_error_of_another_server_has_a_text_only() -> None:
    assert decode_response(b'{"error":"boom"}') == ErrorReply("boom", "internal", retryable=False)


def test_long_texts_of_an_error_are_cut_off() -> None:
    reply = decode_response(encode_error(ErrorReply("x" * 10_000, "internal", retryable=False, hint="y" * 10_000)))
    assert isinstance(reply, ErrorReply)
    assert (len(reply.message), len(reply.hint)) == (2000, 2000)


@pytest.mark.parametrize("raw", [b'{"error":{}}', b'{"error":1}', b'{"error":["x"]}'])
def test_refuses_an_error_that_is_no_text(raw: bytes) -> None:
    with pytest.raises(WireError):
        decode_response(raw)


def _encoded(request: InferRequest) -> tuple[bytes, bytes]:
    header, parts = encode_request(request)
    return header, b"".join(parts)
