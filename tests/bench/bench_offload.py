"""What an offloaded request costs over the bare round trip that its broker allows.

Ours: `Runtime.infer` (cloud only) -> MqttRemote -> mosquitto -> Dispatcher -> Runtime -> mosquitto -> answer, with
validation, codec, deadline, metrics and the pool's queue (one thread hand-off). Beside it a bare paho echo through the
same broker over the same mutual TLS, with the same QoS 1, the same two properties, a payload of the tensor's size, and
one thread hand-off on the echoing side. Both in turn, several times, so that a busy machine hurts both alike.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from aimass.placement.policy import Mode
from aimass.runtime.offload import MqttRemote
from aimass.runtime.runtime import Runtime
from aimass.transport.mqtt import MqttTransport
from aimass.wire.messages import InferRequest
from aimass.wire.tensor import Tensor
from tests.bench.figure import Figure
from tests.bench.offload_parties import ECHO_ANSWER, ECHO_REQUEST, BareClient, files
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.waiting import until

SIZES = {"1k": (1024, 150), "64k": (64 * 1024, 150), "1m": (1024 * 1024, 25)}
"""Name: bytes of the tensor, round trips in each repeat."""
REPEATS = 9
BAR = 1.3
IDENTITIES = ("bare-echo", "bare-client", "svc:worker-0", "gw-1")

RoundTrip = Callable[[], None]


def bench_offload() -> Iterator[Figure]:
    """Round trips at 1 KiB, 64 KiB and 1 MiB as ratios to the echo; the median at 1 KiB."""
    with tempfile.TemporaryDirectory(prefix="aimass-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        broker = stack.enter_context(Mosquitto(folder))
        for identity in IDENTITIES:
            broker.identity(identity)
        for party in ("echo", "pool"):
            stack.enter_context(_party(party, folder, broker.port))
        bare = BareClient("bare-client", broker.port, files(folder, "bare-client"), ECHO_ANSWER)
        stack.callback(bare.close)
        runtime = stack.enter_context(_our_client(folder, broker.port))
        for label, (size_bytes, count) in SIZES.items():
            ours, echo = _our_trip(runtime, size_bytes), _bare_trip(bare, size_bytes)
            yield from _figures(label, _in_turn(ours, echo, count))


def _figures(label: str, medians: list[tuple[float, float]]) -> Iterator[Figure]:
    ratios = [ours / echo for ours, echo in medians]
    ours_ms, echo_ms = (statistics.median(column) * 1e3 for column in zip(*medians, strict=True))
    note = f"{min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} repeats; {ours_ms:.2f} over {echo_ms:.2f} ms"
    yield Figure(f"offload_ratio_{label}", statistics.median(ratios), "ratio", BAR, note=note)
    if label == "1k":
        spread = f"{min(o for o, _ in medians) * 1e3:.2f} to {max(o for o, _ in medians) * 1e3:.2f} ms"
        yield Figure(
            "offload_p50_ms_1k", ours_ms, "ms", 1.5, note=f"median of medians, {spread}; loopback, mTLS, QoS 1"
        )


def _in_turn(ours: RoundTrip, echo: RoundTrip, count: int) -> list[tuple[float, float]]:
    """Median seconds of both, repeat by repeat; who begins changes."""
    for trip in (ours, echo):
        _median_s(trip, max(5, count // 5))
    medians = []
    for repeat in range(REPEATS):
        if repeat % 2:
            ours_s = _median_s(ours, count)
            echo_s = _median_s(echo, count)
        else:
            echo_s = _median_s(echo, count)
            ours_s = _median_s(ours, count)
        medians.append((ours_s, echo_s))
    return medians


def _median_s(trip: RoundTrip, count: int) -> float:
    times = []
    for _ in range(count):
        started = time.perf_counter()
        trip()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _our_trip(runtime: Runtime, size_bytes: int) -> RoundTrip:
    array = np.random.default_rng(1).random(size_bytes // 4, dtype=np.float32)

    def trip() -> None:
        request = InferRequest("echo", (Tensor.from_array("x", array),))
        answer = runtime.infer(request, deadline_s=5.0, mode=Mode.CLOUD)
        assert answer.served_by == "cloud"
        assert answer.outputs["y"].nbytes == size_bytes

    return trip


def _bare_trip(bare: BareClient, size_bytes: int) -> RoundTrip:
    payload = os.urandom(size_bytes)
    answered = threading.Event()
    bare.client.on_message = lambda *_: answered.set()

    def trip() -> None:
        answered.clear()
        bare.publish(ECHO_REQUEST, payload, os.urandom(16))
        assert answered.wait(5), "no echo"

    return trip


@contextmanager
def _our_client(folder: Path, port: int) -> Iterator[Runtime]:
    transport = MqttTransport("gw-1", "localhost", port, files(folder, "gw-1"))
    remote = MqttRemote(transport)
    transport.start()
    until(lambda: remote.available, "the client's link")
    with Runtime([], remote=remote) as runtime:
        yield runtime
    remote.close()
    transport.close()


@contextmanager
def _party(name: str, folder: Path, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.bench.offload_parties", name, str(folder), str(port)]
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parents[2] / "sdk" / "python")])
    env = os.environ | {"PYTHONPATH": path}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "ready", f"the {name} did not start"
            yield
        finally:
            process.kill()
