"""Changing models while they answer: nothing dropped, nothing answered by what is closed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from aimass.errors import ModelError, ModelLoadError, ModelNotFoundError
from aimass.runtime.runtime import Runtime
from aimass.runtime.settings import RuntimeSettings
from tests.fakes import onnx_models
from tests.fakes.engines import FakeEngine
from tests.fakes.onnx_models import Package, ask
from tests.fakes.waiting import until
from tests.unit.runtime.conftest import MakePackage, MakeRuntime


def answered_by(runtime: Runtime, version: str = "") -> tuple[str, float]:
    """The version that answered, and what it added to 1."""
    answer = runtime.infer(ask(version=version))
    return answer.version, float(answer.outputs["y"][0, 0]) - 1


def load(runtime: Runtime, made: Package, **options: Any) -> None:
    runtime.load(made.folder, made.manifest, **options)


def test_a_new_version_takes_the_place_of_the_old(runtime_of: MakeRuntime, package: MakePackage) -> None:
    runtime = runtime_of()
    load(runtime, package(onnx_models.add(1), version=1))
    load(runtime, package(onnx_models.add(2), version=2))
    assert answered_by(runtime) == ("2", 2)
    assert [info.version for info in runtime.models()] == [2]
    with pytest.raises(ModelNotFoundError, match="version 1"):
        answered_by(runtime, "1")


def test_an_older_version_may_take_the_place_of_a_newer(runtime_of: MakeRuntime, package: MakePackage) -> None:
    runtime = runtime_of()
    load(runtime, package(version=2))
    load(runtime, package(version=1))
    assert runtime.model("model").version == 1


def test_several_versions_answer_side_by_side(runtime_of: MakeRuntime, package: MakePackage) -> None:
    runtime = runtime_of()
    for version in (1, 2, 3):
        load(runtime, package(onnx_models.add(version), version=version), default=version == 2)
    assert [answered_by(runtime, version) for version in ("1", "2", "3", "")] == [
        ("1", 1),
        ("2", 2),
        ("3", 3),
        ("2", 2),
    ]
    assert [(info.version, info.default) for info in runtime.models()] == [(1, False), (2, True), (3, False)]


def test_the_old_default_stays_under_its_number_when_wanted(runtime_of: MakeRuntime, package: MakePackage) -> None:
    runtime = runtime_of()
    load(runtime, package(version=1))
    load(runtime, package(version=2), keep_old=True)
    assert [(info.version, info.default) for info in runtime.models()] == [(1, False), (2, True)]
    runtime.make_default("model", 1)
    assert answered_by(runtime)[0] == "1"
    with pytest.raises(ModelNotFoundError, match="version 9"):
        runtime.make_default("model", 9)


def test_without_a_default_a_version_must_be_named(runtime_of: MakeRuntime, package: MakePackage) -> None:
    runtime = runtime_of()
    load(runtime, package(version=4), default=False)
    assert answered_by(runtime, "4")[0] == "4"
    with pytest.raises(ModelNotFoundError, match="default") as caught:
        answered_by(runtime)
    assert "4" in caught.value.hint


def test_the_same_version_loaded_again_replaces_itself(runtime_of: MakeRuntime, package: MakePackage) -> None:
    engine = FakeEngine()
    runtime = runtime_of(engine)
    made = package()
    load(runtime, made)
    load(runtime, made, default=False)
    assert [session.closed for session in engine.sessions] == [True, False]
    assert answered_by(runtime)[0] == "1"


@pytest.mark.parametrize("broken", onnx_models.BROKEN)
def test_what_cannot_be_loaded_leaves_the_old_version_answering(
    runtime_of: MakeRuntime, package: MakePackage, broken: str
) -> None:
    runtime = runtime_of()
    good = package(version=1)
    load(runtime, good)
    bad = package(onnx_models.BROKEN[broken](), version=2, specs=(good.manifest.inputs, good.manifest.outputs))
    with pytest.raises(ModelLoadError):
        load(runtime, bad)
    assert answered_by(runtime) == ("1", 1)
    assert [info.version for info in runtime.models()] == [1]


def test_a_missing_file_leaves_the_old_version_answering(runtime_of: MakeRuntime, package: MakePackage) -> None:
    runtime = runtime_of()
    load(runtime, package(version=1))
    gone = package(version=2)
    (gone.folder / "model.onnx").unlink()
    with pytest.raises(ModelLoadError):
        load(runtime, gone)
    assert answered_by(runtime) == ("1", 1)


def test_a_run_in_progress_keeps_its_version_until_it_has_ended(runtime_of: MakeRuntime, package: MakePackage) -> None:
    engine = FakeEngine()
    runtime = runtime_of(engine)
    load(runtime, package(version=1))
    old = engine.sessions[0]
    old.gate.shut()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(answered_by, runtime)
        until(lambda: old.gate.waiting == 1, "the run to begin")
        swap = pool.submit(load, runtime, package(version=2))
        until(lambda: runtime.model("model").version == 2, "the new version to answer")
        assert answered_by(runtime)[0] == "2"
        assert not old.closed
        assert not swap.done()
        old.gate.open()
        assert running.result(5) == ("1", 1)
        swap.result(5)
        assert old.closed


def test_a_run_that_never_ends_does_not_hold_up_a_swap_for_ever(runtime_of: MakeRuntime, package: MakePackage) -> None:
    engine = FakeEngine()
    runtime = runtime_of(engine, settings=RuntimeSettings(drain_timeout_s=0.05))
    load(runtime, package(version=1))
    engine.gate.shut()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(answered_by, runtime)
        until(lambda: engine.gate.waiting == 1, "the run to begin")
        runtime.unload("model")
        assert engine.sessions[0].closed
        engine.gate.open()
        assert running.result(5) == ("1", 1)


def test_under_load_every_request_is_answered_by_one_whole_version(
    runtime_of: MakeRuntime, package: MakePackage
) -> None:
    runtime = runtime_of()
    versions = [package(onnx_models.add(number), version=number) for number in (1, 2)]
    load(runtime, versions[0])
    stop = threading.Event()
    seen: list[set[tuple[str, float]]] = []

    def work() -> None:
        mine: set[tuple[str, float]] = set()
        seen.append(mine)
        while not stop.is_set():
            mine.add(answered_by(runtime))
            mine.add(answered_by_queue(runtime))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(60):
            load(runtime, versions[(number + 1) % 2])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set().union(*seen) == {("1", 1), ("2", 2)}
    found = runtime.metrics.snapshot()
    assert found["models"]["model"]["errors"] == {}
    assert found["swaps"] == 60


def answered_by_queue(runtime: Runtime) -> tuple[str, float]:
    answer = runtime.submit(ask()).result(10)
    return answer.version, float(answer.outputs["y"][0, 0]) - 1


def test_what_was_unloaded_is_not_found_any_more(runtime_of: MakeRuntime, package: MakePackage) -> None:
    runtime = runtime_of()
    for version in (1, 2):
        load(runtime, package(version=version), keep_old=True)
    runtime.unload("model", 2)
    with pytest.raises(ModelNotFoundError):
        answered_by(runtime)
    assert answered_by(runtime, "1")[0] == "1"
    runtime.unload("model")
    assert runtime.models() == []
    for name, version in (("model", None), ("nobody", None), ("model", 1)):
        with pytest.raises(ModelNotFoundError):
            runtime.unload(name, version)
    with pytest.raises(ModelNotFoundError):
        runtime.model("model")


def test_loads_that_come_at_once_happen_one_after_the_other(runtime_of: MakeRuntime, package: MakePackage) -> None:
    runtime = runtime_of()
    packages = [package(onnx_models.add(number), version=number) for number in range(1, 9)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda made: load(runtime, made), packages))
    assert len(runtime.models()) == 1
    version, amount = answered_by(runtime)
    assert float(version) == amount


def test_a_closed_runtime_has_no_models_and_no_threads(runtime_of: MakeRuntime, package: MakePackage) -> None:
    before = set(threading.enumerate())
    runtime = runtime_of(FakeEngine())
    load(runtime, package())
    runtime.submit(ask()).result(5)
    assert set(threading.enumerate()) > before
    runtime.close()
    runtime.close()
    with pytest.raises(ModelError):
        runtime.infer(ask())
    assert set(threading.enumerate()) <= before
