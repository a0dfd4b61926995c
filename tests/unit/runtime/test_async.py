"""Requests of an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from aimass.errors import DeadlineError, EngineRunError, InputError, OverloadError
from aimass.placement.policy import Mode
from aimass.runtime.runtime import Runtime
from aimass.runtime.settings import RuntimeSettings
from tests.fakes.engines import FakeEngine
from tests.fakes.onnx_models import ask
from tests.fakes.remote import FakeRemote, cloud_says
from tests.fakes.waiting import until
from tests.unit.runtime.conftest import MakePackage, MakeRuntime


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    made = FakeEngine()
    yield made
    made.gate.open()


@pytest.fixture
def remote() -> FakeRemote:
    return FakeRemote()


@pytest.fixture
def runtime(runtime_of: MakeRuntime, package: MakePackage, engine: FakeEngine, remote: FakeRemote) -> Runtime:
    settings = RuntimeSettings(max_concurrency=2, max_queue=3, overrun=0.0)
    made, written = runtime_of(engine, remote=remote, settings=settings), package()
    made.load(written.folder, written.manifest)
    return made


async def test_answers_without_blocking_the_loop(runtime: Runtime, engine: FakeEngine) -> None:
    engine.gate.shut()
    task = asyncio.create_task(runtime.infer_async(ask(), deadline_s=30))
    while not engine.gate.waiting:
        await asyncio.sleep(0.001)  # the loop goes on
    engine.gate.open()
    assert (await task).outputs["y"].tolist() == [[2, 3]]


async def test_runs_as_many_at_once_as_there_are_threads(runtime: Runtime, engine: FakeEngine) -> None:
    engine.gate.shut()
    tasks = [asyncio.create_task(runtime.infer_async(ask(), deadline_s=30)) for _ in range(3)]
    while engine.gate.waiting < 2:
        await asyncio.sleep(0.001)
    assert engine.gate.waiting == 2
    with pytest.raises(OverloadError):
        await runtime.infer_async(ask(), deadline_s=30)
    engine.gate.open()
    assert len(await asyncio.gather(*tasks)) == 3
    assert (await runtime.infer_async(ask())).served_by == "edge"


async def test_cancelling_the_task_stops_the_run(runtime: Runtime, engine: FakeEngine) -> None:
    engine.gate.shut()
    task = asyncio.create_task(runtime.infer_async(ask(), deadline_s=30))
    while not engine.gate.waiting:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    until(lambda: engine.gate.waiting == 0, "the run to stop")


async def test_cancelling_the_task_takes_the_call_back(runtime: Runtime, remote: FakeRemote) -> None:
    task = asyncio.create_task(runtime.infer_async(ask(), deadline_s=30, mode=Mode.CLOUD))
    while not remote.calls:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert remote.calls[0].cancelled


async def test_takes_the_clouds_answer(runtime: Runtime, remote: FakeRemote) -> None:
    remote.script = cloud_says()
    assert (await runtime.infer_async(ask(), mode=Mode.CLOUD)).served_by == "cloud"


async def test_falls_back_to_the_device(runtime: Runtime) -> None:
    answer = await runtime.infer_async(ask(), deadline_s=0.1, mode=Mode.CLOUD)
    assert (answer.served_by, answer.degraded) == ("edge", True)


async def test_is_given_up_when_no_answer_can_come(runtime: Runtime, engine: FakeEngine) -> None:
    engine.gate.shut()
    with pytest.raises(DeadlineError):
        await runtime.infer_async(ask(), deadline_s=0.05)


async def test_errors_are_those_of_infer(runtime: Runtime) -> None:
    with pytest.raises(InputError):
        await runtime.infer_async(ask([[1, 2, 3]]))


async def test_whatever_a_run_raises_the_caller_gets_an_error_and_the_next_an_answer(
    runtime: Runtime, engine: FakeEngine
) -> None:
    usual, engine.compute = engine.compute, lambda _: {"y": 1 / 0}  # type: ignore[dict-item]
    with pytest.raises(EngineRunError):
        await runtime.infer_async(ask())
    engine.compute = usual
    assert (await runtime.infer_async(ask())).served_by == "edge"


async def test_a_late_answer_is_given_and_marked(
    runtime_of: MakeRuntime, package: MakePackage, engine: FakeEngine
) -> None:
    runtime, written = runtime_of(engine, settings=RuntimeSettings(overrun=100.0)), package()
    runtime.load(written.folder, written.manifest)
    engine.gate.shut()
    threading.Timer(0.1, engine.gate.open).start()
    assert (await runtime.infer_async(ask(), deadline_s=0.05)).late
