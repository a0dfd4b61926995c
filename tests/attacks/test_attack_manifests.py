"""Signed documents made to mislead: each ends in its named error, and nothing is looked into too early."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from typing import Any

import pytest

from aimass.errors import DigestMismatchError, PackageError, RollbackError, SignatureError
from aimass.package.envelope import DESIRED_TYPE, MANIFEST_TYPE, seal
from aimass.package.manifest import Manifest
from aimass.package.trust import accept_desired, accept_manifest
from tests.unit.package.samples import DESIRED, MANIFEST, PUBLISHER, STRANGER


def accept(envelope: bytes, sha256: str | None = None) -> Manifest:
    return accept_manifest(envelope, publishers=[PUBLISHER.public], sha256=sha256, name="digits", version=3)


def signed(fields: dict[str, Any]) -> bytes:
    payload = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return seal(MANIFEST_TYPE, payload, [PUBLISHER])


def fields() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(MANIFEST.to_json())
    return loaded


BOMBS = {
    "nested": b"[" * 1_000_000,
    "nested objects": b'{"a":' * 400_000,
    "escapes": b'{"a":"' + b'\\"' * 500_000,
    "digits": b'{"version":' + b"9" * 1_000_000 + b"}",
}


@pytest.mark.parametrize("payload", BOMBS.values(), ids=BOMBS)
def test_a_signed_bomb_is_refused_soon(payload: bytes) -> None:
    start_s = time.process_time()
    with pytest.raises(PackageError):
        accept(seal(MANIFEST_TYPE, payload, [PUBLISHER]))
    assert time.process_time() - start_s < 3


@pytest.mark.parametrize("envelope", BOMBS.values(), ids=BOMBS)
def test_an_unsigned_bomb_is_refused_soon(envelope: bytes) -> None:
    start_s = time.process_time()
    with pytest.raises(SignatureError):
        accept(envelope)
    assert time.process_time() - start_s < 3


def test_a_bomb_by_a_stranger_is_not_even_read() -> None:
    # MAN-1.5
    with pytest.raises(SignatureError):
        accept(seal(MANIFEST_TYPE, BOMBS["nested"], [STRANGER]))


def test_a_signature_cannot_be_moved_to_another_payload() -> None:
    good = json.loads(seal(MANIFEST_TYPE, MANIFEST.to_json(), [PUBLISHER]))
    evil = fields() | {"labels": ["one", "zero"]}
    payload = json.dumps(evil, sort_keys=True, separators=(",", ":")).encode()
    moved = good | {"payload": base64.b64encode(payload).decode()}
    with pytest.raises(SignatureError):
        accept(json.dumps(moved).encode())


def test_a_second_payload_behind_the_first_is_not_what_was_signed() -> None:
    good = seal(MANIFEST_TYPE, MANIFEST.to_json(), [PUBLISHER])
    evil = base64.b64encode(b'{"name":"evil"}')
    with pytest.raises(SignatureError):
        accept(good[:-1] + b',"payload":"' + evil + b'"}')


def test_the_lengths_in_the_signed_text_keep_type_and_payload_apart() -> None:
    shifted = seal(MANIFEST_TYPE + " 1 x", b"y", [PUBLISHER])
    with pytest.raises(SignatureError):
        accept(shifted)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..", "a/../../b", "a\\..\\b", "manifest.json", "a\x00.onnx", "\u2025"]
)
def test_a_signed_file_name_still_cannot_reach_outside_the_package(name: str) -> None:
    changed = fields()
    changed["files"][name] = changed["files"]["model.onnx"]
    with pytest.raises(PackageError):
        accept(signed(changed))


def test_a_genuine_old_manifest_is_not_taken_for_the_new_one() -> None:
    old = signed(fields() | {"version": 2})
    with pytest.raises(PackageError):
        accept(old)
    with pytest.raises(DigestMismatchError):
        accept(old, hashlib.sha256(signed(fields())).hexdigest())


def test_a_recorded_desired_document_cannot_be_played_again() -> None:
    recorded = seal(DESIRED_TYPE, DESIRED.to_json(), [PUBLISHER])
    asked: dict[str, Any] = {"keys": [PUBLISHER.public], "device": "gw-1"}
    accepted = accept_desired(recorded, last=None, **asked)
    with pytest.raises(RollbackError):
        accept_desired(recorded, last=(accepted.epoch, accepted.version + 1), **asked)


def test_one_devices_document_is_nothing_to_another() -> None:
    recorded = seal(DESIRED_TYPE, DESIRED.to_json(), [PUBLISHER])
    for other in ("gw-2", "gw-1:app", "svc:gw-1"):
        with pytest.raises(SignatureError):
            accept_desired(recorded, keys=[PUBLISHER.public], device=other, last=None)


def test_a_manifest_cannot_be_shown_as_a_desired_document() -> None:
    with pytest.raises(SignatureError):
        accept_desired(
            seal(MANIFEST_TYPE, DESIRED.to_json(), [PUBLISHER]), keys=[PUBLISHER.public], device="gw-1", last=None
        )
