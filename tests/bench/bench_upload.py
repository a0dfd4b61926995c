"""What an upload of 200 MB does to requests that are offloaded meanwhile, with everything on one machine of two cores.

The real stack: cloud, broker, one worker and one gateway that has no engine, each a process; an application asks the
pool through the gateway's agent at a steady rate, and each answer's time counts from the moment at which it was due, so
a stall is not hidden by the requests that it kept from being sent. Rounds with and without an upload take turns.

The upload is sent by a process of its own with the least priority, because it stands for another machine. All that the
cloud does with the model counts: reception, examination, signing, and the worker's fetching and loading of it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from aimass.cli.stack import Stack
from aimass.cli.waiting import wait_until
from aimass.client.agent import connect
from tests.bench.figure import Figure
from tests.fakes import onnx_models

GATEWAY = "gw-1"
RATE_HZ = 50
THREADS = 8
ROUNDS = 9
CALM_S = 4.0
"""About as long as an upload: the 99th percentile of more requests would be another figure."""
SIZE_BYTES = 200_000_000
ROW_FLOATS = 250
REQUEST_FLOATS = 256  # 1 KiB
DEADLINE_MS = 10_000
BAR = 1.5


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of the answers in one stretch."""

    all_ms: tuple[float, ...]

    @property
    def p99_ms(self) -> float:
        return float(np.percentile(self.all_ms, 99))


def bench_upload() -> Iterator[Figure]:
    """p99 of offloaded requests during an upload, over p99 without."""
    with tempfile.TemporaryDirectory(prefix="aim-bench-") as folder, running(Path(folder)) as stack:
        model = write_large_model(Path(folder) / "large.onnx")
        with Load(stack) as load:
            upload(stack, model, "warm-up")
            calm, busy, loading = [], [], []
            for number in range(ROUNDS):
                began = time.perf_counter()
                time.sleep(CALM_S)
                calm.append(load.between(began, time.perf_counter()))
                began = time.perf_counter()
                published = upload(stack, model, f"large-{number}")
                busy.append(load.between(began, published))
                loading.append(load.between(published, time.perf_counter()))
    yield from figures(calm, busy, loading)


def figures(calm: list[Times], busy: list[Times], loading: list[Times]) -> Iterator[Figure]:
    """Medians of the rounds, so that one disturbed round decides nothing."""
    without, during, after = (statistics.median(one.p99_ms for one in rounds) for rounds in (calm, busy, loading))
    told = ", ".join(f"{b.p99_ms:.1f}/{c.p99_ms:.1f}" for c, b in zip(calm, busy, strict=True))
    yield Figure(
        "upload_effect_on_offload_p99",
        during / without,
        "ratio",
        BAR,
        note=f"{during:.1f} over {without:.1f} ms ({told}); {SIZE_BYTES // 10**6} MB, {RATE_HZ} requests/s of 1 KiB",
    )
    note = f"{after:.1f} over {without:.1f} ms, from the publication until the pool serves the new version"
    yield Figure("publication_effect_on_offload_p99", after / without, "ratio", note=note)


class Load:
    """Asks the pool at a steady rate from the beginning to the end, and remembers how long each answer took.

    Args:
        stack: with one gateway.
    """

    def __init__(self, stack: Stack) -> None:
        self._client = connect(stack.socket_path(GATEWAY), deadline_ms=DEADLINE_MS)
        self._inputs = {"x": np.zeros((1, REQUEST_FLOATS), np.float32)}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._next_due = 0.0
        self._under_way: set[float] = set()
        self._answers: list[tuple[float, float]] = []
        self._errors: list[Exception] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(THREADS)]

    def __enter__(self) -> Load:
        wait_until(self._is_served, timeout_s=60, every_s=0.2, what="the pool to serve the small model")
        self._next_due = time.perf_counter()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE_MS / 1000)
        self._client.close()

    def between(self, began: float, ended: float) -> Times:
        """The answers to what was due in that time, when all of them are there."""
        wait_until(
            lambda: self._errors or not self._is_waiting(ended), timeout_s=DEADLINE_MS / 1000, what="the last answers"
        )
        if self._errors:
            raise self._errors[0]
        with self._lock:
            return Times(tuple(took * 1000 for due, took in self._answers if began <= due < ended))

    def _is_waiting(self, until: float) -> bool:
        with self._lock:
            return any(due < until for due in self._under_way)

    def _is_served(self) -> bool:
        try:
            return self._ask() == "cloud"
        except Exception:  # noqa: BLE001  it is not there yet; the deadline decides
            return False

    def _ask(self) -> str:
        return self._client.infer("small", self._inputs, mode="cloud").served_by

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                due, self._next_due = self._next_due, self._next_due + 1 / RATE_HZ
                self._under_way.add(due)
            time.sleep(max(0.0, due - time.perf_counter()))
            try:
                assert self._ask() == "cloud"
            except Exception as exc:  # noqa: BLE001  told by who waits for the times
                self._errors.append(exc)
                return
            with self._lock:
                self._under_way.remove(due)
                self._answers.append((due, time.perf_counter() - due))


def upload(stack: Stack, model: Path, name: str) -> float:
    """Send the model and wait until the pool serves it; the moment at which it was published."""
    command = [sys.executable, "-m", "tests.bench.upload_sender", stack.url, str(stack.ca), str(model), name]
    env = os.environ | {"AIMASS_BENCH_KEY": stack.api_key}
    subprocess.run(command, env=env, check=True, timeout=300, stdout=subprocess.DEVNULL)
    published = time.perf_counter()
    wait_until(lambda: served(stack, name), timeout_s=120, every_s=0.25, what=f"the pool to serve {name}")
    return published


def served(stack: Stack, name: str) -> bool:
    """Whether the worker reports the model as running."""
    reported = stack.api.device("svc:worker-0").get("reported") or {}
    return any(one["name"] == name and one["state"] == "running" for one in reported.get("models", []))


@contextmanager
def running(folder: Path) -> Iterator[Stack]:
    """A cloud with one worker that serves a small model, and a gateway."""
    with Stack(folder / "stack", agents={GATEWAY: {"AIMASS_EDGE_ENGINES": json.dumps([])}}) as stack:
        stack.start()
        small = folder / "small.onnx"
        small.write_bytes(small_model())
        stack.api.push_model(small, "small")
        yield stack


def small_model() -> bytes:
    """x FP32 [n, 256] -> y = x + x: nothing but the way there and back."""
    ports = [onnx_models.value(name, ["n", REQUEST_FLOATS]) for name in ("x", "y")]
    return onnx_models.model([helper.make_node("Add", ["x", "x"], ["y"])], ports[:1], ports[1:])


def write_large_model(path: Path) -> Path:
    """A table of 200 MB and a Gather: much to carry, little to compute."""
    rows = SIZE_BYTES // 4 // ROW_FLOATS
    table = np.random.default_rng(1).random((rows, ROW_FLOATS), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["y"], axis=0)],
        "large",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", ROW_FLOATS])],
        [helper.make_tensor("table", TensorProto.FLOAT, table.shape, table.tobytes(), raw=True)],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path
