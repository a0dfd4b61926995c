"""A model as it was exported -> the form all later steps expect.

* local functions are inlined: quantizers and older engines do not look into them;
* weights that are also listed as inputs are so no longer: as inputs they could be overridden, so nothing may be folded
  into them, and callers would be asked for them;
* operators are those of opset 13 or newer, which have scales for each channel; a model that cannot be converted stays
  as it is and is told about;
* all shapes that can be inferred are written down: quantizers leave tensors alone whose type they do not know.

The result computes the same. It is written as one file, or with its weights in a second one above 1.5 GiB, where a
protobuf message ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]  # comes with onnx
from onnx import inliner, version_converter

from aimass.errors import ModelInvalidError
from aimass_cloud.build.walk import opset_of

CHANNEL_OPSET = 13
MIN_IR = 4  # before it, weights had to be listed as inputs
MAX_MESSAGE_BYTES = 3 << 29


@dataclass(frozen=True, slots=True)
class Written:
    """A model that was written.

    Attributes:
        path: its main file.
        files: names of others beside it that belong to it.
        notes: what a person should know: what was changed, and what could not be.
    """

    path: Path
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum((self.path.parent / name).stat().st_size for name in (self.path.name, *self.files))


def normalise(source: Path, target: Path, *, max_message_bytes: int = MAX_MESSAGE_BYTES) -> Written:
    """Write the normal form of a model that the checker has passed.

    Args:
        source: an ONNX file; external data beside it.
        target: where to.
        max_message_bytes: above that, weights go to a second file.

    Raises:
        ModelInvalidError: reason ``broken``: it cannot be changed, or into something that the checker refuses.
    """
    try:
        return _normalise(source, target, max_message_bytes)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise _broken(exc) from exc
    except (DecodeError, EncodeError, ValueError, RuntimeError, OSError) as exc:
        raise _broken(exc) from exc


def save_model(model: onnx.ModelProto, target: Path, *, max_message_bytes: int = MAX_MESSAGE_BYTES) -> tuple[str, ...]:
    """Write a model; names of the files beside the main one."""
    data = target.with_suffix(".data")
    data.unlink(missing_ok=True)  # external data is appended to a file that is there
    if model.ByteSize() <= max_message_bytes:
        onnx.save_model(model, str(target))
        return ()
    onnx.save_model(model, str(target), save_as_external_data=True, location=data.name, size_threshold=1024)
    return (data.name,)


def _normalise(source: Path, target: Path, max_message_bytes: int) -> Written:
    model = onnx.load_model(str(source))
    notes = []
    if model.functions:
        notes.append(f"{len(model.functions)} local functions were inlined")
        model = inliner.inline_local_functions(model, convert_version=True)
    if freed := _free_weights(model):
        notes.append(f"{freed} weights were also listed as inputs")
    model, told = _raise_opset(model)
    notes += told
    files = save_model(model, target, max_message_bytes=max_message_bytes)
    del model  # up to 2 GiB that the next step needs
    # By path: shapes of models above 2 GiB can be inferred no other way.
    onnx.shape_inference.infer_shapes_path(str(target), str(target), data_prop=True)
    onnx.checker.check_model(str(target))
    return Written(target, files, tuple(notes))


def _free_weights(model: onnx.ModelProto) -> int:
    weights = {item.name for item in model.graph.initializer}
    weights |= {item.values.name for item in model.graph.sparse_initializer}
    kept = [item for item in model.graph.input if item.name not in weights]
    freed = len(model.graph.input) - len(kept)
    if freed:
        del model.graph.input[:]
        model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, MIN_IR)
    return freed


def _raise_opset(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    opset = opset_of(model)
    if not 0 < opset < CHANNEL_OPSET:
        return model, []
    try:
        raised = version_converter.convert_version(model, CHANNEL_OPSET)
        onnx.checker.check_model(raised)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as exc:
        reason = next(iter(str(exc).strip().splitlines()), type(exc).__name__)[:200]
        return model, [f"operators stay at opset {opset} and are quantized as a whole, not by channel: {reason}"]
    return raised, [f"operators were converted from opset {opset} to {CHANNEL_OPSET}"]


def _broken(exc: Exception) -> ModelInvalidError:
    text = " ".join(str(exc).split())[:300] or type(exc).__name__
    hint = "export it again with opset 17 and without local functions"
    return ModelInvalidError(f"the model cannot be brought into its normal form: {text}", hint=hint, reason="broken")
