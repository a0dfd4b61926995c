"""Keys and certificate requests: what a request must say before anything is signed for it.

A request proves that its sender holds the key. Beyond that only two things are taken from it: the public key, and the
common name, which must equal the identity the enrol-token (or the current certificate) names. Extensions that a
request asks for are ignored; the authority writes its own.
"""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aimass.errors import EnrolError

MAX_CSR_BYTES = 16 * 1024
MAX_CN_LENGTH = 64
"""X.520's upper bound for a common name; it holds for ``{id}:{role}`` together."""


def new_key_pem() -> bytes:
    """A fresh P-256 private key as unencrypted PKCS#8 PEM."""
    return private_pem(ec.generate_private_key(ec.SECP256R1()))


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def make_csr(key_pem: bytes, identity: str) -> bytes:
    """A request for ``identity`` signed with that key, as PEM."""
    key = serialization.load_pem_private_key(key_pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise EnrolError("the key is not an elliptic-curve key", hint="make a P-256 key")
    builder = x509.CertificateSigningRequestBuilder().subject_name(common_name(identity))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def read_csr(csr_pem: bytes, identity: str) -> ec.EllipticCurvePublicKey:
    """The public key of a request that is good for ``identity``.

    Raises:
        EnrolError: not a request, too large, wrongly signed, for another identity, or a key that is not P-256.
    """
    if len(csr_pem) > MAX_CSR_BYTES:
        raise EnrolError(f"the certificate request has {len(csr_pem)} bytes, the limit is {MAX_CSR_BYTES}", hint="")
    try:
        csr = x509.load_pem_x509_csr(csr_pem)
        names = [str(a.value) for a in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        key, signed = csr.public_key(), csr.is_signature_valid
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as exc:
        raise EnrolError("the certificate request cannot be read", hint="send a PKCS#10 request as PEM") from exc
    if not signed:
        raise EnrolError("the certificate request is not signed by its own key", hint="make the request again")
    if names != [identity]:
        raise EnrolError(f"the certificate request names {names}, the token is for {identity!r}")
    return p256(key)


def p256(key: object) -> ec.EllipticCurvePublicKey:
    """The key, if it is one on P-256; EnrolError otherwise."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise EnrolError("the key in the certificate request is not on P-256", hint="make a P-256 (prime256v1) key")
    return key


def common_name(identity: str) -> x509.Name:
    """The subject for an identity; EnrolError when X.509 has no room for it."""
    if not 1 <= len(identity) <= MAX_CN_LENGTH:
        raise EnrolError(
            f"identity {identity!r} has {len(identity)} characters, a certificate's common name takes {MAX_CN_LENGTH}",
            hint="choose a shorter device id or role",
        )
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity)])


def key_sha256(key: ec.EllipticCurvePublicKey) -> str:
    """Digest of a public key (SPKI DER), as lower-case hex."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()
