"""The extensions of the Open Inference Protocol: raw requests, classes, repository, statistics, configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from aimass.errors import InputError, ModelNotFoundError
from aimass.runtime.answer import Answer
from aimass.serving.oip import OipDoor
from aimass.serving.raw import raw_request, with_expected_shape
from aimass.serving.wishes import classified
from aimass.wire.messages import InferRequest
from aimass.wire.tensor import Datatype, Tensor, TensorSpec
from tests.fakes.asgi import AsgiCall, AsgiReply, call
from tests.fakes.models import FakeRuntime, info

INFER = "/v2/models/double/infer"
FRAMING = "Inference-Header-Content-Length"


def one_input(datatype: Datatype, shape: Sequence[int]) -> Any:
    return info(inputs=(TensorSpec("x", datatype, tuple(shape)),))


class TestRawRequests:
    @pytest.mark.parametrize(
        ("shape", "elements", "got"),
        [
            ([-1], 6, (6,)),
            ([-1, 2], 6, (3, 2)),
            ([2, 3], 6, (2, 3)),
            ([-1, -1], 6, (1, 6)),
            ([2, -1], 6, (2, 3)),
            ([-1, 2, -1], 6, (1, 2, 3)),
            ([], 1, ()),
            ([-1], 0, (0,)),
        ],
    )
    def test_the_shape_follows_from_the_size(self, shape: list[int], elements: int, got: tuple[int, ...]) -> None:
        body = np.arange(elements, dtype=np.float32).tobytes()
        request = raw_request(one_input(Datatype.FP32, shape), body, "")
        assert request.inputs[0].shape == got
        assert request.inputs[0].data.reshape(-1).tolist() == list(range(elements))

    @pytest.mark.parametrize("shape", [[-1, -1, -1], [2, -1, -1]])
    def test_or_it_is_refused(self, shape: list[int]) -> None:
        with pytest.raises(InputError, match="does not follow"):
            raw_request(one_input(Datatype.FP32, shape), bytes(24), "")

    def test_two_inputs_are_refused(self) -> None:
        spec = TensorSpec("x", Datatype.FP32, (-1,))
        with pytest.raises(InputError, match="one input"):
            raw_request(info(inputs=(spec, spec)), bytes(24), "")

    def test_a_text_has_no_length_before_it(self) -> None:
        request = raw_request(one_input(Datatype.BYTES, [-1]), b"just\x00this", "")
        assert request.inputs[0].data.tolist() == [b"just\x00this"]
        with pytest.raises(InputError, match="one text"):
            raw_request(one_input(Datatype.BYTES, [2]), b"x", "")

    async def test_the_answer_is_binary(self) -> None:
        body = np.array([[1.5, -2.0]], np.float32).tobytes()
        reply = await call(OipDoor(FakeRuntime()), "POST", INFER, body, {FRAMING: "0"})
        assert reply.body[int(reply.headers[FRAMING.lower()]) :] == np.array([3.0, -4.0], np.float32).tobytes()

    async def test_an_unknown_model_is_404(self) -> None:
        reply = await call(OipDoor(FakeRuntime()), "POST", "/v2/models/nobody/infer", b"", {FRAMING: "0"})
        assert reply.status == 404


class TestClasses:
    def texts(self, values: Any, count: int, labels: tuple[str, ...] = (), datatype: Datatype | None = None) -> Any:
        return classified(Tensor.from_array("y", values, datatype), count, labels).data.tolist()

    def test_best_first_with_six_decimals(self) -> None:
        assert self.texts(np.array([[0.1, 0.7, -2.5]], np.float32), 2) == [[b"0.700000:1", b"0.100000:0"]]

    def test_labels_only_when_there_is_one_for_each_class(self) -> None:
        scores = np.array([[1.0, 2.0]], np.float64)
        assert self.texts(scores, 1, ("no", "yes")) == [[b"2.000000:1:yes"]]
        assert self.texts(scores, 1, ("no", "yes", "maybe")) == [[b"2.000000:1"]]

    def test_without_a_batch_there_is_one_row(self) -> None:
        assert self.texts(np.array([3, 9, 4], np.int64), 5) == [b"9:1", b"4:2", b"3:0"]

    def test_further_dimensions_are_one_row_of_classes(self) -> None:
        assert self.texts(np.arange(8, dtype=np.float32).reshape(2, 2, 2), 1) == [[b"3.000000:3"], [b"7.000000:3"]]

    def test_not_a_number_is_worst_and_equals_keep_their_order(self) -> None:
        assert self.texts(np.array([np.nan, 1.0, 1.0], np.float32), 3) == [b"1.000000:1", b"1.000000:2", b"nan:0"]

    def test_equal_and_unsigned_whole_numbers_keep_their_order_too(self) -> None:
        assert self.texts(np.array([5, 0, 5], np.uint8), 3) == [b"5:0", b"5:2", b"0:1"]
        assert self.texts(np.array([-128, 127], np.int8), 2) == [b"127:1", b"-128:0"]

    def test_brain_floats_are_numbers_too(self) -> None:
        assert self.texts(np.array([0x3F80, 0x4000], np.uint16), 1, (), Datatype.BF16) == [b"2.000000:1"]

    def test_an_empty_batch_has_no_rows(self) -> None:
        out = classified(Tensor.from_array("y", np.zeros((0, 4), np.float32)), 2, ())
        assert out.shape[0] == 0

    @pytest.mark.parametrize("values", [np.array([b"x"], object), np.array([True]), np.float32(1.0)])
    def test_what_has_no_classes_is_refused(self, values: Any) -> None:
        with pytest.raises(InputError):
            self.texts(values, 1)

    async def test_through_the_door_with_the_models_labels(self) -> None:
        runtime = FakeRuntime(
            info(labels=("a", "b", "c")), answer=lambda _: Answer({"y": np.array([[1.0, 3.0, 2.0]])}, "double", "1")
        )
        wish = {"name": "y", "parameters": {"classification": 2}}
        body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}], "outputs": [wish]}
        reply = await call(OipDoor(runtime), "POST", INFER, json.dumps(body).encode())
        (output,) = reply.json()["outputs"]
        assert (output["shape"], output["datatype"]) == ([1, 2], "BYTES")
        assert output["data"] == ["3.000000:1:b", "2.000000:2:c"]


class Shelf:
    """A repository in memory."""

    def __init__(self, *installed: tuple[str, int]) -> None:
        self.have = list(installed)
        self.asked: list[tuple[Any, ...]] = []

    def installed(self) -> list[tuple[str, int]]:
        return self.have

    def load(self, name: str, version: int | None = None) -> None:
        self.asked.append(("load", name, version))
        if not any(one == name for one, _ in self.have):
            raise ModelNotFoundError(f"{name} is not installed")

    def unload(self, name: str) -> None:
        self.asked.append(("unload", name))


class TestRepository:
    async def post(self, door: OipDoor, path: str, body: Any = b"") -> AsgiReply:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await call(door, "POST", f"/v2/repository/{path}", raw)

    async def test_the_index_has_what_answers_and_what_is_only_installed(self) -> None:
        door = OipDoor(FakeRuntime(info(version=2)), repository=Shelf(("double", 1), ("double", 2), ("other", 1)))
        assert (await self.post(door, "index")).json() == [
            {"name": "double", "version": "1", "state": "UNAVAILABLE", "reason": "installed, not loaded"},
            {"name": "double", "version": "2", "state": "READY"},
            {"name": "other", "version": "1", "state": "UNAVAILABLE", "reason": "installed, not loaded"},
        ]
        assert [row["state"] for row in (await self.post(door, "index", {"ready": True})).json()] == ["READY"]

    async def test_the_index_needs_no_length_and_refuses_nonsense(self) -> None:
        door = OipDoor(FakeRuntime())
        assert (await AsgiCall(door, "POST", "/v2/repository/index").feed(b"").run()).status == 200
        for body in (b"[]", b"nonsense", {"ready": "yes"}):
            assert (await self.post(door, "index", body)).status == 400
        assert (await call(door, "GET", "/v2/repository/index")).status == 405
        assert (await self.post(door, "nonsense")).status == 404

    async def test_load_and_unload_take_installed_models(self) -> None:
        shelf = Shelf(("double", 1))
        door = OipDoor(FakeRuntime(), repository=shelf)
        for path, body in (
            ("models/double/load", b""),
            ("models/double/load", {"parameters": {"version": "1"}}),
            ("models/double/unload", {"parameters": {"unload_dependents": True}}),
        ):
            reply = await self.post(door, path, body)
            assert (reply.status, reply.body) == (200, b"")
        assert shelf.asked == [("load", "double", None), ("load", "double", 1), ("unload", "double")]
        assert (await self.post(door, "models/stranger/load")).status == 404

    @pytest.mark.parametrize(
        ("parameters", "status"),
        [
            ({"file:1/model.onnx": "AAAA"}, 403),
            ({"config": "{}"}, 403),
            ({"version": "x"}, 400),
            ({"version": True}, 400),
        ],
    )
    async def test_nothing_unsigned_gets_in(self, parameters: dict[str, Any], status: int) -> None:
        shelf = Shelf(("double", 1))
        door = OipDoor(FakeRuntime(), repository=shelf)
        reply = await self.post(door, "models/double/load", {"parameters": parameters})
        assert (reply.status, shelf.asked) == (status, [])
        assert reply.json()["error"]

    async def test_a_door_without_a_repository_loads_nothing(self) -> None:
        for verb in ("load", "unload"):
            reply = await self.post(OipDoor(FakeRuntime()), f"models/double/{verb}")
            assert (reply.status, reply.json()["parameters"]["code"]) == (501, "identity.forbidden")

    async def test_an_installed_model_that_does_not_answer_is_503_on_ready_only(self) -> None:
        door = OipDoor(FakeRuntime(), repository=Shelf(("asleep", 1)))
        assert (await call(door, "GET", "/v2/models/asleep/ready")).status == 503
        assert (await call(door, "GET", "/v2/models/asleep")).status == 404
        assert (await call(door, "GET", "/v2/models/nobody/ready")).status == 404


class TestStatisticsAndConfiguration:
    async def test_successes_and_failures_are_counted_by_version(self) -> None:
        runtime = FakeRuntime(info(version=1), info(version=2), info("other"))
        door = OipDoor(runtime)
        good = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}).encode()
        for _ in range(2):
            await call(door, "POST", INFER, good)
        await call(door, "POST", "/v2/models/double/versions/2/infer", good)
        runtime._answer = lambda _: InputError("no")
        await call(door, "POST", INFER, good)
        rows = (await call(door, "GET", "/v2/models/double/stats")).json()["model_stats"]
        counts = [(row["version"], row["inference_count"], row["inference_stats"]["fail"]["count"]) for row in rows]
        assert counts == [("1", 2, 1), ("2", 1, 0)]
        assert rows[0]["inference_stats"]["success"] == {"count": 2, "ns": 1_000_000}
        assert rows[0]["last_inference"] > 0
        (one,) = (await call(door, "GET", "/v2/models/double/versions/2/stats")).json()["model_stats"]
        assert one["version"] == "2"
        assert len((await call(door, "GET", "/v2/models/stats")).json()["model_stats"]) == 3
        assert (await call(door, "GET", "/v2/models/nobody/stats")).status == 404

    async def test_configuration_in_tritons_words(self) -> None:
        told = (
            await call(OipDoor(FakeRuntime(one_input(Datatype.BYTES, [-1, 3]))), "GET", "/v2/models/double/config")
        ).json()
        assert told["input"] == [{"name": "x", "data_type": "TYPE_STRING", "dims": [-1, 3]}]
        assert told["max_batch_size"] == 0


def test_the_expected_shape_is_repeated_as_clients_write_it() -> None:
    error = InputError("wrong", input="x", wanted="FP32 [any, 2]", got="FP32 [2]")
    told = with_expected_shape(error, info())
    assert told.message == "wrong (expected shape [-1,2]; the first dimension is the batch)"
    plain = InputError("another fault", input="stranger")
    assert with_expected_shape(plain, info()) is plain


async def test_whole_numbers_beyond_two_to_53_stay_exact() -> None:
    def same(request: InferRequest) -> Answer:
        return Answer({"y": request.inputs[0].data}, "double", "1")

    values = [2**53 + 1, -(2**63), 2**63 - 1]
    body = {"inputs": [{"name": "x", "shape": [3], "datatype": "INT64", "data": values}]}
    reply = await call(OipDoor(FakeRuntime(answer=same)), "POST", INFER, json.dumps(body).encode())
    assert reply.json()["outputs"][0]["data"] == values
