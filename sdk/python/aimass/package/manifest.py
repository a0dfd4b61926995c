"""What one version of a model consists of, as its publisher signed it.

The values check themselves when they are made, so a manifest that exists says what it must: by a publisher's tool, by
the cloud or from bytes that came over the network. Keys that a later version of AI Mass adds are not kept; nothing is
lost by that, because what is hashed and handed on is the signed envelope, never a manifest written anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Self

from aimass.errors import PackageError
from aimass.package import fields as f
from aimass.wire.tensor import MAX_DIMS, Datatype, TensorSpec

SCHEMA = 1
MAX_FILES = 1000
MAX_VARIANTS = 100
MAX_TENSORS = 256
_MAX_DIM = 2**31 - 1
_MAX_FILE_BYTES = 1 << 40
_MAX_BATCH = 65536
_MAX_BATCH_DELAY_MS = 10_000.0

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}")
_WORD = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_RESERVED_FILE = "manifest.json"
_SAME_ARCH = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


def is_model_name(text: str) -> bool:
    """Whether the text may name a model: a letter or digit, then up to 99 more of ``[A-Za-z0-9._-]``."""
    # MAN-3.1
    return _MODEL_NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Digest and size of one file of the package."""

    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        f.check_sha256(self.sha256, "sha256 of a file")
        f.check_int(self.size_bytes, "size_bytes of a file", low=0, high=_MAX_FILE_BYTES)


@dataclass(frozen=True, slots=True)
class Platform:
    """Where a variant runs, or what a machine is.

    Attributes:
        os: as ``platform.system()`` in lower case; empty for any.
        arch: as ``platform.machine()``; empty for any.
        engines: names of engines; for a variant any of them will do, and empty means all.
    """

    os: str = ""
    arch: str = ""
    engines: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for word in (self.os, self.arch, *self.engines):
            f.checked_text(word, "platform")

    def matches(self, here: Platform) -> bool:
        """Whether a variant for this platform runs on that machine."""
        # MAN-4.2
        if self.os and self.os.lower() != here.os.lower():
            return False
        if self.arch and _arch(self.arch) != _arch(here.arch):
            return False
        return not self.engines or not set(self.engines).isdisjoint(here.engines)


@dataclass(frozen=True, slots=True)
class Variant:
    """A build of this version for one kind of hardware and precision.

    Attributes:
        name: unique in the manifest.
        format: ``onnx`` or ``openvino``; a reader passes over formats it does not know.
        precision: ``fp32``, ``int8``, ...
        file: the model's main file.
        files: others that lie beside it (weights, external data).
        platform: where it runs.
    """

    name: str
    format: str
    precision: str
    file: str
    files: tuple[str, ...] = ()
    platform: Platform = field(default_factory=Platform)

    def __post_init__(self) -> None:
        for word in (self.name, self.format, self.precision):
            if _WORD.fullmatch(word) is None:
                raise PackageError(f"variant: {word[:100]!r} must be 1 to 64 of [a-z0-9._-]")


@dataclass(frozen=True, slots=True)
class Golden:
    """Inputs with the answers they must give, and how far an engine may differ.

    Attributes:
        file: pairs of wire frames, request then response, each with its length as little-endian u32 before it.
        rtol: relative tolerance.
        atol: absolute tolerance.
    """

    file: str
    rtol: float
    atol: float

    def __post_init__(self) -> None:
        for value in (self.rtol, self.atol):
            if f.checked_number(value, "golden tolerance") < 0:
                raise PackageError("a golden tolerance is negative")


@dataclass(frozen=True, slots=True)
class Batching:
    """Whether requests may be run together: at most ``max_batch`` rows, waiting at most ``max_delay_ms`` for more."""

    max_batch: int = 1
    max_delay_ms: float = 0.0

    def __post_init__(self) -> None:
        f.check_int(self.max_batch, "max_batch", low=1, high=_MAX_BATCH)
        if not 0 <= f.checked_number(self.max_delay_ms, "max_delay_ms") <= _MAX_BATCH_DELAY_MS:
            raise PackageError(f"max_delay_ms must be from 0 to {_MAX_BATCH_DELAY_MS}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that is signed about one version of a model.

    Attributes:
        name: the model's.
        version: a whole number from 1 on.
        created_at: ISO 8601 with a time zone.
        inputs: what the model takes.
        outputs: what it gives.
        files: every file of the package by its plain name.
        variants: the builds; at least one.
        golden: reference answers, if there are any.
        batching: whether requests may be run together.
        metrics: what the publisher measured (``accuracy``, ...).
        labels: names of the classes, in the order of the output.

    Raises:
        PackageError: something in it does not fit together.
    """

    name: str
    version: int
    created_at: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: Mapping[str, FileEntry]
    variants: tuple[Variant, ...]
    golden: Golden | None = None
    batching: Batching = field(default_factory=Batching)
    metrics: Mapping[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not is_model_name(self.name):
            raise PackageError(f"{self.name[:200]!r} is not a model name")
        f.check_int(self.version, "version", low=1)
        _check_time(self.created_at)
        _check_specs(self.inputs, "inputs")
        _check_specs(self.outputs, "outputs")
        _check_files(self)
        _check_batching(self)
        for name, value in self.metrics.items():
            f.checked_number(value, f"metric {name}")

    def to_json(self) -> bytes:
        """The bytes a publisher signs."""
        return f.write_canonical(
            {
                "schema": SCHEMA,
                "name": self.name,
                "version": self.version,
                "created_at": self.created_at,
                "inputs": [_spec_to_fields(spec) for spec in self.inputs],
                "outputs": [_spec_to_fields(spec) for spec in self.outputs],
                "files": {name: asdict(entry) for name, entry in self.files.items()},
                "variants": [asdict(variant) for variant in self.variants],
                "golden": None if self.golden is None else asdict(self.golden),
                "batching": asdict(self.batching),
                "metrics": dict(self.metrics),
                "labels": self.labels,
            }
        )

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        """The manifest in these bytes.

        Raises:
            PackageError: it does not say what it must, or is not canonical.
        """
        doc = f.read_canonical(raw)
        if doc.get("schema") != SCHEMA or type(doc["schema"]) is not int:  # MAN-2.3
            hint = "update the software on this side"
            raise PackageError(f"manifest schema {str(doc.get('schema'))[:20]}, we read {SCHEMA}", hint=hint)
        golden = None if doc.get("golden") is None else f.table(doc, "golden")
        return cls(
            name=f.text(doc, "name"),
            version=f.whole(doc, "version"),
            created_at=f.text(doc, "created_at"),
            inputs=_specs_from(doc, "inputs"),
            outputs=_specs_from(doc, "outputs"),
            files=_files_from(doc),
            variants=tuple(_variant_from(item) for item in f.tables(doc, "variants")),
            golden=None if golden is None else _golden_from(golden),
            batching=_batching_from(f.table(doc, "batching")),
            metrics={key: f.checked_number(value, f"metric {key}") for key, value in f.table(doc, "metrics").items()},
            labels=f.texts(doc, "labels"),
        )


def _arch(name: str) -> str:
    lower = name.lower()
    return _SAME_ARCH.get(lower, lower)


def _check_time(created_at: str) -> None:
    try:
        zone = datetime.fromisoformat(created_at).tzinfo
    except (ValueError, TypeError) as exc:
        raise PackageError(f"created_at {str(created_at)[:40]!r} is not an ISO 8601 time") from exc
    if zone is None:
        raise PackageError(f"created_at {created_at!r} has no time zone")


def _check_specs(specs: tuple[TensorSpec, ...], what: str) -> None:
    # MAN-3.3
    if not 1 <= len(specs) <= MAX_TENSORS or len({spec.name for spec in specs}) != len(specs):
        raise PackageError(f"{what} must be 1 to {MAX_TENSORS} tensors with different names")
    for spec in specs:
        if not spec.name or len(spec.shape) > MAX_DIMS:
            raise PackageError(f"{what}: a tensor has no name, or more than {MAX_DIMS} dimensions")
        for dim in spec.shape:
            f.check_int(dim, f"a dimension of {spec.name!r} in {what}", low=-1, high=_MAX_DIM)


def _check_files(manifest: Manifest) -> None:
    # MAN-3.2, MAN-4.1
    if not 1 <= len(manifest.files) <= MAX_FILES or not 1 <= len(manifest.variants) <= MAX_VARIANTS:
        raise PackageError(f"a package has 1 to {MAX_FILES} files and 1 to {MAX_VARIANTS} variants")
    for name in manifest.files:
        if _FILE_NAME.fullmatch(name) is None or name == _RESERVED_FILE:
            hint = "letters, digits and ._+- ; no folders; manifest.json is taken"
            raise PackageError(f"{name[:200]!r} is not a plain file name", hint=hint)
    if len({variant.name for variant in manifest.variants}) != len(manifest.variants):
        raise PackageError("two variants have the same name")
    needed = [name for variant in manifest.variants for name in (variant.file, *variant.files)]
    if manifest.golden is not None:
        needed.append(manifest.golden.file)
    for name in needed:
        if name not in manifest.files:
            raise PackageError(f"file {name[:200]!r} is used but not listed in files")


def _check_batching(manifest: Manifest) -> None:
    # MAN-3.4
    if manifest.batching.max_batch == 1:
        return
    for spec in (*manifest.inputs, *manifest.outputs):
        if not spec.shape or spec.shape[0] != -1:
            hint = "leave batching out, or export the model with a variable first dimension"
            raise PackageError(f"batching needs -1 as first dimension of {spec.name!r}", hint=hint)


def _spec_to_fields(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.value, "shape": list(spec.shape)}


def _specs_from(doc: Mapping[str, Any], key: str) -> tuple[TensorSpec, ...]:
    specs = []
    for item in f.tables(doc, key):
        try:
            datatype = Datatype(f.text(item, "datatype"))
        except ValueError as exc:
            raise PackageError(f"{key}: datatype {str(item.get('datatype'))[:40]!r} is unknown") from exc
        shape = item.get("shape")
        if type(shape) is not list:
            raise PackageError(f"{key}: a shape must be a list")
        specs.append(TensorSpec(f.text(item, "name"), datatype, tuple(shape)))
    return tuple(specs)


def _files_from(doc: Mapping[str, Any]) -> dict[str, FileEntry]:
    files = f.table(doc, "files")
    return {
        name: FileEntry(f.text(entry, "sha256"), f.whole(entry, "size_bytes"))
        for name, entry in ((name, f.table(files, name)) for name in files)
    }


def _variant_from(item: Mapping[str, Any]) -> Variant:
    platform = f.table(item, "platform")
    return Variant(
        name=f.text(item, "name"),
        format=f.text(item, "format"),
        precision=f.text(item, "precision"),
        file=f.text(item, "file"),
        files=f.texts(item, "files"),
        platform=Platform(f.text(platform, "os", ""), f.text(platform, "arch", ""), f.texts(platform, "engines")),
    )


def _golden_from(item: Mapping[str, Any]) -> Golden:
    return Golden(f.text(item, "file"), f.number(item, "rtol"), f.number(item, "atol"))


def _batching_from(item: Mapping[str, Any]) -> Batching:
    return Batching(f.whole(item, "max_batch", 1), f.number(item, "max_delay_ms", 0.0))
