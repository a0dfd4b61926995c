"""Enrolment and renewal: who gets a certificate, and who does not."""

from __future__ import annotations

import pytest
from cryptography import x509

from aimass.device.enrol import EnrolToken
from aimass.errors import EnrolError, InputError, LinkDownError, NotFoundError
from aimass_cloud.broker.dynsec import Grant, Role
from aimass_cloud.pki.csr import make_csr, new_key_pem
from tests.fakes.cloud import DAY_S, CloudInMemory


def token_for(cloud: CloudInMemory, identity: str, ttl_s: float = DAY_S) -> EnrolToken:
    return EnrolToken.parse(cloud.enrolment.create_token(identity, ttl_s=ttl_s))


def test_a_token_names_the_cloud_the_id_and_the_digest_of_the_root(cloud: CloudInMemory) -> None:
    token = token_for(cloud, "gw-1")
    assert (token.url, token.id, token.ca) == ("https://cloud.test:8443", "gw-1", cloud.authority.root_sha256)


def test_the_secret_of_a_token_is_not_kept(cloud: CloudInMemory) -> None:
    secret = token_for(cloud, "gw-1").secret
    cloud.close()
    kept = b"".join(path.read_bytes() for path in cloud.folder.glob("aimass.db*"))
    assert secret.encode() not in kept


def test_a_token_and_a_key_give_a_certificate_and_a_place_at_the_broker(cloud: CloudInMemory) -> None:
    answer = cloud.enrol("gw-1")
    issued = cloud.authority.verify_client(answer.certificate_pem.encode())
    assert issued.identity == "gw-1"
    assert answer.certificate_pem.count("BEGIN CERTIFICATE") == 2
    assert answer.ca_pem.encode() == cloud.authority.root_pem
    assert cloud.accounts.known["gw-1"] == Grant(identity="gw-1", role=Role.DEVICE)


def test_a_newcomer_gets_its_desired_document_at_once(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    assert [identity for identity, _ in cloud.outlet.announced] == ["gw-1"]


def test_the_same_token_with_the_same_key_gets_the_same_chain_again(cloud: CloudInMemory) -> None:
    token, csr = token_for(cloud, "gw-1"), make_csr(new_key_pem(), "gw-1")
    first = cloud.enrolment.enrol(token.secret, "gw-1", csr)
    again = cloud.enrolment.enrol(token.secret, "gw-1", csr)
    assert again.certificate_pem == first.certificate_pem


def test_the_same_token_with_the_same_key_works_after_its_end_too(cloud: CloudInMemory) -> None:
    token, csr = token_for(cloud, "gw-1", ttl_s=60), make_csr(new_key_pem(), "gw-1")
    first = cloud.enrolment.enrol(token.secret, "gw-1", csr)
    cloud.clock.forward(3600)
    assert cloud.enrolment.enrol(token.secret, "gw-1", csr).certificate_pem == first.certificate_pem


def test_a_used_token_with_another_key_is_refused(cloud: CloudInMemory) -> None:
    token = token_for(cloud, "gw-1")
    cloud.enrolment.enrol(token.secret, "gw-1", make_csr(new_key_pem(), "gw-1"))
    with pytest.raises(EnrolError, match="another key"):
        cloud.enrolment.enrol(token.secret, "gw-1", make_csr(new_key_pem(), "gw-1"))


def test_a_request_that_names_another_id_is_refused(cloud: CloudInMemory) -> None:
    token = token_for(cloud, "gw-1")
    with pytest.raises(EnrolError):
        cloud.enrolment.enrol(token.secret, "gw-1", make_csr(new_key_pem(), "gw-2"))


def test_a_token_for_another_id_is_refused(cloud: CloudInMemory) -> None:
    token = token_for(cloud, "gw-1")
    with pytest.raises(EnrolError, match="another id"):
        cloud.enrolment.enrol(token.secret, "gw-2", make_csr(new_key_pem(), "gw-2"))


def test_a_refused_attempt_does_not_burn_the_token(cloud: CloudInMemory) -> None:
    token = token_for(cloud, "gw-1")
    with pytest.raises(EnrolError):
        cloud.enrolment.enrol(token.secret, "gw-2", make_csr(new_key_pem(), "gw-2"))
    assert cloud.enrolment.enrol(token.secret, "gw-1", make_csr(new_key_pem(), "gw-1")).identity == "gw-1"


def test_an_expired_token_is_refused(cloud: CloudInMemory) -> None:
    token = token_for(cloud, "gw-1", ttl_s=60)
    cloud.clock.forward(61)
    with pytest.raises(EnrolError, match="expired"):
        cloud.enrolment.enrol(token.secret, "gw-1", make_csr(new_key_pem(), "gw-1"))


def test_an_unknown_token_is_refused(cloud: CloudInMemory) -> None:
    with pytest.raises(EnrolError, match="unknown"):
        cloud.enrolment.enrol("guess", "gw-1", make_csr(new_key_pem(), "gw-1"))


def test_a_key_that_is_not_ours_to_sign_is_refused(cloud: CloudInMemory) -> None:
    token = token_for(cloud, "gw-1")
    with pytest.raises(EnrolError):
        cloud.enrolment.enrol(token.secret, "gw-1", b"-----BEGIN CERTIFICATE REQUEST-----\nnonsense")


def test_without_the_broker_the_same_call_can_be_repeated(cloud: CloudInMemory) -> None:
    token, csr = token_for(cloud, "gw-1"), make_csr(new_key_pem(), "gw-1")
    cloud.accounts.is_down = True
    with pytest.raises(LinkDownError):
        cloud.enrolment.enrol(token.secret, "gw-1", csr)
    cloud.accounts.is_down = False
    assert cloud.enrolment.enrol(token.secret, "gw-1", csr).identity == "gw-1"
    assert "gw-1" in cloud.accounts.known


def test_enrolling_anew_revokes_the_older_certificates(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    cloud.enrol("gw-1")
    with cloud.store.read() as tx:
        records = tx.certificates.of("gw-1")
    assert [record.revoked_at_ms is not None for record in records].count(True) == 1
    assert cloud.crls_published == 1


def test_a_first_token_whose_certificate_was_replaced_gives_nothing_any_more(cloud: CloudInMemory) -> None:
    token, csr = token_for(cloud, "gw-1"), make_csr(new_key_pem(), "gw-1")
    cloud.enrolment.enrol(token.secret, "gw-1", csr)
    cloud.enrol("gw-1")
    with pytest.raises(EnrolError, match="revoked"):
        cloud.enrolment.enrol(token.secret, "gw-1", csr)


def test_renewal_gives_a_further_certificate_and_leaves_the_one_before(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    cloud.clock.forward(20 * DAY_S)
    answer = cloud.enrolment.renew("gw-1", make_csr(new_key_pem(), "gw-1"))
    leaf = x509.load_pem_x509_certificate(answer.certificate_pem.encode())
    assert leaf.not_valid_after_utc.timestamp() == pytest.approx(cloud.clock() + 30 * DAY_S, abs=2)
    with cloud.store.read() as tx:
        assert len(tx.certificates.usable("gw-1", now_ms=cloud.clock.ms)) == 2


def test_renewal_for_another_id_is_refused(cloud: CloudInMemory) -> None:
    cloud.enrol("gw-1")
    with pytest.raises(EnrolError):
        cloud.enrolment.renew("gw-1", make_csr(new_key_pem(), "gw-2"))


def test_a_removed_device_cannot_renew(cloud: CloudInMemory) -> None:
    with pytest.raises(NotFoundError):
        cloud.enrolment.renew("gw-1", make_csr(new_key_pem(), "gw-1"))


def test_services_live_shorter_than_devices(cloud: CloudInMemory) -> None:
    answer = cloud.enrol("svc:worker-0", role=Role.DISPATCHER, pool="default")
    leaf = x509.load_pem_x509_certificate(answer.certificate_pem.encode())
    assert leaf.not_valid_after_utc.timestamp() == pytest.approx(cloud.clock() + DAY_S, abs=2)
    assert cloud.accounts.known["svc:worker-0"].pool == "default"


def test_only_workers_of_this_machine_are_told_its_inner_address(cloud: CloudInMemory) -> None:
    for identity, host in (("svc:worker-0", "127.0.0.1"), ("svc:worker-9", "cloud.test")):
        token = cloud.enrolment.create_token(identity, ttl_s=60, role=Role.DISPATCHER, pool="default")
        assert EnrolToken.parse(token).url == f"https://{host}:8443"
    assert cloud.enrol("svc:worker-0", role=Role.DISPATCHER, pool="default").invitation.broker_host == "127.0.0.1"


@pytest.mark.parametrize(
    ("identity", "role"), [("svc:worker-0", Role.DEVICE), ("gw-1", Role.DISPATCHER), ("gw-1", Role.CONTROL)]
)
def test_devices_cannot_become_services_nor_services_devices(cloud: CloudInMemory, identity: str, role: Role) -> None:
    with pytest.raises(InputError):
        cloud.enrolment.create_token(identity, ttl_s=60, role=role)


@pytest.mark.parametrize("identity", ["", "GW-1", "a/b", "a+b", "#", "a:b:c", "x" * 65])
def test_names_that_are_no_identity_get_no_token(cloud: CloudInMemory, identity: str) -> None:
    with pytest.raises(InputError):
        cloud.enrolment.create_token(identity, ttl_s=60)


@pytest.mark.parametrize("ttl_s", [0, -1, 31 * DAY_S, float("nan")])
def test_a_lifetime_out_of_range_gives_no_token(cloud: CloudInMemory, ttl_s: float) -> None:
    with pytest.raises(InputError):
        cloud.enrolment.create_token("gw-1", ttl_s=ttl_s)
