"""Signed bytes."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass.errors import SignatureError
from aimass.package.envelope import DESIRED_TYPE, MANIFEST_TYPE, MAX_ENVELOPE_BYTES, open_envelope, seal
from tests.unit.package.samples import PUBLISHER, STRANGER

SEALED = seal(MANIFEST_TYPE, b"payload", [PUBLISHER])


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(SEALED) | fields).encode()


def opened(envelope: bytes) -> bytes:
    return open_envelope(envelope, payload_type=MANIFEST_TYPE, keys=[PUBLISHER.public])


@pytest.mark.parametrize("payload", [b"", b"{}", bytes(range(256)), b"x" * 100_000])
def test_what_was_sealed_is_opened(payload: bytes) -> None:
    assert opened(seal(MANIFEST_TYPE, payload, [PUBLISHER])) == payload


def test_the_signature_is_over_the_encoding_that_dsse_says() -> None:
    # MAN-1.1
    signature = base64.b64decode(json.loads(SEALED)["signatures"][0]["sig"])
    signed = b"DSSEv1 36 application/vnd.aimass.manifest+json 7 payload"
    assert len(MANIFEST_TYPE) == 36
    assert PUBLISHER.public.verify(signature, signed)


def test_one_pinned_key_among_the_signers_is_enough() -> None:
    # MAN-1.4
    both = seal(MANIFEST_TYPE, b"payload", [STRANGER, PUBLISHER])
    assert opened(both) == b"payload"
    keys = [STRANGER.public, PUBLISHER.public]
    assert open_envelope(SEALED, payload_type=MANIFEST_TYPE, keys=keys) == b"payload"


def test_refuses_a_stranger_and_says_which_keys_are_pinned() -> None:
    with pytest.raises(SignatureError) as caught:
        opened(seal(MANIFEST_TYPE, b"payload", [STRANGER]))
    assert caught.value.pinned == [PUBLISHER.public.keyid]
    assert not caught.value.retryable


def test_without_pinned_keys_nothing_is_accepted() -> None:
    with pytest.raises(SignatureError):
        open_envelope(SEALED, payload_type=MANIFEST_TYPE, keys=[])


def test_a_stranger_cannot_borrow_a_key_id() -> None:
    fields = json.loads(seal(MANIFEST_TYPE, b"payload", [STRANGER]))
    fields["signatures"][0]["keyid"] = PUBLISHER.public.keyid
    with pytest.raises(SignatureError):
        opened(json.dumps(fields).encode())


def test_a_signature_over_another_type_does_not_hold() -> None:
    with pytest.raises(SignatureError, match="holds"):
        opened(seal(DESIRED_TYPE, b"payload", [PUBLISHER]))
    fields = json.loads(seal(DESIRED_TYPE, b"payload", [PUBLISHER])) | {"payloadType": MANIFEST_TYPE}
    with pytest.raises(SignatureError, match="no signature"):
        opened(json.dumps(fields).encode())


@pytest.mark.parametrize(
    "envelope",
    [
        b"",
        b"payload",
        b"[]",
        b"{}",
        b"[" * 100_000,
        changed(payload=None),
        changed(payload="cGF5bG9hZA"),
        changed(payload="cGF5bG9hZA==\n"),
        changed(payload="cGF5-G9hZA=="),
        changed(payload="\u00e9"),
        changed(payload=base64.b64encode(b"payloae").decode()),
        changed(payloadType=None),
        changed(payloadType=7),
        changed(signatures=None),
        changed(signatures=[]),
        changed(signatures={}),
        changed(signatures=[1]),
        changed(signatures=[{}]),
        changed(signatures=[{"keyid": PUBLISHER.public.keyid}]),
        changed(signatures=[{"keyid": PUBLISHER.public.keyid, "sig": ""}]),
        changed(signatures=[{"keyid": [], "sig": "AAAA"}]),
        changed(signatures=json.loads(SEALED)["signatures"] * 17),
        b"x" * (MAX_ENVELOPE_BYTES + 1),
    ],
)
def test_refuses_what_is_not_a_valid_envelope(envelope: bytes) -> None:
    # MAN-1.4
    with pytest.raises(SignatureError):
        opened(envelope)


def test_refuses_to_seal_what_nobody_could_open() -> None:
    for keys in ([], [PUBLISHER] * 17):
        with pytest.raises(SignatureError):
            seal(MANIFEST_TYPE, b"payload", keys)
    with pytest.raises(SignatureError):
        seal(MANIFEST_TYPE, bytes(MAX_ENVELOPE_BYTES), [PUBLISHER])


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_no_changed_byte_changes_what_is_accepted(at: int, by: int) -> None:
    touched = bytearray(SEALED)
    touched[at] ^= by
    try:
        assert opened(bytes(touched)) == b"payload"
    except SignatureError:
        return


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_with_the_one_error(raw: bytes) -> None:
    with pytest.raises(SignatureError):
        opened(raw)
