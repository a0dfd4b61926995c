"""Keys."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from aimass.errors import TrustError
from aimass.package.keys import PublicKey, SigningKey

KEY = SigningKey.generate()


def private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def public_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, spki)


FOREIGN = [
    ec.generate_private_key(ec.SECP384R1()),
    rsa.generate_private_key(65537, 2048),
    ed25519.Ed25519PrivateKey.generate(),
]


def test_a_signature_holds_for_its_bytes_and_its_key_only() -> None:
    signature = KEY.sign(b"data")
    assert KEY.public.verify(signature, b"data")
    assert not KEY.public.verify(signature, b"datb")
    assert not SigningKey.generate().public.verify(signature, b"data")


@pytest.mark.parametrize("signature", [b"", b"\x30", b"\x00" * 72, b"\xff" * 5000])
def test_garbage_is_no_signature(signature: bytes) -> None:
    assert not KEY.public.verify(signature, b"data")


def test_keys_come_back_from_pem() -> None:
    again = SigningKey.from_pem(KEY.to_pem())
    assert again.public == KEY.public == PublicKey.from_pem(KEY.public.to_pem())
    assert len({again.public, KEY.public}) == 1
    assert again.public.verify(again.sign(b"x"), b"x")
    assert again.public != SigningKey.generate().public
    assert again.public != "a key"


def test_the_key_id_is_a_digest_of_the_public_key() -> None:
    # MAN-1.3
    key = serialization.load_pem_public_key(KEY.public.to_pem())
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert KEY.public.keyid == hashlib.sha256(der).hexdigest()[:32]


@pytest.mark.parametrize("pem", [b"", b"garbage", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_refuses_what_is_no_key(pem: bytes) -> None:
    with pytest.raises(TrustError):
        PublicKey.from_pem(pem)
    with pytest.raises(TrustError):
        SigningKey.from_pem(pem)


@pytest.mark.parametrize("key", FOREIGN, ids=lambda key: type(key).__name__)
def test_refuses_every_other_algorithm_and_curve(key: ec.EllipticCurvePrivateKey) -> None:
    # MAN-1.2
    with pytest.raises(TrustError, match="not on P-256"):
        PublicKey.from_pem(public_pem(key))
    with pytest.raises(TrustError, match="not on P-256"):
        SigningKey.from_pem(private_pem(key))


def test_refuses_an_encrypted_key() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    with pytest.raises(TrustError, match="unencrypted"):
        SigningKey.from_pem(pem)


def test_a_private_key_does_not_show_itself() -> None:
    assert repr(KEY) == f"SigningKey({KEY.public.keyid})"
    assert repr(KEY.public) == f"PublicKey({KEY.public.keyid})"
