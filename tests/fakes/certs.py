"""Throw-away certificates for tests: one root, P-256 leaves. Nothing here is for production."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aimass.transport import TlsFiles


@dataclass
class TestCa:
    """A certificate authority in a folder."""

    __test__ = False  # for pytest: not a test class

    folder: Path
    name: str = "Test root"

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        certificate = (
            _builder(self._subject, self._subject, self._key.public_key(), dt.timedelta(days=1), dt.timedelta(0))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_ca_usage(), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    @property
    def ca_file(self) -> Path:
        """The root certificate."""
        return self.folder / "ca.pem"

    def issue(
        self,
        common_name: str,
        *,
        server: bool = False,
        valid_for: dt.timedelta = dt.timedelta(days=1),
        age: dt.timedelta = dt.timedelta(minutes=5),
        stem: str | None = None,
    ) -> TlsFiles:
        """A key and a certificate for a client, or for a server on localhost. A negative end makes an expired one."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"urn:aimass:test:{common_name}")]
        if server:
            names = [x509.DNSName("localhost"), x509.IPAddress(_loopback())]
        certificate = (
            _builder(subject, self._subject, key.public_key(), valid_for, age)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        stem = stem or common_name.replace(":", "_")
        files = TlsFiles(self.ca_file, self.folder / f"{stem}.pem", self.folder / f"{stem}.key")
        files.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, life: dt.timedelta, age: dt.timedelta
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - age - dt.timedelta(minutes=1))
        .not_valid_after(now + life)
    )


def _ca_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def _loopback() -> object:
    import ipaddress

    return ipaddress.ip_address("127.0.0.1")
