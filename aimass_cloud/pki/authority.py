"""The certificate authority: an offline root, an online intermediate, and what the intermediate signs.

    root (20 years, key offline) -> intermediate (5 years) -> client certificates: devices, apps, services
                                                           -> server certificates: broker, https

All keys are P-256. A client certificate carries the identity as CN and as URI ``urn:aimass:{identity}`` and is good for
client authentication only; a server certificate is good for server authentication only, so neither passes for the
other. Serials have 19 random bytes. Certificates begin a little before now, because clocks of devices are not exact.

Folder: ``root.pem``, ``intermediate.pem``, ``intermediate.key`` and ``root/root.key``. The last is needed for nothing
but a new intermediate: move its folder to a place that is not online.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aimass.device.files import make_folder, write_atomic
from aimass.errors import AuthError, ConfigError, ConflictError, EnrolError, ExpiredError
from aimass_cloud.pki import profile
from aimass_cloud.pki.csr import key_sha256, make_csr, new_key_pem, private_pem, read_csr

ROOT_LIFETIME_S = 20 * 365.25 * 86400
INTERMEDIATE_LIFETIME_S = 5 * 365.25 * 86400
MAX_BACKDATE_S = 300.0

_Parsed = TypeVar("_Parsed")

ROOT_NOTE = """\
root.key signs nothing in daily work: only a new intermediate, every few years.
Move this folder to a place that is not online (two USB sticks in two drawers), then delete it here.
Whoever holds root.key can make certificates for every device of this fleet.
"""


def backdate_s(lifetime_s: float) -> float:
    """How long before now something begins: five minutes, less for what lives only minutes.

    A part of the life, not all of it: otherwise two minutes of life after five of back-dating would always look as if
    renewal were due already.
    """
    return min(MAX_BACKDATE_S, lifetime_s / 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """A certificate of ours: ``pem`` is the leaf, ``chain_pem`` leaf and intermediate, ``serial`` lower-case hex."""

    identity: str
    serial: str
    key_sha256: str
    pem: bytes
    chain_pem: bytes
    issued_at_ms: int
    not_before_ms: int
    not_after_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedCertificate:
    """A certificate whose key was made here, for the cloud's own servers and services."""

    certificate: IssuedCertificate
    key_pem: bytes

    @property
    def bundle_pem(self) -> bytes:
        """Key, leaf and intermediate in one file, so that one rename swaps all of it."""
        return self.key_pem + self.certificate.chain_pem


class Authority:
    """Signs with the intermediate; made by :meth:`create` once and by :meth:`open` later.

    Args:
        root: the root certificate.
        intermediate: the certificate that signs.
        intermediate_key: its key.
        clock: unix seconds.
    """

    def __init__(
        self,
        root: x509.Certificate,
        intermediate: x509.Certificate,
        intermediate_key: ec.EllipticCurvePrivateKey,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.root = root
        self.intermediate = intermediate
        self.intermediate_key = intermediate_key
        self._clock = clock

    @classmethod
    def create(cls, folder: Path, *, clock: Callable[[], float] = time.time, name: str = "AI Mass") -> Authority:
        """Makes root and intermediate in ``folder``.

        Raises:
            ConflictError: there is an authority already; a second one would lock out every enrolled device.
        """
        if (folder / "root.pem").exists():
            raise ConflictError(f"there is a certificate authority in {folder} already")
        make_folder(folder / "root")
        now = datetime.fromtimestamp(int(clock()), UTC)
        root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        root = profile.root(f"{name} root", root_key, now, ROOT_LIFETIME_S)
        intermediate = profile.intermediate(
            f"{name} intermediate", key.public_key(), root, root_key, now, INTERMEDIATE_LIFETIME_S
        )
        write_atomic(folder / "root" / "README.txt", ROOT_NOTE.encode(), mode=0o600)
        write_atomic(folder / "root" / "root.key", private_pem(root_key), mode=0o600)
        write_atomic(folder / "intermediate.key", private_pem(key), mode=0o600)
        write_atomic(folder / "intermediate.pem", _pem(intermediate), mode=0o644)
        # Last: its presence says that the authority is complete.
        write_atomic(folder / "root.pem", _pem(root), mode=0o644)
        return cls(root, intermediate, key, clock)

    @classmethod
    def open(cls, folder: Path, *, clock: Callable[[], float] = time.time) -> Authority:
        """Reads what :meth:`create` made; the root key may be gone.

        Raises:
            ConfigError: a file is missing or damaged; names it.
        """
        root = _read(folder / "root.pem", x509.load_pem_x509_certificate)
        intermediate = _read(folder / "intermediate.pem", x509.load_pem_x509_certificate)
        key = _read(folder / "intermediate.key", lambda pem: serialization.load_pem_private_key(pem, password=None))
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != intermediate.public_key():
            raise ConfigError(f"{folder / 'intermediate.key'} does not belong to intermediate.pem")
        return cls(root, intermediate, key, clock)

    @property
    def root_pem(self) -> bytes:
        """The root certificate: what everybody trusts."""
        return _pem(self.root)

    @property
    def chain_pem(self) -> bytes:
        """Intermediate and root."""
        return _pem(self.intermediate) + _pem(self.root)

    @property
    def root_sha256(self) -> str:
        """Digest of the root certificate (DER), lower-case hex; enrol-tokens carry it."""
        return hashlib.sha256(self.root.public_bytes(serialization.Encoding.DER)).hexdigest()

    def now(self) -> datetime:
        """The authority's clock, in whole seconds: certificates have no finer time."""
        return datetime.fromtimestamp(int(self._clock()), UTC)

    def issue_client(self, identity: str, csr_pem: bytes, *, lifetime_s: float) -> IssuedCertificate:
        """Signs a request for exactly this identity, good for client authentication.

        Raises:
            EnrolError: the request does not hold (see :func:`aimass_cloud.pki.csr.read_csr`), or the name is too long.
        """
        return self._issue(identity, read_csr(csr_pem, identity), profile.client(identity), lifetime_s)

    def issue_client_with_key(self, identity: str, *, lifetime_s: float) -> KeyedCertificate:
        """A client certificate with a key made here, for a service that runs beside the authority."""
        key_pem = new_key_pem()
        certificate = self.issue_client(identity, make_csr(key_pem, identity), lifetime_s=lifetime_s)
        return KeyedCertificate(certificate=certificate, key_pem=key_pem)

    def issue_server(self, common_name: str, hosts: Sequence[str], *, lifetime_s: float) -> KeyedCertificate:
        """A server certificate for these names and IP addresses, with a key made here.

        Raises:
            ConfigError: no host, or one that is neither a DNS name nor an IP address.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._issue(common_name, key.public_key(), profile.server(hosts), lifetime_s)
        return KeyedCertificate(certificate=certificate, key_pem=private_pem(key))

    def verify_client(self, certificate_pem: bytes, *, grace_s: float = 0) -> IssuedCertificate:
        """Reads a client certificate that this authority issued; revocation is the store's knowledge, not checked here.

        Raises:
            AuthError: not a certificate, not issued by us, or not for client authentication.
            ExpiredError: ended longer than ``grace_s`` ago, or not begun.
        """
        try:
            leaf = x509.load_pem_x509_certificate(certificate_pem)
            leaf.verify_directly_issued_by(self.intermediate)
            usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            issued = self._describe(leaf)
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound, EnrolError) as exc:
            raise AuthError("the certificate was not issued by this cloud") from exc
        if list(usages) != [ExtendedKeyUsageOID.CLIENT_AUTH]:
            raise AuthError("the certificate is not for client authentication")
        now_ms = self._clock() * 1000
        if not issued.not_before_ms <= now_ms <= issued.not_after_ms + grace_s * 1000:
            raise ExpiredError(f"the certificate of {issued.identity!r} is not valid now")
        return issued

    def _issue(
        self, name: str, key: ec.EllipticCurvePublicKey, extensions: profile.Extensions, lifetime_s: float
    ) -> IssuedCertificate:
        now = self.now()
        if now >= self.intermediate.not_valid_after_utc:
            raise ConfigError(
                "the intermediate certificate has expired", hint="make a new one with the offline root key"
            )
        until = min(now + timedelta(seconds=lifetime_s), self.intermediate.not_valid_after_utc)
        begins = now - timedelta(seconds=backdate_s(lifetime_s))
        leaf = profile.leaf(name, key, extensions, self.intermediate, self.intermediate_key, begins, until)
        return self._describe(leaf)

    def _describe(self, leaf: x509.Certificate) -> IssuedCertificate:
        key = leaf.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise AuthError("the certificate's key is not on P-256")
        begins, until = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
        pem = _pem(leaf)
        return IssuedCertificate(
            identity=str(leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value),
            serial=f"{leaf.serial_number:x}",
            key_sha256=key_sha256(key),
            pem=pem,
            chain_pem=pem + _pem(self.intermediate),
            issued_at_ms=round(self._clock() * 1000),
            not_before_ms=round(begins * 1000),
            not_after_ms=round(until * 1000),
        )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _read(path: Path, parse: Callable[[bytes], _Parsed]) -> _Parsed:
    try:
        return parse(path.read_bytes())
    except (OSError, ValueError, TypeError) as exc:
        raise ConfigError(f"cannot read {path}: {exc}", hint="run 'aimass-cloud init', or restore a backup") from exc
