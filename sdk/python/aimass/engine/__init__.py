"""Engines: what runs a model. ``open_engine`` is the one way to get one by name."""

from __future__ import annotations

from aimass.engine.base import Arrays, Cancel, Engine, EngineOptions, Feeds, Session
from aimass.errors import EngineMissingError

__all__ = ["ENGINES", "Arrays", "Cancel", "Engine", "EngineOptions", "Feeds", "Session", "open_engine"]

#: Names that `open_engine` knows, in the order in which a device should prefer them unless it has measured.
ENGINES = ("onnxruntime", "openvino")


def open_engine(name: str) -> Engine:
    """The engine of that name, its library imported now.

    Raises:
        EngineMissingError: an unknown name, or the library is not installed; the hint names the extra.
    """
    if name == "onnxruntime":
        from aimass.engine.onnx import OnnxEngine

        return OnnxEngine()
    if name == "openvino":
        from aimass.engine.openvino import OpenVinoEngine

        return OpenVinoEngine()
    known = ", ".join(ENGINES)
    raise EngineMissingError(f"there is no engine '{name}'", hint=f"engines are: {known}", engine=name)
