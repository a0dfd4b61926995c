"""The two other sides of the offload benchmark, each in a process of its own, and what both sides of it share.

python -m tests.bench.offload_parties echo|pool FOLDER PORT
"""

from __future__ import annotations

import hashlib
import queue
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from aimass.engine.base import Arrays, Cancel, EngineOptions, Feeds
from aimass.package.manifest import FileEntry, Manifest, Variant
from aimass.runtime.runtime import Runtime, RuntimeSettings
from aimass.transport import TlsFiles
from aimass.transport.mqtt import MqttTransport
from aimass.wire.tensor import Datatype, TensorSpec
from aimass_cloud.pool.dispatcher import Dispatcher

ECHO_REQUEST, ECHO_ANSWER = "bare/gw-1/req", "bare/gw-1/rsp"
EXPIRY_S = 5


class BareClient:
    """paho as its documentation shows it, with Nagle off: what a round trip through this broker costs without us."""

    def __init__(self, identity: str, port: int, tls: TlsFiles, topic_filter: str) -> None:
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=identity, protocol=paho.MQTTv5)
        self.client.tls_set(str(tls.ca), str(tls.cert), str(tls.key))
        self.client.on_socket_open = lambda _c, _u, s: s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        subscribed = threading.Event()
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.connect("localhost", port)
        self.client.loop_start()
        self.client.subscribe(topic_filter, 1)
        assert subscribed.wait(10), "the bare client did not get its subscription"

    def publish(self, topic: str, payload: bytes, correlation: bytes) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        properties.CorrelationData = correlation
        properties.MessageExpiryInterval = EXPIRY_S
        self.client.publish(topic, payload, 1, properties=properties)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def files(folder: Path, identity: str) -> TlsFiles:
    """Certificates as `tests.fakes.certs` lays them out."""
    stem = identity.replace(":", "_")
    return TlsFiles(folder / "ca" / "ca.pem", folder / "ca" / f"{stem}.pem", folder / "ca" / f"{stem}.key")


class EchoSession:
    """Gives back what it is fed: the engine's time is not what is measured."""

    inputs = (TensorSpec("x", Datatype.FP32, (-1,)),)
    outputs = (TensorSpec("y", Datatype.FP32, (-1,)),)
    engine = "echo"
    provider = "CPU"

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None, cancel: Cancel | None = None) -> Arrays:
        return {"y": feeds["x"]}

    def close(self) -> None: ...


class EchoEngine:
    name, version, formats = "echo", "1", ("onnx",)

    def providers(self) -> tuple[str, ...]:
        return ("CPU",)

    def load(self, path: Path, *, format: str, options: EngineOptions) -> EchoSession:  # noqa: A002
        return EchoSession()


def load_echo(runtime: Runtime, folder: Path) -> None:
    """Load the model `echo`, version 1."""
    entry = FileEntry(hashlib.sha256(b"").hexdigest(), 0)
    (folder / "echo.onnx").write_bytes(b"")
    variant = Variant("echo", "onnx", "fp32", "echo.onnx")
    session = EchoSession()
    manifest = Manifest(
        "echo", 1, "2026-01-01T00:00:00Z", session.inputs, session.outputs, {"echo.onnx": entry}, (variant,)
    )
    runtime.load(folder, manifest)


def echo(folder: Path, port: int) -> None:
    """Answer each message with its payload, from a thread of its own, for ever."""
    waiting: queue.SimpleQueue[paho.MQTTMessage] = queue.SimpleQueue()
    bare = BareClient("bare-echo", port, files(folder, "bare-echo"), f"$share/bare/{ECHO_REQUEST}")
    bare.client.on_message = lambda _c, _u, message: waiting.put(message)
    print("ready", flush=True)
    while True:
        message = waiting.get()
        bare.publish(ECHO_ANSWER, message.payload, message.properties.CorrelationData)


def pool(folder: Path, port: int) -> None:
    """A pool worker as the product runs it, with the engine left out."""
    runtime = Runtime([EchoEngine()], settings=RuntimeSettings(served_by="cloud"))
    load_echo(runtime, Path(tempfile.mkdtemp()))
    transport = MqttTransport("svc:worker-0", "localhost", port, files(folder, "svc:worker-0"), session_expiry_s=0)
    Dispatcher(transport, runtime).start()
    up = threading.Event()
    transport.on_link(lambda _: up.set())
    transport.start()
    assert up.wait(10), "the pool did not connect"
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    {"echo": echo, "pool": pool}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
