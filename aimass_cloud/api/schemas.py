"""The JSON of the API, checked at the border.

Requests refuse keys nobody knows; answers are documented by their type.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aimass_cloud.api.paging import iso
from aimass_cloud.store.records import DesiredRecord, ModelRecord, StoredEvent, VersionRecord
from aimass_cloud.usecases.deployments import DeploymentView
from aimass_cloud.usecases.devices import DeviceView
from aimass_cloud.usecases.enrolment import EnrolAnswer

Version = Annotated[int, Field(ge=1, strict=True)]
Identity = Annotated[str, Field(max_length=129, examples=["gw-1"])]
Pem = Annotated[str, Field(max_length=16_384)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


# models


class Model(BaseModel):
    """A model."""

    name: str
    created_at: str | None
    latest_version: int
    aliases: dict[str, int]

    @classmethod
    def of(cls, record: ModelRecord) -> Model:
        """From the store."""
        return cls(
            name=record.name,
            created_at=iso(record.created_at_ms),
            latest_version=record.newest,
            aliases=dict(record.aliases),
        )


class ModelVersion(BaseModel):
    """One version of a model, with what its signed manifest says. ``notes`` only in the answer to an upload."""

    name: str
    version: int
    created_at: str | None
    created_by: str
    size_bytes: int
    manifest_sha256: str
    manifest_path: str
    manifest: dict[str, Any]
    notes: list[str] = []

    @classmethod
    def of(cls, record: VersionRecord, notes: tuple[str, ...] = ()) -> ModelVersion:
        """From the store."""
        return cls(
            name=record.model,
            version=record.version,
            created_at=iso(record.created_at_ms),
            created_by=record.created_by,
            size_bytes=record.size_bytes,
            manifest_sha256=record.manifest_sha256,
            manifest_path=f"/v1/blobs/{record.manifest_sha256}",
            manifest=json.loads(record.manifest_json),
            notes=list(notes),
        )


class AliasRequest(_Request):
    """Where an alias shall point."""

    version: Version


class Models(BaseModel):
    """A page of models."""

    items: list[Model]
    next: str | None


class ModelVersions(BaseModel):
    """A page of versions."""

    items: list[ModelVersion]
    next: str | None


# deployments


class Target(_Request):
    """One device, or all: also those that enrol later."""

    device: Identity | None = None
    all: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> Target:
        if self.all == (self.device is not None):
            msg = 'say {"device": id} or {"all": true}'
            raise ValueError(msg)
        return self


class DeploymentRequest(_Request):
    """Which version shall run where; the newest when neither version nor alias is named."""

    model: Annotated[str, Field(max_length=100, examples=["digits"])]
    version: Version | None = None
    alias: Annotated[str, Field(max_length=64)] | None = None
    target: Target


class Deployment(BaseModel):
    """A wish that holds. ``version`` is what it means now."""

    id: int
    model: str
    version: int | None
    alias: str | None
    target: dict[str, Any]
    created_at: str | None
    created_by: str

    @classmethod
    def of(cls, view: DeploymentView) -> Deployment:
        """From the store."""
        record = view.record
        return cls(
            id=record.id,
            model=record.model,
            version=view.version,
            alias=record.alias,
            target={"all": True} if record.device is None else {"device": record.device},
            created_at=iso(record.created_at_ms),
            created_by=record.created_by,
        )


class Deployments(BaseModel):
    """A page of deployments."""

    items: list[Deployment]
    next: str | None


# devices


class Desired(BaseModel):
    """The document a device is to act on."""

    epoch: int
    version: int
    updated_at: str | None
    models: list[dict[str, Any]]

    @classmethod
    def of(cls, record: DesiredRecord) -> Desired:
        """From the store."""
        return cls(
            epoch=record.epoch,
            version=record.version,
            updated_at=iso(record.updated_at_ms),
            models=json.loads(record.content),
        )


class Device(BaseModel):
    """A device as the cloud sees it.

    ``state`` is computed from evidence: ``online``, ``offline``, ``unknown`` (the cloud itself hears nothing) or
    ``never``. ``since`` is when that began, ``evidence_at`` when the device was last heard. ``sync`` compares what it
    reported with what is desired: ``in_sync``, ``pending`` or ``unknown``.
    """

    id: str
    state: str
    since: str | None
    evidence_at: str | None
    boot: str
    agent_version: str
    enrolled_at: str | None
    certificate_not_after: str | None
    sync: str
    desired: Desired | None
    reported: dict[str, Any] | None
    reported_at: str | None
    telemetry: dict[str, Any]
    streams: list[dict[str, Any]]

    @classmethod
    def of(cls, view: DeviceView) -> Device:
        """From the store."""
        record, presence = view.record, view.presence
        return cls(
            id=record.id,
            state=presence.state,
            since=iso(presence.since_ms),
            evidence_at=iso(presence.evidence_at_ms),
            boot=presence.boot or record.boot,
            agent_version=record.agent_version,
            enrolled_at=iso(record.enrolled_at_ms),
            certificate_not_after=iso(view.certificate.not_after_ms) if view.certificate else None,
            sync={None: "unknown", True: "in_sync", False: "pending"}[view.in_sync],
            desired=Desired.of(view.desired) if view.desired else None,
            reported=json.loads(view.reported.document) if view.reported else None,
            reported_at=iso(view.reported.received_at_ms) if view.reported else None,
            telemetry=dict(view.telemetry),
            streams=[
                {"stream": head.stream, "stream_id": head.stream_id, "stored_up_to": head.seq} for head in view.streams
            ],
        )


class Devices(BaseModel):
    """A page of devices."""

    items: list[Device]
    next: str | None


class Event(BaseModel):
    """One outbox record of a device. Kind ``gap`` stands for records that the device had to give up."""

    position: int
    stream: str
    stream_id: str
    seq: int
    id: str
    kind: str
    at: str | None
    received_at: str | None
    data: dict[str, Any]

    @classmethod
    def of(cls, event: StoredEvent) -> Event:
        """From the store."""
        return cls(
            position=event.position,
            stream=event.stream,
            stream_id=event.stream_id,
            seq=event.seq,
            id=event.id,
            kind=event.kind,
            at=iso(event.at_ms),
            received_at=iso(event.received_at_ms),
            data=dict(event.data),
        )


class Events(BaseModel):
    """A page of events."""

    items: list[Event]
    next: str | None


# enrolment and device authentication


class EnrolTokenRequest(_Request):
    """Whom to let in, and for how long the token is good (24 hours when left out)."""

    id: Identity
    ttl_s: Annotated[float, Field(gt=0, le=30 * 86_400)] | None = None


class EnrolToken(BaseModel):
    """Give this line to ``aimass-edge enrol``. It is shown once."""

    token: str
    id: str
    expires_at: str | None


class EnrolRequest(_Request):
    """An enrol-token's secret and a certificate request for its id."""

    secret: Annotated[str, Field(max_length=200)]
    id: Identity
    csr_pem: Pem


class RenewRequest(_Request):
    """A certificate request for the caller's own id."""

    csr_pem: Pem


class Broker(BaseModel):
    """Where the broker is."""

    host: str
    port: int


class Enrolled(BaseModel):
    """A certificate with its intermediate, and all that its holder needs to trust and reach."""

    id: str
    certificate_pem: str
    ca_pem: str
    publisher_keys: list[str]
    control_keys: list[str]
    broker: Broker

    @classmethod
    def of(cls, answer: EnrolAnswer) -> Enrolled:
        """From the use case."""
        told = answer.invitation
        return cls(
            id=answer.identity,
            certificate_pem=answer.certificate_pem,
            ca_pem=answer.ca_pem,
            publisher_keys=list(told.publisher_keys),
            control_keys=list(told.control_keys),
            broker=Broker(host=told.broker_host, port=told.broker_port),
        )


class Authorities(BaseModel):
    """The cloud's certificates; compare the root's digest with the enrol-token before trusting it."""

    root_pem: str
    chain_pem: str


class NonceRequest(_Request):
    """Who wants to sign."""

    id: Identity


class Nonce(BaseModel):
    """To be signed with the device's key, once."""

    nonce: str
    expires_s: int


class DeviceTokenRequest(_Request):
    """A signed nonce and the paths to open. The signature is base64 of DER, over the lines that WIRE.md names."""

    id: Identity
    nonce: Annotated[str, Field(max_length=200)]
    paths: Annotated[list[Annotated[str, Field(max_length=300)]], Field(max_length=64)]
    signature: Annotated[str, Field(max_length=400)]


class DeviceToken(BaseModel):
    """Send it as ``Authorization: Bearer``."""

    token: str
    expires_s: int
