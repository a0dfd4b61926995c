"""Topic names of the broker: built here, taken apart here, nowhere else.

``sdk/spec/TOPICS.md`` is the table: who publishes what, with which QoS, and what is in it. The level after ``d/`` is
the publisher's or addressee's identity (its certificate's CN), so the broker can hold everybody to their own tree.

Example:
    >>> parse("aimass/v1/infer/default/gw-1:app/req")
    Topic(kind=<Kind.INFER: 'infer'>, identity='gw-1:app', name='default')
    >>> answer_topic("aimass/v1/infer/default/gw-1:app/req")
    'aimass/v1/d/gw-1:app/rsp/infer'
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from aimass.errors import FrameError, InputError
from aimass.wire.ids import check_identity, check_name, is_identity, is_name

# TOPIC-2.1
ROOT = "aimass/v1"
_MAX_TOPIC_CHARS = 512


class Kind(StrEnum):
    """What a topic is for; each value is the name of the function here that builds it."""

    STATE = "state"
    DESIRED = "desired"
    REPORTED = "reported"
    EVENT = "event"
    ACK = "ack"
    TELEMETRY = "telemetry"
    COMMAND = "command"
    RESULT = "result"
    CALL = "call"
    REPLY = "reply"
    INFER = "infer"
    CLOUD_STATE = "cloud_state"


# TOPIC-2.2
_PLAIN = {"state": Kind.STATE, "twin/desired": Kind.DESIRED, "twin/reported": Kind.REPORTED, "ack": Kind.ACK}
_NAMED = {
    "evt": Kind.EVENT,
    "tele": Kind.TELEMETRY,
    "cmd": Kind.COMMAND,
    "res": Kind.RESULT,
    "call": Kind.CALL,
    "rsp": Kind.REPLY,
}
_LEVELS = {kind: levels for levels, kind in (_PLAIN | _NAMED).items()}


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic taken apart.

    Attributes:
        kind: what it is for.
        identity: whose tree it is in; the node for ``CLOUD_STATE``.
        name: stream, telemetry, command or call name; the pool for ``INFER``; empty for the others.
    """

    kind: Kind
    identity: str
    name: str = ""


def state(cn: str) -> str:
    """Birth, farewell and will of a connection."""
    return _device(cn, "state")


def desired(cn: str) -> str:
    """What the cloud wants this device to hold, signed."""
    return _device(cn, "twin/desired")


def reported(cn: str) -> str:
    """What the device holds."""
    return _device(cn, "twin/reported")


def event(cn: str, stream: str) -> str:
    """Outbox records of one stream."""
    return _device(cn, "evt", stream)


def ack(cn: str) -> str:
    """How far the cloud has stored this device's streams."""
    return _device(cn, "ack")


def telemetry(cn: str, name: str) -> str:
    """Measurements that may be lost."""
    return _device(cn, "tele", name)


def command(cn: str, name: str) -> str:
    """A call to the device."""
    return _device(cn, "cmd", name)


def result(cn: str, name: str) -> str:
    """The device's answer to a command."""
    return _device(cn, "res", name)


def call(cn: str, name: str) -> str:
    """A call to the cloud."""
    return _device(cn, "call", name)


def reply(cn: str, name: str) -> str:
    """The cloud's answer to a call; inference answers come with the name ``infer``."""
    return _device(cn, "rsp", name)


def infer_request(pool: str, cn: str) -> str:
    """An inference request to a pool."""
    return f"{ROOT}/infer/{check_name(pool, 'pool')}/{check_identity(cn)}/req"


def infer_share(pool: str) -> str:
    """The shared subscription by which the dispatchers of one pool divide its requests."""
    # TOPIC-3.2: one group for each pool; with a wildcard for the pool, 0x10 would never tell that nobody serves it
    return f"$share/{check_name(pool, 'pool')}/{ROOT}/infer/{pool}/+/req"


def cloud_state(node: str) -> str:
    """Load and availability of one cloud process."""
    return f"{ROOT}/cloud/state/{check_identity(node)}"


def device_filter(kind: str) -> str:
    """The subscription to one kind of topic of all devices, for instance ``aimass/v1/d/+/evt/#``.

    Raises:
        InputError: the kind is not one below ``d/``.
    """
    try:
        known = Kind(kind)
        levels = _LEVELS[known]
    except (ValueError, KeyError) as exc:
        raise InputError(
            f"no topic of a device is called {kind!r}", hint=f"one of {[str(k) for k in _LEVELS]}"
        ) from exc
    return f"{ROOT}/d/+/{levels}" + ("/#" if levels in _NAMED else "")


def parse(topic: str) -> Topic:
    """Take a topic apart.

    Raises:
        FrameError: it is not a topic of ours, or an identity or name in it is malformed.
    """
    # TOPIC-2.3
    if len(topic) <= _MAX_TOPIC_CHARS:
        found = _parse(topic.split("/"))
        if found is not None:
            return found
    raise FrameError(f"not a topic of AI Mass: {topic[:200]!r}", hint="sdk/spec/TOPICS.md lists all topics")


def answer_topic(request_topic: str) -> str:
    """Where the answer to a request goes; a response topic named by the requester is never used.

    Raises:
        FrameError: it is not a topic of ours, or none that asks for an answer.
    """
    # TOPIC-3.1: the broker let only this identity publish there, so the answer cannot be sent to somebody else
    asked = parse(request_topic)
    if asked.kind is Kind.INFER:
        return reply(asked.identity, "infer")
    if asked.kind is Kind.CALL:
        return reply(asked.identity, asked.name)
    if asked.kind is Kind.COMMAND:
        return result(asked.identity, asked.name)
    raise FrameError(f"nobody answers on {request_topic!r}", hint="only infer, call and cmd topics are requests")


def _device(cn: str, levels: str, name: str | None = None) -> str:
    base = f"{ROOT}/d/{check_identity(cn)}/{levels}"
    return base if name is None else f"{base}/{check_name(name)}"


def _parse(levels: list[str]) -> Topic | None:
    match levels:
        case ["aimass", "v1", "d", cn, *rest] if is_identity(cn):
            return _parse_device(cn, rest)
        case ["aimass", "v1", "infer", pool, cn, "req"] if is_name(pool) and is_identity(cn):
            return Topic(Kind.INFER, cn, pool)
        case ["aimass", "v1", "cloud", "state", node] if is_identity(node):
            return Topic(Kind.CLOUD_STATE, node)
        case _:
            return None


def _parse_device(cn: str, rest: list[str]) -> Topic | None:
    plain = _PLAIN.get("/".join(rest))
    if plain is not None:
        return Topic(plain, cn)
    if len(rest) == 2 and rest[0] in _NAMED and is_name(rest[1]):
        return Topic(_NAMED[rest[0]], cn, rest[1])
    return None
