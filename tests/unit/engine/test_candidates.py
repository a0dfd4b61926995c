"""Who takes part in an auction, and when its result is still good."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aimass.engine.candidates import Candidate, EngineFacts, auction_key, candidates_of, thread_counts
from aimass.engine.hardware import Hardware, read_hardware
from aimass.errors import FrameError
from aimass.package.manifest import Platform, Variant
from tests.fakes.onnx_models import mlp, package

HARDWARE = Hardware("x86_64", "a processor", "0" * 16, 4, {"nvidia": "570.1"})
ONNX = EngineFacts("onnxruntime", "1.31.1", ("onnx",), ("CPU",))
FILE = "model.onnx"


def names(folder: Path, *variants: Variant, engine: EngineFacts = ONNX, hardware: Hardware = HARDWARE) -> list[str]:
    manifest = package(folder, mlp(), variants=variants).manifest
    return [str(candidate) for candidate in candidates_of(manifest, [engine], hardware)]


@pytest.mark.parametrize(("cores", "counts"), [(1, (1,)), (2, (1, 2)), (3, (1, 3)), (4, (1, 2, 4)), (16, (1, 8, 16))])
def test_threads_are_one_half_and_all(cores: int, counts: tuple[int, ...]) -> None:
    assert thread_counts(cores) == counts


def test_variants_for_other_machines_or_engines_take_no_part(tmp_path: Path) -> None:
    variants = (
        Variant("here", "onnx", "fp32", FILE),
        Variant("arm", "onnx", "fp32", FILE, platform=Platform(arch="aarch64")),
        Variant("other", "onnx", "fp32", FILE, platform=Platform(engines=("openvino",))),
        Variant("ir", "openvino", "fp32", FILE),
    )
    assert {name.split()[0] for name in names(tmp_path, *variants)} == {"here"}


def test_only_providers_that_can_be_pinned_take_part(tmp_path: Path) -> None:
    engine = replace(ONNX, providers=("TensorRT", "CUDA", "AzureExecutionProvider", "AUTO", "CPU"))
    found = names(tmp_path, Variant("v", "onnx", "fp32", FILE), engine=engine, hardware=replace(HARDWARE, cores=1))
    assert found == ["v on onnxruntime TensorRT", "v on onnxruntime CUDA", "v on onnxruntime CPU, 1 thread"]


def test_openvino_inside_onnxruntime_is_tried_on_each_of_its_devices(tmp_path: Path) -> None:
    engine = replace(ONNX, providers=("OpenVINO",))
    found = names(tmp_path, Variant("v", "onnx", "fp32", FILE), engine=engine, hardware=replace(HARDWARE, cores=1))
    assert found == [
        "v on onnxruntime OpenVINO:CPU, 1 thread",
        "v on onnxruntime OpenVINO:GPU",
        "v on onnxruntime OpenVINO:NPU",
    ]


def test_a_result_is_good_for_this_package_these_libraries_and_this_machine_only() -> None:
    key = auction_key("ab" * 32, [ONNX], HARDWARE)
    others = [
        auction_key("cd" * 32, [ONNX], HARDWARE),
        auction_key("ab" * 32, [replace(ONNX, version="1.32.0")], HARDWARE),
        auction_key("ab" * 32, [replace(ONNX, providers=("CUDA", "CPU"))], HARDWARE),
        auction_key("ab" * 32, [ONNX, EngineFacts("openvino", "2026.4.1", ("onnx",), ("CPU",))], HARDWARE),
        auction_key("ab" * 32, [ONNX], replace(HARDWARE, cores=2)),
        auction_key("ab" * 32, [ONNX], replace(HARDWARE, drivers={"nvidia": "570.2"})),
    ]
    assert len({key, *others}) == len(others) + 1


def test_the_order_in_which_engines_are_listed_changes_nothing() -> None:
    openvino = EngineFacts("openvino", "2026.4.1", ("onnx",), ("CPU",))
    assert auction_key("ab" * 32, [ONNX, openvino], HARDWARE) == auction_key("ab" * 32, [openvino, ONNX], HARDWARE)


def test_a_machine_is_read_from_what_the_kernel_says(tmp_path: Path) -> None:
    (tmp_path / "proc" / "driver" / "nvidia").mkdir(parents=True)
    (tmp_path / "sys" / "module" / "intel_vpu").mkdir(parents=True)
    cpuinfo = tmp_path / "proc" / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nmodel name\t: Chip 3000\nflags\t\t: sse avx2\n\nprocessor\t: 1\nmodel name\t: B\n"
    )
    (tmp_path / "proc" / "driver" / "nvidia" / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.10  Fri Jan 1 2025\nGCC version: 12.2.0\n"
    )
    found = read_hardware(tmp_path)
    assert found.cpu == "Chip 3000"
    assert found.drivers["nvidia"] == "570.86.10"
    assert "intel_vpu" in found.drivers
    cpuinfo.write_text(cpuinfo.read_text().replace("sse avx2", "avx2 sse"))
    assert read_hardware(tmp_path).fingerprint == found.fingerprint
    cpuinfo.write_text(cpuinfo.read_text().replace("avx2 sse", "avx512 avx2 sse"))
    assert read_hardware(tmp_path).fingerprint != found.fingerprint


def test_a_machine_without_these_files_still_has_a_fingerprint(tmp_path: Path) -> None:
    found = read_hardware(tmp_path)
    assert found.cores >= 1
    assert len(found.fingerprint) == 32
    assert Hardware.from_dict(found.to_dict()) == found


def test_broken_descriptions_are_refused() -> None:
    with pytest.raises(FrameError):
        Hardware.from_dict({"arch": "x"})
    with pytest.raises(FrameError):
        Candidate.from_dict({"variant": "x", "engine": "y", "provider": "z", "threads": "many"})
