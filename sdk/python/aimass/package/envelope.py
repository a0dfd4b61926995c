"""Signed bytes: a DSSE envelope in JSON.

    {"payloadType": "...", "payload": base64, "signatures": [{"keyid": hex, "sig": base64}]}

What is signed is ``DSSEv1 <length of type> <type> <length of payload> <payload>``, so a signature over a manifest can
never be shown as one over a desired document. The payload is not looked into before a pinned key has signed it.

Source: DSSE v1.0, protocol.md and envelope.md; ``sdk/spec/MANIFEST.md`` part 1.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from aimass.errors import SignatureError, WireError
from aimass.package.keys import PublicKey, SigningKey
from aimass.wire.header import list_of, read_json, write_json

MANIFEST_TYPE = "application/vnd.aimass.manifest+json"
DESIRED_TYPE = "application/vnd.aimass.desired+json"

MAX_ENVELOPE_BYTES = 4 << 20
MAX_SIGNATURES = 16


def seal(payload_type: str, payload: bytes, keys: Sequence[SigningKey]) -> bytes:
    """An envelope around the payload, signed by each of the keys.

    Raises:
        SignatureError: without keys, with too many, or the envelope would be too large for any reader.
    """
    if not 1 <= len(keys) <= MAX_SIGNATURES:
        raise SignatureError(f"an envelope has 1 to {MAX_SIGNATURES} signatures, not {len(keys)}")
    signed = _pre_authentication_encoding(payload_type, payload)
    signatures = [{"keyid": key.public.keyid, "sig": _to_base64(key.sign(signed))} for key in keys]
    fields = {"payloadType": payload_type, "payload": _to_base64(payload), "signatures": signatures}
    envelope = write_json(fields)
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise SignatureError(f"an envelope of {len(envelope)} bytes, at most {MAX_ENVELOPE_BYTES}")
    return envelope


def open_envelope(envelope: bytes, *, payload_type: str, keys: Sequence[PublicKey]) -> bytes:
    """The payload, once one of the keys is seen to have signed it as this type.

    Raises:
        SignatureError: no envelope, another type, or no valid signature by any of the keys.
    """
    # MAN-1.1, MAN-1.4, MAN-1.5
    fields = _read(envelope)
    if fields.get("payloadType") != payload_type:
        raise SignatureError(f"the envelope holds {str(fields.get('payloadType'))[:100]!r}, not {payload_type!r}")
    payload = _from_base64(fields.get("payload"))
    if not _is_signed(_pre_authentication_encoding(payload_type, payload), _signatures(fields), keys):
        message = "no signature in the envelope is by a key that is pinned here"
        raise SignatureError(message, pinned=[key.keyid for key in keys])
    return payload


def _read(envelope: bytes) -> dict[str, Any]:
    try:
        return read_json(envelope, max_bytes=MAX_ENVELOPE_BYTES, max_nesting=8)
    except WireError as exc:
        raise SignatureError(f"not a signed envelope: {exc}") from exc


def _signatures(fields: dict[str, Any]) -> list[tuple[str, bytes]]:
    try:
        entries = list_of(fields, "signatures")
    except WireError as exc:
        raise SignatureError(f"not a signed envelope: {exc}") from exc
    if not 1 <= len(entries) <= MAX_SIGNATURES:
        raise SignatureError(f"an envelope has 1 to {MAX_SIGNATURES} signatures, not {len(entries)}")
    return [(str(entry.get("keyid")), _from_base64(entry.get("sig"))) for entry in entries]


def _is_signed(signed: bytes, signatures: list[tuple[str, bytes]], keys: Sequence[PublicKey]) -> bool:
    # The key id only chooses which key to try; it proves nothing by itself.
    by_id = {key.keyid: key for key in keys}
    return any(keyid in by_id and by_id[keyid].verify(sig, signed) for keyid, sig in signatures)


def _pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _from_base64(text: Any) -> bytes:
    if not isinstance(text, str):
        raise SignatureError("not a signed envelope: base64 text is missing")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise SignatureError("not a signed envelope: base64 is broken") from exc
