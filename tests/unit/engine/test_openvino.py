"""What only OpenVINO's adapter has: its own format, names of tensors, a pool of requests."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino
import pytest
from onnx import helper

from aimass.engine import EngineOptions
from aimass.engine.openvino import OpenVinoEngine, foreign_errors, tensor_name
from aimass.errors import ModelLoadError
from tests.fakes import onnx_models


@pytest.fixture(scope="module")
def engine() -> Iterator[OpenVinoEngine]:
    return OpenVinoEngine()


@dataclass
class Node:
    friendly_name: str


@dataclass
class Port:
    """A border tensor as OpenVINO shows it."""

    names: set[str]
    node: str

    def get_names(self) -> set[str]:
        return self.names

    def get_node(self) -> Node:
        return Node(self.node)


def test_every_exception_class_of_openvino_is_known() -> None:
    from openvino import _pyopenvino as native

    theirs = {kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert theirs
    assert theirs <= set(foreign_errors())


@pytest.mark.parametrize(
    ("port", "taken", "name"),
    [
        (Port({"x"}, "x"), set(), "x"),
        (Port({"y"}, "y/sink_port_0"), set(), "y"),
        (Port({"alias", "y"}, "y/sink_port_0"), set(), "y"),
        (Port({"b", "a"}, "Parameter_7"), set(), "a"),
        (Port({"a", "b"}, "Result_1"), {"a"}, "b"),
        (Port(set(), "Parameter_7"), set(), "Parameter_7"),
        (Port({"a"}, "a"), {"a"}, "a:3"),
    ],
    ids=["own", "output", "several", "strange node", "second of an alias", "nameless", "all taken"],
)
def test_a_tensor_gets_its_onnx_name_or_a_stable_one(port: Port, taken: set[str], name: str) -> None:
    assert tensor_name(port, 3, taken) == name


def test_outputs_that_are_one_tensor_keep_their_names_and_order(engine: OpenVinoEngine, tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"])]
    nodes += [helper.make_node("Identity", ["r"], [name]) for name in ("second", "first")]
    ports = [onnx_models.value(name, ["n"]) for name in ("r", "second", "first")]
    (tmp_path / "m.onnx").write_bytes(onnx_models.model(nodes, [onnx_models.value("x", ["n"])], ports))
    session = engine.load(tmp_path / "m.onnx", format="onnx", options=EngineOptions())
    assert [spec.name for spec in session.outputs] == ["r", "second", "first"]
    answer = session.run({"x": np.array([-1, 2], np.float32)})
    for array in answer.values():
        np.testing.assert_array_equal(array, [0, 2])


def test_loads_its_own_format(engine: OpenVinoEngine, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(onnx_models.mlp())
    model = openvino.Core().read_model(str(tmp_path / "m.onnx"))
    openvino.save_model(model, str(tmp_path / "m.xml"), compress_to_fp16=False)
    given = {"x": np.ones((2, 4), np.float32)}
    answers = [
        engine.load(tmp_path / file, format=format_, options=EngineOptions()).run(given)["y"]
        for file, format_ in (("m.onnx", "onnx"), ("m.xml", "openvino"))
    ]
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-6)
    (tmp_path / "m.bin").unlink()
    with pytest.raises(ModelLoadError):
        engine.load(tmp_path / "m.xml", format="openvino", options=EngineOptions())


def test_provider_names_work_with_and_without_the_engines_name(engine: OpenVinoEngine, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(onnx_models.add())
    for provider in ("CPU", "OpenVINO:CPU", "AUTO"):
        session = engine.load(tmp_path / "m.onnx", format="onnx", options=EngineOptions(provider=provider))
        assert session.provider == provider
        assert session.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[2, 2]]


def test_as_many_requests_are_made_as_run_at_once_and_no_more(engine: OpenVinoEngine, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(onnx_models.mlp())
    session = engine.load(tmp_path / "m.onnx", format="onnx", options=EngineOptions())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: session.run({"x": np.ones((1, 4), np.float32)}), range(200)))
    assert 1 <= len(session._idle) <= 4
