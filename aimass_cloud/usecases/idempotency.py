"""Doing a request once, however often it is sent: the answer is kept by the caller's Idempotency-Key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from aimass.errors import InputError
from aimass_cloud.store.base import Store
from aimass_cloud.store.records import StoredAnswer
from aimass_cloud.usecases.base import Clock, now_ms

MAX_KEY_CHARS = 200
KEEP_S = 24 * 3600


def fingerprint(parts: Iterable[str | bytes]) -> str:
    """What tells one request from another: a digest of its parts, each with its length."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


class Idempotency:
    """Runs an action at most once for each key.

    Args:
        store: keeps the answers.
        clock: unix seconds.
    """

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def once(self, scope: str, key: str, request: str, action: Callable[[], StoredAnswer]) -> tuple[StoredAnswer, bool]:
        """The action's answer and False, or the answer of the first time and True. A failed action is forgotten.

        Args:
            scope: whose keys these are (api-key id).
            key: from the caller; empty for "do it each time".
            request: fingerprint of the whole request.
            action: the work.

        Raises:
            ConflictError: the key was used for another request, or the first one is still running.
            InputError: the key is too long.
        """
        if not key:
            return action(), False
        if len(key) > MAX_KEY_CHARS:
            raise InputError(f"an Idempotency-Key has at most {MAX_KEY_CHARS} characters", hint="use a UUID")
        with self._store.write() as tx:
            kept = tx.idempotency.begin(scope, key, request_sha256=request, now_ms=now_ms(self._clock))
        if kept is not None:
            return kept, True
        try:
            answer = action()
        except BaseException:
            with self._store.write() as tx:
                tx.idempotency.abandon(scope, key)
            raise
        with self._store.write() as tx:
            tx.idempotency.finish(scope, key, answer)
        return answer, False

    def prune(self) -> int:
        """Forget answers older than a day; returns how many."""
        with self._store.write() as tx:
            return tx.idempotency.prune(begun_before_ms=now_ms(self._clock) - KEEP_S * 1000)
