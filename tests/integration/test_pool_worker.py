"""A pool worker as a real process behind a real broker, asked the way a device asks."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimass.errors import ConflictError, IdentityError, InputError, NobodyListensError, RemoteError
from aimass.placement.policy import Mode
from aimass.runtime.offload import MqttRemote
from aimass.runtime.runtime import Runtime
from aimass.transport.mqtt import MqttTransport
from aimass.wire.messages import InferRequest
from aimass.wire.tensor import Tensor
from aimass_cloud.pool.worker import WorkerSettings, run_worker
from tests.conftest import ROOT
from tests.fakes import onnx_models
from tests.fakes.homes import EnrolledHome, clean_env
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.waiting import until

pytestmark = pytest.mark.integration

X = np.array([[1.0, 2.0]], np.float32)
REQUEST = InferRequest("add", (Tensor.from_array("x", X),), id="r1")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    folder = tmp_path / "broker"
    folder.mkdir()
    with Mosquitto(folder) as broker:
        yield broker


@pytest.fixture
def home(tmp_path: Path, broker: Mosquitto) -> EnrolledHome:
    made = EnrolledHome(tmp_path / "home", ca=broker.ca, identity="svc:worker-0", broker_port=broker.port)
    made.install(onnx_models.add(), "add", 3)
    return made


class Device:
    """A device without models of its own, which also listens to the pool's state."""

    def __init__(self, broker: Mosquitto) -> None:
        self.transport = MqttTransport("gw-1", "localhost", broker.port, broker.identity("gw-1"))
        self.states: list[dict[str, Any]] = []
        self.transport.subscribe("aimass/v1/cloud/state/+", lambda m: self.states.append(json.loads(m.payload)))
        self.remote = MqttRemote(self.transport)
        self.runtime = Runtime([], remote=self.remote)
        self.transport.start()
        until(lambda: self.remote.available)

    def sees(self, state: str) -> None:
        until(lambda: self.states and self.states[-1]["state"] == state, f"the state {state}; saw {self.states}", 20)

    def sees_models(self, *names: str) -> None:
        until(lambda: self.states and [m["name"] for m in self.states[-1]["models"]] == list(names), f"{names}", 20)

    def close(self) -> None:
        self.runtime.close()
        self.remote.close()
        self.transport.close()


@pytest.fixture
def device(broker: Mosquitto) -> Iterator[Device]:
    device = Device(broker)
    yield device
    device.close()


class WorkerProcess:
    def __init__(self, home: Path) -> None:
        self.log = home.parent / "worker.log"
        code = f"import logging; logging.basicConfig(level='INFO'); from pathlib import Path; \
from aimass_cloud.pool.worker import run_worker; run_worker(Path({str(home)!r}))"
        with self.log.open("ab") as out:
            command = [sys.executable, "-c", code]
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=clean_env(), cwd=ROOT)

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def worker(home: EnrolledHome, device: Device) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(home.folder)
    device.sees_models("add")
    yield worker
    if worker.process.poll() is None:
        worker.end(signal.SIGKILL)


def test_a_worker_answers_a_device_from_its_installed_models(device: Device, worker: WorkerProcess) -> None:
    answer = device.runtime.infer(REQUEST, deadline_s=5, mode=Mode.CLOUD)
    np.testing.assert_array_equal(answer.outputs["y"], X + 1)
    assert (answer.served_by, answer.version, answer.engine) == ("cloud", "3", "onnxruntime")
    assert answer.timings_ms["link"] > 0


def test_mistakes_of_a_device_come_back_by_name(device: Device, worker: WorkerProcess) -> None:
    with pytest.raises(RemoteError) as unknown:
        device.remote.start(InferRequest("nothing", REQUEST.inputs), 5).wait(5)
    assert unknown.value.remote_code == "model.not_found"
    wrong = InferRequest("add", (Tensor.from_array("z", X),))
    with pytest.raises(RemoteError) as misnamed:
        device.remote.start(wrong, 5).wait(5)
    assert misnamed.value.remote_code == InputError.code


def test_told_to_stop_it_says_so_and_ends_well(device: Device, worker: WorkerProcess) -> None:
    assert worker.end(signal.SIGTERM) == 0, worker.log.read_text()
    device.sees("stopped")
    assert "draining" in [state["state"] for state in device.states]
    with pytest.raises(NobodyListensError):
        device.remote.start(REQUEST, 5).wait(5)


def test_requests_under_way_at_the_stop_are_all_answered(device: Device, worker: WorkerProcess) -> None:
    calls = []
    stopped = threading.Event()

    def ask() -> None:
        while not stopped.is_set():
            calls.append(device.remote.start(REQUEST, 10))
            calls[-1].add_done_callback(lambda _: None)
            stopped.wait(0.001)

    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: sum(call.result is not None for call in calls[:]) > 50)
    assert worker.end(signal.SIGTERM) == 0
    stopped.set()
    asking.join()
    until(lambda: all(call.done for call in calls), "the end of every call")
    answered = sum(call.result is not None for call in calls)
    errors = {type(call.error) for call in calls if call.error is not None}
    assert answered > 50
    assert errors <= {NobodyListensError}, "after the pool was left, the broker says so at once"


def test_a_killed_worker_is_seen_at_once_and_another_takes_over(
    device: Device, worker: WorkerProcess, home: EnrolledHome
) -> None:
    worker.end(signal.SIGKILL)
    device.sees("lost")
    with pytest.raises(NobodyListensError):
        device.remote.start(REQUEST, 5).wait(5)
    successor = WorkerProcess(home.folder)
    try:
        device.sees_models("add")
        assert device.remote.start(REQUEST, 5).wait(5) is not None
    finally:
        successor.end(signal.SIGTERM)


def test_a_worker_survives_the_brokers_restart(device: Device, worker: WorkerProcess, broker: Mosquitto) -> None:
    broker.restart()
    until(lambda: len(device.states) > 1 and device.remote.available)
    device.sees_models("add")
    answer = device.runtime.infer(REQUEST, deadline_s=5, mode=Mode.CLOUD)
    assert answer.served_by == "cloud"


def test_a_second_worker_on_a_home_is_refused(home: EnrolledHome, worker: WorkerProcess) -> None:
    with pytest.raises(ConflictError):
        run_worker(home.folder, stop=threading.Event())


def test_a_home_without_an_identity_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IdentityError):
        run_worker(tmp_path / "new", settings=WorkerSettings(), stop=threading.Event())
