"""The store as the use cases see it: one protocol per concept, all of them inside a transaction.

    with store.write() as tx:              # one short transaction; commits at the end, rolls back on any exception
        tx.tokens.use(secret, ...)
        tx.certificates.add(record)
        tx.devices.put("gw-1", role="device", pool="", now_ms=now)

``read`` sees one consistent snapshot. Both may be used from any thread; a transaction belongs to the thread that
opened it, must not wait for anything but the database, and writers take turns. Time comes in as an argument.
"Not there" is :class:`~aimass.errors.NotFoundError` from ``get`` and None from ``find``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from aimass_cloud.store.records import (
    ApiKeyRecord,
    CertificateRecord,
    DeploymentRecord,
    DesiredRecord,
    DeviceRecord,
    EventBatch,
    ModelRecord,
    ReportedRecord,
    StateWord,
    StoredAnswer,
    StoredEvent,
    StreamHead,
    TokenRecord,
    VersionRecord,
)


class DeviceStore(Protocol):
    """Enrolled identities: agents, embedded apps and services."""

    def put(self, device: str, *, role: str, pool: str, now_ms: int, enrolled: bool = True) -> DeviceRecord:
        """Adds it, or updates role and pool; sets the enrolment time when ``enrolled``."""

    def get(self, device: str) -> DeviceRecord:
        """The record; NotFoundError when there is none."""

    def find(self, device: str) -> DeviceRecord | None:
        """The record, or None."""

    def list(self, *, role: str | None = None, after: str = "", limit: int | None = None) -> Sequence[DeviceRecord]:
        """In order of id, those after ``after``; all when ``limit`` is None."""

    def family(self, device: str) -> Sequence[DeviceRecord]:
        """The device and its embedded apps (``{device}:{role}``), in order of id; empty when there is none."""

    def record_state(self, device: str, word: StateWord) -> None:
        """Keeps the last state word; unknown ids are ignored.

        Counts as evidence, unless the word is ``lost``: that is the broker speaking.
        """

    def record_evidence(self, heard_at_ms: Mapping[str, int]) -> None:
        """Moves evidence forward for many devices at once; never back; unknown ids are ignored."""

    def remove(self, device: str) -> None:
        """Forgets it with what it reported, its deployments and enrol-tokens.

        Events, certificates and the counter of its desired document stay. NotFoundError when there is none.
        """


class CertificateStore(Protocol):
    """Certificates that were issued, and which of them are revoked."""

    def add(self, record: CertificateRecord) -> None:
        """Keeps a certificate; ConflictError when the serial is known."""

    def get(self, serial: str) -> CertificateRecord:
        """The record; NotFoundError when there is none."""

    def of(self, identity: str) -> Sequence[CertificateRecord]:
        """All of this identity, newest first, revoked and expired ones too."""

    def usable(self, identity: str, *, now_ms: int, grace_ms: int = 0) -> Sequence[CertificateRecord]:
        """Those of this identity that are not revoked and ended no longer than ``grace_ms`` ago, newest first."""

    def revoke(self, identity: str, *, now_ms: int, reason: str, keep_serial: str = "") -> Sequence[str]:
        """Revokes all of this identity but ``keep_serial``; returns the serials that were not revoked before."""

    def revoked(self, *, now_ms: int) -> Sequence[CertificateRecord]:
        """What belongs on the revocation list: revoked and not yet expired (one day of margin)."""

    def prune(self, *, expired_before_ms: int) -> int:
        """Forgets certificates that ended before that time; returns how many."""


class TokenStore(Protocol):
    """Enrol-tokens; only the digest of the secret is kept."""

    def create(
        self, secret: str, *, identity: str, role: str, pool: str, now_ms: int, expires_at_ms: int
    ) -> TokenRecord:
        """Keeps a new token for exactly this identity."""

    def find(self, secret: str) -> TokenRecord | None:
        """The token with this secret, used or not, expired or not."""

    def use(self, secret: str, *, key_sha256: str, serial: str, chain_pem: str, now_ms: int) -> None:
        """Marks it used by that key and keeps the answer; ConflictError when it was used before."""

    def prune(self, *, expired_before_ms: int) -> int:
        """Forgets tokens that expired before that time; returns how many."""


class ModelStore(Protocol):
    """Models, their versions and aliases."""

    def list(self, *, after: str = "", limit: int | None = None) -> Sequence[ModelRecord]:
        """In order of name."""

    def get(self, model: str) -> ModelRecord:
        """The record; ModelNotFoundError when there is none."""

    def next_version(self, model: str, *, now_ms: int) -> int:
        """Takes the next number (from 1); it is never given out twice, a failed upload leaves a hole."""

    def add_version(self, record: VersionRecord) -> None:
        """Publishes a version; ConflictError when it exists."""

    def version(self, model: str, version: int) -> VersionRecord:
        """The record; ModelNotFoundError when there is none."""

    def versions(self, model: str, *, after: int = 0, limit: int | None = None) -> Sequence[VersionRecord]:
        """In order of number; ModelNotFoundError when the model is unknown."""

    def set_alias(self, model: str, alias: str, version: int, *, now_ms: int) -> None:
        """Points an alias at a version; ModelNotFoundError when that version is not published."""

    def remove_alias(self, model: str, alias: str) -> None:
        """Takes an alias away; ModelNotFoundError when there is none."""

    def resolve(self, model: str, alias: str) -> int:
        """The version an alias points at; ModelNotFoundError when there is none."""

    def in_use(self) -> Sequence[VersionRecord]:
        """What a pool holds: every version that is newest, aliased or deployed, of every model, by name and number."""

    def blobs(self) -> frozenset[str]:
        """Digests of all blobs that some version needs."""


class DeploymentStore(Protocol):
    """Which model is wanted where."""

    def add(
        self, *, model: str, version: int | None, alias: str | None, device: str | None, now_ms: int, created_by: str
    ) -> DeploymentRecord:
        """Adds a wish and ends the older one of the same model and target."""

    def get(self, deployment: int) -> DeploymentRecord:
        """The record; NotFoundError when there is none."""

    def list(self, *, active: bool = True, after: int = 0, limit: int | None = None) -> Sequence[DeploymentRecord]:
        """In order of id; without the ended ones when ``active``."""

    def for_device(self, device: str) -> Sequence[DeploymentRecord]:
        """The active ones that name this device or all, oldest first: a later one of the same model wins."""

    def end(self, deployment: int, *, now_ms: int) -> None:
        """Ends it; NotFoundError when there is none, no effect when it has ended."""


class TwinStore(Protocol):
    """Desired and reported documents."""

    def put_desired(
        self, device: str, content: str, seal: Callable[[int, int], bytes], *, now_ms: int
    ) -> tuple[DesiredRecord, bool]:
        """Makes the next document when ``content`` differs from the last, or the store's epoch is newer.

        Args:
            device: its identity.
            content: canonical text of what is wanted, without version; compared with the last one.
            seal: called with (epoch, version) inside the transaction, returns the signed envelope.
            now_ms: the time kept with it.

        Returns:
            the current record, and whether it is new. Versions count from 1 and start again with each epoch; they go on
            counting when the device was removed and came back.
        """

    def desired(self, device: str) -> DesiredRecord | None:
        """The current document, or None."""

    def list_desired(self) -> Sequence[DesiredRecord]:
        """All current documents, by device."""

    def put_reported(self, record: ReportedRecord) -> None:
        """Keeps what the device said last; that of an unknown device is ignored."""

    def reported(self, device: str) -> ReportedRecord | None:
        """What the device said last, or None."""

    def list_reported(self) -> Sequence[ReportedRecord]:
        """All of them, by device."""


class EventStore(Protocol):
    """Outbox records of devices, each stored once, and how far each stream is complete."""

    def ingest(self, batches: Sequence[EventBatch]) -> Sequence[StreamHead]:
        """Stores what continues each stream without a hole and answers each batch's head.

        Records at or below the head are duplicates and ignored. A gap record moves the head to its end. Records beyond
        a hole are refused (the device sends again from the head it is told).
        """

    def heads(self, device: str) -> Sequence[StreamHead]:
        """All streams of a device."""

    def list(
        self, device: str, *, stream: str | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[StoredEvent]:
        """In the order they were stored, those with a position above ``after``."""

    def count(self, device: str | None = None) -> int:
        """Stored records, gap records not counted."""

    def prune(self, *, received_before_ms: int) -> int:
        """Forgets records received before that time; heads stay. Returns how many."""


class ApiKeyStore(Protocol):
    """Credentials of people and programs."""

    def create(self, name: str, *, now_ms: int) -> tuple[ApiKeyRecord, str]:
        """A new key: the record, and the key itself, which is shown once and not kept."""

    def verify(self, key: str) -> ApiKeyRecord:
        """Whose key this is; AuthError when unknown or revoked. A near miss takes as long as a far one."""

    def list(self) -> Sequence[ApiKeyRecord]:
        """All of them, in order of creation."""

    def revoke(self, key_id: str, *, now_ms: int) -> None:
        """Ends a key; NotFoundError when there is none."""


class IdempotencyStore(Protocol):
    """Answers already given, by Idempotency-Key. ``scope`` is the caller's api-key id."""

    def begin(self, scope: str, key: str, *, request_sha256: str, now_ms: int) -> StoredAnswer | None:
        """None: go on, then ``finish`` or ``abandon``. Otherwise the answer of the first time.

        Raises:
            ConflictError: the key was used for another request, or the first one is still running (then retryable).
        """

    def finish(self, scope: str, key: str, answer: StoredAnswer) -> None:
        """Keeps the answer for the next time."""

    def abandon(self, scope: str, key: str) -> None:
        """The request failed; the key may be used again."""

    def prune(self, *, begun_before_ms: int) -> int:
        """Forgets what began before that time; returns how many."""


class MetaStore(Protocol):
    """Single values of the store itself."""

    def get(self, key: str) -> str | None:
        """The value, or None."""

    def put(self, key: str, value: str) -> None:
        """Sets it."""

    def epoch(self) -> int:
        """Unix milliseconds of when this store was made or last restored; part of every desired document and ack."""


class Transaction(Protocol):
    """One transaction's view of all concepts."""

    @property
    def devices(self) -> DeviceStore:
        """Enrolled identities."""

    @property
    def certificates(self) -> CertificateStore:
        """Issued certificates."""

    @property
    def tokens(self) -> TokenStore:
        """Enrol-tokens."""

    @property
    def models(self) -> ModelStore:
        """Models, versions, aliases."""

    @property
    def deployments(self) -> DeploymentStore:
        """What is wanted where."""

    @property
    def twins(self) -> TwinStore:
        """Desired and reported documents."""

    @property
    def events(self) -> EventStore:
        """Outbox records."""

    @property
    def api_keys(self) -> ApiKeyStore:
        """REST credentials."""

    @property
    def idempotency(self) -> IdempotencyStore:
        """Answers already given."""

    @property
    def meta(self) -> MetaStore:
        """Values of the store itself."""


class Store(Protocol):
    """Kept state of the cloud."""

    def read(self) -> AbstractContextManager[Transaction]:
        """One consistent view, for reading only."""

    def write(self) -> AbstractContextManager[Transaction]:
        """One transaction; durable when the block has ended without an exception."""

    def close(self) -> None:
        """Ends all connections."""
