"""The revocation list of the intermediate.

The broker refuses *everybody* once the list is past its next update, and also while it is dated in the future. So it is
back-dated, lives much longer than the time between two refreshes, is refreshed before the broker starts and on a timer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from aimass.errors import ConfigError
from aimass_cloud.pki.authority import Authority, backdate_s


@dataclass(frozen=True, slots=True)
class RevokedSerial:
    """A revoked certificate: its serial in hex and when it was revoked."""

    serial: str
    revoked_at_ms: int


def build_crl(authority: Authority, revoked: Iterable[RevokedSerial], *, lifetime_s: float) -> bytes:
    """A signed list as PEM, valid from a little before now for ``lifetime_s`` from now."""
    now = authority.now()
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.intermediate.subject)
        .last_update(now - timedelta(seconds=backdate_s(lifetime_s)))
        .next_update(now + timedelta(seconds=lifetime_s))
        .add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.intermediate_key.public_key()), critical=False
        )
    )
    for entry in revoked:
        at = datetime.fromtimestamp(entry.revoked_at_ms // 1000, UTC)
        item = x509.RevokedCertificateBuilder().serial_number(int(entry.serial, 16)).revocation_date(at)
        builder = builder.add_revoked_certificate(item.build())
    return builder.sign(authority.intermediate_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def crl_times(pem: bytes) -> tuple[int, int]:
    """(last update, next update) of a list, unix milliseconds; ConfigError when it cannot be read."""
    try:
        crl = x509.load_pem_x509_crl(pem)
    except ValueError as exc:
        raise ConfigError("the revocation list cannot be read") from exc
    last, until = crl.last_update_utc, crl.next_update_utc
    if until is None:
        raise ConfigError("the revocation list has no next update")
    return round(last.timestamp() * 1000), round(until.timestamp() * 1000)


def crl_refresh_at_ms(pem: bytes) -> int:
    """When this list is due to be made again: at half of its life."""
    last, until = crl_times(pem)
    return (last + until) // 2
