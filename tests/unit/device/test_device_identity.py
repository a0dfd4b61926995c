"""The identity folder: enrolment, renewal, and power cuts in both."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from aimass.device import x509
from aimass.device.enrol import EnrolToken, enrol
from aimass.device.identity import BrokerAddress, Identity, folder_of
from aimass.errors import DownloadError, EnrolError, IdentityError, NoSpaceError
from tests.fakes.device_cloud import FakeCloud
from tests.fakes.disk import FlashDisk


@pytest.fixture
def cloud() -> FakeCloud:
    return FakeCloud()


def test_a_token_survives_being_printed_and_read(cloud: FakeCloud) -> None:
    token = cloud.token("gw-1:app")
    assert EnrolToken.parse(f"  {token.encode()}\n") == token
    assert "s3cret" not in repr(token)


@pytest.mark.parametrize(
    "text", ["", "aimass1.", "aimass1.e30", "aimass2.e30", "aimass1.!!!!", "aimass1." + "e" * 9999]
)
def test_refuses_what_is_no_token(text: str) -> None:
    with pytest.raises(EnrolError):
        EnrolToken.parse(text)


@pytest.mark.parametrize("change", [{"id": "no/id"}, {"ca": "12"}, {"url": "http://plain"}])
def test_refuses_a_token_that_makes_no_sense(cloud: FakeCloud, change: dict[str, str]) -> None:
    with pytest.raises(EnrolError):
        EnrolToken.parse(cloud.token(**change).encode())


def test_enrolling_gives_an_identity_that_loads_again(cloud: FakeCloud, tmp_path: Path) -> None:
    made = cloud.enrolled(tmp_path, "gw-1:app")
    loaded = Identity.load(tmp_path)
    for identity in (made, loaded):
        assert (identity.cn, identity.device_id) == ("gw-1:app", "gw-1")
        assert identity.broker == BrokerAddress("broker.test", 8883)
        assert identity.publisher_keys == (cloud.publisher.public,)
        assert identity.control_keys == (cloud.control.public,)
    assert {path.stat().st_mode & 0o077 for path in folder_of(tmp_path).glob("*.pem") if path.name != "ca.pem"} == {0}
    assert not (folder_of(tmp_path) / "pending.pem").exists()


def test_the_secret_is_not_sent_to_a_cloud_with_another_root(cloud: FakeCloud, tmp_path: Path) -> None:
    other = FakeCloud()
    with pytest.raises(EnrolError, match="not the cloud"):
        enrol(cloud.token(), tmp_path, open_client=lambda url, root: other)
    assert other.calls == [("GET", "/v1/ca")]
    assert not Identity.is_enrolled(tmp_path)


def test_a_lost_answer_is_asked_again_with_the_same_key(cloud: FakeCloud, tmp_path: Path) -> None:
    cloud.lost_answers = 1
    with pytest.raises(DownloadError):
        cloud.enrolled(tmp_path)
    assert cloud.enrolled(tmp_path).cn == "gw-1"
    keys = {_public_key(csr) for csr in cloud.csrs}
    assert len(cloud.csrs) == 2
    assert len(keys) == 1


def test_refuses_a_certificate_for_another_name(cloud: FakeCloud, tmp_path: Path) -> None:
    class Wrong(FakeCloud):
        def certify(self, csr_pem: str, cn: str | None = None) -> str:
            return super().certify(csr_pem, "gw-2")

    with pytest.raises(EnrolError, match="names"):
        Wrong().enrolled(tmp_path)
    assert not Identity.is_enrolled(tmp_path)


def test_the_same_token_again_returns_the_identity_that_is_there(cloud: FakeCloud, tmp_path: Path) -> None:
    first = cloud.enrolled(tmp_path)
    calls = len(cloud.calls)
    assert cloud.enrolled(tmp_path).serial == first.serial
    assert len(cloud.calls) == calls


def test_another_identity_is_given_up_only_when_asked(cloud: FakeCloud, tmp_path: Path) -> None:
    cloud.enrolled(tmp_path, "gw-1")
    with pytest.raises(EnrolError, match="enrolled as gw-1"):
        cloud.enrolled(tmp_path, "gw-2")
    replaced = enrol(cloud.token("gw-2"), tmp_path, replace=True, open_client=lambda url, root: cloud)
    assert replaced.cn == Identity.load(tmp_path).cn == "gw-2"


def test_what_is_owed_to_another_cloud_is_put_aside_and_what_is_owed_to_the_same_stays(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    cloud.enrolled(tmp_path)
    (tmp_path / "outbox.db").write_bytes(b"records")
    enrol(cloud.token(), tmp_path, replace=True, open_client=lambda url, root: cloud)
    assert (tmp_path / "outbox.db").read_bytes() == b"records"
    other = FakeCloud()
    enrol(other.token(), tmp_path, replace=True, open_client=lambda url, root: other)
    assert not (tmp_path / "outbox.db").exists()
    assert (tmp_path / "outbox.db.former").read_bytes() == b"records"


def test_a_home_without_identity_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(IdentityError) as caught:
        Identity.load(tmp_path)
    assert "enrol" in caught.value.hint


def test_a_power_cut_while_enrolling_leaves_a_whole_identity_or_none(cloud: FakeCloud, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    disk = FlashDisk(home)
    enrol(cloud.token(), home, disk=disk, open_client=lambda url, root: cloud)
    found = set()
    for after in range(len(disk.ops) + 1):
        for _, state in disk.states_after_cut(after, tmp_path / "cut"):
            found.add(_outcome(state))
            again = tmp_path / "again"
            shutil.copytree(state, again)
            assert cloud.enrolled(again).cn == "gw-1"  # and the same token goes on from there
            shutil.rmtree(again)
    assert found == {"none", "whole"}


def test_a_power_cut_while_renewing_leaves_the_old_or_the_new_certificate(cloud: FakeCloud, tmp_path: Path) -> None:
    home = tmp_path / "home"
    cloud.enrolled(home)
    disk = FlashDisk(home)
    identity = Identity.load(home, disk=disk)
    old = identity.serial
    identity.install_renewed(cloud.certify(identity.next_csr()), broker=BrokerAddress("moved.test", 1))
    serials = set()
    for after in range(len(disk.ops) + 1):
        for _, state in disk.states_after_cut(after, tmp_path / "cut"):
            loaded = Identity.load(state)
            serials.add(loaded.serial)
            loaded.install_renewed(cloud.certify(loaded.next_csr()))  # and it can still be renewed
    assert serials == {old, identity.serial}
    assert Identity.load(home).broker == BrokerAddress("moved.test", 1)


@pytest.mark.parametrize("room", range(10))
def test_a_full_disk_while_enrolling_leaves_the_home_not_enrolled_and_the_token_good(
    cloud: FakeCloud, tmp_path: Path, room: int
) -> None:
    home = tmp_path / "home"
    with pytest.raises(NoSpaceError):
        enrol(cloud.token(), home, disk=FlashDisk(tmp_path, full_after=room), open_client=lambda url, root: cloud)
    assert not Identity.is_enrolled(home)
    assert not list(tmp_path.rglob(".*"))
    assert cloud.enrolled(home).cn == "gw-1"


@pytest.mark.parametrize("room", range(4))
def test_a_full_disk_while_renewing_keeps_the_old_certificate(cloud: FakeCloud, tmp_path: Path, room: int) -> None:
    cloud.enrolled(tmp_path)
    identity = Identity.load(tmp_path, disk=FlashDisk(tmp_path, full_after=room))
    old = identity.serial
    with pytest.raises(NoSpaceError):
        identity.install_renewed(cloud.certify(identity.next_csr()))
    assert identity.serial == Identity.load(tmp_path).serial == old
    assert not list(folder_of(tmp_path).glob(".*"))


def test_the_same_new_key_is_used_until_its_certificate_came(cloud: FakeCloud, tmp_path: Path) -> None:
    identity = cloud.enrolled(tmp_path)
    first, again = identity.next_csr(), Identity.load(tmp_path).next_csr()
    assert _public_key(first) == _public_key(again)
    identity.install_renewed(cloud.certify(first))
    assert _public_key(identity.next_csr()) != _public_key(first)


def test_refuses_a_renewed_certificate_of_another_key_or_root(cloud: FakeCloud, tmp_path: Path) -> None:
    identity = cloud.enrolled(tmp_path)
    old = identity.serial
    stranger = x509.signing_request(x509.new_key(), "gw-1")
    identity.next_csr()
    for wrong in (cloud.certify(stranger), FakeCloud().certify(identity.next_csr()), "", "nonsense"):
        with pytest.raises(IdentityError):
            identity.install_renewed(wrong)
    assert Identity.load(tmp_path).serial == old


def test_a_damaged_bundle_falls_back_to_the_one_before_until_the_new_one_worked(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    identity = cloud.enrolled(tmp_path)
    old = identity.serial
    identity.install_renewed(cloud.certify(identity.next_csr()))
    (folder_of(tmp_path) / "identity.pem").write_bytes(b"\0" * 100)
    loaded = Identity.load(tmp_path)
    assert loaded.serial == old
    assert loaded.tls_files.cert.read_bytes().startswith(b"-----BEGIN")
    loaded.install_renewed(cloud.certify(loaded.next_csr()))
    loaded.confirm()
    assert not loaded.restore_previous()


def test_an_operator_can_go_back_to_the_certificate_before(cloud: FakeCloud, tmp_path: Path) -> None:
    identity = cloud.enrolled(tmp_path)
    old = identity.serial
    identity.install_renewed(cloud.certify(identity.next_csr()))
    assert identity.restore_previous()
    assert identity.serial == Identity.load(tmp_path).serial == old


def test_the_bundle_serves_tls_as_certificate_and_key(cloud: FakeCloud, tmp_path: Path) -> None:
    import ssl

    files = cloud.enrolled(tmp_path).tls_files
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(files.ca)
    context.load_cert_chain(files.cert, files.key)


def _public_key(csr_pem: str) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509 import load_pem_x509_csr

    key = load_pem_x509_csr(csr_pem.encode()).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _outcome(home: Path) -> str:
    if not Identity.is_enrolled(home):
        return "none"
    return "whole" if Identity.load(home).cn == "gw-1" else "other"
