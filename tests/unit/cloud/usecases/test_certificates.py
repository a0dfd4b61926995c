"""The cloud's own certificates and the revocation list, over lifetimes of two minutes."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from aimass_cloud.pki.crl import crl_times
from aimass_cloud.usecases.certificates import ServiceCertificates, ServiceLives
from tests.fakes.cloud import CloudInMemory

LIFE_S = 120.0


def service(cloud: CloudInMemory, hosts: tuple[str, ...] = ("cloud.test", "10.0.0.5")) -> ServiceCertificates:
    lives = ServiceLives(service_s=LIFE_S, broker_s=LIFE_S, https_s=LIFE_S, crl_s=LIFE_S)
    return ServiceCertificates(
        cloud.authority,
        cloud.store,
        cloud.folder,
        hosts=hosts,
        broker_hosts=("broker.test",),
        lives=lives,
        clock=cloud.clock,
        random=lambda: 0.5,
    )


def leaf(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificates(path.read_bytes())[0]


def files(certificates: ServiceCertificates) -> list[Path]:
    return [certificates.https_file, certificates.server_file, certificates.control_file]


def test_everything_is_made_the_first_time(cloud: CloudInMemory) -> None:
    certificates = service(cloud)
    certificates.ensure()
    for path in files(certificates):
        assert path.read_bytes().count(b"BEGIN CERTIFICATE") == 2
        assert b"PRIVATE KEY" in path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600
    assert certificates.ca_file.read_bytes() == cloud.authority.chain_pem
    names = leaf(certificates.https_file).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["cloud.test"]


def test_what_is_good_is_kept_at_the_next_start(cloud: CloudInMemory) -> None:
    certificates = service(cloud)
    certificates.ensure()
    before = [path.read_bytes() for path in files(certificates)]
    cloud.clock.forward(30)
    certificates.ensure()
    assert [path.read_bytes() for path in files(certificates)] == before


def test_other_host_names_need_another_certificate(cloud: CloudInMemory) -> None:
    service(cloud).ensure()
    before = service(cloud).https_file.read_bytes()
    changed = service(cloud, hosts=("new.test",))
    changed.ensure()
    assert changed.https_file.read_bytes() != before


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_damaged_file_is_replaced(cloud: CloudInMemory, content: bytes) -> None:
    certificates = service(cloud)
    certificates.ensure()
    certificates.https_file.write_bytes(content)
    certificates.ensure()
    assert leaf(certificates.https_file).issuer == cloud.authority.intermediate.subject


def test_everything_is_renewed_before_its_end_again_and_again(cloud: CloudInMemory) -> None:
    certificates = service(cloud)
    told: list[str] = []
    for name in ("https", "broker", "control", "crl"):
        certificates.use(name, lambda name=name: told.append(name))  # type: ignore[misc]
    certificates.ensure()
    for _ in range(60):  # ten minutes in steps of ten seconds: five lifetimes
        cloud.clock.forward(10)
        certificates.step()
        now = cloud.clock()
        for path in files(certificates):
            assert leaf(path).not_valid_after_utc.timestamp() > now + 20
        assert crl_times(certificates.crl_file.read_bytes())[1] / 1000 > now + 20
    assert {name: told.count(name) >= 5 for name in ("https", "broker", "control", "crl")} == dict.fromkeys(
        ("https", "broker", "control", "crl"), True
    )


def test_renewal_comes_between_60_and_75_percent_of_the_life(cloud: CloudInMemory) -> None:
    certificates = service(cloud)
    certificates.ensure()
    for name in ("https", "broker", "control"):
        assert 0.60 * LIFE_S <= (certificates.due()[name] - cloud.clock.ms) / 1000 <= 0.75 * LIFE_S


def test_step_says_how_long_to_wait(cloud: CloudInMemory) -> None:
    certificates = service(cloud)
    certificates.ensure()
    wait_s = certificates.step()
    assert 0 < wait_s < LIFE_S
    cloud.clock.forward(wait_s)
    before = certificates.due()
    certificates.step()
    assert certificates.due() != before


def test_a_failed_renewal_is_tried_again(cloud: CloudInMemory, tmp_path: Path) -> None:
    certificates = service(cloud)
    certificates.ensure()
    before = certificates.https_file.read_bytes()
    folder, away = certificates.https_file.parent, tmp_path / "away"
    folder.rename(away)
    cloud.clock.forward(100)
    certificates.step()
    away.rename(folder)
    assert certificates.https_file.read_bytes() == before
    cloud.clock.forward(31)
    certificates.step()
    assert certificates.https_file.read_bytes() != before


def test_the_revocation_list_names_removed_devices(cloud: CloudInMemory) -> None:
    certificates = service(cloud)
    certificates.ensure()
    answer = cloud.enrol("gw-1")
    serial = x509.load_pem_x509_certificate(answer.certificate_pem.encode()).serial_number
    told: list[int] = []
    certificates.use("crl", lambda: told.append(1))
    cloud.devices.remove("gw-1")
    certificates.publish_crl()
    listed = x509.load_pem_x509_crl(certificates.crl_file.read_bytes())
    assert listed.get_revoked_certificate_by_serial_number(serial) is not None
    assert told == [1]
