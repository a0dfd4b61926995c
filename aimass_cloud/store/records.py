"""What the store keeps, as plain values.

Every time is unix milliseconds and ends in ``_at_ms``; every id is text as it appears on the wire. Nothing here
knows SQL: a further store (PostgreSQL, memory) answers with the same records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from aimass.errors import FrameError

MAX_SEQ = 2**53
"""Largest sequence number taken: the largest integer that every JSON reader keeps exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecord:
    """One enrolled identity (certificate CN): an agent, an embedded app or a service of the cloud.

    Args:
        id: the CN.
        role: ``device``, ``dispatcher`` or ``control`` (:class:`aimass_cloud.broker.dynsec.Role`).
        pool: the pool a dispatcher serves; empty for the others.
        enrolled_at_ms: None until the first certificate was issued.
        evidence_at_ms: when the cloud last heard anything from it; None means never.
        state: the last word of its state topic (``online``, ``offline``, ``lost``), empty before the first; a hint.
        state_at_ms: when the cloud received that word.
        boot: boot id that came with it.
        agent_version: version of its software, as it said itself.
        heartbeat_s: how often it promised to be heard.
    """

    id: str
    role: str
    pool: str = ""
    created_at_ms: int
    enrolled_at_ms: int | None = None
    evidence_at_ms: int | None = None
    state: str = ""
    state_at_ms: int | None = None
    boot: str = ""
    agent_version: str = ""
    heartbeat_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StateWord:
    """What a device's state topic said, and when the cloud received it."""

    state: str
    boot: str
    agent_version: str
    heartbeat_s: float
    received_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRecord:
    """An issued certificate. ``serial`` is lower-case hex, ``key_sha256`` the digest of its public key (SPKI DER)."""

    serial: str
    identity: str
    kind: str
    key_sha256: str
    pem: str
    issued_at_ms: int
    not_after_ms: int
    revoked_at_ms: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """An enrol-token without its secret; ``chain_pem`` is the answer its key got, given again to the same key."""

    identity: str
    role: str
    pool: str
    created_at_ms: int
    expires_at_ms: int
    used_at_ms: int | None = None
    key_sha256: str = ""
    serial: str = ""
    chain_pem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """A model's name with its newest version (0 before the first) and its aliases."""

    name: str
    created_at_ms: int
    newest: int
    aliases: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRecord:
    """One published version.

    Args:
        manifest_sha256: digest of the blob that holds the signed manifest (the envelope).
        manifest_json: the manifest itself, for listing; trust never rests on this copy.
        files: digests of all other blobs it needs.
    """

    model: str
    version: int
    created_at_ms: int
    created_by: str
    manifest_sha256: str
    manifest_json: str
    files: tuple[str, ...]
    size_bytes: int
    labels: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRecord:
    """The wish that a device (or all, when ``device`` is None) runs a version, or whatever an alias points at.

    A newer deployment of the same model to the same target ends the older one.
    """

    id: int
    model: str
    version: int | None
    alias: str | None
    device: str | None
    created_at_ms: int
    created_by: str
    ended_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredRecord:
    """The desired document last made for a device: signed envelope and the unsigned content it was made from."""

    device: str
    epoch: int
    version: int
    content: str
    envelope: bytes
    updated_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedRecord:
    """What a device said it runs, as JSON text, with the desired (epoch, version) it had acted on."""

    device: str
    epoch: int
    version: int
    boot: str
    at_ms: int
    received_at_ms: int
    document: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """One outbox record as it came. One of kind ``gap`` stands for ``data["from"]..data["to"]``; its seq is ``to``.

    Raises:
        FrameError: a sequence number out of range, or a gap whose bounds make no sense.
    """

    seq: int
    id: str
    at_ms: int
    kind: str
    data: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not _is_seq(self.seq):
            raise FrameError(f"event sequence number {self.seq!r} is not between 1 and 2^53")
        if self.kind == "gap":
            first, last = self.data.get("from"), self.data.get("to")
            if not (_is_seq(first) and _is_seq(last) and first <= last == self.seq):
                raise FrameError(f"gap record {self.seq} has bounds that make no sense: from {first!r} to {last!r}")

    @property
    def first_seq(self) -> int:
        """The first sequence number this record stands for; its own, unless it is a gap."""
        return int(self.data["from"]) if self.kind == "gap" else self.seq


def _is_seq(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_SEQ


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBatch:
    """Records of one stream of one device that arrived together; no records means "tell me where you are"."""

    device: str
    stream: str
    stream_id: str
    records: tuple[EventRecord, ...]
    received_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamHead:
    """The highest sequence number up to which a stream is stored without a hole. ``stored`` counts the new rows."""

    device: str
    stream: str
    stream_id: str
    seq: int
    stored: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """One stored outbox record. ``position`` grows over all streams of the store and is the cursor for reading on."""

    position: int
    device: str
    stream: str
    stream_id: str
    seq: int
    id: str
    at_ms: int
    received_at_ms: int
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeyRecord:
    """A person's or program's REST credential; the key itself is not kept."""

    id: str
    name: str
    created_at_ms: int
    revoked_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """The answer once given to a request with this idempotency key, given again to the same request."""

    status: int
    body: bytes
    content_type: str
