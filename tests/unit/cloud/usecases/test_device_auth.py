"""Device tokens: nonce, signature, paths, entitlement, grace."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aimass.device.cloud_http import token_message
from aimass.errors import AimassError, AuthError, ForbiddenError, InputError
from aimass.package.keys import SigningKey
from aimass_cloud.pki.csr import make_csr
from aimass_cloud.usecases.device_auth import NONCES_PER_IDENTITY, RENEW_PATH
from tests.fakes.cloud import DAY_S, CloudInMemory


@pytest.fixture
def key(cloud: CloudInMemory) -> SigningKey:
    """The key of gw-1, which is enrolled."""
    key = SigningKey.generate()
    cloud.enrol("gw-1", key.to_pem())
    return key


def ask(cloud: CloudInMemory, key: SigningKey, *paths: str, identity: str = "gw-1", nonce: str = "") -> str:
    nonce = nonce or cloud.device_auth.nonce(identity)
    return cloud.device_auth.token(identity, nonce, paths, key.sign(token_message(identity, nonce, paths)))


def blob_paths(cloud: CloudInMemory) -> list[str]:
    with cloud.store.read() as tx:
        record = tx.models.version("digits", 1)
    return [f"/v1/blobs/{digest}" for digest in (record.manifest_sha256, *record.files)]


def test_a_signed_nonce_gives_a_token_for_the_paths_named(cloud: CloudInMemory, key: SigningKey) -> None:
    token = ask(cloud, key, RENEW_PATH)
    assert cloud.device_auth.verify(token, RENEW_PATH) == "gw-1"


def test_a_token_opens_no_other_path(cloud: CloudInMemory, key: SigningKey) -> None:
    token = ask(cloud, key, RENEW_PATH)
    with pytest.raises(ForbiddenError):
        cloud.device_auth.verify(token, "/v1/devices")


def test_a_token_ends_after_ten_minutes(cloud: CloudInMemory, key: SigningKey) -> None:
    token = ask(cloud, key, RENEW_PATH)
    cloud.clock.forward(599)
    cloud.device_auth.verify(token, RENEW_PATH)
    cloud.clock.forward(1)
    with pytest.raises(AuthError, match="expired"):
        cloud.device_auth.verify(token, RENEW_PATH)


def test_a_nonce_works_once(cloud: CloudInMemory, key: SigningKey) -> None:
    nonce = cloud.device_auth.nonce("gw-1")
    ask(cloud, key, RENEW_PATH, nonce=nonce)
    with pytest.raises(AuthError, match="nonce"):
        ask(cloud, key, RENEW_PATH, nonce=nonce)


def test_a_nonce_is_spent_by_a_wrong_signature_too(cloud: CloudInMemory, key: SigningKey) -> None:
    nonce = cloud.device_auth.nonce("gw-1")
    with pytest.raises(AuthError, match="signature"):
        ask(cloud, SigningKey.generate(), RENEW_PATH, nonce=nonce)
    with pytest.raises(AuthError, match="nonce"):
        ask(cloud, key, RENEW_PATH, nonce=nonce)


def test_a_nonce_ends_after_a_minute(cloud: CloudInMemory, key: SigningKey) -> None:
    nonce = cloud.device_auth.nonce("gw-1")
    cloud.clock.forward(61)
    with pytest.raises(AuthError, match="nonce"):
        ask(cloud, key, RENEW_PATH, nonce=nonce)


def test_a_nonce_of_another_device_does_not_work(cloud: CloudInMemory, key: SigningKey) -> None:
    cloud.enrol("gw-2")
    with pytest.raises(AuthError, match="nonce"):
        ask(cloud, key, RENEW_PATH, nonce=cloud.device_auth.nonce("gw-2"))


def test_only_the_newest_nonces_are_kept(cloud: CloudInMemory, key: SigningKey) -> None:
    first = cloud.device_auth.nonce("gw-1")
    for _ in range(NONCES_PER_IDENTITY):
        cloud.device_auth.nonce("gw-1")
    with pytest.raises(AuthError, match="nonce"):
        ask(cloud, key, RENEW_PATH, nonce=first)


def test_who_is_unknown_gets_a_nonce_that_opens_nothing(cloud: CloudInMemory) -> None:
    with pytest.raises(AuthError):
        ask(cloud, SigningKey.generate(), RENEW_PATH, identity="gw-9")


def test_a_device_cannot_sign_for_another_one(cloud: CloudInMemory, key: SigningKey) -> None:
    cloud.enrol("gw-2")
    with pytest.raises(AuthError, match="signature"):
        ask(cloud, key, RENEW_PATH, identity="gw-2")


def test_blobs_of_the_desired_document_may_be_fetched(cloud: CloudInMemory, key: SigningKey) -> None:
    cloud.push()
    cloud.deployments.deploy("digits", device="gw-1")
    paths = blob_paths(cloud)
    token = ask(cloud, key, *paths)
    for path in paths:
        assert cloud.device_auth.verify(token, path) == "gw-1"


def test_blobs_of_models_that_are_not_desired_are_refused(cloud: CloudInMemory, key: SigningKey) -> None:
    cloud.push()
    for path in blob_paths(cloud):
        with pytest.raises(ForbiddenError):
            ask(cloud, key, path)


@pytest.mark.parametrize("path", ["/v1/devices", "/v1/models", "/v1/blobs/", "/v1/blobs/" + "a" * 63, "", "/metrics"])
def test_no_other_path_can_be_asked_for(cloud: CloudInMemory, key: SigningKey, path: str) -> None:
    with pytest.raises(ForbiddenError):
        ask(cloud, key, path)


def test_an_ended_certificate_opens_its_renewal_and_nothing_else(cloud: CloudInMemory, key: SigningKey) -> None:
    cloud.push()
    cloud.deployments.deploy("digits", device="gw-1")
    cloud.clock.forward(31 * DAY_S)
    token = ask(cloud, key, RENEW_PATH)
    assert cloud.device_auth.verify(token, RENEW_PATH) == "gw-1"
    with pytest.raises(AuthError, match="expired"):
        ask(cloud, key, blob_paths(cloud)[0])


def test_after_the_grace_time_nothing_is_opened(cloud: CloudInMemory, key: SigningKey) -> None:
    cloud.clock.forward(91 * DAY_S)
    with pytest.raises(AuthError):
        ask(cloud, key, RENEW_PATH)


def test_the_key_of_a_renewed_certificate_signs_too(cloud: CloudInMemory, key: SigningKey) -> None:
    new = SigningKey.generate()
    cloud.enrolment.renew("gw-1", make_csr(new.to_pem(), "gw-1"))
    assert ask(cloud, new, RENEW_PATH)
    assert ask(cloud, key, RENEW_PATH)


def test_a_removed_device_gets_no_token_and_its_tokens_end(cloud: CloudInMemory, key: SigningKey) -> None:
    token = ask(cloud, key, RENEW_PATH)
    nonce = cloud.device_auth.nonce("gw-1")
    cloud.devices.remove("gw-1")
    with pytest.raises(AuthError):
        cloud.device_auth.verify(token, RENEW_PATH)
    with pytest.raises(AuthError):
        ask(cloud, key, RENEW_PATH, nonce=nonce)


@pytest.mark.parametrize("count", [0, 65])
def test_a_token_for_no_path_or_too_many_is_refused(cloud: CloudInMemory, key: SigningKey, count: int) -> None:
    with pytest.raises(InputError):
        ask(cloud, key, *[RENEW_PATH] * count)


def test_changed_claims_are_refused(cloud: CloudInMemory, key: SigningKey) -> None:
    token = ask(cloud, key, RENEW_PATH)
    prefix, body, mac = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    claims["id"] = "gw-2"
    forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    with pytest.raises(AuthError):
        cloud.device_auth.verify(f"{prefix}.{forged}.{mac}", RENEW_PATH)


@given(token=st.text(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_garbage_is_refused_with_the_one_error(cloud: CloudInMemory, token: str) -> None:
    with pytest.raises(AuthError):
        cloud.device_auth.verify(token, RENEW_PATH)


@given(identity=st.text(max_size=80), nonce=st.text(max_size=80), signature=st.binary(max_size=80))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_garbage_in_a_request_ends_in_an_error_of_ours(
    cloud: CloudInMemory, identity: str, nonce: str, signature: bytes
) -> None:
    with pytest.raises(AimassError):
        cloud.device_auth.token(identity, nonce, [RENEW_PATH], signature)
