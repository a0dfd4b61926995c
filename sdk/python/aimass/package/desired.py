"""What the cloud wants one device to hold: a small signed document, retained by the broker.

Its ``(epoch, version)`` only ever grows for one device. The epoch is the Unix time in milliseconds at which the
cloud's store was made or restored: a cloud that comes back from a backup counts its versions from the backup's, and
the newer epoch lets devices follow it all the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from aimass.errors import PackageError
from aimass.package import fields as f
from aimass.package.manifest import is_model_name
from aimass.wire.ids import is_identity

MAX_MODELS = 1000
_BLOB_PATH = re.compile(r"/v1/blobs/[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class DesiredModel:
    """One version the device shall hold.

    Attributes:
        name: the model's.
        version: its version.
        manifest_path: where the signed manifest is fetched: ``/v1/blobs/{sha256}``.
        manifest_sha256: digest of the whole envelope.
        default: whether requests that name no version go to this one.
    """

    name: str
    version: int
    manifest_path: str
    manifest_sha256: str
    default: bool = True

    def __post_init__(self) -> None:
        if not is_model_name(self.name):
            raise PackageError(f"{self.name[:200]!r} is not a model name")
        f.check_int(self.version, "version", low=1)
        f.check_sha256(self.manifest_sha256, "manifest_sha256")
        if _BLOB_PATH.fullmatch(self.manifest_path) is None:  # MAN-5.2: a path, never an address of some other host
            raise PackageError(f"{self.manifest_path[:200]!r} is not a path of the form /v1/blobs/SHA256")


@dataclass(frozen=True, slots=True)
class Desired:
    """The whole document (MAN-5.1).

    Attributes:
        device: the identity it is for.
        epoch: when the cloud's store was made or restored, Unix milliseconds.
        version: counts up with each change.
        models: all the device shall hold; what is not in it is removed.
        issued_at_ms: Unix milliseconds, for people.
    """

    device: str
    epoch: int
    version: int
    models: tuple[DesiredModel, ...]
    issued_at_ms: int

    def __post_init__(self) -> None:
        if not is_identity(self.device):
            raise PackageError(f"{self.device[:200]!r} is not an identity")
        f.check_int(self.epoch, "epoch", low=0)
        f.check_int(self.version, "version", low=0)
        f.check_int(self.issued_at_ms, "issued_at_ms", low=0)
        _check_models(self.models)

    def to_json(self) -> bytes:
        """The bytes the cloud signs."""
        return f.write_canonical(asdict(self))

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        """The document in these bytes.

        Raises:
            PackageError: it does not say what it must, or is not canonical.
        """
        doc = f.read_canonical(raw)
        return cls(
            device=f.text(doc, "device"),
            epoch=f.whole(doc, "epoch"),
            version=f.whole(doc, "version"),
            models=tuple(_model_from(item) for item in f.tables(doc, "models")),
            issued_at_ms=f.whole(doc, "issued_at_ms"),
        )


def _check_models(models: tuple[DesiredModel, ...]) -> None:
    # MAN-5.3
    if len(models) > MAX_MODELS:
        raise PackageError(f"{len(models)} models, at most {MAX_MODELS}")
    if len({(model.name, model.version) for model in models}) != len(models):
        raise PackageError("a version of a model is listed twice")
    defaults = [model.name for model in models if model.default]
    if len(set(defaults)) != len(defaults):
        raise PackageError("a model has two default versions")


def _model_from(item: Mapping[str, Any]) -> DesiredModel:
    return DesiredModel(
        name=f.text(item, "name"),
        version=f.whole(item, "version"),
        manifest_path=f.text(item, "manifest_path"),
        manifest_sha256=f.text(item, "manifest_sha256"),
        default=f.flag(item, "default", True),
    )
