"""Who may do what at the broker, as mosquitto's dynamic-security plug-in keeps it.

Everything not granted is denied, for all four things a client can do (publish, receive, subscribe, unsubscribe). Each
identity has a role of its own: mosquitto 2.0 has no placeholder for the user name. ACL *files* are not an option, they
never look at SUBSCRIBE, so any device could join a pool's shared subscription and swallow its requests.

    device      its own tree d/{cn}/..., and requests to any pool under its own name
    dispatcher  that, and exactly the shared subscription of its pool; answers into d/+/rsp/infer, its own cloud/state
    control     everything of the control plane, and the plug-in's own commands
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from aimass.device.files import write_atomic
from aimass.errors import ConfigError
from aimass.wire.ids import check_identity
from aimass.wire.topics import ROOT, cloud_state, infer_share

CONTROL_TOPIC = "$CONTROL/dynamic-security/v1"
CONTROL_ANSWERS = CONTROL_TOPIC + "/response"

Acl = dict[str, Any]


class Role(StrEnum):
    """What an identity is at the broker."""

    DEVICE = "device"
    DISPATCHER = "dispatcher"
    CONTROL = "control"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One identity that may connect, and as what. ``pool`` belongs to a dispatcher."""

    identity: str
    role: Role
    pool: str = ""


@dataclass(frozen=True, slots=True)
class _Rights:
    """Topics to send to; filters to subscribe to and receive from; filters to subscribe to as they stand."""

    send: tuple[str, ...]
    take: tuple[str, ...]
    receive_only: tuple[str, ...] = ()
    subscribe_exactly: tuple[str, ...] = ()


def acls(grant: Grant) -> list[Acl]:
    """The access list of one identity's role.

    Raises:
        InputError: the identity is not one.
        ConfigError: a dispatcher without a pool.
    """
    cn = check_identity(grant.identity)
    parts = [_device(cn)]
    if grant.role is Role.DISPATCHER:
        if not grant.pool:
            raise ConfigError(f"dispatcher {cn!r} has no pool")
        parts.append(_dispatcher(cn, grant.pool))
    elif grant.role is Role.CONTROL:
        parts.append(_control())
    return [acl for rights in parts for acl in _acls(rights)]


def role_of(grant: Grant) -> dict[str, Any]:
    """The role as the plug-in's file and commands have it; named after its identity."""
    return {"rolename": grant.identity, "acls": acls(grant)}


def document(grants: Iterable[Grant]) -> bytes:
    """The plug-in's whole file for these identities; anybody else is refused everything."""
    known = {grant.identity: grant for grant in grants}
    return json.dumps(
        {
            "defaultACLAccess": {
                "publishClientSend": False,
                "publishClientReceive": False,
                "subscribe": False,
                "unsubscribe": False,
            },
            "clients": [{"username": identity, "roles": [{"rolename": identity, "priority": 0}]} for identity in known],
            "groups": [],
            "roles": [role_of(grant) for grant in known.values()],
        },
        separators=(",", ":"),
    ).encode()


def write_dynsec(path: Path, grants: Iterable[Grant]) -> None:
    """Writes the plug-in's file. Only while the broker does not run: it keeps its own copy and writes it back."""
    write_atomic(path, document(grants), mode=0o600)


def _device(cn: str) -> _Rights:
    own = f"{ROOT}/d/{cn}"
    return _Rights(
        send=(
            f"{own}/state",
            f"{own}/twin/reported",
            f"{own}/evt/#",
            f"{own}/tele/#",
            f"{own}/res/#",
            f"{own}/call/#",
            f"{ROOT}/infer/+/{cn}/req",
        ),
        take=(f"{own}/twin/desired", f"{own}/ack", f"{own}/cmd/#", f"{own}/rsp/#"),
    )


def _dispatcher(cn: str, pool: str) -> _Rights:
    return _Rights(
        send=(f"{ROOT}/d/+/rsp/infer", cloud_state(cn)),
        take=(),
        receive_only=(f"{ROOT}/infer/{pool}/+/req",),
        subscribe_exactly=(infer_share(pool),),
    )


def _control() -> _Rights:
    every = f"{ROOT}/d/+"
    return _Rights(
        send=(
            f"{every}/twin/desired",
            f"{every}/ack",
            f"{every}/cmd/#",
            f"{every}/rsp/#",
            # to clear what a removed device left retained
            f"{every}/state",
            f"{every}/twin/reported",
            "$CONTROL/dynamic-security/#",
        ),
        take=(
            f"{ROOT}/cloud/state/+",
            f"{every}/state",
            f"{every}/twin/reported",
            f"{every}/evt/#",
            f"{every}/tele/#",
            f"{every}/res/#",
            f"{every}/call/#",
            "$CONTROL/dynamic-security/#",
            "$SYS/broker/#",
        ),
    )


def _acls(rights: _Rights) -> list[Acl]:
    kinds: Sequence[tuple[str, Sequence[str]]] = (
        ("publishClientSend", rights.send),
        ("publishClientReceive", (*rights.take, *rights.receive_only)),
        ("subscribePattern", rights.take),
        ("unsubscribePattern", rights.take),
        ("subscribeLiteral", rights.subscribe_exactly),
        ("unsubscribeLiteral", rights.subscribe_exactly),
    )
    return [
        {"acltype": kind, "topic": topic, "priority": 0, "allow": True} for kind, topics in kinds for topic in topics
    ]
