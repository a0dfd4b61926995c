"""The certificate authority: what it signs, what it refuses, and what stands in a certificate."""

import datetime as dt
import ipaddress
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aimass.errors import AuthError, ConfigError, ConflictError, EnrolError, ExpiredError
from aimass_cloud.pki.authority import Authority
from aimass_cloud.pki.csr import make_csr, new_key_pem

NOW = 1_800_000_000.0
DAY_S = 86400.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Authority:
    return Authority.create(tmp_path / "pki", clock=clock)


def leaf_of(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def request(identity: str, key, **changes) -> bytes:
    names = changes.get("names", [identity])
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    )
    for extension in changes.get("extensions", []):
        builder = builder.add_extension(extension, critical=True)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)


def test_issues_a_client_certificate_for_exactly_this_identity(authority: Authority) -> None:
    key_pem = new_key_pem()
    issued = authority.issue_client("gw-1:app", make_csr(key_pem, "gw-1:app"), lifetime_s=30 * DAY_S)
    leaf = leaf_of(issued.pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert leaf.subject.rfc4514_string() == "CN=gw-1:app"
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["urn:aimass:gw-1:app"]
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert (issued.identity, issued.serial) == ("gw-1:app", f"{leaf.serial_number:x}")
    assert leaf.serial_number.bit_length() > 128 - 16


def test_chain_is_accepted_by_an_independent_verifier_for_its_purpose_only(authority: Authority) -> None:
    client = authority.issue_client_with_key("gw-1", lifetime_s=DAY_S).certificate
    server = authority.issue_server("broker", ["cloud.example", "10.0.0.1"], lifetime_s=DAY_S).certificate
    intermediates = x509.load_pem_x509_certificates(authority.chain_pem)[:1]
    store = verification.Store(x509.load_pem_x509_certificates(authority.root_pem))
    policy = verification.PolicyBuilder().store(store).time(dt.datetime.fromtimestamp(NOW, dt.UTC))
    policy.build_client_verifier().verify(leaf_of(client.pem), intermediates)
    for name in (x509.DNSName("cloud.example"), x509.IPAddress(ipaddress.ip_address("10.0.0.1"))):
        policy.build_server_verifier(name).verify(leaf_of(server.pem), intermediates)
    with pytest.raises(verification.VerificationError):
        policy.build_client_verifier().verify(leaf_of(server.pem), intermediates)


def test_begins_before_now_and_ends_after_the_lifetime_asked_for(authority: Authority) -> None:
    issued = authority.issue_client_with_key("gw-1", lifetime_s=30 * DAY_S).certificate
    assert issued.not_before_ms == (NOW - 300) * 1000
    assert issued.not_after_ms == (NOW + 30 * DAY_S) * 1000


def test_a_life_of_two_minutes_is_not_due_for_renewal_when_it_begins(authority: Authority) -> None:
    issued = authority.issue_client_with_key("gw-1", lifetime_s=120).certificate
    life = issued.not_after_ms - issued.not_before_ms
    assert (NOW * 1000 - issued.not_before_ms) / life < 0.1


def test_no_certificate_outlives_the_intermediate(authority: Authority, clock: Clock) -> None:
    clock.now = authority.intermediate.not_valid_after_utc.timestamp() - 3600
    issued = authority.issue_client_with_key("gw-1", lifetime_s=30 * DAY_S).certificate
    assert issued.not_after_ms == authority.intermediate.not_valid_after_utc.timestamp() * 1000
    clock.now += 3601
    with pytest.raises(ConfigError, match="intermediate"):
        authority.issue_client_with_key("gw-1", lifetime_s=30 * DAY_S)


def test_serials_are_never_the_same(authority: Authority) -> None:
    csr = make_csr(new_key_pem(), "gw-1")
    assert len({authority.issue_client("gw-1", csr, lifetime_s=DAY_S).serial for _ in range(50)}) == 50


def test_extensions_in_the_request_are_ignored(authority: Authority) -> None:
    wishes = [
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.SubjectAlternativeName([x509.DNSName("broker.example")]),
    ]
    csr = request("gw-1", ec.generate_private_key(ec.SECP256R1()), extensions=wishes)
    leaf = leaf_of(authority.issue_client("gw-1", csr, lifetime_s=DAY_S).pem)
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert "broker.example" not in str(leaf.extensions)


@pytest.mark.parametrize("names", [["gw-2"], [], ["gw-1", "gw-2"], ["GW-1"]], ids=str)
def test_refuses_a_request_that_names_another_identity(authority: Authority, names: list[str]) -> None:
    csr = request("gw-1", ec.generate_private_key(ec.SECP256R1()), names=names)
    with pytest.raises(EnrolError, match="names"):
        authority.issue_client("gw-1", csr, lifetime_s=DAY_S)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["P-384", "RSA", "Ed25519"],
)
def test_refuses_a_key_that_is_not_on_p256(authority: Authority, key) -> None:
    with pytest.raises(EnrolError, match="P-256"):
        authority.issue_client("gw-1", request("gw-1", key), lifetime_s=DAY_S)


def test_refuses_a_request_not_signed_by_its_own_key(authority: Authority) -> None:
    csr = x509.load_pem_x509_csr(make_csr(new_key_pem(), "gw-1"))
    other = x509.load_pem_x509_csr(make_csr(new_key_pem(), "gw-1"))
    der, old, new = csr.public_bytes(serialization.Encoding.DER), csr.signature, other.signature
    forged = der[: -len(old)] + (new + b"\0" * len(old))[: len(old)]
    pem = serialization.Encoding.PEM
    with pytest.raises(EnrolError):
        authority.issue_client("gw-1", x509.load_der_x509_csr(forged).public_bytes(pem), lifetime_s=DAY_S)


@pytest.mark.parametrize(
    "junk", [b"", b"hello", b"\x00" * 100, b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", b"x" * 20000]
)
def test_refuses_what_is_not_a_request(authority: Authority, junk: bytes) -> None:
    with pytest.raises(EnrolError):
        authority.issue_client("gw-1", junk, lifetime_s=DAY_S)


def test_refuses_an_identity_that_does_not_fit_into_a_common_name(authority: Authority) -> None:
    with pytest.raises(EnrolError, match="64"):
        authority.issue_client_with_key("a" * 60 + ":embed", lifetime_s=DAY_S)


@pytest.mark.parametrize("host", ["", "a b", "-x", "*.example", "http://x", "x/y", "a..b", "e" * 64])
def test_refuses_a_server_name_that_is_none(authority: Authority, host: str) -> None:
    with pytest.raises(ConfigError, match="neither"):
        authority.issue_server("broker", [host], lifetime_s=DAY_S)


def test_opens_what_was_made_also_without_the_offline_root_key(
    authority: Authority, tmp_path: Path, clock: Clock
) -> None:
    folder = tmp_path / "pki"
    assert "not online" in (folder / "root" / "README.txt").read_text()
    for child in (folder / "root").iterdir():
        child.unlink()
    (folder / "root").rmdir()
    again = Authority.open(folder, clock=clock)
    assert again.root_sha256 == authority.root_sha256
    assert again.verify_client(again.issue_client_with_key("gw-1", lifetime_s=DAY_S).certificate.pem).identity == "gw-1"


def test_private_keys_are_readable_by_their_owner_only(authority: Authority, tmp_path: Path) -> None:
    for name in ("intermediate.key", "root/root.key"):
        assert stat.S_IMODE((tmp_path / "pki" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "pki" / "root").stat().st_mode) == 0o700


def test_never_makes_a_second_authority_over_the_first(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(ConflictError):
        Authority.create(tmp_path / "pki")


@pytest.mark.parametrize("name", ["root.pem", "intermediate.pem", "intermediate.key"])
def test_names_the_file_that_is_damaged(authority: Authority, tmp_path: Path, name: str) -> None:
    (tmp_path / "pki" / name).write_bytes(b"\0")
    with pytest.raises(ConfigError, match=name):
        Authority.open(tmp_path / "pki")


def test_refuses_a_key_that_does_not_belong_to_the_intermediate(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "pki" / "intermediate.key").write_bytes(new_key_pem())
    with pytest.raises(ConfigError, match="does not belong"):
        Authority.open(tmp_path / "pki")


def test_recognises_its_own_client_certificates_and_only_those(
    authority: Authority, tmp_path: Path, clock: Clock
) -> None:
    mine = authority.issue_client_with_key("gw-1", lifetime_s=DAY_S).certificate
    foreign = Authority.create(tmp_path / "foreign", clock=clock).issue_client_with_key("gw-1", lifetime_s=DAY_S)
    server = authority.issue_server("broker", ["localhost"], lifetime_s=DAY_S)
    found = authority.verify_client(mine.chain_pem)
    assert (found.identity, found.serial, found.key_sha256) == (mine.identity, mine.serial, mine.key_sha256)
    for wrong in (foreign.certificate.pem, server.certificate.pem, b"", authority.root_pem):
        with pytest.raises(AuthError):
            authority.verify_client(wrong)


def test_an_expired_certificate_is_recognised_within_its_grace_only(authority: Authority, clock: Clock) -> None:
    pem = authority.issue_client_with_key("gw-1", lifetime_s=DAY_S).certificate.pem
    clock.now += 2 * DAY_S
    with pytest.raises(ExpiredError):
        authority.verify_client(pem)
    assert authority.verify_client(pem, grace_s=60 * DAY_S).identity == "gw-1"
    clock.now = NOW - 2 * DAY_S
    with pytest.raises(ExpiredError):
        authority.verify_client(pem, grace_s=60 * DAY_S)


def test_the_bundle_of_a_server_holds_key_leaf_and_intermediate(authority: Authority) -> None:
    bundle = authority.issue_server("broker", ["localhost"], lifetime_s=DAY_S).bundle_pem
    assert bundle.count(b"BEGIN CERTIFICATE") == 2
    assert bundle.count(b"BEGIN PRIVATE KEY") == 1
