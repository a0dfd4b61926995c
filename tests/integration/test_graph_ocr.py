"""Cuts of a real model: the PP-OCRv4 detector, recogniser and classifier as shipped in ``rapidocr-onnxruntime``."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest

from aimass.engine.base import Engine, EngineOptions, Session
from aimass.engine.onnx import OnnxEngine
from aimass.engine.openvino import OpenVinoEngine
from aimass.graph import NoCutKind, check_chain, extract_segments, find_cuts, save_segments
from aimass.wire.tensor import Array, Datatype

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SHAPES = {"det": [1, 3, 320, 320], "rec": [1, 3, 48, 320], "cls": [1, 3, 48, 192]}


def model_path(kind: str) -> Path:
    try:
        files = distribution("rapidocr-onnxruntime").files or []
    except PackageNotFoundError:
        pytest.skip("rapidocr-onnxruntime is not installed")
    [found] = [file for file in files if file.name.endswith("_infer.onnx") and f"_{kind}_" in f"_{file.name}_"]
    return Path(str(found.locate()))


def pages(kind: str, count: int) -> list[dict[str, Array]]:
    """Dark strokes in lines on light paper, normalised as the detector wants it."""
    dice = np.random.default_rng(3)
    _, _, height, width = SHAPES[kind]
    out = []
    for _ in range(count):
        page = np.full((1, 3, height, width), 0.9, np.float32)
        for top in range(8, height - 12, 24):
            page[:, :, top : top + 10, 10 : width - 10] *= dice.random((1, 1, 10, width - 20)) > 0.5
        out.append({"x": ((page - 0.5) / 0.5 + dice.normal(0, 0.02, page.shape)).astype(np.float32)})
    return out


def chained(engine: Engine, path: Path, cuts: list[str], folder: Path) -> tuple[Session, list[Session]]:
    files = save_segments(extract_segments(path, cuts), folder)
    options = EngineOptions()
    parts = [engine.load(paths[0], format="onnx", options=options) for paths in files]
    return engine.load(path, format="onnx", options=options), parts


@pytest.mark.parametrize("kind", SHAPES)
def test_the_chain_of_all_cuts_equals_the_whole(kind: str, tmp_path: Path) -> None:
    path = model_path(kind)
    report = find_cuts(path, sample_shapes={"x": SHAPES[kind]})
    assert 2 <= len(report.cuts) <= 6
    whole, parts = chained(OnnxEngine(), path, [cut.name for cut in report.cuts], tmp_path)
    found = check_chain(whole, parts, pages(kind, 3), rtol=1e-3, atol=1e-4)
    assert found.is_close, found


def test_the_chain_of_the_detector_equals_the_whole_on_openvino(tmp_path: Path) -> None:
    path = model_path("det")
    report = find_cuts(path, sample_shapes={"x": SHAPES["det"]})
    whole, parts = chained(OpenVinoEngine(), path, [cut.name for cut in report.cuts], tmp_path)
    found = check_chain(whole, parts, pages("det", 2), rtol=1e-3, atol=1e-3)
    assert found.is_close, found


def test_every_separator_of_the_detector_gives_two_halves_that_load(tmp_path: Path) -> None:
    path = model_path("det")
    report = find_cuts(path, sample_shapes={"x": SHAPES["det"]})
    free = [cut.name for cut in report.separators if not cut.is_fused]
    assert len(free) > 10
    whole, parts = chained(OnnxEngine(), path, free, tmp_path)
    assert check_chain(whole, parts, pages("det", 1), rtol=1e-3, atol=1e-4).is_close
    parts_bytes = sum(file.stat().st_size for file in tmp_path.glob("segment-*.onnx"))
    assert parts_bytes < 1.02 * path.stat().st_size  # weights exist once


def test_a_detector_of_unknown_size_asks_for_samples() -> None:
    no_cut = find_cuts(model_path("det")).no_cut
    assert no_cut is not None
    assert no_cut.kind is NoCutKind.DYNAMIC_SHAPE


def test_each_byte_cut_of_the_quantised_detector_is_exact(tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")

    class Pages(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self._left = iter(pages("det", 4))

        def get_next(self) -> dict[str, Array] | None:
            return next(self._left, None)

    path = tmp_path / "qdq.onnx"
    quantization.quantize_static(
        str(model_path("det")), str(path), Pages(), quant_format=quantization.QuantFormat.QDQ, per_channel=True
    )
    report = find_cuts(path, sample_shapes={"x": SHAPES["det"]})
    cuts = [cut for cut in report.cuts if cut.datatype in (Datatype.UINT8, Datatype.INT8)]
    assert len(cuts) >= 2
    engine = OnnxEngine()
    for number, cut in enumerate(cuts):
        folder = tmp_path / str(number)
        folder.mkdir()
        whole, parts = chained(engine, path, [cut.name], folder)
        assert check_chain(whole, parts, pages("det", 2)).is_exact, cut.name
