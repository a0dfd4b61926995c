"""The management verbs on the Unix socket."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from aimass.client.describe import model_from_dict
from aimass.errors import NoSpaceError
from aimass.serving.oip import OipDoor
from aimass_edge.door import MAX_RECORD_BYTES, ManagementDoor
from tests.fakes.asgi import call
from tests.fakes.models import FakeRuntime, info


class FakeOutbox:
    def __init__(self) -> None:
        self.kept: list[tuple[str, str, Mapping[str, Any]]] = []
        self.ids: list[str] = []
        self.is_full = False

    def append(self, stream: str, kind: str, data: Mapping[str, Any], *, id: str = "") -> int:  # noqa: A002
        if self.is_full:
            raise NoSpaceError("full")
        self.kept.append((stream, kind, data))
        self.ids.append(id)
        return len(self.kept)


@pytest.fixture
def outbox() -> FakeOutbox:
    return FakeOutbox()


@pytest.fixture
def door(outbox: FakeOutbox) -> Iterator[ManagementDoor]:
    runtime = FakeRuntime(info(version=2), info(version=3))
    door = ManagementDoor(runtime, outbox, lambda: {"id": "gw-1"}, OipDoor(runtime))
    yield door
    door.close()


async def test_status(door: ManagementDoor) -> None:
    assert (await call(door, "GET", "/v1/agent/status")).json() == {"id": "gw-1"}


async def test_models_come_back_as_they_are(door: ManagementDoor) -> None:
    reply = await call(door, "GET", "/v1/agent/models")
    assert [model_from_dict(one) for one in reply.json()["models"]] == [info(version=2), info(version=3)]


async def test_one_model_by_name_and_by_version(door: ManagementDoor) -> None:
    assert (await call(door, "GET", "/v1/agent/models/double")).json()["version"] == 2
    assert (await call(door, "GET", "/v1/agent/models/double?version=3")).json()["version"] == 3
    assert (await call(door, "GET", "/v1/agent/models/double?version=4")).status == 404
    assert (await call(door, "GET", "/v1/agent/models/nope")).status == 404


async def test_a_record_is_kept_and_its_number_told(door: ManagementDoor, outbox: FakeOutbox) -> None:
    body = json.dumps({"kind": "alarm", "data": {"x": 1}}).encode()
    assert (await call(door, "POST", "/v1/agent/outbox/events", body)).json() == {"seq": 1}
    assert outbox.kept == [("events", "alarm", {"x": 1})]


async def test_a_record_may_bring_its_own_id(door: ManagementDoor, outbox: FakeOutbox) -> None:
    for body in (b'{"data": {}, "id": "a1"}', b'{"data": {}}'):
        assert (await call(door, "POST", "/v1/agent/outbox/events", body)).status == 200
    assert outbox.ids == ["a1", ""]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        b'{"data": 3}',
        b'{"kind": 1, "data": {}}',
        b'{"data": {"x": NaN}}',
        b'{"data": {}, "id": 1}',
    ],
)
async def test_what_is_no_record_is_refused(door: ManagementDoor, outbox: FakeOutbox, body: bytes) -> None:
    reply = await call(door, "POST", "/v1/agent/outbox/events", body)
    assert (reply.status, reply.json()["parameters"]["code"]) == (400, "input")
    assert not outbox.kept


async def test_too_large_a_record_is_413(door: ManagementDoor) -> None:
    assert (await call(door, "POST", "/v1/agent/outbox/e", b" " * (MAX_RECORD_BYTES + 1))).status == 413


async def test_a_full_outbox_is_507(door: ManagementDoor, outbox: FakeOutbox) -> None:
    outbox.is_full = True
    reply = await call(door, "POST", "/v1/agent/outbox/e", b'{"data": {}}')
    assert (reply.status, reply.json()["parameters"]["retryable"]) == (507, True)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/agent/status"), ("DELETE", "/v1/agent/models/double"), ("GET", "/v1/agent/outbox/events")],
)
async def test_wrong_verbs_are_405(door: ManagementDoor, method: str, path: str) -> None:
    assert (await call(door, method, path)).status == 405


async def test_unknown_management_paths_are_404(door: ManagementDoor) -> None:
    assert (await call(door, "GET", "/v1/nothing/here")).status == 404


async def test_everything_else_is_inference(door: ManagementDoor) -> None:
    assert (await call(door, "GET", "/v2/models/double/ready")).status == 200
