import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from aimass.cli.cloud_api import CloudApi
from aimass.errors import AuthError, ConfigError, ConnectError, NotFoundError, RemoteError

Answer = Callable[[httpx.Request], httpx.Response]


def api(answer: Answer) -> CloudApi:
    return CloudApi("https://cloud.test", "k1", transport=httpx.MockTransport(answer))


def test_shows_the_api_key_as_bearer() -> None:
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return httpx.Response(200, json={"id": "gw-1"})

    with api(answer) as cloud:
        assert cloud.device("gw-1") == {"id": "gw-1"}
    assert seen == ["Bearer k1"]


def test_follows_all_pages() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        cursor = request.url.params.get("cursor", "")
        following = {"": "b", "b": "c", "c": None}[cursor]
        return httpx.Response(200, json={"items": [{"id": f"gw-{cursor or 'a'}"}], "next": following})

    with api(answer) as cloud:
        assert [device["id"] for device in cloud.devices()] == ["gw-a", "gw-b", "gw-c"]


def test_events_are_asked_by_stream_and_position() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/devices/gw-1/events"
        assert request.url.params["stream"] == "answers"
        assert request.url.params["after"] == "7"
        return httpx.Response(200, json={"items": [{"seq": 8}], "next": None})

    with api(answer) as cloud:
        assert list(cloud.events("gw-1", "answers", after=7)) == [{"seq": 8}]


def test_posts_carry_an_idempotency_key_of_their_own() -> None:
    keys = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        return httpx.Response(201, json={"token": "aimass1.x"})

    with api(answer) as cloud:
        cloud.enrol_token("gw-1")
        cloud.enrol_token("gw-1")
    assert len(set(keys)) == 2


def test_uploads_manifest_and_file_together(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"onnx bytes")

    def answer(request: httpx.Request) -> httpx.Response:
        body = request.read()
        assert b"onnx bytes" in body
        assert json.dumps({"name": "m", "labels": ["a"], "metrics": {"accuracy": 0.9}}).encode() in body
        return httpx.Response(201, json={"name": "m", "version": 1})

    with api(answer) as cloud:
        assert cloud.push_model(path, "m", labels=("a",), metrics={"accuracy": 0.9})["version"] == 1


def test_a_deployment_names_one_device_or_all() -> None:
    bodies = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.read()))
        return httpx.Response(201, json={"version": 3})

    with api(answer) as cloud:
        cloud.deploy("m", device="gw-1", alias="champion")
        cloud.deploy("m", device=None, version=3)
    assert bodies == [
        {"model": "m", "target": {"device": "gw-1"}, "alias": "champion"},
        {"model": "m", "target": {"all": True}, "version": 3},
    ]


@pytest.mark.parametrize(("status", "kind"), [(401, AuthError), (404, NotFoundError), (409, RemoteError)])
def test_a_problem_becomes_the_named_error_with_its_hint(status: int, kind: type[Exception]) -> None:
    problem = {"title": "no", "detail": "not so", "code": "store.x", "retryable": True, "hint": "do that"}
    with api(lambda _: httpx.Response(status, json=problem)) as cloud, pytest.raises(kind, match="not so") as caught:
        cloud.models()
    assert caught.value.hint == "do that"
    assert caught.value.retryable
    assert caught.value.remote_code == "store.x"


def test_an_answer_that_is_no_problem_json_is_told_as_it_is() -> None:
    with api(lambda _: httpx.Response(502, text="<html>")) as cloud, pytest.raises(RemoteError, match="502"):
        cloud.models()


def test_an_unreachable_cloud_is_a_connect_error() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with api(answer) as cloud:
        assert not cloud.ready()
        with pytest.raises(ConnectError, match="refused"):
            cloud.models()


def test_a_missing_ca_file_is_named() -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        CloudApi("https://cloud.test", "k", ca=Path("/nowhere/ca.pem"))
