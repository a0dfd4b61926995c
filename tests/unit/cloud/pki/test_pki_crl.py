"""The revocation list and the time of renewal."""

from pathlib import Path

import pytest
from cryptography import x509

from aimass.errors import ConfigError
from aimass_cloud.pki.authority import Authority
from aimass_cloud.pki.crl import RevokedSerial, build_crl, crl_refresh_at_ms, crl_times
from aimass_cloud.pki.schedule import renew_at_ms

NOW = 1_800_000_000.0
WEEK_S = 7 * 86400.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path, clock=lambda: NOW)


def test_lists_what_is_revoked_and_is_signed_by_the_intermediate(authority: Authority) -> None:
    serial = authority.issue_client_with_key("gw-1", lifetime_s=60).certificate.serial
    crl = x509.load_pem_x509_crl(build_crl(authority, [RevokedSerial(serial, 1_700_000_000_123)], lifetime_s=WEEK_S))
    assert crl.is_signature_valid(authority.intermediate_key.public_key())
    assert [f"{entry.serial_number:x}" for entry in crl] == [serial]
    assert crl.get_revoked_certificate_by_serial_number(int(serial, 16)) is not None


def test_is_dated_back_and_due_at_half_of_its_life(authority: Authority) -> None:
    pem = build_crl(authority, [], lifetime_s=WEEK_S)
    last, until = crl_times(pem)
    assert last == (NOW - 300) * 1000
    assert until == (NOW + WEEK_S) * 1000
    assert crl_refresh_at_ms(pem) == (last + until) / 2


def test_a_list_of_two_minutes_is_not_due_at_once(authority: Authority) -> None:
    assert crl_refresh_at_ms(build_crl(authority, [], lifetime_s=120)) > (NOW + 50) * 1000


@pytest.mark.parametrize("junk", [b"", b"hello"])
def test_a_damaged_list_is_named(junk: bytes) -> None:
    with pytest.raises(ConfigError, match="revocation list"):
        crl_times(junk)


@pytest.mark.parametrize(("draw", "share"), [(0.0, 0.60), (0.5, 0.675), (1.0, 0.75)])
def test_renewal_is_due_between_sixty_and_seventy_five_percent_of_a_life(draw: float, share: float) -> None:
    assert renew_at_ms(1_000_000, 2_000_000, lambda: draw) == 1_000_000 + round(1_000_000 * share)


def test_a_fleet_enrolled_at_one_moment_does_not_renew_at_one_moment() -> None:
    assert len({renew_at_ms(0, 30 * 86_400_000) for _ in range(100)}) > 90
