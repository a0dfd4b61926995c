"""Certificates that were issued, and enrol-tokens that allow one to be issued."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sqlalchemy import CursorResult, delete, select
from sqlalchemy.orm import Session

from aimass.errors import ConflictError, NotFoundError
from aimass_cloud.store.records import CertificateRecord, TokenRecord
from aimass_cloud.store.tables import CertificateRow, TokenRow

CRL_MARGIN_MS = 86_400_000
"""A revoked certificate stays on the list that long after its end: clocks of the broker's machine may be slow."""


class SqlCertificates:
    """Fulfils :class:`~aimass_cloud.store.base.CertificateStore`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, record: CertificateRecord) -> None:
        """Keeps a certificate."""
        if self._session.get(CertificateRow, record.serial) is not None:
            raise ConflictError(f"certificate {record.serial} is known already")
        self._session.add(
            CertificateRow(
                serial=record.serial,
                identity=record.identity,
                kind=record.kind,
                key_sha256=record.key_sha256,
                pem=record.pem,
                issued_at_ms=record.issued_at_ms,
                not_after_ms=record.not_after_ms,
                revoked_at_ms=record.revoked_at_ms,
                reason=record.reason,
            )
        )
        self._session.flush()

    def get(self, serial: str) -> CertificateRecord:
        """The record; NotFoundError when there is none."""
        row = self._session.get(CertificateRow, serial)
        if row is None:
            raise NotFoundError(f"no certificate {serial}")
        return _certificate(row)

    def of(self, identity: str) -> Sequence[CertificateRecord]:
        """All of this identity, newest first."""
        return [_certificate(row) for row in self._rows(identity)]

    def usable(self, identity: str, *, now_ms: int, grace_ms: int = 0) -> Sequence[CertificateRecord]:
        """Those of this identity that are not revoked and ended no longer than ``grace_ms`` ago, newest first."""
        return [
            _certificate(row)
            for row in self._rows(identity)
            if row.revoked_at_ms is None and row.not_after_ms + grace_ms >= now_ms
        ]

    def revoke(self, identity: str, *, now_ms: int, reason: str, keep_serial: str = "") -> Sequence[str]:
        """Revokes all of this identity but ``keep_serial``."""
        rows = [row for row in self._rows(identity) if row.revoked_at_ms is None and row.serial != keep_serial]
        for row in rows:
            row.revoked_at_ms, row.reason = now_ms, reason
        self._session.flush()
        return [row.serial for row in rows]

    def revoked(self, *, now_ms: int) -> Sequence[CertificateRecord]:
        """What belongs on the revocation list."""
        query = select(CertificateRow).where(
            CertificateRow.revoked_at_ms.is_not(None), CertificateRow.not_after_ms + CRL_MARGIN_MS >= now_ms
        )
        return [_certificate(row) for row in self._session.scalars(query.order_by(CertificateRow.serial))]

    def prune(self, *, expired_before_ms: int) -> int:
        """Forgets certificates that ended before that time."""
        return deleted(
            self._session.execute(delete(CertificateRow).where(CertificateRow.not_after_ms < expired_before_ms))
        )

    def _rows(self, identity: str) -> Sequence[CertificateRow]:
        query = select(CertificateRow).where(CertificateRow.identity == identity)
        return self._session.scalars(
            query.order_by(CertificateRow.issued_at_ms.desc(), CertificateRow.serial.desc())
        ).all()


class SqlTokens:
    """Fulfils :class:`~aimass_cloud.store.base.TokenStore`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def create(
        self, secret: str, *, identity: str, role: str, pool: str, now_ms: int, expires_at_ms: int
    ) -> TokenRecord:
        """Keeps a new token for exactly this identity."""
        row = TokenRow(
            secret_sha256=digest(secret),
            identity=identity,
            role=role,
            pool=pool,
            created_at_ms=now_ms,
            expires_at_ms=expires_at_ms,
            key_sha256="",
            serial="",
            chain_pem="",
        )
        self._session.add(row)
        self._session.flush()
        return _token(row)

    def find(self, secret: str) -> TokenRecord | None:
        """The token with this secret, used or not, expired or not."""
        row = self._session.get(TokenRow, digest(secret))
        return None if row is None else _token(row)

    def use(self, secret: str, *, key_sha256: str, serial: str, chain_pem: str, now_ms: int) -> None:
        """Marks it used by that key and keeps the answer."""
        row = self._session.get(TokenRow, digest(secret))
        if row is None:
            raise NotFoundError("no such enrol-token")
        if row.used_at_ms is not None:
            raise ConflictError("the enrol-token was used in between", retryable=True)
        row.used_at_ms, row.key_sha256, row.serial, row.chain_pem = now_ms, key_sha256, serial, chain_pem
        self._session.flush()

    def prune(self, *, expired_before_ms: int) -> int:
        """Forgets tokens that expired before that time."""
        return deleted(self._session.execute(delete(TokenRow).where(TokenRow.expires_at_ms < expired_before_ms)))


def digest(secret: str) -> str:
    """What is kept of a secret. Secrets are 256 random bits: a slow hash would add nothing."""
    return hashlib.sha256(secret.encode()).hexdigest()


def deleted(result: object) -> int:
    """How many rows a DELETE took."""
    return result.rowcount if isinstance(result, CursorResult) else 0


def _certificate(row: CertificateRow) -> CertificateRecord:
    return CertificateRecord(
        serial=row.serial,
        identity=row.identity,
        kind=row.kind,
        key_sha256=row.key_sha256,
        pem=row.pem,
        issued_at_ms=row.issued_at_ms,
        not_after_ms=row.not_after_ms,
        revoked_at_ms=row.revoked_at_ms,
        reason=row.reason,
    )


def _token(row: TokenRow) -> TokenRecord:
    return TokenRecord(
        identity=row.identity,
        role=row.role,
        pool=row.pool,
        created_at_ms=row.created_at_ms,
        expires_at_ms=row.expires_at_ms,
        used_at_ms=row.used_at_ms,
        key_sha256=row.key_sha256,
        serial=row.serial,
        chain_pem=row.chain_pem,
    )
