from __future__ import annotations

import threading

import numpy as np
import pytest

from aimass.errors import EngineRunError, InputError, OverloadError
from aimass.runtime.answer import Answer
from aimass.runtime.metrics import Metrics


def answer(total_ms: float, served_by: str = "edge", late: bool = False) -> Answer:
    outputs = {"y": np.zeros(1, np.float32)}
    return Answer(outputs, "m", "1", served_by, late=late, timings_ms={"total": total_ms})


def test_is_whole_before_anything_happened() -> None:
    assert Metrics().snapshot() == {"models": {}, "drops": {}, "fallbacks": 0, "offloaded": 0}


def test_counts_answers_by_place_and_gives_percentiles() -> None:
    metrics = Metrics()
    for millisecond in range(1, 101):
        metrics.answered(answer(float(millisecond), "cloud" if millisecond % 4 == 0 else "edge"))
    found = metrics.snapshot()["models"]["m"]
    assert found["count"] == 100
    assert found["served_by"] == {"edge": 75, "cloud": 25}
    assert (found["p50_ms"], found["p95_ms"], found["p99_ms"]) == (51.0, 96.0, 100.0)


def test_percentiles_are_those_of_the_last_thousand_or_so() -> None:
    metrics = Metrics()
    for duration_ms in [500.0] * 5000 + [1.0] * 1024:
        metrics.answered(answer(duration_ms))
    found = metrics.snapshot()["models"]["m"]
    assert found["count"] == 6024
    assert found["p99_ms"] == 1.0


def test_counts_late_answers() -> None:
    metrics = Metrics()
    metrics.answered(answer(1.0, late=True))
    assert metrics.snapshot()["models"]["m"]["late"] == 1


def test_counts_errors_by_code_and_drops_by_reason() -> None:
    metrics = Metrics()
    metrics.model("m")
    metrics.failed("m", OverloadError("full"))
    metrics.failed("m", EngineRunError("no"))
    found = metrics.snapshot()
    assert found["models"]["m"]["errors"] == {"overload": 1, "engine.run": 1}
    assert found["drops"] == {"overload": 1}


def test_remembers_no_names_that_no_model_has() -> None:
    metrics = Metrics()
    for number in range(100):
        metrics.failed(f"guess-{number}", InputError("no"))
    assert metrics.snapshot()["models"] == {}
    assert metrics.snapshot()["drops"] == {"input": 100}


@pytest.mark.parametrize("threads", [8])
def test_loses_no_count_among_threads(threads: int) -> None:
    metrics = Metrics()

    def work() -> None:
        for _ in range(500):
            metrics.answered(answer(1.0))
            metrics.add("fallbacks")
            metrics.drop("overload")

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    found = metrics.snapshot()
    assert found["models"]["m"]["count"] == found["fallbacks"] == found["drops"]["overload"] == 500 * threads
