"""One request on the caller's thread, on this device."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from aimass.engine import Arrays, Feeds, open_engine
from aimass.errors import DeadlineError, EngineRunError, InputError, ModelNotFoundError
from aimass.placement.policy import Mode
from aimass.runtime.runtime import Runtime
from aimass.runtime.settings import RuntimeSettings
from aimass.wire.messages import InferRequest
from aimass.wire.tensor import Tensor
from tests.fakes import onnx_models
from tests.fakes.engines import FakeEngine
from tests.fakes.onnx_models import ask
from tests.unit.runtime.conftest import MakePackage, MakeRuntime


class Clock:
    """Time that passes only when somebody lets it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def loops(times: int, width: int = 1) -> InferRequest:
    """A request that takes about `times` x 5 us."""
    tensors = {"times": np.array(times, np.int64), "x": np.ones((width, 64), np.float32)}
    return InferRequest("model", tuple(Tensor.from_array(name, array) for name, array in tensors.items()))


@pytest.fixture
def looping(runtime_of: MakeRuntime, package: MakePackage) -> Runtime:
    runtime = runtime_of()
    made = package(onnx_models.looping())
    runtime.load(made.folder, made.manifest)
    return runtime


def test_says_where_when_and_by_what_it_was_computed(runtime_of: MakeRuntime, package: MakePackage) -> None:
    clock = Clock()

    def compute(feeds: Feeds) -> Arrays:
        clock.now += 0.25
        return {"y": feeds["x"] + 1}

    made = package(version=3)
    runtime = runtime_of(FakeEngine(compute), clock=clock)
    runtime.load(made.folder, made.manifest)
    answer = runtime.infer(ask())
    assert answer.outputs["y"].tolist() == [[2, 3]]
    assert (answer.model, answer.version, answer.served_by, answer.engine) == ("model", "3", "edge", "fake")
    assert (answer.degraded, answer.late) == (False, False)
    assert answer.timings_ms == {"queue": 0.0, "compute": 250.0, "total": 250.0}


def test_runs_on_the_callers_thread(runtime_of: MakeRuntime, package: MakePackage) -> None:
    ran_on: list[int] = []

    def compute(feeds: Feeds) -> Arrays:
        ran_on.append(threading.get_ident())
        return {"y": feeds["x"]}

    made = package()
    runtime = runtime_of(FakeEngine(compute))
    runtime.load(made.folder, made.manifest)
    ran_on.clear()
    runtime.infer(ask())
    runtime.infer(ask(), mode=Mode.EDGE)
    assert set(ran_on) == {threading.get_ident()}


def test_gives_only_the_outputs_asked_for(runtime_of: MakeRuntime, package: MakePackage) -> None:
    made = package(onnx_models.two_in_two_out())
    runtime = runtime_of()
    runtime.load(made.folder, made.manifest)
    tensors = tuple(Tensor.from_array(name, np.ones((1, 2), np.float32)) for name in ("a", "b"))
    assert set(runtime.infer(InferRequest("model", tensors)).outputs) == {"sum", "difference"}
    assert list(runtime.infer(InferRequest("model", tensors, outputs=("difference",))).outputs) == ["difference"]
    with pytest.raises(InputError, match="nowhere"):
        runtime.infer(InferRequest("model", tensors, outputs=("nowhere",)))


def test_an_answer_after_its_deadline_is_given_and_marked_late(runtime_of: MakeRuntime, package: MakePackage) -> None:
    clock = Clock()

    def compute(feeds: Feeds) -> Arrays:
        clock.now += 0.25
        return {"y": feeds["x"]}

    made = package()
    runtime = runtime_of(FakeEngine(compute), clock=clock)
    runtime.load(made.folder, made.manifest)
    assert runtime.infer(ask(), deadline_s=0.2).late
    assert not runtime.infer(ask(), deadline_s=0.3).late
    assert runtime.metrics.snapshot()["models"]["model"]["late"] == 1


def test_the_default_deadline_is_the_settings(runtime_of: MakeRuntime, package: MakePackage) -> None:
    clock = Clock()

    def compute(feeds: Feeds) -> Arrays:
        clock.now += 0.25
        return {"y": feeds["x"]}

    made = package()
    runtime = runtime_of(FakeEngine(compute), clock=clock, settings=RuntimeSettings(default_deadline_s=0.1))
    runtime.load(made.folder, made.manifest)
    assert runtime.infer(ask()).late


@pytest.mark.parametrize("engine", ["onnxruntime"])
def test_a_run_known_to_be_slow_is_stopped_when_it_is_long_past_its_deadline(
    runtime_of: MakeRuntime, package: MakePackage, engine: str
) -> None:
    runtime = runtime_of(open_engine(engine), settings=RuntimeSettings(overrun=0.5))
    made = package(onnx_models.looping())
    runtime.load(made.folder, made.manifest)
    usual = runtime.infer(loops(20_000), deadline_s=30).timings_ms["compute"] / 1e3
    with pytest.raises(DeadlineError, match="still running"):
        runtime.infer(loops(10_000_000), deadline_s=usual)
    assert runtime.metrics.snapshot()["drops"] == {"deadline": 1}
    assert runtime.infer(loops(1)).served_by == "edge"


def test_a_run_expected_to_be_quick_is_not_watched(runtime_of: MakeRuntime, package: MakePackage) -> None:
    engine = FakeEngine()
    runtime = runtime_of(engine)
    made = package()
    runtime.load(made.folder, made.manifest)
    for _ in range(20):
        runtime.infer(ask(), deadline_s=10)
    assert runtime._watchdog._thread is None


def test_an_error_of_the_engine_is_named_and_counted_and_the_next_request_is_answered(
    runtime_of: MakeRuntime, package: MakePackage
) -> None:
    def compute(feeds: Feeds) -> Arrays:
        if feeds["x"][0, 0] < 0:
            raise EngineRunError("negative")
        return {"y": feeds["x"]}

    made = package()
    runtime = runtime_of(FakeEngine(compute))
    runtime.load(made.folder, made.manifest)
    with pytest.raises(EngineRunError, match="negative"):
        runtime.infer(ask([[-1, 0]]))
    runtime.infer(ask())
    assert runtime.metrics.snapshot()["models"]["model"]["errors"] == {"engine.run": 1}


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (ask([[1, 2, 3]]), InputError),
        (ask([1, 2]), InputError),
        (InferRequest("model", ()), InputError),
        (ask(model="nobody"), ModelNotFoundError),
        (ask(version="9"), ModelNotFoundError),
        (ask(version="one"), ModelNotFoundError),
    ],
    ids=["size", "rank", "nothing", "model", "version", "no version"],
)
@pytest.mark.parametrize("way", ["infer", "submit"])
def test_a_request_that_does_not_fit_is_refused_before_anything_starts(
    runtime_of: MakeRuntime, package: MakePackage, request_: InferRequest, error: type[Exception], way: str
) -> None:
    engine = FakeEngine()
    runtime = runtime_of(engine)
    made = package()
    runtime.load(made.folder, made.manifest)
    engine.sessions[0].runs.clear()
    with pytest.raises(error):
        getattr(runtime, way)(request_)
    assert not engine.sessions[0].runs


def test_without_any_model_says_that_there_is_none(runtime_of: MakeRuntime) -> None:
    for way in ("infer", "submit"):
        with pytest.raises(ModelNotFoundError, match="'model'"):
            getattr(runtime_of(), way)(ask())


def test_answers_many_threads_at_once(looping: Runtime) -> None:
    def one(number: int) -> Any:
        return looping.infer(loops(number % 5, number % 3 + 1)).outputs["y"].shape

    with ThreadPoolExecutor(8) as pool:
        shapes = list(pool.map(one, range(300)))
    assert shapes == [(number % 3 + 1, 64) for number in range(300)]
    assert looping.metrics.snapshot()["models"]["model"]["count"] == 300


def test_strings_go_in_and_out_as_bytes(runtime_of: MakeRuntime, package: MakePackage) -> None:
    made = package(onnx_models.strings())
    runtime = runtime_of()
    runtime.load(made.folder, made.manifest)
    request = InferRequest("model", (Tensor.from_array("x", ["größe", b"raw"]),))
    answer = runtime.infer(request)
    assert list(answer.outputs["y"]) == ["größe".encode(), b"raw"]
    assert answer.to_response().outputs[0].datatype == "BYTES"


def test_says_cloud_when_it_is_a_worker_of_the_pool(runtime_of: MakeRuntime, package: MakePackage) -> None:
    made = package()
    runtime = runtime_of(settings=RuntimeSettings(served_by="cloud"))
    runtime.load(made.folder, made.manifest)
    assert runtime.infer(ask()).served_by == "cloud"
