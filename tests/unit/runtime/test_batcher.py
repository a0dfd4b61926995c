"""The bounded queue and what it puts together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from aimass.engine import Arrays, Feeds
from aimass.errors import CancelledError, DeadlineError, EngineRunError, ModelNotFoundError, OverloadError
from aimass.package.manifest import Batching
from aimass.runtime.runtime import Runtime
from aimass.runtime.settings import RuntimeSettings
from tests.fakes import onnx_models
from tests.fakes.engines import FakeEngine
from tests.fakes.onnx_models import ask
from tests.fakes.waiting import until
from tests.unit.runtime.conftest import MakePackage, MakeRuntime

TOGETHER = Batching(max_batch=8, max_delay_ms=0)


class Held:
    """A runtime whose engine is held by one run, so that what is submitted has to wait in the queue."""

    def __init__(self, runtime: Runtime, engine: FakeEngine) -> None:
        self.runtime = runtime
        self.engine = engine
        self.gate = engine.gate
        self.gate.shut()
        self.first = runtime.submit(ask(), deadline_s=30)
        until(lambda: self.gate.waiting == 1, "the first run to begin")
        engine.sessions[-1].runs.clear()

    def batches(self) -> list[list[float]]:
        """First column of what each run after the first was fed."""
        return [feeds["x"][:, 0].tolist() for feeds in self.engine.sessions[-1].runs]


@pytest.fixture
def held(runtime_of: MakeRuntime, package: MakePackage) -> Iterator[Any]:
    made_engines: list[FakeEngine] = []

    def make(batching: Batching = TOGETHER, engine: FakeEngine | None = None, **settings: Any) -> Held:
        engine = engine or FakeEngine()
        made_engines.append(engine)
        runtime = runtime_of(engine, settings=RuntimeSettings(**settings))
        made = package(batching=batching)
        runtime.load(made.folder, made.manifest)
        return Held(runtime, engine)

    yield make
    for engine in made_engines:
        for session in engine.sessions:
            session.gate.open()


def test_answers_through_the_queue(runtime_of: MakeRuntime, package: MakePackage) -> None:
    made = package()
    runtime = runtime_of()
    runtime.load(made.folder, made.manifest)
    answer = runtime.submit(ask()).result(5)
    assert answer.outputs["y"].tolist() == [[2, 3]]
    assert answer.served_by == "edge"
    assert answer.timings_ms["queue"] > 0


def test_puts_together_what_waited_and_gives_each_its_own_rows(held: Any) -> None:
    it = held()
    futures = [it.runtime.submit(ask([[n, 0], [n, 1]] if n == 3 else [[n, 0]])) for n in range(1, 6)]
    it.gate.open()
    answers = [future.result(5).outputs["y"] for future in futures]
    assert it.batches() == [[1, 2, 3, 3, 4, 5]]
    assert [answer[:, 0].tolist() for answer in answers] == [[2], [3], [4, 4], [5], [6]]
    assert all(answer.flags.c_contiguous for answer in answers)
    assert it.runtime.metrics.snapshot()["batches"] == 1


def test_a_batch_is_never_larger_than_the_package_allows(held: Any) -> None:
    it = held(Batching(max_batch=4))
    futures = [it.runtime.submit(ask([[n, 0]] * 3 if n == 2 else [[n, 0]])) for n in range(7)]
    it.gate.open()
    for future in futures:
        future.result(5)
    assert it.batches() == [[0, 1, 3, 4], [2, 2, 2, 5], [6]]


def test_a_request_larger_than_a_batch_runs_alone(held: Any) -> None:
    it = held(Batching(max_batch=2))
    futures = [it.runtime.submit(ask([[n, 0]] * (5 if n == 0 else 1))) for n in range(2)]
    it.gate.open()
    assert futures[0].result(5).outputs["y"].shape == (5, 2)
    futures[1].result(5)
    assert it.batches() == [[0] * 5, [1]]


def test_without_batching_each_request_runs_alone_in_the_order_it_came(held: Any) -> None:
    it = held(Batching())
    futures = [it.runtime.submit(ask([[n, 0]])) for n in range(4)]
    it.gate.open()
    for future in futures:
        future.result(5)
    assert it.batches() == [[0], [1], [2], [3]]


def test_requests_for_other_outputs_or_versions_are_not_put_together(held: Any) -> None:
    it = held()
    requests = [ask([[0, 0]]), ask([[1, 0]], outputs=("y",)), ask([[2, 0]], version="1"), ask([[3, 0]])]
    futures = [it.runtime.submit(request) for request in requests]
    it.gate.open()
    for future in futures:
        future.result(5)
    assert it.batches() == [[0, 3], [1], [2]]


def test_a_batch_waits_for_more_but_only_as_long_as_the_package_says(
    runtime_of: MakeRuntime, package: MakePackage
) -> None:
    engine = FakeEngine()
    runtime = runtime_of(engine)
    made = package(batching=Batching(max_batch=3, max_delay_ms=10_000))
    runtime.load(made.folder, made.manifest)
    engine.sessions[0].runs.clear()
    futures = [runtime.submit(ask([[n, 0]]), deadline_s=30) for n in range(3)]
    for future in futures:
        future.result(5)  # it was full: nobody waited ten seconds
    assert len(engine.sessions[0].runs) == 1
    quick = package(batching=Batching(max_batch=3, max_delay_ms=20), version=2)
    runtime.load(quick.folder, quick.manifest)
    begun = time.monotonic()
    runtime.submit(ask(), deadline_s=30).result(5)
    assert 0.02 <= time.monotonic() - begun < 5


def test_a_full_queue_refuses_at_once(held: Any) -> None:
    it = held(max_queue=3)
    waiting = [it.runtime.submit(ask([[n, 0]]), deadline_s=30) for n in range(3)]
    begun = time.monotonic()
    with pytest.raises(OverloadError) as caught:
        it.runtime.submit(ask())
    assert time.monotonic() - begun < 1
    assert caught.value.retryable
    it.gate.open()
    for future in waiting:
        future.result(5)
    assert it.runtime.metrics.snapshot()["drops"] == {"overload": 1}


def test_a_request_is_answered_at_its_deadline_while_the_engine_is_busy(held: Any) -> None:
    it = held()
    begun = time.monotonic()
    waiting = it.runtime.submit(ask(), deadline_s=0.05)
    with pytest.raises(DeadlineError):
        waiting.result(5)
    assert 0.05 <= time.monotonic() - begun < 2
    assert it.gate.waiting == 1  # still busy


def test_an_expired_request_is_not_run(held: Any) -> None:
    it = held()
    expired = it.runtime.submit(ask([[1, 0]]), deadline_s=0.02)
    wanted = it.runtime.submit(ask([[2, 0]]), deadline_s=30)
    with pytest.raises(DeadlineError):
        expired.result(5)
    it.gate.open()
    wanted.result(5)
    assert it.batches() == [[2]]
    assert it.runtime.metrics.snapshot()["drops"] == {"deadline": 1}


def test_expired_requests_make_room_in_a_full_queue(held: Any) -> None:
    it = held(max_queue=2)
    for future in [it.runtime.submit(ask(), deadline_s=0.02) for _ in range(2)]:
        with pytest.raises(DeadlineError):
            future.result(5)
    fresh = it.runtime.submit(ask(), deadline_s=30)
    it.gate.open()
    fresh.result(5)


def test_a_deadline_that_has_passed_is_refused_at_once(held: Any) -> None:
    it = held()
    for deadline_s in (0.0, -1.0):
        with pytest.raises(DeadlineError):
            it.runtime.submit(ask(), deadline_s=deadline_s)
        with pytest.raises(DeadlineError):
            it.runtime.infer(ask(), deadline_s=deadline_s)
    it.gate.open()


def test_a_request_that_is_taken_back_is_not_run(held: Any) -> None:
    it = held()
    taken_back = it.runtime.submit(ask([[1, 0]]))
    wanted = it.runtime.submit(ask([[2, 0]]))
    assert taken_back.cancel()
    it.gate.open()
    wanted.result(5)
    with pytest.raises(FutureCancelledError):
        taken_back.result(5)
    assert it.batches() == [[2]]
    assert it.runtime.metrics.snapshot()["drops"] == {"cancelled": 1}


def test_a_run_in_progress_is_stopped_when_its_request_is_taken_back(held: Any) -> None:
    it = held()
    assert it.first.cancel()
    until(lambda: it.gate.waiting == 0, "the run to stop")


def test_a_run_in_progress_is_stopped_at_its_requests_deadline(runtime_of: MakeRuntime, package: MakePackage) -> None:
    engine = FakeEngine()
    runtime = runtime_of(engine)
    made = package()
    runtime.load(made.folder, made.manifest)
    engine.gate.shut()
    with pytest.raises(DeadlineError):
        runtime.submit(ask(), deadline_s=0.05).result(5)
    until(lambda: engine.gate.waiting == 0, "the run to stop")


def test_a_batch_is_stopped_when_nobody_waits_for_it_any_more(held: Any) -> None:
    it = held()
    both = [it.runtime.submit(ask([[n, 0]]), deadline_s=0.5) for n in range(2)]
    it.gate.open()
    it.first.result(5)
    for future in both:
        future.result(5)
    it.gate.shut()
    blocker = it.runtime.submit(ask(), deadline_s=0.2)
    until(lambda: it.gate.waiting == 1, "the engine to be busy")
    late = [it.runtime.submit(ask([[n, 0]]), deadline_s=0.4) for n in range(2)]
    for future in (blocker, *late):
        with pytest.raises(DeadlineError):
            future.result(5)
    until(lambda: it.gate.waiting == 0, "the batch to stop")


def test_one_bad_request_does_not_take_the_others_with_it(held: Any) -> None:
    def compute(feeds: Feeds) -> Arrays:
        if (feeds["x"] < 0).any():
            raise EngineRunError("negative")
        return {"y": feeds["x"] + 1}

    it = held(engine=FakeEngine(compute))
    good, bad, also_good = (it.runtime.submit(ask([[value, 0]])) for value in (1, -1, 2))
    it.gate.open()
    assert good.result(5).outputs["y"].tolist() == [[2, 1]]
    assert also_good.result(5).outputs["y"].tolist() == [[3, 1]]
    with pytest.raises(EngineRunError, match="negative"):
        bad.result(5)


def test_a_model_that_gives_other_rows_than_it_got_is_run_one_by_one(held: Any) -> None:
    it = held(engine=FakeEngine(lambda feeds: {"y": feeds["x"].sum(axis=0, keepdims=True)}))
    futures = [it.runtime.submit(ask([[n, 0]])) for n in (1, 2)]
    it.gate.open()
    assert [future.result(5).outputs["y"].tolist() for future in futures] == [[[1, 0]], [[2, 0]]]


def test_whatever_a_run_raises_the_next_request_is_answered(held: Any) -> None:
    def compute(feeds: Feeds) -> Arrays:
        if (feeds["x"] < 0).any():
            raise ZeroDivisionError
        return {"y": feeds["x"] + 1}

    it = held(engine=FakeEngine(compute))
    bad, good = it.runtime.submit(ask([[-1, 0]])), it.runtime.submit(ask([[1, 0]], outputs=("y",)))
    it.gate.open()
    with pytest.raises(EngineRunError):
        bad.result(5)
    good.result(5)


def test_what_waits_is_answered_by_the_version_that_is_active_then(held: Any, package: MakePackage) -> None:
    it = held()
    waiting = it.runtime.submit(ask(), deadline_s=30)
    fresh = package(version=2)
    with ThreadPoolExecutor(1) as pool:
        swap = pool.submit(it.runtime.load, fresh.folder, fresh.manifest)
        until(lambda: it.runtime.model("model").version == 2, "the new version")
        it.engine.sessions[0].gate.open()
        assert waiting.result(5).version == "2"
        assert it.first.result(5).version == "1"
        swap.result(5)


def test_what_waits_for_a_model_that_is_unloaded_gets_an_error(held: Any) -> None:
    it = held(drain_timeout_s=0.05)
    waiting = it.runtime.submit(ask(), deadline_s=30)
    with ThreadPoolExecutor(1) as pool:
        unload = pool.submit(it.runtime.unload, "model")
        with pytest.raises((CancelledError, ModelNotFoundError)):
            waiting.result(5)
        it.gate.open()
        unload.result(5)
    assert it.first.result(5).version == "1"


def test_closing_answers_everything_that_waits(held: Any) -> None:
    it = held()
    waiting = [it.runtime.submit(ask([[n, 0]]), deadline_s=30) for n in range(5)]
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(it.runtime.close)
        for future in waiting:
            with pytest.raises(CancelledError):
                future.result(5)
        it.gate.open()
        closing.result(5)


def test_closing_does_not_wait_for_a_run_that_never_ends(held: Any) -> None:
    it = held(drain_timeout_s=0.05)
    begun = time.monotonic()
    it.runtime.close()
    assert time.monotonic() - begun < 2


def test_a_thousand_requests_from_many_threads_are_all_answered_right(
    runtime_of: MakeRuntime, package: MakePackage
) -> None:
    made = package(onnx_models.mlp(), batching=Batching(max_batch=16, max_delay_ms=1))
    runtime = runtime_of()
    runtime.load(made.folder, made.manifest)
    inputs = np.random.default_rng(1).normal(size=(1000, 1, 4)).astype(np.float32)
    expected = [runtime.infer(ask(one)).outputs["y"] for one in inputs]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda one: runtime.submit(ask(one), deadline_s=30).result(30).outputs["y"], inputs))
    np.testing.assert_allclose(np.array(answers), np.array(expected), rtol=1e-4, atol=1e-5)
    assert runtime.metrics.snapshot()["batches"] > 0
