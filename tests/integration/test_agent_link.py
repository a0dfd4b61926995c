"""The agent and a real broker: what the cloud hears of it, and what it does when the broker is hurt."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimass.transport.base import Message
from aimass.transport.mqtt import MqttTransport
from tests.fakes import onnx_models
from tests.fakes.homes import AgentProcess, EnrolledHome
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
    made = EnrolledHome(short_tmp / "home", ca=broker.ca, broker_port=broker.port)
    made.install(onnx_models.add(), "add", 3)
    return made


class Heard:
    """Everything that the cloud's side of the broker hears."""

    def __init__(self, broker: Mosquitto) -> None:
        self._messages: list[tuple[str, Any]] = []
        self._lock = threading.Lock()
        self.link = MqttTransport("svc:control", "localhost", broker.port, broker.identity("svc:control"))
        self.link.subscribe("aimass/v1/#", self._note)
        self.link.start()
        until(lambda: self.link.connected, "the cloud's side to be connected")

    def _note(self, message: Message) -> None:
        with self._lock:
            self._messages.append((message.topic, json.loads(message.payload)))

    def of(self, topic: str) -> list[Any]:
        with self._lock:
            return [body for name, body in self._messages if name == f"aimass/v1/d/gw-1/{topic}"]

    def wait(self, topic: str, fits: Callable[[Any], bool] = lambda _: True, *, timeout_s: float = 15) -> Any:
        found: list[Any] = []

        def has() -> bool:
            found[:] = [body for body in self.of(topic) if fits(body)]
            return bool(found)

        until(has, f"a message on {topic}; heard: {self._messages}", timeout_s)
        return found[-1]


@pytest.fixture
def heard(broker: Mosquitto) -> Iterator[Heard]:
    heard = Heard(broker)
    yield heard
    heard.link.close()


@pytest.fixture
def agent(home: EnrolledHome, heard: Heard) -> Iterator[AgentProcess]:
    settings = {"AIMASS_EDGE_HEARTBEAT_S": "1", "AIMASS_EDGE_TELEMETRY_PERIOD_S": "0.5"}
    with AgentProcess(home.folder, settings) as agent:
        heard.wait("state", lambda body: body["state"] == "online")
        yield agent


def test_birth_report_heartbeat_and_farewell(agent: AgentProcess, heard: Heard) -> None:
    born = heard.wait("state", lambda body: body["state"] == "online")
    report = heard.wait("twin/reported", lambda body: bool(body["models"]))
    assert [(one["name"], one["version"], one["state"]) for one in report["models"]] == [("add", 3, "running")]
    assert set(report["engines"]) == {"onnxruntime", "openvino"}
    assert heard.wait("tele/heartbeat")["boot"] == born["boot"]
    assert agent.stop() == 0
    farewell = heard.wait("state", lambda body: body["state"] == "offline")
    assert farewell["boot"] == born["boot"]


def test_metrics_tell_load_and_latency(agent: AgentProcess, heard: Heard) -> None:
    with agent.client(deadline_ms=5000) as client:
        for _ in range(10):
            client.infer("add", X)
    metrics = heard.wait("tele/metrics", lambda body: body["models"].get("add", {}).get("count") == 10)
    assert metrics["rss_bytes"] > 10_000_000
    assert metrics["models"]["add"]["p99_ms"] >= metrics["models"]["add"]["p50_ms"] > 0
    assert metrics["outbox_pending"] == 0
    assert 0 < metrics["certificate_days_left"] < 2
    assert metrics["offload_share"] == 0


def test_records_are_sent_and_wait_for_the_clouds_word(agent: AgentProcess, heard: Heard) -> None:
    with agent.client() as client:
        client.record("events", {"n": 1}, kind="seen")
        asked = heard.wait("evt/events")
        ack = {"stream": "events", "stream_id": asked["stream_id"], "epoch": 1}
        heard.link.publish("aimass/v1/d/gw-1/ack", json.dumps({**ack, "seq": 0}).encode(), qos=1).wait(5)
        sent = heard.wait("evt/events", lambda body: bool(body["records"]))
        assert [(one["seq"], one["kind"], one["data"]) for one in sent["records"]] == [(1, "seen", {"n": 1})]
        assert client.status()["outbox"]["pending"] == 1
        heard.link.publish("aimass/v1/d/gw-1/ack", json.dumps({**ack, "seq": 1}).encode(), qos=1).wait(5)
        until(lambda: client.status()["outbox"]["pending"] == 0, "the record to be acknowledged")


@pytest.mark.parametrize("hurt", ["killed", "frozen"])
def test_nothing_fails_here_while_the_broker_is_hurt_and_the_link_comes_back(
    agent: AgentProcess, broker: Mosquitto, hurt: str
) -> None:
    with agent.client(deadline_ms=500) as client:
        if hurt == "killed":
            broker.kill()
        else:
            broker.freeze()
        for number in range(50):
            answer = client.infer("add", X, mode="cloud", policy="never_worse" if number % 2 else "saving")
            assert answer.served_by == "edge"
        if hurt == "killed":
            broker.start()
        else:
            broker.thaw()
        until(lambda: client.status()["link"]["up"], "the link to come back", 30)


def test_it_stops_cleanly_while_the_broker_is_frozen(agent: AgentProcess, broker: Mosquitto) -> None:
    broker.freeze()
    try:
        assert agent.stop(timeout_s=30) == 0
    finally:
        broker.thaw()


def test_a_killed_agent_is_reported_lost_by_its_will_with_the_same_boot_id(agent: AgentProcess, heard: Heard) -> None:
    born = heard.wait("state", lambda body: body["state"] == "online")
    agent.stop(signal.SIGKILL)
    lost = heard.wait("state", lambda body: body["state"] == "lost", timeout_s=40)
    assert lost["boot"] == born["boot"]
