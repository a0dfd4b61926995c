"""Who wins an auction, who is struck out and why, and what it never does. No processes: time is the test's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aimass.engine.auction import Allowance, Auction, Effort
from aimass.engine.auction_result import AuctionResult, Trial
from aimass.engine.candidates import Candidate, EngineFacts
from aimass.engine.hardware import Hardware
from aimass.errors import (
    CancelledError,
    EngineMissingError,
    EngineRunError,
    FrameError,
    GoldenMismatchError,
    ModelLoadError,
)
from aimass.package.manifest import FileEntry, Golden, Manifest, Variant
from aimass.wire.tensor import Datatype, TensorSpec
from tests.fakes.stage import MIB, Act, Theatre, seldom

HARDWARE = Hardware("x86_64", "a processor", "0" * 16, 2)
ONNX = EngineFacts("onnxruntime", "1.31.1", ("onnx",), ("CPU",))
OPENVINO = EngineFacts("openvino", "2026.4.1", ("onnx", "openvino"), ("CPU", "GPU"))
DIGEST = "ab" * 32


def package(**changes: Any) -> Manifest:
    """fp32 in 400 bytes and int8 in 100, with golden vectors."""
    sizes = {"fp32.onnx": 400, "int8.onnx": 100, "golden.bin": 10}
    values: dict[str, Any] = {
        "name": "m",
        "version": 3,
        "created_at": "2026-01-01T00:00:00+00:00",
        "inputs": (TensorSpec("x", Datatype.FP32, (-1, 4)),),
        "outputs": (TensorSpec("y", Datatype.FP32, (-1, 3)),),
        "files": {name: FileEntry("0" * 64, size) for name, size in sizes.items()},
        "variants": (Variant("fp32", "onnx", "fp32", "fp32.onnx"), Variant("int8", "onnx", "int8", "int8.onnx")),
        "golden": Golden("golden.bin", 1e-3, 1e-3),
        **changes,
    }
    return Manifest(**values)


def hold(theatre: Theatre, manifest: Manifest | None = None, **options: Any) -> AuctionResult:
    options.setdefault("effort", Effort(finalists=8, close_share=10))
    first = options.pop("first", None)
    auction = Auction((ONNX,), HARDWARE, open_stage=theatre, clock=theatre.clock, **options)
    return auction.run(Path("package"), manifest or package(), DIGEST, first=first)


def codes(result: AuctionResult) -> dict[str, str]:
    return {str(trial.candidate): trial.code for trial in result.trials}


def test_the_fastest_wins() -> None:
    theatre = Theatre({"int8 on onnxruntime CPU, 2 threads": Act(40), "fp32 on onnxruntime CPU, 1 thread": Act(60)})
    result = hold(theatre)
    assert str(result.winner) == "int8 on onnxruntime CPU, 2 threads"
    assert [trial.median_us for trial in result.ranking] == [40, 60, 100, 100]
    assert result.is_complete
    assert not theatre.open


def test_every_candidate_is_tried_the_small_variants_first() -> None:
    theatre = Theatre()
    hold(theatre)
    assert theatre.played == [
        "int8 on onnxruntime CPU, 1 thread",
        "int8 on onnxruntime CPU, 2 threads",
        "fp32 on onnxruntime CPU, 1 thread",
        "fp32 on onnxruntime CPU, 2 threads",
    ]


def test_what_won_on_an_equal_device_is_tried_before_all_others() -> None:
    theatre = Theatre()
    hold(theatre, first=Candidate("fp32", "onnxruntime", "CPU", 2))
    assert theatre.played[0] == "fp32 on onnxruntime CPU, 2 threads"
    assert len(theatre.played) == 4


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GoldenMismatchError("differs"), "model.golden"),
        (ModelLoadError("refused"), "model.load"),
        (EngineMissingError("no such provider"), "engine.missing"),
        (EngineRunError("SIGSEGV", reason="crash"), "crash"),
        (EngineRunError("no answer", reason="timeout"), "timeout"),
        (EngineRunError("4096 MiB", reason="memory"), "memory"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_who_fails_is_struck_out_with_the_reason_and_the_others_go_on(error: EngineRunError, code: str) -> None:
    theatre = Theatre({"int8 on onnxruntime CPU, 1 thread": Act(1, load_error=error)})
    result = hold(theatre)
    assert result.trials[0].struck_out == error.message
    assert [trial.code for trial in result.trials] == [code, "", "", ""]
    assert result.winner is not None
    assert result.is_complete
    assert not theatre.open


def test_without_anybody_left_there_is_no_winner() -> None:
    error = ModelLoadError("refused")
    names = [
        f"{name} on onnxruntime CPU, {threads}" for name in ("int8", "fp32") for threads in ("1 thread", "2 threads")
    ]
    result = hold(Theatre({name: Act(load_error=error) for name in names}))
    assert result.winner is None
    assert result.ranking == ()


def test_nobody_runs_unchecked() -> None:
    theatre = Theatre()
    result = hold(theatre, package(golden=None))
    assert set(codes(result).values()) == {"no_golden"}
    assert theatre.stages == []


def test_a_variant_may_have_golden_vectors_of_its_own() -> None:
    theatre = Theatre()
    wide = Golden("golden.bin", 0.1, 0.2)
    hold(theatre, golden_of=lambda manifest, variant: wide if variant.precision == "int8" else manifest.golden)
    tolerances = {(s.part.candidate.variant, s.part.rtol, s.part.atol) for s in theatre.stages if s.part}
    assert tolerances == {("int8", 0.1, 0.2), ("fp32", 1e-3, 1e-3)}


def test_fewer_threads_win_a_tie_and_then_less_memory() -> None:
    one = Theatre({"int8 on onnxruntime CPU, 2 threads": Act(99.5)})
    assert str(hold(one).winner).endswith("1 thread")
    light = Theatre({"fp32 on onnxruntime CPU, 1 thread": Act(100, memory_bytes=MIB)})
    assert str(hold(light).winner) == "fp32 on onnxruntime CPU, 1 thread"


def test_measurements_of_different_times_are_not_compared() -> None:
    # The device becomes slow after the first measurement, which is when the loser was measured.
    slowed = Act(40, final_us=90)
    theatre = Theatre(
        {
            "int8 on onnxruntime CPU, 1 thread": slowed,
            "int8 on onnxruntime CPU, 2 threads": Act(41, final_us=80),
            "fp32 on onnxruntime CPU, 1 thread": Act(50, final_us=110),
        }
    )
    result = hold(theatre, effort=Effort(finalists=2))
    assert str(result.winner) == "int8 on onnxruntime CPU, 2 threads"
    assert [trial.turns for trial in result.ranking] == [10, 10, 0, 0]


def test_the_slow_are_dismissed_before_the_second_measurement() -> None:
    theatre = Theatre({"int8 on onnxruntime CPU, 1 thread": Act(10), "int8 on onnxruntime CPU, 2 threads": Act(14)})
    result = hold(theatre, effort=Effort(finalists=4, close_share=0.5, rounds=3))
    assert [trial.turns for trial in result.trials] == [3, 3, 0, 0]


def test_who_crashes_in_the_second_measurement_is_struck_out_too() -> None:
    crash = EngineRunError("SIGABRT", reason="crash")
    names = ("int8 on onnxruntime CPU, 1 thread", "int8 on onnxruntime CPU, 2 threads")
    theatre = Theatre({names[0]: Act(10, final_error=crash), names[1]: Act(50)})
    result = hold(theatre)
    assert codes(result)["int8 on onnxruntime CPU, 1 thread"] == "crash"
    assert str(result.winner) == "int8 on onnxruntime CPU, 2 threads"
    assert not theatre.open


@pytest.mark.parametrize("allowance", [Allowance(cpu_s=2.0), Allowance(work_s=2.0)])
def test_an_allowance_that_is_used_up_leaves_the_best_so_far(allowance: Allowance) -> None:
    theatre = Theatre()
    result = hold(theatre, allowance=allowance)
    assert [trial.code for trial in result.trials] == ["", "allowance", "allowance", "allowance"]
    assert str(result.winner) == "int8 on onnxruntime CPU, 1 thread"
    assert not result.is_complete
    assert not theatre.open


def test_an_allowance_that_ends_in_the_second_measurement_keeps_what_was_measured() -> None:
    theatre = Theatre({"int8 on onnxruntime CPU, 1 thread": Act(10)})
    result = hold(theatre, allowance=Allowance(cpu_s=6.0))
    assert result.is_complete
    assert 0 < max(trial.turns for trial in result.trials) < 10
    assert str(result.winner) == "int8 on onnxruntime CPU, 1 thread"


def test_finalists_make_room_for_a_large_candidate() -> None:
    large = "fp32 on onnxruntime CPU, 1 thread"
    theatre = Theatre({large: Act(5, memory_bytes=90 * MIB)})
    result = hold(theatre, allowance=Allowance(memory_bytes=100 * MIB))
    assert str(result.winner) == large
    assert set(codes(result).values()) == {""}


def test_a_candidate_that_is_too_large_alone_is_struck_out() -> None:
    large = "fp32 on onnxruntime CPU, 1 thread"
    result = hold(Theatre({large: Act(5, memory_bytes=200 * MIB)}), allowance=Allowance(memory_bytes=100 * MIB))
    assert codes(result)[large] == "memory"


def test_runs_that_were_disturbed_do_not_count() -> None:
    act = Act(40, disturbed=2)
    result = hold(Theatre({"int8 on onnxruntime CPU, 1 thread": act}))
    assert act.disturbed == 0
    assert result.trials[0].median_us == 40


def test_it_waits_while_the_device_is_busy_and_that_is_not_counted_as_work() -> None:
    theatre = Theatre()

    def stopped(seconds: float) -> bool:
        theatre.clock.now_s += seconds
        return False

    quiet = hold(Theatre())
    result = hold(theatre, busy=seldom(2), stopped=stopped)
    assert result.paused_s > 0
    assert result.work_s == pytest.approx(quiet.work_s)
    assert result.is_complete


def test_a_device_that_is_always_busy_is_not_waited_for_for_ever() -> None:
    theatre = Theatre()

    def stopped(seconds: float) -> bool:
        theatre.clock.now_s += seconds
        return False

    result = hold(theatre, busy=lambda: True, stopped=stopped, allowance=Allowance(pause_s=10))
    assert set(codes(result).values()) == {"busy"}
    assert not result.is_complete
    assert not theatre.open


def test_it_can_be_stopped_and_leaves_nothing_behind() -> None:
    theatre = Theatre()
    with pytest.raises(CancelledError):
        hold(theatre, stopped=lambda _: theatre.clock.now_s > 2)
    assert theatre.stages
    assert not theatre.open


def test_engines_take_the_formats_they_know_and_accelerators_choose_their_own_threads() -> None:
    theatre = Theatre()
    auction = Auction((ONNX, OPENVINO), HARDWARE, open_stage=theatre, clock=theatre.clock)
    only = package(variants=(Variant("ir", "openvino", "int8", "int8.onnx"),))
    auction.run(Path("package"), only, DIGEST)
    assert theatre.played == ["ir on openvino CPU, 1 thread", "ir on openvino CPU, 2 threads", "ir on openvino GPU"]


def test_a_result_survives_being_kept() -> None:
    error = GoldenMismatchError("differs by 3")
    result = hold(Theatre({"int8 on onnxruntime CPU, 1 thread": Act(load_error=error)}))
    assert AuctionResult.from_json(result.to_json()) == result
    assert result.engines == {"onnxruntime": "1.31.1"}


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"null", b"\xff", b'{"key": "x"}', b"[" * 100_000])
def test_what_is_no_result_is_refused(raw: bytes) -> None:
    with pytest.raises(FrameError):
        AuctionResult.from_json(raw)


def test_a_result_with_a_broken_trial_is_refused() -> None:
    raw = hold(Theatre()).to_json()
    for old, new in ((b'"median_us":100.0', b'"median_us":"fast"'), (b'"threads":1', b'"threads":null')):
        assert old in raw
        with pytest.raises(FrameError):
            AuctionResult.from_json(raw.replace(old, new))


def test_what_was_not_decided_is_not_called_complete() -> None:
    candidate = Candidate("int8", "onnxruntime", "CPU", 1)
    result = hold(Theatre())
    for code, is_complete in (("allowance", False), ("busy", False), ("crash", True)):
        changed = AuctionResult(
            key=result.key,
            model="m",
            version=1,
            hardware=HARDWARE,
            engines={},
            trials=(Trial(candidate, "why", code),),
            winner=None,
        )
        assert changed.is_complete is is_complete
