"""`aimass.embed` on an enrolled home of its own, with a real broker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import aimass
from aimass.errors import ConflictError
from aimass.runtime.answer import Answer
from aimass.transport.base import Message
from aimass.transport.mqtt import MqttTransport
from aimass.wire.frame import pack_response, unpack_request
from aimass.wire.topics import answer_topic, infer_share
from tests.fakes import onnx_models
from tests.fakes.homes import EnrolledHome
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.waiting import until

pytestmark = pytest.mark.integration

X = np.array([[1.0, 2.0]], np.float32)


@pytest.fixture
def broker(short_tmp: Path) -> Iterator[Mosquitto]:
    folder = short_tmp / "broker"
    folder.mkdir()
    with Mosquitto(folder) as broker:
        yield broker


@pytest.fixture
def home(short_tmp: Path, broker: Mosquitto) -> EnrolledHome:
    made = EnrolledHome(short_tmp / "app", ca=broker.ca, identity="gw-1:app", broker_port=broker.port)
    made.install(onnx_models.add(), "add", 3)
    return made


@pytest.fixture
def client(home: EnrolledHome) -> Iterator[aimass.Client]:
    with aimass.embed(home.folder, engines=("onnxruntime",), deadline_ms=5000) as client:
        yield client


@pytest.fixture
def worker(broker: Mosquitto) -> Iterator[list[str]]:
    """Answers for the pool like a worker: y = 100 x. Lists whom it answered."""
    link = MqttTransport("svc:worker-0", "localhost", broker.port, broker.identity("svc:worker-0"))
    asked: list[str] = []

    def answer(message: Message) -> None:
        request = unpack_request(message.payload)
        asked.append(message.topic)
        made = Answer({"y": request.inputs[0].data * np.float32(100)}, request.model, "9", served_by="cloud")
        reply = answer_topic(message.topic)
        link.publish(reply, pack_response(made.to_response(request.id)), qos=1, correlation=message.correlation)

    link.subscribe(infer_share("default"), answer)
    link.start()
    until(lambda: link.connected, "the worker's link")
    yield asked
    link.close()


def linked(client: aimass.Client) -> None:
    until(lambda: client.status()["link"]["up"], "the link")


def test_what_is_installed_answers_and_the_party_has_its_own_name(client: aimass.Client) -> None:
    assert client.infer("add", X).version == "3"
    linked(client)
    assert client.status()["id"] == "gw-1:app"


def test_the_cloud_answers_when_it_is_asked(client: aimass.Client, worker: list[str]) -> None:
    linked(client)
    answer = client.infer("add", X, mode="cloud")
    assert (answer.served_by, answer.version, answer.outputs["y"].tolist()) == ("cloud", "9", [[100.0, 200.0]])
    assert "link" in answer.timings_ms
    assert worker == ["aimass/v1/infer/default/gw-1:app/req"]
    awaited = asyncio.run(client.infer_async("add", X, mode="cloud"))
    assert awaited.served_by == "cloud"


def test_without_a_worker_the_device_answers_at_once(client: aimass.Client) -> None:
    linked(client)
    answer = client.infer("add", X, mode="cloud")
    assert (answer.served_by, answer.degraded) == ("edge", True)
    assert answer.timings_ms["total"] < 2000


def test_a_killed_broker_fails_no_request(client: aimass.Client, worker: list[str], broker: Mosquitto) -> None:
    linked(client)
    until(lambda: client.infer("add", X, mode="cloud").served_by == "cloud", "the worker")

    def ask() -> set[str]:
        return {
            client.infer("add", X, mode="cloud", policy=policy, deadline_ms=1000).served_by
            for policy in ("saving", "never_worse")
        }

    killer = threading.Timer(0.2, broker.kill)
    killer.start()
    while killer.is_alive():
        ask()
    for _ in range(20):
        assert ask() == {"edge"}
    assert worker


def test_records_are_kept_over_a_restart(home: EnrolledHome) -> None:
    for expected in (1, 2):
        with aimass.embed(home.folder, engines=("onnxruntime",)) as client:
            assert client.record("events", {"n": expected}) == expected
            assert client.status()["outbox"]["pending"] == expected


def test_a_home_is_embedded_once(client: aimass.Client, home: EnrolledHome) -> None:
    assert client.models()
    with pytest.raises(ConflictError):
        aimass.embed(home.folder)


def test_other_sessions_of_the_program_are_left_in_peace(client: aimass.Client, tmp_path: Path) -> None:
    assert client.infer("add", X).version == "3"
    session = onnxruntime.InferenceSession(onnx_models.add(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": X})[0].tolist() == [[2.0, 3.0]]


def test_closing_ends_every_thread(home: EnrolledHome) -> None:
    before = set(threading.enumerate())
    with aimass.embed(home.folder, engines=("onnxruntime",)) as client:
        linked(client)
        client.infer("add", X)
        asyncio.run(client.infer_async("add", X))
    until(
        lambda: not [one for one in threading.enumerate() if one not in before and one.is_alive()], "all threads to end"
    )
