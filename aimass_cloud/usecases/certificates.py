"""The cloud's own certificates and the revocation list: made when missing, renewed in time, put to use at once.

    tls/https.pem       what the API shows         key, leaf and intermediate in one file
    tls/control.pem     svc:control at the broker  the same
    broker/server.pem   what the broker shows      the same
    broker/ca.pem       whom the broker trusts     intermediate and root
    broker/crl.pem      the revocation list

Each is renewed at a random point of 60 to 75 % of its life, the list at half of its. Whoever uses a file is told by a
hook after it has changed; until then the older one is still good. A renewal that fails is tried again every half
minute, which leaves many tries before the end.
"""

from __future__ import annotations

import logging
import random as _random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from aimass.device.files import make_folder, write_atomic
from aimass.errors import AimassError
from aimass_cloud.pki.authority import Authority, KeyedCertificate
from aimass_cloud.pki.crl import RevokedSerial, build_crl, crl_refresh_at_ms
from aimass_cloud.pki.schedule import renew_at_ms
from aimass_cloud.store.base import Store
from aimass_cloud.usecases.base import Clock, now_ms
from aimass_cloud.usecases.enrolment import certificate_record

log = logging.getLogger(__name__)

CONTROL_IDENTITY = "svc:control"
RETRY_MS = 30_000
SERVICE_KIND = "service"
CRL = "crl"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLives:
    """Lifetimes in seconds."""

    service_s: float
    broker_s: float
    https_s: float
    crl_s: float


@dataclass(frozen=True, slots=True)
class _Service:
    """One certificate file: how a new one is made, and the names it must carry (none for clients)."""

    path: Path
    make: Callable[[], KeyedCertificate]
    hosts: tuple[str, ...]


class ServiceCertificates:
    """Keeps the files above good. Its methods may be called from any thread.

    Args:
        authority: signs.
        store: knows what is revoked.
        state_dir: where the files are.
        hosts: names and addresses under which the API is reached.
        broker_hosts: and the broker.
        lives: lifetimes.
        clock: unix seconds.
        random: 0 to 1, chooses the point of renewal.
    """

    def __init__(
        self,
        authority: Authority,
        store: Store,
        state_dir: Path,
        *,
        hosts: Sequence[str],
        broker_hosts: Sequence[str],
        lives: ServiceLives,
        clock: Clock,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._authority = authority
        self._store = store
        self._lives = lives
        self._clock = clock
        self._random = random
        self._due: dict[str, int] = {}
        self._hooks: dict[str, Callable[[], None]] = {}
        self._lock = threading.RLock()
        self.https_file = state_dir / "tls" / "https.pem"
        self.control_file = state_dir / "tls" / "control.pem"
        self.server_file = state_dir / "broker" / "server.pem"
        self.ca_file = state_dir / "broker" / "ca.pem"
        self.crl_file = state_dir / "broker" / "crl.pem"
        names, broker_names = tuple(hosts), tuple(dict.fromkeys((*broker_hosts, *hosts)))
        self._services = {
            "https": _Service(self.https_file, self._server("https", names, lives.https_s), names),
            "broker": _Service(self.server_file, self._server("broker", broker_names, lives.broker_s), broker_names),
            "control": _Service(self.control_file, self._control, ()),
        }

    def use(self, name: str, hook: Callable[[], None]) -> None:
        """Have ``hook`` called after ``https``, ``broker``, ``control`` or ``crl`` has changed."""
        self._hooks[name] = hook

    def ensure(self) -> None:
        """Make what is missing, due, of another authority or for other host names. Before anything is started."""
        for folder in (self.https_file.parent, self.server_file.parent):
            make_folder(folder)
        write_atomic(self.ca_file, self._authority.chain_pem, mode=0o644)
        with self._lock:
            for name, service in self._services.items():
                due = self._due_of(service)
                if due is None or due <= now_ms(self._clock):
                    self._make(name, service)
                else:
                    self._due[name] = due
            self.write_crl()

    def step(self) -> float:
        """Renew what is due; returns the seconds until something is due again."""
        with self._lock:
            for name in [name for name, due in self._due.items() if due <= now_ms(self._clock)]:
                try:
                    self._renew(name)
                except (AimassError, OSError) as exc:
                    log.error("cannot renew %s, will try again: %s", name, exc)  # noqa: TRY400  the message is enough
                    self._due[name] = now_ms(self._clock) + RETRY_MS
            return max(0.0, (min(self._due.values()) - now_ms(self._clock)) / 1000)

    def write_crl(self) -> None:
        """Write the list of what is revoked now, without telling the broker (it is about to start)."""
        with self._lock:
            with self._store.read() as tx:
                records = tx.certificates.revoked(now_ms=now_ms(self._clock))
            revoked = [RevokedSerial(item.serial, item.revoked_at_ms) for item in records if item.revoked_at_ms]
            pem = build_crl(self._authority, revoked, lifetime_s=self._lives.crl_s)
            write_atomic(self.crl_file, pem, mode=0o644)
            self._due[CRL] = crl_refresh_at_ms(pem)

    def publish_crl(self) -> None:
        """Write the list and have the broker read it: from here on nobody revoked can connect."""
        self.write_crl()
        self._tell(CRL)

    def due(self) -> dict[str, int]:
        """When each is renewed, unix milliseconds."""
        return dict(self._due)

    def _renew(self, name: str) -> None:
        if name == CRL:
            self.publish_crl()
            return
        self._make(name, self._services[name])
        log.info("renewed the certificate of %s", name)
        self._tell(name)

    def _tell(self, name: str) -> None:
        hook = self._hooks.get(name)
        if hook is not None:
            hook()

    def _make(self, name: str, service: _Service) -> None:
        made = service.make()
        write_atomic(service.path, made.bundle_pem, mode=0o600)
        certificate = made.certificate
        self._due[name] = renew_at_ms(certificate.issued_at_ms, certificate.not_after_ms, self._random)

    def _server(self, name: str, hosts: tuple[str, ...], lifetime_s: float) -> Callable[[], KeyedCertificate]:
        return lambda: self._authority.issue_server(f"aimass {name}", hosts, lifetime_s=lifetime_s)

    def _control(self) -> KeyedCertificate:
        made = self._authority.issue_client_with_key(CONTROL_IDENTITY, lifetime_s=self._lives.service_s)
        with self._store.write() as tx:
            tx.certificates.add(certificate_record(made.certificate, SERVICE_KIND))
        return made

    def _due_of(self, service: _Service) -> int | None:
        """When a certificate on disk is due; None when it is of no use."""
        try:
            leaf = x509.load_pem_x509_certificates(service.path.read_bytes())[0]
            leaf.verify_directly_issued_by(self._authority.intermediate)
        except (OSError, ValueError, TypeError, InvalidSignature):
            return None
        if service.hosts and _names_in(leaf) != set(service.hosts):
            return None
        begins, ends = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
        return renew_at_ms(round(begins * 1000), round(ends * 1000), self._random)


def _names_in(leaf: x509.Certificate) -> set[str]:
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {
        *names.get_values_for_type(x509.DNSName),
        *(str(value) for value in names.get_values_for_type(x509.IPAddress)),
    }
