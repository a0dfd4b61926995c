"""Names, device ids and identities."""

from __future__ import annotations

import pytest

from aimass.errors import InputError
from aimass.wire import ids


@pytest.mark.parametrize("text", ["gw-1", "a", "0", "a.b_c-9", "x" * 64, "svc-1", "..."])
def test_takes_ids_of_the_grammar(text: str) -> None:
    # TOPIC-1.1
    assert ids.is_device_id(text)
    assert ids.is_identity(text)


@pytest.mark.parametrize(
    "text", ["", "x" * 65, "GW", "a b", "a/b", "a+b", "a#", "é", "a\n", "\na", "a\x00", "svc", ".", ".."]
)
def test_refuses_ids_outside_the_grammar(text: str) -> None:
    assert not ids.is_device_id(text)
    assert not ids.is_identity(text)


@pytest.mark.parametrize("text", ["gw-1:app", "svc:worker-0", "a:b"])
def test_takes_identities_with_a_role(text: str) -> None:
    # TOPIC-1.3
    assert ids.check_identity(text) == text
    assert not ids.is_device_id(text)


@pytest.mark.parametrize("text", [":", "a:", ":a", "a:b:c", "svc:", "a:..", "..:a", "a:B", f"a:{'x' * 65}"])
def test_refuses_broken_roles_and_says_the_grammar(text: str) -> None:
    with pytest.raises(InputError, match=r"ID:ROLE or svc:NAME"):
        ids.check_identity(text)


def test_a_device_cannot_be_called_like_a_service() -> None:
    # TOPIC-1.2
    assert not ids.is_device_id("svc")
    assert ids.is_service("svc:control")
    assert not ids.is_service("svc-control:x")


@pytest.mark.parametrize(
    ("identity", "device"), [("gw-1", "gw-1"), ("gw-1:app", "gw-1"), ("svc:worker-0", "svc:worker-0")]
)
def test_finds_the_device_of_an_identity(identity: str, device: str) -> None:
    assert ids.device_of(identity) == device


def test_refuses_a_name_and_says_what_it_was_for() -> None:
    assert ids.check_name("default", "pool") == "default"
    with pytest.raises(InputError, match="is not a pool"):
        ids.check_name("a/b", "pool")
