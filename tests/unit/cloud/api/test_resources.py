"""The REST resources: what they answer, and that errors are problem documents."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest

from aimass.device.cloud_http import token_message
from aimass.device.enrol import EnrolToken
from aimass.package.keys import SigningKey
from aimass_cloud.fleet.presence import Presence, State
from aimass_cloud.pki.csr import make_csr, new_key_pem
from aimass_cloud.store.records import EventBatch, EventRecord
from tests.fakes.cloud import CloudInMemory
from tests.fakes.cloud_models import affine_bytes

MODEL = ("digits.onnx", affine_bytes(), "application/octet-stream")


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert (body["status"], body["code"]) == (status, code)
    assert {"type", "title", "detail", "retryable", "hint"} <= body.keys()
    return body


async def push(http: httpx.AsyncClient, **manifest: Any) -> httpx.Response:
    data = {"manifest": json.dumps(manifest)} if manifest else {}
    return await http.post("/v1/models", data=data, files={"model": MODEL})


async def test_a_model_goes_in_and_is_shown(http: httpx.AsyncClient) -> None:
    made = (await push(http, name="digits", labels=["0", "1"], metrics={"accuracy": 0.97})).json()
    assert (made["name"], made["version"], made["created_by"]) == ("digits", 1, "test")
    assert made["manifest"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert made["manifest"]["labels"] == ["0", "1"]
    assert (await http.get("/v1/models")).json()["items"][0]["latest_version"] == 1
    assert (await http.get("/v1/models/digits")).json()["aliases"] == {}
    assert (await http.get("/v1/models/digits/versions/1")).json()["version"] == 1
    assert len((await http.get("/v1/models/digits/versions")).json()["items"]) == 1


async def test_upload_takes_nothing_but_a_file(http: httpx.AsyncClient) -> None:
    response = await http.post("/upload", files={"file": MODEL})
    assert response.status_code == 201
    assert response.json()["name"] == "digits"
    named = await http.post("/upload", data={"name": "other"}, files={"file": MODEL})
    assert named.json()["name"] == "other"


async def test_the_manifest_may_be_a_file_part_too(http: httpx.AsyncClient) -> None:
    files = {"manifest": ("m.json", b'{"name": "n"}', "application/json"), "model": MODEL}
    assert (await http.post("/v1/models", files=files)).json()["name"] == "n"


async def test_a_bad_model_is_a_problem_with_its_reason(http: httpx.AsyncClient) -> None:
    response = await http.post("/upload", files={"file": ("x.onnx", b"no model at all, just text")})
    assert problem(response, 422, "model.invalid")["reason"] == "not_onnx"


@pytest.mark.parametrize(
    "form",
    [
        {"files": {"wrong": MODEL}},
        {"data": {"name": "x"}},
        {"data": {"what": "x"}, "files": {"model": MODEL}},
        {"data": {"manifest": "{"}, "files": {"model": MODEL}},
        {"data": {"manifest": '{"unknown": 1}'}, "files": {"model": MODEL}},
        {"data": {"manifest": "x" * 300_000}, "files": {"model": MODEL}},
        {"files": {"model": MODEL, "extra": ("a/../b c", b"x")}},
        {"json": {"name": "x"}},
        {"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        {"content": b"junk", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        {"content": b"junk", "headers": {"content-type": "multipart/form-data"}},
        {"content": b"", "headers": {"content-type": "multipart/form-data; boundary=x"}},
    ],
)
async def test_forms_that_make_no_sense_are_input_problems(
    http: httpx.AsyncClient, cloud: CloudInMemory, form: dict[str, Any]
) -> None:
    assert problem(await http.post("/v1/models", **form), 400, "input")["hint"]
    assert list(cloud.blobs.list()) == []


async def test_an_upload_above_the_limit_is_413(http: httpx.AsyncClient, cloud: CloudInMemory) -> None:
    big = ("big.onnx", bytes(3 << 20))
    assert problem(await http.post("/upload", files={"file": big}), 413, "wire.too_large")["limit_bytes"] == 1 << 20
    assert list(cloud.blobs.list()) == []


async def test_an_upload_without_a_length_stops_at_the_limit(http: httpx.AsyncClient, cloud: CloudInMemory) -> None:
    async def body() -> Any:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="m.onnx"\r\n\r\n'
        for _ in range(64):
            yield bytes(64 * 1024)
        yield b"\r\n--b--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=b"}
    problem(await http.post("/upload", content=body(), headers=headers), 413, "wire.too_large")
    assert list(cloud.blobs.list()) == []


async def test_an_upload_that_ends_in_the_middle_leaves_nothing(http: httpx.AsyncClient, cloud: CloudInMemory) -> None:
    content = b'--b\r\nContent-Disposition: form-data; name="file"; filename="m.onnx"\r\n\r\n' + affine_bytes()
    headers = {"content-type": "multipart/form-data; boundary=b"}
    problem(await http.post("/upload", content=content, headers=headers), 400, "input")
    assert list(cloud.blobs.list()) == []


async def test_the_same_upload_with_the_same_key_is_one_version(http: httpx.AsyncClient) -> None:
    headers = {"idempotency-key": "k1"}
    first = await http.post("/upload", files={"file": MODEL}, headers=headers)
    again = await http.post("/upload", files={"file": MODEL}, headers=headers)
    assert (first.json(), again.headers["idempotent-replayed"]) == (again.json(), "true")
    assert (await http.get("/v1/models/digits")).json()["latest_version"] == 1
    other = await http.post("/upload", data={"name": "x"}, files={"file": MODEL}, headers=headers)
    problem(other, 409, "store.conflict")


async def test_aliases_are_set_and_taken_away(http: httpx.AsyncClient) -> None:
    await push(http)
    assert (await http.put("/v1/models/digits/aliases/champion", json={"version": 1})).json()["aliases"] == {
        "champion": 1
    }
    problem(await http.put("/v1/models/digits/aliases/champion", json={"version": 9}), 404, "model.not_found")
    assert (await http.delete("/v1/models/digits/aliases/champion")).status_code == 204
    problem(await http.delete("/v1/models/digits/aliases/champion"), 404, "model.not_found")


async def test_a_model_is_deployed_listed_and_taken_back(http: httpx.AsyncClient, cloud: CloudInMemory) -> None:
    await push(http)
    cloud.enrol("gw-1")
    body = {"model": "digits", "target": {"device": "gw-1"}}
    made = await http.post("/v1/deployments", json=body, headers={"idempotency-key": "k"})
    again = await http.post("/v1/deployments", json=body, headers={"idempotency-key": "k"})
    assert (made.status_code, made.json()["version"]) == (201, 1)
    assert made.json() == again.json()
    assert (await http.get("/v1/devices/gw-1")).json()["desired"]["models"][0]["version"] == 1
    listed = (await http.get("/v1/deployments")).json()["items"]
    assert [item["id"] for item in listed] == [made.json()["id"]]
    assert (await http.delete(f"/v1/deployments/{made.json()['id']}")).status_code == 204
    assert (await http.get("/v1/devices/gw-1")).json()["desired"]["models"] == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "digits", "target": {"device": "gw-9"}}, 404, "store.not_found"),
        ({"model": "nothing", "target": {"all": True}}, 404, "model.not_found"),
        ({"model": "digits", "target": {}}, 422, "input"),
        ({"model": "digits", "target": {"all": True, "device": "gw-1"}}, 422, "input"),
        ({"model": "digits", "target": {"all": True}, "verzion": 1}, 422, "input"),
        ({"model": "digits", "version": 1, "alias": "a", "target": {"all": True}}, 400, "input"),
        ({"model": "digits", "version": 0, "target": {"all": True}}, 422, "input"),
        ({"model": "digits", "version": "1", "target": {"all": True}}, 422, "input"),
        ([], 422, "input"),
    ],
)
async def test_deployments_that_make_no_sense_are_problems(
    http: httpx.AsyncClient, body: Any, status: int, code: str
) -> None:
    await push(http)
    assert problem(await http.post("/v1/deployments", json=body), status, code)["hint"]


async def test_a_device_is_shown_with_its_state_and_evidence(http: httpx.AsyncClient, cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    cloud.watch.states["gw-1"] = Presence(State.ONLINE, 1_700_000_000_000, 1_700_000_020_500, "boot")
    shown = (await http.get("/v1/devices/gw-1")).json()
    assert (shown["state"], shown["since"]) == ("online", "2023-11-14T22:13:20.000+00:00")
    assert shown["evidence_at"] == "2023-11-14T22:13:40.500+00:00"
    assert shown["sync"] == "unknown"
    assert (await http.get("/v1/devices")).json()["items"] == [shown]


async def test_a_removed_device_is_gone(http: httpx.AsyncClient, cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    assert (await http.delete("/v1/devices/gw-1")).status_code == 204
    problem(await http.get("/v1/devices/gw-1"), 404, "store.not_found")
    problem(await http.delete("/v1/devices/gw-1"), 404, "store.not_found")


async def test_removing_without_the_broker_says_try_again(http: httpx.AsyncClient, cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    cloud.accounts.is_down = True
    response = await http.delete("/v1/devices/gw-1")
    assert problem(response, 503, "transport.down")["retryable"] is True
    assert "retry-after" in response.headers


async def test_events_come_in_pages(http: httpx.AsyncClient, cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    records = tuple(EventRecord(seq=n, id=f"e{n}", at_ms=n, kind="k", data={"n": n}) for n in range(1, 6))
    with cloud.store.write() as tx:
        tx.events.ingest([EventBatch(device="gw-1", stream="s", stream_id="i", records=records, received_at_ms=9)])
    seen: list[str] = []
    params: dict[str, Any] = {"stream": "s", "after": 0, "limit": 2}
    while True:
        page = (await http.get("/v1/devices/gw-1/events", params=params)).json()
        seen += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        params["cursor"] = page["next"]
    assert seen == ["e1", "e2", "e3", "e4", "e5"]
    assert (await http.get("/v1/devices/gw-1/events", params={"stream": "other"})).json()["items"] == []


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "cursor=%ff", "cursor=AAAA", "after=-1"])
async def test_pages_that_make_no_sense_are_problems(http: httpx.AsyncClient, cloud: CloudInMemory, query: str) -> None:
    cloud.enrol("gw-1")
    response = await http.get(f"/v1/devices/gw-1/events?{query}")
    assert response.status_code in {400, 422}
    problem(response, response.status_code, "input")


async def test_a_device_enrols_signs_and_fetches(
    anyone: httpx.AsyncClient, http: httpx.AsyncClient, cloud: CloudInMemory
) -> None:
    made = (await http.post("/v1/enrol-tokens", json={"id": "gw-1", "ttl_s": 60})).json()
    token, key = EnrolToken.parse(made["token"]), SigningKey.generate()
    del anyone.headers["authorization"]
    assert (await anyone.get("/v1/ca")).json()["root_pem"].encode() == cloud.authority.root_pem
    csr = make_csr(key.to_pem(), "gw-1").decode()
    enrolled = await anyone.post("/v1/enrol", json={"secret": token.secret, "id": "gw-1", "csr_pem": csr})
    assert enrolled.json()["broker"] == {"host": "cloud.test", "port": 8883}
    cloud.push()
    cloud.deployments.deploy("digits")
    desired = cloud.devices.get("gw-1").desired
    assert desired is not None
    path = json.loads(desired.content)[0]["manifest_path"]
    bearer = await device_token(anyone, key, path)
    assert (await anyone.get(path, headers=bearer)).status_code == 200
    problem(await anyone.get(path), 401, "identity.auth")
    problem(await anyone.get("/v1/blobs/" + "a" * 64, headers=bearer), 403, "identity.forbidden")
    problem(await anyone.get("/v1/devices", headers=bearer), 401, "identity.auth")
    renewed = await anyone.post(
        "/v1/device/renew", json={"csr_pem": csr}, headers=await device_token(anyone, key, "/v1/device/renew")
    )
    assert renewed.json()["certificate_pem"] != enrolled.json()["certificate_pem"]


async def device_token(anyone: httpx.AsyncClient, key: SigningKey, *paths: str) -> dict[str, str]:
    nonce = (await anyone.post("/v1/device/nonce", json={"id": "gw-1"})).json()["nonce"]
    signature = base64.b64encode(key.sign(token_message("gw-1", nonce, paths))).decode()
    body = {"id": "gw-1", "nonce": nonce, "paths": list(paths), "signature": signature}
    return {"authorization": f"Bearer {(await anyone.post('/v1/device/token', json=body)).json()['token']}"}


async def test_a_token_for_nobody_is_an_enrol_problem(anyone: httpx.AsyncClient) -> None:
    csr = make_csr(new_key_pem(), "gw-1").decode()
    response = await anyone.post("/v1/enrol", json={"secret": "guess", "id": "gw-1", "csr_pem": csr})
    assert "enrol-token" in problem(response, 403, "identity.enrol")["hint"]


@pytest.mark.parametrize("signature", ["", "!!!", "AAAA", "\u00ff"])
async def test_bad_signatures_are_problems(anyone: httpx.AsyncClient, signature: str) -> None:
    body = {"id": "gw-1", "nonce": "x", "paths": ["/v1/device/renew"], "signature": signature}
    response = await anyone.post("/v1/device/token", json=body)
    assert response.status_code in {400, 401}
    problem(response, response.status_code, response.json()["code"])


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "http.not_found"),
        ("POST", "/v1/devices", 405, "http.method"),
        ("GET", "/v1/models/none", 404, "model.not_found"),
        ("GET", "/v1/models/none/versions", 404, "model.not_found"),
        ("GET", "/v1/models/none/versions/1", 404, "model.not_found"),
        ("GET", "/v1/models/none/versions/x", 422, "input"),
        ("GET", "/v1/blobs/nonsense", 422, "input"),
        ("GET", "/v1/blobs/" + "a" * 64, 404, "store.not_found"),
        ("DELETE", "/v1/deployments/7", 404, "store.not_found"),
        ("DELETE", "/v1/deployments/99999999999999999999", 422, "input"),
    ],
)
async def test_every_refusal_is_a_problem_document(
    http: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    problem(await http.request(method, path), status, code)


async def test_a_body_above_its_limit_is_413(http: httpx.AsyncClient) -> None:
    problem(await http.post("/v1/deployments", json={"model": "x" * 300_000}), 413, "wire.too_large")


async def test_an_error_nobody_foresaw_is_a_problem_without_its_secrets(
    http: httpx.AsyncClient, cloud: CloudInMemory
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret")

    cloud.models.page = fails  # type: ignore[assignment, method-assign]
    body = problem(await http.get("/v1/models"), 500, "internal")
    assert "secret" not in json.dumps(body)


async def test_health_is_live_always_and_ready_only_when_it_is(anyone: httpx.AsyncClient, cloud: CloudInMemory) -> None:
    assert (await anyone.get("/health/live")).status_code == 200
    assert (await anyone.get("/health/ready")).status_code == 200
    cloud.not_ready = "the broker is down"
    assert problem(await anyone.get("/health/ready"), 503, "http.not_ready")["detail"] == "the broker is down"


async def test_metrics_count_requests_by_route(http: httpx.AsyncClient) -> None:
    await http.get("/v1/models/none")
    text = (await http.get("/metrics")).text
    assert 'aimass_http_requests_total{method="GET",route="/v1/models/{name}",status="404"} 1.0' in text
    assert 'aimass_devices{state="online"} 2.0' in text
    assert "aimass_models 1.0" in text


async def test_the_openapi_page_needs_nothing_from_other_hosts(anyone: httpx.AsyncClient) -> None:
    page = (await anyone.get("/docs")).text
    assert "/v1/deployments" in page
    assert "<script" not in page
    assert "//" not in page.replace("://", "").replace("application//", "")
    document = (await anyone.get("/openapi.json")).json()
    assert {"/upload", "/v1/models", "/v1/devices/{device}", "/v1/blobs/{sha256}"} <= document["paths"].keys()
    upload = document["paths"]["/upload"]["post"]["requestBody"]["content"]
    assert "multipart/form-data" in upload
