"""What a model runs on: one protocol of few methods, fulfilled by ONNX Runtime and by OpenVINO.

An *engine* loads a model file and gives a *session*; a session runs arrays through it. Nothing here knows packages,
deadlines, queues or links: those belong to ``aimass.runtime``. The engines' libraries are imported only when an adapter
is built, so importing this package costs nothing.

Rules every adapter keeps (``tests/contract/test_engine.py`` runs them over all of them):

* ``run`` may be called from many threads at once, and while another thread calls ``close``.
* What ``run`` returns belongs to the caller: no later run changes it.
* Whatever is wrong with file or feeds ends in one of our errors, never in a foreign exception or a crash.
* BYTES tensors are object arrays of ``bytes``, BF16 tensors ``uint16`` arrays with the bit patterns (``aimass.wire``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from aimass.errors import CancelledError
from aimass.wire.tensor import Array, TensorSpec

Arrays = dict[str, Array]
Feeds = Mapping[str, Array]


class Cancel:
    """A wish, settable from any thread, that one run may stop.

    The session that runs says how to stop it; ``set`` calls that at most once. A run that starts after ``set`` refuses
    at once. Beginning, ending and stopping exclude each other, so an engine's request that went back into a pool is
    never stopped by the wish of its former user.

    Example:
        >>> cancel = Cancel()
        >>> with cancel.stopping(lambda: print("stopped")):
        ...     cancel.set()
        stopped
        >>> cancel.is_set
        True
    """

    __slots__ = ("_lock", "_stop", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._lock = threading.Lock()
        self._stop: Callable[[], None] | None = None

    def set(self) -> None:
        """Ask the run to stop; harmless before it began, after it ended, and when called again."""
        with self._lock:
            self.is_set = True
            stop, self._stop = self._stop, None
            if stop is not None:
                stop()

    @contextmanager
    def stopping(self, stop: Callable[[], None]) -> Iterator[None]:
        """While in this context, ``set`` calls ``stop``, which must be quick and must not raise.

        Raises:
            CancelledError: on entering, when the wish was already there.
        """
        with self._lock:
            if self.is_set:
                raise CancelledError("the run was cancelled before it began")
            self._stop = stop
        try:
            yield
        finally:
            with self._lock:
                self._stop = None


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a session is to be made.

    Attributes:
        provider: where it computes, in our names: ``CPU``, ``CUDA``, ``CUDA:1``, ``TensorRT``, ``OpenVINO:GPU``, ...
            (OpenVINO's own engine: ``CPU``, ``GPU``, ``NPU``, ``AUTO``).
        intra_threads: threads of one run. 1 keeps many sessions from fighting over few cores; 0: the engine's choice.
        extra: settings in the engine's own words, handed through.
    """

    provider: str = "CPU"
    intra_threads: int = 1
    extra: Mapping[str, str] = field(default_factory=dict)


class Session(Protocol):
    """A loaded model, ready to run. ``close`` may be called twice; a run in progress then still ends well."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    engine: str
    provider: str

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None, cancel: Cancel | None = None) -> Arrays:
        """Run arrays through the model.

        Args:
            feeds: one array for every input.
            outputs: names wanted; all of them when left out.
            cancel: stops the run where the engine can; with a one-node model it may only end with the run.

        Raises:
            EngineRunError: the engine failed, the feeds do not fit, or the session is closed.
            InputError: a value that this engine cannot take, such as text that is not UTF-8.
            CancelledError: ``cancel`` was set.
        """

    def close(self) -> None:
        """Give the memory back. Later runs raise EngineRunError."""


class Engine(Protocol):
    """A library that can load models.

    Attributes:
        name: what manifests and settings call it: ``onnxruntime``, ``openvino``.
        version: the library's own.
        formats: the variant formats it loads: ``onnx``, ``openvino``.
    """

    name: str
    version: str
    formats: tuple[str, ...]

    def providers(self) -> tuple[str, ...]:
        """Where this machine's build of the engine can compute, in our names."""

    def load(self, path: Path, *, format: str, options: EngineOptions) -> Session:  # noqa: A002 - the manifest's word  # noqa: A002 - the manifest's word
        """Make a session from a file.

        Raises:
            ModelLoadError: no such file, damaged, or something in it that the engine does not support.
            EngineMissingError: the provider is not on this machine; names those that are.
        """
