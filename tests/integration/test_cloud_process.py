"""A whole cloud as real processes on loopback: init, run, upload, enrol, deploy, remove; broker killed; restart."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from aimass.device.cloud_http import CloudHttp
from aimass.device.enrol import enrol
from aimass.device.identity import Identity
from aimass.device.presence import Presence, new_boot_id, presence_will
from aimass.errors import AuthError, EnrolError, ForbiddenError, RollbackError, TransportError
from aimass.package.trust import accept_desired, accept_manifest
from aimass.transport.mqtt import MqttTransport
from aimass.wire import topics
from aimass.wire.frame import pack_request, unpack_reply
from aimass.wire.messages import InferRequest, InferResponse
from aimass.wire.tensor import Tensor
from tests.fakes.cloud_models import affine_bytes
from tests.fakes.waiting import until

pytestmark = pytest.mark.integration

HOST = "127.0.0.1"


def free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        return int(server.getsockname()[1])


class RunningCloud:
    """``aimass-cloud`` as an operator has it."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.dir = folder / "cloud"
        self.https_port, self.broker_port = free_port(), free_port()
        self.env = {**os.environ, "AIMASS_CLOUD_POOL__WORKERS": "0", **env}
        self.log = folder / "cloud.log"
        ports = ("--https-port", str(self.https_port), "--broker-port", str(self.broker_port))
        made = self.command("init", "--host", HOST, *ports, "--bind", HOST, "--json")
        self.api_key: str = json.loads(made.stdout)["api_key"]
        self.process: subprocess.Popen[str] | None = None
        self.http = httpx.Client(
            base_url=f"https://{HOST}:{self.https_port}",
            verify=ssl.create_default_context(cafile=str(self.dir / "pki" / "root.pem")),
            headers={"authorization": f"Bearer {self.api_key}"},
            timeout=30,
            trust_env=False,
        )

    def command(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "aimass_cloud", "--dir", str(self.dir), *words]
        return subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=60, check=check)

    def start(self) -> dict[str, Any]:
        argv = [sys.executable, "-m", "aimass_cloud", "--dir", str(self.dir), "run", "--json"]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(argv, env=self.env, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()[-3000:]
        ready: dict[str, Any] = json.loads(line)
        return ready

    def stop(self, number: int = signal.SIGTERM) -> float:
        """End it with a signal; the seconds it took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return time.monotonic() - began

    def close(self) -> None:
        if self.process is not None:
            self.stop(signal.SIGKILL)
        self.http.close()

    def broker_pid(self) -> int:
        return int((self.dir / "broker" / "mosquitto.pid").read_text() or 0)

    def state(self, device: str) -> str:
        return str(self.http.get(f"/v1/devices/{device}").json()["state"])

    def is_ready(self) -> bool:
        try:
            return self.http.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def enrol(self, device: str, home: Path) -> Identity:
        return enrol(self.http.post("/v1/enrol-tokens", json={"id": device}).json()["token"], home)


class Agent:
    """The least that a device does: it is there, and it hears what is desired of it."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.desired: list[bytes] = []
        boot = new_boot_id()
        will = presence_will(identity.cn, boot, "test", time.time())
        broker = identity.broker
        self.transport = MqttTransport(identity.cn, broker.host, broker.port, identity.tls_files, will=will)
        self.transport.subscribe(topics.desired(identity.cn), lambda message: self.desired.append(message.payload))
        self.presence = Presence(self.transport, boot, "test")
        self.presence.start()
        self.transport.start()

    def close(self) -> None:
        self.presence.close()
        self.transport.close(farewell=self.presence.farewell())


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[RunningCloud]:
    cloud = RunningCloud(tmp_path)
    cloud.start()
    yield cloud
    cloud.close()


def upload(cloud: RunningCloud, name: str = "digits", **options: Any) -> dict[str, Any]:
    files = {"model": (f"{name}.onnx", affine_bytes(**options))}
    response = cloud.http.post("/v1/models", data={"manifest": json.dumps({"name": name})}, files=files)
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


def test_a_model_goes_from_the_upload_to_the_device(cloud: RunningCloud, tmp_path: Path) -> None:
    upload(cloud)
    identity = cloud.enrol("gw-1", tmp_path / "gw-1")
    agent = Agent(identity)
    try:
        until(lambda: cloud.state("gw-1") == "online", "the device to be online")
        until(lambda: agent.desired, "the first document")
        first = accept_desired(agent.desired[-1], keys=identity.control_keys, device="gw-1", last=None)
        assert first.models == ()
        body = {"model": "digits", "target": {"device": "gw-1"}}
        assert cloud.http.post("/v1/deployments", json=body).status_code == 201
        until(lambda: len(agent.desired) >= 2, "the next document")
        last = (first.epoch, first.version)
        desired = accept_desired(agent.desired[-1], keys=identity.control_keys, device="gw-1", last=last)
        fetch_and_check(identity, desired.models[0])
        with pytest.raises(RollbackError):
            accept_desired(agent.desired[0], keys=identity.control_keys, device="gw-1", last=last)
        ask = cloud.http.get("/v1/devices/gw-1").json()
        assert (ask["desired"]["version"], ask["sync"]) == (desired.version, "unknown")
    finally:
        agent.close()
    until(lambda: cloud.state("gw-1") == "offline", "the farewell")


def fetch_and_check(identity: Identity, model: Any) -> None:
    """The manifest by its digest, the model file in two ranges."""
    http = CloudHttp(identity)
    envelope = fetch(http, model.manifest_path)
    manifest = accept_manifest(
        envelope,
        publishers=identity.publisher_keys,
        sha256=model.manifest_sha256,
        name=model.name,
        version=model.version,
    )
    path = f"/v1/blobs/{manifest.files['model.onnx'].sha256}"
    whole = fetch(http, path)
    assert whole == affine_bytes()
    assert fetch(http, path, offset=100) == whole[100:]
    with pytest.raises(ForbiddenError):
        fetch(http, "/v1/blobs/" + "a" * 64)
    http.close()


def fetch(http: CloudHttp, path: str, offset: int = 0) -> bytes:
    with http.download(path, offset_bytes=offset) as body:
        return b"".join(body.chunks)


def test_a_removed_device_is_locked_out_at_once_and_stays_out(cloud: RunningCloud, tmp_path: Path) -> None:
    identity = cloud.enrol("gw-1", tmp_path / "gw-1")
    agent = Agent(identity)
    try:
        until(lambda: agent.transport.connected, "the device to connect")
        assert cloud.http.delete("/v1/devices/gw-1").status_code == 204
        until(lambda: not agent.transport.connected, "the device to be thrown out")
        losses = agent.transport.counts()["losses"]
        with pytest.raises(AuthError):
            CloudHttp(identity).request("POST", "/v1/device/renew", {"csr_pem": "x"}, auth_paths=["/v1/device/renew"])
        os.kill(cloud.broker_pid(), signal.SIGKILL)  # a new broker does not know it either
        until(cloud.is_ready, "the broker to be back", timeout_s=20)
        agent.transport.reconnect_now()
        assert cloud.http.get("/v1/devices").json()["items"] == []
        assert not agent.transport.connected
        assert agent.transport.counts()["connects"] == losses
    finally:
        agent.close()


def test_a_killed_broker_comes_back_with_everybody_it_knew(cloud: RunningCloud, tmp_path: Path) -> None:
    agents = [Agent(cloud.enrol(f"gw-{n}", tmp_path / f"gw-{n}")) for n in range(3)]
    try:
        for agent in agents:
            until(lambda agent=agent: agent.transport.connected, "the devices to connect")  # type: ignore[misc]
        pid = cloud.broker_pid()
        os.kill(pid, signal.SIGKILL)
        until(lambda: cloud.broker_pid() not in {0, pid}, "another broker")
        for agent in agents:
            until(lambda agent=agent: agent.transport.connected, "the devices to be back", timeout_s=20)  # type: ignore[misc]
        until(cloud.is_ready, "the cloud to be ready")
        upload(cloud)
        seen = [len(agent.desired) for agent in agents]
        cloud.http.post("/v1/deployments", json={"model": "digits", "target": {"all": True}})
        for agent, count in zip(agents, seen, strict=True):
            until(lambda agent=agent, count=count: len(agent.desired) > count, "the new document")  # type: ignore[misc]
    finally:
        for agent in agents:
            agent.close()


def test_it_stops_in_a_few_seconds_and_leaves_nothing_running(cloud: RunningCloud) -> None:
    broker = cloud.broker_pid()
    assert cloud.stop() < 8
    assert not Path(f"/proc/{broker}").exists()


def test_killed_it_takes_its_broker_with_it_and_starts_again(cloud: RunningCloud, tmp_path: Path) -> None:
    identity = cloud.enrol("gw-1", tmp_path / "gw-1")
    upload(cloud)
    broker = cloud.broker_pid()
    cloud.stop(signal.SIGKILL)
    until(lambda: not is_running(broker), "the broker to end")
    cloud.start()
    assert cloud.http.get("/v1/models/digits").json()["latest_version"] == 1
    agent = Agent(identity)
    until(lambda: cloud.state("gw-1") == "online", "the device to be online")
    agent.close()


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_commands_work_beside_a_running_cloud_and_refuse_what_they_must(cloud: RunningCloud, tmp_path: Path) -> None:
    token = cloud.command("enrol-token", "gw-7").stdout.strip()
    assert enrol(token, tmp_path / "gw-7").cn == "gw-7"
    with pytest.raises(EnrolError):
        enrol(token, tmp_path / "another-home")
    again = cloud.command("init", "--host", HOST, "--json", check=False)
    assert (again.returncode, json.loads(again.stdout)["error"]["code"]) == (3, "store.conflict")
    second = cloud.command("run", check=False)
    assert (second.returncode, "running" in second.stderr) == (3, True)
    assert cloud.command("restore", str(tmp_path), check=False).returncode == 1
    assert cloud.command("nonsense", check=False).returncode == 2
    backup = tmp_path / "backup.tar.gz"
    assert json.loads(cloud.command("backup", str(backup), "--json").stdout)["blobs"] == 0
    assert backup.stat().st_mode & 0o077 == 0
    assert cloud.command("restore", str(backup), check=False).returncode == 3


def test_a_restored_cloud_speaks_to_its_devices_with_a_new_epoch(cloud: RunningCloud, tmp_path: Path) -> None:
    identity = cloud.enrol("gw-1", tmp_path / "gw-1")
    upload(cloud)
    cloud.command("backup", str(tmp_path / "backup"))
    for _ in range(2):
        upload(cloud)
        cloud.http.post("/v1/deployments", json={"model": "digits", "target": {"all": True}})
    before = cloud.http.get("/v1/devices/gw-1").json()["desired"]
    cloud.stop()
    cloud.command("restore", str(tmp_path / "backup"))
    cloud.start()
    agent = Agent(identity)
    try:
        until(lambda: agent.desired, "the document")
        last = (before["epoch"], before["version"])
        desired = accept_desired(agent.desired[-1], keys=identity.control_keys, device="gw-1", last=last)
        assert (desired.models, desired.version) == ((), 1)
    finally:
        agent.close()


def test_workers_enrol_by_themselves_answer_and_come_back_when_killed(tmp_path: Path) -> None:
    cloud = RunningCloud(tmp_path, AIMASS_CLOUD_POOL__WORKERS="1")
    try:
        cloud.start()
        upload(cloud)
        agent = Agent(cloud.enrol("gw-1", tmp_path / "gw-1"))
        answers: list[bytes] = []
        agent.transport.subscribe(topics.reply("gw-1", "infer"), lambda message: answers.append(message.payload))
        until(lambda: agent.transport.connected, "the device to connect")
        assert ask_until_answered(agent, answers).outputs[0].data.shape == (1, 3)
        pid = worker_pid(cloud)
        os.kill(pid, signal.SIGKILL)
        until(lambda: worker_pid(cloud) not in {0, pid}, "another worker")
        answers.clear()
        assert ask_until_answered(agent, answers).version == "1"
        assert "svc:worker-0" not in cloud.http.get("/v1/devices").text
        assert cloud.http.get("/v1/devices/svc:worker-0").json()["sync"] == "in_sync"
        agent.close()
        worker = worker_pid(cloud)
        assert cloud.stop() < 10
        assert not is_running(worker)
    finally:
        cloud.close()


def worker_pid(cloud: RunningCloud) -> int:
    assert cloud.process is not None
    children = Path(f"/proc/{cloud.process.pid}/task").glob("*/children")
    for pid in [pid for path in children for pid in path.read_text().split()]:
        with contextlib.suppress(OSError):
            if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return int(pid)
    return 0


def ask_until_answered(agent: Agent, answers: list[bytes]) -> InferResponse:
    """Ask the pool until a worker has the model."""
    request = InferRequest("digits", (Tensor.from_array("x", np.ones((1, 4), np.float32)),))

    def answered() -> bool:
        receipt = agent.transport.publish(
            topics.infer_request("default", "gw-1"),
            pack_request(request),
            qos=1,
            correlation=os.urandom(16),
            expiry_s=2,
        )
        with contextlib.suppress(TransportError):
            receipt.wait(5)
            with contextlib.suppress(AssertionError):
                until(lambda: answers, timeout_s=2)
        while answers:
            reply = unpack_reply(answers.pop(0))
            if isinstance(reply, InferResponse):
                found.append(reply)
        return bool(found)

    found: list[InferResponse] = []
    until(answered, "an answer of the pool", timeout_s=40)
    return found[0]


def test_an_outbox_is_stored_and_acknowledged(cloud: RunningCloud, tmp_path: Path) -> None:
    agent = Agent(cloud.enrol("gw-1", tmp_path / "gw-1"))
    acks: list[dict[str, Any]] = []
    agent.transport.subscribe(topics.ack("gw-1"), lambda message: acks.append(json.loads(message.payload)))
    try:
        until(lambda: agent.transport.connected, "the device to connect")
        records = [{"seq": n, "id": f"e{n}", "at_ms": n, "kind": "answer", "data": {"n": n}} for n in range(1, 201)]
        body = {"stream_id": "s1", "records": records}
        agent.transport.publish(topics.event("gw-1", "results"), json.dumps(body).encode(), qos=1).wait(5)
        until(lambda: acks and acks[-1]["seq"] == 200, "the acknowledgement")
        page = cloud.http.get("/v1/devices/gw-1/events", params={"stream": "results", "limit": 1000}).json()
        assert [item["seq"] for item in page["items"]] == list(range(1, 201))
    finally:
        agent.close()


def test_hostile_uploads_leave_the_cloud_as_it_was(cloud: RunningCloud) -> None:
    for content in (b"", b"no model", affine_bytes()[:100]):
        response = cloud.http.post("/upload", files={"file": ("m.onnx", content)})
        assert (response.status_code, response.json()["code"]) == (422, "model.invalid")
    assert list((cloud.dir / "work").iterdir()) == []
    assert [path for path in (cloud.dir / "blobs").rglob("*") if path.is_file()] == []
    assert cloud.is_ready()


def test_an_upload_above_the_limit_is_told_so_while_it_is_sent(tmp_path: Path) -> None:
    cloud = RunningCloud(tmp_path, AIMASS_CLOUD_UPLOADS__MAX_MODEL_BYTES="1000000")

    def endless() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="m.onnx"\r\n\r\n'
        for _ in range(300):
            yield bytes(100_000)
        yield b"\r\n--b--\r\n"

    try:
        cloud.start()
        headers = {"content-type": "multipart/form-data; boundary=b"}
        chunked = cloud.http.post("/upload", content=endless(), headers=headers)
        assert (chunked.status_code, chunked.json()["code"]) == (413, "wire.too_large")
        declared = cloud.http.post("/upload", files={"file": ("m.onnx", bytes(30_000_000))})
        assert (declared.status_code, declared.json()["limit_bytes"]) == (413, 1_000_000)
        assert [path for path in (cloud.dir / "blobs").rglob("*") if path.is_file()] == []
    finally:
        cloud.close()


def test_certificates_of_twelve_seconds_are_renewed_while_everything_runs(tmp_path: Path) -> None:
    life = {f"AIMASS_CLOUD_LIFETIMES__{name}_S": "12" for name in ("SERVICE", "BROKER", "HTTPS", "CRL")}
    cloud = RunningCloud(tmp_path, **life)
    try:
        cloud.start()
        agent = Agent(cloud.enrol("gw-1", tmp_path / "gw-1"))
        files = [
            cloud.dir / name for name in ("tls/https.pem", "tls/control.pem", "broker/server.pem", "broker/crl.pem")
        ]
        before = [path.read_bytes() for path in files]
        began = time.monotonic()
        until(
            lambda: all(path.read_bytes() != old for path, old in zip(files, before, strict=True)),
            "everything to be renewed",
            timeout_s=20,
        )
        until(lambda: time.monotonic() > began + 14, "the first ones to have ended", timeout_s=20)
        fresh = httpx.get(
            f"https://{HOST}:{cloud.https_port}/health/ready",
            verify=ssl.create_default_context(cafile=str(cloud.dir / "pki" / "root.pem")),
            trust_env=False,
        )
        assert fresh.status_code == 200
        agent.transport.reconnect_now()
        until(lambda: agent.transport.connected, "the device to connect to the renewed broker")
        until(lambda: cloud.state("gw-1") == "online", "the control connection to hear it")
        agent.close()
    finally:
        cloud.close()
