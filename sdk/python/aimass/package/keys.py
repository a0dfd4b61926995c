"""Keys that sign what devices act on: ECDSA on P-256 with SHA-256, and nothing to choose.

One algorithm, because a choice is what attackers negotiate down, and because every secure element has this one.
"""

from __future__ import annotations

import hashlib
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from aimass.errors import TrustError

_ECDSA = ec.ECDSA(hashes.SHA256())  # MAN-1.2
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm)  # what cryptography raises for a PEM it cannot take


class PublicKey:
    """The half that checks. Equal when the keys are equal."""

    def __init__(self, key: ec.EllipticCurvePublicKey) -> None:
        self._key = key
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        self._der = key.public_bytes(serialization.Encoding.DER, spki)
        self.keyid = hashlib.sha256(self._der).hexdigest()[:32]  # MAN-1.3

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Read a SubjectPublicKeyInfo PEM.

        Raises:
            TrustError: not a public key, or not on P-256.
        """
        try:
            key = serialization.load_pem_public_key(pem)
        except _UNREADABLE as exc:
            raise TrustError("not a public key in PEM form", hint="expected -----BEGIN PUBLIC KEY-----") from exc
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise TrustError("the public key is not on P-256", hint="make one with aimass: only P-256 is used")
        return cls(key)

    def to_pem(self) -> bytes:
        """The key as SubjectPublicKeyInfo PEM."""
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        return self._key.public_bytes(serialization.Encoding.PEM, spki)

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Whether this key's other half signed exactly these bytes."""
        try:
            self._key.verify(signature, data, _ECDSA)
        except InvalidSignature:
            return False
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self._der == other._der

    def __hash__(self) -> int:
        return hash(self._der)

    def __repr__(self) -> str:
        return f"PublicKey({self.keyid})"


class SigningKey:
    """The half that signs. Never printed, never compared."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    @classmethod
    def generate(cls) -> Self:
        """A new key from the operating system's randomness."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Read an unencrypted PEM private key.

        Raises:
            TrustError: not a private key, encrypted, or not on P-256. The key's text is never in the message.
        """
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except _UNREADABLE as exc:
            raise TrustError("not an unencrypted private key in PEM form", hint="was the right file given?") from exc
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise TrustError("the private key is not on P-256", hint="make one with aimass: only P-256 is used")
        return cls(key)

    def to_pem(self) -> bytes:
        """The key as unencrypted PKCS#8 PEM; whoever writes it to a file sees to mode 0600."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign(self, data: bytes) -> bytes:
        """A DER signature over SHA-256 of the data."""
        return self._key.sign(data, _ECDSA)

    def __repr__(self) -> str:
        return f"SigningKey({self.public.keyid})"
