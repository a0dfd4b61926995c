"""From an upload's form and what its examination found to a manifest. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aimass.errors import InputError, ModelInvalidError, PackageError
from aimass.package.manifest import Batching, FileEntry, Golden, Manifest, Variant, is_model_name
from aimass_cloud.blobs.base import Blob
from aimass_cloud.build.findings import Findings

MAIN_FILE = "model.onnx"
GOLDEN_FILE = "golden.bin"
RESERVED = frozenset({MAIN_FILE, GOLDEN_FILE, "manifest.json", "examination.log", "archive"})
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}")

MAX_FORM_BYTES = 256 * 1024
MAX_FILES = 100
DEFAULT_MAX_BATCH = 16
"""Where nobody says otherwise and the examination saw that batching changes no answer. Nothing waits for a batch."""

KEYS = frozenset({"name", "labels", "metrics", "batching"})


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadForm:
    """What the uploader says about a model. Nothing of it is needed: a name is made from the file's."""

    name: str = ""
    labels: tuple[str, ...] = ()
    metrics: Mapping[str, float] | None = None
    max_batch: int | None = None
    max_delay_ms: float = 0.0

    @classmethod
    def from_json(cls, raw: bytes) -> UploadForm:
        """Read the ``manifest`` part of an upload.

        Raises:
            InputError: not JSON, unknown keys, or values that are no sense.
        """
        if len(raw) > MAX_FORM_BYTES:
            raise InputError(
                f"the manifest has more than {MAX_FORM_BYTES >> 10} KiB", hint="it holds names and numbers only"
            )
        try:
            form = json.loads(raw)
        except (ValueError, RecursionError) as exc:
            raise InputError(f"the manifest is not JSON: {exc}", hint='send e.g. {"name": "digits"}') from exc
        if not isinstance(form, dict) or not form.keys() <= KEYS:
            unknown = sorted(form.keys() - KEYS) if isinstance(form, dict) else "no object"
            raise InputError(f"the manifest has unknown keys: {unknown}"[:300], hint=f"known are {sorted(KEYS)}")
        batching = _table(form, "batching")
        return cls(
            name=_text(form, "name"),
            labels=_texts(form, "labels"),
            metrics={key: _number(value, f"metric {key!r}") for key, value in _table(form, "metrics").items()} or None,
            max_batch=None if batching.get("max_batch") is None else _whole(batching["max_batch"], "max_batch"),
            max_delay_ms=_number(batching.get("max_delay_ms", 0), "max_delay_ms"),
        )

    def or_else(self, other: UploadForm) -> UploadForm:
        """This form, with the gaps filled from another one."""
        return UploadForm(
            name=self.name or other.name,
            labels=self.labels or other.labels,
            metrics=self.metrics or other.metrics,
            max_batch=self.max_batch if self.max_batch is not None else other.max_batch,
            max_delay_ms=self.max_delay_ms or other.max_delay_ms,
        )


def check_form(form: UploadForm, file_name: str) -> UploadForm:
    """The form with a model name, from the file's name where none is given.

    Raises:
        InputError: the name cannot name a model.
    """
    if form.name:
        if not is_model_name(form.name):
            hint = "a letter or digit, then up to 99 more of A-Z a-z 0-9 . _ -"
            raise InputError(f"{form.name[:100]!r} cannot name a model", hint=hint)
        return form
    stem = re.sub(r"(\.onnx|\.tar\.gz|\.tgz)+$", "", file_name.replace("\\", "/").rsplit("/", 1)[-1])
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("._-")[:100]
    if not is_model_name(name):
        raise InputError(f"no model name can be made from file name {file_name[:100]!r}", hint="give a name")
    return replace(form, name=name)


def check_names(names: Sequence[str]) -> None:
    """Whether further files of an upload have names that a package can hold.

    Raises:
        InputError: too many, twice the same, reserved, or with folders in it.
    """
    if len(names) > MAX_FILES:
        raise InputError(f"an upload has at most {MAX_FILES} files", hint="save the weights into one file")
    for index, name in enumerate(names):
        if FILE_NAME.fullmatch(name) is None or name in RESERVED or name in names[:index]:
            hint = f"plain names of letters, digits and ._+-, each once; {sorted(RESERVED)} are taken"
            raise InputError(f"{name[:200]!r} cannot name a further file of an upload", hint=hint)


def make_manifest(files: Mapping[str, Blob], found: Findings, form: UploadForm, *, created_at: str) -> Manifest:
    """The manifest of a model's first version; whoever publishes it puts in the number.

    Raises:
        ModelInvalidError: a batch was asked for that the model cannot do.
        InputError: a file that the model does not use, or values that no manifest can hold.
    """
    unused = sorted(files.keys() - {MAIN_FILE, GOLDEN_FILE, *found.external_files})
    if unused:
        hint = "send only the model and its weight files; labels go into the manifest"
        raise InputError(f"the model does not use these files: {', '.join(unused)[:300]}", hint=hint)
    tolerance = found.tolerance
    try:
        return Manifest(
            name=form.name,
            version=1,
            created_at=created_at,
            inputs=found.inputs,
            outputs=found.outputs,
            files={name: FileEntry(blob.sha256, blob.size_bytes) for name, blob in files.items()},
            variants=(
                Variant(
                    name=f"onnx-{found.precision}",
                    format="onnx",
                    precision=found.precision,
                    file=MAIN_FILE,
                    files=found.external_files,
                ),
            ),
            golden=None if tolerance is None else Golden(GOLDEN_FILE, tolerance.rtol, tolerance.atol),
            batching=_batching(found, form),
            metrics=dict(form.metrics or {}),
            labels=form.labels,
        )
    except PackageError as exc:
        raise InputError(exc.message, hint=exc.hint) from exc


def _batching(found: Findings, form: UploadForm) -> Batching:
    asked = form.max_batch
    if found.batching_refused:
        if asked is not None and asked > 1:
            message = f"requests for this model cannot be put together: {found.batching_refused}"
            hint = "leave batching out, or export the model with a variable first dimension"
            raise ModelInvalidError(message, hint=hint, reason="batching")
        return Batching()
    return Batching(DEFAULT_MAX_BATCH if asked is None else asked, form.max_delay_ms)


def _text(form: Mapping[str, Any], key: str) -> str:
    value = form.get(key, "")
    if not isinstance(value, str):
        raise InputError(f"{key!r} in the manifest must be text", hint="see the OpenAPI page")
    return value


def _texts(form: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = form.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{key!r} in the manifest must be a list of texts", hint="see the OpenAPI page")
    return tuple(value)


def _table(form: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = form.get(key) or {}
    if not isinstance(value, dict):
        raise InputError(f"{key!r} in the manifest must be an object", hint="see the OpenAPI page")
    return value


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{what} must be a number", hint="see the OpenAPI page")
    return float(value)


def _whole(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{what} must be a whole number", hint="see the OpenAPI page")
    return value
