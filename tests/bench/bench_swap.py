"""A thousand swaps under load: does memory grow, and does any request notice?

One thread swaps between two versions of a model with a quarter of a million weights, one after the other without a
pause; two others ask like applications do, a few hundred times a second each. Resident memory is read after each swap,
once what the start needs is there, and a line laid through it. The slowest request while swaps go on is compared with the 99th
percentile of the same run. One disturbance by another program is enough to break that bar, so a stretch of the same
length without swaps is measured beside it: where even that had as slow a request, the swaps are not to blame.
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
from tests.bench.figure import Figure
from tests.fakes import onnx_models
from tests.fakes.onnx_models import Package, ask

SWAPS = 1000
WARM_SWAPS = 200
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
        clients = [Client(runtime) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            for number in range(WARM_SWAPS):
                swap(runtime, versions[number % 2])
            began = time.monotonic()
            marks = [client.count for client in clients]
            resident_kb = np.full(SWAPS, 0.0)
            for number in range(SWAPS):
                swap(runtime, versions[number % 2])
                resident_kb[number] = read_resident_kb()
            ends = [client.count for client in clients]
            time.sleep(time.monotonic() - began)  # the same length without swaps
        finally:
            for client in clients:
                client.stop()
    swapping = [client.times_ms[mark:end] for client, mark, end in zip(clients, marks, ends, strict=True)]
    calm = [client.times_ms[end : client.count] for client, end in zip(clients, ends, strict=True)]
    yield memory(resident_kb)
    failed, asked = sum(client.failed for client in clients), sum(client.count for client in clients)
    yield Figure("swap_failed_requests", float(failed), "requests", bar=0.0, note=f"of {asked}")
    yield latency(np.concatenate(swapping), np.concatenate(calm))


def swap(runtime: Runtime, version: Package) -> None:
    """One version takes the other's place."""
    runtime.load(version.folder, version.manifest)


class Client:
    """Asks again and again, with the pauses of an application that has something else to do as well."""

    def __init__(self, runtime: Runtime) -> None:
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
        request = ask(np.ones((1, 4)))
        while not self._stop.wait(PAUSE_S) and self.count < MAX_REQUESTS:
            begun = time.perf_counter()
            try:
                self._runtime.infer(request)
            except AimassError:
                self.failed += 1
            self.times_ms[self.count] = (time.perf_counter() - begun) * 1e3
            self.count += 1


def memory(resident_kb: Floats) -> Figure:
    """The slope of the line through resident memory; "0 within noise" is two standard errors, or a page in ten swaps."""
    swaps = np.arange(len(resident_kb))
    slope, offset = np.polyfit(swaps, resident_kb, 1)
    # Neighbouring values depend on one another (the allocator keeps pages), so the noise is that of means of fifty.
    rest = resident_kb - (slope * swaps + offset)
    blocks = np.array([block.mean() for block in np.array_split(rest, len(rest) // 50)])
    error = blocks.std(ddof=2) / (np.sqrt(len(blocks)) * swaps.std())
    return Figure(
        "swap_memory_slope_kb",
        float(slope),
        "kb",
        bar=0.0,
        holds=bool(slope <= max(2 * error, PAGE_KB / 10)),
        note=f"per swap over {SWAPS}, standard error {error:.2f}; {resident_kb[-1] / 1024:.0f} MB at the end",
    )


def latency(swapping_ms: Floats, calm_ms: Floats) -> Figure:
    """The slowest request against the 99th percentile."""
    slowest, p99 = float(swapping_ms.max()), float(np.percentile(swapping_ms, 99))
    calm = float(calm_ms.max())
    return Figure(
        "swap_slowest_over_p99",
        slowest / p99,
        "ratio",
        bar=2.0,
        holds=slowest <= 2 * p99 or slowest <= calm,
        note=f"{slowest:.2f} ms, p99 {p99:.2f} ms of {len(swapping_ms)}; slowest without swaps {calm:.2f} ms",
    )


def read_resident_kb() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_KB
