"""The report of a build: the same after it was stored, readable, and a picture that is really one."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from aimass.errors import FrameError
from aimass_cloud.build.evaluate import Evaluation
from aimass_cloud.build.evaluation_set import Measure
from aimass_cloud.build.report import BuildReport


def evaluation(
    name: str, value: float, loss: float, latency_us: float, size_bytes: int, reason: str = ""
) -> Evaluation:
    return Evaluation(
        name=name,
        precision=name.split("-")[0],
        size_bytes=size_bytes,
        value=value,
        loss=loss,
        latency_us=latency_us,
        is_kept=not reason,
        reason=reason,
    )


REPORT = BuildReport(
    model="detector",
    version=3,
    measure=Measure.TOP1,
    bound=1.0,
    samples=450,
    builds=(
        evaluation("fp32", 0.9733, 0.0, 2340.0, 4_700_000),
        evaluation("int8-minmax", 0.9711, 0.22, 910.0, 1_300_000),
        evaluation("int8-entropy", 0.91, 6.33, 905.0, 1_300_000, "it loses 6.33; 1 is allowed"),
        evaluation("int8-broken", 0.0, 0.0, 0.0, 900, "it does not run: no | kernel\nfor `Conv` <here>"),
    ),
    failed={"fp16": "fp16 cannot be built: an assertion"},
    notes=("operators were converted from opset 9 to 13",),
    machine="AMD EPYC",
    libraries={"onnxruntime": "1.31.1"},
)
ERRORS = replace(
    REPORT,
    measure=Measure.MAX_ABS_ERROR,
    bound=0.05,
    builds=(*REPORT.builds[:2], evaluation("int8-nan", float("inf"), float("inf"), 900.0, 10, "it loses inf")),
)


@pytest.mark.parametrize("report", [REPORT, ERRORS], ids=["top1", "error"])
def test_a_report_survives_being_stored(report: BuildReport) -> None:
    assert BuildReport.from_json(report.to_json()) == report
    assert b"Infinity" not in report.to_json()


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b'{"builds": [{}]}', b"\xff", b"[" * 100_000])
def test_what_is_no_report_is_refused(raw: bytes) -> None:
    with pytest.raises(FrameError):
        BuildReport.from_json(raw)


def test_the_table_says_what_was_kept_and_why_not() -> None:
    text = REPORT.to_markdown("report.png")
    assert "| `fp32` | fp32 | 97.33 % | 0.00 points | 2.34 ms | 4.5 MiB | yes |" in text
    assert "| `int8-minmax` | int8 | 97.11 % | 0.22 points | 910.0 us | 1.2 MiB | yes |" in text
    assert "no: it loses 6.33; 1 is allowed" in text
    assert "(report.png)" in text
    assert "opset 9 to 13" in text
    assert "fp16 cannot be built" in text
    assert "AMD EPYC with onnxruntime 1.31.1" in text


def test_text_from_outside_stays_inside_its_cell() -> None:
    row = next(line for line in REPORT.to_markdown().splitlines() if "int8-broken" in line)
    assert row.count("|") - row.count("\\|") == 8
    assert "<here>" not in row
    assert "`Conv`" not in row
    assert "| - | - | - |" in row


@pytest.mark.parametrize("report", [REPORT, ERRORS], ids=["top1", "error"])
def test_the_plot_is_a_picture(report: BuildReport) -> None:
    picture = report.plot()
    assert picture.startswith(b"\x89PNG\r\n")
    width, height = struct.unpack(">II", picture[16:24])
    assert (width, height) == (1020, 540)
    drawn = report.plot("svg").decode()
    assert "<svg" in drawn


def test_a_plot_of_nothing_is_still_a_picture() -> None:
    assert replace(REPORT, builds=()).plot().startswith(b"\x89PNG")
