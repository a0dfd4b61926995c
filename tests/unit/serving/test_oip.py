"""The Open Inference Protocol door: what it translates, and how it refuses."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from aimass.errors import DeadlineError, EngineRunError, InputError, ModelNotFoundError, OverloadError
from aimass.placement.policy import Mode, Policy
from aimass.runtime.answer import Answer
from aimass.serving.oip import DoorSettings, OipDoor
from aimass.wire.messages import InferRequest
from aimass.wire.oip import Limits
from aimass.wire.tensor import Datatype, TensorSpec
from tests.fakes.asgi import AsgiCall, AsgiReply, call
from tests.fakes.models import FakeRuntime, doubled, info

INFER = "/v2/models/double/infer"
X = np.array([[1.5, -2.0]], np.float32)


def as_json(**changes: Any) -> bytes:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.5, -2.0]}
    return json.dumps({"inputs": [tensor], **changes}).encode()


def as_binary(array: np.ndarray[Any, Any] = X, **changes: Any) -> tuple[bytes, dict[str, str]]:
    raw = array.tobytes()
    tensor = {
        "name": "x", "shape": list(array.shape), "datatype": "FP32", "parameters": {"binary_data_size": len(raw)}
    }  # fmt: skip
    head = json.dumps({"inputs": [tensor], **changes}).encode()
    return head + raw, {"Inference-Header-Content-Length": str(len(head))}


async def post(door: OipDoor, body: bytes, headers: Any = (), path: str = INFER) -> AsgiReply:
    return await call(door, "POST", path, body, headers)


class TestDescriptions:
    async def test_server_names_itself_and_the_binary_extension(self) -> None:
        door = OipDoor(FakeRuntime(), settings=DoorSettings(version="9"))
        for path in ("/v2", "/v2/"):
            reply = await call(door, "GET", path)
            told = reply.json()
            assert (told["name"], told["version"]) == ("aimass", "9")
            assert "binary_tensor_data" in told["extensions"]

    async def test_health_has_a_body_for_clients_that_parse_it(self) -> None:
        door = OipDoor(FakeRuntime())
        live, ready = await call(door, "GET", "/v2/health/live"), await call(door, "GET", "/v2/health/ready")
        assert (live.status, live.json()) == (200, {"live": True})
        assert (ready.status, ready.json()) == (200, {"ready": True, "live": True})

    async def test_not_ready_is_503_with_an_error_object(self) -> None:
        reply = await call(OipDoor(FakeRuntime(), ready=lambda: False), "GET", "/v2/health/ready")
        assert reply.status == 503
        assert "not ready" in reply.json()["error"]

    async def test_metadata_lists_all_versions_and_shapes_with_minus_one(self) -> None:
        reply = await call(OipDoor(FakeRuntime(info(version=2), info(version=10))), "GET", "/v2/models/double")
        assert reply.json() == {
            "name": "double",
            "versions": ["2", "10"],
            "platform": "fake",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
        }

    async def test_metadata_of_one_version_names_only_that(self) -> None:
        door = OipDoor(FakeRuntime(info(version=2), info(version=10)))
        assert (await call(door, "GET", "/v2/models/double/versions/10")).json()["versions"] == ["10"]

    @pytest.mark.parametrize("path", ["/v2/models/double/ready", "/v2/models/double/versions/1/ready"])
    async def test_model_ready(self, path: str) -> None:
        reply = await call(OipDoor(FakeRuntime()), "GET", path)
        assert reply.json() == {"name": "double", "version": "1", "ready": True}

    @pytest.mark.parametrize("tail", ["", "/ready", "/versions/7", "/versions/7/ready", "/versions/x"])
    async def test_unknown_model_or_version_is_404(self, tail: str) -> None:
        name = "nope" if "versions" not in tail else "double"
        reply = await call(OipDoor(FakeRuntime()), "GET", f"/v2/models/{name}{tail}")
        assert reply.status == 404
        assert reply.json()["parameters"]["code"] == "model.not_found"

    async def test_model_names_are_percent_decoded_one_segment_at_a_time(self) -> None:
        door = OipDoor(FakeRuntime(info("a/b")))
        assert (await call(door, "GET", "/v2/models/a%2Fb")).json()["name"] == "a/b"


class TestInfer:
    async def test_json_in_json_out(self) -> None:
        reply = await post(OipDoor(FakeRuntime()), as_json(id="7", model_name="ignored"))
        assert reply.headers["content-type"] == "application/json"
        answer = reply.json()
        assert answer["id"] == "7"
        assert answer["model_version"] == "1"
        assert answer["outputs"] == [{"name": "y", "shape": [1, 2], "datatype": "FP32", "data": [3.0, -4.0]}]
        assert answer["parameters"]["served_by"] == "edge"

    async def test_an_id_that_was_not_sent_does_not_come_back(self) -> None:
        assert "id" not in (await post(OipDoor(FakeRuntime()), as_json())).json()

    async def test_binary_in_binary_out_without_any_content_type(self) -> None:
        body, headers = as_binary(parameters={"binary_data_output": True})
        reply = await post(OipDoor(FakeRuntime()), body, {key.lower(): value for key, value in headers.items()})
        assert reply.headers["content-type"] == "application/octet-stream"
        length = int(reply.headers["inference-header-content-length"])
        head = json.loads(reply.body[:length])
        assert head["outputs"][0]["parameters"] == {"binary_data_size": 8}
        assert np.frombuffer(reply.body[length:], np.float32).tolist() == [3.0, -4.0]

    async def test_json_in_binary_out_and_the_outputs_own_wish_wins(self) -> None:
        wish = {"name": "y", "parameters": {"binary_data": False}}
        reply = await post(OipDoor(FakeRuntime()), as_json(parameters={"binary_data_output": True}, outputs=[wish]))
        assert reply.json()["outputs"][0]["data"] == [3.0, -4.0]

    async def test_large_json_gives_the_same_answer(self) -> None:
        values = np.arange(200_000, dtype=np.float32)
        tensor = {"name": "x", "shape": [100_000, 2], "datatype": "FP32", "data": values.tolist()}
        reply = await post(OipDoor(FakeRuntime()), json.dumps({"inputs": [tensor]}).encode())
        assert reply.json()["outputs"][0]["data"] == (values * 2).tolist()

    async def test_half_floats_as_json_are_refused_with_the_way_out(self) -> None:
        outputs = (TensorSpec("y", Datatype.FP16, (-1,)),)
        half = Answer({"y": np.ones(2, np.float16)}, "double", "1")
        reply = await post(OipDoor(FakeRuntime(info(outputs=outputs), answer=lambda _: half)), as_json())
        assert reply.status == 400
        assert "binary" in reply.json()["parameters"]["hint"]

    async def test_nan_stays_nan(self) -> None:
        answer = Answer({"y": np.array([np.nan], np.float32)}, "double", "1")
        reply = await post(OipDoor(FakeRuntime(answer=lambda _: answer)), as_json())
        assert b"NaN" in reply.body

    async def test_reserved_parameters_become_arguments_of_the_call(self) -> None:
        runtime = FakeRuntime()
        parameters = {"timeout": 250_000, "policy": "never_worse", "mode": "cloud", "priority": 1}
        assert (await post(OipDoor(runtime), as_json(parameters=parameters))).status == 200
        assert runtime.asked[0][1] == {"deadline_s": 0.25, "policy": Policy.NEVER_WORSE, "mode": Mode.CLOUD}

    @pytest.mark.parametrize(("timeout", "deadline_s"), [(0, None), (2.5e5, 0.25), (2**64 - 1, 86_400.0)])
    async def test_timeouts_of_any_number_type_are_taken_and_bounded(self, timeout: Any, deadline_s: Any) -> None:
        runtime = FakeRuntime()
        assert (await post(OipDoor(runtime), as_json(parameters={"timeout": timeout}))).status == 200
        assert runtime.asked[0][1]["deadline_s"] == deadline_s

    async def test_without_parameters_the_doors_own_policy_holds(self) -> None:
        runtime = FakeRuntime()
        door = OipDoor(runtime, settings=DoorSettings(policy=Policy.NEVER_WORSE))
        assert (await post(door, as_json())).status == 200
        assert runtime.asked[0][1] == {"deadline_s": None, "policy": Policy.NEVER_WORSE, "mode": Mode.AUTO}

    async def test_the_path_names_version_and_model(self) -> None:
        runtime = FakeRuntime(info(version=3))
        assert (await post(OipDoor(runtime), as_json(), path="/v2/models/double/versions/3/infer")).status == 200
        assert (runtime.asked[0][0].model, runtime.asked[0][0].version) == ("double", "3")


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "headers"),
        [
            pytest.param(b"", {}, id="empty body"),
            pytest.param(b"nonsense", {}, id="not JSON"),
            pytest.param(b"[1]", {}, id="not an object"),
            pytest.param(b"{}", {}, id="no inputs"),
            pytest.param(as_json(id=7), {}, id="a number as id"),
            pytest.param(
                as_json(inputs=[{"name": "x", "shape": [3], "datatype": "FP32", "data": [1]}]), {}, id="short"
            ),
            pytest.param(as_json(inputs=[{"name": "x", "shape": [1], "datatype": "FP99", "data": [1]}]), {}, id="type"),
            pytest.param(as_json(parameters={"timeout": -1}), {}, id="negative timeout"),
            pytest.param(as_json(parameters={"timeout": "soon"}), {}, id="timeout is text"),
            pytest.param(as_json(parameters={"policy": "best"}), {}, id="unknown policy"),
            pytest.param(as_json(parameters={"mode": True}), {}, id="unknown mode"),
            pytest.param(as_json(parameters={"priority": "high"}), {}, id="priority is text"),
            pytest.param(as_json(parameters={"triton_x": 1}), {}, id="a reserved name"),
            pytest.param(as_json(parameters={"binary_data_output": 1}), {}, id="a wish that is no truth value"),
            pytest.param(as_json(outputs=[{"name": "y", "parameters": {"classification": -1}}]), {}, id="classes"),
            pytest.param(as_json(), {"Inference-Header-Content-Length": "99999"}, id="framing beyond the body"),
            pytest.param(as_json(), {"Inference-Header-Content-Length": "-1"}, id="framing negative"),
            pytest.param(as_json(), {"Inference-Header-Content-Length": "x"}, id="framing is text"),
            pytest.param(as_json()[:7], {"Inference-Header-Content-Length": "0"}, id="raw of a broken size"),
            pytest.param(as_json(), {"Content-Length": "many"}, id="length is text"),
            pytest.param(as_binary()[0][:-1], as_binary()[1], id="truncated tensor"),
            pytest.param(as_binary()[0] + b"x", as_binary()[1], id="bytes left over"),
        ],
    )
    async def test_garbage_is_400_and_never_reaches_the_runtime(self, body: bytes, headers: Any) -> None:
        runtime = FakeRuntime()
        reply = await post(OipDoor(runtime), body, headers)
        assert reply.status == 400
        assert reply.headers["content-type"] == "application/json"
        assert set(reply.json()) == {"error", "parameters"}
        assert not runtime.asked

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (InputError("shape"), 400),
            (ModelNotFoundError("none"), 404),
            (OverloadError("full"), 503),
            (DeadlineError("late"), 504),
            (EngineRunError("broke"), 500),
        ],
    )
    async def test_errors_of_the_runtime_keep_their_code(self, error: Any, status: int) -> None:
        reply = await post(OipDoor(FakeRuntime(answer=lambda _: error)), as_json())
        assert reply.status == status
        assert reply.json()["error"] == error.message
        assert reply.json()["parameters"]["code"] == error.code
        assert ("retry-after" in reply.headers) == isinstance(error, OverloadError)

    async def test_a_fault_of_ours_is_500_with_an_error_object(self) -> None:
        def broken(request: InferRequest) -> Answer:
            raise ZeroDivisionError

        reply = await post(OipDoor(FakeRuntime(answer=broken)), as_json())
        assert reply.status == 500
        assert reply.json()["parameters"]["code"] == "internal"

    @pytest.mark.parametrize("path", ["/", "/v3", "/v2/nope", "/v2/models", "/v2/models/double/x", "/v2/models/a/b/c"])
    async def test_unknown_paths_are_404_with_an_error_object(self, path: str) -> None:
        reply = await call(OipDoor(FakeRuntime()), "GET", path)
        assert (reply.status, reply.json()["parameters"]["code"]) == (404, "store.not_found")

    @pytest.mark.parametrize(("method", "path", "allowed"), [("GET", INFER, "POST"), ("POST", "/v2", "GET")])
    async def test_wrong_verbs_are_405_and_say_which_is_right(self, method: str, path: str, allowed: str) -> None:
        reply = await call(OipDoor(FakeRuntime()), method, path)
        assert (reply.status, reply.headers["allow"]) == (405, allowed)
        assert reply.json()["error"]

    async def test_an_unknown_compression_is_501_and_says_which_are_known(self) -> None:
        reply = await post(OipDoor(FakeRuntime()), b"x", {"Content-Encoding": "br"})
        assert (reply.status, reply.headers["accept-encoding"]) == (501, "gzip, deflate")

    async def test_a_path_that_is_not_utf8_is_400(self) -> None:
        assert (await call(OipDoor(FakeRuntime()), "GET", "/v2/models/%FF")).status == 400


class TestBounds:
    SMALL = DoorSettings(limits=Limits(max_message_bytes=1000), body_timeout_s=0.05)

    async def test_a_declared_length_above_the_limit_is_refused_before_the_body_comes(self) -> None:
        reply = await AsgiCall(
            OipDoor(FakeRuntime(), settings=self.SMALL), "POST", INFER, {"Content-Length": "1001"}
        ).run()
        assert reply.status == 413

    async def test_a_body_that_grows_above_the_limit_is_refused_though_undeclared(self) -> None:
        reply = await call(OipDoor(FakeRuntime(), settings=self.SMALL), "POST", INFER, [b"x" * 600, b"x" * 600])
        assert reply.status == 413

    @pytest.mark.parametrize("begun", [False, True])
    async def test_a_sender_that_stalls_is_given_up(self, begun: bool) -> None:
        stalled = AsgiCall(OipDoor(FakeRuntime(), settings=self.SMALL), "POST", INFER)
        if begun:
            stalled.feed(b"{", last=False)
        reply = await stalled.run()
        assert (reply.status, reply.json()["parameters"]["code"]) == (504, "deadline")

    async def test_bodies_in_flight_are_bounded_together_and_the_room_comes_back(self) -> None:
        settings = DoorSettings(limits=Limits(max_message_bytes=1000), max_pending_bytes=1500, body_timeout_s=5)
        door = OipDoor(FakeRuntime(), settings=settings)
        first = AsgiCall(door, "POST", INFER, {"Content-Length": "1000"})
        running = asyncio.create_task(first.run())
        await asyncio.sleep(0)
        assert (await AsgiCall(door, "POST", INFER, {"Content-Length": "900"}).run()).status == 503
        first.go_away()
        await running
        assert (await post(door, as_json(), {"Content-Length": str(len(as_json()))})).status == 200

    async def test_json_without_a_binary_part_may_be_longer_than_a_header(self) -> None:
        settings = DoorSettings(limits=Limits(max_header_bytes=100), max_json_bytes=100_000)
        tensor = {"name": "x", "shape": [50, 2], "datatype": "FP32", "data": [1.0] * 100}
        assert (await post(OipDoor(FakeRuntime(), settings=settings), as_json(inputs=[tensor]))).status == 200

    async def test_a_client_that_goes_away_takes_its_request_back(self) -> None:
        runtime = FakeRuntime(answer=None)
        gone = AsgiCall(OipDoor(runtime), "POST", INFER).feed(as_json())
        running = asyncio.create_task(gone.run())
        gone.go_away()
        await asyncio.wait_for(running, 5)
        assert runtime.futures[0].cancelled()

    async def test_a_slow_request_is_answered_though_its_socket_is_watched(self) -> None:
        runtime = FakeRuntime(answer=None)
        running = asyncio.create_task(post(OipDoor(runtime), as_json()))
        while not runtime.futures:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)  # longer than the door waits before it watches the socket
        runtime.futures[0].set_result(doubled(runtime.asked[0][0]))
        assert (await asyncio.wait_for(running, 5)).status == 200

    async def test_health_is_answered_while_a_request_waits(self) -> None:
        runtime = FakeRuntime(answer=None)
        door = OipDoor(runtime)
        running = asyncio.create_task(post(door, as_json()))
        assert (await asyncio.wait_for(call(door, "GET", "/v2/health/live"), 1)).status == 200
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
