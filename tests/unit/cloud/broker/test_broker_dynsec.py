"""Access rights as they are written for the broker; tests/integration/test_broker_security.py tries them out."""

import json
from pathlib import Path

import pytest

from aimass.errors import ConfigError, InputError
from aimass_cloud.broker.dynsec import Grant, Role, acls, document, write_dynsec

DEVICE = Grant(identity="gw-1:app", role=Role.DEVICE)
DISPATCHER = Grant(identity="svc:worker-0", role=Role.DISPATCHER, pool="default")
CONTROL = Grant(identity="svc:control", role=Role.CONTROL)


def topics(grant: Grant, kind: str) -> set[str]:
    return {acl["topic"] for acl in acls(grant) if acl["acltype"] == kind}


def test_everything_is_denied_unless_granted() -> None:
    made = json.loads(document([DEVICE]))
    assert set(made["defaultACLAccess"]) == {"publishClientSend", "publishClientReceive", "subscribe", "unsubscribe"}
    assert not any(made["defaultACLAccess"].values())
    assert "anonymousGroup" not in made


def test_each_identity_has_a_role_of_its_own_and_no_password() -> None:
    made = json.loads(document([DEVICE, DISPATCHER]))
    assert made["clients"] == [
        {"username": name, "roles": [{"rolename": name, "priority": 0}]} for name in ("gw-1:app", "svc:worker-0")
    ]
    assert [role["rolename"] for role in made["roles"]] == ["gw-1:app", "svc:worker-0"]


def test_an_identity_named_twice_is_written_once_as_it_was_last() -> None:
    made = json.loads(document([DEVICE, Grant(identity="gw-1:app", role=Role.DISPATCHER, pool="p")]))
    assert len(made["clients"]) == len(made["roles"]) == 1
    assert any("$share/p/" in acl["topic"] for acl in made["roles"][0]["acls"])


def test_a_device_reaches_its_own_tree_and_pools_under_its_own_name_only() -> None:
    for acl in acls(DEVICE):
        assert "/gw-1:app/" in acl["topic"]
        assert acl["allow"] is True
    assert "aimass/v1/infer/+/gw-1:app/req" in topics(DEVICE, "publishClientSend")
    assert not topics(DEVICE, "subscribeLiteral")


def test_a_device_never_says_what_the_cloud_wants_of_it() -> None:
    assert not any("desired" in topic or "rsp" in topic for topic in topics(DEVICE, "publishClientSend"))


def test_a_dispatcher_joins_exactly_the_share_of_its_pool() -> None:
    assert topics(DISPATCHER, "subscribeLiteral") == {"$share/default/aimass/v1/infer/default/+/req"}
    assert "aimass/v1/infer/default/+/req" in topics(DISPATCHER, "publishClientReceive")
    assert "aimass/v1/infer/default/+/req" not in topics(DISPATCHER, "subscribePattern")


def test_only_the_control_plane_commands_the_broker() -> None:
    for grant, may in ((DEVICE, False), (DISPATCHER, False), (CONTROL, True)):
        for kind in ("publishClientSend", "publishClientReceive", "subscribePattern"):
            assert any("$CONTROL" in topic for topic in topics(grant, kind)) is may


@pytest.mark.parametrize("identity", ["", "#", "+", "a/b", "gw-1/#", "GW", "a:b:c", "svc:+", "$SYS", "a\0"])
def test_a_name_that_is_no_identity_never_gets_into_a_topic(identity: str) -> None:
    with pytest.raises(InputError):
        document([Grant(identity=identity, role=Role.DEVICE)])


@pytest.mark.parametrize("pool", ["+", "#", "a/b", "A"])
def test_a_pool_that_is_no_name_never_gets_into_a_topic(pool: str) -> None:
    with pytest.raises(InputError):
        acls(Grant(identity="svc:w", role=Role.DISPATCHER, pool=pool))


def test_a_dispatcher_without_a_pool_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="pool"):
        acls(Grant(identity="svc:w", role=Role.DISPATCHER))


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    write_dynsec(tmp_path / "d.json", [DEVICE])
    assert (tmp_path / "d.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "d.json").read_bytes() == document([DEVICE])
