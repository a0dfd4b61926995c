"""The client that most people use, unchanged, against our door: its defaults, JSON, compression, repository, errors."""

from __future__ import annotations

import json
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.fakes.probe_models import probe_door, serving

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # gevent and its friends, at import
    http = pytest.importorskip("tritonclient.http")
    utils = pytest.importorskip("tritonclient.utils")

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root: Path = tmp_path_factory.mktemp("probes")
    with probe_door(root) as door, socket.create_server(("127.0.0.1", 0)) as sock, serving(door, sock):
        yield f"127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    made = http.InferenceServerClient(url)
    yield made
    made.close()


def given(name: str, array: np.ndarray[Any, Any], *, binary: bool = True) -> Any:
    one = http.InferInput(name, list(array.shape), utils.np_to_triton_dtype(array.dtype))
    one.set_data_from_numpy(array, binary_data=binary)
    return one


X = np.array([1.5, -2.0, 3.0], np.float32)


def test_health_metadata_and_config(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("identity_fp32")
    assert client.is_model_ready("identity_fp32", "1")
    assert not client.is_model_ready("nobody")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("add_sub")["inputs"][0] == {"name": "A", "datatype": "FP32", "shape": [-1, 4]}
    assert client.get_model_config("add_sub")["input"][0]["data_type"] == "TYPE_FP32"


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_infer_in_every_form(client: Any, binary_in: bool, binary_out: bool) -> None:
    wish = http.InferRequestedOutput("y", binary_data=binary_out)
    answer = client.infer("identity_fp32", [given("x", X, binary=binary_in)], outputs=[wish], request_id="7")
    assert answer.as_numpy("y").tolist() == X.tolist()
    assert answer.get_response()["id"] == "7"


def test_infer_by_the_clients_defaults(client: Any) -> None:
    answer = client.infer("identity_fp32", [given("x", X)], model_version="1", priority=1, timeout=5_000_000)
    assert answer.as_numpy("y").tolist() == X.tolist()
    assert answer.get_response()["model_version"] == "1"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_infer_compressed_both_ways(client: Any, coding: str, binary: bool) -> None:
    many = np.zeros(50_000, np.float32)
    answer = client.infer(
        "identity_fp32",
        [given("x", many, binary=binary)],
        outputs=[http.InferRequestedOutput("y", binary_data=binary)],
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    assert np.array_equal(answer.as_numpy("y"), many)


@pytest.mark.parametrize("kind", ["bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"])
def test_whole_numbers_of_every_size(client: Any, kind: str) -> None:
    array = np.array([0, 1, 1], kind) if kind == "bool" else np.array([np.iinfo(kind).min, np.iinfo(kind).max], kind)
    for binary in (True, False):
        answer = client.infer(f"identity_{kind}", [given("x", array, binary=binary)])
        assert np.array_equal(answer.as_numpy("y"), array)


def test_half_floats_and_texts(client: Any) -> None:
    half = np.array([0.5, -1.25], np.float16)
    assert client.infer("identity_fp16", [given("x", half)]).as_numpy("y").tolist() == half.tolist()
    brain = http.InferInput("x", [2], "BF16")
    brain.set_data_from_numpy(np.array([1.0, -2.0], ml_dtypes.bfloat16))
    assert client.infer("identity_bf16", [brain]).as_numpy("y").tolist() == [1.0, -2.0]
    texts = np.array([b"", b"a\x00b", b"\xff\xfe"], object)
    assert client.infer("identity_bytes", [given("x", texts)]).as_numpy("y").tolist() == texts.tolist()


def test_a_tensor_without_elements(client: Any) -> None:
    answer = client.infer("identity_fp32", [given("x", np.zeros(0, np.float32))])
    assert answer.as_numpy("y").shape == (0,)


def test_outputs_in_the_order_asked_and_classes(client: Any) -> None:
    inputs = [given("A", np.full((1, 4), 3, np.float32)), given("B", np.full((1, 4), 1, np.float32), binary=False)]
    outputs = [http.InferRequestedOutput("DIFFERENCE"), http.InferRequestedOutput("SUM", binary_data=False)]
    answer = client.infer("add_sub", inputs, outputs=outputs)
    assert (answer.as_numpy("SUM")[0, 0], answer.as_numpy("DIFFERENCE")[0, 0]) == (4.0, 2.0)
    scores = np.array([[0.1, 0.7, -2.5, 0.2]], np.float32)
    best = client.infer(
        "identity_classes", [given("x", scores)], outputs=[http.InferRequestedOutput("y", class_count=2)]
    )
    assert best.as_numpy("y").tolist() == [[b"0.700000:1:dog", b"0.200000:3:fish"]]


def test_repository_and_statistics(client: Any) -> None:
    rows = {row["name"]: row["state"] for row in client.get_model_repository_index()}
    assert rows["identity_reload"] == "READY"
    client.unload_model("identity_reload")
    assert not client.is_model_ready("identity_reload")
    client.load_model("identity_reload")
    assert client.is_model_ready("identity_reload")
    with pytest.raises(utils.InferenceServerException, match="not taken"):
        client.load_model("stranger", config=json.dumps({}), files={"file:1/model.onnx": b"x"})
    client.infer("identity_reload", [given("x", X)])
    (stats,) = client.get_inference_statistics("identity_reload")["model_stats"]
    assert stats["inference_stats"]["success"]["count"] >= 1


@pytest.mark.parametrize(
    ("model", "array", "text"),
    [
        ("nobody", X, "nobody"),
        ("identity_fp32", X.astype(np.int32), "FP32"),
        ("identity_fp32", X.reshape(1, 3), r"expected shape \[-1\]"),
    ],
)
def test_errors_carry_our_sentence(client: Any, model: str, array: Any, text: str) -> None:
    with pytest.raises(utils.InferenceServerException, match=text):
        client.infer(model, [given("x", array)])
