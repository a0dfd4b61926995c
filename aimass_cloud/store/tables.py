"""The tables. ``migrations/`` makes them; a test compares the two. Times are unix milliseconds."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Big = BigInteger().with_variant(Integer, "sqlite")
"""64 bits. SQLite's INTEGER has them, and only that word makes a key count by itself there."""
Name = String(100)


class Table(DeclarativeBase):
    """Base of all rows."""

    type_annotation_map: ClassVar = {int: Big, str: Text, dict[str, Any]: JSON, list[str]: JSON}


class MetaRow(Table):
    """Single values of the store itself."""

    __tablename__ = "meta"
    key: Mapped[str] = mapped_column(Name, primary_key=True)
    value: Mapped[str]


class DeviceRow(Table):
    """Enrolled identities."""

    __tablename__ = "devices"
    id: Mapped[str] = mapped_column(Name, primary_key=True)
    role: Mapped[str]
    pool: Mapped[str]
    created_at_ms: Mapped[int]
    enrolled_at_ms: Mapped[int | None]
    evidence_at_ms: Mapped[int | None]
    state: Mapped[str] = mapped_column(default="")
    state_at_ms: Mapped[int | None]
    boot: Mapped[str] = mapped_column(default="")
    agent_version: Mapped[str] = mapped_column(default="")
    heartbeat_s: Mapped[float] = mapped_column(Double, default=0.0)


class CertificateRow(Table):
    """Issued certificates; outlive their device, because revocation does."""

    __tablename__ = "certificates"
    serial: Mapped[str] = mapped_column(Name, primary_key=True)
    identity: Mapped[str] = mapped_column(Name, index=True)
    kind: Mapped[str]
    key_sha256: Mapped[str]
    pem: Mapped[str]
    issued_at_ms: Mapped[int]
    not_after_ms: Mapped[int]
    revoked_at_ms: Mapped[int | None] = mapped_column(index=True)
    reason: Mapped[str] = mapped_column(default="")


class TokenRow(Table):
    """Enrol-tokens, by the digest of their secret."""

    __tablename__ = "tokens"
    secret_sha256: Mapped[str] = mapped_column(Name, primary_key=True)
    identity: Mapped[str] = mapped_column(Name, index=True)
    role: Mapped[str]
    pool: Mapped[str]
    created_at_ms: Mapped[int]
    expires_at_ms: Mapped[int]
    used_at_ms: Mapped[int | None]
    key_sha256: Mapped[str] = mapped_column(default="")
    serial: Mapped[str] = mapped_column(default="")
    chain_pem: Mapped[str] = mapped_column(default="")


class ModelRow(Table):
    """Model names with the last version number given out."""

    __tablename__ = "models"
    name: Mapped[str] = mapped_column(Name, primary_key=True)
    created_at_ms: Mapped[int]
    last_version: Mapped[int]


class VersionRow(Table):
    """Published versions."""

    __tablename__ = "versions"
    model: Mapped[str] = mapped_column(Name, ForeignKey("models.name"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    created_at_ms: Mapped[int]
    created_by: Mapped[str]
    manifest_sha256: Mapped[str]
    manifest_json: Mapped[str]
    files: Mapped[list[str]]
    size_bytes: Mapped[int]
    labels: Mapped[list[str]]
    metrics: Mapped[dict[str, Any]]


class AliasRow(Table):
    """Names that point at a version."""

    __tablename__ = "aliases"
    __table_args__ = (ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"]),)
    model: Mapped[str] = mapped_column(Name, primary_key=True)
    alias: Mapped[str] = mapped_column(Name, primary_key=True)
    version: Mapped[int]
    updated_at_ms: Mapped[int]


class DeploymentRow(Table):
    """What is wanted where; ``device`` NULL means everywhere."""

    __tablename__ = "deployments"
    __table_args__ = (
        ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"]),
        Index("ix_deployments_active", "ended_at_ms", "device"),
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(Name, ForeignKey("models.name"))
    version: Mapped[int | None]
    alias: Mapped[str | None] = mapped_column(Name)
    device: Mapped[str | None] = mapped_column(Name)
    created_at_ms: Mapped[int]
    created_by: Mapped[str]
    ended_at_ms: Mapped[int | None]


class DesiredRow(Table):
    """Desired documents. Without an envelope only the counter of a removed device."""

    __tablename__ = "desired"
    device: Mapped[str] = mapped_column(Name, primary_key=True)
    epoch: Mapped[int]
    version: Mapped[int]
    content: Mapped[str]
    envelope: Mapped[bytes | None]
    updated_at_ms: Mapped[int]


class ReportedRow(Table):
    """What devices said last."""

    __tablename__ = "reported"
    device: Mapped[str] = mapped_column(Name, ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True)
    epoch: Mapped[int]
    version: Mapped[int]
    boot: Mapped[str]
    at_ms: Mapped[int]
    received_at_ms: Mapped[int]
    document: Mapped[str]


class HeadRow(Table):
    """How far each stream is stored without a hole."""

    __tablename__ = "heads"
    device: Mapped[str] = mapped_column(Name, primary_key=True)
    stream: Mapped[str] = mapped_column(Name, primary_key=True)
    stream_id: Mapped[str] = mapped_column(Name, primary_key=True)
    seq: Mapped[int]
    updated_at_ms: Mapped[int]


class EventRow(Table):
    """Outbox records. A position is never used twice, so that a reader's cursor stays true after pruning."""

    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("device", "stream", "stream_id", "seq", name="uq_events_seq"),
        Index("ix_events_reading", "device", "stream", "position"),
        {"sqlite_autoincrement": True},
    )
    position: Mapped[int] = mapped_column(primary_key=True)
    device: Mapped[str] = mapped_column(Name)
    stream: Mapped[str] = mapped_column(Name)
    stream_id: Mapped[str] = mapped_column(Name)
    seq: Mapped[int]
    event_id: Mapped[str]
    at_ms: Mapped[int]
    received_at_ms: Mapped[int] = mapped_column(index=True)
    kind: Mapped[str]
    data: Mapped[dict[str, Any]]


class ApiKeyRow(Table):
    """Api-keys, by the digest of the whole key."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(Name, primary_key=True)
    name: Mapped[str]
    key_sha256: Mapped[str]
    created_at_ms: Mapped[int]
    revoked_at_ms: Mapped[int | None]


class IdempotencyRow(Table):
    """Answers already given; without a status the first request is still running."""

    __tablename__ = "idempotency"
    scope: Mapped[str] = mapped_column(Name, primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_sha256: Mapped[str]
    begun_at_ms: Mapped[int] = mapped_column(index=True)
    status: Mapped[int | None]
    body: Mapped[bytes | None]
    content_type: Mapped[str] = mapped_column(default="")
