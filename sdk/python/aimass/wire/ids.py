"""Names of devices, connections and services.

One grammar for all of them, because the certificate's CN is also the broker's user, the client id and one whole topic
level: what is checked here cannot smuggle a slash or a wildcard into a topic.

    gw-1            the agent of device gw-1
    gw-1:app        another connection of the same device, with a certificate of its own
    svc:worker-0    a process of the cloud
"""

from __future__ import annotations

import re

from aimass.errors import InputError

SERVICE_PREFIX = "svc:"

_NAME = re.compile(r"[a-z0-9._-]{1,64}")
_NOT_NAMES = frozenset({".", ".."})  # names become folders on the device and in the cloud


def is_name(text: str) -> bool:
    """Whether the text may stand as a role, a service, a pool, a stream or one named level of a topic."""
    # TOPIC-1.1
    return _NAME.fullmatch(text) is not None and text not in _NOT_NAMES


def is_device_id(text: str) -> bool:
    """Whether the text may name a device.

    ``svc`` may not: a device of that name with the role ``control`` would be called ``svc:control``.
    """
    # TOPIC-1.2
    return is_name(text) and text != "svc"


def is_identity(text: str) -> bool:
    """Whether the text is a connection's identity: ``{id}``, ``{id}:{role}`` or ``svc:{name}``."""
    # TOPIC-1.3
    owner, colon, role = text.partition(":")
    if not colon:
        return is_device_id(owner)
    return is_name(owner) and is_name(role)


def is_service(identity: str) -> bool:
    """Whether the identity belongs to a cloud process."""
    return identity.startswith(SERVICE_PREFIX)


def device_of(identity: str) -> str:
    """The device a connection belongs to: ``gw-1:app`` -> ``gw-1``; services stay as they are."""
    if is_service(identity):
        return identity
    return identity.partition(":")[0]


def check_identity(text: str) -> str:
    """The identity itself, when it is one.

    Raises:
        InputError: it is not; the message shows the grammar.
    """
    if not is_identity(text):
        message = f"{text[:200]!r} is not an identity: ID, ID:ROLE or svc:NAME, each part of [a-z0-9._-], 1 to 64 long"
        raise InputError(message, hint="rename the device; ids become topic levels and folder names")
    return text


def check_name(text: str, what: str = "name") -> str:
    """The name itself, when it is one.

    Args:
        text: a role, pool, stream or topic level.
        what: how the message calls it.

    Raises:
        InputError: it is not a name.
    """
    if not is_name(text):
        raise InputError(f"{text[:200]!r} is not a {what}: 1 to 64 of [a-z0-9._-]", hint=f"choose another {what}")
    return text
