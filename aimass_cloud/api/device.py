"""What devices call: enrolment, tokens, renewal. No api-key here."""

from __future__ import annotations

import base64

from fastapi import APIRouter

from aimass.errors import InputError
from aimass_cloud.api import schemas
from aimass_cloud.api.auth import Device
from aimass_cloud.api.services import Given
from aimass_cloud.usecases.device_auth import NONCE_S, TOKEN_S

router = APIRouter(tags=["for devices"])


@router.get("/v1/ca", summary="The cloud's certificates")
def show_authorities(services: Given) -> schemas.Authorities:
    """For the first contact: compare the root's SHA-256 with the enrol-token's, then trust it."""
    return schemas.Authorities(root_pem=services.root_pem, chain_pem=services.chain_pem)


@router.post("/v1/enrol", summary="A token and a certificate request in, a certificate out")
def enrol(services: Given, body: schemas.EnrolRequest) -> schemas.Enrolled:
    """The same token with the same key gives the same certificate again."""
    return schemas.Enrolled.of(services.enrolment.enrol(body.secret, body.id, body.csr_pem.encode()))


@router.post("/v1/device/nonce", summary="Something to sign")
def create_nonce(services: Given, body: schemas.NonceRequest) -> schemas.Nonce:
    """Good once, for a minute."""
    return schemas.Nonce(nonce=services.device_auth.nonce(body.id), expires_s=NONCE_S)


@router.post("/v1/device/token", summary="A signed nonce in, a token for named paths out")
def create_token(services: Given, body: schemas.DeviceTokenRequest) -> schemas.DeviceToken:
    """Signed are the lines ``aimass-device-token``, id, nonce and the paths, with the certificate's key."""
    try:
        signature = base64.b64decode(body.signature, validate=True)
    except ValueError as exc:
        raise InputError("the signature is not base64", hint="send the DER signature as base64") from exc
    token = services.device_auth.token(body.id, body.nonce, body.paths, signature)
    return schemas.DeviceToken(token=token, expires_s=TOKEN_S)


@router.post("/v1/device/renew", summary="A further certificate for a device that has one")
def renew(services: Given, body: schemas.RenewRequest, device: Device) -> schemas.Enrolled:
    """Also for a while after the certificate has ended."""
    return schemas.Enrolled.of(services.enrolment.renew(device, body.csr_pem.encode()))
