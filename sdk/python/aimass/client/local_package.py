"""Packages in folders of the application's own, outside any store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aimass.device.store import digest_of
from aimass.errors import ModelNotFoundError, PackageError, SignatureError
from aimass.package.envelope import MANIFEST_TYPE, open_envelope
from aimass.package.keys import PublicKey
from aimass.package.manifest import Manifest
from aimass.package.trust import check_file

_UNSIGNED_HINT = "give the publisher's key (publisher_keys=...); for files of your own there is allow_unsigned=True"


def open_folder(folder: Path, publishers: Sequence[PublicKey], *, allow_unsigned: bool) -> Manifest:
    """The manifest of a package folder, after its signature and the digest of every file were checked.

    Args:
        folder: holds `manifest.json` and the files it names.
        publishers: whose signature counts.
        allow_unsigned: take a manifest that nobody signed. Digests are checked all the same.

    Raises:
        ModelNotFoundError: there is no package in the folder.
        SignatureError: not signed by any of the publishers.
        DigestMismatchError: a file is not the one that was signed.
        PackageError: a file is missing, or the manifest does not say what it must.
    """
    try:
        raw = (folder / "manifest.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise ModelNotFoundError(f"{folder} holds no package", hint="a package has a manifest.json") from exc
    manifest = Manifest.from_json(_payload(raw, publishers, allow_unsigned=allow_unsigned))
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise PackageError(f"{name} is missing in {folder}")
        check_file(entry, digest_of(path), path.stat().st_size)
    return manifest


def _payload(raw: bytes, publishers: Sequence[PublicKey], *, allow_unsigned: bool) -> bytes:
    try:
        return open_envelope(raw, payload_type=MANIFEST_TYPE, keys=publishers)
    except SignatureError as exc:
        if allow_unsigned and b'"payloadType"' not in raw:
            return raw
        raise SignatureError(exc.message, hint=_UNSIGNED_HINT) from exc
