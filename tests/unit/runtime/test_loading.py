"""From a folder to a version that answers: which variant, and what must hold before it may."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aimass.engine import EngineOptions, open_engine
from aimass.errors import EngineMissingError, GoldenMismatchError, ModelLoadError, PackageError
from aimass.package.manifest import Platform, Variant
from aimass.runtime.settings import RuntimeSettings
from aimass.wire.tensor import Datatype, TensorSpec
from tests.fakes import onnx_models
from tests.fakes.engines import FakeEngine
from tests.fakes.onnx_models import ask
from tests.unit.runtime.conftest import MakePackage, MakeRuntime

ONE = {"x": np.array([[1, 2]], np.float32)}
TWO = {"y": np.array([[2, 3]], np.float32)}


def test_says_what_was_loaded_and_how(runtime_of: MakeRuntime, package: MakePackage) -> None:
    made = package(name="adder", version=7, labels=("a", "b"), golden=[(ONE, TWO)])
    info = runtime_of().load(made.folder, made.manifest)
    assert (info.name, info.version, info.engine, info.provider) == ("adder", 7, "onnxruntime", "CPU")
    assert (info.variant, info.labels, info.state, info.default) == ("onnx-fp32", ("a", "b"), "running", True)
    assert info.inputs == made.manifest.inputs


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_answers_on_either_engine_with_golden_vectors_and_without(
    runtime_of: MakeRuntime, package: MakePackage, engine: str
) -> None:
    runtime = runtime_of(open_engine(engine))
    for options in ({}, {"golden": [(ONE, TWO)]}):
        made = package(**options)
        assert runtime.load(made.folder, made.manifest).engine == engine
        assert runtime.infer(ask()).outputs["y"].tolist() == [[2, 3]]


def test_takes_engines_in_the_order_of_the_settings(runtime_of: MakeRuntime, package: MakePackage) -> None:
    made = package()
    engines = [FakeEngine(name="a"), FakeEngine(name="b"), FakeEngine(name="c")]
    runtime = runtime_of(*engines, settings=RuntimeSettings(engine_order=("c", "b")))
    assert runtime.load(made.folder, made.manifest).engine == "c"
    assert runtime.load(made.folder, made.manifest, prefer_engine="a").engine == "a"


def test_an_engine_that_is_preferred_but_not_here_is_named(runtime_of: MakeRuntime, package: MakePackage) -> None:
    made = package()
    with pytest.raises(EngineMissingError, match="abacus") as caught:
        runtime_of(FakeEngine(name="a")).load(made.folder, made.manifest, prefer_engine="abacus")
    assert "a" in caught.value.hint


def test_takes_the_first_variant_that_this_machine_can_run(runtime_of: MakeRuntime, package: MakePackage) -> None:
    made = package(
        variants=(
            Variant("ir", "openvino", "fp32", "model.onnx"),
            Variant("elsewhere", "onnx", "fp32", "model.onnx", platform=Platform(os="plan9")),
            Variant("other-engine", "onnx", "fp32", "model.onnx", platform=Platform(engines=("abacus",))),
            Variant("mine", "onnx", "fp32", "model.onnx", platform=Platform(os="linux", engines=("fake",))),
            Variant("any", "onnx", "fp32", "model.onnx"),
        )
    )
    assert runtime_of(FakeEngine()).load(made.folder, made.manifest).variant == "mine"


def test_without_any_engine_for_it_says_what_there_is(runtime_of: MakeRuntime, package: MakePackage) -> None:
    made = package(variants=(Variant("ir", "openvino", "fp32", "model.onnx"),))
    with pytest.raises(EngineMissingError, match="ir") as caught:
        runtime_of(FakeEngine()).load(made.folder, made.manifest)
    assert "fake" in caught.value.hint


def test_a_provider_nobody_has_is_named(runtime_of: MakeRuntime, package: MakePackage) -> None:
    made = package()
    settings = RuntimeSettings(engine_options=EngineOptions(provider="TensorRT"))
    with pytest.raises(EngineMissingError, match="TensorRT"):
        runtime_of(settings=settings).load(made.folder, made.manifest)


def test_goes_on_to_the_next_engine_when_the_first_refuses(runtime_of: MakeRuntime, package: MakePackage) -> None:
    made = package(golden=[(ONE, TWO)])
    wrong = FakeEngine(lambda feeds: {"y": feeds["x"] + 2}, name="wrong")
    refusing = FakeEngine(name="refusing", refuses={"model.onnx": "never"})
    right = FakeEngine(name="right")
    assert runtime_of(wrong, refusing, right).load(made.folder, made.manifest).engine == "right"
    assert all(session.closed for session in wrong.sessions)


def test_when_all_refuse_the_error_is_that_of_the_one_we_wanted_most(
    runtime_of: MakeRuntime, package: MakePackage
) -> None:
    made = package(golden=[(ONE, TWO)])
    wrong = FakeEngine(lambda feeds: {"y": feeds["x"] + 2}, name="wrong")
    refusing = FakeEngine(name="refusing", refuses={"model.onnx": "never"})
    with pytest.raises(GoldenMismatchError):
        runtime_of(wrong, refusing).load(made.folder, made.manifest)
    with pytest.raises(ModelLoadError, match="never"):
        runtime_of(refusing, wrong).load(made.folder, made.manifest)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([[2, 3.1]], "differs"),
        ([[2, 3], [2, 3]], "shape"),
        ([[np.nan, 3]], "differs"),
    ],
    ids=["value", "shape", "nan"],
)
def test_answers_that_differ_from_the_golden_ones_are_refused(
    runtime_of: MakeRuntime, package: MakePackage, given: Any, expected: str
) -> None:
    made = package(golden=[(ONE, TWO)], tolerance=1e-3)
    engine = FakeEngine(lambda _: {"y": np.array(given, np.float32)})
    with pytest.raises(GoldenMismatchError, match=expected) as caught:
        runtime_of(engine).load(made.folder, made.manifest)
    assert (caught.value.vector, caught.value.output) == (0, "y")
    assert engine.sessions[0].closed


def test_golden_answers_may_differ_within_the_tolerance(runtime_of: MakeRuntime, package: MakePackage) -> None:
    made = package(golden=[(ONE, {"y": np.array([[2.0005, 2.9995]], np.float32)})], tolerance=1e-3)
    runtime_of().load(made.folder, made.manifest)


@pytest.mark.parametrize("datatype", [Datatype.BOOL, Datatype.UINT8, Datatype.INT64, Datatype.BF16, Datatype.FP16])
def test_golden_vectors_of_every_kind_are_compared(
    runtime_of: MakeRuntime, package: MakePackage, datatype: Datatype
) -> None:
    kinds = {kind: code for code, kind in onnx_models._DATATYPES.items()}
    one = np.array([0x3F80, 0x4000] if datatype is Datatype.BF16 else [1, 0]).astype(datatype.dtype)
    both, other = np.concatenate([one, one]), np.concatenate([one, one[::-1]])
    data = onnx_models.doubled(kinds[datatype])
    good, bad = package(data, golden=[({"x": one}, {"y": both})]), package(data, golden=[({"x": one}, {"y": other})])
    runtime = runtime_of()
    runtime.load(good.folder, good.manifest)
    with pytest.raises(GoldenMismatchError):
        runtime.load(bad.folder, bad.manifest)


def test_golden_strings_are_compared(runtime_of: MakeRuntime, package: MakePackage) -> None:
    words = np.array([b"one", b"two"], dtype=object)
    data = onnx_models.strings()
    good = package(data, golden=[({"x": words}, {"y": words})])
    bad = package(data, golden=[({"x": words}, {"y": words[::-1]})])
    runtime = runtime_of()
    runtime.load(good.folder, good.manifest)
    with pytest.raises(GoldenMismatchError):
        runtime.load(bad.folder, bad.manifest)


def test_a_golden_vector_that_does_not_run_is_a_mismatch(runtime_of: MakeRuntime, package: MakePackage) -> None:
    wide = {"x": np.zeros((1, 5), np.float32)}
    made = package(golden=[(wide, {"y": np.zeros((1, 5), np.float32)})])
    with pytest.raises(GoldenMismatchError, match="does not run"):
        runtime_of().load(made.folder, made.manifest)


@pytest.mark.parametrize("content", [b"", b"garbage", None], ids=["empty", "garbage", "missing"])
def test_a_golden_file_that_cannot_be_read_is_a_package_error(
    runtime_of: MakeRuntime, package: MakePackage, content: bytes | None
) -> None:
    made = package(golden=[(ONE, TWO)])
    path = made.folder / "golden.bin"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(PackageError):
        runtime_of().load(made.folder, made.manifest)


def test_a_model_that_loads_but_does_not_run_is_refused(runtime_of: MakeRuntime, package: MakePackage) -> None:
    def broken(_: Any) -> Any:
        from aimass.errors import EngineRunError

        raise EngineRunError("it breaks")

    made = package()
    with pytest.raises(ModelLoadError, match="does not run"):
        runtime_of(FakeEngine(broken)).load(made.folder, made.manifest)


def test_is_warmed_up_before_it_answers(runtime_of: MakeRuntime, package: MakePackage) -> None:
    made = package()
    engine = FakeEngine()
    runtime_of(engine).load(made.folder, made.manifest)
    assert len(engine.sessions[0].runs) >= 2
    assert engine.sessions[0].runs[0]["x"].shape == (1, 2)


def test_is_not_warmed_up_on_sizes_that_only_the_publisher_knows(runtime_of: MakeRuntime, package: MakePackage) -> None:
    free = (TensorSpec("x", Datatype.FP32, (-1, -1)),), (TensorSpec("y", Datatype.FP32, (-1, -1)),)
    made = package(specs=free)
    engine = FakeEngine()
    runtime_of(engine).load(made.folder, made.manifest)
    assert engine.sessions[0].runs == []


@pytest.mark.parametrize(
    ("inputs", "outputs", "word"),
    [
        ([("x", Datatype.FP64, (-1, 2))], [("y", Datatype.FP32, (-1, 2))], "'x'"),
        ([("x", Datatype.FP32, (-1, 3))], [("y", Datatype.FP32, (-1, 2))], "'x'"),
        ([("x", Datatype.FP32, (-1,))], [("y", Datatype.FP32, (-1, 2))], "'x'"),
        ([("z", Datatype.FP32, (-1, 2))], [("y", Datatype.FP32, (-1, 2))], "'z'"),
        ([("x", Datatype.FP32, (-1, 2))], [("z", Datatype.FP32, (-1, 2))], "'z'"),
        ([("x", Datatype.FP32, (-1, 2)), ("z", Datatype.FP32, (-1, 2))], [("y", Datatype.FP32, (-1, 2))], "inputs"),
    ],
    ids=["datatype", "size", "rank", "input name", "output name", "one input too many"],
)
def test_a_file_that_is_not_what_its_manifest_says_is_refused(
    runtime_of: MakeRuntime, package: MakePackage, inputs: Any, outputs: Any, word: str
) -> None:
    specs = tuple(TensorSpec(*one) for one in inputs), tuple(TensorSpec(*one) for one in outputs)
    made = package(specs=specs)
    with pytest.raises(ModelLoadError, match=word):
        runtime_of().load(made.folder, made.manifest)


def test_an_output_the_manifest_does_not_name_is_not_given(runtime_of: MakeRuntime, package: MakePackage) -> None:
    data = onnx_models.two_in_two_out()
    inputs, outputs = onnx_models.specs_of(data)
    made = package(data, specs=(inputs, outputs[:1]))
    runtime = runtime_of()
    runtime.load(made.folder, made.manifest)
    request = ask()
    both = type(request)("model", tuple(type(request.inputs[0])(n, Datatype.FP32, ONE["x"]) for n in ("a", "b")))
    assert list(runtime.infer(both).outputs) == ["sum"]
