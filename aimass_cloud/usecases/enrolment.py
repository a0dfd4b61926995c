"""Letting identities in: enrol-tokens, first certificates, renewals.

A token names exactly one identity and works once - for one *key*: the same token with the same key gets the same
answer again, because a reply can get lost on its way and must not burn the token. The identity exists at the broker
before the reply is sent, so that whoever holds a certificate can connect with it.

Enrolling an identity anew (a new token) replaces it: its older certificates are revoked.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aimass.device.enrol import EnrolToken
from aimass.errors import ConflictError, EnrolError, InputError
from aimass.wire.ids import check_identity, check_name, is_service
from aimass_cloud.broker.dynsec import Role
from aimass_cloud.pki.authority import Authority, IssuedCertificate
from aimass_cloud.pki.csr import key_sha256, read_csr
from aimass_cloud.store.base import Store, Transaction
from aimass_cloud.store.records import CertificateRecord, TokenRecord
from aimass_cloud.usecases.base import Accounts, Clock, grant_of, now_ms

log = logging.getLogger(__name__)

SECRET_BYTES = 32
MAX_TTL_S = 30 * 86_400
CLIENT_KIND = "client"


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What every newly enrolled party is told about this cloud."""

    url: str
    broker_host: str
    broker_port: int
    publisher_keys: tuple[str, ...]
    control_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolAnswer:
    """A certificate with all its holder needs to know."""

    identity: str
    certificate_pem: str
    ca_pem: str
    invitation: Invitation


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateLives:
    """How long a certificate is good for, by who gets it."""

    device_s: float
    service_s: float


class Enrolment:
    """Tokens in, certificates out. ``count`` is the number of enrolments since start.

    Args:
        store: kept state.
        authority: signs.
        accounts: the broker's identities.
        invitation: what devices are told.
        local: what the cloud's own processes on this machine are told: they reach it without leaving it.
        local_names: identities of those processes.
        lives: certificate lifetimes.
        on_enrolled: called with the identity after it can connect (its desired document is made then).
        on_revoked: called after older certificates were revoked (the revocation list is written then).
        clock: unix seconds.
    """

    def __init__(
        self,
        store: Store,
        authority: Authority,
        accounts: Accounts,
        *,
        invitation: Invitation,
        local: Invitation,
        local_names: frozenset[str],
        lives: CertificateLives,
        on_enrolled: Callable[[str], object],
        on_revoked: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._store = store
        self._authority = authority
        self._accounts = accounts
        self._invitation = invitation
        self._local = local
        self._local_names = local_names
        self.count = 0
        self._lives = lives
        self._on_enrolled = on_enrolled
        self._on_revoked = on_revoked
        self._clock = clock
        # One after the other: each new identity makes the broker rewrite its security file on its only thread.
        self._turn = threading.Lock()

    def create_token(self, identity: str, *, ttl_s: float, role: Role = Role.DEVICE, pool: str = "") -> str:
        """A token for exactly this identity, as one line of text.

        Raises:
            InputError: not an identity, or a lifetime out of range.
        """
        secret = new_token(self._store, identity, ttl_s=ttl_s, role=role, pool=pool, clock=self._clock)
        url, root = self._told(identity).url, self._authority.root_sha256
        return EnrolToken(url=url, id=identity, secret=secret, ca=root).encode()

    def enrol(self, secret: str, identity: str, csr_pem: bytes) -> EnrolAnswer:
        """The first certificate of an identity.

        Raises:
            EnrolError: the token is unknown, expired, for another identity or used by another key, or the request
                does not hold.
            TransportError: the broker is not there; the same call may be repeated.
        """
        key = key_sha256(read_csr(csr_pem, identity))
        with self._turn:
            chain_pem = self._admit(secret, identity, csr_pem, key)
            with self._store.read() as tx:
                device = tx.devices.get(identity)
            self._accounts.put(grant_of(device))
            self.count += 1
        self._on_enrolled(identity)
        return self._answer(identity, chain_pem)

    def renew(self, identity: str, csr_pem: bytes) -> EnrolAnswer:
        """A further certificate for an identity that has shown who it is; the one it has stays good until its end.

        Raises:
            EnrolError: the request does not hold.
            NotFoundError: the identity was removed.
        """
        with self._store.read() as tx:
            role = tx.devices.get(identity).role
        issued = self._issue(identity, csr_pem, role)
        with self._store.write() as tx:
            tx.devices.get(identity)
            tx.certificates.add(certificate_record(issued))
        log.info("%s renewed its certificate", identity)
        return self._answer(identity, issued.chain_pem.decode())

    def _admit(self, secret: str, identity: str, csr_pem: bytes, key: str) -> str:
        """The chain for this token and key: the one given before, or a new one."""
        with self._store.read() as tx:
            token = self._valid_token(tx, secret, identity, key)
        if token.used_at_ms is not None:
            return token.chain_pem
        issued = self._issue(identity, csr_pem, token.role)
        with self._store.write() as tx:
            self._valid_token(tx, secret, identity, key)
            revoked = self._add(tx, token, issued)
            self._spend(tx, secret, issued)
        if revoked:
            log.info("%s enrolled anew; %d older certificates are revoked", identity, len(revoked))
            self._on_revoked()
        return issued.chain_pem.decode()

    def _valid_token(self, tx: Transaction, secret: str, identity: str, key: str) -> TokenRecord:
        token = tx.tokens.find(secret)
        if token is None:
            raise EnrolError("the enrol-token is unknown")
        if token.identity != identity:
            raise EnrolError("the enrol-token is for another id")
        now = now_ms(self._clock)
        if token.used_at_ms is not None:
            if token.key_sha256 != key:
                raise EnrolError("the enrol-token was used by another key")
            if token.serial not in {record.serial for record in tx.certificates.usable(identity, now_ms=now)}:
                raise EnrolError("the enrol-token was used, and its certificate has ended or is revoked")
        elif token.expires_at_ms <= now:
            raise EnrolError("the enrol-token has expired")
        return token

    def _add(self, tx: Transaction, token: TokenRecord, issued: IssuedCertificate) -> Sequence[str]:
        now, identity = now_ms(self._clock), token.identity
        tx.devices.put(identity, role=token.role, pool=token.pool, now_ms=now)
        tx.certificates.add(certificate_record(issued))
        return tx.certificates.revoke(identity, now_ms=now, reason="enrolled anew", keep_serial=issued.serial)

    def _spend(self, tx: Transaction, secret: str, issued: IssuedCertificate) -> None:
        chain = issued.chain_pem.decode()
        try:
            tx.tokens.use(
                secret,
                key_sha256=issued.key_sha256,
                serial=issued.serial,
                chain_pem=chain,
                now_ms=now_ms(self._clock),
            )
        except ConflictError as exc:
            raise EnrolError("the enrol-token was used meanwhile") from exc

    def _issue(self, identity: str, csr_pem: bytes, role: str) -> IssuedCertificate:
        lifetime_s = self._lives.device_s if role == Role.DEVICE else self._lives.service_s
        return self._authority.issue_client(identity, csr_pem, lifetime_s=lifetime_s)

    def _answer(self, identity: str, chain_pem: str) -> EnrolAnswer:
        return EnrolAnswer(
            identity=identity,
            certificate_pem=chain_pem,
            ca_pem=self._authority.root_pem.decode(),
            invitation=self._told(identity),
        )

    def _told(self, identity: str) -> Invitation:
        return self._local if identity in self._local_names else self._invitation


def new_token(
    store: Store, identity: str, *, ttl_s: float, clock: Clock, role: Role = Role.DEVICE, pool: str = ""
) -> str:
    """The secret of a new enrol-token for exactly this identity; the store keeps its digest.

    Raises:
        InputError: not an identity, or a lifetime out of range.
    """
    check_identity(identity)
    if is_service(identity) != (role is not Role.DEVICE):
        raise InputError(f"{identity!r} cannot be a {role}", hint="svc:... is for the cloud's own processes")
    if pool:
        check_name(pool, "pool")
    if not 0 < ttl_s <= MAX_TTL_S:
        raise InputError(f"a token lives at most {MAX_TTL_S} s, and longer than 0", hint="give another ttl")
    secret, now = secrets.token_urlsafe(SECRET_BYTES), now_ms(clock)
    with store.write() as tx:
        tx.tokens.create(
            secret, identity=identity, role=role, pool=pool, now_ms=now, expires_at_ms=now + round(ttl_s * 1000)
        )
    return secret


def certificate_record(issued: IssuedCertificate, kind: str = CLIENT_KIND) -> CertificateRecord:
    """A certificate as the store keeps it."""
    return CertificateRecord(
        serial=issued.serial,
        identity=issued.identity,
        kind=kind,
        key_sha256=issued.key_sha256,
        pem=issued.pem.decode(),
        issued_at_ms=issued.issued_at_ms,
        not_after_ms=issued.not_after_ms,
    )
