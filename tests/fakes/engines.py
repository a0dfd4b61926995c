"""An engine for tests of the runtime: it computes what the test says, as long as the test wants."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from aimass.engine import Arrays, Cancel, EngineOptions, Feeds
from aimass.errors import CancelledError, EngineMissingError, EngineRunError, ModelLoadError
from aimass.wire.tensor import TensorSpec
from tests.fakes.onnx_models import specs_of

Compute = Callable[[Feeds], Arrays]


class Gate:
    """Holds runs until the test opens it; a cancelled run passes with an error."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = True
        self.waiting = 0

    def shut(self) -> None:
        with self._changed:
            self._open = False

    def open(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def passed(self, cancel: Cancel | None) -> None:
        with self._changed:
            self.waiting += 1
            try:
                while not self._open:
                    if cancel is not None and cancel.is_set:
                        raise CancelledError("stopped at the gate")
                    assert self._changed.wait(20), "the test never opened the gate"
            finally:
                self.waiting -= 1


class FakeSession:
    """Runs `compute`; writes down what it was fed."""

    def __init__(self, engine: FakeEngine, data: bytes) -> None:
        self.inputs: tuple[TensorSpec, ...]
        self.outputs: tuple[TensorSpec, ...]
        self.inputs, self.outputs = specs_of(data)
        self.engine = engine.name
        self.provider = "CPU"
        self.gate = Gate()
        self.closed = False
        self.runs: list[Feeds] = []
        self._engine = engine

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None, cancel: Cancel | None = None) -> Arrays:
        if self.closed:
            raise EngineRunError("the session is closed")
        if cancel is None:
            return self._run(feeds, outputs, None)
        with cancel.stopping(self.gate.wake):
            return self._run(feeds, outputs, cancel)

    def close(self) -> None:
        self.closed = True

    def _run(self, feeds: Feeds, outputs: Sequence[str] | None, cancel: Cancel | None) -> Arrays:
        self.runs.append(feeds)
        self.gate.passed(cancel)
        arrays = self._engine.compute(feeds)
        return {name: arrays[name] for name in outputs or arrays}


def plus_one(feeds: Feeds) -> Arrays:
    return {"y": feeds["x"] + 1}


class FakeEngine:
    """Loads the models of `onnx_models` for their border; computes something else."""

    version = "1"

    def __init__(
        self,
        compute: Compute = plus_one,
        *,
        name: str = "fake",
        formats: tuple[str, ...] = ("onnx",),
        refuses: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.formats = formats
        self.compute = compute
        self.sessions: list[FakeSession] = []
        self._refuses = refuses or {}

    @property
    def gate(self) -> Gate:
        """The newest session's."""
        return self.sessions[-1].gate

    def providers(self) -> tuple[str, ...]:
        return ("CPU",)

    def load(self, path: Path, *, format: str, options: EngineOptions) -> FakeSession:  # noqa: A002
        if path.name in self._refuses:
            raise ModelLoadError(self._refuses[path.name])
        if options.provider != "CPU":
            raise EngineMissingError(f"no {options.provider} here", hint="available: CPU")
        session = FakeSession(self, path.read_bytes())
        self.sessions.append(session)
        return session
