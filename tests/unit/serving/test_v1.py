"""TensorFlow Serving's REST and KServe V1: rows and columns, status and metadata, and how they refuse."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from aimass.errors import InputError, TensorError
from aimass.runtime.answer import Answer
from aimass.serving.base import DoorSettings
from aimass.serving.rest import RestDoor
from aimass.serving.v1_values import columns_of, rows_of, tensors_from_columns, tensors_from_rows
from aimass.wire.messages import InferRequest, InferResponse
from aimass.wire.tensor import Datatype, Tensor, TensorSpec
from tests.fakes.asgi import AsgiReply, call
from tests.fakes.models import FakeRuntime, info

B64 = {"b64": base64.b64encode(b"\xff\x00").decode()}


def model(*inputs: tuple[str, Datatype]) -> Any:
    return info(inputs=tuple(TensorSpec(name, datatype, (-1,)) for name, datatype in inputs))


ONE = model(("x", Datatype.FP32))
TWO = model(("a", Datatype.INT64), ("b", Datatype.BYTES))


def response(**outputs: Any) -> InferResponse:
    return InferResponse("m", "1", tuple(Tensor.from_array(name, array) for name, array in outputs.items()))


class TestRowsIn:
    def test_bare_values_of_one_input(self) -> None:
        (tensor,) = tensors_from_rows(ONE, [[1, 2.5], [3, 4]])
        assert (tensor.name, tensor.shape, tensor.data.tolist()) == ("x", (2, 2), [[1.0, 2.5], [3.0, 4.0]])

    def test_objects_of_one_input(self) -> None:
        assert tensors_from_rows(ONE, [{"x": [1]}, {"x": [2]}])[0].data.tolist() == [[1.0], [2.0]]

    def test_objects_of_several_inputs(self) -> None:
        a, b = tensors_from_rows(TWO, [{"a": 1, "b": "one"}, {"b": B64, "a": 2**60 + 1}])
        assert (a.data.tolist(), b.data.tolist()) == ([1, 2**60 + 1], [b"one", b"\xff\x00"])

    def test_bytes_of_one_input(self) -> None:
        assert tensors_from_rows(model(("x", Datatype.BYTES)), [B64, "text"])[0].data.tolist() == [b"\xff\x00", b"text"]

    @pytest.mark.parametrize("datatype", [Datatype.FP16, Datatype.BF16])
    def test_half_floats_are_numbers_here(self, datatype: Datatype) -> None:
        (tensor,) = tensors_from_rows(model(("x", datatype)), [1.0, -2.0])
        assert tensor.datatype is datatype
        assert columns_of(InferResponse("m", "1", (tensor,))) == [1.0, -2.0]

    def test_brain_floats_are_rounded_to_nearest_even_and_nan_stays(self) -> None:
        values = [1.00390625, 1.01171875, float("nan"), float("inf"), 3.3895313892515355e38]
        (tensor,) = tensors_from_rows(model(("x", Datatype.BF16)), values)
        assert tensor.data.tolist() == [0x3F80, 0x3F82, 0x7FC0, 0x7F80, 0x7F7F]

    @pytest.mark.parametrize(
        ("spec", "rows"),
        [
            (ONE, []), (ONE, 1), (ONE, None), (ONE, [[1], [1, 2]]), (ONE, [[1], 2]), (ONE, [1, [2]]), (ONE, ["a"]),
            (ONE, [None]), (ONE, [{"y": 1}]), (ONE, [{"x": 1}, 2]), (ONE, [B64]), (TWO, [1]), (TWO, [{"a": 1}]),
            (TWO, [{"a": 1, "b": "", "c": 2}]), (TWO, [{"a": 1.5, "b": ""}]), (TWO, [{"a": 1, "b": 3}]),
            (TWO, [{"a": 1, "b": {"b64": "no base64!"}}]), (TWO, [{"a": 1, "b": {"b64": 3}}]),
            (model(("x", Datatype.FP16)), [1e6]),
        ],
    )  # fmt: skip
    def test_what_does_not_fit_is_refused(self, spec: Any, rows: Any) -> None:
        with pytest.raises((InputError, TensorError)):
            tensors_from_rows(spec, rows)


class TestColumnsIn:
    def test_a_bare_tensor_or_an_object(self) -> None:
        for columns in ([[1.0], [2.0]], {"x": [[1.0], [2.0]]}):
            assert tensors_from_columns(ONE, columns)[0].data.tolist() == [[1.0], [2.0]]
        a, b = tensors_from_columns(TWO, {"a": [1, 2], "b": [["x"], [B64]]})
        assert (a.shape, b.data.tolist()) == ((2,), [[b"x"], [b"\xff\x00"]])

    def test_a_single_value_has_no_dimensions(self) -> None:
        assert tensors_from_columns(ONE, 3)[0].shape == ()

    @pytest.mark.parametrize("columns", [None, [1], {"a": 1}, {"a": [1], "b": ["x"], "c": 1}])
    def test_what_does_not_fit_is_refused(self, columns: Any) -> None:
        with pytest.raises((InputError, TensorError)):
            tensors_from_columns(TWO, columns)


class TestOut:
    def test_rows_of_one_output_are_bare(self) -> None:
        assert rows_of(response(y=np.array([[1, 2], [3, 4]])), 2) == [[1, 2], [3, 4]]

    def test_rows_of_several_outputs_are_objects(self) -> None:
        got = rows_of(response(y=np.array([1, 2]), z=np.array([b"a", b"b"], object)), 2)
        assert got == [{"y": 1, "z": "a"}, {"y": 2, "z": "b"}]

    @pytest.mark.parametrize("array", [np.zeros(3), np.float32(1)])
    def test_another_number_of_rows_is_refused(self, array: Any) -> None:
        with pytest.raises(InputError, match="not one row"):
            rows_of(response(y=array), 2)

    def test_bytes_by_their_name_or_because_they_are_no_text(self) -> None:
        assert columns_of(response(y_bytes=np.array([b"a"], object))) == [{"b64": "YQ=="}]
        assert columns_of(response(y=np.array([b"\xff", b"a"], object))) == [{"b64": "/w=="}, {"b64": "YQ=="}]


class TestDoor:
    async def post(self, path: str, fields: Any, runtime: FakeRuntime | None = None, headers: Any = ()) -> AsgiReply:
        body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
        return await call(RestDoor(runtime or FakeRuntime()), "POST", path, body, headers)

    async def test_rows_and_columns(self) -> None:
        path = "/v1/models/double:predict"
        rows = await self.post(path, {"instances": [[1.5, 2.0], [3.0, 4.0]], "unheard_of": 1})
        assert rows.json() == {"predictions": [[3.0, 4.0], [6.0, 8.0]]}
        assert rows.headers["content-type"] == "application/json"
        assert rows.headers["aimass-served-by"] == "edge"
        assert (await self.post(path, {"inputs": {"x": [[1, 2]]}})).json() == {"outputs": [[2.0, 4.0]]}

    async def test_a_degraded_answer_says_so(self) -> None:
        answer = Answer({"y": np.zeros((1, 2), np.float32)}, "double", "1", degraded=True)
        reply = await self.post(
            "/v1/models/double:predict", {"instances": [[1, 2]]}, FakeRuntime(answer=lambda _: answer)
        )
        assert reply.headers["aimass-degraded"] == "true"

    async def test_nan_stays_nan(self) -> None:
        reply = await self.post("/v1/models/double:predict", b'{"instances": [[NaN, Infinity]]}')
        assert reply.body == b'{"predictions":[[NaN,Infinity]]}'

    async def test_large_bodies_give_the_same_answer(self) -> None:
        rows = np.arange(80_000, dtype=np.float32).reshape(-1, 2)
        reply = await self.post("/v1/models/double:predict", {"instances": rows.tolist()})
        assert reply.json()["predictions"] == (rows * 2).tolist()

    @pytest.mark.parametrize("path", ["/v1/models/double/versions/3:predict", "/V1/Models/double/Versions/3:PREDICT"])
    async def test_versions_and_capitals(self, path: str) -> None:
        runtime = FakeRuntime(info(version=3))
        assert (await self.post(path, {"instances": [[1, 2]]}, runtime)).status == 200
        asked: InferRequest = runtime.asked[0][0]
        assert (asked.model, asked.version) == ("double", "3")

    async def test_status_serves_both_kinds_of_clients(self) -> None:
        door = RestDoor(FakeRuntime(info(version=1), info(version=2)))
        told = (await call(door, "GET", "/v1/models/double")).json()
        assert (told["name"], told["ready"]) == ("double", True)
        assert [one["version"] for one in told["model_version_status"]] == ["1", "2"]
        one = (await call(door, "GET", "/v1/models/double/versions/2")).json()["model_version_status"]
        assert [row["state"] for row in one] == ["AVAILABLE"]

    async def test_the_list_serves_both_kinds_too(self) -> None:
        told = (await call(RestDoor(FakeRuntime(info("b"), info("a"), info("a", 2))), "GET", "/v1/models")).json()
        assert told["models"] == ["a", "b"]
        assert [one["id"] for one in told["data"]] == ["a", "b"]

    async def test_metadata_has_the_signature(self) -> None:
        told = (await call(RestDoor(FakeRuntime()), "GET", "/v1/models/double/metadata")).json()
        signature = told["metadata"]["signature_def"]["signature_def"]["serving_default"]
        assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
        assert [dim["size"] for dim in signature["outputs"]["y"]["tensor_shape"]["dim"]] == ["-1", "2"]
        assert (await call(RestDoor(FakeRuntime()), "GET", "/v1/models/double/versions/1/metadata")).status == 200

    @pytest.mark.parametrize(
        ("fields", "text"),
        [
            ({"instances": [1], "inputs": [1]}, "exactly one"),
            ({}, "exactly one"),
            ({"instances": []}, "at least one"),
            ({"signature_name": "other", "instances": [1]}, "signature"),
            (b"[1]", "object"),
            (b"nonsense", "JSON"),
            (b'{"instances": ' + b"[" * 1000 + b"]" * 1000 + b"}", "nested"),
        ],
    )
    async def test_wrong_bodies_are_400(self, fields: Any, text: str) -> None:
        reply = await self.post("/v1/models/double:predict", fields)
        assert reply.status == 400
        assert text in reply.json()["error"]

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("POST", "/v1/models/nobody:predict", 404),
            ("POST", "/v1/models/double/versions/9:predict", 404),
            ("POST", "/v1/models/double/versions/x:predict", 404),
            ("POST", "/v1/models/double/labels/stable:predict", 404),
            ("POST", "/v1/models/double/labels/st-able:predict", 400),
            ("POST", "/v1/models/double/versions/1/labels/a:predict", 400),
            ("POST", "/v1/models/double:classify", 501),
            ("POST", "/v1/models/double:nonsense", 404),
            ("POST", "/v1/models/double/metadata:predict", 404),
            ("POST", "/v1/models/double", 405),
            ("POST", "/v1/models", 405),
            ("GET", "/v1/models/double:predict", 405),
            ("GET", "/v1/models/nobody", 404),
            ("GET", "/v1/models/nobody/metadata", 404),
            ("GET", "/v1/models/double/nonsense", 404),
            ("GET", "/v1/models/double/versions", 404),
            ("GET", "/v1/models//versions/1", 404),
            ("GET", "/v1/nonsense", 404),
            ("GET", "/v1/models/metadata", 404),
        ],
    )
    async def test_every_refusal_is_an_error_object(self, method: str, path: str, status: int) -> None:
        reply = await call(RestDoor(FakeRuntime()), method, path, b'{"instances": [[1, 2]]}')
        assert reply.status == status
        assert reply.json()["error"]
        assert reply.headers["content-type"] == "application/json"

    async def test_bounds_hold_for_both_protocols_together(self) -> None:
        door = RestDoor(FakeRuntime(), settings=DoorSettings(max_json_bytes=40))
        body = json.dumps({"instances": [[1, 2]] * 10}).encode()
        assert (await call(door, "POST", "/v1/models/double:predict", body)).status == 413
        assert (await call(door, "GET", "/v2")).status == 200
