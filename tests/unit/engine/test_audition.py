"""What the child of an auction does with its wishes, and when the auction pauses; all in this process."""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimass.engine.audition import Audition, serve
from aimass.engine.stage import Pace
from aimass.engine.usage import usage_of
from aimass.errors import CancelledError, EngineMissingError, OverloadError
from tests.fakes.engines import FakeEngine
from tests.fakes.onnx_models import add, package
from tests.fakes.stage import Clock


def wish(folder: Path, **changes: Any) -> dict[str, Any]:
    x = np.array([[1.0, 2.0]], np.float32)
    package(folder, add(), golden=[({"x": x}, {"y": x + 1})])
    path, golden = str(folder / "model.onnx"), str(folder / "golden.bin")
    values = {"do": "load", "engine": "fake", "provider": "CPU", "threads": 1, "path": path, "format": "onnx"}
    return {**values, "golden": golden, "rtol": 1e-4, "atol": 1e-4, **changes}


def test_a_good_model_is_loaded_checked_and_timed(tmp_path: Path) -> None:
    engine = FakeEngine()
    audition = Audition(lambda _: engine)
    loaded = audition.answer(wish(tmp_path))
    assert loaded["load_s"] >= 0
    assert len(engine.sessions[0].runs) == 1
    timed = audition.answer({"do": "time", "for_s": 60, "max_runs": 7})
    assert len(timed["times_us"]) == 7
    assert all(time_us > 0 for time_us in timed["times_us"])
    assert timed["memory_bytes"] >= 0


def test_at_least_one_run_is_timed_however_short_the_time(tmp_path: Path) -> None:
    audition = Audition(lambda _: FakeEngine())
    audition.answer(wish(tmp_path))
    assert len(audition.answer({"do": "time", "for_s": 0, "max_runs": 5})["times_us"]) == 1


def test_a_wrong_answer_is_told_as_a_golden_mismatch(tmp_path: Path) -> None:
    audition = Audition(lambda _: FakeEngine(lambda feeds: {"y": feeds["x"] + 2}))
    assert audition.answer(wish(tmp_path))["error"]["code"] == "model.golden"


def test_a_refused_model_is_told_with_the_engines_words(tmp_path: Path) -> None:
    audition = Audition(lambda _: FakeEngine(refuses={"model.onnx": "no such operator"}))
    error = audition.answer(wish(tmp_path))["error"]
    assert (error["code"], error["message"]) == ("model.load", "no such operator")


def test_a_missing_engine_is_told() -> None:
    def missing(name: str) -> FakeEngine:
        raise EngineMissingError(f"{name} is not installed")

    assert Audition(missing).answer({"do": "describe", "engine": "x"})["error"]["code"] == "engine.missing"


def test_an_engine_is_described() -> None:
    told = Audition(lambda _: FakeEngine(formats=("onnx", "openvino"))).answer({"do": "describe", "engine": "fake"})
    assert told == {"version": "1", "formats": ["onnx", "openvino"], "providers": ["CPU"]}


@pytest.mark.parametrize("senseless", [{}, {"do": "dance"}, {"do": "load"}, {"do": "time", "for_s": 1, "max_runs": 1}])
def test_senseless_wishes_are_answered_with_an_error(senseless: dict[str, Any]) -> None:
    assert "error" in Audition(lambda _: FakeEngine()).answer(senseless)


def test_every_wish_gets_one_line() -> None:
    wishes = [json.dumps({"do": "describe", "engine": "fake"}), json.dumps({"do": "dance"})]
    reading, writing = os.pipe()
    serve(wishes, writing, Audition(lambda _: FakeEngine()))
    os.close(writing)
    with os.fdopen(reading) as answers:
        lines = [json.loads(line) for line in answers]
    assert [("error" in line) for line in lines] == [False, True]


def test_usage_counts_up_and_is_nothing_for_a_process_that_is_gone() -> None:
    before = usage_of()
    # Pages of its own: an array could come out of memory that this process has had and freed.
    with mmap.mmap(-1, 64 << 20) as hoard:
        hoard.write(bytes(len(hoard)))
        np.linalg.inv(np.random.default_rng(0).random((600, 600)))
        after = usage_of()
        assert after.memory_bytes - before.memory_bytes > len(hoard) // 2
    assert after.cpu_s >= before.cpu_s
    assert usage_of(2**22 + 1) == usage_of(2**22 + 2)


class Device:
    """Busy until a moment on its clock; waiting moves the clock."""

    def __init__(self, busy_until_s: float) -> None:
        self.clock = Clock()
        self.busy_until_s = busy_until_s

    def busy(self) -> bool:
        return self.clock.now_s < self.busy_until_s

    def stopped(self, seconds: float) -> bool:
        self.clock.now_s += seconds
        return False

    def pace(self, max_pause_s: float = 100) -> Pace:
        return Pace(self.busy, self.stopped, max_pause_s, self.clock)


def test_pauses_are_not_work() -> None:
    device = Device(busy_until_s=3)
    pace = device.pace()
    pace.wait_until_idle()
    device.clock.now_s += 2
    assert pace.paused_s == pytest.approx(3, abs=0.1)
    assert pace.worked_s == pytest.approx(2)


def test_it_does_not_wait_longer_than_allowed() -> None:
    with pytest.raises(OverloadError):
        Device(busy_until_s=50).pace(max_pause_s=10).wait_until_idle()


def test_stopping_ends_the_waiting() -> None:
    for is_busy in (True, False):
        with pytest.raises(CancelledError):
            Pace(lambda is_busy=is_busy: is_busy, lambda _: True, 100, Clock()).wait_until_idle()
