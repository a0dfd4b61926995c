"""Api-keys, and answers already given to a request."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from aimass.errors import AuthError, ConflictError, NotFoundError
from aimass_cloud.store.identities import deleted, digest
from aimass_cloud.store.records import ApiKeyRecord, StoredAnswer
from aimass_cloud.store.tables import ApiKeyRow, IdempotencyRow

KEY_PREFIX = "aimass"
ABANDONED_AFTER_MS = 10 * 60 * 1000
"""A request that began so long ago and has no answer died with its process; its key may be used again."""


class SqlApiKeys:
    """Fulfils :class:`~aimass_cloud.store.base.ApiKeyStore`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def create(self, name: str, *, now_ms: int) -> tuple[ApiKeyRecord, str]:
        """A new key: the record, and the key itself."""
        key_id = secrets.token_hex(6)
        key = f"{KEY_PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
        row = ApiKeyRow(id=key_id, name=name, key_sha256=digest(key), created_at_ms=now_ms)
        self._session.add(row)
        self._session.flush()
        return _record(row), key

    def verify(self, key: str) -> ApiKeyRecord:
        """Whose key this is."""
        parts = key.split("_", 2)
        row = self._session.get(ApiKeyRow, parts[1]) if len(parts) == 3 else None
        known = row.key_sha256 if row is not None else ""
        if not hmac.compare_digest(known, digest(key)) or row is None:
            raise AuthError("the api-key is not known")
        if row.revoked_at_ms is not None:
            raise AuthError("the api-key was revoked")
        return _record(row)

    def list(self) -> Sequence[ApiKeyRecord]:
        """All of them, in order of creation."""
        query = select(ApiKeyRow).order_by(ApiKeyRow.created_at_ms, ApiKeyRow.id)
        return [_record(row) for row in self._session.scalars(query)]

    def revoke(self, key_id: str, *, now_ms: int) -> None:
        """Ends a key."""
        row = self._session.get(ApiKeyRow, key_id)
        if row is None:
            raise NotFoundError(f"no api-key {key_id!r}")
        row.revoked_at_ms = row.revoked_at_ms or now_ms
        self._session.flush()


class SqlIdempotency:
    """Fulfils :class:`~aimass_cloud.store.base.IdempotencyStore`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def begin(self, scope: str, key: str, *, request_sha256: str, now_ms: int) -> StoredAnswer | None:
        """None: go on. Otherwise the answer of the first time."""
        row = self._session.get(IdempotencyRow, (scope, key))
        if row is None or (row.status is None and now_ms - row.begun_at_ms > ABANDONED_AFTER_MS):
            self._session.merge(
                IdempotencyRow(
                    scope=scope,
                    key=key,
                    request_sha256=request_sha256,
                    begun_at_ms=now_ms,
                    status=None,
                    body=None,
                    content_type="",
                )
            )
            self._session.flush()
            return None
        if row.request_sha256 != request_sha256:
            raise ConflictError("this Idempotency-Key was used for another request", hint="use a new key")
        if row.status is None:
            raise ConflictError("the first request with this Idempotency-Key is still running", retryable=True)
        return StoredAnswer(status=row.status, body=row.body or b"", content_type=row.content_type)

    def finish(self, scope: str, key: str, answer: StoredAnswer) -> None:
        """Keeps the answer for the next time."""
        row = self._session.get(IdempotencyRow, (scope, key))
        if row is None:
            raise NotFoundError("this Idempotency-Key was not begun")
        row.status, row.body, row.content_type = answer.status, answer.body, answer.content_type
        self._session.flush()

    def abandon(self, scope: str, key: str) -> None:
        """The request failed; the key may be used again."""
        self._session.execute(delete(IdempotencyRow).where(IdempotencyRow.scope == scope, IdempotencyRow.key == key))

    def prune(self, *, begun_before_ms: int) -> int:
        """Forgets what began before that time."""
        return deleted(
            self._session.execute(delete(IdempotencyRow).where(IdempotencyRow.begun_at_ms < begun_before_ms))
        )


def _record(row: ApiKeyRow) -> ApiKeyRecord:
    return ApiKeyRecord(id=row.id, name=row.name, created_at_ms=row.created_at_ms, revoked_at_ms=row.revoked_at_ms)
