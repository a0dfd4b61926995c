"""The probe models of `aimass.conformance`, and a real server over a real runtime that answers for them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from onnx import TensorProto, helper

from aimass.device.store import Key
from aimass.engine import EngineOptions, open_engine
from aimass.package.manifest import Platform, Variant
from aimass.runtime.runtime import Runtime, RuntimeSettings
from aimass.serving.base import DoorSettings
from aimass.serving.rest import RestDoor
from aimass.wire.tensor import Datatype, TensorSpec
from tests.fakes.engines import FakeEngine
from tests.fakes.onnx_models import FLOAT, Package, model, package, value

KINDS = {
    Datatype.BOOL: TensorProto.BOOL,
    Datatype.UINT8: TensorProto.UINT8,
    Datatype.UINT16: TensorProto.UINT16,
    Datatype.UINT32: TensorProto.UINT32,
    Datatype.UINT64: TensorProto.UINT64,
    Datatype.INT8: TensorProto.INT8,
    Datatype.INT16: TensorProto.INT16,
    Datatype.INT32: TensorProto.INT32,
    Datatype.INT64: TensorProto.INT64,
    Datatype.FP16: TensorProto.FLOAT16,
    Datatype.BF16: TensorProto.BFLOAT16,
    Datatype.FP32: TensorProto.FLOAT,
    Datatype.FP64: TensorProto.DOUBLE,
    Datatype.BYTES: TensorProto.STRING,
}
LABELS = ("cat", "dog", "bird", "fish")


def identity(kind: int, shape: Sequence[int | str] = ("n",)) -> bytes:
    """x -> y = x."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return model([node], [value("x", shape, kind)], [value("y", shape, kind)])


def add_sub() -> bytes:
    """A, B FP32 [n, 4] -> SUM, DIFFERENCE."""
    nodes = [helper.make_node("Add", ["A", "B"], ["SUM"]), helper.make_node("Sub", ["A", "B"], ["DIFFERENCE"])]
    ports = [value(name, ["n", 4], FLOAT) for name in ("A", "B", "SUM", "DIFFERENCE")]
    return model(nodes, ports[:2], ports[2:])


def probe_packages(root: Path) -> list[Package]:
    """All probe models as installed packages."""
    made = [_identity_package(root, datatype, kind) for datatype, kind in KINDS.items()]
    others: dict[str, tuple[bytes, dict[str, Any]]] = {
        "add_sub": (add_sub(), {}),
        "identity_classes": (identity(FLOAT, ["n", 4]), {"labels": LABELS}),
        "identity_reload": (identity(FLOAT), {}),
    }
    made += [package(root / name, data, name=name, **more) for name, (data, more) in others.items()]
    return made


def _identity_package(root: Path, datatype: Datatype, kind: int) -> Package:
    name = f"identity_{datatype.value.lower()}"
    more: dict[str, Any] = {}
    if datatype is Datatype.BYTES:
        # ONNX Runtime's Python binding takes UTF-8 only, so an engine that takes any bytes serves this one.
        more["variants"] = (Variant("echo", "onnx", "fp32", "model.onnx", (), Platform(engines=("echo",))),)
    specs = tuple((TensorSpec(port, datatype, (-1,)),) for port in ("x", "y"))
    return package(root / name, identity(kind), name=name, specs=specs, **more)


class ProbeRepository:
    """Loads and unloads the probe packages, as `InstalledModels` does those of a store."""

    def __init__(self, runtime: Runtime, packages: Sequence[Package]) -> None:
        self._runtime = runtime
        self._packages = {one.manifest.name: one for one in packages}

    def installed(self) -> list[Key]:
        return [(one.manifest.name, one.manifest.version) for one in self._packages.values()]

    def load(self, name: str, version: int | None = None) -> None:
        from aimass.errors import ModelNotFoundError

        if name not in self._packages:
            raise ModelNotFoundError(f"{name} is not installed")
        self._runtime.load(self._packages[name].folder, self._packages[name].manifest)

    def unload(self, name: str) -> None:
        if any(one.name == name for one in self._runtime.models()):
            self._runtime.unload(name)


def echo(feeds: Any) -> Any:
    return {"y": feeds["x"]}


@contextlib.contextmanager
def probe_door(root: Path, settings: DoorSettings | None = None) -> Iterator[RestDoor]:
    """A door over a runtime with all probe models."""
    engines = [open_engine("onnxruntime"), FakeEngine(echo, name="echo")]
    order = RuntimeSettings(engine_order=("onnxruntime", "echo"), engine_options=EngineOptions())
    with Runtime(engines, settings=order) as runtime:
        packages = probe_packages(root)
        for one in packages:
            runtime.load(one.folder, one.manifest)
        yield RestDoor(runtime, settings=settings, repository=ProbeRepository(runtime, packages))


@contextlib.contextmanager
def serving(app: Any, sock: socket.socket) -> Iterator[None]:
    """uvicorn over this socket, in a thread of its own."""
    server = uvicorn.Server(
        uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, name="uvicorn")
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"
