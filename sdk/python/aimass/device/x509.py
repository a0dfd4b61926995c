"""Keys, signing requests and certificate chains of one party: pure functions over PEM bytes.

P-256 throughout. Time is never judged here: a device's clock may be wrong, and whoever meets the certificate (the
broker, the cloud) judges its dates anyway.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aimass.errors import IdentityError

_BAD_CERTIFICATE = (ValueError, TypeError, InvalidSignature, x509.InvalidVersion)


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a party needs to know of its own certificate."""

    cn: str
    serial: str
    not_before: datetime
    not_after: datetime


def new_key() -> bytes:
    """A fresh private key as PEM (PKCS#8, not encrypted: the file's mode protects it)."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def signing_request(key_pem: bytes, cn: str) -> str:
    """A signing request (PEM) for this identity, signed by its key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(_private(key_pem), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def sign(key_pem: bytes, data: bytes) -> bytes:
    """ECDSA over SHA-256, DER."""
    return _private(key_pem).sign(data, ec.ECDSA(hashes.SHA256()))


def root_digest(root_pem: bytes) -> str:
    """SHA-256 of the root certificate's DER as hex: what an enrol-token pins.

    Raises:
        IdentityError: not exactly one certificate.
    """
    return hashlib.sha256(_one(root_pem).public_bytes(serialization.Encoding.DER)).hexdigest()


def check_chain(key_pem: bytes, chain_pem: bytes, root_pem: bytes, cn: str) -> Leaf:
    """Accept a certificate as ours, or name what is wrong with it.

    Args:
        key_pem: our private key.
        chain_pem: our certificate first, then the intermediate ones.
        root_pem: the pinned root.
        cn: the identity it must carry.

    Returns:
        The facts of the first certificate.

    Raises:
        IdentityError: another key, another name, or not signed under the pinned root.
    """
    chain = _certificates(chain_pem)
    if not chain:
        raise IdentityError("the certificate chain is empty")
    leaf = chain[0]
    if _spki(leaf.public_key()) != _spki(_private(key_pem).public_key()):
        raise IdentityError("the certificate belongs to another key")
    names = [str(name.value) for name in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [cn]:
        raise IdentityError(f"the certificate names {names}, not {cn!r}")
    _check_issuers([*chain, _one(root_pem)])
    return Leaf(cn, f"{leaf.serial_number:x}", leaf.not_valid_before_utc, leaf.not_valid_after_utc)


def _check_issuers(chain: Sequence[x509.Certificate]) -> None:
    for child, issuer in itertools.pairwise(chain):
        if child == issuer:  # the chain may end in the root itself
            continue
        try:
            child.verify_directly_issued_by(issuer)
        except _BAD_CERTIFICATE as exc:
            raise IdentityError("the certificate is not signed under the pinned root") from exc


def _private(key_pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except _BAD_CERTIFICATE as exc:
        raise IdentityError("the private key cannot be read") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityError("the private key is not an elliptic-curve key")
    return key


def _spki(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise IdentityError("the certificate's key is not an elliptic-curve key")
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except _BAD_CERTIFICATE as exc:
        raise IdentityError("the certificate cannot be read") from exc


def _one(pem: bytes) -> x509.Certificate:
    found = _certificates(pem)
    if len(found) != 1:
        raise IdentityError(f"expected one root certificate, found {len(found)}")
    return found[0]
