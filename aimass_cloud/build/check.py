"""Is this a model we can stand behind? Structure checks on an ONNX file from outside.

Runs in the child process only (see ``child.py``). Every way to be bad ends in one ``ModelInvalidError`` whose
``reason`` is one of: ``not_onnx``, ``cut_off``, ``broken``, ``too_large``, ``external_data``, ``custom_operators``,
``opset``; from other modules also ``signature``, ``engine``, ``memory``, ``timeout``, ``crash``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # comes with onnx, has no types

from aimass.errors import ModelInvalidError
from aimass_cloud.build.findings import Job
from aimass_cloud.build.walk import all_nodes, external_tensors

MIN_OPSET = 7
"""Older operator sets have semantics (broadcast attributes) that no engine of ours implements."""

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operators built into ONNX Runtime; ``com.microsoft`` holds the quantized ones that its own tools write."""

FOREIGN_FORMATS = (
    (0, b"PK\x03\x04", "a zip archive (PyTorch checkpoints and .keras files are such)"),
    (0, b"\x89HDF", "an HDF5 file (Keras)"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"\x1f\x8b", "gzip-compressed"),
    (0, b"<", "XML or HTML text"),
    (0, b"{", "JSON text"),
    (0, b"\x80\x02", "a Python pickle"),
    (0, b"\x80\x04", "a Python pickle"),
    (0, b"\x7fELF", "a program"),
)

EXPORT_HINT = "export the model to ONNX, for example with torch.onnx.export, and upload that file"
MODEL_WIRE_TYPES = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
"""Field number -> protobuf wire type of the fields of ModelProto."""


def invalid(reason: str, message: str, hint: str | None = None) -> ModelInvalidError:
    """The one error of this package, with its reason."""
    return ModelInvalidError(message, hint=hint, reason=reason)


def open_model(job: Job) -> onnx.ModelProto:
    """Parse and check the uploaded model; external data stays in its files.

    Raises:
        ModelInvalidError: see the module's text.
    """
    path = Path(job.folder) / job.main_file
    size_bytes = sum((Path(job.folder) / name).stat().st_size for name in (job.main_file, *job.files))
    if size_bytes > job.limits.max_model_bytes:
        limit_mib = job.limits.max_model_bytes >> 20
        raise invalid(
            "too_large", f"the model has {size_bytes} bytes; the limit is {limit_mib} MiB", "quantize the model"
        )
    model = _parse(path)
    _check_domains(model)
    _check_opset(model)
    _check_external_data(model, job)
    _check_structure(path)
    return model


def _parse(path: Path) -> onnx.ModelProto:
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise invalid("not_onnx", f"{path.name} is empty", EXPORT_HINT)
    for offset, magic, what in FOREIGN_FORMATS:
        if head[offset:].startswith(magic):
            raise invalid("not_onnx", f"{path.name} is not an ONNX model but {what}", EXPORT_HINT)
    try:
        model = onnx.load_model(str(path), format="protobuf", load_external_data=False)
    except DecodeError as exc:
        raise _undecodable(path) from exc
    if model.ir_version <= 0 or not model.HasField("graph"):
        raise _undecodable(path)
    return model


def _undecodable(path: Path) -> ModelInvalidError:
    """Cut off or something else: a cut file begins as a model does and ends inside a field or before the graph."""
    size = path.stat().st_size
    position, fields = 0, 0
    with path.open("rb") as file:
        while position < size:
            tag = _varint(file)
            number, wire_type = tag >> 3, tag & 7
            if MODEL_WIRE_TYPES.get(number) != wire_type:
                break
            fields += 1
            length = _varint(file)
            position = file.tell() + (length if wire_type == 2 else 0)
            file.seek(position)
    if fields and position >= size:
        hint = "the upload or the export was interrupted; compare its size with the original and send it again"
        return invalid("cut_off", f"{path.name} begins as an ONNX model but is cut off after {size} bytes", hint)
    return invalid("not_onnx", f"{path.name} is not an ONNX model", EXPORT_HINT)


def _varint(file: BinaryIO) -> int:
    value, shift = 0, 0
    while shift < 64:
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            break
        shift += 7
    return value


def _check_domains(model: onnx.ModelProto) -> None:
    local = {(function.domain, function.name) for function in model.functions}
    foreign = sorted(
        {
            f"{node.domain}::{node.op_type}"
            for node in all_nodes(model)
            if node.domain not in STANDARD_DOMAINS and (node.domain, node.op_type) not in local
        }
    )
    if foreign:
        names = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        hint = "custom operators need code on every device; export the model with standard ONNX operators"
        raise invalid("custom_operators", f"the model uses custom operators: {names}", hint)
    if model.training_info:
        raise invalid("custom_operators", "the model carries training graphs", "export it for inference")


def _check_opset(model: onnx.ModelProto) -> None:
    versions = {item.domain or "ai.onnx": item.version for item in model.opset_import}
    opset, newest = versions.get("ai.onnx"), onnx.defs.onnx_opset_version()
    if opset is not None and not MIN_OPSET <= opset <= newest:
        hint = f"export it again with an opset from {MIN_OPSET} to {newest}"
        raise invalid("opset", f"the model needs operator set {opset}; supported are {MIN_OPSET} to {newest}", hint)


def _check_external_data(model: onnx.ModelProto, job: Job) -> None:
    """Weights outside the model file: only in files uploaded with it, by plain name, inside their bounds."""
    for tensor, entries in external_tensors(model):
        location = entries.get("location", "")
        if len(entries) != len(tensor.external_data):
            raise invalid("external_data", f"tensor {tensor.name!r} says twice where its data is")
        if location not in job.files:
            hint = "upload the weight files together with the model, or save the model as one file"
            message = f"tensor {tensor.name!r} wants its data from {location!r}, which was not uploaded"
            raise invalid("external_data", message, hint)
        path = Path(job.folder) / location
        if path.is_symlink() or not path.is_file():
            raise invalid("external_data", f"{location!r} is not a plain file")
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
        except ValueError as exc:
            raise invalid("external_data", f"tensor {tensor.name!r}: offset or length is not a number") from exc
        if offset < 0 or length < 0 or offset + length > path.stat().st_size:
            raise invalid("cut_off", f"tensor {tensor.name!r} reaches outside {location!r}, which may be cut off")


def _check_structure(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except onnx.checker.ValidationError as exc:
        raise invalid("broken", f"the graph is broken: {_first_line(exc)}") from exc
    except onnx.shape_inference.InferenceError as exc:
        raise invalid("broken", f"the graph's shapes do not fit together: {_first_line(exc)}") from exc
    except (DecodeError, ValueError) as exc:
        raise invalid("broken", f"the checker refused the model: {_first_line(exc)}") from exc


def _first_line(exc: Exception) -> str:
    text = re.sub(r"\s+", " ", str(exc)).strip()
    return text[:300] + ("..." if len(text) > 300 else "")
