"""What every engine must do, run over all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from aimass.engine import ENGINES, Cancel, Engine, EngineOptions, Session, open_engine
from aimass.errors import CancelledError, EngineMissingError, EngineRunError, InputError, ModelLoadError
from aimass.wire.tensor import Array, Datatype, TensorSpec
from tests.fakes import onnx_models
from tests.fakes.waiting import until

Load = Callable[[bytes], Session]

DATATYPES = {
    Datatype.BOOL: TensorProto.BOOL,
    Datatype.UINT8: TensorProto.UINT8,
    Datatype.INT8: TensorProto.INT8,
    Datatype.INT32: TensorProto.INT32,
    Datatype.INT64: TensorProto.INT64,
    Datatype.FP16: TensorProto.FLOAT16,
    Datatype.BF16: TensorProto.BFLOAT16,
    Datatype.FP32: TensorProto.FLOAT,
    Datatype.FP64: TensorProto.DOUBLE,
}


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return open_engine(request.param)


@pytest.fixture
def load(engine: Engine, tmp_path: Path) -> Load:
    def loaded(data: bytes) -> Session:
        path = tmp_path / "model.onnx"
        path.write_bytes(data)
        return engine.load(path, format="onnx", options=EngineOptions())

    return loaded


def rows(count: int, width: int = 2) -> Array:
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


def test_has_a_name_a_version_and_the_cpu(engine: Engine) -> None:
    assert engine.name in ENGINES
    assert engine.version[0].isdigit()
    assert "CPU" in engine.providers()
    assert "onnx" in engine.formats


def test_a_session_says_what_the_file_declares(load: Load) -> None:
    session = load(onnx_models.two_in_two_out())
    assert session.inputs == tuple(TensorSpec(name, Datatype.FP32, (-1, 2)) for name in ("a", "b"))
    assert session.outputs == tuple(TensorSpec(name, Datatype.FP32, (-1, 2)) for name in ("sum", "difference"))
    assert session.engine in ENGINES
    assert session.provider == "CPU"


def test_runs_a_batch_of_any_size(load: Load) -> None:
    session = load(onnx_models.add(2))
    for count in (1, 3, 1, 17):
        np.testing.assert_array_equal(session.run({"x": rows(count)})["y"], rows(count) + 2)


def test_engines_agree_on_an_mlp(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_models.mlp())
    sessions = [open_engine(name).load(path, format="onnx", options=EngineOptions()) for name in ENGINES]
    answers = [session.run({"x": rows(5, 4)})["y"] for session in sessions]
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-5)


def test_gives_only_the_outputs_asked_for(load: Load) -> None:
    session = load(onnx_models.two_in_two_out())
    feeds = {"b": rows(1), "a": rows(1) * 3}
    assert list(session.run(feeds, ["difference"])) == ["difference"]
    np.testing.assert_array_equal(session.run(feeds, ["difference"])["difference"], rows(1) * 2)
    assert set(session.run(feeds)) == {"sum", "difference"}


def test_what_a_run_gave_is_not_changed_by_the_next(load: Load) -> None:
    session = load(onnx_models.add(1))
    first = session.run({"x": rows(2)})["y"]
    kept = first.copy()
    session.run({"x": rows(2) * 100})
    np.testing.assert_array_equal(first, kept)
    first += 1  # it is the caller's


def test_leaves_the_inputs_as_they_were(load: Load) -> None:
    session = load(onnx_models.add(1))
    given = rows(2)
    session.run({"x": given})
    np.testing.assert_array_equal(given, rows(2))


def test_takes_views_and_read_only_arrays(load: Load) -> None:
    session = load(onnx_models.add(1))
    every_other = rows(6)[::2]
    columns = np.asfortranarray(rows(3))
    frozen = np.frombuffer(rows(2).tobytes(), np.float32).reshape(2, 2)
    for array in (every_other, columns, frozen):
        np.testing.assert_array_equal(session.run({"x": array})["y"], array + 1)


def test_takes_read_only_bfloat16(load: Load) -> None:
    session = load(onnx_models.doubled(TensorProto.BFLOAT16))
    given = np.frombuffer(np.array([0x3F80, 0x4049], np.uint16).tobytes(), np.uint16)
    np.testing.assert_array_equal(session.run({"x": given})["y"], np.concatenate([given, given]))


def test_runs_scalars_and_empty_batches(load: Load) -> None:
    assert load(onnx_models.scalar()).run({"x": np.array(2.5, np.float32)})["y"] == np.float32(-2.5)
    assert load(onnx_models.add()).run({"x": rows(0)})["y"].shape == (0, 2)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_passes_every_datatype_through(load: Load, datatype: Datatype) -> None:
    session = load(onnx_models.doubled(DATATYPES[datatype]))
    assert session.inputs[0].datatype is datatype
    given = np.array([1, 0, 1], np.uint8).astype(datatype.dtype)
    if datatype is Datatype.BF16:
        given = np.array([0x3F80, 0x4049, 0xC000], np.uint16)  # 1.0, about pi, -2.0
    answer = session.run({"x": given})["y"]
    assert answer.dtype == datatype.dtype
    np.testing.assert_array_equal(answer, np.concatenate([given, given]))


def test_strings_are_bytes_or_refused_when_loading(load: Load) -> None:
    try:
        session = load(onnx_models.strings())
    except ModelLoadError:
        with pytest.raises(ModelLoadError, match="string"):
            load(onnx_models.strings())
        return
    given = np.array([b"a", "größe".encode(), b"", b"nul\x00in"], dtype=object)
    answer = session.run({"x": given})["y"]
    assert list(answer) == list(given)
    with pytest.raises(InputError, match="UTF-8"):
        session.run({"x": np.array([b"\xff"], dtype=object)})


@pytest.mark.parametrize(
    "feeds",
    [
        {"x": rows(1).astype(np.float64)},
        {"x": rows(1).astype(np.int32)},
        {"x": rows(1, 3)},
        {"x": rows(1)[0]},
        {"x": np.array(["a"], dtype=object)},
        {"x": None},
        {"x": "text"},
        {"y": rows(1)},
        {"x": rows(1), "z": rows(1)},
        {},
    ],
    ids=["double", "integer", "wide", "rank", "object", "none", "text", "name", "too many", "nothing"],
)
def test_feeds_that_do_not_fit_are_a_run_error_and_the_session_goes_on(load: Load, feeds: dict[str, Array]) -> None:
    session = load(onnx_models.add(1))
    with pytest.raises(EngineRunError):
        session.run(feeds)
    np.testing.assert_array_equal(session.run({"x": rows(1)})["y"], rows(1) + 1)


def test_an_output_that_is_not_there_is_a_run_error(load: Load) -> None:
    with pytest.raises(EngineRunError):
        load(onnx_models.add()).run({"x": rows(1)}, ["nowhere"])


@pytest.mark.parametrize("kind", onnx_models.BROKEN)
def test_a_broken_file_is_a_load_error(load: Load, kind: str) -> None:
    with pytest.raises(ModelLoadError, match=r"model\.onnx"):
        load(onnx_models.BROKEN[kind]())


def test_a_missing_file_a_folder_and_a_strange_format_are_load_errors(engine: Engine, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.onnx", tmp_path):
        with pytest.raises(ModelLoadError):
            engine.load(path, format="onnx", options=EngineOptions())
    with pytest.raises(ModelLoadError, match="pickle"):
        engine.load(tmp_path / "missing.onnx", format="pickle", options=EngineOptions())


@pytest.mark.parametrize("provider", ["CUDA", "GPU", "Abacus", "OpenVINO:GPU"])
def test_a_provider_that_is_not_here_is_named_with_those_that_are(
    engine: Engine, tmp_path: Path, provider: str
) -> None:
    if provider.removeprefix("OpenVINO:") in engine.providers():
        pytest.skip(f"this machine has {provider}")
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_models.add())
    with pytest.raises(EngineMissingError, match=provider) as caught:
        engine.load(path, format="onnx", options=EngineOptions(provider=provider))
    assert "CPU" in caught.value.hint


def test_an_engine_nobody_knows_is_named_with_those_we_know() -> None:
    with pytest.raises(EngineMissingError, match="abacus") as caught:
        open_engine("abacus")
    assert "onnxruntime" in caught.value.hint


def test_many_threads_run_one_session_at_once(load: Load) -> None:
    session = load(onnx_models.mlp())
    expected = {count: session.run({"x": rows(count, 4)})["y"] for count in range(1, 9)}

    def one(number: int) -> None:
        count = number % 8 + 1
        answer = session.run({"x": rows(count, 4)})["y"]
        np.testing.assert_allclose(answer, expected[count], rtol=1e-6)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(one, number) for number in range(400)]:
            future.result()


def test_a_closed_session_refuses_and_may_be_closed_again(load: Load) -> None:
    session = load(onnx_models.add())
    session.close()
    session.close()
    with pytest.raises(EngineRunError, match="closed"):
        session.run({"x": rows(1)})


def test_a_run_in_progress_ends_well_when_the_session_is_closed(load: Load) -> None:
    session = load(onnx_models.chain())
    given = np.ones((64, 192), np.float32)
    expected = session.run({"x": given})["y"]
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(lambda: session.run({"x": given})["y"]) for _ in range(4)]
        until(lambda: any(future.running() for future in running), "a run to begin")
        session.close()
        wait(running)
        refused = [future.exception() for future in running if future.exception() is not None]
        answers = [future.result() for future in running if future.exception() is None]
    assert answers
    for answer in answers:
        np.testing.assert_allclose(answer, expected, rtol=1e-5)
    for error in refused:  # had not begun yet
        assert isinstance(error, EngineRunError)
        assert "closed" in str(error)


def test_a_run_that_was_cancelled_before_does_not_begin(load: Load) -> None:
    session = load(onnx_models.add())
    cancel = Cancel()
    cancel.set()
    with pytest.raises(CancelledError):
        session.run({"x": rows(1)}, cancel=cancel)


def test_a_run_in_progress_is_stopped(load: Load) -> None:
    session = load(onnx_models.chain(length=1500))
    given = np.ones((256, 192), np.float32)
    begun = threading.Event()
    cancel = Cancel()

    def stopping() -> None:
        begun.wait()
        until(lambda: cancel._stop is not None, "the run to begin")
        cancel.set()

    stopper = threading.Thread(target=stopping)
    stopper.start()
    try:
        begun.set()
        with pytest.raises(CancelledError):
            session.run({"x": given}, cancel=cancel)
    finally:
        stopper.join()
    session.run({"x": given[:1]}, cancel=Cancel())  # the next run is not touched by it


def test_cancelling_after_the_end_disturbs_no_later_run(load: Load) -> None:
    session = load(onnx_models.add(1))
    old = Cancel()
    session.run({"x": rows(1)}, cancel=old)
    old.set()
    old.set()
    np.testing.assert_array_equal(session.run({"x": rows(1)}, cancel=Cancel())["y"], rows(1) + 1)


def test_loading_again_and_again_leaves_no_threads_behind(load: Load) -> None:
    load(onnx_models.mlp()).close()
    before = len(list(Path("/proc/self/task").iterdir()))
    for _ in range(10):
        session = load(onnx_models.mlp())
        session.run({"x": rows(1, 4)})
        session.close()
        del session
    until(lambda: len(list(Path("/proc/self/task").iterdir())) <= before + 2, "the engine's threads to end")
