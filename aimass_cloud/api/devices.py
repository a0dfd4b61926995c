"""``/v1/devices`` and ``/v1/enrol-tokens``: the fleet, for people and programs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from aimass_cloud.api import schemas
from aimass_cloud.api.auth import Caller
from aimass_cloud.api.paging import Cursor, Limit, cursor_of, iso, key_of, number_of
from aimass_cloud.api.services import Given

router = APIRouter(tags=["devices"])

DeviceId = Annotated[str, Path(max_length=129)]


@router.get("/v1/devices", summary="All devices")
def list_devices(services: Given, caller: Caller, limit: Limit = 100, cursor: Cursor = "") -> schemas.Devices:
    """With state, evidence, desired and reported, by id."""
    page = services.devices.page(after=key_of(cursor), limit=limit)
    return schemas.Devices(items=[schemas.Device.of(item) for item in page.items], next=cursor_of(page.next))


@router.get("/v1/devices/{device}", summary="One device")
def show_device(services: Given, caller: Caller, device: DeviceId) -> schemas.Device:
    """The cloud's own workers (``svc:worker-0``) can be shown too."""
    return schemas.Device.of(services.devices.get(device))


@router.delete("/v1/devices/{device}", status_code=204, summary="Lock a device out and forget it")
def remove_device(services: Given, caller: Caller, device: DeviceId) -> None:
    """Revokes its certificates, ends its connection and removes what it left; its events are kept."""
    services.devices.remove(device)


@router.get("/v1/devices/{device}/events", summary="What a device's outbox delivered")
def list_events(
    services: Given,
    caller: Caller,
    device: DeviceId,
    stream: Annotated[str | None, Query(max_length=64)] = None,
    after: Annotated[int, Query(ge=0, lt=2**63, description="Only records with a higher position")] = 0,
    limit: Limit = 100,
    cursor: Cursor = "",
) -> schemas.Events:
    """In the order they were stored, each once."""
    page = services.devices.events(device, stream=stream, after=number_of(cursor) or after, limit=limit)
    return schemas.Events(items=[schemas.Event.of(item) for item in page.items], next=cursor_of(page.next))


@router.post("/v1/enrol-tokens", status_code=201, summary="Make a token that lets one device in")
def create_enrol_token(services: Given, caller: Caller, body: schemas.EnrolTokenRequest) -> schemas.EnrolToken:
    """Not kept by Idempotency-Key: the token is a secret, and a second one does no harm."""
    ttl_s = body.ttl_s or services.token_ttl_s
    token = services.enrolment.create_token(body.id, ttl_s=ttl_s)
    return schemas.EnrolToken(token=token, id=body.id, expires_at=iso(round((services.clock() + ttl_s) * 1000)))
