"""The engines of a party, each imported when the first model asks for it.

An engine's library takes tens of megabytes and a tenth of a second. A gateway whose models all run on one engine
should not pay for the other.
"""

from __future__ import annotations

import importlib.metadata
import logging
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from aimass.engine import Engine, EngineOptions, Session, open_engine
from aimass.errors import EngineMissingError

_log = logging.getLogger(__name__)
_FORMATS = {"onnxruntime": ("onnx",), "openvino": ("onnx", "openvino")}


class LazyEngine:
    """An engine that is imported at its first use.

    Args:
        name: as in `aimass.engine.open_engine`.
        shared_threads: see `OnnxEngine`.

    Raises:
        EngineMissingError: its library is not installed.
    """

    def __init__(self, name: str, *, shared_threads: int | None = None) -> None:
        try:
            self.version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError as exc:
            raise EngineMissingError(
                f"engine {name} is not installed", hint=f"install it: pip install 'aimass[{name}]'", engine=name
            ) from exc
        self.name = name
        self.formats = _FORMATS[name]
        self._shared_threads = shared_threads
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def providers(self) -> tuple[str, ...]:
        """Where it can compute on this machine."""
        return self._opened().providers()

    def load(self, path: Path, *, format: str, options: EngineOptions) -> Session:  # noqa: A002 - the protocol says so
        """See `Engine.load`."""
        return self._opened().load(path, format=format, options=options)

    def _opened(self) -> Engine:
        with self._lock:
            if self._engine is None:
                self._engine = self._open()
            return self._engine

    def _open(self) -> Engine:
        if self.name == "onnxruntime" and self._shared_threads is not None:
            from aimass.engine.onnx import OnnxEngine

            return OnnxEngine(shared_threads=self._shared_threads)
        return open_engine(self.name)


def open_engines(names: Sequence[str], *, shared_threads: int | None = None) -> list[Engine]:
    """Those of the engines that are installed; the others are named in the log."""
    found: list[Engine] = []
    for name in names:
        try:
            found.append(LazyEngine(name, shared_threads=shared_threads))
        except EngineMissingError as exc:
            _log.warning("%s; %s", exc, exc.hint)
    return found


def versions_of(engines: Iterable[Engine]) -> dict[str, str]:
    """Versions by name, without importing anything."""
    return {one.name: one.version for one in engines}
