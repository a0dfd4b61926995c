"""When a certificate is renewed, and what happens when that fails."""

from __future__ import annotations

import datetime as dt
import random
from pathlib import Path

import pytest

from aimass.device.identity import BrokerAddress, Identity
from aimass.device.renewal import Renewer
from aimass.errors import AuthError, ConnectError
from tests.fakes.device_cloud import FakeCloud
from tests.fakes.waiting import until


class Wall:
    """A wall clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = dt.datetime.now(dt.UTC).timestamp()

    def __call__(self) -> float:
        return self.now_s


def renewer(cloud: FakeCloud, identity: Identity, wall: Wall, renewed: list[str], seed: int = 1) -> Renewer:
    return Renewer(identity, cloud, lambda: renewed.append(identity.serial), now=wall, rng=random.Random(seed))


@pytest.mark.parametrize("life", [dt.timedelta(minutes=2), dt.timedelta(days=30)])
@pytest.mark.parametrize("seed", range(5))
def test_renews_between_sixty_and_seventy_five_percent_of_the_life(
    tmp_path: Path, life: dt.timedelta, seed: int
) -> None:
    cloud, wall, renewed = FakeCloud(life=life), Wall(), []
    identity = cloud.enrolled(tmp_path)
    start, old, life_s = wall.now_s, identity.serial, life.total_seconds()
    one = renewer(cloud, identity, wall, renewed, seed)
    while not renewed:
        wait_s = one.step()
        assert wait_s <= 600
        assert wall.now_s - start < 0.76 * life_s
        if not renewed:
            wall.now_s += wait_s
    assert 0.58 * life_s < wall.now_s - start
    assert identity.serial == renewed[0] != old


def test_a_certificate_dated_back_is_not_renewed_at_once_for_ever(tmp_path: Path) -> None:
    cloud, wall, renewed = FakeCloud(life=dt.timedelta(minutes=2), backdated=dt.timedelta(minutes=10)), Wall(), []
    identity = cloud.enrolled(tmp_path)
    assert renewer(cloud, identity, wall, renewed).step() > 60
    assert renewed == []


def test_a_failed_renewal_is_tried_again_at_growing_pauses(tmp_path: Path) -> None:
    cloud, wall, renewed = FakeCloud(), Wall(), []
    identity = cloud.enrolled(tmp_path)
    one = renewer(cloud, identity, wall, renewed)
    wall.now_s += 29 * 86400
    one.step()
    assert len(renewed) == 1
    wall.now_s += 29 * 86400
    cloud.errors.extend(ConnectError("down") for _ in range(6))
    pauses = []
    while cloud.errors:
        pauses.append(one.step())
        wall.now_s += 601
    assert pauses[0] < pauses[-1]
    assert one.status()["failures"] == 6
    one.step()
    assert len(renewed) == 2
    assert one.status() == {**one.status(), "failures": 0, "error": None}


def test_two_minute_certificates_are_tried_again_within_seconds(tmp_path: Path) -> None:
    cloud, wall, renewed = FakeCloud(life=dt.timedelta(minutes=2)), Wall(), []
    one = renewer(cloud, cloud.enrolled(tmp_path), wall, renewed)
    wall.now_s += 95
    cloud.errors.extend(ConnectError("down") for _ in range(20))
    while cloud.errors:
        wait_s = one.step()
        assert wait_s <= 4
        wall.now_s += wait_s
    one.step()
    assert len(renewed) == 1


def test_an_expired_certificate_is_renewed_as_well(tmp_path: Path) -> None:
    cloud, wall, renewed = FakeCloud(life=dt.timedelta(minutes=2)), Wall(), []
    one = renewer(cloud, cloud.enrolled(tmp_path), wall, renewed)
    wall.now_s += 40 * 86400
    one.step()
    assert len(renewed) == 1


def test_a_lost_answer_is_repeated_with_the_same_key_even_after_a_restart(tmp_path: Path) -> None:
    cloud, wall, renewed = FakeCloud(life=dt.timedelta(minutes=2)), Wall(), []
    identity = cloud.enrolled(tmp_path)
    wall.now_s += 100
    cloud.lost_answers = 1
    renewer(cloud, identity, wall, renewed).step()
    assert renewed == []
    renewer(cloud, Identity.load(tmp_path), wall, renewed).step()
    assert len(renewed) == 1
    assert len({csr.split("-----")[2] for csr in cloud.csrs}) == 3  # ECDSA signs differently each time ...
    from tests.unit.device.test_device_identity import _public_key

    assert len({_public_key(csr) for csr in cloud.csrs[1:]}) == 1  # ... the key is one


def test_a_refusal_is_shown_and_tried_again(tmp_path: Path) -> None:
    cloud, wall, renewed = FakeCloud(life=dt.timedelta(minutes=2)), Wall(), []
    one = renewer(cloud, cloud.enrolled(tmp_path), wall, renewed)
    wall.now_s += 100
    cloud.errors.append(AuthError("revoked"))
    wait_s = one.step()
    assert one.status()["error"]["code"] == "identity.auth"
    wall.now_s += wait_s
    one.step()
    assert len(renewed) == 1


@pytest.mark.parametrize("broker", [None, {}, {"host": "", "port": 1}, {"host": "x", "port": 0}, "x:1"])
def test_an_unusable_broker_address_does_not_replace_the_known_one(tmp_path: Path, broker: object) -> None:
    cloud, wall, renewed = FakeCloud(life=dt.timedelta(minutes=2)), Wall(), []
    identity = cloud.enrolled(tmp_path)
    cloud.broker = broker  # type: ignore[assignment]
    wall.now_s += 100
    renewer(cloud, identity, wall, renewed).step()
    assert len(renewed) == 1
    assert identity.broker == BrokerAddress("broker.test", 8883)


def test_the_thread_renews_by_itself_and_stops_when_told(tmp_path: Path) -> None:
    cloud, wall, renewed = FakeCloud(life=dt.timedelta(minutes=2)), Wall(), []
    identity = cloud.enrolled(tmp_path)
    wall.now_s += 100
    one = renewer(cloud, identity, wall, renewed)
    one.start()
    until(lambda: renewed, "the renewal")
    one.close()
    identity.confirm()
    assert not identity.restore_previous()
