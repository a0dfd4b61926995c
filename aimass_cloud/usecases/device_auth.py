"""How a device shows who it is over HTTPS: it signs a nonce of ours with its key and gets a token for named paths.

Client certificates in TLS would do the same, but the web server cannot show them to us, and signed URLs in a retained
document would have expired when a device wakes after months.

Rules:
    1. A nonce works once, for the identity it was given to, for a minute.
    2. The signature must be by the key of a certificate of that identity that is not revoked. One that ended no longer
       than the grace time ago is good for a renewal and nothing else.
    3. A blob may be fetched by those whose desired document needs it.
    4. The token is good for exactly the paths it names, for ten minutes, and only while its identity exists.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import threading
from collections import deque
from collections.abc import Callable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from aimass.device.cloud_http import token_message
from aimass.errors import AuthError, ForbiddenError, InputError
from aimass.package.keys import PublicKey
from aimass.wire.ids import is_identity
from aimass_cloud.store.base import Store, Transaction
from aimass_cloud.store.records import CertificateRecord
from aimass_cloud.usecases.base import Clock, now_ms

TOKEN_S = 600
NONCE_S = 60
NONCES_PER_IDENTITY = 16
"""Open at once; a further one pushes out the oldest, so the memory is bounded by the number of devices."""
MAX_PATHS = 64
RENEW_PATH = "/v1/device/renew"
TOKEN_PREFIX = "aimd1."  # noqa: S105 - a mark in front of tokens, not a secret
BLOB_PATH = re.compile(r"/v1/blobs/([0-9a-f]{64})")


class DeviceAuth:
    """Nonces, tokens and what they open.

    Args:
        store: certificates and devices.
        entitled: digests of the blobs an identity may fetch.
        grace_s: how long after its end a certificate still opens the renewal.
        clock: unix seconds.
        secret: key of the tokens' HMAC; a new one for each process is fine, devices then ask again.
    """

    def __init__(
        self,
        store: Store,
        *,
        entitled: Callable[[Transaction, str], frozenset[str]],
        grace_s: float,
        clock: Clock,
        secret: bytes | None = None,
    ) -> None:
        self._store = store
        self._entitled = entitled
        self._grace_ms = round(grace_s * 1000)
        self._clock = clock
        self._secret = secret or secrets.token_bytes(32)
        self._nonces: dict[str, deque[tuple[str, float]]] = {}
        self._lock = threading.Lock()

    def nonce(self, identity: str) -> str:
        """A fresh nonce. Whoever is unknown gets one too, so that nobody learns which ids exist.

        Raises:
            InputError: not an identity.
        """
        if not is_identity(identity):
            raise InputError(f"{identity[:100]!r} is not an identity", hint="send the CN of your certificate as id")
        nonce = secrets.token_hex(32)
        with self._store.read() as tx:
            known = tx.devices.find(identity) is not None
        if known:
            with self._lock:
                kept = self._nonces.setdefault(identity, deque(maxlen=NONCES_PER_IDENTITY))
                kept.append((nonce, self._clock() + NONCE_S))
        return nonce

    def token(self, identity: str, nonce: str, paths: Sequence[str], signature: bytes) -> str:
        """A token for these paths.

        Raises:
            AuthError: nonce or signature do not hold, or the certificate has ended or is revoked.
            ForbiddenError: a path that this identity may not open.
            InputError: no path, or too many.
        """
        if not 1 <= len(paths) <= MAX_PATHS:
            raise InputError(f"a token is for 1 to {MAX_PATHS} paths", hint="ask for several tokens")
        if not self._spend(identity, nonce):
            raise AuthError("the nonce is unknown, used or expired", hint="ask for a new one")
        now = now_ms(self._clock)
        with self._store.read() as tx:
            records = tx.certificates.usable(identity, now_ms=now, grace_ms=self._grace_ms)
            signer = _signer(records, token_message(identity, nonce, paths), signature)
            entitled = self._entitled(tx, identity)
        if signer is None:
            hint = "the certificate may be revoked or have ended too long ago; enrol again"
            raise AuthError("the signature is not by a valid key of this id", hint=hint)
        self._check_paths(paths, entitled, has_ended=signer.not_after_ms < now)
        return self._sealed(identity, paths)

    def verify(self, token: str, path: str) -> str:
        """The identity behind a token that opens this path.

        Raises:
            AuthError: not a token of ours, expired, or its identity was removed or has no valid certificate left.
            ForbiddenError: the token is for other paths.
        """
        identity, paths, expires_s = self._opened(token)
        if self._clock() >= expires_s:
            raise AuthError("the device token has expired", hint="ask for a new one")
        with self._store.read() as tx:
            now = now_ms(self._clock)
            if not tx.certificates.usable(identity, now_ms=now, grace_ms=self._grace_ms):
                raise AuthError(f"{identity!r} has no valid certificate any more", hint="enrol again")
        if path not in paths:
            raise ForbiddenError("the device token is not for this path", hint="name the path when asking for a token")
        return identity

    def _spend(self, identity: str, nonce: str) -> bool:
        """Whether the nonce is this identity's and fresh; it is gone in any case."""
        with self._lock:
            kept = self._nonces.get(identity, deque())
            found = [entry for entry in kept if hmac.compare_digest(entry[0].encode(), nonce.encode())]
            for entry in found:
                kept.remove(entry)
        return any(expires_s > self._clock() for _, expires_s in found)

    def _check_paths(self, paths: Sequence[str], entitled: frozenset[str], *, has_ended: bool) -> None:
        for path in paths:
            if path == RENEW_PATH:
                continue
            if has_ended:
                raise AuthError("the certificate has expired; it only opens its renewal", hint=f"ask for {RENEW_PATH}")
            blob = BLOB_PATH.fullmatch(path)
            if blob is None or blob[1] not in entitled:
                raise ForbiddenError(
                    f"{path[:200]!r} is nothing this device may open", hint="fetch only what 'desired' names"
                )

    def _sealed(self, identity: str, paths: Sequence[str]) -> str:
        claims = {"id": identity, "paths": list(paths), "exp": self._clock() + TOKEN_S}
        body = base64.urlsafe_b64encode(json.dumps(claims, separators=(",", ":")).encode()).rstrip(b"=")
        return f"{TOKEN_PREFIX}{body.decode()}.{self._mac(body)}"

    def _opened(self, token: str) -> tuple[str, list[str], float]:
        body, _, mac = token.removeprefix(TOKEN_PREFIX).partition(".")
        if not hmac.compare_digest(self._mac(body.encode()).encode(), mac.encode()):
            raise AuthError("this is not a device token of this cloud", hint="ask for a new one")
        try:
            claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        except ValueError as exc:
            raise AuthError("the device token cannot be read") from exc
        return claims["id"], claims["paths"], claims["exp"]

    def _mac(self, body: bytes) -> str:
        return hmac.new(self._secret, body, hashlib.sha256).hexdigest()


def _signer(records: Sequence[CertificateRecord], message: bytes, signature: bytes) -> CertificateRecord | None:
    """The certificate with the latest end whose key made this signature."""
    for record in sorted(records, key=lambda record: -record.not_after_ms):
        key = x509.load_pem_x509_certificate(record.pem.encode()).public_key()
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        if PublicKey.from_pem(key.public_bytes(serialization.Encoding.PEM, spki)).verify(signature, message):
            return record
    return None
