"""Calibration and evaluation data from outside, good and bad."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimass.errors import InputError
from aimass.wire.tensor import Array, Datatype, TensorSpec
from aimass_cloud.build.evaluation_set import Measure, check_evaluation
from aimass_cloud.build.samples import SampleLimits, Samples, check_samples, read_arrays

X = TensorSpec("x", Datatype.FP32, (-1, 4))
OUT = (TensorSpec("y", Datatype.FP32, (-1, 3)), TensorSpec("label", Datatype.INT64, (-1,)))


def floats(*shape: int) -> Array:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def check(array: Any, spec: TensorSpec = X, **limits: int) -> Samples:
    return check_samples({spec.name: array}, [spec], "calibration data", SampleLimits(**limits))


@pytest.mark.parametrize(
    ("shape", "array_shape", "count", "sample_shape"),
    [
        ((-1, 4), (10, 4), 10, (1, 4)),
        ((1, 4), (10, 4), 10, (1, 4)),
        ((5, 4), (10, 4), 2, (5, 4)),
        ((-1, 4), (10, 2, 4), 10, (2, 4)),
        ((4,), (10, 4), 10, (4,)),
        ((), (10,), 10, ()),
        ((-1, 3, -1, -1), (10, 3, 8, 6), 10, (1, 3, 8, 6)),
    ],
)
def test_the_first_axis_counts_samples(
    shape: tuple[int, ...], array_shape: tuple[int, ...], count: int, sample_shape: tuple[int, ...]
) -> None:
    samples = check(floats(*array_shape), TensorSpec("x", Datatype.FP32, shape))
    assert samples.count == count
    assert [feeds["x"].shape for feeds in samples] == [sample_shape] * count


def test_a_spread_takes_samples_from_the_whole_range() -> None:
    samples = check(floats(100, 4)).spread(5)
    assert [int(feeds["x"][0, 0]) // 4 for feeds in samples] == [0, 24, 49, 74, 99]
    batches = check(floats(20, 4), TensorSpec("x", Datatype.FP32, (5, 4))).spread(2)
    assert [feeds["x"][:, 0].tolist() for feeds in batches] == [[0, 4, 8, 12, 16], [60, 64, 68, 72, 76]]
    assert samples.spread(99) is samples


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (floats(10, 5), "wanted"),
        (floats(10), "shape"),
        (floats(2, 2, 2, 4), "shape"),
        (floats(10, 4).astype(np.float64), "float64"),
        (floats(10, 4).astype(np.int32), "int32"),
        (np.array([["a"] * 4]), "type"),
        (floats(0, 4), "0 samples"),
        (np.full((3, 4), np.nan, np.float32), "NaN"),
    ],
    ids=["width", "rank-1", "rank-4", "double", "integer", "text", "empty", "nan"],
)
def test_what_does_not_fit_is_refused_with_what_was_wanted(array: Array, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        check(array)
    assert "calibration data" in caught.value.message
    assert caught.value.hint


def test_the_row_with_the_infinity_is_named() -> None:
    array = floats(50, 4)
    array[17, 2] = np.inf
    with pytest.raises(InputError, match="row 17"):
        check(array)


def test_rows_that_do_not_fill_the_last_batch_are_refused() -> None:
    with pytest.raises(InputError, match="no multiple of 4"):
        check(floats(10, 4), TensorSpec("x", Datatype.FP32, (4, 4)))


def test_too_much_is_refused() -> None:
    with pytest.raises(InputError, match="MiB"):
        check(floats(100, 4), max_bytes=1000)
    with pytest.raises(InputError, match="samples"):
        check(floats(100, 4), max_samples=99)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "'x' is missing"),
        ({"x": floats(2, 4), "z": floats(2, 4)}, "'z' is not an input"),
        ({"z": floats(2, 4)}, "x"),
    ],
)
def test_missing_and_unknown_inputs_are_named(arrays: dict[str, Array], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_samples(arrays, [X], "calibration data")


def test_inputs_with_different_numbers_of_samples_are_refused() -> None:
    specs = [X, TensorSpec("z", Datatype.FP32, (-1,))]
    with pytest.raises(InputError, match="different numbers"):
        check_samples({"x": floats(3, 4), "z": floats(2)}, specs, "calibration data")


def test_text_cannot_be_calibrated() -> None:
    with pytest.raises(InputError, match="text"):
        check(np.array([b"a"], object), TensorSpec("x", Datatype.BYTES, (-1,)))


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, x=floats(3, 4), labels=np.array([0, 1, 2]))
    found = read_arrays(path)
    assert set(found) == {"x", "labels"}
    np.testing.assert_array_equal(found["x"], floats(3, 4))


def header(shape: Any, kind: str = "<f4") -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": kind, "fortran_order": False, "shape": shape})
    return out.getvalue()


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return out.getvalue()


def pickled() -> bytes:
    out = io.BytesIO()
    np.savez(out, x=np.array([{"a": 1}], object))
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no file of arrays"),
        (b"PK\x03\x04 cut off", "no file of arrays"),
        (b"\x93NUMPY" + bytes(100), "no file of arrays"),
        (zipped(x=b"hello"), "no file of arrays"),
        (zipped(x=header((10, 4)) + bytes(8)), "no file of arrays"),
        (zipped(), "1 to 257 arrays"),
        (zipped(**{f"x{i}": header((1,)) + bytes(4) for i in range(300)}), "1 to 257 arrays"),
        (zipped(x=header((1 << 40,))), "MiB"),
        (zipped(x=header((1 << 20, 100)), z=header((1 << 20, 200))), "MiB"),
        (zipped(x=header((-5, 4)) + bytes(80)), "impossible"),
        (pickled(), "Python objects"),
    ],
    ids=["empty", "cut-off", "npy", "text-inside", "short", "none", "many", "bomb", "bombs", "negative", "pickle"],
)
def test_files_that_are_broken_or_bombs_are_refused_before_they_are_unpacked(
    tmp_path: Path, data: bytes, words: str
) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(data)
    with pytest.raises(InputError, match=words) as caught:
        read_arrays(path)
    assert caught.value.hint


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        read_arrays(tmp_path / "nothing.npz")


def evaluation(labels: Any = None, output: str = "") -> Measure:
    arrays = {"x": floats(5, 4)} | ({} if labels is None else {"labels": np.asarray(labels)})
    return check_evaluation(arrays, [X], OUT, output=output).measure


def test_labels_decide_what_is_measured() -> None:
    assert evaluation([0, 1, 2, 0, 1]) is Measure.TOP1
    assert evaluation() is Measure.MAX_ABS_ERROR


@pytest.mark.parametrize(
    "labels",
    [[0, 1, 2, 0], [[0], [1], [2], [0], [1]], [0.0, 1.0, 2.0, 0.0, 1.0], [0, 1, 2, 3, 0], [0, -1, 2, 0, 0], ["a"] * 5],
    ids=["few", "column", "floats", "too-large", "negative", "text"],
)
def test_labels_that_do_not_fit_are_refused(labels: Any) -> None:
    with pytest.raises(InputError, match="labels") as caught:
        evaluation(labels)
    assert caught.value.hint


def test_an_unknown_output_is_refused_and_a_known_one_taken() -> None:
    assert evaluation([7, 8, 9, 7, 8], output="label") is Measure.TOP1  # a class itself has no number of classes
    with pytest.raises(InputError, match="no output 'z'"):
        evaluation([0, 1, 2, 0, 1], output="z")


def test_a_model_may_have_an_input_called_labels() -> None:
    spec = TensorSpec("labels", Datatype.FP32, (-1, 4))
    assert check_evaluation({"labels": floats(5, 4)}, [spec], OUT).measure is Measure.MAX_ABS_ERROR
