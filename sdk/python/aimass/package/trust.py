"""The rules by which a device accepts what it is told: pure functions of bytes.

In order, and nothing is looked into before the check above it holds:

1. the envelope is the one whose digest somebody trusted named (the desired document does, for manifests);
2. a pinned key signed it, as this kind of document;
3. it says what it must;
4. it is about what was asked for - this model and version, this device;
5. it is newer than all that was accepted before.

An expiry is deliberately absent: a device that was offline for a year must still come up with its last good model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from aimass.errors import DigestMismatchError, PackageError, RollbackError, SignatureError
from aimass.package.desired import Desired
from aimass.package.envelope import DESIRED_TYPE, MANIFEST_TYPE, open_envelope
from aimass.package.keys import PublicKey
from aimass.package.manifest import FileEntry, Manifest


def accept_manifest(
    envelope: bytes, *, publishers: Sequence[PublicKey], sha256: str | None, name: str, version: int
) -> Manifest:
    """The manifest, when it is the one that was asked for and a publisher signed it.

    Args:
        envelope: the bytes that were fetched.
        publishers: keys pinned at enrolment.
        sha256: digest from the desired document; None where the envelope comes from our own disk.
        name: the model asked for.
        version: the version asked for.

    Raises:
        DigestMismatchError: other bytes than were named.
        SignatureError: unsigned, or by nobody we know.
        PackageError: it does not say what it must, or is of another model or version.
    """
    if sha256 is not None:  # MAN-6.1
        _check_digest(hashlib.sha256(envelope).hexdigest(), sha256, f"manifest of {name} {version}")
    manifest = Manifest.from_json(open_envelope(envelope, payload_type=MANIFEST_TYPE, keys=publishers))  # MAN-6.2
    if (manifest.name, manifest.version) != (name, version):  # MAN-6.3
        message = f"the manifest is of {manifest.name} {manifest.version}, not of {name} {version}"
        raise PackageError(message, hint="somebody stored a package under another's name")
    return manifest


def accept_desired(envelope: bytes, *, keys: Sequence[PublicKey], device: str, last: tuple[int, int] | None) -> Desired:
    """The desired document, when it is for this device and newer than the last.

    Args:
        envelope: the bytes that came over the broker.
        keys: the cloud's control keys, pinned at enrolment.
        device: our own identity.
        last: ``(epoch, version)`` of the last one accepted.

    Raises:
        SignatureError: unsigned, by nobody we know, or meant for another device.
        PackageError: it does not say what it must.
        RollbackError: not newer; ``same`` is true when it is the very one we have.
    """
    desired = Desired.from_json(open_envelope(envelope, payload_type=DESIRED_TYPE, keys=keys))  # MAN-6.2
    if desired.device != device:  # MAN-6.4
        raise SignatureError(f"signed for {desired.device!r}, not for {device!r}")
    this = (desired.epoch, desired.version)
    if last is not None and this <= last:  # MAN-6.5
        message = f"desired {this[0]}/{this[1]} is not newer than {last[0]}/{last[1]}"
        raise RollbackError(message, same=this == last, epoch=this[0], version=this[1])
    return desired


def check_file(entry: FileEntry, sha256_hex: str, size_bytes: int) -> None:
    """Hold a fetched file to its signed entry.

    Raises:
        DigestMismatchError: size or digest differ.
    """
    # MAN-6.6
    if size_bytes != entry.size_bytes:
        message = f"a file has {size_bytes} bytes, {entry.size_bytes} were signed"
        raise DigestMismatchError(message, expected=entry.size_bytes, actual=size_bytes)
    _check_digest(sha256_hex, entry.sha256, "a file")


def _check_digest(actual: str, expected: str, what: str) -> None:
    if actual != expected:
        raise DigestMismatchError(f"{what} has another digest than was signed", expected=expected, actual=actual)
