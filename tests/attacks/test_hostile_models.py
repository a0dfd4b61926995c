"""Model files made to break the checker. Each ends in one named error with a hint; the child is the real one."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aimass.errors import CancelledError, ModelInvalidError
from aimass_cloud.build.findings import BuildLimits, Job
from aimass_cloud.build.runner import Examiner
from tests.fakes.cloud_models import affine, affine_bytes, external, model, value

MIB = 1 << 20
examine = Examiner().examine


def job(folder: Path, files: tuple[str, ...] = (), **limits: Any) -> Job:
    return Job(str(folder), "model.onnx", files, "m", "golden.bin", BuildLimits(**{"wall_s": 60.0, **limits}))


def refusal(folder: Path, content: bytes | Any, **limits: Any) -> ModelInvalidError:
    data = content if isinstance(content, bytes) else content.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    return refused(job(folder, **limits))


def refused(task: Job) -> ModelInvalidError:
    with pytest.raises(ModelInvalidError) as caught:
        examine(task)
    assert caught.value.hint
    assert not caught.value.retryable
    assert "\n" not in caught.value.message
    return caught.value


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", b"x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"",
        lambda: b"hello, this is a text file, and no model at all",
        lambda: os.urandom(4096),
        lambda: b"\x00" * 4096,
        lambda: b"\xff" * 4096,
        zipped,
        lambda: gzip.compress(b"x" * 100),
        lambda: b"<html><body>404 Not Found</body></html>",
        lambda: b"\x89HDF\r\n\x1a\n" + bytes(100),
        lambda: b"\x1c\x00\x00\x00TFL3" + bytes(100),
    ],
    ids=["empty", "text", "noise", "zeros", "ones", "zip", "gzip", "html", "hdf5", "tflite"],
)
def test_a_file_that_is_not_onnx_is_called_so(tmp_path: Path, make: Callable[[], bytes]) -> None:
    assert refusal(tmp_path, make()).reason == "not_onnx"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_file_that_is_cut_off_is_called_so(tmp_path: Path, share: float) -> None:
    whole = affine_bytes(width=64)
    error = refusal(tmp_path, whole[: int(len(whole) * share)])
    assert error.reason == "cut_off"
    assert "interrupted" in error.hint


def broken_edges() -> Any:
    proto = affine()
    proto.graph.node[0].input[0] = "nowhere"
    return proto


def broken_shapes() -> Any:
    proto = affine()
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5
    return proto


def unknown_operator() -> Any:
    return model([helper.make_node("FooBar", ["x"], ["y"])], [value("x", ["n"])], [value("y", ["n"])])


def circle() -> Any:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Identity", ["a"], ["b"])]
    return model(nodes, [value("x", ["n"])], [value("b", ["n"])])


def short_weights() -> Any:
    proto = affine()
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]
    return proto


def two_of_a_name() -> Any:
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"])]
    return model(nodes, [value("x", ["n"])], [value("y", ["n"])])


@pytest.mark.parametrize("make", [broken_edges, broken_shapes, unknown_operator, circle, short_weights, two_of_a_name])
def test_a_broken_graph_is_called_so(tmp_path: Path, make: Callable[[], Any]) -> None:
    assert refusal(tmp_path, make()).reason in {"broken", "engine"}


def test_a_model_above_the_limit_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    assert refusal(tmp_path, affine_bytes(width=4000), max_model_bytes=1000).reason == "too_large"


def test_custom_operators_are_refused_by_name(tmp_path: Path) -> None:
    nodes = [helper.make_node("Steal", ["x"], ["y"], domain="evil.org")]
    proto = model(nodes, [value("x", ["n"])], [value("y", ["n"])], opsets={"": 17, "evil.org": 1})
    error = refusal(tmp_path, proto)
    assert error.reason == "custom_operators"
    assert "evil.org::Steal" in error.message


def test_custom_operators_inside_a_subgraph_are_found_too(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("Steal", ["x"], ["z"], domain="evil.org")], "inner", [], [value("z", ["n"])]
    )
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)]
    inputs = [value("c", [], TensorProto.BOOL), value("x", ["n"])]
    proto = model(nodes, inputs, [value("y", ["n"])], opsets={"": 17, "evil.org": 1})
    assert refusal(tmp_path, proto).reason == "custom_operators"


@pytest.mark.parametrize("opset", [3, 999])
def test_operator_sets_that_no_engine_has_are_refused(tmp_path: Path, opset: int) -> None:
    proto = model(
        [helper.make_node("Identity", ["x"], ["y"])], [value("x", ["n"])], [value("y", ["n"])], opsets={"": opset}
    )
    assert refusal(tmp_path, proto).reason == "opset"


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../secret", "a/../../secret", "weights.bin", "", "./weights.bin", "model.onnx\x00x"]
)
def test_external_data_outside_the_uploaded_files_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path.parent / "secret").write_bytes(bytes(48))
    folder = tmp_path / "upload"
    folder.mkdir()
    proto = onnx.load(str(external(folder)), load_external_data=False)
    (folder / "weights.bin").unlink()
    for tensor in proto.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    assert refusal(folder, proto).reason == "external_data"


def test_external_data_through_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    (tmp_path / "weights.bin").symlink_to("/etc/passwd")
    assert refused(job(tmp_path, ("weights.bin",))).reason == "external_data"


def test_external_data_named_twice_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path)
    proto = onnx.load(str(path), load_external_data=False)
    extra = proto.graph.initializer[0].external_data.add()
    extra.key, extra.value = "location", "/etc/passwd"
    path.write_bytes(proto.SerializeToString())
    assert refused(job(tmp_path, ("weights.bin",))).reason == "external_data"


@pytest.mark.parametrize(("key", "text"), [("length", "999999"), ("offset", "-4"), ("offset", "x"), ("length", "1e9")])
def test_external_data_outside_its_file_is_refused(tmp_path: Path, key: str, text: str) -> None:
    path = external(tmp_path)
    proto = onnx.load(str(path), load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == key:
            entry.value = text
    path.write_bytes(proto.SerializeToString())
    assert refused(job(tmp_path, ("weights.bin",))).reason in {"external_data", "cut_off"}


def test_a_model_that_fills_the_memory_is_stopped(tmp_path: Path) -> None:
    # 256 TiB by a few bytes of constants: folded by the engine while it loads, or run for the golden vectors.
    nodes = [
        helper.make_node(
            "ConstantOfShape", ["big"], ["filled"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1])
        ),
        helper.make_node("ReduceSum", ["filled"], ["total"], keepdims=0),
        helper.make_node("Add", ["x", "total"], ["y"]),
    ]
    proto = model(
        nodes, [value("x", ["n"])], [value("y", ["n"])], weights={"big": np.array([1 << 23, 1 << 23], np.int64)}
    )
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    before = time.monotonic()
    assert refused(job(tmp_path, memory_bytes=2048 * MIB)).reason in {"memory", "engine", "broken"}
    assert time.monotonic() - before < 60


def endless() -> Any:
    """A loop of 2^62 rounds."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["v", "v"], ["v_out"])],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("v", ["n"])],
        [value("go_on", [], TensorProto.BOOL), value("v_out", ["n"])],
    )
    weights = {"rounds": np.array(1 << 62, np.int64), "yes": np.array(True)}
    nodes = [helper.make_node("Loop", ["rounds", "yes", "x"], ["y"], body=body)]
    return model(nodes, [value("x", ["n"])], [value("y", ["n"])], weights=weights)


def test_a_model_that_never_ends_is_stopped_by_the_wall_clock(tmp_path: Path) -> None:
    error = refusal(tmp_path, endless(), wall_s=4.0)
    assert error.reason == "timeout"
    assert "4 s" in error.message


def test_a_model_that_never_ends_is_stopped_by_its_processor_time(tmp_path: Path) -> None:
    assert refusal(tmp_path, endless(), cpu_s=3).reason == "timeout"


def test_deeply_nested_bytes_do_not_crash_anything(tmp_path: Path) -> None:
    inner = b""
    for _ in range(400):  # graph -> node -> attribute -> graph -> ...
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            inner = tag + onnx_varint(len(inner)) + inner
    assert refusal(tmp_path, b"\x08\x08" + b"\x3a" + onnx_varint(len(inner)) + inner).reason in {
        "cut_off",
        "not_onnx",
        "broken",
    }


def onnx_varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def test_a_file_named_like_a_module_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(0)")
    (tmp_path / "onnx.py").write_text("raise SystemExit(0)")
    (tmp_path / "model.onnx").write_bytes(affine_bytes())
    assert examine(job(tmp_path)).tolerance is not None


def test_no_child_is_left_behind(tmp_path: Path) -> None:
    refusal(tmp_path, endless(), wall_s=3.0)
    mine = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children").read_text().split()
    for pid in mine:
        assert "aimass_cloud.build.child" not in Path(f"/proc/{pid}/cmdline").read_text()


def test_closing_ends_what_is_under_way(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(endless().SerializeToString())
    examiner = Examiner()
    timer = threading.Timer(1.0, examiner.close)
    timer.start()
    with pytest.raises(CancelledError):
        examiner.examine(job(tmp_path))
    timer.join()
    with pytest.raises(CancelledError):
        examiner.examine(job(tmp_path))


def test_an_archive_is_taken_apart_in_the_child_and_a_bomb_is_stopped_there(tmp_path: Path) -> None:
    for name, size in (("good.tar.gz", 1000), ("bomb.tar.gz", 50 * MIB)):
        with tarfile.open(tmp_path / name, "w:gz") as tar:
            info = tarfile.TarInfo("m.onnx")
            info.size = size
            tar.addfile(info, io.BytesIO(bytes(size)))
    limits = BuildLimits(max_model_bytes=MIB)
    assert Examiner().unpack(Job(str(tmp_path), "good.tar.gz", (), "", "", limits)) == ["m.onnx"]
    (tmp_path / "m.onnx").unlink()
    with pytest.raises(ModelInvalidError) as caught:
        Examiner().unpack(Job(str(tmp_path), "bomb.tar.gz", (), "", "", limits))
    assert caught.value.reason == "too_large"
