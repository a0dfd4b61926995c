"""OpenVINO behind the engine protocol. The only module that imports ``openvino``.

Measured on 2026.4, and decided from it:

* An inference request is not thread-safe: every run takes one from a pool and puts it back.
* ``cancel`` has no effect on the synchronous ``infer``; a run that may be cancelled is started asynchronously. It stops
  between two operators, so a model that is one long Loop runs to its end.
* A request with a string tensor crashes the process when it is freed: models with strings at their border are refused.
* Reading through the Core lets other threads run; the ONNX reader called by itself holds the GIL for as long as it
  works (31 ms for a 50 MB model). The price: for a file that is not ONNX the Core tries its other readers, and one of
  those writes to stderr before all of them refuse. Freeing a compiled model holds the GIL (13 ms for those 50 MB).
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aimass.engine.base import Arrays, Cancel, EngineOptions, Feeds
from aimass.errors import CancelledError, EngineMissingError, EngineRunError, ModelLoadError
from aimass.wire.tensor import Array, Datatype, TensorSpec

_DATATYPES = {
    "boolean": Datatype.BOOL,
    "u8": Datatype.UINT8,
    "u16": Datatype.UINT16,
    "u32": Datatype.UINT32,
    "u64": Datatype.UINT64,
    "i8": Datatype.INT8,
    "i16": Datatype.INT16,
    "i32": Datatype.INT32,
    "i64": Datatype.INT64,
    "f16": Datatype.FP16,
    "bf16": Datatype.BF16,
    "f32": Datatype.FP32,
    "f64": Datatype.FP64,
}


def foreign_errors() -> tuple[type[Exception], ...]:
    """Every exception OpenVINO raises: the readers' own classes share no base but Exception."""
    from openvino import _pyopenvino as native

    own = [kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError, TypeError, OSError, IndexError, KeyError, AttributeError, ImportError)


class OpenVinoEngine:
    """OpenVINO.

    Raises:
        EngineMissingError: openvino is not installed.
    """

    name = "openvino"
    formats: tuple[str, ...] = ("onnx", "openvino")

    def __init__(self) -> None:
        try:
            with warnings.catch_warnings():
                # Importing it announces the end of its own old names, which we do not use.
                warnings.simplefilter("ignore", DeprecationWarning)
                import openvino
        except ImportError as exc:
            raise EngineMissingError(
                "openvino cannot be imported",
                hint="install the extra: pip install 'aimass[openvino]'",
                engine=self.name,
            ) from exc
        self._ov: Any = openvino
        self._core: Any = openvino.Core()
        self._foreign = foreign_errors()
        self.version = str(openvino.__version__).partition("-")[0]

    def providers(self) -> tuple[str, ...]:
        """Devices that OpenVINO sees here."""
        return tuple(self._core.available_devices)

    def load(self, path: Path, *, format: str, options: EngineOptions) -> OpenVinoSession:  # noqa: A002
        """See `Engine.load`."""
        if format not in self.formats:
            raise ModelLoadError(f"openvino does not load format '{format}'", path=str(path))
        device = self._device(options.provider)
        if not path.is_file():
            raise ModelLoadError(f"there is no model file {path.name}", path=str(path))
        try:
            model = self._core.read_model(str(path))
            inputs = _specs(model.inputs, path)
            outputs = _specs(model.outputs, path)
            compiled = self._core.compile_model(model, device, _settings(device, options))
        except self._foreign as exc:
            raise ModelLoadError(f"openvino refused {path.name}: {_last_line(exc)}", path=str(path)) from exc
        return OpenVinoSession(self._ov, compiled, inputs, outputs, options.provider, self._foreign)

    def _device(self, provider: str) -> str:
        """OpenVINO's name for a provider: ours are the same, with or without ``OpenVINO:`` in front."""
        device = provider.removeprefix("OpenVINO:")
        if device == "AUTO":
            return device
        known = self._core.available_devices
        if device not in known and not any(other.startswith(f"{device}.") for other in known):  # GPU means GPU.0
            raise EngineMissingError(
                f"openvino sees no device '{provider}' here",
                hint=f"available: {', '.join((*known, 'AUTO'))}",
                provider=provider,
            )
        return device


class OpenVinoSession:
    """A compiled model with a pool of requests, one for each run that is in progress at the same time."""

    engine = OpenVinoEngine.name

    def __init__(
        self,
        ov: Any,
        compiled: Any,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        provider: str,
        foreign: tuple[type[Exception], ...],
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.provider = provider
        self._ov = ov
        self._compiled: Any = compiled
        self._foreign = foreign
        self._idle: deque[Any] = deque([compiled.create_infer_request()])
        self._input_at = {spec.name: (i, spec.datatype) for i, spec in enumerate(inputs)}
        self._output_at = {spec.name: (i, spec.datatype) for i, spec in enumerate(outputs)}
        self._all = [spec.name for spec in outputs]

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None, cancel: Cancel | None = None) -> Arrays:
        """See `Session.run`. OpenVINO computes all outputs; those not wanted are only not copied."""
        compiled = self._compiled
        if compiled is None:
            raise EngineRunError("the session is closed")
        try:
            request = self._idle.pop()
        except IndexError:
            request = compiled.create_infer_request()
        try:
            self._feed(request, feeds)
            self._compute(request, cancel)
            arrays = {name: self._taken(request, name) for name in (outputs or self._all)}
        except self._foreign as exc:
            # Not put back: a request that failed half way is cheaper to make again than to reason about.
            if cancel is not None and cancel.is_set:
                raise CancelledError("the run was cancelled") from exc
            raise EngineRunError(f"openvino failed: {_last_line(exc)}") from exc
        self._idle.append(request)
        return arrays

    def close(self) -> None:
        """See `Session.close`."""
        self._compiled = None
        self._idle.clear()

    def _feed(self, request: Any, feeds: Feeds) -> None:
        if len(feeds) != len(self._input_at):
            missing = sorted(set(self._input_at) - set(feeds))
            raise EngineRunError(f"inputs missing: {', '.join(missing)}")
        for name, array in feeds.items():
            if name not in self._input_at:
                raise EngineRunError(f"the model has no input '{name}'")
            if not isinstance(array, np.ndarray):
                raise EngineRunError(f"'{name}' is a {type(array).__name__}, not an array")
            index, datatype = self._input_at[name]
            array = np.ascontiguousarray(array) if array.ndim else array
            if datatype is Datatype.BF16:
                if array.dtype != np.uint16:
                    raise EngineRunError(f"'{name}' is {array.dtype}; bfloat16 is given as its bit patterns in uint16")
                tensor = self._ov.Tensor(array, self._ov.Shape(array.shape), self._ov.Type.bf16)
            else:
                # Memory of a received message is read-only; OpenVINO shares only what it could write, and copies that.
                tensor = self._ov.Tensor(array, shared_memory=array.flags.writeable)
            request.set_input_tensor(index, tensor)

    def _compute(self, request: Any, cancel: Cancel | None) -> None:
        if cancel is None:
            request.infer()
            return
        with cancel.stopping(request.cancel):
            request.start_async()
            if cancel.is_set:  # it came between attaching and starting, when there was nothing to stop yet
                request.cancel()
            request.wait()

    def _taken(self, request: Any, name: str) -> Array:
        """A copy: the request's own memory is written again by the next run."""
        if name not in self._output_at:
            raise EngineRunError(f"the model has no output '{name}'")
        index, datatype = self._output_at[name]
        data: Array = request.get_output_tensor(index).data
        return np.array(data.view(np.uint16) if datatype is Datatype.BF16 else data)


def _settings(device: str, options: EngineOptions) -> dict[str, Any]:
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if device == "CPU":
        # Newer CPUs would compute in bfloat16; a variant's precision is the publisher's choice, not the machine's.
        settings["INFERENCE_PRECISION_HINT"] = "f32"
        if options.intra_threads:
            settings["INFERENCE_NUM_THREADS"] = options.intra_threads
    return settings | dict(options.extra)


def _specs(ports: Sequence[Any], path: Path) -> tuple[TensorSpec, ...]:
    """Names, datatypes and shapes at the model's border, in the order of the file."""
    specs: list[TensorSpec] = []
    taken: set[str] = set()
    for place, port in enumerate(ports):
        name = tensor_name(port, place, taken)
        taken.add(name)
        element = port.element_type.get_type_name()
        if element not in _DATATYPES:
            raise ModelLoadError(f"'{name}' in {path.name} is of type {element}, which openvino cannot be fed safely")
        shape = port.partial_shape
        if shape.rank.is_dynamic:
            raise ModelLoadError(f"'{name}' in {path.name} has no known number of dimensions")
        sizes = tuple(-1 if size.is_dynamic else int(size.get_length()) for size in shape)
        specs.append(TensorSpec(name, _DATATYPES[element], sizes))
    if not specs:
        raise ModelLoadError(f"{path.name} has no inputs or no outputs: the file is empty or cut off")
    return tuple(specs)


def tensor_name(port: Any, place: int, taken: set[str]) -> str:
    """The ONNX name of a border tensor.

    A tensor may carry several names (or, in a converted IR, none), as a set without order. The node's own name is the
    ONNX name of an input, and begins the name ``y/sink_port_0`` of an output.
    """
    names = set(port.get_names()) - taken
    own = str(port.get_node().friendly_name)
    for candidate in (own, own.partition("/sink_port_")[0]):
        if candidate in names:
            return candidate
    return min(names) if names else f"{own}:{place}" if own in taken else own


def _last_line(exc: Exception) -> str:
    """OpenVINO begins with the places in its source and ends with what happened."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1] if lines else type(exc).__name__
