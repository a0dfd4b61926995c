"""Auctions with real child processes: both engines, crashes, hangs, memory, and a device that becomes busy."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from aimass.engine.auction import Allowance, Auction, Effort
from aimass.engine.candidates import Candidate, EngineFacts
from aimass.engine.hardware import read_hardware
from aimass.engine.stage import ChildStage, Pace, Part, Stage, describe_engines
from aimass.errors import CancelledError, EngineMissingError, EngineRunError, GoldenMismatchError, ModelLoadError
from tests.fakes.onnx_models import Package, looping, mlp, package
from tests.fakes.waiting import until

pytestmark = pytest.mark.integration

BAD_CHILD = (sys.executable, str(Path(__file__).parent.parent / "fakes" / "audition_child.py"))
QUICK = Effort(warm_s=0.01, screen_s=0.03, rounds=2, burst_s=0.02)
GIB = 1 << 30


def sleeping(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def never_busy() -> Pace:
    return Pace(lambda: False, sleeping, 60)


@pytest.fixture
def made(tmp_path: Path) -> Package:
    from aimass.engine import EngineOptions, open_engine

    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(mlp())
    x = np.ones((1, 4), np.float32)
    session = open_engine("onnxruntime").load(folder / "model.onnx", format="onnx", options=EngineOptions())
    return package(folder, mlp(), golden=[({"x": x}, session.run({"x": x}))])


def part(made: Package, engine: str = "onnxruntime", *, provider: str = "CPU", atol: float = 1e-3) -> Part:
    candidate = Candidate("v", engine, provider, 1)
    return Part(candidate, made.folder / "model.onnx", "onnx", made.folder / "golden.bin", 0.0, atol)


@pytest.fixture
def bad_stage() -> Iterator[ChildStage]:
    stage = ChildStage(never_busy(), GIB, BAD_CHILD)
    yield stage
    stage.close()


def children() -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(path.parent.name))
    return found


def state_of(stage: ChildStage) -> str:
    return Path(f"/proc/{stage._child.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_both_engines_bid_and_one_wins(made: Package) -> None:
    engines = describe_engines(("onnxruntime", "openvino", "nonsense"), never_busy())
    assert [engine.name for engine in engines] == ["onnxruntime", "openvino"]
    before = children()
    result = Auction(engines, read_hardware(), effort=QUICK).run(made.folder, made.manifest, "ab" * 32)
    assert {trial.candidate.engine for trial in result.trials} == {"onnxruntime", "openvino"}
    assert [trial.code for trial in result.trials] == [""] * len(result.trials)
    assert result.winner in {trial.candidate for trial in result.ranking[:2]}  # with one thread or two: they tie
    assert all(trial.runs > 1 and trial.memory_bytes > 0 for trial in result.trials)
    assert 0 < result.cpu_s < 60
    assert children() == before


def test_the_pinned_choice_is_the_one_that_is_faster_alone(made: Package) -> None:
    # A tiny perceptron: ONNX Runtime takes about 6 us and OpenVINO above 20 us, whatever else the machine does.
    engines = describe_engines(("openvino", "onnxruntime"), never_busy())
    result = Auction(engines, read_hardware(), effort=QUICK).run(made.folder, made.manifest, "ab" * 32)
    assert result.winner is not None
    assert result.winner.engine == "onnxruntime"


@pytest.mark.parametrize(
    ("how", "reason", "words"), [("aborts", "crash", r"SIGABRT.*bad_thing"), ("exits", "crash", "exit code 3")]
)
def test_an_engine_that_ends_the_process_ends_only_the_child(
    made: Package, bad_stage: ChildStage, how: str, reason: str, words: str
) -> None:
    with pytest.raises(EngineRunError, match=words) as caught:
        bad_stage.load(part(made, how), 60)
    assert caught.value.reason == reason
    with pytest.raises(EngineRunError):
        bad_stage.time(1, 1, 60)


def test_a_crash_strikes_out_one_candidate_and_no_other(made: Package) -> None:
    engines = [EngineFacts(name, "1", ("onnx",), ("CPU",)) for name in ("aborts", "good", "raises")]
    auction = Auction(
        engines, read_hardware(), effort=QUICK, open_stage=lambda pace, room: ChildStage(pace, room, BAD_CHILD)
    )
    result = auction.run(made.folder, made.manifest, "ab" * 32)
    codes = {trial.candidate.engine: trial.code for trial in result.trials}
    assert codes == {"aborts": "crash", "good": "", "raises": "engine.run"}
    assert result.winner is not None
    assert result.winner.engine == "good"


def test_an_engine_that_hangs_is_ended(made: Package, bad_stage: ChildStage) -> None:
    with pytest.raises(EngineRunError, match="no answer") as caught:
        bad_stage.load(part(made, "hangs"), 1.5)
    assert caught.value.reason == "timeout"
    pid = bad_stage._child.pid
    bad_stage.close()
    assert pid not in children()


def test_an_engine_that_takes_all_memory_is_ended(made: Package) -> None:
    with (
        closing(ChildStage(never_busy(), 400 << 20, BAD_CHILD)) as stage,
        pytest.raises(EngineRunError, match="MiB") as caught,
    ):
        stage.load(part(made, "hogs"), 60)
    assert caught.value.reason == "memory"


def test_what_a_library_prints_is_not_taken_for_an_answer(made: Package, bad_stage: ChildStage) -> None:
    assert bad_stage.load(part(made, "babbles"), 60).load_s > 0
    assert len(bad_stage.time(0.01, 5, 60).times_us) >= 1


@pytest.mark.parametrize(
    ("change", "kind"),
    [({"atol": 0.0}, GoldenMismatchError), ({"provider": "NPU"}, EngineMissingError), ({}, ModelLoadError)],
)
def test_the_childs_errors_arrive_as_they_were(made: Package, change: dict[str, float], kind: type[Exception]) -> None:
    wanted = part(made, **change)  # type: ignore[arg-type]
    if kind is ModelLoadError:
        (made.folder / "model.onnx").write_bytes(b"not a model")
    if kind is GoldenMismatchError:
        (made.folder / "model.onnx").write_bytes(mlp(seed=2))
    with closing(ChildStage(never_busy(), GIB)) as stage, pytest.raises(kind):
        stage.load(wanted, 60)


def test_the_child_is_held_while_the_device_is_busy(tmp_path: Path) -> None:
    times = np.array(3_000_000, np.int64)  # about 15 s of work: it cannot be over before the device is busy
    x = np.ones((1, 64), np.float32)
    feeds = {"times": np.array(1, np.int64), "x": x}
    made = package(tmp_path / "package", looping(), golden=[(feeds, {"y": x}), ({**feeds, "times": times}, {"y": x})])
    states: list[str] = []
    is_busy, done = False, False

    def busy() -> bool:
        nonlocal is_busy
        is_busy = stage_runs() and not done
        return is_busy

    def stage_runs() -> bool:
        return stage.usage().cpu_s > 1.0  # it has begun to compute

    def stopped(seconds: float) -> bool:
        nonlocal done
        if seconds:
            until(lambda: state_of(stage) == "T", "the child to be held")
            states.append(state_of(stage))
            done = len(states) >= 3
        return len(states) >= 3  # and then the auction is given up

    with closing(ChildStage(Pace(busy, stopped, 60), GIB)) as stage, pytest.raises(CancelledError):
        stage.load(part(made), 60)
    assert states == ["T", "T", "T"]


def test_a_burst_during_which_the_device_became_busy_is_marked(made: Package) -> None:
    asked: list[float] = []

    def busy() -> bool:
        asked.append(time.monotonic())
        return loaded and len(asked) == 2  # not when it is about to begin, but at the first look after that

    loaded = False
    with closing(ChildStage(Pace(busy, sleeping, 60), GIB)) as stage:
        stage.load(part(made), 60)
        loaded = True
        asked.clear()
        assert stage.time(0.2, 10**6, 60).is_disturbed
        assert not stage.time(0.05, 10**6, 60).is_disturbed


def test_a_stopped_auction_leaves_no_process(made: Package) -> None:
    before = children()
    engines = describe_engines(("onnxruntime",), never_busy())
    asked = 0

    def stopped(_: float) -> bool:
        nonlocal asked
        asked += 1
        return asked > 4

    with pytest.raises(CancelledError):
        Auction(engines, read_hardware(), effort=QUICK, stopped=stopped).run(made.folder, made.manifest, "ab" * 32)
    assert children() == before


def test_an_allowance_of_processor_time_is_kept(made: Package) -> None:
    engines = describe_engines(("onnxruntime", "openvino"), never_busy())
    auction = Auction(engines, read_hardware(), effort=Effort(screen_s=0.5), allowance=Allowance(cpu_s=0.7))
    result = auction.run(made.folder, made.manifest, "ab" * 32)
    assert not result.is_complete
    assert result.cpu_s < 2.5
    assert "allowance" in {trial.code for trial in result.trials}


def test_the_child_ends_when_nobody_speaks_to_it_any_more(bad_stage: ChildStage) -> None:
    assert bad_stage._child.stdin is not None
    bad_stage._child.stdin.close()
    assert bad_stage._child.wait(30) == 0


def test_opening_is_what_an_auction_expects() -> None:
    opened: Callable[[Pace, int], Stage] = ChildStage
    assert opened is ChildStage
