"""What the runtime adds to a bare engine call, on the caller's thread.

Both call the same model with the same arrays in one process, a thousand times in turn, and the medians of the rounds
are compared: what disturbs the machine disturbs both. Validation, metrics, the deadline and the building of the answer
are on; the request is built anew for each call, as an application does.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime

from aimass.engine import ENGINES, open_engine
from aimass.runtime.runtime import Runtime
from aimass.wire.messages import InferRequest
from aimass.wire.tensor import Datatype, Tensor
from tests.bench.figure import Figure
from tests.fakes import onnx_models

ROUNDS = 60
CALLS = 1000


def bench_inproc() -> Iterator[Figure]:
    """Microseconds above `InferenceSession.run`, for the whole call and for `Runtime.infer` alone."""
    with tempfile.TemporaryDirectory() as folder, Runtime([open_engine(ENGINES[0])]) as runtime:
        made = onnx_models.package(Path(folder), onnx_models.mlp())
        runtime.load(made.folder, made.manifest)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        bare = onnxruntime.InferenceSession(
            str(made.folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        array = np.ones((1, 4), np.float32)
        ready = InferRequest("model", (Tensor("x", Datatype.FP32, array),))
        names, feeds = ["y"], {"x": array}

        def build_and_infer() -> object:
            return runtime.infer(InferRequest("model", (Tensor("x", Datatype.FP32, array),)))

        medians = in_turn(
            {
                "bare": lambda: bare.run(names, feeds),
                "infer": lambda: runtime.infer(ready),
                "build and infer": build_and_infer,
            }
        )
    base = medians["bare"]
    yield Figure(
        "inproc_overhead_us",
        medians["build and infer"] - base,
        "us",
        bar=10.0,
        note=f"request built anew; bare run {base:.1f} us; median of {ROUNDS} rounds of {CALLS}",
    )
    yield Figure("inproc_overhead_ready_request_us", medians["infer"] - base, "us", note="the request is kept")


def in_turn(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median over the rounds of each one's median microseconds per call."""
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    gc.disable()  # a collection of everything pytest and onnx left behind belongs to neither side
    try:
        for _ in range(ROUNDS):
            for name, call in calls.items():
                rounds[name].append(statistics.median(timed(call)))
    finally:
        gc.enable()
    return {name: statistics.median(values) for name, values in rounds.items()}


def timed(call: Callable[[], object]) -> list[float]:
    """Microseconds of each of many calls."""
    clock = time.perf_counter_ns
    times = []
    for _ in range(CALLS):
        begun = clock()
        call()
        times.append((clock() - begun) / 1e3)
    return times
