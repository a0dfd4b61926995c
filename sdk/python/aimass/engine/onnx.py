"""ONNX Runtime behind the engine protocol. The only module that imports ``onnxruntime``.

Measured on 1.31: making a session releases the GIL (a 50 MB model loads in 45 ms while other threads stall for less
than 1 ms), a run of a tiny model costs about 5 us, and a run that is told to terminate stops after the node it is in,
also inside a Loop.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aimass.engine.base import Arrays, Cancel, EngineOptions, Feeds
from aimass.errors import CancelledError, EngineMissingError, EngineRunError, InputError, ModelLoadError
from aimass.wire.tensor import Array, Datatype, TensorSpec

_DATATYPES = {
    "tensor(bool)": Datatype.BOOL,
    "tensor(uint8)": Datatype.UINT8,
    "tensor(uint16)": Datatype.UINT16,
    "tensor(uint32)": Datatype.UINT32,
    "tensor(uint64)": Datatype.UINT64,
    "tensor(int8)": Datatype.INT8,
    "tensor(int16)": Datatype.INT16,
    "tensor(int32)": Datatype.INT32,
    "tensor(int64)": Datatype.INT64,
    "tensor(float16)": Datatype.FP16,
    "tensor(bfloat16)": Datatype.BF16,
    "tensor(float)": Datatype.FP32,
    "tensor(double)": Datatype.FP64,
    "tensor(string)": Datatype.BYTES,
}

_PROVIDERS = {
    "CPU": "CPUExecutionProvider",
    "CUDA": "CUDAExecutionProvider",
    "TensorRT": "TensorrtExecutionProvider",
    "OpenVINO": "OpenVINOExecutionProvider",
    "ROCm": "ROCMExecutionProvider",
    "MIGraphX": "MIGraphXExecutionProvider",
    "DirectML": "DmlExecutionProvider",
    "CoreML": "CoreMLExecutionProvider",
    "QNN": "QNNExecutionProvider",
    "XNNPACK": "XnnpackExecutionProvider",
}
_OUR_NAMES = {theirs: ours for ours, theirs in _PROVIDERS.items()}

#: What follows the colon in "OpenVINO:GPU" or "CUDA:1", in the provider's own option names.
_DEVICE_OPTION = {"OpenVINO": "device_type", "CUDA": "device_id", "TensorRT": "device_id", "ROCm": "device_id"}

_SILENT = 4  # ORT logs each failed run to stderr; we raise it, so only its fatal messages are let through
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16


def foreign_errors() -> tuple[type[Exception], ...]:
    """Every exception ONNX Runtime raises: its own classes share no base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError, TypeError, OSError, IndexError, KeyError, AttributeError)


class OnnxEngine:
    """ONNX Runtime.

    Args:
        shared_threads: size of one thread pool for all sessions of this process, instead of threads per session. Once
            set, every session in the process that was not made here fails: only a process that is wholly ours may give
            it (the agent), never a library in somebody's program.

    Raises:
        EngineMissingError: onnxruntime is not installed.
    """

    name = "onnxruntime"
    formats: tuple[str, ...] = ("onnx",)

    def __init__(self, *, shared_threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as exc:
            raise EngineMissingError(
                "onnxruntime cannot be imported", hint="install it: pip install onnxruntime", engine=self.name
            ) from exc
        self._ort: Any = onnxruntime
        self._foreign = foreign_errors()
        self._shared = shared_threads is not None
        self.version = str(onnxruntime.__version__)
        if shared_threads is not None:
            onnxruntime.set_global_thread_pool_sizes(shared_threads, 1)

    def providers(self) -> tuple[str, ...]:
        """Execution providers of this build, in our names."""
        return tuple(_OUR_NAMES.get(name, name) for name in self._ort.get_available_providers())

    def load(self, path: Path, *, format: str, options: EngineOptions) -> OnnxSession:  # noqa: A002
        """See `Engine.load`."""
        if format not in self.formats:
            raise ModelLoadError(f"onnxruntime does not load format '{format}'", path=str(path))
        providers = self._chosen(options)
        if not path.is_file():
            raise ModelLoadError(f"there is no model file {path.name}", path=str(path))
        try:
            session = self._ort.InferenceSession(
                str(path), self._settings(options), providers=providers, enable_fallback=0
            )
        except self._foreign as exc:
            raise ModelLoadError(f"onnxruntime refused {path.name}: {_first_line(exc)}", path=str(path)) from exc
        wanted = providers[0][0]
        if session.get_providers()[0] != wanted:  # ORT drops a provider whose driver is absent and goes on without it
            raise EngineMissingError(
                f"the provider '{options.provider}' is in this onnxruntime but does not start here",
                hint=f"check its driver; available: {', '.join(self.providers())}",
                provider=options.provider,
            )
        inputs = tuple(_spec(value, path) for value in session.get_inputs())
        outputs = tuple(_spec(value, path) for value in session.get_outputs())
        return _session_kind(path, (*inputs, *outputs))(
            self._ort, session, inputs, outputs, options.provider, self._foreign
        )

    def _settings(self, options: EngineOptions) -> Any:
        settings = self._ort.SessionOptions()
        settings.log_severity_level = _SILENT
        settings.intra_op_num_threads = options.intra_threads
        settings.inter_op_num_threads = 1
        settings.use_per_session_threads = not self._shared
        # Spinning threads burn a core each for microseconds won; a gateway has other work.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        for key, value in options.extra.items():
            if "." in key:
                settings.add_session_config_entry(key, value)
        return settings

    def _chosen(self, options: EngineOptions) -> list[tuple[str, dict[str, str]]]:
        """The provider asked for, and the CPU behind it for operators it does not know."""
        name, _, device = options.provider.partition(":")
        theirs = _PROVIDERS.get(name)
        if theirs is None or theirs not in self._ort.get_available_providers():
            raise EngineMissingError(
                f"onnxruntime here has no provider '{options.provider}'",
                hint=f"available: {', '.join(self.providers())}",
                provider=options.provider,
            )
        own = {key: value for key, value in options.extra.items() if "." not in key}
        if device:
            own[_DEVICE_OPTION.get(name, "device_id")] = device
        chosen = [(theirs, own)]
        if name != "CPU":
            chosen.append((_PROVIDERS["CPU"], {}))
        return chosen


class OnnxSession:
    """A loaded model; arrays pass through as they are."""

    engine = OnnxEngine.name

    def __init__(
        self,
        ort: Any,
        session: Any,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        provider: str,
        foreign: tuple[type[Exception], ...],
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.provider = provider
        self._ort = ort
        self._session: Any = session
        self._foreign = foreign
        self._names = [spec.name for spec in outputs]
        self._datatypes = {spec.name: spec.datatype for spec in (*inputs, *outputs)}

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None, cancel: Cancel | None = None) -> Arrays:
        """See `Session.run`. Cancelling stops after the node that is running."""
        session = self._session  # close() may take it away; whoever has it in hand may finish
        if session is None:
            raise EngineRunError("the session is closed")
        names = self._names if not outputs else list(outputs)
        if cancel is None:
            return self._guarded(session, names, feeds, None)
        options = self._ort.RunOptions()
        with cancel.stopping(lambda: setattr(options, "terminate", True)):
            try:
                return self._guarded(session, names, feeds, options)
            except EngineRunError as exc:
                if cancel.is_set:
                    raise CancelledError("the run was cancelled") from exc
                raise

    def close(self) -> None:
        """See `Session.close`."""
        self._session = None

    def _guarded(self, session: Any, names: list[str], feeds: Feeds, options: Any) -> Arrays:
        try:
            return self._compute(session, names, feeds, options)
        except self._foreign as exc:
            raise EngineRunError(f"onnxruntime failed: {_first_line(exc)}") from exc

    def _compute(self, session: Any, names: list[str], feeds: Feeds, options: Any) -> Arrays:
        return dict(zip(names, session.run(names, feeds, options), strict=True))


class _TextOnnxSession(OnnxSession):
    """Some tensors are strings, which ORT wants as ``str`` objects."""

    def _compute(self, session: Any, names: list[str], feeds: Feeds, options: Any) -> Arrays:
        kinds = self._datatypes
        given = {k: _to_text(k, v) if kinds.get(k) is Datatype.BYTES else v for k, v in feeds.items()}
        results = super()._compute(session, names, given, options)
        return {k: _to_bytes(v) if kinds[k] is Datatype.BYTES else v for k, v in results.items()}


class _BrainFloatOnnxSession(OnnxSession):
    """Some tensors are bfloat16, which numpy does not know: they travel as ORT's own values."""

    def _compute(self, session: Any, names: list[str], feeds: Feeds, options: Any) -> Arrays:
        values = {name: self._to_value(name, array) for name, array in feeds.items()}
        results = session.run_with_ort_values(names, values, options)
        return {name: self._to_array(name, value) for name, value in zip(names, results, strict=True)}

    def _to_value(self, name: str, array: Array) -> Any:
        if self._datatypes.get(name) is Datatype.BF16:
            return self._ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), _BFLOAT16)
        return self._ort.OrtValue.ortvalue_from_numpy(array)

    def _to_array(self, name: str, value: Any) -> Array:
        if self._datatypes[name] is Datatype.BF16:  # value.numpy() refuses it
            raw = bytearray(ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes()))
            return np.frombuffer(raw, dtype=np.uint16).reshape(value.shape())
        array: Array = value.numpy()
        return array


def _session_kind(path: Path, specs: Sequence[TensorSpec]) -> type[OnnxSession]:
    datatypes = {spec.datatype for spec in specs}
    if {Datatype.BYTES, Datatype.BF16} <= datatypes:
        raise ModelLoadError(f"{path.name} has strings and bfloat16 at its border; onnxruntime cannot be fed both")
    if Datatype.BYTES in datatypes:
        return _TextOnnxSession
    return _BrainFloatOnnxSession if Datatype.BF16 in datatypes else OnnxSession


def _spec(value: Any, path: Path) -> TensorSpec:
    datatype = _DATATYPES.get(value.type)
    if datatype is None:
        raise ModelLoadError(f"'{value.name}' in {path.name} is a {value.type}, which has no place on the wire")
    # A name instead of a number is a dimension that varies.
    return TensorSpec(value.name, datatype, tuple(size if isinstance(size, int) else -1 for size in value.shape))


def _to_text(name: str, array: Array) -> Array:
    """ORT's strings are UTF-8 text; handing it ``bytes`` would run the model on ``"b'...'"``."""
    items = array.reshape(-1).tolist()
    try:
        texts = [item.decode() if isinstance(item, bytes) else str(item) for item in items]
    except UnicodeDecodeError as exc:
        message = f"'{name}' holds bytes that are not UTF-8, which this engine cannot take"
        raise InputError(message, hint="send text as UTF-8; for other bytes use a tensor of UINT8") from exc
    return _objects(texts, array)


def _to_bytes(array: Array) -> Array:
    return _objects([item.encode() for item in array.reshape(-1).tolist()], array)


def _objects(items: list[Any], like: Array) -> Array:
    out = np.empty(len(items), dtype=object)
    out[:] = items
    return out.reshape(like.shape)


def _first_line(exc: Exception) -> str:
    return next(iter(str(exc).strip().splitlines()), type(exc).__name__)
