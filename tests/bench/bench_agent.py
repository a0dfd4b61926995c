"""The agent's footprint, and how soon it answers after its start without any network."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from aimass.errors import ConnectError
from tests.bench.figure import Figure
from tests.fakes import onnx_models
from tests.fakes.homes import AgentProcess, EnrolledHome

X = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
REPEATS = 7
REQUESTS = 500
START_TIMEOUT_S = 30


def bench_first_answer() -> list[Figure]:
    """From the start of the process to the first answer of a model on the socket; nothing listens for it anywhere."""
    with enrolled() as home:
        took_s = [first_answer_s(home) for _ in range(REPEATS)]
    note = f"median of {REPEATS} starts, slowest {max(took_s):.2f} s; cloud and broker unreachable"
    return [Figure("agent_first_answer_s", statistics.median(took_s), "s", bar=2, note=note)]


def bench_memory() -> list[Figure]:
    """Resident memory after work, with an engine and a small model, and as a gateway that only offloads."""
    with enrolled() as home:
        whole = resident_mb(home, {})
        bare = resident_mb(home, {"AIMASS_EDGE_ENGINES": "[]"})
    return [
        Figure("agent_rss_mb", whole, "mb", note=f"ONNX Runtime, one small model, {REQUESTS} requests"),
        Figure("agent_rss_mb_without_engine", bare, "mb", bar=96, note=f"no engine set; {REQUESTS} records kept"),
    ]


@contextlib.contextmanager
def enrolled() -> Iterator[EnrolledHome]:
    """A home with one small model."""
    folder = Path(tempfile.mkdtemp(prefix="aim-bench-"))
    try:
        home = EnrolledHome(folder / "home")
        home.install(onnx_models.mlp(), "mlp")
        yield home
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def first_answer_s(home: EnrolledHome) -> float:
    """One start; the agent is stopped again."""
    with AgentProcess(home.folder, autostart=False) as agent:
        started = time.perf_counter()
        agent.start(wait=False)
        with agent.client(deadline_ms=5000) as client:
            while True:
                with contextlib.suppress(ConnectError):
                    client.infer("mlp", {"x": X})
                    return time.perf_counter() - started
                assert time.perf_counter() - started < START_TIMEOUT_S, agent.said()
                time.sleep(0.002)


def resident_mb(home: EnrolledHome, settings: dict[str, str]) -> float:
    """What the process holds after it has worked."""
    with AgentProcess(home.folder, settings) as agent, agent.client(deadline_ms=5000) as client:
        assert agent.process is not None
        for number in range(REQUESTS):
            if settings:
                client.record("bench", {"n": number})
            else:
                client.infer("mlp", {"x": X})
        client.status()
        return psutil.Process(agent.process.pid).memory_info().rss / 2**20
