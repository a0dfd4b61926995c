"""Thousands of swaps under load: does memory grow, and does any request notice?

One thread swaps between two versions of a model, one after the other without a pause; two others ask like applications
do, a few hundred times a second each.

Memory: a model with a quarter of a million weights, resident memory read after each swap once the allocator has settled
(a few thousand swaps), and a line laid through it. Latency: the slowest request against the 99th percentile, median of
the repeats, for a model that takes milliseconds. After each repeat comes a stretch of the same length without swaps;
its figure tells how restless the machine is by itself.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from aimass.engine import ENGINES, open_engine
from aimass.errors import AimassError
from aimass.runtime.runtime import Runtime
from aimass.wire.messages import InferRequest
from tests.bench.figure import Figure
from tests.fakes import onnx_models
from tests.fakes.onnx_models import Package, ask

SWAPS = 1000
REPEATS = 5
WARM_SWAPS = 3000
CLIENTS = 2
PAUSE_S = 0.002
MAX_REQUESTS = 200_000
PAGE_KB = 4.0
Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


def bench_swap() -> Iterator[Figure]:
    """Memory and latency over the swaps."""
    with tempfile.TemporaryDirectory() as folder, Runtime([open_engine(ENGINES[0])]) as runtime:
        versions = [
            onnx_models.package(Path(folder) / str(number), onnx_models.mlp(number, hidden=32_768), version=number)
            for number in (1, 2)
        ]
        swap(runtime, versions[0])
        clients = [Client(runtime, ask(np.ones((1, 4)))) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            for number in range(WARM_SWAPS):
                swap(runtime, versions[number % 2])
            resident_kb = np.full(REPEATS * SWAPS, 0.0)
            repeats: list[Floats] = []
            calm: list[Floats] = []
            for repeat in range(REPEATS):
                began, marks = time.monotonic(), [client.count for client in clients]
                for number in range(SWAPS):
                    swap(runtime, versions[number % 2])
                    resident_kb[repeat * SWAPS + number] = read_resident_kb()
                repeats.append(since(clients, marks))
                marks = [client.count for client in clients]
                time.sleep(time.monotonic() - began)
                calm.append(since(clients, marks))
        finally:
            for client in clients:
                client.stop()
    yield memory(resident_kb)
    failed, asked = sum(client.failed for client in clients), sum(client.count for client in clients)
    yield Figure("swap_failed_requests", float(failed), "requests", bar=0.0, note=f"of {asked}")
    yield from latency("tiny_", repeats, calm, bar=None)


def bench_swap_latency() -> Iterator[Figure]:
    """A thousand swaps of a model that takes milliseconds, as one for images does.

    Requests of 0.2 ms, as above, are on a shared machine now and then twenty times as long without any swap: their
    figures are told, both, and not judged.
    """
    rows = ask(np.ones((8, 512)))
    with tempfile.TemporaryDirectory() as folder, Runtime([open_engine(ENGINES[0])]) as runtime:
        versions = [
            onnx_models.package(Path(folder) / str(number), onnx_models.chain(60, 512), version=number)
            for number in (1, 2)
        ]
        swap(runtime, versions[0])
        clients = [Client(runtime, rows) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            runs = [swapped_and_calm(runtime, versions, clients) for _ in range(REPEATS)]
        finally:
            for client in clients:
                client.stop()
    assert not any(client.failed for client in clients)
    yield from latency("", [one for one, _ in runs], [one for _, one in runs], bar=2.0)


def swapped_and_calm(runtime: Runtime, versions: list[Package], clients: list[Client]) -> tuple[Floats, Floats]:
    """What the clients measured while swaps went on, and for as long without any."""
    began, marks = time.monotonic(), [client.count for client in clients]
    for number in range(SWAPS // REPEATS):
        swap(runtime, versions[1 - number % 2])
    swapped, marks = since(clients, marks), [client.count for client in clients]
    time.sleep(time.monotonic() - began)
    return swapped, since(clients, marks)


def swap(runtime: Runtime, version: Package) -> None:
    """One version takes the other's place."""
    runtime.load(version.folder, version.manifest)


class Client:
    """Asks again and again, with the pauses of an application that has something else to do as well."""

    def __init__(self, runtime: Runtime, request: InferRequest) -> None:
        self._request = request
        self.times_ms: Floats = np.full(
            MAX_REQUESTS, 0.0
        )  # written once now, so that it does not grow while we measure
        self.count = 0
        self.failed = 0
        self._runtime = runtime
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(PAUSE_S) and self.count < MAX_REQUESTS:
            begun = time.perf_counter()
            try:
                self._runtime.infer(self._request)
            except AimassError:
                self.failed += 1
            self.times_ms[self.count] = (time.perf_counter() - begun) * 1e3
            self.count += 1


def since(clients: list[Client], marks: list[int]) -> Floats:
    """What all clients measured since then."""
    return np.concatenate([one.times_ms[mark : one.count] for one, mark in zip(clients, marks, strict=True)])


def memory(resident_kb: Floats) -> Figure:
    """The slope of the line through resident memory.

    "0 within noise" is two standard errors, or 1 kB a swap: a thousandth of the model, which no lost session could be.
    """
    swaps = np.arange(len(resident_kb))
    slope, offset = np.polyfit(swaps, resident_kb, 1)
    # Neighbouring values depend on one another (the allocator keeps pages), so the noise is that of means of hundreds.
    rest = resident_kb - (slope * swaps + offset)
    blocks = np.array([block.mean() for block in np.array_split(rest, len(rest) // 100)])
    error = blocks.std(ddof=2) / (np.sqrt(len(blocks)) * swaps.std())
    return Figure(
        "swap_memory_slope_kb",
        float(slope),
        "kb",
        bar=0.0,
        holds=bool(slope <= max(2 * error, 1.0)),
        note=f"per swap over {len(swaps)}, standard error {error:.2f}; {resident_kb[-1] / 1024:.0f} MB at the end",
    )


def latency(kind: str, repeats: list[Floats], calm: list[Floats], *, bar: float | None) -> Iterator[Figure]:
    """The slowest request against the 99th percentile; beside it the same without swaps, which no swap explains."""
    ratios, without = (sorted(float(one.max() / np.percentile(one, 99)) for one in runs) for runs in (repeats, calm))
    p50, p99 = np.percentile(np.concatenate(repeats), [50, 99])
    note = f"median of {len(ratios)}, {ratios[0]:.1f} to {ratios[-1]:.1f}; p50 {p50:.2f} ms, p99 {p99:.2f} ms"
    yield Figure(f"{kind}swap_slowest_over_p99", float(np.median(ratios)), "ratio", bar=bar, note=note)
    note = f"the same clients between the swaps, {without[0]:.1f} to {without[-1]:.1f}"
    yield Figure(f"{kind}calm_slowest_over_p99", float(np.median(without)), "ratio", note=note)


def read_resident_kb() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_KB
