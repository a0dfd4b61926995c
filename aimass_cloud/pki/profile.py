"""What stands in each kind of certificate. Pure: keys, names and times come in."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aimass.errors import ConfigError
from aimass_cloud.pki.csr import common_name

Extensions = Sequence[tuple[x509.ExtensionType, bool]]
"""Extensions with whether each is critical."""

BACKDATE = timedelta(minutes=5)
_DNS_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")


def root(name: str, key: ec.EllipticCurvePrivateKey, now: datetime, lifetime_s: float) -> x509.Certificate:
    """A self-signed root that may sign one level of authorities below it."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    extensions = _authority_extensions(path_length=1)
    return _sign(
        subject, key.public_key(), extensions, subject, key, now - BACKDATE, now + timedelta(seconds=lifetime_s)
    )


def intermediate(
    name: str,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: datetime,
    lifetime_s: float,
) -> x509.Certificate:
    """An authority that may sign leaves only."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    until = min(now + timedelta(seconds=lifetime_s), issuer.not_valid_after_utc)
    return _sign(subject, key, _authority_extensions(path_length=0), issuer.subject, issuer_key, now - BACKDATE, until)


def leaf(
    name: str,
    key: ec.EllipticCurvePublicKey,
    extensions: Extensions,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    begins: datetime,
    until: datetime,
) -> x509.Certificate:
    """A certificate that signs nothing."""
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    basics: Extensions = [(x509.BasicConstraints(ca=False, path_length=None), True), (usage, True)]
    return _sign(common_name(name), key, [*basics, *extensions], issuer.subject, issuer_key, begins, until)


def client(identity: str) -> Extensions:
    """Client authentication, and the identity as URI: verifiers that ask for a subject alternative name need one."""
    return [
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"urn:aimass:{identity}")]), False),
    ]


def server(hosts: Sequence[str]) -> Extensions:
    """Server authentication for these DNS names and IP addresses."""
    if not hosts:
        raise ConfigError("a server certificate needs at least one host name or IP address")
    return [
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectAlternativeName([_general_name(host) for host in dict.fromkeys(hosts)]), False),
    ]


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if len(host) > 253 or not _DNS_NAME.fullmatch(host):
        raise ConfigError(f"{host!r} is neither a host name nor an IP address")
    return x509.DNSName(host)


def _authority_extensions(path_length: int) -> Extensions:
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return [(x509.BasicConstraints(ca=True, path_length=path_length), True), (usage, True)]


def _sign(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    extensions: Extensions,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    begins: datetime,
    until: datetime,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        # 19 bytes of randomness: as much as RFC 5280 has room for (20 bytes, positive).
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer_key, hashes.SHA256())
