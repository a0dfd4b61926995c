"""Credentials: api-keys as bearer and as Basic password, refusals, and the limit on guessing."""

from __future__ import annotations

import base64

import httpx
import pytest

from aimass.errors import OverloadError
from aimass_cloud.api.auth import FailureLimit
from tests.fakes.cloud import Clock, CloudInMemory

PROTECTED = [
    ("GET", "/v1/models"),
    ("POST", "/v1/models"),
    ("POST", "/upload"),
    ("GET", "/v1/models/m"),
    ("GET", "/v1/models/m/versions"),
    ("GET", "/v1/models/m/versions/1"),
    ("PUT", "/v1/models/m/aliases/a"),
    ("DELETE", "/v1/models/m/aliases/a"),
    ("GET", "/v1/deployments"),
    ("POST", "/v1/deployments"),
    ("DELETE", "/v1/deployments/1"),
    ("GET", "/v1/devices"),
    ("GET", "/v1/devices/gw-1"),
    ("DELETE", "/v1/devices/gw-1"),
    ("GET", "/v1/devices/gw-1/events"),
    ("POST", "/v1/enrol-tokens"),
    ("GET", "/v1/blobs/" + "a" * 64),
    ("HEAD", "/v1/blobs/" + "a" * 64),
    ("POST", "/v1/device/renew"),
]
BODIES = {
    "/v1/models/m/aliases/a": {"version": 1},
    "/v1/deployments": {"model": "m", "target": {"all": True}},
    "/v1/enrol-tokens": {"id": "gw-1"},
    "/v1/device/renew": {"csr_pem": "x"},
}


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(("method", "path"), PROTECTED)
async def test_everything_but_the_public_part_needs_a_credential(
    anyone: httpx.AsyncClient, method: str, path: str
) -> None:
    body = BODIES.get(path) if method in {"POST", "PUT"} else None
    response = await anyone.request(method, path, json=body)
    assert response.status_code == 401
    assert "Bearer" in response.headers["www-authenticate"]


async def test_the_list_above_is_complete(anyone: httpx.AsyncClient) -> None:
    public = {
        "/v1/ca",
        "/v1/enrol",
        "/v1/device/nonce",
        "/v1/device/token",
        "/metrics",
        "/health/live",
        "/health/ready",
    }
    known = {(method, path) for method, path in PROTECTED}
    document = (await anyone.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        for method in operations:
            concrete = path.replace("{name}", "m").replace("{version}", "1").replace("{alias}", "a")
            concrete = concrete.replace("{deployment}", "1").replace("{device}", "gw-1").replace("{sha256}", "a" * 64)
            assert path in public or (method.upper(), concrete) in known


async def test_an_api_key_works_as_bearer_and_as_basic_password(
    anyone: httpx.AsyncClient, cloud: CloudInMemory
) -> None:
    key = cloud.api_key()
    for header in (f"Bearer {key}", f"bearer {key}", basic("any", key), basic("", key)):
        assert (await anyone.get("/v1/models", headers={"authorization": header})).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Basic x",
        "Basic !!",
        basic("KEY", ""),
        "Digest x",
        "Bearer " + "x" * 20_000,
    ],
)
async def test_wrong_credentials_are_refused(anyone: httpx.AsyncClient, header: str) -> None:
    response = await anyone.get("/v1/models", headers={"authorization": header})
    assert (response.status_code, response.json()["code"]) == (401, "identity.auth")


async def test_a_credential_with_odd_bytes_is_refused(anyone: httpx.AsyncClient) -> None:
    for header in (b"Basic \xff\xfe", b"Bearer \xff"):
        response = await anyone.get("/v1/models", headers=[(b"authorization", header)])
        assert response.status_code == 401


async def test_a_revoked_key_is_refused(anyone: httpx.AsyncClient, cloud: CloudInMemory) -> None:
    key = cloud.api_key()
    with cloud.store.write() as tx:
        tx.api_keys.revoke(tx.api_keys.list()[0].id, now_ms=cloud.clock.ms)
    assert (await anyone.get("/v1/models", headers={"authorization": f"Bearer {key}"})).status_code == 401


async def test_guessing_is_slowed_down_and_good_callers_are_not_locked_out(
    anyone: httpx.AsyncClient, cloud: CloudInMemory
) -> None:
    key = {"authorization": f"Bearer {cloud.api_key()}"}
    assert (await anyone.get("/v1/models", headers=key)).status_code == 200
    codes = [
        (await anyone.get("/v1/models", headers={"authorization": f"Bearer guess{n}"})).status_code for n in range(25)
    ]
    assert codes == [401] * 20 + [429] * 5
    assert (await anyone.get("/v1/models", headers=key)).status_code == 200


def test_the_limit_ends_with_its_window() -> None:
    clock = Clock()
    limit = FailureLimit(clock, most=2, window_s=60)
    limit.failed("a")
    clock.forward(30)
    limit.failed("a")
    with pytest.raises(OverloadError) as caught:
        limit.check("a", "key")
    assert caught.value.retry_after_s == 30
    limit.check("b", "key")
    clock.forward(31)
    limit.check("a", "key")


def test_the_limit_is_bounded_in_memory() -> None:
    limit = FailureLimit(Clock(), most=1, room=100)
    for n in range(1000):
        limit.failed(str(n))
        limit.succeeded(str(n))
    limit.check("0", "unknown")
    with pytest.raises(OverloadError):
        limit.check("999", "unknown")
