"""What a device accepts."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from aimass.errors import DigestMismatchError, PackageError, RollbackError, SignatureError, TrustError
from aimass.package.desired import Desired
from aimass.package.envelope import DESIRED_TYPE, MANIFEST_TYPE, seal
from aimass.package.manifest import FileEntry, Manifest
from aimass.package.trust import accept_desired, accept_manifest, check_file
from tests.unit.package.samples import DESIRED, DIGEST, MANIFEST, PUBLISHER, STRANGER

ENVELOPE = seal(MANIFEST_TYPE, MANIFEST.to_json(), [PUBLISHER])
WISH = seal(DESIRED_TYPE, DESIRED.to_json(), [PUBLISHER])
THIS = (DESIRED.epoch, DESIRED.version)


def manifest(envelope: bytes = ENVELOPE, **how: Any) -> Manifest:
    asked: dict[str, Any] = {"publishers": [PUBLISHER.public], "sha256": None, "name": "digits", "version": 3}
    return accept_manifest(envelope, **(asked | how))


def desired(envelope: bytes = WISH, **how: Any) -> Desired:
    asked: dict[str, Any] = {"keys": [PUBLISHER.public], "device": "gw-1", "last": None}
    return accept_desired(envelope, **(asked | how))


def test_accepts_the_manifest_that_was_named() -> None:
    assert manifest() == manifest(sha256=hashlib.sha256(ENVELOPE).hexdigest()) == MANIFEST


def test_refuses_other_bytes_before_looking_at_the_signature() -> None:
    # MAN-6.1
    with pytest.raises(DigestMismatchError) as caught:
        manifest(b"not even an envelope", sha256=DIGEST)
    assert caught.value.expected == DIGEST


def test_refuses_an_unsigned_manifest() -> None:
    with pytest.raises(SignatureError):
        manifest(MANIFEST.to_json())


def test_refuses_a_manifest_signed_by_nobody_we_know() -> None:
    # MAN-6.2
    with pytest.raises(SignatureError):
        manifest(seal(MANIFEST_TYPE, MANIFEST.to_json(), [STRANGER]))


def test_refuses_a_manifest_signed_as_a_desired_document() -> None:
    with pytest.raises(SignatureError):
        manifest(seal(DESIRED_TYPE, MANIFEST.to_json(), [PUBLISHER]))


@pytest.mark.parametrize("asked", [{"name": "other"}, {"version": 2}, {"version": 4}])
def test_refuses_a_manifest_of_another_model_or_version(asked: dict[str, Any]) -> None:
    # MAN-6.3
    with pytest.raises(PackageError, match=r"of digits 3, not of"):
        manifest(**asked)


def test_refuses_a_signed_manifest_that_says_nothing() -> None:
    with pytest.raises(PackageError):
        manifest(seal(MANIFEST_TYPE, b"{}", [PUBLISHER]))


@pytest.mark.parametrize("last", [None, (0, 0), (THIS[0], THIS[1] - 1), (THIS[0] - 1, THIS[1] + 1000)])
def test_accepts_a_newer_document_and_a_newer_epoch_restarts_the_count(last: tuple[int, int] | None) -> None:
    # MAN-6.5
    assert desired(last=last) == DESIRED


@pytest.mark.parametrize(("last", "same"), [(THIS, True), ((THIS[0], THIS[1] + 1), False), ((THIS[0] + 1, 0), False)])
def test_refuses_a_replay_and_says_whether_it_is_the_one_we_have(last: tuple[int, int], same: bool) -> None:
    # MAN-6.5
    with pytest.raises(RollbackError) as caught:
        desired(last=last)
    assert caught.value.same is same


def test_refuses_a_document_for_another_device() -> None:
    # MAN-6.4
    with pytest.raises(SignatureError, match="gw-1"):
        desired(device="gw-1:app")


def test_the_signature_counts_before_age_and_addressee() -> None:
    with pytest.raises(SignatureError, match="no signature"):
        desired(seal(DESIRED_TYPE, DESIRED.to_json(), [STRANGER]), device="gw-2", last=(THIS[0] + 1, 0))


def test_a_publisher_of_models_is_not_the_control_plane() -> None:
    with pytest.raises(SignatureError):
        desired(keys=[STRANGER.public])


def test_a_file_is_held_to_its_entry() -> None:
    # MAN-6.6
    entry = FileEntry(DIGEST, 12)
    check_file(entry, DIGEST, 12)
    for digest, size in ((DIGEST, 11), ("0" * 64, 12)):
        with pytest.raises(DigestMismatchError):
            check_file(entry, digest, size)


def test_no_refusal_of_trust_is_ever_tried_again() -> None:
    for error in TrustError.__subclasses__():
        assert not error("x").retryable
